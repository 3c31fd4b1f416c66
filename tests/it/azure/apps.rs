//! Releases on Container Apps, against the double of Azure Resource Manager.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use windlass::ambient::SystemClock;
use windlass::azure::app_body;
use windlass::azure::app_secrets::AppSecrets;
use windlass::azure::container_apps::{AppsParts, ContainerApps};
use windlass::azure::services::Services;
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::ids::{DeploymentId, Digest};
use windlass::deploy::release::Release;
use windlass::deploy::runtime::{Health, Place, Runtime as _, RuntimeError};
use windlass::deploy::sealing::KeySecrets;
use windlass::deploy::secrets::Secrets as _;
use windlass::deploy::size::{Replicas, Size};
use windlass::deploy::target::Target;
use windlass::deploy::wish::Environment;
use windlass::workflow::journal::RunId;

use super::arm_double::{ArmDouble, Fate};
use super::azurite::Unsigned;
use super::cosmos::Account;
use super::doubles::{Answer, Double};
use super::settings;
use super::vault::vault;

/// `shop` in production, with the hash of both.
pub(crate) const APP: &str = "shop-production-903fef";

pub(crate) struct Story {
    pub(crate) arm: ArmDouble,
    logs: Double,
    pub(crate) asked_vault: Double,
    pub(crate) runtime: ContainerApps,
    pub(crate) services: Services,
    key: [u8; 32],
}

impl Story {
    /// What opens the secrets of its releases.
    pub(crate) fn secrets(&self) -> Arc<KeySecrets> {
        Arc::new(KeySecrets::new(self.key))
    }

    pub(crate) async fn new() -> Self {
        let (arm, asked_vault) = (ArmDouble::start(), vault());
        let logs = Double::start(|asked| -> Answer {
            let query: Value = serde_json::from_str(&asked.body).unwrap();
            assert!(query["query"].as_str().unwrap().contains("ContainerAppName == 'shop-production-"));
            (200, Vec::new(), json!({ "tables": [{ "rows": [["newest"], ["older"]] }] }).to_string())
        });
        let settings = settings(&[
            ("WINDLASS_ARM_ENDPOINT", &arm.double.address),
            ("KEYVAULT_URL", &asked_vault.address),
            ("WINDLASS_LOG_ANALYTICS_ENDPOINT", &logs.address),
            ("LOG_ANALYTICS_WORKSPACE", "workspace"),
        ]);
        let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
        let key = [7; 32];
        let runtime = ContainerApps::new(AppsParts {
            arm: Arc::new(services.arm()),
            records: Account::new().await.records,
            place: app_body::Place {
                location: settings.location,
                environment: "/subscriptions/s/environment".to_owned(),
                identity: settings.apps_identity,
                registry: settings.login_server,
            },
            domain: "westeurope.example".to_owned(),
            secrets: AppSecrets::new(
                Arc::new(KeySecrets::new(key)),
                services.vault().unwrap(),
                services.installation(),
            ),
            logs: services.app_logs(),
            clock: Arc::new(SystemClock),
        });
        Self { arm, logs, asked_vault, runtime, services, key }
    }

    pub(crate) fn release(&self, number: u64) -> Release {
        let mut plan = Plan::new(Kind::Node, Some("node server.js".to_owned()));
        plan.variables =
            BTreeMap::from([("MODE".to_owned(), "calm".to_owned()), ("KEY".to_owned(), "plain".to_owned())]);
        plan.probe.path = Some("/health".to_owned());
        let sealed = KeySecrets::new(self.key).seal("canary-9");
        Release {
            app: "o/shop/production".to_owned(),
            number,
            deployment: DeploymentId::new(u128::from(number)),
            run: RunId::new(Timestamp::UNIX_EPOCH, u128::from(number)),
            org: "o".parse().unwrap(),
            environment: Environment::Production,
            artifact: Digest::of(&number.to_be_bytes()),
            plan,
            env: BTreeMap::from([("KEY".to_owned(), sealed)]),
            size: Size::HALF,
            replicas: Replicas { min: 1, max: 3 },
            hosts: vec![format!("{APP}.westeurope.example")],
        }
    }

