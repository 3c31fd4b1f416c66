//! The one HTTP client of all Azure calls.
//!
//! The SDK lets tokens travel by TLS only. Services on loopback may speak plain http: they are https to the SDK, and
//! only the last step before the socket knows better. Every address of ours outside the machine has to be https; only the
//! platform's own identity endpoint, which the SDK asks, is plain http by Microsoft's definition.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{Headers, RETRY_AFTER};
use azure_core::http::policies::auth::BearerTokenAuthorizationPolicy;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    AsyncRawResponse, ClientOptions, Context, ExponentialRetryOptions, HttpClient, Pipeline,
    PipelineSendOptions, Request, RetryOptions, StatusCode, Transport, Url,
};
use azure_core::time::Duration as Span;
use azure_core::{Error, Result};
use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822;

use super::dependency;
use crate::ambient::{Clock as _, SystemClock, between};
use crate::config::{AzureSettings, is_loopback};

/// Longest wait for the head of an answer: an invocation has 60 s.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence in the middle of an answer, for bodies that are read piece by piece.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest call in all, with what is repeated and what is waited for in between: a service may ask to wait for minutes, and
/// an invocation has to say what became of it before it is ended.
const WHOLE: Duration = Duration::from_secs(45);

/// What a service may ask to be waited for within a call.
const WORTH_WAITING: Duration = Duration::from_secs(10);

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The root certificate.
    #[error("WINDLASS_ROOT_CERTIFICATE {path} cannot be read")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS.
    #[error("TLS cannot be set up")]
    Tls(#[from] reqwest::Error),
}

/// Repeats what got no answer, within what an invocation of 60 s leaves; the engine repeats the rest.
#[must_use]
pub fn patient() -> RetryOptions {
    RetryOptions::exponential(ExponentialRetryOptions {
        max_retries: 3,
        max_total_elapsed: Span::seconds(15),
        ..ExponentialRetryOptions::default()
    })
}

/// Gives every client its options.
#[derive(Clone)]
pub struct Wire {
    transport: Transport,
    /// Whether everything is asked once only.
    hasty: bool,
    /// Longest call.
    whole: Duration,
}

/// Ends a call that takes too long, whatever it waits for.
#[derive(Debug)]
struct Bound(Duration);

/// Lets whoever asked hear of it when a service wants to be left alone for longer than a call may wait.
#[derive(Debug)]
struct Candid;

#[derive(Debug)]
struct Client {
    outside: reqwest::Client,
    /// Trusts the own root certificate too.
    inside: reqwest::Client,
    /// `host:port` of loopback services that speak plain http.
    plain: HashSet<(String, Option<u16>)>,
}

fn authority(url: &Url) -> (String, Option<u16>) {
    (url.host_str().unwrap_or_default().to_owned(), url.port())
}

impl Wire {
    /// The client for these services.
    ///
    /// # Errors
    /// When the root certificate cannot be read, or TLS cannot be set up.
    pub fn new(settings: &AzureSettings) -> std::result::Result<Self, WireError> {
        let root = match &settings.root_certificate {
            Some(path) => {
                let pem = std::fs::read(path)
                    .map_err(|source| WireError::Certificate { path: path.clone(), source })?;
                Some(reqwest::Certificate::from_pem(&pem)?)
            }
            None => None,
        };
        let services = [
            &settings.authority,
            &settings.arm,
            &settings.service_bus,
            &settings.blobs,
            &settings.queues,
            &settings.vault,
            &settings.logs,
        ];
        let plain = services
            .into_iter()
            .cloned()
            .chain(settings.registries())
            .filter(|url| url.scheme() == "http" && is_loopback(url))
            .map(|url| authority(&url))
            .collect();
        let builder = || crate::tls::client().connect_timeout(CONNECT).read_timeout(SILENCE);
        let inside = builder().no_proxy();
        let inside = match root {
            Some(root) => inside.tls_certs_merge([root]),
            None => inside,
        };
        let client = Client { outside: builder().build()?, inside: inside.build()?, plain };
        Ok(Self { transport: Transport::new(Arc::new(client)), hasty: false, whole: WHOLE })
    }

    /// The same client for somebody who would rather hear of trouble than wait until it has passed.
    #[must_use]
    pub fn hasty(self) -> Self {
        Self { hasty: true, ..self }
    }

    /// The same client for somebody who has less time for a call.
    #[must_use]
    pub fn within(self, whole: Duration) -> Self {
        Self { whole, ..self }
    }

    /// Options for a client of the SDK.
    #[must_use]
    pub fn options(&self) -> ClientOptions {
        let retry = if self.hasty { RetryOptions::none() } else { RetryOptions::default() };
        ClientOptions {
            per_call_policies: vec![Arc::new(Bound(self.whole))],
            per_try_policies: vec![Arc::new(Candid)],
            transport: Some(self.transport.clone()),
            retry,
            ..ClientOptions::default()
        }
    }

