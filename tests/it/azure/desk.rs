//! The admission desk: one record that everybody changes, and that has an end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use windlass::ambient::{Clock, SystemIds};
use windlass::azure::deployments::CosmosDeployments;
use windlass::deploy::deployment::{Deployments as _, NewDeployment, Requeued, Status, Submitted};
use windlass::deploy::ids::DeploymentId;
use windlass::deploy::sealing::KeySecrets;
use windlass::deploy::secrets::Secrets as _;
use windlass::deploy::wish;

use super::cosmos::{Account, Trouble, emulator};
use crate::ports::Outbox;

/// A clock on which waiting takes no time; it keeps how long everybody wanted to wait.
#[derive(Default)]
struct Naps(Mutex<Vec<Duration>>);

#[async_trait]
impl Clock for Naps {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    async fn sleep(&self, span: Duration) {
        self.0.lock().unwrap().push(span);
        tokio::task::yield_now().await;
    }
}

fn wanted(number: u128, project: &str) -> NewDeployment {
    let body = json!({ "projectId": project, "userId": "u", "organizationId": "o", "projectName": "p", "environment": "staging" });
    NewDeployment {
        id: DeploymentId::new(number),
        wish: wish::parse(&body, &|text| KeySecrets::new([7; 32]).seal(text)).unwrap(),
        at: Timestamp::UNIX_EPOCH,
        correlation: "c".to_owned(),
        key: None,
        trace: None,
    }
}

fn deployments(account: &Account, naps: &Arc<Naps>) -> CosmosDeployments {
    let outbox: Arc<Outbox> = Arc::default();
    CosmosDeployments::new(account.records.clone(), outbox, Arc::clone(naps) as Arc<_>, Arc::new(SystemIds))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn those_who_lose_a_race_for_the_desk_wait_and_all_are_accepted() {
    let (account, naps) = (Account::new().await, Arc::new(Naps::default()));
    let deployments = Arc::new(deployments(&account, &naps));
    let writers = (0..3_u128).map(|writer| {
        let deployments = Arc::clone(&deployments);
        windlass::ambient::spawn(async move {
            for turn in 0..20 {
                let new = wanted(writer * 100 + turn + 1, &format!("p{writer}-{turn}"));
                assert_eq!(deployments.submit(new).await.unwrap(), Submitted::New);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let stats = deployments.stats().await.unwrap();
    assert_eq!(stats.by_status.get(&Status::Queued), Some(&60));
    let naps = naps.0.lock().unwrap();
    assert!(!naps.is_empty(), "three at the same time meet");
    assert!(naps.iter().all(|nap| *nap < Duration::from_secs(1)), "{naps:?}");
}

#[tokio::test]
async fn a_full_desk_accepts_nobody_until_somebody_leaves() {
    let (account, naps) = (Account::new().await, Arc::new(Naps::default()));
    let deployments = deployments(&account, &naps);
    let first = wanted(1, "first");
    let id = first.id;
    assert_eq!(deployments.submit(first).await.unwrap(), Submitted::New);
    let place = |no: u64| {
        let number = u128::from(no);
        json!({ "no": no, "id": DeploymentId::new(number), "org": "o", "app": format!("o/{no}/staging") })
    };
    let queued: Vec<_> = [json!({ "no": 1, "id": id, "org": "o", "app": "o/first/staging" })]
        .into_iter()
        .chain((2..=2_000).map(place))
        .collect();
    let desk = json!({ "last": 2_000, "running": [], "queued": queued, "counts": { "queued": 2_000 } });
    account.records.put("deployments", "desk", &desk).await.unwrap();
    assert_eq!(deployments.submit(wanted(3_000, "next")).await.unwrap(), Submitted::Full);
    assert!(deployments.get(DeploymentId::new(3_000)).await.unwrap().is_none());
    let newer = wanted(3_001, "first");
    assert_eq!(
        deployments.submit(newer).await.unwrap(),
        Submitted::New,
        "it takes the place of an older one"
    );
    assert!(deployments.cancel_queued(DeploymentId::new(3_001), Timestamp::UNIX_EPOCH).await.unwrap());
    assert_eq!(deployments.submit(wanted(3_002, "next")).await.unwrap(), Submitted::New);
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_not_refused() {
    let (emulator, naps, now) = (emulator(), Arc::new(Naps::default()), Timestamp::UNIX_EPOCH);
    let calm = deployments(&Account::of(&emulator).await, &naps);
    let troubled = deployments(&Account::troubled(&emulator, Trouble::LostAnswers, 40).await, &naps);
    let mut heard = 0;
    for number in 1..=40 {
        let new = wanted(number, &format!("p{number}"));
        let id = new.id;
        calm.submit(new).await.unwrap();
        if let Ok(done) = troubled.cancel_queued(id, now).await {
            assert!(done, "it waited, so that it was cancelled");
        }
        // Where nothing was heard, nothing is known.
        calm.cancel_queued(id, now).await.unwrap();
        assert_eq!(calm.get(id).await.unwrap().unwrap().status, Status::Cancelled);
        if let Ok(answer) = troubled.requeue(id, now).await {
            assert_eq!(answer, Requeued::Queued);
            heard += 1;
        }
    }
    assert!(heard > 0, "not all answers are lost for good");
}
