//! Makes steps and the journal misbehave on purpose.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use windlass::embedded::journal::SqliteJournal;
use windlass::workflow::chain::{Chain, Context, Next, Place, Step, StepError, StepName};
use windlass::workflow::journal::{Append, Claim, Entry, Journal, JournalError, Lease, RunId};
use windlass::workflow::queue::Hint;
use windlass::workflow::state::{Event, RunState};

/// What a step does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Runs (and is undone) twice in a row.
    Twice,
    /// Fails with a transient error so many times, then works.
    Transient(usize),
    /// Fails for good.
    Permanent,
    /// Cannot be undone.
    UndoFails,
}

/// Faults by step name.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<HashMap<String, Fault>>>);

impl Faults {
    pub(crate) fn set(&self, step: &str, fault: Fault) {
        self.0.lock().unwrap().insert(step.to_owned(), fault);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn get(&self, step: &str) -> Option<Fault> {
        self.0.lock().unwrap().get(step).copied()
    }
}

struct Faulty {
    name: String,
    inner: Arc<dyn Step>,
    faults: Faults,
    failed: AtomicUsize,
}

#[async_trait]
impl Step for Faulty {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        match self.faults.get(&self.name) {
            Some(Fault::Twice) => drop(self.inner.run(cx).await?),
            Some(Fault::Transient(times)) if self.failed.fetch_add(1, Ordering::Relaxed) < times => {
                return Err(StepError::transient("TEST_TRANSIENT", "not this time"));
            }
            Some(Fault::Permanent) => {
                // It fails after it did its work: the undo has something to take back.
                drop(self.inner.run(cx).await);
                return Err(StepError::permanent("TEST_PERMANENT", "never"));
            }
            _ => {}
        }
        self.inner.run(cx).await
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        match self.faults.get(&self.name) {
            Some(Fault::Twice) => drop(self.inner.undo(cx).await?),
            Some(Fault::UndoFails) => return Err(StepError::permanent("TEST_UNDO", "stays as it is")),
            _ => {}
        }
        self.inner.undo(cx).await
    }
}

/// The chain with every step able to fail.
pub(crate) fn with_faults(mut chain: Chain, faults: &Faults) -> Chain {
    let wrap = |place: &mut Place| {
        let inner = Arc::clone(&place.step);
        place.step = Arc::new(Faulty {
            name: place.name.to_string(),
            inner,
            faults: faults.clone(),
            failed: AtomicUsize::new(0),
        });
    };
    chain.steps.iter_mut().chain(chain.cleanup.as_mut()).for_each(wrap);
    chain
}

/// A journal whose worker "dies" at a given append: after the write, or before it.
pub(crate) struct FaultyJournal {
    inner: SqliteJournal,
    /// Appends so far.
    pub(crate) appends: AtomicUsize,
    crash: Mutex<Option<(usize, bool)>>,
}

impl FaultyJournal {
    pub(crate) fn new(inner: SqliteJournal) -> Self {
        Self { inner, appends: AtomicUsize::new(0), crash: Mutex::new(None) }
    }

    /// Dies at append number `at` (from 0), before or after it is written.
    pub(crate) fn crash_at(&self, at: usize, before: bool) {
        *self.crash.lock().unwrap() = Some((at, before));
    }
}

fn died() -> JournalError {
    JournalError::Unavailable("the worker died".into())
}

#[async_trait]
impl Journal for FaultyJournal {
    async fn create(
        &self,
        run: RunId,
        first: &Event,
        state: &RunState,
        hint: Hint,
    ) -> Result<(), JournalError> {
        self.inner.create(run, first, state, hint).await
    }

    async fn claim(&self, run: RunId, now: Timestamp, until: Timestamp) -> Result<Claim, JournalError> {
        self.inner.claim(run, now, until).await
    }

    async fn renew(&self, lease: &Lease, until: Timestamp) -> Result<(), JournalError> {
        self.inner.renew(lease, until).await
    }

    async fn release(&self, lease: &Lease) {
        self.inner.release(lease).await;
    }

    async fn append(&self, append: Append<'_>) -> Result<(), JournalError> {
        let number = self.appends.fetch_add(1, Ordering::Relaxed);
        let crash = *self.crash.lock().unwrap();
        match crash {
            Some((at, true)) if at == number => Err(died()),
            Some((at, false)) if at == number => {
                self.inner.append(append).await?;
                Err(died())
            }
            _ => self.inner.append(append).await,
        }
    }

    async fn history(&self, run: RunId) -> Result<Option<(RunState, Vec<Entry>)>, JournalError> {
        self.inner.history(run).await
    }

    async fn output(&self, run: RunId, step: &StepName) -> Result<Option<Value>, JournalError> {
        self.inner.output(run, step).await
    }

    async fn open_runs(&self, now: Timestamp) -> Result<Vec<(RunId, RunState)>, JournalError> {
        self.inner.open_runs(now).await
    }
}
