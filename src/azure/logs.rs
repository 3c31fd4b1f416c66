//! Deployment logs in append blobs, one JSON line each. A line's id is where it ends in the blob.
//!
//! Every append names the place it expects, so that an append that was sent twice is there once. The function processes
//! share no memory, so a follower looks again every second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::http::StatusCode;
use azure_storage_blob::models::{
    AppendBlobClientAppendBlockOptions, AppendBlobClientCreateOptions, BlobClientDownloadOptions,
    BlobClientGetPropertiesResultHeaders as _, HttpRange,
};
use azure_storage_blob::{BlobClient, BlobContainerClient};
use jiff::Timestamp;

use super::cosmos::RACES;
use crate::ambient::Clock;
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::DeploymentId;
use crate::deploy::log::{From, Line, Logs};

/// How often a follower looks.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of one append; the service takes 100 MiB since 2022, and 4 MiB before.
const MOST_APPEND: usize = 4 * 1024 * 1024;
/// Bytes read at a time; a tail looks at as many.
const PAGE: u64 = 1024 * 1024;
/// Logs whose end is remembered.
const MOST_REMEMBERED: usize = 1_000;

/// [`Logs`] in a container of Blob Storage.
pub struct AzureLogs {
    container: BlobContainerClient,
    clock: Arc<dyn Clock>,
    /// Where the log ended when this process wrote to it last.
    ends: Mutex<HashMap<DeploymentId, u64>>,
}

fn unavailable(error: azure_core::Error) -> StoreError {
    StoreError(error.into())
}

impl AzureLogs {
    /// Logs in this container.
    #[must_use]
    pub fn new(container: BlobContainerClient, clock: Arc<dyn Clock>) -> Self {
        Self { container, clock, ends: Mutex::default() }
    }

    fn blob(&self, deployment: DeploymentId) -> BlobClient {
        self.container.blob_client(&format!("{deployment}.jsonl"))
    }

    fn remember(&self, deployment: DeploymentId, end: Option<u64>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() >= MOST_REMEMBERED {
            ends.clear();
        }
        match end {
            Some(end) => ends.insert(deployment, end),
            None => ends.remove(&deployment),
        };
    }

