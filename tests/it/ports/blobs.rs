//! The suite of the `Blobs` port, and what only folders can do wrong.

use std::os::unix::fs::PermissionsExt as _;

use jiff::Timestamp;
use windlass::deploy::blobs::{BlobError, Blobs};
use windlass::deploy::ids::{Digest, Name};
use windlass::deploy::source::{FileEntry, Manifest, SourceLimits};
use windlass::embedded::files::FileBlobs;

fn org() -> Name {
    "o".parse().unwrap()
}

/// Before anything was stored, so that nothing counts as stored anew.
fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

async fn put(blobs: &dyn Blobs, announced: &[u8], content: &[u8], limit: u64) -> Result<(), BlobError> {
    let mut writer = blobs.writer(&org(), Digest::of(announced), limit).await?;
    for chunk in content.chunks(3) {
        writer.write(chunk.to_vec().into()).await?;
    }
    writer.finish().await
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files
}

pub(crate) async fn content_is_what_was_announced(blobs: &dyn Blobs) {
    assert!(matches!(put(blobs, b"right", b"wrong", 100).await, Err(BlobError::Mismatch { .. })));
    assert!(matches!(put(blobs, b"right", b"right", 4).await, Err(BlobError::TooLarge(4))));
    let digest = Digest::of(b"right");
    assert_eq!(blobs.missing(&org(), &[digest], now()).await.unwrap(), [digest]);
    put(blobs, b"right", b"right", 5).await.unwrap();
    put(blobs, b"right", b"right", 5).await.unwrap();
    put(blobs, b"", b"", 5).await.unwrap();
    assert_eq!(blobs.read(&org(), Digest::of(b""), 100).await.unwrap(), b"");
    assert_eq!(blobs.read(&org(), digest, 100).await.unwrap(), b"right");
    assert!(matches!(blobs.read(&org(), digest, 4).await, Err(BlobError::TooLarge(4))));
    assert_eq!(blobs.missing(&org(), &[digest, Digest::of(b"x")], now()).await.unwrap(), [Digest::of(b"x")]);
    assert_eq!(blobs.missing(&"other".parse().unwrap(), &[digest], now()).await.unwrap(), [digest]);
    assert!(matches!(blobs.read(&org(), Digest::of(b"x"), 100).await, Err(BlobError::Missing(_))));
}

#[tokio::test]
async fn content_is_kept_only_when_it_is_what_was_announced() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(folder.path()).unwrap();
    assert!(matches!(put(&blobs, b"right", b"wrong", 100).await, Err(BlobError::Mismatch { .. })));
    assert!(files_below(folder.path()).is_empty(), "nothing is left of what was refused");
    content_is_what_was_announced(&blobs).await;
}

#[tokio::test]
async fn damaged_content_is_noticed_and_can_be_uploaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(folder.path()).unwrap();
    put(&blobs, b"right", b"right", 100).await.unwrap();
    std::fs::write(&files_below(folder.path())[0], b"rigkt").unwrap();
    assert!(matches!(blobs.read(&org(), Digest::of(b"right"), 100).await, Err(BlobError::Damaged(_))));
    assert_eq!(blobs.missing(&org(), &[Digest::of(b"right")], now()).await.unwrap().len(), 1);
    put(&blobs, b"right", b"right", 100).await.unwrap();
    assert_eq!(blobs.read(&org(), Digest::of(b"right"), 100).await.unwrap(), b"right");
}

pub(crate) async fn trees_have_their_modes(blobs: &dyn Blobs) {
    let folder = tempfile::tempdir().unwrap();
    put(blobs, b"run", b"run", 100).await.unwrap();
    let entry =
        |path: &str, mode| FileEntry { path: path.to_owned(), size: 3, mode, sha256: Digest::of(b"run") };
    let manifest =
        Manifest::new(vec![entry("a/b/run.sh", 0o755), entry("z", 0o644)], &SourceLimits::default()).unwrap();
    let root = folder.path().join("tree");
    blobs.materialise(&org(), &manifest, &root).await.unwrap();
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a/b/run.sh"), mode("z")), (0o755, 0o644));
    assert_eq!(std::fs::read(root.join("a/b/run.sh")).unwrap(), b"run");
}

