//! The struct of ports that is handed to everyone. No logic.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::ambient::{Clock, Ids};
use crate::deploy::artifacts::Artifacts;
use crate::deploy::blobs::Blobs;
use crate::deploy::builder::Builder;
use crate::deploy::deployment::{Caps, Deployments};
use crate::deploy::footing::Footing;
use crate::deploy::log::Logs;
use crate::deploy::release::Releases;
use crate::deploy::retention::{Keep, Remains, Retention};
use crate::deploy::runtime::Runtime;
use crate::deploy::secrets::Secrets;
use crate::deploy::size::Size;
use crate::deploy::source::SourceLimits;
use crate::workflow::Engine;
use crate::workflow::backlog::Backlog;
use crate::workflow::queue::Queue;
use crate::workflow::retry::RetryPolicy;

/// What steps work with.
pub struct Tools {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub ids: Arc<dyn Ids>,
    /// Deployments.
    pub deployments: Arc<dyn Deployments>,
    /// Projects, releases, artifacts.
    pub releases: Arc<dyn Releases>,
    /// Forgets the past.
    pub retention: Arc<dyn Retention>,
    /// What deployments leave elsewhere.
    pub remains: Vec<Arc<dyn Remains>>,
    /// Content.
    pub blobs: Arc<dyn Blobs>,
    /// What builds made.
    pub artifacts: Arc<dyn Artifacts>,
    /// Lines.
    pub logs: Arc<dyn Logs>,
    /// Builds.
    pub builder: Arc<dyn Builder>,
    /// What deployments stand on elsewhere; nothing where everything is on this machine.
    pub footing: Vec<Arc<dyn Footing>>,
    /// Running apps.
    pub runtime: Arc<dyn Runtime>,
    /// Sealing.
    pub secrets: Arc<dyn Secrets>,
    /// Looks into the queues.
    pub backlog: Arc<dyn Backlog>,
    /// What the service depends on, for `/health/detailed`.
    pub checks: Vec<Arc<dyn Check>>,
    /// Bounds.
    pub limits: Limits,
    /// Patience.
    pub looks: Looks,
}

/// When a run looks again at what it waits for, at the latest: a wake may be lost, or there is none.
#[derive(Debug, Clone, Copy)]
pub struct Looks {
    /// At a build.
    pub build: Pace,
    /// At a revision that starts, and at a change of the runtime.
    pub release: Duration,
    /// How often and how fast a step is tried again.
    pub retry: RetryPolicy,
}

impl Looks {
    /// Where whatever ends wakes its run, and everything is on one machine.
    pub const WOKEN: Self = Self {
        build: Pace { first: Duration::from_secs(30), last: Duration::from_secs(30) },
        release: Duration::from_secs(20),
        retry: RetryPolicy::DEFAULT,
    };
}

/// How often to look at what takes a second or an hour: soon at first, then more and more rarely.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The shortest pause.
    pub first: Duration,
    /// The longest one.
    pub last: Duration,
}

impl Pace {
    /// The pause after `waited`: a sixth of that, within the bounds.
    #[must_use]
    pub fn after(self, waited: Duration) -> Duration {
        (waited / 6).clamp(self.first, self.last)
    }
}

/// Something that the service depends on.
#[async_trait]
pub trait Check: Send + Sync {
    /// Its name in `/health/detailed`.
    fn name(&self) -> &'static str;

    /// Whether it works now.
    ///
    /// # Errors
    /// Why it does not, in words that may be shown.
    async fn check(&self) -> Result<(), String>;

    /// What its newest use said, without using it.
    fn last_use_was_fine(&self) -> bool;
}

/// Bounds that the operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of deployments at the same time.
    pub caps: Caps,
    /// Of one deployment from admission to its end.
    pub deployment: Duration,
    /// Of one source.
    pub source: SourceLimits,
    /// Of one build.
    pub build: Size,
    /// Of the past.
    pub keep: Keep,
}

/// Everything, for actions, triggers and handlers.
#[derive(Clone)]
pub struct Windlass {
    /// Runs chains.
    pub engine: Engine,
    /// Carries hints.
    pub queue: Arc<dyn Queue>,
    /// The ports.
    pub tools: Arc<Tools>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_late_by_a_sixth_and_never_by_more_than_the_longest_pause() {
        let pace = Pace { first: Duration::from_secs(1), last: Duration::from_secs(5) };
        let pauses = [0, 6, 12, 30, 3_600].map(|waited| pace.after(Duration::from_secs(waited)).as_secs());
        assert_eq!(pauses, [1, 1, 2, 5, 5]);
    }
}
