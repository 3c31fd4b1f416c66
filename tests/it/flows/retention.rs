//! What a cleanup takes away, and what it leaves.

use std::time::Duration;

use windlass::deploy::deployment::Status;
use windlass::deploy::log::From;

use crate::world::World;

/// So long that the time stamps of the disk, which knows no manual clock, are in the past.
const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

#[tokio::test]
async fn old_deployments_are_forgotten_and_what_is_live_stays() {
    let mut world = World::new();
    let mut ids = Vec::new();
    for page in ["one", "two", "three", "four"] {
        ids.push(world.deploy("shop", page).await);
        world.run_until_idle().await;
    }
    world.builder.fail_with(Some("BUILD_FAILED"));
    let failed = world.deploy("shop", "bad").await;
    world.run_until_idle().await;
    world.builder.fail_with(None);

    let young = world.windlass.clean(false).await.unwrap();
    assert_eq!((young.deployments, young.runs, young.files), (0, 0, 0), "{young:?}");
    world.clock.advance(A_CENTURY);
    let dry = world.windlass.clean(true).await.unwrap();
    // Two releases are kept; the failed deployment and the first two go.
    assert_eq!((dry.deployments, dry.runs), (3, 3));
    assert!(
        world.windlass.tools.deployments.get(ids[0]).await.unwrap().is_some(),
        "a dry run removes nothing"
    );
    let done = world.windlass.clean(false).await.unwrap();
    assert_eq!((done.deployments, done.runs), (3, 3));
    // A page, a manifest and a bundle of the two releases; of the failed one what it built, since its source is the
    // project's newest.
    assert_eq!(done.files, 7);
    let again = world.windlass.clean(false).await.unwrap();
    assert_eq!(again, windlass::actions::Cleaned::default());

    for gone in [ids[0], ids[1], failed] {
        assert!(world.windlass.view(gone).await.unwrap().is_none());
        assert!(world.windlass.tools.logs.read(gone, From::After(0), 1).await.unwrap().is_empty());
    }
    let live = world.windlass.tools.releases.live().await.unwrap();
    assert_eq!(live.iter().map(|release| release.number).collect::<Vec<_>>(), [4]);
    for kept in [ids[2], ids[3]] {
        let release = world.get(kept).await.result.release.unwrap();
        let release = world.windlass.tools.releases.get(&live[0].app, release).await.unwrap().unwrap();
        let missing =
            world.windlass.tools.blobs.missing(&release.org, &[release.artifact], world.now()).await.unwrap();
        assert!(missing.is_empty());
        assert!(!world.windlass.tools.logs.read(kept, From::After(0), 1).await.unwrap().is_empty());
    }
    assert!(
        world.windlass.bill_of_materials(ids[3]).await.unwrap().is_some(),
        "the live release's run is kept"
    );
    // The project's newest source can still be deployed, though it failed; so can one that was forgotten.
    for again in [world.submit(&World::request("shop")).await, world.deploy("shop", "one").await] {
        world.run_until_idle().await;
        assert_ne!(world.status(again).await, Status::Failed);
    }
    let newest = world.submit(&World::request("shop")).await;
    world.run_until_idle().await;
    assert_eq!(world.status(newest).await, Status::Succeeded);
}

#[tokio::test]
async fn a_source_that_is_said_to_be_there_survives_a_cleanup_under_way() {
    let world = World::new();
    let org = "o".parse().unwrap();
    world.source("o", "page").await;
    world.clock.advance(Duration::from_secs(5 * 365 * 24 * 3_600));
    // The cleanup has found out what is needed, and goes to remove the rest; then somebody announces the source again.
    let yesterday = windlass::ambient::before(world.now(), Duration::from_secs(24 * 3_600));
    world.source("o", "page").await;
    let removed = world.windlass.tools.blobs.retain(&org, [].into(), yesterday, false).await.unwrap();
    assert_eq!(removed, (0, 0));
}
