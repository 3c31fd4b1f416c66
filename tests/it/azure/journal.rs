//! What only a journal far away has to bear: lost answers, throttling, and many workers at the same time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use windlass::ambient::{Clock as _, ManualClock, SystemIds, after};
use windlass::azure::journal::CosmosJournal;
use windlass::workflow::chain::StepName;
use windlass::workflow::journal::{Append, Claim, Journal as _, JournalError, Lease, RunId};
use windlass::workflow::queue::Hint;
use windlass::workflow::state::{Event, RunState};

use super::cosmos::{Account, Trouble, emulator, rules};
use crate::ports::Outbox;

pub(crate) fn begin(run: RunId, now: Timestamp) -> (Event, RunState, Hint) {
    let first = Event::Started {
        chain: "c".into(),
        chain_version: 1,
        subject: "s".into(),
        deadline: Timestamp::MAX,
        trace: None,
    };
    let state = RunState::begin(&first, now).unwrap();
    (first, state, Hint { run, function: "step-build", seq: 1 })
}

pub(crate) fn journal(account: &Account, clock: &Arc<ManualClock>) -> CosmosJournal {
    let outbox: Arc<Outbox> = Arc::default();
    CosmosJournal::new(account.runs.clone(), outbox, Arc::clone(clock) as Arc<_>, Arc::new(SystemIds))
}

/// A run that has begun, in an account of its own.
async fn begun() -> (Account, Arc<ManualClock>, CosmosJournal, RunId) {
    let account = Account::new().await;
    let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
    let journal = journal(&account, &clock);
    let run = RunId::new(clock.now(), 1);
    let (first, state, hint) = begin(run, clock.now());
    journal.create(run, &first, &state, hint).await.unwrap();
    (account, clock, journal, run)
}

/// Moves the run `steps` times and gives how often a move had to be begun again.
pub(crate) async fn walk(
    journal: &CosmosJournal,
    run: RunId,
    clock: &Arc<ManualClock>,
    steps: usize,
) -> usize {
    let (mut done, mut again) = (0, 0);
    while done < steps {
        clock.advance(Duration::from_millis(1));
        let now = clock.now();
        let (lease, state) = match journal.claim(run, now, after(now, Duration::from_secs(30))).await {
            Ok(Claim::Held(lease, state)) => (lease, *state),
            Ok(Claim::Busy) => {
                // A claim whose answer was lost: its lease runs out.
                clock.advance(Duration::from_secs(31));
                again += 1;
                continue;
            }
            Ok(Claim::Missing) => panic!("the run is gone"),
            Err(_) => {
                again += 1;
                continue;
            }
        };
        done = usize::try_from(state.version).unwrap() - 1;
        if done == steps {
            journal.release(&lease).await;
            break;
        }
        let event = Event::StepWaits {
            step: StepName::new("s"),
            until: Timestamp::MAX,
            memo: json!({ "n": done, "text": "x".repeat(2_000) }),
        };
        let mut next = state.clone();
        next.apply(&event, now).unwrap();
        let append = Append {
            run,
            expected: state.version,
            lease: Some(&lease),
            events: &[event],
            state: &next,
            hints: Vec::new(),
        };
        again += usize::from(journal.append(append).await.is_err());
    }
    again
}

#[tokio::test]
async fn a_long_history_is_paged_and_folds_to_the_same() {
    let (_account, clock, journal, run) = begun().await;
    assert_eq!(walk(&journal, run, &clock, 400).await, 0);
    let (stored, entries) = journal.history(run).await.unwrap().unwrap();
    assert_eq!((stored.version, entries.len()), (401, 401));
    assert!(entries.iter().zip(1..).all(|(entry, seq)| entry.seq == seq));
    let mut folded = RunState::begin(&entries[0].event, entries[0].at).unwrap();
    for entry in &entries[1..] {
        folded.apply(&entry.event, entry.at).unwrap();
    }
    assert_eq!(folded.memo, stored.memo);
}

#[tokio::test]
async fn answers_that_are_lost_cost_time_and_nothing_else() {
    for (trouble, percent) in [
        (Trouble::LostAnswers, 30),
        (Trouble::Throttled, 90),
        (Trouble::Unavailable, 60),
        (Trouble::RetryWith, 20),
    ] {
        let emulator = emulator();
        let account = Account::troubled(&emulator, trouble, percent).await;
        let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
        let journal = journal(&account, &clock);
        let run = RunId::new(clock.now(), 1);
        let (first, state, hint) = begin(run, clock.now());
        while journal.create(run, &first, &state, hint.clone()).await.is_err() {}
        let again = walk(&journal, run, &clock, 10).await;
        let calm = Account::of(&emulator).await;
        let (stored, entries) = self::journal(&calm, &clock).history(run).await.unwrap().unwrap();
        assert_eq!((stored.version, entries.len()), (11, 11), "{trouble:?}");
        for (n, entry) in entries[1..].iter().enumerate() {
            let Event::StepWaits { memo, .. } = &entry.event else { panic!("{entry:?}") };
            assert_eq!(memo["n"], n, "{trouble:?}: no move is there twice");
        }
        eprintln!("{trouble:?} in {percent} of 100: {again} moves were begun again");
    }
}

