//! What is kept for how long, and the port that forgets the rest.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use super::deployment::StoreError;
use super::ids::{DeploymentId, Digest, Name};

/// How much of the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Days for which a deployment that has ended is kept.
    pub days: u16,
    /// Releases of each app that are kept whatever their age, so that there is a way back.
    pub releases: u32,
}

/// Records that were forgotten, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// Deployments, with their releases.
    pub deployments: Vec<DeploymentId>,
    /// Runs that have ended, with their events.
    pub runs: u64,
    /// Artifacts that could have been reused.
    pub artifacts: u64,
    /// Idempotency keys.
    pub keys: u64,
}

/// What an organization's records still point at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// By their manifests.
    pub sources: Vec<Digest>,
    /// By their bundles, or by their images.
    pub artifacts: Vec<Digest>,
    /// All of its projects.
    pub projects: Vec<Name>,
}

/// What the records of all organizations point at together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Every project, as `organization/project`.
    pub projects: BTreeSet<String>,
    /// Every artifact that a record names.
    pub artifacts: HashSet<Digest>,
}

impl Reached {
    /// Adds what one organization needs.
    pub fn add(&mut self, org: &Name, needed: &Needed) {
        self.projects.extend(needed.projects.iter().map(|project| format!("{org}/{project}")));
        self.artifacts.extend(&needed.artifacts);
    }
}

/// Why remains cannot be looked at or removed; later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RemainsError(pub String);

/// One kind of thing that deployments leave outside of the records and the content, such as images in a registry.
#[async_trait]
pub trait Remains: Send + Sync {
    /// Its name in the answer of a cleanup: one lowercase word.
    fn name(&self) -> &'static str;

    /// Removes what was left before `before` and no deployment or release needs; with `dry` it only counts. Gives the number.
    /// Doing it again goes on where it stopped.
    ///
    /// # Errors
    /// [`RemainsError`]; some may be removed.
    async fn retain(&self, reached: &Reached, before: Timestamp, dry: bool) -> Result<u64, RemainsError>;
}

/// Forgets records of the past. What is live, under way, stuck, or one of an app's newest releases stays.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Remembers for good that the organization has content, before the first of it is stored: otherwise a cleanup would
    /// never come to what was uploaded and never used.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn note_owner(&self, org: &Name) -> Result<(), StoreError>;

    /// Remembers that somebody is about to use the source, so that its content stays although nothing points at it yet; and
    /// its owner, as [`Self::note_owner`] does.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn use_source(&self, org: &Name, source: Digest, now: Timestamp) -> Result<(), StoreError>;

    /// The deployments that the next [`Self::forget`] would forget.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn old(&self, before: Timestamp, releases: u32) -> Result<Vec<DeploymentId>, StoreError>;

    /// Forgets some of what ended before `before`, in an order that a crash does no harm to; call it until nothing is forgotten any more.
    /// With `dry` it only counts, all there is.
    ///
    /// # Errors
    /// [`StoreError`]: some may be forgotten; the next call goes on.
    async fn forget(&self, before: Timestamp, releases: u32, dry: bool) -> Result<Forgotten, StoreError>;

    /// Every organization that ever had content.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn organizations(&self) -> Result<Vec<Name>, StoreError>;

    /// What has to stay of an organization's content; sources that were used after `since` among it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn needed(&self, org: &Name, since: Timestamp) -> Result<Needed, StoreError>;
}
