//! Whether everything that the service uses is there, and whether the identity may use it.

use azure_core::http::{Method, Request, RetryOptions, StatusCode, Url};
use futures_util::future::join_all;
use serde_json::Value;

use super::Doctor;
use super::trouble::{Kind, Place, Trouble};
use crate::api::finding::{Finding, State};
use crate::azure::app_changes::environment;
use crate::azure::arm::Contract;
use crate::azure::rights::{APPS, GROUPS, JOBS, Plane, Right, lacking, roles};
use crate::azure::transport::{Wire, ask};
use crate::config::{Strategy, is_loopback};
use crate::deploy::runtime::RuntimeError;
use crate::triggers::table::{FUNCTIONS, Trigger};

/// The secret whose presence says that the service was started once.
const KEY: &str = "windlass-sealing-key";
/// The Terraform of this repository makes everything.
pub(super) const TERRAFORM: &str = "terraform apply in infra/terraform makes it";

const SEND: Right = Right {
    role: "Azure Service Bus Data Sender",
    plane: Plane::Data,
    any: &["Microsoft.ServiceBus/namespaces/messages/send/action"],
};
const RECEIVE: Right = Right {
    role: "Azure Service Bus Data Receiver",
    plane: Plane::Data,
    any: &["Microsoft.ServiceBus/namespaces/messages/receive/action"],
};
const BLOBS: Right = Right {
    role: "Storage Blob Data Contributor",
    plane: Plane::Data,
    any: &["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write"],
};
const MESSAGES: Right = Right {
    role: "Storage Queue Data Contributor",
    plane: Plane::Data,
    any: &[
        "Microsoft.Storage/storageAccounts/queueServices/queues/messages/add/action",
        "Microsoft.Storage/storageAccounts/queueServices/queues/messages/write",
    ],
};
const SECRETS: Right = Right {
    role: "Key Vault Secrets Officer",
    plane: Plane::Data,
    any: &["Microsoft.KeyVault/vaults/secrets/setSecret/action"],
};
const CERTIFICATES: Right = Right {
    role: "Container Apps ManagedEnvironments Contributor",
    plane: Plane::Control,
    any: &["Microsoft.App/managedEnvironments/managedCertificates/write"],
};
const ASSIGN: Right = Right {
    role: "Managed Identity Operator",
    plane: Plane::Control,
    any: &["Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"],
};

/// The name of a resource in the address of its service; on loopback it is in the path, as emulators have it.
fn name_in(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    let path = url.path().trim_matches('/');
    if is_loopback(url) && !path.is_empty() { path } else { host.split('.').next().unwrap_or(host) }
}

fn bus_queues() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().filter_map(|function| match function.trigger {
        Trigger::ServiceBus { queue_name, .. } => Some(queue_name),
        Trigger::Http { .. } | Trigger::StorageQueue { .. } | Trigger::Timer { .. } => None,
    })
}

/// A region as Azure compares them: "West Europe" is westeurope.
fn region(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase()
}

