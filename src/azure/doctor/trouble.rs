//! What is wrong, from an error of whichever client, and what helps.

use std::error::Error;

use azure_core::error::ErrorKind;
use azure_data_cosmos::CosmosError;
use serde_json::Value;

use crate::api::finding::Finding;
use crate::azure::arm_error::{ArmError, Cause};
use crate::causes;
use crate::config::{Auth, AzureSettings};

/// What [`Cause`] says where there is no code.
const UNKNOWN: &str = "Unknown";
/// The code of what Cosmos DB's client says.
const COSMOS: &str = "Cosmos DB";
/// What says where Resource Manager is, which most rows ask.
const MANAGER: &str = "WINDLASS_AZURE_CLOUD and WINDLASS_ARM_ENDPOINT";
/// Characters of an error that are shown.
const LONGEST: usize = 400;

/// Kinds of trouble that are helped in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is not there.
    Missing,
    /// The subscription is another directory's, or nobody's.
    Elsewhere,
    /// The role is missing.
    Forbidden,
    /// The network rules of the service.
    Firewall,
    /// The token is one of another directory.
    WrongTenant,
    /// The token is not taken.
    Token,
    /// The subscription may be read only.
    Disabled,
    /// Too much is asked, or the service has trouble of its own.
    Throttled,
    /// The name has no address.
    Unresolved,
    /// Nothing answers there.
    Unreachable,
    /// The certificate is not trusted.
    Untrusted,
    /// Anything else.
    Other,
}

/// One error, understood.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    pub(super) seen: String,
    /// What says where it was asked, when that is not the setting of the place itself.
    pub(super) setting: Option<&'static str>,
}

/// What a service answered.
struct Answered {
    status: u16,
    code: String,
    message: String,
}

