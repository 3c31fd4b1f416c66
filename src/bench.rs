//! `windlass bench`: figures of this machine, each from a throw-away service or a folder.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::ambient::{Clock as _, Ids as _, SystemClock, SystemIds, after};
use crate::cli::args::BenchCommand;
use crate::cli::{Output, tree};
use crate::config::Settings;
use crate::serve::{Extras, Service, start};
use crate::workflow::chain::{Chain, Context, Next, Observer, Place, Step, StepError, StepName};
use crate::workflow::journal::RunId;
use crate::workflow::retry::RetryPolicy;
use crate::workflow::state::{Event, Outcome, RunState};

/// The functions that carry the steps, so that a chain takes the paths that deployments take.
const FUNCTIONS: [&str; 7] = [
    "step-validate",
    "step-builder",
    "step-sync",
    "step-build",
    "step-release",
    "step-domain",
    "step-cleanup",
];
/// How long the canary writes.
const CANARY: Duration = Duration::from_millis(500);
/// Time before the measuring begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs one measurement and prints its figures.
///
/// # Errors
/// When the service cannot start or the folder cannot be read.
pub async fn run(command: &BenchCommand, settings: &Settings, out: &mut Output<'_>) -> anyhow::Result<()> {
    let figures = match command {
        BenchCommand::Chain { steps, concurrency, seconds, dispatch } => {
            chain(settings, *steps, *concurrency, Duration::from_secs(*seconds), dispatch == "http").await?
        }
        BenchCommand::Plan { dir } => plan(dir)?,
        BenchCommand::Pack { dir } => pack(dir)?,
    };
    out.put(&figures, |to| {
        figures
            .as_object()
            .into_iter()
            .flatten()
            .try_for_each(|(name, value)| writeln!(to, "{name:16} {value}"))
    })
}

/// A step without work.
struct Nothing;

#[async_trait]
impl Step for Nothing {
    async fn run(&self, _cx: &Context<'_>) -> Result<Next, StepError> {
        Ok(Next::Done(Value::Null))
    }
}

type Waiting = Mutex<std::collections::HashMap<RunId, oneshot::Sender<()>>>;

/// Tells the one who waits that a run is over.
struct Ends(Arc<Waiting>);

