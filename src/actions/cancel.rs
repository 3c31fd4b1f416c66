//! Stops a deployment.

use super::ActionError;
use crate::deploy::deployment::Status;
use crate::deploy::ids::DeploymentId;
use crate::windlass::Windlass;
use crate::workflow::signal::Signalled;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not begun: it is cancelled.
    AtOnce,
    /// Its run stops, is undone and cleaned up.
    Stopping,
    /// Too late, it has this status.
    TooLate(Status),
    /// There is no such deployment.
    Missing,
}

impl Windlass {
    /// Cancels a deployment that waits or runs.
    ///
    /// # Errors
    /// [`ActionError`]; calling it again is harmless.
    pub async fn cancel(&self, id: DeploymentId, by: &str) -> Result<Cancelled, ActionError> {
        let tools = &self.tools;
        if tools.deployments.cancel_queued(id, tools.clock.now()).await? {
            let now = tools.clock.now();
            let line =
                crate::deploy::log::Line::new(now, "deployment.ended", None, "cancelled before it began");
            tools.logs.append(id, vec![line.with("status", Status::Cancelled.as_str())]).await?;
            return Ok(Cancelled::AtOnce);
        }
        let Some(deployment) = tools.deployments.get(id).await? else { return Ok(Cancelled::Missing) };
        let run = match (deployment.status, deployment.run) {
            (Status::Running, Some(run)) => run,
            (status, _) => return Ok(Cancelled::TooLate(status)),
        };
        match self.engine.cancel(run, by).await? {
            Signalled::Accepted => Ok(Cancelled::Stopping),
            Signalled::TooLate => Ok(Cancelled::TooLate(deployment.status)),
            // Admitted a moment ago, its run is about to be begun: begin it, then cancel it.
            Signalled::Missing => {
                self.begin_admitted().await?;
                match self.engine.cancel(run, by).await? {
                    Signalled::Accepted => Ok(Cancelled::Stopping),
                    Signalled::TooLate | Signalled::Missing => Ok(Cancelled::TooLate(deployment.status)),
                }
            }
        }
    }
}
