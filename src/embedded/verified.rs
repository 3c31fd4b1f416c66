//! Content of a folder on its way out.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::files::{blocking, failed};
use crate::deploy::blobs::{BlobError, BlobReader};
use crate::deploy::ids::Digest;

/// Bytes copied at a time.
const CHUNK: usize = 256 * 1024;

/// Content that is verified while it is read: the end of it is an error when it is not what its digest says, and what is
/// damaged is set aside.
pub(super) struct Verified {
    file: std::fs::File,
    path: PathBuf,
    digest: Digest,
    hasher: Sha256,
}

impl Verified {
    pub(super) fn open(path: PathBuf, digest: Digest) -> Result<Self, BlobError> {
        let file = std::fs::File::open(&path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                BlobError::Missing(digest)
            } else {
                failed(&path, error)
            }
        })?;
        Ok(Self { file, path, digest, hasher: Sha256::new() })
    }
}

impl std::io::Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        if let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) {
            self.hasher.update(read);
        } else if !buffer.is_empty() && Digest(self.hasher.clone().finalize().into()) != self.digest {
            if let Err(error) = std::fs::rename(&self.path, self.path.with_extension("damaged")) {
                tracing::error!(path = %self.path.display(), error = %error, "damaged content could not be set aside");
            }
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                BlobError::Damaged(self.digest),
            ));
        }
        Ok(count)
    }
}

impl Verified {
    /// The next bytes; nothing at the end.
    fn chunk<'a>(&mut self, buffer: &'a mut [u8]) -> Result<&'a [u8], BlobError> {
        let count = self.read(buffer).map_err(|error| {
            let damaged = error.kind() == std::io::ErrorKind::InvalidData;
            if damaged { BlobError::Damaged(self.digest) } else { failed(&self.path, error) }
        })?;
        Ok(buffer.get(..count).unwrap_or_default())
    }
}

/// [`BlobReader`] of a folder.
pub(super) struct FileReader(Option<Verified>);

impl FileReader {
    pub(super) fn new(content: Verified) -> Self {
        Self(Some(content))
    }
}

#[async_trait]
impl BlobReader for FileReader {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let Some(mut content) = self.0.take() else { return Ok(None) };
        let read = blocking(move || {
            let mut buffer = vec![0; CHUNK];
            let count = content.chunk(&mut buffer)?.len();
            buffer.truncate(count);
            Ok((content, buffer))
        });
        let (content, chunk) = read.await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        self.0 = Some(content);
        Ok(Some(chunk.into()))
    }
}

/// Copies content to `to` while verifying it, `limit` bytes at most.
pub(super) fn copy_verified(
    path: &Path,
    digest: Digest,
    to: &mut dyn std::io::Write,
    limit: u64,
) -> Result<(), BlobError> {
    let mut from = Verified::open(path.to_owned(), digest)?;
    let mut buffer = vec![0; CHUNK];
    let mut left = limit;
    loop {
        let chunk = from.chunk(&mut buffer)?;
        if chunk.is_empty() {
            return Ok(());
        }
        left = left.checked_sub(chunk.len() as u64).ok_or(BlobError::TooLarge(limit))?;
        to.write_all(chunk).map_err(|error| failed(path, error))?;
    }
}
