//! What the superuser may do and a command in the cage may not. Nothing of it changes anything for other users.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Settings of the machine; some are the superuser's alone, such as `/etc/shadow`.
const SETTINGS: &str = "/etc";

/// Whether this process is the superuser's.
pub(crate) fn is_superuser() -> bool {
    geteuid().is_root()
}

/// Keeps this process's environment and memory from other processes of the same user, and from core dumps; says what
/// it cannot keep from them.
pub(crate) fn guard() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(error = %error, "other processes of this user can read this one's environment");
    }
    if is_superuser() {
        tracing::warn!(
            "Windlass runs as root: whatever it builds and runs owns every file of the system; run it as a user of its own"
        );
    }
}

/// Gives up every capability, for this thread and whatever it becomes. The new program gets none back although it is the
/// superuser's: either the bounding set is empty too, or it was not ours to change and Landlock's `no_new_privs` holds
/// (capabilities(7), "Capabilities and execution of programs by root").
///
/// # Errors
/// When the kernel does not take them.
pub(super) fn give_up() -> rustix::io::Result<()> {
    let none = CapabilitySet::empty();
    // The bounding set first: changing it is a capability itself.
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
                Ok(()) => {}
                // That was the last one that this kernel knows.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error),
            }
        }
    }
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// `folders` without what is the superuser's alone among the machine's settings. It owns that, so it would read it
/// without any capability; another user cannot read it anyhow, and sees a setting that is replaced later.
pub(super) fn readable_by_all(folders: &[PathBuf]) -> Vec<PathBuf> {
    if !is_superuser() {
        return folders.to_vec();
    }
    let mut found = Vec::with_capacity(folders.len());
    for folder in folders {
        if folder == Path::new(SETTINGS) {
            open_to_all(folder, &mut found);
        } else {
            found.push(folder.clone());
        }
    }
    found
}

/// Adds what everybody may read at and below `path`, in as few entries as that takes; says whether that is all of it.
fn open_to_all(path: &Path, found: &mut Vec<PathBuf>) -> bool {
    let Ok(about) = std::fs::symlink_metadata(path) else { return true };
    // A link is read without a rule, and where it leads has its own or none.
    if about.is_symlink() {
        return true;
    }
    if about.permissions().mode() & 0o004 == 0 {
        return false;
    }
    if about.is_dir() {
        let before = found.len();
        let mut whole = true;
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            whole &= open_to_all(&entry.path(), found);
        }
        if !whole {
            return false;
        }
        found.truncate(before);
    }
    found.push(path.to_owned());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_its_owner_may_read_is_left_out_and_the_rest_is_not_listed_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (path, mode) in
            [("shadow", 0o640), ("hosts", 0o644), ("ssl/private/key", 0o600), ("ssl/certs/a", 0o644)]
        {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "x").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        for (path, mode) in [("ssl", 0o755), ("ssl/certs", 0o755), ("ssl/private", 0o710)] {
            std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("shadow", root.join("link")).unwrap();
        let mut found = Vec::new();
        assert!(!open_to_all(root, &mut found));
        found.sort();
        assert_eq!(found, [root.join("hosts"), root.join("ssl/certs")]);
        found.clear();
        assert!(open_to_all(&root.join("ssl/certs"), &mut found));
        assert_eq!(found, [root.join("ssl/certs")]);
    }
}
