//! Builds and packs the artifact, or reuses the one that was made of the same inputs.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Validated, names};
use crate::ambient::{after, between};
use crate::deploy::builder::{BuildJob, BuildStatus, Packed, Started};
use crate::deploy::deployment::Deployment;
use crate::deploy::release::Artifact;
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};
use crate::workflow::queue::Hint;

/// Raised when the same inputs would give another artifact.
pub const BUILDER_VERSION: &str = "process-2";

/// What is remembered while it builds.
#[derive(Serialize, Deserialize)]
struct Building {
    since: Timestamp,
}

/// The step. Output: the [`Artifact`] and whether it was reused.
pub(super) struct Build(pub(super) Arc<Tools>);

#[async_trait]
impl Step for Build {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let validated: Validated = cx.require(&names::VALIDATE).await?;
        if let Some(artifact) = validated.reused {
            return Ok(Next::Done(json!({ "reused": true, "artifact": artifact })));
        }
        let deployment = super::deployment(tools, cx).await?;
        match tools.builder.status(cx.run).await {
            BuildStatus::Running => wait(tools, cx),
            BuildStatus::Done(packed) => {
                let Packed { digest, bytes, files } = packed;
                let artifact = Artifact { digest, bytes, inputs: validated.inputs };
                let org = &deployment.wish.org;
                tools.releases.keep_artifact(org, validated.inputs_digest, &artifact, cx.now).await?;
                Ok(Next::Done(json!({ "reused": false, "files": files, "artifact": artifact })))
            }
            BuildStatus::Failed(failure) => {
                Err(StepError::permanent(failure.code, failure.message).with_detail(failure.detail))
            }
            BuildStatus::Unknown => {
                let job = job(cx, &deployment, &validated);
                if tools.builder.start(job.clone()).await? == Started::NotFresh {
                    let manifest =
                        super::validate::manifest(tools, &deployment.wish.org, validated.source).await?;
                    tools.builder.prepare(cx.run).await?;
                    tools.builder.sync(cx.run, &deployment.wish.org, &manifest).await?;
                    if tools.builder.start(job).await? == Started::NotFresh {
                        return Err(StepError::transient(
                            "BUILDER_UNAVAILABLE",
                            "the workspace does not stay clean",
                        ));
                    }
                }
                wait(tools, cx)
            }
        }
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        self.0.builder.discard(cx.run).await?;
        Ok(Next::Done(Value::Null))
    }
}

fn job(cx: &Context<'_>, deployment: &Deployment, validated: &Validated) -> BuildJob {
    BuildJob {
        run: cx.run,
        deployment: deployment.id,
        org: deployment.wish.org.clone(),
        app: deployment.wish.app(),
        // Nothing of it is not among the inputs: the artifact may be reused by another deployment.
        plan: validated.plan.clone(),
        deadline: cx.deadline,
        wake: Hint::wake(cx.run, "step-build"),
    }
}

fn wait(tools: &Tools, cx: &Context<'_>) -> Result<Next, StepError> {
    let building = cx.remembered::<Building>()?.unwrap_or(Building { since: cx.now });
    let pause = tools.looks.build.after(between(building.since, cx.now));
    Next::wait(after(cx.now, pause), &building)
}
