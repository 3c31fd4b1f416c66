//! The real program over real HTTP, with real builds and apps.

mod cli;
pub(crate) mod containers;
mod contract;
mod deploys;
mod durability;
mod fuzz;
mod handler;
mod leftovers;
mod package;
mod proxy;
mod readiness;
mod service;
mod stalled;
mod telemetry;
mod zero_downtime;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use windlass::embedded::upstream::{Pool, empty, full};

/// How long anything may take before a test gives up: far beyond a slow machine, so that it only ends a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_windlass")
}

/// The program with nothing of our environment but what every machine has.
pub(crate) fn windlass(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", std::env::var_os("HOME").unwrap());
    command.env("XDG_CACHE_HOME", folder.join("cache")).current_dir(folder);
    command
}

/// Whether a tool that a test needs is there. CI has them all (`WINDLASS_CI`), a bare machine may lack some.
#[expect(clippy::print_stderr, reason = "whoever runs the tests has to see what was left out")]
pub(crate) fn have(tool: &str) -> bool {
    let found =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join(tool).is_file());
    assert!(found || std::env::var_os("WINDLASS_CI").is_none(), "CI has to have {tool}");
    if !found {
        eprintln!("NOT TESTED: {tool} is not installed on this machine");
    }
    found
}

pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A copy of an example that a test may change.
pub(crate) fn copy_of(name: &str, to: &Path) -> PathBuf {
    let target = to.join(name);
    assert!(Command::new("cp").arg("-r").arg(example(name)).arg(&target).status().unwrap().success());
    target
}

/// A folder with these files.
pub(crate) fn project(folder: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = folder.join(name);
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

/// A running service in a folder of its own.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) api: SocketAddr,
    pub(crate) apps: SocketAddr,
    pub(crate) pool: Pool,
    pub(crate) folder: std::sync::Arc<TempDir>,
    settings: Vec<(String, String)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        kill_marked(self.folder.path());
    }
}

/// Kills what a test left running, as the next start of the service would.
fn kill_marked(folder: &Path) {
    for pid in children_of(folder) {
        drop(Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status());
    }
}

/// Processes that a service in this folder started, by their working folder.
pub(crate) fn children_of(folder: &Path) -> Vec<u32> {
    let data = folder.join("data");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let inside = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&data));
        // A zombie is only waiting to be noticed.
        let dead = std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| stat.contains(") Z "));
        if inside && !dead {
            found.push(pid);
        }
    }
    found
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::begin(std::sync::Arc::new(tempfile::tempdir().unwrap()), settings)
    }

    fn begin(folder: std::sync::Arc<TempDir>, settings: Vec<(String, String)>) -> Self {
        let mut command = windlass(folder.path());
        command.args(["serve", "--port", "0", "--apps-port", "0", "--data-dir", "data"]);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.path().join("service.log"))
            .unwrap();
        let mut child = command.envs(settings.clone()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let number = |before: &str| {
            line.split(before)
                .nth(1)
                .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u16>().ok())
        };
        let (Some(api), Some(apps)) = (number("127.0.0.1:"), number("localhost:")) else {
            panic!(
                "the service did not start: {line} {}",
                std::fs::read_to_string(folder.path().join("service.log")).unwrap()
            );
        };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            child,
            api: address(api),
            apps: address(apps),
            pool: Pool::new(tokio::runtime::Handle::current()),
            folder,
            settings,
        }
    }

    /// SIGKILL, then a new service on the same folder.
    pub(crate) fn kill_and_restart(self) -> Self {
        let (folder, settings) = (std::sync::Arc::clone(&self.folder), self.settings.clone());
        let mut old = self;
        old.child.kill().unwrap();
        old.child.wait().unwrap();
        // What it started is left as it is: the new service has to deal with it.
        old.settings.clear();
        std::mem::forget(old);
        Self::begin(folder, settings)
    }

    /// SIGTERM, and waits until it has stopped.
    pub(crate) fn stop(mut self) -> Self {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        self
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("service.log")).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// A folder of a static site with this page.
    pub(crate) fn site(&self, name: &str, page: &str) -> PathBuf {
        project(self.folder.path(), name, &[("index.html", page)])
    }

    /// The command line against this service.
    pub(crate) fn cli(&self, arguments: &[&str]) -> std::process::Output {
        windlass(self.folder.path()).args(["--server", &self.url()]).args(arguments).output().unwrap()
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let body: Bytes = body.into();
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", self.api.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_empty() { empty() } else { full(body) };
        self.pool.fetch(self.api, request.body(body).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        parsed(&self.call("GET", path, &[], Bytes::new()).await)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        parsed(&self.call("POST", path, &[("content-type", "application/json")], body.to_string()).await)
    }

    /// What an app answers.
    pub(crate) async fn app(&self, host: &str, path: &str) -> (u16, String) {
        let request = Request::get(path).header("host", host).body(empty()).unwrap();
        let answer = self.pool.fetch(self.apps, request).await.unwrap();
        (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// Deploys a folder with the command line; gives the deployment's last status.
    pub(crate) fn deploy(&self, folder: &Path, more: &[&str]) -> Value {
        let mut arguments = vec!["deploy", folder.to_str().unwrap(), "--json"];
        arguments.extend(more);
        let output = self.cli(&arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let last =
            text.lines().last().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_str(last).unwrap()
    }

    /// Waits until the deployment has ended, by its event stream.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        let output = tokio::time::timeout(
            PATIENCE,
            self.call("GET", &format!("/deploy/{id}/logs?follow=1"), &[], Bytes::new()),
        )
        .await;
        assert!(
            output.is_ok(),
            "{id} did not end: {:?}\n{}",
            self.get(&format!("/deploy/{id}/status")).await,
            self.log()
        );
        self.get(&format!("/deploy/{id}/status")).await.1
    }
}

pub(crate) fn parsed(answer: &Response<Bytes>) -> (u16, Value) {
    (
        answer.status().as_u16(),
        serde_json::from_slice(answer.body())
            .unwrap_or_else(|_| json!(String::from_utf8_lossy(answer.body()))),
    )
}

/// A number that whoever runs the tests may choose.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Looks again and again until `done` says yes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(20))).await.unwrap();
    }
}

pub(crate) fn request(project: &str) -> Value {
    json!({ "projectId": project, "userId": "user123", "organizationId": "org456", "projectName": project, "environment": "development" })
}
