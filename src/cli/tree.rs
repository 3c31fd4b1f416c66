//! Reads a folder as a source: what git would take, less `.windlassignore` and [`super::left_out`].
//!
//! Hashes in parallel, and remembers size, time and inode of every file, so that an unchanged tree costs one look per file.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use ignore::{DirEntry, WalkBuilder, WalkState};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, openat, statat};
use sha2::{Digest as _, Sha256};

use super::left_out::{Choice, LeftOut, RULES};
use crate::api;

/// Bytes hashed at a time.
const CHUNK: usize = 128 * 1024;
/// Walking threads per core: one that finds nothing to do sleeps a millisecond, and another should use the core then.
const WALKERS: usize = 4;
/// First bytes of the memory file; another version is forgotten.
const MEMORY: &[u8; 8] = b"wndl-st1";
/// A file that changed so shortly before it was hashed may change again without another time stamp.
const RACY_NANOS: i128 = 2_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: i128,
    inode: u64,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            inode: stat.st_ino,
        }
    }
}

struct Found {
    path: String,
    mode: u32,
    stamp: Stamp,
}

/// A folder's files, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The files.
    pub files: Vec<api::File>,
    /// Files that had to be read.
    pub hashed: usize,
    /// What is not in it although no rule of the project leaves it out.
    pub left_out: LeftOut,
}

impl Tree {
    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Reads `root`, leaving out `ignored` patterns too. `memory` is the file in which stamps are kept; `now` is in
/// nanoseconds since 1970.
///
/// # Errors
/// When a file cannot be read or is a link.
pub fn read(root: &Path, ignored: &[String], memory: &Path, now: i128) -> anyhow::Result<Tree> {
    let choice = Choice::default();
    let found = walk(root, ignored, &choice)?;
    let remembered = std::fs::read(memory).unwrap_or_default();
    let known = parse(&remembered).unwrap_or_default();
    let mut digests = recognize(&found, &known);
    let missing: Vec<usize> =
        digests.iter().enumerate().filter(|(_, digest)| digest.is_none()).map(|(index, _)| index).collect();
    let hashed = missing.len();
    for (index, digest) in hash_all(root, &found, &missing)? {
        if let Some(slot) = digests.get_mut(index) {
            *slot = Some(digest);
        }
    }
    let digests: Vec<[u8; 32]> = digests.into_iter().flatten().collect();
    if hashed > 0 || known.len() != found.len() {
        remember(memory, &found, &digests, now);
    }
    let file = |(found, digest): (Found, [u8; 32])| api::File {
        path: found.path,
        size: found.stamp.size,
        mode: found.mode,
        sha256: hex(&digest),
    };
    let files = found.into_iter().zip(digests).map(file).collect();
    Ok(Tree { files, hashed, left_out: choice.left_out() })
}

pub(super) fn hex(digest: &[u8; 32]) -> String {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    let mut text = vec![0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    String::from_utf8(text).unwrap_or_default()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn walk(root: &Path, ignored: &[String], choice: &Choice) -> anyhow::Result<Vec<Found>> {
    let mut overrides = ignore::overrides::OverrideBuilder::new(root);
    for pattern in ignored {
        // In an override a leading ! means "leave out".
        overrides.add(&format!("!{pattern}")).with_context(|| format!("ignore pattern `{pattern}`"))?;
    }
    let (choice, below) = (choice.clone(), root.to_owned());
    let walker = WalkBuilder::new(root)
        .hidden(false)
        .require_git(false)
        .git_global(false)
        .git_exclude(false)
        .add_custom_ignore_filename(RULES)
        .overrides(overrides.build()?)
        .filter_entry(move |entry| choice.takes(&below, entry))
        .threads(WALKERS * threads())
        .build_parallel();
    let collected: Mutex<anyhow::Result<Vec<Found>>> = Mutex::new(Ok(Vec::new()));
    walker.run(|| {
        let mut batch = Batch { found: Vec::new(), folder: None, into: &collected };
        Box::new(move |entry| {
            match entry.map_err(anyhow::Error::from).and_then(|entry| batch.look(root, &entry)) {
                Ok(()) => WalkState::Continue,
                Err(error) => {
                    if let Ok(mut collected) = batch.into.lock() {
                        *collected = Err(error);
                    }
                    WalkState::Quit
                }
            }
        })
    });
    let mut found = collected.into_inner().unwrap_or_else(|_| Ok(Vec::new()))?;
    // A stable sort only merges the threads' lists, which are sorted.
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// One thread's files; handed over when the thread is through.
struct Batch<'a> {
    found: Vec<Found>,
    /// The folder of the last file: looking from there spares the kernel the way from the root.
    folder: Option<(OsString, OwnedFd)>,
    into: &'a Mutex<anyhow::Result<Vec<Found>>>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Ok(mut into) = self.into.lock()
            && let Ok(all) = into.as_mut()
        {
            all.append(&mut self.found);
        }
    }
}

impl Batch<'_> {
    fn look(&mut self, root: &Path, entry: &DirEntry) -> anyhow::Result<()> {
        let Some(kind) = entry.file_type().filter(|kind| !kind.is_dir()) else { return Ok(()) };
        let path = below(root, entry.path());
        let path = std::str::from_utf8(path)
            .with_context(|| format!("the file name {} is not UTF-8", String::from_utf8_lossy(path)))?;
        if kind.is_symlink() {
            bail!(
                "{path} is a symbolic link; links are not deployed. Replace it by a file, or name it in .windlassignore"
            );
        }
        if kind.is_file() {
            let stat = self.stat(entry.path()).with_context(|| format!("cannot look at {path}"))?;
            let mode = if stat.st_mode & 0o111 == 0 { 0o644 } else { 0o755 };
            self.found.push(Found { path: path.to_owned(), mode, stamp: Stamp::of(&stat) });
        }
        Ok(())
    }

    fn stat(&mut self, path: &Path) -> rustix::io::Result<Stat> {
        let path = path.as_os_str().as_bytes();
        let begins = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(begins);
        let parent = OsStr::from_bytes(parent);
        if self.folder.as_ref().is_none_or(|(known, _)| known != parent) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.folder = Some((parent.to_owned(), openat(CWD, parent, flags, Mode::empty())?));
        }
        let folder = self.folder.as_ref().ok_or(rustix::io::Errno::BADF)?;
        statat(&folder.1, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// The way from `root` to what the walk found below it. As bytes: taking paths apart is what the walk would do most.
fn below<'a>(root: &Path, path: &'a Path) -> &'a [u8] {
    let path = path.as_os_str().as_bytes();
    let below = path.strip_prefix(root.as_os_str().as_bytes()).unwrap_or(path);
    below.strip_prefix(b"/").unwrap_or(below)
}

type Hashed = Vec<(usize, [u8; 32])>;

/// Digests of the files at these indexes, on every core.
fn hash_all(root: &Path, found: &[Found], indexes: &[usize]) -> anyhow::Result<Hashed> {
    let next = AtomicUsize::new(0);
    let work = || -> anyhow::Result<Hashed> {
        let mut done = Vec::new();
        let mut buffer = vec![0; CHUNK];
        while let Some(index) = indexes.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(file) = found.get(*index) {
                let digest = hash(&root.join(&file.path), &mut buffer)
                    .with_context(|| format!("cannot read {}", file.path))?;
                done.push((*index, digest));
            }
        }
        Ok(done)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads().min(indexes.len())).map(|_| scope.spawn(work)).collect();
        let mut all = work()?;
        for other in others {
            all.append(
                &mut other.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a hashing thread panicked")))?,
            );
        }
        Ok(all)
    })
}

