//! Windlass: a folder, a git ref or an image becomes a live, health-checked app.
//!
//! The map of the house is `docs/ARCHITECTURE.md`.

pub mod actions;
pub mod ambient;
pub mod api;
pub mod azure;
pub mod bench;
pub mod causes;
pub mod cli;
pub mod cloud;
pub mod config;
pub mod deploy;
pub mod embedded;
pub mod http;
pub mod lock;
pub mod package;
pub mod run;
pub mod serve;
mod serving;
pub mod setup;
pub mod steps;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod triggers;
pub mod windlass;
pub mod workflow;
