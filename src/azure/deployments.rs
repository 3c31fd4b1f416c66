//! Deployments in Cosmos DB: one partition, so that a deployment and the desk change together or not at all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cosmos::{Container, Fault, RACES, Stored};
use super::desk::{Desk, Draft, Key, Place, Write};
use super::post::{Post, admit_letter, send_or_leave};
use super::record::Record;
use crate::ambient::{Clock, Ids};
use crate::deploy::deployment::{
    Caps, DURATION_SAMPLES, Deployment, Deployments, Ending, Filter, NewDeployment, Requeued, RunMaker,
    Stats, Status, StoreError, Submitted,
};
use crate::deploy::ids::{DeploymentId, Digest};
use crate::workflow::journal::RunId;
use crate::workflow::retry::{Jitter, RetryPolicy};

/// The partition of the desk, the deployments and the idempotency keys.
pub(super) const PARTITION: &str = "deployments";
const DESK: &str = "desk";
/// Deployments that take their turn with one write: a batch has 100 operations at most.
const MOST_AT_ONCE: usize = 40;
/// Larger than any number of a deployment, and exact in JSON.
const MOST_NO: i64 = 1 << 53;
/// Of one page, whatever is asked.
const MOST_LISTED: usize = 1_000;
/// Forgotten with one write: a batch has 100 operations at most.
const MOST_FORGOTTEN: usize = 90;
/// How long those wait who lost a race for the desk: each by chance, so that they do not meet again.
const PACE: RetryPolicy = RetryPolicy {
    retries: RACES,
    base: Duration::from_millis(20),
    cap: Duration::from_secs(1),
    jitter: Jitter::Full,
};

