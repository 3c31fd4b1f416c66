//! The port that runs releases: revisions start beside each other, traffic moves in one instant.

use async_trait::async_trait;
use serde::Serialize;

use super::release::Release;
use super::target::Target;
use super::wish::Environment;
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

impl Health {
    /// The word for it in [`RevisionView`].
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Starting | Self::Unknown => "starting",
            Self::Failed { .. } => "unhealthy",
        }
    }
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
    /// Ids of the processes that lead the replicas, where there are processes: SIGTERM to one reaches the app.
    pub pids: Vec<u32>,
}

/// A DNS record that the owner of a domain sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DnsRecord {
    /// `A`, `ALIAS`, `CNAME` or `TXT`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The whole name.
    pub name: String,
    /// What it says.
    pub value: String,
}

impl std::fmt::Display for DnsRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} = {}", self.kind, self.name, self.value)
    }
}

/// What is missing until a domain leads to its app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Somebody has to set these records.
    Records(Vec<DnsRecord>),
    /// The certificate is being issued; the issuer's word for where that stands.
    Certificate(String),
    /// The runtime is taking a change.
    Change,
}

/// A domain that does not lead to its app yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The domain.
    pub domain: String,
    /// Why.
    pub missing: Missing,
}

/// A domain that leads to its app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// The domain.
    pub domain: String,
    /// Its certificate, where the runtime has one for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// Where a release's domains stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// All lead to the app.
    Bound(Vec<Bound>),
    /// These do not yet; look again.
    Waiting(Vec<Pending>),
}

impl Binding {
    /// None of the release's hosts is sure to lead to it yet.
    #[must_use]
    pub fn changing(release: &Release) -> Self {
        let pending = |host: &String| Pending { domain: host.clone(), missing: Missing::Change };
        Self::Waiting(release.hosts.iter().map(pending).collect())
    }

    /// All of the release's domains are bound, without certificates.
    #[must_use]
    pub fn plain(release: &Release) -> Self {
        let bound = |domain: &String| Bound { domain: domain.clone(), certificate: None };
        Self::Bound(release.domains().iter().map(bound).collect())
    }
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

/// An app whose built-in host name is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its id.
    pub app: &'a str,
    /// Of its project.
    pub label: &'a str,
    /// Where it is deployed to.
    pub environment: &'a Environment,
    /// Who runs it.
    pub target: Target,
}

/// Where apps answer.
#[async_trait]
pub trait Addresses: Send + Sync {
    /// The built-in host name of an app. Where the service invents it, this makes sure that there is one; it may be repeated.
    ///
    /// # Errors
    /// [`RuntimeError`] when there is none yet.
    async fn host(&self, place: Place<'_>) -> Result<String, RuntimeError>;
    /// A host name of the release as people open it.
    fn url(&self, release: &Release, host: &str) -> String;
}

/// Runs releases. A revision is named by the run that started it; every call may be repeated.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Starts the release beside whatever is live. No traffic moves. `wake` is sent when its health is known. One that has
    /// failed may be started anew.
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
    ///
    /// # Errors
    /// [`RuntimeError`] when it may still answer.
    async fn withdraw(&self, app: &str) -> Result<(), RuntimeError>;

    /// The revision that gets the traffic of `host`; `None` when it is sure that nobody does.
    ///
    /// # Errors
    /// [`RuntimeError`] when that is not known.
    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError>;

    /// Makes the next move towards the release's domains leading to its app.
    ///
    /// # Errors
    /// [`RuntimeError`].
    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError>;

    /// Takes domains off the release's app, and their certificates with them. Those that are not there need nothing.
    ///
    /// # Errors
    /// [`RuntimeError`] when they may still lead there.
    async fn unbind(&self, release: &Release, domains: &[String]) -> Result<(), RuntimeError>;

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
