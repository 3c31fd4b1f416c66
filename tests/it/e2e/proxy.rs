//! What passes through the front door.

use bytes::Bytes;
use hyper::Request;
use windlass::embedded::upstream::{empty, full};

use super::{Server, have};

/// Answers without bodies, echoes bodies, and tells what it was sent.
const APP: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, code, body=None):
        self.send_response(code)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        if code == 304:
            self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(body or b"")
    def do_GET(self):
        self.answer(int(self.path[1:])) if self.path[1:].isdigit() else self.answer(200, str(self.headers).encode())
    def do_POST(self):
        self.answer(200, self.rfile.read(int(self.headers["Content-Length"])))
    def log_message(self, *a):
        pass
ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), App).serve_forever()
"#;

#[tokio::test]
async fn empty_answers_bodies_and_offers_pass_unharmed() {
    if !have("python3") {
        return;
    }
    let server = Server::start();
    let root = server.folder.path().join("echo");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("app.py"), APP).unwrap();
    std::fs::write(root.join("windlass.toml"), "[health]\npath = \"/\"\n").unwrap();
    assert_eq!(server.deploy(&root, &[])["status"], "succeeded", "{}", server.log());
    let fetch = async |request: hyper::http::request::Builder, body: Option<&'static str>| {
        let request = request.header("host", "echo.localhost");
        let request = request.body(body.map_or_else(empty, full)).unwrap();
        server.pool.fetch(server.apps, request).await.unwrap()
    };
    // Each on the same kept connection: a wrong frame would break the one that follows.
    for code in [204, 304, 204, 200] {
        let path = if code == 200 { "/headers".to_owned() } else { format!("/{code}") };
        let answer = fetch(Request::get(path), None).await;
        assert_eq!(answer.status().as_u16(), code);
        assert!(!answer.headers().contains_key("transfer-encoding"), "{answer:?}");
        assert_eq!(answer.body().is_empty(), code != 200);
    }
    // An offer of HTTP/2 is passed over, and the body is not lost with it.
    let offer = Request::post("/").header("connection", "Upgrade, HTTP2-Settings").header("upgrade", "h2c");
    let answer = fetch(offer.header("http2-settings", "AAMAAABkAAQAAP__"), Some("a body")).await;
    assert_eq!(answer.headers().get("connection").unwrap(), "close", "what is closed is said");
    assert_eq!((answer.status().as_u16(), answer.body()), (200, &Bytes::from("a body")));
    let forged =
        Request::get("/headers").header("x-forwarded-for", "6.6.6.6").header("x-forwarded-proto", "https");
    let told = String::from_utf8(fetch(forged, None).await.body().to_vec()).unwrap().to_lowercase();
    assert!(
        told.contains("x-forwarded-host: echo.localhost") && told.contains("x-forwarded-for: "),
        "{told}"
    );
}
