//! The source on its way to a build service.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use azure_core::http::{RetryOptions, Url};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use windlass::azure::context::{ContextError, context};
use windlass::azure::transport::Wire;
use windlass::azure::upload::upload;
use windlass::deploy::blobs::{BlobError, Blobs};
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::ids::{Digest, Name};
use windlass::deploy::source::{FileEntry, Manifest, SourceLimits};
use windlass::embedded::files::FileBlobs;

use super::doubles::{Answer, Double};
use super::settings;

const KIB: usize = 1024;
/// What a block may have: it leaves when it has 4 MiB, and the file that fills it has 1 MiB at most.
const MOST_BLOCK: usize = 6 * KIB * KIB;

/// Bytes that nothing can compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

struct Store {
    folder: tempfile::TempDir,
    blobs: Arc<dyn Blobs>,
    org: Name,
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Store {
    fn new(files: Vec<(String, u32, Vec<u8>)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(FileBlobs::open(folder.path()).unwrap());
        let files = files.into_iter().map(|(path, mode, content)| (path, (mode, content))).collect();
        Self { folder, blobs, org: "o".parse().unwrap(), files }
    }

    async fn manifest(&self) -> Manifest {
        let contents = self.files.values().map(|(_, content)| (Digest::of(content), content.clone().into()));
        self.blobs.keep_all(&self.org, contents.collect()).await.unwrap();
        let entries = self.files.iter().map(|(path, (mode, content))| FileEntry {
            path: path.clone(),
            size: content.len() as u64,
            mode: *mode,
            sha256: Digest::of(content),
        });
        Manifest::new(entries.collect(), &SourceLimits::default()).unwrap()
    }
}

fn unpacked(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let (path, mode) = (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, (mode, content))
    });
    entries.collect()
}

fn joined(blocks: &[Bytes]) -> Vec<u8> {
    let mut all = Vec::new();
    for block in blocks {
        all.extend_from_slice(block);
    }
    all
}

fn plain(files: usize, bytes: usize) -> Vec<(String, u32, Vec<u8>)> {
    (0..files).map(|n| (format!("src/{n:03}"), 0o644, noise(n as u64 + 1, bytes))).collect()
}

#[tokio::test]
async fn a_source_is_packed_in_blocks_and_nothing_is_lost() {
    let mut files = plain(40, 300 * KIB);
    files.push(("a-large-one".to_owned(), 0o755, noise(99, 9 * KIB * KIB + 7)));
    files.push(("empty".to_owned(), 0o644, Vec::new()));
    files.push((
        format!("{}/deep", "a-long-name/".repeat(12).trim_end_matches('/')),
        0o644,
        b"deep".to_vec(),
    ));
    let store = Store::new(files);
    let manifest = store.manifest().await;
    let plan = Plan::new(Kind::Node, Some("node server.js".to_owned()));
    let packed = async || {
        let context = context(&store.blobs, &store.org, &manifest, &plan);
        assert_eq!(context.dockerfile, ".windlass.Dockerfile");
        context.blocks.try_collect::<Vec<_>>().await.unwrap()
    };
    let blocks = packed().await;
    assert!(blocks.len() >= 5, "{}", blocks.len());
    assert!(blocks.iter().all(|block| block.len() <= MOST_BLOCK));
    assert_eq!(blocks, packed().await, "the same source gives the same archive");
    let mut found = unpacked(&joined(&blocks));
    let (_, ours) = found.remove(".windlass.Dockerfile").unwrap();
    assert!(String::from_utf8(ours).unwrap().contains("node server.js"));
    assert_eq!(found.len(), store.files.len());
    assert!(found == store.files);
    let own = context(&store.blobs, &store.org, &manifest, &Plan::new(Kind::Docker, None));
    assert_eq!(own.dockerfile, "Dockerfile");
    let own: Vec<Bytes> = own.blocks.try_collect().await.unwrap();
    assert!(!unpacked(&joined(&own)).contains_key(".windlass.Dockerfile"));
}

#[tokio::test]
async fn a_source_is_read_while_it_leaves_and_not_before() {
    let store = Store::new(plain(100, 250 * KIB));
    let manifest = store.manifest().await;
    let mut blocks = context(&store.blobs, &store.org, &manifest, &Plan::new(Kind::Static, None)).blocks;
    blocks.next().await.unwrap().unwrap();
    // Whatever was not read yet cannot be read any more.
    std::fs::remove_dir_all(store.folder.path()).unwrap();
    let rest: Result<Vec<_>, ContextError> = blocks.try_collect().await;
    assert!(
        matches!(rest, Err(ContextError::Blob(BlobError::Missing(_)))),
        "{:?}",
        rest.map(|rest| rest.len())
    );
}

#[tokio::test]
async fn a_large_source_goes_up_in_blocks_that_become_one_blob() {
    let double = Double::start(|asked| -> Answer {
        assert_eq!((asked.method.as_str(), asked.header("authorization")), ("PUT", None));
        assert!(asked.query.starts_with("sig=s%2Fs&comp="), "{}", asked.query);
        (201, Vec::new(), String::new())
    });
    let settings = settings(&[("WINDLASS_ARM_ENDPOINT", &double.address)]);
    let pipeline = Wire::new(&settings).unwrap().pipeline(RetryOptions::none(), None);
    let place: Url = format!("{}upload/source.tar.gz?sig=s%2Fs", double.address).parse().unwrap();
    let store = Store::new(plain(60, 400 * KIB));
    let manifest = store.manifest().await;
    let packed = context(&store.blobs, &store.org, &manifest, &Plan::new(Kind::Docker, None));
    upload(&pipeline, &Wire::secure(&place), packed.blocks).await.unwrap();
    let asked = double.asked();
    let (list, blocks) = asked.split_last().unwrap();
    assert!(list.query.ends_with("&comp=blocklist"));
    assert!(blocks.len() >= 5 && blocks.iter().all(|block| block.bytes.len() <= MOST_BLOCK));
    let mut archive = Vec::new();
    for id in list.body.split("<Latest>").skip(1).map(|rest| rest.split('<').next().unwrap()) {
        let sent = Url::parse("http://x/")
            .unwrap()
            .query_pairs_mut()
            .append_pair("blockid", id)
            .finish()
            .query()
            .unwrap()
            .to_owned();
        let block = blocks.iter().find(|block| block.query.ends_with(&sent)).unwrap();
        archive.extend_from_slice(&block.bytes);
    }
    assert!(unpacked(&archive) == store.files);
}
