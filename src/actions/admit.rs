//! Starts the runs of the deployments whose turn it is.

use std::sync::Arc;

use super::ActionError;
use crate::ambient::after;
use crate::deploy::deployment::{Deployment, Filter, RunMaker, Status};
use crate::steps::names;
use crate::trace::TraceContext;
use crate::windlass::Windlass;
use crate::workflow::journal::RunId;

impl Windlass {
    /// Admits as many queued deployments as the caps allow and begins their runs. A crash between the two is repaired
    /// by the sweep, which begins them again.
    ///
    /// # Errors
    /// [`ActionError`]; calling it again goes on.
    pub async fn admit(&self) -> Result<usize, ActionError> {
        let now = self.tools.clock.now();
        let ids = Arc::clone(&self.tools.ids);
        let run: RunMaker = Box::new(move || RunId::new(now, ids.random()));
        let admitted = self.tools.deployments.admit(self.tools.limits.caps, now, run).await?;
        for deployment in &admitted {
            self.begin_run(deployment).await?;
        }
        Ok(admitted.len())
    }

    /// Begins again whatever was admitted and has no run in the journal, because the service died in between.
    pub(super) async fn begin_admitted(&self) -> Result<(), ActionError> {
        let filter = Filter {
            status: Some(Status::Running),
            limit: self.tools.limits.caps.total.max(100),
            ..Filter::default()
        };
        for deployment in self.tools.deployments.list(&filter).await? {
            self.begin_run(&deployment).await?;
        }
        Ok(())
    }

    async fn begin_run(&self, deployment: &Deployment) -> Result<(), ActionError> {
        let (Some(run), Some(chain)) = (deployment.run, self.engine.chains.newest(names::DEPLOY)) else {
            return Ok(());
        };
        let started = deployment.started.unwrap_or(deployment.created);
        let deadline = after(started, self.tools.limits.deployment);
        let subject = deployment.id.to_string();
        // One that came by queue has a trace of its own.
        let trace = deployment.trace.unwrap_or_else(|| TraceContext::of_name(&subject));
        Ok(self.engine.begin(run, chain, (&subject, Some(trace)), deadline).await?)
    }
}
