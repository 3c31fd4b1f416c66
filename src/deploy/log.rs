//! What a deployment says while it runs: one line after the other, numbered, kept before it is shown.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::deployment::StoreError;
use super::ids::DeploymentId;

/// Version of the line format, in every line as `v`.
pub const LINE_VERSION: u32 = 1;

/// One line: of a build, or about the deployment itself. The same in the store, on the wire and in `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Version of this format.
    pub v: u32,
    /// Where the line ends in the log; resuming after it gives the next one. 0 until it is stored.
    #[serde(default)]
    pub id: u64,
    /// When it was said.
    pub at: Timestamp,
    /// `log`, or what happened: `step.started`, `step.finished`, `build.started`, `deployment.ended`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The step it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// More, by kind.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
}

impl Line {
    /// A line of kind `kind`.
    #[must_use]
    pub fn new(at: Timestamp, kind: &str, step: Option<&str>, text: impl Into<String>) -> Self {
        Self {
            v: LINE_VERSION,
            id: 0,
            at,
            kind: kind.to_owned(),
            step: step.map(str::to_owned),
            text: text.into(),
            data: Map::new(),
        }
    }

    /// The same line with one more member in `data`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.data.insert(key.to_owned(), value.into());
        self
    }
}

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// After the line with this id; 0 for the beginning.
    After(u64),
    /// So many lines before the end.
    Tail(usize),
}

/// Keeps the lines of every deployment.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Stores lines in order; each gets its id.
    ///
    /// # Errors
    /// [`StoreError`]: the lines are not stored.
    async fn append(&self, deployment: DeploymentId, lines: Vec<Line>) -> Result<(), StoreError>;

    /// Up to `limit` lines.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn read(&self, deployment: DeploymentId, from: From, limit: usize)
    -> Result<Vec<Line>, StoreError>;

    /// Compresses the logs that were not written to after `before`. Gives their number.
    ///
    /// # Errors
    /// [`StoreError`]; some may be compressed.
    async fn compress(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Removes a log. Removing what is not there succeeds.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn remove(&self, deployment: DeploymentId) -> Result<(), StoreError>;

    /// Returns where the log ends once that is after `after`, at once when it is. Before that end there need not be a line
    /// to read: `after` may be inside the last one. A log that cannot be looked at is waited for.
    async fn changed(&self, deployment: DeploymentId, after: u64) -> u64;
}
