//! A run's events and their fold. One pure function applies an event and refuses illegal transitions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chain::{StepError, StepName};
use crate::trace::TraceContext;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done.
    Succeeded,
    /// A step failed for good, or the deadline passed; what was done has been undone.
    Failed,
    /// Somebody cancelled it; what was done has been undone.
    Cancelled,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Steps run in order.
    Forward,
    /// Steps that started are undone, newest first.
    Undo,
    /// The cleanup runs.
    Cleanup,
    /// Over.
    Ended,
    /// An undo or the cleanup failed for good: a person has to look, then resume.
    Stuck,
}

/// One thing that happened to a run. Stored as JSON for ever: variants and fields are only added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The run began; always the first event.
    Started {
        /// Name of the chain.
        chain: String,
        /// Version of the chain.
        chain_version: u32,
        /// What the run is about.
        subject: String,
        /// When it ends at the latest.
        deadline: Timestamp,
        /// The work that caused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<TraceContext>,
    },
    /// The step at the cursor (or the cleanup) finished.
    StepDone {
        /// Which one.
        step: StepName,
        /// What it answered.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        output: Value,
    },
    /// The step, or its undo, waits for something that goes on elsewhere.
    StepWaits {
        /// Which one.
        step: StepName,
        /// When to look at the latest.
        until: Timestamp,
        /// What finds the work again.
        memo: Value,
    },
    /// The step (or the cleanup) failed; without `retry_at` for good.
    StepFailed {
        /// Which one.
        step: StepName,
        /// Why.
        error: StepError,
        /// When it is tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// The newest step not yet undone was undone.
    StepUndone {
        /// Which one.
        step: StepName,
    },
    /// Undoing failed; without `retry_at` for good.
    UndoFailed {
        /// Which one.
        step: StepName,
        /// Why.
        error: StepError,
        /// When it is tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// Somebody asked to stop. Without effect once the cleanup began.
    CancelRequested {
        /// Who.
        by: String,
    },
    /// The deadline passed while steps were running.
    DeadlinePassed,
    /// Steps or undos are over; the cleanup begins.
    CleanupStarted {
        /// How the run will have ended.
        outcome: Outcome,
    },
    /// A person resumed a stuck run.
    Resumed {
        /// Who.
        by: String,
    },
    /// The last event.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step at fault.
    pub step: StepName,
    /// What went wrong.
    pub error: StepError,
}

/// The fold of a run's events: all that [`super::decide`] needs, of the same size at any length of history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Number of events folded in; the guard of the next append.
    pub version: u64,
    /// Name of the chain.
    pub chain: String,
    /// Version of the chain.
    pub chain_version: u32,
    /// What the run is about.
    pub subject: String,
    /// Where the run is.
    pub phase: Phase,
    /// Forward: index of the step that is due. Undo: how many steps are still to be undone.
    pub cursor: usize,
    /// Failed tries of what is due.
    pub attempt: u32,
    /// What the step that is due remembered with its last wait.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub memo: Value,
    /// What is due runs no earlier (retry).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// What is due is looked at no later (wait).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_at: Option<Timestamp>,
    /// When the run began.
    pub started: Timestamp,
    /// When the newest event was written.
    pub updated: Timestamp,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// How it ends, once that is sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it failed, or is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The work that caused it, of which every hint of the run is a part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// The phase a stuck run goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_in: Option<Phase>,
}

/// An event that cannot follow what came before it. A bug, or a damaged journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event} cannot follow phase {phase} at version {version}")]
pub struct IllegalEvent {
    /// The event, as text.
    pub event: String,
    /// The phase it met.
    pub phase: String,
    /// The version it met.
    pub version: u64,
}

/// Code of a run that passed its deadline.
pub const DEADLINE_CODE: &str = "DEPLOYMENT_TIMEOUT";

impl RunState {
    /// The state after the first event.
    ///
    /// # Errors
    /// [`IllegalEvent`] when `event` is not [`Event::Started`].
    pub fn begin(event: &Event, at: Timestamp) -> Result<Self, IllegalEvent> {
        let Event::Started { chain, chain_version, subject, deadline, trace } = event else {
            return Err(IllegalEvent { event: format!("{event:?}"), phase: "none".to_owned(), version: 0 });
        };
        Ok(Self {
            version: 1,
            chain: chain.clone(),
            chain_version: *chain_version,
            subject: subject.clone(),
            phase: Phase::Forward,
            cursor: 0,
            attempt: 0,
            memo: Value::Null,
            not_before: None,
            look_at: None,
            started: at,
            updated: at,
            deadline: *deadline,
            outcome: None,
            failure: None,
            trace: *trace,
            stuck_in: None,
        })
    }

