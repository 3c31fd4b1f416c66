//! The key that seals secrets, in Key Vault: made once, read at start, and never in any state, log or message.

use azure_core::http::StatusCode;
use azure_security_keyvault_secrets::models::{SecretClientGetSecretOptions, SetSecretParameters};
use azure_security_keyvault_secrets::{ResourceExt as _, SecretClient};
use serde::{Deserialize, Serialize};

use super::cosmos::{Container, Fault, Stored};
use crate::deploy::sealing::{KEY_BYTES, KeySecrets, hex, unhex};

/// Name of the secret that holds the key.
const NAME: &str = "windlass-sealing-key";
/// The partition of the record that says which version counts.
const PARTITION: &str = "installation";

/// Why the key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The vault did not answer, or not as it should.
    #[error("the Key Vault cannot be used; the identity needs the role Key Vault Secrets Officer on it")]
    Unavailable(#[source] azure_core::Error),
    /// Somebody deleted the secret, and the vault keeps its name.
    #[error(
        "the secret {NAME} was deleted; bring it back: az keyvault secret recover --vault-name <vault> --name {NAME}"
    )]
    Deleted(#[source] azure_core::Error),
    /// Cosmos DB did not say which version counts.
    #[error("which version of the sealing key counts cannot be read")]
    Records(#[from] Fault),
    /// Somebody put something else there.
    #[error(
        "the secret {NAME} is not a key of {KEY_BYTES} bytes in hexadecimal; restore its newest good version"
    )]
    NotAKey,
}

impl From<azure_core::Error> for VaultError {
    fn from(error: azure_core::Error) -> Self {
        if matches!(error.http_status(), Some(StatusCode::NotFound | StatusCode::Conflict)) {
            Self::Deleted(error)
        } else {
            Self::Unavailable(error)
        }
    }
}

/// Which version of the secret the installation uses.
#[derive(Serialize, Deserialize)]
struct Chosen {
    version: String,
}

async fn read(vault: &SecretClient, chosen: &Chosen) -> Result<KeySecrets, VaultError> {
    let options = SecretClientGetSecretOptions {
        secret_version: Some(chosen.version.clone()),
        ..SecretClientGetSecretOptions::default()
    };
    let secret = vault.get_secret(NAME, Some(options)).await?.into_model()?;
    let key = secret
        .value
        .as_deref()
        .and_then(unhex)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(VaultError::NotAKey)?;
    Ok(KeySecrets::new(key))
}

/// The key; the first process of an installation makes it. When several make one at the same time, the record in `records`
/// says whose counts.
///
/// # Errors
/// [`VaultError`].
pub async fn sealing_key(vault: &SecretClient, records: &Container) -> Result<KeySecrets, VaultError> {
    if let Some(Stored { body, .. }) = records.read_fresh::<Chosen>(PARTITION, NAME).await? {
        return read(vault, &body).await;
    }
    let key: [u8; KEY_BYTES] = rand::random();
    let parameters = SetSecretParameters {
        value: Some(hex(&key)),
        content_type: Some("text/plain".to_owned()),
        ..SetSecretParameters::default()
    };
    let made = vault.set_secret(NAME, parameters.try_into()?, None).await?.into_model()?;
    let version = made.resource_id()?.version.ok_or(VaultError::NotAKey)?;
    let mine = Chosen { version };
    if records.create(PARTITION, NAME, &mine).await? {
        return Ok(KeySecrets::new(key));
    }
    let Some(Stored { body, .. }) = records.read_fresh::<Chosen>(PARTITION, NAME).await? else {
        return Err(VaultError::NotAKey);
    };
    read(vault, &body).await
}
