//! Brings the source tree into the workspace. Only files that the store lacked were ever moved to it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{Validated, names};
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};

/// The step.
pub(super) struct Sync(pub(super) Arc<Tools>);

#[async_trait]
impl Step for Sync {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let validated: Validated = cx.require(&names::VALIDATE).await?;
        if validated.reused.is_some() {
            return Ok(Next::Done(json!({ "skipped": "the artifact is reused" })));
        }
        let deployment = super::deployment(&self.0, cx).await?;
        let manifest = super::validate::manifest(&self.0, &deployment.wish.org, validated.source).await?;
        self.0.builder.prepare(cx.run).await?;
        self.0.builder.sync(cx.run, &deployment.wish.org, &manifest).await?;
        Ok(Next::Done(json!({ "files": manifest.files().len(), "bytes": manifest.bytes() })))
    }
}
