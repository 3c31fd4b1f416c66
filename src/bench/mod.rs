//! `windlass bench`: figures of this machine, each from a throw-away service or a folder. Not tests: nothing here fails.

mod chain;
mod crash;
mod folders;
mod service;
mod timers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ambient::{Ids as _, SystemIds};
use crate::cli::Output;
use crate::cli::subcommands::BenchCommand;
use crate::config::Settings;

/// How long the canary writes.
const CANARY: Duration = Duration::from_millis(500);

/// Runs one measurement and prints its figures.
///
/// # Errors
/// When the service cannot start or the folder cannot be read.
pub async fn run(command: &BenchCommand, settings: &Settings, out: &mut Output<'_>) -> anyhow::Result<()> {
    let figures = match command {
        BenchCommand::Chain { steps, concurrency, seconds, dispatch, finished } => {
            let load = chain::Order {
                steps: *steps,
                concurrency: *concurrency,
                span: Duration::from_secs(*seconds),
                http: dispatch == "http",
                finished: *finished,
            };
            chain::chain(settings, load).await?
        }
        BenchCommand::Crash { times } => crash::crashes(settings, *times).await?,
        BenchCommand::Plan { dir } => folders::plan(dir)?,
        BenchCommand::Pack { dir } => folders::pack(dir)?,
        BenchCommand::Start { deployments, starts } => {
            service::starts(settings, *deployments, *starts).await?
        }
        BenchCommand::List { deployments, clients } => {
            service::reads(settings, *deployments, *clients).await?
        }
        BenchCommand::Timers { count, seconds } => {
            timers::timers(settings, *count, Duration::from_secs(*seconds)).await?
        }
    };
    out.put(&figures, |to| {
        figures
            .as_object()
            .into_iter()
            .flatten()
            .try_for_each(|(name, value)| writeln!(to, "{name:16} {value}"))
    })
}

/// A data folder beside the present one, on the same disk, that goes when it is dropped.
struct ThrowAway(PathBuf);

impl ThrowAway {
    fn new() -> std::io::Result<Self> {
        let path = std::env::current_dir()?.join(format!(".windlass-bench-{:x}", SystemIds.random()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// The settings of a service that keeps everything here.
    fn settings(&self, base: &Settings) -> Settings {
        Settings { port: 0, apps_port: 0, data_dir: self.0.clone(), handler_port: None, ..base.clone() }
    }
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), error = %error, "a throw-away folder is left");
        }
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