/// The error and its causes in one line, without what repeats, as far as it is shown.
pub(in crate::azure) fn chain(error: &(dyn Error + 'static)) -> String {
    shortened(&whole_chain(error))
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn whole_chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in causes::all(error) {
        let text = error.to_string();
        // The SDK appends links to its own pages.
        let text = text.split("\nTo troubleshoot").next().unwrap_or_default().replace(['\r', '\n'], " ");
        if !text.is_empty() && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// The text between the tags of an element that has no others in it.
fn element(text: &str, name: &str) -> Option<String> {
    let rest = text.split(&format!("<{name}>")).nth(1)?;
    Some(rest.split('<').next()?.to_owned())
}

fn answered(error: &(dyn Error + 'static)) -> Option<Answered> {
    let of = |status, cause: &Cause| {
        Some(Answered { status, code: cause.code.clone(), message: cause.message.clone() })
    };
    if let Some(error) = error.downcast_ref::<ArmError>() {
        return match error {
            ArmError::Missing(cause) | ArmError::Elsewhere(cause) => of(404, cause),
            ArmError::Forbidden(cause) => of(403, cause),
            ArmError::Throttled { cause, .. } => of(429, cause),
            ArmError::Quota(cause)
            | ArmError::Capacity(cause)
            | ArmError::NameTaken(cause)
            | ArmError::Deleted(cause)
            | ArmError::Rejected(cause)
            | ArmError::Failed(cause)
            | ArmError::Busy(cause) => of(400, cause),
            ArmError::SignIn(_) | ArmError::SignInRefused { .. } | ArmError::Unreachable(_) => None,
        };
    }
    if let Some(error) = error.downcast_ref::<CosmosError>() {
        let (status, text) = (u16::from(error.status().status_code()), error.to_string());
        return Some(Answered { status, code: COSMOS.to_owned(), message: text });
    }
    let ErrorKind::HttpResponse { status, error_code, raw_response } =
        error.downcast_ref::<azure_core::Error>()?.kind()
    else {
        return None;
    };
    let text = raw_response.as_ref().map(|raw| String::from_utf8_lossy(raw.body().as_ref()).into_owned());
    let text = text.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let cause = Cause::of(&body, &text);
    let code = element(&text, "Code")
        .or_else(|| (cause.code != UNKNOWN).then(|| cause.code.clone()))
        .or_else(|| error_code.clone())
        .unwrap_or_else(|| UNKNOWN.to_owned());
    let inner = body
        .pointer("/error/innererror/code")
        .and_then(Value::as_str)
        .map(|inner| format!("{code}, {inner}"));
    let message = element(&text, "Message").unwrap_or(cause.message);
    Some(Answered { status: u16::from(*status), code: inner.unwrap_or(code), message })
}

impl Answered {
    fn kind(&self) -> Kind {
        let text = format!("{} {}", self.code, self.message).to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&[
            "disabledsubscription",
            "subscriptiondisabled",
            "is disabled and therefore marked as read only",
        ]) {
            return Kind::Disabled;
        }
        if says(&["subscriptionnotfound", "invalidsubscriptionid"]) {
            return Kind::Elsewhere;
        }
        if says(&["invalidauthenticationtokentenant"]) {
            return Kind::WrongTenant;
        }
        if says(&["authorizationfailure", "firewall", "public network access is disabled"]) {
            return Kind::Firewall;
        }
        if says(&["authenticationfailed", "authenticationtoken"]) {
            return Kind::Token;
        }
        match self.status {
            404 => Kind::Missing,
            401 | 403 => Kind::Forbidden,
            408 | 429 | 500..=599 => Kind::Throttled,
            _ => Kind::Other,
        }
    }
}

/// What the words of those below us mean: they have no codes.
fn unanswered(text: &str) -> Option<Kind> {
    let text = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["dns error", "failed to lookup address", "name or service not known", "no such host"]) {
        return Some(Kind::Unresolved);
    }
    if says(&["certificate", "unknownissuer"]) {
        return Some(Kind::Untrusted);
    }
    let silent =
        ["connection refused", "tcp connect", "timed out", "no answer within", "error sending request"];
    says(&silent).then_some(Kind::Unreachable)
}

impl Trouble {
    /// Understands an error by its innermost answer, or by what the network said.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        // An address may be so long that what went wrong comes after what is shown.
        let text = whole_chain(error);
        let silent = unanswered(&text);
        let manager = causes::all(error)
            .any(|error| matches!(error.downcast_ref::<ArmError>(), Some(ArmError::Unreachable(_))));
        let setting = manager.then_some(MANAGER);
        for error in causes::all(error) {
            // An answer may have any words in it. Only Cosmos DB's client gives a status where nobody answered.
            let found = answered(error).filter(|answer| silent.is_none() || answer.code != COSMOS);
            if let Some(answer) = found {
                let seen = format!("{} {}: {}", answer.status, answer.code, answer.message);
                let seen = shortened(&seen.replace(['\r', '\n'], " "));
                return Self { kind: answer.kind(), seen, setting };
            }
        }
        Self { kind: silent.unwrap_or(Kind::Other), seen: shortened(&text), setting }
    }
}

/// What is looked at: how to call it, and what to do when it is not as it should be.
pub(super) struct Place {
    /// Of the row.
    pub(super) name: &'static str,
    /// Variable that says where it is.
    pub(super) setting: &'static str,
    /// Role that is needed.
    pub(super) role: &'static str,
    /// Where it is needed.
    pub(super) scope: String,
    /// What to do when there is none.
    pub(super) make: String,
}

impl Place {
    /// The row of a place where something went wrong.
    pub(super) fn failed(&self, trouble: &Trouble) -> Finding {
        Finding::failed(self.name, &trouble.seen, self.next(trouble))
    }

    fn next(&self, trouble: &Trouble) -> String {
        let Self { role, scope, make, .. } = self;
        let setting = trouble.setting.unwrap_or(self.setting);
        match trouble.kind {
            Kind::Missing => make.clone(),
            Kind::Elsewhere => "check AZURE_SUBSCRIPTION_ID: this identity sees no such subscription, because it is another directory's (AZURE_TENANT_ID), or because the identity has no role in it".to_owned(),
            Kind::Forbidden => lacking(role, scope),
            Kind::Firewall => format!("the network rules of {scope} refuse this machine: let its address in, or run this within the network"),
            Kind::WrongTenant => "the sign-in is to another directory than the subscription's: set AZURE_TENANT_ID to the one that the message names".to_owned(),
            Kind::Token => "the token is not taken: see the row clock, and whether WINDLASS_AZURE_CLOUD is the right cloud".to_owned(),
            Kind::Disabled => REACTIVATE.to_owned(),
            Kind::Throttled => "the service asks for patience: look again in a minute; if it stays so, see Azure's status page".to_owned(),
            Kind::Unresolved => format!("the name has no address: check {setting}; what is not made yet has none, and names of private endpoints are known only within their network"),
            Kind::Unreachable => format!("nothing answers there: check {setting}, the proxy and the firewall"),
            Kind::Untrusted => "the certificate is not trusted: install the machine's CA certificates; a proxy that opens TLS needs its own among them".to_owned(),
            Kind::Other => format!("check {setting} and {scope}"),
        }
    }
}

/// What helps when a role is missing.
pub(super) fn lacking(role: &str, scope: &str) -> String {
    format!("give the identity the role {role} on {scope}; a new role takes up to ten minutes")
}

/// What helps when a subscription is disabled.
pub(super) const REACTIVATE: &str = "reactivate the subscription in the portal (Cost Management + Billing: pay what is open, lift the spending limit, or upgrade a trial that has ended); until then everything is read only";

/// Codes of Entra ID with what helps. They may change (Microsoft's page "authentication and authorization error codes"), and
/// then the text alone is shown. `{tenant}` and `{client}` stand for the settings.
const ENTRA: [(&str, &str); 16] = [
    (
        "7000222",
        "the secret of {client} has expired: make a new one (az ad app credential reset --id {client}) and set AZURE_CLIENT_SECRET; a managed identity needs none",
    ),
    (
        "7000215",
        "AZURE_CLIENT_SECRET is not a secret of {client}: it has to be the secret's value, not its id",
    ),
    ("7000112", "the app {client} is disabled in the directory: enable it"),
    ("700016", "the directory {tenant} has no app {client}: check AZURE_CLIENT_ID and AZURE_TENANT_ID"),
    (
        "700024",
        "the token of the workload is not valid now: see the row clock, and whether the token file is renewed",
    ),
    (
        "700213",
        "no federated credential of {client} fits the workload: compare its issuer, subject and audience",
    ),
    (
        "70021",
        "no federated credential of {client} fits the workload: compare its issuer, subject and audience",
    ),
    ("700082", "the sign-in of the Azure CLI has expired: az login"),
    ("70043", "the sign-in of the Azure CLI has expired: az login"),
    ("50173", "the sign-in of the Azure CLI was revoked: az login"),
    ("50076", "the directory wants a second factor: az login --tenant {tenant}"),
    ("53003", "a conditional access policy of the directory blocks this sign-in: ask its administrator"),
    (
        "500011",
        "the directory does not know the service that is asked for: check WINDLASS_AZURE_CLOUD and WINDLASS_ARM_ENDPOINT",
    ),
    (
        "90002",
        "AZURE_TENANT_ID {tenant} is no directory of this cloud: az account show --query tenantId says which one is",
    ),
    (
        "900023",
        "AZURE_TENANT_ID {tenant} is no directory of this cloud: az account show --query tenantId says which one is",
    ),
    ("50034", "the account is not one of the directory {tenant}: check AZURE_TENANT_ID"),
];

/// What helps when Entra ID refuses, by the code in its text.
pub(super) fn entra_advice(text: &str, settings: &AzureSettings) -> Option<String> {
    let code: String = text.split("AADSTS").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    let (_, advice) = ENTRA.iter().find(|(known, _)| *known == code)?;
    let client = match &settings.auth {
        Auth::ServicePrincipal { client, .. } | Auth::ManagedIdentity { client: Some(client) } => {
            client.as_str()
        }
        Auth::WorkloadIdentity(workload) => workload.client.as_str(),
        Auth::ManagedIdentity { client: None } | Auth::Cli => "AZURE_CLIENT_ID",
    };
    let tenant = settings.tenant.as_deref().unwrap_or("(not set)");
    Some(advice.replace("{client}", client).replace("{tenant}", tenant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: &str, message: &str) -> Kind {
        Answered { status, code: code.to_owned(), message: message.to_owned() }.kind()
    }

    #[test]
    fn answers_are_told_apart() {
        for (status, code, message, wanted) in [
            (404, "ResourceNotFound", "", Kind::Missing),
            (404, "SubscriptionNotFound", "", Kind::Elsewhere),
            (403, "AuthorizationFailed", "does not have authorization", Kind::Forbidden),
            (403, "AuthorizationPermissionMismatch", "", Kind::Forbidden),
            (403, "AuthorizationFailure", "", Kind::Firewall),
            (403, "Forbidden, ForbiddenByFirewall", "Client address is not authorized", Kind::Firewall),
            (403, "Cosmos DB", "blocked by your Cosmos DB account firewall settings", Kind::Firewall),
            (403, "AuthenticationFailed", "", Kind::Token),
            (403, "ExpiredAuthenticationToken", "", Kind::Token),
            (403, "InvalidAuthenticationTokenTenant", "", Kind::WrongTenant),
            (409, "ReadOnlyDisabledSubscription", "", Kind::Disabled),
            (429, "TooManyRequests", "", Kind::Throttled),
            (503, "ServerBusy", "", Kind::Throttled),
            (400, "InvalidApiVersionParameter", "", Kind::Other),
        ] {
            assert_eq!(kind(status, code, message), wanted, "{code}");
        }
    }

    #[test]
    fn the_network_is_told_apart() {
        for (text, wanted) in [
            (
                "error sending request: client error (Connect): dns error: failed to lookup address",
                Kind::Unresolved,
            ),
            (
                "client error (Connect): tcp connect error: Connection refused (os error 111)",
                Kind::Unreachable,
            ),
            ("no answer within 30 s", Kind::Unreachable),
            ("invalid peer certificate: UnknownIssuer", Kind::Untrusted),
        ] {
            assert_eq!(unanswered(text), Some(wanted), "{text}");
        }
        assert_eq!(unanswered("403 Forbidden"), None);
    }

    #[test]
    fn an_answer_may_have_any_words_in_it() {
        let cause = Cause::of(
            &serde_json::json!({ "error": { "code": "AuthorizationFailed", "message": "the certificate of the client" } }),
            "",
        );
        let trouble = Trouble::of(&ArmError::Forbidden(cause));
        assert_eq!(trouble.kind, Kind::Forbidden, "{trouble:?}");
    }

    #[test]
    fn no_advice_is_there_twice() {
        for (index, (code, _)) in ENTRA.iter().enumerate() {
            assert!(ENTRA.iter().skip(index + 1).all(|(other, _)| other != code), "{code}");
        }
    }
}
