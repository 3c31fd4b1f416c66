//! Builds images by kaniko, in a container of ours that exists for one build ([`super::kaniko_cell`]).
//!
//! Whatever is made carries a name that the record had before; a call that is repeated finds what the one before it began.
//! The image is known by its tag, which is the run, and counts by the digest that the registry has for it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::app_body::repository_of;
use super::arm::Begun;
use super::arm_error::ArmError;
use super::builds::{Builds, Contained, Record, foreign};
use super::cosmos::{Container, Stored};
use super::kaniko_cell::{Cell, LAST_WORDS, Order, Seen, Verdict};
use super::loans::Loans;
use super::registry::Registries;
use crate::ambient::{Clock, after, between};
use crate::deploy::blobs::Blobs;
use crate::deploy::builder::{BuildFailure, BuildJob, BuildStatus, Builder, BuilderError, Packed, Started};
use crate::deploy::ids::{DeploymentId, Name};
use crate::deploy::log::Logs;
use crate::deploy::source::Manifest;
use crate::workflow::journal::RunId;

/// Longest build: the pass for the repository lasts about 75 minutes, and its last use is at the end.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How long an execution that was asked for may stay unseen before it is asked for again.
const UNSEEN: Duration = Duration::from_secs(60);
/// Hexadecimal digits of the run in a name; the deployment is in it too.
const RUN_DIGITS: usize = 8;
/// What a container that took too much memory is killed with.
const KILLED: i64 = 137;
/// What a build ends with that was stopped because its time was over.
const STOPPED: [i64; 2] = [124, 143];

/// What the builder works with.
pub struct KanikoParts {
    /// Where containers run.
    pub cell: Box<dyn Cell>,
    /// Sources.
    pub blobs: Arc<dyn Blobs>,
    /// Where logs go.
    pub logs: Arc<dyn Logs>,
    /// Where builds are remembered.
    pub records: Container,
    /// Lends the source to the build.
    pub loans: Loans,
    /// Where images go.
    pub registries: Registries,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// [`Builder`] by kaniko.
pub struct KanikoBuilder {
    cell: Box<dyn Cell>,
    builds: Builds<Record>,
    loans: Loans,
    registries: Registries,
    clock: Arc<dyn Clock>,
}

/// The name of the resource of a run's build: at most 32 lower-case letters, digits and `-`, as jobs want it.
fn name_of(deployment: DeploymentId, run: RunId) -> String {
    let (deployment, run) = (deployment.to_string().replace('_', "-"), run.to_string());
    let digits = run.get(run.len().saturating_sub(RUN_DIGITS)..).unwrap_or_default();
    format!("wl-{deployment}-{digits}").to_ascii_lowercase()
}

/// The name of the source that is lent to a run's build.
fn loan_of(run: RunId) -> String {
    format!("context-{run}.tar.gz")
}

fn failed(code: &'static str, message: String, detail: Value) -> BuildStatus {
    BuildStatus::Failed(BuildFailure { code, message, detail })
}

impl KanikoBuilder {
    /// Builds with these parts.
    #[must_use]
    pub fn new(parts: KanikoParts) -> Self {
        Self {
            cell: parts.cell,
            builds: Builds::new(parts.records, parts.blobs, parts.logs),
            loans: parts.loans,
            registries: parts.registries,
            clock: parts.clock,
        }
    }

    /// What kaniko is told about the image.
    fn arguments(&self, job: &BuildJob, dockerfile: &str) -> Vec<String> {
        let image = format!("{}/{}:{}", self.registries.own(), repository_of(&job.app), job.run);
        let own = [
            // It does not recognise every container as one.
            "--force".to_owned(),
            format!("--dockerfile={dockerfile}"),
            format!("--destination={image}"),
            "--custom-platform=linux/amd64".to_owned(),
        ];
        let variables = &job.plan.build_variables;
        let variables = variables.iter().map(|(name, value)| format!("--build-arg={name}={value}"));
        own.into_iter().chain(variables).collect()
    }

    /// Docker's configuration with a pass for this repository and no other.
    async fn pass(&self, repository: &str) -> Result<SecretString, BuilderError> {
        let scopes = [format!("repository:{repository}:pull,push")];
        let session = self.registries.session(self.registries.own(), &scopes).await?;
        let auths = match session.pass()? {
            Some(token) => json!({ (self.registries.own()): { "registrytoken": token } }),
            None => json!({}),
        };
        Ok(SecretString::from(json!({ "auths": auths }).to_string()))
    }

