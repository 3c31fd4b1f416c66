//! Which settings of the Azure backend may be secrets of its vault. The environment is asked first.

use std::collections::BTreeMap;

use super::Settings;

/// Settings that the backend cannot do without, each with the names that say the same. What is needed to ask the vault (its
/// address, the sign-in and the cloud) comes from the environment only.
const FROM_VAULT: [&[&str]; 8] = [
    &["COSMOS_ENDPOINT", "AZURE_COSMOS_CONNECTION_STRING"],
    &[
        "SERVICEBUS_NAMESPACE",
        "ServiceBusConnection__fullyQualifiedNamespace",
        "AZURE_SERVICE_BUS_CONNECTION_STRING",
    ],
    &[
        "STORAGE_ACCOUNT",
        "AzureWebJobsStorage__accountName",
        "AZURE_STORAGE_CONNECTION_STRING",
        "WINDLASS_BLOB_ENDPOINT",
    ],
    &["AZURE_SUBSCRIPTION_ID"],
    &["AZURE_RESOURCE_GROUP"],
    &["AZURE_CONTAINER_REGISTRY"],
    &["CONTAINER_APPS_ENVIRONMENT"],
    &["APPS_IDENTITY"],
];

/// A setting that the environment lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vaulted {
    /// The variable.
    pub name: &'static str,
    /// The secret: the variable's name in the characters that names of secrets may have.
    pub secret: String,
}

/// What the environment lacks and the vault may have, with settings in which names of nothing stand for it.
///
/// `None` when nothing is missing, when nothing says which vault, or when other settings are wrong.
#[must_use]
pub fn vaulted(values: &BTreeMap<String, String>) -> Option<(Vec<Vaulted>, Settings)> {
    let has = |name: &&str| values.get(*name).is_some_and(|value| !value.trim().is_empty());
    if !["KEYVAULT_URL", "AZURE_KEY_VAULT_URI"].iter().any(has) {
        return None;
    }
    let missing: Vec<Vaulted> = FROM_VAULT
        .iter()
        .filter(|names| !names.iter().any(has))
        .filter_map(|names| names.first().copied())
        .map(|name| Vaulted { name, secret: name.to_ascii_lowercase().replace('_', "-") })
        .collect();
    if missing.is_empty() {
        return None;
    }
    let mut stood_in = values.clone();
    for Vaulted { name, .. } in &missing {
        let nowhere = if *name == "COSMOS_ENDPOINT" { "https://nowhere.invalid/" } else { "nowhere" };
        stood_in.insert((*name).to_owned(), nowhere.to_owned());
    }
    let settings = Settings::from_values(&stood_in).ok()?;
    settings.azure.is_some().then_some((missing, settings))
}
