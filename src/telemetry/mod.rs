//! Sets up tracing once: one JSON line per event on stderr for services, short lines for people, and spans and metrics
//! for whoever receives telemetry.

mod app_insights;
mod collector;
mod exporter;
mod otlp;

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use self::app_insights::Ingestion;
use self::collector::Collector;
use self::exporter::{Receiver, Running};
use self::otlp::Otlp;
use crate::config::{Level, TelemetrySettings};
use crate::trace::TARGET;

/// How long the end of the service waits for the last telemetry.
const FLUSH: Duration = Duration::from_secs(2);

/// How log lines look and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Short lines on stderr.
    People,
    /// One JSON object per line on stderr; stdout belongs to the command's answer.
    Json,
    /// One JSON object per line on stdout, where the Functions host reads lines that are no errors.
    JsonForHost,
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn lines(level: Level, format: Format) -> BoxedLayer {
    // Other people's crates say more than anybody wants to know below a warning; telemetry is not for the log.
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("windlass", level);
    let json = || tracing_subscriber::fmt::layer().json().flatten_event(true);
    match format {
        Format::People => {
            let people = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false);
            people.with_writer(std::io::stderr).with_filter(filter).boxed()
        }
        Format::Json => json().with_writer(std::io::stderr).with_filter(filter).boxed(),
        Format::JsonForHost => json().with_writer(std::io::stdout).with_filter(filter).boxed(),
    }
}

fn begin(layers: Vec<BoxedLayer>) {
    if tracing_subscriber::registry().with(layers).try_init().is_err() {
        tracing::debug!("logging was started before");
    }
}

/// Starts logging from `level` on. Calling it a second time changes nothing.
pub fn start(level: Level, format: Format) {
    begin(vec![lines(level, format)]);
}

/// Exporters at work.
#[must_use = "telemetry that is dropped sends no more"]
pub struct Telemetry(Vec<Running>);

impl Telemetry {
    /// Waits for the end of `run`, and sends what waits, of a start that failed too.
    pub async fn until<T>(self, run: impl Future<Output = T>) -> T {
        let ended = run.await;
        self.stop().await;
        ended
    }

    /// Sends what waits, for a short while.
    async fn stop(self) {
        let all = futures_util::future::join_all(self.0.into_iter().map(Running::stop));
        if tokio::time::timeout(FLUSH, all).await.is_err() {
            tracing::warn!("the last telemetry could not be sent in time");
        }
    }
}

/// Starts logging, and exporting to whoever receives telemetry; `credential` is for a receiver that wants tokens.
/// Needs a runtime.
///
/// # Errors
/// When TLS cannot be set up.
pub fn start_exporting(
    (level, format): (Level, Format),
    settings: &TelemetrySettings,
    credential: Option<&Arc<dyn TokenCredential>>,
) -> reqwest::Result<Telemetry> {
    let insights = settings.app_insights.as_ref();
    let insights = insights.map(|insights| Receiver::AppInsights(Ingestion::new(insights, credential)));
    let otlp = settings.otlp.as_ref().map(|base| Receiver::Otlp(Otlp::new(base)));
    let (mut outlets, mut running) = (Vec::new(), Vec::new());
    for receiver in insights.into_iter().chain(otlp) {
        let (outlet, exporter) = exporter::start(receiver)?;
        outlets.push(outlet);
        running.push(exporter);
    }
    let mut layers = vec![lines(level, format)];
    if !outlets.is_empty() {
        let telemetry = Targets::new().with_target(TARGET, LevelFilter::DEBUG);
        layers.push(Collector(outlets).with_filter(telemetry).boxed());
    }
    begin(layers);
    Ok(Telemetry(running))
}
