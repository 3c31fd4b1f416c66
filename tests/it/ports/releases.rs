//! The suites of the `Releases` and `Retention` ports.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use windlass::ambient::{Clock as _, before};
use windlass::deploy::deployment::{Caps, Ending, NewDeployment, Status, Submitted};
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::ids::{DeploymentId, Digest, Name};
use windlass::deploy::release::{Artifact, Release, Releases};
use windlass::deploy::retention::{Forgotten, Needed};
use windlass::deploy::secrets::Secrets as _;
use windlass::deploy::size::{Replicas, Size};
use windlass::deploy::wish::{self, Environment};
use windlass::embedded::releases::SqliteReleases;
use windlass::embedded::secrets::key_file;
use windlass::workflow::journal::RunId;

use super::{Ports, Store};

every_adapter!(
    releases_are_numbered_within_their_app_and_one_is_live,
    projects_have_labels_of_their_own_and_artifacts_are_found_by_their_inputs,
    what_records_point_at_is_needed_and_old_artifacts_are_forgotten,
    old_deployments_are_forgotten_with_their_releases,
    the_largest_environment_fits_the_records,
);

fn org() -> Name {
    "o".parse().unwrap()
}

fn release(app: &str, deployment: u128, run: u128) -> Release {
    Release {
        app: app.to_owned(),
        number: 0,
        deployment: DeploymentId::new(deployment),
        run: RunId::new(Timestamp::UNIX_EPOCH, run),
        org: org(),
        environment: Environment::Staging,
        artifact: Digest::of(format!("artifact {deployment}").as_bytes()),
        plan: Plan::new(Kind::Static, None),
        env: BTreeMap::new(),
        size: Size::HALF,
        replicas: Replicas { min: 1, max: 1 },
        hosts: vec![format!("{app}.localhost")],
    }
}

/// A deployment of `o/p/staging`.
fn wanted(store: &Ports, number: u128, variables: &Value) -> NewDeployment {
    let secrets = key_file(&store.folder.path().join("key")).unwrap();
    let body = json!({ "projectId": "p", "userId": "u", "organizationId": "o", "projectName": "p", "environment": "staging", "envVariables": variables });
    NewDeployment {
        id: DeploymentId::new(number),
        wish: wish::parse(&body, &|text| secrets.seal(text)).unwrap(),
        at: store.clock.now(),
        correlation: "c".to_owned(),
        key: None,
        trace: None,
    }
}

