//! Starting and reading with many deployments stored.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{ThrowAway, at};
use crate::ambient::{Clock as _, SystemClock};
use crate::cli::client::Client;
use crate::config::Settings;
use crate::deploy::deployment::{Deployments, Filter};
use crate::deploy::ids::DeploymentId;
use crate::deploy::log::Line;
use crate::embedded::db::Db;
use crate::embedded::secrets::key_of;
use crate::embedded::upstream::{Pool, empty};
use crate::serve::{Extras, start};

/// Requests of one client.
const REQUESTS: usize = 300;
/// Lines of the log that is read, and lines of the tail.
const LOG_LINES: usize = 5_000;

/// Stores finished deployments and runs as they look after years of work.
pub(super) async fn seed(folder: &Path, deployments: u32) -> anyhow::Result<()> {
    let db = Db::open(&folder.join("windlass.db"))?;
    // A folder with deployments and without its key is not served.
    key_of(&db, &folder.join("secret.key"))?;
    let body = r#"{"wish":{"org":"o","user":"u","project":"p","title":"P","environment":"development","env":{}},"correlation":"c"}"#;
    db.write(move |c| {
        c.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
             INSERT INTO deployments (id, org, project, environment, status, created, updated, started, ended, body, result)
             SELECT 'dep_' || printf('%011d', n), 'o', 'p' || (n % 500), 'development', 'succeeded', n, n, n, n + 1000000, ?2, CAST('{}' AS BLOB) FROM n",
            rusqlite::params![deployments, body.as_bytes()],
        )?;
        c.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
             INSERT INTO runs (id, version, open, state) SELECT randomblob(16), 15, 0, zeroblob(300) FROM n",
            [deployments],
        )
    })
    .await?;
    Ok(())
}

/// Starts this program again and again and measures until its first answer.
pub(super) async fn starts(settings: &Settings, deployments: u32, starts: usize) -> anyhow::Result<Value> {
    let folder = ThrowAway::new()?;
    seed(folder.path(), deployments).await?;
    let pool = Pool::new(tokio::runtime::Handle::current());
    let (mut times, mut rss_kib) = (Vec::new(), 0);
    for _ in 0..starts {
        let begun = Instant::now();
        let (mut child, address) = spawn(folder.path(), &settings.path)?;
        let request = hyper::Request::get("/health").header("host", address.to_string()).body(empty())?;
        anyhow::ensure!(pool.fetch(address, request).await?.status().is_success(), "it does not answer");
        times.push(begun.elapsed());
        rss_kib = rss(child.id())?;
        child.kill()?;
        child.wait()?;
    }
    times.sort_unstable();
    Ok(
        json!({ "deployments": deployments, "p50_ms": at(&times, 500), "p99_ms": at(&times, 990), "rss_idle_mib": rss_kib / 1_024 }),
    )
}

/// Starts this program as a service of its own and waits until it says where it listens.
pub(super) fn spawn(folder: &Path, path: &str) -> anyhow::Result<(Child, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "--port", "0", "--apps-port", "0", "--data-dir"]).arg(folder).env("PATH", path);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next());
    let port: Option<u16> = port.and_then(|port| port.parse().ok());
    let port = port.with_context(|| format!("it did not start: {line}"))?;
    Ok((child, SocketAddr::from(([127, 0, 0, 1], port))))
}

/// Resident memory of a process in KiB.
pub(super) fn rss(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Measures lists, status, log tails, and how soon a line reaches a follower.
pub(super) async fn reads(settings: &Settings, deployments: u32, clients: usize) -> anyhow::Result<Value> {
    let folder = ThrowAway::new()?;
    seed(folder.path(), deployments).await?;
    let service = start(&folder.settings(settings), Extras::default()).await?;
    let id: DeploymentId = format!("dep_{:011}", deployments / 2).parse()?;
    let logs = &service.windlass.tools.logs;
    let line = |text: String| Line::new(SystemClock.now(), "log", Some("build"), text);
    logs.append(
        id,
        (0..LOG_LINES).map(|number| line(format!("line {number} of a build that says a lot"))).collect(),
    )
    .await?;
    let mut figures = json!({ "deployments": deployments, "clients": clients });
    let paths = [
        ("list", clients, "/status/deployments?limit=50".to_owned()),
        ("status", 1, format!("/deploy/{id}/status")),
        ("tail_1000", 1, format!("/deploy/{id}/logs?tail=1000")),
    ];
    for (name, clients, path) in paths {
        let times = load(&service.pool, service.api, &path, clients).await?;
        figures[format!("{name}_p50_ms")] = json!(at(&times, 500));
        figures[format!("{name}_p99_ms")] = json!(at(&times, 990));
    }
    for (name, times) in alone(service.windlass.tools.deployments.as_ref(), id).await? {
        figures[format!("{name}_p95_ms")] = json!(at(&times, 950));
    }
    let client = Client::new(&format!("http://{}", service.api))?;
    let mut events = client.follow(&format!("/deploy/{id}/logs"), 0).await?;
    for _ in 0..LOG_LINES {
        events.next().await?;
    }
    let mut times = Vec::new();
    for number in 0..REQUESTS {
        let begun = Instant::now();
        logs.append(id, vec![line(format!("late {number}"))]).await?;
        events.next().await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    figures["line_to_follower_p99_ms"] = json!(at(&times, 990));
    drop(events);
    service.stop().await;
    Ok(figures)
}

/// The store's queries alone, without the way to them: a page of the list, and one deployment.
async fn alone(
    deployments: &dyn Deployments,
    id: DeploymentId,
) -> anyhow::Result<[(&'static str, Vec<Duration>); 2]> {
    let page = Filter { limit: 50, ..Filter::default() };
    let (mut lists, mut gets) = (Vec::with_capacity(REQUESTS), Vec::with_capacity(REQUESTS));
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        anyhow::ensure!(!deployments.list(&page).await?.is_empty(), "the list is empty");
        lists.push(begun.elapsed());
        let begun = Instant::now();
        anyhow::ensure!(deployments.get(id).await?.is_some(), "{id} is not there");
        gets.push(begun.elapsed());
    }
    lists.sort_unstable();
    gets.sort_unstable();
    Ok([("store_list", lists), ("store_get", gets)])
}

async fn load(pool: &Pool, address: SocketAddr, path: &str, clients: usize) -> anyhow::Result<Vec<Duration>> {
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (pool, path) = (pool.clone(), path.to_owned());
            crate::ambient::spawn(async move {
                let mut times = Vec::with_capacity(REQUESTS);
                for _ in 0..REQUESTS {
                    let request = hyper::Request::get(path.as_str())
                        .header("host", address.to_string())
                        .body(empty())?;
                    let begun = Instant::now();
                    anyhow::ensure!(
                        pool.fetch(address, request).await?.status().is_success(),
                        "{path} failed"
                    );
                    times.push(begun.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    times.sort_unstable();
    Ok(times)
}
