//! Tells people what a deployment does, and the store how it ended.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::names;
use crate::ambient::between;
use crate::deploy::deployment::{Deployment, Ending, Fault, Status};
use crate::deploy::ids::DeploymentId;
use crate::deploy::log::Line;
use crate::trace::TARGET;
use crate::windlass::Tools;
use crate::workflow::chain::{Context, ErrorClass, Observer, StepError, StepName};
use crate::workflow::journal::RunId;
use crate::workflow::state::{Event, Outcome, RunState};

/// What each step does, for people: stored name and text, in order.
pub const STEP_TEXTS: [(&str, &str); 7] = [
    ("validate", "Checking project, source and settings"),
    ("builder", "Preparing an isolated workspace"),
    ("sync", "Bringing the source into the workspace"),
    ("build", "Building and packing"),
    ("release", "Starting, checking and switching"),
    ("domain", "Binding host names and verifying"),
    ("cleanup", "Removing what is not needed any more"),
];

/// [`Observer`] of the deploy chain.
pub(super) struct DeploymentObserver(pub(super) Arc<Tools>);

#[async_trait]
impl Observer for DeploymentObserver {
    async fn started(&self, cx: &Context<'_>, step: &StepName, undo: bool) {
        // A second look at something that waits is no new start.
        if cx.waited || (!cx.memo.is_null() && !undo) {
            return;
        }
        let text = STEP_TEXTS.iter().find(|(name, _)| *name == step.as_str()).map_or("", |(_, text)| text);
        let kind = if undo { "step.undoing" } else { "step.started" };
        let line = Line::new(cx.now, kind, Some(step.as_str()), text).with("attempt", cx.attempt);
        self.say(cx.subject, vec![line]).await;
    }

    async fn recording(&self, state: &RunState, events: &[Event]) {
        let lines: Vec<Line> = events.iter().filter_map(|event| line(state, event)).collect();
        if !lines.is_empty() {
            self.say(&state.subject, lines).await;
        }
    }

    async fn recorded(&self, _run: RunId, state: &RunState) {
        // Said last, once the journal agrees: whoever hears it may look at the status.
        let id = state.subject.parse::<DeploymentId>().ok().filter(|_| state.is_over());
        let Some(id) = id else { return };
        match self.0.deployments.get(id).await {
            Ok(Some(deployment)) => {
                self.say(&state.subject, vec![ended(&deployment, self.0.clock.now())]).await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(deployment.id = %id, error = %error, "the end of {id} could not be told");
            }
        }
    }

    async fn settle(&self, run: RunId, state: &RunState, outcome: Option<Outcome>) -> Result<(), StepError> {
        let tools = &self.0;
        let Ok(id) = state.subject.parse::<DeploymentId>() else { return Ok(()) };
        let now = tools.clock.now();
        let Some(deployment) = tools.deployments.get(id).await? else { return Ok(()) };
        let ending = self.ending(run, state, &deployment).await?;
        let status = match outcome {
            Some(Outcome::Succeeded) => Status::Succeeded,
            Some(Outcome::Failed) => Status::Failed,
            Some(Outcome::Cancelled) => Status::Cancelled,
            None => Status::Stuck,
        };
        tools.deployments.settle((id, run), status, &ending, now).await?;
        let duration_ms = u64::try_from(between(deployment.created, now).as_millis()).unwrap_or(u64::MAX);
        report(&deployment, status, &ending, duration_ms);
        Ok(())
    }
}

impl DeploymentObserver {
    async fn say(&self, subject: &str, lines: Vec<Line>) {
        let Ok(id) = subject.parse::<DeploymentId>() else { return };
        // The journal is the truth; a line that cannot be stored must not stop the run.
        if let Err(error) = self.0.logs.append(id, lines).await {
            tracing::warn!(deployment.id = %id, error = %error, "the log of {id} could not be written");
        }
    }

    async fn ending(
        &self,
        run: RunId,
        state: &RunState,
        deployment: &Deployment,
    ) -> Result<Ending, StepError> {
        let mut ending = deployment.result.clone();
        if state.outcome == Some(Outcome::Succeeded) && state.failure.is_none() {
            let live = self.0.releases.live_of(&deployment.wish.app()).await?;
            if let Some(release) = live.filter(|release| release.run == run) {
                let urls =
                    release.hosts.iter().map(|host| self.0.runtime.addresses().url(&release, host)).collect();
                let (number, size) = (Some(release.number), Some(release.size));
                ending = Ending { urls, release: number, size, fault: None };
            }
        }
        ending.fault = state.failure.as_ref().map(|failure| Fault {
            code: failure.error.code.clone(),
            message: failure.error.message.clone(),
            step: failure.step.to_string(),
            retryable: failure.error.class == ErrorClass::Transient,
            detail: failure.error.detail.clone(),
        });
        Ok(ending)
    }
}