#[tokio::test]
async fn a_tree_is_written_with_its_modes() {
    let folder = tempfile::tempdir().unwrap();
    trees_have_their_modes(&FileBlobs::open(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_said_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let said = FileBlobs::open(&file).err().unwrap().to_string();
    assert!(said.contains("cannot be used"), "{said}");
    // What was written is taken away under the writer's hands.
    let blobs = FileBlobs::open(&folder.path().join("blobs")).unwrap();
    let mut writer = blobs.writer(&org(), Digest::of(b"x"), 100).await.unwrap();
    let incoming = files_below(&folder.path().join("blobs")).remove(0);
    std::fs::remove_file(&incoming).unwrap();
    writer.write(b"x".to_vec().into()).await.unwrap();
    assert!(matches!(writer.finish().await, Err(BlobError::Unavailable { .. })));
}

pub(crate) async fn batches_are_whole(blobs: &dyn Blobs) {
    let content = |text: &'static str| (Digest::of(text.as_bytes()), text.into());
    let wrong = vec![content("one"), (Digest::of(b"two"), "three".into())];
    assert!(matches!(blobs.keep_all(&org(), wrong).await, Err(BlobError::Mismatch { .. })));
    assert_eq!(blobs.missing(&org(), &[Digest::of(b"one")], now()).await.unwrap().len(), 1);
    blobs.keep_all(&org(), vec![content("one"), content("two"), content("one")]).await.unwrap();
    blobs.keep_all(&org(), vec![content("two")]).await.unwrap();
    for text in ["one", "two"] {
        assert_eq!(blobs.read(&org(), Digest::of(text.as_bytes()), 10).await.unwrap(), text.as_bytes());
    }
}

#[tokio::test]
async fn a_batch_is_kept_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    batches_are_whole(&FileBlobs::open(folder.path()).unwrap()).await;
    assert_eq!(files_below(folder.path()).len(), 2);
}

pub(crate) async fn old_content_goes(blobs: &dyn Blobs, org: &Name) {
    let (kept, unused) = (Digest::of(b"kept"), Digest::of(b"unused"));
    blobs.keep_all(org, vec![(kept, "kept".into()), (unused, "unused".into())]).await.unwrap();
    let retain = async |before: &str, dry| {
        blobs.retain(org, [kept].into(), before.parse().unwrap(), dry).await.unwrap()
    };
    let (past, future) = ("2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z");
    assert_eq!(retain(past, false).await, (0, 0), "it is younger than that");
    assert_eq!(retain(future, true).await, (1, 6));
    assert_eq!(blobs.missing(org, &[kept, unused], now()).await.unwrap(), [], "a dry run removes nothing");
    assert_eq!(retain(future, false).await, (1, 6));
    assert_eq!(blobs.missing(org, &[kept, unused], now()).await.unwrap(), [unused]);
    let others =
        blobs.retain(&"nobody".parse().unwrap(), [].into(), future.parse().unwrap(), false).await.unwrap();
    assert_eq!((others, blobs.missing(org, &[kept], now()).await.unwrap().len()), ((0, 0), 0));
}

#[tokio::test]
async fn only_old_content_that_nobody_keeps_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    old_content_goes(&FileBlobs::open(folder.path()).unwrap(), &org()).await;
}

#[tokio::test]
async fn content_that_somebody_found_counts_as_stored_anew() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(folder.path()).unwrap();
    let (found, lost) = (Digest::of(b"found"), Digest::of(b"lost"));
    blobs.keep_all(&org(), vec![(found, "found".into()), (lost, "lost".into())]).await.unwrap();
    let day = |text: &str| text.parse::<Timestamp>().unwrap();
    // A cleanup has decided what it keeps; then somebody asks. (Some disks know no later year than 2038.)
    let later = day("2036-01-02T00:00:00Z");
    assert_eq!(blobs.missing(&org(), &[found], later).await.unwrap(), []);
    let removed = blobs.retain(&org(), [].into(), day("2036-01-01T00:00:00Z"), false).await.unwrap();
    assert_eq!(removed, (1, 4));
    assert_eq!(blobs.missing(&org(), &[found, lost], later).await.unwrap(), [lost]);
}
