//! The doubles that stand in for Azure's services, and what only they can show.

mod apps;
mod arm_domains;
mod arm_double;
pub(crate) mod azurite;
mod backlog;
mod bad_days;
mod bus;
mod cloud;
mod context;
pub(crate) mod cosmos;
mod desk;
mod doctor;
mod domains;
pub(crate) mod doubles;
mod envelope;
mod footing;
mod groups_double;
mod host;
mod image_registry;
mod images;
mod instances;
mod jobs_double;
mod journal;
mod kaniko;
mod kaniko_story;
mod layers;
mod messages;
mod openapi;
mod registry_login;
mod remains;
mod round_trips;
mod sites_double;
mod stages;
mod statics;
mod storage;
mod telemetry;
mod transport;
mod vault;
mod vaulted;
mod whole;
mod workload;

use std::collections::BTreeMap;

use windlass::config::{AzureSettings, Settings};

/// A client for doubles and for what runs here.
pub(crate) fn http() -> reqwest::Client {
    windlass::tls::client().no_proxy().build().unwrap()
}

/// Variables of the Azure backend whose services are nowhere but for `more`.
pub(crate) fn variables(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut values: BTreeMap<String, String> = [
        ("WINDLASS_BACKEND", "azure"),
        ("COSMOS_ENDPOINT", "http://127.0.0.1:1/"),
        ("SERVICEBUS_NAMESPACE", "http://127.0.0.1:1/"),
        ("WINDLASS_BLOB_ENDPOINT", "http://127.0.0.1:1/"),
        ("WINDLASS_QUEUE_ENDPOINT", "http://127.0.0.1:1/"),
        ("WINDLASS_ARM_ENDPOINT", "http://127.0.0.1:1/"),
        ("WINDLASS_AUTHORITY", "http://127.0.0.1:1/"),
        ("WINDLASS_LOG_ANALYTICS_ENDPOINT", "http://127.0.0.1:1/"),
        ("KEYVAULT_URL", "http://127.0.0.1:1/"),
        ("AZURE_SUBSCRIPTION_ID", "00000000-0000-0000-0000-000000000002"),
        ("AZURE_RESOURCE_GROUP", "apps"),
        ("AZURE_LOCATION", "westeurope"),
        ("CONTAINER_APPS_ENVIRONMENT", "env"),
        ("APPS_IDENTITY", "/subscriptions/00000000-0000-0000-0000-000000000002/resourceGroups/apps/providers/Microsoft.ManagedIdentity/userAssignedIdentities/apps"),
        ("AZURE_CONTAINER_REGISTRY", "registry"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    values.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    values
}

/// The settings of these variables.
pub(crate) fn settings(more: &[(&str, &str)]) -> AzureSettings {
    *Settings::from_values(&variables(more)).unwrap().azure.unwrap()
}
