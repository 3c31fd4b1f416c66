//! Sealed variables of apps: kept in the vault, and known to Container Apps by reference only.

use std::sync::Arc;

use azure_security_keyvault_secrets::models::SetSecretParameters;
use azure_security_keyvault_secrets::{ResourceExt as _, SecretClient};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::app_body::SecretVariable;
use super::arm::{Arm, Begun, Contract};
use crate::deploy::release::Release;
use crate::deploy::runtime::RuntimeError;
use crate::deploy::secrets::Secrets;

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
        let unavailable = |error: azure_core::Error| RuntimeError::Unavailable(format!("Key Vault: {error}"));
        let mut kept = Vec::new();
        let deployment = release.deployment.to_string().replace('_', "-").to_ascii_lowercase();
        for (index, (variable, sealed)) in release.env.iter().enumerate() {
            let secret = format!("{name}-{deployment}-{index}");
            let stored = match self.vault.get_secret(&secret, None).await {
                Ok(answer) => answer.into_model().map_err(unavailable)?,
                Err(error) if error.http_status() == Some(azure_core::http::StatusCode::NotFound) => {
                    let value = self.secrets.open(sealed).map_err(|error| RuntimeError::Rejected {
                        code: "SECRET_UNREADABLE",
                        message: error.to_string(),
                    })?;
                    let parameters = SetSecretParameters {
                        value: Some(value.expose_secret().to_owned()),
                        ..SetSecretParameters::default()
                    };
                    let parameters = parameters.try_into().map_err(unavailable)?;
                    let made = self.vault.set_secret(&secret, parameters, None).await.map_err(unavailable)?;
                    made.into_model().map_err(unavailable)?
                }
                Err(error) => return Err(unavailable(error)),
            };
            let id = stored.resource_id().map_err(unavailable)?;
            kept.push(SecretVariable {
                variable: variable.clone(),
                name: format!("{deployment}-{index}"),
                url: id.source_id,
            });
        }
        Ok(kept)
    }
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
