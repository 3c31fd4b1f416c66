//! Builds in a child process that can write nothing but its workspace.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use serde_json::json;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use super::files::FileBlobs;
use super::lines::each_line;
use super::pack::{PackError, pack};
use super::sandbox::{Cage, Machine, kill_all_of, readable, signal_group};
use crate::ambient::{Clock, between};
use crate::deploy::blobs::{BlobError, Blobs as _};
use crate::deploy::builder::{BuildFailure, BuildJob, BuildStatus, Builder, BuilderError, Packed, Started};
use crate::deploy::ids::{DeploymentId, Name};
use crate::deploy::log::{Line, Logs};
use crate::deploy::size::Size;
use crate::deploy::source::Manifest;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Queue;

/// Lines kept for the failure report.
const TAIL: usize = 50;
/// How long the pipe may stay open after the build has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Lines that wait to be stored; a faster child waits too.
const LINES_WAITING: usize = 256;
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
        let removed = tokio::task::spawn_blocking(move || match remove_tree(&workspace) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unavailable(&workspace)(error)),
            Ok(()) | Err(_) => Ok(()),
        });
        removed.await.unwrap_or_else(|error| Err(BuilderError::Unavailable(error.to_string())))
    }
}

/// Removes a tree in which a build may have taken permissions away.
pub(super) fn remove_tree(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        result => return result,
    }
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    std::fs::remove_dir_all(path)
}

