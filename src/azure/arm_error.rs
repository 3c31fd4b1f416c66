//! What Azure Resource Manager says when it does not do something, in whichever of its shapes.

use std::time::Duration;

use serde_json::Value;

use crate::causes::causes;

/// Codes that only say that there is a cause further in.
const WRAPPERS: [&str; 6] = [
    "DeploymentFailed",
    "InvalidTemplateDeployment",
    "ValidationForResourceFailed",
    "ResourceDeploymentFailure",
    "BadRequest",
    "Conflict",
];
/// Ends of the codes by which providers say the same.
const QUOTA: [&str; 2] = ["QuotaExceeded", "QuotaReached"];
const CAPACITY: [&str; 7] = [
    "SkuNotAvailable",
    "LocationIsOfferRestricted",
    "AllocationFailed",
    "CapacityHeavyUsage",
    "ResourceNotAvailable",
    "RequestedResourceNotAvailable",
    "InsufficientCapacity",
];
const DELETED: [&str; 3] = ["SoftDeleted", "DeletedButRecoverable", "FlagMustBeSetForRestore"];
const TAKEN: [&str; 5] =
    ["AlreadyExists", "AlreadyTaken", "NameNotAvailable", "NameUnavailable", "NameInUse"];
const ELSEWHERE: [&str; 3] =
    ["SubscriptionNotFound", "InvalidSubscriptionId", "InvalidAuthenticationTokenTenant"];
/// A token that came too late: revoked, or at the edge of its life by another clock.
const EXPIRED: [&str; 2] = ["ExpiredAuthenticationToken", "InvalidAuthenticationToken"];
/// Beginnings of actions with the role that allows them; the first that fits counts. The roles are those of
/// `infra/terraform/roles.tf`.
const ROLES: [(&str, &str); 8] = [
    ("Microsoft.App/managedEnvironments/", "Container Apps ManagedEnvironments Contributor"),
    ("Microsoft.App/jobs/", "Container Apps Jobs Contributor"),
    ("Microsoft.App/", "Container Apps Contributor"),
    ("Microsoft.ContainerRegistry/", "Container Registry Tasks Contributor"),
    ("Microsoft.ContainerInstance/", "Azure Container Instances Contributor Role"),
    ("Microsoft.ManagedIdentity/", "Managed Identity Operator"),
    ("Microsoft.ServiceBus/", "Reader"),
    ("Microsoft.OperationalInsights/", "Log Analytics Reader"),
];
/// Refusals of the sign-in that last until somebody does something, and what ("Microsoft Entra authentication error
/// codes", Microsoft Learn).
const REFUSALS: [(&str, &str); 4] = [
    ("AADSTS7000222", "the client secret has expired; make a new one and put it into AZURE_CLIENT_SECRET"),
    (
        "AADSTS7000215",
        "the client secret is wrong; put the secret's value into AZURE_CLIENT_SECRET, not its id",
    ),
    ("AADSTS700016", "the directory has no such application; check AZURE_CLIENT_ID and AZURE_TENANT_ID"),
    ("AADSTS90002", "there is no such directory; check AZURE_TENANT_ID"),
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

    fn says(&self, ends: &[&str]) -> bool {
        self.chain.iter().any(|code| ends.iter().any(|end| code.ends_with(end)))
    }

    /// Whether something that was deleted keeps the name.
    fn is_deleted(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        self.says(&DELETED)
            || ["soft-deleted", "soft deleted", "deleted state"].iter().any(|text| message.contains(text))
    }

    /// The role that allows what was refused, and where it is needed, from Azure's own sentence: `… perform action 'a' over
    /// scope 's' …`. When another resource is at fault, it comes last.
    fn permission(&self) -> String {
        let mut quoted =
            self.message.rsplit_once("action '").map(|(_, rest)| rest).unwrap_or_default().split('\'');
        let (action, scope) = (quoted.next().unwrap_or_default(), quoted.nth(1));
        let is_of =
            |begin: &str| action.get(..begin.len()).is_some_and(|start| start.eq_ignore_ascii_case(begin));
        let role = ROLES.iter().find(|(begin, _)| is_of(begin)).map(|(_, role)| *role);
        match (role, scope) {
            (Some(role), Some(scope)) => format!("give it the role {role} on {scope}"),
            (None, Some(scope)) => format!("give it a role that allows {action} on {scope}"),
            (_, None) => "give it the role that allows it".to_owned(),
        }
    }
}

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// There is no such resource.
    #[error("{0}")]
    Missing(Cause),
    /// The identity may not do it. The sentence names the role and the scope.
    #[error("the identity of Windlass may not do this; {needed}: {0}", needed = .0.permission())]
    Forbidden(Cause),
    /// There is no such subscription for this identity.
    #[error(
        "the subscription is not one of this sign-in; check AZURE_SUBSCRIPTION_ID and AZURE_TENANT_ID: {0}"
    )]
    Elsewhere(Cause),
    /// A quota is used up.
    #[error("a quota of the subscription is used up; ask for a larger one, or free something: {0}")]
    Quota(Cause),
    /// The region has no room.
    #[error("the region has no room for this now; try later, or set AZURE_LOCATION to another one: {0}")]
    Capacity(Cause),
    /// Something that is not ours has the name.
    #[error(
        "the name belongs to something else on Azure; remove that, or give the project another name: {0}"
    )]
    NameTaken(Cause),
    /// Something that was deleted keeps the name.
    #[error("something with this name was deleted and can still be recovered; recover or purge it: {0}")]
    Deleted(Cause),
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
    /// No token, until somebody mends the sign-in.
    #[error("the sign-in to Azure was refused: {advice}")]
    SignInRefused {
        /// What to do.
        advice: &'static str,
        /// What was said.
        #[source]
        source: azure_core::Error,
    },
    /// No answer.
    #[error("Azure Resource Manager cannot be reached")]
    Unreachable(#[source] azure_core::Error),
}

