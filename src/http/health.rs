//! `/`, `/health…`, `/ready`: is it there, can it work.

use std::sync::atomic::Ordering;

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::{Map, json};

use super::Api;
use crate::ambient::between;

/// `GET /`: name and version. The Functions host calls it to see whether we are there, so it does nothing else.
pub(super) async fn name() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "name": "windlass", "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /health`: what the dependencies' last use said; nothing is called.
pub(super) async fn basic(api: Data<Api>) -> HttpResponse {
    let mut services = Map::new();
    let mut healthy = true;
    for check in &api.windlass.tools.checks {
        let fine = check.last_use_was_fine();
        healthy &= fine;
        services.insert(check.name().to_owned(), json!(if fine { "ok" } else { "failing" }));
    }
    let status = if healthy { "healthy" } else { "unhealthy" };
    let mut response = if healthy { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(json!({ "status": status, "services": services }))
}

/// `GET /health/detailed`: every dependency is tried.
pub(super) async fn detailed(api: Data<Api>) -> HttpResponse {
    let tools = &api.windlass.tools;
    let mut dependencies = Map::new();
    let mut failing = 0;
    for check in &tools.checks {
        let begun = tools.clock.now();
        let result = check.check().await;
        let latency = u64::try_from(between(begun, tools.clock.now()).as_micros()).unwrap_or(u64::MAX);
        failing += usize::from(result.is_err());
        dependencies.insert(
            check.name().to_owned(),
            json!({
                "state": if result.is_ok() { "ok" } else { "failing" },
                "latencyUs": latency,
                "lastError": result.err(),
            }),
        );
    }
    let status = match failing {
        0 => "healthy",
        some if some < tools.checks.len() => "degraded",
        _ => "unhealthy",
    };
    let mut response = if failing == 0 { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response
        .json(json!({ "status": status, "dependencies": dependencies, "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /health/ready` and `/ready`: 503 while starting and while stopping.
pub(super) async fn ready(api: Data<Api>) -> HttpResponse {
    if api.ready.load(Ordering::Relaxed) {
        HttpResponse::Ok().json(json!({ "status": "ready" }))
    } else {
        HttpResponse::ServiceUnavailable()
            .insert_header(("retry-after", "1"))
            .json(json!({ "status": "not_ready" }))
    }
}

/// `GET /health/live`: 200 as long as anything is answered at all.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}
