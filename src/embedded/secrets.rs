//! Secrets sealed with a key file: XChaCha20-Poly1305, a random nonce each.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use secrecy::SecretString;

use crate::deploy::secrets::{CannotOpen, Sealed, Secrets};

/// Bytes of the key and of a nonce.
const KEY: usize = 32;
const NONCE: usize = 24;
/// Tells how a secret was sealed, so that a later way can live beside this one.
const PREFIX: &str = "x1:";

/// [`Secrets`] with a key file.
pub struct KeyFileSecrets(XChaCha20Poly1305);

impl KeyFileSecrets {
    /// Loads the key at `path`, or makes one that only its owner can read.
    ///
    /// # Errors
    /// When the file cannot be read or made, has another length, or others can read it.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let mut key = [0; KEY];
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
                    std::io::Error::other(format!("{} is not a key of {KEY} bytes", path.display()))
                })?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self(XChaCha20Poly1305::new(&Key::from(key))))
    }
}

impl Secrets for KeyFileSecrets {
    fn seal(&self, text: &str) -> Sealed {
        let nonce: [u8; NONCE] = rand::random();
        // Encryption fails only for texts beyond 256 GiB, which no request can carry.
        let sealed = self.0.encrypt(&XNonce::from(nonce), text.as_bytes()).unwrap_or_default();
        Sealed::from_adapter(format!("{PREFIX}{}{}", hex(&nonce), hex(&sealed)))
    }

    fn open(&self, sealed: &Sealed) -> Result<SecretString, CannotOpen> {
        let bytes = sealed.for_adapter().strip_prefix(PREFIX).and_then(unhex).ok_or(CannotOpen)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE).ok_or(CannotOpen)?;
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| CannotOpen)?;
        let text = self.0.decrypt(&XNonce::from(nonce), sealed).map_err(|_| CannotOpen)?;
        String::from_utf8(text).map(SecretString::from).map_err(|_| CannotOpen)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = KeyFileSecrets::open(&folder.path().join("key")).unwrap();
        let sealed = secrets.seal("canary-42");
        assert!(!format!("{sealed:?}{}", sealed.for_adapter()).contains("canary"));
        let again = KeyFileSecrets::open(&folder.path().join("key")).unwrap();
        assert_eq!(again.open(&sealed).unwrap().expose_secret(), "canary-42");
        let other = KeyFileSecrets::open(&folder.path().join("other")).unwrap();
        assert_eq!(other.open(&sealed).unwrap_err(), CannotOpen);
        assert_ne!(secrets.seal("canary-42"), sealed);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        drop(KeyFileSecrets::open(&path).unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(KeyFileSecrets::open(&path).err().unwrap().to_string().contains("chmod 600"));
    }
}
