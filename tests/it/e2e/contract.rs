//! The HTTP contract: what the documents promise, and how errors look.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Server, parsed, request, until};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn the_documents_bodies_are_accepted_on_both_paths() {
    let server = Server::start();
    let quick_start = r#"{
    "projectId": "test-project",
    "userId": "user123",
    "organizationId": "org456",
    "projectName": "Test App",
    "environment": "development"
  }"#;
    let example = r#"{
  "projectId": "my-app", "userId": "user_123", "organizationId": "org_456", "projectName": "My Application",
  "environment": "production", "customDomain": "myapp.com", "containerSize": { "cpu": "1", "memory": "2Gi" },
  "envVariables": { "DATABASE_URL": "postgres://...", "API_KEY": "secret123" }, "buildCommand": "npm run build", "startCommand": "npm start"
}"#;
    for (path, body) in [("/deploy", quick_start), ("/api/deploy", quick_start), ("/deploy", example)] {
        let answer = server.call("POST", path, &[JSON], body).await;
        let text = String::from_utf8(answer.body().to_vec()).unwrap();
        let (status, value) = parsed(&answer);
        let id = value["deploymentId"].as_str().unwrap();
        assert_eq!(status, 202);
        assert_eq!(
            text,
            format!(
                r#"{{"success":true,"deploymentId":"{id}","status":"queued","message":"Deployment queued successfully","estimatedDuration":"5-10 minutes"}}"#
            )
        );
        assert_eq!(answer.headers()["location"], format!("/deploy/{id}/status"));
        assert!(id.parse::<windlass::deploy::ids::DeploymentId>().is_ok());
        server.ended(id).await;
    }
    let (code, text) = server.app("test-project.localhost", "/").await;
    assert!(code == 200 && text.contains("This project is live"));
}

#[tokio::test]
async fn errors_are_problems_with_stable_codes() {
    let server = Server::start();
    let unknown = "dep_00000000000";
    let cases: [(&str, &str, &str, u16, &str); 12] = [
        ("POST", "/deploy", "{}", 400, "VALIDATION_FAILED"),
        ("POST", "/deploy", "{", 400, "BAD_REQUEST"),
        ("POST", "/deploy", "\u{fffd}", 400, "BAD_REQUEST"),
        ("GET", "/nope", "", 404, "NOT_FOUND"),
        ("GET", "/deploy/nope/status", "", 404, "DEPLOYMENT_NOT_FOUND"),
        ("GET", &format!("/deploy/{unknown}/status"), "", 404, "DEPLOYMENT_NOT_FOUND"),
        ("GET", &format!("/deploy/{unknown}/logs"), "", 404, "DEPLOYMENT_NOT_FOUND"),
        ("POST", &format!("/deploy/{unknown}/cancel"), "{}", 404, "DEPLOYMENT_NOT_FOUND"),
        ("POST", &format!("/deploy/{unknown}/retry"), "{}", 404, "DEPLOYMENT_NOT_FOUND"),
        ("GET", "/status/deployments?status=great", "", 400, "VALIDATION_FAILED"),
        ("GET", "/status/deployments?colour=red", "", 400, "BAD_REQUEST"),
        (
            "POST",
            "/sources",
            "{\"organizationId\":\"o\",\"files\":[{\"path\":\"../x\",\"size\":1,\"mode\":420,\"sha256\":\"x\"}]}",
            400,
            "SOURCE_INVALID",
        ),
    ];
    for (method, path, body, status, code) in cases {
        let answer =
            server.call(method, path, &[JSON, ("x-correlation-id", "corr-1")], body.to_owned()).await;
        let (found, problem) = parsed(&answer);
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{method} {path}: {problem}");
        assert_eq!(
            (problem["correlationId"].as_str(), answer.headers()["content-type"].to_str().unwrap()),
            (Some("corr-1"), "application/problem+json")
        );
        assert!(windlass::api::codes::find(code).is_some());
    }
    let (_, problem) = server.post("/deploy", &json!({ "projectId": "x" })).await;
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().filter_map(|error| error["pointer"].as_str()).collect();
    assert_eq!(pointers, ["/organizationId", "/userId", "/projectName", "/environment"]);
    let (status, envelope) = server.post("/api/deploy", &json!({})).await;
    assert_eq!(
        (status, envelope["success"].as_bool(), envelope["code"].as_str()),
        (400, Some(false), Some("VALIDATION_FAILED"))
    );
}

