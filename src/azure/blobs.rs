//! Content by its digest in Blob Storage. Large content comes in blocks that become a blob only when the digest is right.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use azure_core::http::{AsyncResponseBody, StatusCode};
use azure_core::time::OffsetDateTime;
use azure_storage_blob::models::{
    BlobClientDeleteOptions, BlobClientDownloadOptions, BlobClientGetPropertiesResultHeaders as _,
    BlobClientUploadOptions, BlobContainerClientListBlobsOptions, BlockLookupList,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlockBlobClient};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::ambient::before;
use crate::deploy::blobs::{BlobError, BlobReader, BlobWriter, Blobs, RENEW_AFTER};
use crate::deploy::ids::{Digest, Name};
use crate::deploy::source::{FileEntry, Manifest};

/// Bytes of one block; a blob has 50 000 at most.
const BLOCK: usize = 4 * 1024 * 1024;
/// Requests under way at the same time.
const AT_ONCE: usize = 32;

/// [`Blobs`] in a container of Blob Storage.
#[derive(Clone)]
pub struct AzureBlobs {
    container: std::sync::Arc<BlobContainerClient>,
}

fn unavailable(path: &str, error: azure_core::Error) -> BlobError {
    BlobError::Unavailable { path: path.to_owned(), source: std::io::Error::other(error) }
}

fn local(path: &Path) -> impl Fn(std::io::Error) -> BlobError {
    let path = path.display().to_string();
    move |source| {
        if source.kind() == std::io::ErrorKind::StorageFull {
            BlobError::Full
        } else {
            BlobError::Unavailable { path: path.clone(), source }
        }
    }
}

fn is_missing(error: &azure_core::Error) -> bool {
    error.http_status() == Some(StatusCode::NotFound)
}

fn is_changed(error: &azure_core::Error) -> bool {
    error.http_status() == Some(StatusCode::PreconditionFailed)
}

fn digest_of(hasher: Sha256) -> Digest {
    Digest(hasher.finalize().into())
}

impl AzureBlobs {
    /// Content in this container.
    #[must_use]
    pub fn new(container: BlobContainerClient) -> Self {
        Self { container: std::sync::Arc::new(container) }
    }

    fn blob(&self, org: &Name, digest: Digest) -> BlobClient {
        self.container.blob_client(&path(org, digest))
    }

    /// Whether it is stored; see [`Blobs::missing`].
    async fn found(&self, org: &Name, digest: Digest, now: Timestamp) -> Result<bool, BlobError> {
        let (blob, name) = (self.blob(org, digest), path(org, digest));
        let failed = |error| unavailable(&name, error);
        let properties = match blob.get_properties(None).await {
            Ok(properties) => properties,
            Err(error) if is_missing(&error) => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let stored = properties.last_modified().map_err(failed)?.map(OffsetDateTime::unix_timestamp);
        if stored.is_some_and(|at| at >= before(now, RENEW_AFTER).as_second()) {
            return Ok(true);
        }
        // Sets nothing but the time of the last change.
        match blob.set_metadata(&HashMap::new(), None).await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn open(&self, org: &Name, digest: Digest) -> Result<Reading, BlobError> {
        let (blob, name) = (self.blob(org, digest), path(org, digest));
        let options = BlobClientDownloadOptions {
            parallel: std::num::NonZero::new(1),
            ..BlobClientDownloadOptions::default()
        };
        match blob.download(Some(options)).await {
            Ok(answer) => Ok(Reading { body: answer.body, hasher: Sha256::new(), blob, name, digest }),
            Err(error) if is_missing(&error) => Err(BlobError::Missing(digest)),
            Err(error) => Err(unavailable(&name, error)),
        }
    }

    async fn write_file(&self, org: &Name, file: &FileEntry, path: PathBuf) -> Result<(), BlobError> {
        let failed = local(&path);
        let mut target = tokio::fs::File::create(&path).await.map_err(&failed)?;
        let mut content = self.open(org, file.sha256).await?;
        while let Some(chunk) = content.next().await? {
            target.write_all(&chunk).await.map_err(&failed)?;
        }
        target.flush().await.map_err(&failed)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(file.mode);
        target.set_permissions(mode).await.map_err(&failed)
    }
}

/// Content on its way out, verified when it is over.
struct Reading {
    body: AsyncResponseBody,
    hasher: Sha256,
    blob: BlobClient,
    name: String,
    digest: Digest,
}

#[async_trait]
impl BlobReader for Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let chunk = self.body.try_next().await.map_err(|error| unavailable(&self.name, error))?;
        if let Some(chunk) = chunk {
            self.hasher.update(&chunk);
            return Ok(Some(chunk));
        }
        if digest_of(std::mem::take(&mut self.hasher)) == self.digest {
            return Ok(None);
        }
        // Deleted, so that it is found missing and comes again.
        self.blob.delete(None).await.map_err(|error| unavailable(&self.name, error))?;
        Err(BlobError::Damaged(self.digest))
    }
}

