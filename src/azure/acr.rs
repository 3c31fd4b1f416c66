//! Builds images by ACR Tasks: the registry's own build service, which needs nothing of ours but the source.
//!
//! A build is found again by the record that is made for its run. Between asking for a build and writing down its id, a
//! crash costs a second build of the same source; an image counts by its digest, so nothing else is lost. In the contract
//! 2019-04-01 a build that has not ended says nothing that we gave it, and its name is the registry's choice; runs that are
//! named by whoever asks (`taskRuns`) are in preview versions only.
//!
//! New and free subscriptions have no ACR Tasks. A registry that says so is remembered for a day, for whoever has another
//! builder to go on with.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::http::{Method, Pipeline, Request, RetryOptions, Url};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app_body::repository_of;
use super::arm::{Arm, Contract};
use super::arm_error::{ArmError, TASKS_REFUSED};
use super::builds::{Builds, PARTITION, Record, foreign};
use super::context::BuildContext;
use super::cosmos::{Container, Stored};
use super::registry::Registries;
use super::transport::{Wire, ask};
use super::upload::upload;
use crate::ambient::{Clock, after, between};
use crate::deploy::blobs::Blobs;
use crate::deploy::builder::{BuildFailure, BuildJob, BuildStatus, Builder, BuilderError, Packed, Started};
use crate::deploy::ids::{Digest, Name};
use crate::deploy::log::Logs;
use crate::deploy::source::Manifest;
use crate::workflow::journal::RunId;

const TASKS: Contract = Contract::RegistryTasks;
/// Whose builds these are, in their records.
const BUILDER: &str = "acr";
/// Bounds of a build's own time limit, in seconds.
const SHORTEST: u64 = 300;
const LONGEST: u64 = 28_800;
/// Bytes of a build's log that are read at once, and pages of it that are read when it is over: what a stranger's build says
/// has no end.
const PAGE: usize = 4 << 20;
const MOST_PAGES: usize = 4;
/// How long a registry counts as one that refuses tasks; then it is asked again.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// A registry said that it may not run tasks.
#[derive(Serialize, Deserialize)]
struct Refusal {
    until: Timestamp,
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
    /// Where images are, for builds that do not name theirs.
    pub registries: Registries,
}

/// [`Builder`] by ACR Tasks.
pub struct AcrBuilder {
    arm: Arc<Arm>,
    registry: String,
    builds: Builds<Record>,
    clock: Arc<dyn Clock>,
    registries: Registries,
    /// Without a token: the addresses carry their own signatures.
    plain: Pipeline,
}

fn unavailable(error: &azure_core::Error) -> BuilderError {
    BuilderError::Unavailable(format!("the registry's storage: {error}"))
}

impl AcrBuilder {
    /// Builds in this registry.
    #[must_use]
    pub fn new(parts: AcrParts) -> Self {
        let plain = parts.wire.pipeline(RetryOptions::default(), None);
        let builds = Builds::new(parts.records, parts.blobs, parts.logs);
        let AcrParts { arm, registry, clock, registries, .. } = parts;
        Self { arm, registry, builds, clock, registries, plain }
    }

    /// Whether the registry may run builds, as far as it is known: not while it is remembered to have refused.
    ///
    /// # Errors
    /// [`BuilderError`] when the records cannot be read.
    pub async fn may_build(&self) -> Result<bool, BuilderError> {
        let known: Option<Stored<Refusal>> =
            self.builds.records.read_fresh(PARTITION, &self.refusal()).await?;
        Ok(known.is_none_or(|known| known.body.until <= self.clock.now()))
    }

    fn refusal(&self) -> String {
        format!("refused-{}", self.registry)
    }

    fn resource(&self, rest: &str) -> String {
        format!("Microsoft.ContainerRegistry/registries/{}/{rest}", self.registry)
    }

    /// Calls an action. The answer is what it gives or what it has begun, whichever success its status names.
    async fn ask(&self, action: &str, body: Option<&Value>) -> Result<Value, BuilderError> {
        match self.arm.call(TASKS, &self.resource(action), body).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if matches!(&error, ArmError::Rejected(cause) if cause.code == TASKS_REFUSED) {
                    let refusal = Refusal { until: after(self.clock.now(), REMEMBERED) };
                    self.builds.records.put(PARTITION, &self.refusal(), &refusal).await?;
                }
                Err(error.into())
            }
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

    /// Takes over what the build has said since: a page with each look, and the rest when it is `over`.
    async fn follow(
        &self,
        run: RunId,
        record: &mut Record,
        (build, over): (&str, bool),
    ) -> Result<(), BuilderError> {
        let link = self.ask(&format!("runs/{build}/listLogSasUrl"), None).await?;
        let Some(url) = link.get("logLink").and_then(Value::as_str).and_then(|url| url.parse::<Url>().ok())
        else {
            return Ok(());
        };
        let pages = if over { MOST_PAGES } else { 1 };
        for _ in 0..pages {
            if !self.page(run, record, (&url, over)).await? {
                break;
            }
        }
        Ok(())
    }