#[tokio::test]
async fn looks_that_say_nothing_new_do_not_let_the_run_grow() {
    let (account, clock, journal, run) = begun().await;
    let look = async |memo: Value| {
        clock.advance(Duration::from_secs(5));
        let now = clock.now();
        let claim = journal.claim(run, now, after(now, Duration::from_secs(30))).await.unwrap();
        let Claim::Held(lease, state) = claim else { panic!("it is free") };
        let until = after(now, Duration::from_secs(5));
        let event = Event::StepWaits { step: StepName::new("s"), until, memo };
        let mut next = (*state).clone();
        next.apply(&event, now).unwrap();
        let append = Append {
            run,
            expected: state.version,
            lease: Some(&lease),
            events: &[event],
            state: &next,
            hints: Vec::new(),
        };
        journal.append(append).await.unwrap();
    };
    let size = async || {
        let stored = account.runs.read_fresh::<Value>(&run.to_string(), "run").await.unwrap().unwrap();
        stored.body.to_string().len()
    };
    look(json!({ "work": 1 })).await;
    look(json!({ "work": 1 })).await;
    let early = size().await;
    for _ in 0..200 {
        look(json!({ "work": 1 })).await;
    }
    assert!(size().await < early + 100, "{} after {early}", size().await);
    look(json!({ "work": 2 })).await;
    assert!(size().await > early + 100, "other work is another event");
    let (stored, entries) = journal.history(run).await.unwrap().unwrap();
    assert_eq!((stored.version, entries.len()), (204, 204));
    let mut folded = RunState::begin(&entries[0].event, entries[0].at).unwrap();
    for entry in &entries[1..] {
        folded.apply(&entry.event, entry.at).unwrap();
        assert_eq!(folded.version, entry.seq);
    }
    assert_eq!(folded, stored);
}

#[tokio::test]
async fn a_lease_goes_by_itself_however_it_was_written() {
    let (account, clock, journal, run) = begun().await;
    let lease = Duration::from_secs(30);
    let ttl = async || {
        let stored = account.runs.read_fresh::<Value>(&run.to_string(), "lease").await.unwrap().unwrap();
        stored.body["ttl"].as_u64()
    };
    let claim = journal.claim(run, clock.now(), after(clock.now(), lease)).await.unwrap();
    let Claim::Held(held, _) = claim else { panic!("it is free") };
    assert_eq!(ttl().await, Some(3_600));
    journal.renew(&held, after(clock.now(), lease)).await.unwrap();
    assert_eq!(ttl().await, Some(3_600), "a heartbeat keeps it");
    clock.advance(lease * 2);
    let claim = journal.claim(run, clock.now(), after(clock.now(), lease)).await.unwrap();
    assert!(matches!(claim, Claim::Held(..)), "the lease ran out");
    assert_eq!(ttl().await, Some(3_600), "so does whoever takes it over");
}

/// A move that waits for ever.
async fn wait(journal: &CosmosJournal, lease: &Lease, state: &RunState) -> Result<(), JournalError> {
    let event = Event::StepWaits { step: StepName::new("s"), until: Timestamp::MAX, memo: Value::Null };
    let mut next = state.clone();
    next.apply(&event, state.started).unwrap();
    let append = Append {
        run: lease.run,
        expected: state.version,
        lease: Some(lease),
        events: &[event],
        state: &next,
        hints: Vec::new(),
    };
    journal.append(append).await
}

#[tokio::test]
async fn a_heartbeat_whose_answer_was_lost_costs_no_work() {
    let (account, clock, journal, run) = begun().await;
    let until = after(clock.now(), Duration::from_secs(30));
    let Claim::Held(lease, state) = journal.claim(run, clock.now(), until).await.unwrap() else {
        panic!("it is free")
    };
    // It was written, and the journal does not know the new tag.
    let pk = run.to_string();
    let stored = account.runs.read_fresh::<Value>(&pk, "lease").await.unwrap().unwrap();
    account.runs.replace((&pk, "lease"), &stored.body, &stored.etag).await.unwrap().unwrap();
    wait(&journal, &lease, &state).await.unwrap();
    let (stored, _) = journal.history(run).await.unwrap().unwrap();
    assert_eq!(stored.version, 2);
    assert!(
        matches!(journal.claim(run, clock.now(), until).await.unwrap(), Claim::Held(..)),
        "it is free again"
    );
}

#[tokio::test]
async fn an_append_that_fails_gives_the_lease_back() {
    let emulator = emulator();
    let batches = rules(Trouble::Unavailable, 100).remove(0);
    batches.disable();
    let account = Account::ruled(&emulator, vec![Arc::clone(&batches)]).await;
    let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
    let journal = journal(&account, &clock);
    let run = RunId::new(clock.now(), 1);
    let (first, state, hint) = begin(run, clock.now());
    journal.create(run, &first, &state, hint).await.unwrap();
    let until = after(clock.now(), Duration::from_secs(30));
    let Claim::Held(lease, state) = journal.claim(run, clock.now(), until).await.unwrap() else {
        panic!("it is free")
    };
    batches.enable();
    let failed = wait(&journal, &lease, &state).await;
    assert!(matches!(failed, Err(JournalError::Unavailable(_))), "{failed:?}");
    batches.disable();
    let again = journal.claim(run, clock.now(), until).await.unwrap();
    assert!(matches!(again, Claim::Held(..)), "nobody waits until the lease runs out: {again:?}");
}
