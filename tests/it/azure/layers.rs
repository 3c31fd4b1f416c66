//! Images without a build service, in a real registry.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use windlass::ambient::{Clock, SystemClock};
use windlass::azure::builders::AutoBuilder;
use windlass::azure::layers::{LayersBuilder, LayersParts};
use windlass::azure::services::Services;
use windlass::deploy::blobs::Blobs as _;
use windlass::deploy::builder::{BuildJob, BuildStatus, Builder, BuilderError, Packed, Started};
use windlass::deploy::detect::{Kind, NODE_INSTALLS, Plan};
use windlass::deploy::ids::{DeploymentId, Digest, Name};
use windlass::deploy::log::{From, Logs as _};
use windlass::deploy::source::{FileEntry, Manifest, SourceLimits};
use windlass::embedded::files::FileBlobs;
use windlass::embedded::logs::FileLogs;
use windlass::embedded::queue::SqliteQueue;
use windlass::workflow::journal::RunId;
use windlass::workflow::queue::Hint;

use super::azurite::Unsigned;
use super::cosmos::Account;
use super::doubles::{Answer, Asked, Double, down, up};
use super::image_registry::ImageRegistry;
use super::registry_login::{base_config, base_manifest};
use super::settings;
use crate::e2e::containers::engine;
use crate::ports::Store;
use crate::world::FakeBuilder;

/// The repository of the app that everything here builds.
const REPOSITORY: &str = "windlass/o/site";

/// A clock on which every look at it takes so many seconds.
struct Hasty(AtomicI64, i64);

#[async_trait]
impl Clock for Hasty {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.0.fetch_add(self.1, Ordering::Relaxed)).unwrap()
    }

    async fn sleep(&self, _: Duration) {}
}

/// A builder and what it works with.
pub(crate) struct Bench {
    pub(crate) builder: LayersBuilder,
    blobs: FileBlobs,
    logs: FileLogs,
    _folder: TempDir,
}

impl Bench {
    pub(crate) async fn new(more: &[(&str, &str)], clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs = FileBlobs::open(&folder.path().join("blobs")).unwrap();
        let logs = FileLogs::open(&folder.path().join("logs")).unwrap();
        let settings = settings(more);
        let parts = LayersParts {
            registries: Services::with(&settings, Arc::new(Unsigned)).unwrap().registries(),
            settings: settings.builder.clone(),
            blobs: Arc::new(blobs.clone()),
            logs: Arc::new(logs.clone()),
            records: Account::new().await.records,
            clock,
        };
        Self { builder: LayersBuilder::new(parts), blobs, logs, _folder: folder }
    }

    pub(crate) async fn source(&self, files: &[(&str, &[u8])]) -> Manifest {
        let mut entries = Vec::new();
        let mut contents = Vec::new();
        for (path, content) in files {
            let sha256 = Digest::of(content);
            entries.push(FileEntry {
                path: (*path).to_owned(),
                size: content.len() as u64,
                mode: 0o644,
                sha256,
            });
            contents.push((sha256, Bytes::copy_from_slice(content)));
        }
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        let manifest = Manifest::new(entries, &SourceLimits::default()).unwrap();
        contents.push((manifest.digest(), manifest.to_text().into()));
        self.blobs.keep_all(&org(), contents).await.unwrap();
        manifest
    }

    /// Begins a build of the source.
    pub(crate) async fn begin(&self, source: &Manifest, job: &BuildJob) {
        self.builder.prepare(job.run).await.unwrap();
        assert_eq!(self.builder.start(job.clone()).await.unwrap(), Started::NotFresh);
        self.builder.sync(job.run, &job.org, source).await.unwrap();
        assert_eq!(self.builder.start(job.clone()).await.unwrap(), Started::Running);
    }

    /// Looks until it is over; calls `between` after each look.
    async fn finish(&self, run: RunId, mut between: impl AsyncFnMut(usize)) -> (BuildStatus, usize) {
        for looks in 1..200 {
            let status = self.builder.status(run).await;
            if status != BuildStatus::Running {
                return (status, looks);
            }
            between(looks).await;
        }
        panic!("it never ends");
    }