    /// A pipeline of our own; with a token of this audience when somebody and an audience are given.
    #[must_use]
    pub fn pipeline(
        &self,
        retry: RetryOptions,
        token: Option<(&Arc<dyn TokenCredential>, &str)>,
    ) -> Pipeline {
        let options = if self.hasty { self.options() } else { ClientOptions { retry, ..self.options() } };
        let bearer = token.map(|(credential, scope)| {
            Arc::new(BearerTokenAuthorizationPolicy::new(Arc::clone(credential), [scope])) as Arc<dyn Policy>
        });
        let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
        Pipeline::new(name, version, options, Vec::new(), bearer.into_iter().collect(), None)
    }

    /// The address as the SDK wants to see it.
    #[must_use]
    pub fn secure(url: &Url) -> Url {
        let mut url = url.clone();
        let port = url.port_or_known_default();
        if url.scheme() == "http" {
            // Neither fails for an address with a host.
            let changed = url.set_scheme("https").and_then(|()| url.set_port(port));
            debug_assert!(changed.is_ok());
        }
        url
    }
}

/// Leaves the rest to the policies that come next.
pub(super) async fn onward(
    ctx: &Context<'_>,
    request: &mut Request,
    next: &[Arc<dyn Policy>],
) -> PolicyResult {
    match next {
        [first, rest @ ..] => first.send(ctx, request, rest).await,
        [] => Err(Error::with_message(ErrorKind::Other, "nothing sends the request")),
    }
}

#[async_trait]
impl Policy for Bound {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let late = |_| Error::with_message(ErrorKind::Io, format!("no answer within {} s", self.0.as_secs()));
        tokio::time::timeout(self.0, onward(ctx, request, next)).await.map_err(late)?
    }
}

/// How long a service wants to be left alone: in seconds, or until a date.
#[must_use]
pub fn retry_after(headers: &Headers, now: Timestamp) -> Option<Duration> {
    let text = headers.get_optional_str(&RETRY_AFTER)?;
    let until = || Some(between(now, rfc2822::parse(text).ok()?.timestamp()));
    text.parse().ok().map(Duration::from_secs).or_else(until)
}

#[async_trait]
impl Policy for Candid {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let answer = onward(ctx, request, next).await?;
        let busy = matches!(answer.status(), StatusCode::TooManyRequests | StatusCode::ServiceUnavailable);
        let wait =
            retry_after(answer.headers(), SystemClock.now()).filter(|wait| busy && *wait > WORTH_WAITING);
        if wait.is_none() {
            return Ok(answer);
        }
        // The pipeline repeats answers and silence; this it does not.
        let answer = answer.try_into_raw_response().await?;
        let kind = ErrorKind::HttpResponse {
            status: answer.status(),
            error_code: None,
            raw_response: Some(Box::new(answer)),
        };
        Err(kind.into_error())
    }
}

/// What a service answered, whatever its status.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    /// The body, whole.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks, and leaves it to the caller which status is a success.
///
/// # Errors
/// When there is no answer, or no token to ask with.
pub async fn ask(pipeline: &Pipeline, mut request: Request) -> Result<Answer> {
    let options = PipelineSendOptions { skip_checks: true, ..PipelineSendOptions::default() };
    let answer = match pipeline.send(&Context::new(), &mut request, Some(options)).await {
        Ok(answer) => answer,
        Err(error) => match error.kind() {
            ErrorKind::HttpResponse { raw_response: Some(answer), .. } => answer.as_ref().clone(),
            ErrorKind::HttpResponse { raw_response: None, .. }
            | ErrorKind::Connection
            | ErrorKind::Io
            | ErrorKind::DataConversion
            | ErrorKind::Credential
            | ErrorKind::Other => return Err(error),
        },
    };
    let (status, headers, body) = answer.deconstruct();
    Ok(Answer { status: status.into(), headers, body: body.into() })
}

async fn in_time(client: &dyn HttpClient, request: &Request) -> Result<AsyncRawResponse> {
    let answer = async {
        let late = |_| Error::with_message(ErrorKind::Io, "no answer within 30 s");
        tokio::time::timeout(ANSWER, client.execute_request(request)).await.map_err(late)?
    };
    dependency::http(request, answer).await
}

#[async_trait]
impl HttpClient for Client {
    async fn execute_request(&self, request: &Request) -> Result<AsyncRawResponse> {
        let inside = is_loopback(request.url());
        let client: &dyn HttpClient = if inside { &self.inside } else { &self.outside };
        if inside && self.plain.contains(&authority(request.url())) {
            let mut plain = request.clone();
            let refused = |()| Error::with_message(ErrorKind::Other, "this address has no plain form");
            plain.url_mut().set_scheme("http").map_err(refused)?;
            in_time(client, &plain).await
        } else {
            in_time(client, request).await
        }
    }
}
