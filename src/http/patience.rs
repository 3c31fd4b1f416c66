//! How long a request's body is waited for: a slow one as long as it moves. One that stands still would hold its
//! connection for ever.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use futures_util::stream::Stream;

use super::Api;
use super::problem::Problem;
use super::refused::refuse;
use crate::ambient::Clock;

/// Silence after which a body is given up: longer than any pause of a network that still works.
const SILENCE: Duration = Duration::from_secs(30);

/// The middleware.
pub(super) async fn with_patience(
    api: Data<Api>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let payload = std::mem::replace(request.parts_mut().1, Payload::None);
    if matches!(payload, Payload::None) {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    }
    let source = Rc::new(RefCell::new(Source { payload, state: State::Coming }));
    let patient =
        Patient { source: Rc::clone(&source), clock: Arc::clone(&api.windlass.tools.clock), silence: None };
    request.set_payload(Payload::Stream { payload: Box::pin(patient) });
    let mut answer = next.call(request).await?.map_into_boxed_body();
    let state = source.borrow().state;
    if state == State::Whole {
        return Ok(answer);
    }
    if state == State::Late {
        let detail = format!("nothing more of the body came for {} s", SILENCE.as_secs());
        let ours = refuse(&api, answer.request(), &Problem::new("BODY_TOO_SLOW", detail));
        answer = answer.into_response(ours);
    }
    Ok(answer.map_body(|_, body| BoxBody::new(Unread { body, _source: source })))
}

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Whole,
    Late,
}

struct Source {
    payload: Payload,
    state: State,
}

/// A body that is given up after [`SILENCE`].
struct Patient {
    source: Rc<RefCell<Source>>,
    clock: Arc<dyn Clock>,
    silence: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Stream for Patient {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut source = this.source.borrow_mut();
        if source.state != State::Coming {
            return Poll::Ready(None);
        }
        if let Poll::Ready(chunk) = Pin::new(&mut source.payload).poll_next(cx) {
            this.silence = None;
            if chunk.is_none() {
                source.state = State::Whole;
            }
            return Poll::Ready(chunk);
        }
        let clock = Arc::clone(&this.clock);
        let silence = this.silence.get_or_insert_with(|| Box::pin(async move { clock.sleep(SILENCE).await }));
        if silence.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.silence = None;
        source.state = State::Late;
        Poll::Ready(Some(Err(PayloadError::Incomplete(None))))
    }
}

/// An answer to a request whose body was not read to its end. The server ends the connection after it as long as somebody
/// holds the body; what nobody holds it may read on for ever (`actix-http` 3.20).
struct Unread {
    body: BoxBody,
    _source: Rc<RefCell<Source>>,
}

impl MessageBody for Unread {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.get_mut().body.as_pin_mut().poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::ManualClock;
    use futures_util::{FutureExt as _, StreamExt as _};
    use jiff::Timestamp;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_body_that_moves_is_waited_for_and_one_that_stands_is_not() {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let (send, mut sent) = mpsc::unbounded_channel::<Result<Bytes, PayloadError>>();
        let chunks = futures_util::stream::poll_fn(move |cx| sent.poll_recv(cx));
        let payload = Payload::Stream { payload: Box::pin(chunks) };
        let source = Rc::new(RefCell::new(Source { payload, state: State::Coming }));
        let time: Arc<dyn Clock> = Arc::clone(&clock) as Arc<_>;
        let mut body = Patient { source: Rc::clone(&source), clock: time, silence: None };
        let almost = SILENCE - Duration::from_secs(1);
        for _ in 0..10 {
            assert!(body.next().now_or_never().is_none());
            clock.advance(almost);
            assert!(body.next().now_or_never().is_none(), "it may still come");
            send.send(Ok(Bytes::from_static(b"x"))).unwrap();
            assert_eq!(body.next().await.unwrap().unwrap(), "x");
        }
        assert!(body.next().now_or_never().is_none());
        clock.advance(SILENCE);
        assert!(body.next().await.unwrap().is_err());
        assert_eq!(source.borrow().state, State::Late);
        send.send(Ok(Bytes::from_static(b"x"))).unwrap();
        assert!(body.next().await.is_none(), "what comes too late is not taken");
    }

    #[tokio::test]
    async fn a_body_that_is_all_there_is_whole() {
        let payload = Payload::from(Bytes::from_static(b"x"));
        let source = Rc::new(RefCell::new(Source { payload, state: State::Coming }));
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let body = Patient { source: Rc::clone(&source), clock, silence: None };
        assert_eq!(body.map(Result::unwrap).collect::<Vec<_>>().await, ["x"]);
        assert_eq!(source.borrow().state, State::Whole);
    }
}
