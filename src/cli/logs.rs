//! `windlass logs`: what a deployment, or a running app, says.

use std::io::Write;

use serde_json::Value;

use super::Output;
use super::client::Client;
use super::deploy::follow_lines;
use super::show::{MILLISECONDS, utc};
use crate::ambient::Clock;
use crate::api;

/// `windlass logs ID`.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn lines(
    client: &Client,
    id: &str,
    step: Option<&str>,
    out: &mut Output<'_>,
) -> anyhow::Result<()> {
    let step = only(step);
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

fn only(step: Option<&str>) -> String {
    step.map(|step| format!("step={step}")).unwrap_or_default()
}

/// `windlass logs ID -f`: until the deployment has ended; gives the exit code that tells how. Survives a restart of the
/// server.
///
/// # Errors
/// When the server refuses or stays away, or the output is closed.
pub async fn follow(
    client: &Client,
    id: &str,
    step: Option<&str>,
    clock: &dyn Clock,
    out: &mut Output<'_>,
) -> anyhow::Result<u8> {
    let mut write = |line: &api::Line| out.put(line, |to| write_line(to, line));
    let ending = follow_lines((client, clock), id, &only(step), &mut write).await?;
    Ok(ending.exit_code())
}

fn write_line(to: &mut dyn Write, line: &api::Line) -> std::io::Result<()> {
    let at = utc(&line.at, MILLISECONDS);
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
        let lines = answer["lines"].as_array();
        if lines.is_none_or(Vec::is_empty) {
            writeln!(to, "{} has said nothing.", answer["app"].as_str().unwrap_or(project))?;
        }
        lines.into_iter().flatten().filter_map(Value::as_str).try_for_each(|line| writeln!(to, "{line}"))
    })
}
