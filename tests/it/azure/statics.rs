//! Releases on Static Web Apps, against doubles of Azure Resource Manager, the registry and Blob Storage.

use std::io::{Cursor, Read as _};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use windlass::ambient::{Clock, ManualClock};
use windlass::azure::cosmos::Container;
use windlass::azure::services::Services;
use windlass::azure::static_sites::{SitesParts, StaticSites};
use windlass::config::AzureSettings;
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::ids::{DeploymentId, Digest};
use windlass::deploy::release::Release;
use windlass::deploy::runtime::{
    Binding, Bound, DnsRecord, Health, Missing, Place, Runtime as _, RuntimeError,
};
use windlass::deploy::size::{Replicas, Size};
use windlass::deploy::target::Target;
use windlass::deploy::wish::Environment;
use windlass::workflow::journal::RunId;
use zip::ZipArchive;

use super::arm_double::ArmDouble;
use super::azurite::Unsigned;
use super::cosmos::Account;
use super::doubles::Double;
use super::kaniko_story::{Images, REPOSITORY, registry, storage};
use super::settings;
use super::sites_double::SiteFate;

const APP: &str = "o/shop/production";
const ROOT: &str = "usr/share/nginx/html";

/// The runtime with these services.
pub(crate) fn runtime(
    services: &Services,
    settings: &AzureSettings,
    records: Container,
    clock: Arc<dyn Clock>,
) -> StaticSites {
    StaticSites::new(SitesParts {
        arm: Arc::new(services.arm()),
        records,
        registries: services.registries(),
        platform: settings.builder.platform.clone(),
        loans: services.loans().unwrap(),
        settings: settings.sites.clone(),
        wire: services.wire(),
        clock,
    })
}

struct Story {
    arm: ArmDouble,
    storage: Double,
    images: Images,
    clock: Arc<ManualClock>,
    runtime: StaticSites,
    _registry: Double,
}

/// One layer of an image: its media type, its digest and its bytes, which are text because they are packed by nobody.
fn layer(files: &[(&str, &str)]) -> (Value, String, String) {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let digest = format!("sha256:{}", Digest::of(&bytes));
    let media = "application/vnd.oci.image.layer.v1.tar";
    let descriptor = json!({ "mediaType": media, "digest": digest, "size": bytes.len() });
    (descriptor, digest, String::from_utf8(bytes).unwrap())
}

impl Story {
    async fn new() -> Self {
        let images = Images::default();
        let (arm, storage, registry) = (ArmDouble::start(), storage(), registry(&images));
        let host = registry.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let settings = settings(&[
            ("WINDLASS_ARM_ENDPOINT", &arm.double.address),
            ("WINDLASS_BLOB_ENDPOINT", &format!("{}devstoreaccount1", storage.address)),
            ("ACR_LOGIN_SERVER", &host),
        ]);
        let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
        let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
        let records = Account::new().await.records;
        let runtime = runtime(&services, &settings, records, Arc::clone(&clock) as Arc<dyn Clock>);
        Self { arm, storage, images, clock, runtime, _registry: registry }
    }

    /// The host name that the app gets.
    async fn host(&self) -> Result<String, RuntimeError> {
        let environment = &Environment::Production;
        let place = Place { app: APP, label: "shop", environment, target: Target::StaticWebApps };
        self.runtime.addresses().host(place).await
    }

    /// Keeps an image with these layers, bottom first.
    fn image(&self, layers: &[&[(&str, &str)]]) -> Digest {
        let mut images = self.images.lock().unwrap();
        let mut descriptors = Vec::new();
        for files in layers {
            let (descriptor, digest, text) = layer(files);
            images.insert(format!("/v2/{REPOSITORY}/blobs/{digest}"), text);
            descriptors.push(descriptor);
        }
        let config = json!({ "mediaType": "x", "digest": format!("sha256:{}", Digest::of(b"c")), "size": 1 });
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": descriptors }).to_string();
        let digest = Digest::of(manifest.as_bytes());
        images.insert(format!("/v2/{REPOSITORY}/manifests/sha256:{digest}"), manifest);
        digest
    }

    async fn release(&self, number: u64) -> Release {
        let (index, old) = (format!("{ROOT}/index.html"), format!("{ROOT}/old.html"));
        let (gone, page) = (format!("{ROOT}/.wh.old.html"), format!("page {number}"));
        let base: &[(&str, &str)] = &[("etc/passwd", "root"), (&index, "nginx"), (&old, "nginx")];
        let artifact = self.image(&[base, &[(&gone, ""), (&index, &page)]]);
        Release {
            app: APP.to_owned(),
            number,
            deployment: DeploymentId::new(u128::from(number)),
            run: RunId::new(Timestamp::UNIX_EPOCH, u128::from(number)),
            org: "o".parse().unwrap(),
            environment: Environment::Production,
            artifact,
            plan: Plan { target: Target::StaticWebApps, ..Plan::new(Kind::Static, None) },
            env: std::collections::BTreeMap::new(),
            size: Size::HALF,
            replicas: Replicas { min: 1, max: 1 },
            hosts: vec![self.host().await.unwrap()],
        }
    }

