//! Talks to a Windlass server: JSON in and out, uploads, and event streams that resume.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api;

/// How long a server that is there takes to say who it is, on a slow machine.
const SOON: Duration = Duration::from_secs(2);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "no Windlass server answers on {0}; start one with `windlass serve`, or name another with --server"
    )]
    Unreachable(String),
    /// The address is not one.
    #[error("`{0}` is not an address such as http://127.0.0.1:3010")]
    BadAddress(String),
    /// The address is of the wrong scheme.
    #[error(
        "https needs API tokens, which this version does not have; `{0}` cannot be talked to, only http can"
    )]
    Https(String),
    /// The server refuses.
    #[error("{}: {}{}", .0.code, .0.detail, fields(&.0.errors))]
    Problem(Box<api::Problem>),
    /// The answer is not what the API gives.
    #[error("the server answered {status} with something else than the API gives: {text}")]
    Strange {
        /// The status.
        status: u16,
        /// The beginning of it.
        text: String,
    },
    /// The answer is for people.
    #[error(
        "the server answered {0} with a web page: this is no API of Windlass, perhaps the port of its apps; the API is on 3010 unless told otherwise"
    )]
    Page(u16),
    /// The connection broke.
    #[error("the connection to the server broke: {0}")]
    Broken(String),
}

fn fields(errors: &[api::ProblemField]) -> String {
    if errors.len() < 2 {
        return String::new();
    }
    errors.iter().map(|error| format!("\n  {} {}", error.pointer, error.message)).collect()
}

/// A server.
#[derive(Clone)]
pub struct Client {
    base: String,
    /// The host as it was named, when the address is another.
    host: Option<String>,
    http: HyperClient<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// The server at `base`, such as `http://127.0.0.1:3010`.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`], [`ClientError::Https`].
    pub fn new(base: &str) -> Result<Self, ClientError> {
        let base = base.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|_| ClientError::BadAddress(base.clone()))?;
        if uri.scheme_str() == Some("https") {
            return Err(ClientError::Https(base));
        }
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(ClientError::BadAddress(base));
        }
        // Names below localhost lead to this machine (RFC 6761, section 6.3); not every resolver knows it.
        let named =
            uri.authority().filter(|name| name.host().ends_with(".localhost")).map(ToString::to_string);
        let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
        let base = if named.is_some() { format!("http://127.0.0.1{port}") } else { base };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self { base, host: named, http: HyperClient::builder(TokioExecutor::new()).build(connector) })
    }

    /// Whether a Windlass server answers, and soon: something else may listen there and say nothing.
    pub async fn is_there(&self) -> bool {
        self.answers_within(SOON).await
    }

    async fn answers_within(&self, patience: Duration) -> bool {
        let name = tokio::time::timeout(patience, self.get::<serde_json::Value>("/")).await;
        let name = name.ok().and_then(Result::ok);
        name.is_some_and(|answer| answer.get("name").is_some_and(|name| name == "windlass"))
    }

    /// `GET`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }

    /// `GET` of any content; gives its length.
    ///
    /// # Errors
    /// [`ClientError`], also for every status but success.
    pub async fn page(&self, path: &str) -> Result<u64, ClientError> {
        let response = self.send(Method::GET, path, &[], Bytes::new()).await?;
        let (status, content) = whole(response).await?;
        if status.is_success() { Ok(content.len() as u64) } else { Err(unknown(status, &content)) }
    }

    /// `POST` of JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let json = serde_json::to_vec(body).map_err(|error| ClientError::Broken(error.to_string()))?;
        self.call(Method::POST, path, &[("content-type", "application/json")], json.into()).await
    }

    /// `PUT` of zstd-compressed content.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_compressed(&self, path: &str, content: Bytes) -> Result<serde_json::Value, ClientError> {
        self.call(
            Method::PUT,
            path,
            &[("content-type", "application/octet-stream"), ("content-encoding", "zstd")],
            content,
        )
        .await
    }

    /// `POST` of zstd-compressed content of a media type.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post_compressed(
        &self,
        path: &str,
        media_type: &str,
        content: Bytes,
    ) -> Result<serde_json::Value, ClientError> {
        let headers = [("content-type", media_type), ("content-encoding", "zstd")];
        self.call(Method::POST, path, &headers, content).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, &[], Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, headers, body).await?;
        let (status, bytes) = whole(response).await?;
        if !status.is_success() {
            return Err(problem(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|_| strange(status, &bytes))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("user-agent", concat!("windlass/", env!("CARGO_PKG_VERSION")));
        if let Some(host) = &self.host {
            request = request.header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|_| ClientError::BadAddress(format!("{}{path}", self.base)))?;
        self.http.request(request).await.map_err(|error| {
            if error.is_connect() {
                ClientError::Unreachable(self.base.clone())
            } else {
                ClientError::Broken(error.to_string())
            }
        })
    }

    /// Opens a deployment's event stream after line `after`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow(&self, path: &str, after: u64) -> Result<Events, ClientError> {
        let last = after.to_string();
        let response = self
            .send(
                Method::GET,
                path,
                &[("accept", "text/event-stream"), ("last-event-id", &last)],
                Bytes::new(),
            )
            .await?;
        if !response.status().is_success() {
            let (status, bytes) = whole(response).await?;
            return Err(problem(status, &bytes));
        }
        Ok(Events { body: response.into_body(), text: Vec::new() })
    }
}

async fn whole(response: Response<Incoming>) -> Result<(StatusCode, Bytes), ClientError> {
    let status = response.status();
    let body = response.into_body().collect().await;
    Ok((status, body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes()))
}

fn problem(status: StatusCode, bytes: &[u8]) -> ClientError {
    serde_json::from_slice(bytes)
        .map_or_else(|_| strange(status, bytes), |problem| ClientError::Problem(Box::new(problem)))
}

/// What is no answer of the API.
fn strange(status: StatusCode, bytes: &[u8]) -> ClientError {
    let is_page = bytes.trim_ascii_start().first() == Some(&b'<');
    if is_page { ClientError::Page(status.as_u16()) } else { unknown(status, bytes) }
}

fn unknown(status: StatusCode, bytes: &[u8]) -> ClientError {
    let text = String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned();
    ClientError::Strange { status: status.as_u16(), text }
}

/// Server-sent events that carry lines.
pub struct Events {
    body: Incoming,
    text: Vec<u8>,
}

impl Events {
    /// The next line; `None` when the server ended the stream.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the connection broke: open the stream again after the last line.
    pub async fn next(&mut self) -> Result<Option<api::Line>, ClientError> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                let data = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data: "));
                if let Some(line) = data.and_then(|data| serde_json::from_slice(data).ok()) {
                    return Ok(Some(line));
                }
                continue;
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.text.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_listens_and_says_nothing_is_no_server() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::new(&format!("http://{}", silent.local_addr().unwrap())).unwrap();
        assert!(!client.answers_within(Duration::from_millis(50)).await);
    }
}