#[tokio::test]
async fn a_wrong_query_names_its_field() {
    let server = Server::start();
    let id = "dep_00000000000";
    let cases: [(&str, &str, &str, &str); 13] = [
        ("GET", "/status/deployments?limit=0", "VALIDATION_FAILED", "/limit"),
        ("GET", "/status/deployments?limit=many", "VALIDATION_FAILED", "/limit"),
        ("GET", "/deploy/project/one?limit=-1", "VALIDATION_FAILED", "/limit"),
        ("GET", "/status/deployments?cursor=x", "VALIDATION_FAILED", "/cursor"),
        ("GET", "/status/deployments?colour=red", "BAD_REQUEST", "/colour"),
        ("GET", "/status/deployments?limit=1&limit=2", "BAD_REQUEST", "/limit"),
        ("GET", &format!("/deploy/{id}/logs?after=x"), "VALIDATION_FAILED", "/after"),
        ("GET", &format!("/deploy/{id}/logs?tail=-1"), "VALIDATION_FAILED", "/tail"),
        ("GET", &format!("/deploy/{id}/logs?limit=0"), "VALIDATION_FAILED", "/limit"),
        ("GET", "/projects/one/output?organizationId=o&tail=x", "VALIDATION_FAILED", "/tail"),
        ("GET", "/projects/one/output", "BAD_REQUEST", "/organizationId"),
        ("PUT", "/sources/blobs/x", "BAD_REQUEST", "/organizationId"),
        ("POST", "/sources/blobs?organization=o", "BAD_REQUEST", "/organization"),
    ];
    for (method, path, code, pointer) in cases {
        let (status, problem) = parsed(&server.call(method, path, &[], Bytes::new()).await);
        assert_eq!((status, problem["code"].as_str()), (400, Some(code)), "{path}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(&pointer[1..]), "{path}: {problem}");
    }
}

#[tokio::test]
async fn whatever_can_be_read_has_a_head() {
    let server = Server::start();
    let (_, accepted) = server.post("/deploy", &request("one")).await;
    let id = accepted["deploymentId"].as_str().unwrap();
    server.ended(id).await;
    let paths: [&str; 15] = [
        "/",
        "/health",
        "/health/detailed",
        "/health/ready",
        "/health/live",
        "/ready",
        "/status",
        "/status/queue",
        "/status/deployments",
        "/metrics",
        "/deploy/project/one",
        "/projects/revisions",
        "/operations/dead-letters",
        &format!("/deploy/{id}/status"),
        &format!("/deploy/{id}/logs"),
    ];
    for path in paths {
        let whole = server.call("GET", path, &[], Bytes::new()).await;
        let head = server.call("HEAD", path, &[], Bytes::new()).await;
        assert_eq!((head.status(), whole.status().as_u16()), (whole.status(), 200), "{path}");
        assert_eq!(head.headers()["content-type"], whole.headers()["content-type"], "{path}");
        assert!(head.body().is_empty() && !whole.body().is_empty(), "{path}");
    }
    // It ends, and no event has to come first.
    let mut slow = request("slow");
    slow["buildCommand"] = json!("sleep 600");
    let (_, accepted) = server.post("/deploy", &slow).await;
    let path = format!("/deploy/{}/logs?follow=1", accepted["deploymentId"].as_str().unwrap());
    assert_eq!(server.call("HEAD", &path, &[], Bytes::new()).await.status().as_u16(), 200);
    assert_eq!(server.call("HEAD", "/deploy", &[], Bytes::new()).await.status().as_u16(), 405);
}

#[tokio::test]
async fn what_the_web_server_refuses_has_a_code_too() {
    let server = Server::start();
    for (method, path, allowed) in [
        ("GET", "/deploy", "POST"),
        ("POST", "/status", "GET"),
        ("PUT", "/operations/dead-letters/1", "DELETE"),
    ] {
        let answer = server.call(method, path, &[("x-correlation-id", "corr-1")], Bytes::new()).await;
        let methods = answer.headers()["allow"].to_str().unwrap().to_owned();
        let (status, problem) = parsed(&answer);
        assert_eq!((status, &problem["code"]), (405, &json!("METHOD_NOT_ALLOWED")), "{method} {path}");
        assert_eq!(problem["correlationId"], "corr-1");
        assert!(methods.contains(allowed) && !methods.contains(method), "{methods}");
    }
    let (status, envelope) = parsed(&server.call("DELETE", "/api/deploy", &[], Bytes::new()).await);
    assert_eq!((status, &envelope["success"]), (405, &json!(false)));
    assert_eq!(envelope["code"], "METHOD_NOT_ALLOWED");
    // Nothing of the body has to be sent for the refusal of it.
    for (path, most) in [("/deploy", 10 << 20), ("/sources", 64 << 20)] {
        let mut stream = std::net::TcpStream::connect(server.api).unwrap();
        stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
        let length = most + 1;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let (mut said, mut some) = (String::new(), [0; 4_096]);
        while !said.ends_with('}') {
            let count = stream.read(&mut some).unwrap();
            assert!(count > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&some[..count]));
        }
        assert!(said.starts_with("HTTP/1.1 413 ") && said.contains("application/problem+json"), "{said}");
        assert!(said.contains("BODY_TOO_LARGE") && said.contains(&format!("at most {most} bytes")), "{said}");
    }
}