    /// Makes the container of a build that the record names already.
    async fn make(
        &self,
        job: &BuildJob,
        record: &Record,
        (name, contained): (&str, &Contained),
    ) -> Result<(), BuilderError> {
        let Some(source) = record.source else {
            return Err(BuilderError::Unavailable(format!("the source of {} is not known", job.run)));
        };
        let now = self.clock.now();
        let context = self.builds.context(job, source).await?;
        let arguments = self.arguments(job, context.dockerfile);
        let until = after(contained.deadline, UNSEEN);
        let lent = self.loans.lend(&loan_of(job.run), context.blocks, (now, until)).await?;
        let order = Order {
            name: name.to_owned(),
            run: job.run,
            arguments,
            context: lent,
            registry: self.pass(&record.repository).await?,
            most: between(now, contained.deadline),
        };
        Ok(self.cell.make(&order).await?)
    }

    /// Asks for the execution of what is made. Of two who want to, one does; one who died while asking is given time.
    async fn begin(&self, run: RunId, name: &str, stored: Stored<Record>) -> Result<(), BuilderError> {
        let (now, mut record) = (self.clock.now(), stored.body);
        let Some(contained) = &mut record.contained else { return Ok(()) };
        if contained.asked.is_some_and(|asked| between(asked, now) < UNSEEN) {
            return Ok(());
        }
        contained.asked = Some(now);
        if !self.builds.replace(run, &record, &stored.etag).await? {
            return Ok(());
        }
        match self.cell.begin(name).await {
            // This one was certainly not begun.
            Err(ArmError::Busy(_)) => {
                if let Some(contained) = &mut record.contained {
                    contained.asked = None;
                }
                Ok(self.builds.keep(run, &record).await?)
            }
            begun => Ok(begun?),
        }
    }

    /// Takes over what the build has said since.
    async fn follow(&self, run: RunId, name: &str, record: &mut Record) -> Result<(), BuilderError> {
        let said = record.contained.as_ref().and_then(|contained| contained.said);
        let lines = self.cell.lines(name, said).await?;
        let exit =
            lines.iter().rev().find_map(|(_, line)| line.strip_prefix(LAST_WORDS)?.trim().parse().ok());
        let newest = lines.iter().map(|(at, _)| *at).max();
        if !self.builds.say(run, record, lines).await? {
            return Ok(());
        }
        if let Some(contained) = &mut record.contained {
            contained.said = newest.or(contained.said);
            contained.exit = exit.or(contained.exit);
        }
        Ok(self.builds.keep(run, record).await?)
    }

    async fn look(&self, run: RunId) -> Result<BuildStatus, BuilderError> {
        let Some(stored) = self.builds.find(run).await? else { return Ok(BuildStatus::Unknown) };
        let name = stored.body.of(self.cell.word()).map(str::to_owned);
        let deadline = stored.body.contained.as_ref().filter(|it| !it.removed).map(|it| it.deadline);
        let Some((name, deadline)) = name.zip(deadline) else { return Ok(BuildStatus::Unknown) };
        let seen = self.cell.look(&name).await?;
        let late = self.clock.now() >= deadline;
        match seen {
            Seen::Missing => Ok(BuildStatus::Unknown),
            Seen::Made if !late => {
                self.begin(run, &name, stored).await?;
                Ok(BuildStatus::Running)
            }
            Seen::Made | Seen::Running => {
                let mut record = stored.body;
                self.try_to_follow(run, &name, &mut record).await;
                // What runs too long is stopped when it is discarded, so that it is told the same to whoever asks again.
                Ok(if late { self.too_long(&name, &record).await } else { BuildStatus::Running })
            }
            Seen::Over { verdict, exit, said } => {
                let mut record = stored.body;
                self.try_to_follow(run, &name, &mut record).await;
                self.settle(run, (&name, deadline), record, (verdict, exit, &said)).await
            }
        }
    }

    /// A log that cannot be read now is read with the next look; no build fails for it.
    async fn try_to_follow(&self, run: RunId, name: &str, record: &mut Record) {
        if let Err(error) = self.follow(run, name, record).await {
            tracing::warn!(run.id = %run, error = %error, "the log of the build of {run} cannot be read now");
        }
    }

