//! Runs releases on Azure Container Apps: one app per project and environment, a revision per release, traffic by name.
//!
//! Where a release stands is always asked of the service, never remembered: the suffix of a revision follows from its
//! release, so that every call may be repeated by any process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app_body::{
    Place, app_name, app_of, body, failed, figures, health, is_of, live, never_ready, state, suffix,
};
use super::app_changes::{APPS, Changes, app};
use super::app_domains::{Domains, serves};
use super::app_logs::AppLogs;
use super::app_scale::unlike;
use super::app_secrets::{AppSecrets, references};
use super::app_traffic::moved;
use super::arm::Arm;
use super::arm_error::ArmError;
use super::cosmos::{Container, Fault, Stored};
use super::targets::health_of;
use crate::ambient::Clock;
use crate::deploy::ids::DeploymentId;
use crate::deploy::release::Release;
use crate::deploy::runtime::{self, Addresses, Binding, Health, RevisionView, Runtime, RuntimeError};
use crate::deploy::size::Replicas;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

/// The partition of revisions that were started.
const PARTITION: &str = "revisions";

/// A revision that was started, and by which app it is found.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    kind: String,
    run: RunId,
    app: String,
    /// Of the container app.
    name: String,
    revision: String,
    /// Whose secrets it reads.
    #[serde(default)]
    deployment: Option<DeploymentId>,
    /// How many of it were asked for.
    #[serde(default)]
    replicas: Option<Replicas>,
    number: u64,
    hosts: Vec<String>,
}

/// What the runtime works with.
pub struct AppsParts {
    /// Resource Manager.
    pub arm: Arc<Arm>,
    /// Where revisions are remembered.
    pub records: Container,
    /// Where apps live.
    pub place: Place,
    /// Domain of the environment.
    pub domain: String,
    /// Where apps read their sealed variables.
    pub secrets: AppSecrets,
    /// What apps say.
    pub logs: AppLogs,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// [`Runtime`] on Container Apps.
pub struct ContainerApps {
    parts: AppsParts,
    addresses: AppAddresses,
    changes: Changes,
    domains: Domains,
}

struct AppAddresses {
    domain: String,
}

#[async_trait]
impl Addresses for AppAddresses {
    async fn host(&self, place: runtime::Place<'_>) -> Result<String, RuntimeError> {
        Ok(format!("{}.{}", app_name(place.label, &place.environment.to_string()), self.domain))
    }

    fn url(&self, _release: &Release, host: &str) -> String {
        format!("https://{host}")
    }
}

impl From<ArmError> for RuntimeError {
    fn from(error: ArmError) -> Self {
        if error.may_pass() {
            return Self::Unavailable(error.to_string());
        }
        Self::Rejected { code: error.code(), message: error.to_string() }
    }
}

impl From<Fault> for RuntimeError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(fault.to_string())
    }
}

fn revision(known: &Known) -> String {
    format!("{}/revisions/{}", app(&known.name), known.revision)
}

impl ContainerApps {
    /// Runs releases in this place.
    #[must_use]
    pub fn new(parts: AppsParts) -> Self {
        Self {
            addresses: AppAddresses { domain: parts.domain.clone() },
            changes: Changes { arm: Arc::clone(&parts.arm), clock: Arc::clone(&parts.clock) },
            domains: Domains::new(&parts.arm, &parts.clock, &parts.place),
            parts,
        }
    }

    async fn known(&self, run: RunId) -> Result<Option<Known>, Fault> {
        let stored: Option<Stored<Known>> =
            self.parts.records.read_fresh(PARTITION, &run.to_string()).await?;
        Ok(stored.map(|stored| stored.body))
    }

