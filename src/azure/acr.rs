//! Builds images by ACR Tasks: the registry's own build service, which needs nothing of ours but the source.
//!
//! A build is found again by the record that is made for its run. Between asking for a build and writing down its id, a
//! crash costs a second build of the same source; an image counts by its digest, so nothing else is lost.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::{Context, Method, Pipeline, Request, RetryOptions, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app_body::repository_of;
use super::arm::{Arm, Begun, Contract};
use super::arm_error::ArmError;
use super::context::{BuildContext, ContextError, context};
use super::cosmos::{Container, Fault, Stored};
use super::transport::Wire;
use super::upload::{UploadError, upload};
use crate::ambient::{Clock, between};
use crate::deploy::blobs::Blobs;
use crate::deploy::builder::{BuildFailure, BuildJob, BuildStatus, Builder, BuilderError, Packed, Started};
use crate::deploy::ids::{Digest, Name};
use crate::deploy::log::{self, Line, Logs};
use crate::deploy::source::{MOST_MANIFEST_BYTES, Manifest};
use crate::workflow::journal::RunId;

const TASKS: Contract = Contract::RegistryTasks;
const PARTITION: &str = "builds";
/// Bounds of a build's own time limit, in seconds.
const SHORTEST: u64 = 300;
const LONGEST: u64 = 28_800;
/// Lines of the log that a failure carries.
const TAIL: usize = 50;

/// A build of ours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    kind: String,
    /// The source that `sync` was given.
    source: Option<Digest>,
    files: usize,
    /// ACR's id of the build.
    build: Option<String>,
    deployment: Option<crate::deploy::ids::DeploymentId>,
    /// Bytes of its log that were taken over.
    logged: u64,
}

/// What the builder works with.
pub struct AcrParts {
    /// Resource Manager.
    pub arm: Arc<Arm>,
    /// Name of the registry resource.
    pub registry: String,
    /// Sources.
    pub blobs: Arc<dyn Blobs>,
    /// Where logs go.
    pub logs: Arc<dyn Logs>,
    /// Where builds are remembered.
    pub records: Container,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For the source and the log, which do not go by Resource Manager.
    pub wire: Wire,
}

/// [`Builder`] by ACR Tasks.
pub struct AcrBuilder {
    parts: AcrParts,
    /// Without a token: the addresses carry their own signatures.
    plain: Pipeline,
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

impl From<UploadError> for BuilderError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Content(error) => error.into(),
            UploadError::Place(error) => unavailable(&error),
        }
    }
}

fn unavailable(error: &azure_core::Error) -> BuilderError {
    BuilderError::Unavailable(format!("the registry's storage: {error}"))
}

impl AcrBuilder {
    /// Builds in this registry.
    #[must_use]
    pub fn new(parts: AcrParts) -> Self {
        let plain = parts.wire.pipeline(RetryOptions::default(), None);
        Self { parts, plain }
    }

    fn resource(&self, rest: &str) -> String {
        format!("Microsoft.ContainerRegistry/registries/{}/{rest}", self.parts.registry)
    }

    async fn record(&self, run: RunId) -> Result<Option<Record>, Fault> {
        let stored: Option<Stored<Record>> =
            self.parts.records.read_fresh(PARTITION, &run.to_string()).await?;
        Ok(stored.map(|stored| stored.body))
    }

    async fn keep(&self, run: RunId, record: &Record) -> Result<(), Fault> {
        self.parts.records.put(PARTITION, &run.to_string(), record).await
    }

    /// Calls an action that answers at once.
    async fn ask(&self, action: &str, body: Option<&Value>) -> Result<Value, BuilderError> {
        match self.parts.arm.act(TASKS, &self.resource(action), body).await? {
            Begun::Done(answer) => Ok(answer),
            Begun::Running(_) => Err(BuilderError::Unavailable(format!("{action} is not done yet"))),
        }
    }

