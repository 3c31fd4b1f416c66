//! The Functions host as strict as its source is: a process for each scale group, calls in the shapes that it sends, and
//! none of the kindness that the real one lacks.
//!
//! Killed processes get no warning. A call that takes too long takes its process with it. What is not completed comes again
//! at once, and sometimes what was. Answers that would let the real host hang are complaints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use windlass::ambient::{Clock as _, Ids as _, SeededIds, SystemClock};
use windlass::azure::cosmos::{Container, Stored};
use windlass::triggers::table::{FUNCTIONS, Function, Trigger, function, queue_of};

use super::bus::{Bus, Message};
use super::doubles::Tap;
use super::envelope::{many, single, timer};
use super::http;

/// A process has to answer within this time after its start.
const START: Duration = Duration::from_secs(30);
/// How often the host looks meanwhile.
const LOOK: Duration = Duration::from_millis(25);
/// Ends by itself after which the host gives up.
const MOST_ENDS: u32 = 3;
/// `maxMessageBatchSize`.
const BATCH: usize = 10;
/// Calls to services between two kills: so many at least, and so many more at most.
const KILL_AFTER: u64 = 20;
const KILL_WITHIN: u128 = 200;

/// The process of a scale group.
#[derive(Default)]
struct Instance {
    child: Option<Child>,
    port: u16,
    ready: bool,
    calls: u32,
    ends: u32,
}

type Instances = Mutex<BTreeMap<&'static str, Instance>>;

/// Kills processes at moments that follow from a seed and from what they ask of services.
struct Killer {
    instances: Arc<Instances>,
    chance: SeededIds,
    /// Kills that are left, and calls until the next one.
    left: Mutex<(usize, u64)>,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
    /// Its process died.
    Cut,
}

/// The host.
pub(crate) struct Host {
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) folder: PathBuf,
    /// `functionTimeout`.
    pub(crate) timeout: Duration,
    /// Whether locks get lost.
    pub(crate) careless: bool,
    runs: Container,
    instances: Arc<Instances>,
    killer: Arc<Killer>,
    chance: SeededIds,
    client: reqwest::Client,
    /// How many calls work on a run, and whether one of them died.
    busy: Mutex<BTreeMap<String, (usize, bool)>>,
    complaints: Mutex<Vec<String>>,
    cut: AtomicUsize,
}

/// HTTP functions share a process; every other function has its own.
fn group(function: &Function) -> &'static str {
    if matches!(function.trigger, Trigger::Http { .. }) { "http" } else { function.name }
}

fn kill(instance: &mut Instance) -> bool {
    instance.ready = false;
    let Some(mut child) = instance.child.take() else { return false };
    drop(child.kill());
    drop(child.wait());
    true
}

impl Killer {
    fn tap(&self) {
        let mut left = self.left.lock().unwrap();
        left.1 = left.1.saturating_sub(1);
        if left.0 == 0 || left.1 > 0 {
            return;
        }
        left.1 = KILL_AFTER + u64::try_from(self.chance.random() % KILL_WITHIN).unwrap();
        let mut instances = self.instances.lock().unwrap();
        let mut victims: Vec<&mut Instance> = instances
            .values_mut()
            .filter(|instance| instance.child.is_some() && instance.calls > 0)
            .collect();
        if victims.is_empty() {
            return;
        }
        let at = usize::try_from(self.chance.random() % victims.len() as u128).unwrap();
        if kill(victims[at]) {
            left.0 -= 1;
        }
    }
}

impl Host {
    /// A host whose choices follow from `seed`; `runs` are the journal's records, by which time is let pass for the dead.
    pub(crate) fn new(variables: Vec<(String, String)>, folder: PathBuf, runs: Container, seed: u64) -> Self {
        let instances: Arc<Instances> = Arc::default();
        let killer = Killer {
            instances: Arc::clone(&instances),
            chance: SeededIds::new(seed),
            left: Mutex::default(),
        };
        Self {
            variables,
            folder,
            timeout: Duration::from_secs(300),
            careless: true,
            runs,
            instances,
            killer: Arc::new(killer),
            chance: SeededIds::new(seed + 1),
            client: http(),
            busy: Mutex::default(),
            complaints: Mutex::default(),
            cut: AtomicUsize::new(0),
        }
    }

    /// For the services: they tell of every call, and so the killer knows his moments.
    pub(crate) fn tap(&self) -> Tap {
        let killer = Arc::clone(&self.killer);
        Arc::new(move || killer.tap())
    }

