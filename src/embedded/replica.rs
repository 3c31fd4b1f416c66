//! One supervised process of a revision: started, probed, restarted with backoff, stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::app_log::AppLog;
use super::lines::each_line;
use super::program::Program;
use super::supervisor::end_child;
use super::upstream::{Pool, SendError, empty};
use crate::ambient::Clock;
use crate::deploy::detect::Probe;

/// How long a process may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// From one probe of a healthy replica to the next.
const WATCH: Duration = Duration::from_secs(10);
/// First wait after a crash; it doubles up to the last.
const BACKOFF: Duration = Duration::from_millis(200);
const MOST_BACKOFF: Duration = Duration::from_secs(30);
/// Crashes in a row after which the revision counts as unhealthy. A replica that stayed up for [`STEADY`] starts anew.
const LOOP: u32 = 5;
const STEADY: Duration = Duration::from_secs(30);
/// Lines waiting to be written.
const LINES_WAITING: usize = 256;

/// How a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Ready(SocketAddr),
    /// It ended or stopped answering, and is tried again.
    Down(String),
    /// It keeps crashing, and is tried again more and more rarely.
    Looping(String),
    /// It did not become healthy within its time, or ended before; with what it said last. Not tried again.
    Failed(&'static str, String),
    Stopped,
}

/// What a replica needs.
pub(super) struct Spec {
    pub(super) program: Program,
    pub(super) env: BTreeMap<String, String>,
    pub(super) probe: Probe,
    pub(super) log: Arc<AppLog>,
    pub(super) pool: Pool,
    pub(super) clock: Arc<dyn Clock>,
    /// A first start that fails is the release's failure; a later one is tried again.
    pub(super) first: bool,
    pub(super) stop: CancellationToken,
    pub(super) restarts: Arc<AtomicU32>,
    pub(super) pid: watch::Sender<Option<u32>>,
    pub(super) state: watch::Sender<State>,
    pub(super) background: tokio::runtime::Handle,
}

enum End {
    Exited(std::io::Result<ExitStatus>),
    Unhealthy(String),
    Stopped,
}

/// Keeps the process running until it is told to stop.
pub(super) async fn supervise(spec: Spec) {
    let (mut crashes, mut first) = (0_u32, spec.first);
    loop {
        let begun = spec.clock.now();
        spec.state.send_replace(State::Starting);
        let started = tokio::select! {
            started = spawn(&spec) => Some(started),
            () = spec.stop.cancelled() => None,
        };
        let (end, was_ready) = match started {
            Some(Ok((child, address))) => live(&spec, child, address).await,
            Some(Err(error)) => (End::Exited(Err(error)), false),
            None => (End::Stopped, false),
        };
        spec.program.clear().await;
        let reason = match end {
            End::Stopped => {
                spec.state.send_replace(State::Stopped);
                return;
            }
            End::Exited(Ok(status)) => format!("it ended with {status}"),
            End::Exited(Err(error)) => format!("it could not be started: {error}"),
            End::Unhealthy(reason) => reason.clone(),
        };
        if first && !was_ready {
            let code = if reason.starts_with("it ") { "RELEASE_CRASHED" } else { "RELEASE_UNHEALTHY" };
            spec.state.send_replace(State::Failed(code, reason));
            return;
        }
        first = false;
        let steady = was_ready && crate::ambient::between(begun, spec.clock.now()) >= STEADY;
        crashes = if steady { 1 } else { crashes + 1 };
        spec.restarts.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(program = %spec.program, crashes, "a replica is restarted: {reason}");
        spec.state.send_replace(if crashes >= LOOP { State::Looping(reason) } else { State::Down(reason) });
        let wait = BACKOFF.saturating_mul(1 << (crashes - 1).min(10)).min(MOST_BACKOFF);
        tokio::select! {
            () = spec.clock.sleep(wait) => {}
            () = spec.stop.cancelled() => { spec.state.send_replace(State::Stopped); return; }
        }
    }
}

