//! One running copy of a release: its folder, its replicas, its health.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::app_log::AppLog;
use super::containers::Container;
use super::folders::removed;
use super::mask::Mask;
use super::program::{Process, Program};
use super::replica::{Spec, State, supervise};
use super::routes::{Backend, Upstream};
use super::runtime::{RuntimeParts, materialise};
use super::sandbox::kill_all_of;
use crate::deploy::detect::Kind;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Health, RevisionView};
use crate::workflow::queue::Hint;

/// Lines shown with a failure.
const TAIL: usize = 50;

/// What a revision is made of.
pub(super) struct Parts {
    pub(super) runtime: Arc<RuntimeParts>,
    pub(super) release: Release,
    pub(super) folder: PathBuf,
    pub(super) app: PathBuf,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) stop: CancellationToken,
}

struct Replica {
    state: watch::Receiver<State>,
    pid: watch::Receiver<Option<u32>>,
    restarts: Arc<AtomicU32>,
}

/// A revision under way.
pub(super) struct Revision {
    pub(super) target: Arc<Upstream>,
    parts: Parts,
    log: Arc<AppLog>,
    health: watch::Sender<Health>,
    /// Sent once its health is known.
    wakes: Mutex<Vec<Hint>>,
    replicas: Mutex<Vec<Replica>>,
    task: Mutex<Option<JoinHandle<()>>>,
    draining: AtomicBool,
    /// Whether somebody stops it.
    leaving: AtomicBool,
    /// Cancelled once nothing of it is left.
    gone: CancellationToken,
}

impl Revision {
    /// Begins to start it; `wake` is sent once its health is known.
    pub(super) fn start(parts: Parts, target: Arc<Upstream>, wake: Option<Hint>) -> Arc<Self> {
        let first = wake.is_some();
        let secrets = parts.release.env.keys().filter_map(|name| parts.variables.get(name));
        let mask = Mask::new(secrets.map(String::as_str));
        let log = Arc::new(AppLog::new(parts.folder.join("app.log"), mask));
        let background = parts.runtime.background.clone();
        let revision = Arc::new(Self {
            target,
            parts,
            log,
            health: watch::Sender::new(Health::Starting),
            wakes: Mutex::new(wake.into_iter().collect()),
            replicas: Mutex::default(),
            task: Mutex::default(),
            draining: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            gone: CancellationToken::new(),
        });
        let running = Arc::clone(&revision);
        let task = background.spawn(async move { running.run(first).await });
        *revision.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        revision
    }