    async fn build(&self, source: &Manifest, number: u128, plan: Plan) -> Packed {
        let job = job(number, plan);
        self.begin(source, &job).await;
        let (status, _) = self.finish(job.run, async |_| ()).await;
        let BuildStatus::Done(packed) = status else { panic!("{status:?}") };
        packed
    }
}

fn org() -> Name {
    "o".parse().unwrap()
}

pub(crate) fn job(number: u128, plan: Plan) -> BuildJob {
    let run = RunId::new(Timestamp::UNIX_EPOCH, number);
    BuildJob {
        run,
        deployment: DeploymentId::new(number),
        org: org(),
        app: "o/site/production".to_owned(),
        plan,
        deadline: Timestamp::MAX,
        wake: Hint::wake(run, "step-build"),
    }
}

fn started(command: &str) -> Plan {
    Plan::new(Kind::Procfile, Some(command.to_owned()))
}

/// Names of what a layer has, with owner and mode.
fn entries(layer: &[u8]) -> Vec<(String, u64, u32)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer));
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        assert_eq!(entry.header().mtime().unwrap(), 0);
        (path, entry.header().uid().unwrap(), entry.header().mode().unwrap())
    });
    entries.collect()
}

#[tokio::test]
async fn the_same_source_gives_the_same_image_with_all_tags() {
    let Some(registry) = ImageRegistry::start().await else { return };
    registry.push_base("base").await;
    let bases = format!("procfile={0}/base:1,static={0}/base:1", registry.host);
    let values = [
        ("ACR_LOGIN_SERVER", registry.host.as_str()),
        ("WINDLASS_BASE_IMAGES", bases.as_str()),
        ("WINDLASS_TAG_LATEST", "true"),
    ];
    let files: [(&str, &[u8]); 2] = [("b/c.txt", b"c"), ("a.txt", b"a")];
    let mut built = Vec::new();
    for number in [1, 2] {
        // Another installation, which knows nothing of the first.
        let bench = Bench::new(&values, Arc::new(SystemClock)).await;
        let source = bench.source(&files).await;
        built.push((bench.build(&source, number, started("cat a.txt")).await, source.digest()));
        let log = bench.logs.read(DeploymentId::new(number), From::After(0), 10).await.unwrap();
        assert!(log.iter().any(|line| line.data.get("base").is_some()), "{log:?}");
        let pushes = log.iter().map(|line| line.kind.as_str()).filter(|kind| kind.starts_with("push."));
        assert_eq!(pushes.collect::<Vec<_>>(), ["push.started", "push.finished"]);
    }
    assert_eq!(built[0], built[1]);
    let (packed, source) = &built[0];
    let digest = format!("sha256:{}", packed.digest);
    let runs = [1, 2].map(|number| job(number, started("cat a.txt")).run.to_string());
    for tag in [source.to_string().as_str(), "latest", &digest, &runs[0], &runs[1]] {
        assert_eq!(registry.manifest(REPOSITORY, tag).await.unwrap().0, digest, "{tag}");
    }
    let (_, manifest) = registry.manifest(REPOSITORY, &digest).await.unwrap();
    let of = |pointer: &str| manifest.pointer(pointer).unwrap().as_str().unwrap();
    let config = registry.blob(REPOSITORY, of("/config/digest")).await.unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["architecture"], &config["config"]["User"]), (&json!("amd64"), &json!("1000")));
    let (base, _) = registry.manifest("base", "amd64").await.unwrap();
    assert_eq!(manifest["annotations"]["org.opencontainers.image.base.digest"], base);
    let layer = registry.blob(REPOSITORY, of("/layers/2/digest")).await.unwrap();
    let named = |path: &str, mode: u32| -> (String, u64, u32) { (path.to_owned(), 1_000, mode) };
    assert_eq!(
        entries(&layer),
        [
            named("app/", 0o755),
            named("app/b/", 0o755),
            named("app/a.txt", 0o644),
            named("app/b/c.txt", 0o644)
        ]
    );

    let bench = Bench::new(&values, Arc::new(SystemClock)).await;
    let source = bench.source(&[("public/index.html", b"hello"), ("README", b"no")]).await;
    let plan = Plan { output: "public".to_owned(), ..Plan::new(Kind::Static, None) };
    bench.build(&source, 3, plan).await;
    let (_, manifest) = registry.manifest(REPOSITORY, "latest").await.unwrap();
    let layer = manifest.pointer("/layers/2/digest").unwrap().as_str().unwrap();
    let names: Vec<String> =
        entries(&registry.blob(REPOSITORY, layer).await.unwrap()).into_iter().map(|entry| entry.0).collect();
    let site = "usr/share/nginx/html/";
    assert_eq!(names, [site.to_owned(), format!("{site}.wh..wh..opq"), format!("{site}index.html")]);
}

