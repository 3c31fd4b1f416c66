//! What people ask of a run from outside: begin, cancel, resume.

use jiff::Timestamp;

use super::Engine;
use super::advance::next_hint;
use super::chain::Chain;
use super::journal::{Append, JournalError, RunId};
use super::queue::Hint;
use super::state::{Event, Phase, RunState};
use crate::trace::TraceContext;

/// Writers that may get in between a signal's read and its append, before we give up.
const MOST_CONFLICTS: usize = 20;

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signalled {
    /// It is in the journal.
    Accepted,
    /// The run is past the point where it would mean something.
    TooLate,
    /// There is no such run.
    Missing,
}

impl Engine {
    /// Begins run `run` of chain `chain` about `subject`, as a part of `trace`. Beginning it again changes nothing.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] when nothing is stored; [`JournalError::Damaged`] for a chain without steps.
    pub async fn begin(
        &self,
        run: RunId,
        chain: &Chain,
        (subject, trace): (&str, Option<TraceContext>),
        deadline: Timestamp,
    ) -> Result<(), JournalError> {
        let now = self.clock.now();
        let first = Event::Started {
            chain: chain.name.to_owned(),
            chain_version: chain.version,
            subject: subject.to_owned(),
            deadline,
            trace,
        };
        let damaged = |what: &'static str| JournalError::Damaged { run, source: what.into() };
        let state = RunState::begin(&first, now)
            .map_err(|error| JournalError::Damaged { run, source: error.into() })?;
        let function = chain.steps.first().ok_or_else(|| damaged("a chain without steps"))?.function;
        self.journal.create(run, &first, &state, Hint { run, function, seq: state.version }).await
    }

    /// Asks the run to stop: what it did is undone, then the cleanup runs.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read or written.
    pub async fn cancel(&self, run: RunId, by: &str) -> Result<Signalled, JournalError> {
        self.signal(run, &Event::CancelRequested { by: by.to_owned() }, Phase::Forward).await
    }

    /// Lets a stuck run try again.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read or written.
    pub async fn resume(&self, run: RunId, by: &str) -> Result<Signalled, JournalError> {
        self.signal(run, &Event::Resumed { by: by.to_owned() }, Phase::Stuck).await
    }

    async fn signal(&self, run: RunId, event: &Event, only_in: Phase) -> Result<Signalled, JournalError> {
        for _ in 0..MOST_CONFLICTS {
            let Some((before, _)) = self.journal.history(run).await? else { return Ok(Signalled::Missing) };
            if before.phase != only_in {
                return Ok(Signalled::TooLate);
            }
            let Some(chain) = self.chains.get(&before.chain, before.chain_version) else {
                return Ok(Signalled::TooLate);
            };
            if only_in == Phase::Forward && before.cursor >= chain.steps.len() {
                return Ok(Signalled::TooLate);
            }
            let now = self.clock.now();
            let mut state = before.clone();
            state.apply(event, now).map_err(|error| JournalError::Damaged { run, source: error.into() })?;
            let hints = next_hint(run, &state, chain, now).into_iter().collect();
            let events = std::slice::from_ref(event);
            if let Some(observer) = &chain.observer {
                observer.recording(&state, events).await;
            }
            let append = Append { run, expected: before.version, lease: None, events, state: &state, hints };
            match self.journal.append(append).await {
                Ok(()) => {
                    if let Some(observer) = &chain.observer {
                        observer.recorded(run, &state).await;
                    }
                    return Ok(Signalled::Accepted);
                }
                Err(JournalError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(JournalError::Conflict(run))
    }
}
