//! Kaniko in a container group of Azure Container Instances (`Microsoft.ContainerInstance`, 2023-05-01), for those who
//! have no Container Apps environment.
//!
//! The service may run a container again that ended with an error, even when it was told never to ("Run containerized
//! tasks with restart policies", Microsoft Learn). So the container ends without one and tells the exit code by its last
//! words; where it was killed and runs again, only its first end counts, and the group is deleted with the build.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::app_body::{state, text};
use super::arm::{Arm, Begun, Contract};
use super::arm_error::ArmError;
use super::kaniko_cell::{CONTAINER, Cell, Order, Seen, Site, Verdict};
use crate::deploy::builder::BuilderError;

const INSTANCES: Contract = Contract::ContainerInstances;

/// [`Cell`] in container groups.
pub struct GroupCell {
    /// Resource Manager.
    pub arm: Arc<Arm>,
    /// Of what it is made.
    pub site: Site,
}

fn group(name: &str) -> String {
    format!("Microsoft.ContainerInstance/containerGroups/{name}")
}

/// What ended a container, if it has ended: the first of its ends that is known.
fn first_end(view: &Value) -> Option<&Value> {
    let states = ["/previousState", "/currentState"].into_iter().filter_map(|pointer| view.pointer(pointer));
    states.into_iter().find(|state| text(state, "/state") == "Terminated")
}

fn seen(found: &Value) -> Seen {
    let failed = |exit, said: &str| {
        let said = if said.is_empty() { "Azure Container Instances gave no reason" } else { said };
        Seen::Over { verdict: Verdict::Failed, exit, said: said.to_owned() }
    };
    if state(found) == "Failed" {
        let events = found.pointer("/properties/instanceView/events").and_then(Value::as_array);
        let said = events.and_then(|events| events.last()).map(|event| text(event, "/message"));
        return failed(None, said.unwrap_or_default());
    }
    let view = found.pointer("/properties/containers/0/properties/instanceView").unwrap_or(&Value::Null);
    let restarts = view.get("restartCount").and_then(Value::as_u64).unwrap_or_default();
    let Some(end) = first_end(view) else {
        // It ran before, and nothing is left of how that ended.
        return if restarts > 0 { failed(None, "its container was started again") } else { Seen::Running };
    };
    match end.get("exitCode").and_then(Value::as_i64) {
        Some(0) => Seen::Over { verdict: Verdict::Unsure, exit: Some(0), said: String::new() },
        exit => failed(exit, text(end, "/detailStatus")),
    }
}

/// Lines of a log that begin with their times; one without belongs to the line before it.
fn timed(content: &str) -> Vec<(Timestamp, String)> {
    let mut lines: Vec<(Timestamp, String)> = Vec::new();
    for line in content.lines() {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        let before = lines.last().map(|(at, _)| *at);
        match (head.parse::<Timestamp>().ok(), before) {
            (Some(at), _) => lines.push((at, rest.to_owned())),
            (None, Some(at)) => lines.push((at, line.to_owned())),
            // Cut off above.
            (None, None) => {}
        }
    }
    lines
}

impl GroupCell {
    fn body(&self, order: &Order) -> Value {
        let given = order.secrets().map(|(name, value)| json!({ "name": name, "secureValue": value }));
        let size = self.site.size;
        let (cpu, memory) = (f64::from(size.cpu_millis) / 1_000.0, f64::from(size.memory_mib) / 1_024.0);
        let properties = json!({
            "osType": "Linux",
            "sku": "Standard",
            "restartPolicy": "Never",
            "imageRegistryCredentials": self.site.registries(),
            "containers": [{ "name": CONTAINER, "properties": {
                "image": self.site.image.to_string(),
                "command": order.command("exit 0"),
                "environmentVariables": given,
                "resources": { "requests": { "cpu": cpu, "memoryInGB": memory } },
            } }],
        });
        self.site.resource(order, &properties)
    }
}

#[async_trait]
impl Cell for GroupCell {
    fn word(&self) -> &'static str {
        "aci"
    }

    async fn make(&self, order: &Order) -> Result<(), ArmError> {
        self.arm.put(INSTANCES, &group(&order.name), &self.body(order)).await.map(drop)
    }

    /// A group begins when it is made.
    async fn begin(&self, _name: &str) -> Result<(), ArmError> {
        Ok(())
    }

    async fn look(&self, name: &str) -> Result<Seen, ArmError> {
        let found = self.arm.get(INSTANCES, &group(name)).await?;
        Ok(found.as_ref().map_or(Seen::Missing, seen))
    }

    async fn lines(
        &self,
        name: &str,
        after: Option<Timestamp>,
    ) -> Result<Vec<(Timestamp, String)>, BuilderError> {
        let logs = format!("{}/containers/{CONTAINER}/logs?timestamps=true", group(name));
        let found = self.arm.get(INSTANCES, &logs).await?.unwrap_or_default();
        let lines = timed(text(&found, "/content")).into_iter();
        Ok(lines.filter(|(at, _)| after.is_none_or(|after| *at > after)).collect())
    }

    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    async fn remove(&self, name: &str) -> Result<Begun, ArmError> {
        self.arm.delete(INSTANCES, &group(name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_end_of_a_container_counts() {
        let container = |view: Value| {
            seen(
                &json!({ "properties": { "provisioningState": "Succeeded", "containers": [{ "properties": { "instanceView": view } }] } }),
            )
        };
        let ended = |code: i64| json!({ "state": "Terminated", "exitCode": code, "detailStatus": "Error" });
        let exit = |seen: Seen| match seen {
            Seen::Over { verdict, exit, .. } => Some((verdict, exit)),
            Seen::Missing | Seen::Made | Seen::Running => None,
        };
        let running = json!({ "state": "Running" });
        assert_eq!(exit(container(json!({ "restartCount": 0, "currentState": running }))), None);
        assert_eq!(exit(container(json!({}))), None);
        let unsure = container(json!({ "restartCount": 0, "currentState": ended(0) }));
        assert_eq!(exit(unsure), Some((Verdict::Unsure, Some(0))));
        let again =
            container(json!({ "restartCount": 1, "currentState": ended(0), "previousState": ended(137) }));
        assert_eq!(exit(again), Some((Verdict::Failed, Some(137))));
        let forgotten = container(json!({ "restartCount": 2, "currentState": running }));
        assert_eq!(exit(forgotten), Some((Verdict::Failed, None)));
        let never = seen(&json!({ "properties": { "provisioningState": "Failed" } }));
        assert_eq!(exit(never), Some((Verdict::Failed, None)));
    }

    #[test]
    fn lines_are_told_from_their_times() {
        let lines = timed("cut off\n2026-11-20T09:00:00.5Z one\nand more\n2026-11-20T09:00:01Z two three\n");
        let texts: Vec<&str> = lines.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["one", "and more", "two three"]);
        assert!(lines[0].0 == lines[1].0 && lines[1].0 < lines[2].0);
    }
}
