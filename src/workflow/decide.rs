//! What to do next with a run. Pure: the same state, chain and time give the same answer.

use jiff::Timestamp;

use super::chain::Chain;
use super::state::{Event, Outcome, Phase, RunState};

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Run the place at this index of the chain (steps, then cleanup).
    Run(usize),
    /// Undo the step at this index.
    Undo(usize),
    /// Write this event; nothing is to be performed.
    Record(Event),
    /// Nothing before this time.
    WaitUntil(Timestamp),
    /// Nothing ever, unless somebody signals.
    Rest,
}

/// Decides on the run's next move.
#[must_use]
pub fn decide(state: &RunState, chain: &Chain, now: Timestamp) -> Decision {
    match state.phase {
        Phase::Ended | Phase::Stuck => Decision::Rest,
        Phase::Forward if state.cursor >= chain.steps.len() => finish(chain, Outcome::Succeeded),
        Phase::Forward if now >= state.deadline => Decision::Record(Event::DeadlinePassed),
        Phase::Forward => match state.not_before {
            Some(at) if at > now => Decision::WaitUntil(at.min(state.deadline)),
            _ => Decision::Run(state.cursor),
        },
        Phase::Undo if state.cursor == 0 => finish(chain, state.outcome.unwrap_or(Outcome::Failed)),
        Phase::Undo => wait_or(state, now, Decision::Undo(state.cursor - 1)),
        Phase::Cleanup if state.cursor > 0 => {
            Decision::Record(Event::Ended { outcome: state.outcome.unwrap_or(Outcome::Failed) })
        }
        Phase::Cleanup => wait_or(state, now, Decision::Run(chain.steps.len())),
    }
}

/// When somebody has to look at the run again after `state` was written: at once, later, or never.
#[must_use]
pub fn look_again(state: &RunState, chain: &Chain, now: Timestamp) -> Option<Timestamp> {
    match decide(state, chain, now) {
        Decision::Rest => None,
        Decision::WaitUntil(at) => Some(at),
        Decision::Run(_) => match state.look_at {
            Some(at) if state.phase == Phase::Forward => Some(at.min(state.deadline).max(now)),
            Some(at) => Some(at.max(now)),
            None => Some(now),
        },
        // The deadline is of the way forward only.
        Decision::Undo(_) => Some(state.look_at.map_or(now, |at| at.max(now))),
        Decision::Record(_) => Some(now),
    }
}

/// The function that carries the next hint of this run.
#[must_use]
pub fn function_of(state: &RunState, chain: &Chain) -> Option<&'static str> {
    let index = match state.phase {
        Phase::Forward => state.cursor,
        Phase::Undo => state.cursor.saturating_sub(1),
        Phase::Cleanup | Phase::Ended | Phase::Stuck => chain.steps.len(),
    };
    chain.place(index).or_else(|| chain.steps.last()).map(|place| place.function)
}

fn wait_or(state: &RunState, now: Timestamp, then: Decision) -> Decision {
    match state.not_before {
        Some(at) if at > now => Decision::WaitUntil(at),
        _ => then,
    }
}

fn finish(chain: &Chain, outcome: Outcome) -> Decision {
    Decision::Record(match chain.cleanup {
        Some(_) => Event::CleanupStarted { outcome },
        None => Event::Ended { outcome },
    })
}
