//! Watches over one command from outside its cage, so that nothing of what it started outlives it.
//!
//! `windlass __exec` supervises and starts itself again as `windlass __caged`, which becomes the command. Whoever loses its
//! parent below the supervisor becomes the supervisor's child (prctl(2), `PR_SET_CHILD_SUBREAPER`), whatever group, session
//! or environment it has given itself. The supervisor takes two orders: SIGTERM goes on to the command's process group;
//! SIGHUP, which the kernel also sends when the service dies, ends everything at once.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, set_child_subreaper,
    set_parent_process_death_signal, setrlimit, wait,
};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use super::sandbox::{kill, parent, processes};
use crate::ambient::Clock;

/// How long a supervisor may take to end everything.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What `windlass __exec` does: runs the command in its cage, and ends as it did when nothing of it is left. Returns only
/// when that fails.
///
/// # Errors
/// Why the command could not be started.
pub fn supervise(cage: &OsStr) -> anyhow::Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let status = runtime.block_on(run(cage));
    end_descendants();
    end_like(status?)
}

/// The command from its start to its end; `None` when it is to be ended.
async fn run(cage: &OsStr) -> anyhow::Result<Option<WaitStatus>> {
    let mut ended = signal(SignalKind::child())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    set_parent_process_death_signal(Some(Signal::HUP))?;
    set_child_subreaper(Some(getpid()))?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // As it was started, also when the file has been replaced since.
    let child = Command::new("/proc/self/exe").arg("__caged").arg(cage).process_group(0).spawn();
    let command = Pid::from_child(&child.context("the command could not be started")?);
    loop {
        tokio::select! {
            _ = ended.recv() => {
                if let Some(status) = reap(command)? {
                    return Ok(Some(status));
                }
            }
            // One that has just ended is no error.
            _ = term.recv() => drop(kill_process_group(command, Signal::TERM)),
            _ = hangup.recv() => return Ok(None),
        }
    }
}

/// Takes note of those that have ended, until the command is among them.
fn reap(command: Pid) -> rustix::io::Result<Option<WaitStatus>> {
    while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
        if pid == command {
            return Ok(Some(status));
        }
    }
    Ok(None)
}

/// Kills children until there are none. Each that ends leaves us its own, so that comes to an end for all of them.
fn end_descendants() {
    let own = getpid().as_raw_nonzero().get();
    loop {
        // They are ours until they are waited for, so their ids are nobody else's.
        kill(processes().filter(|pid| parent(*pid) == Some(own)));
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Ends this process as the command ended.
fn end_like(status: Option<WaitStatus>) -> anyhow::Result<Infallible> {
    let script = match status {
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, signal) => format!("kill -{} $$", signal.unwrap_or_default()),
        },
        None => "kill -KILL $$".to_owned(),
    };
    // Only a new program has the signals' own effects back.
    let error = Command::new("/bin/sh").args(["-c", &script]).env_clear().stdin(Stdio::null()).exec();
    Err(error).context("the command's end could not be told")
}

/// Ends a child that leads a process group: gently, and after `grace` at once. The supervisor ends everything below it; a
/// container engine takes its container down.
pub(super) async fn end_child(child: &mut Child, grace: Duration, clock: &dyn Clock) {
    let leader = child.id();
    for (signal, patience) in [(Signal::TERM, grace), (Signal::HUP, AT_ONCE)] {
        signal_group(leader, signal);
        tokio::select! {
            status = child.wait() => return told(status),
            () = clock.sleep(patience) => {}
        }
    }
    signal_group(leader, Signal::KILL);
    told(child.wait().await);
}

fn told(status: std::io::Result<std::process::ExitStatus>) {
    if let Err(error) = status {
        tracing::warn!(error = %error, "a process that is ended could not be waited for");
    }
}

/// Signals a whole process group; one that is gone is no error.
fn signal_group(leader: Option<u32>, signal: Signal) {
    let pid = leader.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process_group(pid, signal)
        && error != Errno::SRCH
    {
        tracing::warn!(pid = pid.as_raw_nonzero().get(), error = %error, "a process group could not be signalled");
    }
}
