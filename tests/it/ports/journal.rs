//! The suite of the `Journal` port.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use windlass::ambient::{Clock as _, after};
use windlass::workflow::chain::StepName;
use windlass::workflow::journal::{Append, Claim, Journal, JournalError, Lease, RunId};
use windlass::workflow::queue::Hint;
use windlass::workflow::state::{Event, Outcome, RunState};

use super::Ports;

const LEASE: Duration = Duration::from_secs(30);

every_adapter!(
    creating_a_run_twice_changes_nothing_and_sends_one_hint,
    one_worker_at_a_time_until_the_lease_runs_out,
    a_worker_that_lost_its_lease_cannot_append,
    an_append_that_expects_another_version_writes_nothing,
    outputs_are_the_newest_of_their_step,
    open_runs_are_those_that_are_neither_over_nor_held,
    everything_survives_a_restart_and_a_lease_ends,
);

struct Suite {
    store: Ports,
    journal: Arc<dyn Journal>,
    run: RunId,
}

impl Suite {
    async fn new(store: Ports) -> Self {
        let journal = Arc::clone(&store.journal);
        let run = RunId::new(store.clock.now(), 1);
        let suite = Self { store, journal, run };
        suite.create().await;
        suite
    }

    fn now(&self) -> Timestamp {
        self.store.clock.now()
    }

    async fn create(&self) {
        let first = Event::Started {
            chain: "c".into(),
            chain_version: 1,
            subject: "s".into(),
            deadline: Timestamp::MAX,
            trace: None,
        };
        let state = RunState::begin(&first, self.now()).unwrap();
        self.journal
            .create(self.run, &first, &state, Hint { run: self.run, function: "step-build", seq: 1 })
            .await
            .unwrap();
    }

    async fn claim(&self) -> Option<(Lease, RunState)> {
        match self.journal.claim(self.run, self.now(), after(self.now(), LEASE)).await.unwrap() {
            Claim::Held(lease, state) => Some((lease, *state)),
            Claim::Busy => None,
            Claim::Missing => panic!("the run is missing"),
        }
    }

    async fn append(
        &self,
        lease: Option<&Lease>,
        before: &RunState,
        event: Event,
    ) -> Result<RunState, JournalError> {
        let mut state = before.clone();
        state.apply(&event, self.now()).unwrap();
        let hints = vec![(Hint { run: self.run, function: "step-sync", seq: state.version }, self.now())];
        let append =
            Append { run: self.run, expected: before.version, lease, events: &[event], state: &state, hints };
        self.journal.append(append).await.map(|()| state)
    }
}

fn done(step: &'static str) -> Event {
    Event::StepDone { step: StepName::new(step), output: json!({ "of": step }) }
}

async fn creating_a_run_twice_changes_nothing_and_sends_one_hint(ports: Ports) {
    let suite = Suite::new(ports).await;
    suite.create().await;
    assert_eq!(suite.store.sent("step-build"), 1);
    let (state, entries) = suite.journal.history(suite.run).await.unwrap().unwrap();
    assert_eq!((state.version, entries.len()), (1, 1));
}

async fn one_worker_at_a_time_until_the_lease_runs_out(ports: Ports) {
    let suite = Suite::new(ports).await;
    let (first, _) = suite.claim().await.unwrap();
    assert!(suite.claim().await.is_none());
    suite.store.clock.advance(LEASE / 2);
    suite.journal.renew(&first, after(suite.now(), LEASE)).await.unwrap();
    suite.store.clock.advance(LEASE / 2 + Duration::from_secs(1));
    assert!(suite.claim().await.is_none(), "a heartbeat keeps the lease");
    suite.store.clock.advance(LEASE);
    let (second, _) = suite.claim().await.unwrap();
    assert!(second.fence > first.fence);
    assert!(matches!(suite.journal.renew(&first, Timestamp::MAX).await, Err(JournalError::Fenced(_))));
}

async fn a_worker_that_lost_its_lease_cannot_append(ports: Ports) {
    let suite = Suite::new(ports).await;
    let (first, state) = suite.claim().await.unwrap();
    suite.store.clock.advance(LEASE * 2);
    let (second, _) = suite.claim().await.unwrap();
    assert!(matches!(suite.append(Some(&first), &state, done("a")).await, Err(JournalError::Fenced(_))));
    suite.append(Some(&second), &state, done("a")).await.unwrap();
    assert!(
        matches!(suite.append(Some(&second), &state, done("a")).await, Err(JournalError::Fenced(_))),
        "the lease ended with the append"
    );
}

async fn an_append_that_expects_another_version_writes_nothing(ports: Ports) {
    let suite = Suite::new(ports).await;
    suite.store.sent("step-build");
    let (lease, state) = suite.claim().await.unwrap();
    let signalled = suite.append(None, &state, Event::CancelRequested { by: "t".into() }).await.unwrap();
    assert!(matches!(suite.append(Some(&lease), &state, done("a")).await, Err(JournalError::Conflict(_))));
    let (stored, entries) = suite.journal.history(suite.run).await.unwrap().unwrap();
    assert_eq!((stored, entries.len()), (signalled, 2));
    assert_eq!(suite.store.sent("step-sync"), 1, "only the hint of what was written");
}

async fn outputs_are_the_newest_of_their_step(ports: Ports) {
    let suite = Suite::new(ports).await;
    let (lease, state) = suite.claim().await.unwrap();
    let state = suite.append(Some(&lease), &state, done("a")).await.unwrap();
    assert_eq!(
        suite.journal.output(suite.run, &StepName::new("a")).await.unwrap(),
        Some(json!({ "of": "a" }))
    );
    assert_eq!(suite.journal.output(suite.run, &StepName::new("b")).await.unwrap(), None);
    suite
        .append(None, &state, Event::StepDone { step: StepName::new("b"), output: serde_json::Value::Null })
        .await
        .unwrap();
    assert_eq!(
        suite.journal.output(suite.run, &StepName::new("b")).await.unwrap(),
        Some(serde_json::Value::Null)
    );
}

async fn open_runs_are_those_that_are_neither_over_nor_held(ports: Ports) {
    let suite = Suite::new(ports).await;
    assert_eq!(suite.journal.open_runs(suite.now()).await.unwrap().len(), 1);
    let (lease, state) = suite.claim().await.unwrap();
    assert!(suite.journal.open_runs(suite.now()).await.unwrap().is_empty());
    suite.append(Some(&lease), &state, Event::Ended { outcome: Outcome::Succeeded }).await.unwrap();
    assert!(suite.journal.open_runs(suite.now()).await.unwrap().is_empty());
}

async fn everything_survives_a_restart_and_a_lease_ends(ports: Ports) {
    let suite = Suite::new(ports).await;
    let (lease, state) = suite.claim().await.unwrap();
    let written = suite.append(Some(&lease), &state, done("a")).await.unwrap();
    suite.claim().await.unwrap();
    let Suite { store, journal, run } = suite;
    drop(journal);
    store.clock.advance(LEASE * 2);
    let store = store.reopen();
    let now = store.clock.now();
    assert!(
        matches!(store.journal.claim(run, now, after(now, LEASE)).await.unwrap(), Claim::Held(_, state) if *state == written)
    );
    assert_eq!(store.sent("step-sync"), 1);
}
