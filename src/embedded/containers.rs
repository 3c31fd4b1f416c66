//! Images and containers by the engine that is installed, podman or docker, for projects with a Dockerfile.
//!
//! The engine's client is trusted and keeps the service's environment (`DOCKER_HOST`, `XDG_RUNTIME_DIR`, …); nothing of a
//! project ever reaches that environment. Everything made here carries the data folder's name, so that a later start
//! finds what a crash left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;
use tokio::sync::OnceCell;

use super::sandbox::Machine;
use crate::deploy::size::Size;
use crate::workflow::journal::RunId;

/// Clients, the preferred one first: podman needs no daemon.
const CLIENTS: [&str; 2] = ["podman", "docker"];
/// Where an app listens when neither `windlass.toml` nor the image says it.
const USUAL_PORT: u16 = 8080;
/// What a bundle of an image holds: the image, and its id.
const IMAGE: &str = "image.tar";
const IMAGE_ID: &str = "image.id";

/// A container that is to run.
#[derive(Debug, Clone)]
pub(super) struct Container {
    /// Names it, and its image's tag.
    pub(super) run: RunId,
    /// Told apart by their number.
    pub(super) replica: u32,
    /// The unpacked bundle.
    pub(super) bundle: PathBuf,
    /// Instead of the image's own command.
    pub(super) command: Option<String>,
    /// Where it listens, when the project says so.
    pub(super) port: Option<u16>,
    /// What it may use.
    pub(super) size: Size,
}

impl Container {
    fn name(&self, owner: &str) -> String {
        format!("{owner}-{}-{}", self.run, self.replica)
    }
}

/// The container engine of this machine, if there is one.
#[derive(Debug)]
pub(super) struct Containers {
    machine: Machine,
    /// `windlass-` and the beginning of the data folder's name.
    owner: String,
    /// There once anything was made by the engine.
    marker: PathBuf,
    client: OnceCell<PathBuf>,
}

impl Containers {
    pub(super) fn new(machine: Machine, data: &Path) -> Self {
        let owner = format!("windlass-{}", machine.owner.get(..12).unwrap_or(&machine.owner));
        Self { machine, owner, marker: data.join("containers"), client: OnceCell::new() }
    }

    /// The client of an engine that answers.
    ///
    /// # Errors
    /// What to install.
    pub(super) async fn client(&self) -> Result<&Path, String> {
        let found = self.client.get_or_try_init(|| async {
            for program in programs(&self.machine.path) {
                if output(Command::new(&program).arg("ps").arg("--quiet")).await.is_ok() {
                    return Ok(program);
                }
            }
            Err("neither podman nor docker answers on this machine; install podman, or start the docker service".to_owned())
        });
        found.await.map(PathBuf::as_path)
    }

    async fn call(&self, arguments: &[&str]) -> Result<String, String> {
        output(Command::new(self.client().await?).args(arguments)).await
    }

    fn image(&self, tag: &str) -> String {
        format!("localhost/{}:{tag}", self.owner)
    }

    fn build_tag(&self, run: RunId) -> String {
        self.image(&format!("build-{run}"))
    }

    /// The command that builds the image of `source`; [`Self::export`] follows it.
    ///
    /// # Errors
    /// When there is no engine.
    pub(super) async fn build(&self, run: RunId, source: &Path, size: Size) -> Result<Command, String> {
        let client = self.client().await?;
        std::fs::write(&self.marker, "").map_err(|error| format!("{}: {error}", self.marker.display()))?;
        let mut command = Command::new(client);
        command.args(["build", "--tag", &self.build_tag(run)]);
        if client.ends_with("podman") {
            let quota = u64::from(size.cpu_millis) * 100;
            command.args(["--memory", &format!("{}m", size.memory_mib)]);
            command.args(["--cpu-period", "100000", "--cpu-quota", &quota.to_string()]);
        }
        command.env("BUILDKIT_PROGRESS", "plain").arg(source).stdin(Stdio::null());
        self.machine.mark(&mut command, run);
        command.process_group(0).kill_on_drop(true);
        Ok(command)
    }

    /// Writes the built image and its id into `folder`, and takes it out of the engine.
    ///
    /// # Errors
    /// What the engine says.
    pub(super) async fn export(&self, run: RunId, folder: &Path) -> Result<(), String> {
        let written = |error: std::io::Error| format!("{}: {error}", folder.display());
        let tag = self.build_tag(run);
        std::fs::create_dir_all(folder).map_err(written)?;
        let id = self.call(&["image", "inspect", "--format", "{{.Id}}", &tag]).await?;
        let file = folder.join(IMAGE);
        // By its id: a name would come back with it when it is loaded.
        self.call(&["save", "--output", &file.to_string_lossy(), id.trim()]).await?;
        std::fs::write(folder.join(IMAGE_ID), id.trim()).map_err(written)?;
        self.forget(run).await;
        Ok(())
    }

    /// Takes away what a build left in the engine, if anything.
    pub(super) async fn forget(&self, run: RunId) {
        if self.marker.exists() {
            self.untag(&self.build_tag(run)).await;
        }
    }

    /// Takes away a revision's image; others of the same content keep theirs.
    pub(super) async fn release(&self, run: RunId) {
        self.untag(&self.image(&run.to_string())).await;
    }