    pub(crate) async fn settled(&self, release: &Release) -> Health {
        for _ in 0..20 {
            let health = self.runtime.health(release.run).await;
            if health != Health::Starting {
                return health;
            }
        }
        panic!("it never settles");
    }

    pub(crate) async fn go_live(&self, number: u64) -> Release {
        let release = self.release(number);
        self.make_live(&release).await;
        release
    }

    pub(crate) async fn make_live(&self, release: &Release) {
        self.runtime.start(release, None).await.unwrap();
        assert_eq!(self.settled(release).await, Health::Healthy);
        self.runtime.switch(release).await.unwrap();
    }
}

#[tokio::test]
async fn a_release_starts_beside_the_live_one_and_takes_its_traffic() {
    let story = Story::new().await;
    story.arm.fate(Fate::Healthy(2));
    let first = story.go_live(1).await;
    let place = Place {
        app: "o/shop/production",
        label: "shop",
        environment: &Environment::Production,
        target: Target::ContainerApps,
    };
    assert_eq!(story.runtime.addresses().host(place).await.unwrap(), first.hosts[0]);
    let (live, _) = story.arm.serving(APP);
    let second = story.release(2);
    story.runtime.start(&second, None).await.unwrap();
    story.runtime.start(&second, None).await.unwrap();
    assert_eq!(story.settled(&second).await, Health::Healthy);
    assert_eq!(story.arm.serving(APP).0, live, "nothing moved yet");
    assert_eq!(story.runtime.answers(&first.hosts[0]).await.unwrap(), Some(first.run));
    story.runtime.switch(&second).await.unwrap();
    story.runtime.switch(&second).await.unwrap();
    assert_eq!(story.runtime.answers(&first.hosts[0]).await.unwrap(), Some(second.run));
    assert_eq!(story.arm.serving(APP).1.len(), 1, "the old one is drained and rests");
    let views = story.runtime.revisions().await;
    assert_eq!(
        views.iter().map(|view| (view.wanted, view.ready, view.restarts)).collect::<Vec<_>>(),
        [(1, 1, 0)]
    );
    assert_eq!(views.iter().filter(|view| view.live).map(|view| view.release).collect::<Vec<_>>(), [2]);

    // The way back: the old revision wakes up and takes over again.
    story.runtime.start(&first, None).await.unwrap();
    assert_eq!(story.runtime.health(first.run).await, Health::Starting, "it has to wake up first");
    assert_eq!(story.settled(&first).await, Health::Healthy);
    story.runtime.switch(&first).await.unwrap();
    assert_eq!(story.arm.serving(APP).0, live);
    story.runtime.stop(second.run).await.unwrap();
    story.runtime.stop(second.run).await.unwrap();
    assert_eq!(story.runtime.health(second.run).await, Health::Unknown);
    assert_eq!(story.runtime.output("o/shop/production", 10).await.unwrap(), ["older", "newest"]);
    assert_eq!(story.logs.asked().len(), 1);
    story.runtime.withdraw("o/shop/production").await.unwrap();
    assert!(!story.arm.has(APP));
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn secrets_go_by_reference_and_never_into_a_request_to_arm() {
    let story = Story::new().await;
    story.go_live(1).await;
    story.go_live(2).await;
    let body = story.arm.body(APP);
    let container = &body["properties"]["template"]["containers"][0];
    let named = |name: &str| {
        container["env"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["name"] == name)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(container["command"], json!(["sh", "-c", "node server.js"]), "whatever the image says");
    assert_eq!(named("KEY").len(), 1, "a name twice would not start");
    let reference = named("KEY")[0]["secretRef"].as_str().unwrap().to_owned();
    assert_eq!(named("MODE"), [json!({ "name": "MODE", "value": "calm" })]);
    let secrets = body["properties"]["configuration"]["secrets"].as_array().unwrap();
    assert_eq!(secrets.len(), 2, "the old revision may be needed again");
    let secret = secrets.iter().find(|secret| secret["name"] == reference.as_str()).unwrap();
    assert!(secret["keyVaultUrl"].as_str().unwrap().ends_with("/v2"), "{secret}");
    assert!(container["image"].as_str().unwrap().starts_with("registry.azurecr.io/windlass/o/shop@sha256:"));
    let registry = &body["properties"]["configuration"]["registries"][0];
    let settings = &body["properties"]["configuration"]["identitySettings"];
    assert_eq!(
        settings[0],
        json!({ "identity": registry["identity"], "lifecycle": "None" }),
        "an app cannot read the vault"
    );
    assert!(registry["identity"].is_string() && registry["passwordSecretRef"].is_null(), "{registry}");
    let sent: Vec<String> = story.arm.double.asked().iter().map(|asked| format!("{asked:?}")).collect();
    assert!(sent.iter().all(|sent| !sent.contains("canary")));
    let kept = story.asked_vault.asked().iter().filter(|asked| asked.body.contains("canary-9")).count();
    assert_eq!(kept, 2, "once for each release");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_revision_that_does_not_start_says_why_and_the_old_one_stays() {
    let story = Story::new().await;
    story.go_live(1).await;
    let before = story.arm.serving(APP).0;
    for (number, fate, wanted) in [
        (2, Fate::Fails("GET https: MANIFEST_UNKNOWN: manifest unknown"), "RELEASE_IMAGE"),
        (3, Fate::Fails("The container port 8080 is closed"), "RELEASE_UNHEALTHY"),
        (4, Fate::Crashes, "RELEASE_CRASHED"),
        (5, Fate::NeverMade, "RELEASE_UNHEALTHY"),
    ] {
        story.arm.fate(fate);
        let release = story.release(number);
        story.runtime.start(&release, None).await.unwrap();
        let health = story.settled(&release).await;
        assert!(matches!(&health, Health::Failed { code, .. } if *code == wanted), "{health:?}");
        story.runtime.stop(release.run).await.unwrap();
        assert_eq!(story.arm.serving(APP), (before.clone(), vec![before.clone().unwrap()]));
    }
    story.arm.fate(Fate::Healthy(5));
    story.go_live(6).await;
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_revision_that_does_not_scale_as_asked_gets_no_traffic() {
    let story = Story::new().await;
    let first = story.go_live(1).await;
    let before = story.arm.serving(APP);
    story.arm.does_not_scale();
    let second = story.release(2);
    story.runtime.start(&second, None).await.unwrap();
    let Health::Failed { code, message, .. } = story.settled(&second).await else {
        panic!("it is taken for healthy")
    };
    assert_eq!(code, "RELEASE_NOT_SCALED");
    assert!(message.contains("1 to 1 replicas by no rule; asked for was 1 to 3"), "{message}");
    story.runtime.stop(second.run).await.unwrap();
    assert_eq!(story.arm.serving(APP), before);
    assert_eq!(story.runtime.answers(&first.hosts[0]).await.unwrap(), Some(first.run));
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_release_with_another_port_takes_the_port_along_with_the_traffic() {
    let story = Story::new().await;
    let first = story.go_live(1).await;
    let port = || story.arm.body(APP)["properties"]["configuration"]["ingress"]["targetPort"].clone();
    assert_eq!(port(), 8080);
    let on = |number: u64| {
        let mut release = story.release(number);
        release.plan.port = Some(3000);
        release
    };
    let second = on(2);
    story.arm.fate(Fate::Fails("The container port 3000 is closed"));
    story.runtime.start(&second, None).await.unwrap();
    assert_eq!(port(), 8080, "what is live listens there");
    assert!(matches!(story.settled(&second).await, Health::Failed { .. }));
    story.runtime.stop(second.run).await.unwrap();
    assert_eq!(port(), 8080);

    story.arm.fate(Fate::Healthy(1));
    let third = on(3);
    story.runtime.start(&third, None).await.unwrap();
    let probes = story.arm.body(APP)["properties"]["template"]["containers"][0]["probes"].clone();
    assert_eq!(probes[0]["httpGet"]["port"], 3000, "it is looked at where it listens");
    assert_eq!((story.settled(&third).await, port()), (Health::Healthy, json!(8080)));
    story.runtime.switch(&third).await.unwrap();
    assert_eq!(port(), 3000);
    story.runtime.start(&first, None).await.unwrap();
    assert_eq!(story.settled(&first).await, Health::Healthy);
    story.runtime.switch(&first).await.unwrap();
    assert_eq!(port(), 8080, "the way back takes it along too");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_first_release_that_fails_leaves_nothing() {
    let story = Story::new().await;
    story.arm.fate(Fate::Fails("UNAUTHORIZED: authentication required"));
    let release = story.release(1);
    story.runtime.start(&release, None).await.unwrap();
    assert!(matches!(story.settled(&release).await, Health::Failed { code: "RELEASE_IMAGE", .. }));
    story.runtime.stop(release.run).await.unwrap();
    story.runtime.stop(release.run).await.unwrap();
    assert!(!story.arm.has(APP));
    story.arm.fate(Fate::Healthy(1));
    story.go_live(2).await;
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn trouble_of_azure_is_told_apart() {
    let story = Story::new().await;
    story.go_live(1).await;
    let release = story.release(2);
    let start = async || story.runtime.start(&release, None).await;
    story.arm.trouble("PUT", "/containerApps/", 403, "AuthorizationFailed");
    let forbidden = start().await.unwrap_err();
    assert!(
        matches!(&forbidden, RuntimeError::Rejected { code: "AZURE_FORBIDDEN", message } if message.contains("role"))
    );
    story.arm.trouble("PUT", "/containerApps/", 400, "QuotaExceeded");
    assert!(matches!(start().await, Err(RuntimeError::Rejected { code: "AZURE_QUOTA", .. })));
    story.arm.trouble("PUT", "/containerApps/", 409, "ContainerAppOperationInProgress");
    assert!(matches!(start().await, Err(RuntimeError::Unavailable(_))));
    story.arm.trouble("PUT", "/containerApps/", 400, "ContainerAppInvalidResourceTotal");
    assert!(matches!(start().await, Err(RuntimeError::Rejected { code: "AZURE_REJECTED", .. })));
    // What passes by itself is waited for within the call.
    for (method, status) in [("PUT", 503), ("GET", 429), ("GET", 500)] {
        story.arm.trouble(method, "/containerApps/", status, "ServerTimeout");
    }
    start().await.unwrap();
    assert_eq!(story.settled(&release).await, Health::Healthy);
    story.arm.trouble("PATCH", "/containerApps/", 429, "TooManyRequests");
    story.runtime.switch(&release).await.unwrap();
    assert!(story.arm.serving(APP).0.unwrap().contains("--r2-"));
    // "Nobody answers" and "it is gone" are said only when that is so.
    story.arm.trouble("GET", "/containerApps/", 403, "AuthorizationFailed");
    assert!(story.runtime.answers(&release.hosts[0]).await.is_err());
    assert_eq!(story.runtime.answers(&release.hosts[0]).await.unwrap(), Some(release.run));
    story.arm.trouble("DELETE", "/containerApps/", 409, "ContainerAppOperationInProgress");
    assert!(matches!(story.runtime.withdraw(&release.app).await, Err(RuntimeError::Unavailable(_))));
    assert!(story.arm.has(APP));
    story.runtime.withdraw(&release.app).await.unwrap();
    assert!(!story.arm.has(APP));
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn an_operation_that_is_not_known_is_not_a_failure() {
    let story = Story::new().await;
    let release = story.go_live(1).await;
    let next = story.release(2);
    story.runtime.start(&next, None).await.unwrap();
    assert_eq!(story.settled(&next).await, Health::Healthy);
    // Accepted a moment ago, and not yet known everywhere.
    story.arm.trouble("GET", "containerappOperationStatuses", 404, "NotFound");
    story.runtime.switch(&next).await.unwrap();
    assert!(story.arm.serving(APP).0.unwrap().contains("--r2-"));
    // The operation went with the app that it deleted.
    for _ in 0..10 {
        story.arm.trouble("GET", "containerappOperationStatuses", 404, "NotFound");
    }
    story.runtime.withdraw(&release.app).await.unwrap();
    assert!(!story.arm.has(APP));
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn an_operation_at_a_foreign_host_is_never_asked_with_a_token() {
    let story = Story::new().await;
    story.go_live(1).await;
    let foreign =
        Double::start(|_| -> Answer { (200, Vec::new(), json!({ "status": "Succeeded" }).to_string()) });
    let next = story.release(2);
    story.runtime.start(&next, None).await.unwrap();
    assert_eq!(story.settled(&next).await, Health::Healthy);
    story.arm.operates_at(&foreign.address);
    let switched = story.runtime.switch(&next).await;
    assert!(
        matches!(&switched, Err(RuntimeError::Unavailable(why)) if why.contains("ForeignOperation")),
        "{switched:?}"
    );
    // What was accepted has happened: whoever comes again finds it.
    story.runtime.switch(&next).await.unwrap();
    assert!(story.arm.serving(APP).0.unwrap().contains("--r2-"));
    assert_eq!(foreign.asked().len(), 0);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[test]
fn a_request_that_the_contract_does_not_know_is_noticed() {
    let contract = super::openapi::Contract::of(&["Microsoft.App/2024-03-01/ContainerApps.json"]);
    let path = "/subscriptions/s/resourceGroups/g/providers/Microsoft.App/containerApps/a";
    let query = "api-version=2025-07-01";
    let put = |body: Value| contract.request("PUT", path, query, &body.to_string());
    assert!(put(json!({ "location": "x", "properties": { "configuration": { "activeRevisionsMode": "Multiple" } } })).is_ok());
    for body in [
        json!({ "properties": {} }),
        json!({ "location": "x", "properties": { "surprise": 1 } }),
        json!({ "location": "x", "properties": { "provisioningState": "Succeeded" } }),
        json!({ "location": "x", "properties": { "configuration": { "activeRevisionsMode": "Some" } } }),
    ] {
        assert!(put(body.clone()).is_err(), "{body}");
    }
    assert!(contract.request("GET", path, "api-version=2020-01-01", "").is_err());
    assert!(contract.request("TRACE", path, query, "").is_err());
    let get = contract.request("GET", path, query, "").unwrap();
    assert!(contract.answer(get, 202, "").is_err());
    assert!(contract.answer(get, 200, r#"{"location":"x","properties":{"latestRevisionName":7}}"#).is_err());
}

#[tokio::test]
async fn a_secret_of_another_key_is_not_passed_on() {
    let story = Story::new().await;
    let mut release = story.release(1);
    release.env.insert("KEY".to_owned(), KeySecrets::new([8; 32]).seal("canary-10"));
    let refused = story.runtime.start(&release, None).await;
    assert!(matches!(refused, Err(RuntimeError::Rejected { code: "SECRET_UNREADABLE", .. })), "{refused:?}");
}

#[tokio::test]
async fn without_a_workspace_nobody_is_asked_what_apps_say() {
    let logs = Double::start(|_| -> Answer { panic!("it was asked") });
    let settings = settings(&[("WINDLASS_LOG_ANALYTICS_ENDPOINT", &logs.address)]);
    let asked = Services::with(&settings, Arc::new(Unsigned)).unwrap().app_logs().newest(APP, 1).await;
    assert!(matches!(asked, Err(RuntimeError::Rejected { code: "APP_LOGS_UNCONFIGURED", .. })), "{asked:?}");
    assert!(logs.asked().is_empty());
}
