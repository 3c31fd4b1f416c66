//! Who signs in, and to what: the Azure CLI, the sign-in service, the token, the subscription.

use std::process::{Output, Stdio};
use std::time::Duration;

use azure_core::base64::decode_url_safe;
use azure_core::http::headers::HeaderName;
use azure_core::http::{Method, Request, RetryOptions};
use jiff::Timestamp;
use serde_json::Value;

use super::Doctor;
use super::trouble::{Kind, Place, REACTIVATE, Trouble, entra_advice};
use crate::ambient::between;
use crate::api::finding::Finding;
use crate::azure::arm::Contract;
use crate::azure::arm_error::ArmError;
use crate::azure::transport::{Wire, ask};
use crate::config::{Auth, AzureSettings};

const CLI: &str = "azure-cli";
/// Entra ID takes clocks that are five minutes off.
const WORST_CLOCK: Duration = Duration::from_secs(300);
const POOR_CLOCK: Duration = Duration::from_secs(60);
/// The directory of everybody, where none is set.
const ANY_DIRECTORY: &str = "organizations";

async fn az(arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = tokio::process::Command::new("az");
    command.args(arguments).args(["--output", "json"]).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await
}

/// What `az` printed; `None` when it failed.
fn printed(output: &Output) -> Option<Value> {
    output.status.success().then(|| serde_json::from_slice(&output.stdout).ok()).flatten()
}

/// An id of which only the end can be read.
pub(super) fn masked(id: &str) -> String {
    let hidden = id.chars().count().saturating_sub(4);
    let hide = |(index, c): (usize, char)| if index < hidden && c != '-' { '*' } else { c };
    id.chars().enumerate().map(hide).collect()
}

/// The Azure CLI, which only the sign-in `cli` needs.
pub(super) async fn azure_cli(settings: &AzureSettings) -> Vec<Finding> {
    let needed = matches!(settings.auth, Auth::Cli);
    let install = "install it: https://learn.microsoft.com/cli/azure/install-azure-cli";
    let version = match az(&["version"]).await {
        Err(_) if needed => return vec![Finding::failed(CLI, "not on the PATH", install)],
        Err(_) => return vec![Finding::absent(CLI, "not on the PATH; this sign-in does not need it")],
        Ok(output) => printed(&output).and_then(|all| Some(all.get("azure-cli")?.as_str()?.to_owned())),
    };
    let Some(version) = version else {
        return vec![Finding::warn(CLI, "`az version` does not say a version", install)];
    };
    let account = az(&["account", "show"]).await.ok().as_ref().and_then(printed);
    let Some(account) = account else {
        return vec![Finding::warn(CLI, format!("{version}, not signed in"), "az login")];
    };
    let text = |name: &str| account.get(name).and_then(Value::as_str).unwrap_or_default();
    let (active, tenant) = (text("id"), text("tenantId"));
    let seen = format!("{version}, signed in; active subscription {} of directory {tenant}", masked(active));
    if needed && active != settings.subscription {
        let next = "az account set --subscription, with the id in AZURE_SUBSCRIPTION_ID";
        return vec![Finding::warn(CLI, format!("{seen}, which is not AZURE_SUBSCRIPTION_ID"), next)];
    }
    vec![Finding::ok(CLI, seen)]
}

/// What a token says of who got it. It is read, not verified: whoever is asked with it does that.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).and_then(|part| decode_url_safe(part).ok()).unwrap_or_default();
    serde_json::from_slice(&payload).unwrap_or_default()
}

