//! The apps' front door: routes by host name, serves static sites, forwards everything else, WebSockets included.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::dev::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::from_fn;
use actix_web::web::{Bytes, Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, guard, web};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::routes::{Backend, Busy, Routes, Upstream};
use super::static_site;
use super::upstream::{Body, Kept, Pool, SendError, empty};
use crate::ambient::Clock;

/// Headers that belong to one connection (RFC 9110, section 7.6.1), also the one that is none but still sent.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// A replica that just went away is replaced by another within these tries.
const TRIES: u32 = 20;
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_millis(25);
/// Chunks of a body on the way.
const CHUNKS: usize = 16;
/// Bytes read from an upgraded connection at a time.
const UPGRADED: usize = 16 * 1024;
/// An app that says nothing for this time after its visitor has ended is not waited for: he may be gone.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// What the front door works with.
pub struct FrontDoor {
    /// Which host leads where.
    pub routes: Arc<Routes>,
    /// Connections to replicas.
    pub pool: Pool,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Mounts the front door.
pub fn mount(config: &mut ServiceConfig, door: &Arc<FrontDoor>) {
    let routes = Arc::clone(&door.routes);
    let is_site = move |head: &RequestHead| {
        routes.get(&host(head.headers())).is_some_and(|target| matches!(target.backend, Backend::Files(_)))
    };
    config
        .app_data(Data::from(Arc::clone(door)))
        .service(
            web::scope("")
                .guard(guard::fn_guard(move |cx| is_site(cx.head())))
                .wrap(actix_web::middleware::Compress::default())
                .wrap(from_fn(static_site::with_true_tag))
                .wrap(from_fn(static_site::without_bad_range))
                .default_service(web::to(site)),
        )
        .default_service(web::to(forward));
}

/// The host name that a request is for, without its port and the dot of a complete name.
fn host(headers: &HeaderMap) -> String {
    let value = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = value
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(value, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Headers that a message itself counts to its connection (RFC 9110, section 7.6.1); never its address and its length.
fn named<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    values
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(option).trim().to_ascii_lowercase())
        .filter(|option| option != "host" && option != "content-length")
        .collect()
}

/// Whether a header is for the other side too.
fn goes_on(name: &str, named: &[String]) -> bool {
    !HOP_BY_HOP.contains(&name) && !named.iter().any(|option| option == name)
}

/// Whether a header says from where a request came. A visitor could forge it, and frameworks believe it.
fn tells_the_way(name: &str) -> bool {
    name == "forwarded" || name.starts_with("x-forwarded-")
}

/// A page that explains itself.
fn page(status: StatusCode, title: &str, text: &str) -> HttpResponse {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let (title, text) = (escape(title), escape(text));
    let mut response = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header((header::RETRY_AFTER, "1"));
    }
    response.content_type("text/html; charset=utf-8").insert_header((header::CACHE_CONTROL, "no-store")).body(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <body style=\"font:1.1rem/1.6 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem\"><h1>{title}</h1><p>{text}</p>\
         <p style=\"color:#777\">{} · Windlass</p></body></html>",
        status.as_u16()
    ))
}

fn unknown(host: &str) -> HttpResponse {
    page(
        StatusCode::NOT_FOUND,
        "No app here",
        &format!("No project answers on {host}. `windlass list` shows the addresses of every project."),
    )
}

async fn site(request: HttpRequest, door: Data<FrontDoor>) -> HttpResponse {
    let name = host(request.headers());
    let Some(target) = door.routes.get(&name) else { return unknown(&name) };
    let _busy = target.enter();
    match &target.backend {
        Backend::Files(root) => static_site::serve(&request, root),
        Backend::Replicas(_) => page(
            StatusCode::SERVICE_UNAVAILABLE,
            "One moment",
            "This app is being switched to a new release.",
        ),
    }
}

async fn forward(request: HttpRequest, payload: Payload, door: Data<FrontDoor>) -> HttpResponse {
    let name = host(request.headers());
    let has_body = request.headers().contains_key(header::TRANSFER_ENCODING)
        || request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    let upgrade = wants_web_socket(&request);
    // Asked twice it does no more than once (RFC 9110, section 9.2.2), and nothing of it can be sent only once.
    let repeatable = request.method().is_safe() && !has_body && !upgrade;
    let (mut payload, mut anew) = (Some(payload), false);
    for _ in 0..TRIES {
        // Routed anew each time: a switch may have happened meanwhile.
        let Some(target) = door.routes.get(&name) else { return unknown(&name) };
        let busy = target.enter();
        let Some(address) = target.replica() else {
            drop(busy);
            door.clock.sleep(TRY_AGAIN).await;
            continue;
        };
        let opened = if anew { door.pool.open_anew(address).await } else { door.pool.open(address).await };
        let Ok(connection) = opened else {
            door.clock.sleep(TRY_AGAIN).await;
            continue;
        };
        // From here on the body is under way and cannot be sent twice.
        let body = match payload.take() {
            Some(taken) if has_body && !upgrade => pump(taken),
            untouched => {
                payload = untouched;
                empty()
            }
        };
        let upstream = match upstream_request(&request, address, body) {
            Ok(upstream) => upstream,
            Err(reason) => return page(StatusCode::BAD_REQUEST, "Bad request", &reason),
        };
        match connection.send(upstream).await {
            Ok((response, kept))
                if upgrade && response.status() == hyper::StatusCode::SWITCHING_PROTOCOLS =>
            {
                return tunnel(response, (kept, busy), payload.take(), Arc::clone(&door.clock));
            }
            Ok((response, kept)) => return answer(response, kept, busy),
            Err(SendError::NotSent(..)) if !has_body || upgrade => door.clock.sleep(TRY_AGAIN).await,
            Err(SendError::Stale(..)) if repeatable => anew = true,
            Err(error) => return broken(&target, &error),
        }
    }
    page(
        StatusCode::SERVICE_UNAVAILABLE,
        "Not ready",
        &format!(
            "{name} has no healthy replica right now. It is restarted by itself; `windlass status` shows how it is."
        ),
    )
}

