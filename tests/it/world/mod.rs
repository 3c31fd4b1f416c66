//! A whole Windlass with a manual clock: real store, real engine, real steps; builds and apps are fakes with behaviour.
//!
//! Nothing happens by itself: the world hands each message to its function, one after the other.

mod fakes;
mod faults;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use windlass::ambient::{Clock, Ids, ManualClock, SeededIds, between};
use windlass::deploy::artifacts::Bundles;
use windlass::deploy::deployment::{Caps, Deployment, Status};
use windlass::deploy::footing::Footing;
use windlass::deploy::ids::{DeploymentId, Digest, Name};
use windlass::deploy::retention::Remains;
use windlass::deploy::runtime::Runtime;
use windlass::deploy::source::{FileEntry, SourceLimits};
use windlass::embedded::backlog::SqliteBacklog;
use windlass::embedded::db::Db;
use windlass::embedded::deployments::SqliteDeployments;
use windlass::embedded::files::FileBlobs;
use windlass::embedded::journal::SqliteJournal;
use windlass::embedded::logs::FileLogs;
use windlass::embedded::queue::{Delivery, SqliteQueue, SqliteQueues};
use windlass::embedded::releases::SqliteReleases;
use windlass::embedded::secrets::key_file;
use windlass::steps::deploy_chain;
use windlass::triggers::dispatch::{Event, dispatch};
use windlass::triggers::table::{FUNCTIONS, Function, queue_of, queues};
use windlass::windlass::{Limits, Looks, Tools, Windlass};
use windlass::workflow::Engine;
use windlass::workflow::chain::{Chain, Chains};
use windlass::workflow::journal::RunId;
use windlass::workflow::queue::Queue;

pub(crate) use fakes::{FakeBuilder, FakeRuntime};
pub(crate) use faults::{Fault, Faults, FaultyJournal, with_faults};

/// Deliveries before a message is given up.
const DELIVERIES: u32 = 4;
/// Invocations after which a story is taken to run for ever.
const MOST_INVOCATIONS: usize = 100_000;

/// What happens to messages on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Post {
    /// Each arrives once.
    Reliable,
    /// Each arrives twice.
    Doubled,
    /// The newest first.
    Reordered,
    /// Every hint is lost; only the sweep sends it.
    Lossy,
}

pub(crate) struct World {
    pub(crate) windlass: Windlass,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) builder: Arc<FakeBuilder>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) journal: Arc<FaultyJournal>,
    pub(crate) db: Db,
    pub(crate) queues: Arc<SqliteQueues>,
    pub(crate) post: Post,
    /// Hints of a sweep that are under way; in a lossy world only they arrive.
    swept: AtomicUsize,
    _folder: TempDir,
}

pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) caps: Caps,
    pub(crate) faults: Faults,
    /// Longest deployment.
    pub(crate) deadline: Duration,
    pub(crate) looks: Looks,
    pub(crate) more: Vec<Chain>,
    /// What deployments leave elsewhere.
    pub(crate) remains: Vec<Arc<dyn Remains>>,
    /// What they stand on elsewhere.
    pub(crate) footing: Vec<Arc<dyn Footing>>,
    /// Runs the apps instead of the fake one.
    pub(crate) runtime: Option<Arc<dyn Runtime>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            caps: Caps { total: 5, per_org: 3 },
            faults: Faults::default(),
            deadline: Duration::from_secs(600),
            looks: Looks::WOKEN,
            more: Vec::new(),
            remains: Vec::new(),
            footing: Vec::new(),
            runtime: None,
        }
    }
}

