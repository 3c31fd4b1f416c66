//! Turns errors into answers: RFC 9457, one stable code each.

use std::fmt::Display;
use std::str::FromStr;

use actix_web::http::StatusCode;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};

use crate::actions::{ActionError, SourceError, SubmitError};
use crate::api;
use crate::api::codes::find;
use crate::causes::is_disk_full;
use crate::deploy::blobs::BlobError;
use crate::deploy::deployment::StoreError;
use crate::deploy::wish::{FieldError, token};
use crate::trace::TraceContext;
use crate::workflow::backlog::BacklogError;

/// An error on its way to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of catalogue code `code`.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new() }
    }

    /// One wrong field.
    pub fn field(pointer: &str, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { pointer: pointer.to_owned(), message: message.into() }])
    }

    /// A store that failed; what it takes to go on depends on the cause.
    fn store(error: &(dyn std::error::Error + 'static)) -> Self {
        if is_disk_full(error) {
            return Self::new("DISK_FULL", "there is no room left on the server's disk");
        }
        Self::new("STORE_UNAVAILABLE", error.to_string())
    }

    /// A query that cannot be read; where the reason names the field, so does the answer.
    pub fn query(error: &actix_web::Error) -> Self {
        let reason = error.to_string();
        let named = reason.split_once("field `").and_then(|(_, rest)| rest.split_once('`'));
        let error = named
            .map(|(name, _)| FieldError { pointer: format!("/{}", token(name)), message: reason.clone() });
        Self {
            code: "BAD_REQUEST",
            detail: format!("the query cannot be read: {reason}"),
            errors: error.into_iter().collect(),
        }
    }

    /// The number that field `name` of a query gives, from `least` on.
    ///
    /// # Errors
    /// It is another, or none.
    pub fn number<T>(name: &str, text: Option<&str>, least: T) -> Result<Option<T>, Self>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let Some(text) = text else { return Ok(None) };
        let number = text.parse::<T>().ok().filter(|number| *number >= least);
        let wrong =
            || Self::field(&format!("/{name}"), format!("has to be a number from {least} on, not `{text}`"));
        number.map(Some).ok_or_else(wrong)
    }

    fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => format!("{} {}", only.pointer.trim_start_matches('/'), only.message).trim().to_owned(),
            many => format!("the request has {} problems", many.len()),
        };
        Self { code: "VALIDATION_FAILED", detail, errors }
    }

    /// The answer.
    #[must_use]
    pub fn answer(&self, correlation: &str) -> HttpResponse {
        let body = self.body(correlation);
        response(&body).content_type("application/problem+json").json(&body)
    }

    /// The answer in the envelope of the documents' older version.
    #[must_use]
    pub fn answer_v2(&self, correlation: &str) -> HttpResponse {
        let body = self.body(correlation);
        response(&body).json(serde_json::json!({
            "success": false, "error": body.detail, "code": body.code, "retryable": body.retryable,
            "correlationId": body.correlation_id, "errors": body.errors,
        }))
    }

    fn body(&self, correlation: &str) -> api::Problem {
        let (title, status, category, retryable) = match find(self.code) {
            Some(code) => (code.title, code.status, code.category.as_str(), code.retryable),
            None => ("Windlass made a mistake", 500, "internal", false),
        };
        if status >= 500 {
            tracing::error!(
                code = self.code,
                detail = self.detail,
                correlation_id = correlation,
                "a request failed: {}",
                self.detail
            );
        }
        let field = |error: &FieldError| api::ProblemField {
            pointer: error.pointer.clone(),
            message: error.message.clone(),
        };
        api::Problem {
            kind: format!("urn:windlass:error:{}", self.code),
            title: title.to_owned(),
            status: if status == 0 { 500 } else { status },
            detail: self.detail.clone(),
            code: self.code.to_owned(),
            category: category.to_owned(),
            retryable,
            correlation_id: correlation.to_owned(),
            errors: self.errors.iter().map(field).collect(),
        }
    }
}

fn response(body: &api::Problem) -> actix_web::HttpResponseBuilder {
    let status = StatusCode::from_u16(body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        // A queue empties more slowly than a store comes back.
        let seconds = if body.code == "QUEUE_FULL" { "30" } else { "1" };
        response.insert_header(("retry-after", seconds));
    }
    response
}

