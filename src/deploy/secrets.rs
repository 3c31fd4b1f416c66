//! The port that seals secrets before they are stored.

use serde::{Deserialize, Serialize};

/// A secret as it is stored: unreadable without the key. Printing it shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// Wraps what an adapter made.
    #[must_use]
    pub fn from_adapter(text: String) -> Self {
        Self(text)
    }

    /// What the adapter made, for the adapter.
    #[must_use]
    pub fn for_adapter(&self) -> &str {
        &self.0
    }

    /// A stand-in that shows whether a value got where it should.
    #[cfg(test)]
    pub(crate) fn for_tests(text: &str) -> Self {
        Self(format!("sealed:{}", text.len()))
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A sealed secret that cannot be opened: made with another key, or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored secret cannot be opened with this key; set it again")]
pub struct CannotOpen;

/// Seals secrets and opens them again. No input or output: the key is loaded at start.
pub trait Secrets: Send + Sync {
    /// Makes `text` unreadable.
    fn seal(&self, text: &str) -> Sealed;

    /// Gives the text back.
    ///
    /// # Errors
    /// [`CannotOpen`].
    fn open(&self, sealed: &Sealed) -> Result<secrecy::SecretString, CannotOpen>;
}
