//! Every chain, with everything that can go wrong between its moves: doubled, crashed, failed, lost, reordered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use windlass::ambient::between;
use windlass::deploy::deployment::Status;
use windlass::windlass::Looks;
use windlass::workflow::retry::RetryPolicy;

use crate::world::{Fault, Faults, Post, Setup, World};

const STEPS: [&str; 7] = ["validate", "builder", "sync", "build", "release", "domain", "cleanup"];

/// What a successful deployment leaves, whatever happened on the way.
async fn assert_live(world: &World, id: windlass::deploy::ids::DeploymentId, what: &str) {
    let deployment = world.get(id).await;
    assert_eq!(deployment.status, Status::Succeeded, "{what}: {:?}", deployment.result);
    assert_eq!(world.builder.workspaces(), 0, "{what}");
    assert_eq!(world.runtime.hosts().len(), 1, "{what}");
    assert_eq!(world.runtime.revisions_of("o/shop/development").len(), 1, "{what}");
    assert_eq!(deployment.result.release, Some(1), "{what}");
    world.refold(deployment.run.unwrap()).await;
}

/// What a failed one leaves.
async fn assert_gone(world: &World, id: windlass::deploy::ids::DeploymentId, what: &str) {
    let deployment = world.get(id).await;
    assert_eq!(deployment.status, Status::Failed, "{what}: {:?}", deployment.result);
    assert_eq!(world.builder.workspaces(), 0, "{what}");
    assert!(
        world.runtime.hosts().is_empty() && world.runtime.revisions_of("o/shop/development").is_empty(),
        "{what}"
    );
    assert!(world.windlass.tools.releases.live().await.unwrap().is_empty(), "{what}");
    world.refold(deployment.run.unwrap()).await;
}

#[tokio::test]
async fn every_step_may_run_twice() {
    for step in STEPS {
        let faults = Faults::default();
        let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
        faults.set(step, Fault::Twice);
        let id = world.deploy("shop", "one").await;
        world.run_until_idle().await;
        assert_live(&world, id, step).await;
        assert_eq!(world.builder.built(), 1, "{step}");
    }
}

#[tokio::test]
async fn a_worker_may_die_before_and_after_every_append() {
    let mut world = World::new();
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    assert_live(&world, id, "no crash").await;
    let appends = world.journal.appends.load(Ordering::Relaxed);
    assert!(appends >= 8, "{appends}");
    for at in 0..appends {
        for before in [true, false] {
            let what = format!("crash {} append {at}", if before { "before" } else { "after" });
            let mut world = World::new();
            world.journal.crash_at(at, before);
            let id = world.deploy("shop", "one").await;
            world.run_until_idle().await;
            assert_live(&world, id, &what).await;
            assert_eq!(world.builder.built(), 1, "{what}");
        }
    }
}

#[tokio::test]
async fn every_step_may_fail_for_good() {
    for step in STEPS.into_iter().take(6) {
        let faults = Faults::default();
        let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
        faults.set(step, Fault::Permanent);
        let id = world.deploy("shop", "one").await;
        world.run_until_idle().await;
        assert_gone(&world, id, step).await;
        assert_eq!(world.get(id).await.result.fault.unwrap().step, step);
    }
}

#[tokio::test]
async fn every_step_survives_three_hiccups_and_not_four() {
    for step in STEPS.into_iter().take(6) {
        for (hiccups, survives) in [(3, true), (4, false)] {
            let faults = Faults::default();
            let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
            faults.set(step, Fault::Transient(hiccups));
            let id = world.deploy("shop", "one").await;
            world.run_until_idle().await;
            if survives { assert_live(&world, id, step).await } else { assert_gone(&world, id, step).await }
        }
    }
}

#[tokio::test]
async fn patient_steps_outlast_an_outage_of_more_than_a_minute() {
    for step in STEPS {
        let looks = Looks { retry: RetryPolicy::PATIENT, ..Looks::WOKEN };
        let faults = Faults::default();
        let mut world = World::with(Setup { faults: faults.clone(), looks, ..Setup::default() });
        faults.set(step, Fault::Transient(9));
        let id = world.deploy("shop", "one").await;
        let begun = world.now();
        world.run_until_idle().await;
        assert_live(&world, id, step).await;
        assert!(between(begun, world.now()) > Duration::from_secs(60), "{step}");
    }
}

#[tokio::test]
async fn hints_may_be_doubled_or_reordered() {
    for post in [Post::Doubled, Post::Reordered] {
        let mut world = World::new();
        world.post = post;
        let id = world.deploy("shop", "one").await;
        world.run_until_idle().await;
        assert_live(&world, id, &format!("{post:?}")).await;
        assert_eq!(world.builder.built(), 1);
    }
}

#[tokio::test]
async fn hints_may_be_lost_because_the_sweep_sends_them_again() {
    // Every step costs a sweep or two, a minute each.
    let mut world = World::with(Setup { deadline: Duration::from_secs(3_600), ..Setup::default() });
    world.post = Post::Lossy;
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    assert_live(&world, id, "only the sweep's hints arrive").await;
    assert_eq!(world.builder.built(), 1);
}