fn line(state: &RunState, event: &Event) -> Option<Line> {
    let at = state.updated;
    Some(match event {
        Event::StepDone { step, output } => {
            let done = Line::new(at, "step.finished", Some(step.as_str()), summary(step, output));
            done.with("output", output.clone())
        }
        Event::StepFailed { step, error, retry_at } => {
            let failed = Line::new(at, "step.failed", Some(step.as_str()), error.message.clone());
            failed
                .with("code", error.code.clone())
                .with("retryAt", retry_at.map_or(Value::Null, |at| json!(at)))
        }
        Event::StepUndone { step } => Line::new(at, "step.undone", Some(step.as_str()), ""),
        Event::UndoFailed { step, error, .. } => {
            Line::new(at, "step.undo_failed", Some(step.as_str()), error.message.clone())
                .with("code", error.code.clone())
        }
        Event::CancelRequested { by } => {
            Line::new(at, "deployment.cancelling", None, format!("cancelled by {by}"))
        }
        Event::DeadlinePassed => Line::new(at, "deployment.timeout", None, "the deadline passed"),
        Event::Resumed { by } => Line::new(at, "deployment.resumed", None, format!("resumed by {by}")),
        Event::Started { .. }
        | Event::StepWaits { .. }
        | Event::CleanupStarted { .. }
        | Event::Ended { .. } => return None,
    })
}

fn summary(step: &StepName, output: &Value) -> String {
    let number = |pointer: &str| output.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    if let Some(reason) = output.get("skipped").and_then(Value::as_str) {
        return format!("not needed: {reason}");
    }
    if *step == names::SYNC {
        return format!("{} files, {}", number("/files"), bytes(number("/bytes")));
    }
    if *step == names::BUILD {
        let size = bytes(number("/artifact/bytes"));
        let reused = output.get("reused").and_then(Value::as_bool).unwrap_or_default();
        return if reused {
            format!("reused the artifact of the same inputs ({size})")
        } else {
            format!("{} files packed into {size}", number("/files"))
        };
    }
    if *step == names::RELEASE {
        return format!("release {} is live", number("/release"));
    }
    String::new()
}

/// Bytes for people: `1.5 MB`.
fn bytes(count: u64) -> String {
    let (unit, tenths) = match count {
        0..1_000 => return format!("{count} B"),
        1_000..1_000_000 => ("kB", count / 100),
        1_000_000..1_000_000_000 => ("MB", count / 100_000),
        _ => ("GB", count / 100_000_000),
    };
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// The last line of a deployment's log.
fn ended(deployment: &Deployment, now: jiff::Timestamp) -> Line {
    let took = between(deployment.created, deployment.ended.unwrap_or(now)).as_millis();
    let line = Line::new(now, "deployment.ended", None, sentence(deployment.status, &deployment.result))
        .with("status", deployment.status.as_str())
        .with("durationMs", u64::try_from(took).unwrap_or(u64::MAX))
        .with("urls", deployment.result.urls.clone());
    match &deployment.result.fault {
        Some(fault) => line.with("error", json!(fault)),
        None => line,
    }
}

fn sentence(status: Status, ending: &Ending) -> String {
    match (status, ending.urls.first(), &ending.fault) {
        (Status::Succeeded, Some(url), _) => format!("Live at {url}"),
        (_, _, Some(fault)) => format!("{} in {}: {}", fault.code, fault.step, fault.message),
        _ => status.as_str().to_owned(),
    }
}

/// The log line that the documents promise, with their field names.
fn report(deployment: &Deployment, status: Status, ending: &Ending, duration: u64) {
    let wish = &deployment.wish;
    let size =
        wish.size.map_or_else(|| "default".to_owned(), |size| format!("{}/{}", size.cpu(), size.memory()));
    let message = if status == Status::Succeeded { "Deployment completed" } else { "Deployment ended" };
    tracing::info!(
        deploymentId = %deployment.id,
        duration,
        projectId = %wish.project,
        environment = %wish.environment,
        correlation_id = deployment.correlation,
        status = status.as_str(),
        code = ending.fault.as_ref().map(|fault| fault.code.as_str()),
        customDimensions.containerSize = size,
        customDimensions.hasCustomDomain = wish.domain.is_some(),
        "{message}"
    );
    // The same for those who receive telemetry: a metric, and an event with all of it.
    tracing::debug!(
        target: TARGET,
        status = status.as_str(),
        environment = %wish.environment,
        containerSize = size,
        hasCustomDomain = wish.domain.is_some(),
        histogram.windlass_deploy_duration_seconds = Duration::from_millis(duration).as_secs_f64(),
    );
    tracing::debug!(
        target: TARGET,
        deploymentId = %deployment.id,
        duration,
        projectId = %wish.project,
        environment = %wish.environment,
        correlation_id = deployment.correlation,
        status = status.as_str(),
        containerSize = size,
        hasCustomDomain = wish.domain.is_some(),
        exception.code = ending.fault.as_ref().map(|fault| fault.code.as_str()),
        exception.message = ending.fault.as_ref().map(|fault| fault.message.as_str()),
        "{message}"
    );
}
