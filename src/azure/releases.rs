//! Projects, releases and artifacts in Cosmos DB. An organization has a partition, and so has an app.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cosmos::{Batch, Container, Fault, RACES, Stored};
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::release::{Artifact, Project, Release, Releases, labels};

const HEAD: &str = "head";
/// The partition in which every label is taken once.
const LABELS: &str = "labels";

/// An app's newest number and its live release.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) kind: String,
    pub(super) app: String,
    pub(super) last: u64,
    pub(super) live: Option<Release>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReleaseRecord {
    kind: String,
    pub(super) org: String,
    deployment: DeploymentId,
    pub(super) release: Release,
}

/// The number of a deployment's release; the release is found by it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NumberRecord {
    kind: String,
    deployment: DeploymentId,
    pub(super) number: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ProjectRecord {
    kind: String,
    pub(super) org: String,
    pub(super) project: Name,
    title: String,
    label: String,
    pub(super) source: Option<Digest>,
    created: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ArtifactRecord {
    kind: String,
    pub(super) org: String,
    pub(super) artifact: Artifact,
    /// Microseconds since 1970.
    pub(super) created: i64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    org: String,
    project: Name,
}

/// [`Releases`] in Cosmos DB.
pub struct CosmosReleases(pub Container);

pub(super) fn org_partition(org: &str) -> String {
    format!("org:{org}")
}

pub(super) fn app_partition(app: &str) -> String {
    format!("app:{app}")
}

fn release_id(number: u64) -> String {
    format!("release-{number}")
}

fn project_id(id: &Name) -> String {
    format!("project-{id}")
}

impl ProjectRecord {
    fn project(self, org: &Name) -> Project {
        Project {
            org: org.clone(),
            id: self.project,
            title: self.title,
            label: self.label,
            source: self.source,
        }
    }
}

impl CosmosReleases {
    async fn find_project(&self, org: &Name, id: &Name) -> Result<Option<Stored<ProjectRecord>>, Fault> {
        // It decides what is deployed, and the tag of an older copy would lose every race.
        self.0.read_fresh(&org_partition(org.as_str()), &project_id(id)).await
    }

    /// Takes the first of the project's labels that nobody has.
    async fn take_label(&self, org: &Name, id: &Name) -> Result<String, Fault> {
        let owner = Owner { org: org.to_string(), project: id.clone() };
        let mut candidates = labels(org, id);
        let last = candidates.pop().unwrap_or_default();
        for candidate in candidates {
            if self.0.create(LABELS, &candidate, &owner).await? {
                return Ok(candidate);
            }
            let known: Option<Stored<Owner>> = self.0.read_fresh(LABELS, &candidate).await?;
            // A crash after taking the label and before making the project.
            if known.is_some_and(|known| known.body == owner) {
                return Ok(candidate);
            }
        }
        Ok(last)
    }

    /// The project after `change`, until nobody was faster.
    async fn change_project(
        &self,
        org: &Name,
        id: &Name,
        change: impl Fn(&mut ProjectRecord),
    ) -> Result<Option<Project>, Fault> {
        for _ in 0..RACES {
            let Some(stored) = self.find_project(org, id).await? else { return Ok(None) };
            let mut record = stored.body;
            change(&mut record);
            let place = (org_partition(org.as_str()), project_id(id));
            if self.0.replace((&place.0, &place.1), &record, &stored.etag).await?.is_some() {
                return Ok(Some(record.project(org)));
            }
        }
        Err(Fault::Busy)
    }

    async fn head(&self, app: &str) -> Result<(Option<String>, Head), Fault> {
        let stored: Option<Stored<Head>> = self.0.read_fresh(&app_partition(app), HEAD).await?;
        Ok(match stored {
            Some(stored) => (Some(stored.etag), stored.body),
            None => (None, Head { kind: HEAD.to_owned(), app: app.to_owned(), ..Head::default() }),
        })
    }

    /// Numbers and stores it, or `None` when somebody was faster.
    async fn try_record(&self, wanted: &Release) -> Result<Option<Release>, Fault> {
        let (pk, id) = (app_partition(&wanted.app), wanted.deployment.to_string());
        let (etag, mut head) = self.head(&wanted.app).await?;
        let known: Option<Stored<NumberRecord>> = self.0.read_fresh(&pk, &id).await?;
        let number = match known {
            Some(known) => {
                let number = known.body.number;
                let release = self.numbered(&wanted.app, number).await?;
                if let Some(release) = release.filter(|release| release.run == wanted.run) {
                    return Ok(Some(release));
                }
                number
            }
            None => head.last + 1,
        };
        head.last = head.last.max(number);
        let release = Release { number, ..wanted.clone() };
        if head.live.as_ref().is_some_and(|live| live.number == number) {
            // A retried deployment is a new run of the same release.
            head.live = Some(release.clone());
        }
        let record = ReleaseRecord {
            kind: "release".to_owned(),
            org: wanted.org.to_string(),
            deployment: wanted.deployment,
            release: release.clone(),
        };
        let found_by = NumberRecord { kind: "number".to_owned(), deployment: wanted.deployment, number };
        let batch = Batch::of(&pk)
            .write(HEAD, &head, etag.as_deref())
            .put(&release_id(number), &record)
            .put(&id, &found_by);
        match self.0.commit(batch).await {
            Ok(_) => Ok(Some(release)),
            Err(fault) if fault.is_race() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn numbered(&self, app: &str, number: u64) -> Result<Option<Release>, Fault> {
        let stored: Option<Stored<ReleaseRecord>> =
            self.0.read_fresh(&app_partition(app), &release_id(number)).await?;
        Ok(stored.map(|stored| stored.body.release))
    }
}

#[async_trait]
impl Releases for CosmosReleases {
    async fn project(
        &self,
        org: &Name,
        id: &Name,
        title: &str,
        now: Timestamp,
    ) -> Result<Project, StoreError> {
        if let Some(stored) = self.find_project(org, id).await? {
            if stored.body.title == title {
                return Ok(stored.body.project(org));
            }
        } else {
            let record = ProjectRecord {
                kind: "project".to_owned(),
                org: org.to_string(),
                project: id.clone(),
                title: title.to_owned(),
                label: self.take_label(org, id).await?,
                source: None,
                created: now.as_microsecond(),
            };
            if self.0.create(&org_partition(org.as_str()), &project_id(id), &record).await? {
                return Ok(record.project(org));
            }
        }
        let changed = self.change_project(org, id, |record| title.clone_into(&mut record.title)).await?;
        changed.ok_or_else(|| StoreError("the project just written is not there".into()))
    }

    async fn set_source(&self, project: &Project, source: Digest) -> Result<(), StoreError> {
        if project.source != Some(source) {
            self.change_project(&project.org, &project.id, |record| record.source = Some(source)).await?;
        }
        Ok(())
    }

    async fn record(&self, wanted: &Release, _now: Timestamp) -> Result<Release, StoreError> {
        for _ in 0..RACES {
            if let Some(release) = self.try_record(wanted).await? {
                return Ok(release);
            }
        }
        Err(Fault::Busy.into())
    }

    async fn make_live(&self, app: &str, number: Option<u64>) -> Result<Option<u64>, StoreError> {
        let wanted = match number {
            Some(number) => {
                let found = self.numbered(app, number).await?;
                let missing = || StoreError(format!("release {number} of {app} does not exist").into());
                Some(found.ok_or_else(missing)?)
            }
            None => None,
        };
        for _ in 0..RACES {
            let (etag, head) = self.head(app).await?;
            let before = head.live.as_ref().map(|live| live.number);
            if before == wanted.as_ref().map(|wanted| wanted.number) {
                return Ok(before);
            }
            let head = Head { live: wanted.clone(), ..head };
            let batch = Batch::of(&app_partition(app)).write(HEAD, &head, etag.as_deref());
            match self.0.commit(batch).await {
                Ok(_) => return Ok(before),
                Err(fault) if fault.is_race() => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(Fault::Busy.into())
    }

    async fn live(&self) -> Result<Vec<Release>, StoreError> {
        let text = "SELECT * FROM c WHERE c.kind = 'head' AND IS_OBJECT(c.live)";
        let heads: Vec<Head> = self.0.find_everywhere(text, &[]).await?;
        let mut live: Vec<Release> = heads.into_iter().filter_map(|head| head.live).collect();
        live.sort_by(|a, b| a.app.cmp(&b.app));
        Ok(live)
    }

    async fn live_of(&self, app: &str) -> Result<Option<Release>, StoreError> {
        Ok(self.head(app).await?.1.live)
    }

    async fn get(&self, app: &str, number: u64) -> Result<Option<Release>, StoreError> {
        Ok(self.numbered(app, number).await?)
    }

    async fn artifact(&self, org: &Name, inputs: Digest) -> Result<Option<Artifact>, StoreError> {
        let id = format!("artifact-{inputs}");
        let stored: Option<Stored<ArtifactRecord>> = self.0.read(&org_partition(org.as_str()), &id).await?;
        Ok(stored.map(|stored| stored.body.artifact))
    }

    async fn keep_artifact(
        &self,
        org: &Name,
        inputs: Digest,
        artifact: &Artifact,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let record = ArtifactRecord {
            kind: "artifact".to_owned(),
            org: org.to_string(),
            artifact: artifact.clone(),
            created: now.as_microsecond(),
        };
        Ok(self.0.put(&org_partition(org.as_str()), &format!("artifact-{inputs}"), &record).await?)
    }
}