impl ArmError {
    /// The error of an HTTP status.
    #[must_use]
    pub fn of(status: u16, cause: Cause, wait: Duration) -> Self {
        match status {
            400..=404 if cause.says(&ELSEWHERE) => Self::Elsewhere(cause),
            403 if cause.says(&["RequestDisallowedByPolicy"]) => Self::Rejected(cause),
            404 => Self::Missing(cause),
            // The pipeline has forgotten the token; the next call gets another one.
            401 if cause.says(&EXPIRED) => Self::Throttled { wait, cause },
            401 | 403 => Self::Forbidden(cause),
            408 | 429 | 500..=599 => Self::Throttled { wait, cause },
            409 if cause.is_busy() => Self::Busy(cause),
            // The registry of an image is in trouble, and not the request.
            409 if cause.code == "RegistryErrorResponse" => Self::Throttled { wait, cause },
            _ => Self::refused(cause, Self::Rejected),
        }
    }

    /// The error of a long operation that failed.
    #[must_use]
    pub fn failed(cause: Cause) -> Self {
        Self::refused(cause, Self::Failed)
    }

    /// What can be told apart by the cause alone; `otherwise` for the rest.
    fn refused(cause: Cause, otherwise: fn(Cause) -> Self) -> Self {
        if cause.says(&QUOTA) {
            Self::Quota(cause)
        } else if cause.says(&CAPACITY) {
            Self::Capacity(cause)
        } else if cause.is_deleted() {
            Self::Deleted(cause)
        } else if cause.says(&TAKEN) {
            Self::NameTaken(cause)
        } else {
            otherwise(cause)
        }
    }

    /// The error of a sign-in.
    #[must_use]
    pub fn sign_in(source: azure_core::Error) -> Self {
        // The pipeline wraps what the sign-in said.
        let said = causes(&source);
        match REFUSALS.iter().find(|(code, _)| said.contains(code)) {
            Some(&(_, advice)) => Self::SignInRefused { advice, source },
            None => Self::SignIn(source),
        }
    }

