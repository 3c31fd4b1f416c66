//! Content in a folder: written beside, made durable, renamed into place, and verified on every read.

use std::collections::HashSet;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::verified::{FileReader, Verified, copy_verified};
use crate::ambient::before;
use crate::deploy::blobs::{BlobError, BlobReader, BlobWriter, Blobs, RENEW_AFTER};
use crate::deploy::ids::{Digest, Name};
use crate::deploy::source::Manifest;

/// [`Blobs`] in a folder. Each organization has its own part, so that nobody can probe for another's content.
#[derive(Clone)]
pub struct FileBlobs {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    next: AtomicU64,
    /// Held while a content's age decides whether it goes, and while that age or the content changes.
    ages: Mutex<()>,
}

impl Inner {
    fn ages(&self) -> MutexGuard<'_, ()> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is content at `path`; see [`Blobs::missing`].
    fn found(&self, path: &Path, now: Timestamp) -> Result<bool, BlobError> {
        let _alone = self.ages();
        let stored = match std::fs::metadata(path) {
            Ok(meta) => meta.mtime(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(path, error)),
        };
        if stored < before(now, RENEW_AFTER).as_second() {
            let renewed = std::fs::File::open(path).and_then(|file| file.set_modified(now.into()));
            renewed.map_err(|error| failed(path, error))?;
        }
        Ok(true)
    }

    /// Puts a written file where content lies, over what is there.
    fn place(&self, file: &Path, path: &Path) -> std::io::Result<()> {
        let _alone = self.ages();
        std::fs::rename(file, path)
    }

    /// Moves a written file into place so that a crash leaves all of it or nothing.
    fn settle(&self, temporary: &Path, path: &Path) -> Result<(), BlobError> {
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        self.place(temporary, path).map_err(|error| failed(path, error))?;
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed(folder, error))
    }

    /// Removes content that was stored before `before`, or only looks, and gives its size; `None` when it is younger.
    fn remove(&self, path: &Path, before: Timestamp, dry: bool) -> Result<Option<u64>, BlobError> {
        let _alone = self.ages();
        let meta = std::fs::metadata(path).map_err(|error| failed(path, error))?;
        if meta.mtime() >= before.as_second() {
            return Ok(None);
        }
        if !dry {
            std::fs::remove_file(path).map_err(|error| failed(path, error))?;
        }
        Ok(Some(meta.len()))
    }
}

impl FileBlobs {
    /// Content below `root`, which is made if need be. What an interrupted write left is removed.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] when the folder cannot be used.
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let incoming = root.join("incoming");
        if incoming.exists() {
            std::fs::remove_dir_all(&incoming).map_err(|error| failed(&incoming, error))?;
        }
        std::fs::create_dir_all(&incoming).map_err(|error| failed(&incoming, error))?;
        let (root, next) = (root.to_owned(), AtomicU64::new(0));
        Ok(Self { inner: Arc::new(Inner { root, next, ages: Mutex::default() }) })
    }

    /// Where content lies, whether or not it does.
    fn path(&self, org: &Name, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        let (head, rest) = hex.split_at(2);
        self.folder(org).join(head).join(rest)
    }

    fn folder(&self, org: &Name) -> PathBuf {
        let owner = Digest::of(org.as_str().as_bytes()).to_string();
        self.inner.root.join(owner.get(..16).unwrap_or_default())
    }

    fn incoming(&self) -> PathBuf {
        self.inner.root.join("incoming").join(self.inner.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Takes a finished file over as content, and gives its digest and size.
    ///
    /// # Errors
    /// [`BlobError::Full`] or [`BlobError::Unavailable`]; the file is then where it was.
    pub fn adopt(&self, org: &Name, file: &Path, digest: Digest) -> Result<(), BlobError> {
        self.inner.settle(file, &self.path(org, digest))
    }

    /// Writes all beside, makes them durable with one sync of the file system, and renames them into place.
    fn keep_batch(&self, org: &Name, contents: &[(Digest, Bytes)], batch: &Path) -> Result<(), BlobError> {
        std::fs::create_dir_all(batch).map_err(|error| failed(batch, error))?;
        for (digest, content) in contents {
            let path = batch.join(digest.to_string());
            let mut file = create(&path)?;
            file.write_all(content).map_err(|error| failed(&path, error))?;
        }
        sync_all(batch)?;
        for (digest, _) in contents {
            let path = self.path(org, *digest);
            let folder = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
            match self.inner.place(&batch.join(digest.to_string()), &path) {
                // Twice in one batch.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.exists() => {}
                renamed => renamed.map_err(|error| failed(&path, error))?,
            }
        }
        sync_all(batch)
    }

    /// Opens content for reading, to its end and verified.
    ///
    /// # Errors
    /// [`BlobError`] when it is not there or cannot be read.
    pub(super) fn open_verified(&self, org: &Name, digest: Digest) -> Result<Verified, BlobError> {
        Verified::open(self.path(org, digest), digest)
    }
}

pub(super) fn failed(path: &Path, source: std::io::Error) -> BlobError {
    if source.kind() == std::io::ErrorKind::StorageFull {
        return BlobError::Full;
    }
    BlobError::Unavailable { path: path.display().to_string(), source }
}

fn create(path: &Path) -> Result<std::fs::File, BlobError> {
    let created = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    created.map_err(|error| failed(path, error))
}

/// Waits until everything that was written to the file system of `folder` is on its disk.
fn sync_all(folder: &Path) -> Result<(), BlobError> {
    let file = std::fs::File::open(folder).map_err(|error| failed(folder, error))?;
    rustix::fs::syncfs(&file).map_err(|error| failed(folder, error.into()))
}

struct FileWriter {
    inner: Arc<Inner>,
    file: std::fs::File,
    temporary: PathBuf,
    path: PathBuf,
    hasher: Sha256,
    digest: Digest,
    left: u64,
    limit: u64,
}

#[async_trait]
impl BlobWriter for FileWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or(BlobError::TooLarge(self.limit))?;
        self.hasher.update(&chunk);
        self.file.write_all(&chunk).map_err(|error| failed(&self.temporary, error))
    }

    async fn finish(mut self: Box<Self>) -> Result<(), BlobError> {
        let found = Digest(std::mem::take(&mut self.hasher).finalize().into());
        if found != self.digest {
            return Err(BlobError::Mismatch { expected: self.digest, found });
        }
        let sync = self.file.try_clone().map_err(|error| failed(&self.temporary, error))?;
        let (temporary, path) = (self.temporary.clone(), self.path.clone());
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            sync.sync_all().map_err(|error| failed(&temporary, error))?;
            inner.settle(&temporary, &path)
        })
        .await
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // Settled content has been renamed away; what is left of a failed write is garbage.
        if let Err(error) = std::fs::remove_file(&self.temporary)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.temporary.display(), error = %error, "a temporary file could not be removed");
        }
    }
}

