//! The custom handler's side of the Functions host protocol, over HTTP, with the stored payloads.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};
use windlass::embedded::upstream::{Pool, full};

use super::{parsed, request, windlass};

struct Handler {
    child: Child,
    address: SocketAddr,
    pool: Pool,
    log: std::sync::mpsc::Receiver<String>,
    folder: tempfile::TempDir,
}

impl Drop for Handler {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Handler {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let mut command = windlass(folder.path());
        command
            .env("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string())
            .env("WINDLASS_APPS_PORT", "0")
            .env("WINDLASS_DATA_DIR", "data")
            .envs(settings.iter().copied());
        // No argument: the port in the environment chooses the handler.
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (send, log) = std::sync::mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(send.send(line))));
        let handler = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            pool: Pool::new(tokio::runtime::Handle::current()),
            log,
            folder,
        };
        super::until("the handler answers", async || {
            let ping = Request::get("/")
                .header("host", "127.0.0.1")
                .body(windlass::embedded::upstream::empty())
                .unwrap();
            handler.pool.fetch(handler.address, ping).await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        handler
    }

    async fn invoke(&self, function: &str, kind: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let request = Request::post(format!("/{function}"))
            .header("host", self.address.to_string())
            .header("content-type", kind)
            .header("user-agent", "Azure-Functions-Host/4.1037.0.0")
            .header("x-azure-functions-invocationid", format!("inv-{function}"));
        self.pool.fetch(self.address, request.body(full(body)).unwrap()).await.unwrap()
    }

    async fn json(&self, function: &str, body: &Value) -> (u16, Value) {
        parsed(&self.invoke(function, "application/json; charset=utf-8", body.to_string()).await)
    }

    /// Waits for a log line that mentions `text`.
    fn logged(&self, text: &str) -> Value {
        self.lines_until(text).pop().unwrap()
    }

    /// The lines up to one that mentions `text`. Every one has to be one JSON object.
    fn lines_until(&self, text: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line =
                self.log.recv_timeout(super::PATIENCE).unwrap_or_else(|_| panic!("never logged: {text}"));
            lines.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}")));
            if line.contains(text) {
                return lines;
            }
        }
    }
}

