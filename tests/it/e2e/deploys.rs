//! Folders become apps.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Server, children_of, copy_of, example, have, project, until, windlass};

#[tokio::test]
async fn up_deploys_the_hello_example_and_a_second_up_uploads_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("hello", folder.path());
    std::fs::create_dir(project.join("notes")).unwrap();
    for number in 0..193 {
        std::fs::write(project.join(format!("notes/{number}.txt")), format!("note {number}")).unwrap();
    }
    let mut uploads = Vec::new();
    for text in ["Hello from Windlass", "Changed"] {
        let page = project.join("pages/index.html");
        let before = std::fs::read_to_string(&page).unwrap();
        std::fs::write(&page, before.replace("Hello from Windlass", text)).unwrap();
        let mut command = windlass(folder.path());
        command.args(["up", "hello", "--port", "0", "--apps-port", "0", "--data-dir", "data"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said: Vec<String> =
            lines.by_ref().map(Result::unwrap).take_while(|line| !line.starts_with("Live at ")).collect();
        let url = lines.next().map(|_| ()).and(said.first().cloned());
        assert!(url.is_some());
        for step in ["validate", "builder", "sync", "build", "release", "domain", "cleanup"] {
            assert!(said.iter().any(|line| line.starts_with(&format!("✓ {step}"))), "{step}: {said:?}");
        }
        uploads.push(said.iter().find(|line| line.starts_with("Uploading")).unwrap().clone());
        let stopped =
            std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(stopped.success() && child.wait().unwrap().success());
    }
    let page = std::fs::metadata(project.join("pages/index.html")).unwrap().len();
    assert!(uploads[0].starts_with("Uploading 200 of 200 files"), "{uploads:?}");
    assert_eq!(uploads[1], format!("Uploading 1 of 200 files, {page} bytes (199 unchanged)"));
    assert!(children_of(folder.path()).is_empty());
}

#[tokio::test]
async fn a_static_site_has_etags_ranges_compression_and_its_own_404_page() {
    let server = Server::start();
    let status = server.deploy(&example("hello"), &[]);
    assert_eq!(status["urls"][0], format!("http://hello.localhost:{}", server.apps.port()));
    let fetch = async |path: &str, header: (&'static str, String)| {
        let request = hyper::Request::get(path).header("host", "hello.localhost").header(header.0, header.1);
        server
            .pool
            .fetch(server.apps, request.body(windlass::embedded::upstream::empty()).unwrap())
            .await
            .unwrap()
    };
    let page = fetch("/", ("accept", "*/*".into())).await;
    assert!(String::from_utf8_lossy(page.body()).contains("Hello from Windlass"));
    let tag = page.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(fetch("/", ("if-none-match", tag)).await.status().as_u16(), 304);
    let part = fetch("/index.html", ("range", "bytes=0-14".into())).await;
    assert_eq!((part.status().as_u16(), part.body().as_ref()), (206, b"<!doctype html>".as_ref()));
    assert_eq!(fetch("/", ("accept-encoding", "gzip".into())).await.headers()["content-encoding"], "gzip");
    let missing = fetch("/nope", ("accept", "*/*".into())).await;
    assert!(missing.status().as_u16() == 404 && String::from_utf8_lossy(missing.body()).contains("Not here"));
    let (code, text) = server.app("other.localhost", "/").await;
    assert!(code == 404 && text.contains("No project answers on other.localhost"));
}

#[tokio::test]
async fn the_node_and_python_examples_answer_with_their_environment() {
    if !have("node") || !have("python3") {
        return;
    }
    let server = Server::start();
    for (name, says) in [("node-api", "\"hello\":\"node\""), ("python-api", "\"hello\": \"python\"")] {
        let status = server.deploy(&example(name), &["--env", "GREETING=canary-greeting"]);
        assert_eq!(status["status"], "succeeded", "{status}\n{}", server.log());
        let (code, text) = server.app(&format!("{name}.localhost"), "/x?y=1").await;
        assert!(
            code == 200 && text.contains(says) && text.contains("canary-greeting") && text.contains("/x?y=1"),
            "{text}"
        );
    }
    let logs = server.cli(&["logs", "--app", "node-api"]);
    assert!(String::from_utf8_lossy(&logs.stdout).contains("listening on"));
    let (_, revisions) = server.get("/projects/revisions").await;
    assert_eq!(revisions["revisions"].as_array().unwrap().len(), 2);
    // The secret is in the running app and nowhere else.
    let found = std::process::Command::new("grep")
        .args(["-rl", "canary-greeting"])
        .arg(server.folder.path().join("data"))
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.is_empty() && !server.log().contains("canary-greeting"), "{found}");
}

