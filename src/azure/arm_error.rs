//! What Azure Resource Manager says when it does not do something, in whichever of its shapes.

use std::time::Duration;

use serde_json::Value;

/// Codes that only say that there is a cause further in.
const WRAPPERS: [&str; 6] = [
    "DeploymentFailed",
    "InvalidTemplateDeployment",
    "ValidationForResourceFailed",
    "ResourceDeploymentFailure",
    "BadRequest",
    "Conflict",
];
/// What a registry says that may not run tasks in its subscription.
pub(super) const TASKS_REFUSED: &str = "TasksOperationsNotAllowed";
/// Levels and characters that are looked at.
const DEEPEST: usize = 8;
const LONGEST: usize = 2_000;

/// Why it was not done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// The code that says most.
    pub code: String,
    /// Its sentence.
    pub message: String,
    /// Every code on the way there, outermost first.
    pub chain: Vec<String>,
    /// By which Microsoft's support finds the request.
    pub request: Option<String>,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        match &self.request {
            Some(request) => write!(f, "; Azure's request id is {request}"),
            None => Ok(()),
        }
    }
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text(value: &Value, name: &str) -> Option<String> {
    member(value, name)?.as_str().map(str::to_owned).filter(|text| !text.is_empty())
}

/// Codes and sentences from the outside in.
fn descend(value: &Value, depth: usize, found: &mut Vec<(String, String)>) {
    if depth == DEEPEST {
        return;
    }
    let inner = member(value, "error").filter(|inner| inner.is_object()).unwrap_or(value);
    let (code, message) = (text(inner, "code"), text(inner, "message").unwrap_or_default());
    let nested: Option<Value> = serde_json::from_str(&message).ok().filter(Value::is_object);
    if let Some(code) = code {
        let message = if nested.is_some() { String::new() } else { message };
        found.push((code, message.chars().take(LONGEST).collect()));
    }
    if let Some(nested) = nested {
        descend(&nested, depth + 1, found);
    }
    for detail in member(inner, "details").and_then(Value::as_array).into_iter().flatten() {
        descend(detail, depth + 1, found);
    }
}

impl Cause {
    /// The cause in an answer, of any of the shapes that providers send: enveloped or bare, in any casing, JSON inside a
    /// message, XML, text, or nothing.
    #[must_use]
    pub fn of(body: &Value, text: &str) -> Self {
        let mut found = Vec::new();
        descend(body, 0, &mut found);
        let chain: Vec<String> = found.iter().map(|(code, _)| code.clone()).collect();
        let telling = found.iter().rev().find(|(code, _)| !WRAPPERS.contains(&code.as_str()));
        let (code, message) = telling.or(found.first()).cloned().unwrap_or_else(|| {
            let text = text.trim();
            let shown = if text.is_empty() { "Azure gave no reason" } else { text };
            ("Unknown".to_owned(), shown.chars().take(LONGEST).collect())
        });
        Self { code, message, chain, request: None }
    }

    /// Whether somebody else is changing the same resource.
    fn is_busy(&self) -> bool {
        let busy = [
            "OperationInProgress",
            "LockConflict",
            "AnotherOperationInProgress",
            "ResourceGroupBeingDeleted",
            "ContainerGroupTransitioning",
        ];
        self.chain.iter().any(|code| busy.iter().any(|end| code.ends_with(end)))
            || self.message.contains("another operation is in progress")
            || self.message.contains("already an operation in progress")
    }

