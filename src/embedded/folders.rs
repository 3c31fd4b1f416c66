//! Removes folders that somebody else's commands wrote, and closes what is ours to others.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Makes a folder that only its owner may enter, if it is not there.
///
/// # Errors
/// When it cannot be made, or something else is there.
pub(super) fn make_private(folder: &Path) -> std::io::Result<()> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        result => return result,
    }
    if folder.is_dir() { Ok(()) } else { Err(std::io::Error::other("it is not a folder")) }
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
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %error, "others may be able to read {}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

/// Removes a folder, if it is there, where waiting for the disk holds up nobody.
pub(super) async fn removed(folder: PathBuf) -> Result<(), String> {
    let removed = tokio::task::spawn_blocking(move || match remove_tree(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
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

/// Removes a tree in which a build may have taken permissions away.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        result => return result,
    }
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    std::fs::remove_dir_all(path)
}
