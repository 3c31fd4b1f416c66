//! Artifacts that are images in the registry.
//!
//! An image contains how it starts and where it listens, and belongs to the repository of its project.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::app_body::repository_of;
use super::registry::Registries;
use super::registry_door::RegistryError;
use crate::config::BuilderSettings;
use crate::deploy::artifacts::{ArtifactError, Artifacts};
use crate::deploy::detect::{Kind, Plan};
use crate::deploy::dockerfile;
use crate::deploy::ids::{Digest, Name};

/// [`Artifacts`] in our own registry.
pub struct Images {
    /// Signs in.
    pub registries: Registries,
    /// What images are put on.
    pub settings: BuilderSettings,
}

impl Images {
    async fn find(&self, repository: &str, artifact: Digest) -> Result<bool, RegistryError> {
        let scopes = [format!("repository:{repository}:pull")];
        let session = self.registries.session(self.registries.own(), &scopes).await?;
        Ok(session.manifest(repository, &format!("sha256:{artifact}")).await?.is_some())
    }
}

#[async_trait]
impl Artifacts for Images {
    fn inputs(&self, app: &str, plan: &Plan) -> BTreeMap<String, String> {
        let mut inputs = match plan.kind {
            Kind::Docker => BTreeMap::new(),
            Kind::Static | Kind::Node | Kind::Python | Kind::Rust | Kind::Go | Kind::Procfile => {
                let base = self.settings.base(plan.kind).map(|base| base.to_string()).unwrap_or_default();
                let mut inputs = dockerfile::inputs(plan);
                inputs.insert("base".to_owned(), base);
                inputs.insert("platform".to_owned(), self.settings.platform.to_string());
                inputs
            }
        };
        inputs.insert("repository".to_owned(), repository_of(app));
        inputs
    }

    async fn has(
        &self,
        _org: &Name,
        app: &str,
        artifact: Digest,
        _now: Timestamp,
    ) -> Result<bool, ArtifactError> {
        let repository = repository_of(app);
        match self.find(&repository, artifact).await {
            Ok(found) => Ok(found),
            // Not to be reused is no reason to fail: the builder says what is wrong when it sends the image.
            Err(error @ (RegistryError::Forbidden { .. } | RegistryError::Refused { .. })) => {
                tracing::warn!(repository, error = %error, "the images of {repository} are not reused");
                Ok(false)
            }
            Err(error) => Err(ArtifactError(error.to_string())),
        }
    }
}
