//! Images and containers by the engine that is installed, podman or docker, for projects with a Dockerfile.
//!
//! The engine's client is trusted and keeps the service's environment (`DOCKER_HOST`, `XDG_RUNTIME_DIR`, …); nothing of a
//! project ever reaches that environment. Everything made here carries the data folder's name, so that a later start
//! finds what a crash left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

use super::sandbox::Machine;
use crate::ambient::Clock;
use crate::deploy::builder::BuildJob;
use crate::deploy::size::Size;
use crate::workflow::journal::RunId;

/// Clients, the preferred one first: podman needs no daemon.
const CLIENTS: [&str; 2] = ["podman", "docker"];
/// Where an app listens when neither `windlass.toml` nor the image says it.
const USUAL_PORT: u16 = 8080;
/// What a bundle of an image holds: the image, and its id.
const IMAGE_TAR: &str = "image.tar";
const IMAGE_ID: &str = "image.id";
/// Folder of a workspace in which the image is packed; there once its build began.
pub(super) const IMAGE: &str = "image";
/// How long the engine may take to answer, and to save or load an image.
const ANSWER: Duration = Duration::from_secs(30);
const TRANSFER: Duration = Duration::from_secs(600);

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
pub(super) struct Containers {
    machine: Machine,
    clock: Arc<dyn Clock>,
    /// `windlass-` and the beginning of the data folder's name.
    owner: String,
    /// There once anything was made by the engine.
    marker: PathBuf,
    client: OnceCell<PathBuf>,
    /// Revisions whose images are kept by the first sweep.
    live: Mutex<Vec<RunId>>,
    swept: OnceCell<()>,
}

impl Containers {
    pub(super) fn new(machine: Machine, clock: Arc<dyn Clock>, data: &Path) -> Self {
        let owner = format!("windlass-{}", machine.owner.get(..12).unwrap_or(&machine.owner));
        Self {
            machine,
            clock,
            owner,
            marker: data.join("containers"),
            client: OnceCell::new(),
            live: Mutex::default(),
            swept: OnceCell::new(),
        }
    }

    /// The client of an engine that answers.
    ///
    /// # Errors
    /// What to install.
    pub(super) async fn client(&self) -> Result<&Path, String> {
        let found = self.client.get_or_try_init(|| async {
            for program in programs(&self.machine.path) {
                if self.output(Command::new(&program).arg("ps").arg("--quiet"), ANSWER).await.is_ok() {
                    return Ok(program);
                }
            }
            Err("neither podman nor docker answers on this machine; install podman, or start the docker service".to_owned())
        });
        found.await.map(PathBuf::as_path)
    }

    async fn call(&self, arguments: &[&str]) -> Result<String, String> {
        self.output(Command::new(self.client().await?).args(arguments), ANSWER).await
    }

    async fn transfer(&self, arguments: &[&str]) -> Result<String, String> {
        self.output(Command::new(self.client().await?).args(arguments), TRANSFER).await
    }

    /// Runs a command to its end; what it said last is the error.
    async fn output(&self, command: &mut Command, most: Duration) -> Result<String, String> {
        let ended = tokio::select! {
            ended = command.stdin(Stdio::null()).kill_on_drop(true).output() => ended,
            () = self.clock.sleep(most) => {
                return Err(format!("the container engine did not answer within {} s", most.as_secs()));
            }
        };
        let output = ended.map_err(|error| format!("the container engine could not be started: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last =
            said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
        Err(format!("the container engine: {last}"))
    }

    fn image(&self, tag: &str) -> String {
        format!("localhost/{}:{tag}", self.owner)
    }

    fn build_tag(&self, run: RunId) -> String {
        self.image(&format!("build-{run}"))
    }

    /// The command that builds the image of the workspace's source; [`Self::export`] follows it. Unlike a build command
    /// it is not caged by us: the engine isolates what the Dockerfile runs.
    ///
    /// # Errors
    /// When there is no engine.
    pub(super) async fn build(
        &self,
        job: &BuildJob,
        workspace: &Path,
        size: Size,
    ) -> Result<Command, String> {
        let client = self.client().await?;
        self.begin(&workspace.join(IMAGE))?;
        self.clean_up().await?;
        let mut command = Command::new(client);
        command.args(["build", "--tag", &self.build_tag(job.run)]);
        if is_podman(client) {
            let quota = u64::from(size.cpu_millis) * 100;
            command.args(["--memory", &format!("{}m", size.memory_mib)]);
            command.args(["--cpu-period", "100000", "--cpu-quota", &quota.to_string()]);
        }
        for (name, value) in &job.plan.build_variables {
            command.args(["--build-arg", &format!("{name}={value}")]);
        }
        command.env("BUILDKIT_PROGRESS", "plain").arg(workspace.join("src")).stdin(Stdio::null());
        self.machine.mark(&mut command, job.run);
        command.process_group(0).kill_on_drop(true);
        Ok(command)
    }

    /// Leaves the traces by which what the engine is about to make is found again.
    fn begin(&self, folder: &Path) -> Result<(), String> {
        let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&self.marker, ""));
        made.map_err(|error| format!("{}: {error}", folder.display()))
    }

