//! Runs releases on Azure Static Web Apps: a site for each app, which takes the files of one release after the other.
//!
//! A release is started by taking its files out of its image and packing them into a zip in Blob Storage. It is switched to by
//! telling the site to fetch that zip: the service puts all of it in place of what was there, or nothing. Whom a site was told
//! of is written down before it is told, so that whoever comes after a crash goes on there, and telling twice does no harm.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::app_body::{is_of, repository_of, text};
use super::app_changes::Changes;
use super::arm::Arm;
use super::cosmos::Container;
use super::group_door::Door;
use super::loans::Loans;
use super::registry::Registries;
use super::site_content::{Contents, SITES, site, zip_of};
use super::site_domains::SiteDomains;
use super::site_files::{PackError, of_loan};
use super::site_record::{End, Known, SiteRecord, Sites, Told, body, fits, site_name};
use super::site_zip::Image;
use super::targets::health_of;
use super::transport::Wire;
use crate::ambient::{Clock, between};
use crate::config::SiteSettings;
use crate::deploy::image::Platform;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Addresses, Binding, Health, Place, RevisionView, Runtime, RuntimeError};
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

/// What the runtime works with.
pub struct SitesParts {
    /// Resource Manager.
    pub arm: Arc<Arm>,
    /// Where sites are remembered.
    pub records: Container,
    /// Where images are.
    pub registries: Registries,
    /// What images run on.
    pub platform: Platform,
    /// Lends zips to the service.
    pub loans: Loans,
    /// How sites are made.
    pub settings: SiteSettings,
    /// Looks at sites.
    pub wire: Wire,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// [`Runtime`] on Static Web Apps.
pub struct StaticSites {
    contents: Contents,
    registries: Registries,
    platform: Platform,
    settings: SiteSettings,
    changes: Changes,
    domains: SiteDomains,
    door: Door,
}

impl StaticSites {
    /// Runs releases with these parts.
    #[must_use]
    pub fn new(parts: SitesParts) -> Self {
        let changes = Changes { arm: Arc::clone(&parts.arm), clock: Arc::clone(&parts.clock) };
        Self {
            domains: SiteDomains { arm: Arc::clone(&parts.arm), changes: changes.clone() },
            door: Door::new(&parts.wire),
            changes,
            contents: Contents {
                arm: parts.arm,
                sites: Sites(parts.records),
                loans: parts.loans,
                clock: parts.clock,
            },
            registries: parts.registries,
            platform: parts.platform,
            settings: parts.settings,
        }
    }

    /// The app's site as Azure has it, unless it is somebody else's.
    async fn found(&self, app: &str) -> Result<Option<Value>, RuntimeError> {
        let name = site_name(app);
        let found = self.contents.arm.get(SITES, &site(&name)).await?;
        if found.as_ref().is_some_and(|found| !is_of(found, app)) {
            let message = format!("the static web app {name} is not the one of {app}; remove or rename it");
            return Err(RuntimeError::Rejected { code: "AZURE_NAME_TAKEN", message });
        }
        Ok(found)
    }

    /// Makes sure that the app has a site, and knows its host name.
    async fn ensure(&self, app: &str) -> Result<SiteRecord, RuntimeError> {
        let name = site_name(app);
        let found = self.found(app).await?;
        let mut record = self.contents.sites.site(app).await?.unwrap_or_else(|| SiteRecord::new(app));
        let found = match found {
            Some(found) if fits(&found, &self.settings) => found,
            other => {
                // Before it is made, so that it is found when the app goes.
                self.contents.sites.keep_site(&record).await?;
                let wanted = body(app, &self.settings, other.as_ref());
                let begun = self.contents.arm.put(SITES, &site(&name), &wanted).await?;
                self.changes.finish(begun).await?;
                self.found(app).await?.unwrap_or_default()
            }
        };
        let host = text(&found, "/properties/defaultHostname");
        if host.is_empty() {
            return Err(RuntimeError::Unavailable(format!("the static web app {name} is still being made")));
        }
        if record.host != host {
            // Whatever an earlier one was told, this one has not heard it.
            record = SiteRecord { host: host.to_owned(), ..SiteRecord::new(app) };
            self.contents.sites.keep_site(&record).await?;
        }
        Ok(record)
    }

