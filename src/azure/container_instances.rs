//! Runs releases on Azure Container Instances: a container group per release, and one DNS label per app.
//!
//! A label belongs to one group at a time, and the group that gets it is started again ("Update containers in Azure Container
//! Instances", Microsoft Learn). So a new release is made and verified under a name of its own while the old one serves; then
//! the old group is deleted and the label moves. Between those two nobody answers: the service has no other way to
//! hand a name over. With the strategy `recreate` the old group is deleted first.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app_body::{MOST_RESTARTS, Place, app_of, failed, is_of, port, state, text};
use super::app_changes::Changes;
use super::arm::{Arm, Contract};
use super::arm_error::ArmError;
use super::cosmos::{Container, Fault, Stored};
use super::group_body::{CONTAINER, Seen, body, group_of, label_of, restarts, seen};
use super::group_door::{Door, GroupAddresses};
use super::targets::health_of;
use super::transport::Wire;
use crate::ambient::{Clock, between};
use crate::deploy::detect::Probe;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Addresses, Binding, Health, RevisionView, Runtime, RuntimeError};
use crate::deploy::secrets::Secrets;
use crate::deploy::target::Strategy;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

const INSTANCES: Contract = Contract::ContainerInstances;
/// The partition of groups that were begun.
const PARTITION: &str = "groups";
/// Lines that tell why an app does not start.
const TAIL: usize = 20;
/// Codes of an image that cannot be had.
const IMAGE_CODES: [&str; 2] = ["InaccessibleImage", "ImagePullFailed"];
/// How the service says that a label is taken: by somebody else, or by a group that is gone for a moment only.
const LABEL_TAKEN: [&str; 2] = ["DNS name label", "not available"];

/// A group that was begun, and all that is needed to look at it without its release.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    kind: String,
    run: RunId,
    app: String,
    /// Of the group.
    name: String,
    /// Of the app.
    label: String,
    host: String,
    number: u64,
    port: u16,
    probe: Probe,
}

/// What the runtime works with.
pub struct GroupsParts {
    /// Resource Manager.
    pub arm: Arc<Arm>,
    /// Where groups are remembered.
    pub records: Container,
    /// Where apps live.
    pub place: Place,
    /// Opens sealed variables.
    pub secrets: Arc<dyn Secrets>,
    /// Looks at apps.
    pub wire: Wire,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// [`Runtime`] on Container Instances.
pub struct ContainerInstances {
    parts: GroupsParts,
    addresses: GroupAddresses,
    changes: Changes,
    door: Door,
}

fn group(name: &str) -> String {
    format!("Microsoft.ContainerInstance/containerGroups/{name}")
}

fn refused(error: ArmError) -> RuntimeError {
    if let ArmError::Rejected(cause) | ArmError::Failed(cause) = &error {
        if cause.chain.iter().any(|code| IMAGE_CODES.contains(&code.as_str())) {
            let message = format!(
                "the image cannot be pulled; the apps' identity needs AcrPull on the registry: {cause}"
            );
            return RuntimeError::Rejected { code: "RELEASE_IMAGE", message };
        }
        if LABEL_TAKEN.iter().all(|part| cause.message.contains(part)) {
            return RuntimeError::Unavailable(format!("the app's name is not free yet: {cause}"));
        }
    }
    error.into()
}

impl Known {
    fn of(release: &Release) -> Self {
        Self {
            kind: "group".to_owned(),
            run: release.run,
            app: release.app.clone(),
            name: group_of(release),
            label: app_of(release).to_owned(),
            host: release.hosts.first().cloned().unwrap_or_default(),
            number: release.number,
            port: port(release),
            probe: release.plan.probe.clone(),
        }
    }
}

impl ContainerInstances {
    /// Runs releases in this place.
    #[must_use]
    pub fn new(parts: GroupsParts) -> Self {
        Self {
            addresses: GroupAddresses::new(&parts.place.location, &parts.place.environment),
            changes: Changes { arm: Arc::clone(&parts.arm), clock: Arc::clone(&parts.clock) },
            door: Door::new(&parts.wire),
            parts,
        }
    }

    async fn known(&self, run: RunId) -> Result<Option<Known>, Fault> {
        let stored: Option<Stored<Known>> =
            self.parts.records.read_fresh(PARTITION, &run.to_string()).await?;
        Ok(stored.map(|stored| stored.body))
    }

