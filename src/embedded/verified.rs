//! Content of a folder on its way out.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::files::failed;
use crate::deploy::blobs::BlobError;
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
        let count = from.read(&mut buffer).map_err(|error| {
            let damaged = error.kind() == std::io::ErrorKind::InvalidData;
            if damaged { BlobError::Damaged(digest) } else { failed(path, error) }
        })?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { return Ok(()) };
        left = left.checked_sub(count as u64).ok_or(BlobError::TooLarge(limit))?;
        to.write_all(chunk).map_err(|error| failed(path, error))?;
    }
}
