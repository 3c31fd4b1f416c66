//! `/operations/dead-letters`: messages that failed too often, for people to look at, send again or delete.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::Api;
use super::deployments::MOST_ROWS;
use super::problem::Problem;
use crate::workflow::backlog::BacklogError;

/// `GET /operations/dead-letters`.
pub(super) async fn dead_letters(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let listed = api.windlass.tools.backlog.dead_letters(MOST_ROWS).await;
    api.answer(
        &request,
        listed
            .map(|letters| HttpResponse::Ok().json(json!({ "deadLetters": letters })))
            .map_err(Problem::from),
    )
}

/// `GET /operations/dead-letters/{id}`.
pub(super) async fn dead_letter(api: Data<Api>, request: HttpRequest, path: Path<i64>) -> HttpResponse {
    let result = match api.windlass.tools.backlog.dead_letter(*path).await {
        Ok(Some(letter)) => Ok(HttpResponse::Ok().json(letter)),
        Ok(None) => Err(unknown(*path)),
        Err(error) => Err(error.into()),
    };
    api.answer(&request, result)
}

/// `POST /operations/dead-letters/{id}/redrive`.
pub(super) async fn redrive(api: Data<Api>, request: HttpRequest, path: Path<i64>) -> HttpResponse {
    let result = match api.windlass.tools.backlog.redrive(*path).await {
        Ok(true) => Ok(HttpResponse::Ok().json(json!({ "redriven": *path }))),
        Ok(false) => Err(unknown(*path)),
        Err(error) => Err(error.into()),
    };
    api.answer(&request, result)
}

/// `DELETE /operations/dead-letters`: all of them.
pub(super) async fn purge(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let purged = api.windlass.tools.backlog.purge(None).await;
    api.answer(&request, counted(purged))
}

/// `DELETE /operations/dead-letters/{id}`.
pub(super) async fn purge_one(api: Data<Api>, request: HttpRequest, path: Path<i64>) -> HttpResponse {
    let result = match api.windlass.tools.backlog.purge(Some(*path)).await {
        Ok(0) => Err(unknown(*path)),
        purged => counted(purged),
    };
    api.answer(&request, result)
}

fn unknown(id: i64) -> Problem {
    Problem::new("NOT_FOUND", format!("there is no dead letter {id}; windlass dlq list names all of them"))
}

fn counted(purged: Result<u64, BacklogError>) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(json!({ "purged": purged? })))
}