    async fn remember(&self, known: &Known) -> Result<(), Fault> {
        self.parts.records.put(PARTITION, &known.run.to_string(), known).await
    }

    async fn forget(&self, run: RunId) -> Result<(), Fault> {
        self.parts.records.delete(PARTITION, &run.to_string(), None).await.map(drop)
    }

    async fn all(&self, condition: &str, value: Value) -> Result<Vec<Known>, Fault> {
        let text = format!("SELECT * FROM c WHERE c.kind = 'group' AND {condition}");
        self.parts.records.find(PARTITION, &text, &[("@value", value)]).await
    }

    async fn found(&self, name: &str) -> Result<Option<Value>, ArmError> {
        self.parts.arm.get(INSTANCES, &group(name)).await
    }

    /// Creates the group, or changes its label.
    async fn make(&self, release: &Release, known: &Known, label: &str) -> Result<(), RuntimeError> {
        let secrets = self.open(release)?;
        let wanted = body(release, &self.parts.place, label, &secrets);
        let made = self.parts.arm.put(INSTANCES, &group(&known.name), &wanted).await;
        made.map(drop).map_err(refused)
    }

    fn open(&self, release: &Release) -> Result<Vec<(String, SecretString)>, RuntimeError> {
        let mut opened = Vec::new();
        for (name, sealed) in &release.env {
            let value = self.parts.secrets.open(sealed).map_err(|error| RuntimeError::Rejected {
                code: "SECRET_UNREADABLE",
                message: error.to_string(),
            })?;
            opened.push((name.clone(), value));
        }
        Ok(opened)
    }

    /// Deletes a group, and returns when it is gone, within bounds.
    async fn delete(&self, name: &str) -> Result<(), RuntimeError> {
        let begun = self.parts.arm.delete(INSTANCES, &group(name)).await?;
        self.changes.finish(begun).await?;
        match self.found(name).await? {
            None => Ok(()),
            Some(_) => Err(RuntimeError::Unavailable(format!("{name} is still being deleted"))),
        }
    }

    /// What else was begun for the app.
    async fn others(&self, known: &Known) -> Result<Vec<Known>, Fault> {
        let mut all = self.all("c.app = @value", json!(known.app)).await?;
        all.retain(|other| other.run != known.run);
        Ok(all)
    }

    /// Deletes the groups of others, so that the label is free. They are not forgotten before it is taken.
    async fn clear(&self, known: &Known) -> Result<(), RuntimeError> {
        for other in self.others(known).await? {
            self.delete(&other.name).await?;
        }
        Ok(())
    }

    async fn look(&self, run: RunId) -> Result<Health, RuntimeError> {
        let Some(known) = self.known(run).await? else { return Ok(Health::Unknown) };
        let Some(group) = self.found(&known.name).await? else { return Ok(Health::Unknown) };
        let started = match seen(&group) {
            Seen::Failed(said) => return Ok(failed(&said)),
            Seen::Starting => None,
            Seen::Running { host, since } => {
                if self.door.is_open(&known.probe, &format!("http://{host}:{}", known.port)).await {
                    return Ok(Health::Healthy);
                }
                since
            }
        };
        let patience = Duration::from_secs(known.probe.start_seconds);
        let is_late = started.is_some_and(|since| between(since, self.parts.clock.now()) > patience);
        let (code, message) = if restarts(&group) >= MOST_RESTARTS {
            ("RELEASE_CRASHED", format!("the app crashed {} times while it started", restarts(&group)))
        } else if is_late {
            ("RELEASE_UNHEALTHY", format!("the app runs and does not answer on port {}", known.port))
        } else {
            return Ok(Health::Starting);
        };
        // What it said only helps.
        let tail = self.lines(&known.name, TAIL).await.unwrap_or_default();
        Ok(Health::Failed { code, message, tail })
    }

    async fn lines(&self, name: &str, most: usize) -> Result<Vec<String>, ArmError> {
        let logs = format!("{}/containers/{CONTAINER}/logs?tail={most}", group(name));
        let found = self.parts.arm.get(INSTANCES, &logs).await?.unwrap_or_default();
        Ok(text(&found, "/content").lines().map(str::to_owned).collect())
    }

