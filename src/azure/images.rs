//! Artifacts that are images in the registry.
//!
//! An image contains how it starts and where it listens, and belongs to the repository of its project. The registry gives
//! a token for one repository in exchange for the identity's own ("Authenticate with an Azure container registry", AAD
//! OAuth) and answers as the OCI distribution specification 1.1 says.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::http::headers::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use azure_core::http::{
    Context, ExponentialRetryOptions, Method, Pipeline, PipelineSendOptions, Request, RetryOptions, Url,
};
use azure_core::time::Duration as Span;
use jiff::Timestamp;
use serde_json::Value;

use super::app_body::repository_of;
use super::transport::Wire;
use crate::deploy::artifacts::{ArtifactError, Artifacts};
use crate::deploy::detect::{Kind, Plan};
use crate::deploy::dockerfile;
use crate::deploy::ids::{Digest, Name};

/// Audience of tokens for registries, the same in every cloud.
const AUDIENCE: &str = "https://containerregistry.azure.net/.default";
/// What an image may be.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// [`Artifacts`] in a registry.
pub struct Images {
    pipeline: Pipeline,
    credential: Arc<dyn TokenCredential>,
    host: String,
}

impl Images {
    /// Images in the registry with this host name.
    #[must_use]
    pub fn new(host: &str, credential: &Arc<dyn TokenCredential>, wire: &Wire) -> Self {
        // A step looks before it builds, and building anew is no harm: nobody waits long for this.
        let retry = RetryOptions::exponential(ExponentialRetryOptions {
            max_retries: 3,
            max_total_elapsed: Span::seconds(15),
            ..ExponentialRetryOptions::default()
        });
        let pipeline = wire.pipeline(retry, None);
        Self { pipeline, credential: Arc::clone(credential), host: host.to_owned() }
    }

    fn url(&self, path: &str) -> Result<Url, ArtifactError> {
        let url = format!("https://{}/{path}", self.host);
        url.parse().map_err(|_| ArtifactError(format!("{url} is no address")))
    }

    async fn ask(&self, mut request: Request) -> Result<(u16, Value), ArtifactError> {
        let options = PipelineSendOptions { skip_checks: true, ..PipelineSendOptions::default() };
        let sent = self.pipeline.send(&Context::new(), &mut request, Some(options)).await;
        let unavailable =
            |error: azure_core::Error| ArtifactError(format!("the registry {}: {error}", self.host));
        let (status, _, body) = sent.map_err(unavailable)?.deconstruct();
        Ok((u16::from(status), serde_json::from_slice(body.as_ref()).unwrap_or_default()))
    }

    /// Sends a form and takes one member of the answer; `None` when the registry does not let us in.
    async fn exchange(
        &self,
        path: &str,
        form: &[(&str, &str)],
        member: &str,
    ) -> Result<Option<String>, ArtifactError> {
        let url = self.url(path)?;
        let mut encoded = url.clone();
        encoded.query_pairs_mut().extend_pairs(form);
        let mut request = Request::new(url, Method::Post);
        request.insert_header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.set_body(encoded.query().unwrap_or_default().to_owned());
        let (status, answer) = self.ask(request).await?;
        match (status, answer.get(member).and_then(Value::as_str)) {
            (200, Some(token)) => Ok(Some(token.to_owned())),
            (400 | 401 | 403, _) => Ok(None),
            _ => Err(ArtifactError(format!("the registry {} answered {status} to a sign-in", self.host))),
        }
    }

    /// A token with which images of the repository may be read.
    async fn sign_in(&self, repository: &str) -> Result<Option<String>, ArtifactError> {
        let identity = self.credential.get_token(&[AUDIENCE], None).await;
        let identity = identity.map_err(|error| ArtifactError(format!("no token: {error}")))?;
        let (host, token) = (self.host.as_str(), identity.token.secret());
        let form = [("grant_type", "access_token"), ("service", host), ("access_token", token)];
        let Some(refresh) = self.exchange("oauth2/exchange", &form, "refresh_token").await? else {
            return Ok(None);
        };
        let scope = format!("repository:{repository}:pull");
        let form = [
            ("grant_type", "refresh_token"),
            ("service", host),
            ("scope", scope.as_str()),
            ("refresh_token", refresh.as_str()),
        ];
        self.exchange("oauth2/token", &form, "access_token").await
    }
}

#[async_trait]
impl Artifacts for Images {
    fn inputs(&self, app: &str, plan: &Plan) -> BTreeMap<String, String> {
        let mut inputs = match plan.kind {
            Kind::Docker => BTreeMap::new(),
            Kind::Static | Kind::Node | Kind::Python | Kind::Rust | Kind::Go | Kind::Procfile => {
                dockerfile::inputs(plan)
            }
        };
        inputs.insert("repository".to_owned(), repository_of(app));
        inputs
    }

    async fn has(
        &self,
        _org: &Name,
        app: &str,
        artifact: Digest,
        _now: Timestamp,
    ) -> Result<bool, ArtifactError> {
        let repository = repository_of(app);
        let Some(token) = self.sign_in(&repository).await? else {
            tracing::warn!(repository, "the identity may not read {repository}; its images are not reused");
            return Ok(false);
        };
        let url = self.url(&format!("v2/{repository}/manifests/sha256:{artifact}"))?;
        let mut request = Request::new(url, Method::Head);
        request.insert_header(ACCEPT, MANIFESTS);
        request.insert_header(AUTHORIZATION, format!("Bearer {token}"));
        match self.ask(request).await?.0 {
            200 => Ok(true),
            401 | 403 | 404 => Ok(false),
            status => Err(ArtifactError(format!("the registry {} answered {status}", self.host))),
        }
    }
}
