//! Sends messages to queues, now or later. What could not be sent is found by the sweep.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

use crate::deploy::ids::DeploymentId;
use crate::triggers::message::{admit_text, hint_text};
use crate::triggers::table::DEPLOYMENT_QUEUE;
use crate::workflow::queue::{Hint, Queue, QueueError};

/// Why a message was not sent.
pub type PostError = Box<dyn std::error::Error + Send + Sync>;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Names the message: the same one sent twice within minutes is delivered once.
    pub id: String,
    /// The run or deployment it is about, by which its way can be followed.
    pub about: String,
    /// The queue.
    pub queue: &'static str,
    /// The body.
    pub text: String,
    /// Not delivered earlier.
    pub due: Timestamp,
}

/// Takes messages for the queues.
#[async_trait]
pub trait Post: Send + Sync {
    /// Keeps the message until it is delivered.
    ///
    /// # Errors
    /// [`PostError`]: it is unknown whether it is kept; sending it again is harmless.
    async fn send(&self, letter: Letter) -> Result<(), PostError>;
}

/// The letter that carries a hint as it follows from the journal: written twice, it is one message.
#[must_use]
pub fn hint_letter(hint: &Hint, due: Timestamp) -> Letter {
    let id = format!("{}-{}-{}", hint.run, hint.function, hint.seq);
    Letter { id, about: hint.run.to_string(), queue: hint.function, text: hint_text(hint), due }
}

/// The letter that wakes admission.
#[must_use]
pub fn admit_letter(deployment: DeploymentId, now: Timestamp) -> Letter {
    let id = format!("{deployment}-{}", now.as_microsecond());
    Letter {
        id,
        about: deployment.to_string(),
        queue: DEPLOYMENT_QUEUE,
        text: admit_text(deployment),
        due: now,
    }
}

/// The first whole second that is not before `time`: Service Bus schedules in whole seconds, and must not be early.
#[must_use]
pub fn whole_second(time: Timestamp) -> Timestamp {
    let round = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
    // Fails beyond the year 9999 only.
    time.round(round).unwrap_or(time)
}

/// Sends what follows from a record that is already written. Late is better than refused: the sweep sends it again.
pub async fn send_or_leave(post: &dyn Post, letter: Letter) {
    let (id, queue) = (letter.id.clone(), letter.queue);
    if let Err(error) = post.send(letter).await {
        tracing::warn!(message.id = id, queue, error = %error, "message {id} could not be sent to {queue}; the sweep sends it later");
    }
}

/// [`Queue`] by post.
pub struct PostedQueue(pub Arc<dyn Post>);

#[async_trait]
impl Queue for PostedQueue {
    async fn send(&self, hint: &Hint, not_before: Timestamp) -> Result<(), QueueError> {
        let due = whole_second(not_before);
        let first = hint_letter(hint, due);
        // Whoever sends a hint again means it: as the first message it would be dropped as a duplicate. Within a second one is
        // enough, since it comes after all who asked for it. Without that, a doubled delivery while somebody else has the
        // run would double the messages second by second.
        let id = format!("{}-{}", first.id, due.as_second());
        let sent = self.0.send(Letter { id, ..first }).await;
        sent.map_err(|source| QueueError { run: hint.run, source })
    }
}
