//! Nothing that a build or an app starts outlives it, wherever it hides.

use super::{Server, children_of, example, have, project, until};

/// Leaves the process group, empties its environment and loses its parent.
const HIDE: &str = "(env -i setsid sleep 300 &)";

#[tokio::test]
async fn nothing_of_a_build_outlives_it() {
    let server = Server::start();
    // Each keeps the pipe open; the last ones come and go while the others are ended.
    let build = format!(
        "(sleep 300 &) ; (setsid sleep 300 &) ; {HIDE} ; (while sleep 0; do (sleep 1 &); done &) ; echo done"
    );
    let root = project(
        server.folder.path(),
        "forker",
        &[("index.html", "x"), ("windlass.toml", &format!("build = \"{build}\"\n"))],
    );
    let status = server.deploy(&root, &[]);
    assert_eq!(status["status"], "succeeded");
    assert!(children_of(server.folder.path()).is_empty(), "a child is left");
    assert!(std::fs::read_dir(server.folder.path().join("data/workspaces")).unwrap().next().is_none());
}

#[tokio::test]
async fn a_build_that_is_cancelled_leaves_nothing() {
    let server = Server::start();
    let build = format!("trap : TERM; {HIDE} ; echo waiting; while :; do sleep 0.1; done");
    let root = project(
        server.folder.path(),
        "forker",
        &[("index.html", "x"), ("windlass.toml", &format!("build = \"{build}\"\n"))],
    );
    let output = server.cli(&["deploy", root.to_str().unwrap(), "--detach"]);
    let id = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
    until("the build runs", async || {
        server.get(&format!("/deploy/{id}/logs?step=build")).await.1.to_string().contains("waiting")
    })
    .await;
    assert!(server.cli(&["cancel", &id]).status.success());
    assert_eq!(server.ended(&id).await["status"], "cancelled");
    assert!(children_of(server.folder.path()).is_empty(), "a child is left");
}

#[tokio::test]
async fn a_build_that_ends_by_a_signal_says_which() {
    let server = Server::start();
    let root = project(
        server.folder.path(),
        "crasher",
        &[("index.html", "x"), ("windlass.toml", "build = \"kill -SEGV $$\"\n")],
    );
    let error = &server.deploy(&root, &[])["error"];
    assert_eq!((&error["code"], &error["detail"]["signal"]), (&"BUILD_FAILED".into(), &11.into()), "{error}");
}

#[tokio::test]
async fn an_app_leaves_nothing_when_it_dies_and_nothing_when_the_service_is_killed() {
    if !have("python3") {
        return;
    }
    let mut server = Server::start();
    let app = std::fs::read_to_string(example("python-api").join("app.py")).unwrap();
    let start = format!("start = \"{HIDE} ; python3 app.py\"\n");
    let root = project(server.folder.path(), "forker", &[("app.py", &app), ("windlass.toml", &start)]);
    assert_eq!(server.deploy(&root, &[])["status"], "succeeded");
    let here = || children_of(server.folder.path());
    let before = here();
    let python = before.iter().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.starts_with("python"))
    });
    assert!(python.is_some() && before.len() >= 3, "the shell, the app and who hides: {before:?}");
    let killed = std::process::Command::new("kill").args(["-9", &python.unwrap().to_string()]).status();
    assert!(killed.unwrap().success());
    until("others run in their place", async || {
        let now = here();
        now.len() == before.len() && now.iter().all(|pid| !before.contains(pid))
    })
    .await;
    server.child.kill().unwrap();
    until("nothing is left", async || children_of(server.folder.path()).is_empty()).await;
}