    /// Kills so many processes from now on, each in the middle of a call.
    pub(crate) fn kill(&self, times: usize) {
        *self.killer.left.lock().unwrap() = (times, KILL_AFTER);
    }

    pub(crate) fn kills_left(&self) -> usize {
        self.killer.left.lock().unwrap().0
    }

    /// Calls that ended because their process died.
    pub(crate) fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }

    /// What the real host would have stumbled over.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().clone()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("handler.log")).unwrap_or_default()
    }

    /// Starts the program on this port, as the host does.
    pub(crate) fn spawn(&self, port: u16) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("handler.log"));
        let log = log.unwrap();
        Command::new(env!("CARGO_BIN_EXE_windlass"))
            .arg("handler")
            .env_clear()
            .envs(self.variables.clone())
            .env("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string())
            .env("FUNCTIONS_HTTPWORKER_PORT", port.to_string())
            .env("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", "worker")
            .env("FUNCTIONS_APP_ROOT_PATH", &self.folder)
            .current_dir(&self.folder)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap()
    }

    /// The group's port, and whether it is known to answer; starts a process when there is none.
    fn running(&self, group: &'static str) -> (u16, bool) {
        let mut instances = self.instances.lock().unwrap();
        let instance = instances.entry(group).or_default();
        if let Some(child) = &mut instance.child
            && let Some(status) = child.try_wait().unwrap()
        {
            // Nobody killed it.
            instance.ends += 1;
            self.complaints.lock().unwrap().push(format!("{group} ended by itself: {status}"));
            assert!(status.code() != Some(0) && instance.ends < MOST_ENDS, "the host stops: {}", self.log());
            instance.child = None;
            instance.ready = false;
        }
        if instance.child.is_none() {
            instance.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            instance.child = Some(self.spawn(instance.port));
        }
        (instance.port, instance.ready)
    }

    /// The group's address. Any answer means ready.
    async fn address(&self, group: &'static str) -> String {
        let begun = Instant::now();
        loop {
            let (port, ready) = self.running(group);
            let address = format!("http://127.0.0.1:{port}");
            if ready {
                return address;
            }
            if self.client.get(&address).send().await.is_ok() {
                let mut instances = self.instances.lock().unwrap();
                if let Some(instance) = instances.get_mut(group).filter(|instance| instance.port == port) {
                    instance.ready = instance.child.is_some();
                }
                return address;
            }
            // A kill begins the time anew, which only makes this bound larger than the host's.
            assert!(begun.elapsed() < START * 4, "{group} does not answer: {}", self.log());
            SystemClock.sleep(LOOK).await;
        }
    }

    /// Ends every process as the host does when it has time: SIGTERM, and it waits.
    pub(crate) fn stop(&self) {
        for instance in self.instances.lock().unwrap().values_mut() {
            if let Some(mut child) = instance.child.take() {
                let pid = child.id().to_string();
                assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
                child.wait().unwrap();
                instance.ready = false;
            }
        }
    }

    /// Where HTTP functions answer.
    pub(crate) async fn url(&self) -> String {
        self.address("http").await
    }

    fn count(&self, group: &'static str, change: impl FnOnce(&mut u32)) {
        if let Some(instance) = self.instances.lock().unwrap().get_mut(group) {
            change(&mut instance.calls);
        }
    }

    /// What an HTTP function says; nothing while its process dies.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let address = self.address("http").await;
        self.count("http", |calls| *calls += 1);
        let answer = async { self.client.get(format!("{address}{path}")).send().await?.bytes().await };
        let answer = answer.await;
        self.count("http", |calls| *calls -= 1);
        answer.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_default()).unwrap_or_default()
    }

    /// Calls a function and looks at its answer as the host does.
    pub(crate) async fn invoke(&self, function: &'static Function, body: &Value) -> Outcome {
        let group = group(function);
        let address = self.address(group).await;
        let call = self
            .client
            .post(format!("{address}/{}", function.name))
            .header("content-type", "application/json; charset=utf-8")
            .header("user-agent", "Azure-Functions-Host/4.1037.0.0")
            .header("x-azure-functions-hostversion", "4.1037.0.0")
            .header("x-azure-functions-invocationid", format!("{:032x}", self.chance.random()))
            .body(body.to_string());
        self.count(group, |calls| *calls += 1);
        let answered = tokio::time::timeout(self.timeout, async {
            let answer = call.send().await?;
            let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
            let kind = kind.unwrap_or_default().to_owned();
            Ok::<_, reqwest::Error>((answer.status(), kind, answer.text().await?))
        })
        .await;
        self.count(group, |calls| *calls -= 1);
        let Ok(answered) = answered else {
            if let Some(instance) = self.instances.lock().unwrap().get_mut(group) {
                kill(instance);
            }
            self.cut.fetch_add(1, Ordering::Relaxed);
            return Outcome::Cut;
        };
        let Ok((status, kind, text)) = answered else {
            self.cut.fetch_add(1, Ordering::Relaxed);
            return Outcome::Cut;
        };
        let is_object = serde_json::from_str::<Value>(&text).is_ok_and(|answer| answer.is_object());
        if !is_object || !(kind.starts_with("application/json") || kind.starts_with("text/json")) {
            let complaint = format!("{} answered {status} with {kind} {text:?}", function.name);
            self.complaints.lock().unwrap().push(complaint);
        }
        if status.is_success() { Outcome::Done } else { Outcome::Failed }
    }

    /// A schedule comes round.
    pub(crate) async fn tick(&self, name: &str) -> Outcome {
        let function = function(name).unwrap();
        self.invoke(function, &timer(function)).await
    }

    /// Hands over whatever is due, each group at the same time, and gives how many messages that were.
    pub(crate) async fn deliver(&self, bus: &Bus) -> usize {
        let due = bus.take(SystemClock.now());
        let count = due.len();
        let mut calls = Vec::new();
        for function in FUNCTIONS.iter().filter(|function| group(function) != "http") {
            let mine = due.iter().filter(|message| queue_of(function) == Some(message.queue.as_str()));
            let mine: Vec<Message> = mine.cloned().collect();
            let size = if function.trigger.brings_many() { BATCH } else { 1 };
            calls.extend(mine.chunks(size).map(|batch| self.work(bus, function, batch.to_vec())));
        }
        join_all(calls).await;
        count
    }

    /// One lock from delivery to completion, or to its loss.
    async fn work(&self, bus: &Bus, function: &'static Function, batch: Vec<Message>) {
        let lost = |one_in: u128| self.careless && self.chance.random().is_multiple_of(one_in);
        // The lock runs out while the first call is still under way: only the second one can complete the message.
        let again = lost(8);
        let (first, second) = tokio::join!(self.call(function, &batch, 0), async {
            if again { Some(self.call(function, &batch, 1).await) } else { None }
        });
        // And sometimes it is lost between the answer and the completion, which the service refuses with 412.
        if second.unwrap_or(first) != Outcome::Done || lost(10) {
            for message in batch {
                bus.abandon(message);
            }
        }
    }

    async fn call(&self, function: &'static Function, batch: &[Message], before: u32) -> Outcome {
        let runs: Vec<String> = batch.iter().filter_map(|message| run_of(&message.body)).collect();
        let body = if function.trigger.brings_many() {
            many(function, batch)
        } else {
            single(function, &batch[0], before)
        };
        for run in &runs {
            self.busy.lock().unwrap().entry(run.clone()).or_default().0 += 1;
        }
        let outcome = self.invoke(function, &body).await;
        for run in &runs {
            let only_the_dead = {
                let mut busy = self.busy.lock().unwrap();
                let (count, died) = busy.get_mut(run).unwrap();
                *count -= 1;
                *died |= outcome == Outcome::Cut;
                *count == 0 && std::mem::take(died)
            };
            if only_the_dead {
                self.let_time_pass(run).await;
            }
        }
        outcome
    }

    /// Nobody works on the run any more, so whoever holds its lease is dead. The lease would run out half a minute from now;
    /// for this run that time is over at once.
    async fn let_time_pass(&self, run: &str) {
        let lease: Option<Stored<Value>> = self.runs.read_fresh(run, "lease").await.unwrap();
        if let Some(Stored { etag, mut body }) = lease {
            assert!(body["ends"].is_i64(), "a lease says when it ends: {body}");
            body["ends"] = 0.into();
            // Its place is not a part of it.
            body.as_object_mut()
                .unwrap()
                .retain(|name, _| !name.starts_with('_') && name != "id" && name != "pk");
            self.runs.replace((run, "lease"), &body, &etag).await.unwrap();
        }
    }
}

/// The run that a message of ours is about.
fn run_of(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    body.pointer("/w1/run")?.as_str().map(str::to_owned)
}

impl Drop for Host {
    fn drop(&mut self) {
        for instance in self.instances.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            kill(instance);
        }
    }
}
