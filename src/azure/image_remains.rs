//! Images that no record names any more are deleted from our own registry.
//!
//! The registry's repositories belong to this installation: its records are all that is asked. So the right to delete is
//! given only where no other installation pushes to the same registry.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use super::app_body::repository_of;
use super::images::Images;
use super::registry::Session;
use super::registry_door::RegistryError;
use super::registry_list::Listed;
use crate::deploy::ids::Digest;
use crate::deploy::retention::{Reached, Remains, RemainsError};
use crate::workflow::journal::RunId;

/// Whether a build of ours gave the tag. Another one is somebody's wish to keep the image.
fn is_our_tag(tag: &str) -> bool {
    tag == "latest" || tag.parse::<RunId>().is_ok() || tag.parse::<Digest>().is_ok()
}

fn named(value: &Value) -> Option<Digest> {
    value.get("digest")?.as_str()?.strip_prefix("sha256:")?.parse().ok()
}

/// The images that an index consists of.
fn parts(index: &Value) -> impl Iterator<Item = Digest> {
    index.get("manifests").and_then(Value::as_array).into_iter().flatten().filter_map(named)
}

/// What is looked at in one repository.
struct Looked<'a> {
    session: Session,
    repository: &'a str,
    /// What stays.
    staying: HashSet<Digest>,
    /// What goes, indexes before the images that they consist of.
    going: Vec<Digest>,
}

impl<'a> Looked<'a> {
    async fn new(
        session: Session,
        repository: &'a str,
        kept: &HashSet<Digest>,
        before: Timestamp,
    ) -> Result<Self, RegistryError> {
        let stays = |digest: &Digest, listed: &Listed| {
            kept.contains(digest)
                || !listed.is_older_than(before)
                || listed.is_locked()
                || !listed.tags().iter().all(|tag| is_our_tag(tag))
        };
        let listed = session.manifests(repository).await?;
        let listed = listed.iter().filter_map(|listed| Some((listed.digest()?, listed)));
        let (keep, mut going): (Vec<_>, Vec<_>) = listed.partition(|(digest, listed)| stays(digest, listed));
        let mut staying: HashSet<Digest> = keep.iter().map(|(digest, _)| *digest).collect();
        for (index, _) in keep.iter().filter(|(_, listed)| listed.is_index()) {
            let found = session.manifest(repository, &format!("sha256:{index}")).await?;
            staying.extend(found.iter().flat_map(|(_, index)| parts(index)));
        }
        going.retain(|(digest, _)| !staying.contains(digest));
        going.sort_by_key(|(_, listed)| !listed.is_index());
        let going = going.into_iter().map(|(digest, _)| digest).collect();
        Ok(Self { session, repository, staying, going })
    }

    /// What a manifest, such as a signature, says something about.
    async fn subject(&self, digest: Digest) -> Result<Option<Digest>, RegistryError> {
        let found = self.session.manifest(self.repository, &format!("sha256:{digest}")).await?;
        Ok(found.and_then(|(_, manifest)| named(manifest.get("subject")?)))
    }

    /// Keeps what is said about what stays, and what is said about that.
    async fn spare_what_is_said(&mut self) -> Result<(), RegistryError> {
        let mut subjects = Vec::new();
        for digest in self.going.iter().copied() {
            subjects.push((digest, self.subject(digest).await?));
        }
        loop {
            let spared =
                subjects.iter().filter(|(_, subject)| subject.is_some_and(|it| self.staying.contains(&it)));
            let spared: HashSet<Digest> = spared.map(|(digest, _)| *digest).collect();
            if spared.is_subset(&self.staying) {
                break;
            }
            self.staying.extend(spared);
        }
        self.going.retain(|digest| !self.staying.contains(digest));
        Ok(())
    }

    async fn remove(mut self, dry: bool) -> Result<u64, RegistryError> {
        self.spare_what_is_said().await?;
        let mut removed = 0;
        for digest in self.going.iter().copied() {
            removed += u64::from(dry || self.session.delete(self.repository, digest).await?);
        }
        Ok(removed)
    }
}

impl Images {
    async fn tidy(
        &self,
        repository: &str,
        kept: &HashSet<Digest>,
        before: Timestamp,
        dry: bool,
    ) -> Result<u64, RegistryError> {
        let rights = if dry { "metadata_read,pull" } else { "metadata_read,pull,delete" };
        let scopes = [format!("repository:{repository}:{rights}")];
        let session = self.registries.session(self.registries.own(), &scopes).await?;
        Looked::new(session, repository, kept, before).await?.remove(dry).await
    }
}

#[async_trait]
impl Remains for Images {
    fn name(&self) -> &'static str {
        "images"
    }

    async fn retain(&self, reached: &Reached, before: Timestamp, dry: bool) -> Result<u64, RemainsError> {
        let repositories: BTreeSet<String> =
            reached.projects.iter().map(|project| repository_of(project)).collect();
        let mut removed = 0;
        for repository in &repositories {
            match self.tidy(repository, &reached.artifacts, before, dry).await {
                Ok(number) => removed += number,
                Err(RegistryError::Forbidden { host, why }) => {
                    tracing::warn!(
                        repository,
                        "old images stay in {host} ({why}); where no other installation uses this registry, give the \
                         identity of Windlass the role AcrDelete, or Container Registry Repository Contributor in ABAC mode"
                    );
                    break;
                }
                Err(error @ RegistryError::Refused { .. }) => {
                    tracing::warn!(repository, error = %error, "old images of {repository} stay");
                }
                Err(error @ RegistryError::Unavailable { .. }) => {
                    return Err(RemainsError(error.to_string()));
                }
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_our_builds_are_ours() {
        let ours =
            [format!("run_{}", "0".repeat(32)), Digest::of(b"source").to_string(), "latest".to_owned()];
        assert!(ours.iter().all(|tag| is_our_tag(tag)));
        assert!(!is_our_tag("v1"));
    }
}
