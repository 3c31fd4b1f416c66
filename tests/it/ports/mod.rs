//! One suite per port; every adapter passes it unchanged.

/// Runs each test of a suite on every adapter.
macro_rules! every_adapter {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::ports::Ports::embedded()).await;
            })+
        }
        mod azure {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::ports::Ports::azure().await).await;
            })+
        }
    };
}

pub(crate) mod backlog;
pub(crate) mod blobs;
mod db;
mod deployments;
mod journal;
pub(crate) mod logs;
mod queue;
mod releases;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tempfile::TempDir;
use windlass::ambient::{Clock, ManualClock, SystemIds};
use windlass::azure::deployments::CosmosDeployments;
use windlass::azure::journal::CosmosJournal;
use windlass::azure::post::{Letter, Post, PostError};
use windlass::azure::releases::CosmosReleases;
use windlass::azure::retention::CosmosRetention;
use windlass::deploy::deployment::Deployments;
use windlass::deploy::release::Releases;
use windlass::deploy::retention::Retention;
use windlass::embedded::db::Db;
use windlass::embedded::deployments::SqliteDeployments;
use windlass::embedded::journal::SqliteJournal;
use windlass::embedded::queue::SqliteQueues;
use windlass::embedded::releases::SqliteReleases;
use windlass::embedded::retention::SqliteRetention;
use windlass::workflow::journal::Journal;

use crate::azure::cosmos::Account;

/// An embedded store with a manual clock.
pub(crate) struct Store {
    pub(crate) folder: TempDir,
    pub(crate) db: Db,
    pub(crate) queues: Arc<SqliteQueues>,
    pub(crate) clock: Arc<ManualClock>,
}

/// Queues of the suites.
pub(crate) const QUEUES: [&str; 5] =
    ["step-validate", "step-build", "step-sync", "deployment-queue", "deployment-dlq"];

impl Store {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
        Self::open(folder, clock)
    }

    fn open(folder: TempDir, clock: Arc<ManualClock>) -> Self {
        let db = Db::open(&folder.path().join("db")).unwrap();
        let queues = SqliteQueues::open(db.clone(), Arc::clone(&clock) as Arc<_>, &QUEUES).unwrap();
        Self { folder, db, queues, clock }
    }

    /// Messages that were sent to `queue` since it was asked last.
    pub(crate) fn sent(&self, queue: &'static str) -> usize {
        taken(&self.queues, queue)
    }

    /// As after a crash: everything in memory is gone.
    pub(crate) fn reopen(self) -> Self {
        let Self { folder, db, queues, clock } = self;
        drop((db, queues));
        Self::open(folder, clock)
    }
}

/// The stores of one adapter with a manual clock, and whatever they sent.
pub(crate) struct Ports {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) folder: TempDir,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) deployments: Arc<dyn Deployments>,
    pub(crate) releases: Arc<dyn Releases>,
    pub(crate) retention: Arc<dyn Retention>,
    backing: Backing,
}

enum Backing {
    Embedded { db: Db, queues: Arc<SqliteQueues> },
    Azure { account: Account, outbox: Arc<Outbox> },
}

/// Keeps what was sent.
#[derive(Default)]
pub(crate) struct Outbox(Mutex<Vec<Letter>>);

impl Outbox {
    /// Letters to `queue` since it was asked last.
    pub(crate) fn take(&self, queue: &'static str) -> usize {
        let mut letters = self.0.lock().unwrap();
        let before = letters.len();
        letters.retain(|letter| letter.queue != queue);
        before - letters.len()
    }
}

fn taken(queues: &SqliteQueues, queue: &'static str) -> usize {
    queues.ring().unwrap();
    queues.take(queue, 100).now_or_never().map_or(0, |taken| taken.len())
}

#[async_trait]
impl Post for Outbox {
    async fn send(&self, letter: Letter) -> Result<(), PostError> {
        let mut letters = self.0.lock().unwrap();
        if letters.iter().all(|known| known.id != letter.id) {
            letters.push(letter);
        }
        Ok(())
    }
}

impl Ports {
    pub(crate) fn embedded() -> Self {
        let Store { folder, db, queues, clock } = Store::new();
        Self::on((folder, clock), Backing::Embedded { db, queues })
    }

    pub(crate) async fn azure() -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
        let backing = Backing::Azure { account: Account::new().await, outbox: Arc::default() };
        Self::on((tempfile::tempdir().unwrap(), clock), backing)
    }

    fn on((folder, clock): (TempDir, Arc<ManualClock>), backing: Backing) -> Self {
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        match &backing {
            Backing::Embedded { db, queues } => Self {
                journal: Arc::new(SqliteJournal::new(db.clone(), Arc::clone(queues), time)),
                deployments: Arc::new(SqliteDeployments::new(db.clone(), Arc::clone(queues))),
                releases: Arc::new(SqliteReleases(db.clone())),
                retention: Arc::new(SqliteRetention(db.clone())),
                clock,
                folder,
                backing,
            },
            Backing::Azure { account, outbox } => {
                let post = Arc::clone(outbox) as Arc<dyn Post>;
                let (runs, records) = (account.runs.clone(), account.records.clone());
                let ids = Arc::new(SystemIds);
                let (letters, at) = (Arc::clone(&post), Arc::clone(&time));
                let deployments = Arc::new(CosmosDeployments::new(records.clone(), letters, at, ids));
                Self {
                    journal: Arc::new(CosmosJournal::new(runs.clone(), post, time, Arc::new(SystemIds))),
                    deployments: Arc::clone(&deployments) as Arc<_>,
                    releases: Arc::new(CosmosReleases(records.clone())),
                    retention: Arc::new(CosmosRetention::new(records, runs, deployments)),
                    clock,
                    folder,
                    backing,
                }
            }
        }
    }

    /// Messages that were sent to `queue` since it was asked last.
    pub(crate) fn sent(&self, queue: &'static str) -> usize {
        match &self.backing {
            Backing::Embedded { queues, .. } => taken(queues, queue),
            Backing::Azure { outbox, .. } => outbox.take(queue),
        }
    }

    /// As after a crash: everything in memory is gone.
    pub(crate) fn reopen(self) -> Self {
        let Self { clock, folder, backing, .. } = self;
        match backing {
            Backing::Embedded { db, queues } => {
                let Store { folder, db, queues, clock } = Store { folder, db, queues, clock }.reopen();
                Self::on((folder, clock), Backing::Embedded { db, queues })
            }
            azure @ Backing::Azure { .. } => Self::on((folder, clock), azure),
        }
    }
}
