//! Chooses the builder of each project: its files on a base where that is enough, else a build service.

use async_trait::async_trait;

use super::acr::AcrBuilder;
use super::kaniko::KanikoBuilder;
use super::layers::LayersBuilder;
use crate::deploy::builder::{BuildJob, BuildStatus, Builder, BuilderError, Started};
use crate::deploy::ids::Name;
use crate::deploy::source::Manifest;
use crate::workflow::journal::RunId;

/// [`Builder`] that asks `layers` first. Which one has a run follows from what each remembers of it.
pub struct AutoBuilder<Service> {
    /// For projects that run nothing to be built.
    pub layers: LayersBuilder,
    /// For all others.
    pub service: Service,
}

#[async_trait]
impl<Service: Builder> Builder for AutoBuilder<Service> {
    async fn builds_images(&self) -> Result<(), String> {
        self.service.builds_images().await
    }

    async fn prepare(&self, run: RunId) -> Result<(), BuilderError> {
        self.layers.prepare(run).await?;
        self.service.prepare(run).await
    }

    async fn sync(&self, run: RunId, org: &Name, source: &Manifest) -> Result<(), BuilderError> {
        self.layers.sync(run, org, source).await?;
        self.service.sync(run, org, source).await
    }

    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError> {
        if let Some(why) = self.layers.obstacle(&job).await? {
            tracing::info!(run.id = %job.run, why, "the build service makes the image of {}", job.run);
            return self.service.start(job).await;
        }
        self.layers.start(job).await
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        let status = self.layers.status(run).await;
        if status == BuildStatus::Unknown { self.service.status(run).await } else { status }
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        self.service.discard(run).await?;
        self.layers.discard(run).await
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        let mut left = self.service.leftovers().await?;
        left.extend(self.layers.leftovers().await?);
        left.sort_unstable();
        left.dedup();
        Ok(left)
    }
}

/// [`Builder`] that goes on with containers of ours where the registry refuses tasks. Both know a build by the same record,
/// which names who has it.
pub struct ServiceBuilder {
    /// Asked first.
    pub tasks: AcrBuilder,
    /// For registries that may not build; none without an image for them.
    pub contained: Option<KanikoBuilder>,
}

impl ServiceBuilder {
    /// Whoever is to begin a build now.
    async fn whose_turn(&self) -> Result<&dyn Builder, BuilderError> {
        match &self.contained {
            Some(contained) if !self.tasks.may_build().await? => Ok(contained),
            Some(_) | None => Ok(&self.tasks),
        }
    }
}

#[async_trait]
impl Builder for ServiceBuilder {
    async fn builds_images(&self) -> Result<(), String> {
        self.tasks.builds_images().await
    }

    async fn prepare(&self, run: RunId) -> Result<(), BuilderError> {
        self.tasks.prepare(run).await
    }

    async fn sync(&self, run: RunId, org: &Name, source: &Manifest) -> Result<(), BuilderError> {
        self.tasks.sync(run, org, source).await
    }

    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError> {
        match self.whose_turn().await?.start(job.clone()).await {
            // The registry has just said so.
            Err(BuilderError::Rejected { code: "BUILDER_NOT_ALLOWED", .. }) if self.contained.is_some() => {
                self.whose_turn().await?.start(job).await
            }
            begun => begun,
        }
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        let status = self.tasks.status(run).await;
        match &self.contained {
            Some(contained) if status == BuildStatus::Unknown => contained.status(run).await,
            Some(_) | None => status,
        }
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        if let Some(contained) = &self.contained {
            contained.discard(run).await?;
        }
        self.tasks.discard(run).await
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        let mut left = self.tasks.leftovers().await?;
        if let Some(contained) = &self.contained {
            left.extend(contained.leftovers().await?);
        }
        left.sort_unstable();
        left.dedup();
        Ok(left)
    }
}
