//! Secrets sealed with a key: XChaCha20-Poly1305, a random nonce each.

use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use secrecy::SecretString;

use super::secrets::{CannotOpen, Sealed, Secrets};

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;
const NONCE: usize = 24;
/// Tells how a secret was sealed, so that a later way can live beside this one.
const PREFIX: &str = "x1:";

/// [`Secrets`] with a key that was loaded at start.
pub struct KeySecrets(XChaCha20Poly1305);

impl KeySecrets {
    /// Seals with this key.
    #[must_use]
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(XChaCha20Poly1305::new(&Key::from(key)))
    }
}

impl Secrets for KeySecrets {
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

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
