//! Sets up tracing once: one JSON line per event on stderr for services, short lines for people.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Level;

/// Starts logging from `level` on. `json` gives one JSON object per line, on stdout, where the Functions host reads it;
/// otherwise lines for people go to stderr. Calling it a second time changes nothing.
pub fn start(level: Level, json: bool) {
    // Other people's crates say more than anybody wants to know below a warning.
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("windlass", level);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stdout))
            .try_init()
    } else {
        let colours = std::io::stderr().is_terminal();
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(colours)
                    .with_target(false)
                    .with_writer(std::io::stderr),
            )
            .try_init()
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
