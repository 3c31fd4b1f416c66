//! `/status…`: figures of the service.

use std::time::Duration;

use actix_web::web::{Bytes, Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Map, json};

use super::Api;
use super::deployments::{ListQuery, json as parse, list};
use super::problem::Problem;
use crate::ambient::{before, between};
use crate::deploy::deployment::{Status, StoreError};
use crate::triggers::table::DEPLOYMENT_QUEUE;

/// The rate is of this time, or of less when the service started later.
const RATE_OVER: Duration = Duration::from_secs(3_600);

/// `GET /status`.
pub(super) async fn service(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let tools = &api.windlass.tools;
    let figures = async {
        Ok::<_, StoreError>((tools.deployments.stats().await?, tools.deployments.durations_ms().await?))
    };
    let (stats, durations) = match figures.await {
        Ok(figures) => figures,
        Err(error) => return api.answer(&request, Err(error.into())),
    };
    let count = |status: Status| stats.by_status.get(&status).copied().unwrap_or_default();
    let by_status: Map<String, serde_json::Value> =
        Status::ALL.into_iter().map(|status| (status.as_str().to_owned(), json!(count(status)))).collect();
    let judged = count(Status::Succeeded) + count(Status::Failed) + count(Status::Stuck);
    let success = (judged > 0)
        .then(|| count(Status::Succeeded) * 1_000 / judged)
        .map(|per_mille| json!(per_mille as f64 / 1_000.0));
    let percentile = |percent: usize| {
        durations.get((durations.len() * percent / 100).min(durations.len().saturating_sub(1))).copied()
    };
    HttpResponse::Ok().json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": between(api.started, tools.clock.now()).as_secs(),
        "deployments": by_status,
        "successRate": success,
        "durationMs": { "p50": percentile(50), "p95": percentile(95), "samples": durations.len() },
        "limits": { "concurrent": tools.limits.caps.total, "concurrentPerOrganization": tools.limits.caps.per_org },
    }))
}

/// `GET /status/queue`.
pub(super) async fn queue(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let figures = async {
        let tools = &api.windlass.tools;
        let depths = tools.backlog.depths().await?;
        let dead = tools.backlog.dead_letter_count().await?;
        let stats = tools.deployments.stats().await?;
        let now = tools.clock.now();
        let count = |status: Status| stats.by_status.get(&status).copied().unwrap_or_default();
        // Alarms wait in the other queues, some of them for days.
        let waiting = depths.iter().filter(|depth| depth.queue == DEPLOYMENT_QUEUE);
        let oldest =
            waiting.filter_map(|depth| depth.oldest).min().map(|oldest| between(oldest, now).as_secs());
        let since = api.started.max(before(now, RATE_OVER));
        let minutes = between(since, now).as_secs_f64() / 60.0;
        let ended = tools.deployments.ended_since(since).await?;
        Ok(HttpResponse::Ok().json(json!({
            "queue": DEPLOYMENT_QUEUE,
            "depth": count(Status::Queued),
            "inFlight": count(Status::Running),
            "oldestMessageAgeSeconds": oldest.unwrap_or(0),
            "deadLetters": { "queue": "deployment-dlq", "count": dead },
            "ratePerMinute": if minutes > 0.0 { ended as f64 / minutes } else { 0.0 },
            "queues": depths,
            "messagesAre": "hints to runs and jobs that wait, are due later or are worked on; not deployments",
        })))
    };
    api.answer(&request, figures.await)
}

/// `GET /status/deployments`: the newest, 20 unless asked otherwise, at most 100.
pub(super) async fn deployments(
    api: Data<Api>,
    request: HttpRequest,
    query: Result<Query<ListQuery>, actix_web::Error>,
) -> HttpResponse {
    api.answer(&request, list(&api, None, query).await)
}

/// Body of `POST /status/cleanup`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct CleanupOrder {
    dry_run: bool,
}

/// `POST /status/cleanup`: what the daily timer does, now; `{"dryRun": true}` only counts.
pub(super) async fn cleanup(api: Data<Api>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let cleaned = async {
        let order: CleanupOrder = if body.is_empty() {
            CleanupOrder::default()
        } else {
            serde_json::from_value(parse(&request, &body)?)
                .map_err(|error| Problem::new("BAD_REQUEST", format!("the body cannot be read: {error}")))?
        };
        let cleaned = api.windlass.clean(order.dry_run).await?;
        let remains = cleaned.remains.iter().map(|(kind, number)| format!(", {number} {kind}"));
        let message = format!(
            "{} {} deployments, {} runs and {} files ({} bytes){}",
            if order.dry_run { "Would remove at least" } else { "Removed" },
            cleaned.deployments,
            cleaned.runs,
            cleaned.files,
            cleaned.bytes,
            remains.collect::<String>()
        );
        Ok(HttpResponse::Ok()
            .json(json!({ "dryRun": order.dry_run, "removed": cleaned, "message": message })))
    };
    api.answer(&request, cleaned.await)
}
