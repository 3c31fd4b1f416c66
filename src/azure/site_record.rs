//! What is remembered of static web apps: of each site, whose files it was told to take last; of each release, that it
//! was begun.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app_body::{TAG, text};
use super::arm::Operation;
use super::cosmos::{Container, Fault, Stored};
use crate::config::SiteSettings;
use crate::deploy::detect::Probe;
use crate::deploy::ids::{Digest, dns_label};
use crate::deploy::release::Release;
use crate::workflow::journal::RunId;

/// The partition of sites and their releases.
const PARTITION: &str = "sites";
/// Characters of an app's id, and of its hash, in the name of its site, which has 40 at most.
const LABEL: usize = 26;
const HASH: usize = 8;

/// What became of telling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "kebab-case")]
pub(super) enum End {
    /// The site has the files.
    Ready {
        /// When that was seen.
        since: Timestamp,
    },
    /// It does not.
    Failed {
        /// What Azure said.
        why: String,
    },
}

/// Whose files a site was told to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) run: RunId,
    pub(super) begun: Timestamp,
    /// Whether Azure has certainly heard it.
    pub(super) asked: bool,
    pub(super) operation: Option<Operation>,
    pub(super) end: Option<End>,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SiteRecord {
    pub(super) kind: String,
    pub(super) app: String,
    /// As the service invented it; empty until that is known.
    pub(super) host: String,
    /// Domains that were asked for.
    pub(super) domains: Vec<String>,
    pub(super) told: Option<Told>,
}

/// A release that was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) kind: String,
    pub(super) run: RunId,
    pub(super) app: String,
    pub(super) number: u64,
    pub(super) probe: Probe,
    /// Whether its zip lies in Blob Storage.
    pub(super) packed: bool,
}

/// The name of an app's site: the same each time it is asked for.
pub(super) fn site_name(app: &str) -> String {
    let label: String = dns_label(app).chars().take(LABEL).collect();
    let digest = Digest::of(app.as_bytes()).to_string();
    format!("w-{}-{}", label.trim_matches('-'), digest.get(..HASH).unwrap_or_default())
}

/// The site of an app. What others have tagged stays.
pub(super) fn body(app: &str, settings: &SiteSettings, found: Option<&Value>) -> Value {
    let mut tags = found.and_then(|found| found.get("tags")).cloned().unwrap_or_else(|| json!({}));
    tags[TAG] = json!(app);
    // A site does not move.
    let there = found.map(|found| text(found, "/location")).filter(|there| !there.is_empty());
    let sku = settings.sku.name();
    json!({
        "location": there.unwrap_or(&settings.location),
        "tags": tags,
        "sku": { "name": sku, "tier": sku },
        "properties": {},
    })
}

/// Whether a site costs what it should.
pub(super) fn fits(found: &Value, settings: &SiteSettings) -> bool {
    text(found, "/sku/name").eq_ignore_ascii_case(settings.sku.name())
}

impl Told {
    /// Whether it is not over.
    pub(super) fn is_running(&self) -> bool {
        self.asked && self.end.is_none()
    }

    pub(super) fn failed(&self) -> Option<&str> {
        match &self.end {
            Some(End::Failed { why }) => Some(why),
            Some(End::Ready { .. }) | None => None,
        }
    }
}

impl SiteRecord {
    /// A site that nobody was told of.
    pub(super) fn new(app: &str) -> Self {
        Self {
            kind: "site".to_owned(),
            app: app.to_owned(),
            host: String::new(),
            domains: Vec::new(),
            told: None,
        }
    }

    /// What it was told of this run, if that came last.
    pub(super) fn told_of(&self, run: RunId) -> Option<&Told> {
        self.told.as_ref().filter(|told| told.run == run)
    }

    /// Whether it has the files of this run.
    pub(super) fn has(&self, run: RunId) -> bool {
        self.told_of(run).is_some_and(|told| matches!(told.end, Some(End::Ready { .. })))
    }

    /// Whether it has the files of this run, or is taking them.
    pub(super) fn holds(&self, run: RunId) -> bool {
        self.told_of(run).is_some_and(|told| told.asked && told.failed().is_none())
    }
}

