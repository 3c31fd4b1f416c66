//! Prints what the server knows: status, lists, logs, dead letters.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use super::Output;
use super::client::Client;
use crate::ambient::Clock;
use crate::api;

/// How often `status --watch` looks.
const WATCH: Duration = Duration::from_millis(500);

/// `windlass status [ID] [--watch]`.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn status(
    client: &Client,
    id: Option<&str>,
    watch: bool,
    clock: &dyn Clock,
    out: &mut Output<'_>,
) -> anyhow::Result<()> {
    let Some(id) = id else {
        let service: Value = client.get("/status").await?;
        let revisions: Value = client.get("/projects/revisions").await?;
        return out
            .put(&serde_json::json!({ "service": service, "running": revisions["revisions"] }), |to| {
                write_service(to, &service, &revisions)
            });
    };
    let mut seen = String::new();
    loop {
        let status: api::Status = client.get(&format!("/deploy/{id}/status")).await?;
        let now = format!("{} {:?}", status.status, status.steps);
        if now != seen {
            out.put(&status, |to| write_status(to, &status))?;
            seen = now;
        }
        if !watch || !matches!(status.status.as_str(), "queued" | "running") {
            return Ok(());
        }
        clock.sleep(WATCH).await;
    }
}

fn write_service(to: &mut dyn Write, service: &Value, revisions: &Value) -> std::io::Result<()> {
    writeln!(
        to,
        "Windlass {}, up {} s",
        service["version"].as_str().unwrap_or("?"),
        service["uptimeSeconds"]
    )?;
    for (status, count) in service["deployments"].as_object().into_iter().flatten() {
        if count != 0 {
            writeln!(to, "  {status:10} {count}")?;
        }
    }
    for revision in revisions["revisions"].as_array().into_iter().flatten() {
        let text = |key: &str| revision[key].as_str().unwrap_or_default().to_owned();
        let live = if revision["live"] == true { "live" } else { "" };
        writeln!(
            to,
            "  {:40} release {:<4} {:10} {}/{} ready {live}",
            text("app"),
            revision["release"],
            text("state"),
            revision["ready"],
            revision["wanted"]
        )?;
    }
    Ok(())
}

/// A deployment for people.
pub(super) fn write_status(to: &mut dyn Write, status: &api::Status) -> std::io::Result<()> {
    writeln!(
        to,
        "{} {} of {} in {}: {} %",
        status.deployment_id, status.status, status.project_id, status.environment, status.progress
    )?;
    if let (Some(position), Some(reason)) = (status.position, &status.waits_for) {
        writeln!(to, "  position {position}: {reason}")?;
    }
    for step in &status.steps {
        let mark = match step.status.as_str() {
            "succeeded" => "✓",
            "failed" | "undo_failed" => "✗",
            "running" => "→",
            "skipped" => "-",
            "undone" => "↶",
            _ => " ",
        };
        let tries = if step.attempts > 1 { format!(", {} tries", step.attempts) } else { String::new() };
        writeln!(to, "  {mark} {:9} {}{tries}", step.name, step.status)?;
    }
    if let Some(error) = &status.error {
        write_fault(to, error)?;
    }
    status.urls.iter().try_for_each(|url| writeln!(to, "  {url}"))
}

/// Why it failed, and what the project said last.
pub(super) fn write_fault(to: &mut dyn Write, error: &api::Fault) -> std::io::Result<()> {
    writeln!(to, "{} in {}: {}", error.code, error.step, error.message)?;
    for line in error.detail["tail"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(to, "  │ {line}")?;
    }
    let advice = api::codes::find(&error.code).map(|code| code.advice);
    advice.map_or(Ok(()), |advice| writeln!(to, "{advice}"))
}

