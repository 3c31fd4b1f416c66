//! Whose turn it is.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use windlass::deploy::deployment::{Caps, Filter, Status};
use windlass::workflow::journal::RunId;

use crate::world::{Setup, World};

async fn submit_many(world: &World, wishes: &[(u8, u8)]) {
    for (org, project) in wishes {
        let mut body = World::request(&format!("p{project}"));
        body["organizationId"] = json!(format!("o{org}"));
        world.submit(&body).await;
    }
}

async fn with_status(world: &World, status: Status) -> Vec<windlass::deploy::deployment::Deployment> {
    let filter = Filter { status: Some(status), limit: 1_000, ..Filter::default() };
    world.windlass.tools.deployments.list(&filter).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_racing_consumers_never_pass_the_cap() {
    let caps = Caps { total: 7, per_org: 2 };
    let world = Arc::new(World::with(Setup { caps, ..Setup::default() }));
    submit_many(&world, &(0..60).map(|n| (n % 10, n)).collect::<Vec<_>>()).await;
    let racing: Vec<_> = (0..200)
        .map(|n| {
            let world = Arc::clone(&world);
            windlass::ambient::spawn(async move {
                let make =
                    Box::new(move || RunId::new(jiff::Timestamp::UNIX_EPOCH, u128::from(rand_from(n))));
                world.windlass.tools.deployments.admit(caps, world.now(), make).await.unwrap().len()
            })
        })
        .collect();
    let mut admitted = 0;
    for racer in racing {
        admitted += racer.await.unwrap();
    }
    let running = with_status(&world, Status::Running).await;
    assert_eq!((admitted, running.len()), (7, 7));
}

fn rand_from(seed: u64) -> u64 {
    let ids = windlass::ambient::SeededIds::new(seed);
    u64::try_from(windlass::ambient::Ids::random(&ids) >> 64).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn caps_hold_for_any_queue(wishes in prop::collection::vec((0_u8..4, 0_u8..8), 1..40), total in 1_usize..6, per_org in 1_usize..4) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::with(Setup { caps: Caps { total, per_org }, ..Setup::default() });
            submit_many(&world, &wishes).await;
            loop {
                world.windlass.admit().await.unwrap();
                let running = with_status(&world, Status::Running).await;
                let mut orgs: HashMap<String, usize> = HashMap::new();
                let mut apps: HashMap<String, usize> = HashMap::new();
                for deployment in &running {
                    *orgs.entry(deployment.wish.org.to_string()).or_default() += 1;
                    *apps.entry(deployment.wish.app()).or_default() += 1;
                }
                assert!(running.len() <= total && orgs.values().all(|n| *n <= per_org) && apps.values().all(|n| *n == 1));
                let Some(first) = running.first() else { break };
                let ending = windlass::deploy::deployment::Ending::default();
                world.windlass.tools.deployments
                    .settle((first.id, first.run.unwrap()), Status::Succeeded, &ending, world.now()).await.unwrap();
            }
            // Nobody starves: whatever was not superseded had its turn.
            assert!(with_status(&world, Status::Queued).await.is_empty());
        });
    }
}

#[tokio::test]
async fn a_newer_deployment_supersedes_a_waiting_one() {
    let mut world = World::new();
    let older = world.deploy("shop", "one").await;
    let newer = world.deploy("shop", "two").await;
    world.run_until_idle().await;
    assert_eq!(
        (world.status(older).await, world.status(newer).await),
        (Status::Superseded, Status::Succeeded)
    );
}

#[tokio::test]
async fn a_waiting_deployment_says_its_position_and_what_blocks_it() {
    let mut world = World::with(Setup { caps: Caps { total: 1, per_org: 1 }, ..Setup::default() });
    world.builder.hang();
    world.deploy("one", "x").await;
    assert!(world.step().await);
    let second = world.deploy("two", "x").await;
    let third = world.deploy("three", "x").await;
    let view = world.windlass.view(third).await.unwrap().unwrap();
    assert_eq!(view.position, Some(2));
    assert!(view.waits_for.unwrap().contains("organization o has 1"));
    assert_eq!(world.windlass.view(second).await.unwrap().unwrap().position, Some(1));
    world.run_until_idle().await;
}

#[tokio::test]
async fn a_thousand_queued_deployments_drain() {
    let mut world = World::with(Setup { caps: Caps { total: 5, per_org: 5 }, ..Setup::default() });
    for number in 0..1_000_u32 {
        let mut body = World::request(&format!("p{number}"));
        body["organizationId"] = json!(format!("o{}", number % 7));
        world.submit(&body).await;
    }
    world.run_until_idle().await;
    let stats = world.windlass.tools.deployments.stats().await.unwrap();
    assert_eq!(stats.by_status.get(&Status::Succeeded), Some(&1_000));
    assert!(stats.by_status.len() == 1, "{stats:?}");
}

#[tokio::test]
async fn a_job_of_the_documents_shape_on_the_queue_is_accepted_once() {
    let mut world = World::new();
    let job = World::request("shop").to_string();
    for _ in 0..3 {
        world.queues.enqueue("deployment-queue", job.clone(), world.now()).await.unwrap();
    }
    world.run_until_idle().await;
    assert_eq!(with_status(&world, Status::Succeeded).await.len(), 1);
}

#[tokio::test]
async fn a_poisoned_message_ends_in_the_dead_letters_and_can_be_sent_again() {
    let mut world = World::new();
    world.queues.enqueue("deployment-queue", "not json".to_owned(), world.now()).await.unwrap();
    let good = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    assert_eq!(world.status(good).await, Status::Succeeded);
    let backlog = &world.windlass.tools.backlog;
    let dead = backlog.dead_letters(10).await.unwrap();
    assert_eq!((dead.len(), dead[0].body.as_str(), dead[0].deliveries), (1, "not json", 4));
    assert!(dead[0].error.clone().unwrap().contains("cannot be read"));
    assert!(backlog.redrive(dead[0].id).await.unwrap());
    assert_eq!(backlog.dead_letter_count().await.unwrap(), 0);
    world.run_until_idle().await;
    assert_eq!(world.windlass.tools.backlog.purge(None).await.unwrap(), 1);
}
