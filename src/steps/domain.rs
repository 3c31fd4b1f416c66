//! Binds the release's domains, and verifies that it answers on every host name it asked for.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Released, names, recorded};
use crate::ambient::{after, between};
use crate::deploy::log::Line;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Binding, Health, Missing, Pending};
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};

/// How much later each look is than the one before: records are set by people.
const LOOK: Duration = Duration::from_secs(5);
const LATEST_LOOK: Duration = Duration::from_secs(60);
/// Time before the deadline in which it can still be said what is missing.
const RESERVE: Duration = Duration::from_secs(20);

/// What the step remembers while it waits.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Waits {
    looks: u32,
    /// What was said already.
    told: Vec<String>,
}

/// The step, and the evidence on which `succeeded` rests.
pub(super) struct Bind(pub(super) Arc<Tools>);

#[async_trait]
impl Step for Bind {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let released: Released = cx.require(&names::RELEASE).await?;
        let release = recorded(tools, cx, released.release).await?;
        let bound = match tools.runtime.bind(&release).await? {
            Binding::Bound(bound) => bound,
            Binding::Waiting(pending) => return self.wait(cx, &pending).await,
        };
        self.verify(cx, &release.hosts).await?;
        if bound.is_empty() {
            return Ok(Next::Done(json!({ "skipped": "no domain asked", "verified": release.hosts })));
        }
        let mut lines = Vec::new();
        for bound in &bound {
            if let Some(certificate) = &bound.certificate {
                let text = format!("{} has the certificate {certificate}", bound.domain);
                lines.push(Line::new(cx.now, "certificate.ready", Some("domain"), text));
            }
            let text = format!("{} leads to this release", bound.domain);
            lines.push(Line::new(cx.now, "domain.bound", Some("domain"), text));
        }
        let deployment = super::deployment(tools, cx).await?;
        tools.logs.append(deployment.id, lines).await?;
        let output = json!({ "domains": release.domains(), "bound": bound, "verified": release.hosts });
        Ok(Next::Done(output))
    }

    async fn undo(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        // Without a release nothing was bound.
        if let Some(released) = cx.output_of::<Released>(&names::RELEASE).await? {
            let release = recorded(&self.0, cx, released.release).await?;
            let before = before(&self.0, &release.app, &released).await?;
            unbind(&self.0, &release, without(&release, before.as_ref())).await?;
        }
        Ok(Next::Done(Value::Null))
    }
}

impl Bind {
    async fn verify(&self, cx: &Context<'_>, hosts: &[String]) -> Result<(), StepError> {
        let runtime = &self.0.runtime;
        for host in hosts {
            if runtime.answers(host).await? != Some(cx.run) {
                return Err(StepError::transient(
                    "DOMAIN_NOT_ACTIVE",
                    format!("{host} does not lead to this release yet"),
                ));
            }
        }
        match runtime.health(cx.run).await {
            Health::Healthy => Ok(()),
            Health::Starting | Health::Unknown => {
                Err(StepError::transient("RELEASE_UNHEALTHY", "the release does not answer"))
            }
            Health::Failed { code, message, .. } => Err(StepError::permanent(code, message)),
        }
    }

    /// Says what is missing, each thing once, and looks again later; gives up while it can still say why.
    async fn wait(&self, cx: &Context<'_>, pending: &[Pending]) -> Result<Next, StepError> {
        let tools = &self.0;
        if let Health::Failed { code, message, .. } = tools.runtime.health(cx.run).await {
            return Err(StepError::permanent(code, message));
        }
        let mut waits: Waits = cx.remembered()?.unwrap_or_default();
        let look = if pending.iter().any(|pending| pending.missing == Missing::Change) {
            tools.looks.release
        } else {
            LOOK.saturating_mul(waits.looks.saturating_add(1)).min(LATEST_LOOK)
        };
        if between(cx.now, cx.deadline) < look + RESERVE {
            return Err(given_up(pending));
        }
        let mut lines: Vec<Line> = pending.iter().filter_map(|pending| line(cx.now, pending)).collect();
        lines.retain(|line| !waits.told.contains(&line.text));
        if !lines.is_empty() {
            waits.told.extend(lines.iter().map(|line| line.text.clone()));
            let deployment = super::deployment(tools, cx).await?;
            tools.logs.append(deployment.id, lines).await?;
        }
        waits.looks = waits.looks.saturating_add(1);
        Next::wait(after(cx.now, look), &waits)
    }
}

