//! A site's files on their way from its image in the registry into a zip in Blob Storage.
//!
//! They pass through a thread that unpacks and packs, part by part, so that their size costs time and no memory.

use std::cell::Cell;
use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;
use zip::ZipWriter;

use super::context::{Blocks, ContextError};
use super::registry::Session;
use super::registry_door::RegistryError;
use super::registry_image::Unusable;
use super::site_files::{Files, PackError};
use crate::deploy::ids::Digest;
use crate::deploy::image::{Descriptor, Platform};

/// Bytes that are asked for at once, and bytes of a block.
const PART: u64 = 4 << 20;
const BLOCK: usize = 4 << 20;
/// Blocks that wait to be sent.
const WAITING: usize = 2;

type Out = Sender<Result<Bytes, ContextError>>;

/// Where the files of a site are.
pub(super) struct Image {
    pub(super) session: Session,
    pub(super) repository: String,
    /// Bottom first.
    pub(super) layers: Vec<Descriptor>,
}

/// How much was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) files: usize,
    pub(super) bytes: u64,
}

impl Image {
    /// The image of this digest.
    pub(super) async fn find(
        session: Session,
        repository: String,
        digest: Digest,
        platform: &Platform,
    ) -> Result<Self, PackError> {
        let found = session.image(&repository, &format!("sha256:{digest}"), platform).await;
        let layers = found.map(|found| found.layers).map_err(|error| match error {
            Unusable::Registry(error) => PackError::Registry(error),
            Unusable::Image(why) => PackError::Image(format!("it {why}")),
        })?;
        Ok(Self { session, repository, layers })
    }

    /// Begins to pack files of at most so many bytes: the zip in blocks, and what became of it.
    pub(super) fn zip(self, most_bytes: u64) -> (Blocks, JoinHandle<Result<Packed, PackError>>) {
        let (out, blocks) = channel(WAITING);
        let handle = Handle::current();
        let packing = tokio::task::spawn_blocking(move || {
            let packed = self.pack(&handle, &out, most_bytes);
            if packed.is_err() {
                // A zip that lacks its end must not become one.
                let cut = ContextError::Pack(io::Error::other("the zip was not finished"));
                drop(out.blocking_send(Err(cut)));
            }
            packed
        });
        let blocks =
            stream::unfold(
                blocks,
                |mut blocks| async move { blocks.recv().await.map(|block| (block, blocks)) },
            );
        (blocks.boxed(), packing)
    }

    fn pack(&self, handle: &Handle, out: &Out, most_bytes: u64) -> Result<Packed, PackError> {
        let mut zip = ZipWriter::new_stream(Sink { out: out.clone(), block: Vec::new() });
        let mut files = Files::new(most_bytes);
        for layer in self.layers.iter().rev() {
            let failed = Cell::new(None);
            let mut remote = Remote {
                image: self,
                layer,
                handle,
                out,
                at: 0,
                part: Bytes::new(),
                hasher: Sha256::new(),
                failed: &failed,
            };
            let more = opened(&layer.media, &mut remote)
                .map_err(PackError::Io)
                .and_then(|mut opened| files.take(opened.as_mut(), &mut zip));
            // Whatever lies behind the archive counts for the digest.
            let more = more.and_then(|more| Ok(io::copy(&mut remote, &mut io::sink()).map(|_| more)?));
            let digest = Digest(remote.hasher.finalize().into());
            if let Some(error) = failed.take() {
                return Err(error);
            }
            let more = more?;
            if digest != layer.digest {
                return Err(PackError::Image(format!("a layer is not sha256:{}", layer.digest)));
            }
            if !more {
                break;
            }
        }
        if files.files == 0 {
            return Err(PackError::Unfit("its image has no files where sites are".to_owned()));
        }
        drop(zip.finish()?);
        Ok(Packed { files: files.files, bytes: files.bytes })
    }
}

/// A layer that is read from the registry.
struct Remote<'a> {
    image: &'a Image,
    layer: &'a Descriptor,
    handle: &'a Handle,
    out: &'a Out,
    at: u64,
    part: Bytes,
    hasher: Sha256,
    /// What readers around this one would hide.
    failed: &'a Cell<Option<PackError>>,
}

impl Remote<'_> {
    fn fail(&self, error: PackError) -> io::Error {
        self.failed.set(Some(error));
        io::Error::other("the layer cannot be read")
    }

    fn ask(&self, to: u64) -> Result<Bytes, RegistryError> {
        let asked = self.image.session.part(&self.image.repository, self.layer.digest, (self.at, to));
        self.handle.block_on(asked)
    }
}

impl Read for Remote<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.part.is_empty() && self.at < self.layer.size {
            if self.out.is_closed() {
                return Err(self.fail(PackError::Gone));
            }
            let to = self.layer.size.min(self.at.saturating_add(PART));
            self.part = self.ask(to).map_err(|error| self.fail(PackError::Registry(error)))?;
            if self.part.is_empty() {
                return Err(self.fail(PackError::Image("a layer came cut short".to_owned())));
            }
            self.hasher.update(&self.part);
            self.at = self.at.saturating_add(self.part.len() as u64);
        }
        let mut rest: &[u8] = self.part.as_ref();
        let taken = rest.read(into)?;
        self.part.advance(taken);
        Ok(taken)
    }
}

/// Reads what is in a layer of this media type.
fn opened<'a>(media: &str, layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(if media.ends_with("+gzip") {
        Box::new(MultiGzDecoder::new(layer))
    } else if media.ends_with("+zstd") {
        Box::new(zstd::Decoder::new(layer)?)
    } else {
        Box::new(layer)
    })
}

/// Cuts what is written into blocks. It takes everything, because a zip that is given up still writes its end; nobody
/// stores that.
struct Sink {
    out: Out,
    block: Vec<u8>,
}

impl Sink {
    fn send(&mut self) {
        let block = std::mem::take(&mut self.block);
        drop(self.out.blocking_send(Ok(block.into())));
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block.extend_from_slice(bytes);
        if self.block.len() >= BLOCK {
            self.send();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.block.is_empty() {
            self.send();
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn layers_are_read_in_each_form_that_builders_write() {
        let text = "some content".repeat(50);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
        for (media, bytes) in [
            ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish().unwrap()),
            ("application/vnd.oci.image.layer.v1.tar+zstd", zstd),
            ("application/vnd.oci.image.layer.v1.tar", text.clone().into_bytes()),
        ] {
            let mut found = String::new();
            opened(media, bytes.as_slice()).unwrap().read_to_string(&mut found).unwrap();
            assert_eq!(found, text, "{media}");
        }
    }
}
