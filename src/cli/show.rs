//! Prints what the server knows: status and lists.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use super::client::Client;
use super::{Ending, Output, exit};
use crate::ambient::Clock;
use crate::api;

/// How often `status --watch` looks.
const WATCH: Duration = Duration::from_millis(500);

/// `windlass status [ID] [--watch]`. Who watches a deployment to its end is told by the exit code how it ended, as by
/// `deploy`.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn status(
    client: &Client,
    id: Option<&str>,
    watch: bool,
    clock: &dyn Clock,
    out: &mut Output<'_>,
) -> anyhow::Result<u8> {
    let Some(id) = id else {
        let service: Value = client.get("/status").await?;
        let revisions: Value = client.get("/projects/revisions").await?;
        let answer = serde_json::json!({ "service": service, "running": revisions["revisions"] });
        out.put(&answer, |to| write_service(to, &service, &revisions))?;
        return Ok(exit::OK);
    };
    let mut seen = String::new();
    loop {
        let status: api::Status = client.get(&format!("/deploy/{id}/status")).await?;
        let now = format!("{} {:?}", status.status, status.steps);
        if now != seen {
            out.put(&status, |to| write_status(to, &status))?;
            seen = now;
        }
        let ending = Ending { status };
        if !watch {
            return Ok(exit::OK);
        }
        if !ending.is_open() {
            return Ok(ending.exit_code());
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
