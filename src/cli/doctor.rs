//! `windlass doctor`: what this machine has, and what to do about what it lacks.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use rustix::fs::statvfs;

use super::{Output, exit};
use crate::api::finding::{Finding, State};
use crate::config::Settings;
use crate::lock::worker;

/// Room below which a build of an ordinary project may not end, in MiB.
const LITTLE_ROOM: u64 = 1_024;

/// Prints findings; the exit code says whether something does not work.
///
/// # Errors
/// When the output is closed.
pub fn tell(findings: &[Finding], out: &mut Output<'_>) -> anyhow::Result<u8> {
    for finding in findings {
        out.put(finding, |to| {
            writeln!(to, "{:6} {:18} {}", finding.state, finding.name, finding.seen)?;
            finding.next.iter().try_for_each(|next| writeln!(to, "{:25} → {next}", ""))
        })?;
    }
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    Ok(if failed { exit::FAILED } else { exit::OK })
}

/// Looks at everything that needs no server.
#[must_use]
pub fn look(settings: &Settings) -> Vec<Finding> {
    let (data_dir, path) = (&settings.data_dir, settings.path.as_str());
    let mut findings = vec![
        folder(data_dir),
        room(data_dir),
        user(),
        port("api-port", settings.bind, settings.port, "--port"),
        port("apps-port", settings.bind, settings.apps_port, "--apps-port"),
        landlock(),
    ];
    for (tool, use_) in [
        ("git", "deploying git refs"),
        ("node", "Node projects"),
        ("npm", "Node projects with dependencies"),
        ("python3", "Python projects"),
        ("cargo", "Rust projects"),
        ("go", "Go projects"),
    ] {
        findings.push(program(tool, use_, path));
    }
    let engine = ["podman", "docker"].iter().find(|engine| find(engine, path).is_some());
    findings.push(match engine {
        Some(engine) => Finding::ok("container-engine", *engine),
        None => Finding::absent("container-engine", "neither podman nor docker; they are optional"),
    });
    findings.extend(open_socket());
    findings
}

/// The cage does not keep builds from sockets that have a path (ADR 0005).
fn open_socket() -> Option<Finding> {
    let found = ["/var/run/docker.sock", "/run/podman/podman.sock"]
        .into_iter()
        .find(|path| std::os::unix::net::UnixStream::connect(path).is_ok())?;
    let seen = format!("builds can use {found} as this user can, and so become root");
    Some(Finding::warn("engine-socket", seen, "run the service as another user"))
}

/// Whether a service can keep its data there.
fn folder(data_dir: &Path) -> Finding {
    let found = writable(data_dir);
    let Some(pid) = worker(data_dir).filter(|_| found.state == State::Ok) else { return found };
    let seen = format!("{} is in use by a Windlass (process {pid})", data_dir.display());
    Finding::warn("data-folder", seen, "stop it before another one starts, or choose another --data-dir")
}

fn room(data_dir: &Path) -> Finding {
    match statvfs(data_dir) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
            let seen = format!("{free} MiB free");
            if free < LITTLE_ROOM {
                Finding::warn("disk-space", seen, "make room, or choose a --data-dir on another disk")
            } else {
                Finding::ok("disk-space", seen)
            }
        }
        Err(error) => Finding::warn("disk-space", error.to_string(), "look at the disk of the data folder"),
    }
}

fn user() -> Finding {
    let user = rustix::process::geteuid();
    if user.is_root() {
        let seen = "root: builds and apps own every file of the system";
        return Finding::warn("user", seen, "run the service as a user of its own");
    }
    Finding::ok("user", format!("{} (not root)", user.as_raw()))
}