    /// Folds one more event in.
    ///
    /// # Errors
    /// [`IllegalEvent`] when it cannot follow; the state is then unchanged.
    pub fn apply(&mut self, event: &Event, at: Timestamp) -> Result<(), IllegalEvent> {
        match (self.phase, event) {
            (Phase::Forward, Event::StepDone { .. }) => self.due(self.cursor + 1),
            (Phase::Forward | Phase::Undo | Phase::Cleanup, Event::StepWaits { until, memo, .. }) => {
                self.memo = memo.clone();
                self.look_at = Some(*until);
                self.not_before = None;
            }
            (Phase::Forward | Phase::Cleanup, Event::StepFailed { retry_at: Some(at), .. })
            | (Phase::Undo, Event::UndoFailed { retry_at: Some(at), .. }) => {
                self.attempt += 1;
                self.not_before = Some(*at);
                self.look_at = None;
            }
            (Phase::Forward, Event::StepFailed { step, error, retry_at: None }) => {
                self.turn_back(Outcome::Failed, Some(Failure { step: step.clone(), error: error.clone() }));
            }
            (Phase::Forward, Event::CancelRequested { .. }) => self.turn_back(Outcome::Cancelled, None),
            (Phase::Forward, Event::DeadlinePassed) => {
                let error = StepError::permanent(DEADLINE_CODE, "the deadline of the deployment passed");
                let step = StepName::new("deadline");
                self.turn_back(Outcome::Failed, Some(Failure { step, error }));
            }
            (Phase::Undo, Event::StepUndone { .. }) if self.cursor > 0 => self.due(self.cursor - 1),
            (Phase::Forward | Phase::Undo, Event::CleanupStarted { outcome }) => {
                self.phase = Phase::Cleanup;
                self.outcome = Some(*outcome);
                self.due(0);
            }
            (Phase::Cleanup, Event::StepDone { .. }) => self.due(1),
            (Phase::Cleanup, Event::StepFailed { step, error, retry_at: None })
            | (Phase::Undo, Event::UndoFailed { step, error, retry_at: None }) => {
                self.stuck_in = Some(self.phase);
                self.phase = Phase::Stuck;
                self.failure = Some(Failure { step: step.clone(), error: error.clone() });
            }
            (Phase::Stuck, Event::Resumed { .. }) => {
                // The memo finds what has to be undone.
                let memo = std::mem::take(&mut self.memo);
                self.phase = self.stuck_in.take().unwrap_or(Phase::Undo);
                self.due(self.cursor);
                self.memo = memo;
            }
            (Phase::Forward | Phase::Undo | Phase::Cleanup, Event::Ended { outcome }) => {
                self.phase = Phase::Ended;
                self.outcome = Some(*outcome);
                self.due(self.cursor);
            }
            (Phase::Undo | Phase::Cleanup | Phase::Stuck, Event::CancelRequested { .. }) => {}
            _ => return Err(self.illegal(event)),
        }
        self.version += 1;
        self.updated = at;
        Ok(())
    }

    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended | Phase::Stuck)
    }

    fn due(&mut self, cursor: usize) {
        self.cursor = cursor;
        self.attempt = 0;
        self.memo = Value::Null;
        self.not_before = None;
        self.look_at = None;
    }

    fn turn_back(&mut self, outcome: Outcome, failure: Option<Failure>) {
        // The step at the cursor may have started, so it is undone too; its memo finds what it started.
        let memo = std::mem::take(&mut self.memo);
        self.phase = Phase::Undo;
        self.outcome = Some(outcome);
        self.failure = failure;
        self.due(self.cursor + 1);
        self.memo = memo;
    }

    fn illegal(&self, event: &Event) -> IllegalEvent {
        IllegalEvent {
            event: serde_json::to_string(event).unwrap_or_default(),
            phase: format!("{:?}", self.phase),
            version: self.version,
        }
    }
}