#[async_trait]
impl Builder for ProcessBuilder {
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

async fn build(
    parts: &Arc<BuilderParts>,
    workspace: &Path,
    job: &BuildJob,
    stop: &CancellationToken,
) -> Result<Packed, BuildFailure> {
    if let Some(command) = &job.command {
        say(parts, job, "build.started", command, json!({ "command": command })).await;
        let begun = parts.clock.now();
        run_command(parts, workspace, job, command, stop).await?;
        let ms = u64::try_from(between(begun, parts.clock.now()).as_millis()).unwrap_or(u64::MAX);
        say(parts, job, "build.finished", "", json!({ "elapsedMs": ms })).await;
    }
    say(parts, job, "push.started", &job.output, json!({})).await;
    let (folder, bundle, output) =
        (output_folder(workspace, &job.output), workspace.join("bundle"), job.output.clone());
    let (blobs, org) = (parts.blobs.clone(), job.org.clone());
    let packed = tokio::task::spawn_blocking(move || {
        let packed = pack(&folder, &output, &bundle).map_err(|error| pack_failure(&error))?;
        blobs
            .adopt(&org, &bundle, packed.digest)
            .map_err(|error| failure("ARTIFACT_STORE_FAILED", error.to_string()))?;
        Ok(packed)
    });
    let packed = packed.await.unwrap_or_else(|error| Err(failure("INTERNAL", error.to_string())))?;
    say(parts, job, "push.finished", "", json!({ "digest": packed.digest, "bytes": packed.bytes })).await;
    Ok(packed)
}

/// The folder that is packed.
fn output_folder(workspace: &Path, output: &str) -> PathBuf {
    let source = workspace.join("src");
    if output == "." { source } else { source.join(output) }
}

fn failure(code: &'static str, message: String) -> BuildFailure {
    BuildFailure { code, message, detail: json!(null) }
}

fn pack_failure(error: &PackError) -> BuildFailure {
    let code = match error {
        PackError::Missing(_) | PackError::Empty(_) => "BUILD_OUTPUT_MISSING",
        PackError::Io { .. } => "ARTIFACT_STORE_FAILED",
    };
    failure(code, error.to_string())
}

async fn say(parts: &BuilderParts, job: &BuildJob, kind: &str, text: &str, data: serde_json::Value) {
    let mut line = Line::new(parts.clock.now(), kind, Some("build"), text);
    if let serde_json::Value::Object(data) = data {
        line.data = data;
    }
    if let Err(error) = parts.logs.append(job.deployment, vec![line]).await {
        tracing::warn!(deployment.id = %job.deployment, error = %error, "the build log could not be written");
    }
}

async fn run_command(
    parts: &Arc<BuilderParts>,
    workspace: &Path,
    job: &BuildJob,
    command: &str,
    stop: &CancellationToken,
) -> Result<(), BuildFailure> {
    let not_started =
        |error| failure("BUILD_NOT_STARTED", format!("the build could not be started: {error}"));
    let (mut child, pipe) = spawn(parts, workspace, job, command).map_err(not_started)?;
    let leader = child.id();
    let reading = parts.background.spawn(read_pipe(Arc::clone(parts), job.deployment, pipe));
    let waiting = between(parts.clock.now(), job.deadline);
    let end = tokio::select! {
        status = child.wait() => End::Exited(status),
        () = stop.cancelled() => End::Stopped,
        () = parts.clock.sleep(waiting) => End::TimedOut,
    };
    // Nothing that the command started outlives it; that also closes the pipe.
    signal_group(leader, Signal::KILL);
    kill_all_of(job.run);
    if !matches!(end, End::Exited(_))
        && let Err(error) = child.wait().await
    {
        tracing::warn!(error = %error, "a killed build could not be waited for");
    }
    let tail = tokio::select! {
        tail = reading => tail.unwrap_or_default(),
        // Somebody who hid from us still holds the pipe: its words are lost, the build is not held up.
        () = parts.clock.sleep(LAST_WORDS) => VecDeque::new(),
    };
    judge(end, &tail, waiting)
}

enum End {
    Exited(std::io::Result<ExitStatus>),
    Stopped,
    TimedOut,
}

fn judge(end: End, tail: &VecDeque<String>, waited: Duration) -> Result<(), BuildFailure> {
    let failed = |code, message: String, detail: serde_json::Value| {
        let mut detail = detail;
        detail["tail"] = json!(tail);
        Err(BuildFailure { code, message, detail })
    };
    match end {
        End::Exited(Ok(status)) if status.success() => Ok(()),
        End::Exited(Ok(status)) => match (status.code(), status.signal()) {
            (Some(code), _) => failed(
                "BUILD_FAILED",
                format!("the build command ended with exit code {code}"),
                json!({ "exitCode": code }),
            ),
            (None, signal) => failed(
                "BUILD_FAILED",
                format!("the build command was ended by signal {}", signal.unwrap_or_default()),
                json!({ "signal": signal }),
            ),
        },
        End::Exited(Err(error)) => {
            failed("BUILD_FAILED", format!("the build command could not be waited for: {error}"), json!({}))
        }
        End::Stopped => failed("CANCELLED", "the build was stopped".to_owned(), json!({})),
        End::TimedOut => failed(
            "DEPLOYMENT_TIMEOUT",
            format!("the build did not end within {} s", waited.as_secs()),
            json!({}),
        ),
    }
}

fn spawn(
    parts: &BuilderParts,
    workspace: &Path,
    job: &BuildJob,
    command: &str,
) -> std::io::Result<(Child, Receiver)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut variables: BTreeMap<String, String> = job.variables.clone();
    variables.extend([
        ("CI".to_owned(), "true".to_owned()),
        ("HOME".to_owned(), text(&workspace.join("home"))),
        ("TMPDIR".to_owned(), text(&workspace.join("tmp"))),
        ("PWD".to_owned(), text(&workspace.join("src"))),
    ]);
    let machine = &parts.machine;
    let mut read = readable(&machine.path, machine.home.as_deref(), workspace);
    read.push(machine.program.clone());
    let cage = Cage {
        read,
        // Not the workspace itself: the bundle and the marker lie there, and `src` must stay a folder.
        write: ["src", "home", "tmp"].map(|folder| workspace.join(folder)).to_vec(),
        dir: workspace.join("src"),
        memory_bytes: Some(u64::from(parts.size.memory_mib) << 20),
        command: command.to_owned(),
    };
    // One pipe for both streams, so that the log has the order in which the build said it.
    let (reader, writer) = std::io::pipe()?;
    let mut command = machine.command(job.run, &cage, &variables)?;
    let child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    Ok((child, Receiver::from_owned_fd(reader.into())?))
}

/// Stores every line before anybody sees it, and keeps the last ones. Ends when the pipe is closed.
async fn read_pipe(parts: Arc<BuilderParts>, deployment: DeploymentId, pipe: Receiver) -> VecDeque<String> {
    let (send, mut said) = tokio::sync::mpsc::channel(LINES_WAITING);
    parts.background.spawn(each_line(pipe, "", send));
    let mut tail: VecDeque<String> = VecDeque::with_capacity(TAIL);
    let mut batch = Vec::new();
    while said.recv_many(&mut batch, LINES_WAITING).await > 0 {
        let now = parts.clock.now();
        tail.extend(batch.iter().map(|(_, text)| text.clone()));
        tail.drain(..tail.len().saturating_sub(TAIL));
        let lines = batch.drain(..).map(|(_, text)| Line::new(now, "log", Some("build"), text));
        if let Err(error) = parts.logs.append(deployment, lines.collect()).await {
            tracing::warn!(deployment.id = %deployment, error = %error, "lines of the build log were lost");
        }
    }
    tail
}
