//! The suite of the `Deployments` port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use windlass::ambient::{Clock as _, after};
use windlass::deploy::deployment::{
    Caps, Deployment, Deployments, Ending, Filter, NewDeployment, QUEUE_KEY, Requeued, RunMaker, Status,
    Submitted,
};
use windlass::deploy::ids::{DeploymentId, Digest};
use windlass::deploy::secrets::Secrets as _;
use windlass::deploy::size::Size;
use windlass::deploy::wish;
use windlass::embedded::secrets::key_file;
use windlass::trace::TraceContext;
use windlass::workflow::journal::RunId;

use super::Ports;

const CAPS: Caps = Caps { total: 3, per_org: 2 };

every_adapter!(
    a_deployment_is_admitted_settled_and_put_back,
    a_list_knows_whose_deployments_they_are_how_large_and_of_which_commit,
    one_turn_for_each_app_within_the_caps_oldest_first,
    a_newer_wish_supersedes_the_one_that_waits,
    a_key_finds_its_deployment_and_no_other_body,
    pages_go_back_in_time_and_durations_are_learned,
);

struct Suite {
    store: Ports,
    deployments: Arc<dyn Deployments>,
    next: AtomicU64,
}

impl Suite {
    fn new(store: Ports) -> Self {
        let deployments = Arc::clone(&store.deployments);
        Self { store, deployments, next: AtomicU64::new(1) }
    }

    fn now(&self) -> Timestamp {
        self.store.clock.now()
    }

