//! Forgets what is old and removes what nobody needs.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::ActionError;
use crate::ambient::before;
use crate::deploy::blobs::BlobError;
use crate::deploy::ids::{Digest, Name};
use crate::deploy::retention::{Forgotten, Needed, Reached};
use crate::deploy::source::{MOST_MANIFEST_BYTES, Manifest};
use crate::windlass::Windlass;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What a cleanup removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cleaned {
    /// Deployments, with their releases and logs.
    pub deployments: u64,
    /// Runs that have ended, with their events.
    pub runs: u64,
    /// Artifacts that could have been reused.
    pub artifacts: u64,
    /// Idempotency keys.
    pub idempotency_keys: u64,
    /// Workspaces that no open run owns.
    pub workspaces: u64,
    /// Logs that were compressed.
    pub compressed_logs: u64,
    /// Files of sources and artifacts that nothing points at. A dry run counts those that nothing points at now.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// What was left elsewhere and nothing needs, by its kind: `images`, `secrets`.
    #[serde(flatten)]
    pub remains: BTreeMap<&'static str, u64>,
}

impl Windlass {
    /// Cleans up; with `dry` it only tells what it would do. Doing it again right away removes nothing more.
    ///
    /// # Errors
    /// [`ActionError`]; what was removed stays removed, and the next cleanup goes on.
    pub async fn clean(&self, dry: bool) -> Result<Cleaned, ActionError> {
        let tools = &self.tools;
        let (now, keep) = (tools.clock.now(), tools.limits.keep);
        let mut cleaned = Cleaned { workspaces: self.remove_leftovers(dry).await?, ..Cleaned::default() };
        let old = before(now, DAY.saturating_mul(u32::from(keep.days)));
        loop {
            if !dry {
                // First the logs: once the record is gone nobody would know of them.
                for deployment in tools.retention.old(old, keep.releases).await? {
                    tools.logs.remove(deployment).await?;
                }
            }
            let forgotten = tools.retention.forget(old, keep.releases, dry).await?;
            if !dry {
                // And those that grew old between the two.
                for deployment in &forgotten.deployments {
                    tools.logs.remove(*deployment).await?;
                }
            }
            cleaned.count(&forgotten);
            if dry || forgotten.deployments.is_empty() && forgotten.runs == 0 {
                break;
            }
        }
        let yesterday = before(now, DAY);
        if !dry {
            cleaned.compressed_logs = tools.logs.compress(yesterday).await?;
        }
        self.remove_unreached(yesterday, dry, &mut cleaned).await?;
        Ok(cleaned)
    }

    /// Removes what no record points at: an organization's content, and then what all organizations left elsewhere.
    async fn remove_unreached(
        &self,
        since: Timestamp,
        dry: bool,
        cleaned: &mut Cleaned,
    ) -> Result<(), ActionError> {
        let mut reached = Reached::default();
        for org in self.tools.retention.organizations().await? {
            // Were one organization's needs not known, what it needs would go with what is shared. So this ends the cleanup.
            let needed = self.tools.retention.needed(&org, since).await?;
            reached.add(&org, &needed);
            match self.remove_content(&org, &needed, since, dry).await {
                Ok((files, bytes)) => {
                    cleaned.files += files;
                    cleaned.bytes += bytes;
                }
                // One organization's trouble is not its neighbours'.
                Err(error) => {
                    tracing::warn!(org = %org, error = %error, "content of {org} could not be cleaned up");
                }
            }
        }
        for remains in &self.tools.remains {
            let kind = remains.name();
            match remains.retain(&reached, since, dry).await {
                Ok(number) => {
                    cleaned.remains.insert(kind, number);
                }
                Err(error) => tracing::warn!(kind, error = %error, "{kind} could not be cleaned up"),
            }
        }
        Ok(())
    }

    async fn remove_content(
        &self,
        org: &Name,
        needed: &Needed,
        since: Timestamp,
        dry: bool,
    ) -> Result<(u64, u64), ActionError> {
        let keep = self.content_in_use(org, needed).await?;
        Ok(self.tools.blobs.retain(org, keep, since, dry).await?)
    }

    async fn content_in_use(&self, org: &Name, needed: &Needed) -> Result<HashSet<Digest>, ActionError> {
        let mut keep: HashSet<Digest> = needed.artifacts.iter().copied().collect();
        for source in needed.sources.iter().copied() {
            let text = match self.tools.blobs.read(org, source, MOST_MANIFEST_BYTES).await {
                // What is as large as this is no manifest, whatever a request said.
                Err(BlobError::Missing(_) | BlobError::Damaged(_) | BlobError::TooLarge(_)) => continue,
                read => read?,
            };
            keep.insert(source);
            let manifest = std::str::from_utf8(&text).ok().and_then(Manifest::from_text).unwrap_or_default();
            keep.extend(manifest.files().iter().map(|file| file.sha256));
        }
        Ok(keep)
    }

    /// Removes workspaces that no open run owns. Gives their number.
    async fn remove_leftovers(&self, dry: bool) -> Result<u64, ActionError> {
        let open = self.engine.journal.open_runs(self.tools.clock.now()).await?;
        let mut removed = 0;
        for run in self.tools.builder.leftovers().await? {
            let over = match self.engine.journal.history(run).await? {
                Some((state, _)) => state.is_over(),
                None => true,
            };
            if over && !open.iter().any(|(other, _)| *other == run) {
                if !dry {
                    self.tools.builder.discard(run).await?;
                }
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Cleaned {
    fn count(&mut self, forgotten: &Forgotten) {
        self.deployments += forgotten.deployments.len() as u64;
        self.runs += forgotten.runs;
        self.artifacts += forgotten.artifacts;
        self.idempotency_keys += forgotten.keys;
    }
}
