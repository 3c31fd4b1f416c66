//! From a SIGKILL in the middle of builds to the first progress that the next service makes.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::service::spawn;
use super::{ThrowAway, at};
use crate::ambient::{Clock as _, SystemClock, between};
use crate::api;
use crate::cli::client::Client;
use crate::config::Settings;

/// Deployments under way; as many as the default caps let one organization have.
const UNDER_WAY: usize = 3;
/// Longer than any measurement.
const BUILD: &str = "exec sleep 600";

/// Kills the service `times` times while [`UNDER_WAY`] builds run.
pub(super) async fn crashes(settings: &Settings, times: usize) -> anyhow::Result<Value> {
    let folder = ThrowAway::new()?;
    let (mut service, address) = spawn(folder.path(), &settings.path)?;
    let client = Client::new(&format!("http://{address}"))?;
    let mut runs = Vec::new();
    for number in 0..UNDER_WAY {
        let wish = json!({
            "projectId": format!("p{number}"), "projectName": "bench", "organizationId": "o", "userId": "u",
            "environment": "development", "buildCommand": BUILD,
        });
        let accepted: api::Accepted = client.post("/deploy", &wish).await?;
        let begun = next_build(&client, &accepted.deployment_id, 0).await?;
        runs.push((accepted.deployment_id, begun.id));
    }
    let (mut first, mut repeated) = (Vec::new(), 0);
    let mut client = client;
    for _ in 0..times {
        for (deployment, after) in &mut runs {
            repeated += more_builds(&client, deployment, after).await?;
        }
        let killed = SystemClock.now();
        service.kill()?;
        service.wait()?;
        let (next, address) = spawn(folder.path(), &settings.path)?;
        service = next;
        client = Client::new(&format!("http://{address}"))?;
        let mut begun = Vec::new();
        for (deployment, after) in &mut runs {
            let line = next_build(&client, deployment, *after).await?;
            *after = line.id;
            begun.push(between(killed, line.at.parse().context("a line without a time")?));
        }
        repeated += begun.len();
        first.extend(begun.into_iter().min());
    }
    for (deployment, after) in &mut runs {
        repeated += more_builds(&client, deployment, after).await?;
    }
    service.kill()?;
    service.wait()?;
    first.sort_unstable();
    Ok(json!({
        "kills": times,
        "under_way": UNDER_WAY,
        "first_progress_p50_ms": at(&first, 500),
        "first_progress_p99_ms": at(&first, 990),
        "repeated_attempts_per_kill": super::round(repeated as f64 / times.max(1) as f64),
    }))
}

/// Builds that began since the one that is known; none should have.
async fn more_builds(client: &Client, deployment: &str, after: &mut u64) -> anyhow::Result<usize> {
    let page: api::Logs = client.get(&format!("/deploy/{deployment}/logs?after={after}&limit=10000")).await?;
    *after = page.next.max(*after);
    Ok(page.logs.iter().filter(|line| line.kind == "build.started").count())
}

/// The first line after `after` that tells of a build's begin.
async fn next_build(client: &Client, deployment: &str, after: u64) -> anyhow::Result<api::Line> {
    let mut events = client.follow(&format!("/deploy/{deployment}/logs"), after).await?;
    while let Some(line) = events.next().await? {
        if line.kind == "build.started" {
            return Ok(line);
        }
    }
    anyhow::bail!("{deployment} ended")
}
