//! Starts the new revision beside the live one, waits until it is healthy, switches the traffic, drains the old one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Validated, names, recorded};
use crate::ambient::{after, between};
use crate::deploy::deployment::Deployment;
use crate::deploy::ids::Digest;
use crate::deploy::release::Release;
use crate::deploy::runtime::Health;
use crate::deploy::size::{Replicas, defaults};
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};
use crate::workflow::queue::Hint;

/// How long an undo waits for the old revision to answer again before it calls that a fault.
const OLD_PATIENCE: Duration = Duration::from_secs(300);

/// The one failure that says nothing about the app: a disk is full or broken.
const NOT_UNPACKED: &str = "RELEASE_NOT_UNPACKED";

/// What the step leaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// The release's number.
    pub release: u64,
    /// The one that was live before.
    #[serde(default)]
    pub previous: Option<u64>,
    /// Where it answers.
    pub urls: Vec<String>,
}

/// What an undo that waits remembers.
#[derive(Debug, Serialize, Deserialize)]
struct Undoing {
    #[serde(flatten)]
    released: Released,
    #[serde(default)]
    since: Option<Timestamp>,
}

/// The step. The revision is named after the run, so a second call finds the first one's work.
pub(super) struct GoLive(pub(super) Arc<Tools>);

#[async_trait]
impl Step for GoLive {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let Some(released) = cx.remembered::<Released>()? else {
            return self.begin(cx).await;
        };
        let release = recorded(tools, cx, released.release).await?;
        match tools.runtime.health(cx.run).await {
            Health::Starting => Next::wait(after(cx.now, tools.looks.release), &released),
            Health::Healthy => {
                // First the record, then the traffic: after a crash in between the new release comes back as the live one.
                tools.releases.make_live(&release.app, Some(release.number)).await?;
                tools.runtime.switch(&release).await?;
                Next::with(&released)
            }
            Health::Failed { code: NOT_UNPACKED, message, .. } => {
                // Nothing of it is left, so the next try starts it anew.
                tools.runtime.stop(cx.run).await?;
                Err(StepError::transient(NOT_UNPACKED, message))
            }
            Health::Failed { code, message, tail } => {
                Err(StepError::permanent(code, message).with_detail(serde_json::json!({ "tail": tail })))
            }
            Health::Unknown => {
                tools.runtime.start(&release, Some(Hint::wake(cx.run, "step-release"))).await?;
                Next::wait(after(cx.now, tools.looks.release), &released)
            }
        }
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let released = match cx.output_of::<Released>(&names::RELEASE).await? {
            Some(released) => Some(released),
            None => cx.remembered::<Released>()?,
        };
        if let Some(released) = released {
            let release = recorded(tools, cx, released.release).await?;
            if self.is_ours(cx, &release).await?
                && let Some(wait) = self.bring_back(cx, &release.app, released).await?
            {
                return Ok(wait);
            }
        }
        tools.runtime.stop(cx.run).await?;
        Ok(Next::Done(Value::Null))
    }
}

impl GoLive {
    /// Records the release; remembers what was live before anything changes.
    async fn begin(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let deployment = super::deployment(tools, cx).await?;
        let validated: Validated = cx.require(&names::VALIDATE).await?;
        let built: Value = cx.require(&names::BUILD).await?;
        let artifact: Digest = serde_json::from_value(
            built.pointer("/artifact/digest").cloned().unwrap_or_default(),
        )
        .map_err(|error| StepError::permanent("INTERNAL", format!("the build left no artifact: {error}")))?;
        let wanted = release(cx, &deployment, &validated, artifact);
        let release = tools.releases.record(&wanted, cx.now).await?;
        let live = tools.releases.live_of(&release.app).await?;
        let previous = live.map(|live| live.number).filter(|number| *number != release.number);
        let urls = release.hosts.iter().map(|host| tools.runtime.addresses().url(&release, host)).collect();
        let released = Released { release: release.number, previous, urls };
        // Started with the next look, at once: by then it is in the journal what has to be brought back.
        Next::wait(cx.now, &released)
    }

    /// Whether this run's release is live, by the record or by the traffic.
    async fn is_ours(&self, cx: &Context<'_>, release: &Release) -> Result<bool, StepError> {
        let live = self.0.releases.live_of(&release.app).await?;
        if live.is_some_and(|live| live.number == release.number) {
            return Ok(true);
        }
        for host in &release.hosts {
            // An undo that was cut short changed the record and not yet the traffic.
            if self.0.runtime.answers(host).await? == Some(cx.run) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends the traffic to what was live before, once that answers; until then it gives the wait. Traffic that stays with
    /// a release that runs is better than traffic to one that does not.
    async fn bring_back(
        &self,
        cx: &Context<'_>,
        app: &str,
        released: Released,
    ) -> Result<Option<Next>, StepError> {
        let tools = &self.0;
        tools.releases.make_live(app, released.previous).await?;
        let old = match released.previous {
            Some(number) => tools.releases.get(app, number).await?,
            None => None,
        };
        let Some(old) = old else {
            tools.runtime.withdraw(app).await?;
            return Ok(None);
        };
        // Once in each try: what fails is not started again and again by the looks at it.
        let failed = matches!(tools.runtime.health(old.run).await, Health::Failed { .. });
        if !(failed && cx.waited) {
            tools.runtime.start(&old, Some(Hint::wake(cx.run, "step-release"))).await?;
        }
        let fault =
            |why: &str| format!("release {}, which was live before, does not come back: {why}", old.number);
        match tools.runtime.health(old.run).await {
            Health::Healthy => {
                tools.runtime.switch(&old).await?;
                Ok(None)
            }
            Health::Starting | Health::Unknown => {
                // Whoever resumes a run that was stuck has the same patience again.
                let begins = cx.attempt == 1 && !cx.waited;
                let before = cx.remembered::<Undoing>()?.and_then(|undoing| undoing.since);
                let since = before.filter(|_| !begins).unwrap_or(cx.now);
                if between(since, cx.now) > OLD_PATIENCE {
                    return Err(StepError::transient("RELEASE_UNHEALTHY", fault("it does not answer")));
                }
                let undoing = Undoing { released, since: Some(since) };
                Next::wait(after(cx.now, tools.looks.release), &undoing).map(Some)
            }
            Health::Failed { code, message, .. } => Err(StepError::transient(code, fault(&message))),
        }
    }
}

fn release(cx: &Context<'_>, deployment: &Deployment, validated: &Validated, artifact: Digest) -> Release {
    let wish = &deployment.wish;
    let plan = &validated.plan;
    let (size, mut replicas) = defaults(&wish.environment);
    if let Some(wanted) = plan.replicas {
        replicas = Replicas { min: wanted, max: replicas.max.max(wanted) };
    }
    Release {
        app: wish.app(),
        number: 0,
        deployment: deployment.id,
        run: cx.run,
        org: wish.org.clone(),
        environment: wish.environment.clone(),
        artifact,
        plan: plan.clone(),
        env: wish.env.clone(),
        size: wish.size.or(plan.size).unwrap_or(size),
        replicas,
        hosts: validated.hosts.clone(),
    }
}