impl Doctor<'_> {
    /// Whether the sign-in service is there and knows the directory, and whether our clock is right.
    pub(super) async fn sign_in_service(&self) -> Vec<Finding> {
        let row = "sign-in-service";
        let tenant = self.settings.tenant.as_deref().unwrap_or(ANY_DIRECTORY);
        let base = Wire::secure(&self.settings.authority);
        let Ok(url) = base.join(&format!("{tenant}/v2.0/.well-known/openid-configuration")) else {
            let seen = format!("AZURE_TENANT_ID {tenant} makes no address");
            return vec![Finding::failed(row, seen, "set it to the id of the directory")];
        };
        let pipeline = self.services.wire().pipeline(RetryOptions::none(), None);
        let answer = match ask(&pipeline, Request::new(url, Method::Get)).await {
            Ok(answer) => answer,
            Err(error) => return vec![self.place(row).failed(&Trouble::of(&error))],
        };
        let date = answer.headers.get_optional_string(&HeaderName::from_static("date"));
        let found = match (answer.status, entra_advice(&answer.text(), self.settings)) {
            (200, _) => Finding::ok(row, format!("{base} knows the directory {tenant}")),
            (status, Some(advice)) => {
                Finding::failed(row, format!("{base} answers {status} for the directory {tenant}"), advice)
            }
            (status, None) => {
                let seen = format!("{base} answers {status} for the directory {tenant}");
                Finding::failed(row, seen, "check AZURE_TENANT_ID and WINDLASS_AZURE_CLOUD")
            }
        };
        [Some(found), date.and_then(|date| self.clock(&date))].into_iter().flatten().collect()
    }

    /// Our clock against the `Date` of an answer.
    fn clock(&self, date: &str) -> Option<Finding> {
        let (theirs, ours) = (jiff::fmt::rfc2822::parse(date).ok()?.timestamp(), self.clock.now());
        let (early, late): (Timestamp, Timestamp) = (theirs.min(ours), theirs.max(ours));
        let (off, side) = (between(early, late), if ours < theirs { "behind" } else { "ahead" });
        let seen = format!("{} s {side}", off.as_secs());
        let next = "set this machine's clock by a time service: tokens hold for certain times only";
        Some(match off {
            off if off > WORST_CLOCK => Finding::failed("clock", seen, next),
            off if off > POOR_CLOCK => Finding::warn("clock", seen, next),
            _ => Finding::ok("clock", "right within a minute"),
        })
    }

    fn place(&self, name: &'static str) -> Place {
        Place {
            name,
            setting: "WINDLASS_AZURE_CLOUD",
            role: "Reader",
            scope: format!("the subscription {}", masked(&self.settings.subscription)),
            make: "check AZURE_SUBSCRIPTION_ID: this identity sees no such subscription, because it is another directory's, or because the identity has no role in it".to_owned(),
        }
    }

    fn way(&self) -> &'static str {
        match self.settings.auth {
            Auth::ManagedIdentity { .. } => "managed identity",
            Auth::WorkloadIdentity(_) => "workload identity",
            Auth::ServicePrincipal { .. } => "service principal",
            Auth::Cli => "the Azure CLI",
        }
    }

    /// Whether there is a token for Resource Manager, and whose.
    pub(super) async fn sign_in(&self) -> Vec<Finding> {
        let row = super::SIGN_IN;
        let scope = format!("{}.default", Wire::secure(&self.settings.arm));
        let way = self.way();
        let token = match self.services.credential().get_token(&[scope.as_str()], None).await {
            Ok(token) => token,
            Err(error) => {
                let trouble = Trouble::of(&error);
                let seen = format!("no token by {way}: {}", trouble.seen);
                let next =
                    entra_advice(&trouble.seen, self.settings).unwrap_or_else(|| self.remedy(&trouble));
                return vec![Finding::failed(row, seen, next)];
            }
        };
        let claims = claims(token.token.secret());
        let text = |names: &[&str]| {
            names.iter().find_map(|name| claims.get(*name).and_then(Value::as_str)).map(str::to_owned)
        };
        let who =
            text(&["upn", "unique_name", "appid", "azp", "oid"]).unwrap_or_else(|| "somebody".to_owned());
        let tenant = text(&["tid"]);
        let seen = format!("{who}, by {way}, in directory {}", tenant.as_deref().unwrap_or("unknown"));
        match (&self.settings.tenant, tenant) {
            // A directory may also be set by its domain, which the token does not tell.
            (Some(wanted), Some(found))
                if found.len() == wanted.len() && !found.eq_ignore_ascii_case(wanted) =>
            {
                let seen = format!("{seen}, but AZURE_TENANT_ID is {wanted}");
                vec![Finding::warn(row, seen, "set AZURE_TENANT_ID to the directory of the subscription")]
            }
            (None | Some(_), None | Some(_)) => vec![Finding::ok(row, seen)],
        }
    }

    /// What helps when nobody gives a reason with a code.
    fn remedy(&self, trouble: &Trouble) -> String {
        let on_the_way = matches!(trouble.kind, Kind::Unresolved | Kind::Unreachable | Kind::Untrusted);
        match self.settings.auth {
            Auth::Cli if trouble.seen.contains("not found on PATH") => "install the Azure CLI: see the row azure-cli".to_owned(),
            Auth::Cli => "az login, with --tenant where there are several directories".to_owned(),
            Auth::ManagedIdentity { .. } => "see the row identity".to_owned(),
            Auth::WorkloadIdentity(_) if !on_the_way => "see that AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE are what the platform sets".to_owned(),
            Auth::WorkloadIdentity(_) | Auth::ServicePrincipal { .. } => {
                let place = Place { setting: "WINDLASS_AUTHORITY", ..self.place(super::SIGN_IN) };
                place.failed(trouble).next.unwrap_or_default()
            }
        }
    }

    /// The subscription as Resource Manager knows it.
    pub(super) async fn subscribed(&self) -> Result<Value, ArmError> {
        let id = format!("/subscriptions/{}", self.settings.subscription);
        self.arm.look(Contract::Subscriptions, &id).await
    }

    pub(super) async fn subscription(&self) -> Vec<Finding> {
        let row = "subscription";
        let found = match self.subscribed().await {
            Ok(found) => found,
            Err(error) => return vec![self.failed(&self.place(row), &Trouble::of(&error))],
        };
        let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or("unknown");
        let (state, name, tenant) = (text("state"), text("displayName"), text("tenantId"));
        let id = masked(&self.settings.subscription);
        let seen = format!("{id} ({name}) of directory {tenant} is {state}");
        vec![match state {
            "Enabled" => Finding::ok(row, seen),
            "Warned" | "PastDue" => {
                let next =
                    "pay what is open (Cost Management + Billing), before the subscription is disabled";
                Finding::warn(row, seen, next)
            }
            "Deleted" => Finding::failed(row, seen, "set AZURE_SUBSCRIPTION_ID to one that is there"),
            _ => Finding::failed(row, seen, REACTIVATE),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_an_id_is_shown() {
        assert_eq!(masked("01234567-89ab-cdef-0123-456789abcdef"), "********-****-****-****-********cdef");
        assert_eq!(masked("abc"), "abc");
    }

    #[test]
    fn a_token_that_is_none_has_no_claims() {
        assert_eq!(claims("x.eyJ0aWQiOiJ0In0.y")["tid"], "t");
        for token in ["", "x", "x.!.y", "x.e30"] {
            assert!(claims(token).get("tid").is_none(), "{token}");
        }
    }
}
