//! The port that keeps content by its digest: source files, manifests and artifacts, per organization.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::ids::{Digest, Name};
use super::source::Manifest;

/// Content that is found counts as stored anew when it was stored longer ago than this: half of the day that a cleanup
/// spares, so that what is found stays for the other half and most looks write nothing.
pub const RENEW_AFTER: Duration = Duration::from_secs(12 * 3_600);

/// Why content cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// What came is not what was announced. Nothing was kept.
    #[error("the content has digest {found}, not {expected}")]
    Mismatch {
        /// As announced.
        expected: Digest,
        /// As it came.
        found: Digest,
    },
    /// More came than is allowed. Nothing was kept.
    #[error("the content is larger than the {0} bytes allowed")]
    TooLarge(u64),
    /// There is no such content.
    #[error("content {0} is not stored")]
    Missing(Digest),
    /// What is stored is not what was stored. It was set aside; upload it again.
    #[error("stored content {0} is damaged; it was set aside, so uploading it again mends it")]
    Damaged(Digest),
    /// No room left. Nothing was kept.
    #[error("the disk that holds the content is full")]
    Full,
    /// The store cannot be used.
    #[error("the content store cannot be used at {path}")]
    Unavailable {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Content on its way in.
#[async_trait]
pub trait BlobWriter: Send {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], [`BlobError::Full`] or [`BlobError::Unavailable`].
    async fn write(&mut self, chunk: Bytes) -> Result<(), BlobError>;

    /// Keeps the content if it is what was announced. A crash before the answer keeps all or nothing.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`], [`BlobError::Full`] or [`BlobError::Unavailable`].
    async fn finish(self: Box<Self>) -> Result<(), BlobError>;
}

/// Content on its way out.
#[async_trait]
pub trait BlobReader: Send {
    /// The next bytes; none at the end, which is an error when the content is not what its digest says.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] or [`BlobError::Unavailable`].
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError>;
}

/// Keeps content by its digest.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Which of these are not stored. Those that are count as stored at `now` if that was long ago ([`RENEW_AFTER`]), so
    /// that no cleanup takes them away before they are used, not even one that is under way.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    async fn missing(&self, org: &Name, digests: &[Digest], now: Timestamp)
    -> Result<Vec<Digest>, BlobError>;

    /// Begins to take content of at most `limit` bytes that is announced as `digest`.
    ///
    /// # Errors
    /// [`BlobError`] when it cannot begin.
    async fn writer(&self, org: &Name, digest: Digest, limit: u64) -> Result<Box<dyn BlobWriter>, BlobError>;

    /// Keeps many small contents with one wait for the disk: all of them, or after a crash some. Each is announced by its
    /// digest.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`]: none was kept; [`BlobError::Full`] or [`BlobError::Unavailable`].
    async fn keep_all(&self, org: &Name, contents: Vec<(Digest, Bytes)>) -> Result<(), BlobError>;

    /// Stored content of at most `limit` bytes, verified.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Damaged`], [`BlobError::TooLarge`] or [`BlobError::Unavailable`].
    async fn read(&self, org: &Name, digest: Digest, limit: u64) -> Result<Vec<u8>, BlobError>;

    /// Begins to read stored content of any size, verified when it is over.
    ///
    /// # Errors
    /// [`BlobError::Missing`] or [`BlobError::Unavailable`].
    async fn reader(&self, org: &Name, digest: Digest) -> Result<Box<dyn BlobReader>, BlobError>;

    /// Writes every file of `manifest` below `root`, verified while it is copied.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Damaged`], [`BlobError::Full`] or [`BlobError::Unavailable`].
    async fn materialise(&self, org: &Name, manifest: &Manifest, root: &Path) -> Result<(), BlobError>;

    /// Removes what is not in `keep` and was stored before `before`, looked at in the moment in which it goes; with `dry` it
    /// only counts. Gives number and bytes.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`]; some may be removed.
    async fn retain(
        &self,
        org: &Name,
        keep: HashSet<Digest>,
        before: Timestamp,
        dry: bool,
    ) -> Result<(u64, u64), BlobError>;
}
