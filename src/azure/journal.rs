//! The journal in Cosmos DB: a partition for each run, with the run itself, its lease while somebody works on it, and
//! pages of older events.
//!
//! A move costs two round trips. The first takes the lease and reads the run, in one batch, so that the run is read fresh.
//! The second writes the run and gives the lease back; its tags are the fence. Hints are sent after it: a crash in
//! between loses them, and the sweep sends them again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cosmos::{Batch, CONFLICT, Container, Fault, Left, NOT_FOUND, Stored};
use super::post::{Post, hint_letter, send_or_leave};
use super::run_record::{Page, RUN, RunRecord, output_of, page_id, unfolded};
use crate::ambient::{Clock, Ids};
use crate::workflow::chain::StepName;
use crate::workflow::journal::{Append, Claim, Entry, Journal, JournalError, Lease, RunId};
use crate::workflow::queue::Hint;
use crate::workflow::state::{Event, RunState};

const LEASE: &str = "lease";
/// Seconds after which a lease that nobody gave back is deleted; long after it ran out.
const LEASE_TTL: u32 = 3_600;
/// Runs whose record is kept between claim and append.
const MOST_HELD: usize = 1_000;

impl From<Fault> for JournalError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(fault.into())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseRecord {
    fence: u64,
    /// Microseconds since 1970.
    ends: i64,
    /// Who holds it: the answer to a claim that was tried twice may be that it is taken, by ourselves.
    holder: String,
    /// Cosmos DB deletes it so many seconds after the newest write; each one has to say so again.
    ttl: u32,
}

impl LeaseRecord {
    fn new(fence: u64, until: Timestamp, holder: String) -> Self {
        Self { fence, ends: until.as_microsecond(), holder, ttl: LEASE_TTL }
    }
}

/// What this process knows about a lease that it holds.
#[derive(Clone)]
struct Held {
    fence: u64,
    holder: String,
    etag: String,
    run: Stored<RunRecord>,
}

/// [`Journal`] in Cosmos DB.
pub struct CosmosJournal {
    runs: Container,
    post: Arc<dyn Post>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    held: Mutex<HashMap<RunId, Held>>,
}

fn damaged(run: RunId, source: impl std::error::Error + Send + Sync + 'static) -> JournalError {
    JournalError::Damaged { run, source: Box::new(source) }
}

