//! The text of our own messages. Everything nests under one key, because the Functions host lifts the properties at the
//! top of a message into its metadata.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::table::DEPLOYMENT_QUEUE;
use crate::deploy::ids::DeploymentId;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

/// A queue whose function takes hints of every step.
const ANY_STEP: &str = "step-validate";

/// "Look at this run again."
#[must_use]
pub fn hint_text(hint: &Hint) -> String {
    format!("{{\"w1\":{{\"run\":\"{}\",\"seq\":{}}}}}", hint.run, hint.seq)
}

/// "Look whose turn it is", because of this deployment.
#[must_use]
pub fn admit_text(deployment: DeploymentId) -> String {
    format!("{{\"w1\":{{\"admit\":\"{deployment}\"}}}}")
}

/// "Pass this on to its queue when it is due."
#[must_use]
pub fn alarm_text(queue: &str, text: &str, due: Timestamp) -> String {
    json!({ "w1": { "to": queue, "due": due, "text": text } }).to_string()
}

/// The queue on which a text can be sent again that came from an unknown one. Any step's function moves any run.
#[must_use]
pub fn queue_for(text: &str) -> &'static str {
    match serde_json::from_str(text) {
        Ok(Envelope { w1: OurMessage::Run { .. } }) => ANY_STEP,
        _ => DEPLOYMENT_QUEUE,
    }
}

/// A message of ours.
#[derive(Deserialize)]
pub(super) struct Envelope {
    pub(super) w1: OurMessage,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OurMessage {
    Run {
        run: RunId,
        seq: u64,
    },
    Admit {
        #[serde(rename = "admit")]
        _deployment: String,
    },
    Alarm {
        to: String,
        due: Timestamp,
        text: String,
    },
    DeadLetter {
        #[serde(rename = "deadLetter")]
        id: i64,
        queue: String,
    },
}
