//! Settings of the Azure backend that are secrets of its vault.

use std::sync::Arc;

use azure_security_keyvault_secrets::models::SetSecretParameters;
use windlass::azure::services::Services;
use windlass::azure::vaulted::complete;

use super::azurite::Unsigned;
use super::doubles::Double;
use super::vault::vault;
use super::{doctor, settings, variables};

/// A vault with one secret.
async fn vault_with(name: &str, value: &str) -> Double {
    let double = vault();
    let settings = settings(&[("KEYVAULT_URL", &double.address)]);
    let client = Services::with(&settings, Arc::new(Unsigned)).unwrap().vault().unwrap();
    let secret = SetSecretParameters { value: Some(value.to_owned()), ..SetSecretParameters::default() };
    client.set_secret(name, secret.try_into().unwrap(), None).await.unwrap();
    double
}

#[tokio::test]
async fn the_environment_is_asked_before_the_vault() {
    let vault = vault_with("azure-resource-group", "from-the-vault").await;
    let authority = doctor::authority(Vec::new());
    let kept = vault.asked().len();
    let found = async |group: &str| {
        let values = variables(&[
            ("KEYVAULT_URL", &vault.address),
            ("WINDLASS_AUTHORITY", &authority.address),
            ("WINDLASS_AZURE_AUTH", "service-principal"),
            ("AZURE_TENANT_ID", "t"),
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_CLIENT_SECRET", "s"),
            ("AZURE_RESOURCE_GROUP", group),
        ]);
        complete(values).await.unwrap()["AZURE_RESOURCE_GROUP"].clone()
    };
    assert_eq!(found("from-the-environment").await, "from-the-environment");
    assert_eq!(vault.asked().len(), kept, "the vault is not asked for what is there");
    for nothing in ["", " "] {
        assert_eq!(found(nothing).await, "from-the-vault");
    }
}

#[tokio::test]
async fn what_is_in_neither_place_is_told_by_both_names() {
    let vault = vault_with("azure-resource-group", "from-the-vault").await;
    let authority = doctor::authority(Vec::new());
    let problems = async |vault: &str| {
        let values = variables(&[
            ("KEYVAULT_URL", vault),
            ("WINDLASS_AUTHORITY", &authority.address),
            ("WINDLASS_AZURE_AUTH", "service-principal"),
            ("AZURE_TENANT_ID", "t"),
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_CLIENT_SECRET", "s"),
            ("AZURE_RESOURCE_GROUP", ""),
            ("APPS_IDENTITY", ""),
        ]);
        complete(values).await.unwrap_err().0
    };
    let told = problems(&vault.address).await;
    assert_eq!(told.len(), 1, "the other one is in the vault: {told:?}");
    assert!(told[0].contains("APPS_IDENTITY") && told[0].contains("apps-identity"), "{told:?}");
    let closed = doctor::vault(vec![("/secrets/", doctor::refusal(403, "Forbidden", "not you"))]);
    let told = problems(&closed.address).await;
    assert_eq!(told.len(), 2);
    assert!(told[1].contains("apps-identity") && told[1].contains("cannot be asked"), "{told:?}");
}

#[tokio::test]
async fn without_a_vault_nothing_is_asked() {
    let values = variables(&[("KEYVAULT_URL", ""), ("APPS_IDENTITY", "")]);
    assert_eq!(complete(values.clone()).await.unwrap(), values);
}