fn path(org: &Name, digest: Digest) -> String {
    format!("{org}/{digest}")
}

#[async_trait]
impl Blobs for AzureBlobs {
    async fn missing(
        &self,
        org: &Name,
        digests: &[Digest],
        now: Timestamp,
    ) -> Result<Vec<Digest>, BlobError> {
        let looks = stream::iter(digests.to_vec())
            .map(|digest| async move { Ok((digest, self.found(org, digest, now).await?)) })
            .buffered(AT_ONCE);
        let found: Vec<(Digest, bool)> = looks.try_collect().await?;
        Ok(found.into_iter().filter(|(_, exists)| !exists).map(|(digest, _)| digest).collect())
    }

    async fn writer(&self, org: &Name, digest: Digest, limit: u64) -> Result<Box<dyn BlobWriter>, BlobError> {
        Ok(Box::new(Writer {
            blob: self.blob(org, digest),
            name: path(org, digest),
            digest,
            left: limit,
            limit,
            hasher: Sha256::new(),
            block: BytesMut::new(),
            blocks: Vec::new(),
            mark: rand::random(),
        }))
    }

    async fn keep_all(&self, org: &Name, contents: Vec<(Digest, Bytes)>) -> Result<(), BlobError> {
        for (expected, content) in &contents {
            let found = Digest::of(content);
            if found != *expected {
                return Err(BlobError::Mismatch { expected: *expected, found });
            }
        }
        let uploads = stream::iter(contents)
            .map(|(digest, content)| async move {
                let name = path(org, digest);
                upload(&self.blob(org, digest), content).await.map_err(|error| unavailable(&name, error))
            })
            .buffer_unordered(AT_ONCE);
        uploads.try_collect::<Vec<()>>().await.map(drop)
    }

    async fn read(&self, org: &Name, digest: Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let (mut content, mut source) = (Vec::new(), self.open(org, digest).await?);
        while let Some(chunk) = source.next().await? {
            content.extend_from_slice(&chunk);
            if content.len() as u64 > limit {
                return Err(BlobError::TooLarge(limit));
            }
        }
        Ok(content)
    }

    async fn reader(&self, org: &Name, digest: Digest) -> Result<Box<dyn BlobReader>, BlobError> {
        Ok(Box::new(self.open(org, digest).await?))
    }

    async fn materialise(&self, org: &Name, manifest: &Manifest, root: &Path) -> Result<(), BlobError> {
        let folders: HashSet<PathBuf> = manifest
            .files()
            .iter()
            .filter_map(|file| root.join(&file.path).parent().map(Path::to_owned))
            .chain([root.to_owned()])
            .collect();
        for folder in folders {
            tokio::fs::create_dir_all(&folder).await.map_err(local(&folder))?;
        }
        let files = stream::iter(manifest.files().to_vec())
            .map(|file| async move { self.write_file(org, &file, root.join(&file.path)).await })
            .buffer_unordered(AT_ONCE);
        files.try_collect::<Vec<()>>().await.map(drop)
    }

