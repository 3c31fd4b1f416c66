//! What the builders on Azure share: the record by which a build is found again, its source, and what it says.
//!
//! The record names the builder that took the build on. A builder leaves the builds of others alone, so that one of them
//! can go on where another one could not begin.

use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app_body::repository_of;
use super::arm_error::ArmError;
use super::context::{BuildContext, ContextError, context};
use super::cosmos::{Container, Fault, Stored};
use super::stages::{self, Image};
use super::upload::UploadError;
use crate::deploy::blobs::Blobs;
use crate::deploy::builder::{BuildFailure, BuildJob, BuildStatus, BuilderError};
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::log::{self, Line, Logs};
use crate::deploy::source::{Manifest, SourceError};
use crate::workflow::journal::RunId;

/// The partition of the records of builds that somebody else runs.
pub(super) const PARTITION: &str = "builds";
/// What the record of a build says that it is.
pub(super) const KIND: &str = "build";
/// Lines of the log that a failure carries.
const TAIL: usize = 50;
/// What a line of the log carries that says why a build does not go on.
const WAITS: &str = "BUILDER_UNAVAILABLE";

/// What a builder remembers of a build.
pub(super) trait Remembered: Serialize + DeserializeOwned + Send + Sync {
    /// The partition of such records.
    const PARTITION: &'static str;

    /// Whose build it is, as far as it is known.
    fn deployment(&self) -> Option<DeploymentId>;
}

/// A build of ours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    kind: String,
    /// The source that `sync` was given.
    pub(super) source: Option<Digest>,
    pub(super) files: usize,
    /// The builder that took it on.
    #[serde(default)]
    builder: Option<String>,
    /// That builder's name of the build.
    build: Option<String>,
    deployment: Option<DeploymentId>,
    /// Where its image goes.
    #[serde(default)]
    pub(super) repository: String,
    /// How much of its log was taken over, as the builder counts it.
    pub(super) logged: u64,
    /// Where it stands, for builds in a container of ours.
    #[serde(default)]
    pub(super) contained: Option<Contained>,
}

/// A build in a container of ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Contained {
    /// When it is stopped.
    pub(super) deadline: Timestamp,
    /// When its execution was asked for.
    pub(super) asked: Option<Timestamp>,
    /// When the newest line was said that was taken over.
    pub(super) said: Option<Timestamp>,
    /// What kaniko ended with, as the container says it.
    pub(super) exit: Option<i64>,
    /// When it was first seen to be over.
    pub(super) over: Option<Timestamp>,
    /// Its deletion was accepted, and may still be under way.
    pub(super) removed: bool,
}

impl Record {
    /// The name of the build when this builder has it.
    pub(super) fn of(&self, builder: &str) -> Option<&str> {
        self.build.as_deref().filter(|_| self.builder.as_deref() == Some(builder))
    }

    /// Whether nothing was taken over of what it says.
    fn is_silent(&self) -> bool {
        self.logged == 0 && self.contained.as_ref().is_none_or(|contained| contained.said.is_none())
    }

    /// Whether another builder has the build.
    pub(super) fn is_foreign_to(&self, builder: &str) -> bool {
        self.builder.as_deref().is_some_and(|other| other != builder)
    }

    /// Notes who has the build, and what it is called there.
    pub(super) fn take(&mut self, builder: &str, build: &str, job: &BuildJob) {
        self.builder = Some(builder.to_owned());
        self.build = Some(build.to_owned());
        self.deployment = Some(job.deployment);
        self.repository = repository_of(&job.app);
    }
}

impl Remembered for Record {
    const PARTITION: &'static str = PARTITION;

    fn deployment(&self) -> Option<DeploymentId> {
        self.deployment
    }
}

impl From<ArmError> for BuilderError {
    fn from(error: ArmError) -> Self {
        if error.may_pass() {
            return Self::Unavailable(error.to_string());
        }
        Self::Rejected { code: error.code(), message: error.to_string() }
    }
}

