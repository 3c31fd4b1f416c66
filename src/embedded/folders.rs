//! Removes folders that somebody else's commands wrote.

use std::path::{Path, PathBuf};

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
    use std::os::unix::fs::PermissionsExt as _;
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