    /// A `first` start that fails is the release's failure; a later one is tried again.
    async fn run(self: Arc<Self>, first: bool) {
        let parts = &self.parts;
        let prepared = async {
            std::fs::create_dir_all(parts.folder.join("home"))
                .map_err(|error| format!("{}: {error}", parts.folder.display()))?;
            materialise(&parts.runtime, &parts.release, parts.app.clone()).await
        };
        if let Err(message) = prepared.await {
            self.learn(Health::Failed { code: "RELEASE_NOT_UNPACKED", message, tail: Vec::new() });
            return;
        }
        if parts.release.plan.start.is_none() && parts.release.plan.kind != Kind::Docker {
            self.learn(Health::Healthy);
            parts.stop.cancelled().await;
            return;
        }
        let (changed, mut changes) = watch::channel(());
        let tasks: Vec<JoinHandle<()>> =
            (0..self.wanted()).map(|number| self.replica(number, first, &changed)).collect();
        loop {
            self.collect();
            tokio::select! {
                result = changes.changed() => if result.is_err() { break },
                () = parts.stop.cancelled() => break,
            }
        }
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(error = %error, "a replica's supervisor panicked");
            }
        }
        self.collect();
    }

    fn wanted(&self) -> u32 {
        let replicas = self.parts.release.replicas;
        replicas.min.max(1)
    }

    fn replica(&self, number: u32, first: bool, changed: &watch::Sender<()>) -> JoinHandle<()> {
        let parts = &self.parts;
        let (state, mut watched) = watch::channel(State::Starting);
        let (pid, pids) = watch::channel(None);
        let restarts = Arc::<AtomicU32>::default();
        let replica = Replica { state: watched.clone(), pid: pids, restarts: Arc::clone(&restarts) };
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).push(replica);
        let runtime = &parts.runtime;
        let spec = Spec {
            program: self.program(number),
            env: parts.variables.clone(),
            probe: parts.release.plan.probe.clone(),
            log: Arc::clone(&self.log),
            pool: runtime.pool.clone(),
            clock: Arc::clone(&runtime.clock),
            first,
            stop: parts.stop.clone(),
            restarts,
            pid,
            state,
            background: runtime.background.clone(),
        };
        let changed = changed.clone();
        runtime.background.spawn(async move {
            while watched.changed().await.is_ok() {
                changed.send_replace(());
            }
        });
        runtime.background.spawn(supervise(spec))
    }

    fn program(&self, replica: u32) -> Program {
        let parts = &self.parts;
        let plan = &parts.release.plan;
        if plan.kind == Kind::Docker {
            let container = Container {
                run: parts.release.run,
                replica,
                bundle: parts.app.clone(),
                command: plan.start.clone(),
                port: plan.port,
                size: parts.release.size,
            };
            return Program::Container(Arc::clone(&parts.runtime.containers), container);
        }
        Program::Process(Process {
            run: parts.release.run,
            dir: parts.app.clone(),
            home: parts.folder.join("home"),
            command: plan.start.clone().unwrap_or_default(),
            machine: parts.runtime.machine.clone(),
        })
    }

    /// Draws the revision's health and its ready replicas from its replicas' states.
    fn collect(&self) {
        let states: Vec<State> = self
            .replicas
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|replica| replica.state.borrow().clone())
            .collect();
        let ready: Vec<SocketAddr> = states
            .iter()
            .filter_map(|state| if let State::Ready(address) = state { Some(*address) } else { None })
            .collect();
        if let Backend::Replicas(addresses) = &self.target.backend {
            addresses.store(Arc::new(ready));
        }
        self.learn(health(&states, || self.tail(TAIL)));
    }

    /// Takes note of its health, and wakes whoever waits for that.
    fn learn(&self, health: Health) {
        self.health.send_if_modified(|known| {
            if *known == health {
                false
            } else {
                *known = health;
                true
            }
        });
        self.wake();
    }

    /// Sends `wake` once the health is known, which it may be already.
    pub(super) fn announce(&self, wake: Option<Hint>) {
        if let Some(wake) = wake {
            let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
            if !wakes.contains(&wake) {
                wakes.push(wake);
            }
        }
        self.wake();
    }

    /// Sends the hints that wait, if the health is known.
    fn wake(&self) {
        if *self.health.borrow() == Health::Starting {
            return;
        }
        let wakes = std::mem::take(&mut *self.wakes.lock().unwrap_or_else(PoisonError::into_inner));
        for wake in wakes {
            let runtime = Arc::clone(&self.parts.runtime);
            self.parts.runtime.background.spawn(async move {
                if let Err(error) = runtime.queue.send(&wake, runtime.clock.now()).await {
                    tracing::warn!(run.id = %wake.run, error = %error, "{} could not be woken; it looks by itself later", wake.run);
                }
            });
        }
    }

    pub(super) fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.parts.stop.is_cancelled()
    }

    pub(super) fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn number(&self) -> u64 {
        self.parts.release.number
    }

    pub(super) fn tail(&self, most: usize) -> Vec<String> {
        self.log.tail(most)
    }

    /// Whether it may not get traffic any more.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_stopped() || self.is_draining()
    }

    /// Whether it failed and does not try again by itself, as one whose replicas keep crashing does.
    pub(super) fn has_given_up(&self) -> bool {
        let failed = matches!(*self.health.borrow(), Health::Failed { .. });
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states = replicas.iter().map(|replica| replica.state.borrow());
        failed && (replicas.is_empty() || states.any(|state| matches!(*state, State::Failed(..))))
    }

    /// Stops every replica and waits until they are gone; then the folder goes too. Goes on in the background when
    /// the caller does not wait; a second call waits for the first.
    pub(super) async fn stop(self: &Arc<Self>) {
        self.ask_to_end();
        let first = !self.leaving.swap(true, Ordering::Relaxed);
        if first {
            let revision = Arc::clone(self);
            self.parts.runtime.background.spawn(async move {
                revision.ended().await;
                revision.clear().await;
                revision.gone.cancel();
            });
        }
        self.gone.cancelled().await;
    }

    /// Tells every replica to end.
    pub(super) fn ask_to_end(&self) {
        self.parts.stop.cancel();
    }

    /// Waits until nothing of it runs any more, whoever stops it.
    pub(super) async fn halted(&self) {
        if self.leaving.load(Ordering::Relaxed) { self.gone.cancelled().await } else { self.ended().await }
    }

    /// Waits until every replica has ended after [`Self::ask_to_end`].
    async fn ended(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(error = %error, "a revision's task panicked");
        }
    }

    /// Nothing of it may be left.
    async fn clear(&self) {
        let run = self.parts.release.run;
        if let Err(error) = tokio::task::spawn_blocking(move || kill_all_of(run)).await {
            tracing::warn!(error = %error, "what a revision left running could not be looked for");
        }
        if self.parts.release.plan.kind == Kind::Docker {
            self.parts.runtime.containers.release(run).await;
        }
        if let Err(error) = removed(self.parts.folder.clone()).await {
            tracing::warn!(error, "a stopped revision could not be removed");
        }
    }

    pub(super) fn view(&self, live: bool) -> RevisionView {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let state = if self.is_draining() { "draining" } else { self.health.borrow().word() };
        let ready =
            replicas.iter().filter(|replica| matches!(*replica.state.borrow(), State::Ready(_))).count();
        let files = matches!(self.target.backend, Backend::Files(_));
        RevisionView {
            app: self.target.app.clone(),
            release: self.number(),
            state: state.to_owned(),
            live,
            ready: if files { 1 } else { ready },
            wanted: if files { 1 } else { replicas.len() },
            restarts: replicas.iter().map(|replica| replica.restarts.load(Ordering::Relaxed)).sum(),
            pids: replicas.iter().filter_map(|replica| *replica.pid.borrow()).collect(),
        }
    }
}

