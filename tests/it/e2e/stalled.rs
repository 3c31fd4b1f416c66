//! Clients that stop in the middle of a body: the API's routes on a real socket, with a clock that the test owns.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use windlass::http::{Api, routes};

use super::PATIENCE;
use crate::world::World;

#[tokio::test]
async fn a_body_that_stands_still_is_refused_and_its_connection_ended() {
    let world = World::new();
    let api = Arc::new(Api::new(&world.windlass, true));
    let server = HttpServer::new(move || App::new().configure(|config| routes::mount(config, &api)));
    let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    let running = windlass::ambient::spawn(server);
    for (path, header, part, code) in [
        ("/deploy", "content-length: 200", "{ ", "BODY_TOO_SLOW"),
        ("/api/deploy", "transfer-encoding: chunked", "2\r\n{ \r\n", "BODY_TOO_SLOW"),
        ("/sources/blobs/x?organizationId=o", "content-length: 200", "x", "METHOD_NOT_ALLOWED"),
        ("/status", "transfer-encoding: chunked", "1\r\nx\r\n", "METHOD_NOT_ALLOWED"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{header}\r\n\r\n{part}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = async {
            let mut said = String::new();
            stream.read_to_string(&mut said).await.map(|_| said)
        };
        let mut ended = std::pin::pin!(tokio::time::timeout(PATIENCE, answer));
        let said = loop {
            tokio::select! {
                biased;
                said = &mut ended => break said,
                () = tokio::task::yield_now() => world.clock.advance(Duration::from_secs(31)),
            }
        };
        assert!(matches!(said, Ok(Ok(_))), "{path}: the connection is held, or broke: {said:?}");
        let said = said.unwrap().unwrap();
        assert!(said.contains(code) && said.contains("correlationId"), "{path}: {said}");
    }
    handle.stop(false).await;
    running.await.unwrap().unwrap();
}
