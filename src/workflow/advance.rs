//! Performs one decision of one run: claim, decide, do, append. Called for every hint.

use tracing::{Instrument as _, Span};

use super::chain::{Chain, Context, ErrorClass, Next, Place, StepError};
use super::decide::{Decision, decide, function_of, look_again};
use super::journal::{Append, Claim, JournalError, Lease, RunId};
use super::queue::Hint;
use super::state::{Event, Phase, RunState};
use super::{Engine, HEARTBEAT, LEASE};
use crate::ambient::after;
use crate::trace::TARGET;

/// What became of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advanced {
    /// The run moved on.
    Moved,
    /// There was nothing to do: the hint was stale or doubled, or the run is over or unknown.
    Nothing,
    /// Somebody else works on the run: the hint should come again shortly.
    Busy,
}

impl Engine {
    /// Looks at the hint's run and makes its next move.
    ///
    /// A failing step is recorded and the call succeeds. A crash at any instruction leaves the run where its newest
    /// append put it; the hint comes again.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read or written, so that the hint is delivered again.
    pub async fn advance(&self, hint: &Hint) -> Result<Advanced, JournalError> {
        let now = self.clock.now();
        let (lease, state) = match self.journal.claim(hint.run, now, after(now, LEASE)).await? {
            Claim::Held(lease, state) => (lease, *state),
            Claim::Busy => return Ok(Advanced::Busy),
            Claim::Missing => return Ok(Advanced::Nothing),
        };
        if let Some(trace) = state.trace {
            Span::current().record("trace.parent", tracing::field::display(trace));
        }
        if hint.seq < state.version {
            self.journal.release(&lease).await;
            return Ok(Advanced::Nothing);
        }
        let Some(chain) = self.chains.get(&state.chain, state.chain_version) else {
            self.journal.release(&lease).await;
            tracing::error!(run.id = %hint.run, chain = state.chain, version = state.chain_version, "{} is on a chain that this version does not know", hint.run);
            return Ok(Advanced::Nothing);
        };
        let event = match decide(&state, chain, now) {
            Decision::Rest | Decision::WaitUntil(_) => {
                self.journal.release(&lease).await;
                return Ok(Advanced::Nothing);
            }
            Decision::Record(event) => event,
            Decision::Run(index) => match self.perform(&lease, &state, chain, (index, false)).await? {
                Some(event) => event,
                None => return Ok(Advanced::Nothing),
            },
            Decision::Undo(index) => match self.perform(&lease, &state, chain, (index, true)).await? {
                Some(event) => event,
                None => return Ok(Advanced::Nothing),
            },
        };
        self.record(&lease, state, chain, event).await
    }

    /// Runs or undoes one place under heartbeats. `None` when the lease was lost meanwhile.
    async fn perform(
        &self,
        lease: &Lease,
        state: &RunState,
        chain: &Chain,
        (index, undo): (usize, bool),
    ) -> Result<Option<Event>, JournalError> {
        let Some(place) = chain.place(index) else {
            return Err(JournalError::Damaged { run: lease.run, source: "no step at the cursor".into() });
        };
        let cx = Context::new(lease.run, state, self.clock.now(), self.journal.as_ref());
        if let Some(observer) = &chain.observer {
            observer.started(&cx, &place.name, undo).await;
        }
        let span = tracing::debug_span!(target: TARGET, "step", otel.name = %format_args!("step {}", place.name), step.name = %place.name, step.attempt = cx.attempt, step.undo = undo, run.id = %lease.run, fault.code = tracing::field::Empty);
        let work = async {
            let result = if undo { place.step.undo(&cx).await } else { place.step.run(&cx).await };
            if let Err(error) = &result {
                Span::current().record("fault.code", error.code.as_str());
            }
            result
        };
        let mut work = std::pin::pin!(work.instrument(span));
        loop {
            tokio::select! {
                biased;
                result = &mut work => return Ok(Some(self.event_of(place, state, undo, result))),
                () = self.clock.sleep(HEARTBEAT) => {
                    match self.journal.renew(lease, after(self.clock.now(), LEASE)).await {
                        Ok(()) => {}
                        Err(JournalError::Fenced(run)) => {
                            tracing::warn!(run.id = %run, step.name = %place.name, "lost the lease on {run} while {} ran; dropping its result", place.name);
                            return Ok(None);
                        }
                        // The append decides whether the lease still held.
                        Err(error) => tracing::warn!(run.id = %lease.run, error = %error, "heartbeat of {} failed", lease.run),
                    }
                }
            }
        }
    }