    /// Writes the built image and its id into `folder`, and takes it out of the engine.
    ///
    /// # Errors
    /// What the engine says.
    pub(super) async fn export(&self, run: RunId, folder: &Path) -> Result<(), String> {
        let written = |error: std::io::Error| format!("{}: {error}", folder.display());
        let tag = self.build_tag(run);
        let id = self.call(&["image", "inspect", "--format", "{{.Id}}", &tag]).await?;
        let file = folder.join(IMAGE_TAR);
        // By its id: a name would come back with it when it is loaded.
        self.transfer(&["save", "--output", &file.to_string_lossy(), id.trim()]).await?;
        std::fs::write(folder.join(IMAGE_ID), id.trim()).map_err(written)?;
        self.forget(run).await;
        Ok(())
    }

    /// Takes away what a build left in the engine, if anything.
    pub(super) async fn forget(&self, run: RunId) {
        self.untag(&self.build_tag(run)).await;
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

    /// Makes everything ready for [`Self::run`]: no container of that name, and the image. Gives the port inside.
    ///
    /// # Errors
    /// When there is no engine, or the image cannot be loaded.
    pub(super) async fn prepare(&self, container: &Container) -> Result<u16, String> {
        self.begin(&container.bundle)?;
        self.clean_up().await?;
        self.remove(container).await?;
        self.load(container).await?;
        match container.port {
            Some(port) => Ok(port),
            None => self.exposed(&self.image(&container.run.to_string())).await,
        }
    }

    /// The command that runs `container` so that it answers on `port` of this machine. Its variables come over its
    /// standard input, where neither other users nor the engine's own settings meet them.
    ///
    /// # Errors
    /// When there is no engine.
    pub(super) async fn run(&self, container: &Container, port: u16, inner: u16) -> Result<Command, String> {
        let client = self.client().await?;
        let (name, image) = (container.name(&self.owner), self.image(&container.run.to_string()));
        let mut command = Command::new(client);
        command.args(["run", "--rm", "--pull", "never", "--name", &name, "--hostname", "app"]);
        command.args(["--label", &format!("windlass.owner={}", self.owner)]);
        command.args(["--publish", &format!("127.0.0.1:{port}:{inner}")]);
        command.args(["--memory", &format!("{}m", container.size.memory_mib)]);
        command.args(["--cpus", &container.size.cpu()]);
        command.args(["--security-opt", "no-new-privileges", "--pids-limit", "4096", "--stop-timeout", "0"]);
        if is_podman(client) {
            // Otherwise the service's own proxy, with its password, would be among the app's variables.
            command.arg("--http-proxy=false");
        }
        command.args(["--env-file", "/dev/stdin"]);
        match &container.command {
            Some(line) => command.args(["--entrypoint", "sh", &image, "-c", line]),
            None => command.arg(&image),
        };
        // Without our mark: the container's monitor inherits it, and has to live to take the network down. What a crash
        // leaves is found by its label.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Removes the container, running or not.
    ///
    /// # Errors
    /// What the engine says.
    pub(super) async fn remove(&self, container: &Container) -> Result<(), String> {
        match self.call(&["rm", "--force", "--volumes", &container.name(&self.owner)]).await {
            Err(error) if !error.to_lowercase().contains("no such container") => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Gives the image the revision's own name; it is loaded unless the engine has it.
    async fn load(&self, container: &Container) -> Result<(), String> {
        let file = container.bundle.join(IMAGE_ID);
        let id = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let image = self.image(&container.run.to_string());
        if self.call(&["tag", &id, &image]).await.is_err() {
            let file = container.bundle.join(IMAGE_TAR);
            self.transfer(&["load", "--input", &file.to_string_lossy()]).await?;
            self.call(&["tag", &id, &image]).await?;
        }
        Ok(())
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

    /// Names the revisions whose images the first sweep keeps. Call it before anything is started.
    pub(super) fn keep(&self, live: Vec<RunId>) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// Removes what an earlier service left in the engine, unless that has been done. Comes before anything is made, so
    /// that it finds nothing of this service.
    ///
    /// # Errors
    /// When the engine does not answer; the next call tries again.
    pub(super) async fn clean_up(&self) -> Result<(), String> {
        if self.marker.exists() {
            self.swept.get_or_try_init(|| self.sweep()).await?;
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<(), String> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let filter = format!("label=windlass.owner={}", self.owner);
        let containers = self.call(&["ps", "--all", "--quiet", "--filter", &filter]).await?;
        for id in containers.split_whitespace() {
            if let Err(error) = self.call(&["rm", "--force", "--volumes", id]).await {
                tracing::warn!(
                    container = id,
                    error,
                    "a container of an earlier service could not be removed"
                );
            }
        }
        let filter = format!("reference=localhost/{}", self.owner);
        let tags = self.call(&["images", "--format", "{{.Tag}}", "--filter", &filter]).await?;
        for tag in tags.split_whitespace().filter(|tag| !live.iter().any(|run| run.to_string() == **tag)) {
            self.untag(&self.image(tag)).await;
        }
        Ok(())
    }
}

fn is_podman(client: &Path) -> bool {
    client.ends_with("podman")
}

/// Every client on the `path`.
fn programs(path: &str) -> Vec<PathBuf> {
    let all = CLIENTS.iter().flat_map(|name| path.split(':').map(move |folder| Path::new(folder).join(name)));
    all.filter(|program| program.is_file()).collect()
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
