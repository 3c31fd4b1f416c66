//! Releases under constant load: no request fails, WebSockets included.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use windlass::embedded::upstream::{Pool, SendError, empty, full};

use super::{Server, have, until};

const RELEASES: usize = 20;

/// A server that answers requests and echoes WebSocket messages, without dependencies.
const APP: &str = r#"
const http = require("node:http");
const crypto = require("node:crypto");
const server = http.createServer((request, response) => response.end("release " + process.env.WINDLASS_RELEASE));
server.on("upgrade", (request, socket) => {
  const key = crypto.createHash("sha1").update(request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + key + "\r\n\r\n");
  socket.on("data", (frame) => {
    const length = frame[1] & 127;
    const mask = frame.subarray(2, 6);
    const text = Buffer.from(frame.subarray(6, 6 + length).map((byte, index) => byte ^ mask[index % 4]));
    if ((frame[0] & 15) === 8) { socket.end(Buffer.from([0x88, 0])); return; }
    socket.write(Buffer.concat([Buffer.from([0x81, length]), text]));
  });
  socket.on("error", () => {});
});
server.listen(process.env.PORT, process.env.HOST);
process.on("SIGTERM", () => server.close(() => process.exit(0)));
"#;

#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    echoed: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
}

/// With a body that is a stream to the proxy, so that it can be sent only once.
async fn posts(pool: Pool, apps: std::net::SocketAddr, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let request =
            hyper::Request::post("/").header("host", "busy.localhost").body(full("a form")).unwrap();
        count(pool.fetch(apps, request).await, &tally);
    }
}

async fn requests(pool: Pool, apps: std::net::SocketAddr, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let request = hyper::Request::get("/").header("host", "busy.localhost").body(empty()).unwrap();
        count(pool.fetch(apps, request).await, &tally);
    }
}

fn count(answer: Result<hyper::Response<bytes::Bytes>, SendError>, tally: &Tally) {
    match answer {
        Ok(answer) if answer.status().is_success() && answer.body().starts_with(b"release ") => {
            tally.answered.fetch_add(1, Ordering::Relaxed)
        }
        _ => tally.failed.fetch_add(1, Ordering::Relaxed),
    };
}

async fn web_sockets(apps: std::net::SocketAddr, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let talk = async {
            let mut request = format!("ws://{apps}/").into_client_request().ok()?;
            request.headers_mut().insert("host", "busy.localhost".parse().ok()?);
            let stream = tokio::net::TcpStream::connect(apps).await.ok()?;
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.ok()?;
            for number in 0..5 {
                let text = format!("message {number}");
                socket.send(Message::text(text.clone())).await.ok()?;
                let echo = socket.next().await?.ok()?;
                (echo == Message::text(text)).then_some(())?;
            }
            socket.close(None).await.ok()
        };
        match talk.await {
            Some(()) => tally.echoed.fetch_add(1, Ordering::Relaxed),
            None => tally.failed.fetch_add(1, Ordering::Relaxed),
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_releases_in_a_row_fail_no_request() {
    if !have("node") {
        return;
    }
    let server = Server::start();
    let root = server.folder.path().join("busy");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("server.js"), APP).unwrap();
    std::fs::write(root.join("package.json"), "{\"scripts\":{\"start\":\"exec node server.js\"}}").unwrap();
    assert_eq!(server.deploy(&root, &[])["status"], "succeeded", "{}", server.log());
    let tally = Arc::new(Tally::default());
    let load = [
        windlass::ambient::spawn(posts(server.pool.clone(), server.apps, Arc::clone(&tally))),
        windlass::ambient::spawn(requests(server.pool.clone(), server.apps, Arc::clone(&tally))),
        windlass::ambient::spawn(web_sockets(server.apps, Arc::clone(&tally))),
    ];
    let server = Arc::new(server);
    for release in 0..RELEASES {
        std::fs::write(root.join("release.txt"), release.to_string()).unwrap();
        let (deploying, root) = (Arc::clone(&server), root.clone());
        let status = tokio::task::spawn_blocking(move || deploying.deploy(&root, &[])).await.unwrap();
        assert_eq!(status["status"], "succeeded", "{status}");
    }
    until("the last release answers", async || {
        server.app("busy.localhost", "/").await.1 == format!("release {}", RELEASES + 1)
    })
    .await;
    tally.stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{} requests and {} WebSocket sessions, {} failed",
        count(&tally.answered),
        count(&tally.echoed),
        count(&tally.failed)
    );
    assert_eq!(count(&tally.failed), 0);
    assert!(count(&tally.answered) > 100 && count(&tally.echoed) > 20);
}
