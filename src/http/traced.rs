//! Gives every request its place in a trace: the caller's, or a new one.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage as _};
use tracing::Instrument as _;
use tracing::field::{Empty, display};

use super::Api;
use crate::trace::{TARGET, TraceContext};

/// The middleware. Handlers find the request's [`TraceContext`] among its extensions.
pub(super) async fn in_a_span(
    api: Data<Api>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let caller: Option<TraceContext> =
        request.headers().get("traceparent").and_then(|value| value.to_str().ok()?.parse().ok());
    let ids = &api.windlass.tools.ids;
    let trace = caller.map_or_else(|| ids.random(), TraceContext::trace);
    let own = TraceContext::new(trace, ids.random());
    request.extensions_mut().insert(own);
    // No address and no query: both may say more than telemetry may know.
    let span = tracing::debug_span!(
        target: TARGET,
        parent: None,
        "request",
        otel.name = %request.method(),
        otel.kind = "server",
        trace.context = %own,
        trace.parent = caller.map(display),
        http.request.method = %request.method(),
        http.route = Empty,
        http.response.status_code = Empty,
        fault.code = Empty,
    );
    let answer = next.call(request).instrument(span.clone()).await;
    if let Ok(answer) = &answer {
        let (request, status) = (answer.request(), answer.status());
        if let Some(route) = request.match_pattern() {
            span.record("otel.name", display(format_args!("{} {route}", request.method())));
            span.record("http.route", route.as_str());
        }
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("fault.code", display(status.as_u16()));
        }
    }
    answer.map(ServiceResponse::map_into_boxed_body)
}
