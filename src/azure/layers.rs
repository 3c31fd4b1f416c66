//! Makes images without a build service: the project's files become a layer on a base, which is sent to the registry.
//!
//! Nothing of the project is run here. A build is begun by writing it down; every look at it does a part of the work, short
//! enough for one invocation. What the registry has is not sent again, so that a look that was cut short costs nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::app_body::repository_of;
use super::base::KnownBase;
use super::builds::{Builds, KIND, Remembered};
use super::cosmos::Container;
use super::layer::{self, pack};
use super::push::{Content, Progress, Push};
use super::registry::{Registries, Session};
use super::registry_door::RegistryError;
use crate::ambient::{Clock, after};
use crate::config::BuilderSettings;
use crate::deploy::blobs::Blobs;
use crate::deploy::builder::{BuildJob, BuildStatus, Builder, BuilderError, Packed, Started};
use crate::deploy::detect::Plan;
use crate::deploy::eligible::obstacle;
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::image::{Base, config_descriptor, configuration, manifest};
use crate::deploy::log::{Line, Logs};
use crate::deploy::reference::Reference;
use crate::deploy::source::Manifest;
use crate::workflow::journal::RunId;

/// Whose builds these are.
const BUILDER: &str = "layers";
/// How long one look works on the base, and after it has packed the project on that: an invocation has 60 s, and the part
/// that is under way is finished.
const SLICE: Duration = Duration::from_secs(25);
const LAST_SLICE: Duration = Duration::from_secs(15);
/// Largest `package.json` that is read.
const MOST_PACKAGE: u64 = 1 << 20;

/// A build of ours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    kind: String,
    /// The source that `sync` was given.
    source: Option<Digest>,
    job: Option<Job>,
    /// The base's image for the platform, once it is known.
    #[serde(default)]
    known: Option<KnownBase>,
    progress: Progress,
    image: Option<Packed>,
}

impl Remembered for Record {
    const PARTITION: &'static str = BUILDER;

    fn deployment(&self) -> Option<DeploymentId> {
        self.job.as_ref().map(|job| job.deployment)
    }
}

/// What is built, for looks by other processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    deployment: DeploymentId,
    org: Name,
    app: String,
    plan: Plan,
}

/// What the builder works with.
pub struct LayersParts {
    /// Signs in.
    pub registries: Registries,
    /// Bases, platform, tags.
    pub settings: BuilderSettings,
    /// Sources.
    pub blobs: Arc<dyn Blobs>,
    /// Where logs go.
    pub logs: Arc<dyn Logs>,
    /// Where builds are remembered.
    pub records: Container,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// [`Builder`] without a build service.
pub struct LayersBuilder {
    registries: Registries,
    settings: BuilderSettings,
    builds: Builds<Record>,
    clock: Arc<dyn Clock>,
}

/// The sessions of one look, and what it works on.
struct Work<'a> {
    run: RunId,
    job: &'a Job,
    source: Digest,
    name: Reference,
    repository: String,
    target: Session,
    /// Whether the base is in the same registry.
    same: bool,
}

fn unfit(why: &str) -> BuilderError {
    let message = format!(
        "this project cannot be put on a base as it is: {why}. Upload it built and with `build = \"\"` in windlass.toml, or set WINDLASS_BUILDER to auto or acr"
    );
    BuilderError::Rejected { code: "BUILDER_UNFIT", message }
}

/// Why a source needs more than its files on a base.
pub(super) async fn obstacle_of(
    blobs: &dyn Blobs,
    org: &Name,
    source: &Manifest,
    plan: &Plan,
) -> Result<Option<String>, BuilderError> {
    let package = match source.get("package.json").filter(|file| file.size <= MOST_PACKAGE) {
        Some(file) => {
            let read = blobs.read(org, file.sha256, MOST_PACKAGE).await;
            Some(read.map_err(|error| BuilderError::Unavailable(error.to_string()))?)
        }
        None => None,
    };
    let package = package.as_ref().map(|bytes| String::from_utf8_lossy(bytes));
    Ok(obstacle(plan, source, package.as_deref()))
}

impl LayersBuilder {
    /// A builder of these parts.
    #[must_use]
    pub fn new(parts: LayersParts) -> Self {
        let builds = Builds::new(parts.records, parts.blobs, parts.logs);
        Self { registries: parts.registries, settings: parts.settings, builds, clock: parts.clock }
    }