/// A revision's health by its replicas' states; `tail` is what it said last.
fn health(states: &[State], tail: impl FnOnce() -> Vec<String>) -> Health {
    let failed = states.iter().find_map(|state| match state {
        State::Failed(code, reason) => Some((*code, reason)),
        State::Looping(reason) => Some(("RELEASE_CRASH_LOOP", reason)),
        State::Starting | State::Ready(_) | State::Down(_) | State::Stopped => None,
    });
    match failed {
        Some((code, reason)) => Health::Failed {
            code,
            message: format!("the app does not become healthy: {reason}"),
            tail: tail(),
        },
        None if states.iter().all(|state| matches!(state, State::Ready(_))) => Health::Healthy,
        None => Health::Starting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replica_that_keeps_crashing_makes_the_revision_unhealthy() {
        let ready = || State::Ready(SocketAddr::from(([127, 0, 0, 1], 1)));
        let why = || "it ended with exit status: 3".to_owned();
        let bad = |code| Health::Failed {
            code,
            message: format!("the app does not become healthy: {}", why()),
            tail: vec!["bye".to_owned()],
        };
        for (states, wanted) in [
            (vec![ready(), ready()], Health::Healthy),
            (vec![ready(), State::Starting], Health::Starting),
            (vec![ready(), State::Down(why())], Health::Starting),
            (vec![ready(), State::Looping(why())], bad("RELEASE_CRASH_LOOP")),
            (vec![State::Starting, State::Failed("RELEASE_CRASHED", why())], bad("RELEASE_CRASHED")),
        ] {
            assert_eq!(health(&states, || vec!["bye".to_owned()]), wanted, "{states:?}");
        }
    }
}
