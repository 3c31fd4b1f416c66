//! `windlass logs`: what a deployment, or a running app, says.

use std::io::Write;

use serde_json::Value;

use super::Output;
use super::client::Client;
use crate::api;

/// `windlass logs ID`.
///
/// # Errors
/// When the server refuses or the output is closed.
pub async fn lines(
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
