//! Releases on Container Instances, against the double of Azure Resource Manager and an app that answers or does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};
use windlass::ambient::SystemClock;
use windlass::azure::app_body;
use windlass::azure::container_instances::{ContainerInstances, GroupsParts};
use windlass::azure::group_body::group_of;
use windlass::azure::targets::Targets;
use windlass::deploy::deployment::{Deployment, Status};
use windlass::deploy::release::Release;
use windlass::deploy::runtime::{Binding, Health, Missing, Place, Runtime, RuntimeError};
use windlass::deploy::target::{Strategy, Target};
use windlass::deploy::wish::Environment;
use windlass::workflow::journal::RunId;

use super::apps::{self, APP};
use super::arm_double::ArmDouble;
use super::cosmos::Account;
use super::doubles::{Answer, Double};
use super::groups_double::GroupFate;
use super::{settings, statics};
use crate::world::{Setup, World};

struct Story {
    azure: apps::Story,
    /// What runs in every group.
    app: Double,
    /// What the app says.
    status: Arc<AtomicU16>,
    runtime: ContainerInstances,
}

/// The app's DNS label: its name, and the mark of the installation.
const NAME: &str = "shop-production-903fef-61158c";

async fn groups(azure: &apps::Story) -> ContainerInstances {
    let settings = settings(&[]);
    ContainerInstances::new(GroupsParts {
        arm: Arc::new(azure.services.arm()),
        records: Account::new().await.records,
        place: app_body::Place {
            location: settings.location,
            environment: "/subscriptions/s/environment".to_owned(),
            identity: settings.apps_identity,
            registry: settings.login_server,
        },
        secrets: azure.secrets(),
        wire: azure.services.wire(),
        clock: Arc::new(SystemClock),
    })
}

/// Looks until it is known how it is.
async fn settled(runtime: &dyn Runtime, run: RunId) -> Health {
    for _ in 0..20 {
        let health = runtime.health(run).await;
        if health != Health::Starting {
            return health;
        }
    }
    panic!("it never settles");
}

/// What was changed, in this order: method, group and label.
fn changes(arm: &ArmDouble) -> Vec<String> {
    let asked = arm.double.asked();
    let changes =
        asked.iter().filter(|asked| asked.method != "GET" && asked.path.contains("/containerGroups/"));
    let told = changes.map(|asked| {
        let name = asked.path.rsplit('/').next().unwrap();
        let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        let label = body.pointer("/properties/ipAddress/dnsNameLabel").and_then(Value::as_str);
        format!("{} {name} {}", asked.method, label.unwrap_or("-"))
    });
    told.collect()
}

impl Story {
    async fn new() -> Self {
        let azure = apps::Story::new().await;
        let status = Arc::new(AtomicU16::new(200));
        let says = Arc::clone(&status);
        let app =
            Double::start(move |_| -> Answer { (says.load(Ordering::SeqCst), Vec::new(), String::new()) });
        let runtime = groups(&azure).await;
        Self { azure, app, status, runtime }
    }

    fn port(&self) -> u16 {
        self.app.address.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap()
    }

    fn release(&self, number: u64) -> Release {
        let mut release = self.azure.release(number);
        release.plan.target = Target::ContainerInstances;
        release.plan.port = Some(self.port());
        release.hosts = vec![format!("{NAME}.westeurope.azurecontainer.io")];
        release
    }

    /// Looks until the app has its name.
    async fn bound(&self, release: &Release) {
        for _ in 0..10 {
            match self.runtime.bind(release).await.unwrap() {
                Binding::Bound(bound) => return assert!(bound.is_empty(), "{bound:?}"),
                Binding::Waiting(pending) => {
                    assert!(pending.iter().all(|pending| pending.missing == Missing::Change), "{pending:?}");
                }
            }
        }
        panic!("it never gets its name");
    }

    async fn go_live(&self, number: u64) -> Release {
        let release = self.release(number);
        self.runtime.start(&release, None).await.unwrap();
        assert_eq!(settled(&self.runtime, release.run).await, Health::Healthy);
        self.runtime.switch(&release).await.unwrap();
        self.bound(&release).await;
        release
    }

    /// Whose the app's name is.
    async fn answering(&self, release: &Release) -> Option<RunId> {
        self.runtime.answers(&release.hosts[0]).await.unwrap()
    }
}