    async fn go_live(&self, number: u64) -> Release {
        let release = self.release(number).await;
        self.runtime.start(&release, None).await.unwrap();
        assert_eq!(self.runtime.health(release.run).await, Health::Healthy);
        self.runtime.switch(&release).await.unwrap();
        release
    }

    /// What the site shows: the title of what it was told.
    fn shown(&self) -> String {
        let sites = self.arm.sites();
        let [(_, live)] = sites.as_slice() else { panic!("{sites:?}") };
        live.split(' ').next().unwrap().to_owned()
    }

    /// The zip that was stored for a release.
    fn zip(&self, release: &Release) -> Vec<(String, String)> {
        let name = format!("site-{}.zip", release.run);
        let is_block = |query: &str| query.split('&').any(|part| part == "comp=block");
        let asked = self.storage.asked();
        let blocks = asked.iter().filter(|asked| asked.path.ends_with(&name) && is_block(&asked.query));
        let bytes: Vec<u8> = blocks.flat_map(|asked| asked.bytes.to_vec()).collect();
        let mut zip = ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut files = Vec::new();
        for index in 0..zip.len() {
            let mut file = zip.by_index(index).unwrap();
            let mut content = String::new();
            file.read_to_string(&mut content).unwrap();
            files.push((file.name().unwrap().into_owned(), content));
        }
        files
    }

    /// How often something was asked of Blob Storage for a release's zip.
    fn count(&self, method: &str, release: &Release) -> usize {
        let name = format!("site-{}.zip", release.run);
        self.storage
            .asked()
            .iter()
            .filter(|asked| asked.method == method && asked.path.ends_with(&name))
            .count()
    }
}

fn code(error: RuntimeError) -> (&'static str, String) {
    match error {
        RuntimeError::Rejected { code, message } => (code, message),
        RuntimeError::Unavailable(message) => ("", message),
    }
}

