//! Projects with a Dockerfile, and the Dockerfiles that are ours, built and run by the real podman.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::dockerfile::{dockerfile, recipe};

use super::{Server, have, until};

/// An image needs no registry when it begins with nothing: a static busybox is all that is in it.
const DOCKERFILE: &str = r#"FROM scratch
COPY busybox /bin/busybox
COPY start.sh /start.sh
RUN ["/bin/busybox", "sh", "-c", "echo built in a container; /bin/busybox mkdir -p /www /tmp"]
EXPOSE 9000
CMD ["/bin/busybox", "sh", "/start.sh"]
"#;
const START: &str = r#"echo "release on $PORT"
/bin/busybox env > /www/index.html
exec /bin/busybox httpd -f -p "$PORT" -h /www
"#;

fn project(folder: &Path) -> PathBuf {
    let root = folder.join("boxed");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy("/bin/busybox", root.join("busybox")).unwrap();
    std::fs::write(root.join("Dockerfile"), DOCKERFILE).unwrap();
    std::fs::write(root.join("start.sh"), START).unwrap();
    root
}

/// Settings of a podman that uses runc and asks for no more than a confined root may have, where there is one.
pub(crate) fn engine() -> Option<PathBuf> {
    if !["podman", "runc", "busybox"].iter().all(|tool| have(tool)) {
        return None;
    }
    let conf = std::env::temp_dir().join(format!("windlass-containers-{}.conf", std::process::id()));
    std::fs::write(
        &conf,
        "[engine]\nruntime = \"runc\"\n[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n",
    )
    .unwrap();
    Some(conf)
}

/// A service with that engine.
fn server() -> Option<Server> {
    engine().map(|conf| Server::with(&[("CONTAINERS_CONF", conf.to_str().unwrap())]))
}

