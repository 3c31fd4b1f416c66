//! What passes through the front door.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use hyper::Request;
use windlass::embedded::upstream::{empty, full};

use super::{Server, have};

/// Answers without bodies, echoes bodies, tells what it was sent, and closes connections without an answer.
const APP: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = lost = 0
    def answer(self, code, body=None):
        self.send_response(code)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        if code == 304:
            self.send_header("ETag", '"x"')
        if self.path == "/named":
            for header in ("Connection: X-Gone, keep-alive", "X-Gone: 1", "X-Kept: 1"):
                self.send_header(*header.split(": "))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body or b"")
    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            if self.path == "/late":
                self.wfile.write(b"heard " + self.rfile.read())
            self.close_connection = True
            return
        if self.path == "/once":
            self.asked += 1
            if self.asked > 1:
                self.close_connection = True
                return
        if self.path == "/lost":
            self.answer(200, str(App.lost).encode())
            return
        self.answer(int(self.path[1:])) if self.path[1:].isdigit() else self.answer(200, str(self.headers).encode())
    do_HEAD = do_OPTIONS = do_GET
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/lost":
            App.lost += 1
            self.close_connection = True
            return
        self.answer(200, body)
    def log_message(self, *a):
        pass
ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), App).serve_forever()
"#;

/// A service with the app on `echo.localhost`.
fn echo() -> Server {
    let server = Server::start();
    let root = server.folder.path().join("echo");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("app.py"), APP).unwrap();
    std::fs::write(root.join("windlass.toml"), "[health]\npath = \"/\"\n").unwrap();
    assert_eq!(server.deploy(&root, &[])["status"], "succeeded", "{}", server.log());
    server
}

#[tokio::test]
async fn headers_pass_as_they_are_and_those_of_one_connection_do_not() {
    if !have("python3") {
        return;
    }
    let server = echo();
    let fetch = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "echo.localhost");
        let request = request.header("connection", "X-Drop, keep-alive, Host").header("x-drop", "1");
        let request = request.header("proxy-connection", "keep-alive").header("x-keep", "1");
        let request = request.body(empty()).unwrap();
        server.pool.fetch(server.apps, request).await.unwrap()
    };
    for method in ["GET", "HEAD", "OPTIONS"] {
        let answer = fetch(method, "/named").await;
        assert_eq!(answer.status().as_u16(), 200, "{method}");
        assert!(!answer.headers().contains_key("content-type"), "the app sent none: {answer:?}");
        assert!(answer.headers().contains_key("x-kept") && !answer.headers().contains_key("x-gone"));
    }
    let told = String::from_utf8(fetch("GET", "/headers").await.body().to_vec()).unwrap().to_lowercase();
    assert!(told.contains("x-keep: 1") && told.contains("host: echo.localhost"), "{told}");
    assert!(!told.contains("x-drop") && !told.contains("proxy-connection"), "{told}");
    let mut stream = std::net::TcpStream::connect(server.apps).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let asked =
        "GET / HTTP/1.1\r\nhost: echo.localhost.\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(asked.as_bytes()).unwrap();
    let (mut said, mut some) = (String::new(), [0; 4_096]);
    while !said.contains("\r\n\r\n") {
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&some[..count]).to_lowercase());
    }
    assert!(said.starts_with("http/1.1 101 ") && said.contains("upgrade: websocket"), "{said}");
    assert!(!said.contains("content-type"), "{said}");
}

#[tokio::test]
async fn a_complete_name_is_found_and_what_is_no_range_is_passed_over() {
    let server = Server::start();
    let root = server.site("site", "0123456789");
    assert_eq!(server.deploy(&root, &[])["status"], "succeeded", "{}", server.log());
    let port = server.apps.port();
    for host in ["site.localhost.", format!("Site.Localhost.:{port}").as_str()] {
        assert_eq!(server.app(host, "/").await, (200, "0123456789".to_owned()), "{host}");
    }
    assert_eq!(server.app("site.localhost..", "/").await.0, 404);
    for (range, status, body) in [
        ("bytes=2-4", 206, "234"),
        ("bytes=-3", 206, "789"),
        ("bytes=10-", 416, ""),
        ("bytes=abc", 200, "0123456789"),
        ("bytes=5-2", 200, "0123456789"),
        ("bytes", 200, "0123456789"),
        ("lines=1-2", 200, "0123456789"),
    ] {
        let request = Request::get("/").header("host", "site.localhost").header("range", range);
        let answer = server.pool.fetch(server.apps, request.body(empty()).unwrap()).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body()), (status, &Bytes::from(body)), "{range}");
    }
}

