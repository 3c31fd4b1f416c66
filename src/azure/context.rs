//! What a build service is given: the source as a tar.gz, with a Dockerfile for projects that have none.
//!
//! It is packed while it is read and leaves in blocks, so that its size costs time and no memory.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use crate::deploy::blobs::{BlobError, BlobReader, Blobs};
use crate::deploy::detect::{Kind, Plan};
use crate::deploy::dockerfile::dockerfile;
use crate::deploy::ids::Name;
use crate::deploy::source::{FileEntry, Manifest};

/// Compressed bytes after which a block leaves.
const BLOCK: usize = 4 * 1024 * 1024;
/// Compressed bytes of a context.
const MOST_BYTES: u64 = 1 << 30;
/// Files of at most so many bytes are read ahead, so many at a time; larger ones are read in pieces.
const SMALL: u64 = 1 << 20;
const AHEAD: usize = 32;
/// Bytes to which an archive fills up the content of a file.
const RECORD: u64 = 512;
/// Name of a Dockerfile that is ours.
const OURS: &str = ".windlass.Dockerfile";

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The content.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// It cannot be packed.
    #[error("the source cannot be packed for the build")]
    Pack(#[from] std::io::Error),
    /// Too much.
    #[error("the source has more than {MOST_BYTES} compressed bytes, which the build service is not given")]
    TooLarge,
}

/// Pieces of an archive, in order.
pub type Blocks = BoxStream<'static, Result<Bytes, ContextError>>;

/// A source on its way to a build, and the Dockerfile in it that is built.
pub struct BuildContext {
    /// tar.gz. Nothing is read before it is asked for, but for the next few small files.
    pub blocks: Blocks,
    /// Relative to the context.
    pub dockerfile: &'static str,
}

/// The header of a file: no time, no owner, so that the same files make the same archive.
pub(super) fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

/// A file whose turn comes soon.
enum Next {
    Read(FileEntry, Vec<u8>),
    Large(FileEntry),
}

/// A large file that is being packed.
struct Open {
    reader: Box<dyn BlobReader>,
    size: u64,
    left: u64,
}

struct Packing {
    blobs: Arc<dyn Blobs>,
    org: Name,
    files: BoxStream<'static, Result<Next, BlobError>>,
    open: Option<Open>,
    tar: tar::Builder<GzEncoder<Vec<u8>>>,
    /// The Dockerfile that is ours.
    ours: Option<String>,
    given: u64,
}

/// Packs the source; the same source and plan give the same archive.
#[must_use]
pub fn context(blobs: &Arc<dyn Blobs>, org: &Name, manifest: &Manifest, plan: &Plan) -> BuildContext {
    let own = plan.kind == Kind::Docker;
    let (store, owner) = (Arc::clone(blobs), org.clone());
    let files = stream::iter(manifest.files().to_vec()).map(move |file| {
        let (blobs, org) = (Arc::clone(&store), owner.clone());
        async move {
            if file.size > SMALL {
                return Ok::<Next, BlobError>(Next::Large(file));
            }
            let content = blobs.read(&org, file.sha256, file.size).await?;
            Ok(Next::Read(file, content))
        }
    });
    let packing = Box::new(Packing {
        blobs: Arc::clone(blobs),
        org: org.clone(),
        files: files.buffered(AHEAD).boxed(),
        open: None,
        tar: tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast())),
        ours: (!own).then(|| dockerfile(plan, &|name| manifest.get(name).is_some())),
        given: 0,
    });
    let blocks = stream::try_unfold(Some(packing), |packing| async move {
        match packing {
            Some(packing) => packing.block().await,
            None => Ok(None),
        }
    });
    BuildContext { blocks: blocks.boxed(), dockerfile: if own { "Dockerfile" } else { OURS } }
}

impl Packing {
    /// The next block, and who makes the one after it; nobody does after the last one.
    async fn block(mut self: Box<Self>) -> Result<Option<(Bytes, Option<Box<Self>>)>, ContextError> {
        while self.tar.get_ref().get_ref().len() < BLOCK {
            if !self.pack().await? {
                return Ok(Some(((*self).last()?, None)));
            }
        }
        // What the compressor still holds goes into the next block.
        let block = std::mem::take(self.tar.get_mut().get_mut());
        self.given += block.len() as u64;
        if self.given > MOST_BYTES {
            return Err(ContextError::TooLarge);
        }
        Ok(Some((block.into(), Some(self))))
    }

    /// Packs a piece; false when there is none left.
    async fn pack(&mut self) -> Result<bool, ContextError> {
        let misfit = || std::io::Error::other("a file does not have the size that its manifest says");
        if let Some(open) = &mut self.open {
            if let Some(chunk) = open.reader.next().await? {
                open.left = open.left.checked_sub(chunk.len() as u64).ok_or_else(misfit)?;
                self.tar.get_mut().write_all(&chunk)?;
                return Ok(true);
            }
            if open.left > 0 {
                return Err(misfit().into());
            }
            let size = open.size;
            self.open = None;
            self.fill_up(size)?;
            return Ok(true);
        }
        match self.files.next().await.transpose()? {
            Some(Next::Read(file, content)) => self.whole(&file.path, file.mode, &content)?,
            Some(Next::Large(file)) => {
                self.begin(&file.path, file.size, file.mode)?;
                let reader = self.blobs.reader(&self.org, file.sha256).await?;
                self.open = Some(Open { reader, size: file.size, left: file.size });
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    fn begin(&mut self, path: &str, size: u64, mode: u32) -> std::io::Result<()> {
        let mut header = header(size, mode);
        // The content follows piece by piece.
        self.tar.append_data(&mut header, path, std::io::empty())
    }

    fn fill_up(&mut self, size: u64) -> std::io::Result<()> {
        let gap = (RECORD - size % RECORD) % RECORD;
        std::io::copy(&mut std::io::repeat(0).take(gap), self.tar.get_mut()).map(drop)
    }

    fn whole(&mut self, path: &str, mode: u32, content: &[u8]) -> std::io::Result<()> {
        let size = content.len() as u64;
        self.begin(path, size, mode)?;
        self.tar.get_mut().write_all(content)?;
        self.fill_up(size)
    }

    fn last(mut self) -> Result<Bytes, ContextError> {
        if let Some(text) = self.ours.take() {
            self.whole(OURS, 0o644, text.as_bytes())?;
        }
        Ok(self.tar.into_inner()?.finish()?.into())
    }
}
