//! Deployment logs: one file each, one JSON line each.
//!
//! A line's id is where it ends in the file, so that resuming is a seek and a tail is a read from the end. A log that nobody wrote to for long is compressed, and opened again by the
//! next line.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::deploy::deployment::StoreError;
use crate::deploy::ids::DeploymentId;
use crate::deploy::log::{From, Line, Logs};

/// Bytes read at a time from the end.
const BLOCK: u64 = 64 * 1024;
/// Open files kept; more deployments at a time reopen theirs.
const MOST_OPEN: usize = 64;

/// Folder of files that are being written.
const TEMPORARY: &str = "temporary";

struct Open {
    file: std::fs::File,
    end: watch::Sender<u64>,
}

/// [`Logs`] in a folder. Cheap to clone.
#[derive(Clone)]
pub struct FileLogs {
    root: PathBuf,
    open: Arc<Mutex<HashMap<DeploymentId, Arc<Mutex<Open>>>>>,
    /// One compresses or unpacks at a time. Taken before `open`.
    packing: Arc<Mutex<()>>,
}

impl FileLogs {
    /// Logs below `root`, which is made if need be.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &Path) -> std::io::Result<Self> {
        // What a crash left half compressed.
        absent(std::fs::remove_dir_all(root.join(TEMPORARY)))?;
        std::fs::create_dir_all(root.join(TEMPORARY))?;
        Ok(Self { root: root.to_owned(), open: Arc::default(), packing: Arc::default() })
    }

    fn path(&self, deployment: DeploymentId) -> PathBuf {
        self.root.join(format!("{deployment}.jsonl"))
    }

    fn packed(&self, deployment: DeploymentId) -> PathBuf {
        self.root.join(format!("{deployment}.jsonl.gz"))
    }

    fn handle(&self, deployment: DeploymentId) -> std::io::Result<Arc<Mutex<Open>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = open.get(&deployment) {
            return Ok(Arc::clone(handle));
        }
        if open.len() >= MOST_OPEN {
            // A log that somebody follows or writes stays open.
            open.retain(|_, handle| {
                Arc::strong_count(handle) > 1 || handle.lock().is_ok_and(|log| log.end.receiver_count() > 0)
            });
        }
        self.unpack(deployment)?;
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).read(true).open(self.path(deployment))?;
        let end = mend(&mut file)?;
        let handle = Arc::new(Mutex::new(Open { file, end: watch::Sender::new(end) }));
        open.insert(deployment, Arc::clone(&handle));
        Ok(handle)
    }

    fn write(&self, deployment: DeploymentId, lines: Vec<Line>) -> std::io::Result<()> {
        let handle = self.handle(deployment)?;
        let mut log = handle.lock().unwrap_or_else(PoisonError::into_inner);
        let end = *log.end.borrow();
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        if let Err(error) = log.file.write_all(&text) {
            // The beginning of a line may be there, to which the next one would be glued.
            log.file.set_len(end)?;
            return Err(error);
        }
        log.end.send_replace(end + text.len() as u64);
        Ok(())
    }

    fn read_from(&self, deployment: DeploymentId, from: From, limit: usize) -> std::io::Result<Vec<Line>> {
        if !self.path(deployment).exists() {
            self.unpack_to_read(deployment)?;
        }
        match std::fs::File::open(self.path(deployment)) {
            Ok(file) => read_lines(file, from, limit),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Unpacks a compressed log once for all the pages that will be read; it is compressed again a day later. Others are
    /// held up only while the file is renamed.
    fn unpack_to_read(&self, deployment: DeploymentId) -> std::io::Result<()> {
        let _one_at_a_time = self.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let packed = match std::fs::File::open(self.packed(deployment)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            packed => packed?,
        };
        let temporary = self.root.join(TEMPORARY).join(format!("{deployment}.reading"));
        std::io::copy(&mut GzDecoder::new(packed), &mut std::fs::File::create(&temporary)?)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        let _nobody_writes = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if self.path(deployment).exists() {
            return std::fs::remove_file(&temporary);
        }
        std::fs::rename(&temporary, self.path(deployment))?;
        absent(std::fs::remove_file(self.packed(deployment)))
    }

    /// Compresses every log that was last written before `before` and that nobody has open.
    fn pack_all(&self, before: Timestamp) -> std::io::Result<u64> {
        let _one_at_a_time = self.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packed = 0;
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".jsonl")?.parse().ok());
            let written =
                Timestamp::try_from(entry.metadata()?.modified()?).map_err(std::io::Error::other)?;
            if let Some(id) = id.filter(|_| written < before) {
                match self.pack(id) {
                    // Somebody removed it meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    done => packed += u64::from(done?),
                }
            }
        }
        Ok(packed)
    }

    fn pack(&self, deployment: DeploymentId) -> std::io::Result<bool> {
        let (path, temporary) =
            (self.path(deployment), self.root.join(TEMPORARY).join(format!("{deployment}.packing")));
        let mut plain = std::fs::File::open(&path)?;
        let mut encoder = GzEncoder::new(std::fs::File::create(&temporary)?, Compression::default());
        let length = std::io::copy(&mut plain, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        // Others were not held up so far; now nobody may write until the plain log is gone.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let used = open.get(&deployment).is_some_and(|handle| {
            let watched = handle.lock().unwrap_or_else(PoisonError::into_inner).end.receiver_count() > 0;
            watched || Arc::strong_count(handle) > 1
        });
        if used || std::fs::metadata(&path)?.len() != length {
            std::fs::remove_file(&temporary)?;
            return Ok(false);
        }
        open.remove(&deployment);
        std::fs::rename(&temporary, self.packed(deployment))?;
        std::fs::remove_file(&path)?;
        Ok(true)
    }

    /// Makes a compressed log one that can be written to.
    fn unpack(&self, deployment: DeploymentId) -> std::io::Result<()> {
        let (path, packed) = (self.path(deployment), self.packed(deployment));
        // After a crash both may be there: the plain one is then whole.
        if !path.exists() && packed.exists() {
            let temporary = self.root.join(TEMPORARY).join(format!("{deployment}.unpacking"));
            let mut plain = std::fs::File::create(&temporary)?;
            std::io::copy(&mut GzDecoder::new(std::fs::File::open(&packed)?), &mut plain)?;
            plain.sync_all()?;
            std::fs::rename(&temporary, &path)?;
        }
        absent(std::fs::remove_file(packed))
    }

    fn delete(&self, deployment: DeploymentId) -> std::io::Result<()> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&deployment);
        absent(std::fs::remove_file(self.path(deployment)))?;
        absent(std::fs::remove_file(self.packed(deployment)))
    }
}

