//! Packs a folder into a bundle that is the same bytes for the same files: sorted, fixed times and owners, zstd.

use std::ffi::OsStr;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use sha2::{Digest as _, Sha256};

use super::below::{Below, Kind};
use super::folders::remove_tree;
use crate::deploy::builder::Packed;
use crate::deploy::ids::Digest;

/// Fast, and within a tenth of the size of slower levels on source trees.
const LEVEL: i32 = 1;
/// Bytes of files that are compressed together, at least, and bytes of one part of a larger file.
const SEGMENT: u64 = 4 << 20;
/// Segments that wait to be written, for each worker.
const WAITING: usize = 2;
/// Bytes of all files of a bundle at most: what a source may have, and what a build may add.
pub const MOST_BYTES: u64 = 8 << 30;
/// Block of a tar archive.
const BLOCK: usize = 512;
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
    /// It contains too much.
    #[error(
        "`{name}` has {bytes} bytes after the build, more than the {MOST_BYTES} that one release may have"
    )]
    TooLarge {
        /// The folder.
        name: String,
        /// What it has.
        bytes: u64,
    },
    /// Somebody asked to.
    #[error("packing was stopped")]
    Stopped,
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

/// A file, a part of a large one, or a link.
struct Part {
    path: PathBuf,
    link: bool,
    /// First byte; the archive's header comes before byte 0.
    from: u64,
    bytes: u64,
    /// Of the whole file.
    size: u64,
}

/// Packs `folder`, called `name` in messages, into the new file `bundle`, which is on disk when this returns.
///
/// A bundle is a tar archive in zstd frames, one for each segment, so that every core reads and compresses its share;
/// where a segment ends depends on the files alone. Asks `stop` before each segment.
///
/// # Errors
/// [`PackError`]; `bundle` is then not complete.
pub fn pack(
    folder: &Path,
    name: &str,
    bundle: &Path,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Packed, PackError> {
    // A build may have put a link here: what it leads to outside is none of its output.
    let below = folder.ancestors().nth(if name == "." { 1 } else { name.split('/').count() });
    let real = folder.canonicalize().ok().filter(|real| real.is_dir());
    let root = below.and_then(|root| root.canonicalize().ok());
    let (Some(real), Some(root)) = (real, root) else { return Err(PackError::Missing(name.to_owned())) };
    let Ok(inside) = real.strip_prefix(&root) else { return Err(PackError::Missing(name.to_owned())) };
    let folder = Below::open(&root, inside).map_err(io(&real))?;
    let parts = collect(&folder)?;
    if parts.is_empty() {
        return Err(PackError::Empty(name.to_owned()));
    }
    let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    if bytes > MOST_BYTES {
        return Err(PackError::TooLarge { name: name.to_owned(), bytes });
    }
    let mut file = std::fs::File::create_new(bundle).map_err(io(bundle))?;
    let files = parts.iter().filter(|part| part.from == 0).count();
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    compress(&folder, &segments(parts), stop, |frame| {
        hasher.update(frame);
        bytes += frame.len() as u64;
        file.write_all(frame).map_err(io(bundle))
    })?;
    file.sync_all().map_err(io(bundle))?;
    Ok(Packed { digest: Digest(hasher.finalize().into()), bytes: Some(bytes), files })
}

/// Hands each segment's frame to `take`, in order.
fn compress(
    folder: &Below,
    segments: &[Vec<Part>],
    stop: &(dyn Fn() -> bool + Sync),
    mut take: impl FnMut(&[u8]) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let frames: Vec<Receiver<Result<Vec<u8>, PackError>>> = (0..workers)
            .map(|first| {
                let (send, frames) = sync_channel(WAITING);
                scope.spawn(move || {
                    for (index, segment) in segments.iter().enumerate().skip(first).step_by(workers) {
                        let last = index + 1 == segments.len();
                        let frame =
                            if stop() { Err(PackError::Stopped) } else { frame(folder, segment, last) };
                        // Nobody listens any more when another segment failed.
                        if send.send(frame).is_err() {
                            break;
                        }
                    }
                });
                frames
            })
            .collect();
        for worker in (0..workers).cycle().take(segments.len()) {
            let frame = frames.get(worker).and_then(|frames| frames.recv().ok());
            // A worker ends early only when this loop has.
            take(&frame.unwrap_or(Err(PackError::Stopped))?)?;
        }
        Ok(())
    })
}

/// Cuts the parts into lists of about [`SEGMENT`] bytes.
fn segments(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let (mut segments, mut segment, mut bytes) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        bytes += part.bytes + BLOCK as u64;
        segment.push(part);
        if bytes >= SEGMENT {
            segments.push(std::mem::take(&mut segment));
            bytes = 0;
        }
    }
    if !segment.is_empty() {
        segments.push(segment);
    }
    segments
}

