//! What apps said, by Log Analytics (query API v1). Lines arrive there minutes late.

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::http::headers::CONTENT_TYPE;
use azure_core::http::{Method, Pipeline, Request, RetryOptions, Url};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::arm_error::{ArmError, Cause};
use super::doctor::chain;
use super::transport::{Wire, ask};
use crate::config::AzureSettings;
use crate::deploy::runtime::RuntimeError;

/// How far back lines are looked for.
const SPAN: &str = "P1D";

/// A workspace.
pub struct AppLogs {
    pipeline: Pipeline,
    url: Option<Url>,
}

impl AppLogs {
    /// The workspace of the settings.
    #[must_use]
    pub fn new(settings: &AzureSettings, credential: &Arc<dyn TokenCredential>, wire: &Wire) -> Self {
        let base = Wire::secure(&settings.logs);
        let scope = format!("{base}.default");
        let url =
            settings.workspace.as_ref().and_then(|id| base.join(&format!("v1/workspaces/{id}/query")).ok());
        Self { pipeline: wire.pipeline(RetryOptions::default(), Some((credential, &scope))), url }
    }

    /// Whether anybody keeps what apps and jobs say.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.url.is_some()
    }

    /// The newest `most` lines of a container app, oldest first. Its name has letters, digits and `-` only, so that it can
    /// stand in a query.
    ///
    /// # Errors
    /// [`RuntimeError`].
    pub async fn newest(&self, app: &str, most: usize) -> Result<Vec<String>, RuntimeError> {
        let query = format!(
            "ContainerAppConsoleLogs | where ContainerAppName == '{app}' | top {most} by TimeGenerated desc | project Log"
        );
        let text = |row: &Value| row.get(0).and_then(Value::as_str).map(str::to_owned);
        Ok(self.rows(&query).await?.iter().rev().filter_map(text).collect())
    }

    /// The oldest `most` lines of a job after this time, with theirs. The job's name is like an app's.
    ///
    /// # Errors
    /// [`RuntimeError`].
    pub async fn of_job(
        &self,
        job: &str,
        after: Option<Timestamp>,
        most: usize,
    ) -> Result<Vec<(Timestamp, String)>, RuntimeError> {
        let after = after.unwrap_or(Timestamp::UNIX_EPOCH);
        let query = format!(
            "ContainerAppConsoleLogs | where JobName == '{job}' and TimeGenerated > datetime({after}) | top {most} by TimeGenerated asc | project TimeGenerated, Log"
        );
        let line = |row: &Value| {
            let at: Timestamp = row.get(0)?.as_str()?.parse().ok()?;
            Some((at, row.get(1)?.as_str()?.to_owned()))
        };
        Ok(self.rows(&query).await?.iter().filter_map(line).collect())
    }

    async fn rows(&self, query: &str) -> Result<Vec<Value>, RuntimeError> {
        let Some(url) = &self.url else {
            return Err(RuntimeError::Rejected {
                code: "APP_LOGS_UNCONFIGURED",
                message: "set LOG_ANALYTICS_WORKSPACE to the id of the workspace that keeps what apps say"
                    .to_owned(),
            });
        };
        let mut request = Request::new(url.clone(), Method::Post);
        request.insert_header(CONTENT_TYPE, "application/json");
        let unavailable =
            |error: azure_core::Error| RuntimeError::Unavailable(format!("Log Analytics: {}", chain(&error)));
        request.set_json(&json!({ "query": query, "timespan": SPAN })).map_err(unavailable)?;
        let answer = ask(&self.pipeline, request).await.map_err(unavailable)?;
        let (status, text) = (answer.status, answer.text());
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        if status == 200 {
            let rows = body.pointer("/tables/0/rows").and_then(Value::as_array);
            return Ok(rows.cloned().unwrap_or_default());
        }
        let cause = Cause::of(&body, &text);
        // The table is made with the first line.
        if status == 400
            && cause.chain.iter().any(|code| code == "SemanticError" || code == "BadArgumentError")
        {
            return Ok(Vec::new());
        }
        Err(ArmError::of(status, cause, std::time::Duration::from_secs(10)).into())
    }
}
