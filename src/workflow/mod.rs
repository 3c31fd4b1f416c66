//! Runs chains of steps durably. Knows no deployment.
//!
//! - [`chain`]: what a chain is made of; [`state`]: the fold of a run's history; [`decide`]: what to do next, pure;
//! - [`advance`]: performs one decision; [`signal`]: cancel and resume; [`sweep`]: repairs what was lost;
//! - [`journal`] and [`queue`]: the two ports.
//!
//! Invariants, above all what is absent: no step runs outside a lease; no decision reads anything but the state,
//! the chain and the time; nothing is remembered between invocations but the journal; a hint carries no data.

pub mod advance;
pub mod backlog;
pub mod chain;
pub mod decide;
pub mod journal;
pub mod queue;
pub mod retry;
pub mod signal;
pub mod state;
pub mod sweep;

use std::sync::Arc;
use std::time::Duration;

use crate::ambient::{Clock, Ids};
use chain::Chains;
use journal::Journal;

/// Everything that the workflow needs to run chains.
#[derive(Clone)]
pub struct Engine {
    /// The truth about every run.
    pub journal: Arc<dyn Journal>,
    /// Every chain, by name and version.
    pub chains: Arc<Chains>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter and lease holders.
    pub ids: Arc<dyn Ids>,
}

/// How long a lease lasts without a heartbeat. Longer than any one store call, short enough that a lost worker is
/// noticed while a person still watches.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often a running step renews its lease: three chances before it runs out.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