fn podman(arguments: &[&str]) -> String {
    let output = Command::new("podman").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What the service calls its containers and images.
fn owner(server: &Server) -> String {
    let data = server.folder.path().join("data").canonicalize().unwrap();
    let owner = windlass::deploy::ids::Digest::of(data.as_os_str().as_encoded_bytes()).to_string();
    format!("windlass-{}", &owner[..12])
}

/// What the engine holds that carries the name of this service.
fn left(server: &Server) -> String {
    let owner = owner(server);
    let label = format!("label=windlass.owner={owner}");
    let containers = podman(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"]);
    let reference = format!("reference=localhost/{owner}");
    let images = podman(&["images", "--filter", &reference, "--format", "{{.Tag}}"]);
    format!("{containers}{images}")
}

#[tokio::test]
async fn a_dockerfile_becomes_a_container_that_survives_restarts_and_leaves_nothing() {
    let Some(server) = server() else { return };
    let root = project(server.folder.path());
    let status = server.deploy(&root, &["--env", "GREETING=canary box"]);
    assert_eq!(status["status"], "succeeded", "{status}\n{}", server.log());
    let id = status["deploymentId"].as_str().unwrap();
    let log = String::from_utf8(server.cli(&["logs", id]).stdout).unwrap();
    assert!(log.contains("built in a container") && !log.contains("canary box"), "{log}");
    let (code, page) = server.app("boxed.localhost", "/").await;
    assert!(code == 200 && page.contains("GREETING=canary box") && page.contains("PORT=9000"), "{page}");
    let said = String::from_utf8(server.cli(&["logs", "--app", "boxed"]).stdout).unwrap();
    assert!(said.contains("release on 9000"), "{said}");
    assert_eq!(left(&server).lines().count(), 2, "one container and its image: {}", left(&server));

    let server = server.kill_and_restart();
    until("it answers after the restart", async || server.app("boxed.localhost", "/").await.0 == 200).await;
    assert_eq!(left(&server).lines().count(), 2, "{}", left(&server));

    // The next release takes the place of the first one, which is drained and removed.
    std::fs::write(
        root.join("start.sh"),
        START.replace("index.html", "index.html; echo second >> /www/index.html"),
    )
    .unwrap();
    let status = server.deploy(&root, &[]);
    assert_eq!(status["status"], "succeeded", "{status}\n{}", server.log());
    assert!(server.app("boxed.localhost", "/").await.1.contains("second"));
    until("the old container is gone", async || left(&server).lines().count() == 2).await;
    assert!(std::fs::read_dir(server.folder.path().join("data/workspaces")).unwrap().next().is_none());

    // Told to stop, the service takes its container down; the image stays for the next start.
    let server = server.stop();
    let image = left(&server);
    assert_eq!(image.lines().count(), 1, "{image}");
    podman(&["rmi", "--force", &format!("localhost/{}:{}", owner(&server), image.trim())]);
}

#[tokio::test]
async fn a_dockerfile_that_fails_or_hangs_ends_and_leaves_nothing() {
    let Some(server) = server() else { return };
    let root = project(server.folder.path());
    let dockerfile = |line: &str| {
        format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"{line}\"]\n"
        )
    };
    std::fs::write(root.join("Dockerfile"), dockerfile("echo oops; exit 7")).unwrap();
    let status = server.deploy(&root, &[]);
    assert_eq!(status["error"]["code"], "BUILD_FAILED", "{status}");
    assert!(status["error"]["detail"]["tail"].to_string().contains("oops"), "{status}");

    std::fs::write(root.join("Dockerfile"), dockerfile("echo sleeping; exec /bin/busybox sleep 4711"))
        .unwrap();
    let folder = root.to_str().unwrap().to_owned();
    let output = server.cli(&["deploy", &folder, "--detach", "--json"]);
    let started: Value =
        serde_json::from_str(String::from_utf8(output.stdout).unwrap().lines().last().unwrap()).unwrap();
    let id = started["deploymentId"].as_str().unwrap().to_owned();
    until("the build sleeps", async || {
        String::from_utf8(server.cli(&["logs", &id]).stdout).unwrap().contains("sleeping")
    })
    .await;
    assert!(server.cli(&["cancel", &id]).status.success());
    assert_eq!(server.ended(&id).await["status"], "cancelled");
    let running = Command::new("pgrep").args(["-f", "busybox sleep 4711"]).output().unwrap();
    assert!(running.stdout.is_empty(), "the build goes on");
    assert_eq!(left(&server), "");
}

/// Stands in for the bases that the Dockerfiles name: a shell with its tools, a user, and a page as a web server brings it.
const BASE: &str = r#"FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin && mkdir -p /etc /tmp /usr/share/nginx/html && echo root:x:0:0::/:/bin/sh >/etc/passwd && echo theirs >/usr/share/nginx/html/50x.html"]
"#;

/// Images of a test, which go with it.
struct Images {
    conf: PathBuf,
    folder: tempfile::TempDir,
    made: Vec<String>,
}

impl Drop for Images {
    fn drop(&mut self) {
        for name in self.made.iter().rev() {
            drop(Command::new("podman").args(["rmi", "--force", name]).output());
        }
    }
}

impl Images {
    fn podman(&self, arguments: &[&str]) -> String {
        let output =
            Command::new("podman").args(arguments).env("CONTAINERS_CONF", &self.conf).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Builds these files and remembers nothing of an earlier build; gives the image's name.
    fn build(&mut self, files: &[(&str, &[u8])], more: &[&str]) -> String {
        let name = format!("localhost/windlass-test-{}:{}", std::process::id(), self.made.len());
        // Another folder, so that the files are new ones.
        let context = self.folder.path().join(self.made.len().to_string());
        for (path, content) in files {
            let path = context.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        self.made.push(name.clone());
        let context = context.to_str().unwrap();
        // Without layers nothing is left of a first stage.
        let fixed = ["build", "--quiet", "--no-cache", "--layers=false", "--timestamp", "0", "--tag", &name];
        self.podman(&[&fixed[..], more, &[context]].concat());
        name
    }

    /// What the engine says of an image.
    fn said(&self, name: &str) -> Value {
        let said: Value = serde_json::from_str(&self.podman(&["image", "inspect", name])).unwrap();
        said[0].clone()
    }

    /// Builds them twice, and gives the name of the one image that they make.
    fn build_twice(&mut self, files: &[(&str, &[u8])], more: &[&str]) -> String {
        let names = [self.build(files, more), self.build(files, more)];
        let [one, other] = names.clone().map(|name| self.said(&name));
        assert_eq!((&one["Id"], &one["Digest"]), (&other["Id"], &other["Digest"]));
        names[0].clone()
    }
}

#[test]
fn the_dockerfiles_that_are_ours_make_the_same_image_each_time() {
    let Some(conf) = engine() else { return };
    let mut images = Images { conf, folder: tempfile::tempdir().unwrap(), made: Vec::new() };
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let base = images.build(&[("busybox", &busybox), ("Dockerfile", BASE.as_bytes())], &[]);

    // A site without a Dockerfile: its base runs as somebody who may not write.
    let web = format!("FROM {base}\nUSER 101\n");
    let web = images.build(&[("Dockerfile", web.as_bytes())], &[]);
    let plan = Plan {
        build: Some("mkdir 'my site' && cp page.html 'my site/index.html'".to_owned()),
        output: "my site".to_owned(),
        ..Plan::new(Kind::Static, None)
    };
    let text = dockerfile(&plan, &|_| false).replace(recipe(Kind::Static).base, &web);
    let files: [(&str, &[u8]); 2] = [("page.html", b"hello"), ("Dockerfile", text.as_bytes())];
    let site = images.build_twice(&files, &[]);
    // The OCI format has no health check.
    let said = images.build(&files, &["--format", "docker"]);
    let said = images.said(&said);
    let config = &said["Config"];
    assert_eq!((&config["User"], &config["ExposedPorts"]), (&json!("1000"), &json!({ "8080/tcp": {} })));
    let look = &said["Healthcheck"];
    let second: u64 = 1_000_000_000;
    assert_eq!((&look["Interval"], &look["Timeout"]), (&json!(30 * second), &json!(30 * second)));
    assert_eq!((&look["StartPeriod"], &look["Retries"]), (&json!(5 * second), &json!(3)));
    let run =
        ["run", "--rm", "--network=none", "--no-healthcheck", &site, "/bin/ls", "/usr/share/nginx/html"];
    assert_eq!(images.podman(&run), "index.html\n");
    let run = ["run", "--rm", "--network=none", "--no-healthcheck", &site, "/bin/ls", "/"];
    let top = images.podman(&run);
    assert!(!top.lines().any(|name| name == "app"), "what it was built of came along: {top}");

    // Our own: the binary stands for any other.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
    let own = std::fs::read(own).unwrap();
    let files: [(&str, &[u8]); 2] = [("target/release/windlass", &busybox), ("Dockerfile", &own)];
    let own = images.build_twice(&files, &["--build-arg", &format!("BASE={base}")]);
    assert_eq!(images.said(&own)["Config"]["User"], "1000:1000");
}
