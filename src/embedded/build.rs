//! One build: the command in its cage, the image, the bundle.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::builder::BuilderParts;
use super::containers::IMAGE;
use super::lines::each_line;
use super::pack::{PackError, pack};
use super::privileges::is_superuser;
use super::sandbox::{Cage, kill_all_of, readable};
use super::supervisor::end_child;
use crate::ambient::between;
use crate::deploy::builder::{BuildFailure, BuildJob, Packed};
use crate::deploy::ids::DeploymentId;
use crate::deploy::log::Line;

/// Lines kept for the failure report.
const TAIL: usize = 50;
/// What a line costs in the log besides its text.
const LINE_BYTES: usize = 100;
/// Bytes of one build's log that are kept.
const MOST_LOG_BYTES: usize = 64 << 20;
/// How long a build that is stopped may take to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// How long the pipe may stay open after the build has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Lines that wait to be stored; a faster child waits too.
const LINES_WAITING: usize = 256;

/// Runs the command, builds the image, packs and stores; the log tells each.
///
/// # Errors
/// Why it failed, for the one who deploys.
pub(super) async fn build(
    parts: &Arc<BuilderParts>,
    workspace: &Path,
    job: &BuildJob,
    stop: &CancellationToken,
) -> Result<Packed, BuildFailure> {
    let not_started =
        |error| failure("BUILD_NOT_STARTED", format!("the build could not be started: {error}"));
    let begun = parts.clock.now();
    if let Some(command) = &job.plan.build {
        say(parts, job, "build.started", command, json!({ "command": command })).await;
        let caged = caged(parts, workspace, job, command).map_err(|error| not_started(error.to_string()))?;
        run_command(parts, job, caged, stop).await?;
    }
    let mut folder = output_folder(workspace, &job.plan.output);
    if job.makes_image() {
        say(parts, job, "build.started", "Dockerfile", json!({ "dockerfile": "Dockerfile" })).await;
        let containers = &parts.containers;
        let engine = containers.build(job, workspace, parts.size).await.map_err(not_started)?;
        run_command(parts, job, engine, stop).await?;
        folder = workspace.join(IMAGE);
        tokio::select! {
            exported = containers.export(job.run, &folder) => {
                exported.map_err(|error| failure("ARTIFACT_STORE_FAILED", error))?;
            }
            () = stop.cancelled() => return Err(failure("CANCELLED", "the build was stopped".to_owned())),
        }
    }
    if job.makes_image() || job.plan.build.is_some() {
        let ms = u64::try_from(between(begun, parts.clock.now()).as_millis()).unwrap_or(u64::MAX);
        say(parts, job, "build.finished", "", json!({ "elapsedMs": ms })).await;
    }
    say(parts, job, "push.started", &job.plan.output, json!({})).await;
    let (bundle, output) = (workspace.join("bundle"), job.plan.output.clone());
    let (blobs, org, stop) = (parts.blobs.clone(), job.org.clone(), stop.clone());
    let packed = tokio::task::spawn_blocking(move || {
        let packed =
            pack(&folder, &output, &bundle, &|| stop.is_cancelled()).map_err(|error| pack_failure(&error))?;
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
        PackError::TooLarge { .. } => "BUILD_OUTPUT_TOO_LARGE",
        PackError::Stopped => "CANCELLED",
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
    job: &BuildJob,
    mut command: Command,
    stop: &CancellationToken,
) -> Result<(), BuildFailure> {
    let not_started =
        |error| failure("BUILD_NOT_STARTED", format!("the build could not be started: {error}"));
    let (mut child, pipe) = spawn(&mut command).map_err(not_started)?;
    // It holds the writing end of the pipe.
    drop(command);
    let reading = parts.background.spawn(read_pipe(Arc::clone(parts), job.deployment, pipe));
    let waiting = between(parts.clock.now(), job.deadline);
    let end = tokio::select! {
        status = child.wait() => End::Exited(status),
        () = stop.cancelled() => End::Stopped,
        () = parts.clock.sleep(waiting) => End::TimedOut,
    };
    if !matches!(end, End::Exited(_)) {
        end_child(&mut child, GRACE, parts.clock.as_ref()).await;
    }
    // A container engine has no supervisor, and before Linux 6.12 a command can kill its own.
    let run = job.run;
    if let Err(error) = tokio::task::spawn_blocking(move || kill_all_of(run)).await {
        tracing::warn!(error = %error, "what a build left running could not be looked for");
    }
    let tail = tokio::select! {
        tail = reading => tail.unwrap_or_default(),
        // Somebody may have killed its supervisor and hold the pipe: its words are lost, the build is not held up.
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

/// The build command in its cage.
fn caged(parts: &BuilderParts, workspace: &Path, job: &BuildJob, command: &str) -> std::io::Result<Command> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut variables: BTreeMap<String, String> = job.plan.build_variables.clone();
    variables.extend([
        ("CI".to_owned(), "true".to_owned()),
        ("HOME".to_owned(), text(&workspace.join("home"))),
        ("TMPDIR".to_owned(), text(&workspace.join("tmp"))),
        ("PWD".to_owned(), text(&workspace.join("src"))),
    ]);
    if is_superuser() {
        // Only the superuser's tar gives files the owner that the archive names, which the cage refuses.
        variables.insert("TAR_OPTIONS".to_owned(), "--no-same-owner".to_owned());
    }
    let machine = &parts.machine;
    let mut read = readable(&machine.path, machine.home.as_deref(), workspace);
    read.push(machine.program.clone());
    let cage = Cage {
        read,
        // Not the workspace itself: the bundle and the marker lie there, and `src` must stay a folder.
        write: ["src", "home", "tmp"].map(|folder| workspace.join(folder)).to_vec(),
        dir: workspace.join("src"),
        memory_bytes: Some(u64::from(parts.size.memory_mib) << 20),
        cores: Some(usize::try_from(parts.size.cpu_millis.div_ceil(1_000)).unwrap_or(usize::MAX)),
        command: command.to_owned(),
    };
    machine.command(job.run, &cage, &variables)
}

/// Starts it with one pipe for both streams, so that the log has the order in which the build said it.
fn spawn(command: &mut Command) -> std::io::Result<(Child, Receiver)> {
    let (reader, writer) = std::io::pipe()?;
    let child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    Ok((child, Receiver::from_owned_fd(reader.into())?))
}

/// Stores every line before anybody sees it, and keeps the last ones. Ends when the pipe is closed.
async fn read_pipe(parts: Arc<BuilderParts>, deployment: DeploymentId, pipe: Receiver) -> VecDeque<String> {
    let (send, mut said) = tokio::sync::mpsc::channel(LINES_WAITING);
    parts.background.spawn(each_line(pipe, "", send));
    let mut tail: VecDeque<String> = VecDeque::with_capacity(TAIL);
    let mut batch = Vec::new();
    let mut room = MOST_LOG_BYTES;
    while said.recv_many(&mut batch, LINES_WAITING).await > 0 {
        let now = parts.clock.now();
        tail.extend(batch.iter().map(|(_, text)| text.clone()));
        tail.drain(..tail.len().saturating_sub(TAIL));
        if room == 0 {
            batch.clear();
            continue;
        }
        room = room.saturating_sub(batch.iter().map(|(_, text)| text.len() + LINE_BYTES).sum());
        let line = |text: String| Line::new(now, "log", Some("build"), text);
        let mut lines: Vec<Line> = batch.drain(..).map(|(_, text)| line(text)).collect();
        lines.extend((room == 0).then(|| line("The log is full; what follows is not kept.".to_owned())));
        if let Err(error) = parts.logs.append(deployment, lines).await {
            tracing::warn!(deployment.id = %deployment, error = %error, "lines of the build log were lost");
        }
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_packed_has_a_code() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        for (error, code) in [
            (PackError::Missing("out".to_owned()), "BUILD_OUTPUT_MISSING"),
            (PackError::Empty("out".to_owned()), "BUILD_OUTPUT_MISSING"),
            (PackError::TooLarge { name: "out".to_owned(), bytes: 9 << 30 }, "BUILD_OUTPUT_TOO_LARGE"),
            (PackError::Stopped, "CANCELLED"),
            (PackError::Io { path: "out".to_owned(), source: full }, "ARTIFACT_STORE_FAILED"),
        ] {
            let failure = pack_failure(&error);
            assert_eq!((failure.code, failure.message), (code, error.to_string()));
        }
    }

    #[test]
    fn each_end_of_a_build_has_a_code_and_its_last_lines() {
        let tail = VecDeque::from(["oops".to_owned()]);
        // A status as wait(2) gives it: 7 << 8 is exit code 7, 9 is signal 9.
        for (end, code, detail) in [
            (End::Exited(Ok(ExitStatus::from_raw(7 << 8))), "BUILD_FAILED", json!({ "exitCode": 7 })),
            (End::Exited(Ok(ExitStatus::from_raw(9))), "BUILD_FAILED", json!({ "signal": 9 })),
            (End::Stopped, "CANCELLED", json!({})),
            (End::TimedOut, "DEPLOYMENT_TIMEOUT", json!({})),
        ] {
            let failure = judge(end, &tail, Duration::from_secs(600)).unwrap_err();
            let mut wanted = detail;
            wanted["tail"] = json!(["oops"]);
            assert_eq!((failure.code, failure.detail), (code, wanted));
        }
        assert!(judge(End::Exited(Ok(ExitStatus::from_raw(0))), &tail, Duration::ZERO).is_ok());
    }
}
