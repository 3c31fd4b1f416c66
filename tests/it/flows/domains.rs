//! Domains that take their time, and ways back that wait.

use std::time::Duration;

use serde_json::json;
use windlass::deploy::deployment::Status;
use windlass::deploy::ids::DeploymentId;
use windlass::deploy::log::{From, Line};
use windlass::deploy::runtime::{Binding, Bound, DnsRecord, Missing, Pending};
use windlass::workflow::journal::RunId;

use crate::world::{Fault, Faults, Setup, World};

const DOMAIN: &str = "www.shop.example";

async fn deploy(world: &World, domain: Option<&str>) -> DeploymentId {
    let mut body = World::request("shop");
    body["customDomain"] = json!(domain);
    world.submit(&body).await
}

fn waiting(missing: Missing) -> Binding {
    Binding::Waiting(vec![Pending { domain: DOMAIN.to_owned(), missing }])
}

fn records() -> Missing {
    let record = |kind, name: &str, value: &str| DnsRecord { kind, name: name.into(), value: value.into() };
    Missing::Records(vec![
        record("TXT", "asuid.www.shop.example", "proof"),
        record("CNAME", DOMAIN, "app.example"),
    ])
}

async fn log(world: &World, id: DeploymentId) -> Vec<Line> {
    world.windlass.tools.logs.read(id, From::After(0), 1_000).await.unwrap()
}

fn at(lines: &[Line], kind: &str, step: &str) -> usize {
    lines.iter().position(|line| line.kind == kind && line.step.as_deref() == Some(step)).unwrap()
}