    fn remembered(&self, deployment: DeploymentId) -> Option<u64> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).get(&deployment).copied()
    }

    /// Where the log ends; `None` when there is none.
    async fn end(&self, deployment: DeploymentId) -> Result<Option<u64>, StoreError> {
        match self.blob(deployment).get_properties(None).await {
            Ok(answer) => Ok(Some(answer.content_length().map_err(unavailable)?.unwrap_or_default())),
            Err(error) if error.http_status() == Some(StatusCode::NotFound) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Where to append; the log is made when there is none.
    async fn end_or_begin(&self, deployment: DeploymentId) -> Result<u64, StoreError> {
        if let Some(end) = self.end(deployment).await? {
            return Ok(end);
        }
        let options = AppendBlobClientCreateOptions::default().if_not_exists();
        match self.blob(deployment).append_blob_client().create(Some(options)).await {
            Ok(_) => Ok(0),
            Err(error) if is_taken(&error) => Ok(self.end(deployment).await?.unwrap_or_default()),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn append_text(&self, deployment: DeploymentId, text: Vec<u8>) -> Result<(), StoreError> {
        let length = text.len() as u64;
        let text = bytes::Bytes::from(text);
        let mut tried = Vec::new();
        for _ in 0..RACES {
            let at = match self.remembered(deployment) {
                Some(at) => at,
                None => self.end_or_begin(deployment).await?,
            };
            if self.landed(deployment, &tried, &text).await? {
                return Ok(());
            }
            let options = AppendBlobClientAppendBlockOptions {
                append_position: i64::try_from(at).ok(),
                ..AppendBlobClientAppendBlockOptions::default()
            };
            let blob = self.blob(deployment).append_blob_client();
            match blob.append_block(text.clone().into(), length, Some(options)).await {
                Ok(_) => {
                    self.remember(deployment, Some(at + length));
                    return Ok(());
                }
                Err(error) if is_taken(&error) || error.http_status() == Some(StatusCode::NotFound) => {
                    self.remember(deployment, None);
                    tried.push(at);
                }
                Err(error) => {
                    self.remember(deployment, None);
                    return Err(unavailable(error));
                }
            }
        }
        Err(StoreError("the log is written by too many at the same time".into()))
    }

    /// Whether a refused append is there nevertheless: the pipeline repeats what got no answer.
    async fn landed(
        &self,
        deployment: DeploymentId,
        tried: &[u64],
        text: &bytes::Bytes,
    ) -> Result<bool, StoreError> {
        for at in tried {
            let there = self.bytes(deployment, *at, text.len() as u64).await?;
            if there == *text {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn bytes(
        &self,
        deployment: DeploymentId,
        from: u64,
        most: u64,
    ) -> Result<bytes::Bytes, StoreError> {
        let options = BlobClientDownloadOptions {
            range: Some(HttpRange::new(from, most)),
            ..BlobClientDownloadOptions::default()
        };
        let answer = match self.blob(deployment).download(Some(options)).await {
            Ok(answer) => answer,
            // 416: nothing there yet.
            Err(error)
                if matches!(
                    error.http_status(),
                    Some(StatusCode::NotFound | StatusCode::RequestedRangeNotSatisfiable)
                ) =>
            {
                return Ok(bytes::Bytes::new());
            }
            Err(error) => return Err(unavailable(error)),
        };
        answer.body.collect().await.map_err(unavailable)
    }

    /// Where the last `lines` lines begin.
    async fn tail(&self, deployment: DeploymentId, lines: usize) -> Result<u64, StoreError> {
        let Some(end) = self.end(deployment).await? else { return Ok(0) };
        let (mut from, mut found) = (end, 0);
        while from > 0 {
            let begin = from.saturating_sub(PAGE);
            let page = self.bytes(deployment, begin, from - begin).await?;
            for (index, byte) in page.iter().enumerate().rev() {
                let next = begin + index as u64 + 1;
                if *byte == b'\n' && next < end {
                    found += 1;
                    if found == lines {
                        return Ok(next);
                    }
                }
            }
            from = begin;
        }
        Ok(0)
    }
}

/// Whether somebody else was there first.
fn is_taken(error: &azure_core::Error) -> bool {
    matches!(error.http_status(), Some(StatusCode::Conflict | StatusCode::PreconditionFailed))
}

#[async_trait]
impl Logs for AzureLogs {
    async fn append(&self, deployment: DeploymentId, lines: Vec<Line>) -> Result<(), StoreError> {
        let mut text = Vec::new();
        for line in lines {
            let line = serde_json::to_vec(&line).map_err(|error| StoreError(error.into()))?;
            if !text.is_empty() && text.len() + line.len() >= MOST_APPEND {
                self.append_text(deployment, std::mem::take(&mut text)).await?;
            }
            text.extend(line);
            text.push(b'\n');
        }
        if text.is_empty() { Ok(()) } else { self.append_text(deployment, text).await }
    }

    async fn read(
        &self,
        deployment: DeploymentId,
        from: From,
        limit: usize,
    ) -> Result<Vec<Line>, StoreError> {
        let mut at = match from {
            From::After(id) => id,
            From::Tail(0) => return Ok(Vec::new()),
            From::Tail(lines) => self.tail(deployment, lines).await?,
        };
        let (mut lines, mut rest) = (Vec::new(), Vec::new());
        let mut next = at;
        while lines.len() < limit {
            let page = self.bytes(deployment, next, PAGE).await?;
            if page.is_empty() {
                break;
            }
            next += page.len() as u64;
            rest.extend_from_slice(&page);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n')
                && lines.len() < limit
            {
                let text: Vec<u8> = rest.drain(..=end).collect();
                at += text.len() as u64;
                // A line that an id of the caller's making cut in half is passed over.
                if let Ok(line) = serde_json::from_slice::<Line>(&text) {
                    lines.push(Line { id: at, ..line });
                }
            }
        }
        Ok(lines)
    }

    async fn compress(&self, _before: Timestamp) -> Result<u64, StoreError> {
        // The account's lifecycle rule deletes old logs; append blobs cannot be compressed in place.
        Ok(0)
    }

    async fn remove(&self, deployment: DeploymentId) -> Result<(), StoreError> {
        self.remember(deployment, None);
        match self.blob(deployment).delete(None).await {
            Ok(_) => Ok(()),
            Err(error) if error.http_status() == Some(StatusCode::NotFound) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn changed(&self, deployment: DeploymentId, after: u64) -> u64 {
        loop {
            match self.end(deployment).await {
                Ok(Some(end)) if end > after => return end,
                Ok(_) | Err(_) => self.clock.sleep(LOOK).await,
            }
        }
    }
}
