//! `/projects…`: what runs, and what it says.

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::Problem;

/// Lines of an app's output unless asked otherwise, and at most.
const LINES: usize = 200;
const MOST_LINES: usize = 10_000;

/// `GET /projects/revisions`: every running copy.
pub(super) async fn revisions(api: Data<Api>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "revisions": api.windlass.tools.runtime.revisions().await }))
}

/// Query of `GET /projects/{project}/output`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OutputQuery {
    organization_id: String,
    environment: Option<String>,
    tail: Option<String>,
}

/// `GET /projects/{project}/output`: what the app wrote to stdout and stderr.
pub(super) async fn output(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    query: Result<Query<OutputQuery>, actix_web::Error>,
) -> HttpResponse {
    let lines = async {
        let query = query.map_err(|error| Problem::query(&error))?;
        let environment = query.environment.as_deref().unwrap_or("development");
        let app = format!("{}/{path}/{environment}", query.organization_id);
        let most = Problem::number("tail", query.tail.as_deref(), 0)?.unwrap_or(LINES).min(MOST_LINES);
        let lines = api
            .windlass
            .tools
            .runtime
            .output(&app, most)
            .await
            .map_err(|error| Problem::new("STORE_UNAVAILABLE", error.to_string()))?;
        if lines.is_empty() && api.windlass.tools.releases.live_of(&app).await?.is_none() {
            let detail = format!("no release of {app} is live; windlass status names what runs");
            return Err(Problem::new("NOT_FOUND", detail));
        }
        Ok(HttpResponse::Ok().json(json!({ "app": app, "lines": lines })))
    };
    api.answer(&request, lines.await)
}