    fn number(&self) -> u128 {
        u128::from(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn wanted(&self, org: &str, project: &str) -> NewDeployment {
        let body = json!({ "projectId": project, "userId": "u", "organizationId": org, "projectName": project, "environment": "staging" });
        let secrets = key_file(&self.store.folder.path().join("key")).unwrap();
        let wish = wish::parse(&body, &|text| secrets.seal(text)).unwrap();
        NewDeployment {
            id: DeploymentId::new(self.number()),
            wish,
            at: self.now(),
            correlation: "c".to_owned(),
            trace: Some(TraceContext::of_name("t")),
            key: None,
        }
    }

    async fn submit(&self, org: &str, project: &str) -> DeploymentId {
        let new = self.wanted(org, project);
        let id = new.id;
        assert_eq!(self.deployments.submit(new).await.unwrap(), Submitted::New);
        id
    }

    async fn admit(&self) -> Vec<DeploymentId> {
        let (now, number) = (self.now(), self.number());
        let make: RunMaker = {
            let next = AtomicU64::new(0);
            Box::new(move || RunId::new(now, number << 64 | u128::from(next.fetch_add(1, Ordering::Relaxed))))
        };
        let admitted = self.deployments.admit(CAPS, self.now(), make).await.unwrap();
        admitted.iter().map(|deployment| deployment.id).collect()
    }

    async fn get(&self, id: DeploymentId) -> Deployment {
        self.deployments.get(id).await.unwrap().unwrap()
    }

    async fn settle(&self, id: DeploymentId, status: Status) {
        let run = self.get(id).await.run.unwrap();
        self.deployments.settle((id, run), status, &Ending::default(), self.now()).await.unwrap();
    }
}

async fn a_deployment_is_admitted_settled_and_put_back(ports: Ports) {
    let suite = Suite::new(ports);
    let id = suite.submit("o", "p").await;
    let queued = suite.get(id).await;
    assert_eq!(
        (queued.status, queued.run, queued.started, queued.created),
        (Status::Queued, None, None, suite.now())
    );
    assert_eq!((queued.correlation.as_str(), queued.trace), ("c", Some(TraceContext::of_name("t"))));
    assert_eq!(suite.admit().await, [id]);
    let running = suite.get(id).await;
    assert_eq!((running.status, running.started), (Status::Running, Some(suite.now())));
    assert!(!suite.deployments.cancel_queued(id, suite.now()).await.unwrap(), "it does not wait any more");
    assert_eq!(suite.deployments.requeue(id, suite.now()).await.unwrap(), Requeued::Refused);
    let stale = (id, RunId::new(suite.now(), 99));
    suite.deployments.settle(stale, Status::Failed, &Ending::default(), suite.now()).await.unwrap();
    assert_eq!(suite.get(id).await.status, Status::Running, "another run has the turn");
    suite.settle(id, Status::Failed).await;
    assert_eq!(suite.get(id).await.ended, Some(suite.now()));
    assert_eq!(suite.deployments.requeue(id, suite.now()).await.unwrap(), Requeued::Queued);
    assert_eq!(suite.admit().await, [id]);
    assert_ne!(suite.get(id).await.run, running.run, "a new turn is a new run");
    assert!(suite.deployments.get(DeploymentId::new(77)).await.unwrap().is_none());
}

async fn a_list_knows_whose_deployments_they_are_how_large_and_of_which_commit(ports: Ports) {
    let suite = Suite::new(ports);
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let mut asked = suite.wanted("o", "p");
    asked.wish.user = "ada".parse().unwrap();
    asked.wish.size = Some(Size::TWO);
    asked.wish.commit = Some(commit.parse().unwrap());
    let asked = (asked.id, suite.deployments.submit(asked).await.unwrap());
    let silent = suite.submit("o", "q").await;
    assert_eq!(asked.1, Submitted::New);
    let list = async || {
        let page = suite.deployments.list(&Filter { limit: 10, ..Filter::default() }).await.unwrap();
        let of = |deployment: &Deployment| {
            let wish = &deployment.wish;
            let commit = wish.commit.as_ref().map(ToString::to_string);
            (deployment.id, wish.org.to_string(), wish.user.to_string(), deployment.size(), commit)
        };
        page.iter().map(of).collect::<Vec<_>>()
    };
    let row = |id, user: &str, size, commit: Option<&str>| {
        (id, "o".to_owned(), user.to_owned(), size, commit.map(str::to_owned))
    };
    let ada = row(asked.0, "ada", Some(Size::TWO), Some(commit));
    assert_eq!(list().await, [row(silent, "u", None, None), ada.clone()]);
    // The size of one that did not ask is known once it has a release.
    suite.admit().await;
    let run = suite.get(silent).await.run.unwrap();
    let ending = Ending { release: Some(1), size: Some(Size::HALF), ..Ending::default() };
    let now = suite.now();
    suite.deployments.settle((silent, run), Status::Succeeded, &ending, now).await.unwrap();
    assert_eq!(list().await, [row(silent, "u", Some(Size::HALF), None), ada]);
}

async fn one_turn_for_each_app_within_the_caps_oldest_first(ports: Ports) {
    let suite = Suite::new(ports);
    let first = suite.submit("a", "one").await;
    assert_eq!(suite.admit().await, [first]);
    let (again, two, three, other, last) = (
        suite.submit("a", "one").await,
        suite.submit("a", "two").await,
        suite.submit("a", "three").await,
        suite.submit("b", "one").await,
        suite.submit("c", "one").await,
    );
    assert_eq!(suite.admit().await, [two, other], "`one` has its turn, `a` has two, and three are all");
    suite.settle(first, Status::Succeeded).await;
    assert_eq!(suite.admit().await, [again]);
    suite.settle(two, Status::Cancelled).await;
    suite.settle(again, Status::Stuck).await;
    assert_eq!(suite.admit().await, [three, last]);
    assert_eq!(suite.deployments.stats().await.unwrap().by_status[&Status::Running], 3);
}

async fn a_newer_wish_supersedes_the_one_that_waits(ports: Ports) {
    let suite = Suite::new(ports);
    let (old, other, new) =
        (suite.submit("o", "p").await, suite.submit("o", "q").await, suite.submit("o", "p").await);
    assert_eq!(suite.get(old).await.status, Status::Superseded);
    assert_eq!(suite.admit().await, [other, new]);
    assert_eq!(suite.deployments.requeue(old, suite.now()).await.unwrap(), Requeued::Refused);
}

async fn a_key_finds_its_deployment_and_no_other_body(ports: Ports) {
    let suite = Suite::new(ports);
    let with_key = |key: &str, body: &[u8]| NewDeployment {
        key: Some((key.to_owned(), Digest::of(body))),
        ..suite.wanted("o", "p")
    };
    let first = with_key("k", b"one");
    let id = first.id;
    assert_eq!(suite.deployments.submit(first).await.unwrap(), Submitted::New);
    assert_eq!(suite.deployments.submit(with_key("k", b"one")).await.unwrap(), Submitted::Repeated(id));
    assert_eq!(suite.deployments.submit(with_key("k", b"two")).await.unwrap(), Submitted::KeyReused);
    let queued = format!("{QUEUE_KEY}x");
    assert_eq!(suite.deployments.submit(with_key(&queued, b"job")).await.unwrap(), Submitted::New);
    assert!(matches!(
        suite.deployments.submit(with_key(&queued, b"job")).await.unwrap(),
        Submitted::Repeated(_)
    ));
    suite.store.clock.advance(Duration::from_secs(2 * 3_600));
    assert_eq!(suite.deployments.submit(with_key(&queued, b"job")).await.unwrap(), Submitted::New);
    assert_eq!(suite.deployments.submit(with_key("k", b"one")).await.unwrap(), Submitted::Repeated(id));
}

async fn pages_go_back_in_time_and_durations_are_learned(ports: Ports) {
    let suite = Suite::new(ports);
    let mut ids = Vec::new();
    for (index, project) in ["p", "q", "p", "p"].into_iter().enumerate() {
        ids.push(suite.submit("o", project).await);
        suite.admit().await;
        suite.store.clock.advance(Duration::from_secs(1 + index as u64));
        suite.settle(ids[index], if index == 1 { Status::Failed } else { Status::Succeeded }).await;
    }
    let list = async |filter: Filter| {
        let page = suite.deployments.list(&filter).await.unwrap();
        page.iter().map(|deployment| deployment.id).collect::<Vec<_>>()
    };
    let all = Filter { limit: 2, ..Filter::default() };
    assert_eq!(list(all.clone()).await, [ids[3], ids[2]]);
    let before = Some(suite.get(ids[2]).await.no);
    assert_eq!(list(Filter { before, ..all.clone() }).await, [ids[1], ids[0]]);
    assert_eq!(list(Filter { project: Some("q".parse().unwrap()), ..all.clone() }).await, [ids[1]]);
    assert_eq!(list(Filter { status: Some(Status::Failed), ..all.clone() }).await, [ids[1]]);
    assert!(list(Filter { environment: Some("production".parse().unwrap()), ..all }).await.is_empty());
    assert_eq!(suite.deployments.durations_ms().await.unwrap(), [1_000, 3_000, 4_000]);
    let begun = suite.get(ids[0]).await.created;
    for (seconds, ended) in [(0, 4), (1, 4), (2, 3), (10, 1), (11, 0)] {
        let since = after(begun, Duration::from_secs(seconds));
        assert_eq!(suite.deployments.ended_since(since).await.unwrap(), ended, "after {seconds} s");
    }
    assert_eq!(
        suite.get(ids[0]).await.ended,
        Some(after(suite.get(ids[0]).await.created, Duration::from_secs(1)))
    );
}
