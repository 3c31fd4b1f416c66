//! Kaniko in a job of Container Apps (`Microsoft.App`, 2025-07-01): run once, never again by itself.
//!
//! A job is made for each build, so that its executions are the build's. What it says comes by Log Analytics, minutes
//! late.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::app_body::{kept_from_containers, state, text};
use super::app_logs::AppLogs;
use super::arm::{Arm, Begun, Contract};
use super::arm_error::ArmError;
use super::kaniko_cell::{CONTAINER, Cell, Order, Seen, Site, Verdict};
use crate::deploy::builder::BuilderError;

const APPS: Contract = Contract::ContainerApps;
/// How long the last lines of a failed build are waited for; Log Analytics is two to five minutes late.
const LAG: Duration = Duration::from_secs(180);
/// Lines that are taken over at a time.
const LINES: usize = 5_000;

/// [`Cell`] in jobs.
pub struct JobCell {
    /// Resource Manager.
    pub arm: Arc<Arm>,
    /// Of what it is made.
    pub site: Site,
    /// Id of the Container Apps environment.
    pub environment: String,
    /// What jobs say.
    pub logs: AppLogs,
}

fn job(name: &str) -> String {
    format!("Microsoft.App/jobs/{name}")
}

/// What the service says about the oldest execution. The list of states is open: what is not known goes on.
fn execution(found: &Value) -> Seen {
    let over = |verdict, exit, said: &str| Seen::Over { verdict, exit, said: said.to_owned() };
    match text(found, "/properties/status") {
        "Succeeded" => over(Verdict::Succeeded, Some(0), ""),
        "Failed" => over(Verdict::Failed, None, "Container Apps gave no reason"),
        "Stopped" => over(Verdict::Failed, None, "somebody stopped it"),
        _ => Seen::Running,
    }
}

impl JobCell {
    fn body(&self, order: &Order) -> Value {
        let name = |variable: &str| variable.to_ascii_lowercase().replace('_', "-");
        let secrets = order.secrets();
        let kept = secrets.map(|(variable, value)| json!({ "name": name(variable), "value": value }));
        let given = secrets.map(|(variable, _)| json!({ "name": variable, "secretRef": name(variable) }));
        let (cpu, memory) = (f64::from(self.site.size.cpu_millis) / 1_000.0, self.site.size.memory());
        let properties = json!({
            "environmentId": self.environment,
            "workloadProfileName": "Consumption",
            "configuration": {
                "triggerType": "Manual",
                "replicaTimeout": order.most.as_secs().max(1),
                "replicaRetryLimit": 0,
                "manualTriggerConfig": { "parallelism": 1, "replicaCompletionCount": 1 },
                "secrets": kept,
                "registries": self.site.registries(),
                "identitySettings": self.site.identity.iter().map(|id| kept_from_containers(id)).collect::<Vec<_>>(),
            },
            "template": { "containers": [{
                "name": CONTAINER,
                "image": self.site.image.to_string(),
                "command": order.command("exit $code"),
                "env": given,
                "resources": { "cpu": cpu, "memory": memory },
            }] },
        });
        self.site.resource(order, &properties)
    }

    /// The executions of a job, oldest first; `None` when there is no job.
    async fn executions(&self, name: &str) -> Result<Option<Vec<Value>>, ArmError> {
        let listed = self.arm.get(APPS, &format!("{}/executions", job(name))).await?;
        Ok(listed.map(|listed| {
            let mut found = listed.get("value").and_then(Value::as_array).cloned().unwrap_or_default();
            found.sort_by(|a, b| text(a, "/properties/startTime").cmp(text(b, "/properties/startTime")));
            found
        }))
    }
}

#[async_trait]
impl Cell for JobCell {
    fn word(&self) -> &'static str {
        "job"
    }

    async fn make(&self, order: &Order) -> Result<(), ArmError> {
        self.arm.put(APPS, &job(&order.name), &self.body(order)).await.map(drop)
    }

    async fn begin(&self, name: &str) -> Result<(), ArmError> {
        self.arm.act(APPS, &format!("{}/start", job(name)), None).await.map(drop)
    }

    async fn look(&self, name: &str) -> Result<Seen, ArmError> {
        let Some(executions) = self.executions(name).await? else { return Ok(Seen::Missing) };
        if let Some(oldest) = executions.first() {
            return Ok(execution(oldest));
        }
        let Some(found) = self.arm.get(APPS, &job(name)).await? else { return Ok(Seen::Missing) };
        Ok(match state(&found) {
            "Succeeded" => Seen::Made,
            "Deleting" => Seen::Missing,
            "Failed" | "Canceled" => Seen::Over {
                verdict: Verdict::Failed,
                exit: None,
                said: "Container Apps could not make the job".to_owned(),
            },
            _ => Seen::Running,
        })
    }

    async fn lines(
        &self,
        name: &str,
        after: Option<Timestamp>,
    ) -> Result<Vec<(Timestamp, String)>, BuilderError> {
        if !self.logs.are_kept() {
            return Ok(Vec::new());
        }
        let lines = self.logs.of_job(name, after, LINES).await;
        lines.map_err(|error| BuilderError::Unavailable(error.to_string()))
    }

    fn lag(&self) -> Duration {
        if self.logs.are_kept() { LAG } else { Duration::ZERO }
    }

    async fn remove(&self, name: &str) -> Result<Begun, ArmError> {
        let executions = self.executions(name).await?.unwrap_or_default();
        for running in executions.iter().filter(|found| execution(found) == Seen::Running) {
            let stop = format!("{}/executions/{}/stop", job(name), text(running, "/name"));
            match self.arm.act(APPS, &stop, None).await {
                // It may have ended in this moment.
                Ok(_) | Err(ArmError::Missing(_) | ArmError::Rejected(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.arm.delete(APPS, &job(name)).await
    }
}