#[async_trait]
impl Observer for Ends {
    async fn started(&self, _cx: &Context<'_>, _step: &StepName, _undo: bool) {}

    async fn recording(&self, _state: &RunState, _events: &[Event]) {}

    async fn recorded(&self, run: RunId, state: &RunState) {
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

async fn chain(
    settings: &Settings,
    steps: usize,
    concurrency: usize,
    span: Duration,
    http: bool,
) -> anyhow::Result<Value> {
    let folder = std::env::current_dir()?.join(format!(".windlass-bench-{:x}", SystemIds.random()));
    let canary = canary(&folder)?;
    let waiting = Arc::new(Waiting::default());
    let own = Settings {
        port: 0,
        apps_port: 0,
        data_dir: folder.clone(),
        http_calls: http,
        handler_port: None,
        ..settings.clone()
    };
    let service = Arc::new(start(&own, Extras { chains: vec![empty_chain(steps, &waiting)] }).await?);
    let from = Instant::now() + WARM_UP;
    let load = Load { service: Arc::clone(&service), waiting, until: from + span, from };
    let before = service.db.commits();
    let workers: Vec<_> =
        (0..concurrency).map(|_| crate::ambient::spawn(load.clone().one_after_another())).collect();
    let (mut latencies, mut chains): (Vec<Duration>, usize) = (Vec::new(), 0);
    for worker in workers {
        let (measured, all) = worker.await??;
        latencies.extend(measured);
        chains += all;
    }
    let commits = service.db.commits() - before;
    drop(load);
    if let Ok(service) = Arc::try_unwrap(service) {
        service.stop().await;
    }
    std::fs::remove_dir_all(&folder)?;
    latencies.sort_unstable();
    Ok(json!({
        "per_s": round(latencies.len() as f64 / span.as_secs_f64()),
        "p50_ms": at(&latencies, 500),
        "p99_ms": at(&latencies, 990),
        "fsyncs_per_step": round(commits as f64 / (chains * steps).max(1) as f64),
        "canary_per_s": round(canary),
        "steps": steps,
        "concurrency": concurrency,
        "dispatch": if http { "http" } else { "in-process" },
    }))
}

fn empty_chain(steps: usize, waiting: &Arc<Waiting>) -> Chain {
    let place = |index: usize| Place {
        name: StepName::from(format!("bench-{index}")),
        function: FUNCTIONS.get(index % FUNCTIONS.len()).copied().unwrap_or("step-build"),
        retry: RetryPolicy::DEFAULT,
        step: Arc::new(Nothing),
    };
    Chain {
        name: "bench",
        version: 1,
        steps: (0..steps).map(place).collect(),
        cleanup: None,
        observer: Some(Arc::new(Ends(Arc::clone(waiting)))),
    }
}

/// The latency that `per_mille` of all stay below, in milliseconds.
fn at(sorted: &[Duration], per_mille: usize) -> Option<f64> {
    let index = (sorted.len() * per_mille / 1_000).min(sorted.len().saturating_sub(1));
    sorted.get(index).map(|latency| round(latency.as_secs_f64() * 1_000.0))
}

fn round(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

#[derive(Clone)]
struct Load {
    service: Arc<Service>,
    waiting: Arc<Waiting>,
    from: Instant,
    until: Instant,
}

impl Load {
    /// Starts a chain when the one before has ended; gives the latencies of those in the measured span, and
    /// the number of all.
    async fn one_after_another(self) -> anyhow::Result<(Vec<Duration>, usize)> {
        let engine = &self.service.windlass.engine;
        let chain =
            engine.chains.newest("bench").cloned().ok_or_else(|| anyhow::anyhow!("no bench chain"))?;
        let (mut latencies, mut all) = (Vec::new(), 0);
        while Instant::now() < self.until {
            let begun = Instant::now();
            let now = SystemClock.now();
            let run = RunId::new(now, SystemIds.random());
            let (end, ended) = oneshot::channel();
            if let Ok(mut waiting) = self.waiting.lock() {
                waiting.insert(run, end);
            }
            engine.begin(run, &chain, "bench", after(now, Duration::from_secs(600))).await?;
            ended.await?;
            all += 1;
            if begun >= self.from && Instant::now() <= self.until {
                latencies.push(begun.elapsed());
            }
        }
        Ok((latencies, all))
    }
}

/// Commits a second of bare SQLite, one after the other: tells a quiet machine from a noisy one.
fn canary(folder: &Path) -> anyhow::Result<f64> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("canary.db");
    let connection = rusqlite::Connection::open(&path)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (x)")?;
    let begun = Instant::now();
    let mut commits = 0_u32;
    while begun.elapsed() < CANARY {
        connection.prepare_cached("INSERT INTO t VALUES (1)")?.execute([])?;
        commits += 1;
    }
    Ok(f64::from(commits) / begun.elapsed().as_secs_f64())
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let begun = Instant::now();
    let result = work()?;
    Ok((result, round(begun.elapsed().as_secs_f64() * 1_000.0)))
}

fn plan(dir: &Path) -> anyhow::Result<Value> {
    let memory = dir.join(".windlass").join("bench-memory");
    if memory.exists() {
        std::fs::remove_file(&memory)?;
    }
    let now = i128::MAX;
    let read = || tree::read(dir, &[], &memory, now);
    // Once unmeasured, so that the files are in the page cache.
    read()?;
    std::fs::remove_file(&memory)?;
    let (tree, first_ms) = timed(read)?;
    let (_, unchanged_ms) = timed(read)?;
    std::fs::remove_file(&memory)?;
    Ok(
        json!({ "files": tree.files.len(), "bytes": tree.bytes(), "first_ms": first_ms, "unchanged_ms": unchanged_ms }),
    )
}

fn pack(dir: &Path) -> anyhow::Result<Value> {
    let bundle = std::env::temp_dir().join(format!("windlass-bench-{:x}", SystemIds.random()));
    let (packed, ms) = timed(|| Ok(crate::embedded::pack::pack(dir, ".", &bundle)?))?;
    std::fs::remove_file(&bundle)?;
    Ok(json!({ "files": packed.files, "bytes": packed.bytes, "ms": ms }))
}