#[tokio::test]
async fn a_list_of_many_files_with_long_paths_is_taken() {
    let server = Server::start();
    let sha256 = windlass::deploy::ids::Digest::of(b"content").to_string();
    let folder = "f".repeat(250);
    let files: Vec<Value> = (0..40_000)
        .map(|number| json!({ "path": format!("{folder}/{number:05}"), "size": 7, "mode": 420, "sha256": sha256 }))
        .collect();
    let body = json!({ "organizationId": "o", "files": files });
    assert!(body.to_string().len() > 12 << 20);
    let (status, source) = server.post("/sources", &body).await;
    assert_eq!((status, &source["missing"]), (200, &json!([sha256])), "{source}");
}

#[tokio::test]
async fn a_web_page_cannot_use_the_api() {
    let server = Server::start();
    for headers in [
        [("host", "evil.example"), JSON],
        [("origin", "http://evil.example"), JSON],
        [("sec-fetch-site", "cross-site"), JSON],
    ] {
        for (method, path) in [
            ("POST", "/deploy"),
            ("GET", "/status"),
            ("GET", "/health"),
            ("DELETE", "/operations/dead-letters"),
        ] {
            let (status, problem) = parsed(&server.call(method, path, &headers, Bytes::new()).await);
            assert_eq!((status, problem["code"].as_str()), (403, Some("FORBIDDEN_ORIGIN")), "{headers:?}");
        }
    }
    // Trigger paths are not part of the API's port.
    assert_eq!(server.post("/step-build", &json!({ "Data": { "msg": "{}" } })).await.0, 404);
}

