//! Chains of empty steps through the whole service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{ThrowAway, at, canary, round};
use crate::ambient::{Clock as _, Ids as _, SystemClock, SystemIds, after};
use crate::config::Settings;
use crate::serve::{Extras, Service, start};
use crate::triggers::table;
use crate::workflow::chain::{Chain, Context, Next, Observer, Place, Step, StepError, StepName};
use crate::workflow::journal::RunId;
use crate::workflow::retry::RetryPolicy;
use crate::workflow::state::{Event, Outcome, RunState};

/// Time before the measuring begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// A step without work.
struct Nothing;

#[async_trait]
impl Step for Nothing {
    async fn run(&self, _cx: &Context<'_>) -> Result<Next, StepError> {
        Ok(Next::Done(Value::Null))
    }
}

type Waiting = Mutex<HashMap<RunId, oneshot::Sender<()>>>;

/// The way from a step to the next one.
#[derive(Default)]
struct Hops {
    /// Since a step's end was handed to the journal: a commit and a delivery.
    whole: Hop,
    /// Since the commit was on disk, and with it the next step's message: the delivery alone.
    delivery: Hop,
}

#[derive(Default)]
struct Hop {
    begun: Mutex<HashMap<String, Instant>>,
    took: Mutex<Vec<Duration>>,
}

impl Hop {
    fn begin(&self, subject: &str) {
        if let Ok(mut begun) = self.begun.lock() {
            begun.insert(subject.to_owned(), Instant::now());
        }
    }

    fn forget(&self, subject: &str) -> Option<Instant> {
        self.begun.lock().ok()?.remove(subject)
    }

    /// A step that starts before anybody could note the begin took no time that could be noted.
    fn end(&self, subject: &str) {
        let took = self.forget(subject).map_or(Duration::ZERO, |begun| begun.elapsed());
        if let Ok(mut all) = self.took.lock() {
            all.push(took);
        }
    }

    fn at(&self, per_mille: usize) -> Option<f64> {
        let mut took = self.took.lock().ok()?.clone();
        took.sort_unstable();
        at(&took, per_mille)
    }
}

/// Tells the one who waits that a run is over, and measures the way from step to step.
struct Ends(Arc<Waiting>, Arc<Hops>);

#[async_trait]
impl Observer for Ends {
    async fn started(&self, cx: &Context<'_>, _step: &StepName, _undo: bool) {
        self.1.whole.end(cx.subject);
        self.1.delivery.end(cx.subject);
    }

    async fn recording(&self, state: &RunState, _events: &[Event]) {
        self.1.delivery.forget(&state.subject);
        if !state.is_over() {
            self.1.whole.begin(&state.subject);
        }
    }

    async fn recorded(&self, run: RunId, state: &RunState) {
        if !state.is_over() {
            self.1.delivery.begin(&state.subject);
        }
        if state.is_over()
            && let Ok(mut waiting) = self.0.lock()
            && let Some(end) = waiting.remove(&run)
            && end.send(()).is_err()
        {
            tracing::trace!("the measuring is over");
        }
    }

    async fn settle(
        &self,
        _run: RunId,
        _state: &RunState,
        _outcome: Option<Outcome>,
    ) -> Result<(), StepError> {
        Ok(())
    }
}

/// What to run.
pub(super) struct Order {
    /// Steps of one chain.
    pub(super) steps: usize,
    /// Chains at the same time.
    pub(super) concurrency: usize,
    /// How long.
    pub(super) span: Duration,
    /// Whether steps are called over HTTP.
    pub(super) http: bool,
    /// Runs that ended before.
    pub(super) finished: u32,
}