    fn is_quota(&self) -> bool {
        let full = [
            "QuotaExceeded",
            "QuotaReached",
            "SkuNotAvailable",
            "LocationIsOfferRestricted",
            "RequestedResourceNotAvailable",
        ];
        self.chain.iter().any(|code| full.iter().any(|end| code.ends_with(end)))
    }
}

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// There is no such resource.
    #[error("{0}")]
    Missing(Cause),
    /// The identity may not do it. The sentence names the action and the scope.
    #[error("the identity of Windlass may not do this; give it the role that allows it: {0}")]
    Forbidden(Cause),
    /// A quota is used up, or the region has no room.
    #[error("Azure has no room for this in the subscription or region: {0}")]
    Quota(Cause),
    /// The request is wrong; repeating it does not help.
    #[error("Azure refused the request: {0}")]
    Rejected(Cause),
    /// A long operation failed.
    #[error("Azure could not do it: {0}")]
    Failed(Cause),
    /// Somebody else is changing the resource; later.
    #[error("another change of the same resource is under way: {0}")]
    Busy(Cause),
    /// Too many requests, or trouble on their side; after this long.
    #[error("Azure asks to try again in {} s: {cause}", wait.as_secs())]
    Throttled {
        /// How long.
        wait: Duration,
        /// What it said.
        cause: Cause,
    },
    /// No token.
    #[error("no token for Azure; `windlass doctor` says what is wrong with the sign-in")]
    SignIn(#[source] azure_core::Error),
    /// No answer.
    #[error("Azure Resource Manager cannot be reached")]
    Unreachable(#[source] azure_core::Error),
}

impl ArmError {
    /// The error of an HTTP status.
    #[must_use]
    pub fn of(status: u16, cause: Cause, wait: Duration) -> Self {
        match status {
            404 => Self::Missing(cause),
            401 | 403 => Self::Forbidden(cause),
            408 | 429 | 500..=599 => Self::Throttled { wait, cause },
            _ if cause.is_quota() => Self::Quota(cause),
            409 if cause.is_busy() => Self::Busy(cause),
            // The registry of an image is in trouble, and not the request.
            409 if cause.code == "RegistryErrorResponse" => Self::Throttled { wait, cause },
            _ => Self::Rejected(cause),
        }
    }

    /// The stable code of a call that trying again does not help.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => "AZURE_FORBIDDEN",
            Self::Quota(_) => "AZURE_QUOTA",
            Self::Rejected(cause) if cause.code == TASKS_REFUSED => "BUILDER_NOT_ALLOWED",
            Self::Missing(_)
            | Self::Rejected(_)
            | Self::Failed(_)
            | Self::Busy(_)
            | Self::Throttled { .. }
            | Self::SignIn(_)
            | Self::Unreachable(_) => "AZURE_REJECTED",
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Throttled { .. } | Self::SignIn(_) | Self::Unreachable(_) => true,
            Self::Missing(_) | Self::Forbidden(_) | Self::Quota(_) | Self::Rejected(_) | Self::Failed(_) => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_in_every_shape() {
        let nested = r#"{"error":{"code":"DeploymentFailed","message":"see details","details":[{"code":"Conflict","message":"{\r\n \"error\": {\"code\":\"QuotaExceeded\",\"message\":\"no cores left\"}}"}]}}"#;
        for (text, code, message) in [
            (r#"{"error":{"code":"AuthorizationFailed","message":"no"}}"#, "AuthorizationFailed", "no"),
            (r#"{"code":"InvalidName","message":"bad"}"#, "InvalidName", "bad"),
            (
                r#"{"Code":"Conflict","Message":"busy","Details":[{"Message":"x"},{"Code":"59203","Message":"y"}]}"#,
                "59203",
                "y",
            ),
            (nested, "QuotaExceeded", "no cores left"),
            (r#"{"error":{"code":"Conflict","message":"only this"}}"#, "Conflict", "only this"),
            ("<html>gateway</html>", "Unknown", "<html>gateway</html>"),
            ("", "Unknown", "Azure gave no reason"),
        ] {
            let body = serde_json::from_str(text).unwrap_or_default();
            let cause = Cause::of(&body, text);
            assert_eq!((cause.code.as_str(), cause.message.as_str()), (code, message), "{text}");
        }
        let body = serde_json::from_str(nested).unwrap();
        assert_eq!(Cause::of(&body, nested).chain, ["DeploymentFailed", "Conflict", "QuotaExceeded"]);
    }

    #[test]
    fn a_status_and_a_cause_say_whether_to_try_again() {
        let error = |status, code: &str| {
            let cause = Cause { code: code.to_owned(), chain: vec![code.to_owned()], ..Cause::default() };
            ArmError::of(status, cause, Duration::from_secs(1))
        };
        assert!(matches!(error(409, "ContainerAppOperationInProgress"), ArmError::Busy(_)));
        assert!(matches!(error(409, "ScopeLocked"), ArmError::Rejected(_)));
        assert!(matches!(error(409, "QuotaExceeded"), ArmError::Quota(_)));
        assert!(matches!(error(409, "RequestedResourceNotAvailable"), ArmError::Quota(_)));
        assert!(matches!(error(409, "RegistryErrorResponse"), ArmError::Throttled { .. }));
        assert!(error(503, "ServerTimeout").may_pass() && !error(403, "AuthorizationFailed").may_pass());
        let deep = (0..50).fold(
            serde_json::json!({ "code": "X" }),
            |inner, _| serde_json::json!({ "error": { "code": "W", "details": [inner] } }),
        );
        assert_eq!(Cause::of(&deep, "").chain.len(), DEEPEST);
    }
}