#[tokio::test]
async fn a_domain_that_waits_is_looked_at_until_it_is_bound() {
    let mut world = World::new();
    let pending = || waiting(Missing::Certificate("Pending".to_owned()));
    let bound = Bound { domain: DOMAIN.to_owned(), certificate: Some("w-1".to_owned()) };
    world.runtime.binds(vec![
        waiting(records()),
        waiting(records()),
        waiting(Missing::Change),
        pending(),
        pending(),
        Binding::Bound(vec![bound]),
    ]);
    let id = deploy(&world, Some(DOMAIN)).await;
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Succeeded);
    let lines = log(&world, id).await;
    let told = |kind: &str| lines.iter().filter(|line| line.kind == kind).collect::<Vec<_>>();
    let missing = told("domain.records");
    assert_eq!(missing.len(), 1, "once is enough");
    assert_eq!(
        missing[0].text,
        "www.shop.example needs these DNS records: TXT asuid.www.shop.example = proof, CNAME www.shop.example = app.example"
    );
    assert_eq!(missing[0].data["code"], "DOMAIN_DNS_MISSING");
    assert_eq!(
        missing[0].data["records"][1],
        json!({ "type": "CNAME", "name": DOMAIN, "value": "app.example" })
    );
    assert_eq!(told("certificate.pending").len(), 1);
    let order = [
        at(&lines, "step.finished", "release"),
        at(&lines, "domain.records", "domain"),
        at(&lines, "certificate.pending", "domain"),
        at(&lines, "certificate.ready", "domain"),
        at(&lines, "domain.bound", "domain"),
        at(&lines, "step.started", "cleanup"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    let view = world.windlass.view(id).await.unwrap().unwrap();
    assert_eq!(view.steps[5].output["bound"], json!([{ "domain": DOMAIN, "certificate": "w-1" }]));
    assert!(world.runtime.unbound().is_empty());
    world.refold(world.get(id).await.run.unwrap()).await;
}

#[tokio::test]
async fn a_domain_that_stays_without_records_fails_in_time_to_name_them() {
    for (missing, code) in [
        (records(), "DOMAIN_DNS_MISSING"),
        (Missing::Certificate("Pending".to_owned()), "DOMAIN_CERTIFICATE_PENDING"),
        (Missing::Change, "DOMAIN_NOT_ACTIVE"),
    ] {
        let mut world = World::new();
        world.runtime.binds(vec![waiting(missing)]);
        let id = deploy(&world, Some(DOMAIN)).await;
        world.run_until_idle().await;
        let failed = world.get(id).await;
        let fault = failed.result.fault.unwrap();
        assert_eq!(
            (failed.status, fault.code.as_str(), fault.step.as_str()),
            (Status::Failed, code, "domain")
        );
        assert!(fault.message.contains(DOMAIN), "{}", fault.message);
        if code == "DOMAIN_DNS_MISSING" {
            assert_eq!(fault.detail["records"][0]["name"], "asuid.www.shop.example");
        }
        assert_eq!(world.runtime.unbound(), [DOMAIN]);
        assert!(world.runtime.hosts().is_empty());
    }
}

#[tokio::test]
async fn a_domain_that_is_not_asked_for_any_more_goes_once_the_end_is_sure() {
    let faults = Faults::default();
    let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
    deploy(&world, Some(DOMAIN)).await;
    world.run_until_idle().await;
    faults.set("domain", Fault::Permanent);
    let failed = deploy(&world, None).await;
    world.run_until_idle().await;
    assert_eq!(world.status(failed).await, Status::Failed);
    assert!(world.runtime.unbound().is_empty(), "the release that came back has it");
    assert!(world.runtime.hosts().contains_key(DOMAIN));
    // What both have is nobody's to take away.
    let failed = deploy(&world, Some(DOMAIN)).await;
    world.run_until_idle().await;
    assert_eq!(world.status(failed).await, Status::Failed);
    assert!(world.runtime.unbound().is_empty());
    faults.clear();
    world.runtime.fails("unbind", 2);
    let without = deploy(&world, None).await;
    world.run_until_idle().await;
    assert_eq!(world.status(without).await, Status::Succeeded);
    assert_eq!(world.runtime.unbound(), [DOMAIN]);
}

#[tokio::test]
async fn a_deployment_that_was_stuck_leaves_a_later_release_its_domain() {
    let faults = Faults::default();
    let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
    deploy(&world, None).await;
    world.run_until_idle().await;
    // It cannot take back what it bound.
    world.runtime.binds(vec![waiting(records())]);
    faults.set("domain", Fault::UndoFails);
    let bound = deploy(&world, Some(DOMAIN)).await;
    world.run_until_idle().await;
    faults.clear();
    world.runtime.binds(Vec::new());
    // It cannot take away what it does not ask for.
    let later = deploy(&world, Some(DOMAIN)).await;
    world.run_until_idle().await;
    world.runtime.fails("unbind", usize::MAX);
    let without = deploy(&world, None).await;
    world.run_until_idle().await;
    world.runtime.fails("unbind", 0);
    for (id, status) in [(bound, Status::Stuck), (later, Status::Succeeded), (without, Status::Stuck)] {
        assert_eq!(world.status(id).await, status);
    }
    let live = deploy(&world, Some(DOMAIN)).await;
    world.run_until_idle().await;
    for (id, status) in [(bound, Status::Failed), (without, Status::Succeeded)] {
        world.windlass.retry(id, "test").await.unwrap();
        world.run_until_idle().await;
        assert_eq!(world.status(id).await, status);
        assert_eq!(world.runtime.unbound(), [""; 0]);
        assert_eq!(world.runtime.hosts()[DOMAIN], world.get(live).await.run.unwrap());
    }
}

#[tokio::test]
async fn an_outage_is_not_taken_for_a_host_that_nobody_answers() {
    let mut world = World::new();
    world.runtime.fails("answers", 2);
    let id = deploy(&world, None).await;
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Succeeded);
    let failed: Vec<_> =
        log(&world, id).await.into_iter().filter(|line| line.kind == "step.failed").collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|line| line.data["code"] == "RUNTIME_UNAVAILABLE"), "{failed:?}");
}

