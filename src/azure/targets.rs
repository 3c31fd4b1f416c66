//! The runtime on Azure: the target of a release chooses who runs it.

use async_trait::async_trait;

use super::container_apps::ContainerApps;
use super::container_instances::ContainerInstances;
use super::static_sites::StaticSites;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Addresses, Binding, Health, Place, RevisionView, Runtime, RuntimeError};
use crate::deploy::target::Target;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

/// [`Runtime`] on each of the targets.
pub struct Targets {
    /// Container Apps.
    pub apps: ContainerApps,
    /// Container Instances.
    pub groups: ContainerInstances,
    /// Static Web Apps.
    pub sites: StaticSites,
}

impl Targets {
    fn by(&self, target: Target) -> &dyn Runtime {
        match target {
            Target::ContainerApps => &self.apps,
            Target::ContainerInstances => &self.groups,
            Target::StaticWebApps => &self.sites,
        }
    }

    fn of(&self, release: &Release) -> &dyn Runtime {
        self.by(release.plan.target)
    }

    fn all(&self) -> [&dyn Runtime; 3] {
        [&self.apps, &self.groups, &self.sites]
    }

    /// Who does not run the release, though perhaps the one before.
    fn others(&self, release: &Release) -> [&dyn Runtime; 2] {
        match release.plan.target {
            Target::ContainerApps => [&self.groups, &self.sites],
            Target::ContainerInstances => [&self.apps, &self.sites],
            Target::StaticWebApps => [&self.apps, &self.groups],
        }
    }
}

#[async_trait]
impl Addresses for Targets {
    async fn host(&self, place: Place<'_>) -> Result<String, RuntimeError> {
        self.by(place.target).addresses().host(place).await
    }

    fn url(&self, release: &Release, host: &str) -> String {
        self.of(release).addresses().url(release, host)
    }
}

/// The health that a look found. What may pass by itself leaves the revision starting.
pub(super) fn health_of(revision: RunId, looked: Result<Health, RuntimeError>) -> Health {
    match looked {
        Ok(health) => health,
        Err(RuntimeError::Unavailable(why)) => {
            tracing::warn!(run.id = %revision, why, "the health of {revision} is not known now");
            Health::Starting
        }
        Err(RuntimeError::Rejected { code, message }) => Health::Failed { code, message, tail: Vec::new() },
    }
}

/// Whoever knows nothing of a run or an app has nothing to do for it, so that all may be asked.
#[async_trait]
impl Runtime for Targets {
    async fn start(&self, release: &Release, wake: Option<Hint>) -> Result<(), RuntimeError> {
        self.of(release).start(release, wake).await
    }

    async fn health(&self, revision: RunId) -> Health {
        for runtime in self.all() {
            match runtime.health(revision).await {
                Health::Unknown => {}
                known @ (Health::Starting | Health::Healthy | Health::Failed { .. }) => return known,
            }
        }
        Health::Unknown
    }

    async fn switch(&self, release: &Release) -> Result<(), RuntimeError> {
        self.of(release).switch(release).await?;
        // A project that has moved leaves nothing behind.
        for other in self.others(release) {
            other.withdraw(&release.app).await?;
        }
        Ok(())
    }

    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError> {
        for runtime in self.all() {
            runtime.stop(revision).await?;
        }
        Ok(())
    }

    async fn withdraw(&self, app: &str) -> Result<(), RuntimeError> {
        for runtime in self.all() {
            runtime.withdraw(app).await?;
        }
        Ok(())
    }

    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError> {
        for runtime in self.all() {
            if let Some(run) = runtime.answers(host).await? {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError> {
        self.of(release).bind(release).await
    }

    async fn unbind(&self, release: &Release, domains: &[String]) -> Result<(), RuntimeError> {
        self.of(release).unbind(release, domains).await
    }

    async fn revisions(&self) -> Vec<RevisionView> {
        let mut views = Vec::new();
        for runtime in self.all() {
            views.extend(runtime.revisions().await);
        }
        views
    }

    async fn output(&self, app: &str, most: usize) -> Result<Vec<String>, RuntimeError> {
        let lines = self.groups.output(app, most).await?;
        if lines.is_empty() { self.apps.output(app, most).await } else { Ok(lines) }
    }

    fn addresses(&self) -> &dyn Addresses {
        self
    }
}