#[tokio::test]
async fn a_site_takes_one_release_after_the_other_and_the_way_back() {
    let story = Story::new().await;
    let first = story.release(1).await;
    assert_eq!(story.host().await.unwrap(), first.hosts[0], "it is asked for twice and made once");
    let made: Vec<_> = story.arm.double.asked().into_iter().filter(|asked| asked.method == "PUT").collect();
    let [made] = made.as_slice() else { panic!("{made:?}") };
    let name = made.path.rsplit('/').next().unwrap();
    let body = story.arm.site_body(name);
    assert_eq!((&body["sku"]["name"], &body["tags"]["windlass-app"]), (&json!("Free"), &json!(APP)));
    assert_eq!(story.runtime.addresses().url(&first, &first.hosts[0]), format!("https://{}", first.hosts[0]));

    assert_eq!(story.runtime.health(first.run).await, Health::Unknown);
    for _ in 0..2 {
        story.runtime.start(&first, None).await.unwrap();
    }
    assert_eq!(story.count("PUT", &first), 2, "one block and its list, once");
    assert_eq!(story.runtime.health(first.run).await, Health::Healthy);
    assert!(story.arm.told().is_empty(), "nothing changes before the switch");
    assert_eq!(story.runtime.answers(&first.hosts[0]).await.unwrap(), None);
    assert_eq!(story.zip(&first), [("index.html".to_owned(), "page 1".to_owned())]);
    for _ in 0..2 {
        story.runtime.switch(&first).await.unwrap();
    }
    let told = story.arm.told();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(told["deploymentTitle"], format!("r1 {}", first.run));
    let url = told["appZipUrl"].as_str().unwrap();
    assert!(
        url.starts_with("https://127.0.0.1:") && url.contains(".zip?sp=r&") && url.contains("sig="),
        "{url}"
    );
    assert_eq!(story.count("DELETE", &first), 1, "the zip goes when the site has it");
    assert_eq!((story.shown(), story.runtime.health(first.run).await), ("r1".to_owned(), Health::Healthy));
    assert_eq!(story.runtime.answers(&first.hosts[0]).await.unwrap(), Some(first.run));
    assert_eq!(story.runtime.bind(&first).await.unwrap(), Binding::Bound(Vec::new()));

    let second = story.go_live(2).await;
    assert_eq!((story.shown(), second.hosts == first.hosts), ("r2".to_owned(), true));
    assert_eq!(story.runtime.health(first.run).await, Health::Unknown, "it is forgotten");
    let views = story.runtime.revisions().await;
    assert_eq!(views.iter().map(|view| (view.release, view.live)).collect::<Vec<_>>(), [(2, true)]);
    assert!(story.runtime.stop(second.run).await.is_err(), "what is live is not stopped");

    story.runtime.start(&first, None).await.unwrap();
    assert_eq!(story.runtime.health(first.run).await, Health::Healthy);
    story.runtime.switch(&first).await.unwrap();
    assert_eq!(story.shown(), "r1");
    for _ in 0..2 {
        story.runtime.stop(second.run).await.unwrap();
    }
    assert_eq!(story.runtime.output(APP, 5).await.unwrap(), [""; 0]);
    for _ in 0..2 {
        story.runtime.withdraw(APP).await.unwrap();
    }
    assert!(story.arm.sites().is_empty());
    assert_eq!(story.runtime.answers(&first.hosts[0]).await.unwrap(), None);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn whoever_comes_while_a_site_takes_files_waits() {
    let story = Story::new().await;
    let first = story.go_live(1).await;
    let second = story.release(2).await;
    story.arm.site_fate(SiteFate::Ready(6));
    story.runtime.start(&second, None).await.unwrap();
    assert!(story.runtime.switch(&second).await.is_err(), "it is taking files");
    // The way back.
    story.runtime.start(&first, None).await.unwrap();
    let mut looks = 0;
    while story.runtime.health(first.run).await == Health::Starting {
        looks += 1;
        assert!(looks < 20, "it never ends");
    }
    assert!(looks > 0, "it does not try in vain");
    assert_eq!(story.runtime.health(first.run).await, Health::Healthy);
    story.arm.site_fate(SiteFate::Ready(1));
    while story.runtime.switch(&first).await.is_err() {
        looks += 1;
        assert!(looks < 40, "it never ends");
    }
    assert_eq!(story.shown(), "r1");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_site_that_takes_its_time_is_told_once() {
    let story = Story::new().await;
    let first = story.go_live(1).await;
    let second = story.release(2).await;
    story.arm.site_fate(SiteFate::Ready(4));
    story.runtime.start(&second, None).await.unwrap();
    // Lost on its way: whoever comes back tells it again.
    story.arm.trouble("POST", "/zipdeploy", 503, "ServerTimeout");
    let lost = story.runtime.switch(&second).await.unwrap_err();
    assert_eq!(code(lost).0, "");
    assert_eq!(story.runtime.health(second.run).await, Health::Healthy);
    let later = story.runtime.switch(&second).await.unwrap_err();
    assert_eq!(code(later), ("", "the site is taking files".to_owned()));
    assert_eq!(story.runtime.health(second.run).await, Health::Starting);
    let waiting = story.runtime.bind(&second).await.unwrap();
    assert!(matches!(&waiting, Binding::Waiting(pending) if pending[0].missing == Missing::Change));
    assert_eq!(story.shown(), "r1");
    assert_eq!(story.runtime.health(second.run).await, Health::Healthy, "by then it has them");
    story.runtime.switch(&second).await.unwrap();
    assert_eq!((story.shown(), story.arm.told().len()), ("r2".to_owned(), 2));
    assert_eq!(story.count("DELETE", &second), 1);
    assert_eq!(story.runtime.health(first.run).await, Health::Unknown);

    story.arm.site_status(503);
    assert_eq!(story.runtime.health(second.run).await, Health::Starting);
    story.clock.advance(Duration::from_secs(600));
    let health = story.runtime.health(second.run).await;
    assert!(matches!(&health, Health::Failed { code: "RELEASE_UNHEALTHY", .. }), "{health:?}");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn files_that_a_site_does_not_take_leave_the_old_ones() {
    for (fate, said) in [(SiteFate::Fails, "no default file"), (SiteFate::Bad, "Failed")] {
        let story = Story::new().await;
        let first = story.go_live(1).await;
        let second = story.release(2).await;
        story.arm.site_fate(fate);
        story.runtime.start(&second, None).await.unwrap();
        let (failed, message) = code(story.runtime.switch(&second).await.unwrap_err());
        assert!(failed == "SITE_FAILED" && message.contains(said), "{failed} {message}");
        let health = story.runtime.health(second.run).await;
        assert!(matches!(&health, Health::Failed { code: "SITE_FAILED", .. }), "{health:?}");
        assert_eq!(story.shown(), "r1");
        // The way back does not rely on that.
        story.arm.site_fate(SiteFate::Ready(1));
        story.runtime.start(&first, None).await.unwrap();
        assert_eq!(story.runtime.health(first.run).await, Health::Healthy);
        story.runtime.switch(&first).await.unwrap();
        story.runtime.stop(second.run).await.unwrap();
        assert_eq!(story.runtime.answers(&first.hosts[0]).await.unwrap(), Some(first.run));
        assert_eq!(story.shown(), "r1");
        story.go_live(3).await;
        assert_eq!((story.shown(), story.arm.violations()), ("r3".to_owned(), Vec::new()));
    }
}

#[tokio::test]
async fn what_is_no_site_is_refused_before_anything_is_told() {
    let story = Story::new().await;
    let mut release = story.release(1).await;
    for (artifact, wanted) in [
        (story.image(&[&[("etc/passwd", "root")]]), "SITE_UNFIT"),
        (story.image(&[&[(&format!("{ROOT}/a\\b"), "x")]]), "SITE_UNFIT"),
        (Digest::of(b"nothing"), "RELEASE_IMAGE"),
    ] {
        release.artifact = artifact;
        let (refused, message) = code(story.runtime.start(&release, None).await.unwrap_err());
        assert_eq!(refused, wanted, "{message}");
        assert_eq!(story.runtime.health(release.run).await, Health::Unknown);
    }
    let committed = story.storage.asked().iter().any(|asked| asked.query.contains("comp=blocklist"));
    assert!(!committed, "what is not whole is no zip");
    assert!(story.arm.told().is_empty());
    story.runtime.stop(release.run).await.unwrap();
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_site_of_somebody_else_is_left_alone() {
    let story = Story::new().await;
    let release = story.go_live(1).await;
    let name = story.arm.sites()[0].0.clone();
    story.runtime.withdraw(APP).await.unwrap();
    story.arm.foreign_site(&name);
    let before = story.arm.double.asked().len();
    assert_eq!(code(story.host().await.unwrap_err()).0, "AZURE_NAME_TAKEN");
    assert_eq!(code(story.runtime.start(&release, None).await.unwrap_err()).0, "AZURE_NAME_TAKEN");
    story.runtime.withdraw(APP).await.unwrap();
    let asked = story.arm.double.asked();
    assert!(asked[before..].iter().all(|asked| asked.method == "GET"), "{:?}", &asked[before..]);
    assert_eq!(story.arm.sites().len(), 1);
    assert_eq!(story.arm.violations(), [""; 0]);
}

fn record(kind: &'static str, name: &str, value: &str) -> DnsRecord {
    DnsRecord { kind, name: name.to_owned(), value: value.to_owned() }
}

#[tokio::test]
async fn domains_of_a_site_are_proved_then_served() {
    const BELOW: &str = "www.shop.example";
    const TOP: &str = "shop.example";
    let story = Story::new().await;
    let mut release = story.release(1).await;
    let host = release.hosts[0].clone();
    release.hosts.extend([BELOW.to_owned(), TOP.to_owned()]);
    story.runtime.start(&release, None).await.unwrap();
    story.runtime.switch(&release).await.unwrap();
    let look = async || match story.runtime.bind(&release).await.unwrap() {
        Binding::Waiting(pending) => pending.into_iter().map(|pending| pending.missing).collect::<Vec<_>>(),
        Binding::Bound(bound) => panic!("{bound:?}"),
    };
    let cname = Missing::Records(vec![record("CNAME", BELOW, &host)]);
    assert_eq!(
        look().await,
        [cname.clone(), Missing::Change],
        "nothing is asked for whose record is not seen"
    );
    let token = Missing::Records(vec![
        record("TXT", TOP, "token-1"),
        record("TXT", "_dnsauth.shop.example", "token-1"),
        record("ALIAS", TOP, &host),
    ]);
    for _ in 0..2 {
        assert_eq!(look().await, [cname.clone(), token.clone()]);
    }
    assert_eq!(story.runtime.answers(BELOW).await.unwrap(), None);
    story.arm.site_records(BELOW);
    story.arm.site_records(TOP);
    let adding = Missing::Certificate("Adding".to_owned());
    assert_eq!(look().await, [Missing::Change, adding.clone()]);
    // The top is bound by now.
    assert_eq!(look().await, [adding]);
    let bound = |domain: &str| Bound { domain: domain.to_owned(), certificate: None };
    let all = Binding::Bound(vec![bound(BELOW), bound(TOP)]);
    assert_eq!(story.runtime.bind(&release).await.unwrap(), all);
    assert_eq!(story.runtime.answers(TOP).await.unwrap(), Some(release.run));
    for _ in 0..2 {
        story.runtime.unbind(&release, &[TOP.to_owned()]).await.unwrap();
        assert_eq!(story.runtime.answers(TOP).await.unwrap(), None);
    }
    assert_eq!(story.runtime.answers(BELOW).await.unwrap(), Some(release.run));
    assert_eq!(story.arm.violations(), [""; 0]);
}
