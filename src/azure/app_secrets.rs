//! Sealed variables of apps: kept in the vault, and known to Container Apps by reference only.

use std::collections::HashMap;
use std::sync::Arc;

use azure_core::http::StatusCode;
use azure_security_keyvault_secrets::models::{Secret, SetSecretParameters};
use azure_security_keyvault_secrets::{ResourceExt as _, SecretClient};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::app_body::{SecretVariable, text};
use super::arm::{Arm, Begun, Contract};
use crate::deploy::ids::DeploymentId;
use crate::deploy::release::Release;
use crate::deploy::runtime::RuntimeError;
use crate::deploy::secrets::{Sealed, Secrets};

/// Tags of our secrets: whose they are, the container app that reads them, and the deployment that made them.
pub(super) const INSTALLATION: &str = "windlass-installation";
pub(super) const APP: &str = "windlass-app";
pub(super) const DEPLOYMENT: &str = "windlass-deployment";

/// Puts sealed variables where apps read them.
pub struct AppSecrets {
    secrets: Arc<dyn Secrets>,
    vault: SecretClient,
    installation: String,
}

impl AppSecrets {
    /// Opens what `secrets` sealed, and keeps it in `vault` as this installation's.
    #[must_use]
    pub fn new(secrets: Arc<dyn Secrets>, vault: SecretClient, installation: String) -> Self {
        Self { secrets, vault, installation }
    }

    /// Keeps the release's sealed variables in the vault, each version once, and gives their addresses.
    ///
    /// # Errors
    /// [`RuntimeError`]; doing it again goes on where it stopped.
    pub async fn keep(&self, release: &Release, name: &str) -> Result<Vec<SecretVariable>, RuntimeError> {
        let mut kept = Vec::new();
        let deployment = label(release.deployment);
        let tags = HashMap::from([
            (INSTALLATION.to_owned(), self.installation.clone()),
            (APP.to_owned(), name.to_owned()),
            (DEPLOYMENT.to_owned(), release.deployment.to_string()),
        ]);
        for (index, (variable, sealed)) in release.env.iter().enumerate() {
            let secret = format!("{name}-{deployment}-{index}");
            let stored = match self.vault.get_secret(&secret, None).await {
                Ok(answer) => answer.into_model().map_err(|error| unavailable(&error))?,
                Err(error) if error.http_status() == Some(StatusCode::NotFound) => {
                    self.make(&secret, sealed, tags.clone()).await?
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

    async fn make(
        &self,
        secret: &str,
        sealed: &Sealed,
        tags: HashMap<String, String>,
    ) -> Result<Secret, RuntimeError> {
        let value = self.secrets.open(sealed).map_err(|error| RuntimeError::Rejected {
            code: "SECRET_UNREADABLE",
            message: error.to_string(),
        })?;
        let parameters = SetSecretParameters {
            value: Some(value.expose_secret().to_owned()),
            tags: Some(tags),
            ..SetSecretParameters::default()
        };
        let parameters = parameters.try_into().map_err(|error| unavailable(&error))?;
        match self.vault.set_secret(secret, parameters, None).await {
            Ok(made) => made.into_model().map_err(|error| unavailable(&error)),
            // Somebody deleted it, and the vault keeps the name: what comes back is the same value of the same release.
            Err(error) if error.http_status() == Some(StatusCode::Conflict) => {
                self.vault.recover_deleted_secret(secret, None).await.map_err(|error| unavailable(&error))?;
                Err(recovering(secret))
            }
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Of an app's references those that it goes on with: what is not ours, and what revisions of the `running` deployments
    /// read. Where it is not known which deployments those are, all of ours.
    ///
    /// # Errors
    /// [`RuntimeError`]; also while a secret comes back that somebody deleted.
    pub async fn still_needed(
        &self,
        references: Vec<Value>,
        running: Option<&[DeploymentId]>,
    ) -> Result<Vec<Value>, RuntimeError> {
        let mut needed = Vec::new();
        for reference in references {
            let Some(deployment) = deployment_of(text(&reference, "/name")) else {
                needed.push(reference);
                continue;
            };
            let is_read = running.is_none_or(|running| running.iter().any(|id| label(*id) == deployment));
            let secret = secret_of(text(&reference, "/keyVaultUrl"));
            // One that leads nowhere would break the whole change.
            if is_read && !secret.is_empty() && self.is_there(secret).await? {
                needed.push(reference);
            }
        }
        Ok(needed)
    }

    /// Whether the vault has the secret. One that was deleted is recovered, as long as the vault keeps it.
    async fn is_there(&self, secret: &str) -> Result<bool, RuntimeError> {
        let is_missing = |error: &azure_core::Error| error.http_status() == Some(StatusCode::NotFound);
        match self.vault.get_secret(secret, None).await {
            Ok(_) => return Ok(true),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(unavailable(&error)),
        }
        match self.vault.recover_deleted_secret(secret, None).await {
            Ok(_) => Err(recovering(secret)),
            Err(error) if is_missing(&error) => {
                tracing::warn!(
                    secret,
                    "the secret {secret} is gone from the Key Vault; a live release reads it and cannot start new replicas"
                );
                Ok(false)
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

/// A deployment in names of secrets, which have neither capitals nor underscores.
fn label(deployment: DeploymentId) -> String {
    deployment.to_string().replace('_', "-").to_ascii_lowercase()
}

/// The deployment's part of the name that [`AppSecrets::keep`] gives a reference; none in other names.
fn deployment_of(name: &str) -> Option<&str> {
    let (deployment, index) = name.rsplit_once('-')?;
    let is_ours = deployment.starts_with("dep-") && !index.is_empty();
    (is_ours && index.bytes().all(|byte| byte.is_ascii_digit())).then_some(deployment)
}

/// The name of the secret at an address `https://<vault>/secrets/<name>/<version>`.
pub(super) fn secret_of(url: &str) -> &str {
    let (_, path) = url.split_once("/secrets/").unwrap_or_default();
    path.split('/').next().unwrap_or_default()
}

fn recovering(secret: &str) -> RuntimeError {
    RuntimeError::Unavailable(format!("the deleted secret {secret} is being recovered in the Key Vault"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_ours_say_whose_they_are() {
        let id = DeploymentId::new(7);
        assert_eq!(deployment_of(&format!("{}-12", label(id))), Some(label(id).as_str()));
        for other in ["registry-password", "dep-", "dep-1x", "database-1"] {
            assert_eq!(deployment_of(other), None, "{other}");
        }
        assert_eq!(secret_of("https://v.vault.azure.net/secrets/shop-dep-1-0/abc"), "shop-dep-1-0");
        assert_eq!(secret_of("nothing"), "");
    }
}