#[tokio::test]
async fn an_app_that_dies_is_started_again_and_comes_back_after_a_restart_of_the_service() {
    if !have("python3") {
        return;
    }
    let server = Server::start();
    server.deploy(&example("python-api"), &[]);
    let pids = async |server: &Server| {
        let (_, revisions) = server.get("/projects/revisions").await;
        revisions["revisions"][0]["pids"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(serde_json::Value::as_u64)
            .collect::<Vec<_>>()
    };
    let first = pids(&server).await;
    assert!(
        std::process::Command::new("kill").args(["-9", &first[0].to_string()]).status().unwrap().success()
    );
    until("the app is back", async || pids(&server).await.first().is_some_and(|pid| *pid != first[0])).await;
    until("it answers", async || server.app("python-api.localhost", "/").await.0 == 200).await;
    let (_, revisions) = server.get("/projects/revisions").await;
    assert_eq!(revisions["revisions"][0]["restarts"], 1);
    let server = server.kill_and_restart();
    until("it answers after the restart", async || server.app("python-api.localhost", "/").await.0 == 200)
        .await;
    assert_eq!(children_of(server.folder.path()).len(), 1, "an orphan is left");
}

#[tokio::test]
async fn a_failing_build_shows_its_exit_code_and_last_lines() {
    let server = Server::start();
    let root = project(
        server.folder.path(),
        "bad",
        &[
            ("index.html", "x"),
            (
                "windlass.toml",
                "build = \"for i in $(seq 80); do echo line $i; done; echo oops >&2; exit 7\"\n",
            ),
        ],
    );
    let status = server.deploy(&root, &[]);
    assert_eq!(
        (status["status"].as_str(), status["error"]["code"].as_str()),
        (Some("failed"), Some("BUILD_FAILED"))
    );
    assert_eq!(status["error"]["detail"]["exitCode"], 7);
    let tail = status["error"]["detail"]["tail"].as_array().unwrap();
    assert_eq!((tail.len(), tail[48].as_str(), tail[49].as_str()), (50, Some("line 80"), Some("oops")));
    let output = server.cli(&["deploy", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("BUILD_FAILED in build: the build command ended with exit code 7")
    );
}

#[tokio::test]
async fn a_build_sees_nothing_of_windlass_and_changes_nothing_outside_its_workspace() {
    let server = Server::start();
    let data = server.folder.path().join("data");
    std::fs::write(server.folder.path().join("victim"), "whole").unwrap();
    let script = format!(
        "cat {0}/secret.key && echo READ-KEY; ls {0}/workspaces && echo LISTED; echo broken > {1}/victim && echo WROTE; \
         touch /tmp/windlass-escape && echo TMP; cat $HOME/.profile && echo HOME; env | sort > environment; mkdir out; cp environment out/index.html; true",
        data.display(),
        server.folder.path().display(),
    );
    let root = project(
        server.folder.path(),
        "spy",
        &[
            ("index.html", "x"),
            ("build.sh", &script),
            ("windlass.toml", "kind = \"static\"\nbuild = \"sh build.sh\"\noutput = \"out\"\n"),
        ],
    );
    let status = server.deploy(&root, &["--env", "SECRET=canary-build"]);
    assert_eq!(status["status"], "succeeded", "{status}");
    let logs =
        String::from_utf8(server.cli(&["logs", status["deploymentId"].as_str().unwrap()]).stdout).unwrap();
    for broken in ["READ-KEY", "LISTED", "WROTE", "TMP\n", "canary-build"] {
        assert!(!logs.contains(&format!(" {broken}")), "{broken}: {logs}");
    }
    assert_eq!(std::fs::read_to_string(server.folder.path().join("victim")).unwrap(), "whole");
    let (_, environment) = server.app("spy.localhost", "/").await;
    assert!(
        !environment.contains("canary-build")
            && environment.contains("CI=true")
            && !environment.contains("XDG_CACHE_HOME"),
        "{environment}"
    );
}

/// A project whose build waits at `gate` for a script to run, and at `end` for its own end.
fn waiting(folder: &Path, name: &str) -> PathBuf {
    let script =
        "mkfifo gate end; cat gate > script; sh script; read over < end; mkdir out; echo x > out/index.html";
    let build = format!(
        "kind = \"static\"\nbuild = \"sh build.sh\"\noutput = \"out\"\n[build_variables]\nTOKEN = \"canary-env-{name}\"\n"
    );
    let note = format!("canary-note-{name}");
    let files = [
        ("index.html", "x"),
        ("name", name),
        ("note", note.as_str()),
        ("build.sh", script),
        ("windlass.toml", build.as_str()),
    ];
    project(folder, name, &files)
}

/// Writes into a fifo once somebody reads it, so that a build that is gone does not hold the test up for ever.
async fn tell(fifo: &Path, text: &str) {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    until("the build listens", async || {
        let open = std::fs::OpenOptions::new().write(true).custom_flags(flags).open(fifo);
        open.is_ok_and(|mut fifo| fifo.write_all(text.as_bytes()).is_ok())
    })
    .await;
}

/// Looks at what is its own, which shows that the commands work, and then in every way at the other build.
fn spying(other: &Path, pids: &[u32]) -> String {
    let other = other.display();
    let mut script = format!(
        "cat $PWD/note && tr '\\0' '\\n' < /proc/$$/environ && echo SAW-OWN
         ls {other} && echo SAW-FOLDER; ls {other}/src && echo SAW-SOURCE; cat {other}/src/note && echo SAW-NOTE
         echo x > {other}/src/planted && echo SAW-PLANTED
"
    );
    for pid in pids {
        script.push_str(&format!(
            "readlink /proc/{pid}/cwd && echo SAW-PLACE; ls /proc/{pid}/cwd/ && echo SAW-CWD
             cat /proc/{pid}/cwd/note && echo SAW-NOTE-BY-CWD; cat /proc/{pid}/root{other}/src/note && echo SAW-NOTE-BY-ROOT
             tr '\\0' '\\n' < /proc/{pid}/environ && echo SAW-ENVIRON
"
        ));
    }
    script + "echo looked\n"
}

#[tokio::test]
async fn two_builds_at_a_time_see_nothing_of_each_other() {
    let server = Server::start();
    let (folder, names) = (server.folder.path(), ["left", "right"]);
    let ids = names.map(|name| {
        let output = server.cli(&["deploy", waiting(folder, name).to_str().unwrap(), "--detach"]);
        String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned()
    });
    let place = |name: &str| {
        let entries = std::fs::read_dir(folder.join("data/workspaces")).into_iter().flatten().flatten();
        let is_its =
            |path: &PathBuf| std::fs::read_to_string(path.join("src/name")).is_ok_and(|is| is == name);
        entries.map(|entry| entry.path()).find(|path| is_its(path) && path.join("src/end").exists())
    };
    for name in names {
        until("the build waits", async || place(name).is_some()).await;
    }
    let places = names.map(|name| place(name).unwrap());
    let said = async |build: usize| {
        server.get(&format!("/deploy/{}/logs?step=build", ids[build])).await.1.to_string()
    };
    for (own, other) in [(0, 1), (1, 0)] {
        let inside = |pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&places[other]))
        };
        let pids: Vec<u32> = children_of(folder).into_iter().filter(inside).collect();
        assert!(!pids.is_empty());
        tell(&places[own].join("src/gate"), &spying(&places[other], &pids)).await;
        until("it has looked", async || said(own).await.contains("looked")).await;
        let log = said(own).await;
        assert!(log.contains("SAW-OWN") && log.matches("SAW-").count() == 1, "{log}");
        for canary in ["canary-note", "canary-env"] {
            assert!(log.contains(&format!("{canary}-{}", names[own])), "{log}");
            assert!(!log.contains(&format!("{canary}-{}", names[other])), "{log}");
        }
        assert!(!places[other].join("src/planted").exists());
    }
    for (place, id) in places.iter().zip(&ids) {
        tell(&place.join("src/end"), "over\n").await;
        assert_eq!(server.ended(id).await["status"], "succeeded");
    }
}

