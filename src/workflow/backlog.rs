//! The port through which people look into the queues and deal with dead letters.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

/// Messages of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Depth {
    /// The queue.
    pub queue: String,
    /// Messages that wait, are due later or are worked on.
    pub messages: u64,
    /// When the oldest was enqueued.
    pub oldest: Option<Timestamp>,
}

/// A message that failed too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Names it.
    pub id: i64,
    /// Where it came from.
    pub queue: String,
    /// What it says.
    pub body: String,
    /// Why it is here.
    pub reason: String,
    /// The last error.
    pub error: Option<String>,
    /// How often it was delivered.
    pub deliveries: u32,
    /// When it was enqueued.
    pub first_at: Timestamp,
    /// When it was given up.
    pub last_at: Timestamp,
}

/// Why the backlog cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("the queues cannot be reached")]
pub struct BacklogError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Looks into the queues.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// Messages per queue.
    ///
    /// # Errors
    /// [`BacklogError`].
    async fn depths(&self) -> Result<Vec<Depth>, BacklogError>;

    /// Dead letters, newest first.
    ///
    /// # Errors
    /// [`BacklogError`].
    async fn dead_letters(&self, most: usize) -> Result<Vec<DeadLetter>, BacklogError>;

    /// The dead letter with this id.
    ///
    /// # Errors
    /// [`BacklogError`].
    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, BacklogError>;

    /// How many dead letters there are.
    ///
    /// # Errors
    /// [`BacklogError`].
    async fn dead_letter_count(&self) -> Result<u64, BacklogError>;

    /// Keeps a message that the platform gave up, until somebody deals with it. Gives its id; the same text is one letter.
    ///
    /// # Errors
    /// [`BacklogError`]: it is not kept.
    async fn bury(&self, body: &str) -> Result<i64, BacklogError>;

    /// Puts a dead letter back into its queue; false when there is none with this id.
    ///
    /// # Errors
    /// [`BacklogError`]: it is still dead.
    async fn redrive(&self, id: i64) -> Result<bool, BacklogError>;

    /// Deletes dead letter `id`, or all with `None`, and gives their number.
    ///
    /// # Errors
    /// [`BacklogError`]: none was deleted.
    async fn purge(&self, id: Option<i64>) -> Result<u64, BacklogError>;
}
