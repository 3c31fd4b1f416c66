//! A deployment as people see it: its record, and its run's history told step by step.

use jiff::Timestamp;

use super::ActionError;
use super::submit::estimate;
use crate::ambient::between;
use crate::deploy::deployment::{Deployment, Filter, Status};
use crate::deploy::ids::DeploymentId;
use crate::steps::STEP_TEXTS;
use crate::windlass::Windlass;
use crate::workflow::journal::Entry;
use crate::workflow::state::{Event, Phase, RunState};

/// Successful deployments from which the usual time of a step is learned.
const LEARNED_FROM: usize = 5;
/// Queued deployments that are looked through for a position.
const MOST_QUEUED: usize = 10_000;

/// One step as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepView {
    /// Stored name.
    pub name: &'static str,
    /// What it does.
    pub text: &'static str,
    /// `pending`, `running`, `succeeded`, `failed`, `skipped`, `undone`, `not_run`.
    pub status: &'static str,
    /// Tries so far.
    pub attempts: u32,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How long it usually takes in this project and environment; only while the deployment is not over.
    pub usual_ms: Option<u64>,
    /// What it left.
    pub output: serde_json::Value,
}

impl StepView {
    fn took_ms(&self) -> Option<u64> {
        let took = between(self.started?, self.ended?);
        (self.status == "succeeded").then(|| u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A deployment as people see it.
#[derive(Debug, Clone)]
pub struct View {
    /// The record.
    pub deployment: Deployment,
    /// Every step in order.
    pub steps: Vec<StepView>,
    /// Finished steps of all, in percent.
    pub progress: u8,
    /// The step that is due.
    pub current: Option<&'static str>,
    /// Queued deployments before this one, when it waits.
    pub position: Option<usize>,
    /// Why it waits, in words.
    pub waits_for: Option<String>,
    /// How long such a thing takes.
    pub estimate: String,
}

impl Windlass {
    /// The deployment and its steps; `None` when there is no such deployment.
    ///
    /// # Errors
    /// [`ActionError`] when the stores cannot be read.
    pub async fn view(&self, id: DeploymentId) -> Result<Option<View>, ActionError> {
        let Some(deployment) = self.tools.deployments.get(id).await? else { return Ok(None) };
        let history = match deployment.run {
            Some(run) => self.engine.journal.history(run).await?,
            None => None,
        };
        let (state, entries) = history.map_or((None, Vec::new()), |(state, entries)| (Some(state), entries));
        let mut steps = steps(state.as_ref(), &entries);
        if !deployment.status.is_final() {
            self.estimate_steps(&deployment, &mut steps).await?;
        }
        let done = steps.iter().filter(|step| step.ended.is_some()).count();
        let progress = if deployment.status == Status::Succeeded {
            100
        } else {
            u8::try_from(done * 100 / steps.len().max(1)).unwrap_or(100)
        };
        let current = steps.iter().find(|step| step.status == "running").map(|step| step.name);
        let (position, waits_for) = self.place_in_queue(&deployment).await?;
        let estimate = estimate(&self.tools.deployments.durations_ms().await?);
        Ok(Some(View { deployment, steps, progress, current, position, waits_for, estimate }))
    }

    /// The median of the newest successful deployments of the same project and environment.
    async fn estimate_steps(
        &self,
        deployment: &Deployment,
        steps: &mut [StepView],
    ) -> Result<(), ActionError> {
        let wish = &deployment.wish;
        let like_it = Filter {
            project: Some(wish.project.clone()),
            environment: Some(wish.environment.clone()),
            status: Some(Status::Succeeded),
            before: None,
            limit: LEARNED_FROM,
        };
        let mut past = Vec::new();
        for earlier in self.tools.deployments.list(&like_it).await? {
            let Some(run) = earlier.run.filter(|_| earlier.wish.org == wish.org) else { continue };
            let history = self.engine.journal.history(run).await?;
            past.extend(history.map(|(state, entries)| self::steps(Some(&state), &entries)));
        }
        for step in steps {
            let same = past.iter().flatten().filter(|earlier| earlier.name == step.name);
            let mut took: Vec<u64> = same.filter_map(StepView::took_ms).collect();
            took.sort_unstable();
            step.usual_ms = took.get(took.len() / 2).copied();
        }
        Ok(())
    }

    async fn place_in_queue(
        &self,
        deployment: &Deployment,
    ) -> Result<(Option<usize>, Option<String>), ActionError> {
        if deployment.status != Status::Queued {
            return Ok((None, None));
        }
        let all = |status| Filter { status: Some(status), limit: MOST_QUEUED, ..Filter::default() };
        let queued = self.tools.deployments.list(&all(Status::Queued)).await?;
        let running = self.tools.deployments.list(&all(Status::Running)).await?;
        let before = queued.iter().filter(|other| other.no < deployment.no).count();
        let caps = self.tools.limits.caps;
        let app = deployment.wish.app();
        let same_org = running.iter().filter(|other| other.wish.org == deployment.wish.org).count();
        let reason = if let Some(other) = running.iter().find(|other| other.wish.app() == app) {
            format!("{} is under way for the same project and environment", other.id)
        } else if same_org >= caps.per_org {
            format!(
                "organization {} has {same_org} deployments under way, {} are allowed",
                deployment.wish.org, caps.per_org
            )
        } else if running.len() >= caps.total {
            format!("{} deployments are under way, {} are allowed", running.len(), caps.total)
        } else {
            "its turn comes next".to_owned()
        };
        Ok((Some(before + 1), Some(reason)))
    }
}

fn steps(state: Option<&RunState>, entries: &[Entry]) -> Vec<StepView> {
    let empty = |(name, text): (&'static str, &'static str)| StepView {
        name,
        text,
        status: "pending",
        attempts: 0,
        started: None,
        ended: None,
        usual_ms: None,
        output: serde_json::Value::Null,
    };
    let mut steps: Vec<StepView> = STEP_TEXTS.into_iter().map(empty).collect();
    let mut since = entries.first().map(|entry| entry.at);
    for entry in entries {
        tell(&mut steps, entry, &mut since);
    }
    let Some(state) = state else { return steps };
    let due = match state.phase {
        Phase::Forward => Some(state.cursor),
        Phase::Undo => None,
        Phase::Cleanup => Some(STEP_TEXTS.len() - 1),
        Phase::Ended | Phase::Stuck => None,
    };
    let turned_back =
        state.phase != Phase::Forward && state.outcome != Some(crate::workflow::state::Outcome::Succeeded);
    for (index, step) in steps.iter_mut().enumerate() {
        if due == Some(index) {
            step.status = "running";
            step.started = step.started.or(since);
        } else if turned_back && step.status == "pending" && index + 1 < STEP_TEXTS.len() {
            step.status = "not_run";
        }
    }
    steps
}

/// Folds one event into the steps.
fn tell(steps: &mut [StepView], entry: &Entry, since: &mut Option<Timestamp>) {
    let (name, status, ends) = match &entry.event {
        Event::StepDone { step, output } if output.get("skipped").is_some() => (step, "skipped", true),
        Event::StepDone { step, .. } => (step, "succeeded", true),
        Event::StepWaits { step, .. } => (step, "running", false),
        Event::StepFailed { step, retry_at, .. } => (step, "failed", retry_at.is_none()),
        Event::StepUndone { step } => (step, "undone", true),
        Event::UndoFailed { step, retry_at, .. } => (step, "undo_failed", retry_at.is_none()),
        Event::CleanupStarted { .. }
        | Event::Started { .. }
        | Event::CancelRequested { .. }
        | Event::DeadlinePassed
        | Event::Resumed { .. }
        | Event::Ended { .. } => return,
    };
    let Some(step) = steps.iter_mut().find(|view| view.name == name.as_str()) else { return };
    // An undo that waits does not make the step run again.
    if matches!(entry.event, Event::StepWaits { .. }) && step.ended.is_some() {
        return;
    }
    step.started = step.started.or(*since);
    if let Event::StepDone { output, .. } = &entry.event {
        step.output = output.clone();
    }
    if matches!(entry.event, Event::StepDone { .. } | Event::StepFailed { .. }) {
        step.attempts += 1;
    }
    // A step that never ran forward is undone for safety's sake only: say nothing of it.
    if !(status == "undone" && step.status == "pending") {
        step.status = if status == "undone" && step.status == "failed" { "failed" } else { status };
    }
    if ends {
        step.ended = Some(entry.at);
        *since = Some(entry.at);
    }
}
