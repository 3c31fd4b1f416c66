//! The base of an image, as its registry has it.
//!
//! It is asked once for each build and then remembered: a tag may move, and public registries count what is read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::registry::Session;
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

/// The manifest of this version of the base.
async fn manifest(from: &Session, name: &Reference, version: &str) -> Result<(Digest, Value), BuilderError> {
    let found = from.manifest(&name.repository, version).await?;
    found.ok_or_else(|| unusable(name, &"is not in its registry"))
}

impl KnownBase {
    /// Asks the registry for the base, as it is for the platform.
    pub(super) async fn ask(
        from: &Session,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Self, BuilderError> {
        let (mut digest, mut found) = manifest(from, name, &name.version.to_string()).await?;
        if let Found::Index(of_platform) = read(&found, platform).map_err(|why| unusable(name, &why))? {
            (digest, found) = manifest(from, name, &format!("sha256:{of_platform}")).await?;
        }
        let Found::Image(config, _) = read(&found, platform).map_err(|why| unusable(name, &why))? else {
            return Err(unusable(name, &"is an index of indexes"));
        };
        if config.size > MOST_CONFIG {
            return Err(unusable(name, &"has a configuration that is too large"));
        }
        let config = from.small(&name.repository, config.digest, config.size).await?;
        let config = serde_json::from_slice(&config).map_err(|why| unusable(name, &why))?;
        Ok(Self { digest, manifest: found, config })
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
