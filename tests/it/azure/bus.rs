//! A Service Bus namespace: duplicate detection, scheduled messages, delivery counts, and dead letters that are forwarded.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde_json::Value;
use windlass::triggers::table::queues;

use super::doubles::{Answer, Asked, Double};
use super::messages::refusal;

/// Deliveries before a message is given up, as Terraform sets them.
pub(crate) const MOST_DELIVERIES: u32 = 10;
/// Where every queue forwards what it gave up.
pub(crate) const DEAD_LETTERS: &str = "deployment-dlq";

/// A message that nobody has completed.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) queue: String,
    pub(crate) body: String,
    pub(crate) sequence: u64,
    /// How often it was handed over, this time included.
    pub(crate) deliveries: u32,
    due: Timestamp,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// Queue and id of everything that ever came.
    known: HashSet<(String, String)>,
    sequence: u64,
    given_up: usize,
}

/// The namespace.
pub(crate) struct Bus {
    pub(crate) double: Double,
    state: Arc<Mutex<State>>,
}

impl State {
    fn put(&mut self, queue: &str, id: &str, body: &str, due: Timestamp) {
        if !self.known.insert((queue.to_owned(), id.to_owned())) {
            return;
        }
        self.sequence += 1;
        self.messages.push(Message {
            id: id.to_owned(),
            queue: queue.to_owned(),
            body: body.to_owned(),
            sequence: self.sequence,
            deliveries: 0,
            due,
        });
    }
}

fn accept(asked: &Asked, state: &Mutex<State>) -> Answer {
    if let Some(refusal) = refusal(asked) {
        return (400, Vec::new(), refusal);
    }
    let queue = asked.path.trim_matches('/').split('/').next().unwrap();
    if !queues().contains(&queue) {
        return (404, Vec::new(), format!("there is no queue {queue}"));
    }
    let properties: Value = serde_json::from_str(asked.header("brokerproperties").unwrap()).unwrap();
    let due = properties["ScheduledEnqueueTimeUtc"].as_str();
    let due = due.map_or(Timestamp::UNIX_EPOCH, |text| jiff::fmt::rfc2822::parse(text).unwrap().timestamp());
    state.lock().unwrap().put(queue, properties["MessageId"].as_str().unwrap(), &asked.body, due);
    (201, Vec::new(), String::new())
}

impl Bus {
    pub(crate) fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let kept = Arc::clone(&state);
        Self { double: Double::start(move |asked| accept(asked, &kept)), state }
    }

    /// A message of somebody else's.
    pub(crate) fn put(&self, queue: &str, id: &str, body: &str) {
        self.state.lock().unwrap().put(queue, id, body, Timestamp::UNIX_EPOCH);
    }

    /// Locks whatever is due: it comes back only by [`Self::abandon`].
    pub(crate) fn take(&self, now: Timestamp) -> Vec<Message> {
        let mut state = self.state.lock().unwrap();
        let messages = std::mem::take(&mut state.messages);
        let (mut due, later): (Vec<Message>, Vec<Message>) =
            messages.into_iter().partition(|message| message.due <= now);
        state.messages = later;
        for message in &mut due {
            message.deliveries += 1;
        }
        due
    }

    /// Gives a locked message back: visible at once, or a dead letter after its last delivery.
    pub(crate) fn abandon(&self, message: Message) {
        let mut state = self.state.lock().unwrap();
        if message.deliveries < MOST_DELIVERIES || message.queue == DEAD_LETTERS {
            state.messages.push(Message { due: Timestamp::UNIX_EPOCH, ..message });
        } else {
            state.given_up += 1;
            state.put(DEAD_LETTERS, &message.id, &message.body, Timestamp::UNIX_EPOCH);
        }
    }

    /// Messages that wait, now or for their time.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().messages.len()
    }

    /// Messages that were delivered too often.
    pub(crate) fn given_up(&self) -> usize {
        self.state.lock().unwrap().given_up
    }
}