#[tokio::test]
async fn a_group_has_the_documents_name_port_and_variables() {
    let story = Story::new().await;
    let mut release = story.release(1);
    release.plan.port = Some(8000);
    story.runtime.start(&release, None).await.unwrap();
    story.runtime.start(&release, None).await.unwrap();
    let name = group_of(&release);
    assert!(name.starts_with(&format!("{NAME}-r1-")) && name.len() <= 63, "{name}");
    let properties = story.azure.arm.group(&name)["properties"].clone();
    let address = &properties["ipAddress"];
    assert_eq!((&address["type"], &address["dnsNameLabel"]), (&json!("Public"), &json!(name)));
    assert_eq!(address["ports"], json!([{ "port": 8000, "protocol": "TCP" }]));
    assert_eq!(properties["restartPolicy"], "Always");
    let container = &properties["containers"][0]["properties"];
    assert_eq!(container["ports"], address["ports"]);
    assert_eq!(container["resources"]["requests"], json!({ "cpu": 0.5, "memoryInGB": 1.0 }));
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/health");
    assert!(container["image"].as_str().unwrap().starts_with("registry.azurecr.io/windlass/o/shop@sha256:"));
    let variables = container["environmentVariables"].as_array().unwrap();
    let named = |name: &str| {
        variables.iter().filter(|variable| variable["name"] == name).cloned().collect::<Vec<_>>()
    };
    assert_eq!(named("PORT"), [json!({ "name": "PORT", "value": "8000" })]);
    assert_eq!(named("MODE"), [json!({ "name": "MODE", "value": "calm" })]);
    assert_eq!(
        named("KEY"),
        [json!({ "name": "KEY", "secureValue": "canary-9" })],
        "once, and never given back"
    );
    let place = Place {
        app: "o/shop/production",
        label: "shop",
        environment: &Environment::Production,
        target: Target::ContainerInstances,
    };
    assert_eq!(story.runtime.addresses().host(place).await.unwrap(), release.hosts[0]);
    let url = story.runtime.addresses().url(&release, &release.hosts[0]);
    assert_eq!(url, format!("http://{NAME}.westeurope.azurecontainer.io:8000"));
    assert_eq!(changes(&story.azure.arm).len(), 1, "a second start finds the first one's work");
    assert_eq!(story.azure.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_new_group_is_verified_before_the_old_one_is_deleted() {
    let story = Story::new().await;
    let arm = &story.azure.arm;
    let first = story.go_live(1).await;
    let second = story.release(2);
    let (old, new) = (group_of(&first), group_of(&second));
    story.status.store(503, Ordering::SeqCst);
    story.runtime.start(&second, None).await.unwrap();
    for _ in 0..6 {
        assert_eq!(story.runtime.health(second.run).await, Health::Starting, "it runs, and does not answer");
    }
    assert_eq!(arm.groups(), [(old.clone(), NAME.to_owned()), (new.clone(), new.clone())]);
    assert_eq!(story.answering(&first).await, Some(first.run));
    story.status.store(200, Ordering::SeqCst);
    assert_eq!(settled(&story.runtime, second.run).await, Health::Healthy);
    assert!(story.app.asked().iter().all(|asked| asked.path == "/health"));
    story.runtime.switch(&second).await.unwrap();
    assert!(matches!(story.runtime.bind(&second).await.unwrap(), Binding::Waiting(_)), "it starts again");
    story.runtime.switch(&second).await.unwrap();
    story.bound(&second).await;
    assert_eq!(arm.groups(), [(new.clone(), NAME.to_owned())]);
    assert_eq!(story.answering(&first).await, Some(second.run));
    let wanted = [
        format!("PUT {old} {old}"),
        format!("PUT {old} {NAME}"),
        format!("PUT {new} {new}"),
        format!("DELETE {old} -"),
        format!("PUT {new} {NAME}"),
    ];
    assert_eq!(changes(arm), wanted);
    let views = story.runtime.revisions().await;
    assert_eq!(
        views.iter().map(|view| (view.release, view.live, view.ready)).collect::<Vec<_>>(),
        [(2, true, 1)]
    );
    assert_eq!(story.runtime.output("o/shop/production", 10).await.unwrap(), ["older", "newest"]);
    assert!(story.runtime.stop(second.run).await.is_err(), "what is live is not stopped");
    story.runtime.withdraw("o/shop/production").await.unwrap();
    assert!(arm.groups().is_empty());
    assert_eq!(story.answering(&first).await, None);
    assert_eq!(story.runtime.health(second.run).await, Health::Unknown);
    assert_eq!(arm.violations(), [""; 0]);
}

#[tokio::test]
async fn with_recreate_the_old_group_is_deleted_first() {
    let story = Story::new().await;
    let arm = &story.azure.arm;
    let first = story.go_live(1).await;
    let mut second = story.release(2);
    second.plan.strategy = Strategy::Recreate;
    let before = changes(arm).len();
    for _ in 0..2 {
        story.runtime.start(&second, None).await.unwrap();
    }
    assert_eq!(settled(&story.runtime, second.run).await, Health::Healthy);
    story.runtime.switch(&second).await.unwrap();
    story.bound(&second).await;
    let new = group_of(&second);
    // The switch deletes whatever else the app had, and does not ask whether it is still there.
    let gone = format!("DELETE {} -", group_of(&first));
    assert_eq!(changes(arm)[before..], [gone.clone(), format!("PUT {new} {NAME}"), gone]);
    assert_eq!(story.answering(&first).await, Some(second.run));
    assert_eq!(arm.violations(), [""; 0]);
}

#[tokio::test]
async fn the_way_back_is_found_when_the_old_group_is_gone_and_the_new_one_never_came() {
    let story = Story::new().await;
    let arm = &story.azure.arm;
    let first = story.go_live(1).await;
    let mut second = story.release(2);
    second.plan.strategy = Strategy::Recreate;
    arm.trouble("PUT", "/containerGroups/", 400, "InaccessibleImage");
    let refused = story.runtime.start(&second, None).await.unwrap_err();
    assert!(matches!(&refused, RuntimeError::Rejected { code: "RELEASE_IMAGE", .. }), "{refused:?}");
    assert!(arm.groups().is_empty());
    assert_eq!(story.answering(&first).await, Some(second.run), "the newest sees to it");
    story.runtime.start(&first, None).await.unwrap();
    assert_eq!(settled(&story.runtime, first.run).await, Health::Healthy);
    story.runtime.switch(&first).await.unwrap();
    story.bound(&first).await;
    story.runtime.stop(second.run).await.unwrap();
    assert_eq!(arm.groups(), [(group_of(&first), NAME.to_owned())]);
    assert_eq!(story.answering(&first).await, Some(first.run));
    assert_eq!(arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_group_that_does_not_answer_says_why_and_the_old_one_stays() {
    let story = Story::new().await;
    let arm = &story.azure.arm;
    let first = story.go_live(1).await;
    for (number, fate, status, wanted) in [
        (2, GroupFate::NoImage, 200, "RELEASE_IMAGE"),
        (3, GroupFate::Crashes, 200, "RELEASE_CRASHED"),
        (4, GroupFate::Fails, 200, "RELEASE_UNHEALTHY"),
        (5, GroupFate::RunsLong, 503, "RELEASE_UNHEALTHY"),
    ] {
        arm.group_fate(fate);
        story.status.store(status, Ordering::SeqCst);
        let release = story.release(number);
        story.runtime.start(&release, None).await.unwrap();
        let health = settled(&story.runtime, release.run).await;
        let Health::Failed { code, message, tail } = &health else { panic!("{health:?}") };
        assert_eq!(*code, wanted, "{message}");
        let said = fate == GroupFate::Crashes || fate == GroupFate::RunsLong;
        assert_eq!(tail.len(), if said { 2 } else { 0 }, "{fate:?}");
        for _ in 0..2 {
            story.runtime.stop(release.run).await.unwrap();
        }
        assert_eq!(arm.groups(), [(group_of(&first), NAME.to_owned())]);
    }
    assert_eq!(story.answering(&first).await, Some(first.run));
    arm.group_fate(GroupFate::Runs);
    story.status.store(200, Ordering::SeqCst);
    story.go_live(6).await;
    assert_eq!(arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_name_that_is_not_free_yet_is_waited_for() {
    let story = Story::new().await;
    let arm = &story.azure.arm;
    story.go_live(1).await;
    let second = story.release(2);
    story.runtime.start(&second, None).await.unwrap();
    assert_eq!(settled(&story.runtime, second.run).await, Health::Healthy);
    let taken = format!(
        "The DNS name label '{NAME}' in container group 'g' not available. Try using a different label."
    );
    arm.trouble_saying(("PUT", "/containerGroups/"), 400, "InvalidRequest", &taken);
    arm.trouble("PUT", "/containerGroups/", 409, "ContainerGroupTransitioning");
    for _ in 0..2 {
        let later = story.runtime.switch(&second).await.unwrap_err();
        assert!(matches!(&later, RuntimeError::Unavailable(_)), "{later:?}");
        assert_eq!(story.answering(&second).await, Some(second.run), "nobody else has it");
        assert_eq!(story.runtime.health(second.run).await, Health::Healthy);
    }
    story.runtime.switch(&second).await.unwrap();
    story.bound(&second).await;
    arm.trouble("PUT", "/containerGroups/", 403, "AuthorizationFailed");
    let forbidden = story.runtime.start(&story.release(3), None).await.unwrap_err();
    assert!(matches!(&forbidden, RuntimeError::Rejected { code: "AZURE_FORBIDDEN", .. }), "{forbidden:?}");
    assert_eq!(arm.groups(), [(group_of(&second), NAME.to_owned())]);
    assert_eq!(arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_project_that_moves_to_another_target_leaves_nothing_behind() {
    let story = Story::new().await;
    let (apps, instances) = (story.azure.release(1), story.release(2));
    let Story { azure, runtime, app: _app, .. } = story;
    let records = Account::new().await.records;
    let sites = statics::runtime(&azure.services, &settings(&[]), records, Arc::new(SystemClock));
    let arm = azure.arm;
    let targets = Targets { apps: azure.runtime, groups: runtime, sites };
    let go_live = async |release: &Release| {
        targets.start(release, None).await.unwrap();
        assert_eq!(settled(&targets, release.run).await, Health::Healthy);
        targets.switch(release).await.unwrap();
    };
    let answering = async |release: &Release| targets.answers(&release.hosts[0]).await.unwrap();
    go_live(&apps).await;
    assert_eq!((answering(&apps).await, arm.groups().len()), (Some(apps.run), 0));
    go_live(&instances).await;
    assert_eq!((answering(&instances).await, answering(&apps).await), (Some(instances.run), None));
    assert!(!arm.has(APP));
    let views = targets.revisions().await;
    assert_eq!(views.iter().map(|view| (view.release, view.live)).collect::<Vec<_>>(), [(2, true)]);
    assert_eq!(targets.output("o/shop/production", 5).await.unwrap(), ["older", "newest"]);
    let url = targets.addresses().url(&instances, &instances.hosts[0]);
    assert!(url.starts_with("http://shop-production-903fef-61158c.westeurope.azurecontainer.io:"), "{url}");

    go_live(&apps).await;
    assert_eq!((answering(&apps).await, arm.groups().len()), (Some(apps.run), 0));
    assert_eq!(targets.addresses().url(&apps, &apps.hosts[0]), format!("https://{APP}.westeurope.example"));
    targets.stop(instances.run).await.unwrap();
    targets.withdraw("o/shop/production").await.unwrap();
    assert!(!arm.has(APP));
    assert_eq!(arm.violations(), [""; 0]);
}

/// Deploys a project with a Dockerfile through the whole chain.
async fn deployed(world: &mut World, port: u16, (page, strategy): (&str, &str)) -> Deployment {
    let dockerfile = format!("FROM scratch\nEXPOSE {port}\n# {page}\n");
    let project =
        format!("target = \"container-instances\"\nstrategy = \"{strategy}\"\n[health]\npath = \"/up\"\n");
    let files = [("Dockerfile", dockerfile.as_str()), ("windlass.toml", project.as_str())];
    let mut body = World::request("shop");
    body["source"] = json!(world.upload("o", &files).await.to_string());
    let id = world.submit(&body).await;
    world.run_until_idle().await;
    world.get(id).await
}

#[tokio::test]
async fn the_chain_brings_the_old_release_back_in_either_order() {
    let story = Story::new().await;
    let port = story.port();
    let Story { azure, app: _app, status, runtime } = story;
    let arm = &azure.arm;
    let mut world = World::with(Setup { runtime: Some(Arc::new(runtime)), ..Setup::default() });
    world.builder.take_dockerfiles();
    let first = deployed(&mut world, port, ("one", "replace")).await;
    assert_eq!((first.status, first.result.release), (Status::Succeeded, Some(1)), "{:?}", first.result);
    let url = first.result.urls[0].clone();
    let host = url.strip_prefix("http://").unwrap().strip_suffix(&format!(":{port}")).unwrap().to_owned();
    assert!(
        host.starts_with("shop-development-") && host.ends_with(".westeurope.azurecontainer.io"),
        "{url}"
    );
    let only = |begins: &str| {
        let groups = arm.groups();
        let [(name, label)] = groups.as_slice() else { panic!("{groups:?}") };
        assert!(name.contains(begins) && host.starts_with(&format!("{label}.")), "{groups:?}");
    };
    only("-r1-");

    arm.trouble("PUT", "/containerGroups/", 400, "InaccessibleImage");
    let second = deployed(&mut world, port, ("two", "recreate")).await;
    assert_eq!(second.status, Status::Failed);
    assert_eq!(second.result.fault.unwrap().code, "RELEASE_IMAGE");
    only("-r1-");
    let answering = world.windlass.tools.runtime.answers(&host).await.unwrap();
    assert_eq!(answering, first.run, "deleted, and made again");

    arm.group_fate(GroupFate::RunsLong);
    status.store(503, Ordering::SeqCst);
    let third = deployed(&mut world, port, ("three", "replace")).await;
    assert_eq!(third.result.fault.unwrap().code, "RELEASE_UNHEALTHY");
    only("-r1-");

    arm.group_fate(GroupFate::Runs);
    status.store(200, Ordering::SeqCst);
    for (page, strategy, name) in [("four", "recreate", "-r4-"), ("five", "replace", "-r5-")] {
        let done = deployed(&mut world, port, (page, strategy)).await;
        assert_eq!(done.status, Status::Succeeded, "{:?}", done.result);
        only(name);
        assert_eq!(world.windlass.tools.runtime.answers(&host).await.unwrap(), done.run);
    }
    assert_eq!(arm.violations(), [""; 0]);
}
