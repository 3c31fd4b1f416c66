//! The port that turns a source into an artifact, away from everything else.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::detect::{Kind, Plan};
use super::ids::{DeploymentId, Digest, Name};
use super::source::Manifest;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

/// One build.
#[derive(Debug, Clone)]
pub struct BuildJob {
    /// Names the workspace.
    pub run: RunId,
    /// Gets the log.
    pub deployment: DeploymentId,
    /// Owns the artifact.
    pub org: Name,
    /// The app that it is for.
    pub app: String,
    /// How: the command, without which the source is packed as it is; what is packed; whether the source's Dockerfile
    /// makes an image; and the variables of the build, on top of a clean environment.
    pub plan: Plan,
    /// When it is killed.
    pub deadline: Timestamp,
    /// Sent when it has ended.
    pub wake: Hint,
}

impl BuildJob {
    /// Whether the source's Dockerfile makes an image, which is then what is packed.
    #[must_use]
    pub fn makes_image(&self) -> bool {
        self.plan.kind == Kind::Docker
    }
}

/// Answer to starting a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It runs.
    Running,
    /// The workspace is not as `sync` leaves it: prepare and sync again.
    NotFresh,
}

/// Where a build stands.
#[derive(Debug, Clone, PartialEq)]
pub enum BuildStatus {
    /// Nothing is known of it: it never began, or the service died with it.
    Unknown,
    /// Under way.
    Running,
    /// Packed and stored.
    Done(Packed),
    /// The project's fault.
    Failed(BuildFailure),
}

/// A stored bundle or image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Of the bundle, or of the image's manifest.
    pub digest: Digest,
    /// Of the bundle; images do not say.
    pub bytes: Option<u64>,
    /// In the bundle.
    pub files: usize,
}

/// How a build failed.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildFailure {
    /// `BUILD_FAILED`, `BUILD_TIMEOUT`, `BUILD_OUTPUT_MISSING`, …
    pub code: &'static str,
    /// One sentence.
    pub message: String,
    /// Exit code, signal, last lines.
    pub detail: Value,
}

/// Why the builder cannot work.
#[derive(Debug, thiserror::Error)]
pub enum BuilderError {
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

/// Builds in isolation. Every call may be repeated.
#[async_trait]
pub trait Builder: Send + Sync {
    /// Whether images can be built of a Dockerfile.
    ///
    /// # Errors
    /// What is missing for it, and what to do.
    async fn builds_images(&self) -> Result<(), String>;

    /// Makes an empty workspace for the run, or empties the one that a crash left.
    ///
    /// # Errors
    /// [`BuilderError`].
    async fn prepare(&self, run: RunId) -> Result<(), BuilderError>;

    /// Writes the source tree into the workspace.
    ///
    /// # Errors
    /// [`BuilderError`].
    async fn sync(&self, run: RunId, org: &Name, source: &Manifest) -> Result<(), BuilderError>;

    /// Begins to build and pack in the background; a build of this run that is under way goes on. A workspace that
    /// an earlier build already touched is refused, so that every build starts from the same tree.
    ///
    /// # Errors
    /// [`BuilderError`] when it cannot begin.
    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError>;

    /// Where the run's build stands.
    async fn status(&self, run: RunId) -> BuildStatus;

    /// Kills what runs and removes the workspace. Discarding what is not there succeeds.
    ///
    /// # Errors
    /// [`BuilderError`] when something is left.
    async fn discard(&self, run: RunId) -> Result<(), BuilderError>;

    /// Workspaces and builds that exist, for the daily cleanup and for tests.
    ///
    /// # Errors
    /// [`BuilderError`].
    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError>;
}
