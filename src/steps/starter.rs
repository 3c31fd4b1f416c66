//! The page that is deployed when nobody gave a source, as Container Apps does with its quickstart image.

use bytes::Bytes;
use jiff::Timestamp;

use crate::deploy::blobs::{BlobError, Blobs};
use crate::deploy::ids::{Digest, Name};
use crate::deploy::source::{FileEntry, Manifest, SourceLimits};

const PAGE: &[u8] = include_bytes!("starter.html");

/// Puts the starter page among the organization's content and gives its source.
///
/// # Errors
/// [`BlobError`] when it cannot be stored.
pub(super) async fn starter(blobs: &dyn Blobs, org: &Name, now: Timestamp) -> Result<Manifest, BlobError> {
    let sha256 = Digest::of(PAGE);
    let entry = FileEntry { path: "index.html".to_owned(), size: PAGE.len() as u64, mode: 0o644, sha256 };
    let manifest = Manifest::new(vec![entry], &SourceLimits::default()).unwrap_or_default();
    for content in [Bytes::from_static(PAGE), Bytes::from(manifest.to_text())] {
        let digest = Digest::of(&content);
        if !blobs.missing(org, &[digest], now).await?.is_empty() {
            let mut writer = blobs.writer(org, digest, content.len() as u64).await?;
            writer.write(content).await?;
            writer.finish().await?;
        }
    }
    Ok(manifest)
}
