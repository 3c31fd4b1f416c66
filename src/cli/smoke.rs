//! `windlass smoke`: is a service, and an app, fit to be used? One named check each, as a monitor would ask.

use serde::Serialize;
use serde_json::Value;

use super::client::{Client, ClientError};
use super::{Output, exit};

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    text: String,
}

fn judge(name: &'static str, answer: Result<Value, ClientError>, fits: impl FnOnce(&Value) -> bool) -> Check {
    match answer {
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
        judge("backend-version", client.get("/").await, |answer| {
            answer.get("name").is_some() && answer.get("version").is_some()
        }),
        judge("backend-health", client.get("/health").await, |answer| {
            answer.get("status").is_some_and(|status| status == "healthy")
        }),
        judge("backend-ready", client.get("/ready").await, |answer| {
            answer.get("status").is_some_and(|status| status == "ready")
        }),
        judge("backend-dependencies", client.get("/health/detailed").await, |answer| {
            answer.get("status").is_some_and(|status| status == "healthy")
        }),
    ];
    if let Some(app) = app {
        let found = Client::new(app)?.page("/").await;
        checks.push(judge("frontend", found.map(Value::from), |_| true));
    }
    for check in &checks {
        out.put(check, |to| {
            writeln!(to, "{:4} {:21} {}", if check.ok { "ok" } else { "FAIL" }, check.name, check.text)
        })?;
    }
    Ok(if checks.iter().all(|check| check.ok) { exit::OK } else { exit::FAILED })
}