#[tokio::test]
async fn the_platform_is_chosen_from_the_index_of_the_base() {
    let Some(registry) = ImageRegistry::start().await else { return };
    registry.push_base("base").await;
    let bases = format!("procfile={}/base:1", registry.host);
    let values = |platform| {
        [
            ("ACR_LOGIN_SERVER", registry.host.as_str()),
            ("WINDLASS_BASE_IMAGES", bases.as_str()),
            ("WINDLASS_PLATFORM", platform),
        ]
    };
    let bench = Bench::new(&values("linux/arm64"), Arc::new(SystemClock)).await;
    let source = bench.source(&[("a.txt", b"a")]).await;
    bench.build(&source, 1, started("cat a.txt")).await;
    let (_, manifest) = registry.manifest(REPOSITORY, &source.digest().to_string()).await.unwrap();
    let config = registry.blob(REPOSITORY, manifest["config"]["digest"].as_str().unwrap()).await.unwrap();
    assert!(String::from_utf8(config).unwrap().contains("arm64"));
    assert!(registry.manifest(REPOSITORY, "latest").await.is_none(), "only who asks for it gets it");

    let bench = Bench::new(&values("linux/s390x"), Arc::new(SystemClock)).await;
    let source = bench.source(&[("a.txt", b"a")]).await;
    let job = job(1, started("cat a.txt"));
    bench.begin(&source, &job).await;
    let BuildStatus::Failed(failure) = bench.finish(job.run, async |_| ()).await.0 else { panic!() };
    assert_eq!(failure.code, "BASE_IMAGE_UNUSABLE");
    assert!(failure.message.contains("linux/s390x"), "{}", failure.message);
}

#[tokio::test]
async fn a_push_that_is_cut_short_goes_on_and_mends_what_was_lost() {
    let Some(registry) = ImageRegistry::start().await else { return };
    let Some(elsewhere) = ImageRegistry::start().await else { return };
    elsewhere.push_base("base").await;
    let bases = format!("procfile={}/base:1", elsewhere.host);
    let values = [("ACR_LOGIN_SERVER", registry.host.as_str()), ("WINDLASS_BASE_IMAGES", bases.as_str())];
    let bench = Bench::new(&values, Arc::new(Hasty(AtomicI64::new(0), 10))).await;
    let source = bench.source(&[("a.txt", b"a")]).await;
    let job = job(1, started("cat a.txt"));
    bench.begin(&source, &job).await;
    let lost = ImageRegistry::base_layers().remove(0);
    let mut deleted = 0;
    let (status, looks) = bench
        .finish(job.run, async |_| {
            // Somebody cleans up while it works.
            if deleted == 0 && registry.blob(REPOSITORY, &lost).await.is_some() {
                registry.delete_blob(REPOSITORY, &lost).await;
                deleted += 1;
            }
        })
        .await;
    assert_eq!(deleted, 1);
    assert!(looks > 1, "more than one invocation's work");
    let BuildStatus::Done(packed) = status else { panic!("{status:?}") };
    assert_eq!(bench.builder.status(job.run).await, BuildStatus::Done(packed.clone()), "asked again");
    let (_, manifest) = registry.manifest(REPOSITORY, &format!("sha256:{}", packed.digest)).await.unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(registry.blob(REPOSITORY, layer["digest"].as_str().unwrap()).await.is_some(), "{layer}");
    }
    assert_eq!(bench.builder.leftovers().await.unwrap(), [job.run]);
    bench.builder.discard(job.run).await.unwrap();
    assert!(bench.builder.leftovers().await.unwrap().is_empty());
    assert_eq!(bench.builder.status(job.run).await, BuildStatus::Unknown);
}