#[tokio::test]
async fn an_undo_that_meets_an_outage_goes_on_until_nothing_is_left() {
    for call in ["answers", "withdraw", "unbind", "stop"] {
        let faults = Faults::default();
        let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
        faults.set("domain", Fault::Permanent);
        let id = deploy(&world, Some(DOMAIN)).await;
        while world.windlass.view(id).await.unwrap().unwrap().current != Some("domain") {
            assert!(world.step().await);
        }
        world.runtime.fails(call, 3);
        world.run_until_idle().await;
        assert_eq!(world.status(id).await, Status::Failed, "{call}");
        assert!(world.runtime.hosts().is_empty(), "{call}");
        assert!(world.runtime.revisions_of("o/shop/development").is_empty(), "{call}");
    }
}

/// A world with a live release, where from now on every deployment fails in step `domain`; and the run of that release.
async fn one_live_before_domains_fail() -> (World, RunId) {
    let faults = Faults::default();
    let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
    let live = deploy(&world, None).await;
    world.run_until_idle().await;
    let live = world.get(live).await.run.unwrap();
    faults.set("domain", Fault::Permanent);
    (world, live)
}

#[tokio::test]
async fn what_was_live_gets_the_traffic_back_only_when_it_answers() {
    let (mut world, live) = one_live_before_domains_fail().await;
    world.runtime.make_slow(Duration::from_secs(90));
    let id = deploy(&world, None).await;
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Failed);
    assert_eq!(world.runtime.hosts().values().copied().collect::<Vec<_>>(), [live]);
    assert_eq!(world.runtime.hasty(), 0, "nobody gets traffic who does not answer");
    assert_eq!(world.windlass.tools.releases.live().await.unwrap()[0].number, 1);
    let lines = log(&world, id).await;
    let of_release = |kind: &str| {
        lines.iter().filter(|line| line.kind == kind && line.step.as_deref() == Some("release")).count()
    };
    assert_eq!(
        (of_release("step.undoing"), of_release("step.undo_failed")),
        (1, 0),
        "it waits, nothing fails"
    );
    world.refold(world.get(id).await.run.unwrap()).await;
}

#[tokio::test]
async fn what_was_live_and_never_answers_again_leaves_the_traffic_where_it_is() {
    let (mut world, _) = one_live_before_domains_fail().await;
    let id = deploy(&world, None).await;
    while world.windlass.view(id).await.unwrap().unwrap().current != Some("domain") {
        assert!(world.step().await);
    }
    world.runtime.make_slow(Duration::from_secs(3_600));
    world.run_until_idle().await;
    let stuck = world.get(id).await;
    assert_eq!(
        (stuck.status, stuck.result.fault.unwrap().code.as_str()),
        (Status::Stuck, "RELEASE_UNHEALTHY")
    );
    assert_eq!(world.runtime.hosts().values().copied().collect::<Vec<_>>(), [stuck.run.unwrap()]);
    assert_eq!(world.runtime.hasty(), 0);
    world.clock.advance(Duration::from_secs(3_600));
    world.windlass.retry(id, "test").await.unwrap();
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Failed);
    assert_eq!(world.windlass.tools.releases.live().await.unwrap()[0].number, 1);
}

#[tokio::test]
async fn what_was_live_and_fails_to_start_is_started_once_in_each_try_and_again_when_asked() {
    let (mut world, live) = one_live_before_domains_fail().await;
    let id = deploy(&world, None).await;
    while world.windlass.view(id).await.unwrap().unwrap().current != Some("domain") {
        assert!(world.step().await);
    }
    world.runtime.make_slow(Duration::from_secs(5));
    world.runtime.cannot_unpack(usize::MAX);
    world.run_until_idle().await;
    let stuck = world.get(id).await;
    assert_eq!(
        (stuck.status, stuck.result.fault.unwrap().code.as_str()),
        (Status::Stuck, "RELEASE_NOT_UNPACKED")
    );
    assert_eq!(
        world.runtime.starts_of(live),
        5,
        "the deployment's own start, and four tries to bring it back"
    );
    world.runtime.cannot_unpack(0);
    world.clock.advance(Duration::from_secs(3_600));
    world.windlass.retry(id, "test").await.unwrap();
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Failed);
    assert_eq!(world.runtime.hosts().values().copied().collect::<Vec<_>>(), [live]);
    assert_eq!(world.runtime.starts_of(live), 6);
}
