//! `/deploy…`: asking for deployments and looking at them.

use actix_web::http::{Method, header};
use actix_web::web::{Bytes, Data, Path, Query};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::Value;

use super::Api;
use super::problem::Problem;
use super::stream;
use crate::actions::{Cancelled, Retried, StepView, SubmitError, View};
use crate::api;
use crate::deploy::deployment::{Deployment, Fault, Filter, Origin, Status};
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::log::{From, Line};
use crate::deploy::size::Size;
use crate::deploy::wish::Environment;
use crate::trace::TraceContext;

/// Rows of a page unless asked otherwise, and at most.
const ROWS: usize = 20;
pub(super) const MOST_ROWS: usize = 100;
/// Lines of one answer at most.
const MOST_LINES: usize = 10_000;
/// Longest idempotency key.
const MOST_KEY_CHARS: usize = 200;

/// `POST /deploy`: records the wish and answers 202; the chain does the work.
pub(super) async fn create(api: Data<Api>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let id = api.correlation(&request);
    accept(&api, &request, &body, &id).await.unwrap_or_else(|problem| problem.answer(&id))
}

/// `POST /api/deploy`: the same for callers of the older version.
pub(super) async fn create_v2(api: Data<Api>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let id = api.correlation(&request);
    accept(&api, &request, &body, &id).await.unwrap_or_else(|problem| problem.answer_v2(&id))
}

async fn accept(
    api: &Api,
    request: &HttpRequest,
    body: &[u8],
    correlation: &str,
) -> Result<HttpResponse, Problem> {
    let body = json(request, body)?;
    let key = request.headers().get("idempotency-key").map(|key| key.to_str().unwrap_or_default().to_owned());
    if key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > MOST_KEY_CHARS || key.starts_with("queue:"))
    {
        return Err(Problem::new(
            "BAD_REQUEST",
            format!("an Idempotency-Key has 1 to {MOST_KEY_CHARS} visible characters"),
        ));
    }
    let trace = request.extensions().get::<TraceContext>().copied();
    let origin = Origin { correlation: correlation.to_owned(), trace };
    let accepted = api.windlass.submit(&body, key, origin).await?;
    let answer = api::Accepted {
        success: true,
        deployment_id: accepted.id.to_string(),
        status: "queued".to_owned(),
        message: "Deployment queued successfully".to_owned(),
        estimated_duration: accepted.estimate,
    };
    let location = format!("/deploy/{}/status", accepted.id);
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, location))
        .insert_header((header::RETRY_AFTER, "2"))
        .json(answer))
}

/// A JSON body, whatever its media type claims beyond JSON: curl without a header sends form data.
pub(super) fn json(request: &HttpRequest, body: &[u8]) -> Result<Value, Problem> {
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase();
    if !kind.starts_with("application/json") {
        return Err(Problem::new(
            "BAD_REQUEST",
            format!("the Content-Type is `{kind}`; send application/json"),
        ));
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::new("BAD_REQUEST", format!("the body is not JSON: {error}")))
}

fn deployment_id(text: &str) -> Result<DeploymentId, Problem> {
    text.parse().map_err(|_| Problem::new("DEPLOYMENT_NOT_FOUND", format!("there is no deployment {text}")))
}

async fn view(api: &Api, text: &str) -> Result<View, Problem> {
    let id = deployment_id(text)?;
    api.windlass
        .view(id)
        .await?
        .ok_or_else(|| Problem::new("DEPLOYMENT_NOT_FOUND", format!("there is no deployment {text}")))
}

/// `GET /deploy/{id}/status`.
pub(super) async fn status(api: Data<Api>, request: HttpRequest, path: Path<String>) -> HttpResponse {
    let id = api.correlation(&request);
    let status = match view(&api, &path).await {
        Ok(view) => wire(view),
        Err(problem) => return problem.answer(&id),
    };
    let tag = tag(&status);
    if request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return HttpResponse::NotModified().insert_header((header::ETAG, tag)).finish();
    }
    HttpResponse::Ok().insert_header((header::ETAG, tag)).json(status)
}

/// Names what is answered by its content: the place in the queue changes without any record of the deployment.
fn tag(status: &api::Status) -> String {
    let digest = Digest::of(&serde_json::to_vec(status).unwrap_or_default()).to_string();
    format!("\"{}\"", digest.get(..16).unwrap_or_default())
}

