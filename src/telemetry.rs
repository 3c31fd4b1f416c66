//! Sets up tracing once: one JSON line per event on stderr for services, short lines for people.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Level;

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

/// Starts logging from `level` on. Calling it a second time changes nothing.
pub fn start(level: Level, format: Format) {
    // Other people's crates say more than anybody wants to know below a warning.
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("windlass", level);
    let registry = tracing_subscriber::registry().with(filter);
    let json = || tracing_subscriber::fmt::layer().json().flatten_event(true);
    let started = match format {
        Format::People => {
            let people = tracing_subscriber::fmt::layer().with_ansi(false);
            registry.with(people.with_target(false).with_writer(std::io::stderr)).try_init()
        }
        Format::Json => registry.with(json().with_writer(std::io::stderr)).try_init(),
        Format::JsonForHost => registry.with(json().with_writer(std::io::stdout)).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
