//! `windlass doctor`: what this machine has, and what to do about what it lacks.

use std::path::Path;

use super::{Output, exit};
use crate::api::finding::{Finding, State};

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
    let hard = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    match hard {
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
        let findings = look(folder.path(), "/nowhere");
        let engine = findings.iter().find(|finding| finding.name == "container-engine").unwrap();
        assert_eq!((engine.state, engine.seen.contains("optional")), (State::Absent, true));
        std::fs::write(folder.path().join("docker"), "").unwrap();
        let findings = look(folder.path(), folder.path().to_str().unwrap());
        assert!(findings.contains(&Finding::ok("container-engine", "docker")));
    }
}
