//! The layer of an image that has the project's files: the same bytes for the same source.

use std::collections::BTreeSet;
use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};

use super::context::{ContextError, header};
use crate::deploy::blobs::Blobs;
use crate::deploy::detect::{Kind, Plan};
use crate::deploy::dockerfile::{APP, SITE, USER};
use crate::deploy::ids::{Digest, Name};
use crate::deploy::image::AppLayer;
use crate::deploy::source::{FileEntry, Manifest};

/// Files that are read at the same time.
const AT_ONCE: usize = 64;
/// A file of this name hides what the layers below have in its folder (image specification, "Opaque Whiteout").
const OPAQUE: &str = ".wh..wh..opq";

/// A packed layer.
pub(super) struct Packed {
    pub(super) layer: AppLayer,
    pub(super) bytes: Bytes,
    pub(super) files: usize,
}

/// Compresses, and knows the digest of what came in.
struct Sink {
    gzip: GzEncoder<Vec<u8>>,
    diff: Sha256,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.gzip.write(bytes)?;
        self.diff.update(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.gzip.flush()
    }
}

fn owned(size: u64, mode: u32) -> tar::Header {
    let mut header = header(size, mode);
    header.set_uid(u64::from(USER));
    header.set_gid(u64::from(USER));
    header
}

/// The files that are packed, with their paths in the layer.
fn files<'a>(source: &'a Manifest, output: &str) -> Vec<(&'a FileEntry, &'a str)> {
    let prefix = if output == "." { String::new() } else { format!("{output}/") };
    let below = |file: &'a FileEntry| Some((file, file.path.strip_prefix(prefix.as_str())?));
    source.files().iter().filter_map(below).collect()
}

/// Packs what the plan says of the source; none when that is nothing. The folder of a site hides the base's own pages.
pub(super) async fn pack(
    blobs: &dyn Blobs,
    org: &Name,
    source: &Manifest,
    plan: &Plan,
) -> Result<Option<Packed>, ContextError> {
    let files = files(source, &plan.output);
    if files.is_empty() {
        return Ok(None);
    }
    let is_site = plan.kind == Kind::Static;
    let root = if is_site { SITE } else { APP }.trim_start_matches('/');
    let sink = Sink { gzip: GzEncoder::new(Vec::new(), Compression::fast()), diff: Sha256::new() };
    let mut tar = tar::Builder::new(sink);
    for folder in folders(&files, root) {
        let mut header = owned(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
    }
    if is_site {
        tar.append_data(&mut owned(0, 0o644), format!("{root}/{OPAQUE}"), std::io::empty())?;
    }
    let reads: Vec<_> = files.iter().map(|(file, _)| blobs.read(org, file.sha256, file.size)).collect();
    let mut contents = stream::iter(reads).buffered(AT_ONCE);
    for (file, path) in &files {
        let Some(content) = contents.next().await.transpose()? else { break };
        let mut header = owned(content.len() as u64, file.mode);
        tar.append_data(&mut header, format!("{root}/{path}"), content.as_slice())?;
    }
    let Sink { gzip, diff } = tar.into_inner()?;
    let bytes = Bytes::from(gzip.finish()?);
    let layer = AppLayer {
        digest: Digest::of(&bytes),
        diff: Digest(diff.finalize().into()),
        size: bytes.len() as u64,
    };
    Ok(Some(Packed { layer, bytes, files: files.len() }))
}

/// Every folder of the layer below `root`, and itself, each before what is in it.
fn folders(files: &[(&FileEntry, &str)], root: &str) -> BTreeSet<String> {
    let mut folders = BTreeSet::from([root.to_owned()]);
    for (_, path) in files {
        let ends = path.char_indices().filter(|(_, char)| *char == '/');
        folders.extend(ends.filter_map(|(end, _)| path.get(..end)).map(|folder| format!("{root}/{folder}")));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::source::SourceLimits;

    fn source(paths: &[&str]) -> Manifest {
        let file = |path: &&str| FileEntry {
            path: (*path).to_owned(),
            size: 3,
            mode: 0o644,
            sha256: Digest::of(b"abc"),
        };
        Manifest::new(paths.iter().map(file).collect(), &SourceLimits::default()).unwrap()
    }

    #[test]
    fn only_the_output_is_packed_and_folders_come_first() {
        let source = source(&["a", "public/b/c/d", "public/b/e", "public/f", "publicity"]);
        let packed = files(&source, "public");
        assert_eq!(packed.iter().map(|(_, path)| *path).collect::<Vec<_>>(), ["b/c/d", "b/e", "f"]);
        assert_eq!(folders(&packed, "app").into_iter().collect::<Vec<_>>(), ["app", "app/b", "app/b/c"]);
        assert_eq!(files(&source, ".").len(), 5);
        assert!(files(&source, "dist").is_empty());
    }
}
