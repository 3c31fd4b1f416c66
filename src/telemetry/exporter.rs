//! Sends what was collected, in the background: it never holds up the work, and what cannot be sent is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use azure_core::http::Url;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::app_insights::Ingestion;
use super::collector::Span;
use super::otlp::Otlp;
use crate::ambient::{Clock as _, SystemClock, spawn};
use crate::causes::causes;
use crate::config::is_loopback;

/// Pieces of work that wait to be put into a request: a burst of a few seconds.
const MOST_WAITING: usize = 4_096;
/// Spans of one request, about.
const ENOUGH: usize = 512;
/// How often requests are made when there is less; OpenTelemetry's own default.
const EVERY: Duration = Duration::from_secs(5);
/// Requests that wait for a receiver that is away; older ones are lost.
const MOST_REQUESTS: usize = 16;
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// One outermost span with everything below it.
pub(super) type Batch = Arc<Vec<Span>>;

/// One call to a receiver.
pub(super) struct Request {
    pub(super) url: Url,
    pub(super) body: Bytes,
}

/// Where telemetry goes, and in which words.
pub(super) enum Receiver {
    AppInsights(Ingestion),
    Otlp(Otlp),
}

impl Receiver {
    fn address(&self) -> &Url {
        match self {
            Self::AppInsights(ingestion) => &ingestion.url,
            Self::Otlp(otlp) => &otlp.traces,
        }
    }

    fn requests(&self, spans: &[Batch]) -> Vec<Request> {
        let spans: Vec<&Span> = spans.iter().flat_map(|batch| batch.iter()).collect();
        if spans.is_empty() {
            return Vec::new();
        }
        match self {
            Self::AppInsights(ingestion) => vec![ingestion.request(&spans)],
            Self::Otlp(otlp) => otlp.requests(&spans),
        }
    }
}

/// The collector's end of an exporter.
pub(super) struct Outlet {
    to: mpsc::Sender<Batch>,
    lost: Arc<AtomicU64>,
}

