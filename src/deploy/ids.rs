//! Names of things. Parsing checks them, so that a value of these types is always well formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Crockford's base 32: no I, L, O, U (crockford.com/base32.html).
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters after `dep_`: 55 bits, so that a million ids collide with a chance of 1 in 70 000, and the store
/// refuses the second one.
const DEPLOYMENT_CHARS: u32 = 11;
/// Longest name of an organization, project or user.
const MOST_NAME_CHARS: usize = 128;

/// Text that is not the name of such a thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadId {
    /// What it has to look like.
    pub what: &'static str,
}

/// Names a deployment: `dep_` and 11 Crockford characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeploymentId([u8; DEPLOYMENT_CHARS as usize]);

impl DeploymentId {
    /// The id of 128 random bits, of which 55 are used.
    #[must_use]
    pub fn new(random: u128) -> Self {
        let mut chars = [0; DEPLOYMENT_CHARS as usize];
        for (place, char) in (0..DEPLOYMENT_CHARS).zip(chars.iter_mut()) {
            let index = usize::try_from((random >> (5 * place)) & 31).unwrap_or(0);
            *char = CROCKFORD.get(index).copied().unwrap_or(b'0');
        }
        Self(chars)
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dep_")?;
        self.0.iter().try_for_each(|char| write!(f, "{}", char::from(*char)))
    }
}

impl FromStr for DeploymentId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = BadId { what: "a deployment id is `dep_` and 11 characters of 0-9 A-Z without I, L, O, U" };
        let chars = text.strip_prefix("dep_").ok_or(bad.clone())?.as_bytes();
        if !chars.iter().all(|char| CROCKFORD.contains(char)) {
            return Err(bad);
        }
        chars.try_into().map(Self).map_err(|_| bad)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(DeploymentId);
as_text!(Name);
as_text!(Digest);
as_text!(Commit);

/// Names an organization, a project or a user, as their owner chose it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let fits = |char: char| char.is_ascii_alphanumeric() || "._:@-".contains(char);
        let starts = text.starts_with(|char: char| char.is_ascii_alphanumeric());
        if starts && text.len() <= MOST_NAME_CHARS && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadId { what: "use 1 to 128 letters, digits or . _ : @ -, beginning with a letter or digit" })
        }
    }
}

/// A SHA-256, which names content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = BadId { what: "a SHA-256 is 64 hexadecimal digits" };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad.clone())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad.clone())?;
        }
        Ok(Self(bytes))
    }
}

/// Names a commit of git: 40 hexadecimal digits, or 64 where a repository uses SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit(String);

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Commit {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        if matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(BadId { what: "a commit is named by its 40 or 64 hexadecimal digits, not by a shorter name" })
        }
    }
}

/// A name that DNS accepts as one label, made of any text: lower case ASCII letters, digits and inner hyphens. Text
/// without any of these gets a label from its digest, so that no name is refused.
#[must_use]
pub fn dns_label(text: &str) -> String {
    let mut label = String::new();
    for char in text.chars().map(|char| char.to_ascii_lowercase()) {
        if char.is_ascii_alphanumeric() {
            label.push(char);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
        // 40 leaves room for an environment and a distinguishing suffix in the 63 of a label (RFC 1035).
        if label.len() == 40 {
            break;
        }
    }
    let label = label.trim_matches('-');
    if label.is_empty() {
        let digest = Digest::of(text.as_bytes()).to_string();
        return format!("app-{}", digest.get(..8).unwrap_or_default());
    }
    label.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_id_reads_back() {
        let id = DeploymentId::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let text = id.to_string();
        assert_eq!(text.len(), 15);
        assert_eq!(text.parse::<DeploymentId>().unwrap(), id);
        for bad in [
            "dep_",
            "dep_7N3K8L2M5Q9",
            "dep_7N3K8I2M5Q9",
            "dep_7n3k8m2m5q9",
            "run_7N3K8M2M5Q9",
            "dep_7N3K8M2M5Q99",
        ] {
            assert!(bad.parse::<DeploymentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_million_ids_differ() {
        let ids = crate::ambient::SeededIds::new(1);
        let mut seen = std::collections::HashSet::new();
        assert!((0..1_000_000).all(|_| seen.insert(DeploymentId::new(crate::ambient::Ids::random(&ids)))));
    }

    #[test]
    fn labels_are_dns_labels() {
        for (text, label) in [
            ("Test App", "test-app"),
            ("  --Shop!! 2 ", "shop-2"),
            ("test-project", "test-project"),
            ("Über", "ber"),
        ] {
            assert_eq!(dns_label(text), label);
        }
        assert!(dns_label("日本語").starts_with("app-"));
        assert_eq!(dns_label(&"x".repeat(200)).len(), 40);
    }

    proptest::proptest! {
        #[test]
        fn any_text_becomes_a_label(text in "\\PC*") {
            let label = dns_label(&text);
            proptest::prop_assert!((1..=40).contains(&label.len()));
            proptest::prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            proptest::prop_assert!(!label.starts_with('-') && !label.ends_with('-'));
        }
    }

    #[test]
    fn a_commit_is_named_in_full() {
        for digits in [40, 64] {
            let name = "aF".repeat(digits / 2);
            assert_eq!(name.parse::<Commit>().unwrap().to_string(), name.to_lowercase());
        }
        for bad in ["", "main", "abcdef0", &"a".repeat(39), &"a".repeat(41), &"g".repeat(40)] {
            assert!(bad.parse::<Commit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_reads_back() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("abc".parse::<Digest>().is_err());
    }
}
