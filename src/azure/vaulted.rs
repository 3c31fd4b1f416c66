//! Settings that the environment does not have, from Key Vault.

use std::collections::BTreeMap;
use std::time::Duration;

use azure_core::http::StatusCode;
use azure_security_keyvault_secrets::SecretClient;
use futures_util::future::join_all;

use super::doctor::chain;
use super::services::{ServiceError, Services};
use crate::config::{AzureSettings, BadSettings, Vaulted, vaulted};

/// Longest wait for the vault: off Azure nothing answers the SDK, which asks for more than a minute.
const PATIENCE: Duration = Duration::from_secs(30);

async fn secret(vault: &SecretClient, wanted: &Vaulted) -> azure_core::Result<Option<String>> {
    match vault.get_secret(&wanted.secret, None).await {
        Ok(found) => Ok(found.into_model()?.value.filter(|value| !value.trim().is_empty())),
        Err(error) if error.http_status() == Some(StatusCode::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unasked(missing: &[Vaulted], why: &str) -> BadSettings {
    let problem = |wanted: &Vaulted| {
        format!(
            "{} is not set, and the Key Vault cannot be asked for the secret {}: {why}",
            wanted.name, wanted.secret
        )
    };
    BadSettings(missing.iter().map(problem).collect())
}

/// The variables, with those that the Azure backend needs and the environment lacks, as far as the vault has them. The
/// vault is not asked when nothing is missing.
///
/// # Errors
/// [`BadSettings`] that names both places where a setting is not.
pub async fn complete(values: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, BadSettings> {
    ask(values, Services::new).await
}

/// As [`complete`], for somebody who waits at a screen.
///
/// # Errors
/// As [`complete`].
pub async fn complete_hastily(
    values: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, BadSettings> {
    ask(values, Services::hasty).await
}

async fn ask(
    mut values: BTreeMap<String, String>,
    connect: fn(&AzureSettings) -> Result<Services, ServiceError>,
) -> Result<BTreeMap<String, String>, BadSettings> {
    let Some((missing, settings)) = vaulted(&values) else { return Ok(values) };
    let Some(azure) = settings.azure.as_deref() else { return Ok(values) };
    let vault = connect(azure)
        .and_then(|services| services.vault())
        .map_err(|error| unasked(&missing, &chain(&error)))?;
    let asked = join_all(missing.iter().map(|wanted| secret(&vault, wanted)));
    let answers = tokio::time::timeout(PATIENCE, asked)
        .await
        .map_err(|_| unasked(&missing, &format!("no answer within {} s", PATIENCE.as_secs())))?;
    let mut problems = Vec::new();
    for (wanted, answer) in missing.iter().zip(answers) {
        match answer {
            Ok(Some(value)) => drop(values.insert(wanted.name.to_owned(), value)),
            Ok(None) => problems.push(format!(
                "{} is not set, and the Key Vault has no secret {}; the Azure backend needs one of them",
                wanted.name, wanted.secret
            )),
            Err(error) => {
                problems.extend(unasked(std::slice::from_ref(wanted), &chain(&error)).0);
            }
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(BadSettings(problems)) }
}
