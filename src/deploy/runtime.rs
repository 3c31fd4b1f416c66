//! The port that runs releases: revisions start beside each other, traffic moves in one instant.

use async_trait::async_trait;
use serde::Serialize;

use super::release::Release;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

/// How a revision is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nothing is known of it.
    Unknown,
    /// Not yet answering.
    Starting,
    /// Every replica answers.
    Healthy,
    /// It will not become healthy by itself.
    Failed {
        /// Stable code: `RELEASE_CRASHED`, `RELEASE_UNHEALTHY`, …
        code: &'static str,
        /// One sentence.
        message: String,
        /// The last lines it said.
        tail: Vec<String>,
    },
}

/// A revision as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionView {
    /// The app.
    pub app: String,
    /// The release's number.
    pub release: u64,
    /// `starting`, `healthy`, `unhealthy`, `draining`.
    pub state: String,
    /// Whether it gets traffic.
    pub live: bool,
    /// Replicas that answer.
    pub ready: usize,
    /// Replicas wanted.
    pub wanted: usize,
    /// Restarts after crashes, of all replicas.
    pub restarts: u32,
    /// Process ids, where there are processes.
    pub pids: Vec<u32>,
}

/// Why the runtime cannot work.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Try again.
    #[error("{0}")]
    Unavailable(String),
    /// Trying again does not help.
    #[error("{message}")]
    Rejected {
        /// Stable code.
        code: &'static str,
        /// One sentence.
        message: String,
    },
}

/// Where apps answer.
pub trait Addresses: Send + Sync {
    /// The built-in host name of a project in an environment.
    fn host(&self, label: &str, environment: &super::wish::Environment) -> String;
    /// A host name as people open it.
    fn url(&self, host: &str) -> String;
}

/// Runs releases. A revision is named by the run that started it; every call may be repeated.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Starts the release beside whatever is live. No traffic moves. `wake` is sent when its health is known.
    ///
    /// # Errors
    /// [`RuntimeError`] when it cannot begin.
    async fn start(&self, release: &Release, wake: Option<Hint>) -> Result<(), RuntimeError>;

    /// How the revision is.
    async fn health(&self, revision: RunId) -> Health;

    /// Sends the traffic of the release's hosts to it in one instant, and drains and stops what was there.
    ///
    /// # Errors
    /// [`RuntimeError`]; traffic stays where it was.
    async fn switch(&self, release: &Release) -> Result<(), RuntimeError>;

    /// Stops a revision. Stopping one that never started succeeds.
    ///
    /// # Errors
    /// [`RuntimeError`] when something still runs.
    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError>;

    /// Takes the app off its hosts and stops what answered there.
    async fn withdraw(&self, app: &str);

    /// The revision that gets the traffic of `host`.
    async fn answers(&self, host: &str) -> Option<RunId>;

    /// Every revision.
    async fn revisions(&self) -> Vec<RevisionView>;

    /// The newest `most` lines that the app's live revision said.
    ///
    /// # Errors
    /// [`RuntimeError`].
    async fn output(&self, app: &str, most: usize) -> Result<Vec<String>, RuntimeError>;

    /// The host name on which an app is reached without a domain of its own, and any host as people open it.
    fn addresses(&self) -> &dyn Addresses;
}