    /// Brings the source where the build service finds it.
    async fn upload(&self, context: BuildContext) -> Result<String, BuilderError> {
        let slot = self.ask("listBuildSourceUploadUrl", None).await?;
        let member = |name: &str| slot.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(url), Some(path)) = (member("uploadUrl"), member("relativePath")) else {
            return Err(BuilderError::Unavailable("the registry offers no place for the source".to_owned()));
        };
        let url: Url = url
            .parse()
            .map_err(|_| BuilderError::Unavailable("the place for the source is no address".to_owned()))?;
        upload(&self.plain, &Wire::secure(&url), context.blocks).await?;
        Ok(path)
    }

    /// Takes over what the build has said since.
    async fn follow(&self, run: RunId, record: &mut Record, build: &str) -> Result<(), BuilderError> {
        let link = self.ask(&format!("runs/{build}/listLogSasUrl"), None).await?;
        let Some(url) = link.get("logLink").and_then(Value::as_str).and_then(|url| url.parse::<Url>().ok())
        else {
            return Ok(());
        };
        let mut request = Request::new(Wire::secure(&url), Method::Get);
        request.insert_header("x-ms-range".to_owned(), format!("bytes={}-", record.logged));
        let options = azure_core::http::PipelineSendOptions { skip_checks: true, ..Default::default() };
        let answer = self.plain.send(&Context::new(), &mut request, Some(options)).await;
        let (status, _, body) = answer.map_err(|error| unavailable(&error))?.deconstruct();
        let new = match u16::from(status) {
            206 => body.as_ref(),
            200 => {
                body.as_ref().get(usize::try_from(record.logged).unwrap_or(usize::MAX)..).unwrap_or_default()
            }
            // Not there until the agent has started, or nothing new.
            _ => return Ok(()),
        };
        // What has no end yet comes with the next look.
        let end = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let whole = String::from_utf8_lossy(new.get(..end).unwrap_or_default()).into_owned();
        if let Some(deployment) = record.deployment.filter(|_| !whole.is_empty()) {
            let now = self.parts.clock.now();
            let lines = whole.lines().map(|line| Line::new(now, "log", Some("build"), line)).collect();
            let kept = self.parts.logs.append(deployment, lines).await;
            kept.map_err(|error| BuilderError::Unavailable(error.to_string()))?;
            record.logged += end as u64;
            self.keep(run, record).await?;
        }
        Ok(())
    }

    /// The newest lines that the build left in the deployment's log.
    async fn tail(&self, record: &Record) -> Vec<String> {
        let Some(deployment) = record.deployment else { return Vec::new() };
        let lines = self.parts.logs.read(deployment, log::From::Tail(TAIL), TAIL).await.unwrap_or_default();
        lines.into_iter().filter(|line| line.step.as_deref() == Some("build")).map(|line| line.text).collect()
    }

    async fn look(&self, run: RunId) -> Result<BuildStatus, BuilderError> {
        let Some(mut record) = self.record(run).await? else { return Ok(BuildStatus::Unknown) };
        let Some(build) = record.build.clone() else { return Ok(BuildStatus::Unknown) };
        let Some(found) = self.parts.arm.get(TASKS, &self.resource(&format!("runs/{build}"))).await? else {
            return Ok(BuildStatus::Unknown);
        };
        if let Err(error) = self.follow(run, &mut record, &build).await {
            tracing::warn!(run.id = %run, error = %error, "the log of the build of {run} cannot be read now");
        }
        let status = found.pointer("/properties/status").and_then(Value::as_str).unwrap_or_default();
        let said = found.pointer("/properties/runErrorMessage").and_then(Value::as_str).unwrap_or_default();
        let tail = if matches!(status, "Failed" | "Timeout" | "Error") {
            self.tail(&record).await
        } else {
            Vec::new()
        };
        let failed = |code, message: String| {
            BuildStatus::Failed(BuildFailure {
                code,
                message,
                detail: json!({ "build": build, "tail": tail }),
            })
        };
        Ok(match status {
            "Succeeded" => match digest(&found) {
                Some(digest) => BuildStatus::Done(Packed { digest, bytes: None, files: record.files }),
                None => failed("BUILD_FAILED", "the build made no image that can be named".to_owned()),
            },
            "Failed" => failed("BUILD_FAILED", format!("the build failed {said}").trim_end().to_owned()),
            "Timeout" => failed("DEPLOYMENT_TIMEOUT", "the build took too long".to_owned()),
            "Canceled" => failed("BUILD_FAILED", "somebody cancelled the build in the registry".to_owned()),
            "Error" => failed("BUILD_FAILED", format!("the build service had a fault; deploy again. {said}")),
            _ => BuildStatus::Running,
        })
    }
}

