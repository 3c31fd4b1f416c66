//! `windlass deploy` and the deploying half of `windlass up`: read, upload, submit, follow.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::client::{Client, ClientError};
use super::commit;
use super::naming::{folder_name, project_id};
use super::screen::Screen;
use super::tree;
use super::upload::upload;
use super::{Ending, Identity};
use crate::ambient::Clock;
use crate::api;

/// How often and how soon a broken event stream is opened again: a restart of the server takes less.
const REOPENINGS: u32 = 60;
const REOPENED: std::time::Duration = std::time::Duration::from_secs(1);

/// What to deploy.
#[derive(Debug, Clone)]
pub struct Order {
    /// The folder.
    pub dir: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// The project; the folder's name or `windlass.toml` decides otherwise.
    pub project: Option<String>,
    /// Where it is to live; `windlass.toml` or `development` otherwise.
    pub environment: Option<String>,
    /// Extra host name.
    pub domain: Option<String>,
    /// Variables for the running app.
    pub variables: Vec<(String, String)>,
}

/// What the command line reads of `windlass.toml`; the server reads and checks all of it.
#[derive(Debug, Default)]
struct Local {
    name: Option<String>,
    environment: Option<String>,
    ignore: Vec<String>,
}

/// Uploads what is missing and asks for the deployment; gives its id.
///
/// # Errors
/// When the folder cannot be read or the server refuses.
pub async fn submit(
    client: &Client,
    order: &Order,
    cache_dir: &Path,
    clock: &dyn Clock,
    screen: &mut Screen<'_>,
) -> anyhow::Result<String> {
    let root = order
        .dir
        .canonicalize()
        .with_context(|| format!("the folder {} cannot be read", order.dir.display()))?;
    anyhow::ensure!(root.is_dir(), "{} is not a folder", root.display());
    let local = local(&root)?;
    let tree = {
        let (root, ignored) = (root.clone(), local.ignore.clone());
        let (memory, now) = (tree::memory_of(&root, cache_dir), clock.now().as_nanosecond());
        tokio::task::spawn_blocking(move || tree::read(&root, &ignored, &memory, now)).await??
    };
    tree.left_out.lines().iter().for_each(|line| screen.say(line));
    anyhow::ensure!(!tree.files.is_empty(), "{} has no files to deploy", root.display());
    let source = upload(client, &root, &tree, &order.identity, screen).await?;
    let name = order.project.clone().or(local.name).map_or_else(|| folder_name(&root), Ok)?;
    let project = project_id(&name);
    let variables: serde_json::Map<String, serde_json::Value> =
        order.variables.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut body = json!({
        "projectId": project,
        "projectName": name,
        "userId": order.identity.user,
        "organizationId": order.identity.organization,
        "environment": order.environment.clone().or(local.environment).unwrap_or_else(|| "development".to_owned()),
        "envVariables": variables,
        "source": source,
    });
    if let Some(domain) = &order.domain {
        body["customDomain"] = json!(domain);
    }
    if let Some(commit) = commit::checked_out(&root) {
        body["commitSha"] = json!(commit);
    }
    let accepted: api::Accepted = client.post("/deploy", &body).await?;
    let learned = if accepted.estimated_duration == "5-10 minutes" {
        String::new()
    } else {
        format!(", usually {}", accepted.estimated_duration)
    };
    let stands_for = if project == name { String::new() } else { format!(" as project {project}") };
    screen.say(&format!("Deploying {name}{stands_for}: {}{learned}", accepted.deployment_id));
    Ok(accepted.deployment_id)
}

fn local(root: &Path) -> anyhow::Result<Local> {
    let path = root.join("windlass.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Local::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", path.display()))?;
    let string = |key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let ignore = table
        .get("ignore")
        .and_then(toml::Value::as_array)
        .map(|list| list.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect());
    Ok(Local { name: string("name"), environment: string("environment"), ignore: ignore.unwrap_or_default() })
}

/// Shows a deployment until it has ended; survives a restart of the server.
///
/// # Errors
/// When the server refuses, or stays away.
pub async fn follow(
    client: &Client,
    deployment: &str,
    clock: &dyn Clock,
    screen: &mut Screen<'_>,
) -> anyhow::Result<Ending> {
    // Without it the bars know no usual times, that is all.
    if let Ok(begun) = client.get::<api::Status>(&format!("/deploy/{deployment}/status")).await {
        screen.learn(&begun.steps);
    }
    let mut show = |line: &api::Line| {
        screen.show(line);
        Ok(())
    };
    follow_lines((client, clock), deployment, "", &mut show).await
}

/// Hands over each line of a deployment's log, of those that `query` asks for, until it has ended; survives a restart of the server.
///
/// # Errors
/// When the server refuses or stays away, or whoever takes the lines does not want any more.
pub(super) async fn follow_lines(
    (client, clock): (&Client, &dyn Clock),
    deployment: &str,
    query: &str,
    take: &mut dyn FnMut(&api::Line) -> anyhow::Result<()>,
) -> anyhow::Result<Ending> {
    let path = format!("/deploy/{deployment}/logs?{query}");
    let (mut after, mut left) = (0, REOPENINGS);
    loop {
        match follow_once(client, &path, &mut after, take).await? {
            Ok(()) => {
                let ending = Ending { status: client.get(&format!("/deploy/{deployment}/status")).await? };
                if !ending.is_open() {
                    return Ok(ending);
                }
            }
            Err(ClientError::Unreachable(_) | ClientError::Broken(_)) if left > 0 => {}
            Err(error) => return Err(error.into()),
        }
        left = left.saturating_sub(1);
        clock.sleep(REOPENED).await;
    }
}

/// The stream from `after` on, to its end. The error outside is that of whoever takes the lines.
async fn follow_once(
    client: &Client,
    path: &str,
    after: &mut u64,
    take: &mut dyn FnMut(&api::Line) -> anyhow::Result<()>,
) -> anyhow::Result<Result<(), ClientError>> {
    let mut events = match client.follow(path, *after).await {
        Ok(events) => events,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match events.next().await {
            Ok(Some(line)) => {
                *after = line.id;
                take(&line)?;
            }
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}
