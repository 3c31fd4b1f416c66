//! Sources: immutable file trees, named by the digest of their manifest.

use serde::{Deserialize, Serialize};

use super::blobs::{BlobError, Blobs};
use super::ids::{Digest, Name};

/// Largest manifest: 50 000 paths of 4 096 bytes do not occur, 64 MiB do not either.
pub const MOST_MANIFEST_BYTES: u64 = 64 << 20;

/// Bounds of one source. Configurable; these keep one project from filling the machine.
#[derive(Debug, Clone, Copy)]
pub struct SourceLimits {
    /// Files.
    pub files: usize,
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self { files: 50_000, bytes: 1 << 30, file_bytes: 100 << 20 }
    }
}

impl SourceLimits {
    /// Bytes that a list of as many files takes at most.
    #[must_use]
    pub fn manifest_bytes(&self) -> u64 {
        let entry = (MOST_PATH_BYTES + MOST_ENTRY_BYTES) as u64;
        (self.files as u64).saturating_mul(entry).min(MOST_MANIFEST_BYTES)
    }
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// `420` (0644) or `493` (0755): only the executable bit is kept.
    pub mode: u32,
    /// Digest of the content.
    pub sha256: Digest,
}

/// Every file of a source, sorted by path, each path once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest(Vec<FileEntry>);

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    /// The path leaves the root, or no system could write it.
    #[error("`{0}` is not a relative path inside the source")]
    Path(String),
    /// Nobody could read it in a list, and no line could hold it.
    #[error("the file name {0:?} has control characters")]
    Control(String),
    /// Not the order that the digest needs.
    #[error("`{0}` is out of order or listed twice; files have to be sorted by path")]
    Order(String),
    /// A file is also a folder.
    #[error("`{0}` is a file and a folder at once")]
    FileAndFolder(String),
    /// Not a plain file.
    #[error("`{path}` has mode {mode:o}; only 644 and 755 are kept")]
    Mode {
        /// The file.
        path: String,
        /// As given.
        mode: u32,
    },
    /// Too much.
    #[error("the source has {found} {what}, more than the {limit} allowed")]
    TooLarge {
        /// Files, bytes, or bytes of one file.
        what: String,
        /// As given.
        found: u64,
        /// As configured.
        limit: u64,
    },
}

/// Why a stored source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such content.
    #[error("source {0} was never uploaded")]
    Missing(Digest),
    /// It is other content.
    #[error("{0} is not a source")]
    NoSource(Digest),
    /// The store.
    #[error(transparent)]
    Store(#[from] BlobError),
}

/// Longest path, as Linux has it.
const MOST_PATH_BYTES: usize = 4_096;
/// What a file's entry takes besides its path, with room for white space.
const MOST_ENTRY_BYTES: usize = 256;

impl Manifest {
    /// Checks a list of files.
    ///
    /// # Errors
    /// [`BadManifest`]: the first problem found.
    pub fn new(files: Vec<FileEntry>, limits: &SourceLimits) -> Result<Self, BadManifest> {
        let manifest = Self::of_files(files)?;
        manifest.fits(limits)?;
        Ok(manifest)
    }

    fn of_files(files: Vec<FileEntry>) -> Result<Self, BadManifest> {
        let mut before: Option<&str> = None;
        for file in &files {
            check_path(&file.path)?;
            if file.mode != 0o644 && file.mode != 0o755 {
                return Err(BadManifest::Mode { path: file.path.clone(), mode: file.mode });
            }
            if before.is_some_and(|before| before >= file.path.as_str()) {
                return Err(BadManifest::Order(file.path.clone()));
            }
            before = Some(&file.path);
        }
        refuse_file_as_folder(&files)?;
        Ok(Self(files))
    }

    /// Checks the size.
    ///
    /// # Errors
    /// [`BadManifest::TooLarge`]: the first bound that it passes.
    pub fn fits(&self, limits: &SourceLimits) -> Result<(), BadManifest> {
        let too_large =
            |what: String, found: u64, limit: u64| Err(BadManifest::TooLarge { what, found, limit });
        if self.0.len() > limits.files {
            return too_large("files".to_owned(), self.0.len() as u64, limits.files as u64);
        }
        if let Some(file) = self.0.iter().find(|file| file.size > limits.file_bytes) {
            return too_large(format!("bytes in `{}`", file.path), file.size, limits.file_bytes);
        }
        let bytes = self.0.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
        if bytes > limits.bytes { too_large("bytes".to_owned(), bytes, limits.bytes) } else { Ok(()) }
    }

