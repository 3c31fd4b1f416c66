//! Packs a folder into a bundle that is the same bytes for the same files: sorted, fixed times and owners, zstd.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::deploy::builder::Packed;
use crate::deploy::ids::Digest;

/// Fast, and within a tenth of the size of slower levels on source trees.
const LEVEL: i32 = 1;
/// Folders that no app needs at run time.
const NEVER: [&str; 2] = [".git", ".hg"];
/// What cargo leaves beside the programs it made.
const CARGO: [&str; 5] = ["deps", "build", "incremental", ".fingerprint", "examples"];

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It does not exist.
    #[error("the folder `{0}` does not exist after the build")]
    Missing(String),
    /// It contains nothing.
    #[error("the folder `{0}` is empty after the build")]
    Empty(String),
    /// It cannot be read, or the bundle cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> PackError {
    move |source| PackError::Io { path: path.display().to_string(), source }
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        if let Some(written) = bytes.get(..count) {
            self.hasher.update(written);
        }
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Packs `folder`, called `name` in messages, into the new file `bundle`, which is on disk when this returns.
///
/// # Errors
/// [`PackError`]; `bundle` is then not complete.
pub fn pack(folder: &Path, name: &str, bundle: &Path) -> Result<Packed, PackError> {
    // A build may have put a link here: what it leads to outside is none of its output.
    let below = folder.ancestors().nth(if name == "." { 1 } else { name.split('/').count() });
    let real = folder.canonicalize().ok().filter(|real| real.is_dir());
    let root = below.and_then(|root| root.canonicalize().ok());
    let folder = match (&real, root) {
        (Some(real), Some(root)) if real.starts_with(&root) => real.as_path(),
        _ => return Err(PackError::Missing(name.to_owned())),
    };
    let mut paths = Vec::new();
    collect(folder, Path::new(""), &mut paths)?;
    if paths.is_empty() {
        return Err(PackError::Empty(name.to_owned()));
    }
    let file = std::fs::File::create_new(bundle).map_err(io(bundle))?;
    let out = Hashing { inner: std::io::BufWriter::new(file), hasher: Sha256::new(), bytes: 0 };
    let mut encoder = zstd::Encoder::new(out, LEVEL).map_err(io(bundle))?;
    encoder
        .multithread(std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)))
        .map_err(io(bundle))?;
    let mut archive = tar::Builder::new(encoder);
    for path in &paths {
        append(&mut archive, folder, path).map_err(io(&folder.join(path)))?;
    }
    let mut out = archive.into_inner().and_then(zstd::Encoder::finish).map_err(io(bundle))?;
    out.flush().map_err(io(bundle))?;
    let file = out.inner.into_inner().map_err(|error| io(bundle)(error.into_error()))?;
    file.sync_all().map_err(io(bundle))?;
    Ok(Packed { digest: Digest(out.hasher.finalize().into()), bytes: out.bytes, files: paths.len() })
}

/// Every file and link below `folder`, sorted.
fn collect(folder: &Path, below: &Path, paths: &mut Vec<PathBuf>) -> Result<(), PackError> {
    let here = folder.join(below);
    let mut entries: Vec<_> =
        std::fs::read_dir(&here).and_then(Iterator::collect::<std::io::Result<_>>).map_err(io(&here))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), below.join(entry.file_name()));
        let kind = entry.file_type().map_err(io(&entry.path()))?;
        let text = name.to_string_lossy();
        if kind.is_dir() {
            let cargo =
                below.components().any(|part| part.as_os_str() == "target") && CARGO.contains(&&*text);
            if !NEVER.contains(&&*text) && !cargo {
                collect(folder, &path, paths)?;
            }
        } else if kind.is_file() || kind.is_symlink() {
            paths.push(path);
        }
    }
    Ok(())
}

fn append<W: Write>(archive: &mut tar::Builder<W>, folder: &Path, path: &Path) -> std::io::Result<()> {
    let full = folder.join(path);
    let meta = std::fs::symlink_metadata(&full)?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        return archive.append_link(&mut header, path, std::fs::read_link(&full)?);
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
    header.set_size(meta.len());
    archive.append_data(&mut header, path, std::fs::File::open(&full)?.take(meta.len()))
}

/// Unpacks a bundle, verified, into `folder`, which appears complete or not at all.
///
/// # Errors
/// When the bundle is damaged, leaves the folder, or the disk refuses.
pub fn unpack(bundle: impl Read, folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let temporary = folder.with_extension("unpacking");
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary)?;
    }
    std::fs::create_dir_all(&temporary)?;
    let mut archive = tar::Archive::new(zstd::Decoder::new(bundle)?);
    archive.set_preserve_mtime(false);
    archive.set_preserve_permissions(true);
    archive.unpack(&temporary)?;
    std::fs::rename(&temporary, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(folder: &Path) {
        std::fs::create_dir_all(folder.join("b/c")).unwrap();
        std::fs::write(folder.join("a.txt"), "a").unwrap();
        std::fs::write(folder.join("b/c/run.sh"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(folder.join("b/c/run.sh"), std::fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("c/run.sh", folder.join("b/link")).unwrap();
        std::fs::create_dir(folder.join(".git")).unwrap();
        std::fs::write(folder.join(".git/HEAD"), "x").unwrap();
    }

    #[test]
    fn the_same_files_give_the_same_bundle_and_come_back() {
        let home = tempfile::tempdir().unwrap();
        let packed: Vec<Packed> = ["one", "two"]
            .map(|name| {
                let folder = home.path().join(name);
                tree(&folder);
                pack(&folder, ".", &home.path().join(format!("{name}.bundle"))).unwrap()
            })
            .to_vec();
        assert_eq!(packed[0], packed[1]);
        assert_eq!(packed[0].files, 3);
        let bundle = std::fs::read(home.path().join("one.bundle")).unwrap();
        assert_eq!(Digest::of(&bundle), packed[0].digest);
        let back = home.path().join("back");
        unpack(bundle.as_slice(), &back).unwrap();
        assert_eq!(std::fs::read_to_string(back.join("b/link")).unwrap(), "#!/bin/sh\n");
        assert_eq!(std::fs::metadata(back.join("b/c/run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(!back.join(".git").exists());
    }

    #[test]
    fn a_build_that_leaves_nothing_is_told_so() {
        let home = tempfile::tempdir().unwrap();
        let bundle = home.path().join("bundle");
        assert!(matches!(pack(&home.path().join("public"), "public", &bundle), Err(PackError::Missing(_))));
        std::fs::create_dir(home.path().join("empty")).unwrap();
        assert!(matches!(pack(&home.path().join("empty"), "empty", &bundle), Err(PackError::Empty(_))));
    }

    #[test]
    fn an_output_folder_that_leads_outside_is_not_packed() {
        let home = tempfile::tempdir().unwrap();
        let (source, secret) = (home.path().join("src"), home.path().join("secret"));
        tree(&secret);
        std::fs::create_dir(&source).unwrap();
        std::os::unix::fs::symlink(&secret, source.join("public")).unwrap();
        let packed = pack(&source.join("public"), "public", &home.path().join("bundle"));
        assert!(matches!(packed, Err(PackError::Missing(_))), "{packed:?}");
    }

    #[test]
    fn a_damaged_bundle_leaves_no_folder() {
        let home = tempfile::tempdir().unwrap();
        assert!(unpack(&b"not zstd"[..], &home.path().join("x")).is_err());
        assert!(!home.path().join("x").exists());
    }
}