/// `windlass list`.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn list(client: &Client, project: Option<&str>, out: &mut Output<'_>) -> anyhow::Result<()> {
    let path = project
        .map_or_else(|| "/status/deployments".to_owned(), |project| format!("/deploy/project/{project}"));
    let page: api::Page = client.get(&path).await?;
    out.put(&page, |to| {
        if page.deployments.is_empty() {
            writeln!(to, "No deployments yet. Try: windlass deploy my-folder")?;
        }
        for row in &page.deployments {
            let url = row.urls.first().cloned().unwrap_or_default();
            let at = row.created_at.get(..19).unwrap_or(&row.created_at);
            writeln!(
                to,
                "{:15} {:10} {:20} {:12} {at} {url}",
                row.deployment_id, row.status, row.project_id, row.environment
            )?;
        }
        Ok(())
    })
}

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
        if reused {
            writeln!(to, "The artifact of the same inputs was reused")?;
        } else if before.is_empty() && !inputs.is_empty() {
            writeln!(to, "It was built: there is no earlier deployment of this project to compare with")?;
        } else {
            changed.iter().try_for_each(|name| writeln!(to, "It was built because its {name} changed"))?;
        }
        status.error.as_ref().map_or(Ok(()), |error| write_fault(to, error))
    })
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

/// `windlass logs ID`.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn logs(
    client: &Client,
    id: &str,
    step: Option<&str>,
    follow: bool,
    out: &mut Output<'_>,
) -> anyhow::Result<()> {
    let step = step.map(|step| format!("step={step}")).unwrap_or_default();
    if follow {
        let mut events = client.follow(&format!("/deploy/{id}/logs?{step}"), 0).await?;
        while let Some(line) = events.next().await? {
            out.put(&line, |to| write_line(to, &line))?;
        }
        return Ok(());
    }
    let mut after = 0;
    loop {
        let page: api::Logs = client.get(&format!("/deploy/{id}/logs?after={after}&{step}")).await?;
        for line in &page.logs {
            out.put(line, |to| write_line(to, line))?;
        }
        if page.next == after {
            return Ok(());
        }
        after = page.next;
    }
}

fn write_line(to: &mut dyn Write, line: &api::Line) -> std::io::Result<()> {
    let at = line.at.get(..23).unwrap_or(&line.at);
    let kind = if line.kind == "log" { "" } else { line.kind.as_str() };
    writeln!(to, "{at} {:9} {kind} {}", line.step.as_deref().unwrap_or(""), line.text)
}

/// `windlass logs --app PROJECT`: what the running app says.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn app_output(
    client: &Client,
    project: &str,
    organization: &str,
    environment: &str,
    out: &mut Output<'_>,
) -> anyhow::Result<()> {
    let answer: Value = client
        .get(&format!("/projects/{project}/output?organizationId={organization}&environment={environment}"))
        .await?;
    out.put(&answer, |to| {
        let lines = answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for line in lines {
            writeln!(to, "{line}")?;
        }
        Ok(())
    })
}

/// `windlass dlq …`.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn dead_letters(client: &Client, out: &mut Output<'_>) -> anyhow::Result<()> {
    let answer: Value = client.get("/operations/dead-letters").await?;
    out.put(&answer, |to| {
        let letters = answer["deadLetters"].as_array();
        if letters.is_none_or(Vec::is_empty) {
            writeln!(to, "No dead letters.")?;
        }
        for letter in letters.into_iter().flatten() {
            writeln!(
                to,
                "{} {} after {} deliveries: {}",
                letter["id"],
                letter["queue"].as_str().unwrap_or_default(),
                letter["deliveries"],
                letter["error"].as_str().unwrap_or_default()
            )?;
            writeln!(to, "  {}", letter["body"].as_str().unwrap_or_default())?;
        }
        Ok(())
    })
}

/// Shows one dead letter, whole.
///
/// # Errors
/// When there is none with this id, the server refuses or the output is closed.
pub async fn dead_letter(client: &Client, id: i64, out: &mut Output<'_>) -> anyhow::Result<()> {
    let letter: Value = client.get(&format!("/operations/dead-letters/{id}")).await?;
    out.put(&letter, |to| {
        let text = |name: &str| letter[name].as_str().unwrap_or("-");
        writeln!(to, "message   {}", letter["id"])?;
        writeln!(to, "queue     {}", text("queue"))?;
        writeln!(to, "reason    {} after {} deliveries", text("reason"), letter["deliveries"])?;
        writeln!(to, "error     {}", text("error"))?;
        writeln!(to, "first     {}", text("firstAt"))?;
        writeln!(to, "given up  {}", text("lastAt"))?;
        writeln!(to, "body      {}", text("body"))?;
        writeln!(to, "Next:  windlass dlq redrive {id}  or  windlass dlq purge {id}")
    })
}
