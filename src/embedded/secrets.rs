//! The key that seals secrets, in a file that only its owner can read.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::deploy::sealing::{KEY_BYTES, KeySecrets};

/// Loads the key at `path`, or makes one that only its owner can read.
///
/// # Errors
/// When the file cannot be read or made, has another length, or others can read it.
pub fn key_file(path: &Path) -> std::io::Result<KeySecrets> {
    let mut key = [0; KEY_BYTES];
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            rand::fill(&mut key);
            file.write_all(&key)?;
            file.sync_all()?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mut file = std::fs::File::open(path)?;
            if file.metadata()?.permissions().mode() & 0o077 != 0 {
                return Err(std::io::Error::other(format!(
                    "{} can be read by others; run: chmod 600 {0}",
                    path.display()
                )));
            }
            file.read_exact(&mut key).map_err(|_| {
                std::io::Error::other(format!("{} is not a key of {KEY_BYTES} bytes", path.display()))
            })?;
        }
        Err(error) => return Err(error),
    }
    Ok(KeySecrets::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::secrets::{CannotOpen, Secrets as _};
    use secrecy::ExposeSecret as _;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = key_file(&folder.path().join("key")).unwrap();
        let sealed = secrets.seal("canary-42");
        assert!(!format!("{sealed:?}{}", sealed.for_adapter()).contains("canary"));
        let again = key_file(&folder.path().join("key")).unwrap();
        assert_eq!(again.open(&sealed).unwrap().expose_secret(), "canary-42");
        let other = key_file(&folder.path().join("other")).unwrap();
        assert_eq!(other.open(&sealed).unwrap_err(), CannotOpen);
        assert_ne!(secrets.seal("canary-42"), sealed);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        drop(key_file(&path).unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(key_file(&path).err().unwrap().to_string().contains("chmod 600"));
    }
}