    /// Why this project needs more than its files on a base.
    ///
    /// # Errors
    /// [`BuilderError`] when its source cannot be read.
    pub async fn obstacle(&self, job: &BuildJob) -> Result<Option<String>, BuilderError> {
        let source = self.builds.record(job.run).await?.and_then(|record| record.source);
        let Some(source) = source else { return Ok(None) };
        let source = self.builds.source(&job.org, source).await?;
        obstacle_of(self.builds.blobs.as_ref(), &job.org, &source, &job.plan).await
    }

    async fn look(&self, run: RunId) -> Result<BuildStatus, BuilderError> {
        let Some(mut record) = self.builds.record(run).await? else { return Ok(BuildStatus::Unknown) };
        let Some(job) = record.job.clone() else { return Ok(BuildStatus::Unknown) };
        let Some(source) = record.source else { return Ok(BuildStatus::Unknown) };
        if let Some(image) = record.image {
            return Ok(BuildStatus::Done(image));
        }
        let image = self.work((run, &job), source, &mut record).await;
        if let Ok(image) = &image {
            record.image.clone_from(image);
        }
        // However it went on, what is done is done.
        self.builds.keep(run, &record).await?;
        Ok(image?.map_or(BuildStatus::Running, BuildStatus::Done))
    }

    /// A part of the work; gives the image when that was the last one.
    async fn work(
        &self,
        (run, job): (RunId, &Job),
        source: Digest,
        record: &mut Record,
    ) -> Result<Option<Packed>, BuilderError> {
        let until = after(self.clock.now(), SLICE);
        let work = self.sessions((run, job), source).await?;
        let base = self.base(&work, record).await?;
        if !self.bring(&work, &base, (until, &mut record.progress)).await? {
            return Ok(None);
        }
        if record.progress.sent && self.clock.now() >= until {
            // Packing would take the time that sending needs; the next look has all of it.
            return Ok(None);
        }
        let files = self.builds.source(&job.org, source).await?;
        let Some(app) = pack(self.builds.blobs.as_ref(), &job.org, &files, &job.plan).await? else {
            let message = format!("the source has no files in `{}`", job.plan.output);
            return Err(BuilderError::Rejected { code: "BUILD_OUTPUT_MISSING", message });
        };
        self.finish(&work, &base, &app, &mut record.progress).await
    }

    /// Brings the layers of the base to where the image goes; false when that takes longer. The base's registry is signed in
    /// to for what is missing only.
    async fn bring(
        &self,
        work: &Work<'_>,
        base: &Base,
        (until, progress): (Timestamp, &mut Progress),
    ) -> Result<bool, BuilderError> {
        let push = self.push(work, until);
        let mut other = None;
        for layer in &base.layers {
            if work.target.has(&work.repository, layer.digest).await? {
                continue;
            }
            if other.is_none() && !work.same {
                other = Some(self.other(&work.name).await?);
            }
            let session = other.as_ref().unwrap_or(&work.target);
            let there = Content::There { session, repository: &work.name.repository, same: work.same };
            if !push.missing(layer, &there, progress).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A session at the registry of a base that is not ours.
    async fn other(&self, name: &Reference) -> Result<Session, RegistryError> {
        let scopes = [format!("repository:{}:pull", name.repository)];
        self.registries.session(name.host(), &scopes).await
    }

    fn push<'a>(&'a self, work: &'a Work<'_>, until: Timestamp) -> Push<'a> {
        let clock = self.clock.as_ref();
        Push { session: &work.target, repository: &work.repository, clock, until }
    }