    async fn untag(&self, name: &str) {
        // Layers stay: they are the cache of the next build.
        if let Err(error) = self.call(&["rmi", "--no-prune", name]).await {
            tracing::debug!(image = name, error, "an image was not removed");
        }
    }

    /// The command that runs `container` so that it answers on `port` of this machine. Its variables come over its
    /// standard input, where neither other users nor the engine's own settings meet them.
    ///
    /// # Errors
    /// When there is no engine, or the image cannot be loaded.
    pub(super) async fn run(&self, container: &Container, port: u16) -> Result<(Command, u16), String> {
        let client = self.client().await?;
        std::fs::write(&self.marker, "").map_err(|error| format!("{}: {error}", self.marker.display()))?;
        let name = container.name(&self.owner);
        self.remove(container).await?;
        let image = self.load(container).await?;
        let inner = match container.port {
            Some(port) => port,
            None => self.exposed(&image).await?,
        };
        let mut command = Command::new(client);
        command.args(["run", "--rm", "--pull", "never", "--name", &name, "--hostname", "app"]);
        command.args(["--label", &format!("windlass.owner={}", self.owner)]);
        command.args(["--publish", &format!("127.0.0.1:{port}:{inner}")]);
        command.args(["--memory", &format!("{}m", container.size.memory_mib)]);
        command.args(["--cpus", &container.size.cpu()]);
        command.args(["--security-opt", "no-new-privileges", "--pids-limit", "4096", "--stop-timeout", "0"]);
        command.args(["--env-file", "/dev/stdin", &image]);
        if let Some(line) = &container.command {
            command.args(["sh", "-c", line]);
        }
        // Without our mark: the container's monitor inherits it, and has to live to take the network down. What a crash
        // leaves is found by its label.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok((command, inner))
    }

    /// Removes the container, running or not.
    ///
    /// # Errors
    /// What the engine says.
    pub(super) async fn remove(&self, container: &Container) -> Result<(), String> {
        match self.call(&["rm", "--force", &container.name(&self.owner)]).await {
            Err(error) if !error.to_lowercase().contains("no such container") => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The revision's own name of its image, which is loaded unless the engine has it.
    async fn load(&self, container: &Container) -> Result<String, String> {
        let file = container.bundle.join(IMAGE_ID);
        let id = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let image = self.image(&container.run.to_string());
        if self.call(&["tag", &id, &image]).await.is_err() {
            let file = container.bundle.join(IMAGE);
            self.call(&["load", "--input", &file.to_string_lossy()]).await?;
            self.call(&["tag", &id, &image]).await?;
        }
        Ok(image)
    }

    async fn exposed(&self, image: &str) -> Result<u16, String> {
        let text =
            self.call(&["image", "inspect", "--format", "{{json .Config.ExposedPorts}}", image]).await?;
        let ports: Option<BTreeMap<String, serde_json::Value>> =
            serde_json::from_str(text.trim()).map_err(|error| format!("the image's ports: {error}"))?;
        let lowest = ports
            .unwrap_or_default()
            .into_keys()
            .filter_map(|port| port.split('/').next()?.parse().ok())
            .min();
        Ok(lowest.unwrap_or(USUAL_PORT))
    }

    /// Removes every container and every image of ours but those of `live` revisions, after a start.
    pub(super) async fn sweep(&self, live: &[RunId]) {
        if !self.marker.exists() {
            return;
        }
        let filter = format!("label=windlass.owner={}", self.owner);
        let containers =
            self.call(&["ps", "--all", "--quiet", "--filter", &filter]).await.unwrap_or_default();
        for id in containers.split_whitespace() {
            if let Err(error) = self.call(&["rm", "--force", id]).await {
                tracing::warn!(
                    container = id,
                    error,
                    "a container of an earlier service could not be removed"
                );
            }
        }
        let filter = format!("reference=localhost/{}", self.owner);
        let tags =
            self.call(&["images", "--format", "{{.Tag}}", "--filter", &filter]).await.unwrap_or_default();
        for tag in tags.split_whitespace().filter(|tag| !live.iter().any(|run| run.to_string() == **tag)) {
            self.untag(&self.image(tag)).await;
        }
    }
}

/// Every client on the `path`.
fn programs(path: &str) -> Vec<PathBuf> {
    let all = CLIENTS.iter().flat_map(|name| path.split(':').map(move |folder| Path::new(folder).join(name)));
    all.filter(|program| program.is_file()).collect()
}

/// Runs a command to its end; what it said last is the error.
async fn output(command: &mut Command) -> Result<String, String> {
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = ended.map_err(|error| format!("the container engine could not be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
    Err(format!("the container engine: {last}"))
}

/// Variables as an engine reads them from a file: one line each.
///
/// # Errors
/// Names the variable that has more than one line.
pub(super) fn env_file(variables: &BTreeMap<String, String>) -> Result<String, String> {
    let several = variables.iter().find(|(_, value)| value.contains(['\n', '\r']));
    match several {
        Some((name, _)) => Err(format!(
            "{name} has several lines, which containers cannot take; encode it, for example as base64"
        )),
        None => Ok(variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect()),
    }
}