/// Runs work that waits for the disk where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(BlobError::Unavailable { path: String::new(), source: std::io::Error::other(error) })
        }
    }
}

#[async_trait]
impl Blobs for FileBlobs {
    async fn missing(
        &self,
        org: &Name,
        digests: &[Digest],
        now: Timestamp,
    ) -> Result<Vec<Digest>, BlobError> {
        let paths: Vec<(Digest, PathBuf)> =
            digests.iter().map(|digest| (*digest, self.path(org, *digest))).collect();
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let mut missing = Vec::new();
            for (digest, path) in paths {
                if !inner.found(&path, now)? {
                    missing.push(digest);
                }
            }
            Ok(missing)
        })
        .await
    }

    async fn writer(&self, org: &Name, digest: Digest, limit: u64) -> Result<Box<dyn BlobWriter>, BlobError> {
        let temporary = self.incoming();
        let file = create(&temporary)?;
        let path = self.path(org, digest);
        let inner = Arc::clone(&self.inner);
        let hasher = Sha256::new();
        Ok(Box::new(FileWriter { inner, file, temporary, path, hasher, digest, left: limit, limit }))
    }

    async fn keep_all(&self, org: &Name, contents: Vec<(Digest, Bytes)>) -> Result<(), BlobError> {
        let (blobs, org) = (self.clone(), org.clone());
        blocking(move || {
            if let Some((expected, content)) = contents.iter().find(|(digest, content)| Digest::of(content) != *digest) {
                return Err(BlobError::Mismatch { expected: *expected, found: Digest::of(content) });
            }
            let batch = blobs.incoming();
            let written = blobs.keep_batch(&org, &contents, &batch);
            // Settled content has been renamed away; what is left of a failed batch is garbage.
            if let Err(error) = std::fs::remove_dir_all(&batch) {
                tracing::warn!(path = %batch.display(), error = %error, "a temporary folder could not be removed");
            }
            written
        })
        .await
    }

    async fn read(&self, org: &Name, digest: Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let path = self.path(org, digest);
        blocking(move || {
            let mut content = Vec::new();
            copy_verified(&path, digest, &mut content, limit)?;
            Ok(content)
        })
        .await
    }

    async fn reader(&self, org: &Name, digest: Digest) -> Result<Box<dyn BlobReader>, BlobError> {
        Ok(Box::new(FileReader::new(self.open_verified(org, digest)?)))
    }

    async fn materialise(&self, org: &Name, manifest: &Manifest, root: &Path) -> Result<(), BlobError> {
        let files: Vec<_> =
            manifest.files().iter().map(|file| (self.path(org, file.sha256), file.clone())).collect();
        let root = root.to_owned();
        blocking(move || {
            let mut made = HashSet::new();
            for (from, file) in files {
                let to = root.join(&file.path);
                let folder = to.parent().unwrap_or(&root);
                if made.insert(folder.to_owned()) {
                    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
                }
                let mut out = std::fs::File::create(&to).map_err(|error| failed(&to, error))?;
                copy_verified(&from, file.sha256, &mut out, file.size)?;
                out.set_permissions(std::fs::Permissions::from_mode(file.mode))
                    .map_err(|error| failed(&to, error))?;
            }
            Ok(())
        })
        .await
    }

    async fn retain(
        &self,
        org: &Name,
        keep: HashSet<Digest>,
        before: Timestamp,
        dry: bool,
    ) -> Result<(u64, u64), BlobError> {
        let (root, inner) = (self.folder(org), Arc::clone(&self.inner));
        blocking(move || {
            let (mut count, mut bytes) = (0, 0);
            for head in entries(&root)? {
                for entry in entries(&head.path())? {
                    let name = format!("{}{}", head.file_name().display(), entry.file_name().display());
                    let kept = name.parse().is_ok_and(|digest| keep.contains(&digest));
                    if kept {
                        continue;
                    }
                    if let Some(size) = inner.remove(&entry.path(), before, dry)? {
                        count += 1;
                        bytes += size;
                    }
                }
            }
            Ok((count, bytes))
        })
        .await
    }
}

/// What is in a folder; nothing when it does not exist.
fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>, BlobError> {
    match std::fs::read_dir(folder).and_then(Iterator::collect) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|error| failed(folder, error)),
    }
}
