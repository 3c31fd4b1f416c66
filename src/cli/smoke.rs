//! `windlass smoke`: is a service, and an app, fit to be used? One named check each, as a monitor would ask.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::{Output, exit};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    text: String,
}

async fn judge(
    name: &'static str,
    answer: impl Future<Output = Result<Value, ClientError>>,
    fits: impl FnOnce(&Value) -> bool,
) -> Check {
    let slow = || ClientError::Broken(format!("no answer within {} s", PATIENCE.as_secs()));
    match tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(slow())) {
        Ok(answer) if fits(&answer) => Check { name, ok: true, text: String::new() },
        Ok(answer) => Check { name, ok: false, text: format!("it answered {answer}") },
        Err(error) => Check { name, ok: false, text: error.to_string() },
    }
}

/// Runs every check and gives the exit code.
///
/// # Errors
/// When the output is closed, or `app` is not an address.
pub async fn check(client: &Client, app: Option<&str>, out: &mut Output<'_>) -> anyhow::Result<u8> {
    let mut checks = vec![
        judge("backend-version", client.get("/"), |answer| {
            answer.get("name").is_some() && answer.get("version").is_some()
        })
        .await,
        judge("backend-health", client.get("/health"), |answer| {
            answer.get("status").is_some_and(|status| status == "healthy")
        })
        .await,
        judge("backend-ready", client.get("/ready"), |answer| {
            answer.get("status").is_some_and(|status| status == "ready")
        })
        .await,
        judge("backend-dependencies", client.get("/health/detailed"), |answer| {
            answer.get("status").is_some_and(|status| status == "healthy")
        })
        .await,
    ];
    if let Some(app) = app {
        let app = Client::new(app)?;
        checks.push(judge("frontend", async { app.page("/").await.map(Value::from) }, |_| true).await);
    }
    for check in &checks {
        out.put(check, |to| {
            writeln!(to, "{:4} {:21} {}", if check.ok { "ok" } else { "FAIL" }, check.name, check.text)
        })?;
    }
    Ok(if checks.iter().all(|check| check.ok) { exit::OK } else { exit::FAILED })
}
