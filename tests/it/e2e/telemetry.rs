//! Spans, errors and metrics of the real program, taken in by receivers on loopback.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Server, parsed, request};
use crate::azure::doubles::Double;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const KEY: &str = "00000000-0000-0000-0000-00000000abcd";
const CANARY: &str = "canary-5d1e";
static NOTHING: Value = Value::Null;

fn receiver() -> Double {
    Double::start(|_| (200, Vec::new(), "{}".to_owned()))
}

/// Every element of the arrays at `pointer` in what was sent to `path`.
fn sent(receiver: &Double, path: &str, pointer: &str) -> Vec<Value> {
    let asked = receiver.asked().into_iter().filter(|asked| asked.path == path);
    let bodies = asked.map(|asked| serde_json::from_str::<Value>(&asked.body).unwrap());
    bodies.flat_map(|body| body.pointer(pointer).unwrap().as_array().unwrap().clone()).collect()
}

/// The typed value of an OTLP attribute.
fn attribute<'a>(of: &'a Value, name: &str) -> &'a Value {
    let attributes = of["attributes"].as_array().unwrap();
    attributes.iter().find(|attribute| attribute["key"] == name).map_or(&NOTHING, |found| &found["value"])
}

fn events<'a>(spans: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    spans
        .iter()
        .flat_map(|span| span["events"].as_array().unwrap())
        .filter(move |event| event["name"] == name)
}

/// Request, hints and steps hang below each other in the caller's trace.
fn check_trace(spans: &[Value]) {
    let ours: Vec<&Value> = spans.iter().filter(|span| span["traceId"] == TRACE).collect();
    let requests: Vec<&&Value> = ours.iter().filter(|span| span["kind"] == 2).collect();
    assert_eq!(requests.len(), 1, "{ours:?}");
    let request = requests[0];
    assert_eq!((&request["name"], &request["parentSpanId"]), (&json!("POST /deploy"), &json!(CALLER)));
    assert_eq!(attribute(request, "http.response.status_code"), &json!({ "intValue": "202" }));
    let hints: HashSet<&str> = ours
        .iter()
        .filter(|span| span["kind"] == 5)
        .map(|hint| {
            assert!(hint["name"].as_str().unwrap().starts_with("hint step-"), "{hint}");
            assert_eq!(hint["parentSpanId"], request["spanId"], "{hint}");
            hint["spanId"].as_str().unwrap()
        })
        .collect();
    let steps: HashSet<&str> = ours
        .iter()
        .filter(|span| span["kind"] == 1)
        .map(|step| {
            assert!(hints.contains(step["parentSpanId"].as_str().unwrap()), "{step}");
            step["name"].as_str().unwrap()
        })
        .collect();
    for step in ["validate", "builder", "sync", "build", "release", "domain", "cleanup"] {
        assert!(steps.contains(format!("step {step}").as_str()), "{step}: {steps:?}");
    }
    let ids: HashSet<&str> = ours.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), ours.len(), "every span has an id of its own");
}

fn check_otlp(otlp: &Double, id: &str) {
    let spans = sent(otlp, "/v1/traces", "/resourceSpans/0/scopeSpans/0/spans");
    check_trace(&spans);
    let completed: Vec<&Value> = events(&spans, "Deployment completed").collect();
    assert_eq!(completed.len(), 1, "{completed:?}");
    assert_eq!(attribute(completed[0], "deploymentId"), &json!({ "stringValue": id }));
    assert_eq!(attribute(completed[0], "containerSize"), &json!({ "stringValue": "1/2Gi" }));
    assert_eq!(attribute(completed[0], "hasCustomDomain"), &json!({ "boolValue": false }));
    assert!(attribute(completed[0], "duration")["intValue"].is_string());
    let failed: Vec<&Value> = events(&spans, "exception").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(attribute(failed[0], "exception.type"), &json!({ "stringValue": "BUILD_FAILED" }));
    let build = spans.iter().find(|span| span["status"]["message"] == "BUILD_FAILED").unwrap();
    assert_eq!((&build["name"], &build["status"]["code"]), (&json!("step build"), &json!(2)));
    assert_eq!(attribute(build, "step.name"), &json!({ "stringValue": "build" }));
    assert_eq!(attribute(build, "step.attempt"), &json!({ "intValue": "1" }));
    assert!(attribute(build, "run.id")["stringValue"].is_string());
    let metrics = sent(otlp, "/v1/metrics", "/resourceMetrics/0/scopeMetrics/0/metrics");
    let points = |metric: &Value| metric["histogram"]["dataPoints"].as_array().unwrap().clone();
    let points: Vec<Value> = metrics
        .iter()
        .filter(|metric| metric["name"] == "windlass_deploy_duration_seconds")
        .flat_map(points)
        .collect();
    let ended: HashSet<&str> =
        points.iter().map(|point| attribute(point, "status")["stringValue"].as_str().unwrap()).collect();
    assert_eq!(ended, HashSet::from(["succeeded", "failed"]));
}

