//! Opens what lies below a folder and never follows a link: whoever may write there may exchange anything at any time,
//! and this service may read much that they may not.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};

/// A folder that stays the same one, whatever happens to its name.
pub(super) struct Below {
    folder: OwnedFd,
    path: PathBuf,
}

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    Link,
    /// A file of so many bytes.
    File(u64),
}

impl Below {
    /// The folder `path` below `root`, of which nobody else can exchange the name.
    pub(super) fn open(root: &Path, path: &Path) -> io::Result<Self> {
        let above = OwnedFd::from(File::open(root)?);
        Ok(Self { folder: open_below(&above, path, OFlags::DIRECTORY)?, path: root.join(path) })
    }

    /// How messages name what lies at `path`.
    pub(super) fn shown(&self, path: &Path) -> PathBuf {
        self.path.join(path)
    }

    /// A file, if it is one.
    pub(super) fn file(&self, path: &Path) -> io::Result<(File, Metadata)> {
        let file = File::from(open_below(&self.folder, path, OFlags::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file any more"));
        }
        Ok((file, metadata))
    }

    /// Where a link leads.
    pub(super) fn link(&self, path: &Path) -> io::Result<PathBuf> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = open_below(&self.folder, parent, OFlags::DIRECTORY)?;
        let target = readlinkat(&parent, path.file_name().unwrap_or_default(), Vec::<u8>::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// The files, links and folders in a folder, in no order.
    pub(super) fn entries(&self, path: &Path) -> io::Result<Vec<(OsString, Kind)>> {
        let folder = open_below(&self.folder, path, OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                entries.extend(kind(&folder, name, entry.file_type())?.map(|kind| (name.to_owned(), kind)));
            }
        }
        Ok(entries)
    }
}

/// What a name stands for; nothing for sockets, pipes and devices. `told` is what the folder says of it, which some file
/// systems leave open.
fn kind(folder: &OwnedFd, name: &OsStr, told: FileType) -> io::Result<Option<Kind>> {
    if told == FileType::Directory {
        return Ok(Some(Kind::Folder));
    }
    if told == FileType::Symlink {
        return Ok(Some(Kind::Link));
    }
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let found = FileType::from_raw_mode(stat.st_mode);
    Ok(if found == FileType::RegularFile {
        Some(Kind::File(u64::try_from(stat.st_size).unwrap_or_default()))
    } else if found == FileType::Directory {
        Some(Kind::Folder)
    } else if found == FileType::Symlink {
        Some(Kind::Link)
    } else {
        None
    })
}

/// Opens `path` below `folder`, which no part of it leaves. Does not wait for whoever would write into a pipe.
fn open_below(folder: &OwnedFd, path: &Path, more: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(folder, path, flags, Mode::empty(), within)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_below_refuses_a_link_as_last_part_and_as_folder_part() {
        let home = tempfile::tempdir().unwrap();
        let (inside, outside) = (home.path().join("in"), home.path().join("out"));
        std::fs::create_dir_all(inside.join("real")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(inside.join("real/file"), "own").unwrap();
        std::fs::write(outside.join("file"), "canary").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("folder")).unwrap();
        std::os::unix::fs::symlink(outside.join("file"), inside.join("link")).unwrap();
        std::os::unix::fs::symlink("real/file", inside.join("near")).unwrap();
        let below = Below::open(home.path(), Path::new("in")).unwrap();
        for path in ["link", "near", "folder/file", "../out/file", "real", "real/none"] {
            assert!(below.file(Path::new(path)).is_err(), "{path}");
        }
        assert!(below.file(&outside.join("file")).is_err());
        assert!(below.entries(Path::new("folder")).is_err() && below.link(Path::new("folder/file")).is_err());
        assert!(Below::open(home.path(), Path::new("in/folder")).is_err());
        let (file, metadata) = below.file(Path::new("real/file")).unwrap();
        assert_eq!((std::io::read_to_string(file).unwrap().as_str(), metadata.len()), ("own", 3));
        assert_eq!(below.link(Path::new("near")).unwrap(), Path::new("real/file"));
    }

    #[test]
    fn a_folder_tells_what_it_holds_and_leaves_out_what_nobody_can_pack() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("folder")).unwrap();
        std::fs::write(home.path().join("file"), "1234").unwrap();
        std::os::unix::fs::symlink("nowhere", home.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(home.path().join("socket")).unwrap();
        let below = Below::open(home.path(), Path::new("")).unwrap();
        let mut entries = below.entries(Path::new("")).unwrap();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let wanted = [("file", Kind::File(4)), ("folder", Kind::Folder), ("link", Kind::Link)];
        assert_eq!(entries, wanted.map(|(name, kind)| (OsString::from(name), kind)));
        assert!(below.file(Path::new("socket")).is_err());
    }
}