    /// Which of these has its app's label.
    async fn holder<'a>(&self, known: &'a [Known]) -> Result<Option<&'a Known>, ArmError> {
        for known in known {
            let found = self.found(&known.name).await?;
            if found.is_some_and(|found| label_of(&found) == known.label) {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Runtime for ContainerInstances {
    /// With `recreate` the first call only writes down what is wanted, so that the way back is in the journal before
    /// anything is deleted; as long as there is no group, whoever looks at its health calls again.
    async fn start(&self, release: &Release, _wake: Option<Hint>) -> Result<(), RuntimeError> {
        let known = Known::of(release);
        let found = self.found(&known.name).await?;
        if found.as_ref().is_some_and(|found| !is_of(found, &release.app)) {
            let message = format!("the container group {} is not one of {}", known.name, release.app);
            return Err(RuntimeError::Rejected { code: "AZURE_NAME_TAKEN", message });
        }
        self.remember(&known).await?;
        match &found {
            // It stays as it is for ever; another one may find room.
            Some(found) if state(found) == "Failed" => self.delete(&known.name).await?,
            Some(_) => return Ok(()),
            None => {}
        }
        match release.plan.strategy {
            Strategy::Replace => self.make(release, &known, &known.name).await,
            Strategy::Recreate => {
                self.clear(&known).await?;
                self.make(release, &known, &known.label).await
            }
        }
    }

    async fn health(&self, revision: RunId) -> Health {
        health_of(revision, self.look(revision).await)
    }

    async fn switch(&self, release: &Release) -> Result<(), RuntimeError> {
        let known = Known::of(release);
        let Some(found) = self.found(&known.name).await? else {
            return Err(RuntimeError::Unavailable(format!("the group {} is not there yet", known.name)));
        };
        self.clear(&known).await?;
        if label_of(&found) != known.label {
            self.make(release, &known, &known.label).await?;
        }
        for other in self.others(&known).await? {
            self.forget(other.run).await?;
        }
        Ok(())
    }

    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError> {
        let Some(known) = self.known(revision).await? else { return Ok(()) };
        if self.holder(std::slice::from_ref(&known)).await?.is_some() {
            return Err(RuntimeError::Unavailable(format!("{} still has the app's name", known.name)));
        }
        self.delete(&known.name).await?;
        Ok(self.forget(revision).await?)
    }

    async fn withdraw(&self, app: &str) -> Result<(), RuntimeError> {
        for known in self.all("c.app = @value", json!(app)).await? {
            self.delete(&known.name).await?;
            self.forget(known.run).await?;
        }
        Ok(())
    }

    /// While the label is on its way nobody has it. Then it belongs to the newest release, whether that is about to get it or has
    /// just lost it to the one before: until somebody has it again, that one has to see to it.
    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError> {
        let known = self.all("c.host = @value", json!(host)).await?;
        let newest = known.iter().max_by_key(|known| known.number);
        Ok(self.holder(&known).await?.or(newest).map(|known| known.run))
    }

    /// There is no domain to bind, but a group that has got its label starts again.
    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError> {
        let has_name = self.holder(&[Known::of(release)]).await?.is_some();
        match self.look(release.run).await? {
            Health::Healthy if has_name => Ok(Binding::plain(release)),
            Health::Healthy | Health::Starting | Health::Unknown => Ok(Binding::changing(release)),
            Health::Failed { code, message, .. } => Err(RuntimeError::Rejected { code, message }),
        }
    }

    async fn unbind(&self, _release: &Release, _domains: &[String]) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn revisions(&self) -> Vec<RevisionView> {
        let Ok(known) = self.all("c.number >= @value", json!(0)).await else { return Vec::new() };
        let mut views = Vec::new();
        for known in known {
            let Ok(found) = self.found(&known.name).await else { continue };
            let health = self.health(known.run).await;
            views.push(RevisionView {
                live: found.as_ref().is_some_and(|found| label_of(found) == known.label),
                app: known.app,
                release: known.number,
                state: health.word().to_owned(),
                ready: usize::from(health == Health::Healthy),
                wanted: 1,
                restarts: found.as_ref().map(restarts).unwrap_or_default(),
                pids: Vec::new(),
            });
        }
        views
    }

    async fn output(&self, app: &str, most: usize) -> Result<Vec<String>, RuntimeError> {
        let known = self.all("c.app = @value", json!(app)).await?;
        match self.holder(&known).await? {
            Some(known) => Ok(self.lines(&known.name, most).await?),
            None => Ok(Vec::new()),
        }
    }

    fn addresses(&self) -> &dyn Addresses {
        &self.addresses
    }
}