    /// Signs in where the image goes, with rights on its repository only, and on the base's where that is there too.
    async fn sessions<'a>(
        &self,
        (run, job): (RunId, &'a Job),
        source: Digest,
    ) -> Result<Work<'a>, BuilderError> {
        let registries = &self.registries;
        let Some(name) = self.settings.base(job.plan.kind) else {
            return Err(unfit("there is no base for it"));
        };
        let repository = repository_of(&job.app);
        let mut scopes = vec![format!("repository:{repository}:pull,push")];
        let same = name.host() == registries.own();
        if same {
            scopes.push(format!("repository:{}:pull", name.repository));
        }
        let target = registries.session(registries.own(), &scopes).await?;
        Ok(Work { run, job, source, name, repository, target, same })
    }

    /// The base for our platform. The first look says which one it is; later ones use the same.
    async fn base(&self, work: &Work<'_>, record: &mut Record) -> Result<Base, BuilderError> {
        let (name, platform) = (&work.name, &self.settings.platform);
        if let Some(known) = &record.known {
            return known.base(name, platform);
        }
        let known = if work.same {
            KnownBase::ask(&work.target, name, platform).await?
        } else {
            KnownBase::ask(&self.other(name).await?, name, platform).await?
        };
        let base = known.base(name, platform)?;
        let text = format!("base {name} for {platform} is sha256:{}", known.digest);
        let line = Line::new(self.clock.now(), "log", Some("build"), text);
        let line = line.with("base", format!("sha256:{}", known.digest));
        // From here on layers are sent.
        let place = format!("{}/{}", self.registries.own(), work.repository);
        let begun = Line::new(self.clock.now(), "push.started", Some("build"), place);
        self.builds.append(work.job.deployment, vec![line, begun]).await?;
        record.known = Some(known);
        Ok(base)
    }

    /// Sends what is ours and names the image.
    async fn finish(
        &self,
        work: &Work<'_>,
        base: &Base,
        app: &layer::Packed,
        progress: &mut Progress,
    ) -> Result<Option<Packed>, BuilderError> {
        let push = self.push(work, after(self.clock.now(), LAST_SLICE));
        let config = Bytes::from(configuration(base, &work.job.plan, &app.layer));
        let about = config_descriptor(&config);
        for (blob, bytes) in [(&app.layer.descriptor(), &app.bytes), (&about, &config)] {
            if !push.blob(blob, &Content::Here(bytes), progress).await? {
                return Ok(None);
            }
        }
        let manifest = manifest(base, &app.layer, &about);
        let digest = Digest::of(&manifest);
        // As other builders do, so that every image is found by its run.
        let (source, run) = (work.source.to_string(), work.run.to_string());
        let mut tags = vec![source.as_str(), run.as_str()];
        tags.extend(self.settings.latest.then_some("latest"));
        for tag in &tags {
            work.target.tag(&work.repository, tag, &manifest).await?;
        }
        let image = format!("{}/{}@sha256:{digest}", self.registries.own(), work.repository);
        let now = self.clock.now();
        let said = Line::new(now, "log", Some("build"), format!("pushed {image}"));
        let done = Line::new(now, "push.finished", Some("build"), image);
        let done = done.with("digest", digest.to_string()).with("tags", tags);
        self.builds.append(work.job.deployment, vec![said, done]).await?;
        let layers: u64 = base.layers.iter().map(|layer| layer.size).sum();
        let bytes = layers + app.layer.size + about.size;
        Ok(Some(Packed { digest, bytes: Some(bytes), files: app.files }))
    }
}

#[async_trait]
impl Builder for LayersBuilder {
    async fn builds_images(&self) -> Result<(), String> {
        Err("WINDLASS_BUILDER is `layers`, which runs nothing; set it to auto or acr".to_owned())
    }

    async fn prepare(&self, _run: RunId) -> Result<(), BuilderError> {
        Ok(())
    }

    async fn sync(&self, run: RunId, _org: &Name, source: &Manifest) -> Result<(), BuilderError> {
        let known = self.builds.record(run).await?.unwrap_or_default();
        let record = Record { kind: KIND.to_owned(), source: Some(source.digest()), ..known };
        Ok(self.builds.keep(run, &record).await?)
    }

    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError> {
        let Some(mut record) = self.builds.record(job.run).await? else { return Ok(Started::NotFresh) };
        if record.job.is_some() {
            return Ok(Started::Running);
        }
        if record.source.is_none() {
            return Ok(Started::NotFresh);
        }
        if let Some(why) = self.obstacle(&job).await? {
            return Err(unfit(&why));
        }
        let BuildJob { run, deployment, org, app, plan, .. } = job;
        record.job = Some(Job { deployment, org, app, plan });
        self.builds.keep(run, &record).await?;
        Ok(Started::Running)
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        self.builds.settled(run, self.look(run).await, self.clock.now()).await
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        Ok(self.builds.forget(run).await?)
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        self.builds.leftovers(BUILDER).await
    }
}
