//! What a chain is made of: steps in order, each with a name, a function that carries it, and a retry policy.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::journal::{Journal, RunId};
use super::retry::RetryPolicy;
use super::state::{Outcome, RunState};

/// The stored name of a step. Never reused with another meaning.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepName(Cow<'static, str>);

impl StepName {
    /// A name known when the program is built.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for StepName {
    fn from(name: String) -> Self {
        Self(Cow::Owned(name))
    }
}

impl std::fmt::Display for StepName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a step answers when it did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Finished, with what later steps may read.
    Done(Value),
    /// Something runs elsewhere: look again at `until`, or earlier when it ends. `memo` is what finds it again.
    Wait {
        /// When to look again at the latest.
        until: Timestamp,
        /// Kept in the state until the step is done; given back as [`Context::memo`].
        memo: Value,
    },
}

impl Next {
    /// Finished with `output`.
    ///
    /// # Errors
    /// [`StepError`] when `output` cannot be written as JSON.
    pub fn with(output: &impl Serialize) -> Result<Self, StepError> {
        Ok(Self::Done(to_json(output)?))
    }

    /// Look again at `until`; `memo` finds the work again.
    ///
    /// # Errors
    /// [`StepError`] when `memo` cannot be written as JSON.
    pub fn wait(until: Timestamp, memo: &impl Serialize) -> Result<Self, StepError> {
        Ok(Self::Wait { until, memo: to_json(memo)? })
    }
}

fn to_json(value: &impl Serialize) -> Result<Value, StepError> {
    serde_json::to_value(value)
        .map_err(|error| StepError::permanent("INTERNAL", format!("a step's value is not JSON: {error}")))
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The same call may succeed later.
    Transient,
    /// It will fail the same way again.
    Permanent,
}

/// Why a step failed. Recorded in the journal, shown to people: never a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct StepError {
    /// Whether a retry can help.
    pub class: ErrorClass,
    /// Stable code from the error catalogue.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// More for the log: exit code, last lines. Empty when there is none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl StepError {
    /// An error that a retry may cure.
    pub fn transient(code: &str, message: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::Transient,
            code: code.to_owned(),
            message: message.into(),
            detail: Value::Null,
        }
    }

    /// An error that a retry cannot cure.
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::Permanent,
            code: code.to_owned(),
            message: message.into(),
            detail: Value::Null,
        }
    }

    /// The same error with more for the log.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }
}

/// What a step may see while it runs.
pub struct Context<'a> {
    /// The run.
    pub run: RunId,
    /// What the run is about, as its starter named it (a deployment id).
    pub subject: &'a str,
    /// 1 for the first try of this step.
    pub attempt: u32,
    /// What the step remembered with its last [`Next::Wait`]; null at the first look.
    pub memo: &'a Value,
    /// Whether the step waits, so that this is another look and no start.
    pub waited: bool,
    /// When the whole run ends at the latest.
    pub deadline: Timestamp,
    /// How the run ended, once that is known: in cleanup.
    pub outcome: Option<Outcome>,
    /// The time at which the step was started.
    pub now: Timestamp,
    journal: &'a dyn Journal,
}

impl<'a> Context<'a> {
    pub(super) fn new(run: RunId, state: &'a RunState, now: Timestamp, journal: &'a dyn Journal) -> Self {
        Self {
            run,
            subject: &state.subject,
            attempt: state.attempt + 1,
            memo: &state.memo,
            waited: state.look_at.is_some(),
            deadline: state.deadline,
            outcome: state.outcome,
            now,
            journal,
        }
    }

    /// What an earlier step of this run answered, or `None` when it has not finished.
    ///
    /// # Errors
    /// Transient when the journal cannot be read; permanent when the output has another shape.
    pub async fn output_of<T: DeserializeOwned>(&self, step: &StepName) -> Result<Option<T>, StepError> {
        let output = self
            .journal
            .output(self.run, step)
            .await
            .map_err(|error| StepError::transient("STORE_UNAVAILABLE", error.to_string()))?;
        output.map(serde_json::from_value).transpose().map_err(|error| {
            StepError::permanent("INTERNAL", format!("the output of step {step} has another shape: {error}"))
        })
    }