/// [`Deployments`] in Cosmos DB.
pub struct CosmosDeployments {
    records: Container,
    post: Arc<dyn Post>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl CosmosDeployments {
    /// Deployments in container `records`.
    #[must_use]
    pub fn new(records: Container, post: Arc<dyn Post>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { records, post, clock, ids }
    }

    /// Waits after race number `race` (1 = the first) for the desk was lost.
    async fn lost(&self, race: u32) {
        if let Some(wait) = PACE.wait_after(race.min(RACES), self.ids.random()) {
            self.clock.sleep(wait).await;
        }
    }

    /// The desk as it is, to be changed and closed; who is not the first to close begins anew.
    async fn open(&self) -> Result<Draft, Fault> {
        let stored: Option<Stored<Desk>> = self.records.read_fresh(PARTITION, DESK).await?;
        let (etag, desk) = stored.map_or((None, Desk::default()), |stored| (Some(stored.etag), stored.body));
        Ok(Draft { etag, before: desk.clone(), desk, writes: Vec::new() })
    }

    /// Writes the desk and what goes with it; false when somebody was faster, and nothing was written.
    async fn close(&self, mut draft: Draft) -> Result<bool, Fault> {
        if draft.writes.is_empty() && draft.desk == draft.before {
            return Ok(true);
        }
        draft.desk.writer = format!("{:032x}", self.ids.random());
        let batch = draft.batch(PARTITION, DESK);
        match self.records.commit(batch).await {
            Ok(_) => Ok(true),
            // The answer to a write that was tried twice may be that somebody was faster: ourselves.
            Err(fault) if fault.is_race() => Ok(self.open().await?.desk.writer == draft.desk.writer),
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn record(&self, id: DeploymentId) -> Result<Option<Record>, Fault> {
        let stored: Option<Stored<Record>> = self.records.read_fresh(PARTITION, &id.to_string()).await?;
        Ok(stored.map(|stored| stored.body))
    }

    async fn wake(&self, id: DeploymentId, now: Timestamp) {
        send_or_leave(self.post.as_ref(), admit_letter(id, now)).await;
    }

    /// The answer to a request whose key was used before.
    async fn repeated(
        &self,
        new: &NewDeployment,
        id: &str,
        digest: Digest,
    ) -> Result<Option<Submitted>, Fault> {
        let since = new.repeats_since();
        let stored: Option<Stored<Key>> = self.records.read_fresh(PARTITION, id).await?;
        Ok(stored.filter(|stored| stored.body.at >= since).map(|stored| {
            if stored.body.digest == digest {
                Submitted::Repeated(stored.body.deployment)
            } else {
                Submitted::KeyReused
            }
        }))
    }

    async fn accept(&self, new: &NewDeployment, draft: &mut Draft) -> Result<Submitted, Fault> {
        if let Some((key, digest)) = &new.key {
            let id = format!("key-{}", Digest::of(format!("{}\n{key}", new.wish.org).as_bytes()));
            if let Some(answer) = self.repeated(new, &id, *digest).await? {
                return Ok(answer);
            }
            let at = new.at.as_microsecond();
            let key = Key { kind: "key".to_owned(), digest: *digest, deployment: new.id, at };
            draft.writes.push(Write::Key(id, key));
        }
        let app = new.wish.app();
        let waiting: Vec<DeploymentId> =
            draft.desk.queued.iter().filter(|place| place.app == app).map(|place| place.id).collect();
        for id in waiting {
            draft.desk.leave_queue(id);
            draft.desk.count(Some(Status::Queued), Some(Status::Superseded));
            if let Some(record) = self.record(id).await? {
                let ended = Some(new.at.as_microsecond());
                draft.put(Record { status: Status::Superseded, ended, ..record });
            }
        }
        if draft.desk.is_full() {
            return Ok(Submitted::Full);
        }
        draft.desk.last += 1;
        draft.desk.enqueue(Place::of(draft.desk.last, new.id, &new.wish));
        draft.desk.count(None, Some(Status::Queued));
        draft.put(Record::accepted(new, draft.desk.last));
        Ok(Submitted::New)
    }

    /// The next ones whose turn it is; `None` when somebody was faster.
    async fn try_admit(
        &self,
        (caps, most): (Caps, usize),
        now: Timestamp,
        run: &Mutex<RunMaker>,
    ) -> Result<Option<Vec<Record>>, Fault> {
        let mut draft = self.open().await?;
        let mut admitted = Vec::new();
        for place in draft.desk.admit(caps, most) {
            let Some(record) = self.record(place.id).await? else {
                draft.desk.end_turn(place.id);
                continue;
            };
            let run = run.lock().unwrap_or_else(PoisonError::into_inner)();
            let started = Some(now.as_microsecond());
            let record = Record { status: Status::Running, run: Some(run), started, ended: None, ..record };
            draft.put(record.clone());
            admitted.push(record);
        }
        Ok(self.close(draft).await?.then_some(admitted))
    }

    async fn put_back(&self, id: DeploymentId, draft: &mut Draft) -> Result<Requeued, Fault> {
        let Some(record) = self.record(id).await? else { return Ok(Requeued::Refused) };
        let place = Place::of(record.no, id, &record.wish);
        let free = draft.desk.running.iter().all(|other| other.app != place.app);
        match record.status {
            Status::Failed | Status::Cancelled if draft.desk.is_full() => Ok(Requeued::Full),
            Status::Failed | Status::Cancelled => {
                draft.desk.count(Some(record.status), Some(Status::Queued));
                draft.desk.enqueue(place);
                draft.put(Record { status: Status::Queued, result: None, ended: None, ..record });
                Ok(Requeued::Queued)
            }
            Status::Stuck if free => {
                draft.desk.count(Some(Status::Stuck), Some(Status::Running));
                draft.desk.running.push(place);
                draft.put(Record { status: Status::Running, ended: None, ..record });
                Ok(Requeued::Running)
            }
            Status::Stuck | Status::Queued | Status::Running | Status::Succeeded | Status::Superseded => {
                Ok(Requeued::Refused)
            }
        }
    }
}

#[async_trait]
impl Deployments for CosmosDeployments {
    async fn submit(&self, new: NewDeployment) -> Result<Submitted, StoreError> {
        for race in 1..=RACES {
            let mut draft = self.open().await?;
            let answer = self.accept(&new, &mut draft).await?;
            if answer != Submitted::New {
                return Ok(answer);
            }
            // Ours may have been the first of two that were faster.
            if self.close(draft).await? || self.record(new.id).await?.is_some() {
                self.wake(new.id, new.at).await;
                return Ok(answer);
            }
            self.lost(race).await;
        }
        Err(Fault::Busy.into())
    }

    async fn get(&self, id: DeploymentId) -> Result<Option<Deployment>, StoreError> {
        Ok(self.record(id).await?.map(Deployment::from))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Deployment>, StoreError> {
        let mut text = "SELECT * FROM c WHERE c.kind = 'deployment' AND c.no < @before".to_owned();
        let mut parameters = vec![("@before", json!(filter.before.unwrap_or(MOST_NO)))];
        let mut only = |name: &'static str, field: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!(" AND c.{field} = {name}");
                parameters.push((name, Value::String(value)));
            }
        };
        only("@project", "project", filter.project.as_ref().map(ToString::to_string));
        only("@status", "status", filter.status.map(|status| status.as_str().to_owned()));
        only("@environment", "environment", filter.environment.as_ref().map(ToString::to_string));
        text += &format!(" ORDER BY c.no DESC OFFSET 0 LIMIT {}", filter.limit.min(MOST_LISTED));
        let records: Vec<Record> = self.records.find(PARTITION, &text, &parameters).await?;
        Ok(records.into_iter().map(Deployment::from).collect())
    }

    async fn admit(&self, caps: Caps, now: Timestamp, run: RunMaker) -> Result<Vec<Deployment>, StoreError> {
        let run = Mutex::new(run);
        let mut all = Vec::new();
        let mut most = MOST_AT_ONCE;
        for race in 1..=RACES {
            match self.try_admit((caps, most), now, &run).await {
                Ok(Some(admitted)) if admitted.is_empty() => return Ok(all),
                Ok(Some(admitted)) => all.extend(admitted.into_iter().map(Deployment::from)),
                Ok(None) => self.lost(race).await,
                // Their records are too much for one batch.
                Err(Fault::TooLarge) if most > 1 => most /= 2,
                Err(fault) => return Err(fault.into()),
            }
        }
        // What is left is admitted by the next hint or the sweep.
        Ok(all)
    }

    async fn settle(
        &self,
        (id, run): (DeploymentId, RunId),
        status: Status,
        result: &Ending,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mine = |record: &Record| {
            record.run == Some(run)
                && matches!(record.status, Status::Running | Status::Stuck)
                && record.status != status
        };
        for race in 1..=RACES {
            let mut draft = self.open().await?;
            let Some(record) = self.record(id).await?.filter(mine) else { return Ok(()) };
            draft.desk.end_turn(id);
            draft.desk.count(Some(record.status), Some(status));
            let ended = Some(now.as_microsecond());
            draft.put(Record { status, result: Some(result.clone()), ended, ..record });
            if self.close(draft).await? {
                self.wake(id, now).await;
                return Ok(());
            }
            self.lost(race).await;
        }
        Err(Fault::Busy.into())
    }

    async fn cancel_queued(&self, id: DeploymentId, now: Timestamp) -> Result<bool, StoreError> {
        for race in 1..=RACES {
            let mut draft = self.open().await?;
            let Some(record) = self.record(id).await? else { return Ok(false) };
            if draft.desk.leave_queue(id).is_none() {
                return Ok(false);
            }
            draft.desk.count(Some(Status::Queued), Some(Status::Cancelled));
            draft.put(Record { status: Status::Cancelled, ended: Some(now.as_microsecond()), ..record });
            if self.close(draft).await? {
                return Ok(true);
            }
            self.lost(race).await;
        }
        Err(Fault::Busy.into())
    }

    async fn requeue(&self, id: DeploymentId, now: Timestamp) -> Result<Requeued, StoreError> {
        for race in 1..=RACES {
            let mut draft = self.open().await?;
            let answer = self.put_back(id, &mut draft).await?;
            if self.close(draft).await? {
                if answer == Requeued::Queued {
                    self.wake(id, now).await;
                }
                return Ok(answer);
            }
            self.lost(race).await;
        }
        Err(Fault::Busy.into())
    }

    async fn stats(&self) -> Result<Stats, StoreError> {
        let stored: Option<Stored<Desk>> = self.records.read(PARTITION, DESK).await?;
        Ok(Stats { by_status: stored.map(|stored| stored.body.counts).unwrap_or_default() })
    }

    async fn ended_since(&self, since: Timestamp) -> Result<u64, StoreError> {
        let text = "SELECT c.no FROM c WHERE c.kind = 'deployment' AND c.ended >= @since AND c.status IN ('succeeded', 'failed', 'cancelled')";
        let since = [("@since", json!(since.as_microsecond()))];
        let ended: Vec<Value> = self.records.find(PARTITION, text, &since).await?;
        Ok(ended.len() as u64)
    }

    async fn durations_ms(&self) -> Result<Vec<u64>, StoreError> {
        #[derive(Deserialize)]
        struct Times {
            started: Option<i64>,
            ended: Option<i64>,
        }
        let text = format!(
            "SELECT TOP {DURATION_SAMPLES} c.started, c.ended, c.no FROM c
             WHERE c.kind = 'deployment' AND c.status = 'succeeded' ORDER BY c.no DESC"
        );
        let times: Vec<Times> = self.records.find(PARTITION, &text, &[]).await?;
        let took = |times: Times| Some((times.ended? - times.started?).max(0).cast_unsigned() / 1_000);
        let mut durations: Vec<u64> = times.into_iter().filter_map(took).collect();
        durations.sort_unstable();
        Ok(durations)
    }
}

impl CosmosDeployments {
    /// Deletes records of deployments and no longer counts them, some at a time.
    pub(super) async fn forget(&self, old: &[DeploymentId]) -> Result<(), Fault> {
        for some in old.chunks(MOST_FORGOTTEN) {
            let mut races = 0;
            while !self.try_forget(some).await? {
                races += 1;
                self.lost(races).await;
            }
        }
        Ok(())
    }

    async fn try_forget(&self, some: &[DeploymentId]) -> Result<bool, Fault> {
        let mut draft = self.open().await?;
        for id in some {
            if let Some(record) = self.record(*id).await?.filter(|record| record.status.is_final()) {
                draft.desk.count(Some(record.status), None);
                draft.writes.push(Write::Gone(*id));
            }
        }
        self.close(draft).await
    }
}
