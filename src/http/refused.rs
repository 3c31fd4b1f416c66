//! What the web server refuses by itself, in the form of our own answers.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpRequest, HttpResponse};

use super::Api;
use super::problem::Problem;
use super::routes::MostBytes;

/// The middleware.
pub(super) async fn in_our_words(
    api: Data<Api>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let answer = next.call(request).await?.map_into_boxed_body();
    let Some(problem) = problem(&answer) else { return Ok(answer) };
    let mut ours = refuse(&api, answer.request(), &problem);
    if let Some(methods) = answer.headers().get(header::ALLOW) {
        ours.headers_mut().insert(header::ALLOW, methods.clone());
    }
    Ok(answer.into_response(ours))
}

/// The problem in the form that the path has for answers.
pub(super) fn refuse(api: &Api, request: &HttpRequest, problem: &Problem) -> HttpResponse {
    let id = api.correlation(request);
    let old = request.path() == "/api/deploy";
    if old { problem.answer_v2(&id) } else { problem.answer(&id) }
}

fn problem(answer: &ServiceResponse<BoxBody>) -> Option<Problem> {
    let (request, status) = (answer.request(), answer.status());
    let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(|kind| kind.contains("json")) {
        // A handler said it, and more exactly.
        return None;
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let detail = format!("{} does not take {}", request.path(), request.method());
        return Some(Problem::new("METHOD_NOT_ALLOWED", detail));
    }
    if status != StatusCode::PAYLOAD_TOO_LARGE {
        return None;
    }
    let most = request.app_data::<MostBytes>().map(|most| format!(": at most {} bytes", most.0));
    let detail = format!("{} takes no body as large as this{}", request.path(), most.unwrap_or_default());
    Some(Problem::new("BODY_TOO_LARGE", detail))
}
