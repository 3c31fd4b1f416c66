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
        let release = revision["release"].as_u64().unwrap_or_default();
        let live = if revision["live"] == true { "  live" } else { "" };
        let restarts = match revision["restarts"].as_u64().unwrap_or_default() {
            0 => String::new(),
            1 => "  1 restart".to_owned(),
            more => format!("  {more} restarts"),
        };
        writeln!(
            to,
            "  {:40} release {release:<4} {:10} {}/{} ready{live}{restarts}",
            text("app"),
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

/// How much of a time says the seconds, and the milliseconds.
pub(super) const SECONDS: usize = 19;
pub(super) const MILLISECONDS: usize = 23;

/// The beginning of a time, which says that it is UTC.
pub(super) fn utc(at: &str, most: usize) -> String {
    let at = at.trim_end_matches('Z');
    format!("{}Z", at.get(..most).unwrap_or(at))
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
        match project.filter(|_| page.deployments.is_empty()) {
            Some(project) => writeln!(to, "No deployments of {project}. All: windlass list")?,
            None if page.deployments.is_empty() => {
                writeln!(to, "No deployments yet. Try: windlass deploy my-folder")?;
            }
            None => {}
        }
        for row in &page.deployments {
            let url = row.urls.first().cloned().unwrap_or_default();
            let at = utc(&row.created_at, SECONDS);
            writeln!(
                to,
                "{:15} {:10} {:20} {:12} {at} {url}",
                row.deployment_id, row.status, row.project_id, row.environment
            )?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_crashes_again_and_again_is_told_by_its_restarts() {
        let revision = |app: &str, state: &str, restarts: u32, live: bool| {
            let ready = u32::from(state == "healthy");
            serde_json::json!({ "app": app, "release": 2, "state": state, "live": live, "ready": ready, "wanted": 1, "restarts": restarts })
        };
        let service = serde_json::json!({ "version": "1", "uptimeSeconds": 5, "deployments": { "failed": 0, "queued": 1 } });
        let revisions = serde_json::json!({ "revisions": [
            revision("a", "healthy", 0, true), revision("b", "healthy", 1, true), revision("c", "starting", 4, false)
        ] });
        let mut text = Vec::new();
        write_service(&mut text, &service, &revisions).unwrap();
        insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r"
        Windlass 1, up 5 s
          queued     1
          a                                        release 2    healthy    1/1 ready  live
          b                                        release 2    healthy    1/1 ready  live  1 restart
          c                                        release 2    starting   0/1 ready  4 restarts
        ");
    }

    #[test]
    fn times_say_that_they_are_utc() {
        assert_eq!(utc("2026-11-20T09:00:00.123456Z", SECONDS), "2026-11-20T09:00:00Z");
        assert_eq!(utc("2026-11-20T09:00:00.123456Z", MILLISECONDS), "2026-11-20T09:00:00.123Z");
        assert_eq!(utc("2026-11-20T09:00:00Z", MILLISECONDS), "2026-11-20T09:00:00Z");
    }
}