/// Three parts that cannot be made smaller.
fn noise() -> Vec<u8> {
    (0..300_000_u32).flat_map(|number| Digest::of(&number.to_be_bytes()).0).collect()
}

/// A registry without any blob that takes uploads, but for so many tries of the second part.
fn forgetful(refusals: usize) -> Double {
    let left = AtomicUsize::new(refusals);
    Double::start(move |asked: &Asked| -> Answer {
        let to = |status: u16, at: &str| (status, vec![("location", at.to_owned())], String::new());
        let text = |status: u16, body: String| (status, Vec::new(), body);
        let second = asked.header("content-range").is_some_and(|range| range.starts_with("4194304-"));
        let refuses =
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/v2/") => text(200, String::new()),
            ("GET", "/v2/base/manifests/1") => text(200, base_manifest()),
            ("GET", path) if path.starts_with("/v2/base/blobs/") => text(200, base_config()),
            ("HEAD", _) => text(404, String::new()),
            ("POST", _) => to(202, "/upload/0"),
            ("PATCH", _) if second && refuses() => {
                (503, vec![("retry-after-ms", "1".to_owned())], String::new())
            }
            ("PATCH", _) => to(202, "/upload/1"),
            ("PUT", _) => text(201, String::new()),
            other => panic!("{other:?} is not played"),
        }
    })
}

#[tokio::test]
async fn an_outage_costs_the_part_that_was_under_way_and_no_more() {
    let double = forgetful(4);
    let host = double.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let bases = format!("procfile={host}/base:1");
    let values = [("ACR_LOGIN_SERVER", host.as_str()), ("WINDLASS_BASE_IMAGES", bases.as_str())];
    let bench = Bench::new(&values, Arc::new(SystemClock)).await;
    let source = bench.source(&[("noise", noise().as_slice())]).await;
    let job = job(1, started("cat noise"));
    bench.begin(&source, &job).await;
    let (status, looks) = bench.finish(job.run, async |_| ()).await;
    assert!(matches!(status, BuildStatus::Done(_)), "{status:?}");
    assert!(looks > 1, "the outage was longer than one look");
    let begun = double.asked().iter().filter(|asked| asked.method == "POST").count();
    assert_eq!(begun, 2, "the layer and the configuration, each once");
    let read = double.asked().iter().filter(|asked| asked.path.starts_with("/v2/base/")).count();
    assert_eq!(read, 2, "the base's manifest and configuration, once for all looks");
}

#[tokio::test]
async fn a_build_that_waits_says_why_once() {
    let double = forgetful(0);
    let host = double.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let bases = format!("procfile={host}/base:1");
    let values = [("ACR_LOGIN_SERVER", host.as_str()), ("WINDLASS_BASE_IMAGES", bases.as_str())];
    let bench = Bench::new(&values, Arc::new(SystemClock)).await;
    let source = bench.source(&[("a.txt", b"a")]).await;
    let job = job(1, started("cat a.txt"));
    bench.begin(&source, &job).await;
    let told = async || {
        let lines = bench.logs.read(job.deployment, From::Tail(50), 50).await.unwrap();
        let told = lines.into_iter().filter(|line| line.text.starts_with("the build waits: "));
        told.map(|line| line.text).collect::<Vec<_>>()
    };
    for status in [503, 429] {
        down(&double.mood, status);
        for _ in 0..2 {
            assert_eq!(bench.builder.status(job.run).await, BuildStatus::Running);
        }
        let told = told().await;
        assert!(told.last().unwrap().contains(&status.to_string()), "{told:?}");
    }
    assert_eq!(told().await.len(), 2, "each reason once");
    up(&double.mood);
    assert!(matches!(bench.builder.status(job.run).await, BuildStatus::Done(_)));
}

