//! Figures of the service, on a clock that tests move.

use std::sync::Arc;
use std::time::Duration;

use actix_web::App;
use actix_web::test::{TestRequest, call_and_read_body_json, init_service};
use serde_json::Value;
use windlass::ambient::between;
use windlass::http::{Api, routes};

use crate::world::World;

const HOUR: Duration = Duration::from_secs(3_600);

async fn queue(api: &Arc<Api>) -> Value {
    let app = init_service(App::new().configure(|config| routes::mount(config, api))).await;
    let request = TestRequest::get().uri("/status/queue").insert_header(("host", "localhost"));
    call_and_read_body_json(&app, request.to_request()).await
}

#[tokio::test]
async fn the_rate_is_of_the_last_hour_and_of_this_service() {
    let mut world = World::new();
    world.deploy("shop", "page").await;
    world.run_until_idle().await;
    world.clock.advance(Duration::from_secs(1));
    let api = Arc::new(Api::new(&world.windlass, true));
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(queue(&api).await["ratePerMinute"], 0.0, "it ended before the service started");
    world.deploy("shop", "another page").await;
    world.run_until_idle().await;
    world.clock.advance(Duration::from_secs(60));
    let minutes = between(api.started, world.now()).as_secs_f64() / 60.0;
    let rate = queue(&api).await["ratePerMinute"].as_f64().unwrap();
    assert!((rate * minutes - 1.0).abs() < 0.001, "{rate} in {minutes} minutes");
    world.clock.advance(HOUR);
    assert_eq!(queue(&api).await["ratePerMinute"], 0.0);
}

#[tokio::test]
async fn the_oldest_message_is_one_that_waits_for_admission() {
    let world = World::new();
    let api = Arc::new(Api::new(&world.windlass, true));
    world.queues.enqueue("step-build", "waits".to_owned(), world.now()).await.unwrap();
    world.clock.advance(HOUR);
    assert_eq!(queue(&api).await["oldestMessageAgeSeconds"], 0);
    world.queues.enqueue("deployment-queue", "waits".to_owned(), world.now()).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    assert_eq!(queue(&api).await["oldestMessageAgeSeconds"], 5);
}
