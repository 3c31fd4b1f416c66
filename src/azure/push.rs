//! Brings blobs into a repository, as far as the time of one invocation goes, and goes on where the one before stopped.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::registry::{Begun, Session};
use super::registry_door::RegistryError;
use crate::ambient::Clock;
use crate::deploy::ids::Digest;
use crate::deploy::image::Descriptor;

/// Bytes that are sent at once; every registry takes that much.
const PART: u64 = 4 << 20;
/// Uploads that may be lost before it is taken for no accident.
const MOST_LOST: u32 = 5;

/// How far it got.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    upload: Option<Upload>,
    lost: u32,
    /// Whether this look has sent something.
    #[serde(skip)]
    pub(super) sent: bool,
}

/// A blob that is partly there.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Upload {
    digest: Digest,
    at: String,
    sent: u64,
}

/// Where a blob's bytes come from.
pub(super) enum Content<'a> {
    /// Here they are.
    Here(&'a Bytes),
    /// Another repository, of the same registry or of another one.
    There { session: &'a Session, repository: &'a str, same: bool },
}

impl Content<'_> {
    async fn part(&self, digest: Digest, (from, to): (u64, u64)) -> Result<Bytes, RegistryError> {
        match self {
            Self::Here(bytes) => {
                let end = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(end(from)..end(to)))
            }
            Self::There { session, repository, .. } => session.part(repository, digest, (from, to)).await,
        }
    }
}

/// One invocation's work on one repository.
pub(super) struct Push<'a> {
    pub(super) session: &'a Session,
    pub(super) repository: &'a str,
    pub(super) clock: &'a dyn Clock,
    /// When it stops.
    pub(super) until: Timestamp,
}

impl Push<'_> {
    /// Brings the blob into the repository, unless it is there.
    pub(super) async fn blob(
        &self,
        blob: &Descriptor,
        content: &Content<'_>,
        progress: &mut Progress,
    ) -> Result<bool, RegistryError> {
        let is_there = self.session.has(self.repository, blob.digest).await?;
        Ok(is_there || self.missing(blob, content, progress).await?)
    }

    /// Brings a blob that is not there; false when there is no time left, or the upload was lost. However late it is, one
    /// part is sent.
    pub(super) async fn missing(
        &self,
        blob: &Descriptor,
        content: &Content<'_>,
        progress: &mut Progress,
    ) -> Result<bool, RegistryError> {
        let Some(mut upload) = self.upload(blob, content, progress).await? else { return Ok(true) };
        while upload.sent < blob.size {
            // An outage ends the look, and costs no more than this part.
            progress.upload = Some(upload.clone());
            let end = blob.size.min(upload.sent + PART);
            let part = content.part(blob.digest, (upload.sent, end)).await?;
            match self.session.append(&upload.at, upload.sent, part).await? {
                Some(at) => upload = Upload { at, sent: end, ..upload },
                None => return self.lost(progress),
            }
            progress.sent = true;
            // Not before: what came ahead of this may take all the time there is, each time again.
            if upload.sent < blob.size && self.clock.now() >= self.until {
                progress.upload = Some(upload);
                return Ok(false);
            }
        }
        progress.upload = Some(upload.clone());
        if !self.session.finish(&upload.at, blob.digest).await? {
            return self.lost(progress);
        }
        *progress = Progress { sent: progress.sent, ..Progress::default() };
        Ok(true)
    }

    /// The upload that goes on, or a new one; none when the registry had the blob elsewhere.
    async fn upload(
        &self,
        blob: &Descriptor,
        content: &Content<'_>,
        progress: &mut Progress,
    ) -> Result<Option<Upload>, RegistryError> {
        if let Some(upload) = progress.upload.clone().filter(|upload| upload.digest == blob.digest) {
            return Ok(Some(upload));
        }
        let from = match content {
            Content::There { repository, same: true, .. } => Some(*repository),
            Content::There { .. } | Content::Here(_) => None,
        };
        Ok(match self.session.begin(self.repository, blob.digest, from).await? {
            Begun::Mounted => None,
            Begun::At(at) => Some(Upload { digest: blob.digest, at, sent: 0 }),
        })
    }

    /// Begins anew with the next look.
    fn lost(&self, progress: &mut Progress) -> Result<bool, RegistryError> {
        progress.upload = None;
        progress.lost += 1;
        if progress.lost < MOST_LOST { Ok(false) } else { Err(self.session.refuses("it loses every upload")) }
    }
}
