//! Takes a source: first its manifest, then the files that are not there yet.

use bytes::Bytes;

use crate::deploy::blobs::BlobError;
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::{Digest, Name};
use crate::deploy::source::{BadManifest, FileEntry, Manifest};
use crate::windlass::Windlass;

/// A manifest that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedSource {
    /// Names the source.
    pub digest: Digest,
    /// Files that have to be uploaded before it can be deployed.
    pub missing: Vec<Digest>,
}

/// Why a source is refused.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] BadManifest),
    /// It cannot be kept.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// It cannot be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Windlass {
    /// Stores the manifest of a source and answers which of its files are missing. Asking again resumes an upload.
    ///
    /// # Errors
    /// [`SourceError`]; nothing was stored.
    pub async fn accept_source(
        &self,
        org: &Name,
        files: Vec<FileEntry>,
    ) -> Result<AcceptedSource, SourceError> {
        let manifest = Manifest::new(files, &self.tools.limits.source)?;
        let mut digests: Vec<Digest> = manifest.files().iter().map(|file| file.sha256).collect();
        digests.sort_unstable();
        digests.dedup();
        let text = Bytes::from(manifest.to_text());
        let digest = Digest::of(&text);
        let (blobs, now) = (&self.tools.blobs, self.tools.clock.now());
        // First, so that later cleanups spare what is found to be there already; one under way sees its new age.
        self.tools.retention.use_source(org, digest, now).await?;
        if !blobs.missing(org, &[digest], now).await?.is_empty() {
            let mut writer = blobs.writer(org, digest, text.len() as u64).await?;
            writer.write(text).await?;
            writer.finish().await?;
        }
        Ok(AcceptedSource { digest, missing: blobs.missing(org, &digests, now).await? })
    }
}
