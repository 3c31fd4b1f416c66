//! Makes the isolated workspace of the build.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Validated, names};
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};

/// The step. Its workspace is named after the run, so a second call finds and empties the first one's.
pub(super) struct Prepare(pub(super) Arc<Tools>);

#[async_trait]
impl Step for Prepare {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let validated: Validated = cx.require(&names::VALIDATE).await?;
        if validated.reused.is_some() {
            return Ok(Next::Done(json!({ "skipped": "the artifact is reused" })));
        }
        self.0.builder.prepare(cx.run).await?;
        let size = self.0.limits.build;
        Ok(Next::Done(json!({ "builder": cx.run, "cpu": size.cpu(), "memory": size.memory() })))
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        self.0.builder.discard(cx.run).await?;
        Ok(Next::Done(Value::Null))
    }
}