/// One segment, compressed; the `last` one closes the archive.
fn frame(folder: &Below, segment: &[Part], last: bool) -> Result<Vec<u8>, PackError> {
    let mut archive = Vec::new();
    for part in segment {
        append(&mut archive, folder, part).map_err(io(&folder.shown(&part.path)))?;
    }
    if last {
        archive.extend([0; 2 * BLOCK]);
    }
    zstd::bulk::compress(&archive, LEVEL).map_err(io(&folder.shown(Path::new(""))))
}

/// Every file and link below `folder`, sorted; large files in parts.
fn collect(folder: &Below) -> Result<Vec<Part>, PackError> {
    // On a list of its own, since no stack is as deep as folders may be.
    let (mut parts, mut waiting) = (Vec::new(), vec![(PathBuf::new(), Kind::Folder)]);
    while let Some((path, kind)) = waiting.pop() {
        match kind {
            Kind::Folder => {
                let mut entries = folder.entries(&path).map_err(io(&folder.shown(&path)))?;
                entries.retain(|(name, kind)| *kind != Kind::Folder || is_packed(&path, name));
                // The last one is taken first.
                entries.sort_by(|(one, _), (other, _)| other.cmp(one));
                waiting.extend(entries.into_iter().map(|(name, kind)| (path.join(name), kind)));
            }
            Kind::Link => parts.push(Part { path, link: true, from: 0, bytes: 0, size: 0 }),
            Kind::File(size) => {
                let cuts = (0..size.div_ceil(SEGMENT).max(1)).map(|cut| cut * SEGMENT);
                parts.extend(cuts.map(|from| {
                    let bytes = SEGMENT.min(size - from);
                    Part { path: path.clone(), link: false, from, bytes, size }
                }));
            }
        }
    }
    Ok(parts)
}

/// Whether the folder `name` in `above` may be needed at run time.
fn is_packed(above: &Path, name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    let cargo = above.components().any(|part| part.as_os_str() == "target") && CARGO.contains(&&*text);
    !NEVER.contains(&&*text) && !cargo
}

fn append(archive: &mut Vec<u8>, folder: &Below, part: &Part) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(part.size);
    if part.link {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        let target = folder.link(&part.path)?;
        return with_tar(archive, |tar| tar.append_link(&mut header, &part.path, target));
    }
    let (mut file, metadata) = folder.file(&part.path)?;
    if part.from == 0 {
        let executable = metadata.permissions().mode() & 0o111 != 0;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(if executable { 0o755 } else { 0o644 });
        with_tar(archive, |tar| tar.append_data(&mut header, &part.path, std::io::empty()))?;
    } else {
        file.seek(SeekFrom::Start(part.from))?;
    }
    let wanted = usize::try_from(part.bytes).map_err(std::io::Error::other)?;
    archive.reserve(wanted + 2 * BLOCK);
    if file.take(part.bytes).read_to_end(archive)? != wanted {
        return Err(std::io::Error::other("it changed while it was packed"));
    }
    if part.from + part.bytes == part.size {
        // Every part of a file but the last is a whole number of blocks.
        archive.resize(archive.len() + wanted.next_multiple_of(BLOCK) - wanted, 0);
    }
    Ok(())
}