impl Known {
    pub(super) fn of(release: &Release) -> Self {
        Self {
            kind: "release".to_owned(),
            run: release.run,
            app: release.app.clone(),
            number: release.number,
            probe: release.plan.probe.clone(),
            packed: false,
        }
    }
}

/// Remembers sites.
pub(super) struct Sites(pub(super) Container);

impl Sites {
    pub(super) async fn site(&self, app: &str) -> Result<Option<SiteRecord>, Fault> {
        Ok(self.stored(app).await?.map(|stored| stored.body))
    }

    pub(super) async fn stored(&self, app: &str) -> Result<Option<Stored<SiteRecord>>, Fault> {
        self.0.read_fresh(PARTITION, &site_name(app)).await
    }

    /// Keeps what was seen of a site, unless its record has changed since; false then.
    pub(super) async fn note(&self, site: &SiteRecord, etag: &str) -> Result<bool, Fault> {
        Ok(self.0.replace((PARTITION, &site_name(&site.app)), site, etag).await?.is_some())
    }

    pub(super) async fn keep_site(&self, site: &SiteRecord) -> Result<(), Fault> {
        self.0.put(PARTITION, &site_name(&site.app), site).await
    }

    pub(super) async fn forget_site(&self, app: &str) -> Result<(), Fault> {
        self.0.delete(PARTITION, &site_name(app), None).await.map(drop)
    }

    /// Sites with this host name or domain.
    pub(super) async fn at(&self, host: &str) -> Result<Vec<SiteRecord>, Fault> {
        let mut sites = Vec::new();
        for condition in ["c.host = @value", "ARRAY_CONTAINS(c.domains, @value)"] {
            let text = format!("SELECT * FROM c WHERE c.kind = 'site' AND {condition}");
            let found: Vec<SiteRecord> = self.0.find(PARTITION, &text, &[("@value", json!(host))]).await?;
            sites.extend(found);
        }
        Ok(sites)
    }

    pub(super) async fn release(&self, run: RunId) -> Result<Option<Known>, Fault> {
        let stored: Option<Stored<Known>> = self.0.read_fresh(PARTITION, &run.to_string()).await?;
        Ok(stored.map(|stored| stored.body))
    }

    pub(super) async fn keep_release(&self, known: &Known) -> Result<(), Fault> {
        self.0.put(PARTITION, &known.run.to_string(), known).await
    }

    pub(super) async fn forget_release(&self, run: RunId) -> Result<(), Fault> {
        self.0.delete(PARTITION, &run.to_string(), None).await.map(drop)
    }

    /// Releases that were begun: `c.app = @value`, or another condition.
    pub(super) async fn releases(&self, condition: &str, value: Value) -> Result<Vec<Known>, Fault> {
        let text = format!("SELECT * FROM c WHERE c.kind = 'release' AND {condition}");
        self.0.find(PARTITION, &text, &[("@value", value)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SiteSku;

    #[test]
    fn a_name_is_the_apps_and_fits_the_service() {
        let long = "an-organization/a-project-with-a-long-name/production";
        for app in ["o/shop/production", long] {
            let name = site_name(app);
            let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
            assert!(name.len() <= 40 && name.chars().all(fits), "{name}");
            assert_eq!(name, site_name(app));
        }
        assert_ne!(site_name(long), site_name(&format!("{long}-2")));
    }

    #[test]
    fn a_site_keeps_its_place_and_the_tags_of_others() {
        let settings = SiteSettings { location: "westeurope".to_owned(), sku: SiteSku::Standard };
        let found = json!({ "location": "East US 2", "tags": { "team": "x" }, "sku": { "name": "Free" } });
        assert!(!fits(&found, &settings));
        let wanted = body("o/shop/production", &settings, Some(&found));
        assert_eq!((&wanted["location"], &wanted["sku"]["tier"]), (&json!("East US 2"), &json!("Standard")));
        assert_eq!(wanted["tags"], json!({ "team": "x", "windlass-app": "o/shop/production" }));
        assert!(fits(&wanted, &settings));
        assert_eq!(body("o/shop/production", &settings, None)["location"], "westeurope");
    }
}
