//! HTTP/1.1 to loopback over kept connections: the app proxy, health checks and the embedded host share it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bodies that we send.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An idle connection is used again within this time: shorter than what servers do by default (gunicorn closes after 2 s,
/// Node after 5 s). See [`SendError::Stale`] for the others.
const IDLE: Duration = Duration::from_millis(1_500);
/// Idle connections kept per address.
const MOST_IDLE: usize = 128;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nobody listens: nothing was sent, so it may be sent elsewhere.
    #[error("nobody listens on {0}")]
    NotSent(SocketAddr, #[source] std::io::Error),
    /// A connection that was kept broke without an answer: most likely the server had closed it before the request came.
    #[error("{0} closed a kept connection")]
    Stale(SocketAddr, #[source] hyper::Error),
    /// The connection broke after the request may have been read.
    #[error("{0} broke the connection")]
    Broken(SocketAddr, #[source] hyper::Error),
}

/// A connection on its way back into the pool.
pub struct Kept {
    pool: Pool,
    address: SocketAddr,
    sender: Option<SendRequest<Body>>,
}

impl Kept {
    /// Gives the connection back. Call it once the answer's body has been read to its end.
    pub fn give_back(mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.keep(self.address, sender);
        }
    }
}

/// A connection for one request.
pub struct Opened {
    pool: Pool,
    address: SocketAddr,
    sender: SendRequest<Body>,
    reused: bool,
}

impl Opened {
    /// Sends the request.
    ///
    /// # Errors
    /// [`SendError`], which tells whether anything was sent.
    pub async fn send(mut self, mut request: Request<Body>) -> Result<(Response<Incoming>, Kept), SendError> {
        loop {
            match self.sender.try_send_request(request).await {
                Ok(response) => {
                    let kept = Kept { pool: self.pool, address: self.address, sender: Some(self.sender) };
                    return Ok((response, kept));
                }
                // The server closed an idle connection before it saw the request: hyper gives the request back.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if self.reused => {
                        request = unsent;
                        self = self.pool.open(self.address).await?;
                    }
                    _ => {
                        let error = error.into_error();
                        // Whoever says what is no HTTP was there.
                        if self.reused && !error.is_parse() {
                            return Err(SendError::Stale(self.address, error));
                        }
                        return Err(SendError::Broken(self.address, error));
                    }
                },
            }
        }
    }
}

/// Connections that wait for their next request.
struct Idle {
    waiting: HashMap<SocketAddr, Vec<(Instant, SendRequest<Body>)>>,
    swept: Instant,
}

impl Idle {
    fn new(now: Instant) -> Self {
        Self { waiting: HashMap::new(), swept: now }
    }

    fn take(&mut self, address: SocketAddr, now: Instant) -> Option<SendRequest<Body>> {
        let waiting = self.waiting.get_mut(&address)?;
        while let Some((since, sender)) = waiting.pop() {
            if now.duration_since(since) < IDLE && sender.is_ready() {
                return Some(sender);
            }
        }
        self.waiting.remove(&address);
        None
    }

    fn keep(&mut self, address: SocketAddr, sender: SendRequest<Body>, now: Instant) {
        if now.duration_since(self.swept) >= IDLE {
            self.sweep(now);
        }
        let waiting = self.waiting.entry(address).or_default();
        if waiting.len() < MOST_IDLE {
            waiting.push((now, sender));
        }
    }

    /// Lets go what nobody took in time. A replica that was restarted has another port, so nobody asks for the old one.
    fn sweep(&mut self, now: Instant) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|(since, sender)| now.duration_since(*since) < IDLE && !sender.is_closed());
            !waiting.is_empty()
        });
        self.swept = now;
    }
}

/// Kept connections. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    idle: Arc<Mutex<Idle>>,
    background: tokio::runtime::Handle,
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is all there.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Pool {
    /// An empty pool whose connections are driven on `background`.
    #[must_use]
    pub fn new(background: tokio::runtime::Handle) -> Self {
        Self { idle: Arc::new(Mutex::new(Idle::new(Instant::now()))), background }
    }

    /// Sends a request. The connection comes back into the pool through [`Kept::give_back`].
    ///
    /// # Errors
    /// [`SendError`], which tells whether anything was sent.
    pub async fn send(
        &self,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, Kept), SendError> {
        self.open(address).await?.send(request).await
    }

    /// Takes a connection, so that a request whose body can be sent only once is made when there is somebody to take it.
    ///
    /// # Errors
    /// [`SendError::NotSent`] when nobody listens.
    pub async fn open(&self, address: SocketAddr) -> Result<Opened, SendError> {
        // Not in the head of the `match`, which would hold the lock while it connects.
        let waiting = self.idle().take(address, Instant::now());
        match waiting {
            Some(sender) => Ok(Opened { pool: self.clone(), address, sender, reused: true }),
            None => self.open_anew(address).await,
        }
    }

    /// Takes a new connection, which nothing was asked on yet.
    ///
    /// # Errors
    /// [`SendError::NotSent`] when nobody listens.
    pub async fn open_anew(&self, address: SocketAddr) -> Result<Opened, SendError> {
        let sender = self.connect(address).await?;
        Ok(Opened { pool: self.clone(), address, sender, reused: false })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn fetch(
        &self,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Bytes>, SendError> {
        let (response, kept) = self.send(address, request).await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map_err(|error| SendError::Broken(address, error))?.to_bytes();
        kept.give_back();
        Ok(Response::from_parts(parts, bytes))
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, address: SocketAddr, sender: SendRequest<Body>) {
        if !sender.is_closed() {
            self.idle().keep(address, sender, Instant::now());
        }
    }

    async fn connect(&self, address: SocketAddr) -> Result<SendRequest<Body>, SendError> {
        let stream = TcpStream::connect(address).await.map_err(|error| SendError::NotSent(address, error))?;
        stream.set_nodelay(true).map_err(|error| SendError::NotSent(address, error))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| SendError::Broken(address, error))?;
        self.background.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::trace!(error = %error, "a loopback connection ended");
            }
        });
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_takes_is_let_go_with_its_address() {
        let pool = Pool::new(tokio::runtime::Handle::current());
        let listener = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (one, two) = (listener(), listener());
        let (gone, next) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let now = Instant::now();
        let mut idle = Idle::new(now);
        idle.keep(gone, pool.connect(gone).await.unwrap(), now);
        idle.keep(next, pool.connect(next).await.unwrap(), now + IDLE / 2);
        assert_eq!(idle.waiting.len(), 2, "both may be taken yet");
        idle.keep(next, pool.connect(next).await.unwrap(), now + IDLE);
        assert_eq!(idle.waiting.keys().collect::<Vec<_>>(), [&next]);
        assert_eq!(idle.waiting[&next].len(), 2);
    }
}