#[tokio::test]
async fn a_build_has_no_capability_and_reads_neither_the_service_nor_what_is_the_superusers() {
    let server = Server::with(&[("AZURE_CLIENT_SECRET", "canary-service")]);
    // The archive's owner is nobody that this machine knows.
    let script = format!(
        "tr '\\0' '\\n' < /proc/{}/environ && echo SAW-SERVICE
        cat /etc/shadow && echo SAW-SHADOW; cat /etc/passwd > /dev/null && echo SAW-PASSWD
        grep '^Cap' /proc/self/status; touch file; tar --owner 4242 -cf a.tar file; mkdir new; tar -xf a.tar -C new && echo UNPACKED
        echo looked",
        server.child.id()
    );
    let root = project(
        server.folder.path(),
        "powers",
        &[("index.html", "x"), ("build.sh", script.as_str()), ("windlass.toml", "build = \"sh build.sh\"\n")],
    );
    let status = server.deploy(&root, &[]);
    assert_eq!(status["status"], "succeeded", "{status}");
    let id = status["deploymentId"].as_str().unwrap();
    let said = server.get(&format!("/deploy/{id}/logs?step=build")).await.1.to_string();
    for seen in ["SAW-PASSWD", "UNPACKED", "looked"] {
        assert!(said.contains(seen), "{seen}: {said}");
    }
    for broken in ["SAW-SERVICE", "SAW-SHADOW", "canary-service"] {
        assert!(!said.contains(broken), "{broken}: {said}");
    }
    let sets = ["Inh", "Prm", "Eff", "Amb", "Bnd"];
    // Nobody else's bounding set is ours to change, and it gives nobody else anything.
    let ours = if rustix::process::geteuid().is_root() { 5 } else { 4 };
    for set in &sets[..ours] {
        assert!(said.contains(&format!("Cap{set}:\\t0000000000000000")), "{set}: {said}");
    }
    // The superuser reads everything; another user's processes do not even read each other.
    let environment = std::fs::read(format!("/proc/{}/environ", server.child.id()));
    assert!(environment.is_err() || rustix::process::geteuid().is_root());
}

