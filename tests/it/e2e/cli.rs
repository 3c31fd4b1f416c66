//! What the command line says and how it ends.

use serde_json::json;

use super::{Server, request, until, windlass};

/// Exit code, stdout, stderr.
fn ran(output: std::process::Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Asks for a deployment whose build is this command.
async fn asked(server: &Server, project: &str, build: &str) -> String {
    let mut body = request(project);
    body["buildCommand"] = json!(build);
    let (_, accepted) = server.post("/deploy", &body).await;
    accepted["deploymentId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_follows_a_deployment_is_told_by_the_exit_code_how_it_ended() {
    let server = Server::start();
    let (good, bad) = (asked(&server, "good", "true").await, asked(&server, "bad", "exit 7").await);
    let slow = asked(&server, "slow", "sleep 600").await;
    assert_eq!(ran(server.cli(&["cancel", &slow])).0, 0);
    for (id, code) in [(good, 0), (bad, 1), (slow, 5)] {
        let (found, out, error) = ran(server.cli(&["logs", &id, "-f"]));
        assert_eq!(found, code, "{out}{error}");
        let (found, out, error) = ran(server.cli(&["status", &id, "--watch"]));
        assert_eq!(found, code, "{out}{error}");
        assert_eq!(ran(server.cli(&["status", &id])).0, 0, "only who waits for the end is told it");
        assert_eq!(ran(server.cli(&["logs", &id])).0, 0);
    }
    let (code, _, error) = ran(server.cli(&["logs", "dep_00000000000", "-f"]));
    assert!(code == 4 && error.contains("DEPLOYMENT_NOT_FOUND"), "{error}");
}

#[tokio::test]
async fn a_flag_without_a_value_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        ["serve", "--port", ""],
        ["serve", "--apps-port", ""],
        ["up", "--data-dir", ""],
        ["deploy", "--project", ""],
        ["list", "--server", ""],
    ] {
        let (code, _, error) = ran(windlass(folder.path()).args(arguments).output().unwrap());
        assert!(code == 2 && error.contains(arguments[1]), "{arguments:?}: {error}");
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing was started");
}

#[tokio::test]
async fn what_is_not_there_is_told_and_is_not_taken_for_silence() {
    let server = Server::start();
    let site = server.site("site", "x");
    assert_eq!(server.deploy(&site, &[])["status"], "succeeded");
    let (code, out, error) = ran(server.cli(&["logs", "--app", "nope"]));
    assert!(
        code == 4 && out.is_empty() && error.contains("no release of local/nope/development is live"),
        "{error}"
    );
    assert_eq!(
        ran(server.cli(&["logs", "--app", "site"])),
        (0, "local/site/development has said nothing.\n".to_owned(), String::new())
    );
    let (code, out, _) = ran(server.cli(&["list", "nope"]));
    assert_eq!((code, out.as_str()), (0, "No deployments of nope. All: windlass list\n"));
    assert_eq!(ran(server.cli(&["list"])).1.lines().count(), 1);
    for command in ["show", "redrive", "purge"] {
        let (code, _, error) = ran(server.cli(&["dlq", command, "17"]));
        assert!(code == 4 && error.contains("there is no dead letter 17"), "{command}: {error}");
    }
    assert_eq!(ran(server.cli(&["dlq", "purge"])).1, "No dead letters.\n");
}

#[tokio::test]
async fn a_cancelled_deployment_is_explained_by_when_and_where() {
    let server = Server::start();
    let id = asked(&server, "slow", "echo begun; sleep 600").await;
    until("the build runs", async || {
        server.get(&format!("/deploy/{id}/logs?step=build")).await.1.to_string().contains("begun")
    })
    .await;
    assert_eq!(ran(server.cli(&["cancel", &id])).0, 0);
    let ended = server.ended(&id).await;
    let (code, said, _) = ran(server.cli(&["explain", &id]));
    let at = ended["endedAt"].as_str().unwrap().get(..19).unwrap().to_owned();
    assert_eq!((code, said.lines().next()), (0, Some(format!("{id} is cancelled").as_str())));
    assert!(said.contains(&format!("It was cancelled in build, over at {at}Z")), "{said}");
    assert!(!said.contains("It was built"), "{said}");
}

#[tokio::test]
async fn errors_are_one_line_of_json_when_answers_are() {
    let server = Server::start();
    let (code, out, error) = ran(server.cli(&["status", "dep_00000000000", "--json"]));
    let line: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!((code, out.as_str(), error.lines().count()), (4, "", 1));
    assert_eq!(
        (&line["v"], &line["error"]["code"], &line["error"]["exitCode"]),
        (&json!(1), &json!("DEPLOYMENT_NOT_FOUND"), &json!(4))
    );
}

#[tokio::test]
async fn an_address_that_is_no_api_is_told_as_what_it_is() {
    let server = Server::start();
    let at = |address: &str| {
        ran(windlass(server.folder.path()).args(["list", "--server", address]).output().unwrap())
    };
    let (code, _, error) = at("https://127.0.0.1:3010");
    assert!(code == 2 && error.starts_with("error: https needs API tokens"), "{error}");
    let (code, _, error) = at("nowhere");
    assert!(code == 2 && error.starts_with("error: `nowhere` is not an address such as"), "{error}");
    let (code, _, error) = at(&format!("http://{}", server.apps));
    assert!(code == 1 && error.contains("the port of its apps") && !error.contains('<'), "{error}");
}

#[tokio::test]
async fn a_reader_that_has_enough_is_no_error_and_the_end_is_told_all_the_same() {
    let server = Server::start();
    let site = server.site("site", "x");
    let unread = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = windlass(server.folder.path());
        let child = command.args(["--server", &server.url()]).args(arguments).stdout(writer);
        let ended = child.stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    assert_eq!(unread(&["version"]), (Some(0), String::new()));
    assert_eq!(unread(&["deploy", "site", "--json"]), (Some(0), String::new()));
    std::fs::write(site.join("windlass.toml"), "build = \"exit 7\"\n").unwrap();
    assert_eq!(unread(&["deploy", "site", "--json"]), (Some(1), String::new()));
}

#[tokio::test]
async fn up_finds_the_service_that_works_on_the_same_data_folder() {
    let server = Server::start();
    server.site("site", "found");
    let up = ["up", "site", "--data-dir", "data", "--port", "0", "--apps-port", "0"];
    let (code, out, error) = ran(windlass(server.folder.path()).args(up).output().unwrap());
    let url = format!("Live at http://site.localhost:{}", server.apps.port());
    assert!(code == 0 && out.lines().any(|line| line == url), "{out}{error}");
    assert_eq!(server.app("site.localhost", "/").await, (200, "found".to_owned()));
    let doctor = ["doctor", "--data-dir", "data", "--port", "0", "--apps-port", "0"];
    let (_, out, _) = ran(windlass(server.folder.path()).args(doctor).output().unwrap());
    let holder = format!("is in use by a Windlass (process {})", server.child.id());
    assert!(out.lines().any(|line| line.ends_with(&holder)), "{out}");
}

#[tokio::test]
async fn a_domain_lasts_as_long_as_deployments_name_it() {
    let server = Server::start();
    let site = server.site("site", "x");
    for (more, code) in [(&["--domain", "shop.example"][..], 200), (&[][..], 404)] {
        assert_eq!(server.deploy(&site, more)["status"], "succeeded");
        assert_eq!(server.app("shop.example", "/").await.0, code, "{more:?}");
        assert_eq!(server.app("site.localhost", "/").await.0, 200);
    }
}