async fn releases_are_numbered_within_their_app_and_one_is_live(store: Ports) {
    let releases = &store.releases;
    let now = store.clock.now();
    let record = async |wanted: Release| releases.record(&wanted, now).await.unwrap();
    assert_eq!(record(release("a", 1, 1)).await.number, 1);
    assert_eq!(record(release("a", 2, 2)).await.number, 2);
    assert_eq!(record(release("b", 3, 3)).await.number, 1);
    assert_eq!(record(release("a", 1, 1)).await.number, 1, "a deployment has one release");
    let retried = record(release("a", 1, 9)).await;
    assert_eq!((retried.number, retried.run), (1, RunId::new(Timestamp::UNIX_EPOCH, 9)));
    assert_eq!(releases.get("a", 1).await.unwrap().unwrap().run, retried.run);
    assert!(releases.get("a", 7).await.unwrap().is_none());
    assert!(releases.live().await.unwrap().is_empty());
    assert_eq!(releases.make_live("a", Some(1)).await.unwrap(), None);
    assert_eq!(releases.make_live("b", Some(1)).await.unwrap(), None);
    assert_eq!(releases.make_live("a", Some(2)).await.unwrap(), Some(1));
    assert_eq!(releases.make_live("a", Some(2)).await.unwrap(), Some(2), "twice is once");
    assert_eq!(releases.live_of("a").await.unwrap().map(|live| live.number), Some(2));
    assert!(releases.live_of("nobody's").await.unwrap().is_none());
    let live: Vec<_> =
        releases.live().await.unwrap().iter().map(|live| (live.app.clone(), live.number)).collect();
    assert_eq!(live, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(releases.make_live("a", None).await.unwrap(), Some(2));
    assert!(releases.live_of("a").await.unwrap().is_none());
    assert_eq!(releases.live().await.unwrap().len(), 1);
}

async fn projects_have_labels_of_their_own_and_artifacts_are_found_by_their_inputs(store: Ports) {
    let releases = &store.releases;
    let now = store.clock.now();
    let project = async |org: &str, title: &str| {
        releases.project(&org.parse().unwrap(), &"shop".parse().unwrap(), title, now).await.unwrap()
    };
    let mine = project("o", "Shop").await;
    let theirs = project("other", "Shop").await;
    assert_eq!(mine.label, "shop");
    assert_ne!(theirs.label, mine.label);
    assert_eq!(project("o", "New name").await.title, "New name");
    assert_eq!(project("o", "Shop").await.label, "shop", "a label stays");
    let source = Digest::of(b"source");
    releases.set_source(&mine, source).await.unwrap();
    assert_eq!(project("o", "Shop").await.source, Some(source));
    assert_eq!(project("other", "Shop").await.source, None);
    let artifact = Artifact { digest: Digest::of(b"bundle"), bytes: Some(6), inputs: BTreeMap::new() };
    releases.keep_artifact(&org(), Digest::of(b"inputs"), &artifact, now).await.unwrap();
    assert_eq!(releases.artifact(&org(), Digest::of(b"inputs")).await.unwrap(), Some(artifact));
    assert_eq!(releases.artifact(&org(), Digest::of(b"others")).await.unwrap(), None);
    assert_eq!(releases.artifact(&"other".parse().unwrap(), Digest::of(b"inputs")).await.unwrap(), None);
}

#[tokio::test]
async fn records_that_say_the_same_are_not_written_again() {
    let store = Store::new();
    let releases = SqliteReleases(store.db.clone());
    let now = store.clock.now();
    let same = async || {
        let project = releases.project(&org(), &"shop".parse().unwrap(), "Shop", now).await.unwrap();
        releases.set_source(&project, Digest::of(b"source")).await.unwrap();
        store.db.commits()
    };
    let once = same().await;
    assert_eq!(same().await, once);
    assert!(once > 0);
}

async fn what_records_point_at_is_needed_and_old_artifacts_are_forgotten(store: Ports) {
    let (releases, retention) = (&store.releases, &store.retention);
    let begun = store.clock.now();
    let kept = releases.record(&release("a", 1, 1), begun).await.unwrap();
    let artifact = |digest| Artifact { digest, bytes: None, inputs: BTreeMap::new() };
    releases.keep_artifact(&org(), Digest::of(b"1"), &artifact(kept.artifact), begun).await.unwrap();
    let unused = Digest::of(b"unused");
    releases.keep_artifact(&org(), Digest::of(b"2"), &artifact(unused), begun).await.unwrap();
    retention.use_source(&org(), Digest::of(b"early"), begun).await.unwrap();
    store.clock.advance(Duration::from_secs(3_600));
    retention.use_source(&org(), Digest::of(b"late"), store.clock.now()).await.unwrap();
    assert_eq!(retention.organizations().await.unwrap(), [org()]);
    let other: Name = "other".parse().unwrap();
    for _ in 0..2 {
        retention.note_owner(&other).await.unwrap();
    }
    assert_eq!(retention.organizations().await.unwrap(), [org(), other.clone()]);
    assert_eq!(retention.needed(&other, begun).await.unwrap(), Needed::default());

    let needed = retention.needed(&org(), begun).await.unwrap();
    let sorted = |mut digests: Vec<Digest>| {
        digests.sort_unstable();
        digests
    };
    assert_eq!(sorted(needed.sources), sorted(vec![Digest::of(b"early"), Digest::of(b"late")]));
    assert_eq!(sorted(needed.artifacts), sorted(vec![kept.artifact, unused]));
    let now = store.clock.now();
    assert_eq!(retention.needed(&org(), now).await.unwrap().sources, [Digest::of(b"late")]);
    assert_eq!(retention.needed(&"other".parse().unwrap(), begun).await.unwrap().sources, []);
    assert!(needed.projects.is_empty());
    for project in ["shop", "blog"] {
        releases.project(&org(), &project.parse().unwrap(), project, begun).await.unwrap();
    }
    let projects = retention.needed(&org(), begun).await.unwrap().projects;
    assert_eq!(projects.iter().map(Name::as_str).collect::<Vec<_>>(), ["blog", "shop"]);

    let forget = async |at, dry| retention.forget(at, 10, dry).await.unwrap();
    assert_eq!(forget(before(begun, Duration::from_secs(1)), false).await, Forgotten::default());
    let expected = Forgotten { artifacts: 1, ..Forgotten::default() };
    assert_eq!(forget(now, true).await, expected);
    assert_eq!(forget(now, false).await, expected, "a dry run forgets nothing");
    assert_eq!(forget(now, false).await, Forgotten::default());
    assert_eq!(retention.needed(&org(), now).await.unwrap().artifacts, [kept.artifact]);
    assert!(retention.organizations().await.unwrap().contains(&other), "an owner is noted for good");
}

async fn old_deployments_are_forgotten_with_their_releases(store: Ports) {
    let (releases, app) = (&store.releases, "o/p/staging");
    for number in 1..=3 {
        let (id, run) = (DeploymentId::new(number), RunId::new(Timestamp::UNIX_EPOCH, number));
        let at = store.clock.now();
        store.deployments.submit(wanted(&store, number, &json!({}))).await.unwrap();
        let caps = Caps { total: 1, per_org: 1 };
        assert_eq!(store.deployments.admit(caps, at, Box::new(move || run)).await.unwrap().len(), 1);
        let recorded = releases.record(&release(app, number, number), at).await.unwrap();
        releases.make_live(app, Some(recorded.number)).await.unwrap();
        store.deployments.settle((id, run), Status::Succeeded, &Ending::default(), at).await.unwrap();
        store.clock.advance(Duration::from_secs(60));
    }
    let forgotten = store.retention.forget(store.clock.now(), 1, false).await.unwrap();
    assert_eq!(forgotten.deployments, [DeploymentId::new(1), DeploymentId::new(2)]);
    for (number, kept) in [(1, false), (2, false), (3, true)] {
        assert_eq!(releases.get(app, number).await.unwrap().is_some(), kept, "release {number}");
        let deployment = store.deployments.get(DeploymentId::new(u128::from(number))).await.unwrap();
        assert_eq!(deployment.is_some(), kept, "deployment {number}");
    }
    assert_eq!(releases.live_of(app).await.unwrap().map(|live| live.number), Some(3));
}

async fn the_largest_environment_fits_the_records(store: Ports) {
    let (releases, now, app) = (&store.releases, store.clock.now(), "o/p/staging");
    let variables = (0..256).map(|n| (format!("V{n:03}"), json!("x".repeat(508))));
    let variables = Value::Object(variables.collect());
    let first = wanted(&store, 1, &variables);
    let env = first.wish.env.clone();
    for new in [first, wanted(&store, 2, &variables), wanted(&store, 3, &variables)] {
        // With the one that it supersedes.
        assert_eq!(store.deployments.submit(new).await.unwrap(), Submitted::New);
    }
    let run = RunId::new(Timestamp::UNIX_EPOCH, 3);
    let caps = Caps { total: 1, per_org: 1 };
    assert_eq!(store.deployments.admit(caps, now, Box::new(move || run)).await.unwrap().len(), 1);
    for run in [3, 4] {
        let wanted = Release { env: env.clone(), ..release(app, 3, run) };
        assert_eq!(releases.record(&wanted, now).await.unwrap().number, 1);
        releases.make_live(app, Some(1)).await.unwrap();
    }
    assert_eq!(releases.live_of(app).await.unwrap().unwrap().env, env);
}
