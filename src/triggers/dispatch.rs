//! The one match from event to action. Both hosts build the same [`Event`] and call [`dispatch`].

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::message::{Envelope, OurMessage};
use super::table::{Function, Trigger, function};
use crate::actions::{ActionError, SubmitError};
use crate::ambient::after;
use crate::deploy::deployment::QUEUE_KEY;
use crate::trace::TARGET;
use crate::windlass::Windlass;
use crate::workflow::advance::Advanced;
use crate::workflow::backlog::BacklogError;
use crate::workflow::journal::JournalError;
use crate::workflow::queue::{Hint, QueueError};

/// When a hint comes again whose run somebody else works on: soon, without spinning.
const BUSY_AGAIN: Duration = Duration::from_millis(50);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Messages arrived; several only for functions that take many.
    Messages(Vec<String>),
    /// A schedule came round.
    Tick,
}

/// Why an invocation failed, so that its message comes again.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// Nobody can read the message. After its last delivery it goes to the dead letters.
    #[error("the message cannot be read: {0}")]
    Malformed(String),
    /// Too many deployments wait; the message comes again.
    #[error("as many deployments wait as can be kept in order")]
    Full,
    /// The stores cannot be reached.
    #[error("the invocation could not be completed")]
    Action(#[from] ActionError),
    /// A dead letter could not be kept.
    #[error("the invocation could not be completed")]
    Backlog(#[from] BacklogError),
    /// The hint could not be passed on.
    #[error("the invocation could not be completed")]
    Queue(#[from] QueueError),
}

impl DispatchError {
    /// A word for telemetry.
    fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Full => "full",
            Self::Action(_) => "action",
            Self::Backlog(_) => "backlog",
            Self::Queue(_) => "queue",
        }
    }
}

impl From<JournalError> for DispatchError {
    fn from(error: JournalError) -> Self {
        Self::Action(error.into())
    }
}

/// Performs what the event asks of `function`.
///
/// # Errors
/// [`DispatchError`]: the invocation failed and nothing that matters is lost.
pub async fn dispatch(windlass: &Windlass, function: &Function, event: Event) -> Result<(), DispatchError> {
    match (&function.trigger, event) {
        (Trigger::Http { .. }, _) => {
            Err(DispatchError::Malformed("HTTP functions take no events".to_owned()))
        }
        (Trigger::Timer { .. }, Event::Messages(_)) => {
            Err(DispatchError::Malformed("a timer takes no messages".to_owned()))
        }
        (Trigger::Timer { .. }, Event::Tick) => {
            in_a_span(function, "timer", tick(windlass, function.name)).await
        }
        (_, Event::Tick) => Err(DispatchError::Malformed("a queue function takes messages".to_owned())),
        (_, Event::Messages(messages)) => {
            let mut failed = None;
            let mut admit = false;
            // One bad element must not hold up its neighbours; redelivery of the good ones is harmless.
            for message in messages {
                match in_a_span(function, "hint", deliver(windlass, function, &message)).await {
                    Ok(Then::Admit) => admit = true,
                    Ok(Then::Nothing) => {}
                    Err(error) => failed = Some(error),
                }
            }
            if admit {
                let turns = async { windlass.admit().await.map_err(DispatchError::from) };
                in_a_span(function, "turns", turns).await?;
            }
            failed.map_or(Ok(()), Err)
        }
    }
}

/// Does the work as the outermost span of its trace. A hint's span joins the trace of its run once the run is read.
async fn in_a_span<T>(
    function: &Function,
    what: &str,
    work: impl Future<Output = Result<T, DispatchError>>,
) -> Result<T, DispatchError> {
    let span = tracing::debug_span!(
        target: TARGET,
        parent: None,
        "invocation",
        otel.name = %format_args!("{what} {}", function.name),
        otel.kind = "consumer",
        function.name = function.name,
        trace.parent = Empty,
        fault.code = Empty,
    );
    // These futures are large, and would be in here twice.
    let result = Box::pin(work.instrument(span.clone())).await;
    if let Err(error) = &result {
        span.record("fault.code", error.code());
    }
    result
}

