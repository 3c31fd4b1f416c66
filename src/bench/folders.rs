//! Reading and packing a folder.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::round;
use crate::ambient::{Ids as _, SystemIds};
use crate::cli::tree;

/// Reads of the unchanged folder; the middle one is reported.
const UNCHANGED: usize = 9;

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let begun = Instant::now();
    let result = work()?;
    Ok((result, round(begun.elapsed().as_secs_f64() * 1_000.0)))
}

/// Reads and hashes `dir`, from nothing and unchanged.
pub(super) fn plan(dir: &Path) -> anyhow::Result<Value> {
    let memory = dir.join(".windlass").join("bench-memory");
    if memory.exists() {
        std::fs::remove_file(&memory)?;
    }
    let now = i128::MAX;
    let read = || tree::read(dir, &[], &memory, now);
    // Once unmeasured, so that the files are in the page cache.
    read()?;
    std::fs::remove_file(&memory)?;
    let (tree, first_ms) = timed(read)?;
    let mut unchanged = (0..UNCHANGED).map(|_| Ok(timed(read)?.1)).collect::<anyhow::Result<Vec<f64>>>()?;
    unchanged.sort_by(f64::total_cmp);
    let unchanged_ms = unchanged.get(UNCHANGED / 2).copied().unwrap_or_default();
    std::fs::remove_file(&memory)?;
    Ok(
        json!({ "files": tree.files.len(), "bytes": tree.bytes(), "first_ms": first_ms, "unchanged_ms": unchanged_ms }),
    )
}

/// Packs `dir`.
pub(super) fn pack(dir: &Path) -> anyhow::Result<Value> {
    let bundle = std::env::temp_dir().join(format!("windlass-bench-{:x}", SystemIds.random()));
    let dir = dir.canonicalize()?;
    let (packed, ms) = timed(|| Ok(crate::embedded::pack::pack(&dir, ".", &bundle, &|| false)?))?;
    std::fs::remove_file(&bundle)?;
    Ok(json!({ "files": packed.files, "bytes": packed.bytes, "ms": ms }))
}
