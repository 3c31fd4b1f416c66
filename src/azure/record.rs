//! A deployment as Cosmos DB keeps it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::deploy::deployment::{Deployment, Ending, NewDeployment, Status};
use crate::deploy::ids::DeploymentId;
use crate::deploy::wish::Wish;
use crate::trace::TraceContext;
use crate::workflow::journal::RunId;

/// A deployment as it is stored. Times are microseconds since 1970, so that queries can compare them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) kind: String,
    pub(super) deployment: DeploymentId,
    pub(super) no: i64,
    pub(super) org: String,
    pub(super) project: String,
    pub(super) environment: String,
    pub(super) status: Status,
    pub(super) run: Option<RunId>,
    pub(super) created: i64,
    pub(super) started: Option<i64>,
    pub(super) ended: Option<i64>,
    pub(super) wish: Wish,
    pub(super) correlation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<TraceContext>,
    #[serde(default)]
    pub(super) result: Option<Ending>,
}

impl Record {
    /// The record of a deployment that was just accepted as number `no`.
    pub(super) fn accepted(new: &NewDeployment, no: i64) -> Self {
        Self {
            kind: "deployment".to_owned(),
            deployment: new.id,
            no,
            org: new.wish.org.to_string(),
            project: new.wish.project.to_string(),
            environment: new.wish.environment.to_string(),
            status: Status::Queued,
            run: None,
            created: new.at.as_microsecond(),
            started: None,
            ended: None,
            wish: new.wish.clone(),
            correlation: new.correlation.clone(),
            trace: new.trace,
            result: None,
        }
    }
}

pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

impl From<Record> for Deployment {
    fn from(record: Record) -> Self {
        Self {
            id: record.deployment,
            no: record.no,
            wish: record.wish,
            status: record.status,
            run: record.run,
            created: time(record.created),
            started: record.started.map(time),
            ended: record.ended.map(time),
            result: record.result.unwrap_or_default(),
            correlation: record.correlation,
            trace: record.trace,
        }
    }
}