/// Listens, and answers that it cannot.
const SICK: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
class App(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), App).serve_forever()
"#;

#[tokio::test]
async fn an_app_that_never_listens_fails_and_the_old_release_stays() {
    if !have("python3") {
        return;
    }
    let server = Server::start();
    let start =
        |command: &str, seconds: u32| format!("start = \"{command}\"\n[health]\nstart_seconds = {seconds}\n");
    let good = project(
        server.folder.path(),
        "app",
        &[("app.py", &std::fs::read_to_string(example("python-api").join("app.py")).unwrap())],
    );
    assert_eq!(server.deploy(&good, &[])["status"], "succeeded");
    std::fs::write(good.join("sick.py"), SICK).unwrap();
    for (command, seconds, code, says) in [
        ("sleep 300", 1, "RELEASE_UNHEALTHY", "let it listen on $HOST:$PORT"),
        ("python3 sick.py", 5, "RELEASE_UNHEALTHY", "GET / answered 500; its log may say why"),
        ("echo going down; exit 3", 1, "RELEASE_CRASHED", "it ended with"),
    ] {
        std::fs::write(good.join("windlass.toml"), start(command, seconds)).unwrap();
        let status = server.deploy(&good, &[]);
        assert_eq!(status["error"]["code"], code, "{status}");
        assert!(status["error"]["message"].as_str().unwrap().contains(says), "{status}");
        assert_eq!(server.app("app.localhost", "/").await.0, 200);
    }
}