    /// The files, sorted.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.0
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|file| file.size).sum()
    }

    /// One line `mode sha256 size path` per file: what is stored, and what the source's digest is of.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.0
            .iter()
            .map(|file| format!("{:o} {} {} {}\n", file.mode, file.sha256, file.size, file.path))
            .collect()
    }

    /// Reads what [`Manifest::to_text`] wrote; `None` when it is something else. Anybody can upload content that looks
    /// like a manifest, so paths and modes are checked again.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let entry = |line: &str| {
            let mut parts = line.splitn(4, ' ');
            let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
            let sha256 = parts.next()?.parse().ok()?;
            let size = parts.next()?.parse().ok()?;
            Some(FileEntry { path: parts.next()?.to_owned(), size, mode, sha256 })
        };
        Self::of_files(text.lines().map(entry).collect::<Option<_>>()?).ok()
    }

    /// Reads the manifest of a stored source.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn read(blobs: &dyn Blobs, org: &Name, source: Digest) -> Result<Self, SourceError> {
        let text = match blobs.read(org, source, MOST_MANIFEST_BYTES).await {
            Err(BlobError::Missing(_)) => return Err(SourceError::Missing(source)),
            read => read?,
        };
        std::str::from_utf8(&text).ok().and_then(Self::from_text).ok_or(SourceError::NoSource(source))
    }

    /// The digest of the source.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_text().as_bytes())
    }

    /// The file at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&FileEntry> {
        self.0.binary_search_by(|file| file.path.as_str().cmp(path)).ok().and_then(|index| self.0.get(index))
    }
}

fn check_path(path: &str) -> Result<(), BadManifest> {
    if path.contains(['\0', '\n', '\r']) {
        return Err(BadManifest::Control(path.to_owned()));
    }
    let part_fits = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    let fits = path.len() <= MOST_PATH_BYTES && path.split('/').all(part_fits);
    if fits && !path.contains('\\') { Ok(()) } else { Err(BadManifest::Path(path.to_owned())) }
}

fn refuse_file_as_folder(files: &[FileEntry]) -> Result<(), BadManifest> {
    let paths: std::collections::HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for file in files {
        let folders = file
            .path
            .char_indices()
            .filter(|(_, char)| *char == '/')
            .filter_map(|(end, _)| file.path.get(..end));
        for folder in folders {
            if paths.contains(folder) {
                return Err(BadManifest::FileAndFolder(folder.to_owned()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> FileEntry {
        FileEntry { path: path.to_owned(), size: 3, mode: 0o644, sha256: Digest::of(b"abc") }
    }

    fn check(paths: &[&str]) -> Result<Manifest, BadManifest> {
        Manifest::new(paths.iter().map(|path| file(path)).collect(), &SourceLimits::default())
    }

    #[test]
    fn paths_stay_inside_and_are_sorted() {
        assert!(check(&["a", "a-b", "a.b/c", "b/c/d"]).is_ok());
        for bad in ["/a", "a//b", "../a", "a/../b", "a/.", "", "a\\b"] {
            assert_eq!(check(&[bad]), Err(BadManifest::Path(bad.to_owned())));
        }
        for bad in ["a\nb", "a\0b", "a\r"] {
            assert_eq!(check(&[bad]), Err(BadManifest::Control(bad.to_owned())));
        }
        assert_eq!(
            check(&["a\nb"]).unwrap_err().to_string(),
            "the file name \"a\\nb\" has control characters"
        );
        assert_eq!(check(&["b", "a"]), Err(BadManifest::Order("a".into())));
        assert_eq!(check(&["a", "a"]), Err(BadManifest::Order("a".into())));
        assert_eq!(check(&["a", "a-", "a/b"]), Err(BadManifest::FileAndFolder("a".into())));
    }

    #[test]
    fn a_text_that_leaves_the_root_is_no_manifest() {
        let digest = Digest::of(b"abc");
        assert!(Manifest::from_text(&format!("644 {digest} 3 a\n755 {digest} 3 b/c\n")).is_some());
        for line in [
            "644 D 3 ../a",
            "644 D 3 /etc/cron.d/x",
            "4755 D 3 a",
            "120777 D 3 a",
            "644 D 3 b\n644 D 3 a",
            "644 D x a",
            "644 D 3",
        ] {
            assert!(Manifest::from_text(&line.replace('D', &digest.to_string())).is_none(), "{line}");
        }
    }

    #[test]
    fn limits_hold() {
        let limits = SourceLimits { files: 1, bytes: 10, file_bytes: 2 };
        let refuse = |files, limits: &SourceLimits| Manifest::new(files, limits).unwrap_err();
        assert!(matches!(
            refuse(vec![file("a"), file("b")], &limits),
            BadManifest::TooLarge { limit: 1, .. }
        ));
        assert!(matches!(refuse(vec![file("a")], &limits), BadManifest::TooLarge { limit: 2, .. }));
        assert!(matches!(
            refuse(vec![FileEntry { mode: 0o120_777, ..file("a") }], &SourceLimits::default()),
            BadManifest::Mode { .. }
        ));
    }

    #[test]
    fn the_digest_is_of_names_modes_and_contents() {
        let one = check(&["a", "b"]).unwrap();
        assert_eq!(Manifest::from_text(&one.to_text()).unwrap(), one);
        // As `sha256sum` gives it of the two lines.
        let known = "17e248e00ae32f1b0980a2f95723649b715937152d6a1f8564052f8a2b70876f";
        assert_eq!(one.digest().to_string(), known);
        assert_ne!(one.digest(), check(&["a", "c"]).unwrap().digest());
        let other =
            Manifest::new(vec![file("a"), FileEntry { mode: 0o755, ..file("b") }], &SourceLimits::default())
                .unwrap();
        assert_ne!(one.digest(), other.digest());
    }
}
