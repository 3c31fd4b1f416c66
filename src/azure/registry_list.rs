//! What a registry of Azure's has, and how it is deleted there (its own interface `/acr/v1`, version 2021-07-01).
//!
//! The distribution specification lists tags only, and an image that lost its tag still takes up room.

use azure_core::http::headers::HeaderName;
use azure_core::http::{Method, Request, Url};
use jiff::Timestamp;
use serde::Deserialize;

use super::registry::Session;
use super::registry_door::RegistryError;
use crate::deploy::ids::Digest;

const LINK: HeaderName = HeaderName::from_static("link");
/// Manifests on a page, and pages at most: who knows a part of a repository only must not delete there.
const ON_A_PAGE: usize = 100;
const MOST_PAGES: usize = 200;

/// A manifest as the registry lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    /// With its algorithm.
    digest: String,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    created_time: Option<Timestamp>,
    #[serde(default)]
    last_update_time: Option<Timestamp>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    changeable_attributes: Option<Changeable>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Changeable {
    #[serde(default)]
    delete_enabled: Option<bool>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    manifests: Option<Vec<Listed>>,
}

impl Listed {
    /// Its digest; none in another algorithm than ours.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.digest.strip_prefix("sha256:")?.parse().ok()
    }

    /// Whether it only names other manifests.
    pub(super) fn is_index(&self) -> bool {
        let kind = self.media_type.as_deref().unwrap_or_default();
        kind.contains("image.index") || kind.contains("manifest.list")
    }

    /// Whether it was made and given its tags before this moment. What does not say so was not.
    pub(super) fn is_older_than(&self, before: Timestamp) -> bool {
        self.created_time.max(self.last_update_time).is_some_and(|at| at < before)
    }

    /// Whether somebody locked it against deletion.
    pub(super) fn is_locked(&self) -> bool {
        self.changeable_attributes.as_ref().and_then(|attributes| attributes.delete_enabled) == Some(false)
    }

    pub(super) fn tags(&self) -> &[String] {
        self.tags.as_deref().unwrap_or_default()
    }
}

/// The address in a header such as `</acr/v1/…?last=…>; rel="next"`.
fn next(link: &str) -> Option<&str> {
    link.split_once('<')?.1.split_once('>').map(|(address, _)| address)
}

impl Session {
    /// Every manifest of a repository; none where there is no such repository, or no registry of Azure's.
    pub(super) async fn manifests(&self, repository: &str) -> Result<Vec<Listed>, RegistryError> {
        let path = format!("acr/v1/{repository}/_manifests?api-version=2021-07-01&n={ON_A_PAGE}");
        let mut url = self.address(&path)?;
        let mut listed = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.ask(Request::new(url, Method::Get)).await?;
            match answer.status {
                200 => {}
                404 if listed.is_empty() => return Ok(listed),
                // Whoever knows only a part of a repository must not delete there.
                _ => return Err(self.door.error(&answer)),
            }
            let page: Page = serde_json::from_slice(&answer.body)
                .map_err(|error| self.refuses(&format!("its list of manifests cannot be read: {error}")))?;
            listed.extend(page.manifests.unwrap_or_default());
            match answer.headers.get_optional_str(&LINK).and_then(next) {
                Some(more) => url = self.address(more)?,
                None => return Ok(listed),
            }
        }
        Err(self.refuses(&format!("{repository} has too many manifests to be cleaned up")))
    }

    fn address(&self, path: &str) -> Result<Url, RegistryError> {
        let url = self.door.base.join(path);
        url.map_err(|error| self.refuses(&format!("{path} is no path there: {error}")))
    }

    /// Deletes a manifest with its tags; false when it is not there.
    pub(super) async fn delete(&self, repository: &str, digest: Digest) -> Result<bool, RegistryError> {
        let url = self.door.url(&format!("{repository}/manifests/sha256:{digest}"))?;
        let answer = self.ask(Request::new(url, Method::Delete)).await?;
        match answer.status {
            200 | 202 => Ok(true),
            404 => Ok(false),
            _ => Err(self.door.error(&answer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_where_the_next_one_is() {
        assert_eq!(
            next("</acr/v1/a/_manifests?last=b&n=1>; rel=\"next\""),
            Some("/acr/v1/a/_manifests?last=b&n=1")
        );
        assert_eq!(next("nothing"), None);
    }

    #[test]
    fn what_does_not_say_its_age_is_young() {
        let listed = |text: &str| serde_json::from_str::<Listed>(text).unwrap();
        let now = Timestamp::from_second(1_600_000_000).unwrap();
        assert!(!listed(r#"{"digest":"sha256:a"}"#).is_older_than(now));
        let made = r#"{"digest":"sha256:a","createdTime":"2020-01-01T00:00:00.1234567Z"}"#;
        assert!(listed(made).is_older_than(now));
        let tagged = r#"{"digest":"sha256:a","createdTime":"2020-01-01T00:00:00Z","lastUpdateTime":"2021-01-01T00:00:00Z"}"#;
        assert!(!listed(tagged).is_older_than(now), "it was given a tag since");
    }
}