fn payload(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/payloads").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test]
async fn every_stored_payload_gets_an_answer_that_the_host_can_use() {
    let handler = Handler::start().await;
    // The messages in these files are somebody else's, so queue functions refuse them, as they must; what the platform gave
    // up is kept whatever it is.
    let cases = [
        ("servicebus-single.json", "step-build", 400),
        ("servicebus-deadletter.json", "dead-letter", 200),
        ("queue.json", "alarm", 400),
        ("servicebus-batch.json", "admit", 400),
        ("servicebus-batch-objects.json", "admit", 400),
        ("timer.json", "timer-sweep", 200),
        ("timer-past-due.json", "timer-sweep", 200),
        ("timer-first-run.json", "timer-cleanup", 200),
        ("http-envelope.json", "step-build", 400),
        ("blob-binary.json", "step-build", 400),
        ("eventgrid.json", "step-build", 400),
        ("servicebus-single.json", "RunStep", 404),
    ];
    for (file, function, status) in cases {
        let (found, answer) = handler.json(function, &payload(file)).await;
        assert_eq!(found, status, "{file}: {answer}");
        assert!(answer.is_object(), "{file}: an answer is never empty");
        if status >= 400 {
            handler.logged(&format!("inv-{function}"));
        }
    }
    assert_eq!(handler.json("timer-sweep", &payload("timer.json")).await, (200, json!({})));
}

#[tokio::test]
async fn our_own_messages_work_in_every_form_the_host_may_use() {
    let handler = Handler::start().await;
    let run = "run_01a1fd19cddd7aba8cf17ae9898b8c53";
    let hint = format!("{{\"w1\":{{\"run\":\"{run}\",\"seq\":1}}}}");
    for msg in [json!(json!(hint).to_string()), json!(hint), serde_json::from_str(&hint).unwrap()] {
        assert_eq!(handler.json("STEP-Build", &json!({ "Data": { "msg": msg } })).await, (200, json!({})));
        assert_eq!(
            handler
                .json(
                    "alarm",
                    &json!({ "Data": { "item": msg }, "Metadata": { "sys": 1, "DeliveryCount": {} } })
                )
                .await
                .0,
            200
        );
    }
    // Jobs of the documents' shape, in a full batch with a bad element: the good ones are taken, the call fails.
    let mut jobs: Vec<String> = (0..9).map(|n| request(&format!("from-the-queue-{n}")).to_string()).collect();
    jobs.insert(4, "bad".to_owned());
    let (status, _) = handler.json("admit", &json!({ "Data": { "msgs": json!(jobs).to_string() } })).await;
    assert_eq!(status, 400);
    let page = || async {
        let list = Request::get("/status/deployments")
            .header("host", "127.0.0.1")
            .body(windlass::embedded::upstream::empty())
            .unwrap();
        parsed(&handler.pool.fetch(handler.address, list).await.unwrap()).1
    };
    let taken = || async {
        let page = page().await;
        let rows = page["deployments"].as_array().unwrap();
        rows.iter().map(|row| row["projectId"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let wanted: BTreeSet<String> = (0..9).map(|n| format!("from-the-queue-{n}")).collect();
    assert_eq!(taken().await, wanted);
    // Delivered again, they are the same deployments.
    handler.json("admit", &json!({ "Data": { "msgs": json!([jobs[0], jobs[9]]).to_string() } })).await;
    assert_eq!(page().await["deployments"].as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn bad_calls_are_refused_and_the_process_lives() {
    let handler = Handler::start().await;
    let json_kind = "application/json";
    let large = format!("{{\"Data\":{{\"msg\":\"{}\"}}}}", "x".repeat(10 << 20));
    let unicode = json!({ "Data": { "msg": "„日本語“ 🦀 \u{0}" } }).to_string();
    let cases: [(&str, &str, Bytes, u16); 8] = [
        ("step-nothing", json_kind, "{}".into(), 404),
        ("http-deploy", json_kind, "{}".into(), 404),
        ("step-build", "text/plain", "{}".into(), 415),
        ("step-build", json_kind, "{\"Data\":{\"msg\"".into(), 400),
        ("step-build", json_kind, Bytes::from_static(b"{\"Data\":{\"msg\":\"\xff\xfe\"}}"), 400),
        ("step-build", json_kind, "".into(), 400),
        ("step-build", json_kind, large.into(), 400),
        ("step-build", json_kind, unicode.into(), 400),
    ];
    for (function, kind, body, status) in cases {
        let answer = handler.invoke(function, kind, body).await;
        assert_eq!(answer.status().as_u16(), status, "{function}: {:?}", answer.body());
        assert!(!answer.body().is_empty());
    }
    // A caller that hangs up in the middle.
    let mut stream = std::net::TcpStream::connect(handler.address).unwrap();
    std::io::Write::write_all(
        &mut stream,
        b"POST /step-build HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"Da",
    )
    .unwrap();
    drop(stream);
    assert_eq!(handler.json("timer-sweep", &payload("timer.json")).await.0, 200);
}

#[tokio::test]
async fn a_deployment_runs_through_the_handlers_own_port() {
    let handler = Handler::start().await;
    let (status, accepted) = handler.json("deploy", &request("shop")).await;
    assert_eq!(status, 202, "{accepted}");
    let path = format!("/deploy/{}/status", accepted["deploymentId"].as_str().unwrap());
    super::until("it is live", async || {
        let look = Request::get(&path)
            .header("host", "127.0.0.1")
            .body(windlass::embedded::upstream::empty())
            .unwrap();
        parsed(&handler.pool.fetch(handler.address, look).await.unwrap()).1["status"] == "succeeded"
    })
    .await;
    let line = handler.logged("Deployment completed");
    assert_eq!(
        (line["projectId"].as_str(), line["environment"].as_str()),
        (Some("shop"), Some("development"))
    );
    assert!(line["duration"].is_u64() && line["correlation_id"].is_string(), "{line}");
}

#[tokio::test]
async fn every_line_about_a_deployment_has_its_correlation_id() {
    let handler = Handler::with(&[("LOG_LEVEL", "debug")]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let mut failing = request("bad");
    failing["buildCommand"] = json!("exit 3");
    for (body, (name, value), wanted, last) in [
        (request("good"), ("traceparent", traceparent.as_str()), trace, "Deployment completed"),
        (failing, ("x-correlation-id", "corr-7"), "corr-7", "Deployment ended"),
    ] {
        let ask = Request::post("/deploy")
            .header("host", handler.address.to_string())
            .header("content-type", "application/json")
            .header(name, value)
            .body(full(body.to_string()))
            .unwrap();
        let (status, accepted) = parsed(&handler.pool.fetch(handler.address, ask).await.unwrap());
        assert_eq!(status, 202, "{accepted}");
        let id = accepted["deploymentId"].as_str().unwrap();
        let lines = handler.lines_until(last);
        let about = |line: &&Value| {
            let text = line.to_string();
            text.contains(id) || text.contains("run_")
        };
        let about: Vec<&Value> = lines.iter().filter(about).collect();
        assert!(about.len() >= 2, "that it was accepted, and its end: {lines:?}");
        for line in about {
            assert_eq!(line["correlation_id"], wanted, "{line}");
        }
    }
}

#[tokio::test]
async fn dead_letters_are_listed_shown_sent_again_and_deleted_from_the_command_line() {
    let handler = Handler::start().await;
    for text in ["not a job", "nor this"] {
        assert_eq!(handler.json("dead-letter", &json!({ "Data": { "msg": text } })).await.0, 200);
    }
    let cli = |arguments: &[&str]| {
        let mut command = windlass(handler.folder.path());
        let output =
            command.args(["--server", &format!("http://{}", handler.address)]).args(arguments).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (fine, listed) = cli(&["dlq", "list", "--json"]);
    assert!(fine, "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let find = |body: &str| {
        let letters = listed["deadLetters"].as_array().unwrap();
        letters.iter().find(|letter| letter["body"] == body).unwrap().clone()
    };
    let (letter, other) = (find("not a job"), find("nor this"));
    let (id, other) = (letter["id"].to_string(), other["id"].to_string());
    let (fine, shown) = cli(&["dlq", "show", &id]);
    assert!(fine && shown.contains("body      not a job") && shown.contains("deployment-queue"), "{shown}");
    let (_, shown) = cli(&["dlq", "show", &id, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), letter);
    assert!(cli(&["dlq", "purge", &other]).0);
    let (fine, refused) = cli(&["dlq", "show", &other]);
    assert!(!fine && refused.contains(&format!("there is no dead letter {other}")), "{refused}");
    // Nobody can read it the next time either.
    assert!(cli(&["dlq", "redrive", &id]).0);
    super::until("it is back", async || cli(&["dlq", "list"]).1.contains("after 4 deliveries")).await;
    assert!(cli(&["dlq", "purge"]).0);
    assert_eq!(cli(&["dlq", "list"]).1, "No dead letters.\n");
}