    /// Puts the release's files into a zip, which is there whole or not at all.
    async fn pack(&self, release: &Release) -> Result<(), RuntimeError> {
        let repository = repository_of(&release.app);
        let scopes = [format!("repository:{repository}:pull")];
        let session = self.registries.session(self.registries.own(), &scopes).await;
        let session = session.map_err(PackError::Registry)?;
        let image = Image::find(session, repository, release.artifact, &self.platform).await?;
        let (blocks, packing) = image.zip(self.settings.sku.most_bytes());
        let stored = self.contents.loans.store(&zip_of(release.run), blocks).await;
        match packing.await {
            Ok(Ok(packed)) => {
                tracing::info!(run.id = %release.run, files = packed.files, bytes = packed.bytes, "packed a site");
                stored.map_err(of_loan)
            }
            Ok(Err(PackError::Gone)) => stored.map_err(of_loan),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(RuntimeError::Unavailable(format!("the site was not packed: {error}"))),
        }
    }

    async fn look(&self, run: RunId) -> Result<Health, RuntimeError> {
        let Some(known) = self.contents.sites.release(run).await? else { return Ok(Health::Unknown) };
        let Some(record) = self.contents.watched(&known.app).await? else { return Ok(Health::Unknown) };
        let Some(told) = record.told_of(run).filter(|told| told.asked) else {
            // Files do not start: what can be known of them before they are switched to is that they are whole. While the site
            // takes those of another release, they wait.
            let is_busy = record.told.as_ref().is_some_and(Told::is_running);
            return Ok(match (known.packed, is_busy) {
                (false, _) => Health::Unknown,
                (true, true) => Health::Starting,
                (true, false) => Health::Healthy,
            });
        };
        let (code, message) = match &told.end {
            None => return Ok(Health::Starting),
            Some(End::Failed { why }) => ("SITE_FAILED", format!("the site did not take the files: {why}")),
            Some(End::Ready { since }) => {
                if self.door.is_open(&known.probe, &format!("https://{}", record.host)).await {
                    return Ok(Health::Healthy);
                }
                if between(*since, self.contents.clock.now())
                    <= Duration::from_secs(known.probe.start_seconds)
                {
                    return Ok(Health::Starting);
                }
                (
                    "RELEASE_UNHEALTHY",
                    format!("the site has the files and does not answer at {}", record.host),
                )
            }
        };
        Ok(Health::Failed { code, message, tail: Vec::new() })
    }
}

#[async_trait]
impl Addresses for StaticSites {
    async fn host(&self, place: Place<'_>) -> Result<String, RuntimeError> {
        Ok(self.ensure(place.app).await?.host)
    }

    fn url(&self, _release: &Release, host: &str) -> String {
        format!("https://{host}")
    }
}

#[async_trait]
impl Runtime for StaticSites {
    async fn start(&self, release: &Release, _wake: Option<Hint>) -> Result<(), RuntimeError> {
        let mut record = self.ensure(&release.app).await?;
        if record.told_of(release.run).is_some_and(|told| told.failed().is_some()) {
            // Another try, which is not answered with what became of the one before.
            record.told = None;
            self.contents.sites.keep_site(&record).await?;
        }
        let known = self.contents.sites.release(release.run).await?.unwrap_or_else(|| Known::of(release));
        self.contents.sites.keep_release(&known).await?;
        if known.packed || record.holds(release.run) {
            return Ok(());
        }
        self.pack(release).await?;
        Ok(self.contents.sites.keep_release(&Known { packed: true, ..known }).await?)
    }

    async fn health(&self, revision: RunId) -> Health {
        health_of(revision, self.look(revision).await)
    }