    /// Takes over the next page of a log; whether there may be another one.
    async fn page(
        &self,
        run: RunId,
        record: &mut Record,
        (url, over): (&Url, bool),
    ) -> Result<bool, BuilderError> {
        let mut request = Request::new(Wire::secure(url), Method::Get);
        let last = record.logged + PAGE as u64 - 1;
        request.insert_header("x-ms-range".to_owned(), format!("bytes={}-{last}", record.logged));
        let answer = ask(&self.plain, request).await.map_err(|error| unavailable(&error))?;
        let body: &[u8] = &answer.body;
        let new = match answer.status {
            206 => body,
            200 => body.get(usize::try_from(record.logged).unwrap_or(usize::MAX)..).unwrap_or_default(),
            // Not there until the agent has started, or nothing new.
            _ => return Ok(false),
        };
        let new = new.get(..PAGE).unwrap_or(new);
        let is_full = new.len() == PAGE;
        let end = match new.iter().rposition(|byte| *byte == b'\n') {
            Some(end) if is_full || !over => end + 1,
            // What has no end yet comes with the next look, unless it never gets one.
            None if !is_full && !over => 0,
            Some(_) | None => new.len(),
        };
        let whole = String::from_utf8_lossy(new.get(..end).unwrap_or_default()).into_owned();
        let now = self.clock.now();
        let lines = whole.lines().map(|line| (now, line.to_owned())).collect();
        if !self.builds.say(run, record, lines).await? {
            return Ok(false);
        }
        record.logged += end as u64;
        self.builds.keep(run, record).await?;
        Ok(is_full)
    }

    /// The image of a build: as the build names it, or else as the registry has it under the run's tag. A build that depends on no
    /// image names none.
    async fn image(
        &self,
        run: RunId,
        record: &Record,
        build: &Value,
    ) -> Result<Option<Digest>, BuilderError> {
        match digest(build) {
            Some(named) => Ok(Some(named)),
            None => Ok(self.registries.tagged(&record.repository, &run.to_string()).await?),
        }
    }

    async fn look(&self, run: RunId) -> Result<BuildStatus, BuilderError> {
        let Some(mut record) = self.builds.record(run).await? else { return Ok(BuildStatus::Unknown) };
        let Some(build) = record.of(BUILDER).map(str::to_owned) else { return Ok(BuildStatus::Unknown) };
        let Some(found) = self.arm.get(TASKS, &self.resource(&format!("runs/{build}"))).await? else {
            return Ok(BuildStatus::Unknown);
        };
        let status = found.pointer("/properties/status").and_then(Value::as_str).unwrap_or_default();
        let over = !matches!(status, "" | "Queued" | "Started" | "Running");
        if let Err(error) = self.follow(run, &mut record, (build.as_str(), over)).await {
            tracing::warn!(run.id = %run, error = %error, "the log of the build of {run} cannot be read now");
        }
        let said = found.pointer("/properties/runErrorMessage").and_then(Value::as_str).unwrap_or_default();
        let tail = if matches!(status, "Failed" | "Timeout" | "Error") {
            self.builds.tail(&record).await
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
            "Succeeded" => match self.image(run, &record, &found).await? {
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
        self.builds.sync(run, source).await
    }

    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError> {
        let Some(mut record) = self.builds.record(job.run).await? else { return Ok(Started::NotFresh) };
        if record.of(BUILDER).is_some() {
            return Ok(Started::Running);
        }
        if record.is_foreign_to(BUILDER) {
            return Err(foreign(job.run));
        }
        let Some(source) = record.source else { return Ok(Started::NotFresh) };
        let context = self.builds.context(&job, source).await?;
        let dockerfile = context.dockerfile;
        let place = self.upload(context).await?;
        let left = between(self.clock.now(), job.deadline).as_secs().clamp(SHORTEST, LONGEST);
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
            // Another try would be another build of which nobody knows the name.
            let message = "the registry began a build and does not say which; deploy again".to_owned();
            return Err(BuilderError::Rejected { code: "BUILD_FAILED", message });
        };
        record.take(BUILDER, build, &job);
        self.builds.keep(job.run, &record).await?;
        Ok(Started::Running)
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        self.builds.settled(run, self.look(run).await, self.clock.now()).await
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        let Some(record) = self.builds.ours(run, BUILDER).await? else { return Ok(()) };
        let under_way = |found: &Value| {
            let status = found.pointer("/properties/status").and_then(Value::as_str);
            matches!(status, Some("Queued" | "Started" | "Running"))
        };
        if let Some(build) = record.of(BUILDER)
            && self
                .arm
                .get(TASKS, &self.resource(&format!("runs/{build}")))
                .await?
                .is_some_and(|found| under_way(&found))
        {
            match self.arm.act(TASKS, &self.resource(&format!("runs/{build}/cancel")), None).await {
                // It may have ended in this moment.
                Ok(_) | Err(ArmError::Missing(_) | ArmError::Rejected(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.builds.forget(run).await?)
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        self.builds.leftovers(BUILDER).await
    }
}