fn hash(path: &Path, buffer: &mut [u8]) -> std::io::Result<[u8; 32]> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    loop {
        match file.read(buffer)? {
            0 => return Ok(hasher.finalize().into()),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Where the stamps of `root` are kept.
#[must_use]
pub fn memory_of(root: &Path, cache_dir: &Path) -> PathBuf {
    let name = hex(&Sha256::digest(root.as_os_str().as_encoded_bytes()).into());
    cache_dir.join("trees").join(name.get(..32).unwrap_or(&name))
}

/// A file as it was when it was hashed.
struct Known<'a> {
    path: &'a str,
    stamp: Stamp,
    digest: [u8; 32],
}

/// The digests of files that have not changed. Both lists are sorted by path, so one pass finds all.
fn recognize(found: &[Found], known: &[Known<'_>]) -> Vec<Option<[u8; 32]>> {
    let mut known = known.iter().peekable();
    let unchanged = |file: &Found| {
        while known.next_if(|known| known.path < file.path.as_str()).is_some() {}
        known.next_if(|known| known.path == file.path && known.stamp == file.stamp).map(|known| known.digest)
    };
    found.iter().map(unchanged).collect()
}

fn parse(bytes: &[u8]) -> Option<Vec<Known<'_>>> {
    let mut rest = bytes.strip_prefix(MEMORY)?;
    let mut known = Vec::with_capacity(rest.len() / 100);
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<66>()?;
        let number = |range: std::ops::Range<usize>| {
            head.get(range).and_then(|part| part.try_into().ok()).map(u64::from_le_bytes)
        };
        let mtime = i128::from(number(8..16)?.cast_signed());
        let stamp = Stamp { size: number(0..8)?, mtime, inode: number(16..24)? };
        let digest: [u8; 32] = head.get(24..56)?.try_into().ok()?;
        let length = usize::try_from(number(56..64)?).ok()?;
        let (path, tail) = tail.split_at_checked(length)?;
        known.push(Known { path: std::str::from_utf8(path).ok()?, stamp, digest });
        rest = tail;
    }
    Some(known)
}

