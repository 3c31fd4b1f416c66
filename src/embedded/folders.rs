//! Removes folders that somebody else's commands wrote, and closes what is ours to others.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, chmod, fchmod, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Begins the names of folders that were moved to the top.
const MOVED: &str = ".windlass-";
/// Looks at the top: each takes a level away, or what somebody puts there meanwhile, who may not go on for ever.
const MOST_LOOKS: usize = 1 << 20;

/// Makes a folder that only its owner may enter, if it is not there.
///
/// # Errors
/// When it cannot be made, or something else is there.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result,
    }
    if folder.is_dir() { Ok(()) } else { Err(io::Error::other("it is not a folder")) }
}

/// Takes away what others may do with a file or folder, if it belongs to this user. Some file systems know no others.
pub(super) fn close_to_others(path: &Path) {
    let closed = std::fs::metadata(path).and_then(|about| {
        let mode = about.permissions().mode();
        if mode & 0o077 == 0 || about.uid() != rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o700))
    });
    match closed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %error, "others may be able to read {}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

/// Removes a folder, if it is there, where waiting for the disk holds up nobody.
pub(super) async fn removed(folder: PathBuf) -> Result<(), String> {
    let removed = tokio::task::spawn_blocking(move || match remove_tree(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    });
    removed.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Removes everything in a folder that nobody works in yet. What cannot be removed stays and is told.
pub(super) fn empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Err(error) = remove_tree(&path) {
            tracing::warn!(path = %path.display(), error = %error, "what an earlier service left could not be removed");
        }
    }
}

/// Removes a tree however deep it is, whatever permissions were taken away in it, and nothing that a link leads to.
///
/// What lies in a folder of the tree is moved to its top, so that no depth costs stack, descriptors or long names.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let above = OwnedFd::from(File::open(if above.as_os_str().is_empty() { Path::new(".") } else { above })?);
    match unlinkat(&above, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        gone => return Ok(gone?),
    }
    let top = open(&above, name)?;
    let mut moved = 0;
    for _ in 0..MOST_LOOKS {
        match unlinkat(&above, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => take_apart(&top, &mut moved)?,
            gone => return Ok(gone?),
        }
    }
    Err(io::Error::other("somebody writes there faster than it can be removed"))
}

/// Removes what lies at the top, and moves there what lies one level below.
fn take_apart(top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    for name in names(top)? {
        let name = name?;
        if remove(top, &name)? {
            continue;
        }
        let folder = open(top, name.as_c_str())?;
        for inner in names(&folder)? {
            let inner = inner?;
            if !remove(&folder, &inner)? {
                move_up((&folder, inner.as_c_str()), top, moved)?;
            }
        }
        // What came in meanwhile is found at the next look.
        remove(top, &name)?;
    }
    Ok(())
}

/// What a folder holds.
fn names(folder: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<CString>>> {
    let entries =
        Dir::read_from(folder)?.map(|entry| -> io::Result<CString> { Ok(entry?.file_name().to_owned()) });
    Ok(entries.filter(|name| !matches!(name, Ok(name) if matches!(name.to_bytes(), b"." | b".."))))
}

/// Removes a file, a link or an empty folder. Gives whether it is gone: a folder that holds something is not.
fn remove(folder: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let removed = match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(folder, name, AtFlags::REMOVEDIR),
        removed => removed,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves a folder to the top, under a name that is free there.
fn move_up((folder, name): (&OwnedFd, &CStr), top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    let mut refused = false;
    loop {
        *moved += 1;
        match renameat(folder, name, top, format!("{MOVED}{moved}")) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // A folder that its owner may not write to cannot get another parent.
            Err(Errno::ACCESS) if !refused => {
                refused = true;
                drop(open(folder, name)?);
            }
            // The name is taken.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a folder, never by a link, and gives its owner back what was taken away.
fn open(above: &OwnedFd, name: impl rustix::path::Arg + Copy) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match openat(above, name, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // This needs no permission, but its mode can be changed only by its name in /proc.
            let handle = openat(above, name, flags | OFlags::PATH, Mode::empty())?;
            chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)?;
            openat(&handle, ".", flags | OFlags::RDONLY, Mode::empty())?
        }
        opened => opened?,
    };
    if !Mode::from_raw_mode(fstat(&folder)?.st_mode).contains(Mode::RWXU) {
        fchmod(&folder, Mode::RWXU)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::fs::mkdirat;

    use super::*;

    /// Makes so many folders, each in the one before; no name that leads to the last one would be short enough.
    fn nest(folder: &Path, levels: usize) {
        std::fs::create_dir(folder).unwrap();
        let mut here = OwnedFd::from(File::open(folder).unwrap());
        for _ in 0..levels {
            mkdirat(&here, "a", Mode::RWXU).unwrap();
            here = openat(&here, "a", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn folders_of_any_depth_are_removed_without_stack_or_descriptors() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("deep");
        nest(&folder, 30_000);
        let (small, tree) = (std::thread::Builder::new().stack_size(128 << 10), folder.clone());
        small.spawn(move || remove_tree(&tree)).unwrap().join().unwrap().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn what_lost_its_permissions_goes_and_what_a_link_leads_to_stays() {
        let home = tempfile::tempdir().unwrap();
        let (folder, outside) = (home.path().join("tree"), home.path().join("outside"));
        for part in ["locked/inner/most", "still/inner", "a/b/c/d", ".windlass-1/full"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
            std::fs::write(folder.join(part).join("file"), "x").unwrap();
        }
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "x").unwrap();
        for link in ["link", "a/link", "a/b/c/link"] {
            symlink(&outside, folder.join(link)).unwrap();
        }
        let set = |path: &str, mode| {
            std::fs::set_permissions(folder.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set("locked/inner", 0);
        set("locked", 0);
        set("still/inner", 0o500);
        set("still", 0o500);
        set("", 0);
        let mode = outside.metadata().unwrap().permissions().mode();
        remove_tree(&folder).unwrap();
        assert!(!folder.exists() && outside.join("file").exists());
        assert_eq!(outside.metadata().unwrap().permissions().mode(), mode);
    }

    #[test]
    fn a_link_in_the_place_of_the_folder_goes_and_a_folder_that_is_not_there_is_said_so() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("file"), "x").unwrap();
        symlink(home.path(), home.path().join("link")).unwrap();
        remove_tree(&home.path().join("link")).unwrap();
        assert!(home.path().join("file").exists() && home.path().join("link").symlink_metadata().is_err());
        let missing = remove_tree(&home.path().join("link")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