impl From<Fault> for BuilderError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(fault.to_string())
    }
}

impl From<ContextError> for BuilderError {
    fn from(error: ContextError) -> Self {
        match error {
            ContextError::TooLarge => Self::Rejected { code: "SOURCE_TOO_LARGE", message: error.to_string() },
            ContextError::Blob(_) | ContextError::Pack(_) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<SourceError> for BuilderError {
    fn from(error: SourceError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<UploadError> for BuilderError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Content(error) => error.into(),
            UploadError::Place(error) => Self::Unavailable(format!("the registry's storage: {error}")),
        }
    }
}

/// Two builders of one run would write to the same record, and only one of them would be stopped.
pub(super) fn foreign(run: RunId) -> BuilderError {
    BuilderError::Unavailable(format!("another builder has the build of {run}"))
}

/// The builds of this installation that are remembered in one way.
pub(super) struct Builds<R> {
    pub(super) records: Container,
    pub(super) blobs: Arc<dyn Blobs>,
    logs: Arc<dyn Logs>,
    remembered: PhantomData<R>,
}

impl<R: Remembered> Builds<R> {
    pub(super) fn new(records: Container, blobs: Arc<dyn Blobs>, logs: Arc<dyn Logs>) -> Self {
        Self { records, blobs, logs, remembered: PhantomData }
    }

    /// The record of a run's build, with the tag that guards its next change.
    pub(super) async fn find(&self, run: RunId) -> Result<Option<Stored<R>>, Fault> {
        self.records.read_fresh(R::PARTITION, &run.to_string()).await
    }

    /// The record of a run's build, for those who do not guard its next change.
    pub(super) async fn record(&self, run: RunId) -> Result<Option<R>, Fault> {
        Ok(self.find(run).await?.map(|stored| stored.body))
    }

    pub(super) async fn keep(&self, run: RunId, record: &R) -> Result<(), Fault> {
        self.records.put(R::PARTITION, &run.to_string(), record).await
    }

    /// Writes over the record with this tag; false when somebody else was faster.
    pub(super) async fn replace(&self, run: RunId, record: &R, etag: &str) -> Result<bool, Fault> {
        Ok(self.records.replace((R::PARTITION, &run.to_string()), record, etag).await?.is_some())
    }

    pub(super) async fn forget(&self, run: RunId) -> Result<(), Fault> {
        self.records.delete(R::PARTITION, &run.to_string(), None).await.map(drop)
    }

    /// What is built.
    pub(super) async fn source(&self, org: &Name, source: Digest) -> Result<Manifest, SourceError> {
        Manifest::read(self.blobs.as_ref(), org, source).await
    }

    /// Adds lines to a deployment's log.
    pub(super) async fn append(
        &self,
        deployment: DeploymentId,
        lines: Vec<Line>,
    ) -> Result<(), BuilderError> {
        let kept = self.logs.append(deployment, lines).await;
        kept.map_err(|error| BuilderError::Unavailable(error.to_string()))
    }

    /// How a build stands after a look. What may pass by itself ends no build, but whose build it is hears why it waits.
    pub(super) async fn settled(
        &self,
        run: RunId,
        looked: Result<BuildStatus, BuilderError>,
        now: Timestamp,
    ) -> BuildStatus {
        let why = match looked {
            Ok(status) => return status,
            Err(BuilderError::Rejected { code, message }) => {
                return BuildStatus::Failed(BuildFailure { code, message, detail: Value::Null });
            }
            Err(BuilderError::Unavailable(why)) => why,
        };
        tracing::warn!(run.id = %run, why, "the build of {run} cannot go on now");
        let known = self.record(run).await.ok().flatten();
        if let Some(deployment) = known.and_then(|record| record.deployment()) {
            let line = Line::new(now, "log", Some("build"), format!("the build waits: {why}"));
            if let Err(error) = self.say_once(deployment, line.with("code", WAITS)).await {
                tracing::warn!(run.id = %run, error = %error, "nobody is told why the build of {run} waits");
            }
        }
        BuildStatus::Running
    }

    /// Adds a reason to the log, unless it is the last one there: the same is found with every look.
    async fn say_once(&self, deployment: DeploymentId, line: Line) -> Result<(), StoreError> {
        let lines = self.logs.read(deployment, log::From::Tail(TAIL), TAIL).await?;
        let last = lines.iter().rev().find(|line| line.data.get("code") == Some(&json!(WAITS)));
        if last.is_some_and(|last| last.text == line.text) {
            return Ok(());
        }
        self.logs.append(deployment, vec![line]).await
    }

    /// Runs with a record that no other builder has.
    pub(super) async fn leftovers(&self, builder: &str) -> Result<Vec<RunId>, BuilderError> {
        #[derive(Deserialize)]
        struct Left {
            id: RunId,
            builder: Option<String>,
        }
        let text = "SELECT c.id, c.builder FROM c WHERE c.kind = 'build'";
        let left: Vec<Left> = self.records.find(R::PARTITION, text, &[]).await?;
        let ours = |left: &Left| left.builder.as_deref().is_none_or(|other| other == builder);
        Ok(left.into_iter().filter(ours).map(|left| left.id).collect())
    }
}

impl Builds<Record> {
    /// The record of a run's build, unless another builder has it.
    pub(super) async fn ours(&self, run: RunId, builder: &str) -> Result<Option<Record>, Fault> {
        Ok(self.record(run).await?.filter(|record| !record.is_foreign_to(builder)))
    }

    /// Notes the source of a run; a build that somebody has stays known.
    pub(super) async fn sync(&self, run: RunId, source: &Manifest) -> Result<(), BuilderError> {
        let known = self.record(run).await?;
        let gone = |known: &Record| known.contained.as_ref().is_some_and(|contained| contained.removed);
        let record = Record {
            kind: KIND.to_owned(),
            source: Some(source.digest()),
            files: source.files().len(),
            ..known.filter(|known| !gone(known)).unwrap_or_default()
        };
        Ok(self.keep(run, &record).await?)
    }

    /// The source with its Dockerfile, packed.
    pub(super) async fn context(&self, job: &BuildJob, source: Digest) -> Result<BuildContext, BuilderError> {
        let manifest = self.source(&job.org, source).await?;
        Ok(context(&self.blobs, &job.org, &manifest, &job.plan))
    }

    /// Adds lines to the deployment's log, and what follows from them; false when nobody knows yet whose they are.
    pub(super) async fn say(
        &self,
        run: RunId,
        record: &Record,
        lines: Vec<(Timestamp, String)>,
    ) -> Result<bool, BuilderError> {
        let Some(deployment) = record.deployment else { return Ok(false) };
        let Some(first) = lines.first().map(|(at, _)| *at) else { return Ok(false) };
        let tag = run.to_string();
        let repository = record.contained.is_some().then_some(record.repository.as_str());
        let image = Image { tag: &tag, repository };
        let begun =
            record.is_silent().then(|| stages::begun(first, record.builder.as_deref().unwrap_or_default()));
        let told = lines.into_iter().flat_map(|(at, text)| stages::told(image, at, text));
        self.append(deployment, begun.into_iter().chain(told).collect()).await?;
        Ok(true)
    }

    /// The newest lines that the build left in the deployment's log.
    pub(super) async fn tail(&self, record: &Record) -> Vec<String> {
        let Some(deployment) = record.deployment else { return Vec::new() };
        let lines = self.logs.read(deployment, log::From::Tail(TAIL), TAIL).await.unwrap_or_default();
        let is_said = |line: &Line| line.kind == "log" && line.step.as_deref() == Some("build");
        lines.into_iter().filter(is_said).map(|line| line.text).collect()
    }
}