fn wire(view: View) -> api::Status {
    let deployment = view.deployment;
    api::Status {
        deployment_id: deployment.id.to_string(),
        project_id: deployment.wish.project.to_string(),
        organization_id: deployment.wish.org.to_string(),
        user_id: deployment.wish.user.to_string(),
        environment: deployment.wish.environment.to_string(),
        container_size: deployment.size().map(size),
        commit_sha: deployment.wish.commit.as_ref().map(ToString::to_string),
        status: deployment.status.as_str().to_owned(),
        current_step: view.current.map(str::to_owned),
        progress: view.progress,
        steps: view.steps.into_iter().map(step).collect(),
        urls: deployment.result.urls,
        release: deployment.result.release,
        error: deployment.result.fault.map(fault),
        created_at: deployment.created.to_string(),
        started_at: deployment.started.map(|at| at.to_string()),
        ended_at: deployment.ended.map(|at| at.to_string()),
        position: view.position,
        waits_for: view.waits_for,
        estimated_duration: view.estimate,
        correlation_id: deployment.correlation,
    }
}

fn size(size: Size) -> api::ContainerSize {
    api::ContainerSize { cpu: size.cpu(), memory: size.memory() }
}

fn step(view: StepView) -> api::Step {
    api::Step {
        name: view.name.to_owned(),
        text: view.text.to_owned(),
        status: view.status.to_owned(),
        attempts: view.attempts,
        started_at: view.started.map(|at| at.to_string()),
        usual_ms: view.usual_ms,
        ended_at: view.ended.map(|at| at.to_string()),
        output: view.output,
    }
}

fn fault(fault: Fault) -> api::Fault {
    api::Fault {
        code: fault.code,
        message: fault.message,
        step: fault.step,
        retryable: fault.retryable,
        detail: fault.detail,
    }
}

/// Query of `GET /deploy/{id}/logs`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    after: Option<String>,
    tail: Option<String>,
    limit: Option<String>,
    step: Option<String>,
    follow: Option<String>,
}

/// `GET /deploy/{id}/logs`: lines, or with `?follow=1` or `Accept: text/event-stream` a stream of them.
pub(super) async fn logs(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    query: Result<Query<LogQuery>, actix_web::Error>,
) -> HttpResponse {
    let id = api.correlation(&request);
    match read_logs(&api, &request, &path, query).await {
        Ok(response) => response,
        Err(problem) => problem.answer(&id),
    }
}

async fn read_logs(
    api: &Data<Api>,
    request: &HttpRequest,
    path: &str,
    query: Result<Query<LogQuery>, actix_web::Error>,
) -> Result<HttpResponse, Problem> {
    let query = query.map_err(|error| Problem::query(&error))?.into_inner();
    let after = Problem::number("after", query.after.as_deref(), 0_u64)?;
    let tail = Problem::number("tail", query.tail.as_deref(), 0_usize)?;
    let limit = Problem::number("limit", query.limit.as_deref(), 1_usize)?.unwrap_or(1_000).min(MOST_LINES);
    let deployment = deployment_id(path)?;
    if api.windlass.tools.deployments.get(deployment).await?.is_none() {
        return Err(Problem::new("DEPLOYMENT_NOT_FOUND", format!("there is no deployment {path}")));
    }
    let header =
        |name| request.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let resume = header("last-event-id").and_then(|id| id.parse().ok());
    let from = match (resume.or(after), tail) {
        (Some(after), _) => From::After(after),
        (None, Some(lines)) => From::Tail(lines.min(MOST_LINES)),
        (None, None) => From::After(0),
    };
    let follow = query.follow.as_deref().is_some_and(|follow| follow != "0" && follow != "false")
        || header("accept").is_some_and(|accept| accept.contains("text/event-stream"));
    // The head of a stream would come with its end.
    if follow && request.method() != Method::HEAD {
        return Ok(stream::events(Data::clone(api), deployment, from, query.step));
    }
    let lines = api.windlass.tools.logs.read(deployment, from, limit).await?;
    let next = lines.last().map_or(after.unwrap_or_default(), |line| line.id);
    let wanted: Vec<&Line> =
        lines.iter().filter(|line| query.step.is_none() || line.step == query.step).collect();
    Ok(HttpResponse::Ok()
        .json(serde_json::json!({ "deploymentId": deployment, "logs": wanted, "next": next })))
}

/// `GET /deploy/{id}/sbom`: what it is made of, as `CycloneDX`.
pub(super) async fn materials(api: Data<Api>, request: HttpRequest, path: Path<String>) -> HttpResponse {
    let bill = async {
        let deployment = deployment_id(&path)?;
        let bill = api.windlass.bill_of_materials(deployment).await?;
        let bill =
            bill.ok_or_else(|| Problem::new("NOT_FOUND", format!("{path} has no source that is kept")))?;
        Ok(HttpResponse::Ok().content_type("application/vnd.cyclonedx+json").json(bill))
    };
    api.answer(&request, bill.await)
}

