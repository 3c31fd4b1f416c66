//! Wire types of the JSON API, shared by server, command line and tests.

pub mod batch;
pub mod catalogue;
pub mod codes;
pub mod finding;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Answer to `POST /deploy` and `POST /api/deploy`; the documents' fields in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// Always true.
    pub success: bool,
    /// `dep_…`.
    pub deployment_id: String,
    /// Always `queued`.
    pub status: String,
    /// Always the same sentence.
    pub message: String,
    /// Learned from earlier deployments.
    pub estimated_duration: String,
}

/// CPU and memory of one replica, as in `containerSize` of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSize {
    /// Such as `"0.5"`.
    pub cpu: String,
    /// Such as `"1Gi"`.
    pub memory: String,
}

/// Answer to `GET /deploy/{id}/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `dep_…`.
    pub deployment_id: String,
    /// The project.
    pub project_id: String,
    /// The project's organization.
    pub organization_id: String,
    /// Who asked.
    pub user_id: String,
    /// Where it is to live.
    pub environment: String,
    /// Of one replica, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_size: Option<ContainerSize>,
    /// The commit that was deployed, where the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_sha: Option<String>,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled`, `superseded` or `stuck`.
    pub status: String,
    /// The step that is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_step: Option<String>,
    /// Finished steps, in percent.
    pub progress: u8,
    /// Every step in order.
    pub steps: Vec<Step>,
    /// Where the release answers.
    #[serde(default)]
    pub urls: Vec<String>,
    /// The release's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// When it was accepted.
    pub created_at: String,
    /// When its run was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// 1 for the next one, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// Why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Learned from earlier deployments.
    pub estimated_duration: String,
    /// Ties log lines to the request.
    pub correlation_id: String,
}

/// One step of a deployment.
#[derive(Default, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Stored name.
    pub name: String,
    /// What it does.
    pub text: String,
    /// `pending`, `running`, `succeeded`, `skipped`, `failed`, `undone`, `undo_failed` or `not_run`.
    pub status: String,
    /// Tries so far.
    pub attempts: u32,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How long it usually takes in this project and environment, milliseconds; only while the deployment is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_ms: Option<u64>,
    /// What it left.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
}

/// Why a deployment did not succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Stable code.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The step.
    pub step: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Exit code, signal, last lines.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// One deployment in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// `dep_…`.
    pub deployment_id: String,
    /// The project.
    pub project_id: String,
    /// The project's name for people.
    pub project_name: String,
    /// The project's organization.
    pub organization_id: String,
    /// Who asked.
    pub user_id: String,
    /// Where it is to live.
    pub environment: String,
    /// Of one replica, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_size: Option<ContainerSize>,
    /// The commit that was deployed, where the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_sha: Option<String>,
    /// As in [`Status`].
    pub status: String,
    /// When it was accepted.
    pub created_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Where the release answers.
    #[serde(default)]
    pub urls: Vec<String>,
}

/// A page of deployments, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The rows.
    pub deployments: Vec<Row>,
    /// `?cursor=` of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One line of a deployment's log, as stored, streamed and printed with `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Version of this format.
    pub v: u32,
    /// Resuming after it gives the next line.
    pub id: u64,
    /// When it was said.
    pub at: String,
    /// `log`, or what happened.
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

/// Answer to `GET /deploy/{id}/logs` without streaming.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logs {
    /// `dep_…`.
    pub deployment_id: String,
    /// In order.
    pub logs: Vec<Line>,
    /// `?after=` of the next page.
    pub next: u64,
}

/// One file of a source, in `POST /sources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// 420 (0644) or 493 (0755).
    pub mode: u32,
    /// SHA-256 of the content.
    pub sha256: String,
}

/// Body of `POST /sources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewSource {
    /// Who owns it.
    pub organization_id: String,
    /// Sorted by path.
    pub files: Vec<File>,
}

/// Answer to `POST /sources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What to put into `source` of `POST /deploy`.
    pub source: String,
    /// Contents that `PUT /sources/blobs/{sha256}` has to bring first.
    pub missing: Vec<String>,
}

/// `application/problem+json` (RFC 9457) with our members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:windlass:error:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// Stable code.
    pub code: String,
    /// `user`, `quota`, `provider-transient`, `provider-permanent` or `internal`.
    pub category: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Ties it to log lines.
    pub correlation_id: String,
    /// Which fields are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemField>,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemField {
    /// JSON pointer.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}
