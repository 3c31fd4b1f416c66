//! What a deployment is made of.

use std::collections::HashMap;

use serde_json::Value;

use super::ActionError;
use crate::deploy::blobs::BlobError;
use crate::deploy::ids::DeploymentId;
use crate::deploy::sbom::{LOCK_FILES, bill};
use crate::deploy::source::{MOST_MANIFEST_BYTES, Manifest};
use crate::steps::{Validated, names};
use crate::windlass::Windlass;

/// Largest lock file that is read.
const MOST_LOCK_FILE_BYTES: u64 = 16 << 20;

impl Windlass {
    /// The bill of materials of a deployment's source; `None` when there is no such deployment, it did not get as far
    /// as to have a source, or its source is not kept any more.
    ///
    /// # Errors
    /// [`ActionError`] when the stores cannot be read.
    pub async fn bill_of_materials(&self, id: DeploymentId) -> Result<Option<Value>, ActionError> {
        let Some(deployment) = self.tools.deployments.get(id).await? else { return Ok(None) };
        let Some(run) = deployment.run else { return Ok(None) };
        let validated = self.engine.journal.output(run, &names::VALIDATE).await?;
        let Some(validated) = validated.and_then(|output| serde_json::from_value::<Validated>(output).ok())
        else {
            return Ok(None);
        };
        let built = self.engine.journal.output(run, &names::BUILD).await?.unwrap_or_default();
        let artifact = built.pointer("/artifact/digest").and_then(Value::as_str);
        let (org, blobs) = (&deployment.wish.org, &self.tools.blobs);
        let manifest = match blobs.read(org, validated.source, MOST_MANIFEST_BYTES).await {
            Err(BlobError::Missing(_)) => return Ok(None),
            read => read?,
        };
        let manifest = std::str::from_utf8(&manifest).ok().and_then(Manifest::from_text).unwrap_or_default();
        let mut texts = HashMap::new();
        for name in LOCK_FILES {
            if let Some(file) = manifest.get(name) {
                let bytes = blobs.read(org, file.sha256, MOST_LOCK_FILE_BYTES).await?;
                texts.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        let source = validated.source.to_string();
        Ok(Some(bill(deployment.wish.project.as_str(), &source, artifact, &|name| texts.get(name).cloned())))
    }
}