/// The digest of the image that the build made.
fn digest(build: &Value) -> Option<Digest> {
    let text = build.pointer("/properties/outputImages/0/digest")?.as_str()?;
    text.strip_prefix("sha256:")?.parse().ok()
}

#[async_trait]
impl Builder for AcrBuilder {
    async fn builds_images(&self) -> Result<(), String> {
        Ok(())
    }

    async fn prepare(&self, _run: RunId) -> Result<(), BuilderError> {
        Ok(())
    }

    async fn sync(&self, run: RunId, _org: &Name, source: &Manifest) -> Result<(), BuilderError> {
        let known = self.record(run).await?.unwrap_or_default();
        let record = Record {
            kind: "build".to_owned(),
            source: Some(source.digest()),
            files: source.files().len(),
            ..known
        };
        Ok(self.keep(run, &record).await?)
    }

    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError> {
        let Some(mut record) = self.record(job.run).await? else { return Ok(Started::NotFresh) };
        if record.build.is_some() {
            return Ok(Started::Running);
        }
        let Some(source) = record.source else { return Ok(Started::NotFresh) };
        let unreadable = || BuilderError::Unavailable(format!("source {source} cannot be read"));
        let text =
            self.parts.blobs.read(&job.org, source, MOST_MANIFEST_BYTES).await.map_err(|_| unreadable())?;
        let manifest =
            std::str::from_utf8(&text).ok().and_then(Manifest::from_text).ok_or_else(unreadable)?;
        let context = context(&self.parts.blobs, &job.org, &manifest, &job.plan);
        let dockerfile = context.dockerfile;
        let place = self.upload(context).await?;
        let left = between(self.parts.clock.now(), job.deadline).as_secs().clamp(SHORTEST, LONGEST);
        let arguments: Vec<Value> = job
            .plan
            .build_variables
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value, "isSecret": false }))
            .collect();
        let request = json!({
            "type": "DockerBuildRequest",
            "imageNames": [format!("{}:{}", repository_of(&job.app), job.run)],
            "isPushEnabled": true,
            "dockerFilePath": dockerfile,
            "sourceLocation": place,
            "platform": { "os": "Linux", "architecture": "amd64" },
            "agentConfiguration": { "cpu": 2 },
            "timeout": left,
            "arguments": arguments,
        });
        let scheduled = self.ask("scheduleRun", Some(&request)).await?;
        let build = scheduled.pointer("/properties/runId").and_then(Value::as_str);
        let Some(build) = build else {
            return Err(BuilderError::Unavailable(
                "the registry does not say which build it began".to_owned(),
            ));
        };
        record.build = Some(build.to_owned());
        record.deployment = Some(job.deployment);
        self.keep(job.run, &record).await?;
        Ok(Started::Running)
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        match self.look(run).await {
            Ok(status) => status,
            Err(BuilderError::Rejected { code, message }) => {
                BuildStatus::Failed(BuildFailure { code, message, detail: Value::Null })
            }
            Err(BuilderError::Unavailable(why)) => {
                tracing::warn!(run.id = %run, why, "the build of {run} cannot be looked at now");
                BuildStatus::Running
            }
        }
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        let Some(record) = self.record(run).await? else { return Ok(()) };
        let under_way = |found: &Value| {
            let status = found.pointer("/properties/status").and_then(Value::as_str);
            matches!(status, Some("Queued" | "Started" | "Running"))
        };
        if let Some(build) = &record.build
            && self
                .parts
                .arm
                .get(TASKS, &self.resource(&format!("runs/{build}")))
                .await?
                .is_some_and(|found| under_way(&found))
        {
            match self.parts.arm.act(TASKS, &self.resource(&format!("runs/{build}/cancel")), None).await {
                // It may have ended in this moment.
                Ok(_) | Err(ArmError::Missing(_) | ArmError::Rejected(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.parts.records.delete(PARTITION, &run.to_string(), None).await?;
        Ok(())
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        #[derive(Deserialize)]
        struct Left {
            id: RunId,
        }
        let left: Vec<Left> =
            self.parts.records.find(PARTITION, "SELECT c.id FROM c WHERE c.kind = 'build'", &[]).await?;
        Ok(left.into_iter().map(|left| left.id).collect())
    }
}
