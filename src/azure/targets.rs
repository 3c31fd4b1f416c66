//! The runtime on Azure: the target of a release chooses who runs it.

use async_trait::async_trait;

use super::container_apps::ContainerApps;
use super::container_instances::ContainerInstances;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Addresses, Binding, Health, RevisionView, Runtime, RuntimeError};
use crate::deploy::target::Target;
use crate::deploy::wish::Environment;
use crate::workflow::journal::RunId;
use crate::workflow::queue::Hint;

/// [`Runtime`] on each of the targets.
pub struct Targets {
    /// Container Apps.
    pub apps: ContainerApps,
    /// Container Instances.
    pub groups: ContainerInstances,
}

impl Targets {
    fn by(&self, target: Target) -> &dyn Runtime {
        match target {
            Target::ContainerApps => &self.apps,
            Target::ContainerInstances => &self.groups,
        }
    }

    fn of(&self, release: &Release) -> &dyn Runtime {
        self.by(release.plan.target)
    }

    /// Who does not run the release, though perhaps the one before.
    fn other(&self, release: &Release) -> &dyn Runtime {
        match release.plan.target {
            Target::ContainerApps => &self.groups,
            Target::ContainerInstances => &self.apps,
        }
    }
}

impl Addresses for Targets {
    fn host(&self, label: &str, environment: &Environment, target: Target) -> String {
        self.by(target).addresses().host(label, environment, target)
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

/// Whoever knows nothing of a run or an app has nothing to do for it, so that both may be asked.
#[async_trait]
impl Runtime for Targets {
    async fn start(&self, release: &Release, wake: Option<Hint>) -> Result<(), RuntimeError> {
        self.of(release).start(release, wake).await
    }

    async fn health(&self, revision: RunId) -> Health {
        match self.apps.health(revision).await {
            Health::Unknown => self.groups.health(revision).await,
            known @ (Health::Starting | Health::Healthy | Health::Failed { .. }) => known,
        }
    }

    async fn switch(&self, release: &Release) -> Result<(), RuntimeError> {
        self.of(release).switch(release).await?;
        // A project that has moved leaves nothing behind.
        self.other(release).withdraw(&release.app).await
    }

    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError> {
        self.apps.stop(revision).await?;
        self.groups.stop(revision).await
    }

    async fn withdraw(&self, app: &str) -> Result<(), RuntimeError> {
        self.apps.withdraw(app).await?;
        self.groups.withdraw(app).await
    }

    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError> {
        match self.apps.answers(host).await? {
            Some(run) => Ok(Some(run)),
            None => self.groups.answers(host).await,
        }
    }

    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError> {
        self.of(release).bind(release).await
    }

    async fn unbind(&self, release: &Release, domains: &[String]) -> Result<(), RuntimeError> {
        self.of(release).unbind(release, domains).await
    }

    async fn revisions(&self) -> Vec<RevisionView> {
        let mut views = self.apps.revisions().await;
        views.extend(self.groups.revisions().await);
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
