//! Properties of `decide` over random histories.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use windlass::ambient::after;
use windlass::workflow::chain::{Chain, Context, Next, Place, Step, StepError, StepName};
use windlass::workflow::decide::{Decision, decide, look_again};
use windlass::workflow::retry::RetryPolicy;
use windlass::workflow::state::{Event, Outcome, Phase, RunState};

struct Never;

#[async_trait]
impl Step for Never {
    async fn run(&self, _cx: &Context<'_>) -> Result<Next, StepError> {
        Ok(Next::Done(Value::Null))
    }
}

const NAMES: [&str; 7] = ["1", "2", "3", "4", "5", "6", "7"];

fn chain() -> Chain {
    let place = |name: &'static str| Place {
        name: StepName::new(name),
        function: "f",
        retry: RetryPolicy::DEFAULT,
        step: Arc::new(Never),
    };
    let mut steps: Vec<Place> = NAMES.into_iter().map(place).collect();
    let cleanup = steps.pop();
    Chain { name: "c", version: 1, steps, cleanup, observer: None }
}

/// What the outside world does at one decision.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    Wait,
    Hiccup,
    Fail,
    Cancel,
    Late,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        12 => Just(Fate::Done), 3 => Just(Fate::Wait), 3 => Just(Fate::Hiccup), 1 => Just(Fate::Fail), 1 => Just(Fate::Cancel), 1 => Just(Fate::Late),
    ];
    prop::collection::vec(fate, 0..60)
}

struct Played {
    state: RunState,
    ran: Vec<String>,
    undone: Vec<String>,
    cancelled: bool,
    moves: usize,
}

fn waits(chain: &Chain, index: usize, now: Timestamp) -> Event {
    let step = chain.place(index).unwrap().name.clone();
    Event::StepWaits { step, until: after(now, Duration::from_secs(5)), memo: json!(1) }
}

/// Plays a run to its end: the fates first, then everything goes well.
fn play(fates: &[Fate]) -> Played {
    let chain = chain();
    let mut now = Timestamp::UNIX_EPOCH;
    let deadline = after(now, Duration::from_secs(600));
    let first =
        Event::Started { chain: "c".into(), chain_version: 1, subject: "s".into(), deadline, trace: None };
    let mut state = RunState::begin(&first, now).unwrap();
    let mut played =
        Played { state: state.clone(), ran: Vec::new(), undone: Vec::new(), cancelled: false, moves: 0 };
    let mut fates = fates.iter().copied();
    loop {
        played.moves += 1;
        assert!(played.moves < 1_000, "the run does not end");
        let mut fate = fates.next().unwrap_or(Fate::Done);
        if let Fate::Cancel = fate {
            // A finished last step and the begin of the cleanup are one append, so no signal comes in between.
            let in_between = state.phase == Phase::Forward && state.cursor == chain.steps.len();
            if !in_between && state.apply(&Event::CancelRequested { by: "t".into() }, now).is_ok() {
                played.cancelled |= state.outcome == Some(Outcome::Cancelled);
            }
            fate = Fate::Done;
        }
        if let Fate::Late = fate {
            now = after(now, Duration::from_secs(300));
        }
        let event = match decide(&state, &chain, now) {
            Decision::Rest => break,
            Decision::Record(event) => event,
            Decision::WaitUntil(at) => {
                assert!(at > now);
                now = at;
                continue;
            }
            Decision::Run(index) => {
                let step = chain.place(index).unwrap().name.clone();
                let error = StepError::permanent("X", "x");
                match fate {
                    Fate::Wait => waits(&chain, index, now),
                    Fate::Hiccup => {
                        Event::StepFailed { step, error, retry_at: Some(after(now, Duration::from_secs(1))) }
                    }
                    Fate::Fail => Event::StepFailed { step, error, retry_at: None },
                    Fate::Done | Fate::Cancel | Fate::Late => {
                        played.ran.push(step.to_string());
                        Event::StepDone { step, output: Value::Null }
                    }
                }
            }
            Decision::Undo(index) if matches!(fate, Fate::Wait) => waits(&chain, index, now),
            Decision::Undo(index) => {
                let step = chain.place(index).unwrap().name.clone();
                played.undone.push(step.to_string());
                Event::StepUndone { step }
            }
        };
        state.apply(&event, now).unwrap();
        if let Some(at) = look_again(&state, &chain, now) {
            assert!(at >= now);
        }
    }
    played.state = state;
    played
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_run_in_order_and_nothing_runs_after_the_end(fates in fates()) {
        let played = play(&fates);
        let forward: Vec<&String> = played.ran.iter().filter(|name| *name != "7").collect();
        let expected: Vec<&str> = NAMES.into_iter().take(forward.len()).collect();
        prop_assert_eq!(forward, expected);
        let mut sorted = played.undone.clone();
        sorted.sort_by(|a, b| b.cmp(a));
        prop_assert_eq!(&sorted, &played.undone);
    }

    #[test]
    fn every_run_ends_with_the_cleanup_or_visibly_stuck(fates in fates()) {
        let played = play(&fates);
        match played.state.phase {
            Phase::Ended => {
                prop_assert_eq!(played.ran.last().map(String::as_str), Some("7"));
                let all = played.ran.len() == 7;
                prop_assert_eq!(played.state.outcome == Some(Outcome::Succeeded), all);
            }
            Phase::Stuck => prop_assert!(played.state.failure.is_some()),
            Phase::Forward | Phase::Undo | Phase::Cleanup => prop_assert!(false, "not ended"),
        }
    }

    #[test]
    fn a_cancel_that_counts_always_ends_the_run_as_cancelled(fates in fates()) {
        let played = play(&fates);
        if played.cancelled && played.state.phase == Phase::Ended {
            prop_assert_eq!(played.state.outcome, Some(Outcome::Cancelled));
        }
    }

    #[test]
    fn every_step_that_may_have_started_is_undone_once(fates in fates()) {
        let played = play(&fates);
        if played.state.phase == Phase::Ended && played.state.outcome != Some(Outcome::Succeeded) {
            let forward = played.ran.iter().filter(|name| *name != "7").count();
            prop_assert!(played.undone.len() == forward + 1 || played.undone.len() == forward, "{:?} {:?}", played.ran, played.undone);
        }
    }
}

