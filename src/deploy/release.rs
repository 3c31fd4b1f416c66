//! Projects, releases and artifacts, and the port that keeps them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::deployment::StoreError;
use super::detect::Plan;
use super::ids::{DeploymentId, Digest, Name, dns_label};
use super::secrets::Sealed;
use super::size::{Replicas, Size};
use super::wish::Environment;
use crate::workflow::journal::RunId;

/// What users own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its organization.
    pub org: Name,
    /// Its id within the organization.
    pub id: Name,
    /// Its name for people.
    pub title: String,
    /// First part of its host names; unique on this installation.
    pub label: String,
    /// The newest source that was deployed.
    pub source: Option<Digest>,
}

/// What a build made: a bundle or an image, by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// SHA-256 of the bundle, or of the image's manifest.
    pub digest: Digest,
    /// Its size, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What went into it, name → digest; tells which input changed.
    pub inputs: BTreeMap<String, String>,
}

/// Labels for a project, best first: its id, then with a suffix from its owner, for when somebody else has it. The last one is
/// nobody else's.
#[must_use]
pub fn labels(org: &Name, id: &Name) -> Vec<String> {
    let plain = dns_label(id.as_str());
    let digest = Digest::of(format!("{org}/{id}").as_bytes()).to_string();
    let suffix = |chars| digest.get(..chars).unwrap_or_default();
    let suffixed = [4, 8, 16].map(|chars| format!("{plain}-{}", suffix(chars)));
    [plain.clone()].into_iter().chain(suffixed).chain([format!("p-{}", suffix(40))]).collect()
}

/// Artifact, settings and scale of one deployment; never changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Release {
    /// The app: organization, project and environment.
    pub app: String,
    /// Counts up within the app; 0 until it is recorded.
    pub number: u64,
    /// The deployment that made it.
    pub deployment: DeploymentId,
    /// The run that started it; names the revision.
    pub run: RunId,
    /// Owner of the artifact.
    pub org: Name,
    /// Where it lives.
    pub environment: Environment,
    /// What runs.
    pub artifact: Digest,
    /// How it runs.
    pub plan: Plan,
    /// Its environment, sealed.
    pub env: BTreeMap<String, Sealed>,
    /// Of one replica.
    pub size: Size,
    /// How many.
    pub replicas: Replicas,
    /// Host names, the built-in one first.
    pub hosts: Vec<String>,
}

impl Release {
    /// The host names that are the project's own.
    #[must_use]
    pub fn domains(&self) -> &[String] {
        self.hosts.get(1..).unwrap_or_default()
    }
}

/// Keeps projects, releases and artifacts.
#[async_trait]
pub trait Releases: Send + Sync {
    /// The project, made when there is none yet. Its label is unique; its title follows the newest.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn project(
        &self,
        org: &Name,
        id: &Name,
        title: &str,
        now: Timestamp,
    ) -> Result<Project, StoreError>;

    /// Remembers the newest source of a project.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn set_source(&self, project: &Project, source: Digest) -> Result<(), StoreError>;

    /// Numbers and stores a release; the deployment's own one again when it has one.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn record(&self, release: &Release, now: Timestamp) -> Result<Release, StoreError>;

    /// Makes release `number` the live one of `app`, none with `None`, and gives the one that was.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn make_live(&self, app: &str, number: Option<u64>) -> Result<Option<u64>, StoreError>;

    /// Every live release; one that went live a moment ago may be missing.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn live(&self) -> Result<Vec<Release>, StoreError>;

    /// The live release of `app`, as it is now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn live_of(&self, app: &str) -> Result<Option<Release>, StoreError>;

    /// One release.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn get(&self, app: &str, number: u64) -> Result<Option<Release>, StoreError>;

    /// The artifact that was made of exactly these inputs.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn artifact(&self, org: &Name, inputs: Digest) -> Result<Option<Artifact>, StoreError>;

    /// Remembers what was made of these inputs.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn keep_artifact(
        &self,
        org: &Name,
        inputs: Digest,
        artifact: &Artifact,
        now: Timestamp,
    ) -> Result<(), StoreError>;
}