async fn tick(windlass: &Windlass, name: &str) -> Result<(), DispatchError> {
    match name {
        "timer-sweep" => {
            let sent = windlass.sweep().await?;
            if sent > 0 {
                tracing::info!(sent, "the sweep sent {sent} late hints again");
            }
        }
        "timer-cleanup" => {
            let cleaned = windlass.clean(false).await?;
            tracing::info!(
                cleaned = ?cleaned,
                "the cleanup removed {} deployments and {} files of {} bytes",
                cleaned.deployments,
                cleaned.files,
                cleaned.bytes
            );
        }
        other => return Err(DispatchError::Malformed(format!("no such timer: {other}"))),
    }
    Ok(())
}

/// What is left to do after a message.
enum Then {
    Nothing,
    /// Once for the whole batch.
    Admit,
}

async fn deliver(windlass: &Windlass, function: &Function, text: &str) -> Result<Then, DispatchError> {
    match serde_json::from_str::<Envelope>(text) {
        Ok(Envelope { w1: OurMessage::DeadLetter { id, queue } }) => {
            tracing::error!(
                message.id = id,
                queue,
                "message {id} of {queue} could not be worked on and is in the dead letters"
            );
            Ok(Then::Nothing)
        }
        // The platform forwards what it gave up as it was.
        _ if function.name == "dead-letter" => {
            let id = windlass.tools.backlog.bury(text).await?;
            tracing::error!(
                message.id = id,
                "message {id} could not be worked on and is in the dead letters"
            );
            Ok(Then::Nothing)
        }
        Ok(Envelope { w1: OurMessage::Run { run, seq } }) => {
            let hint = Hint { run, function: function.name, seq };
            if windlass.engine.advance(&hint).await? == Advanced::Busy {
                windlass.queue.send(&hint, after(windlass.engine.clock.now(), BUSY_AGAIN)).await?;
            }
            Ok(Then::Nothing)
        }
        Ok(Envelope { w1: OurMessage::Admit { .. } }) => Ok(Then::Admit),
        Ok(Envelope { w1: OurMessage::Alarm { to, due, text } }) => pass_on(windlass, &to, due, &text).await,
        Err(error) if function.name == "admit" => job(windlass, text, &error).await,
        Err(error) => Err(DispatchError::Malformed(error.to_string())),
    }
}

/// Sends the hint that an alarm carries to its own queue; one that is not due yet waits on.
async fn pass_on(windlass: &Windlass, to: &str, due: Timestamp, text: &str) -> Result<Then, DispatchError> {
    let envelope: Envelope =
        serde_json::from_str(text).map_err(|error| DispatchError::Malformed(error.to_string()))?;
    let (Some(function), OurMessage::Run { run, seq }) = (function(to), envelope.w1) else {
        return Err(DispatchError::Malformed(format!("an alarm for {to} carries no hint")));
    };
    let hint = Hint { run, function: function.name, seq };
    windlass.queue.send(&hint, due.max(windlass.engine.clock.now())).await?;
    Ok(Then::Nothing)
}

/// A job of the documents' request shape, put on the queue by somebody else. Its digest makes redelivery harmless.
async fn job(windlass: &Windlass, text: &str, not_ours: &serde_json::Error) -> Result<Then, DispatchError> {
    let body: Value =
        serde_json::from_str(text).map_err(|_| DispatchError::Malformed(not_ours.to_string()))?;
    let key = format!("{QUEUE_KEY}{}", crate::deploy::ids::Digest::of(text.as_bytes()));
    match windlass.submit(&body, Some(key), "queue").await {
        Ok(_) => Ok(Then::Admit),
        Err(SubmitError::Invalid(errors)) => {
            let problems: Vec<String> =
                errors.into_iter().map(|error| format!("{} {}", error.pointer, error.message)).collect();
            Err(DispatchError::Malformed(problems.join("; ")))
        }
        Err(SubmitError::KeyReused) => Ok(Then::Nothing),
        Err(SubmitError::Full) => Err(DispatchError::Full),
        Err(SubmitError::Store(error)) => Err(DispatchError::Action(error.into())),
    }
}