    async fn too_long(&self, name: &str, record: &Record) -> BuildStatus {
        let detail = json!({ "build": name, "tail": self.builds.tail(record).await });
        failed("DEPLOYMENT_TIMEOUT", "the build took too long".to_owned(), detail)
    }

    /// What became of a build whose container is over.
    async fn settle(
        &self,
        run: RunId,
        (name, deadline): (&str, Timestamp),
        mut record: Record,
        (verdict, exit, said): (Verdict, Option<i64>, &str),
    ) -> Result<BuildStatus, BuilderError> {
        let Some(contained) = &mut record.contained else { return Ok(BuildStatus::Unknown) };
        let now = self.clock.now();
        let exit = contained.exit.or(exit);
        let fine = match verdict {
            Verdict::Succeeded => true,
            Verdict::Failed => false,
            Verdict::Unsure => exit.is_none_or(|code| code == 0),
        };
        if fine {
            return match self.registries.tagged(&record.repository, &run.to_string()).await? {
                Some(digest) => Ok(BuildStatus::Done(Packed { digest, bytes: None, files: record.files })),
                None => Ok(failed(
                    "BUILD_FAILED",
                    "the build made no image that can be found".to_owned(),
                    json!({ "build": name, "exitCode": exit, "tail": self.builds.tail(&record).await }),
                )),
            };
        }
        let over = *contained.over.get_or_insert(now);
        if exit.is_none() && now < deadline && between(over, now) < self.cell.lag() {
            self.builds.keep(run, &record).await?;
            return Ok(BuildStatus::Running);
        }
        if exit.map_or(now >= deadline, |code| STOPPED.contains(&code)) {
            return Ok(self.too_long(name, &record).await);
        }
        let message = match exit {
            Some(KILLED) => "the build was killed, most likely because it took too much memory".to_owned(),
            Some(code) => format!("the build failed with exit code {code}"),
            None => format!("the build failed: {said}"),
        };
        let tail = self.builds.tail(&record).await;
        let detail = json!({ "build": name, "exitCode": exit, "reason": said, "tail": tail });
        Ok(failed("BUILD_FAILED", message, detail))
    }
}

#[async_trait]
impl Builder for KanikoBuilder {
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
        let word = self.cell.word();
        let Some(mut record) = self.builds.record(job.run).await? else { return Ok(Started::NotFresh) };
        let removed = record.contained.as_ref().is_some_and(|contained| contained.removed);
        if removed || record.source.is_none() {
            return Ok(Started::NotFresh);
        }
        if record.is_foreign_to(word) {
            return Err(foreign(job.run));
        }
        if let Some(name) = record.of(word)
            && self.cell.look(name).await? != Seen::Missing
        {
            return Ok(Started::Running);
        }
        let name = name_of(job.deployment, job.run);
        let contained = Contained {
            deadline: job.deadline.min(after(self.clock.now(), LONGEST)),
            asked: None,
            said: None,
            exit: None,
            over: None,
            removed: false,
        };
        record.take(word, &name, &job);
        record.contained = Some(contained.clone());
        self.builds.keep(job.run, &record).await?;
        self.make(&job, &record, (&name, &contained)).await?;
        Ok(Started::Running)
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        self.builds.settled(run, self.look(run).await, self.clock.now()).await
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        let word = self.cell.word();
        let Some(mut record) = self.builds.ours(run, word).await? else { return Ok(()) };
        if let Some(name) = record.of(word) {
            self.loans.take_back(&loan_of(run)).await?;
            let gone = matches!(self.cell.remove(name).await?, Begun::Done(_));
            if !gone && let Some(contained) = &mut record.contained {
                // The record goes when the resource is seen to be gone: the daily cleanup looks.
                contained.removed = true;
                return Ok(self.builds.keep(run, &record).await?);
            }
        }
        Ok(self.builds.forget(run).await?)
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        self.builds.leftovers(self.cell.word()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_deployment_and_fits_the_rules_of_jobs() {
        let name = name_of(DeploymentId::new(u128::MAX), RunId::new(Timestamp::UNIX_EPOCH, 7));
        assert!(name.starts_with("wl-dep-zzzzzzzzzzz-"), "{name}");
        let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
        assert!(name.len() <= 32 && name.chars().all(fits) && !name.contains("--"), "{name}");
        assert_ne!(name, name_of(DeploymentId::new(u128::MAX), RunId::new(Timestamp::UNIX_EPOCH, 8)));
    }
}
