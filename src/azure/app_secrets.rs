//! Sealed variables of apps: kept in the vault, and known to Container Apps by reference only.

use std::sync::Arc;

use azure_core::http::StatusCode;
use azure_security_keyvault_secrets::models::{Secret, SetSecretParameters};
use azure_security_keyvault_secrets::{ResourceExt as _, SecretClient};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::app_body::SecretVariable;
use super::arm::{Arm, Begun, Contract};
use crate::deploy::release::Release;
use crate::deploy::runtime::RuntimeError;
use crate::deploy::secrets::{Sealed, Secrets};

/// Puts sealed variables where apps read them.
pub struct AppSecrets {
    secrets: Arc<dyn Secrets>,
    vault: SecretClient,
}

impl AppSecrets {
    /// Opens what `secrets` sealed, and keeps it in `vault`.
    #[must_use]
    pub fn new(secrets: Arc<dyn Secrets>, vault: SecretClient) -> Self {
        Self { secrets, vault }
    }

    /// Keeps the release's sealed variables in the vault, each version once, and gives their addresses.
    ///
    /// # Errors
    /// [`RuntimeError`]; doing it again goes on where it stopped.
    pub async fn keep(&self, release: &Release, name: &str) -> Result<Vec<SecretVariable>, RuntimeError> {
        let mut kept = Vec::new();
        let deployment = release.deployment.to_string().replace('_', "-").to_ascii_lowercase();
        for (index, (variable, sealed)) in release.env.iter().enumerate() {
            let secret = format!("{name}-{deployment}-{index}");
            let stored = match self.vault.get_secret(&secret, None).await {
                Ok(answer) => answer.into_model().map_err(|error| unavailable(&error))?,
                Err(error) if error.http_status() == Some(StatusCode::NotFound) => {
                    self.make(&secret, sealed).await?
                }
                Err(error) => return Err(unavailable(&error)),
            };
            let id = stored.resource_id().map_err(|error| unavailable(&error))?;
            kept.push(SecretVariable {
                variable: variable.clone(),
                name: format!("{deployment}-{index}"),
                url: id.source_id,
            });
        }
        Ok(kept)
    }

    async fn make(&self, secret: &str, sealed: &Sealed) -> Result<Secret, RuntimeError> {
        let value = self.secrets.open(sealed).map_err(|error| RuntimeError::Rejected {
            code: "SECRET_UNREADABLE",
            message: error.to_string(),
        })?;
        let parameters = SetSecretParameters {
            value: Some(value.expose_secret().to_owned()),
            ..SetSecretParameters::default()
        };
        let parameters = parameters.try_into().map_err(|error| unavailable(&error))?;
        match self.vault.set_secret(secret, parameters, None).await {
            Ok(made) => made.into_model().map_err(|error| unavailable(&error)),
            // Somebody deleted it, and the vault keeps the name: what comes back is the same value of the same release.
            Err(error) if error.http_status() == Some(StatusCode::Conflict) => {
                self.vault.recover_deleted_secret(secret, None).await.map_err(|error| unavailable(&error))?;
                let message = format!("the deleted secret {secret} is being recovered in the Key Vault");
                Err(RuntimeError::Unavailable(message))
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

fn unavailable(error: &azure_core::Error) -> RuntimeError {
    RuntimeError::Unavailable(format!("Key Vault: {error}"))
}

/// References that revisions of the app use now; a change must name them all again.
///
/// # Errors
/// [`RuntimeError`].
pub async fn references(arm: &Arm, app: &str) -> Result<Vec<Value>, RuntimeError> {
    match arm.act(Contract::ContainerApps, &format!("{app}/listSecrets"), None).await? {
        // Only references: a value has no business in a request of ours.
        Begun::Done(answer) => {
            let listed = answer.get("value").and_then(Value::as_array).into_iter().flatten();
            let references = listed.filter(|secret| secret.get("keyVaultUrl").is_some_and(Value::is_string));
            let named = |secret: &Value| json!({ "name": secret["name"], "keyVaultUrl": secret["keyVaultUrl"], "identity": secret["identity"] });
            Ok(references.map(named).collect())
        }
        Begun::Running(_) => {
            Err(RuntimeError::Unavailable("the app's secrets are not listed yet".to_owned()))
        }
    }
}
