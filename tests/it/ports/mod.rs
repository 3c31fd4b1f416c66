//! One suite per port; every adapter passes it unchanged.

mod blobs;
mod db;
mod deployments;
mod journal;
mod logs;
mod queue;
mod releases;

use std::sync::Arc;

use tempfile::TempDir;
use windlass::ambient::{Clock, ManualClock};
use windlass::embedded::db::Db;
use windlass::embedded::queue::SqliteQueues;

/// An embedded store with a manual clock.
pub(crate) struct Store {
    pub(crate) folder: TempDir,
    pub(crate) db: Db,
    pub(crate) queues: Arc<SqliteQueues>,
    pub(crate) clock: Arc<ManualClock>,
}

/// Queues of the suites.
pub(crate) const QUEUES: [&str; 3] = ["step-build", "step-sync", "deployment-dlq"];

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

    /// As after a crash: everything in memory is gone.
    pub(crate) fn reopen(self) -> Self {
        let Self { folder, db, queues, clock } = self;
        drop((db, queues));
        Self::open(folder, clock)
    }

    pub(crate) fn time(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<_>
    }
}