    async fn deactivate(&self, known: &Known) -> Result<(), RuntimeError> {
        match self.parts.arm.act(APPS, &format!("{}/deactivate", revision(known)), None).await {
            Ok(_) | Err(ArmError::Missing(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn of_app(&self, condition: &str, value: Value) -> Result<Vec<Known>, Fault> {
        let text = format!("SELECT * FROM c WHERE c.kind = 'revision' AND {condition}");
        self.parts.records.find(PARTITION, &text, &[("@value", value)]).await
    }

    /// References to secrets that revisions read which run or are about to; those of releases before them leave the app with
    /// its next change.
    async fn references(&self, name: &str) -> Result<Vec<Value>, RuntimeError> {
        let known = self.of_app("c.name = @value", json!(name)).await?;
        let running: Option<Vec<DeploymentId>> = known.iter().map(|known| known.deployment).collect();
        let references = references(&self.parts.arm, &app(name)).await?;
        self.parts.secrets.still_needed(references, running.as_deref()).await
    }

    async fn look(&self, run: RunId) -> Result<Health, RuntimeError> {
        let Some(known) = self.known(run).await? else { return Ok(Health::Unknown) };
        let Some(found) = self.parts.arm.get(APPS, &revision(&known)).await? else {
            let app = self.parts.arm.get(APPS, &app(&known.name)).await?;
            return Ok(match app.as_ref().map(state) {
                Some("InProgress") => Health::Starting,
                Some("Failed") => failed("Container Apps made no revision of it"),
                _ => Health::Unknown,
            });
        };
        let health = health(&found, &self.replicas(&known).await?);
        Ok(match known.replicas.and_then(|asked| unlike(asked, &found)) {
            Some(message) if health == Health::Healthy => {
                Health::Failed { code: "RELEASE_NOT_SCALED", message, tail: Vec::new() }
            }
            Some(_) | None => health,
        })
    }

    async fn replicas(&self, known: &Known) -> Result<Value, ArmError> {
        let found = self.parts.arm.get(APPS, &format!("{}/replicas", revision(known))).await?;
        Ok(found.unwrap_or_default())
    }
}

#[async_trait]
impl Runtime for ContainerApps {
    async fn start(&self, release: &Release, _wake: Option<Hint>) -> Result<(), RuntimeError> {
        let name = app_of(release).to_owned();
        let known = Known {
            kind: "revision".to_owned(),
            run: release.run,
            app: release.app.clone(),
            revision: format!("{name}--{}", suffix(release)),
            name: name.clone(),
            deployment: Some(release.deployment),
            replicas: Some(release.replicas),
            number: release.number,
            hosts: release.hosts.clone(),
        };
        // Nothing is remembered of what is not ours, so that no undo can touch it.
        if let Some(found) = self.parts.arm.get(APPS, &app(&name)).await?
            && !is_of(&found, &release.app)
        {
            let message =
                format!("the container app {name} is not one of {}; remove or rename it", release.app);
            return Err(RuntimeError::Rejected { code: "AZURE_NAME_TAKEN", message });
        }
        self.parts.records.put(PARTITION, &release.run.to_string(), &known).await?;
        if let Some(found) = self.parts.arm.get(APPS, &revision(&known)).await? {
            if found.pointer("/properties/active") == Some(&Value::Bool(false)) {
                self.parts.arm.act(APPS, &format!("{}/activate", revision(&known)), None).await?;
            }
            return Ok(());
        }
        let before = self.changes.settled(&name).await?;
        let references = match &before {
            Some(_) => self.references(&name).await?,
            None => Vec::new(),
        };
        let secrets = self.parts.secrets.keep(release, &name).await?;
        let wanted = body(release, &self.parts.place, &secrets, &references, before.as_ref());
        self.parts.arm.put(APPS, &app(&name), &wanted).await?;
        Ok(())
    }

    async fn health(&self, revision: RunId) -> Health {
        health_of(revision, self.look(revision).await)
    }

    async fn switch(&self, release: &Release) -> Result<(), RuntimeError> {
        let name = app_of(release).to_owned();
        let wanted = format!("{name}--{}", suffix(release));
        let Some(before) = self.changes.settled(&name).await? else {
            return Err(RuntimeError::Unavailable(format!("the app {name} is not there yet")));
        };
        if let Some(ingress) = moved(&before, release, &wanted) {
            let change = json!({
                // The contract asks for it in every envelope.
                "location": self.parts.place.location,
                "properties": { "configuration": { "ingress": ingress } },
            });
            let begun = self.parts.arm.patch(APPS, &app(&name), &change).await?;
            self.changes.finish(begun).await?;
        }
        for known in self.of_app("c.name = @value", json!(name)).await? {
            if known.revision == wanted {
                continue;
            }
            match self.deactivate(&known).await {
                // A way back writes it down again.
                Ok(()) => drop(self.parts.records.delete(PARTITION, &known.run.to_string(), None).await?),
                // The traffic has moved; the next release puts it to rest.
                Err(error) => {
                    tracing::warn!(revision = known.revision, error = %error, "{} is still active", known.revision);
                }
            }
        }
        Ok(())
    }

    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError> {
        let Some(known) = self.known(revision).await? else { return Ok(()) };
        match self.changes.settled(&known.name).await? {
            None => {}
            Some(found) if never_ready(&found) => {
                // Its one revision cannot be deactivated: it has the traffic.
                let begun = self.parts.arm.delete(APPS, &app(&known.name)).await?;
                self.changes.finish(begun).await?;
            }
            Some(found) if live(&found).as_deref() == Some(&known.revision) => {
                return Err(RuntimeError::Unavailable(format!("{} still has the traffic", known.revision)));
            }
            Some(_) => self.deactivate(&known).await?,
        }
        self.parts.records.delete(PARTITION, &revision.to_string(), None).await?;
        Ok(())
    }

    async fn withdraw(&self, app_id: &str) -> Result<(), RuntimeError> {
        // Without a release before it, there is nothing to keep of the app.
        for known in self.of_app("c.app = @value", json!(app_id)).await? {
            let begun = self.parts.arm.delete(APPS, &app(&known.name)).await?;
            self.changes.finish(begun).await?;
            self.parts.records.delete(PARTITION, &known.run.to_string(), None).await?;
        }
        Ok(())
    }

    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError> {
        let known = self.of_app("ARRAY_CONTAINS(c.hosts, @value)", json!(host)).await?;
        // A domain may have moved from one app to another.
        let names: BTreeSet<&str> = known.iter().map(|known| known.name.as_str()).collect();
        for name in names {
            let Some(found) = self.parts.arm.get(APPS, &app(name)).await? else { continue };
            let is_own = host == format!("{name}.{}", self.parts.domain);
            let live = live(&found).filter(|_| is_own || serves(&found, host));
            let answering = known.iter().find(|known| live.as_ref() == Some(&known.revision));
            if let Some(known) = answering {
                return Ok(Some(known.run));
            }
        }
        Ok(None)
    }

    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError> {
        self.domains.bind(app_of(release), release).await
    }

    async fn unbind(&self, release: &Release, domains: &[String]) -> Result<(), RuntimeError> {
        self.domains.unbind(app_of(release), domains).await
    }

    async fn revisions(&self) -> Vec<RevisionView> {
        let Ok(known) = self.of_app("c.number >= @value", json!(0)).await else { return Vec::new() };
        let mut apps: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut views = Vec::new();
        for known in known {
            if !apps.contains_key(&known.name) {
                let found = self.parts.arm.get(APPS, &app(&known.name)).await.ok().flatten();
                apps.insert(known.name.clone(), found.as_ref().and_then(live));
            }
            let live = apps.get(&known.name).is_some_and(|live| live.as_deref() == Some(&known.revision));
            let health = self.health(known.run).await;
            let figures = figures(&self.replicas(&known).await.unwrap_or_default());
            views.push(RevisionView {
                app: known.app,
                release: known.number,
                state: health.word().to_owned(),
                live,
                ready: figures.ready,
                wanted: figures.replicas,
                restarts: figures.restarts,
                pids: Vec::new(),
            });
        }
        views
    }

    async fn output(&self, app: &str, most: usize) -> Result<Vec<String>, RuntimeError> {
        let known = self.of_app("c.app = @value", json!(app)).await?;
        match known.first() {
            Some(known) => self.parts.logs.newest(&known.name, most).await,
            None => Ok(Vec::new()),
        }
    }

    fn addresses(&self) -> &dyn Addresses {
        &self.addresses
    }
}
