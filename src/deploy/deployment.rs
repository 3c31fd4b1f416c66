//! Deployments, and the port that keeps them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{DeploymentId, Digest, Name};
use super::size::Size;
use super::wish::{Environment, Wish};
use crate::trace::TraceContext;
use crate::workflow::journal::RunId;

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted, waits for its turn.
    Queued,
    /// Its run is under way.
    Running,
    /// The release is live.
    Succeeded,
    /// It failed; what was live before still is.
    Failed,
    /// Somebody stopped it.
    Cancelled,
    /// A newer deployment of the same project and environment took its place in the queue.
    Superseded,
    /// An undo or cleanup failed: a person has to look.
    Stuck,
}

impl Status {
    /// Every status, in the order in which people meet them.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Superseded,
        Self::Stuck,
    ];

    /// The word in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Stuck => "stuck",
        }
    }

    /// The status of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// Why a deployment did not succeed, in words that may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Stable code from the error catalogue.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The step.
    pub step: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Exit code, signal, last lines.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// What a settled deployment left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Where the release answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Its number within project and environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// What a replica of the release gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// The wish to make a release live, and what became of it.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Rises with every deployment; the order of lists.
    pub no: i64,
    /// What was asked for.
    pub wish: Wish,
    /// Where it stands.
    pub status: Status,
    /// Its newest run.
    pub run: Option<RunId>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When its newest run was admitted.
    pub started: Option<Timestamp>,
    /// When it was settled.
    pub ended: Option<Timestamp>,
    /// What is left of it.
    pub result: Ending,
    /// Ties its log lines to the request that caused it.
    pub correlation: String,
    /// That request, in its trace.
    pub trace: Option<TraceContext>,
}

impl Deployment {
    /// CPU and memory of one replica: as the release has them, and before there is one as they were asked for. `None`
    /// until it is known whether the project or the environment decides.
    #[must_use]
    pub fn size(&self) -> Option<Size> {
        self.result.size.or(self.wish.size)
    }
}

/// What a deployment was caused by.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Ties log lines together.
    pub correlation: String,
    /// The request, in its trace.
    pub trace: Option<TraceContext>,
}

impl From<&str> for Origin {
    fn from(correlation: &str) -> Self {
        Self { correlation: correlation.to_owned(), trace: None }
    }
}

/// A deployment to be accepted.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    /// Its id.
    pub id: DeploymentId,
    /// What is asked for.
    pub wish: Wish,
    /// When.
    pub at: Timestamp,
    /// From the request.
    pub correlation: String,
    /// The request, in its trace.
    pub trace: Option<TraceContext>,
    /// The request's idempotency key and the digest of its body.
    pub key: Option<(String, Digest)>,
}

/// Begins the idempotency keys of jobs that came by queue; they count for an hour only, as long as a redelivery may
/// take, because the same text sent again later is a new wish.
pub const QUEUE_KEY: &str = "queue:";
/// How long the same text on the queue is taken for a redelivery.
const REDELIVERY_MICROS: i64 = 3_600 * 1_000_000;
/// Successful deployments from which durations are learned.
pub const DURATION_SAMPLES: u32 = 200;

impl NewDeployment {
    /// Since when an earlier use of its key makes it a repetition, in microseconds since 1970.
    #[must_use]
    pub fn repeats_since(&self) -> i64 {
        match &self.key {
            Some((key, _)) if key.starts_with(QUEUE_KEY) => self.at.as_microsecond() - REDELIVERY_MICROS,
            _ => 0,
        }
    }
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// Accepted.
    New,
    /// The same request was accepted before, as this deployment.
    Repeated(DeploymentId),
    /// The idempotency key was used with another body.
    KeyReused,
    /// As many wait as the store can keep in order; nothing was accepted.
    Full,
}

/// Answer to putting a deployment back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeued {
    /// It waits for its turn.
    Queued,
    /// It was stuck and has its turn again.
    Running,
    /// Its status, or another deployment of the app, does not allow it.
    Refused,
    /// As many wait as the store can keep in order.
    Full,
}

/// How many may run at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// Of one organization.
    pub per_org: usize,
}

/// Which deployments to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this project.
    pub project: Option<Name>,
    /// Only with this status.
    pub status: Option<Status>,
    /// Only in this environment.
    pub environment: Option<Environment>,
    /// Only older ones than this number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// Figures over all deployments.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// How many have each status.
    pub by_status: BTreeMap<Status, u64>,
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be reached")]
pub struct StoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Keeps deployments and decides, in one transaction, whose turn it is.
#[async_trait]
pub trait Deployments: Send + Sync {
    /// Accepts a deployment as queued, supersedes older queued ones of the same app, and wakes admission, all in one
    /// transaction.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was accepted, or the idempotency key finds it.
    async fn submit(&self, new: NewDeployment) -> Result<Submitted, StoreError>;

    /// One deployment.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn get(&self, id: DeploymentId) -> Result<Option<Deployment>, StoreError>;

    /// A page of deployments, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(&self, filter: &Filter) -> Result<Vec<Deployment>, StoreError>;

    /// Turns queued deployments into running ones, oldest first, as far as `caps` allow and with one per app, in one
    /// transaction. `run` makes the id of each new run.
    ///
    /// # Errors
    /// [`StoreError`]: nobody was admitted.
    async fn admit(&self, caps: Caps, now: Timestamp, run: RunMaker) -> Result<Vec<Deployment>, StoreError>;

    /// Ends the turn that `run` has and wakes admission. A run that has no turn any more changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn settle(
        &self,
        (id, run): (DeploymentId, RunId),
        status: Status,
        result: &Ending,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Cancels a deployment that still waits; false when it does not.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn cancel_queued(&self, id: DeploymentId, now: Timestamp) -> Result<bool, StoreError>;

    /// Puts a failed or cancelled deployment back into the queue, or gives a stuck one its turn back unless another
    /// deployment of the same app has it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn requeue(&self, id: DeploymentId, now: Timestamp) -> Result<Requeued, StoreError>;

    /// Figures for `/status`; looks at every deployment's index entry.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stats(&self) -> Result<Stats, StoreError>;

    /// How many succeeded, failed or were cancelled at `since` or later.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn ended_since(&self, since: Timestamp) -> Result<u64, StoreError>;

    /// Milliseconds from admission to success of the newest successful ones, ascending.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn durations_ms(&self) -> Result<Vec<u64>, StoreError>;
}

/// Makes the id of a new run.
pub type RunMaker = Box<dyn Fn() -> RunId + Send>;
