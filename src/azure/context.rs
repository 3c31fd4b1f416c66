//! What a build service is given: the source as a tar.gz, with a Dockerfile for projects that have none.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::deploy::blobs::{BlobError, Blobs};
use crate::deploy::detect::{Kind, Plan};
use crate::deploy::dockerfile::dockerfile;
use crate::deploy::ids::Name;
use crate::deploy::source::Manifest;

/// Compressed bytes of a context; it is held in memory once.
const MOST_BYTES: usize = 512 * 1024 * 1024;
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

/// A packed source and the Dockerfile in it that is built.
pub struct BuildContext {
    /// tar.gz.
    pub bytes: Vec<u8>,
    /// Relative to the context.
    pub dockerfile: &'static str,
}

pub(super) fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

/// Packs the source; the same source and plan give the same bytes.
///
/// # Errors
/// [`ContextError`].
pub async fn context(
    blobs: &dyn Blobs,
    org: &Name,
    manifest: &Manifest,
    plan: &Plan,
) -> Result<BuildContext, ContextError> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for file in manifest.files() {
        let content = blobs.read(org, file.sha256, file.size).await?;
        tar.append_data(&mut header(content.len() as u64, file.mode), &file.path, content.as_slice())?;
        if tar.get_ref().get_ref().len() > MOST_BYTES {
            return Err(ContextError::TooLarge);
        }
    }
    let own = plan.kind == Kind::Docker;
    if !own {
        let text = dockerfile(plan, &|name| manifest.get(name).is_some());
        tar.append_data(&mut header(text.len() as u64, 0o644), OURS, text.as_bytes())?;
    }
    let mut gzip = tar.into_inner()?;
    gzip.flush()?;
    Ok(BuildContext { bytes: gzip.finish()?, dockerfile: if own { "Dockerfile" } else { OURS } })
}
