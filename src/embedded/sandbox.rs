//! Runs somebody else's commands: private folders, a clean environment, limits, and nothing left behind.
//!
//! The child is this binary (`windlass __caged`, below a supervisor), which ties itself down and then becomes the command;
//! so no unsafe code runs between fork and exec. What the sandbox does not do: hide the network or other processes.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
    path_beneath_rules,
};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, kill_process, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use super::privileges::{give_up, readable_by_all};
use crate::workflow::journal::RunId;

/// Marks every process that we start, so that a later start finds what a crash left behind.
const OWNER: &str = "WINDLASS_OWNER";
/// Names the run that a process belongs to.
const RUN: &str = "WINDLASS_RUN";
/// Open files of one process: enough for any build tool, too few to starve the machine.
const MOST_FILES: u64 = 16_384;
/// The newest rules that we know; older kernels do what they can.
const RULES: ABI = ABI::V3;

/// Tool chains below a home, without the credentials that lie beside some of them.
const TOOL_CHAINS: [&str; 10] = [
    ".cargo/bin",
    ".cargo/registry",
    ".rustup",
    ".nvm",
    ".pyenv",
    ".local/bin",
    ".local/lib",
    ".local/share/pnpm",
    ".bun/bin",
    "go",
];
/// Devices that any program may use.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Begins the names of the command's variables until the cage is shut: a variable such as `LD_PRELOAD` must not reach
/// this program.
const LATER: &str = "WINDLASS_VAR_";

/// What a command may do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cage {
    /// Folders and files that it may read and run.
    pub read: Vec<PathBuf>,
    /// Folders that it may change.
    pub write: Vec<PathBuf>,
    /// Where it starts.
    pub dir: PathBuf,
    /// Data segment of each process, bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Cores that it may run on.
    #[serde(default)]
    pub cores: Option<usize>,
    /// The command line, for `sh -c`.
    pub command: String,
}

/// The folders that any command may read: programs, libraries, settings, devices; and the tool chains that are on the
/// PATH. Nothing of the user's home besides, and nothing of ours.
#[must_use]
pub fn readable(path: &str, home: Option<&Path>, workplace: &Path) -> Vec<PathBuf> {
    let system = [
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/etc",
        "/opt",
        "/nix",
        "/proc",
        "/sys/fs/cgroup",
        "/sys/devices/system/cpu",
        "/run/systemd/resolve",
    ];
    let mut folders: Vec<PathBuf> = system.iter().map(PathBuf::from).collect();
    folders.extend(path.split(':').map(PathBuf::from).filter(|entry| entry.is_absolute()));
    folders.extend(home.into_iter().flat_map(|home| TOOL_CHAINS.map(|chain| home.join(chain))));
    // Rules only add, and go by where a folder really lies: one that holds the data folder would open all of it.
    let workplace = workplace.canonicalize().unwrap_or_else(|_| workplace.to_owned());
    folders.retain(|folder| folder.canonicalize().is_ok_and(|folder| !workplace.starts_with(folder)));
    folders.sort();
    folders.dedup();
    folders
}

/// What commands need to know of the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// This program.
    pub program: PathBuf,
    /// Names the data folder.
    pub owner: String,
    /// `PATH` of the service.
    pub path: String,
    /// Home of the user who runs the service.
    pub home: Option<PathBuf>,
}

impl Machine {
    /// A command in its cage and the supervisor that it is started by, which leads a process group of its own; with nothing
    /// in its environment but `variables`. It is not killed when it is dropped: that would be the supervisor alone.
    ///
    /// # Errors
    /// When the cage cannot be written as JSON.
    pub fn command(
        &self,
        run: RunId,
        cage: &Cage,
        variables: &BTreeMap<String, String>,
    ) -> std::io::Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("__exec").arg(serde_json::to_string(cage)?);
        command.env_clear().env("PATH", &self.path).env("LANG", "C.UTF-8");
        self.mark(&mut command, run);
        if let Some(rustup) =
            self.home.as_ref().map(|home| home.join(".rustup")).filter(|rustup| rustup.exists())
        {
            command.env("RUSTUP_HOME", rustup);
        }
        command.envs(variables.iter().map(|(name, value)| (format!("{LATER}{name}"), value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        Ok(command)
    }

    /// Marks a command as ours, so that it is found again whatever happens to us.
    pub(super) fn mark(&self, command: &mut tokio::process::Command, run: RunId) {
        command.env(OWNER, &self.owner).env(RUN, run.to_string());
    }

    /// Kills every process that an earlier service on this data folder left. Gives their number.
    #[must_use]
    pub fn kill_orphans(&self) -> usize {
        kill_marked(&format!("{OWNER}={}", self.owner))
    }
}

/// Kills every process that runs for `run`, also one that left its process group. Gives their number.
pub fn kill_all_of(run: RunId) -> usize {
    kill_marked(&format!("{RUN}={run}"))
}

/// Kills every process with this entry in its environment, and all that descend from one.
fn kill_marked(mark: &str) -> usize {
    let pids: Vec<i32> = processes().collect();
    let marked = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        })
    };
    let mut ours: HashSet<i32> = pids.iter().copied().filter(marked).collect();
    if ours.is_empty() {
        return 0;
    }
    let parents: Vec<(i32, i32)> = pids.iter().filter_map(|pid| Some((*pid, parent(*pid)?))).collect();
    loop {
        let found = ours.len();
        let children = parents.iter().filter(|(_, parent)| ours.contains(parent)).map(|(pid, _)| *pid);
        ours.extend(children.collect::<Vec<_>>());
        if ours.len() == found {
            break;
        }
    }
    kill(ours.into_iter())
}

