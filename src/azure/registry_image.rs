//! An image as a registry has it for a platform, whether its name means that one image or an index of several.

use serde_json::Value;

use super::registry::Session;
use super::registry_door::RegistryError;
use crate::deploy::ids::Digest;
use crate::deploy::image::{BadBase, Descriptor, Found, Platform, read};

/// An image, and what its manifest names.
pub(super) struct PlatformImage {
    /// Of this one image.
    pub(super) digest: Digest,
    pub(super) manifest: Value,
    pub(super) config: Descriptor,
    /// Bottom first.
    pub(super) layers: Vec<Descriptor>,
}

/// Why there is none that can be used.
pub(super) enum Unusable {
    /// The registry does not say.
    Registry(RegistryError),
    /// The rest of a sentence about the image.
    Image(String),
}

impl From<RegistryError> for Unusable {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<BadBase> for Unusable {
    fn from(error: BadBase) -> Self {
        Self::Image(error.to_string())
    }
}

impl Session {
    /// The image that a tag or a digest names, as it is for the platform.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(super) async fn image(
        &self,
        repository: &str,
        version: &str,
        platform: &Platform,
    ) -> Result<PlatformImage, Unusable> {
        let (mut digest, mut manifest) = self.existing(repository, version).await?;
        if let Found::Index(of_platform) = read(&manifest, platform)? {
            (digest, manifest) = self.existing(repository, &format!("sha256:{of_platform}")).await?;
        }
        match read(&manifest, platform)? {
            Found::Image(config, layers) => Ok(PlatformImage { digest, manifest, config, layers }),
            Found::Index(_) => Err(Unusable::Image("is an index of indexes".to_owned())),
        }
    }

    async fn existing(&self, repository: &str, version: &str) -> Result<(Digest, Value), Unusable> {
        let found = self.manifest(repository, version).await?;
        found.ok_or_else(|| Unusable::Image("is not in its registry".to_owned()))
    }
}