/// A file that is not there is as good as removed.
fn absent(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read_lines(mut file: impl Read + Seek, from: From, limit: usize) -> std::io::Result<Vec<Line>> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = match from {
        From::After(id) => id.min(length),
        From::Tail(lines) => tail(&mut file, length, lines)?,
    };
    file.seek(SeekFrom::Start(start))?;
    let mut reader = std::io::BufReader::new(file.take(length - start));
    let (mut lines, mut text, mut id) = (Vec::new(), Vec::new(), start);
    while lines.len() < limit {
        text.clear();
        let count = std::io::BufRead::read_until(&mut reader, b'\n', &mut text)?;
        if count == 0 || text.last() != Some(&b'\n') {
            break;
        }
        id += count as u64;
        // A line that a crash or an id of the caller's making cut in half is passed over.
        if let Ok(line) = serde_json::from_slice::<Line>(&text) {
            lines.push(Line { id, ..line });
        }
    }
    Ok(lines)
}

/// Ends a line that a crash cut short, and gives the length.
fn mend(file: &mut std::fs::File) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(0);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(length);
    }
    file.write_all(b"\n")?;
    Ok(length + 1)
}

/// Where the last `lines` lines begin.
fn tail(file: &mut (impl Read + Seek), length: u64, lines: usize) -> std::io::Result<u64> {
    let mut wanted = lines + 1;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            wanted -= 1;
            if wanted == 0 {
                return Ok(start + index as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[async_trait]
impl Logs for FileLogs {
    async fn append(&self, deployment: DeploymentId, lines: Vec<Line>) -> Result<(), StoreError> {
        self.write(deployment, lines).map_err(|error| StoreError(error.into()))
    }

    async fn read(
        &self,
        deployment: DeploymentId,
        from: From,
        limit: usize,
    ) -> Result<Vec<Line>, StoreError> {
        if self.packed(deployment).exists() {
            let logs = self.clone();
            let read = tokio::task::spawn_blocking(move || logs.read_from(deployment, from, limit)).await;
            let read = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            return read.map_err(|error| StoreError(error.into()));
        }
        self.read_from(deployment, from, limit).map_err(|error| StoreError(error.into()))
    }

    async fn compress(&self, before: Timestamp) -> Result<u64, StoreError> {
        let logs = self.clone();
        let packed = tokio::task::spawn_blocking(move || logs.pack_all(before)).await;
        packed
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|error| StoreError(error.into()))
    }

    async fn remove(&self, deployment: DeploymentId) -> Result<(), StoreError> {
        self.delete(deployment).map_err(|error| StoreError(error.into()))
    }

    async fn changed(&self, deployment: DeploymentId, after: u64) -> u64 {
        let watching = self
            .handle(deployment)
            .map(|handle| handle.lock().unwrap_or_else(PoisonError::into_inner).end.subscribe());
        if let Ok(mut ends) = watching {
            let end = ends.wait_for(|end| *end > after).await.map(|end| *end);
            if let Ok(end) = end {
                return end;
            }
        }
        // It cannot be opened, or it was removed: who waits has a timer of their own and looks again.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn line(text: &str) -> Line {
        Line::new(Timestamp::UNIX_EPOCH, "log", None, text)
    }

    #[tokio::test]
    async fn lines_come_back_in_order_from_any_id_and_from_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let logs = FileLogs::open(folder.path()).unwrap();
        let id = DeploymentId::new(1);
        assert!(logs.read(id, From::After(0), 10).await.unwrap().is_empty());
        for number in 0..5_000 {
            logs.append(id, vec![line(&format!("line {number}"))]).await.unwrap();
        }
        let first = logs.read(id, From::After(0), 3).await.unwrap();
        assert_eq!(first[2].text, "line 2");
        assert_eq!(logs.read(id, From::After(first[2].id), 1).await.unwrap()[0].text, "line 3");
        let tail = logs.read(id, From::Tail(1_000), 2_000).await.unwrap();
        assert_eq!((tail.len(), tail[0].text.as_str()), (1_000, "line 4000"));
        assert_eq!(logs.read(id, From::Tail(9_999), 9_999).await.unwrap().len(), 5_000);
    }

    #[tokio::test]
    async fn a_compressed_log_reads_the_same_and_takes_more_lines() {
        let folder = tempfile::tempdir().unwrap();
        let logs = FileLogs::open(folder.path()).unwrap();
        let id = DeploymentId::new(1);
        logs.append(id, (0..3_000).map(|number| line(&format!("line {number}"))).collect()).await.unwrap();
        let before = logs.read(id, From::After(0), 5_000).await.unwrap();
        assert_eq!(logs.compress(Timestamp::UNIX_EPOCH).await.unwrap(), 0, "it is younger than that");
        assert_eq!(logs.compress(Timestamp::MAX).await.unwrap(), 1);
        assert!(!logs.path(id).exists() && logs.packed(id).exists());
        assert_eq!(logs.read(id, From::After(0), 5_000).await.unwrap(), before);
        assert!(logs.path(id).exists(), "further pages are read as they lie");
        assert_eq!(logs.compress(Timestamp::MAX).await.unwrap(), 1);
        assert_eq!(logs.read(id, From::Tail(2), 5).await.unwrap(), before[2_998..]);
        logs.append(id, vec![line("more")]).await.unwrap();
        let after = logs.read(id, From::After(before[2_999].id), 5).await.unwrap();
        assert_eq!(after.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["more"]);
        assert!(!logs.packed(id).exists());
        logs.remove(id).await.unwrap();
        assert!(
            std::fs::read_dir(folder.path()).unwrap().all(|entry| entry.unwrap().file_name() == TEMPORARY)
        );
        assert!(std::fs::read_dir(folder.path().join(TEMPORARY)).unwrap().next().is_none());
    }

    #[tokio::test]
    async fn a_line_cut_by_a_crash_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let id = DeploymentId::new(1);
        std::fs::write(folder.path().join(format!("{id}.jsonl")), "{\"v\":1,\"at\":\"1970").unwrap();
        let logs = FileLogs::open(folder.path()).unwrap();
        logs.append(id, vec![line("whole")]).await.unwrap();
        let lines = logs.read(id, From::After(0), 10).await.unwrap();
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["whole"]);
    }
}