#[tokio::test]
async fn every_look_sends_something_however_late_it_is() {
    let Some(registry) = ImageRegistry::start().await else { return };
    registry.push_base("base").await;
    let bases = format!("procfile={}/base:1", registry.host);
    let values = [("ACR_LOGIN_SERVER", registry.host.as_str()), ("WINDLASS_BASE_IMAGES", bases.as_str())];
    let bench = Bench::new(&values, Arc::new(Hasty(AtomicI64::new(0), 60))).await;
    let source = bench.source(&[("noise", noise().as_slice())]).await;
    let job = job(1, started("cat noise"));
    bench.begin(&source, &job).await;
    let (status, looks) = bench.finish(job.run, async |_| ()).await;
    assert!(matches!(status, BuildStatus::Done(_)), "{status:?}");
    assert!(looks >= 3, "a part in each");
}

#[tokio::test]
async fn an_image_runs_as_nobody_with_the_files_and_the_port() {
    let (Some(conf), Some(registry)) = (engine(), ImageRegistry::start().await) else { return };
    registry.push_base("base").await;
    let bases = format!("procfile={}/base:1", registry.host);
    let values = [("ACR_LOGIN_SERVER", registry.host.as_str()), ("WINDLASS_BASE_IMAGES", bases.as_str())];
    let bench = Bench::new(&values, Arc::new(SystemClock)).await;
    let source = bench.source(&[("hello/page.txt", b"hello")]).await;
    let command = "/bin/busybox cat hello/page.txt; echo \" from $(/bin/busybox id -u) on $PORT\"";
    let packed = bench.build(&source, 1, started(command)).await;
    let image = format!("{}/{REPOSITORY}@sha256:{}", registry.host, packed.digest);
    let podman = |arguments: &[&str]| {
        let output = Command::new("podman").args(arguments).env("CONTAINERS_CONF", &conf).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(output.status.success(), "{}", text(output.stderr));
        text(output.stdout)
    };
    podman(&["pull", "--quiet", "--tls-verify=false", &image]);
    assert_eq!(podman(&["run", "--rm", "--network=none", &image]), "hello from 1000 on 8080\n");
    podman(&["rmi", "--force", &image]);
}

#[tokio::test]
async fn what_has_to_be_built_goes_to_the_build_service_or_is_refused() {
    let bench = Bench::new(&[("ACR_LOGIN_SERVER", "127.0.0.1:1")], Arc::new(SystemClock)).await;
    let source = bench.source(&[("package.json", br#"{"dependencies":{"a":"1"}}"#)]).await;
    let plan = Plan {
        build: Some(NODE_INSTALLS[1].to_owned()),
        ..Plan::new(Kind::Node, Some("node server.js".to_owned()))
    };
    let job = job(1, plan);
    bench.builder.sync(job.run, &job.org, &source).await.unwrap();
    let Err(BuilderError::Rejected { code, message }) = bench.builder.start(job.clone()).await else {
        panic!()
    };
    assert_eq!(code, "BUILDER_UNFIT");
    assert!(message.contains("npm install") && message.contains("WINDLASS_BUILDER"), "{message}");
    assert!(bench.builder.builds_images().await.is_err());

    let store = Store::new();
    let queue = Arc::new(SqliteQueue(Arc::clone(&store.queues)));
    let service = FakeBuilder::new(bench.blobs.clone(), queue, Arc::new(SystemClock));
    let auto = AutoBuilder { layers: bench.builder, service };
    auto.prepare(job.run).await.unwrap();
    auto.sync(job.run, &job.org, &source).await.unwrap();
    assert_eq!(auto.start(job.clone()).await.unwrap(), Started::Running);
    assert_eq!(auto.service.built(), 1);
    assert!(matches!(auto.status(job.run).await, BuildStatus::Done(_)));
    assert_eq!(auto.leftovers().await.unwrap(), [job.run], "one run, however many remember it");
    auto.discard(job.run).await.unwrap();
    assert!(auto.leftovers().await.unwrap().is_empty());
}
