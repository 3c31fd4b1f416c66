//! Who we are to Azure: one credential, chosen by configuration.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, ClientMethodOptions, ClientOptions, Context, Request, Url};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertion, ClientAssertionCredential,
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::transport::{Wire, onward};
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
        Auth::WorkloadIdentity(workload) => ClientAssertionCredential::new(
            workload.tenant.clone(),
            workload.client.clone(),
            TokenFile(workload.token_file.clone()),
            Some(ClientAssertionCredentialOptions { client_options: entra(settings, wire) }),
        )?,
        Auth::ServicePrincipal { tenant, client, secret } => ClientSecretCredential::new(
            tenant,
            client.clone(),
            Secret::new(secret.expose_secret().to_owned()),
            Some(ClientSecretCredentialOptions { client_options: entra(settings, wire) }),
        )?,
        Auth::Cli => AzureCliCredential::new(Some(AzureCliCredentialOptions {
            tenant_id: settings.tenant.clone(),
            ..AzureCliCredentialOptions::default()
        }))?,
    })
}

/// Where the platform keeps a workload's token. The SDK's own credential for workloads (`azure_identity` 1.0) reads it when
/// the program starts and then keeps it for ten minutes; this one reads what is there, and says which setting is wrong.
#[derive(Debug)]
struct TokenFile(PathBuf);

impl TokenFile {
    fn wrong(&self, why: &str) -> azure_core::Error {
        let text = format!("AZURE_FEDERATED_TOKEN_FILE {} {why}", self.0.display());
        azure_core::Error::with_message(ErrorKind::Credential, text)
    }
}

#[async_trait]
impl ClientAssertion for TokenFile {
    async fn secret(&self, _options: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let read = tokio::fs::read_to_string(&self.0).await;
        let text = read.map_err(|error| self.wrong(&format!("cannot be read: {error}")))?;
        match text.trim() {
            "" => Err(self.wrong("is empty: the platform has not put a token into it")),
            token => Ok(token.to_owned()),
        }
    }
}

/// Options for those who ask Entra ID themselves.
fn entra(settings: &AzureSettings, wire: &Wire) -> ClientOptions {
    ClientOptions {
        cloud: Some(Arc::new(cloud(&Wire::secure(&settings.authority)))),
        per_try_policies: vec![Arc::new(PlainErrors)],
        ..wire.options()
    }
}

/// Takes the escapes out of what Entra ID says when it refuses. The SDK (`azure_identity` 1.0) cannot read a text with
/// escapes, and Entra's texts end in lines of ids; without this the reason would be lost.
#[derive(Debug)]
struct PlainErrors;

#[async_trait]
impl Policy for PlainErrors {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let answer = onward(ctx, request, next).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, headers, body) = answer.deconstruct();
        let body = body.collect().await?;
        let body = plain(&body).map_or(body, Into::into);
        Ok(AsyncRawResponse::from_bytes(status, headers, body))
    }
}

fn plain(body: &[u8]) -> Option<Vec<u8>> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    for value in body.as_object_mut()?.values_mut() {
        if let Value::String(text) = value {
            let same = |c: char| if c.is_control() || c == '"' || c == '\\' { ' ' } else { c };
            *text = text.chars().map(same).collect();
        }
    }
    serde_json::to_vec(&body).ok()
}

/// A cloud of which only the sign-in address is known, which is all that a credential asks of it.
fn cloud(authority: &Url) -> azure_core::cloud::CloudConfiguration {
    let mut custom = azure_core::cloud::CustomConfiguration::default();
    custom.authority_host = authority.to_string();
    custom.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_no_escapes_left() {
        let refusal = br#"{"error":"invalid_client","error_description":"AADSTS7000222: \"x\" expired.\r\nTrace ID: 1","error_codes":[7000222]}"#;
        let text = String::from_utf8(plain(refusal).unwrap()).unwrap();
        assert!(text.contains("AADSTS7000222:  x  expired.  Trace ID: 1") && !text.contains('\\'), "{text}");
        assert_eq!(plain(b"<html>"), None);
    }
}