impl CosmosJournal {
    /// The journal in container `runs`.
    #[must_use]
    pub fn new(runs: Container, post: Arc<dyn Post>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { runs, post, clock, ids, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<RunId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lease over `earlier`, or as a new one, and reads the run in the same batch.
    async fn take(
        &self,
        run: RunId,
        record: &LeaseRecord,
        earlier: Option<&str>,
    ) -> Result<Result<Claim, Fault>, JournalError> {
        let batch = Batch::of(&run.to_string());
        let batch = match earlier {
            Some(etag) => batch.replace(LEASE, record, etag),
            None => batch.create(LEASE, record),
        };
        let left = match self.runs.commit(batch.read(RUN)).await {
            Ok(left) => left,
            Err(fault @ Fault::Refused { .. }) => return Ok(Err(fault)),
            Err(fault) => return Err(fault.into()),
        };
        let [Left { etag: Some(etag), .. }, Left { body: Some(body), .. }] = left.as_slice() else {
            return Err(damaged(run, std::io::Error::other("the store answered a claim with nothing")));
        };
        let stored: Stored<RunRecord> =
            serde_json::from_str(body.get()).map_err(|error| damaged(run, error))?;
        let state = stored.body.state.clone();
        let mut held = self.held();
        if held.len() >= MOST_HELD {
            // Leases that ran out unnoticed; whoever still works on one is fenced and begins anew.
            held.clear();
        }
        let holder = record.holder.clone();
        held.insert(run, Held { fence: record.fence, holder, etag: etag.clone(), run: stored });
        Ok(Ok(Claim::Held(Lease { run, fence: record.fence }, Box::new(state))))
    }

    /// The run and its tag, for a write without a lease.
    async fn fetch(&self, run: RunId) -> Result<Option<Stored<RunRecord>>, JournalError> {
        Ok(self.runs.read_fresh(&run.to_string(), RUN).await?)
    }

    /// A page of older events that the run's record names: it was written with it, so that it is there.
    async fn page(&self, run: RunId, number: u32) -> Result<Page, JournalError> {
        let page: Option<Stored<Page>> = self.runs.read_fresh(&run.to_string(), &page_id(number)).await?;
        let missing = || JournalError::Unavailable(format!("page {number} of {run} is not seen yet").into());
        page.map(|page| page.body).ok_or_else(missing)
    }

    /// Whether what is stored is what this append wanted to write: its answer may have been lost.
    async fn was_written(&self, append: &Append<'_>) -> Result<bool, JournalError> {
        let stored = self.fetch(append.run).await?;
        Ok(stored.is_some_and(|stored| stored.body.state == *append.state))
    }

    /// The lease that is ours under another tag: the answer to a heartbeat may have been lost.
    async fn renewed(&self, run: RunId, held: &Held) -> Result<Option<Held>, JournalError> {
        let stored: Option<Stored<LeaseRecord>> = self.runs.read_fresh(&run.to_string(), LEASE).await?;
        let ours = stored.filter(|stored| stored.body.holder == held.holder && stored.etag != held.etag);
        Ok(ours.map(|stored| Held { etag: stored.etag, ..held.clone() }))
    }

    async fn write(&self, append: &Append<'_>, held: Option<&Held>) -> Result<(), JournalError> {
        let run = append.run;
        let stored = match held {
            Some(held) => held.run.clone(),
            None => self.fetch(run).await?.ok_or(JournalError::Conflict(run))?,
        };
        if stored.body.state.version != append.expected {
            return Err(JournalError::Conflict(run));
        }
        let (record, page) = stored.body.followed_by(append, self.clock.now());
        let mut batch = Batch::of(&run.to_string()).replace(RUN, &record, &stored.etag);
        if let Some(held) = held {
            batch = batch.delete(LEASE, &held.etag);
        }
        if let Some((id, page)) = page {
            batch = batch.create(&id, &page);
        }
        match self.runs.commit(batch).await {
            Ok(_) => Ok(()),
            Err(Fault::Refused { .. }) if self.was_written(append).await? => Ok(()),
            Err(Fault::Refused { index: 1, .. }) if held.is_some() => Err(JournalError::Fenced(run)),
            Err(fault) if fault.is_race() => Err(JournalError::Conflict(run)),
            Err(fault @ Fault::TooLarge) => Err(damaged(run, fault)),
            Err(fault) => Err(fault.into()),
        }
    }
}

#[async_trait]
impl Journal for CosmosJournal {
    async fn create(
        &self,
        run: RunId,
        first: &Event,
        state: &RunState,
        hint: Hint,
    ) -> Result<(), JournalError> {
        let record = RunRecord::begun(first, state);
        if self.runs.create(&run.to_string(), RUN, &record).await? {
            send_or_leave(self.post.as_ref(), hint_letter(&hint, state.started)).await;
        }
        Ok(())
    }

    async fn claim(&self, run: RunId, now: Timestamp, until: Timestamp) -> Result<Claim, JournalError> {
        let fence = now.as_microsecond().cast_unsigned();
        let holder = format!("{:032x}", self.ids.random());
        let record = LeaseRecord::new(fence, until, holder);
        match self.take(run, &record, None).await? {
            Ok(claim) => return Ok(claim),
            Err(Fault::Refused { index: 1, status: NOT_FOUND }) => return Ok(Claim::Missing),
            Err(Fault::Refused { index: 0, status: CONFLICT }) => {}
            Err(fault) => return Err(fault.into()),
        }
        let Some(earlier) = self.runs.read_fresh::<LeaseRecord>(&run.to_string(), LEASE).await? else {
            // Given back in this moment; the hint comes again.
            return Ok(Claim::Busy);
        };
        if earlier.body.ends > now.as_microsecond() && earlier.body.holder != record.holder {
            return Ok(Claim::Busy);
        }
        let record = LeaseRecord { fence: fence.max(earlier.body.fence + 1), ..record };
        match self.take(run, &record, Some(&earlier.etag)).await? {
            Ok(claim) => Ok(claim),
            Err(Fault::Refused { index: 1, status: NOT_FOUND }) => Ok(Claim::Missing),
            Err(fault) if fault.is_race() => Ok(Claim::Busy),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn renew(&self, lease: &Lease, until: Timestamp) -> Result<(), JournalError> {
        let mine = |held: &&Held| held.fence == lease.fence;
        let known =
            self.held().get(&lease.run).filter(mine).map(|held| (held.etag.clone(), held.holder.clone()));
        let Some((etag, holder)) = known else { return Err(JournalError::Fenced(lease.run)) };
        let pk = lease.run.to_string();
        let record = LeaseRecord::new(lease.fence, until, holder);
        let renewed = match self.runs.replace((&pk, LEASE), &record, &etag).await? {
            Some(renewed) => renewed,
            // Perhaps our own first try, whose answer was lost.
            None => match self.runs.read_fresh::<LeaseRecord>(&pk, LEASE).await? {
                Some(stored) if stored.body.holder == record.holder => stored.etag,
                _ => return Err(JournalError::Fenced(lease.run)),
            },
        };
        if let Some(held) = self.held().get_mut(&lease.run).filter(|held| held.fence == lease.fence) {
            held.etag = renewed;
        }
        Ok(())
    }

    async fn release(&self, lease: &Lease) {
        if let Some(held) = self.let_go(lease) {
            self.give_back(lease.run, &held).await;
        }
    }

    async fn append(&self, append: Append<'_>) -> Result<(), JournalError> {
        let mut held = match append.lease {
            Some(lease) => Some(self.let_go(lease).ok_or(JournalError::Fenced(append.run))?),
            None => None,
        };
        let mut written = self.write(&append, held.as_ref()).await;
        if let (Err(JournalError::Fenced(run)), Some(known)) = (&written, &held)
            && let Some(renewed) = self.renewed(*run, known).await?
        {
            written = self.write(&append, Some(&renewed)).await;
            held = Some(renewed);
        }
        if let (Err(error), Some(held)) = (&written, held)
            && !matches!(error, JournalError::Fenced(_))
        {
            // Not given back with the write. If it was after all, it has another tag or is gone, and nothing happens here.
            self.give_back(append.run, &held).await;
        }
        written?;
        for (hint, due) in &append.hints {
            send_or_leave(self.post.as_ref(), hint_letter(hint, *due)).await;
        }
        Ok(())
    }

    async fn history(&self, run: RunId) -> Result<Option<(RunState, Vec<Entry>)>, JournalError> {
        let Some(Stored { body, .. }) = self.fetch(run).await? else { return Ok(None) };
        let mut entries = Vec::new();
        for number in 0..body.pages {
            entries.extend(unfolded(self.page(run, number).await?.events));
        }
        entries.extend(unfolded(body.events));
        Ok(Some((body.state, entries)))
    }

    async fn output(&self, run: RunId, step: &StepName) -> Result<Option<Value>, JournalError> {
        let mut pages = 0;
        // Whoever holds the run has read it.
        let known =
            self.held().get(&run).map(|held| (output_of(&held.run.body.events, step), held.run.body.pages));
        let found = match known {
            Some((found, older)) => {
                pages = older;
                found
            }
            None => self.fetch(run).await?.and_then(|stored| {
                pages = stored.body.pages;
                output_of(&stored.body.events, step)
            }),
        };
        if found.is_some() {
            return Ok(found);
        }
        for number in (0..pages).rev() {
            if let Some(found) = output_of(&self.page(run, number).await?.events, step) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn open_runs(&self, now: Timestamp) -> Result<Vec<(RunId, RunState)>, JournalError> {
        #[derive(Deserialize)]
        struct Open {
            pk: RunId,
            state: RunState,
        }
        #[derive(Deserialize)]
        struct Busy {
            pk: RunId,
        }
        let open: Vec<Open> =
            self.runs.find_everywhere("SELECT c.pk, c.state FROM c WHERE c.open = true", &[]).await?;
        let busy: Vec<Busy> = self
            .runs
            .find_everywhere(
                "SELECT c.pk FROM c WHERE c.id = 'lease' AND c.ends > @now",
                &[("@now", json!(now.as_microsecond()))],
            )
            .await?;
        let mut free: Vec<(RunId, RunState)> = open
            .into_iter()
            .filter(|open| !busy.iter().any(|busy| busy.pk == open.pk))
            .map(|open| (open.pk, open.state))
            .collect();
        free.sort_by_key(|(run, _)| *run);
        Ok(free)
    }
}

impl CosmosJournal {
    async fn give_back(&self, run: RunId, held: &Held) {
        if let Err(error) = self.runs.delete(&run.to_string(), LEASE, Some(&held.etag)).await {
            tracing::debug!(run.id = %run, error = %error, "the lease on {run} runs out by itself");
        }
    }

    /// Forgets the lease, and gives what was known of it if it was this one.
    fn let_go(&self, lease: &Lease) -> Option<Held> {
        let mut held = self.held();
        if held.get(&lease.run).is_some_and(|held| held.fence == lease.fence) {
            held.remove(&lease.run)
        } else {
            None
        }
    }
}