/// Takes the domains away that the release before had and this one does not ask for.
pub(super) async fn drop_unasked(tools: &Tools, cx: &Context<'_>) -> Result<(), StepError> {
    let Some(released) = cx.output_of::<Released>(&names::RELEASE).await? else { return Ok(()) };
    if released.previous.is_none() {
        return Ok(());
    }
    let release = recorded(tools, cx, released.release).await?;
    let Some(before) = before(tools, &release.app, &released).await? else { return Ok(()) };
    unbind(tools, &release, without(&before, Some(&release))).await
}

/// Takes domains off the release's app, but for those of a later release: a run that was stuck may go on long after others.
async fn unbind(tools: &Tools, release: &Release, mut domains: Vec<String>) -> Result<(), StepError> {
    if domains.is_empty() {
        return Ok(());
    }
    let live = tools.releases.live_of(&release.app).await?;
    if let Some(live) = live.filter(|live| live.number != release.number) {
        domains.retain(|domain| !live.domains().contains(domain));
    }
    if !domains.is_empty() {
        tools.runtime.unbind(release, &domains).await?;
    }
    Ok(())
}

/// What was live before.
async fn before(tools: &Tools, app: &str, released: &Released) -> Result<Option<Release>, StepError> {
    match released.previous {
        Some(number) => Ok(tools.releases.get(app, number).await?),
        None => Ok(None),
    }
}

/// The release's domains that the other one does not have.
fn without(release: &Release, other: Option<&Release>) -> Vec<String> {
    let others = other.map(Release::domains).unwrap_or_default();
    release.domains().iter().filter(|domain| !others.contains(domain)).cloned().collect()
}

fn sentence(pending: &Pending) -> String {
    let domain = &pending.domain;
    match &pending.missing {
        Missing::Records(records) => {
            let records: Vec<String> = records.iter().map(ToString::to_string).collect();
            format!("{domain} needs these DNS records: {}", records.join(", "))
        }
        Missing::Certificate(state) => format!("the certificate of {domain} is being issued ({state})"),
        Missing::Change => format!("{domain} is being changed"),
    }
}

/// What people are told; nothing of what goes on by itself in a moment.
fn line(now: Timestamp, pending: &Pending) -> Option<Line> {
    let (kind, code) = match &pending.missing {
        Missing::Records(_) => ("domain.records", "DOMAIN_DNS_MISSING"),
        Missing::Certificate(_) => ("certificate.pending", "DOMAIN_CERTIFICATE_PENDING"),
        Missing::Change => return None,
    };
    let line = Line::new(now, kind, Some("domain"), sentence(pending)).with("code", code);
    let line = line.with("domain", pending.domain.as_str());
    match &pending.missing {
        Missing::Records(records) => Some(line.with("records", json!(records))),
        Missing::Certificate(_) | Missing::Change => Some(line),
    }
}

/// The error of a wait that was too long; what somebody has to do comes first.
fn given_up(pending: &[Pending]) -> StepError {
    let message = pending.iter().map(sentence).collect::<Vec<_>>().join("; ");
    let records = |pending: &Pending| match &pending.missing {
        Missing::Records(records) => records.clone(),
        Missing::Certificate(_) | Missing::Change => Vec::new(),
    };
    let records: Vec<_> = pending.iter().flat_map(records).collect();
    if !records.is_empty() {
        return StepError::permanent("DOMAIN_DNS_MISSING", message)
            .with_detail(json!({ "records": records }));
    }
    if pending.iter().any(|pending| pending.missing != Missing::Change) {
        return StepError::permanent("DOMAIN_CERTIFICATE_PENDING", message);
    }
    StepError::permanent("DOMAIN_NOT_ACTIVE", message)
}
