//! `windlass doctor`: what this machine has, and what to do about what it lacks.

use std::path::Path;

use serde::Serialize;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// `ok`, `warn` or `fail`.
    pub state: &'static str,
    /// What was found, and what to do.
    pub text: String,
}

fn finding(name: &str, state: &'static str, text: impl Into<String>) -> Finding {
    Finding { name: name.to_owned(), state, text: text.into() }
}

/// Looks at everything that needs no server.
#[must_use]
pub fn look(data_dir: &Path, path: &str) -> Vec<Finding> {
    let mut findings = vec![writable(data_dir), landlock()];
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
        Some(engine) => finding("container engine", "ok", *engine),
        None => finding("container engine", "ok", "none; it is optional"),
    });
    findings.extend(open_socket());
    findings
}

/// The cage does not keep builds from sockets that have a path (ADR 0005).
fn open_socket() -> Option<Finding> {
    let found = ["/var/run/docker.sock", "/run/podman/podman.sock"]
        .into_iter()
        .find(|path| std::os::unix::net::UnixStream::connect(path).is_ok())?;
    let text = format!(
        "builds can use {found} as this user can, and so become root; run the service as another user"
    );
    Some(finding("engine socket", "warn", text))
}

fn writable(data_dir: &Path) -> Finding {
    let probe = data_dir.join("doctor");
    match std::fs::create_dir_all(data_dir)
        .and_then(|()| std::fs::write(&probe, "x"))
        .and_then(|()| std::fs::remove_file(&probe))
    {
        Ok(()) => finding("data folder", "ok", data_dir.display().to_string()),
        Err(error) => finding(
            "data folder",
            "fail",
            format!("{} cannot be written ({error}); choose another with --data-dir", data_dir.display()),
        ),
    }
}

fn landlock() -> Finding {
    use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
    let hard = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    match hard {
        Ok(_) => finding("build sandbox", "ok", "Landlock"),
        Err(error) => finding(
            "build sandbox",
            "fail",
            format!("Landlock is not available ({error}); Linux 5.13 or newer is needed to build"),
        ),
    }
}

fn program(name: &str, use_: &str, path: &str) -> Finding {
    match find(name, path) {
        Some(found) => finding(name, "ok", found),
        None => finding(name, "warn", format!("not on the PATH; needed for {use_}")),
    }
}

fn find(name: &str, path: &str) -> Option<String> {
    path.split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|program| program.is_file())
        .map(|program| program.display().to_string())
}
