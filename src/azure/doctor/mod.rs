//! Looks at an installation on Azure: who we are, and whether everything that the service uses is there and may be used.
//!
//! Nothing is changed: every call is a read. Each row has a bound of its own, and all of a round are asked at once.

mod account;
mod identity;
mod registry;
mod services;
mod trouble;

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use super::arm::Arm;
use super::services::Services;
use crate::ambient::Clock;
use crate::api::finding::{Finding, State};
use crate::config::{Auth, AzureSettings};

pub use identity::Probe;
pub(super) use trouble::chain;
use trouble::{Kind, Place, Trouble, lacking};

/// Longest wait for one row: Cosmos DB's own client gives up after 20 s.
const BOUND: Duration = Duration::from_secs(30);
/// Names of the rows that need a sign-in.
const SIGNED_IN: [&str; 10] = [
    "subscription",
    "service-bus",
    "storage-content",
    "storage-logs",
    "storage-alarm",
    "cosmos",
    "key-vault",
    "container-apps",
    "registry",
    "log-analytics",
];
/// The row that the rows of [`SIGNED_IN`] wait for.
const SIGN_IN: &str = "sign-in";

/// Settings that a row cannot do without.
const NEEDS: [(&str, &[&str]); 8] = [
    ("subscription", &["AZURE_SUBSCRIPTION_ID"]),
    ("service-bus", &["AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "SERVICEBUS_NAMESPACE"]),
    ("storage-content", &["STORAGE_ACCOUNT"]),
    ("storage-logs", &["STORAGE_ACCOUNT"]),
    ("storage-alarm", &["STORAGE_ACCOUNT"]),
    ("cosmos", &["COSMOS_ENDPOINT"]),
    (
        "container-apps",
        &["AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "CONTAINER_APPS_ENVIRONMENT", "APPS_IDENTITY"],
    ),
    ("registry", &["AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZURE_CONTAINER_REGISTRY"]),
];

/// Settings that are not in the environment, and that the vault did not give; others stand in for them.
#[derive(Debug, Default)]
pub struct Unknown {
    /// Why, for each.
    pub problems: Vec<String>,
    /// The variables.
    pub names: Vec<&'static str>,
}

impl Unknown {
    /// The setting that keeps a row from being looked at.
    fn of(&self, row: &str) -> Option<&'static str> {
        let (_, needs) = NEEDS.iter().find(|(name, _)| *name == row)?;
        needs.iter().copied().find(|need| self.names.contains(need))
    }

    fn rows(&self) -> impl Iterator<Item = Finding> {
        let next = "set it in the environment, or see the rows sign-in and key-vault";
        self.problems.iter().map(move |problem| Finding::failed("settings", problem, next))
    }
}

/// What is looked at.
struct Doctor<'a> {
    settings: &'a AzureSettings,
    services: Services,
    arm: Arm,
    clock: &'a dyn Clock,
}

impl Doctor<'_> {
    /// The rows that need a sign-in.
    fn signed_in(&self) -> Vec<(&'static str, Rows<'_>)> {
        vec![
            row("subscription", self.subscription()),
            row("service-bus", self.service_bus()),
            row("storage-content", self.content()),
            row("storage-logs", self.logs()),
            row("storage-alarm", self.alarm()),
            row("cosmos", self.cosmos()),
            row("key-vault", self.key_vault()),
            row("container-apps", self.container_apps()),
            row("registry", self.registry()),
            row("log-analytics", self.log_analytics()),
        ]
    }

    /// The row of a role that is missing. With the sign-in `cli` it is a person's, who needs it for this look only.
    fn lacks(&self, name: &'static str, scope: &str, seen: &str, role: &str) -> Finding {
        if matches!(self.settings.auth, Auth::Cli) {
            let seen = format!("{seen}, but you lack {role}; the service's identity was not looked at");
            let next = format!("see that the service's identity has the role {role} on {scope}");
            return Finding::warn(name, seen, next);
        }
        let seen = format!("{seen}, but the identity has not the role {role}");
        Finding::failed(name, seen, lacking(role, scope))
    }

    /// The row of a place where something went wrong.
    fn failed(&self, place: &Place, trouble: &Trouble) -> Finding {
        if trouble.kind == Kind::Forbidden && matches!(self.settings.auth, Auth::Cli) {
            return self.lacks(place.name, &place.scope, &trouble.seen, place.role);
        }
        place.failed(trouble)
    }
}

type Rows<'a> = BoxFuture<'a, Vec<Finding>>;

/// Every row of the installation with these settings, in a fixed order.
pub async fn examine(settings: &AzureSettings, unknown: &Unknown, clock: &dyn Clock) -> Vec<Finding> {
    let services = match Services::hasty(settings) {
        Ok(services) => services,
        Err(error) => {
            return vec![Finding::failed("settings", chain(&error), "correct the setting that is named")];
        }
    };
    let doctor = Doctor { settings, arm: services.arm(), services, clock };
    let mut found = all(vec![
        row("azure-cli", account::azure_cli(settings)),
        row("identity", doctor.identity()),
        row("sign-in-service", doctor.sign_in_service()),
        row(SIGN_IN, doctor.sign_in()),
    ])
    .await;
    found.extend(unused_keys(settings));
    found.extend(unknown.rows());
    if found.iter().any(|finding| finding.name == SIGN_IN && finding.state == State::Failed) {
        found.extend(
            SIGNED_IN.map(|name| Finding::absent(name, "not looked at, because the sign-in does not work")),
        );
        return found;
    }
    let (known, others): (Vec<_>, Vec<_>) =
        doctor.signed_in().into_iter().partition(|(name, _)| unknown.of(name).is_none());
    found.extend(all(known).await);
    for (name, _) in others {
        let setting = unknown.of(name).unwrap_or_default();
        found.push(Finding::absent(name, format!("not looked at, because {setting} is not known")));
    }
    found
}

fn row<'a>(
    name: &'static str,
    look: impl Future<Output = Vec<Finding>> + Send + 'a,
) -> (&'static str, Rows<'a>) {
    (name, Box::pin(look))
}

/// Asks everything at once.
async fn all(rows: Vec<(&'static str, Rows<'_>)>) -> Vec<Finding> {
    let bounded = rows.into_iter().map(|(name, row)| async move {
        tokio::time::timeout(BOUND, row).await.unwrap_or_else(|_| {
            let seen = format!("no answer within {} s", BOUND.as_secs());
            vec![Finding::failed(name, seen, "check the address in the settings, the proxy and the firewall")]
        })
    });
    join_all(bounded).await.into_iter().flatten().collect()
}

/// Keys in connection strings are for programs that do not sign in.
fn unused_keys(settings: &AzureSettings) -> Option<Finding> {
    let names = settings.unused_keys.join(", ");
    let seen = format!("{names}: the address is used, the key is not; Windlass signs in with its identity");
    let next = "take the key out, and give the identity the roles that the rows below name";
    (!names.is_empty()).then(|| Finding::warn("connection-strings", seen, next))
}
