//! The port that asks, before anything is made, whether what a deployment is going to use is there and may be used.

use async_trait::async_trait;

use super::detect::Plan;
use super::ids::Name;
use super::source::Manifest;

/// What a deployment is going to do.
#[derive(Clone, Copy)]
pub struct Needs<'a> {
    /// Whose source it is.
    pub org: &'a Name,
    /// How it is built, and where it runs.
    pub plan: &'a Plan,
    /// What is built; none where an artifact is used again.
    pub source: Option<&'a Manifest>,
}

/// Something is missing without which the deployment would only fail later.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Unprepared {
    /// Stable code.
    pub code: &'static str,
    /// What is missing, and what to do.
    pub message: String,
}

/// What deployments stand on that is not on this machine.
#[async_trait]
pub trait Footing: Send + Sync {
    /// Looks whether everything is there that the deployment needs. It is cheap, and nothing is changed. What cannot be looked at
    /// is not missing: the step that uses it says how it is.
    ///
    /// # Errors
    /// [`Unprepared`] when something is certainly missing.
    async fn look(&self, needs: &Needs<'_>) -> Result<(), Unprepared>;
}
