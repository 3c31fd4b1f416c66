//! Leaves nothing behind but the release: always runs, whatever happened before.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};
use crate::workflow::state::Outcome;

/// The step.
pub(super) struct Cleanup(pub(super) Arc<Tools>);

#[async_trait]
impl Step for Cleanup {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        self.0.builder.discard(cx.run).await?;
        // Not earlier: until the end is sure, the release before may have to come back with its domains.
        if cx.outcome == Some(Outcome::Succeeded) {
            super::domain::drop_unasked(&self.0, cx).await?;
        }
        Ok(Next::Done(json!({})))
    }
}
