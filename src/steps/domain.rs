//! Verifies that the release answers on every host name it asked for. Here a domain is one more host route.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{Validated, names};
use crate::deploy::log::Line;
use crate::deploy::runtime::Health;
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};

/// The step, and the evidence on which `succeeded` rests.
pub(super) struct Bind(pub(super) Arc<Tools>);

#[async_trait]
impl Step for Bind {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let validated: Validated = cx.require(&names::VALIDATE).await?;
        for host in &validated.hosts {
            if tools.runtime.answers(host).await != Some(cx.run) {
                return Err(StepError::transient(
                    "DOMAIN_NOT_ACTIVE",
                    format!("{host} does not lead to this release yet"),
                ));
            }
        }
        match tools.runtime.health(cx.run).await {
            Health::Healthy => {}
            Health::Starting | Health::Unknown => {
                return Err(StepError::transient("RELEASE_UNHEALTHY", "the release does not answer"));
            }
            Health::Failed { code, message, .. } => return Err(StepError::permanent(code, message)),
        }
        let Some((_, domains)) = validated.hosts.split_first() else {
            return Err(StepError::permanent("INTERNAL", "a release without a host name"));
        };
        if domains.is_empty() {
            return Ok(Next::Done(json!({ "skipped": "no domain asked", "verified": validated.hosts })));
        }
        let deployment = super::deployment(tools, cx).await?;
        let bound = |domain: &String| {
            Line::new(cx.now, "domain.bound", Some("domain"), format!("{domain} leads to this release"))
        };
        tools.logs.append(deployment.id, domains.iter().map(bound).collect()).await?;
        Ok(Next::Done(json!({ "domains": domains, "verified": validated.hosts })))
    }
}