/// Other upgrades (`h2c`) are offers that may be passed over; taking them for one would lose the request's body.
fn wants_web_socket(request: &HttpRequest) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    request.method() == "GET"
        && upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn broken(target: &Upstream, error: &SendError) -> HttpResponse {
    tracing::warn!(app = target.app, error = %error, "a request to {} got no answer", target.app);
    page(
        StatusCode::BAD_GATEWAY,
        "The app did not answer",
        "It closed the connection before it answered. Its own log says more: `windlass logs --app`.",
    )
}

fn upstream_request(
    request: &HttpRequest,
    address: SocketAddr,
    body: Body,
) -> Result<hyper::Request<Body>, String> {
    let uri = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut upstream = hyper::Request::builder().method(request.method().as_str()).uri(uri);
    let upgrade = request.headers().get(header::UPGRADE).filter(|_| wants_web_socket(request)).cloned();
    let named = named(request.headers().get_all(header::CONNECTION).map(HeaderValue::as_bytes));
    for (name, value) in request.headers() {
        if goes_on(name.as_str(), &named) && !tells_the_way(name.as_str()) {
            upstream = upstream.header(name.as_str(), value.as_bytes());
        }
    }
    if let Some(upgrade) = upgrade {
        upstream = upstream.header("connection", "upgrade").header("upgrade", upgrade.as_bytes());
    }
    if !request.headers().contains_key(header::HOST) {
        upstream = upstream.header("host", address.to_string());
    }
    let peer = request.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
    upstream
        .header("x-forwarded-for", peer)
        .header("x-forwarded-proto", "http")
        .header(
            "x-forwarded-host",
            request.headers().get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default(),
        )
        .body(body)
        .map_err(|error| error.to_string())
}

/// A request body that is sent on while it comes in.
fn pump(mut payload: Payload) -> Body {
    let (send, mut chunks) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(CHUNKS);
    actix_web::rt::spawn(async move {
        while let Some(chunk) = payload.next().await {
            if send.send(chunk.map(Frame::data).map_err(std::io::Error::other)).await.is_err() {
                return;
            }
        }
    });
    StreamBody::new(futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx))).boxed_unsync()
}

/// An answer with the app's headers. The length is for the body that comes with it.
fn begun(status: StatusCode, headers: &hyper::HeaderMap) -> HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    let named = named(headers.get_all("connection").iter().map(hyper::header::HeaderValue::as_bytes));
    for (name, value) in headers {
        if !goes_on(name.as_str(), &named) || name == "content-length" {
            continue;
        }
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_str().as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            answer.append_header((name, value));
        }
    }
    answer
}

fn answer(response: hyper::Response<Incoming>, kept: Kept, busy: Busy) -> HttpResponse {
    let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut answer = begun(status, response.headers());
    let length = response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || length == Some(0) {
        // Without a body there must be no framing of one.
        drop(response);
        kept.give_back();
        drop(busy);
        return answer.finish();
    }
    let mut held = Some((kept, busy));
    let frames = BodyStream::new(response.into_body()).filter_map(|frame| async {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(std::io::Error::other(error))),
        }
    });
    // Once the body is through, the connection is free and the request is over.
    let end = futures_util::stream::poll_fn(move |_| {
        if let Some((kept, busy)) = held.take() {
            kept.give_back();
            drop(busy);
        }
        std::task::Poll::Ready(None::<Result<Bytes, std::io::Error>>)
    });
    // Not `streaming`, which would give a type to what the app sent without one.
    let body = frames.chain(end);
    match length {
        Some(length) => answer.no_chunking(length).body(SizedStream::new(length, body)),
        None => answer.body(actix_web::body::BodyStream::new(body)),
    }
}

/// Both directions of an upgraded connection (WebSockets), until the app ends it, or the visitor has left.
fn tunnel(
    response: hyper::Response<Incoming>,
    held: (Kept, Busy),
    payload: Option<Payload>,
    clock: Arc<dyn Clock>,
) -> HttpResponse {
    let mut answer = begun(StatusCode::SWITCHING_PROTOCOLS, response.headers());
    let protocol = response
        .headers()
        .get("upgrade")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("websocket")
        .to_owned();
    answer.upgrade(protocol);
    let (send, mut received) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(CHUNKS);
    actix_web::rt::spawn(async move {
        let _held = held;
        let Ok(upgraded) = hyper::upgrade::on(response).await else { return };
        let (mut from_app, mut to_app) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
        let heard = std::cell::Cell::new(0_u64);
        let downward = async {
            let mut buffer = vec![0; UPGRADED];
            while let Ok(count) = from_app.read(&mut buffer).await {
                let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
                if send.send(Ok(Bytes::copy_from_slice(chunk))).await.is_err() {
                    break;
                }
                heard.set(heard.get() + 1);
            }
        };
        let upward = async {
            let Some(mut payload) = payload else { return };
            while let Some(Ok(chunk)) = payload.next().await {
                if to_app.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            // The visitor has said all, and may still listen. That it cannot be told means that the app does not read.
            drop(to_app.shutdown().await);
            let mut before = None;
            while before != Some(heard.get()) {
                before = Some(heard.get());
                clock.sleep(SILENCE).await;
            }
        };
        tokio::select! { () = downward => {} () = upward => {} () = send.closed() => {} }
    });
    let chunks = futures_util::stream::poll_fn(move |cx| received.poll_recv(cx));
    answer.body(actix_web::body::BodyStream::new(chunks))
}