/// Keeps what was learned. A memory that cannot be kept costs time next time, nothing else.
fn remember(memory: &Path, found: &[Found], digests: &[[u8; 32]], now: i128) {
    let mut bytes = MEMORY.to_vec();
    for (file, digest) in found.iter().zip(digests) {
        if now - file.stamp.mtime < RACY_NANOS {
            continue;
        }
        bytes.extend(file.stamp.size.to_le_bytes());
        bytes.extend(i64::try_from(file.stamp.mtime).unwrap_or(0).to_le_bytes());
        bytes.extend(file.stamp.inode.to_le_bytes());
        bytes.extend(digest);
        bytes.extend((file.path.len() as u64).to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(file.path.as_bytes());
    }
    let temporary = memory.with_extension("new");
    let kept = memory
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(&temporary, &bytes))
        .and_then(|()| std::fs::rename(&temporary, memory));
    if let Err(error) = kept {
        tracing::debug!(error = %error, "the tree's memory could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("b/x.txt", "x"),
            ("a.txt", "a"),
            (".gitignore", "*.log\n/out/\n"),
            (".windlassignore", "notes\n"),
            ("big.log", "l"),
            ("notes", "n"),
            ("out/o", "o"),
            (".git/HEAD", "h"),
            ("b/out/kept", "k"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn what_is_ignored_stays_out_and_the_rest_is_sorted() {
        let root = tree();
        let memory = root.path().join(".windlass/memory");
        let read = read(root.path(), &["b/x*".to_owned()], &memory, i128::MAX).unwrap();
        assert_eq!(paths(&read), [".gitignore", ".windlassignore", "a.txt", "b/out/kept"]);
        assert_eq!(read.files[2].sha256, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
    }

    #[test]
    fn the_root_may_be_written_in_any_way() {
        let root = tree();
        let memory = tempfile::tempdir().unwrap();
        let files = |end: &str| {
            let root = format!("{}{end}", root.path().display());
            read(Path::new(&root), &[], &memory.path().join("m"), i128::MAX).unwrap().files
        };
        let plain = files("");
        assert_eq!(plain.last().unwrap().path, "b/x.txt");
        for end in ["/", "//", "/.", "/b/.."] {
            assert_eq!(files(end), plain, "{end}");
        }
    }

    #[test]
    fn an_unchanged_tree_is_not_read_again() {
        let root = tree();
        let memory = root.path().join(".windlass/memory");
        let later = i128::MAX;
        let first = read(root.path(), &[], &memory, later).unwrap();
        assert_eq!(first.hashed, first.files.len());
        let second = read(root.path(), &[], &memory, later).unwrap();
        assert_eq!((second.hashed, &second.files), (0, &first.files));
        std::fs::write(root.path().join("a.txt"), "other").unwrap();
        assert_eq!(read(root.path(), &[], &memory, later).unwrap().hashed, 1);
    }

    #[test]
    fn a_file_changed_a_moment_ago_is_read_again() {
        let root = tree();
        let memory = root.path().join(".windlass/memory");
        read(root.path(), &[], &memory, 0).unwrap();
        assert!(read(root.path(), &[], &memory, 0).unwrap().hashed > 0);
    }

    #[test]
    fn links_are_refused_with_advice() {
        let root = tree();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
        let said = read(root.path(), &[], &root.path().join(".windlass/m"), 0).unwrap_err().to_string();
        assert!(said.contains("link is a symbolic link") && said.contains(".windlassignore"), "{said}");
    }

    #[test]
    fn a_damaged_memory_is_forgotten() {
        for bytes in [&b""[..], b"x", b"wndl-st1abc", &[MEMORY.as_slice(), &[255; 70]].concat()] {
            assert!(parse(bytes).unwrap_or_default().is_empty());
        }
    }
}