impl Outlet {
    /// Hands a batch over, or loses it where too many wait.
    pub(super) fn put(&self, batch: &Batch) {
        if self.to.try_send(Arc::clone(batch)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An exporter at work.
pub(super) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Sends what waits.
    pub(super) async fn stop(self) {
        if self.stop.send(()).is_err() {
            tracing::debug!("an exporter had ended before");
        }
        drop(self.task.await);
    }
}

/// Starts an exporter.
///
/// # Errors
/// When TLS cannot be set up.
pub(super) fn start(receiver: Receiver) -> reqwest::Result<(Outlet, Running)> {
    let builder = crate::tls::client().timeout(ANSWER);
    let builder = if is_loopback(receiver.address()) { builder.no_proxy() } else { builder };
    let (to, from) = mpsc::channel(MOST_WAITING);
    let (stop, stopped) = oneshot::channel();
    let lost = Arc::new(AtomicU64::new(0));
    let exporter = Exporter {
        receiver,
        client: builder.build()?,
        from,
        lost: Arc::clone(&lost),
        waiting: VecDeque::new(),
        well: true,
    };
    Ok((Outlet { to, lost }, Running { stop, task: spawn(exporter.run(stopped)) }))
}

/// What became of a request.
enum Answer {
    /// But for so many of its items.
    Taken { refused: u64 },
    /// It will never be taken.
    Refused(String),
    /// It may be taken later.
    Away(String),
}

/// What is enough for a request each; never nothing, so that what waits is sent again when nothing is new.
fn portions(batches: &[Batch]) -> Vec<&[Batch]> {
    if batches.is_empty() {
        return vec![batches];
    }
    let mut spans = 0;
    let full = |batch: &Batch| {
        spans += batch.len();
        let enough = spans >= ENOUGH;
        if enough {
            spans = 0;
        }
        enough
    };
    batches.split_inclusive(full).collect()
}

/// Items that were refused of a request that was taken: Application Insights counts what it accepts, OTLP what it does not.
fn refused(body: &[u8]) -> u64 {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let number = |pointer: &str| {
        let found = body.pointer(pointer)?;
        // Numbers of 64 bits are text in OTLP's JSON.
        found.as_u64().or_else(|| found.as_str()?.parse().ok())
    };
    let counted = number("/itemsReceived").zip(number("/itemsAccepted"));
    counted
        .map(|(received, accepted)| received.saturating_sub(accepted))
        .or_else(|| number("/partialSuccess/rejectedSpans"))
        .or_else(|| number("/partialSuccess/rejectedDataPoints"))
        .unwrap_or(0)
}

struct Exporter {
    receiver: Receiver,
    client: reqwest::Client,
    from: mpsc::Receiver<Batch>,
    lost: Arc<AtomicU64>,
    waiting: VecDeque<Request>,
    /// Whether the newest request was taken; only changes are logged.
    well: bool,
}

impl Exporter {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            let (batches, stopping) = self.gather(&mut stop).await;
            for portion in portions(&batches) {
                self.waiting.extend(self.receiver.requests(portion));
                while self.waiting.len() > MOST_REQUESTS {
                    self.waiting.pop_front();
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
                self.send().await;
            }
            if stopping {
                return;
            }
        }
    }

    /// Waits until there is enough, time has passed, or the service stops, which the answer says.
    async fn gather(&mut self, stop: &mut oneshot::Receiver<()>) -> (Vec<Batch>, bool) {
        let clock = SystemClock;
        let mut pause = clock.sleep(EVERY);
        let (mut batches, mut spans) = (Vec::new(), 0);
        while spans < ENOUGH {
            tokio::select! {
                biased;
                _ = &mut *stop => {
                    while let Ok(batch) = self.from.try_recv() {
                        batches.push(batch);
                    }
                    return (batches, true);
                }
                () = &mut pause => break,
                batch = self.from.recv() => match batch {
                    Some(batch) => {
                        spans += batch.len();
                        batches.push(batch);
                    }
                    None => return (batches, true),
                },
            }
        }
        (batches, false)
    }

    async fn send(&mut self) {
        while let Some(request) = self.waiting.front() {
            match self.post(request).await {
                Answer::Taken { refused } => {
                    self.lost.fetch_add(refused, Ordering::Relaxed);
                    self.note_taken();
                }
                Answer::Refused(reason) => self.note_trouble(&reason),
                Answer::Away(reason) => return self.note_trouble(&reason),
            }
            self.waiting.pop_front();
        }
    }

    async fn post(&self, request: &Request) -> Answer {
        let call = self.client.post(request.url.clone()).header("content-type", "application/json");
        let call = match &self.receiver {
            Receiver::AppInsights(ingestion) => match ingestion.token().await {
                Ok(Some(token)) => call.bearer_auth(token),
                Ok(None) => call,
                Err(error) => {
                    return Answer::Away(format!("there is no token: {}", causes(&error)));
                }
            },
            Receiver::Otlp(_) => call,
        };
        let answer = match call.body(request.body.clone()).send().await {
            Ok(answer) => answer,
            Err(error) => return Answer::Away(causes(&error.without_url())),
        };
        match answer.status().as_u16() {
            200..=299 => Answer::Taken { refused: refused(&answer.bytes().await.unwrap_or_default()) },
            // Those that OTLP/HTTP and Application Insights' ingestion name as worth another try.
            status @ (408 | 429 | 439 | 500 | 502 | 503 | 504) => {
                Answer::Away(format!("it answers {status}"))
            }
            status => Answer::Refused(format!("it answers {status}")),
        }
    }

    fn note_taken(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if !self.well || lost > 0 {
            tracing::info!(lost, "telemetry is taken; {lost} pieces of it were lost or refused");
        }
        self.well = true;
    }

    fn note_trouble(&mut self, reason: &str) {
        if self.well {
            let host = self.receiver.address().host_str().unwrap_or_default();
            tracing::warn!(reason, "telemetry is not taken by {host}: {reason}");
        }
        self.well = false;
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::collector::Kind;
    use super::*;

    fn span() -> Span {
        let (started, ended) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let (fields, events) = (Vec::new(), Vec::new());
        Span {
            trace: 1,
            id: 1,
            parent: None,
            name: String::new(),
            kind: Kind::Internal,
            started,
            ended,
            fields,
            events,
        }
    }

    #[test]
    fn a_request_has_about_as_many_spans_as_the_next() {
        let batch = |spans: usize| -> Batch { Arc::new((0..spans).map(|_| span()).collect()) };
        let batches = [batch(ENOUGH), batch(1), batch(ENOUGH - 1), batch(2)];
        let lengths =
            |batches: &[Batch]| portions(batches).into_iter().map(<[Batch]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&batches), [1, 2, 1]);
        assert_eq!(lengths(&[]), [0], "what waits is sent all the same");
    }

    #[test]
    fn what_is_refused_of_a_request_is_counted() {
        for (body, wanted) in [
            ("", 0),
            ("{}", 0),
            (r#"{"itemsReceived":3,"itemsAccepted":3,"errors":[]}"#, 0),
            (r#"{"itemsReceived":3,"itemsAccepted":1,"errors":[{"index":0,"statusCode":400}]}"#, 2),
            (r#"{"partialSuccess":{}}"#, 0),
            (r#"{"partialSuccess":{"rejectedSpans":"4","errorMessage":"too old"}}"#, 4),
            (r#"{"partialSuccess":{"rejectedDataPoints":5}}"#, 5),
        ] {
            assert_eq!(refused(body.as_bytes()), wanted, "{body}");
        }
    }
}