/// Kills them; gives the number of those that had not ended by themselves.
pub(super) fn kill(pids: impl Iterator<Item = i32>) -> usize {
    pids.filter_map(Pid::from_raw).filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
}

/// Every process of this machine.
pub(super) fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The parent as the kernel tells it (proc(5), `stat`): the name before it may contain anything but ends with `)`.
pub(super) fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What `windlass __caged` does: ties itself down and becomes the command. Returns only when that fails.
///
/// # Errors
/// Why the command could not be started.
pub fn become_command(cage: &OsStr) -> anyhow::Result<std::convert::Infallible> {
    let cage: Cage = serde_json::from_slice(cage.as_encoded_bytes())?;
    // Dies with the supervisor.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let files =
        rustix::process::getrlimit(Resource::Nofile).maximum.map_or(MOST_FILES, |most| most.min(MOST_FILES));
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) })?;
    if let Some(bytes) = cage.memory_bytes {
        setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
    }
    if let Some(cores) = cage.cores {
        keep_to(cores)?;
    }
    let read = AccessFs::from_read(RULES);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        // No signals to, and no abstract sockets of, anybody outside (Linux 6.12).
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(readable_by_all(&cage.read), read))?
        .add_rules(path_beneath_rules(&cage.write, AccessFs::from_all(RULES)))?
        .add_rules(path_beneath_rules(DEVICES, read | AccessFs::WriteFile))?
        .restrict_self()?;
    anyhow::ensure!(
        status.ruleset != RulesetStatus::NotEnforced,
        "this kernel cannot confine a command to its folders (Landlock, Linux 5.13 or newer, is needed)"
    );
    give_up().context("the superuser's capabilities cannot be given up")?;
    let mut command = std::process::Command::new("/bin/sh");
    for (name, value) in std::env::vars_os() {
        if let Some(later) = name.to_str().and_then(|name| name.strip_prefix(LATER)) {
            command.env_remove(&name);
            // The marks by which we find it again are ours.
            if later != OWNER && later != RUN {
                command.env(later, value);
            }
        }
    }
    let error = command.arg("-c").arg(&cage.command).current_dir(&cage.dir).exec();
    Err(error).with_context(|| format!("the command cannot be started in {}", cage.dir.display()))
}

/// Keeps this process and its children to `cores` of the cores that it has; which ones depends on its id, so that
/// several commands spread.
fn keep_to(cores: usize) -> std::io::Result<()> {
    let all = sched_getaffinity(None)?;
    let have: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    let mut kept = CpuSet::new();
    let first = usize::try_from(std::process::id()).unwrap_or_default();
    for nth in 0..cores.min(have.len()) {
        if let Some(cpu) = have.get((first + nth) % have.len()) {
            kept.set(*cpu);
        }
    }
    Ok(sched_setaffinity(None, &kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_of_a_project_reaches_this_program() {
        let machine = Machine {
            program: "/bin/windlass".into(),
            owner: "owner".to_owned(),
            path: "/bin".to_owned(),
            home: None,
        };
        let run = RunId::new(jiff::Timestamp::UNIX_EPOCH, 1);
        let names = ["LD_PRELOAD", "PATH", "WINDLASS_OWNER", "GCONV_PATH"];
        let variables = names.map(|name| (name.to_owned(), "evil".to_owned())).into();
        let command = machine.command(run, &Cage::default(), &variables).unwrap();
        let evil: Vec<_> = command
            .as_std()
            .get_envs()
            .filter(|(_, value)| value.is_some_and(|value| value == "evil"))
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        assert_eq!(evil.len(), names.len());
        assert!(evil.iter().all(|name| name.starts_with(LATER)), "{evil:?}");
    }

    #[test]
    fn a_folder_that_holds_the_workplace_is_not_read_however_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (parent, link, tools) = (root.join("parent"), root.join("link"), root.join("tools"));
        let workplace = parent.join("data/workspaces/run");
        std::fs::create_dir_all(&workplace).unwrap();
        std::fs::create_dir(&tools).unwrap();
        std::os::unix::fs::symlink(&parent, &link).unwrap();
        let path = format!("{}:{}:{}", parent.display(), link.display(), tools.display());
        for workplace in [&workplace, &link.join("data/workspaces/run")] {
            let read = readable(&path, None, workplace);
            assert!(!read.contains(&parent) && !read.contains(&link), "{read:?}");
            assert!(read.contains(&tools));
        }
    }

    #[test]
    fn the_parent_is_read_whatever_the_program_is_called() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent(own), i32::try_from(std::os::unix::process::parent_id()).ok());
        assert_eq!(parent(-1), None);
    }
}