    /// What step `step` answered; it must have finished.
    ///
    /// # Errors
    /// As [`Context::output_of`]; permanent when the step has not finished.
    pub async fn require<T: DeserializeOwned>(&self, step: &StepName) -> Result<T, StepError> {
        self.output_of(step).await?.ok_or_else(|| {
            StepError::permanent("INTERNAL", format!("step {step} has no output, so this step cannot run"))
        })
    }

    /// What this step remembered with its last wait.
    ///
    /// # Errors
    /// Permanent when the memo has another shape.
    pub fn remembered<T: DeserializeOwned>(&self) -> Result<Option<T>, StepError> {
        if self.memo.is_null() {
            return Ok(None);
        }
        serde_json::from_value(self.memo.clone())
            .map(Some)
            .map_err(|error| StepError::permanent("INTERNAL", format!("the memo has another shape: {error}")))
    }
}

/// One durable unit of work. Every method may be cut at any instruction and called again.
#[async_trait]
pub trait Step: Send + Sync {
    /// Does the work, or finds what an earlier call did. Returns within 60 s.
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError>;

    /// Takes the work back, or waits for what that needs. Undoing what never happened succeeds.
    async fn undo(&self, _cx: &Context<'_>) -> Result<Next, StepError> {
        Ok(Next::Done(Value::Null))
    }
}

/// Told about a run as it moves. At least once, in order; must be safe to repeat.
#[async_trait]
pub trait Observer: Send + Sync {
    /// A step is about to run (or to be undone).
    async fn started(&self, cx: &Context<'_>, step: &StepName, undo: bool);
    /// These events are about to be written. A conflict or crash may still prevent that; then they come again.
    async fn recording(&self, state: &RunState, events: &[super::state::Event]);
    /// `state` is on disk.
    async fn recorded(&self, run: RunId, state: &RunState);
    /// The run is about to end, or to be parked when `outcome` is `None`. An error keeps the run open: it is
    /// asked again.
    async fn settle(&self, run: RunId, state: &RunState, outcome: Option<Outcome>) -> Result<(), StepError>;
}

/// One place in a chain.
#[derive(Clone)]
pub struct Place {
    /// Stored name.
    pub name: StepName,
    /// The function, and so the queue, that carries the step's hints.
    pub function: &'static str,
    /// How often and how fast to try again.
    pub retry: RetryPolicy,
    /// The work.
    pub step: Arc<dyn Step>,
}

/// Steps in order, and the cleanup that always runs.
#[derive(Clone)]
pub struct Chain {
    /// Stored name.
    pub name: &'static str,
    /// Raised when the steps change; runs in flight finish on the version they started with.
    pub version: u32,
    /// In order. At least one.
    pub steps: Vec<Place>,
    /// Runs last, whatever happened before. `None` for chains that leave nothing behind.
    pub cleanup: Option<Place>,
    /// Who hears about its runs.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Chain {
    /// The place at `index`: the steps in order, then the cleanup.
    #[must_use]
    pub fn place(&self, index: usize) -> Option<&Place> {
        if index == self.steps.len() { self.cleanup.as_ref() } else { self.steps.get(index) }
    }
}

/// Every chain that runs may be on, also old versions with runs in flight.
#[derive(Default)]
pub struct Chains(BTreeMap<(&'static str, u32), Arc<Chain>>);

impl Chains {
    /// A set of chains.
    #[must_use]
    pub fn new(chains: impl IntoIterator<Item = Chain>) -> Self {
        Self(chains.into_iter().map(|chain| ((chain.name, chain.version), Arc::new(chain))).collect())
    }

    /// The chain of that name and version.
    #[must_use]
    pub fn get(&self, name: &str, version: u32) -> Option<&Arc<Chain>> {
        self.0.iter().find(|((n, v), _)| *n == name && *v == version).map(|(_, chain)| chain)
    }

    /// The newest version of a chain: what new runs start on.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&Arc<Chain>> {
        self.0.iter().rev().find(|((n, _), _)| *n == name).map(|(_, chain)| chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_json_is_our_mistake() {
        // JSON has texts as names only.
        let odd = BTreeMap::from([((1, 2), 3)]);
        for refused in [Next::with(&odd), Next::wait(Timestamp::UNIX_EPOCH, &odd)] {
            let error = refused.err().unwrap();
            assert_eq!((error.code.as_str(), error.class), ("INTERNAL", ErrorClass::Permanent));
        }
    }
}