/// The caller's own id for the request, or one made from its trace, or a new one.
#[must_use]
pub fn correlation(request: &HttpRequest, fresh: u128) -> String {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let plain = |text: &&str| {
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if let Some(id) = header("x-correlation-id").filter(plain) {
        return id.to_owned();
    }
    let trace = request.extensions().get::<TraceContext>().map(|context| context.trace_id());
    trace.unwrap_or_else(|| format!("{fresh:032x}"))
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(errors) => Self::fields(errors),
            SubmitError::KeyReused => Self::new("IDEMPOTENCY_KEY_REUSED", error.to_string()),
            SubmitError::Full => Self::new("QUEUE_FULL", error.to_string()),
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, cause = %error.0, "the store failed");
        Self::store(&error)
    }
}

impl From<BacklogError> for Problem {
    fn from(error: BacklogError) -> Self {
        StoreError(error.0).into()
    }
}

impl From<ActionError> for Problem {
    fn from(error: ActionError) -> Self {
        tracing::error!(error = %error, "an action failed");
        if matches!(error, ActionError::Blobs(BlobError::Full)) {
            return BlobError::Full.into();
        }
        Self::store(&error)
    }
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Manifest(crate::deploy::source::BadManifest::TooLarge { .. }) => {
                Self::new("SOURCE_TOO_LARGE", error.to_string())
            }
            SourceError::Manifest(_) => Self::new("SOURCE_INVALID", error.to_string()),
            SourceError::Blob(error) => error.into(),
            SourceError::Store(error) => error.into(),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        let code = match &error {
            BlobError::Mismatch { .. } => "CONTENT_MISMATCH",
            BlobError::TooLarge(_) => "SOURCE_TOO_LARGE",
            BlobError::Missing(_) => "NOT_FOUND",
            BlobError::Full => "DISK_FULL",
            BlobError::Damaged(_) | BlobError::Unavailable { .. } => "STORE_UNAVAILABLE",
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let problem = Problem::from(SubmitError::Full);
        for answer in [problem.answer("c"), problem.answer_v2("c")] {
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.headers().get("retry-after").unwrap(), "30");
        }
        let body = problem.body("c");
        assert_eq!(
            (body.code.as_str(), body.category.as_str(), body.retryable),
            ("QUEUE_FULL", "quota", true)
        );
    }

    #[test]
    fn content_that_cannot_be_kept_says_whose_turn_it_is() {
        let digest = crate::deploy::ids::Digest::of(b"x");
        let broken = || std::io::Error::other("gone");
        for (error, code, status) in [
            (BlobError::Mismatch { expected: digest, found: digest }, "CONTENT_MISMATCH", 422),
            (BlobError::TooLarge(1), "SOURCE_TOO_LARGE", 413),
            (BlobError::Missing(digest), "NOT_FOUND", 404),
            (BlobError::Full, "DISK_FULL", 507),
            (BlobError::Unavailable { path: "p".to_owned(), source: broken() }, "STORE_UNAVAILABLE", 503),
        ] {
            let body = Problem::from(error).body("c");
            assert_eq!((body.code.as_str(), body.status), (code, status));
        }
    }

    #[test]
    fn a_full_disk_is_not_taken_for_a_store_that_is_away() {
        use crate::workflow::journal::JournalError;
        let full = || -> Box<dyn std::error::Error + Send + Sync> {
            Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull))
        };
        let journal = |cause: Box<dyn std::error::Error + Send + Sync>| {
            ActionError::from(JournalError::Unavailable(cause))
        };
        for (problem, code, status) in [
            (Problem::from(StoreError(full())), "DISK_FULL", 507),
            (Problem::from(ActionError::from(StoreError(full()))), "DISK_FULL", 507),
            (Problem::from(journal(full())), "DISK_FULL", 507),
            (Problem::from(ActionError::from(BlobError::Full)), "DISK_FULL", 507),
            (Problem::from(BacklogError(full())), "DISK_FULL", 507),
            (Problem::from(journal("gone".into())), "STORE_UNAVAILABLE", 503),
            (Problem::from(StoreError("gone".into())), "STORE_UNAVAILABLE", 503),
        ] {
            let body = problem.body("c");
            assert_eq!((body.code.as_str(), body.status), (code, status));
        }
    }
}
