//! Starts the new revision beside the live one, waits until it is healthy, switches the traffic, drains the old one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Validated, names};
use crate::ambient::after;
use crate::deploy::deployment::Deployment;
use crate::deploy::ids::Digest;
use crate::deploy::release::Release;
use crate::deploy::runtime::Health;
use crate::deploy::size::{Replicas, defaults};
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};
use crate::workflow::queue::Hint;

/// How often and how long an undo waits for the old revision to answer again.
const OLD_POLL: Duration = Duration::from_millis(100);
const OLD_POLLS: usize = 300;

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

/// The step. The revision is named after the run, so a second call finds the first one's work.
pub(super) struct GoLive(pub(super) Arc<Tools>);

#[async_trait]
impl Step for GoLive {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let Some(released) = cx.remembered::<Released>()? else {
            return self.begin(cx).await;
        };
        let release = self.recorded(cx, released.release).await?;
        match tools.runtime.health(cx.run).await {
            Health::Starting => Next::wait(after(cx.now, tools.looks.release), &released),
            Health::Healthy => {
                // First the record, then the traffic: after a crash in between the new release comes back as the live one.
                tools.releases.make_live(&release.app, Some(release.number)).await?;
                tools.runtime.switch(&release).await?;
                Next::with(&released)
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

    async fn undo(&self, cx: &Context<'_>) -> Result<(), StepError> {
        let tools = &self.0;
        let released = match cx.output_of::<Released>(&names::RELEASE).await? {
            Some(released) => Some(released),
            None => cx.remembered::<Released>()?,
        };
        if let Some(released) = released {
            let release = self.recorded(cx, released.release).await?;
            let recorded = tools.releases.live_of(&release.app).await?;
            let mut ours = recorded.is_some_and(|live| live.number == release.number);
            for host in &release.hosts {
                // An undo that was cut short changed the record and not yet the traffic.
                ours |= tools.runtime.answers(host).await == Some(cx.run);
            }
            if ours {
                self.bring_back(&release.app, released.previous).await?;
            }
        }
        Ok(tools.runtime.stop(cx.run).await?)
    }
}

impl GoLive {
    /// Records the release and starts its revision; remembers what was live before anything changes.
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
        tools.runtime.start(&release, Some(Hint::wake(cx.run, "step-release"))).await?;
        let urls = release.hosts.iter().map(|host| tools.runtime.addresses().url(host)).collect();
        let released = Released { release: release.number, previous, urls };
        // Looked at again at once, now that it is in the journal what has to be brought back.
        Next::wait(cx.now, &released)
    }

    async fn recorded(&self, cx: &Context<'_>, number: u64) -> Result<Release, StepError> {
        let app = super::deployment(&self.0, cx).await?.wish.app();
        let release = self.0.releases.get(&app, number).await?;
        release.ok_or_else(|| {
            // A store far away may know it a moment later.
            StepError::transient("STORE_UNAVAILABLE", format!("release {number} of {app} is not recorded"))
        })
    }

    async fn bring_back(&self, app: &str, previous: Option<u64>) -> Result<(), StepError> {
        let tools = &self.0;
        tools.releases.make_live(app, previous).await?;
        let old = match previous {
            Some(number) => tools.releases.get(app, number).await?,
            None => None,
        };
        let Some(old) = old else {
            tools.runtime.withdraw(app).await;
            return Ok(());
        };
        tools.runtime.start(&old, None).await?;
        for _ in 0..OLD_POLLS {
            if tools.runtime.health(old.run).await == Health::Healthy {
                break;
            }
            tools.clock.sleep(OLD_POLL).await;
        }
        Ok(tools.runtime.switch(&old).await?)
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
