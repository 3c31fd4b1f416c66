//! The port that carries hints.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::journal::RunId;

/// "Look at this run again." Carries no data: the journal is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The run to look at.
    pub run: RunId,
    /// The function that carries the hint; on the wire it is the queue's name.
    #[serde(skip, default)]
    pub function: &'static str,
    /// Version of the run at which the hint was made; an older one than the run's is stale.
    pub seq: u64,
}

impl Hint {
    /// A hint that is never stale: something outside the journal happened (a process ended, a person asked).
    #[must_use]
    pub fn wake(run: RunId, function: &'static str) -> Self {
        Self { run, function, seq: u64::MAX }
    }
}

/// Why a hint was not sent.
#[derive(Debug, thiserror::Error)]
#[error("the hint for {run} was not stored")]
pub struct QueueError {
    /// The run it was for.
    pub run: RunId,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Carries hints: at least once, in any order.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Delivers `hint` no earlier than `not_before` (UTC). Sending it again is harmless.
    ///
    /// # Errors
    /// [`QueueError`] when the hint is not durably stored; the sweep sends it again.
    async fn send(&self, hint: &Hint, not_before: Timestamp) -> Result<(), QueueError>;
}