#[tokio::test]
async fn empty_answers_bodies_and_offers_pass_unharmed() {
    if !have("python3") {
        return;
    }
    let server = echo();
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
    let forged = Request::get("/headers").header("forwarded", "for=6.6.6.6;proto=https");
    let forged = forged.header("x-forwarded-for", "6.6.6.6").header("x-forwarded-proto", "https");
    let told = String::from_utf8(fetch(forged, None).await.body().to_vec()).unwrap().to_lowercase();
    assert!(
        told.contains("x-forwarded-host: echo.localhost") && told.contains("x-forwarded-for: "),
        "{told}"
    );
    assert!(!told.contains("6.6.6.6") && !told.contains("https"), "{told}");
}

/// RFC 9112, section 6.3: with both, two servers could see two requests where the other sees one.
#[tokio::test]
async fn a_body_of_two_lengths_reaches_no_app() {
    if !have("python3") {
        return;
    }
    let server = echo();
    let mut stream = std::net::TcpStream::connect(server.apps).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let asked = "POST /lost HTTP/1.1\r\nhost: echo.localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    stream.write_all(asked.as_bytes()).unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(std::str::from_utf8(&begin).unwrap(), "HTTP/1.1 400");
    assert_eq!(server.app("echo.localhost", "/lost").await, (200, "0".to_owned()), "the app saw none");
}

#[tokio::test]
async fn what_changes_nothing_is_asked_again_when_a_kept_connection_was_closed() {
    if !have("python3") {
        return;
    }
    let server = echo();
    for turn in 0..10 {
        let (status, told) = server.app("echo.localhost", "/once").await;
        assert_eq!(status, 200, "{turn}: {told}");
    }
    let request = Request::post("/lost").header("host", "echo.localhost").body(full("an order")).unwrap();
    let answer = server.pool.fetch(server.apps, request).await.unwrap();
    assert_eq!(answer.status().as_u16(), 502);
    assert_eq!(server.app("echo.localhost", "/lost").await, (200, "1".to_owned()), "it was asked once");
}

#[tokio::test]
async fn an_app_answers_a_visitor_who_has_said_all() {
    if !have("python3") {
        return;
    }
    let server = echo();
    let mut stream = std::net::TcpStream::connect(server.apps).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let asked =
        "GET /late HTTP/1.1\r\nhost: echo.localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(asked.as_bytes()).unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
    assert!(said.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&said));
    stream.write_all(b"all of it").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "heard all of it");
}

#[tokio::test]
async fn a_compressed_page_is_not_joined_with_the_plain_one() {
    let server = Server::start();
    let root = server.folder.path().join("site");
    std::fs::create_dir_all(&root).unwrap();
    let plain = "0123456789".repeat(100);
    std::fs::write(root.join("index.html"), &plain).unwrap();
    assert_eq!(server.deploy(&root, &[])["status"], "succeeded", "{}", server.log());
    let fetch = async |headers: &[(&str, &str)]| {
        let mut request = Request::get("/").header("host", "site.localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        server.pool.fetch(server.apps, request.body(empty()).unwrap()).await.unwrap()
    };
    let tag = |answer: &hyper::Response<Bytes>| answer.headers()["etag"].to_str().unwrap().to_owned();
    let compressed = fetch(&[("accept-encoding", "gzip")]).await;
    assert_eq!(compressed.headers()["content-encoding"], "gzip");
    let weak = tag(&compressed);
    assert!(weak.starts_with("W/\""), "{weak}");
    let rest = fetch(&[("range", "bytes=5-"), ("if-range", weak.as_str())]).await;
    assert_eq!((rest.status().as_u16(), rest.body()), (200, &Bytes::from(plain.clone())));
    let known = fetch(&[("accept-encoding", "gzip"), ("if-none-match", weak.as_str())]).await;
    assert_eq!((known.status().as_u16(), tag(&known)), (304, weak));
    let strong = tag(&fetch(&[]).await);
    assert!(strong.starts_with('"'), "{strong}");
    let rest = fetch(&[("range", "bytes=5-"), ("if-range", strong.as_str())]).await;
    assert_eq!((rest.status().as_u16(), rest.body()), (206, &Bytes::from(plain[5..].to_owned())));
}