    /// The stable code of a call that trying again does not help.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => "AZURE_FORBIDDEN",
            Self::Elsewhere(_) => "AZURE_NOT_FOUND",
            Self::Quota(_) => "AZURE_QUOTA",
            Self::Capacity(_) => "AZURE_CAPACITY",
            Self::NameTaken(_) => "AZURE_NAME_TAKEN",
            Self::Deleted(_) => "AZURE_SOFT_DELETED",
            Self::SignInRefused { .. } => "AZURE_SIGN_IN",
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
            Self::Missing(_)
            | Self::Forbidden(_)
            | Self::Elsewhere(_)
            | Self::Quota(_)
            | Self::Capacity(_)
            | Self::NameTaken(_)
            | Self::Deleted(_)
            | Self::Rejected(_)
            | Self::Failed(_)
            | Self::SignInRefused { .. } => false,
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
        for (status, code, wanted) in [
            (404, "SubscriptionNotFound", "AZURE_NOT_FOUND"),
            (401, "InvalidAuthenticationTokenTenant", "AZURE_NOT_FOUND"),
            (400, "SkuNotAvailable", "AZURE_CAPACITY"),
            (409, "ZonalAllocationFailed", "AZURE_CAPACITY"),
            (400, "ManagedEnvironmentQuotaReached", "AZURE_QUOTA"),
            (409, "ObjectIsDeletedButRecoverable", "AZURE_SOFT_DELETED"),
            (409, "ContainerAppAlreadyExists", "AZURE_NAME_TAKEN"),
            (403, "RequestDisallowedByPolicy", "AZURE_REJECTED"),
        ] {
            let found = error(status, code);
            assert_eq!((found.code(), found.may_pass()), (wanted, false), "{code}");
        }
        assert!(matches!(error(409, "RegistryErrorResponse"), ArmError::Throttled { .. }));
        assert!(error(401, "ExpiredAuthenticationToken").may_pass(), "the next call has another token");
        assert!(error(503, "ServerTimeout").may_pass() && !error(403, "AuthorizationFailed").may_pass());
        let deep = (0..50).fold(
            serde_json::json!({ "code": "X" }),
            |inner, _| serde_json::json!({ "error": { "code": "W", "details": [inner] } }),
        );
        assert_eq!(Cause::of(&deep, "").chain.len(), DEEPEST);
    }

    #[test]
    fn a_missing_permission_is_told_with_its_role_and_scope() {
        let told = |message: &str| {
            let cause = Cause { message: message.to_owned(), ..Cause::default() };
            ArmError::of(403, cause, Duration::from_secs(1)).to_string()
        };
        let plain = "The client 'c' with object id 'o' does not have authorization to perform action 'Microsoft.App/containerApps/write' over scope '/subscriptions/s/resourceGroups/g' or the scope is invalid.";
        assert!(
            told(plain).contains("the role Container Apps Contributor on /subscriptions/s/resourceGroups/g:"),
            "{}",
            told(plain)
        );
        let linked = "The client has permission to perform action 'Microsoft.App/containerApps/write' on scope '/a'; however, it does not have permission to perform action 'microsoft.managedidentity/userAssignedIdentities/assign/action' on the linked scope(s) '/identity' or the linked scope(s) are invalid.";
        assert!(
            told(linked).contains("the role Managed Identity Operator on /identity:"),
            "{}",
            told(linked)
        );
        assert!(
            told("perform action 'Other/x/read' over scope '/s'")
                .contains("a role that allows Other/x/read on /s:")
        );
        assert!(told("no").contains("give it the role that allows it: no"));
    }

    #[test]
    fn a_refused_sign_in_says_what_to_do_and_other_trouble_passes() {
        let error = |text: &'static str| {
            ArmError::sign_in(azure_core::Error::with_message(azure_core::error::ErrorKind::Credential, text))
        };
        let expired = error("failed. AADSTS7000222: The provided client secret keys are expired.");
        assert_eq!((expired.code(), expired.may_pass()), ("AZURE_SIGN_IN", false));
        assert!(expired.to_string().contains("has expired"), "{expired}");
        let wrapped =
            azure_core::Error::with_message(azure_core::error::ErrorKind::Credential, "AADSTS90002: no")
                .with_context("will not be retried");
        assert_eq!(ArmError::sign_in(wrapped).code(), "AZURE_SIGN_IN");
        assert!(error("no route").may_pass());
    }
}
