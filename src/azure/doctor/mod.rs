//! Looks at an installation on Azure: who we are, and whether everything that the service uses is there and may be used.
//!
//! Nothing is changed: every call is a read. Each row has a bound of its own, and all of a round are asked at once.

mod account;
mod identity;
mod registry;
mod rights;
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

/// What is looked at.
struct Doctor<'a> {
    settings: &'a AzureSettings,
    services: Services,
    arm: Arm,
    clock: &'a dyn Clock,
}

impl Doctor<'_> {
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
pub async fn examine(settings: &AzureSettings, clock: &dyn Clock) -> Vec<Finding> {
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
    if found.iter().any(|finding| finding.name == SIGN_IN && finding.state == State::Failed) {
        found.extend(
            SIGNED_IN.map(|name| Finding::absent(name, "not looked at, because the sign-in does not work")),
        );
        return found;
    }
    found.extend(
        all(vec![
            row("subscription", doctor.subscription()),
            row("service-bus", doctor.service_bus()),
            row("storage-content", doctor.content()),
            row("storage-logs", doctor.logs()),
            row("storage-alarm", doctor.alarm()),
            row("cosmos", doctor.cosmos()),
            row("key-vault", doctor.key_vault()),
            row("container-apps", doctor.container_apps()),
            row("registry", doctor.registry()),
            row("log-analytics", doctor.log_analytics()),
        ])
        .await,
    );
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
