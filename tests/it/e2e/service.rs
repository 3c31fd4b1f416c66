//! Starting, refusing to start, and the command line besides deploying.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use super::{Server, have, request, windlass};

#[tokio::test]
async fn a_second_service_on_the_same_folder_is_refused_with_the_holders_pid() {
    let server = Server::start();
    let output = windlass(server.folder.path())
        .args(["serve", "--port", "0", "--apps-port", "0", "--data-dir", "data"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&format!("process {}", server.child.id())), "{said}");
    let other = Server::start();
    assert_ne!(other.api, server.api);
}

#[tokio::test]
async fn a_service_that_cannot_listen_has_started_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // What no live release has is removed when apps are brought back, which is thus seen.
    let stray = folder.path().join("data/revisions/stray");
    std::fs::create_dir_all(&stray).unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flag, other) in [("--port", "--apps-port"), ("--apps-port", "--port")] {
        let output = windlass(folder.path())
            .args(["serve", flag, &port, other, "0", "--data-dir", "data"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains(&format!("choose another port with {flag}")),
            "{said}"
        );
        assert!(stray.exists(), "{flag}");
    }
}

#[tokio::test]
async fn an_argument_that_is_no_text_is_refused_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let odd = OsStr::from_bytes(b"\xff");
    for arguments in [vec![odd], vec![OsStr::new("status"), odd]] {
        let output = windlass(folder.path()).args(&arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn wrong_settings_are_all_listed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = windlass(folder.path())
        .arg("serve")
        .env("LOG_LEVEL", "loud")
        .env("MAX_CONCURRENT_DEPLOYMENTS", "none")
        .env("WINDLASS_BIND", "0.0.0.0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said.contains("3 problem(s)") && said.contains("LOG_LEVEL") && said.contains("need API tokens"),
        "{said}"
    );
}

#[tokio::test]
async fn one_port_for_both_is_told_by_both_flags() {
    let folder = tempfile::tempdir().unwrap();
    let serve = |arguments: &[&str]| {
        let output = windlass(folder.path()).arg("serve").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in [&["--port", "4140", "--apps-port", "4140"][..], &["--port", "3080"]] {
        let (code, said) = serve(arguments);
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains("--port") && said.contains("--apps-port") && said.contains("both have port"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_doctor_sees_taken_ports_a_folder_in_use_room_and_the_user() {
    let server = Server::start();
    let port = server.api.port().to_string();
    let look = |data: &str| {
        let arguments = ["doctor", "--json", "--data-dir", data, "--port", &port, "--apps-port", "0"];
        let output = windlass(server.folder.path()).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        move |name: &str| {
            let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {text}"));
            (row["state"].as_str().unwrap().to_owned(), row["seen"].as_str().unwrap().to_owned())
        }
    };
    let held = look("data");
    let (state, seen) = held("data-folder");
    assert!(state == "warn" && seen.contains(&format!("process {}", server.child.id())), "{seen}");
    let (state, seen) = held("api-port");
    assert!(state == "warn" && seen.contains(&format!("{} is in use", server.api)), "{seen}");
    assert_eq!(held("apps-port").0, "ok");
    assert!(held("disk-space").1.contains(" MiB free"));
    let wanted = if rustix::process::geteuid().is_root() { "warn" } else { "ok" };
    assert_eq!(held("user").0, wanted);
    assert_eq!(look("elsewhere")("data-folder").0, "ok");
}

#[tokio::test]
async fn a_copy_of_the_example_starts_and_names_that_are_none_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let made = windlass(folder.path()).arg("init").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(folder.path().join(".env.example")).unwrap();
    std::fs::write(folder.path().join(".env"), format!("{text}\nWINDLASS_PROT=1\nLOG_LEVEL=warn\n")).unwrap();
    let mut child = windlass(folder.path())
        .args(["serve", "--port", "0", "--apps-port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(line.contains(" serves on "), "{line}{said}");
    assert!(said.contains("warning: WINDLASS_PROT in .env is no setting"), "{said}");
    assert_eq!(said.matches("warning: ").count(), 1, "the example has known names only: {said}");
    // The environment wins, and somebody else's folder is left alone.
    let explained = |level: Option<&str>| {
        let mut command = windlass(folder.path());
        command
            .args(["config", "explain", "--env-file", ".env"])
            .envs(level.map(|level| ("LOG_LEVEL", level)));
        let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let line = out.lines().find(|line| line.starts_with("LOG_LEVEL ")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((explained(None).as_str(), explained(Some("error")).as_str()), ("warn", "error"));
    std::fs::write(folder.path().join(".env"), "canary\n").unwrap();
    let status = windlass(folder.path()).arg("version").status().unwrap();
    assert!(status.success(), "the file of a project is not read");
    let refused = windlass(folder.path()).arg("serve").output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("line 1 of .env is not NAME=VALUE") && !said.contains("canary"), "{said}");
}

#[tokio::test]
async fn init_leaves_what_is_there_alone() {
    let folder = tempfile::tempdir().unwrap();
    let init = || {
        let output = windlass(folder.path()).args(["init", "--json"]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let says = |written: bool| format!("{{\"file\":\".env.example\",\"written\":{written}}}\n");
    assert_eq!(init(), (Some(0), says(true), String::new()));
    assert_eq!(init(), (Some(0), says(false), String::new()));
    let path = folder.path().join(".env.example");
    std::fs::write(&path, "MINE=1\n").unwrap();
    let (code, out, error) = init();
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains("\"message\":\".env.example is there already with another content"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "MINE=1\n");
}

#[tokio::test]
async fn a_file_of_settings_is_read_only_when_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "LOG_LEVEL=loud\n").unwrap();
    for arguments in [&["doctor"][..], &["doctor", "--azure"], &["config", "explain"], &["config", "host"]] {
        let said = |more: &[&str]| {
            let output = windlass(folder.path()).args(arguments).args(more).output().unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        let strangers = said(&[]);
        assert!(!strangers.contains("LOG_LEVEL is `loud`"), "{arguments:?}: {strangers}");
        let named = said(&["--env-file", ".env"]);
        assert!(named.contains("LOG_LEVEL is `loud`"), "{arguments:?}: {named}");
        let missing = said(&["--env-file", "nowhere"]);
        assert!(missing.contains("nowhere cannot be read"), "{arguments:?}: {missing}");
    }
}

#[tokio::test]
async fn telemetry_that_wants_tokens_is_not_sent_without() {
    let folder = tempfile::tempdir().unwrap();
    let output = windlass(folder.path())
        .arg("serve")
        .env(
            "APPLICATIONINSIGHTS_CONNECTION_STRING",
            "InstrumentationKey=k;IngestionEndpoint=http://127.0.0.1:1/",
        )
        .env("APPLICATIONINSIGHTS_AUTHENTICATION_STRING", "Authorization=AAD")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("APPLICATIONINSIGHTS_AUTHENTICATION_STRING wants the tokens"), "{said}");
}

#[tokio::test]
async fn the_flag_says_what_the_doctor_looks_at() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        windlass(folder.path()).args(["doctor", "--json"]).env("WINDLASS_BACKEND", "azure").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("\"data-folder\"") && !said.contains("\"sign-in\""), "{said}");
}

#[tokio::test]
async fn a_bad_connection_string_is_told_by_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let output = windlass(folder.path())
        .args(["doctor", "--azure"])
        .env("AZURE_COSMOS_CONNECTION_STRING", "AccountEndpoint=https://a/;AccountKey=canary!")
        .env("AZURE_CLIENT_SECRET", "canary")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("AZURE_COSMOS_CONNECTION_STRING: field `AccountKey` is not base64"), "{said}");
    let explained = windlass(folder.path())
        .args(["config", "explain"])
        .env("AZURE_COSMOS_CONNECTION_STRING", "AccountEndpoint=https://a/;AccountKey=canary!")
        .env("AZURE_CLIENT_SECRET", "canary")
        .output()
        .unwrap();
    let shown = String::from_utf8(explained.stdout).unwrap();
    assert!(shown.contains("AccountEndpoint=https://a/;AccountKey=[redacted]"), "{shown}");
    let location = shown.lines().find(|line| line.starts_with("AZURE_LOCATION ")).unwrap();
    assert!(location.contains(" eastus ") && location.contains(" default "), "{location}");
    assert!(!said.contains("canary") && !shown.contains("canary"));
}

#[tokio::test]
async fn azure_names_every_setting_that_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let output = windlass(folder.path()).arg("serve").env("WINDLASS_BACKEND", "azure").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78));
    for name in ["COSMOS_ENDPOINT", "SERVICEBUS_NAMESPACE", "KEYVAULT_URL", "AZURE_SUBSCRIPTION_ID"] {
        assert!(said.contains(name), "{said}");
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn a_damaged_or_newer_database_is_refused_and_left_untouched() {
    for (bytes, says) in
        [(b"this is not a database, it is a letter".to_vec(), "left untouched"), (newer(), "newer Windlass")]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/windlass.db");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let output = windlass(folder.path())
            .args(["serve", "--port", "0", "--apps-port", "0", "--data-dir", "data"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{said}");
        assert!(std::fs::read(&path).unwrap() == bytes, "{says}: the file was changed");
    }
}

/// A database as a later version would leave it.
fn newer() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    drop(windlass::embedded::db::Db::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
    drop(connection);
    std::fs::read(&path).unwrap()
}

#[tokio::test]
async fn the_command_line_says_what_to_do_when_no_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let output = windlass(folder.path())
        .args(["list", "--server", "http://127.0.0.1:1"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("start one with `windlass serve`"));
}

#[tokio::test]
async fn every_help_page_has_an_example() {
    let folder = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| {
        String::from_utf8(windlass(folder.path()).args(arguments).arg("--help").output().unwrap().stdout)
            .unwrap()
    };
    let commands = [
        "up",
        "serve",
        "handler",
        "deploy",
        "status",
        "logs",
        "cancel",
        "retry",
        "list",
        "explain",
        "dlq",
        "sbom",
        "smoke",
        "cleanup",
        "doctor",
        "init",
        "config",
        "version",
        "completions",
        "bench",
    ];
    let overview = help(&[]);
    for command in commands {
        assert!(overview.contains(&format!("  {command} ")), "{command}");
        assert!(help(&[command]).contains("Example"), "{command}");
    }
}

/// Those that are not measured against the baseline.
#[test]
fn the_other_measurements_give_their_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "content").unwrap();
    for (arguments, figure) in [
        (&["plan", "."][..], "first_ms"),
        (&["pack", "."], "ms"),
        (&["start", "--deployments", "50", "--starts", "1"], "p99_ms"),
        (&["list", "--deployments", "50", "--clients", "1"], "list_p99_ms"),
    ] {
        let output = windlass(folder.path()).arg("bench").args(arguments).arg("--json").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line: serde_json::Value = serde_json::from_str(&said)
            .unwrap_or_else(|_| panic!("{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        assert!(line[figure].is_number(), "{arguments:?}: {line}");
    }
}

#[tokio::test]
async fn operators_check_measure_and_clean_a_service() {
    let server = Server::start();
    let root = server.site("site", "one");
    std::fs::write(root.join("requirements.txt"), "flask==3.0.0\n").unwrap();
    std::fs::write(root.join("windlass.toml"), "kind = \"static\"\n").unwrap();
    let status = server.deploy(&root, &[]);
    let says = |arguments: &[&str]| {
        let output = server.cli(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let app = format!("http://127.0.0.1:{}", server.apps.port());
    let (code, text) = says(&["smoke"]);
    assert!(
        code == 0 && text.lines().count() == 4 && text.lines().all(|line| line.starts_with("ok")),
        "{text}"
    );
    let (code, text) = says(&["smoke", "--app", &app]);
    assert!(code == 1 && text.contains("FAIL frontend"), "no app answers on that name: {text}");
    let (code, text) = says(&["smoke", "--app", &format!("http://site.localhost:{}", server.apps.port())]);
    assert!(code == 0 && text.contains("ok   frontend"), "{text}");
    let (code, text) = says(&["sbom", status["deploymentId"].as_str().unwrap()]);
    assert!(code == 0 && text.contains("pkg:pypi/flask@3.0.0"), "{text}");
    let (code, text) = says(&["cleanup", "--dry-run"]);
    assert_eq!(
        (code, text.as_str()),
        (0, "Would remove at least 0 deployments, 0 runs and 0 files (0 bytes)\n")
    );
    let (_, cleaned) = server.post("/status/cleanup", &serde_json::json!({ "dryRun": false })).await;
    assert_eq!((&cleaned["dryRun"], &cleaned["removed"]["deployments"]), (&false.into(), &0.into()));
    assert_eq!(server.post("/status/cleanup", &serde_json::json!({ "dry": true })).await.0, 400);
    let (code, metrics) = server.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "windlass_deployments{status=\"succeeded\"} 1",
        "windlass_dead_letters 0",
        "# TYPE windlass_queue_messages gauge",
    ] {
        assert!(code == 200 && metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn the_documented_ways_to_read_a_log_work() {
    if !have("curl") {
        return;
    }
    let server = Server::start();
    let mut body = request("logged");
    body["buildCommand"] = serde_json::json!("echo building");
    let (_, accepted) = server.post("/deploy", &body).await;
    let id = accepted["deploymentId"].as_str().unwrap();
    server.ended(id).await;
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let said: Vec<String> = std::fs::read_to_string(readme)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("curl ") && line.contains("$id"))
        .map(|line| {
            let line = line.replace("localhost:3010", &server.api.to_string());
            let mut shell = std::process::Command::new("sh");
            let output = shell.args(["-c", &line]).env("id", id).env("NO_PROXY", "*").output().unwrap();
            assert!(output.status.success(), "{line}");
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("\"succeeded\"") && said[1].contains("\"building\""), "{said:?}");
    let built = String::from_utf8(server.cli(&["logs", id, "--step", "build"]).stdout).unwrap();
    assert!(built.contains("building") && built.lines().all(|line| line.contains(" build ")), "{built}");
}

#[tokio::test]
async fn queue_settings_reach_the_generated_host_json() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        windlass(folder.path()).args(["config", "host"]).env("QUEUE_MAX_BATCH_SIZE", "4").output().unwrap();
    let host: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(host["extensions"]["serviceBus"]["maxMessageBatchSize"], 4);
    assert_eq!(host["functionTimeout"], "00:05:00");
}

#[tokio::test]
async fn explain_names_the_input_that_changed() {
    let server = Server::start();
    let root = server.site("site", "one");
    server.deploy(&root, &[]);
    let again = server.deploy(&root, &[]);
    std::fs::write(root.join("index.html"), "two").unwrap();
    let changed = server.deploy(&root, &[]);
    let explain = |status: &serde_json::Value| {
        String::from_utf8(server.cli(&["explain", status["deploymentId"].as_str().unwrap()]).stdout).unwrap()
    };
    assert!(explain(&again).contains("The artifact of the same inputs was reused"));
    assert!(explain(&changed).contains("It was built because its source changed"));
    let status = server.cli(&["status", changed["deploymentId"].as_str().unwrap()]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("✓ build"));
    assert!(String::from_utf8_lossy(&server.cli(&["status"]).stdout).contains("release 3"));
    assert!(String::from_utf8_lossy(&server.cli(&["list", "site"]).stdout).lines().count() == 3);
}
