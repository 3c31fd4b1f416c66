//! Builds in a child process that can write nothing but its workspace.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::build::build;
use super::containers::{Containers, IMAGE};
use super::files::FileBlobs;
use super::folders::removed;
use super::sandbox::Machine;
use crate::ambient::Clock;
use crate::deploy::blobs::{BlobError, Blobs as _};
use crate::deploy::builder::{BuildJob, BuildStatus, Builder, BuilderError, Started};
use crate::deploy::ids::Name;
use crate::deploy::log::Logs;
use crate::deploy::size::Size;
use crate::deploy::source::Manifest;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Queue;

/// There while the workspace holds the source and nothing else.
const FRESH: &str = "fresh";

struct Building {
    status: BuildStatus,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// What the builder works with.
pub struct BuilderParts {
    /// Folder of the workspaces.
    pub root: PathBuf,
    /// Sources and artifacts.
    pub blobs: FileBlobs,
    /// Build logs.
    pub logs: Arc<dyn Logs>,
    /// Wakes runs.
    pub queue: Arc<dyn Queue>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Starts commands.
    pub machine: Machine,
    /// Builds images.
    pub(super) containers: Arc<Containers>,
    /// Of one build.
    pub size: Size,
    /// Where background work runs.
    pub background: tokio::runtime::Handle,
}

/// [`Builder`] with child processes.
pub struct ProcessBuilder {
    parts: Arc<BuilderParts>,
    builds: Arc<Mutex<HashMap<RunId, Building>>>,
}

fn unavailable(path: &Path) -> impl Fn(std::io::Error) -> BuilderError {
    move |error| BuilderError::Unavailable(format!("{}: {error}", path.display()))
}

impl ProcessBuilder {
    /// Workspaces below `parts.root`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(parts: BuilderParts) -> std::io::Result<Self> {
        std::fs::create_dir_all(&parts.root)?;
        for workspace in std::fs::read_dir(&parts.root)?.flatten() {
            // After a loss of power a workspace may lack what its marker promises: it is synced again.
            let marker = workspace.path().join(FRESH);
            if marker.exists() {
                std::fs::remove_file(marker)?;
            }
        }
        Ok(Self { parts: Arc::new(parts), builds: Arc::default() })
    }

    fn builds(&self) -> MutexGuard<'_, HashMap<RunId, Building>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workspace(&self, run: RunId) -> PathBuf {
        self.parts.root.join(run.to_string())
    }

    async fn remove(&self, run: RunId) -> Result<(), BuilderError> {
        let ended = self.builds().get(&run).map(|building| {
            building.stop.cancel();
            building.ended.clone()
        });
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
        self.builds().remove(&run);
        let workspace = self.workspace(run);
        if workspace.join(IMAGE).exists() {
            self.parts.containers.forget(run).await;
        }
        removed(workspace).await.map_err(BuilderError::Unavailable)
    }
}

#[async_trait]
impl Builder for ProcessBuilder {
    async fn builds_images(&self) -> Result<(), String> {
        self.parts.containers.client().await.map(|_| ())
    }

    async fn prepare(&self, run: RunId) -> Result<(), BuilderError> {
        self.remove(run).await?;
        let workspace = self.workspace(run);
        for folder in ["src", "home", "tmp"] {
            let folder = workspace.join(folder);
            std::fs::create_dir_all(&folder).map_err(unavailable(&folder))?;
        }
        Ok(())
    }

    async fn sync(&self, run: RunId, org: &Name, source: &Manifest) -> Result<(), BuilderError> {
        let workspace = self.workspace(run);
        let copied = self.parts.blobs.materialise(org, source, &workspace.join("src")).await;
        copied.map_err(|error| match error {
            BlobError::Missing(_)
            | BlobError::Damaged(_)
            | BlobError::Mismatch { .. }
            | BlobError::TooLarge(_) => {
                BuilderError::Rejected { code: "SOURCE_INCOMPLETE", message: error.to_string() }
            }
            BlobError::Full | BlobError::Unavailable { .. } => BuilderError::Unavailable(error.to_string()),
        })?;
        let marker = workspace.join(FRESH);
        std::fs::write(&marker, "").map_err(unavailable(&marker))
    }

    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError> {
        let run = job.run;
        let workspace = self.workspace(run);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        {
            let mut builds = self.builds();
            if builds.contains_key(&run) {
                return Ok(Started::Running);
            }
            if std::fs::remove_file(workspace.join(FRESH)).is_err() {
                return Ok(Started::NotFresh);
            }
            builds.insert(
                run,
                Building { status: BuildStatus::Running, stop: stop.clone(), ended: ended.clone() },
            );
        }
        let (parts, builds) = (Arc::clone(&self.parts), Arc::clone(&self.builds));
        self.parts.background.spawn(async move {
            let status = match build(&parts, &workspace, &job, &stop).await {
                Ok(packed) => BuildStatus::Done(packed),
                Err(failure) => BuildStatus::Failed(failure),
            };
            if let Some(building) = builds.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&run) {
                building.status = status;
            }
            ended.cancel();
            if let Err(error) = parts.queue.send(&job.wake, parts.clock.now()).await {
                tracing::warn!(run.id = %run, error = %error, "{run} could not be woken; it looks by itself later");
            }
        });
        Ok(Started::Running)
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        self.builds().get(&run).map_or(BuildStatus::Unknown, |building| building.status.clone())
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        self.remove(run).await
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        let root = &self.parts.root;
        let entries = std::fs::read_dir(root).map_err(unavailable(root))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }
}
