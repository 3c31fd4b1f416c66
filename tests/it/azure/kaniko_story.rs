//! What a story about a build by kaniko needs: doubles of the registry, of Blob Storage and of Log Analytics around the one
//! of Resource Manager.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azure_core::http::Url;
use jiff::Timestamp;
use serde_json::{Value, json};
use windlass::ambient::{Clock, ManualClock, after};
use windlass::azure::acr::{AcrBuilder, AcrParts};
use windlass::azure::kaniko::{KanikoBuilder, KanikoParts};
use windlass::azure::kaniko_cell::{Cell, Site};
use windlass::azure::kaniko_group::GroupCell;
use windlass::azure::kaniko_job::JobCell;
use windlass::azure::services::Services;
use windlass::config::AzureSettings;
use windlass::deploy::blobs::Blobs;
use windlass::deploy::builder::{BuildJob, BuildStatus, Builder as _, Started};
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::ids::{DeploymentId, Digest, Name};
use windlass::deploy::log::Logs;
use windlass::deploy::size::Size;
use windlass::deploy::source::{FileEntry, Manifest, SourceLimits};
use windlass::embedded::files::FileBlobs;
use windlass::embedded::logs::FileLogs;
use windlass::workflow::journal::RunId;
use windlass::workflow::queue::Hint;

use super::arm_double::ArmDouble;
use super::azurite::Unsigned;
use super::cosmos::Account;
use super::doubles::{Answer, Asked, Double};
use super::settings;

pub(crate) const REPOSITORY: &str = "windlass/o/shop";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    Job,
    Group,
}

/// Manifests by their paths.
pub(crate) type Images = Arc<Mutex<BTreeMap<String, String>>>;
/// What jobs said.
pub(crate) type Said = Arc<Mutex<Vec<(Timestamp, String)>>>;

fn form(asked: &Asked) -> BTreeMap<String, String> {
    let url: Url = format!("http://form/?{}", asked.body).parse().unwrap();
    url.query_pairs().into_owned().collect()
}

/// A registry that lets in whoever has a pass for just what is asked.
pub(crate) fn registry(images: &Images) -> Double {
    let images = Arc::clone(images);
    Double::start(move |asked| -> Answer {
        let challenge = "Bearer realm=\"https://registry.example/oauth2/token\",service=\"registry.example\"";
        let stranger = (401, vec![("www-authenticate", challenge.to_owned())], String::new());
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/v2/") => stranger,
            ("POST", "/oauth2/exchange") => {
                let form = form(asked);
                assert_eq!(
                    (form["grant_type"].as_str(), form["service"].as_str()),
                    ("access_token", "registry.example")
                );
                (200, Vec::new(), json!({ "refresh_token": "of-the-registry" }).to_string())
            }
            ("POST", "/oauth2/token") => {
                let form = form(asked);
                assert_eq!(
                    (form["grant_type"].as_str(), form["refresh_token"].as_str()),
                    ("refresh_token", "of-the-registry")
                );
                (200, Vec::new(), json!({ "access_token": format!("pass-{}", form["scope"]) }).to_string())
            }
            ("GET", path) => {
                let pass = format!("Bearer pass-repository:{REPOSITORY}:pull");
                match images.lock().unwrap().get(path) {
                    _ if asked.header("authorization") != Some(pass.as_str()) => stranger,
                    Some(manifest) => (200, Vec::new(), manifest.clone()),
                    None => (404, Vec::new(), String::new()),
                }
            }
            other => panic!("{other:?}"),
        }
    })
}

/// Blob Storage as far as content is lent.
pub(crate) fn storage() -> Double {
    Double::start(|asked| -> Answer {
        match asked.method.as_str() {
            "POST" => {
                assert!(asked.query.contains("comp=userdelegationkey"), "{}", asked.query);
                let part = |name: &str, value: &str| format!("<{name}>{value}</{name}>");
                let parts = [
                    part("SignedOid", "object"),
                    part("SignedTid", "tenant"),
                    part("SignedStart", "2026-11-20T08:55:00Z"),
                    part("SignedExpiry", "2026-11-20T09:11:00Z"),
                    part("SignedService", "b"),
                    part("SignedVersion", "2025-11-05"),
                    part("Value", "a2V5"),
                ];
                let key = format!(
                    "<?xml version=\"1.0\" encoding=\"utf-8\"?>{}",
                    part("UserDelegationKey", &parts.concat())
                );
                (200, vec![("content-type", "application/xml".to_owned())], key)
            }
            "PUT" => (201, Vec::new(), String::new()),
            "DELETE" => (202, Vec::new(), String::new()),
            other => panic!("{other}"),
        }
    })
}

/// Log Analytics, with what jobs said after the time of the query.
fn workspace(said: &Said) -> Double {
    let said = Arc::clone(said);
    Double::start(move |asked| -> Answer {
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        let query = body["query"].as_str().unwrap();
        assert!(query.contains("where JobName == 'wl-dep-"), "{query}");
        let since = query.split("datetime(").nth(1).unwrap().split(')').next().unwrap();
        let since: Timestamp = since.parse().unwrap();
        let said = said.lock().unwrap();
        let rows: Vec<Value> =
            said.iter().filter(|(at, _)| *at > since).map(|(at, line)| json!([at, line])).collect();
        (200, Vec::new(), json!({ "tables": [{ "rows": rows }] }).to_string())
    })
}

pub(crate) struct Story {
    pub(crate) arm: ArmDouble,
    pub(crate) storage: Double,
    pub(crate) said: Said,
    images: Images,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) settings: AzureSettings,
    pub(crate) account: Account,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) logs: Arc<dyn Logs>,
    pub(crate) builder: KanikoBuilder,
    _kept: (Double, Double, tempfile::TempDir),
}