fn port(name: &'static str, bind: IpAddr, port: u16, flag: &str) -> Finding {
    let address = SocketAddr::new(bind, port);
    match TcpListener::bind(address) {
        Ok(_) if port == 0 => Finding::ok(name, "a free one"),
        Ok(_) => Finding::ok(name, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::warn(
            name,
            format!("{address} is in use"),
            format!("choose another port with {flag}, unless the service itself answers there"),
        ),
        Err(error) => Finding::failed(
            name,
            format!("{address} cannot be listened on ({error})"),
            format!("choose another port with {flag}"),
        ),
    }
}

fn writable(data_dir: &Path) -> Finding {
    let probe = data_dir.join("doctor");
    match std::fs::create_dir_all(data_dir)
        .and_then(|()| std::fs::write(&probe, "x"))
        .and_then(|()| std::fs::remove_file(&probe))
    {
        Ok(()) => Finding::ok("data-folder", data_dir.display().to_string()),
        Err(error) => {
            let seen = format!("{} cannot be written ({error})", data_dir.display());
            Finding::failed("data-folder", seen, "choose another with --data-dir")
        }
    }
}

fn landlock() -> Finding {
    use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
    let keeps = |version| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        rules.handle_access(AccessFs::from_all(version)).and_then(Ruleset::create)
    };
    match keeps(ABI::V1) {
        // Before the third version truncate(2) is free (Landlock, "File truncation", kernel documentation).
        Ok(_) if keeps(ABI::V3).is_err() => Finding::warn(
            "build-sandbox",
            "Landlock of Linux before 6.2: a build can empty any file of this user",
            "use Linux 6.2 or newer, or run Windlass as a user of its own",
        ),
        Ok(_) => Finding::ok("build-sandbox", "Landlock"),
        Err(error) => {
            let seen = format!("Landlock is not available ({error})");
            Finding::failed(
                "build-sandbox",
                seen,
                "use Linux 5.13 or newer: without Landlock nothing is built",
            )
        }
    }
}

fn program(name: &'static str, use_: &str, path: &str) -> Finding {
    match find(name, path) {
        Some(found) => Finding::ok(name, found),
        None => Finding::warn(name, "not on the PATH", format!("install it for {use_}")),
    }
}

fn find(name: &str, path: &str) -> Option<String> {
    path.split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|program| program.is_file())
        .map(|program| program.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: bool) -> (u8, String) {
        let findings = [
            Finding::ok("container-engine", "podman"),
            Finding::absent("identity", "not used"),
            Finding::warn("clock", "90 s behind", "set it"),
            Finding::failed("cosmos", "it is not there", "make it"),
        ];
        let mut text = Vec::new();
        let code = tell(&findings, &mut Output { to: &mut text, json }).unwrap();
        (code, String::from_utf8(text).unwrap())
    }

    #[test]
    fn findings_are_told_to_people() {
        let (code, text) = told(false);
        assert_eq!(code, exit::FAILED);
        insta::assert_snapshot!(text, @r"
        ok     container-engine   podman
        absent identity           not used
        warn   clock              90 s behind
                                  → set it
        failed cosmos             it is not there
                                  → make it
        ");
    }

    #[test]
    fn findings_are_told_to_programs() {
        let (_, text) = told(true);
        insta::assert_snapshot!(text, @r#"
        {"v":1,"name":"container-engine","state":"ok","seen":"podman"}
        {"v":1,"name":"identity","state":"absent","seen":"not used"}
        {"v":1,"name":"clock","state":"warn","seen":"90 s behind","next":"set it"}
        {"v":1,"name":"cosmos","state":"failed","seen":"it is not there","next":"make it"}
        "#);
    }

    #[test]
    fn containers_are_optional() {
        let folder = tempfile::tempdir().unwrap();
        let look_in = |path: &str| {
            let data = folder.path().join("data").display().to_string();
            let values = [("WINDLASS_DATA_DIR", data.as_str()), ("PATH", path)];
            let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
            look(&Settings::from_values(&values.into()).unwrap())
        };
        let findings = look_in("/nowhere");
        let engine = findings.iter().find(|finding| finding.name == "container-engine").unwrap();
        assert_eq!((engine.state, engine.seen.contains("optional")), (State::Absent, true));
        std::fs::write(folder.path().join("docker"), "").unwrap();
        let findings = look_in(folder.path().to_str().unwrap());
        assert!(findings.contains(&Finding::ok("container-engine", "docker")));
    }
}
