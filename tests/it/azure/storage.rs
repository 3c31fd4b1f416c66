//! The suites of content and logs on Blob Storage, and alarms in a Storage Queue, against Azurite.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use azure_storage_queue::models::QueueClientGetPropertiesResultHeaders as _;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use windlass::ambient::{Clock as _, SystemClock, after, before};
use windlass::azure::blobs::AzureBlobs;
use windlass::azure::logs::AzureLogs;
use windlass::azure::post::{Letter, Post as _};
use windlass::azure::services::Services;
use windlass::deploy::blobs::{BlobError, Blobs};
use windlass::deploy::ids::{DeploymentId, Digest, Name};
use windlass::deploy::log::{From, Line, Logs};

use super::azurite::{Azurite, Unsigned};
use super::doubles::{Answer, Double};
use super::settings;
use crate::ports::{blobs, logs};

#[tokio::test]
async fn content_on_azure_passes_the_suite() {
    let Some(azurite) = Azurite::start().await else { return };
    let store = AzureBlobs::new(azurite.services().content().unwrap());
    blobs::content_is_what_was_announced(&store).await;
    blobs::batches_are_whole(&store).await;
    blobs::trees_have_their_modes(&store).await;
    blobs::old_content_goes(&store, &"swept".parse().unwrap()).await;
}

/// A container with one old blob that somebody finds while a cleanup is under way.
fn container_in_a_race(name: String, found: Arc<AtomicBool>) -> Double {
    let old = "Wed, 01 Jan 2020 00:00:00 GMT";
    Double::start(move |asked| -> Answer {
        let xml = || vec![("content-type", "application/xml".to_owned())];
        match (asked.method.as_str(), asked.query.contains("comp=")) {
            ("GET", true) => {
                let properties = format!(
                    "<Last-Modified>{old}</Last-Modified><Content-Length>5</Content-Length><BlobType>BlockBlob</BlobType>"
                );
                let blob = format!("<Blob><Name>{name}</Name><Properties>{properties}</Properties></Blob>");
                let text = format!(
                    "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blob}</Blobs><NextMarker /></EnumerationResults>"
                );
                (200, xml(), text)
            }
            ("HEAD", false) => (200, vec![("last-modified", old.to_owned())], String::new()),
            ("PUT", true) => {
                found.store(true, Ordering::SeqCst);
                (200, Vec::new(), String::new())
            }
            ("DELETE", false) => {
                assert_eq!(asked.header("if-unmodified-since"), Some(old));
                if found.load(Ordering::SeqCst) {
                    (412, xml(), "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>ConditionNotMet</Code><Message>no</Message></Error>".to_owned())
                } else {
                    (202, Vec::new(), String::new())
                }
            }
            other => panic!("{other:?}"),
        }
    })
}

#[tokio::test]
async fn a_cleanup_under_way_spares_what_was_found_meanwhile() {
    let (org, digest): (Name, _) = ("o".parse().unwrap(), Digest::of(b"found"));
    let found = Arc::new(AtomicBool::new(false));
    let double = container_in_a_race(format!("{org}/{digest}"), Arc::clone(&found));
    let settings = settings(&[("WINDLASS_BLOB_ENDPOINT", &double.address)]);
    let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
    let store = AzureBlobs::new(services.content().unwrap());
    let now: Timestamp = "2026-11-20T09:00:00Z".parse().unwrap();
    let yesterday = before(now, Duration::from_secs(24 * 3_600));
    assert_eq!(store.retain(&org, [].into(), yesterday, true).await.unwrap(), (1, 5));
    assert_eq!(store.missing(&org, &[digest], now).await.unwrap(), []);
    assert!(found.load(Ordering::SeqCst), "it counts as stored anew");
    assert_eq!(store.retain(&org, [].into(), yesterday, false).await.unwrap(), (0, 0));
    found.store(false, Ordering::SeqCst);
    assert_eq!(store.retain(&org, [].into(), yesterday, false).await.unwrap(), (1, 5));
}

#[tokio::test]
async fn large_content_comes_in_blocks_and_damage_is_noticed() {
    let Some(azurite) = Azurite::start().await else { return };
    let container = azurite.services().content().unwrap();
    let store = AzureBlobs::new(azurite.services().content().unwrap());
    let (org, content): (_, Vec<u8>) =
        ("o".parse().unwrap(), (0..9_000_000_u32).map(|n| (n % 251) as u8).collect());
    let digest = Digest::of(&content);
    for (announced, fits) in [(Digest::of(b"other"), false), (digest, true)] {
        let mut writer = store.writer(&org, announced, 10_000_000).await.unwrap();
        for chunk in content.chunks(1_000_000) {
            writer.write(chunk.to_vec().into()).await.unwrap();
        }
        assert_eq!(writer.finish().await.is_ok(), fits);
        assert_eq!(store.missing(&org, &[announced], SystemClock.now()).await.unwrap().is_empty(), fits);
    }
    assert_eq!(store.read(&org, digest, 10_000_000).await.unwrap(), content);
    assert!(matches!(store.read(&org, digest, 100).await, Err(BlobError::TooLarge(100))));
    let blob = container.blob_client(&format!("{org}/{digest}"));
    blob.upload(bytes::Bytes::from_static(b"damage").into(), None).await.unwrap();
    assert!(matches!(store.read(&org, digest, 10_000_000).await, Err(BlobError::Damaged(_))));
    assert_eq!(
        store.missing(&org, &[digest], SystemClock.now()).await.unwrap(),
        [digest],
        "it can be uploaded again"
    );
}

#[tokio::test]
async fn logs_on_azure_pass_the_suite() {
    let Some(azurite) = Azurite::start().await else { return };
    let store = AzureLogs::new(azurite.services().logs().unwrap(), Arc::new(SystemClock));
    logs::lines_resume_and_follow(&store).await;
    let id = DeploymentId::new(2);
    let lines = async || {
        let lines = store.read(id, From::After(0), 100).await.unwrap();
        lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    assert_eq!(lines().await, ["theirs"]);
    // Another process writes to the same log, and both go on.
    let other = AzureLogs::new(azurite.services().logs().unwrap(), Arc::new(SystemClock));
    let line = |text: &str| vec![Line::new(SystemClock.now(), "log", None, text)];
    other.append(id, line("from elsewhere")).await.unwrap();
    store.append(id, line("again")).await.unwrap();
    other.append(id, line("and again")).await.unwrap();
    assert_eq!(lines().await, ["theirs", "from elsewhere", "again", "and again"]);
    assert!(store.changed(id, 0).now_or_never().is_none(), "it asks first");
    assert!(store.changed(id, 0).await > 0);
    store.remove(id).await.unwrap();
    store.remove(id).await.unwrap();
    assert!(lines().await.is_empty());
}

#[tokio::test]
async fn an_alarm_waits_unseen_in_the_queue() {
    let Some(azurite) = Azurite::start().await else { return };
    let services = azurite.services();
    let post = services.post(Arc::new(SystemClock)).unwrap();
    let due = after(SystemClock.now(), Duration::from_secs(600));
    let text = r#"{"w1":{"run":"r","seq":1}}"#.to_owned();
    let letter = Letter { id: "i".to_owned(), about: "r".to_owned(), queue: "step-build", text, due };
    post.send(letter).await.unwrap();
    let queue = services.alarms().unwrap();
    let seen = queue.peek_messages(None).await.unwrap().into_model().unwrap();
    assert!(seen.items.unwrap_or_default().is_empty(), "it is not due");
    let count = queue.get_properties(None).await.unwrap().approximate_messages_count().unwrap();
    assert_eq!(count, Some(1));
}
