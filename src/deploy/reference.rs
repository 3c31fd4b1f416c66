//! Names of images: `registry/repository:tag` or `registry/repository@sha256:…`, always with their registry.

use std::fmt;
use std::str::FromStr;

use super::ids::Digest;

/// Longest tag, as the distribution specification has it.
const MOST_TAG: usize = 128;
/// The public registry's name, and where its interface is.
const PUBLIC: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Whatever has this tag now.
    Tag(String),
    /// This one.
    Digest(Digest),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

/// The name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host, with a port where it has one.
    pub registry: String,
    /// In the registry.
    pub repository: String,
    /// Of the repository.
    pub version: Version,
}

impl Reference {
    /// The host that is asked for it.
    #[must_use]
    pub fn host(&self) -> &str {
        let (name, host) = PUBLIC;
        if self.registry == name { host } else { &self.registry }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.version {
            Version::Tag(_) => ':',
            Version::Digest(_) => '@',
        };
        write!(f, "{}/{}{sign}{}", self.registry, self.repository, self.version)
    }
}

/// Text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an image is named registry/repository:tag or registry/repository@sha256:<digest>, with its registry"
)]
pub struct BadReference;

fn is_repository(text: &str) -> bool {
    let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "._-".contains(char);
    text.split('/').all(|part| {
        part.starts_with(|char: char| char.is_ascii_alphanumeric())
            && !part.contains("..")
            && part.chars().all(fits)
    })
}

fn is_tag(text: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    (1..=MOST_TAG).contains(&text.len()) && !text.starts_with(['.', '-']) && text.chars().all(fits)
}

fn is_host(text: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || ".-:[]".contains(char);
    (text.contains(['.', ':']) || text == "localhost") && text.chars().all(fits)
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let (registry, rest) = text.split_once('/').ok_or(BadReference)?;
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest, None),
        };
        // The last colon, because the host, which may have one too, is gone.
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (name, None),
        };
        if !is_host(registry) || !is_repository(repository) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(BadReference);
        }
        let version = match digest {
            // A tag beside a digest says nothing more.
            Some(digest) => {
                let hex = digest.strip_prefix("sha256:").ok_or(BadReference)?;
                Version::Digest(hex.parse().map_err(|_| BadReference)?)
            }
            None => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), version })
    }
}

/// Text that names no image by its digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no image by its digest; write <registry>/<repository>@sha256:<64 hexadecimal digits>")]
pub struct BadImage(String);

/// The name of one image, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedImage(Reference);

impl PinnedImage {
    /// The registry that has it.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.0.registry
    }
}

impl FromStr for PinnedImage {
    type Err = BadImage;

    fn from_str(text: &str) -> Result<Self, BadImage> {
        match text.parse() {
            Ok(image @ Reference { version: Version::Digest(_), .. }) => Ok(Self(image)),
            Ok(Reference { version: Version::Tag(_), .. }) | Err(BadReference) => {
                Err(BadImage(text.to_owned()))
            }
        }
    }
}

impl fmt::Display for PinnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_say_where_to_ask() {
        let digest = "ab".repeat(32);
        for text in [
            "docker.io/library/node:22-slim".to_owned(),
            "127.0.0.1:5000/base:1".to_owned(),
            format!("mcr.microsoft.com/azurelinux/base/nodejs@sha256:{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let parse = |text: &str| text.parse::<Reference>();
        assert_eq!(parse("docker.io/library/node").unwrap().host(), "registry-1.docker.io");
        assert_eq!(parse("ghcr.io/a/b").unwrap().version, Version::Tag("latest".to_owned()));
        let both = parse(&format!("ghcr.io/a/b:1@sha256:{digest}")).unwrap();
        assert!(matches!(both.version, Version::Digest(_)));
        for bad in [
            "node:22",
            "library/node",
            "ghcr.io/A/b",
            "ghcr.io/a/../b",
            "ghcr.io/a:",
            "ghcr.io/a@sha256:12",
            "ghcr.io/a@md5:12",
            "ghcr.io//a",
            "https://ghcr.io/a",
        ] {
            assert_eq!(parse(bad), Err(BadReference), "{bad}");
        }
    }

    #[test]
    fn an_image_is_named_by_its_digest_or_refused() {
        let digest = "ab".repeat(32);
        let image: PinnedImage = format!("ghcr.io/o/kaniko@sha256:{digest}").parse().unwrap();
        assert_eq!(image.to_string(), format!("ghcr.io/o/kaniko@sha256:{digest}"));
        let names =
            ["ghcr.io/o/kaniko:debug", "kaniko@sha256:", "ghcr.io/@sha256:", "ghcr.io/o/kaniko@sha256:ab"];
        for text in names.map(str::to_owned).into_iter().chain([format!("kaniko@sha256:{digest}")]) {
            assert!(text.parse::<PinnedImage>().is_err(), "{text}");
        }
    }
}