    fn event_of(
        &self,
        place: &Place,
        state: &RunState,
        undo: bool,
        result: Result<Next, StepError>,
    ) -> Event {
        let step = place.name.clone();
        let error = match result {
            Ok(Next::Done(_)) if undo => return Event::StepUndone { step },
            Ok(Next::Done(output)) => return Event::StepDone { step, output },
            Ok(Next::Wait { until, memo }) => return Event::StepWaits { step, until, memo },
            Err(error) => error,
        };
        let wait = match error.class {
            ErrorClass::Transient => place.retry.wait_after(state.attempt + 1, self.ids.random()),
            ErrorClass::Permanent => None,
        };
        let retry_at = wait.map(|wait| after(self.clock.now(), wait));
        if undo {
            Event::UndoFailed { step, error, retry_at }
        } else {
            Event::StepFailed { step, error, retry_at }
        }
    }

    /// Appends `event`, whatever follows from it without work, and the next hint.
    async fn record(
        &self,
        lease: &Lease,
        state: RunState,
        chain: &Chain,
        event: Event,
    ) -> Result<Advanced, JournalError> {
        let now = self.clock.now();
        let (mut after_it, mut events) = fold(lease.run, state.clone(), chain, event, now)?;
        if let Some(observer) = &chain.observer {
            // Told before the next hint leaves, so that nobody hears of the next step before the end of this one.
            observer.recording(&after_it, &events).await;
        }
        if after_it.is_over()
            && let Some(observer) = &chain.observer
        {
            let outcome = if after_it.phase == Phase::Ended { after_it.outcome } else { None };
            if let Err(error) = observer.settle(lease.run, &after_it, outcome).await {
                tracing::warn!(run.id = %lease.run, error = %error, "{} could not be settled yet", lease.run);
                // Keep the work, postpone the end: the next hint decides to end the run again.
                events.pop();
                if events.is_empty() {
                    self.journal.release(lease).await;
                    return Ok(Advanced::Busy);
                }
                after_it = refold(lease.run, &state, &events, now)?;
            }
        }
        let hints = next_hint(lease.run, &after_it, chain, now).into_iter().collect();
        let append = Append {
            run: lease.run,
            expected: state.version,
            lease: Some(lease),
            events: &events,
            state: &after_it,
            hints,
        };
        match self.journal.append(append).await {
            Ok(()) => {}
            Err(JournalError::Conflict(_)) => {
                // A signal came in between. It changes what is legal, so the move is made again from the new state.
                self.journal.release(lease).await;
                return Ok(Advanced::Busy);
            }
            Err(JournalError::Fenced(_)) => return Ok(Advanced::Nothing),
            Err(error) => {
                // Whether it was written or not, the version guards the next try.
                self.journal.release(lease).await;
                return Err(error);
            }
        }
        if let Some(observer) = &chain.observer {
            observer.recorded(lease.run, &after_it).await;
        }
        Ok(Advanced::Moved)
    }
}

/// Applies `event` and every event that follows from it without work.
fn fold(
    run: RunId,
    mut state: RunState,
    chain: &Chain,
    event: Event,
    now: jiff::Timestamp,
) -> Result<(RunState, Vec<Event>), JournalError> {
    let mut events = vec![event];
    loop {
        if let Some(event) = events.last() {
            state.apply(event, now).map_err(|error| JournalError::Damaged { run, source: error.into() })?;
        }
        // A deadline is recorded by a move of its own, so that a finished step is never overruled by it.
        let Decision::Record(next) = decide(&state, chain, now) else { return Ok((state, events)) };
        if next == Event::DeadlinePassed {
            return Ok((state, events));
        }
        events.push(next);
    }
}

fn refold(
    run: RunId,
    before: &RunState,
    events: &[Event],
    now: jiff::Timestamp,
) -> Result<RunState, JournalError> {
    let mut state = before.clone();
    for event in events {
        state.apply(event, now).map_err(|error| JournalError::Damaged { run, source: error.into() })?;
    }
    Ok(state)
}

/// The hint that must follow `state`, and its time.
pub(super) fn next_hint(
    run: RunId,
    state: &RunState,
    chain: &Chain,
    now: jiff::Timestamp,
) -> Option<(Hint, jiff::Timestamp)> {
    let due = look_again(state, chain, now)?;
    let function = function_of(state, chain)?;
    Some((Hint { run, function, seq: state.version }, due))
}
