//! Whether the platform gives tokens to what runs here.

use std::time::Duration;

use azure_core::http::headers::{HeaderName, HeaderValue};
use azure_core::http::{Method, Request, RetryOptions, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::Doctor;
use super::trouble::Trouble;
use crate::api::finding::Finding;
use crate::azure::transport::{Wire, ask};
use crate::config::{Auth, AzureSettings};

const ROW: &str = "identity";
/// The documents' bound: on a machine of Azure the answer comes from the machine itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// The metadata service of virtual machines (Microsoft Learn, "How to use managed identities to acquire an access token").
const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// One question to an identity endpoint. The answer holds a token, which goes nowhere.
pub struct Probe {
    /// The endpoint.
    pub endpoint: Url,
    /// What App Service wants to see; the metadata service wants none.
    pub header: Option<SecretString>,
    /// Of a user-assigned identity.
    pub client: Option<String>,
    /// Whom the token is for.
    pub audience: String,
}

impl Probe {
    fn of(settings: &AzureSettings, client: Option<String>) -> Option<Self> {
        let (endpoint, header) = match &settings.platform {
            Some(platform) => (platform.endpoint.clone(), Some(platform.header.clone())),
            None => (IMDS.parse().ok()?, None),
        };
        Some(Self { endpoint, header, client, audience: Wire::secure(&settings.arm).to_string() })
    }

    fn platform(&self) -> &'static str {
        if self.header.is_some() { "the platform's identity endpoint" } else { "the metadata service" }
    }

    fn request(&self) -> Request {
        let mut url = self.endpoint.clone();
        let version = if self.header.is_some() { "2019-08-01" } else { "2018-02-01" };
        url.query_pairs_mut().append_pair("api-version", version).append_pair("resource", &self.audience);
        if let Some(client) = &self.client {
            url.query_pairs_mut().append_pair("client_id", client);
        }
        let mut request = Request::new(url, Method::Get);
        request.insert_header(HeaderName::from_static("metadata"), HeaderValue::from_static("true"));
        if let Some(header) = &self.header {
            let value = HeaderValue::from(header.expose_secret().to_owned());
            request.insert_header(HeaderName::from_static("x-identity-header"), value);
        }
        request
    }

    /// Asks within a second.
    pub async fn ask(&self, wire: &Wire) -> Finding {
        let pipeline = wire.pipeline(RetryOptions::none(), None);
        let nobody = "nothing gives tokens here: on a machine outside Azure sign in with az login and set WINDLASS_AZURE_AUTH=cli";
        match tokio::time::timeout(PATIENCE, ask(&pipeline, self.request())).await {
            Err(_) => {
                let seen = format!("{} does not answer within {} s", self.platform(), PATIENCE.as_secs());
                Finding::failed(ROW, seen, nobody)
            }
            Ok(Err(error)) => {
                let seen = format!("{} does not answer: {}", self.platform(), Trouble::of(&error).seen);
                Finding::failed(ROW, seen, nobody)
            }
            Ok(Ok(answer)) => self.judge(answer.status, &answer.body),
        }
    }

    fn judge(&self, status: u16, body: &[u8]) -> Finding {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let who = self.client.as_deref().map_or_else(
            || "the system-assigned identity".to_owned(),
            |client| format!("the identity {client}"),
        );
        if status == 200 && text("access_token").is_some() {
            return Finding::ok(ROW, format!("{} gives tokens to {who}", self.platform()));
        }
        let why = text("error_description").or_else(|| text("message")).unwrap_or("it gave no reason");
        let seen = format!("{} answers {status} for {who}: {why}", self.platform());
        let next = match (status, &self.client) {
            (400 | 403 | 404, Some(client)) => {
                format!(
                    "assign the identity with the client id {client} (AZURE_CLIENT_ID) to the function app: az functionapp identity assign --identities <its resource id>"
                )
            }
            (400 | 403 | 404, None) => {
                "assign an identity to the function app; with several, AZURE_CLIENT_ID says which one"
                    .to_owned()
            }
            _ => "the platform is busy with the identity: look again in a minute".to_owned(),
        };
        Finding::failed(ROW, seen, next)
    }
}

impl Doctor<'_> {
    pub(super) async fn identity(&self) -> Vec<Finding> {
        let other = match &self.settings.auth {
            Auth::ManagedIdentity { client } => {
                let Some(probe) = Probe::of(self.settings, client.clone()) else { return Vec::new() };
                return vec![probe.ask(&self.services.wire()).await];
            }
            Auth::WorkloadIdentity(_) => "workload-identity",
            Auth::ServicePrincipal { .. } => "service-principal",
            Auth::Cli => {
                let seen = "not looked at: WINDLASS_AZURE_AUTH is cli, so the rows below tell what you may do, and not what the service's identity may";
                let next = "compare the identity's roles with those in infra/terraform/README.md";
                return vec![Finding::warn(ROW, seen, next)];
            }
        };
        vec![Finding::absent(ROW, format!("not used: WINDLASS_AZURE_AUTH is {other}"))]
    }
}
