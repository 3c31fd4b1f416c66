//! Changes of container apps: one at a time, each watched for a while only; whoever comes later asks the app where it stands.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::app_body::state;
use super::arm::{Arm, Begun, Contract, Progress};
use crate::ambient::{Clock, between};
use crate::deploy::runtime::RuntimeError;

pub(super) const APPS: Contract = Contract::ContainerApps;
/// Longest wait for the change before and again for one's own: together they fit into an invocation's 60 s.
const PATIENCE: Duration = Duration::from_secs(22);
/// How often an app is looked at meanwhile.
const LOOK: Duration = Duration::from_secs(2);

/// The resource of a container app.
pub(super) fn app(name: &str) -> String {
    format!("Microsoft.App/containerApps/{name}")
}

/// The resource of the environment that apps, jobs and certificates are in.
pub(super) fn environment(name: &str) -> String {
    format!("Microsoft.App/managedEnvironments/{name}")
}

/// Watches changes.
#[derive(Clone)]
pub(super) struct Changes {
    pub(super) arm: Arc<Arm>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Changes {
    /// Waits for the end of a change, within bounds.
    pub(super) async fn finish(&self, begun: Begun) -> Result<(), RuntimeError> {
        let Begun::Running(operation) = begun else { return Ok(()) };
        let begun_at = self.clock.now();
        loop {
            let wait = match self.arm.poll(&operation).await? {
                Progress::Done(_) => return Ok(()),
                Progress::Running(wait) => wait,
            };
            if between(begun_at, self.clock.now()) + wait > PATIENCE {
                return Err(RuntimeError::Unavailable("Azure is still at it".to_owned()));
            }
            self.clock.sleep(wait).await;
        }
    }

    /// The app when it may be changed; a change under way is waited for, within bounds.
    pub(super) async fn settled(&self, name: &str) -> Result<Option<Value>, RuntimeError> {
        let begun_at = self.clock.now();
        loop {
            let found = self.arm.get(APPS, &app(name)).await?;
            if !found.as_ref().is_some_and(is_changing) {
                return Ok(found);
            }
            if between(begun_at, self.clock.now()) > PATIENCE {
                return Err(RuntimeError::Unavailable(format!("another change of {name} is under way")));
            }
            self.clock.sleep(LOOK).await;
        }
    }
}

/// Whether a change of the app is under way.
pub(super) fn is_changing(app: &Value) -> bool {
    matches!(state(app), "InProgress" | "Deleting")
}
