//! What a running app says: appended to a file that is turned over when it is full.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc::Receiver;

use super::mask::Mask;
use crate::ambient::Clock;

/// Bytes of one file; with the one turned over, twice that is kept.
const MOST_BYTES: u64 = 10 << 20;
/// Lines taken at once.
const BATCH: usize = 256;

/// The log of one revision.
pub(super) struct AppLog {
    path: PathBuf,
    mask: Mask,
    open: Mutex<Option<(std::fs::File, u64)>>,
}

impl AppLog {
    /// The log at `path`, without what `mask` keeps out.
    pub(super) fn new(path: PathBuf, mask: Mask) -> Self {
        Self { path, mask, open: Mutex::new(None) }
    }

    /// Writes what comes until nobody sends any more.
    pub(super) async fn take(&self, mut said: Receiver<(&'static str, String)>, clock: &dyn Clock) {
        let mut batch = Vec::new();
        while said.recv_many(&mut batch, BATCH).await > 0 {
            let now = clock.now();
            let line = |(stream, line): (&str, String)| format!("{now} {stream} {}\n", self.mask.over(line));
            let text: String = batch.drain(..).map(line).collect();
            if let Err(error) = self.write(text.as_bytes()) {
                tracing::warn!(path = %self.path.display(), error = %error, "lines of an app were lost");
            }
        }
    }

    fn write(&self, text: &[u8]) -> std::io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|(_, bytes)| *bytes >= MOST_BYTES) {
            *open = None;
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let (file, bytes) = match open.as_mut() {
            Some(open) => open,
            None => {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.path)?;
                let bytes = file.metadata()?.len();
                open.insert((file, bytes))
            }
        };
        file.write_all(text)?;
        *bytes += text.len() as u64;
        Ok(())
    }

    /// The newest `most` lines.
    pub(super) fn tail(&self, most: usize) -> Vec<String> {
        let mut lines = VecDeque::new();
        for path in [self.path.with_extension("log.1"), self.path.clone()] {
            read_tail(&path, most, &mut lines);
        }
        lines.into()
    }
}

fn read_tail(path: &Path, most: usize, lines: &mut VecDeque<String>) {
    // A log that is not there, or not yet, has no lines.
    let Ok(text) = std::fs::read(path) else { return };
    for line in String::from_utf8_lossy(&text).lines() {
        if lines.len() == most {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_turned_over_and_the_tail_spans_both() {
        let folder = tempfile::tempdir().unwrap();
        let log = AppLog::new(folder.path().join("app.log"), Mask::default());
        log.write(b"old\n").unwrap();
        if let Some((_, bytes)) = log.open.lock().unwrap().as_mut() {
            *bytes = MOST_BYTES;
        }
        log.write(b"new\n").unwrap();
        assert!(folder.path().join("app.log.1").exists());
        assert_eq!(log.tail(10), ["old", "new"]);
        assert_eq!(log.tail(1), ["new"]);
    }

    #[tokio::test]
    async fn values_of_secrets_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = AppLog::new(folder.path().join("app.log"), Mask::new(std::iter::once("canary-42")));
        let (send, said) = tokio::sync::mpsc::channel(2);
        send.send(("stdout", "the key is canary-42".to_owned())).await.unwrap();
        drop(send);
        log.take(said, &crate::ambient::SystemClock).await;
        let kept = log.tail(9);
        assert!(kept.len() == 1 && kept[0].ends_with(" stdout the key is [redacted]"), "{kept:?}");
    }
}