pub(crate) fn builder(
    settings: &AzureSettings,
    place: Where,
    parts: (&Account, &Arc<ManualClock>, &Arc<dyn Blobs>, &Arc<dyn Logs>),
) -> KanikoBuilder {
    let services = Services::with(settings, Arc::new(Unsigned)).unwrap();
    let site = Site {
        location: "westeurope".to_owned(),
        image: format!("ghcr.io/o/kaniko@sha256:{}", "cd".repeat(32)).parse().unwrap(),
        identity: None,
        size: Size::TWO,
    };
    let arm = Arc::new(services.arm());
    let (account, clock, blobs, logs) = parts;
    let cell: Box<dyn Cell> = match place {
        Where::Job => {
            let environment = "/subscriptions/s/environment".to_owned();
            Box::new(JobCell { arm, site, environment, logs: services.app_logs() })
        }
        Where::Group => Box::new(GroupCell { arm, site }),
    };
    KanikoBuilder::new(KanikoParts {
        cell,
        blobs: Arc::clone(blobs),
        logs: Arc::clone(logs),
        records: account.records.clone(),
        loans: services.loans().unwrap(),
        registries: services.registries(),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
    })
}

impl Story {
    pub(crate) async fn new(place: Where) -> Self {
        let (said, images) = (Said::default(), Images::default());
        let (arm, storage, registry, workspace) =
            (ArmDouble::start(), storage(), registry(&images), workspace(&said));
        let host = registry.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let settings = settings(&[
            ("WINDLASS_ARM_ENDPOINT", &arm.double.address),
            ("WINDLASS_BLOB_ENDPOINT", &format!("{}devstoreaccount1", storage.address)),
            ("WINDLASS_LOG_ANALYTICS_ENDPOINT", &workspace.address),
            ("LOG_ANALYTICS_WORKSPACE", "workspace"),
            ("ACR_LOGIN_SERVER", &host),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(FileBlobs::open(&folder.path().join("blobs")).unwrap());
        let logs: Arc<dyn Logs> = Arc::new(FileLogs::open(&folder.path().join("logs")).unwrap());
        let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
        let account = Account::new().await;
        let builder = builder(&settings, place, (&account, &clock, &blobs, &logs));
        let kept = (registry, workspace, folder);
        Self { arm, storage, said, images, clock, settings, account, blobs, logs, builder, _kept: kept }
    }

    /// The registry's own builder, with the same records and logs.
    pub(crate) fn tasks(&self) -> AcrBuilder {
        let services = Services::with(&self.settings, Arc::new(Unsigned)).unwrap();
        AcrBuilder::new(AcrParts {
            arm: Arc::new(services.arm()),
            registry: self.settings.registry.clone(),
            blobs: Arc::clone(&self.blobs),
            logs: Arc::clone(&self.logs),
            records: self.account.records.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            wire: services.wire(),
            registries: services.registries(),
        })
    }

    /// Stores a source and gives what a run would build of it, with ten minutes for it.
    pub(crate) async fn job(&self, number: u128) -> (BuildJob, Manifest) {
        let org: Name = "o".parse().unwrap();
        let content = bytes::Bytes::from_static(b"FROM scratch\n");
        let sha256 = Digest::of(&content);
        let entry =
            FileEntry { path: "Dockerfile".to_owned(), size: content.len() as u64, mode: 0o644, sha256 };
        let manifest = Manifest::new(vec![entry], &SourceLimits::default()).unwrap();
        let text = manifest.to_text().into_bytes().into();
        self.blobs.keep_all(&org, vec![(sha256, content), (manifest.digest(), text)]).await.unwrap();
        let run = RunId::new(self.clock.now(), number);
        let mut plan = Plan::new(Kind::Docker, None);
        plan.build_variables = BTreeMap::from([("MODE".to_owned(), "two words".to_owned())]);
        let job = BuildJob {
            run,
            deployment: DeploymentId::new(number),
            org,
            app: "o/shop/production".to_owned(),
            plan,
            deadline: after(self.clock.now(), Duration::from_secs(600)),
            wake: Hint::wake(run, "step-build"),
        };
        (job, manifest)
    }

    /// Begins a build.
    pub(crate) async fn started(&self, number: u128) -> BuildJob {
        let (job, manifest) = self.job(number).await;
        assert_eq!(self.builder.start(job.clone()).await.unwrap(), Started::NotFresh);
        self.builder.prepare(job.run).await.unwrap();
        self.builder.sync(job.run, &job.org, &manifest).await.unwrap();
        assert_eq!(self.builder.status(job.run).await, BuildStatus::Unknown);
        assert_eq!(self.builder.start(job.clone()).await.unwrap(), Started::Running);
        job
    }

    /// Puts an image where the run's build has to put it.
    pub(crate) fn pushed(&self, run: RunId) -> Digest {
        let manifest = json!({ "schemaVersion": 2, "annotations": { "run": run } }).to_string();
        let digest = Digest::of(manifest.as_bytes());
        self.images.lock().unwrap().insert(format!("/v2/{REPOSITORY}/manifests/{run}"), manifest);
        digest
    }

    /// Looks until the build is no longer running.
    pub(crate) async fn ended(&self, run: RunId) -> BuildStatus {
        for _ in 0..12 {
            let status = self.builder.status(run).await;
            if status != BuildStatus::Running {
                return status;
            }
        }
        panic!("it never ends");
    }

    pub(crate) async fn runs_on(&self, run: RunId) {
        for _ in 0..12 {
            assert_eq!(self.builder.status(run).await, BuildStatus::Running);
        }
    }

    pub(crate) fn asked(&self, method: &str, part: &str) -> usize {
        let asked = self.arm.double.asked();
        asked.iter().filter(|asked| asked.method == method && asked.path.contains(part)).count()
    }
}
