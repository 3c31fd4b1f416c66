//! Every name of chains, steps and the functions that carry them. A stored name is never reused with another meaning.

use crate::workflow::chain::StepName;

/// The chain that makes a release live.
pub const DEPLOY: &str = "deploy";

/// Checks the wish and makes the plan.
pub const VALIDATE: StepName = StepName::new("validate");
/// Makes the isolated workspace.
pub const BUILDER: StepName = StepName::new("builder");
/// Brings the source into it.
pub const SYNC: StepName = StepName::new("sync");
/// Builds and packs.
pub const BUILD: StepName = StepName::new("build");
/// Starts, checks, switches.
pub const RELEASE: StepName = StepName::new("release");
/// Binds host names and verifies the whole.
pub const DOMAIN: StepName = StepName::new("domain");
/// Leaves nothing behind.
pub const CLEANUP: StepName = StepName::new("cleanup");
