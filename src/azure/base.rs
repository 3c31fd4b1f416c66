//! The base of an image, as its registry has it.
//!
//! It is asked once for each build and then remembered: a tag may move, and public registries count what is read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::registry::Session;
use super::registry_image::{PlatformImage, Unusable};
use crate::deploy::builder::BuilderError;
use crate::deploy::ids::Digest;
use crate::deploy::image::{Base, Found, Platform, read};
use crate::deploy::reference::Reference;

/// Largest configuration of a base: it is kept in the build's record, which has 2 MB at most.
const MOST_CONFIG: u64 = 1 << 20;

/// What was found, for later looks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KnownBase {
    /// Of the image for the platform.
    pub(super) digest: Digest,
    manifest: Value,
    config: Value,
}

fn unusable(name: &Reference, why: &dyn std::fmt::Display) -> BuilderError {
    let message = format!("the base {name} {why}; see WINDLASS_BASE_IMAGES");
    BuilderError::Rejected { code: "BASE_IMAGE_UNUSABLE", message }
}

impl KnownBase {
    /// Asks the registry for the base, as it is for the platform.
    pub(super) async fn ask(
        from: &Session,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Self, BuilderError> {
        let found = from.image(&name.repository, &name.version.to_string(), platform).await;
        let PlatformImage { digest, manifest, config, .. } = found.map_err(|error| match error {
            Unusable::Registry(error) => error.into(),
            Unusable::Image(why) => unusable(name, &why),
        })?;
        if config.size > MOST_CONFIG {
            return Err(unusable(name, &"has a configuration that is too large"));
        }
        let config = from.small(&name.repository, config.digest, config.size).await?;
        let config = serde_json::from_slice(&config).map_err(|why| unusable(name, &why))?;
        Ok(Self { digest, manifest, config })
    }

    /// What an image is made on.
    pub(super) fn base(&self, name: &Reference, platform: &Platform) -> Result<Base, BuilderError> {
        let Found::Image(_, layers) = read(&self.manifest, platform).map_err(|why| unusable(name, &why))?
        else {
            return Err(unusable(name, &"is an index of indexes"));
        };
        let base = Base::new((name.to_string(), self.digest), layers, self.config.clone(), platform);
        base.map_err(|why| unusable(name, &why))
    }
}