#[tokio::test]
async fn an_app_that_prints_its_secret_and_dies_leaves_it_nowhere() {
    let server = Server::start();
    let start = "start = \"echo got $API_KEY; exit 3\"\n[health]\nstart_seconds = 1\n";
    let root = project(server.folder.path(), "teller", &[("app.py", "x"), ("windlass.toml", start)]);
    let status = server.deploy(&root, &["--env", "API_KEY=canary-api-key"]);
    assert_eq!(status["error"]["code"], "RELEASE_CRASHED", "{status}");
    let told = status.to_string();
    assert!(!told.contains("canary-api-key"), "{told}");
    let found = std::process::Command::new("grep")
        .args(["-rl", "canary-api-key"])
        .arg(server.folder.path().join("data"))
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.is_empty() && !server.log().contains("canary-api-key"), "{found}");
}

#[tokio::test]
async fn a_build_that_cannot_begin_or_leaves_nothing_says_so() {
    let server = Server::start();
    // The kernel takes 128 KiB in one argument of a command.
    let long = format!("build = \"true {}\"\n", "x".repeat(200 << 10));
    for (name, project_file, code, says) in [
        ("long", long.as_str(), "BUILD_NOT_STARTED", "the build could not be started"),
        ("void", "build = \"true\"\noutput = \"out\"\n", "BUILD_OUTPUT_MISSING", "`out` does not exist"),
    ] {
        let files = [("index.html", "x"), ("windlass.toml", project_file)];
        let status = server.deploy(&project(server.folder.path(), name, &files), &[]);
        assert_eq!(
            (status["status"].as_str(), status["error"]["code"].as_str()),
            (Some("failed"), Some(code)),
            "{name}"
        );
        assert!(status["error"]["message"].as_str().unwrap().contains(says), "{}", status["error"]);
    }
}

#[tokio::test]
async fn a_stored_build_that_is_damaged_does_not_go_live() {
    let server = Server::start();
    let root = project(server.folder.path(), "site", &[("index.html", "first")]);
    let first = server.deploy(&root, &[]);
    let digest = first["steps"][3]["output"]["artifact"]["digest"].as_str().unwrap();
    let (folder, name) = digest.split_at(2);
    let owners = std::fs::read_dir(server.folder.path().join("data/blobs")).unwrap().flatten();
    let paths: Vec<_> =
        owners.map(|owner| owner.path().join(folder).join(name)).filter(|path| path.exists()).collect();
    assert_eq!(paths.len(), 1, "{digest}");
    std::fs::remove_file(&paths[0]).unwrap();
    std::fs::write(&paths[0], "no bundle").unwrap();
    // The same inputs: the stored build is taken, not another one.
    let second = server.deploy(&root, &[]);
    assert_eq!(second["steps"][3]["output"]["reused"], true, "{second}");
    assert_eq!(
        (second["status"].as_str(), second["error"]["code"].as_str()),
        (Some("failed"), Some("RELEASE_NOT_UNPACKED"))
    );
    let (code, text) = server.app("site.localhost", "/").await;
    assert!(code == 200 && text.contains("first"), "{text}");
}