async fn spawn(spec: &Spec) -> std::io::Result<(Child, SocketAddr)> {
    let (mut child, port) = spec.program.start(&spec.env).await?;
    let (send, said) = tokio::sync::mpsc::channel(LINES_WAITING);
    if let Some(pipe) = child.stdout.take() {
        spec.background.spawn(each_line(pipe, "stdout", send.clone()));
    }
    if let Some(pipe) = child.stderr.take() {
        spec.background.spawn(each_line(pipe, "stderr", send));
    }
    let (log, clock) = (Arc::clone(&spec.log), Arc::clone(&spec.clock));
    spec.background.spawn(async move { log.take(said, clock.as_ref()).await });
    spec.pid.send_replace(child.id());
    Ok((child, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// From the start of the process to its end, and whether it was ready in between.
async fn live(spec: &Spec, mut child: Child, address: SocketAddr) -> (End, bool) {
    let end = tokio::select! {
        status = child.wait() => End::Exited(status),
        reason = check(spec, address) => End::Unhealthy(reason),
        () = spec.stop.cancelled() => End::Stopped,
    };
    let was_ready = matches!(*spec.state.borrow(), State::Ready(_));
    if was_ready {
        // Nobody may be led to one that is told to end, or to a port that is free again.
        spec.state.send_replace(State::Down("it ends".to_owned()));
    }
    if !matches!(end, End::Exited(_)) {
        end_child(&mut child, STOP_GRACE, spec.clock.as_ref()).await;
    }
    spec.pid.send_replace(None);
    (end, was_ready)
}

/// Probes until the replica is healthy, then watches it. Gives the reason when it is not, or is no longer.
async fn check(spec: &Spec, address: SocketAddr) -> String {
    let interval = Duration::from_millis(spec.probe.interval_ms);
    let give_up = crate::ambient::after(spec.clock.now(), Duration::from_secs(spec.probe.start_seconds));
    loop {
        match probe(spec, address).await {
            Ok(()) => break,
            Err(Sick { seen, advice }) if spec.clock.now() >= give_up => {
                return format!("no healthy answer within {} s: {seen}; {advice}", spec.probe.start_seconds);
            }
            Err(_) => spec.clock.sleep(interval).await,
        }
    }
    spec.state.send_replace(State::Ready(address));
    let mut failures = 0;
    loop {
        spec.clock.sleep(WATCH).await;
        match probe(spec, address).await {
            Ok(()) => failures = 0,
            Err(Sick { seen, .. }) => {
                failures += 1;
                if failures >= spec.probe.retries {
                    return format!("{failures} health checks in a row failed: {seen}");
                }
            }
        }
    }
}

/// Why a probe failed, and what to do about it.
struct Sick {
    seen: String,
    advice: &'static str,
}

/// First TCP, then HTTP.
async fn probe(spec: &Spec, address: SocketAddr) -> Result<(), Sick> {
    let sick = |seen: String, advice| Sick { seen, advice };
    let path = spec.probe.path.as_deref().unwrap_or("/");
    let request = hyper::Request::get(path)
        .header("host", format!("127.0.0.1:{}", address.port()))
        .header("user-agent", "windlass-health")
        .body(empty())
        .map_err(|error| sick(error.to_string(), "mend the path of [health]"))?;
    // On a connection of its own: that a kept one was closed says nothing about the app.
    let asked = async { spec.pool.open_anew(address).await?.send(request).await };
    let answer = tokio::select! {
        answer = asked => answer.map_err(|error| match error {
            SendError::NotSent(..) => sick(error.to_string(), "let it listen on $HOST:$PORT"),
            SendError::Stale(..) | SendError::Broken(..) => {
                sick(error.to_string(), "let it speak HTTP there; its log may say more")
            }
        })?.0,
        () = spec.clock.sleep(Duration::from_millis(spec.probe.timeout_ms)) => {
            let seen = format!("no answer to GET {path} within {} ms", spec.probe.timeout_ms);
            return Err(sick(seen, "let it answer sooner, or raise timeout_ms of [health]"));
        }
    };
    let status = answer.status().as_u16();
    let healthy = if spec.probe.path.is_some() { (200..400).contains(&status) } else { status < 500 };
    if healthy {
        return Ok(());
    }
    let seen = format!("GET {path} answered {status}");
    Err(sick(seen, "its log may say why; path of [health] can name another"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::ambient::{Ids as _, ManualClock, SystemClock, SystemIds, spawn as in_background};
    use crate::embedded::program::Process;
    use crate::embedded::sandbox::Machine;
    use crate::workflow::journal::RunId;

    /// In place of this program and its cage: says which port it got, and when it is told to end; ends when it may.
    const APP: &str = r#"#!/bin/sh
trap ': > "$WINDLASS_VAR_HOME/told"' TERM
echo "$WINDLASS_VAR_PORT" > "$WINDLASS_VAR_HOME/new" && mv "$WINDLASS_VAR_HOME/new" "$WINDLASS_VAR_HOME/port"
while [ ! -e "$WINDLASS_VAR_HOME/go" ]; do sleep 0.05; done
"#;

    /// Answers for the app.
    fn answer(port: u16, sick: &AtomicBool) {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let status = if sick.load(Ordering::Relaxed) { "503 Service Unavailable" } else { "200 OK" };
            drop(stream.read(&mut [0; 1024]));
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            drop(stream.write_all(head.as_bytes()));
        }
    }

    fn spec(home: &Path, clock: Arc<dyn Clock>, state: watch::Sender<State>) -> Spec {
        let program = home.join("app");
        std::fs::write(&program, APP).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let background = tokio::runtime::Handle::current();
        Spec {
            program: Program::Process(Process {
                run: RunId::new(jiff::Timestamp::UNIX_EPOCH, SystemIds.random()),
                dir: home.to_owned(),
                home: home.to_owned(),
                command: "app".to_owned(),
                machine: Machine {
                    program,
                    owner: "o".to_owned(),
                    path: "/usr/bin:/bin".to_owned(),
                    home: None,
                },
            }),
            env: BTreeMap::new(),
            // So patient that only an answer decides, however fast the clock is moved.
            probe: Probe { timeout_ms: 1 << 40, start_seconds: 1 << 30, retries: 1, ..Probe::default() },
            log: Arc::new(AppLog::new(
                home.join("app.log"),
                super::super::mask::Mask::new(std::iter::empty()),
            )),
            pool: Pool::new(background.clone()),
            clock,
            first: false,
            stop: CancellationToken::new(),
            restarts: Arc::default(),
            pid: watch::Sender::new(None),
            state,
            background,
        }
    }

    /// Looks, and moves the replica's clock on, until `seen`.
    async fn until(clock: &ManualClock, what: &str, seen: impl Fn() -> bool) {
        for _ in 0..6_000 {
            if seen() {
                return;
            }
            // Slowly enough that what is told to end has begun to before its time is up: that takes two seconds.
            clock.advance(Duration::from_millis(25));
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_that_is_sick_gets_no_request_from_before_it_is_told_to_end() {
        let home = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let (sender, state) = watch::channel(State::Starting);
        let spec = spec(home.path(), Arc::clone(&clock) as Arc<dyn Clock>, sender);
        let stop = spec.stop.clone();
        let replica = in_background(supervise(spec));
        let there = |name: &str| home.path().join(name).exists();
        until(&clock, "it has a port", || there("port")).await;
        let port = std::fs::read_to_string(home.path().join("port")).unwrap().trim().parse().unwrap();
        let sick = Arc::new(AtomicBool::new(false));
        let health = Arc::clone(&sick);
        drop(std::thread::spawn(move || answer(port, &health)));
        until(&clock, "it is ready", || matches!(*state.borrow(), State::Ready(_))).await;
        sick.store(true, Ordering::Relaxed);
        until(&clock, "it is told to end", || there("told")).await;
        let told = state.borrow().clone();
        assert!(!matches!(told, State::Ready(_)), "{told:?}");
        stop.cancel();
        std::fs::write(home.path().join("go"), "").unwrap();
        until(&clock, "it ended", || *state.borrow() == State::Stopped).await;
        replica.await.unwrap();
    }
}