    /// Whoever comes back finds how far the site is, by its health.
    async fn switch(&self, release: &Release) -> Result<(), RuntimeError> {
        let gone = || RuntimeError::Unavailable(format!("{} has no site yet", release.app));
        let mut record = self.contents.watched(&release.app).await?.ok_or_else(gone)?;
        let is_busy = record.told.as_ref().is_some_and(Told::is_running);
        if !is_busy && !record.has(release.run) {
            self.contents.tell(record, release).await?;
            record = self.contents.watched(&release.app).await?.ok_or_else(gone)?;
        }
        if record.has(release.run) {
            return self.contents.tidy(&release.app, release.run).await;
        }
        match record.told_of(release.run).and_then(Told::failed) {
            Some(why) => Err(RuntimeError::Rejected {
                code: "SITE_FAILED",
                message: format!("the site did not take the files: {why}"),
            }),
            None => Err(RuntimeError::Unavailable("the site is taking files".to_owned())),
        }
    }

    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError> {
        let Some(known) = self.contents.sites.release(revision).await? else { return Ok(()) };
        let record = self.contents.sites.site(&known.app).await?;
        if record.is_some_and(|record| record.holds(revision)) {
            return Err(RuntimeError::Unavailable(format!("the site of {} shows this release", known.app)));
        }
        self.contents.loans.take_back(&zip_of(revision)).await.map_err(of_loan)?;
        Ok(self.contents.sites.forget_release(revision).await?)
    }

    async fn withdraw(&self, app: &str) -> Result<(), RuntimeError> {
        if self.contents.sites.site(app).await?.is_none() {
            return Ok(());
        }
        for known in self.contents.sites.releases("c.app = @value", json!(app)).await? {
            self.contents.loans.take_back(&zip_of(known.run)).await.map_err(of_loan)?;
            self.contents.sites.forget_release(known.run).await?;
        }
        if self.found(app).await?.is_some() {
            let begun = self.contents.arm.delete(SITES, &site(&site_name(app))).await?;
            self.changes.finish(begun).await?;
        }
        Ok(self.contents.sites.forget_site(app).await?)
    }

    /// Whom the site was told of last: from then on its files may be there.
    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError> {
        for record in self.contents.sites.at(host).await? {
            let Some(told) = &record.told else { continue };
            if record.host == host || self.domains.serves(&site_name(&record.app), host).await? {
                return Ok(Some(told.run));
            }
        }
        Ok(None)
    }

    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError> {
        let record = self.contents.watched(&release.app).await?;
        let Some(mut record) = record.filter(|record| record.has(release.run)) else {
            return Ok(Binding::changing(release));
        };
        let new: Vec<String> =
            release.domains().iter().filter(|domain| !record.domains.contains(domain)).cloned().collect();
        if !new.is_empty() {
            record.domains.extend(new);
            self.contents.sites.keep_site(&record).await?;
        }
        self.domains.bind((&site_name(&release.app), &record.host), release).await
    }

    async fn unbind(&self, release: &Release, domains: &[String]) -> Result<(), RuntimeError> {
        let Some(mut record) = self.contents.sites.site(&release.app).await? else { return Ok(()) };
        for domain in domains.iter().filter(|domain| record.domains.contains(domain)) {
            self.domains.remove(&site_name(&release.app), domain).await?;
        }
        record.domains.retain(|domain| !domains.contains(domain));
        Ok(self.contents.sites.keep_site(&record).await?)
    }

    async fn revisions(&self) -> Vec<RevisionView> {
        let known = self.contents.sites.releases("c.number >= @value", json!(0)).await.unwrap_or_default();
        let mut views = Vec::new();
        for known in known {
            let record = self.contents.sites.site(&known.app).await.unwrap_or_default();
            let live = record.is_some_and(|record| record.has(known.run));
            let health = self.health(known.run).await;
            views.push(RevisionView {
                ready: usize::from(live && health == Health::Healthy),
                app: known.app,
                release: known.number,
                state: health.word().to_owned(),
                live,
                wanted: 1,
                restarts: 0,
                pids: Vec::new(),
            });
        }
        views
    }

    /// Files say nothing.
    async fn output(&self, _app: &str, _most: usize) -> Result<Vec<String>, RuntimeError> {
        Ok(Vec::new())
    }

    fn addresses(&self) -> &dyn Addresses {
        self
    }
}