/// `POST /deploy/{id}/cancel`.
pub(super) async fn cancel(api: Data<Api>, request: HttpRequest, path: Path<String>) -> HttpResponse {
    let id = api.correlation(&request);
    let cancelled = async {
        let deployment = deployment_id(&path)?;
        match api.windlass.cancel(deployment, "the API").await? {
            Cancelled::AtOnce => Ok(done(&path, "cancelled", "Deployment cancelled")),
            Cancelled::Stopping => Ok(done(&path, "cancelling", "Deployment is being stopped and undone")),
            Cancelled::TooLate(status) => Err(Problem::new(
                "STATE_CONFLICT",
                format!("{deployment} is {} and cannot be cancelled any more", status.as_str()),
            )),
            Cancelled::Missing => {
                Err(Problem::new("DEPLOYMENT_NOT_FOUND", format!("there is no deployment {deployment}")))
            }
        }
    };
    cancelled.await.unwrap_or_else(|problem: Problem| problem.answer(&id))
}

/// `POST /deploy/{id}/retry`.
pub(super) async fn retry(api: Data<Api>, request: HttpRequest, path: Path<String>) -> HttpResponse {
    let id = api.correlation(&request);
    let retried = async {
        let deployment = deployment_id(&path)?;
        match api.windlass.retry(deployment, "the API").await? {
            Retried::Queued => Ok(done(&path, "queued", "Deployment queued again")),
            Retried::Resumed => Ok(done(&path, "running", "Deployment resumed")),
            Retried::Refused(status) => Err(Problem::new(
                "STATE_CONFLICT",
                format!(
                    "{deployment} is {}; only failed, cancelled and stuck deployments can be retried",
                    status.as_str()
                ),
            )),
            Retried::Full => Err(SubmitError::Full.into()),
            Retried::Missing => {
                Err(Problem::new("DEPLOYMENT_NOT_FOUND", format!("there is no deployment {deployment}")))
            }
        }
    };
    retried.await.unwrap_or_else(|problem: Problem| problem.answer(&id))
}

fn done(deployment: &str, status: &str, message: &str) -> HttpResponse {
    HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/deploy/{deployment}/status")))
        .json(serde_json::json!({ "success": true, "deploymentId": deployment, "status": status, "message": message }))
}

/// Query of lists.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    status: Option<String>,
    environment: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// `GET /deploy/project/{project}`.
pub(super) async fn of_project(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    query: Result<Query<ListQuery>, actix_web::Error>,
) -> HttpResponse {
    let id = api.correlation(&request);
    let listed = async {
        let project: Name = path
            .parse()
            .map_err(|bad: crate::deploy::ids::BadId| Problem::field("/projectId", bad.to_string()))?;
        list(&api, Some(project), query).await
    };
    listed.await.unwrap_or_else(|problem: Problem| problem.answer(&id))
}

/// A page of deployments.
pub(super) async fn list(
    api: &Api,
    project: Option<Name>,
    query: Result<Query<ListQuery>, actix_web::Error>,
) -> Result<HttpResponse, Problem> {
    let query = query.map_err(|error| Problem::query(&error))?.into_inner();
    let status = query.status.map(|word| {
        Status::from_word(&word).ok_or_else(|| {
            Problem::field(
                "/status",
                format!("`{word}` is no status; use one of {}", Status::ALL.map(Status::as_str).join(", ")),
            )
        })
    });
    let environment = query
        .environment
        .map(|word| word.parse::<Environment>().map_err(|error| Problem::field("/environment", error)));
    let before = query.cursor.map(|cursor| {
        cursor.parse::<i64>().map_err(|_| Problem::field("/cursor", "use nextCursor of the page before"))
    });
    let limit = Problem::number("limit", query.limit.as_deref(), 1)?.unwrap_or(ROWS).min(MOST_ROWS);
    let filter = Filter {
        project,
        status: status.transpose()?,
        environment: environment.transpose()?,
        before: before.transpose()?,
        limit,
    };
    let deployments = api.windlass.tools.deployments.list(&filter).await?;
    let next_cursor = deployments.get(limit - 1).map(|last| last.no.to_string());
    Ok(HttpResponse::Ok()
        .json(api::Page { deployments: deployments.into_iter().map(row).collect(), next_cursor }))
}

fn row(deployment: Deployment) -> api::Row {
    api::Row {
        deployment_id: deployment.id.to_string(),
        project_id: deployment.wish.project.to_string(),
        container_size: deployment.size().map(size),
        project_name: deployment.wish.title,
        organization_id: deployment.wish.org.to_string(),
        user_id: deployment.wish.user.to_string(),
        environment: deployment.wish.environment.to_string(),
        commit_sha: deployment.wish.commit.as_ref().map(ToString::to_string),
        status: deployment.status.as_str().to_owned(),
        created_at: deployment.created.to_string(),
        ended_at: deployment.ended.map(|at| at.to_string()),
        urls: deployment.result.urls,
    }
}
