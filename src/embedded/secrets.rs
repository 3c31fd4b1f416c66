//! The key that seals secrets, in a file that only its owner can read.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension as _;

use super::db::{Db, DbError};
use crate::deploy::sealing::{KEY_BYTES, KeySecrets};
use crate::deploy::secrets::{Sealed, Secrets as _};

/// What the database keeps sealed, to know the key again.
const PROOF: &str = "windlass";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A new one would open nothing that is stored.
    #[error(
        "{path} {problem}, and the secrets of deployed apps are sealed with it: restore it from a copy; or, if it is lost, choose another --data-dir and deploy again"
    )]
    Lost {
        /// Where it has to be.
        path: PathBuf,
        /// What was seen.
        problem: &'static str,
    },
    /// The file.
    #[error("the key {path} cannot be used")]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The key of a data folder. It is made with the database; later it has to be the same one.
///
/// # Errors
/// [`KeyError`], before anything is sealed with another key.
pub fn key_of(db: &Db, path: &Path) -> Result<KeySecrets, KeyError> {
    let lost = |problem| KeyError::Lost { path: path.to_owned(), problem };
    let proof: Option<String> =
        db.read(|c| c.query_row("SELECT sealed FROM key_proof", [], |row| row.get(0)).optional())?;
    let used: bool =
        db.read(|c| c.query_row("SELECT EXISTS (SELECT 1 FROM deployments)", [], |row| row.get(0)))?;
    if (used || proof.is_some()) && !path.exists() {
        return Err(lost("is gone"));
    }
    let secrets = key_file(path).map_err(|source| KeyError::File { path: path.to_owned(), source })?;
    match proof.map(Sealed::from_adapter) {
        Some(proof) => {
            secrets.open(&proof).map_err(|_| lost("is another key than before"))?;
        }
        None => {
            let proof = secrets.seal(PROOF);
            // Lost with a crash, it is written by the next start.
            db.write_lazily(move |c| {
                c.execute("INSERT INTO key_proof VALUES (?1)", [proof.for_adapter()]).map(|_| ())
            });
        }
    }
    Ok(secrets)
}

/// Loads the key at `path`, or makes one that only its owner can read.
///
/// # Errors
/// When the file cannot be read or made, has another length, or others can read it.
pub fn key_file(path: &Path) -> std::io::Result<KeySecrets> {
    let mut key = [0; KEY_BYTES];
    match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            rand::fill(&mut key);
            write_key(path, &key)?;
        }
        Ok(mut file) => {
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

/// Writes a key as a whole: a crash leaves all of it or nothing.
fn write_key(path: &Path, key: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(key)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::secrets::CannotOpen;
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

    #[test]
    fn a_key_that_a_crash_left_half_written_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.key");
        std::fs::write(folder.path().join("secret.new"), "half").unwrap();
        let sealed = key_file(&path).unwrap().seal("canary");
        assert!(key_file(&path).unwrap().open(&sealed).is_ok());
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["secret.key"]);
    }

    #[tokio::test]
    async fn a_key_that_is_lost_or_another_one_is_noticed_before_anything_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("secret.key"), folder.path().join("copy"));
        let db = Db::open(&folder.path().join("db")).unwrap();
        let sealed = key_of(&db, &path).unwrap().seal("canary");
        // Whatever is written later comes after it.
        db.write(|c| c.execute("DELETE FROM timers", [])).await.unwrap();
        assert!(key_of(&db, &path).unwrap().open(&sealed).is_ok());
        std::fs::rename(&path, &copy).unwrap();
        let gone = key_of(&db, &path).err().unwrap().to_string();
        assert!(gone.contains("secret.key is gone") && gone.contains("restore it from a copy"), "{gone}");
        assert!(!path.exists(), "no new key was made");
        drop(key_file(&path).unwrap());
        let other = key_of(&db, &path).err().unwrap().to_string();
        assert!(other.contains("secret.key is another key than before"), "{other}");
        std::fs::rename(&copy, &path).unwrap();
        assert!(key_of(&db, &path).unwrap().open(&sealed).is_ok());
        let proofs: i64 =
            db.read(|c| c.query_row("SELECT count(*) FROM key_proof", [], |row| row.get(0))).unwrap();
        assert_eq!(proofs, 1);
    }
}
