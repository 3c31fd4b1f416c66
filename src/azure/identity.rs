//! Who we are to Azure: one credential, chosen by configuration.

use std::sync::Arc;

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::Url;
use azure_identity::{
    AzureCliCredential, ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use secrecy::ExposeSecret as _;

use super::transport::Wire;
use crate::config::{Auth, AzureSettings};

/// The configured credential. Tokens are fetched when they are needed.
///
/// # Errors
/// When the settings do not make a credential.
pub fn credential(settings: &AzureSettings, wire: &Wire) -> azure_core::Result<Arc<dyn TokenCredential>> {
    let options = wire.options();
    Ok(match &settings.auth {
        Auth::ManagedIdentity { client } => {
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                user_assigned_id: client.clone().map(UserAssignedId::ClientId),
                client_options: options,
            }))?
        }
        Auth::WorkloadIdentity => {
            let mut workload = WorkloadIdentityCredentialOptions::default();
            workload.credential_options.client_options = options;
            WorkloadIdentityCredential::new(Some(workload))?
        }
        Auth::ServicePrincipal { tenant, client, secret } => ClientSecretCredential::new(
            tenant,
            client.clone(),
            Secret::new(secret.expose_secret().to_owned()),
            Some(ClientSecretCredentialOptions {
                client_options: azure_core::http::ClientOptions {
                    cloud: Some(Arc::new(cloud(&Wire::secure(&settings.authority)))),
                    ..options
                },
            }),
        )?,
        Auth::Cli => AzureCliCredential::new(None)?,
    })
}

/// A cloud of which only the sign-in address is known, which is all that a credential asks of it.
fn cloud(authority: &Url) -> azure_core::cloud::CloudConfiguration {
    let mut custom = azure_core::cloud::CustomConfiguration::default();
    custom.authority_host = authority.to_string();
    custom.into()
}