impl Doctor<'_> {
    /// The row of something that is there: whether the identity lacks a role for it.
    pub(super) async fn with_rights(&self, place: &Place, seen: String, rights: &[Right]) -> Finding {
        match lacking(&self.arm, &place.scope, rights).await {
            Ok(Some(lacked)) if lacked.is_empty() => Finding::ok(place.name, seen),
            Ok(Some(lacked)) => self.lacks(place.name, &place.scope, &seen, &roles(&lacked)),
            // A resource of another group, or an identity that may not look: reading works, and nothing else is known.
            Ok(None) | Err(_) => {
                let next = format!("see that the identity has the role {} on it", roles(rights));
                Finding::warn(place.name, format!("{seen}; Azure does not say who may change it"), next)
            }
        }
    }

    /// Whether the namespace answers at all. What Resource Manager knows of it is no sign that our messages get there.
    async fn bus_answers(&self) -> Result<(), Trouble> {
        let pipeline = self.services.wire().pipeline(RetryOptions::none(), None);
        let request = Request::new(Wire::secure(&self.settings.service_bus), Method::Get);
        ask(&pipeline, request).await.map(drop).map_err(|error| Trouble::of(&error))
    }

    pub(super) async fn service_bus(&self) -> Vec<Finding> {
        let namespace = format!("Microsoft.ServiceBus/namespaces/{}", name_in(&self.settings.service_bus));
        let place = Place {
            name: "service-bus",
            setting: "SERVICEBUS_NAMESPACE",
            role: "Reader",
            scope: self.arm.id(&namespace),
            make: format!("make the namespace and its queues: {TERRAFORM}"),
        };
        if let Err(trouble) = self.bus_answers().await {
            return vec![place.failed(&trouble)];
        }
        let looks = join_all(bus_queues().map(|queue| {
            let id = self.arm.id(&format!("{namespace}/queues/{queue}"));
            async move { (queue, self.arm.look(Contract::ServiceBus, &id).await) }
        }));
        let (mut missing, mut idle, mut doubles, mut count) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (queue, found) in looks.await {
            let found = match found.map_err(|error| Trouble::of(&error)) {
                Ok(found) => found,
                Err(trouble) if trouble.kind == Kind::Missing => {
                    missing.push(queue);
                    continue;
                }
                Err(trouble) => return vec![self.failed(&place, &trouble)],
            };
            count += 1;
            let property = |name: &str| found.pointer(&format!("/properties/{name}")).cloned();
            if property("status").is_some_and(|status| status != "Active") {
                idle.push(queue);
            }
            if property("requiresDuplicateDetection") == Some(Value::Bool(false)) {
                doubles.push(queue);
            }
        }
        let again = "make them again with duplicate detection, which cannot be switched on later";
        let wrong = [
            (missing, "are not there", place.make.as_str()),
            (idle, "are not active", "set their status to Active in the portal"),
            (doubles, "take a message twice", again),
        ];
        vec![match wrong.into_iter().find(|(queues, _, _)| !queues.is_empty()) {
            Some((queues, how, next)) => {
                Finding::failed(place.name, format!("the queues {} {how}", queues.join(", ")), next)
            }
            None => self.with_rights(&place, format!("{count} queues"), &[SEND, RECEIVE]).await,
        }]
    }

    fn storage(&self, name: &'static str, url: &Url, role: &'static str, what: &str) -> Place {
        let account = format!("Microsoft.Storage/storageAccounts/{}", name_in(url));
        Place {
            name,
            setting: "STORAGE_ACCOUNT",
            role,
            scope: self.arm.id(&account),
            make: format!("make the {what} in the storage account: {TERRAFORM}"),
        }
    }

    async fn blob_container(&self, name: &'static str, container: &'static str) -> Vec<Finding> {
        let place = self.storage(name, &self.settings.blobs, BLOBS.role, &format!("container {container}"));
        let client = if container == "logs" { self.services.logs() } else { self.services.content() };
        let client = match client {
            Ok(client) => client,
            Err(error) => return vec![self.failed(&place, &Trouble::of(&error))],
        };
        vec![match client.get_properties(None).await {
            Ok(_) => self.with_rights(&place, format!("the container {container}"), &[BLOBS]).await,
            Err(error) => self.failed(&place, &Trouble::of(&error)),
        }]
    }

    pub(super) async fn content(&self) -> Vec<Finding> {
        self.blob_container("storage-content", "content").await
    }

    pub(super) async fn logs(&self) -> Vec<Finding> {
        self.blob_container("storage-logs", "logs").await
    }

    pub(super) async fn alarm(&self) -> Vec<Finding> {
        let place = self.storage("storage-alarm", &self.settings.queues, MESSAGES.role, "queue alarm");
        let client = match self.services.alarms() {
            Ok(client) => client,
            Err(error) => return vec![self.failed(&place, &Trouble::of(&error))],
        };
        vec![match client.get_properties(None).await {
            Ok(_) => self.with_rights(&place, "the queue alarm".to_owned(), &[MESSAGES]).await,
            Err(error) => self.failed(&place, &Trouble::of(&error)),
        }]
    }

    /// The roles for data are Cosmos DB's own, and nothing tells them but trying.
    pub(super) async fn cosmos(&self) -> Vec<Finding> {
        let account = format!("Microsoft.DocumentDB/databaseAccounts/{}", name_in(&self.settings.cosmos));
        let database = &self.settings.database;
        let place = Place {
            name: "cosmos",
            setting: "COSMOS_ENDPOINT",
            role: "Cosmos DB Built-in Data Contributor (az cosmosdb sql role assignment create)",
            scope: self.arm.id(&account),
            make: format!("make the database {database} with the containers runs and records: {TERRAFORM}"),
        };
        let (runs, records) = match self.services.cosmos().await {
            Ok(containers) => containers,
            Err(error) => return vec![self.failed(&place, &Trouble::of(&error))],
        };
        for container in [runs, records] {
            if let Err(fault) = container.read::<Value>("installation", "probe").await {
                return vec![self.failed(&place, &Trouble::of(&fault))];
            }
        }
        let seen = format!(
            "the containers runs and records of {database} can be read; whether they can be written is not known"
        );
        vec![Finding::warn(place.name, seen, format!("see that the identity has the role {}", place.role))]
    }

    pub(super) async fn key_vault(&self) -> Vec<Finding> {
        let vault = format!("Microsoft.KeyVault/vaults/{}", name_in(&self.settings.vault));
        let place = Place {
            name: "key-vault",
            setting: "KEYVAULT_URL",
            role: SECRETS.role,
            scope: self.arm.id(&vault),
            make: format!("make the vault: {TERRAFORM}"),
        };
        let client = match self.services.vault() {
            Ok(client) => client,
            Err(error) => return vec![self.failed(&place, &Trouble::of(&error))],
        };
        let seen = match client.get_secret(KEY, None).await {
            Ok(_) => "secrets can be read; the sealing key is there",
            Err(error) if error.http_status() == Some(StatusCode::NotFound) => {
                "secrets can be read; the first start makes the sealing key"
            }
            Err(error) => return vec![self.failed(&place, &Trouble::of(&error))],
        };
        vec![self.with_rights(&place, seen.to_owned(), &[SECRETS]).await]
    }

    pub(super) async fn container_apps(&self) -> Vec<Finding> {
        let name = &self.settings.environment;
        let id = self.arm.id(&environment(name));
        let group = id.split("/providers/").next().unwrap_or(&id).to_owned();
        let place = Place {
            name: "container-apps",
            setting: "CONTAINER_APPS_ENVIRONMENT and AZURE_RESOURCE_GROUP",
            role: "Reader",
            scope: group,
            make: format!(
                "make the resource group {} and the Container Apps environment {name}: {TERRAFORM}",
                self.settings.group
            ),
        };
        let found = match self.arm.look(Contract::ContainerApps, &id).await {
            Ok(found) => found,
            Err(error) => return vec![self.failed(&place, &Trouble::of(&error))],
        };
        let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (state, domain) = (text("/properties/provisioningState"), text("/properties/defaultDomain"));
        if state != "Succeeded" || domain.is_empty() {
            let next = "wait until it is ready; a failed one has to be deleted and made again";
            return vec![Finding::failed(place.name, format!("the environment {name} is {state}"), next)];
        }
        let (there, wanted) = (text("/location"), &self.settings.location);
        if region(there) != region(wanted) {
            let seen = format!("the environment {name} is in {there}, AZURE_LOCATION is {wanted}");
            return vec![Finding::failed(place.name, seen, format!("set AZURE_LOCATION={}", region(there)))];
        }
        let group: &[Right] = match self.settings.builder.strategy {
            Strategy::Job(_) | Strategy::Auto(Some(_)) => &[APPS, JOBS],
            Strategy::Aci(_) => &[APPS, GROUPS],
            Strategy::Auto(None) | Strategy::Layers | Strategy::Acr => &[APPS],
        };
        let mut row = self.with_rights(&place, format!("{name} in {there}, apps on {domain}"), group).await;
        let others: [(String, &[Right]); 2] =
            [(id, &[CERTIFICATES]), (self.settings.apps_identity.clone(), &[ASSIGN])];
        for (scope, rights) in others {
            if row.state == State::Ok {
                let at = Place { scope, make: String::new(), ..place };
                row = self.with_rights(&at, row.seen, rights).await;
            }
        }
        vec![row]
    }

    pub(super) async fn log_analytics(&self) -> Vec<Finding> {
        let row = "log-analytics";
        // No app has this name: the answer is an empty list.
        vec![match self.services.app_logs().newest("windlass-doctor", 1).await {
            Ok(_) => Finding::ok(row, "the workspace can be asked"),
            Err(RuntimeError::Rejected { code: "APP_LOGS_UNCONFIGURED", message }) => {
                Finding::warn(row, "no workspace is set: what apps say cannot be shown", message)
            }
            Err(RuntimeError::Rejected { code: "AZURE_FORBIDDEN", message }) => {
                let place = Place {
                    name: row,
                    setting: "LOG_ANALYTICS_WORKSPACE",
                    role: "Log Analytics Reader",
                    scope: "the workspace in LOG_ANALYTICS_WORKSPACE".to_owned(),
                    make: String::new(),
                };
                self.failed(&place, &Trouble { kind: Kind::Forbidden, seen: message, setting: None })
            }
            Err(RuntimeError::Rejected { message, .. }) => Finding::failed(
                row,
                message,
                "check LOG_ANALYTICS_WORKSPACE: it is the workspace's id (a GUID), not its name",
            ),
            Err(RuntimeError::Unavailable(message)) => Finding::failed(
                row,
                message,
                "look again in a minute; then check the network's way to Log Analytics",
            ),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_addresses() {
        for (url, name) in [
            ("https://wl-bus.servicebus.windows.net/", "wl-bus"),
            ("https://127.0.0.1:10000/devstoreaccount1", "devstoreaccount1"),
            ("http://127.0.0.1:1/", "127"),
        ] {
            assert_eq!(name_in(&url.parse().unwrap()), name, "{url}");
        }
        assert_eq!(region("West Europe"), region("westeurope"));
    }
}
