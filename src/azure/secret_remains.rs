//! Secrets of deployments that were forgotten are deleted from the vault.
//!
//! A container app names its secrets, and a name that leads nowhere breaks its next change. So a secret goes only when its
//! app does not name it any more: with the first release after its deployment was forgotten, or when the app is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::StatusCode;
use azure_security_keyvault_secrets::models::SecretProperties;
use azure_security_keyvault_secrets::{ResourceExt as _, SecretClient};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::app_body::text;
use super::app_changes::{APPS, app};
use super::app_secrets::{APP, DEPLOYMENT, INSTALLATION, references, secret_of};
use super::arm::Arm;
use crate::deploy::deployment::Deployments;
use crate::deploy::ids::DeploymentId;
use crate::deploy::retention::{Reached, Remains, RemainsError};
use crate::deploy::runtime::RuntimeError;

/// [`Remains`] in the vault.
pub struct SecretRemains {
    /// The vault.
    pub vault: SecretClient,
    /// Resource Manager, for what apps name.
    pub arm: Arc<Arm>,
    /// What is not forgotten: whatever has a release or goes on has its deployment.
    pub deployments: Arc<dyn Deployments>,
    /// Whose secrets these are.
    pub installation: String,
}

/// A secret of ours.
struct Kept {
    name: String,
    app: String,
    deployment: DeploymentId,
}

fn failed(error: &azure_core::Error) -> RemainsError {
    RemainsError(format!("Key Vault: {error}"))
}

impl SecretRemains {
    /// The secret when it is this installation's and older than `before`.
    fn ours(&self, found: &SecretProperties, before: Timestamp) -> Option<Kept> {
        let tags = found.tags.as_ref()?;
        let attributes = found.attributes.as_ref()?;
        let newest = attributes.updated.max(attributes.created)?;
        let is_old = newest.unix_timestamp() < before.as_second();
        if !is_old || tags.get(INSTALLATION) != Some(&self.installation) {
            return None;
        }
        Some(Kept {
            name: found.resource_id().ok()?.name,
            app: tags.get(APP)?.clone(),
            deployment: tags.get(DEPLOYMENT)?.parse().ok()?,
        })
    }

    /// Old secrets of deployments that nobody knows, by their container app.
    async fn forgotten(&self, before: Timestamp) -> Result<BTreeMap<String, Vec<String>>, RemainsError> {
        let mut listed = self.vault.list_secret_properties(None).map_err(|error| failed(&error))?;
        let mut kept = Vec::new();
        while let Some(found) = listed.try_next().await.map_err(|error| failed(&error))? {
            kept.extend(self.ours(&found, before));
        }
        let mut known: HashMap<DeploymentId, bool> = HashMap::new();
        let mut forgotten: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Kept { name, app, deployment } in kept {
            let is_known = match known.get(&deployment) {
                Some(is_known) => *is_known,
                None => {
                    let found = self.deployments.get(deployment).await;
                    found.map_err(|error| RemainsError(error.to_string()))?.is_some()
                }
            };
            known.insert(deployment, is_known);
            if !is_known {
                forgotten.entry(app).or_default().push(name);
            }
        }
        Ok(forgotten)
    }

    /// The secrets that a container app names; none when there is no such app.
    async fn named_by(&self, name: &str) -> Result<BTreeSet<String>, RuntimeError> {
        if self.arm.get(APPS, &app(name)).await?.is_none() {
            return Ok(BTreeSet::new());
        }
        let references = references(&self.arm, &app(name)).await?;
        Ok(references.iter().map(|known| secret_of(text(known, "/keyVaultUrl")).to_owned()).collect())
    }

    /// Deletes a secret; false when it is not there.
    async fn delete(&self, secret: &str) -> azure_core::Result<bool> {
        match self.vault.delete_secret(secret, None).await {
            Ok(_) => Ok(true),
            Err(error) if error.http_status() == Some(StatusCode::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Remains for SecretRemains {
    fn name(&self) -> &'static str {
        "secrets"
    }

    async fn retain(&self, _reached: &Reached, before: Timestamp, dry: bool) -> Result<u64, RemainsError> {
        let mut removed = 0;
        for (app, secrets) in self.forgotten(before).await? {
            let named = match self.named_by(&app).await {
                Ok(named) => named,
                Err(error) => {
                    tracing::warn!(app, error = %error, "old secrets of {app} stay");
                    continue;
                }
            };
            for secret in secrets.iter().filter(|secret| !named.contains(*secret)) {
                if dry {
                    removed += 1;
                    continue;
                }
                match self.delete(secret).await {
                    Ok(deleted) => removed += u64::from(deleted),
                    Err(error) if error.http_status() == Some(StatusCode::Forbidden) => {
                        tracing::warn!(
                            error = %error,
                            "old secrets stay in the Key Vault; the identity of Windlass needs the role Key Vault Secrets Officer on it"
                        );
                        return Ok(removed);
                    }
                    Err(error) => return Err(failed(&error)),
                }
            }
        }
        Ok(removed)
    }
}
