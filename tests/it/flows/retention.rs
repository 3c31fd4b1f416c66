//! What a cleanup takes away, and what it leaves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::App;
use actix_web::test::{TestRequest, call_service, init_service};
use async_trait::async_trait;
use jiff::Timestamp;
use windlass::api::batch;
use windlass::deploy::deployment::Status;
use windlass::deploy::ids::Digest;
use windlass::deploy::log::From;
use windlass::deploy::retention::{Reached, Remains, RemainsError};
use windlass::http::{Api, routes};

use crate::world::{Setup, World};

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

#[tokio::test]
async fn content_that_no_source_ever_named_goes_too() {
    let world = World::new();
    let api = Arc::new(Api::new(&world.windlass, true));
    let app = init_service(App::new().configure(|config| routes::mount(config, &api))).await;
    let digests = ["alone", "together"].map(|text| Digest::of(text.as_bytes()));
    let [alone, together] = digests;
    let put = TestRequest::put()
        .uri(&format!("/sources/blobs/{alone}?organizationId=one"))
        .insert_header(("host", "localhost"))
        .set_payload("alone");
    let post = TestRequest::post()
        .uri("/sources/blobs?organizationId=two")
        .insert_header(("host", "localhost"))
        .insert_header(("content-type", batch::MEDIA_TYPE))
        .set_payload(format!("{together} 8\ntogether"));
    for request in [put, post] {
        assert_eq!(call_service(&app, request.to_request()).await.status().as_u16(), 201);
    }
    assert_eq!(world.windlass.clean(false).await.unwrap().files, 0, "a day is left to what is new");
    world.clock.advance(A_CENTURY);
    let cleaned = world.windlass.clean(false).await.unwrap();
    assert_eq!((cleaned.files, cleaned.bytes), (2, 13));
    for (org, digest) in ["one", "two"].into_iter().zip(digests) {
        let org = org.parse().unwrap();
        let missing = world.windlass.tools.blobs.missing(&org, &[digest], world.now()).await.unwrap();
        assert_eq!(missing, [digest]);
    }
}

/// Remembers what it was told, and cannot be used while it is told to be broken.
#[derive(Default)]
struct Shelf {
    told: Mutex<Vec<(Reached, Timestamp, bool)>>,
    broken: bool,
}

#[async_trait]
impl Remains for Shelf {
    fn name(&self) -> &'static str {
        if self.broken { "jars" } else { "books" }
    }

    async fn retain(&self, reached: &Reached, before: Timestamp, dry: bool) -> Result<u64, RemainsError> {
        self.told.lock().unwrap().push((reached.clone(), before, dry));
        if self.broken { Err(RemainsError("no jar can be reached".to_owned())) } else { Ok(3) }
    }
}

#[tokio::test]
async fn what_is_left_elsewhere_goes_by_what_every_record_names() {
    let shelves = [true, false].map(|broken| Arc::new(Shelf { broken, ..Shelf::default() }));
    let remains = shelves.iter().map(|shelf| Arc::clone(shelf) as Arc<dyn Remains>).collect();
    let mut world = World::with(Setup { remains, ..Setup::default() });
    for project in ["shop", "blog"] {
        world.deploy(project, "page").await;
        world.run_until_idle().await;
    }
    let cleaned = world.windlass.clean(true).await.unwrap();
    let counted: Vec<(&str, u64)> = cleaned.remains.iter().map(|(kind, number)| (*kind, *number)).collect();
    assert_eq!(counted, [("books", 3)], "one that fails does not keep the others from it");
    let json = serde_json::to_value(&cleaned).unwrap();
    assert_eq!((&json["books"], &json["deployments"]), (&3.into(), &0.into()), "{json}");
    world.windlass.clean(false).await.unwrap();
    let told = shelves[1].told.lock().unwrap().clone();
    assert_eq!(told.iter().map(|(_, _, dry)| *dry).collect::<Vec<_>>(), [true, false]);
    for (reached, before, _) in told {
        assert_eq!(reached.projects.iter().map(String::as_str).collect::<Vec<_>>(), ["o/blog", "o/shop"]);
        for live in world.windlass.tools.releases.live().await.unwrap() {
            assert!(reached.artifacts.contains(&live.artifact), "{} is live", live.app);
        }
        assert_eq!(
            before,
            world.now() - jiff::SignedDuration::from_hours(24),
            "a day is left to what is new"
        );
    }
}
