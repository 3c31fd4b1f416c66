//! Tries a deployment again that did not succeed.

use super::ActionError;
use crate::deploy::deployment::{Requeued, Status};
use crate::deploy::ids::DeploymentId;
use crate::windlass::Windlass;
use crate::workflow::signal::Signalled;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It waits for its turn again; what was built is reused.
    Queued,
    /// Its stuck run goes on where it stopped.
    Resumed,
    /// It has this status, which cannot be retried.
    Refused(Status),
    /// Too many wait; later.
    Full,
    /// There is no such deployment.
    Missing,
}

impl Windlass {
    /// Queues a failed or cancelled deployment again, or resumes a stuck one.
    ///
    /// # Errors
    /// [`ActionError`]; calling it again is harmless.
    pub async fn retry(&self, id: DeploymentId, by: &str) -> Result<Retried, ActionError> {
        let tools = &self.tools;
        let Some(deployment) = tools.deployments.get(id).await? else { return Ok(Retried::Missing) };
        let now = tools.clock.now();
        let requeued = tools.deployments.requeue(id, now).await?;
        // Also tried for a running one: a crash may have come between its turn and its resumption.
        let may_be_stuck = requeued == Requeued::Running || deployment.status == Status::Running;
        if let (true, Some(run)) = (may_be_stuck, deployment.run)
            && self.engine.resume(run, by).await? == Signalled::Accepted
        {
            return Ok(Retried::Resumed);
        }
        match requeued {
            Requeued::Queued => {}
            Requeued::Full => return Ok(Retried::Full),
            Requeued::Running | Requeued::Refused => return Ok(Retried::Refused(deployment.status)),
        }
        let line =
            crate::deploy::log::Line::new(now, "deployment.retried", None, format!("tried again by {by}"));
        tools.logs.append(id, vec![line]).await?;
        Ok(Retried::Queued)
    }
}
