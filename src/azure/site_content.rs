//! How a static web app comes to its files: it is told to fetch a zip, and asked what became of that.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::app_body::text;
use super::arm::{Arm, Begun, Contract, Progress};
use super::arm_error::ArmError;
use super::cosmos::Stored;
use super::loans::Loans;
use super::site_files::of_loan;
use super::site_record::{End, Known, SiteRecord, Sites, Told, site_name};
use crate::ambient::{Clock, after, between};
use crate::deploy::release::Release;
use crate::deploy::runtime::RuntimeError;
use crate::workflow::journal::RunId;

pub(super) const SITES: Contract = Contract::StaticSites;
/// How long the service may read a zip: it fetches it some time after it was told.
const LENT: Duration = Duration::from_secs(2 * 3_600);
/// How long it is waited for the service to say what became of that.
const PATIENCE: Duration = Duration::from_secs(600);

/// The resource of a site.
pub(super) fn site(name: &str) -> String {
    format!("Microsoft.Web/staticSites/{name}")
}

/// The name of a release's zip.
pub(super) fn zip_of(run: RunId) -> String {
    format!("site-{run}.zip")
}

/// A site that takes files already is busy, and not wrong.
fn refused(error: ArmError) -> RuntimeError {
    if let ArmError::Rejected(cause) = &error
        && cause.chain.iter().any(|code| code == "Conflict")
    {
        return RuntimeError::Unavailable(format!("the site is busy: {cause}"));
    }
    error.into()
}

/// Tells sites of zips.
pub(super) struct Contents {
    pub(super) arm: Arc<Arm>,
    pub(super) sites: Sites,
    /// Where zips are, and who may read them.
    pub(super) loans: Loans,
    pub(super) clock: Arc<dyn Clock>,
}

impl Contents {
    /// Tells the site to fetch the release's zip.
    pub(super) async fn tell(&self, mut record: SiteRecord, release: &Release) -> Result<(), RuntimeError> {
        let (name, now) = (site_name(&release.app), self.clock.now());
        let mut told = Told { run: release.run, begun: now, asked: false, operation: None, end: None };
        record.told = Some(told.clone());
        self.sites.keep_site(&record).await?;
        let address = self.loans.address(&zip_of(release.run), (now, after(now, LENT))).await;
        let address = address.map_err(of_loan)?;
        let wanted = json!({ "properties": {
            "appZipUrl": address.expose_secret(),
            "deploymentTitle": format!("r{} {}", release.number, release.run),
            "provider": "windlass",
        } });
        let begun = self.arm.act(SITES, &format!("{}/zipdeploy", site(&name)), Some(&wanted)).await;
        told.asked = true;
        told.operation = match begun.map_err(refused)? {
            Begun::Running(operation) => Some(operation),
            Begun::Done(_) => None,
        };
        record.told = Some(told);
        Ok(self.sites.keep_site(&record).await?)
    }

    /// The app's site, after a look at what it was told.
    pub(super) async fn watched(&self, app: &str) -> Result<Option<SiteRecord>, RuntimeError> {
        let Some(Stored { body: mut record, etag }) = self.sites.stored(app).await? else { return Ok(None) };
        let Some(told) = record.told.clone().filter(Told::is_running) else { return Ok(Some(record)) };
        let end = self.end_of(&record, &told).await?;
        if end.is_some() {
            record.told = Some(Told { end, ..told });
            if !self.sites.note(&record, &etag).await? {
                // Somebody was faster and knows better, or it was ourselves.
                return Ok(self.sites.site(app).await?);
            }
        }
        Ok(Some(record))
    }

    /// What became of what a site was told; none while it is not over.
    async fn end_of(&self, record: &SiteRecord, told: &Told) -> Result<Option<End>, RuntimeError> {
        let now = self.clock.now();
        let is_late = between(told.begun, now) > PATIENCE;
        let failed = |why: &str| Some(End::Failed { why: why.to_owned() });
        let late = || failed("Static Web Apps did not take the files in time");
        if let Some(operation) = &told.operation {
            match self.arm.poll(operation).await {
                Ok(Progress::Running(_)) => return Ok(if is_late { late() } else { None }),
                Ok(Progress::Done(_)) => {}
                Err(error) if error.may_pass() && is_late => return Ok(late()),
                Err(error) if error.may_pass() => return Err(error.into()),
                Err(error) => return Ok(Some(End::Failed { why: error.to_string() })),
            }
        }
        let build = self.build(record).await?;
        Ok(match build.as_ref().map(|build| text(build, "/properties/status")) {
            Some("Ready") => Some(End::Ready { since: now }),
            Some(status @ ("Failed" | "Deleting" | "Detached")) => {
                failed(&format!("Static Web Apps calls the new content {status}, and gives no reason"))
            }
            _ if is_late => late(),
            Some(_) => None,
            // It said that it is done, and lists nothing of it.
            None => Some(End::Ready { since: now }),
        })
    }

    /// What the service says of the content that the site's own host name shows.
    async fn build(&self, record: &SiteRecord) -> Result<Option<Value>, RuntimeError> {
        let builds = format!("{}/builds", site(&site_name(&record.app)));
        let found = self.arm.get(SITES, &builds).await?.unwrap_or_default();
        let builds = found.get("value").and_then(Value::as_array);
        let is_it = |build: &&Value| {
            text(build, "/properties/hostname") == record.host || text(build, "/name") == "default"
        };
        Ok(builds.into_iter().flatten().find(is_it).cloned())
    }

    /// Removes what no longer is needed when the site has the files of `run`.
    pub(super) async fn tidy(&self, app: &str, run: RunId) -> Result<(), RuntimeError> {
        for known in self.sites.releases("c.app = @value", json!(app)).await? {
            if known.run == run && !known.packed {
                continue;
            }
            self.loans.take_back(&zip_of(known.run)).await.map_err(of_loan)?;
            if known.run == run {
                self.sites.keep_release(&Known { packed: false, ..known }).await?;
            } else {
                self.sites.forget_release(known.run).await?;
            }
        }
        Ok(())
    }
}
