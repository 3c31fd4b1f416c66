//! `windlass explain`: why a deployment waits, was built, was not built, or failed.

use serde_json::Value;

use super::Output;
use super::client::Client;
use super::show::{SECONDS, utc, write_fault};
use crate::api;

/// `windlass explain ID`: why it waits, what was reused, what failed.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn explain(client: &Client, id: &str, out: &mut Output<'_>) -> anyhow::Result<()> {
    let status: api::Status = client.get(&format!("/deploy/{id}/status")).await?;
    let before = previous_inputs(client, &status).await?;
    let inputs = inputs(&status);
    let changed: Vec<&String> = inputs
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(*value))
        .map(|(name, _)| name)
        .collect();
    let reused = status.steps.iter().any(|step| step.name == "build" && step.output["reused"] == true);
    let answer = serde_json::json!({ "deploymentId": id, "waitsFor": status.waits_for, "reused": reused, "inputs": inputs, "changed": changed, "error": status.error });
    out.put(&answer, |to| {
        writeln!(to, "{id} is {}", status.status)?;
        if let Some(reason) = &status.waits_for {
            writeln!(to, "It waits: {reason}")?;
        }
        if let Some(text) = stopped(&status) {
            writeln!(to, "{text}")?;
        }
        if reused {
            writeln!(to, "The artifact of the same inputs was reused")?;
        } else if was_built(&status) {
            if before.is_empty() && !inputs.is_empty() {
                writeln!(to, "It was built: there is no earlier deployment of this project to compare with")?;
            } else {
                changed
                    .iter()
                    .try_for_each(|name| writeln!(to, "It was built because its {name} changed"))?;
            }
        }
        status.error.as_ref().map_or(Ok(()), |error| write_fault(to, error))
    })
}

/// Whether its build was begun and, where nobody stopped the deployment, ended.
fn was_built(status: &api::Status) -> bool {
    let build = status.steps.iter().find(|step| step.name == "build");
    build.is_some_and(|step| !step.output.is_null() || (step.started_at.is_some() && !was_stopped(status)))
}

fn was_stopped(status: &api::Status) -> bool {
    matches!(status.status.as_str(), "cancelled" | "superseded")
}

/// When and where a deployment was stopped that did not fail by itself.
fn stopped(status: &api::Status) -> Option<String> {
    let at = status.ended_at.as_deref().filter(|_| was_stopped(status))?;
    // The last step is done whatever happened.
    let mut begun = status.steps.iter().filter(|step| step.started_at.is_some() && step.name != "cleanup");
    let place =
        begun.next_back().map_or_else(|| "before it began".to_owned(), |step| format!("in {}", step.name));
    Some(format!("It was {} {place}, over at {}", status.status, utc(at, SECONDS)))
}

fn inputs(status: &api::Status) -> serde_json::Map<String, Value> {
    let validated = status.steps.iter().find(|step| step.name == "validate");
    validated.and_then(|step| step.output.get("inputs")?.as_object().cloned()).unwrap_or_default()
}

/// The inputs of the newest earlier deployment of the same project and environment that got as far.
async fn previous_inputs(
    client: &Client,
    status: &api::Status,
) -> anyhow::Result<serde_json::Map<String, Value>> {
    let page: api::Page = client
        .get(&format!("/deploy/project/{}?environment={}&limit=100", status.project_id, status.environment))
        .await?;
    let older = page.deployments.iter().skip_while(|row| row.deployment_id != status.deployment_id).skip(1);
    for row in older {
        let before: api::Status = client.get(&format!("/deploy/{}/status", row.deployment_id)).await?;
        let inputs = inputs(&before);
        if !inputs.is_empty() && before.organization_id == status.organization_id {
            return Ok(inputs);
        }
    }
    Ok(serde_json::Map::new())
}