fn limits(setup: &Setup) -> Limits {
    Limits {
        caps: setup.caps,
        deployment: setup.deadline,
        build: windlass::deploy::size::Size::TWO,
        keep: windlass::deploy::retention::Keep { days: 30, releases: 2 },
        source: SourceLimits::default(),
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
        let time: Arc<dyn Clock> = Arc::clone(&clock) as Arc<_>;
        let ids: Arc<dyn Ids> = Arc::new(SeededIds::new(setup.seed));
        let db = Db::open(&root.join("windlass.db")).unwrap();
        let queues = SqliteQueues::open(db.clone(), Arc::clone(&time), &queues()).unwrap();
        let queue: Arc<dyn Queue> = Arc::new(SqliteQueue(Arc::clone(&queues)));
        let blobs = FileBlobs::open(&root.join("blobs")).unwrap();
        let builder = Arc::new(FakeBuilder::new(blobs.clone(), Arc::clone(&queue), Arc::clone(&time)));
        let runtime = Arc::new(FakeRuntime::new(Arc::clone(&queue), Arc::clone(&time)));
        let backlog = SqliteBacklog { db: db.clone(), queues: Arc::clone(&queues), clock: Arc::clone(&time) };
        let limits = limits(&setup);
        let tools = Arc::new(Tools {
            clock: Arc::clone(&time),
            ids: Arc::clone(&ids),
            deployments: Arc::new(SqliteDeployments::new(db.clone(), Arc::clone(&queues))),
            releases: Arc::new(SqliteReleases(db.clone())),
            retention: Arc::new(windlass::embedded::retention::SqliteRetention(db.clone())),
            remains: setup.remains,
            footing: setup.footing,
            artifacts: Arc::new(Bundles(Arc::new(blobs.clone()))),
            blobs: Arc::new(blobs),
            logs: Arc::new(FileLogs::open(&root.join("logs")).unwrap()),
            builder: Arc::clone(&builder) as Arc<_>,
            runtime: setup.runtime.unwrap_or_else(|| Arc::clone(&runtime) as Arc<dyn Runtime>),
            secrets: Arc::new(key_file(&root.join("key")).unwrap()),
            backlog: Arc::new(backlog),
            checks: Vec::new(),
            limits,
            looks: setup.looks,
        });
        let chains = std::iter::once(deploy_chain(&tools))
            .chain(setup.more)
            .map(|chain| with_faults(chain, &setup.faults));
        let sqlite = SqliteJournal::new(db.clone(), Arc::clone(&queues), Arc::clone(&time));
        let journal = Arc::new(FaultyJournal::new(sqlite));
        let engine = Engine {
            journal: Arc::clone(&journal) as Arc<_>,
            chains: Arc::new(Chains::new(chains)),
            clock: time,
            ids,
        };
        let windlass = Windlass { engine, queue, tools };
        Self {
            windlass,
            clock,
            builder,
            runtime,
            journal,
            db,
            queues,
            post: Post::Reliable,
            swept: AtomicUsize::new(0),
            _folder: folder,
        }
    }

    /// Uploads a one-page site and gives its source.
    pub(crate) async fn source(&self, org: &str, text: &str) -> Digest {
        self.upload(org, &[("index.html", text)]).await
    }

    /// Uploads files, sorted by their paths, and gives their source.
    pub(crate) async fn upload(&self, org: &str, files: &[(&str, &str)]) -> Digest {
        let org: Name = org.parse().unwrap();
        let mut entries = Vec::new();
        for (path, text) in files {
            let sha256 = Digest::of(text.as_bytes());
            let mut writer = self.windlass.tools.blobs.writer(&org, sha256, 1 << 20).await.unwrap();
            writer.write((*text).to_owned().into()).await.unwrap();
            writer.finish().await.unwrap();
            entries.push(FileEntry {
                path: (*path).to_owned(),
                size: text.len() as u64,
                mode: 0o644,
                sha256,
            });
        }
        let accepted = self.windlass.accept_source(&org, entries).await.unwrap();
        assert!(accepted.missing.is_empty());
        accepted.digest
    }

    pub(crate) fn request(project: &str) -> Value {
        json!({ "projectId": project, "userId": "u", "organizationId": "o", "projectName": project, "environment": "development" })
    }

    pub(crate) async fn submit(&self, body: &Value) -> DeploymentId {
        self.windlass.submit(body, None, "test").await.unwrap().id
    }

    pub(crate) async fn deploy(&self, project: &str, page: &str) -> DeploymentId {
        let mut body = Self::request(project);
        body["source"] = json!(self.source("o", page).await.to_string());
        self.submit(&body).await
    }

    pub(crate) async fn get(&self, id: DeploymentId) -> Deployment {
        self.windlass.tools.deployments.get(id).await.unwrap().unwrap()
    }

    pub(crate) async fn status(&self, id: DeploymentId) -> Status {
        self.get(id).await.status
    }

    pub(crate) async fn statuses(&self, id: DeploymentId) -> Vec<(&'static str, &'static str)> {
        let view = self.windlass.view(id).await.unwrap().unwrap();
        view.steps.iter().map(|step| (step.name, step.status)).collect()
    }

    /// Hands over what is ready, moves the clock to what is due next, until nothing is left to happen.
    pub(crate) async fn run_until_idle(&mut self) {
        for _ in 0..MOST_INVOCATIONS {
            if self.step().await {
                continue;
            }
            let Some(due) = self.queues.ring().unwrap() else {
                if self.windlass.engine.journal.open_runs(self.clock.now()).await.unwrap().is_empty() {
                    return;
                }
                // Only a sweep can help now: a hint or a worker was lost.
                self.clock.advance(Duration::from_secs(60));
                let sent = self.windlass.sweep().await.unwrap();
                self.swept.fetch_add(sent, Ordering::Relaxed);
                continue;
            };
            self.clock.advance(between(self.clock.now(), due));
        }
        panic!("the story does not come to an end");
    }

    /// Hands over one message; false when none is ready.
    pub(crate) async fn step(&mut self) -> bool {
        self.queues.ring().unwrap();
        let mut functions: Vec<&'static Function> = FUNCTIONS.iter().collect();
        if self.post == Post::Reordered {
            functions.reverse();
        }
        for function in functions {
            let Some(queue) = queue_of(function) else { continue };
            let Some(batch) = self.queues.take(queue, 1).now_or_never() else { continue };
            for delivery in batch {
                self.hand_over(function, queue, delivery).await;
            }
            return true;
        }
        false
    }

    async fn hand_over(&self, function: &'static Function, queue: &'static str, delivery: Delivery) {
        if self.post == Post::Lossy
            && function.name.starts_with("step-")
            && delivery.body.contains("\"seq\"")
            && self
                .swept
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_err()
        {
            self.queues.complete(&delivery);
            return;
        }
        let call = || dispatch(&self.windlass, function, Event::Messages(vec![delivery.body.to_string()]));
        if self.post == Post::Doubled {
            drop(call().await);
        }
        match call().await {
            Ok(()) => self.queues.complete(&delivery),
            Err(error) => self.queues.abandon(queue, delivery, error.to_string(), DELIVERIES).await.unwrap(),
        }
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// The stored fold of every run is the fold of its history.
    pub(crate) async fn refold(&self, run: RunId) {
        let (stored, entries) = self.windlass.engine.journal.history(run).await.unwrap().unwrap();
        let (first, rest) = entries.split_first().unwrap();
        let mut folded = windlass::workflow::state::RunState::begin(&first.event, first.at).unwrap();
        for entry in rest {
            folded.apply(&entry.event, entry.at).unwrap();
            assert_eq!(folded.version, entry.seq);
        }
        folded.started = stored.started;
        folded.updated = stored.updated;
        assert_eq!(folded, stored);
    }
}