/// Runs chains of empty steps.
pub(super) async fn chain(settings: &Settings, order: Order) -> anyhow::Result<Value> {
    let Order { steps, concurrency, span, http, finished } = order;
    let folder = ThrowAway::new()?;
    let canary = canary(folder.path())?;
    if finished > 0 {
        super::service::seed(folder.path(), finished).await?;
    }
    let waiting = Arc::new(Waiting::default());
    let hops = Arc::new(Hops::default());
    let own = Settings { http_calls: http, ..folder.settings(settings) };
    let service = Arc::new(start(&own, Extras { chains: vec![empty_chain(steps, &waiting, &hops)] }).await?);
    let from = Instant::now() + WARM_UP;
    let load = Load { service: Arc::clone(&service), waiting, until: from + span, from };
    let before = service.db.commits();
    let workers: Vec<_> =
        (0..concurrency).map(|_| crate::ambient::spawn(load.clone().one_after_another())).collect();
    let mut latencies: Vec<Duration> = Vec::new();
    let (mut chains, mut ended) = (0, 0);
    for worker in workers {
        let done = worker.await??;
        latencies.extend(done.latencies);
        chains += done.all;
        ended += done.ended;
    }
    let commits = service.db.commits() - before;
    // Of this process, so with the load's own share.
    let rss_kib = super::service::rss(std::process::id())?;
    drop(load);
    if let Ok(service) = Arc::try_unwrap(service) {
        service.stop().await;
    }
    latencies.sort_unstable();
    Ok(json!({
        "per_s": round(f64::from(ended) / span.as_secs_f64()),
        "p50_ms": at(&latencies, 500),
        "p99_ms": at(&latencies, 990),
        "step_to_step_p50_ms": hops.whole.at(500),
        "step_to_step_p99_ms": hops.whole.at(990),
        "delivery_p99_ms": hops.delivery.at(990),
        "fsyncs_per_step": round(commits as f64 / (f64::from(chains) * steps as f64).max(1.0)),
        "canary_per_s": round(canary),
        "rss_mib": rss_kib / 1_024,
        "steps": steps,
        "concurrency": concurrency,
        "finished": finished,
        "dispatch": if http { "http" } else { "in-process" },
    }))
}

fn empty_chain(length: usize, waiting: &Arc<Waiting>, hops: &Arc<Hops>) -> Chain {
    let functions = table::steps();
    let place = |index: usize| Place {
        name: StepName::from(format!("bench-{index}")),
        function: functions.get(index % functions.len().max(1)).copied().unwrap_or("step-build"),
        retry: RetryPolicy::DEFAULT,
        step: Arc::new(Nothing),
    };
    Chain {
        name: "bench",
        version: 1,
        steps: (0..length).map(place).collect(),
        cleanup: None,
        observer: Some(Arc::new(Ends(Arc::clone(waiting), Arc::clone(hops)))),
    }
}

#[derive(Clone)]
struct Load {
    service: Arc<Service>,
    waiting: Arc<Waiting>,
    from: Instant,
    until: Instant,
}

/// What one worker did.
#[derive(Default)]
struct Done {
    /// Of the chains that began and ended in the measured span.
    latencies: Vec<Duration>,
    /// Chains that ended in the span, whenever they began.
    ended: u32,
    /// Every chain.
    all: u32,
}

impl Load {
    /// Starts a chain when the one before has ended.
    async fn one_after_another(self) -> anyhow::Result<Done> {
        let engine = &self.service.windlass.engine;
        let chain =
            engine.chains.newest("bench").cloned().ok_or_else(|| anyhow::anyhow!("no bench chain"))?;
        let mut done = Done::default();
        while Instant::now() < self.until {
            let begun = Instant::now();
            let now = SystemClock.now();
            let run = RunId::new(now, SystemIds.random());
            let (end, ended) = oneshot::channel();
            if let Ok(mut waiting) = self.waiting.lock() {
                waiting.insert(run, end);
            }
            engine.begin(run, &chain, (&run.to_string(), None), after(now, Duration::from_secs(600))).await?;
            ended.await?;
            done.all += 1;
            if (self.from..=self.until).contains(&Instant::now()) {
                done.ended += 1;
                done.latencies.extend((begun >= self.from).then(|| begun.elapsed()));
            }
        }
        Ok(done)
    }
}
