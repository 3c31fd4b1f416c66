//! What a move costs on Azure: calls to the store, counted; and the time around them, told. Nothing here depends on a clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use windlass::ambient::{Clock as _, Ids as _, SystemClock, SystemIds};
use windlass::azure::journal::CosmosJournal;
use windlass::azure::post::{Letter, Post, PostError};
use windlass::azure::services::Services;
use windlass::triggers::table::steps;
use windlass::workflow::Engine;
use windlass::workflow::advance::Advanced;
use windlass::workflow::chain::{Chain, Chains, Context, Next, Place, Step, StepError, StepName};
use windlass::workflow::journal::RunId;
use windlass::workflow::queue::Hint;
use windlass::workflow::retry::RetryPolicy;

use super::azurite::Unsigned;
use super::cosmos::serve;
use super::doubles::slow;
use super::settings;

/// What each call to the store takes.
const STORE: Duration = Duration::from_millis(5);
/// A step without work.
struct Nothing;

#[async_trait]
impl Step for Nothing {
    async fn run(&self, _cx: &Context<'_>) -> Result<Next, StepError> {
        Ok(Next::Done(Value::Null))
    }
}

/// Hands every letter over at once, as a push would.
struct Push(UnboundedSender<Letter>);

#[async_trait]
impl Post for Push {
    async fn send(&self, letter: Letter) -> Result<(), PostError> {
        self.0.send(letter).map_err(Into::into)
    }
}

fn chain() -> Chain {
    let place = |function: &'static str| Place {
        name: StepName::new(function.trim_start_matches("step-")),
        function,
        retry: RetryPolicy::DEFAULT,
        step: Arc::new(Nothing),
    };
    let mut steps: Vec<Place> = steps().into_iter().map(place).collect();
    let cleanup = steps.pop();
    Chain { name: "empty", version: 1, steps, cleanup, observer: None }
}

fn hint(letter: &Letter) -> Hint {
    let text: Value = serde_json::from_str(&letter.text).unwrap();
    let run = text.pointer("/w1/run").and_then(Value::as_str).unwrap().parse().unwrap();
    Hint { run, function: letter.queue, seq: text.pointer("/w1/seq").and_then(Value::as_u64).unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_costs_two_round_trips_to_the_store() {
    let served = serve();
    let settings = settings(&[("COSMOS_ENDPOINT", &served.address)]);
    let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
    let (runs, _) = services.cosmos().await.unwrap();
    let (send, mut letters) = unbounded_channel();
    let journal = CosmosJournal::new(runs, Arc::new(Push(send)), Arc::new(SystemClock), Arc::new(SystemIds));
    let engine = Engine {
        journal: Arc::new(journal),
        chains: Arc::new(Chains::new([chain()])),
        clock: Arc::new(SystemClock),
        ids: Arc::new(SystemIds),
    };
    slow(&served.mood, STORE);
    let begun = Instant::now();
    let run = RunId::new(SystemClock.now(), SystemIds.random());
    let empty = engine.chains.newest("empty").unwrap();
    engine.begin(run, empty, ("nothing", None), Timestamp::MAX).await.unwrap();
    assert_eq!(served.calls().len(), 1, "a run begins with one record");
    let mut moves = 0;
    while let Ok(letter) = letters.try_recv() {
        let before = served.calls().len();
        assert_eq!(engine.advance(&hint(&letter)).await.unwrap(), Advanced::Moved);
        let calls = served.calls();
        assert_eq!(calls.len() - before, 2, "of {}: {:?}", letter.queue, &calls[before..]);
        moves += 1;
    }
    let took = begun.elapsed();
    assert_eq!(moves, steps().len());
    let (state, _) = engine.journal.history(run).await.unwrap().unwrap();
    assert!(state.is_over());
    let store = STORE * u32::try_from(1 + 2 * moves).unwrap();
    eprintln!(
        "{moves} moves at {} ms a call: {} ms, of which {} ms are our own",
        STORE.as_millis(),
        took.as_millis(),
        took.saturating_sub(store).as_millis()
    );
}