#[tokio::test]
async fn health_and_status_have_the_documented_shapes() {
    let server = Server::start();
    assert_eq!(server.get("/").await.1["name"], "windlass");
    assert_eq!(
        server.get("/health").await,
        (200, json!({ "status": "healthy", "services": { "content": "ok", "store": "ok" } }))
    );
    let (code, detailed) = server.get("/health/detailed").await;
    assert!(
        code == 200
            && detailed["dependencies"]["store"]["state"] == "ok"
            && detailed["dependencies"]["store"]["latencyUs"].is_u64()
    );
    for path in ["/health/ready", "/ready", "/health/live"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    let (_, accepted) = server.post("/deploy", &request("one")).await;
    server.ended(accepted["deploymentId"].as_str().unwrap()).await;
    let (_, status) = server.get("/status").await;
    assert_eq!(
        (
            status["deployments"]["succeeded"].as_u64(),
            status["successRate"].as_f64(),
            status["durationMs"]["samples"].as_u64()
        ),
        (Some(1), Some(1.0), Some(1))
    );
    let (_, queue) = server.get("/status/queue").await;
    assert_eq!(
        (queue["depth"].as_u64(), queue["inFlight"].as_u64(), queue["deadLetters"]["count"].as_u64()),
        (Some(0), Some(0), Some(0))
    );
    assert_eq!(
        (&queue["queue"], &queue["deadLetters"]["queue"]),
        (&json!("deployment-queue"), &json!("deployment-dlq"))
    );
    assert!(queue["messagesAre"].as_str().unwrap().contains("wait, are due later or are worked on"));
    assert!(queue["oldestMessageAgeSeconds"].is_u64() && queue["ratePerMinute"].is_f64(), "{queue}");
    let took = &status["durationMs"];
    assert!(took["p50"].is_u64() && took["p95"].is_u64() && status["uptimeSeconds"].is_u64(), "{status}");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    // A status comes from records alone: no content is read for it.
    let path = format!("/deploy/{}/status", accepted["deploymentId"].as_str().unwrap());
    let before = server.get(&path).await;
    std::fs::remove_dir_all(server.folder.path().join("data/blobs")).unwrap();
    std::fs::remove_dir_all(server.folder.path().join("data/logs")).unwrap();
    assert_eq!(server.get(&path).await, before);
    let (code, detailed) = server.get("/health/detailed").await;
    assert_eq!((code, detailed["status"].as_str()), (503, Some("degraded")));
    let error = detailed["dependencies"]["content"]["lastError"].as_str().unwrap();
    let folder = server.folder.path().to_str().unwrap();
    assert!(error.starts_with("the content store cannot be written") && !error.contains(folder), "{error}");
    assert_eq!(
        server.get("/health").await,
        (503, json!({ "status": "unhealthy", "services": { "content": "failing", "store": "ok" } }))
    );
    assert_eq!(server.get("/health/live").await.0, 200);
}

#[tokio::test]
async fn lists_are_newest_first_with_cursors_and_filters() {
    let server = Server::start();
    let mut ids = Vec::new();
    for _ in 0..5 {
        let (_, accepted) = server.post("/deploy", &request("listed")).await;
        let id = accepted["deploymentId"].as_str().unwrap().to_owned();
        server.ended(&id).await;
        ids.insert(0, id);
    }
    let names = |page: &Value| {
        page["deployments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["deploymentId"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (_, page) = server.get("/deploy/project/listed?limit=2").await;
    assert_eq!(names(&page), ids[..2]);
    let (_, next) = server
        .get(&format!("/deploy/project/listed?limit=2&cursor={}", page["nextCursor"].as_str().unwrap()))
        .await;
    assert_eq!(names(&next), ids[2..4]);
    assert_eq!(names(&server.get("/status/deployments?status=succeeded").await.1).len(), 5);
    assert!(names(&server.get("/deploy/project/listed?environment=production").await.1).is_empty());
    // A page has 20 rows, and never more than 100.
    for _ in 0..100 {
        assert_eq!(server.post("/deploy", &request("listed")).await.0, 202);
    }
    for (path, rows) in [("/status/deployments", 20), ("/status/deployments?limit=1000", 100)] {
        assert_eq!(names(&server.get(path).await.1).len(), rows, "{path}");
    }
}

#[tokio::test]
async fn a_deployment_is_listed_with_who_asked_its_size_and_its_commit() {
    let server = Server::start();
    let commit = "0123456789ABCDEF0123456789abcdef01234567";
    let mut asked = request("asked");
    asked["userId"] = json!("ada");
    asked["containerSize"] = json!({ "cpu": "1", "memory": "2Gi" });
    asked["commitSha"] = json!(commit);
    let (first, second) =
        (server.post("/deploy", &asked).await.1, server.post("/deploy", &request("plain")).await.1);
    let one = json!({ "organizationId": "org456", "userId": "ada", "environment": "development",
                      "containerSize": { "cpu": "1", "memory": "2Gi" }, "commitSha": commit.to_lowercase() });
    // Nobody asked for a size: the release has the environment's.
    let other = json!({ "organizationId": "org456", "userId": "user123", "environment": "development",
                        "containerSize": { "cpu": "0.5", "memory": "1Gi" } });
    for (project, accepted, wanted) in [("asked", first, one), ("plain", second, other)] {
        let status = server.ended(accepted["deploymentId"].as_str().unwrap()).await;
        let (_, page) = server.get(&format!("/deploy/project/{project}")).await;
        let (_, all) = server.get("/status/deployments").await;
        let all = all["deployments"].as_array().unwrap().clone();
        let row = all.into_iter().find(|row| row["projectId"] == project).unwrap();
        for shown in [&status, &page["deployments"][0], &row] {
            for member in ["organizationId", "userId", "environment", "containerSize", "commitSha"] {
                assert_eq!(shown.get(member), wanted.get(member), "{member} of {shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_folder_under_git_names_its_commit() {
    let server = Server::start();
    let commit = "89abcdef0123456789abcdef0123456789abcdef";
    let root = server.folder.path().join("shop");
    std::fs::create_dir_all(root.join(".git/refs/heads")).unwrap();
    std::fs::write(root.join("index.html"), "x").unwrap();
    std::fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    std::fs::write(root.join(".git/refs/heads/main"), format!("{commit}\n")).unwrap();
    assert_eq!(server.deploy(&root, &["--user", "ada"])["commitSha"], commit);
    let listed = server.cli(&["list", "shop", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row = &listed["deployments"][0];
    assert_eq!((&row["commitSha"], &row["userId"]), (&json!(commit), &json!("ada")), "{row}");
}

#[tokio::test]
async fn an_idempotency_key_makes_a_repeated_post_harmless() {
    let server = Server::start();
    let body = request("once").to_string();
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        let (_, accepted) =
            parsed(&server.call("POST", "/deploy", &[JSON, ("idempotency-key", "k1")], body.clone()).await);
        ids.insert(accepted["deploymentId"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1);
    let (status, problem) = parsed(
        &server
            .call("POST", "/deploy", &[JSON, ("idempotency-key", "k1")], request("other").to_string())
            .await,
    );
    assert_eq!((status, problem["code"].as_str()), (409, Some("IDEMPOTENCY_KEY_REUSED")));
}

#[tokio::test]
async fn cancelling_kills_the_build_and_status_has_an_etag() {
    let server = Server::start();
    let root = server.site("slow", "x");
    std::fs::write(root.join("windlass.toml"), "build = \"echo begun; sleep 600\"\n").unwrap();
    let output = server.cli(&["deploy", root.to_str().unwrap(), "--detach"]);
    let id = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
    until("the build runs", async || {
        server
            .get(&format!("/deploy/{id}/logs?step=build"))
            .await
            .1
            .to_string()
            .contains("\"text\":\"begun\"")
    })
    .await;
    let path = format!("/deploy/{id}/status");
    let answer = server.call("GET", &path, &[], Bytes::new()).await;
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(parsed(&answer).1["currentStep"], "build");
    assert_eq!(
        server.call("GET", &path, &[("if-none-match", &tag)], Bytes::new()).await.status().as_u16(),
        304
    );
    let build = super::children_of(server.folder.path());
    assert!(!build.is_empty());
    let begun = std::time::Instant::now();
    assert_eq!(server.post(&format!("/deploy/{id}/cancel"), &json!({})).await.0, 202);
    assert_eq!(server.ended(&id).await["status"], "cancelled");
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    assert!(super::children_of(server.folder.path()).is_empty());
    let (status, problem) = server.post(&format!("/deploy/{id}/cancel"), &json!({})).await;
    assert_eq!((status, problem["code"].as_str()), (409, Some("STATE_CONFLICT")));
    assert_eq!(server.cli(&["retry", &id]).status.code(), Some(0));
    until("it runs again", async || server.get(&path).await.1["currentStep"] == "build").await;
    server.post(&format!("/deploy/{id}/cancel"), &json!({})).await;
}

#[tokio::test]
async fn a_status_that_says_something_else_has_another_etag() {
    let server = Server::with(&[("MAX_CONCURRENT_DEPLOYMENTS", "1")]);
    let mut paths = Vec::new();
    for project in ["first", "second", "third"] {
        let mut body = request(project);
        body["buildCommand"] = json!("sleep 600");
        let (_, accepted) = server.post("/deploy", &body).await;
        paths.push(format!("/deploy/{}", accepted["deploymentId"].as_str().unwrap()));
        if project == "first" {
            let path = format!("{}/status", paths[0]);
            until("it has its turn", async || server.get(&path).await.1["status"] == "running").await;
        }
    }
    let third = format!("{}/status", paths[2]);
    let ask = async |known: &str| {
        let answer = server.call("GET", &third, &[("if-none-match", known)], Bytes::new()).await;
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), tag, parsed(&answer).1["position"].clone())
    };
    let (_, tag, position) = ask("\"none\"").await;
    assert_eq!(position, 2);
    assert_eq!(ask(&tag).await, (304, tag.clone(), Value::Null));
    assert_eq!(server.post(&format!("{}/cancel", paths[1]), &json!({})).await.0, 202);
    let (status, moved, position) = ask(&tag).await;
    assert_eq!((status, position), (200, json!(1)));
    assert_ne!(moved, tag);
    server.post(&format!("{}/cancel", paths[2]), &json!({})).await;
    server.post(&format!("{}/cancel", paths[0]), &json!({})).await;
}

#[tokio::test]
async fn a_deployment_that_takes_too_long_ends() {
    let server = Server::with(&[
        ("DEPLOYMENT_TIMEOUT_MS", "1000"),
        ("BUILD_CONTAINER_CPU", "0.5"),
        ("BUILD_CONTAINER_MEMORY", "2048Mi"),
    ]);
    let mut body = request("slow");
    body["buildCommand"] = json!("sleep 600");
    let (_, accepted) = server.post("/deploy", &body).await;
    let status = server.ended(accepted["deploymentId"].as_str().unwrap()).await;
    assert_eq!(
        (status["status"].as_str(), status["error"]["code"].as_str()),
        (Some("failed"), Some("DEPLOYMENT_TIMEOUT"))
    );
    assert_eq!(status["steps"][6]["status"], "succeeded");
    let built = &status["steps"][1]["output"];
    assert_eq!((built["cpu"].as_str(), built["memory"].as_str()), (Some("0.5"), Some("2Gi")));
    assert!(super::children_of(server.folder.path()).is_empty());
}

/// Deployments that are asked for at the same time.
const POSTS: u32 = 50;

#[tokio::test]
async fn no_more_than_the_cap_run_at_once_and_posts_return_at_once() {
    let server = Server::with(&[("MAX_CONCURRENT_DEPLOYMENTS", "2")]);
    let server = &server;
    let posts = (0..POSTS).map(|number| async move {
        let mut body = request(&format!("p{number}"));
        body["buildCommand"] = json!("sleep 0.2");
        assert_eq!(server.post("/deploy", &body).await.0, 202);
    });
    futures_util::future::join_all(posts).await;
    let (_, status) = server.get("/status").await;
    let done = status["deployments"]["succeeded"].as_u64().unwrap();
    assert!(done < u64::from(POSTS), "the answers waited for the builds");
    let (mut most, mut ended) = (0, 0);
    while ended < u64::from(POSTS) {
        let (_, status) = server.get("/status").await;
        most = most.max(status["deployments"]["running"].as_u64().unwrap());
        ended = status["deployments"]["succeeded"].as_u64().unwrap();
        assert_eq!(status["deployments"]["failed"], 0);
    }
    assert_eq!(most, 2);
}

#[tokio::test]
async fn uploads_are_verified_and_resumable() {
    let server = Server::start();
    let digest = windlass::deploy::ids::Digest::of(b"content").to_string();
    let manifest = json!({ "organizationId": "o", "files": [{ "path": "index.html", "size": 7, "mode": 420, "sha256": digest }] });
    let (_, source) = server.post("/sources", &manifest).await;
    assert_eq!(source["missing"], json!([digest]));
    let path = format!("/sources/blobs/{digest}?organizationId=o");
    let (status, problem) = parsed(&server.call("PUT", &path, &[], "changed").await);
    assert_eq!((status, problem["code"].as_str()), (422, Some("CONTENT_MISMATCH")));
    assert_eq!(
        server.call("PUT", &path, &[("content-encoding", "zstd")], "not zstd").await.status().as_u16(),
        400
    );
    let packed = zstd::encode_all(&b"content"[..], 1).unwrap();
    assert_eq!(
        server.call("PUT", &path, &[("content-encoding", "zstd")], packed).await.status().as_u16(),
        201
    );
    assert_eq!(server.post("/sources", &manifest).await.1["missing"], json!([]));
    let batch = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let kind = [("content-type", windlass::api::batch::MEDIA_TYPE), ("content-encoding", "zstd")];
    let bomb = vec![b'x'; 20 << 20];
    for (body, status, code) in [
        (batch(&format!("{digest} 7\nchanged")), 422, "CONTENT_MISMATCH"),
        (batch(&format!("{digest} 70\ncontent")), 400, "BAD_REQUEST"),
        (batch("short 7\ncontent"), 400, "BAD_REQUEST"),
        (b"not zstd".to_vec(), 400, "BAD_REQUEST"),
        (zstd::encode_all(bomb.as_slice(), 1).unwrap(), 413, "SOURCE_TOO_LARGE"),
    ] {
        let answer = server.call("POST", "/sources/blobs?organizationId=o", &kind, body).await;
        let (found, problem) = parsed(&answer);
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{problem}");
    }
    let kept = server
        .call("POST", "/sources/blobs?organizationId=o", &kind, batch(&format!("{digest} 7\ncontent")))
        .await;
    assert_eq!(parsed(&kept), (201, json!({ "kept": 1 })));
    // Another organization cannot find out what this one has.
    let mut other = manifest.clone();
    other["organizationId"] = json!("other");
    assert_eq!(server.post("/sources", &other).await.1["missing"], json!([digest]));
}

#[tokio::test]
async fn a_followed_log_resumes_after_an_id() {
    let server = Server::start();
    let mut body = request("logged");
    body["buildCommand"] = json!("echo building");
    let (_, accepted) = server.post("/deploy", &body).await;
    let id = accepted["deploymentId"].as_str().unwrap();
    server.ended(id).await;
    // Building and pushing are parts of their own, and what the build says stands between them.
    let (_, built) = server.get(&format!("/deploy/{id}/logs?step=build")).await;
    let told: Vec<&str> =
        built["logs"].as_array().unwrap().iter().filter_map(|line| line["type"].as_str()).collect();
    let wanted = [
        "step.started",
        "build.started",
        "log",
        "build.finished",
        "push.started",
        "push.finished",
        "step.finished",
    ];
    assert_eq!(told, wanted, "{built}");
    let stream = async |after: &str| {
        let headers = [("accept", "text/event-stream"), ("last-event-id", after)];
        let answer = server.call("GET", &format!("/deploy/{id}/logs"), &headers, Bytes::new()).await;
        String::from_utf8(answer.body().to_vec()).unwrap()
    };
    let all = stream("0").await;
    let events: Vec<&str> = all.split("\n\n").filter(|event| event.starts_with("id: ")).collect();
    assert!(events.len() >= 14 && events.last().unwrap().contains("deployment.ended"), "{all}");
    let fifth = events[4].lines().next().unwrap().trim_start_matches("id: ");
    assert_eq!(
        stream(fifth).await,
        events[5..].iter().map(|event| format!("{event}\n\n")).collect::<String>()
    );
    let (_, page) = server.get(&format!("/deploy/{id}/logs?tail=3")).await;
    assert_eq!(page["logs"].as_array().unwrap().len(), 3);
}
