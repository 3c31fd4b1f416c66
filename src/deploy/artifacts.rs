//! The port that knows about artifacts after they were made: what decides them, and whether they are still there.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::blobs::{BlobError, Blobs};
use super::detect::Plan;
use super::ids::{Digest, Name};

/// Why it is not known whether an artifact is there; later.
#[derive(Debug, thiserror::Error)]
#[error("the artifacts cannot be looked at: {0}")]
pub struct ArtifactError(pub String);

/// Where artifacts are kept, whoever made them.
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// What decides the artifact of `app` besides the source, the build command, its variables, the folder that it fills,
    /// and whether the source has a Dockerfile of its own; by name.
    fn inputs(&self, app: &str, plan: &Plan) -> BTreeMap<String, String>;

    /// Whether the artifact is there for a release of `app`. A cleanup that is under way at `now` spares it then.
    ///
    /// # Errors
    /// [`ArtifactError`].
    async fn has(
        &self,
        org: &Name,
        app: &str,
        artifact: Digest,
        now: Timestamp,
    ) -> Result<bool, ArtifactError>;
}

/// [`Artifacts`] that are bundles of files among the organization's content: everything else is decided when they start.
pub struct Bundles(pub Arc<dyn Blobs>);

impl From<BlobError> for ArtifactError {
    fn from(error: BlobError) -> Self {
        Self(error.to_string())
    }
}

#[async_trait]
impl Artifacts for Bundles {
    fn inputs(&self, _app: &str, _plan: &Plan) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn has(
        &self,
        org: &Name,
        _app: &str,
        artifact: Digest,
        now: Timestamp,
    ) -> Result<bool, ArtifactError> {
        Ok(self.0.missing(org, &[artifact], now).await?.is_empty())
    }
}
