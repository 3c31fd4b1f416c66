//! Forgets records in Cosmos DB, some at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cosmos::{Container, Fault, Stored};
use super::deployments::{CosmosDeployments, PARTITION};
use super::record::Record;
use super::releases::{
    ArtifactRecord, Head, NumberRecord, ProjectRecord, ReleaseRecord, app_partition, org_partition,
};
use super::run_record::page_id;
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::retention::{Forgotten, Needed, Retention};
use crate::workflow::journal::RunId;

/// Records of a kind at a time.
const SOME: usize = 500;
/// Kind and id of the record that an organization has content.
const OWNER: &str = "owner";

#[derive(Debug, Serialize, Deserialize)]
struct SourceRecord {
    kind: String,
    org: String,
    digest: Digest,
    created: i64,
}

/// Where a record is.
#[derive(Debug, Deserialize)]
struct Place {
    id: String,
    pk: String,
    /// As it was looked at; without one it goes whatever it is now.
    #[serde(rename = "_etag")]
    etag: Option<String>,
}

/// A run that is over.
#[derive(Debug, Deserialize)]
struct Ended {
    pk: RunId,
    subject: String,
    #[serde(default)]
    pages: u32,
}

/// [`Retention`] in Cosmos DB.
pub struct CosmosRetention {
    records: Container,
    runs: Container,
    deployments: Arc<CosmosDeployments>,
    /// Organizations that are known to be noted: otherwise each upload would ask.
    owners: Mutex<HashSet<Name>>,
}

impl CosmosRetention {
    /// Forgets what is in these containers.
    #[must_use]
    pub fn new(records: Container, runs: Container, deployments: Arc<CosmosDeployments>) -> Self {
        Self { records, runs, deployments, owners: Mutex::default() }
    }

    async fn places(&self, condition: &str, before: Timestamp) -> Result<Vec<Place>, Fault> {
        let text = format!("SELECT c.id, c.pk, c._etag FROM c WHERE {condition}");
        self.records.find_everywhere(&text, &[("@before", json!(before.as_microsecond()))]).await
    }

    async fn delete(&self, places: &[Place]) -> Result<u64, Fault> {
        let mut deleted = 0;
        for place in places {
            // One that was written anew meanwhile is in use again.
            deleted += u64::from(self.records.delete(&place.pk, &place.id, place.etag.as_deref()).await?);
        }
        Ok(deleted)
    }

    /// Deployments that ended before `before`, that are neither live nor among the newest releases of their app, and whose
    /// app nobody changes now, since what was live before is what a failure goes back to.
    async fn old_ones(
        &self,
        before: Timestamp,
        releases: u32,
        most: usize,
    ) -> Result<Vec<DeploymentId>, Fault> {
        let text = "SELECT * FROM c WHERE c.kind = 'deployment' AND c.ended < @before
            AND c.status IN ('succeeded', 'failed', 'cancelled', 'superseded') ORDER BY c.no";
        let before = [("@before", json!(before.as_microsecond()))];
        let ended: Vec<Record> = self.records.find(PARTITION, text, &before).await?;
        let text = "SELECT * FROM c WHERE c.kind = 'deployment' AND c.status IN ('running', 'stuck')";
        let busy: Vec<Record> = self.records.find(PARTITION, text, &[]).await?;
        let busy: HashSet<String> = busy.iter().map(|record| record.wish.app()).collect();
        let mut heads: HashMap<String, Option<Head>> = HashMap::new();
        let mut old = Vec::new();
        for record in ended.iter().filter(|record| !busy.contains(&record.wish.app())) {
            let app = record.wish.app();
            if !heads.contains_key(&app) {
                let head: Option<Stored<Head>> = self.records.read(&app_partition(&app), "head").await?;
                heads.insert(app.clone(), head.map(|head| head.body));
            }
            let release: Option<Stored<NumberRecord>> =
                self.records.read(&app_partition(&app), &record.deployment.to_string()).await?;
            let kept = release.is_some_and(|release| {
                let number = release.body.number;
                heads.get(&app).and_then(Option::as_ref).is_some_and(|head| {
                    head.live.as_ref().is_some_and(|live| live.number == number)
                        || number + u64::from(releases) > head.last
                })
            });
            if !kept {
                old.push(record.deployment);
            }
            if old.len() == most {
                break;
            }
        }
        Ok(old)
    }

    /// Runs that have ended and that no deployment is left for but `going`.
    async fn orphans(&self, before: Timestamp, going: &[DeploymentId]) -> Result<Vec<Ended>, Fault> {
        let text = "SELECT c.pk, c.pages, c.state.subject FROM c
            WHERE c.kind = 'run' AND c.open = false AND c.started < @before";
        let ended: Vec<Ended> =
            self.runs.find_everywhere(text, &[("@before", json!(before.as_microsecond()))]).await?;
        let mut orphans = Vec::new();
        for run in ended {
            let deployment = match run.subject.parse::<DeploymentId>() {
                Ok(id) if !going.contains(&id) => self.deployments.record(id).await?,
                _ => None,
            };
            if deployment.is_none_or(|deployment| deployment.run != Some(run.pk)) {
                orphans.push(run);
            }
        }
        Ok(orphans)
    }

