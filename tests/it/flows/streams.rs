//! A followed log, event by event, on a clock that stands still.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix_web::App;
use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::test::{TestRequest, call_service, init_service};
use futures_util::FutureExt as _;
use windlass::deploy::log::{From, Line};
use windlass::http::{Api, routes};

use crate::world::World;

async fn follow(world: &World, path: &str) -> BoxBody {
    let api = Arc::new(Api::new(&world.windlass, true));
    let app = init_service(App::new().configure(|config| routes::mount(config, &api))).await;
    let request = TestRequest::get().uri(path).insert_header(("host", "localhost")).to_request();
    let answer = call_service(&app, request).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.map_into_boxed_body().into_body()
}

/// What the stream says now.
fn said(stream: &mut BoxBody) -> Poll<Option<String>> {
    let next = std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).now_or_never();
    next.map_or(Poll::Pending, |said| {
        Poll::Ready(said.map(|text| String::from_utf8(text.unwrap().to_vec()).unwrap()))
    })
}

fn heartbeat() -> Poll<Option<String>> {
    Poll::Ready(Some(": still here\n\n".to_owned()))
}

#[tokio::test]
async fn a_stream_from_inside_the_last_line_of_an_ended_deployment_ends() {
    let mut world = World::new();
    let id = world.deploy("shop", "page").await;
    world.run_until_idle().await;
    let lines = world.windlass.tools.logs.read(id, From::After(0), 1_000).await.unwrap();
    let inside = lines.last().unwrap().id - 3;
    let mut stream = follow(&world, &format!("/deploy/{id}/logs?follow=1&after={inside}")).await;
    assert_eq!(said(&mut stream), Poll::Pending);
    world.clock.advance(Duration::from_secs(15));
    assert_eq!(said(&mut stream), heartbeat());
    assert_eq!(said(&mut stream), Poll::Ready(None));
}

#[tokio::test]
async fn lines_of_other_steps_do_not_put_the_heartbeat_off() {
    let world = World::new();
    let id = world.deploy("shop", "page").await;
    let mut stream = follow(&world, &format!("/deploy/{id}/logs?follow=1&step=release")).await;
    for seconds in [0, 10, 4] {
        world.clock.advance(Duration::from_secs(seconds));
        let line = Line::new(world.now(), "log", Some("build"), "building");
        world.windlass.tools.logs.append(id, vec![line]).await.unwrap();
        assert_eq!(said(&mut stream), Poll::Pending);
    }
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(said(&mut stream), heartbeat());
    let line = Line::new(world.now(), "log", Some("release"), "starting");
    world.windlass.tools.logs.append(id, vec![line]).await.unwrap();
    assert!(matches!(said(&mut stream), Poll::Ready(Some(text)) if text.contains("starting")));
}
