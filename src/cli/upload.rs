//! Brings a source to the server: the manifest, then what is missing, small files together and large ones alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;

use super::Identity;
use super::client::Client;
use super::screen::Screen;
use super::tree::Tree;
use crate::api::{self, batch};

/// zstd level of uploads: the network of this machine or office is faster than a higher level.
const LEVEL: i32 = 1;
/// Uploads under way at the same time.
const UPLOADS: usize = 4;

/// Files that are sent with one request.
struct Parcel {
    files: Vec<api::File>,
    bytes: u64,
}

/// Brings the contents that the server lacks, and gives the source's digest.
///
/// # Errors
/// When a file cannot be read, or changed since it was hashed, or the server refuses.
pub(super) async fn upload(
    client: &Client,
    root: &Path,
    tree: &Tree,
    identity: &Identity,
    screen: &mut Screen<'_>,
) -> anyhow::Result<String> {
    let manifest =
        api::NewSource { organization_id: identity.organization.clone(), files: tree.files.clone() };
    let source: api::Source = client.post("/sources", &manifest).await?;
    let missing: HashSet<&str> = source.missing.iter().map(String::as_str).collect();
    let mut wanted: Vec<&api::File> =
        tree.files.iter().filter(|file| missing.contains(file.sha256.as_str())).collect();
    wanted.sort_by(|a, b| a.sha256.cmp(&b.sha256));
    wanted.dedup_by(|a, b| a.sha256 == b.sha256);
    let total: u64 = wanted.iter().map(|file| file.size).sum();
    let unchanged = tree.files.len() - wanted.len();
    screen.say(&format!(
        "Uploading {} of {} files, {total} bytes ({unchanged} unchanged)",
        wanted.len(),
        tree.files.len()
    ));
    let mut done = 0;
    let mut under_way = tokio::task::JoinSet::new();
    let mut waiting = parcels(wanted).into_iter();
    loop {
        while under_way.len() < UPLOADS
            && let Some(parcel) = waiting.next()
        {
            under_way.spawn(send(client.clone(), root.to_owned(), parcel, identity.organization.clone()));
        }
        let Some(result) = under_way.join_next().await else { break };
        done += result??;
        screen.uploading(done, total);
    }
    Ok(source.source)
}

fn parcels(files: Vec<&api::File>) -> Vec<Parcel> {
    let mut parcels: Vec<Parcel> = Vec::new();
    let mut open = Parcel { files: Vec::new(), bytes: 0 };
    for file in files {
        if file.size > batch::MOST_CONTENT_BYTES {
            parcels.push(Parcel { files: vec![file.clone()], bytes: file.size });
            continue;
        }
        open.files.push(file.clone());
        open.bytes += file.size;
        let heads = batch::HEAD_BYTES * open.files.len() as u64;
        if open.bytes + heads + batch::MOST_CONTENT_BYTES > batch::MOST_BATCH_BYTES {
            parcels.push(std::mem::replace(&mut open, Parcel { files: Vec::new(), bytes: 0 }));
        }
    }
    if !open.files.is_empty() {
        parcels.push(open);
    }
    parcels
}

/// Sends a parcel and gives its bytes.
async fn send(client: Client, root: PathBuf, parcel: Parcel, organization: String) -> anyhow::Result<u64> {
    let bytes = parcel.bytes;
    let alone = match parcel.files.as_slice() {
        [only] => Some(only.clone()),
        _ => None,
    };
    let compressed = tokio::task::spawn_blocking(move || compress(&root, &parcel)).await??;
    let owner = format!("organizationId={organization}");
    match alone {
        Some(file) => client
            .put_compressed(&format!("/sources/blobs/{}?{owner}", file.sha256), compressed)
            .await
            .with_context(|| format!("cannot upload {}", file.path))?,
        None => client
            .post_compressed(&format!("/sources/blobs?{owner}"), batch::MEDIA_TYPE, compressed)
            .await
            .context("cannot upload")?,
    };
    Ok(bytes)
}

fn compress(root: &Path, parcel: &Parcel) -> anyhow::Result<Bytes> {
    let cannot_read = |file: &api::File| format!("cannot read {}", file.path);
    if let [only] = parcel.files.as_slice() {
        let file = std::fs::File::open(root.join(&only.path));
        let compressed = file.and_then(|file| zstd::encode_all(file, LEVEL));
        return Ok(Bytes::from(compressed.with_context(|| cannot_read(only))?));
    }
    let mut contents = Vec::new();
    for file in &parcel.files {
        let content = std::fs::read(root.join(&file.path)).with_context(|| cannot_read(file))?;
        anyhow::ensure!(
            content.len() as u64 == file.size,
            "{} changed while it was uploaded; try again",
            file.path
        );
        batch::add(&mut contents, &file.sha256, &content);
    }
    Ok(Bytes::from(zstd::bulk::compress(&contents, LEVEL)?))
}
