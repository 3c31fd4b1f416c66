//! The port that holds the truth about runs, and the words it uses.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::chain::StepName;
use super::queue::Hint;
use super::state::{Event, RunState};

/// Names a run: `run_` and a UUID of version 7, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(Uuid);

impl RunId {
    /// A new id from a time and 128 random bits.
    #[must_use]
    pub fn new(at: Timestamp, random: u128) -> Self {
        let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
        let mut noise = [0; 10];
        noise.copy_from_slice(random.to_be_bytes().split_at(6).1);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &noise).into_uuid())
    }

    /// The 16 bytes, as stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id of 16 stored bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "run_{}", self.0.simple())
    }
}

/// Text that names no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a run id is `run_` and 32 hexadecimal digits")]
pub struct BadRunId;

impl std::str::FromStr for RunId {
    type Err = BadRunId;

    fn from_str(text: &str) -> Result<Self, BadRunId> {
        let digits = text.strip_prefix("run_").ok_or(BadRunId)?;
        Uuid::try_parse(digits).map(Self).map_err(|_| BadRunId)
    }
}

impl Serialize for RunId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One event of a run's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of the run after this event: 1 for the first.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The right to work on a run. A worker whose lease went to another one cannot append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The run.
    pub run: RunId,
    /// Rises with every claim.
    pub fence: u64,
}

/// Answer to a claim.
#[derive(Debug)]
pub enum Claim {
    /// Yours.
    Held(Lease, Box<RunState>),
    /// Somebody else works on it.
    Busy,
    /// There is no such run.
    Missing,
}

/// One write: events and the hints that must follow, together or not at all.
pub struct Append<'a> {
    /// The run.
    pub run: RunId,
    /// The version that the events follow.
    pub expected: u64,
    /// The lease, for work done under one; it ends with this append. `None` for signals from outside.
    pub lease: Option<&'a Lease>,
    /// What happened.
    pub events: &'a [Event],
    /// The fold after it.
    pub state: &'a RunState,
    /// What must follow, each no earlier than its time.
    pub hints: Vec<(Hint, Timestamp)>,
}

/// Why the journal refused.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Somebody else advanced the run.
    #[error("{0} was advanced by somebody else")]
    Conflict(RunId),
    /// The lease went to another worker.
    #[error("the lease on {0} went to another worker")]
    Fenced(RunId),
    /// What is stored does not fold.
    #[error("the journal of {run} is damaged")]
    Damaged {
        /// The run.
        run: RunId,
        /// What does not fit.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store cannot be reached; try again.
    #[error("the journal cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Holds every run's events, the fold of each, and who works on it.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Stores a run that begins with `state`, and its first hint. A run that exists already is left alone, so that
    /// a crash before the answer does no harm.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`]: nothing is stored.
    async fn create(
        &self,
        run: RunId,
        first: &Event,
        state: &RunState,
        hint: Hint,
    ) -> Result<(), JournalError>;

    /// Takes the run for `holder` until `until`, unless somebody holds it at `now`.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] or [`JournalError::Unavailable`].
    async fn claim(&self, run: RunId, now: Timestamp, until: Timestamp) -> Result<Claim, JournalError>;

    /// Keeps the lease until `until` (heartbeat).
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when it went to another worker.
    async fn renew(&self, lease: &Lease, until: Timestamp) -> Result<(), JournalError>;

    /// Gives the lease back without a write. A lease that is gone already is no error.
    async fn release(&self, lease: &Lease);

    /// Writes events, state and hints in one transaction, guarded by the expected version and the lease.
    ///
    /// # Errors
    /// [`JournalError::Conflict`], [`JournalError::Fenced`]: nothing is written. [`JournalError::Unavailable`]: it
    /// is unknown whether it was; the expected version makes a second try harmless.
    async fn append(&self, append: Append<'_>) -> Result<(), JournalError>;

    /// The run's history from the beginning, and its stored fold; `None` when there is no such run.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] or [`JournalError::Unavailable`].
    async fn history(&self, run: RunId) -> Result<Option<(RunState, Vec<Entry>)>, JournalError>;

    /// What a step answered when it finished last.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`].
    async fn output(&self, run: RunId, step: &StepName) -> Result<Option<Value>, JournalError>;

    /// Every run that is not over, with nobody working on it at `now`.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`].
    async fn open_runs(&self, now: Timestamp) -> Result<Vec<(RunId, RunState)>, JournalError>;
}