#[test]
fn the_deadline_ends_a_run_that_waits() {
    let chain = chain();
    let now = Timestamp::UNIX_EPOCH;
    let deadline = after(now, Duration::from_secs(10));
    let first =
        Event::Started { chain: "c".into(), chain_version: 1, subject: "s".into(), deadline, trace: None };
    let mut state = RunState::begin(&first, now).unwrap();
    let until = after(now, Duration::from_secs(3_600));
    state.apply(&Event::StepWaits { step: StepName::new("1"), until, memo: json!({}) }, now).unwrap();
    assert_eq!(look_again(&state, &chain, now), Some(deadline));
    assert_eq!(decide(&state, &chain, deadline), Decision::Record(Event::DeadlinePassed));
}

#[test]
fn an_undo_that_waits_is_looked_at_when_it_is_due_even_past_the_deadline() {
    let chain = chain();
    let now = Timestamp::UNIX_EPOCH;
    let deadline = after(now, Duration::from_secs(10));
    let first =
        Event::Started { chain: "c".into(), chain_version: 1, subject: "s".into(), deadline, trace: None };
    let mut state = RunState::begin(&first, now).unwrap();
    let failed = StepError::permanent("X", "x");
    let step = StepName::new("1");
    state.apply(&Event::StepFailed { step: step.clone(), error: failed, retry_at: None }, now).unwrap();
    let until = after(now, Duration::from_secs(60));
    state.apply(&Event::StepWaits { step: step.clone(), until, memo: json!({ "since": 0 }) }, now).unwrap();
    assert_eq!((look_again(&state, &chain, now), &state.memo), (Some(until), &json!({ "since": 0 })));
    assert_eq!(decide(&state, &chain, now), Decision::Undo(0));
    state.apply(&Event::StepUndone { step }, until).unwrap();
    assert!(state.memo.is_null() && state.look_at.is_none());
}

#[test]
fn an_event_that_cannot_follow_is_refused_and_changes_nothing() {
    let first = Event::Started {
        chain: "c".into(),
        chain_version: 1,
        subject: "s".into(),
        deadline: Timestamp::MAX,
        trace: None,
    };
    let mut state = RunState::begin(&first, Timestamp::UNIX_EPOCH).unwrap();
    let before = state.clone();
    assert!(state.apply(&Event::StepUndone { step: StepName::new("1") }, Timestamp::UNIX_EPOCH).is_err());
    assert!(state.apply(&first, Timestamp::UNIX_EPOCH).is_err());
    assert_eq!(state, before);
}