fn check_app_insights(insights: &Double, id: &str) {
    let items = sent(insights, "/v2.1/track", "");
    assert!(items.iter().all(|item| item["iKey"] == KEY));
    let of = |kind: &str| -> Vec<&Value> {
        items.iter().filter(|item| item["data"]["baseType"] == kind).collect()
    };
    let data = |item: &Value| item["data"]["baseData"].clone();
    let requests = of("RequestData");
    let request = requests
        .iter()
        .find(|item| data(item)["name"] == "POST /deploy" && item["tags"]["ai.operation.id"] == TRACE);
    let request = request.unwrap();
    assert_eq!(request["tags"]["ai.operation.parentId"], CALLER);
    assert_eq!((&data(request)["responseCode"], &data(request)["success"]), (&json!("202"), &json!(true)));
    let completed =
        of("MessageData").into_iter().find(|item| data(item)["message"] == "Deployment completed").unwrap();
    assert_eq!(completed["tags"]["ai.operation.id"], TRACE);
    let dimensions = &completed["data"]["baseData"]["properties"];
    assert_eq!((&dimensions["deploymentId"], &dimensions["projectId"]), (&json!(id), &json!("shop")));
    // Application Insights knows text only, which its queries turn into what it is: `tobool(…)`.
    assert_eq!(
        (&dimensions["containerSize"], &dimensions["hasCustomDomain"]),
        (&json!("1/2Gi"), &json!("false"))
    );
    assert_eq!(
        (&dimensions["environment"], &dimensions["version"]),
        (&json!("development"), &json!(env!("CARGO_PKG_VERSION")))
    );
    let exceptions = of("ExceptionData");
    assert_eq!(exceptions.len(), 1);
    assert_eq!(data(exceptions[0])["exceptions"][0]["typeName"], "BUILD_FAILED");
    let metric = data(of("MetricData")[0]);
    assert_eq!(metric["metrics"][0]["name"], "windlass_deploy_duration_seconds");
    assert!(metric["metrics"][0]["value"].is_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_one_trace_with_the_documents_dimensions() {
    let (otlp, insights) = (receiver(), receiver());
    let connection = format!("InstrumentationKey={KEY};IngestionEndpoint={}", insights.address);
    let server = Server::with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &otlp.address),
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", &connection),
    ]);
    let mut body = request("shop");
    body["envVariables"] = json!({ "TOKEN": CANARY });
    body["containerSize"] = json!({ "cpu": "1", "memory": "2Gi" });
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let headers = [("content-type", "application/json"), ("traceparent", traceparent.as_str())];
    let (status, accepted) = parsed(&server.call("POST", "/deploy", &headers, body.to_string()).await);
    assert_eq!(status, 202, "{accepted}");
    let id = accepted["deploymentId"].as_str().unwrap().to_owned();
    let ended = server.ended(&id).await;
    assert_eq!((&ended["status"], &ended["correlationId"]), (&json!("succeeded"), &json!(TRACE)));

    let bad = server.folder.path().join("bad");
    std::fs::create_dir_all(&bad).unwrap();
    std::fs::write(bad.join("index.html"), "x").unwrap();
    std::fs::write(bad.join("windlass.toml"), "build = \"exit 7\"\n").unwrap();
    let secret = format!("TOKEN={CANARY}");
    assert_eq!(server.deploy(&bad, &["--env", &secret])["status"], "failed");
    let (_, metrics) = server.get("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("windlass_deploy_duration_seconds{quantile="), "{metrics}");

    // What waits is sent when the service stops.
    let server = server.stop();
    check_otlp(&otlp, &id);
    check_app_insights(&insights, &id);
    for asked in otlp.asked().into_iter().chain(insights.asked()) {
        assert!(!asked.body.contains(CANARY), "{}", asked.body);
        assert_eq!((asked.method.as_str(), asked.header("content-type")), ("POST", Some("application/json")));
    }
    let log = server.log();
    let line = log.lines().find(|line| line.contains("Deployment completed")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["deploymentId"], &line["correlation_id"]), (&json!(id), &json!(TRACE)));
    assert_eq!((&line["projectId"], &line["environment"]), (&json!("shop"), &json!("development")));
    assert!(line["duration"].is_u64() && !log.contains(CANARY), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_away_or_silent_holds_nothing_up() {
    // Connections are taken by the system and nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    for address in ["http://127.0.0.1:1", silent.0.as_str()] {
        let server = Server::with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", address)]);
        let (status, accepted) = server.post("/deploy", &request("shop")).await;
        assert_eq!(status, 202, "{accepted}");
        let ended = server.ended(accepted["deploymentId"].as_str().unwrap()).await;
        assert_eq!(ended["status"], "succeeded", "{ended}");
        let log = server.stop().log();
        assert!(log.contains("telemetry"), "the log says that telemetry is lost: {log}");
    }
}

#[test]
fn the_saved_queries_read_what_is_sent() {
    let text = |path: &str| {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    };
    let (page, sender) = (text("docs/telemetry.md"), text("src/steps/observer.rs"));
    assert!(page.contains("--analytics-query \"requests | where timestamp > ago(1h)\""));
    assert!(page.contains("name == 'windlass_deploy_duration_seconds'"));
    let alerts = text("infra/terraform/monitoring.tf");
    assert!(alerts.contains("\"exceptions | where cloud_RoleName == 'windlass' |"), "errors have an alert");
    let queries: String = page.split("```").skip(1).step_by(2).collect();
    let names: HashSet<&str> = queries
        .split("customDimensions.")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap())
        .collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        assert!(sender.contains(&format!("\n        {name}")), "{name} is not sent");
    }
}