    async fn retain(
        &self,
        org: &Name,
        keep: HashSet<Digest>,
        before: Timestamp,
        dry: bool,
    ) -> Result<(u64, u64), BlobError> {
        let prefix = format!("{org}/");
        let failed = |error| unavailable(&prefix, error);
        let options = BlobContainerClientListBlobsOptions {
            prefix: Some(prefix.clone()),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut items = self.container.list_blobs(Some(options)).map_err(failed)?;
        let (mut number, mut bytes) = (0, 0);
        while let Some(item) = items.try_next().await.map_err(failed)? {
            let digest =
                item.name.as_deref().and_then(|name| name.strip_prefix(&prefix)?.parse::<Digest>().ok());
            let properties = item.properties.unwrap_or_default();
            let stored = properties.last_modified.map(OffsetDateTime::unix_timestamp);
            let old = stored.is_some_and(|at| at < before.as_second());
            let Some(digest) = digest.filter(|digest| old && !keep.contains(digest)) else { continue };
            if !dry {
                let unchanged = BlobClientDeleteOptions {
                    if_unmodified_since: properties.last_modified,
                    ..BlobClientDeleteOptions::default()
                };
                match self.blob(org, digest).delete(Some(unchanged)).await {
                    Ok(_) => {}
                    // Somebody found it in this moment, or it is gone.
                    Err(error) if is_changed(&error) || is_missing(&error) => continue,
                    Err(error) => return Err(failed(error)),
                }
            }
            number += 1;
            bytes += properties.content_length.unwrap_or_default();
        }
        Ok((number, bytes))
    }
}

async fn upload(blob: &BlobClient, content: Bytes) -> azure_core::Result<()> {
    blob.upload(content.into(), Some(BlobClientUploadOptions::default())).await.map(drop)
}

/// Sends a block under an id, which it gives back; nobody sees it before [`commit`].
pub(super) async fn stage(blob: &BlockBlobClient, id: String, block: Bytes) -> azure_core::Result<Vec<u8>> {
    let id = id.into_bytes();
    blob.stage_block(&id, block.len() as u64, block.into(), None).await?;
    Ok(id)
}

/// Makes the blob of these blocks, in this order.
pub(super) async fn commit(blob: &BlockBlobClient, ids: Vec<Vec<u8>>) -> azure_core::Result<()> {
    let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
    blob.commit_block_list(list.try_into()?, None).await.map(drop)
}

struct Writer {
    blob: BlobClient,
    name: String,
    digest: Digest,
    left: u64,
    limit: u64,
    hasher: Sha256,
    block: BytesMut,
    blocks: Vec<Vec<u8>>,
    /// Keeps the blocks of two uploads of the same content apart.
    mark: u64,
}

impl Writer {
    async fn stage(&mut self) -> Result<(), BlobError> {
        let block = self.block.split().freeze();
        let id = format!("{:016x}{:08}", self.mark, self.blocks.len());
        let staged = stage(&self.blob.block_blob_client(), id, block).await;
        self.blocks.push(staged.map_err(|error| unavailable(&self.name, error))?);
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or(BlobError::TooLarge(self.limit))?;
        self.hasher.update(&chunk);
        self.block.extend_from_slice(&chunk);
        if self.block.len() >= BLOCK { self.stage().await } else { Ok(()) }
    }

    async fn finish(mut self: Box<Self>) -> Result<(), BlobError> {
        let found = digest_of(std::mem::take(&mut self.hasher));
        if found != self.digest {
            // Blocks that never become a blob are deleted by the service after a week.
            return Err(BlobError::Mismatch { expected: self.digest, found });
        }
        let sent = if self.blocks.is_empty() {
            upload(&self.blob, self.block.split().freeze()).await
        } else {
            if !self.block.is_empty() {
                self.stage().await?;
            }
            commit(&self.blob.block_blob_client(), std::mem::take(&mut self.blocks)).await
        };
        sent.map_err(|error| unavailable(&self.name, error))
    }
}
