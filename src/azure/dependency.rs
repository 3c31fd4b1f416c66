//! Calls to Azure's services as spans of the trace that they belong to.

use std::fmt::Display;

use azure_core::http::{AsyncRawResponse, Request};
use azure_data_cosmos::CosmosError;
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span};

use crate::trace::TARGET;

/// Too many requests: with the server's own faults, the one refusal that is nobody's answer to a question.
const THROTTLED: u16 = 429;

fn note(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 || status == THROTTLED {
        span.record("fault.code", display(status));
    }
}

/// A call of the pipeline; `call` sends `request`. Neither path nor query are told: they may carry names and signatures.
pub(super) async fn http(
    request: &Request,
    call: impl Future<Output = azure_core::Result<AsyncRawResponse>>,
) -> azure_core::Result<AsyncRawResponse> {
    let host = request.url().host_str().unwrap_or_default();
    let method = request.method().as_str();
    let span = tracing::debug_span!(
        target: TARGET,
        "dependency",
        otel.name = %format_args!("{method} {host}"),
        otel.kind = "client",
        http.request.method = method,
        server.address = host,
        http.response.status_code = Empty,
        fault.code = Empty,
    );
    let answer = call.instrument(span.clone()).await;
    match &answer {
        Ok(answer) => note(&span, answer.status().into()),
        Err(error) => fail(&span, error.kind()),
    }
    answer
}

fn fail(span: &Span, kind: impl Display) {
    span.record("fault.code", display(kind));
}

/// An operation on Cosmos DB, which has a pipeline of its own.
pub(super) async fn cosmos<T>(
    operation: &'static str,
    call: impl Future<Output = azure_data_cosmos::Result<T>>,
) -> azure_data_cosmos::Result<T> {
    let span = tracing::debug_span!(
        target: TARGET,
        "dependency",
        otel.name = %format_args!("cosmos {operation}"),
        otel.kind = "client",
        db.system.name = "azure.cosmosdb",
        db.operation.name = operation,
        http.response.status_code = Empty,
        fault.code = Empty,
    );
    // These futures are large, and would be in here twice.
    let answer = Box::pin(call.instrument(span.clone())).await;
    if let Err(error) = &answer {
        note(&span, status(error));
    }
    answer
}

fn status(error: &CosmosError) -> u16 {
    error.status().status_code().into()
}