    /// Artifacts that were kept before `before` and that no release but those of `going` is made of.
    async fn unused(&self, before: Timestamp, going: &[DeploymentId]) -> Result<Vec<Place>, Fault> {
        #[derive(Deserialize)]
        struct Kept {
            id: String,
            pk: String,
            #[serde(rename = "_etag")]
            etag: String,
            #[serde(flatten)]
            record: ArtifactRecord,
        }
        let text = "SELECT * FROM c WHERE c.kind = 'artifact' AND c.created < @before";
        let kept: Vec<Kept> =
            self.records.find_everywhere(text, &[("@before", json!(before.as_microsecond()))]).await?;
        let releases: Vec<ReleaseRecord> =
            self.records.find_everywhere("SELECT * FROM c WHERE c.kind = 'release'", &[]).await?;
        let used: HashSet<Digest> = releases
            .iter()
            .filter(|record| !going.contains(&record.release.deployment))
            .map(|record| record.release.artifact)
            .collect();
        Ok(kept
            .into_iter()
            .filter(|kept| !used.contains(&kept.record.artifact.digest))
            .map(|kept| Place { id: kept.id, pk: kept.pk, etag: Some(kept.etag) })
            .collect())
    }

    async fn forget_run(&self, run: &Ended) -> Result<(), Fault> {
        let pk = run.pk.to_string();
        for page in 0..run.pages {
            self.runs.delete(&pk, &page_id(page), None).await?;
        }
        // The run itself goes last, so that a crash leaves what finds the rest.
        for id in ["lease", "run"] {
            self.runs.delete(&pk, id, None).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Retention for CosmosRetention {
    async fn note_owner(&self, org: &Name) -> Result<(), StoreError> {
        let owners = || self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if !owners().contains(org) {
            // Whoever was faster wrote the same.
            let owner = json!({ "kind": OWNER, "org": org.as_str() });
            self.records.create(&org_partition(org.as_str()), OWNER, &owner).await?;
            owners().insert(org.clone());
        }
        Ok(())
    }

    async fn use_source(&self, org: &Name, source: Digest, now: Timestamp) -> Result<(), StoreError> {
        self.note_owner(org).await?;
        let record = SourceRecord {
            kind: "source".to_owned(),
            org: org.to_string(),
            digest: source,
            created: now.as_microsecond(),
        };
        Ok(self.records.put(&org_partition(org.as_str()), &format!("source-{source}"), &record).await?)
    }

    async fn old(&self, before: Timestamp, releases: u32) -> Result<Vec<DeploymentId>, StoreError> {
        Ok(self.old_ones(before, releases, SOME).await?)
    }

    async fn forget(&self, before: Timestamp, releases: u32, dry: bool) -> Result<Forgotten, StoreError> {
        let most = if dry { usize::MAX } else { SOME };
        let old = self.old_ones(before, releases, most).await?;
        let mut going: &[DeploymentId] = &old;
        if !dry {
            let text = "SELECT c.id, c.pk FROM c
                WHERE c.kind IN ('release', 'number') AND ARRAY_CONTAINS(@old, c.deployment)";
            let releases: Vec<Place> = self.records.find_everywhere(text, &[("@old", json!(old))]).await?;
            self.delete(&releases).await?;
            self.deployments.forget(&old).await?;
            going = &[];
        }
        let runs = self.orphans(before, going).await?;
        let artifacts = self.unused(before, going).await?;
        let keys = self.places("c.kind = 'key' AND c.at < @before", before).await?;
        if !dry {
            for run in &runs {
                self.forget_run(run).await?;
            }
            self.delete(&artifacts).await?;
            self.delete(&keys).await?;
            let sources = self.places("c.kind = 'source' AND c.created < @before", before).await?;
            self.delete(&sources).await?;
        }
        Ok(Forgotten {
            deployments: old,
            runs: runs.len() as u64,
            artifacts: artifacts.len() as u64,
            keys: keys.len() as u64,
        })
    }

    async fn organizations(&self) -> Result<Vec<Name>, StoreError> {
        let text = "SELECT DISTINCT VALUE c.org FROM c
            WHERE c.kind IN ('project', 'source', 'artifact', 'owner') ORDER BY c.org";
        let orgs: Vec<String> = self.records.find_everywhere(text, &[]).await?;
        let mut names: Vec<Name> = orgs.iter().filter_map(|org| org.parse().ok()).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn needed(&self, org: &Name, since: Timestamp) -> Result<Needed, StoreError> {
        #[derive(Deserialize)]
        struct Wished {
            source: Option<Digest>,
        }
        let (pk, of_org) = (org_partition(org.as_str()), [("@org", json!(org.as_str()))]);
        let projects: Vec<ProjectRecord> =
            self.records.find(&pk, "SELECT * FROM c WHERE c.kind = 'project'", &[]).await?;
        let text = "SELECT c.wish.source FROM c WHERE c.kind = 'deployment' AND c.org = @org";
        let wished: Vec<Wished> = self.records.find(PARTITION, text, &of_org).await?;
        let text = "SELECT * FROM c WHERE c.kind = 'source' AND c.created >= @since";
        let since = [("@since", json!(since.as_microsecond()))];
        let used: Vec<SourceRecord> = self.records.find(&pk, text, &since).await?;
        let text = "SELECT * FROM c WHERE c.kind = 'release' AND c.org = @org";
        let releases: Vec<ReleaseRecord> = self.records.find_everywhere(text, &of_org).await?;
        let text = "SELECT * FROM c WHERE c.kind = 'artifact'";
        let artifacts: Vec<ArtifactRecord> = self.records.find(&pk, text, &[]).await?;
        let sources: HashSet<Digest> = projects
            .iter()
            .filter_map(|project| project.source)
            .chain(wished.iter().filter_map(|wished| wished.source))
            .chain(used.iter().map(|used| used.digest))
            .collect();
        let artifacts: HashSet<Digest> = releases
            .iter()
            .map(|record| record.release.artifact)
            .chain(artifacts.iter().map(|record| record.artifact.digest))
            .collect();
        let mut projects: Vec<Name> = projects.into_iter().map(|record| record.project).collect();
        projects.sort();
        Ok(Needed {
            sources: sources.into_iter().collect(),
            artifacts: artifacts.into_iter().collect(),
            projects,
        })
    }
}
