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
        clear(&self.parts, self.workspace(run), run).await.map_err(BuilderError::Unavailable)
    }
}

/// Takes away a workspace, and what its build left in the container engine.
async fn clear(parts: &BuilderParts, workspace: PathBuf, run: RunId) -> Result<(), String> {
    if workspace.join(IMAGE).exists() {
        parts.containers.forget(run).await;
    }
    removed(workspace).await
}

/// As [`clear`], where the cleanup does it again.
async fn clear_early(parts: &BuilderParts, workspace: PathBuf, run: RunId) {
    if let Err(error) = clear(parts, workspace, run).await {
        tracing::warn!(run.id = %run, error, "the workspace of {run} could not be removed yet");
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
        if copied.is_err() {
            // A part of it may be what filled the disk.
            clear_early(&self.parts, workspace.clone(), run).await;
        }
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
            let failed = matches!(status, BuildStatus::Failed(_));
            if failed {
                // It may have filled the disk, and then nothing could be written about its end.
                clear_early(&parts, workspace.clone(), run).await;
            }
            if let Some(building) = builds.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&run) {
                building.status = status;
            }
            if let Err(error) = parts.queue.send(&job.wake, parts.clock.now()).await {
                tracing::warn!(run.id = %run, error = %error, "{run} could not be woken; it looks by itself later");
            }
            if !failed {
                clear_early(&parts, workspace, run).await;
            }
            ended.cancel();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;
    use crate::ambient::{SystemClock, after};
    use crate::deploy::detect::{Kind, Plan};
    use crate::deploy::ids::DeploymentId;
    use crate::embedded::logs::FileLogs;
    use crate::workflow::queue::{Hint, QueueError};

    /// Tells whether the workspace is there when a run is woken.
    struct Witness(PathBuf, UnboundedSender<bool>);

    #[async_trait]
    impl Queue for Witness {
        async fn send(&self, _hint: &Hint, _not_before: Timestamp) -> Result<(), QueueError> {
            self.1.send(self.0.exists()).unwrap();
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_failed_build_is_off_the_disk_before_anything_is_written_about_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("workspaces");
        let run = RunId::new(Timestamp::UNIX_EPOCH, 1);
        let workspace = root.join(run.to_string());
        let (seen, mut woken) = unbounded_channel();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // Whatever is to be built, it fails.
        let machine = Machine {
            program: "false".into(),
            owner: "0123456789abcdef".to_owned(),
            path: "/usr/bin:/bin".to_owned(),
            home: None,
        };
        let builder = ProcessBuilder::new(BuilderParts {
            root,
            blobs: FileBlobs::open(&folder.path().join("blobs")).unwrap(),
            logs: Arc::new(FileLogs::open(&folder.path().join("logs")).unwrap()),
            queue: Arc::new(Witness(workspace.clone(), seen)),
            clock: Arc::clone(&clock),
            machine: machine.clone(),
            containers: Arc::new(Containers::new(machine, Arc::clone(&clock), folder.path())),
            size: Size { cpu_millis: 1_000, memory_mib: 512 },
            background: tokio::runtime::Handle::current(),
        })
        .unwrap();
        builder.prepare(run).await.unwrap();
        std::fs::write(workspace.join("src/huge"), "x").unwrap();
        std::fs::write(workspace.join(FRESH), "").unwrap();
        let plan = Plan { build: Some("true".to_owned()), ..Plan::new(Kind::Static, None) };
        let job = BuildJob {
            run,
            deployment: DeploymentId::new(1),
            org: "org".parse().unwrap(),
            app: "app".to_owned(),
            plan,
            deadline: after(clock.now(), Duration::from_secs(600)),
            wake: Hint::wake(run, "step-build"),
        };
        assert_eq!(builder.start(job).await.unwrap(), Started::Running);
        assert_eq!(woken.recv().await, Some(false));
        let BuildStatus::Failed(failure) = builder.status(run).await else { panic!("it is not failed") };
        assert_eq!(failure.code, "BUILD_FAILED");
    }
}