/// Appends to an archive that goes on afterwards: the library closes it when it is done, which is taken back.
fn with_tar(
    archive: &mut Vec<u8>,
    append: impl FnOnce(&mut tar::Builder<&mut Vec<u8>>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut tar = tar::Builder::new(&mut *archive);
    append(&mut tar)?;
    let end = tar.get_ref().len();
    drop(tar);
    archive.truncate(end);
    Ok(())
}

/// Unpacks a bundle into `folder`, which appears complete or not at all.
///
/// # Errors
/// When the bundle is damaged, too large, leaves the folder, or the disk refuses.
pub fn unpack(mut bundle: impl Read, folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let temporary = folder.with_extension("unpacking");
    let extracted = extract(&mut bundle, folder, &temporary);
    if extracted.is_err() {
        // A part of it may be what filled the disk; the error itself is the better reason than one of this.
        drop(remove_tree(&temporary));
        // The rest too, so that whoever reads it with a checksum sees all of it: damage is the better reason.
        std::io::copy(&mut bundle, &mut std::io::sink())?;
    }
    extracted
}

fn extract(bundle: &mut impl Read, folder: &Path, temporary: &Path) -> std::io::Result<()> {
    if temporary.exists() {
        remove_tree(temporary)?;
    }
    std::fs::create_dir_all(temporary)?;
    // With room for the archive's own blocks: a bundle of ours is never cut short.
    let content = zstd::Decoder::new(bundle)?.take(2 * MOST_BYTES);
    let mut archive = tar::Archive::new(content);
    archive.set_preserve_mtime(false);
    archive.set_preserve_permissions(true);
    archive.unpack(temporary)?;
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
    // It is taken for whole ever after.
    rustix::fs::syncfs(std::fs::File::open(temporary)?)?;
    std::fs::rename(temporary, folder)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

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
                pack(&folder, ".", &home.path().join(format!("{name}.bundle")), &|| false).unwrap()
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
    fn a_large_file_comes_back_whole_from_many_segments() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("big");
        std::fs::create_dir(&folder).unwrap();
        let noise = |bytes: u64| (0..bytes).map(|i| u8::try_from(i * i % 251).unwrap()).collect::<Vec<_>>();
        for (name, bytes) in [("exact", 2 * SEGMENT), ("odd", 2 * SEGMENT + 513), ("none", 0), ("z", 7)] {
            std::fs::write(folder.join(name), noise(bytes)).unwrap();
        }
        let bundle = home.path().join("bundle");
        let packed = pack(&folder, ".", &bundle, &|| false).unwrap();
        assert_eq!(packed.files, 4);
        unpack(std::fs::File::open(&bundle).unwrap(), &home.path().join("back")).unwrap();
        for name in ["exact", "odd", "none", "z"] {
            let path = |folder: &str| std::fs::read(home.path().join(folder).join(name)).unwrap();
            assert_eq!(path("big"), path("back"), "{name}");
        }
        let stopped = pack(&folder, ".", &home.path().join("other"), &|| true);
        assert!(matches!(stopped, Err(PackError::Stopped)), "{stopped:?}");
    }

    #[test]
    fn a_build_that_leaves_nothing_is_told_so() {
        let home = tempfile::tempdir().unwrap();
        let bundle = home.path().join("bundle");
        assert!(matches!(
            pack(&home.path().join("public"), "public", &bundle, &|| false),
            Err(PackError::Missing(_))
        ));
        std::fs::create_dir(home.path().join("empty")).unwrap();
        assert!(matches!(
            pack(&home.path().join("empty"), "empty", &bundle, &|| false),
            Err(PackError::Empty(_))
        ));
    }

    #[test]
    fn an_output_folder_that_leads_outside_is_not_packed() {
        let home = tempfile::tempdir().unwrap();
        let (source, secret) = (home.path().join("src"), home.path().join("secret"));
        tree(&secret);
        std::fs::create_dir(&source).unwrap();
        std::os::unix::fs::symlink(&secret, source.join("public")).unwrap();
        let packed = pack(&source.join("public"), "public", &home.path().join("bundle"), &|| false);
        assert!(matches!(packed, Err(PackError::Missing(_))), "{packed:?}");
    }

    /// Exchanges two names again and again until it is told to stop, as a process may that a build left behind.
    fn exchange(names: &[PathBuf; 2], stop: &AtomicBool) {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        while !stop.load(Ordering::Relaxed) {
            renameat_with(CWD, &names[0], CWD, &names[1], RenameFlags::EXCHANGE).unwrap();
        }
    }

    #[test]
    fn what_is_exchanged_with_a_link_while_it_is_packed_brings_nothing_from_outside() {
        let home = tempfile::tempdir().unwrap();
        let (source, outside) = (home.path().join("src"), home.path().join("outside"));
        // As many bytes as what it stands in for, so that the length gives nothing away.
        for (folder, text) in [(source.join("folder"), "inside"), (outside.clone(), "canary")] {
            std::fs::create_dir_all(&folder).unwrap();
            for number in 0..50 {
                std::fs::write(folder.join(number.to_string()), text).unwrap();
            }
        }
        std::fs::write(source.join("file"), "inside").unwrap();
        std::os::unix::fs::symlink(outside.join("0"), source.join("other-file")).unwrap();
        std::os::unix::fs::symlink(&outside, source.join("other-folder")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for name in ["file", "folder"] {
                let names = [source.join(name), source.join(format!("other-{name}"))];
                let stop = &stop;
                scope.spawn(move || exchange(&names, stop));
            }
            let leaks = (0..200).filter(|number| {
                let bundle = home.path().join(format!("{number}.bundle"));
                // It may well fail; what it wrote until then is looked at too.
                drop(pack(&source, ".", &bundle, &|| false));
                let mut archive = Vec::new();
                let file = std::fs::File::open(&bundle);
                drop(file.and_then(|file| zstd::Decoder::new(file)?.read_to_end(&mut archive)));
                archive.windows(6).any(|bytes| bytes == b"canary")
            });
            let leaks = leaks.count();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(leaks, 0);
        });
    }

    #[test]
    fn folders_as_deep_as_their_names_may_be_long_need_no_stack() {
        let home = tempfile::tempdir().unwrap();
        let mut folder = home.path().join("src");
        std::fs::create_dir(&folder).unwrap();
        while folder.as_os_str().len() < 4_000 {
            folder.push("a");
            std::fs::create_dir(&folder).unwrap();
        }
        std::fs::write(folder.join("b"), "").unwrap();
        let (source, bundle) = (home.path().join("src"), home.path().join("bundle"));
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let tree = source.clone();
        let packed = small.spawn(move || pack(&tree, ".", &bundle, &|| false)).unwrap().join().unwrap();
        assert_eq!(packed.unwrap().files, 1);
        remove_tree(&source).unwrap();
    }

    #[test]
    fn a_damaged_bundle_leaves_no_folder() {
        let home = tempfile::tempdir().unwrap();
        assert!(unpack(&b"not zstd"[..], &home.path().join("x")).is_err());
        assert!(!home.path().join("x").exists());
    }
}
