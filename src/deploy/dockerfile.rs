//! A Dockerfile for a project that has none: the same text for the same plan.
//!
//! Dependencies come before the rest of the source, so that their layer is found again; what runs is nobody's root.

use super::detect::{Kind, Plan};

/// Where an app listens inside its container unless its project says otherwise.
pub const PORT: u16 = 8080;
/// The user that runs the app.
const USER: u32 = 1000;

struct Recipe {
    base: &'static str,
    /// Files that decide what is installed, and how; those that exist are copied and used first.
    install: Option<(&'static [&'static str], &'static str)>,
    /// A probe that the base can run, without its address.
    probe: &'static str,
}

fn recipe(kind: Kind) -> Recipe {
    match kind {
        Kind::Static => Recipe {
            base: "docker.io/nginxinc/nginx-unprivileged:1.29-alpine",
            install: None,
            probe: "wget -q -O /dev/null",
        },
        Kind::Node => Recipe {
            base: "docker.io/library/node:22-slim",
            install: Some((
                &["package.json", "package-lock.json"],
                "if [ -f package-lock.json ]; then npm ci; elif [ -f package.json ]; then npm install; fi",
            )),
            probe: "node -e \"fetch(process.argv[1]).then(r => process.exit(r.status < 500 ? 0 : 1), () => process.exit(1))\"",
        },
        Kind::Python => Recipe {
            base: "docker.io/library/python:3.13-slim",
            install: Some((
                &["requirements.txt"],
                "if [ -f requirements.txt ]; then pip install --no-cache-dir -r requirements.txt; fi",
            )),
            probe: "python -c \"import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=20)\"",
        },
        Kind::Rust => Recipe { base: "docker.io/library/rust:1-slim", install: None, probe: SHELL_PROBE },
        Kind::Go => Recipe { base: "docker.io/library/golang:1", install: None, probe: SHELL_PROBE },
        Kind::Procfile | Kind::Docker => Recipe {
            base: "docker.io/library/buildpack-deps:stable-curl",
            install: None,
            probe: "curl -fsS -o /dev/null",
        },
    }
}

/// Bash alone can tell whether somebody listens.
const SHELL_PROBE: &str =
    "bash -c 'rest=${1#http://}; host=${rest%%:*}; port=${rest#*:}; exec 3<>/dev/tcp/$host/${port%%/*}' --";

/// The Dockerfile of the plan, for a source that has the files that `has` says.
#[must_use]
pub fn dockerfile(plan: &Plan, has: &dyn Fn(&str) -> bool) -> String {
    let recipe = recipe(plan.kind);
    let port = plan.port.unwrap_or(PORT);
    let mut lines = vec![format!("FROM {}", recipe.base)];
    if plan.kind == Kind::Static {
        lines.push("USER root".to_owned());
    }
    lines.push("WORKDIR /app".to_owned());
    if let Some((files, command)) = recipe.install {
        let files: Vec<&str> = files.iter().copied().filter(|file| has(file)).collect();
        if !files.is_empty() {
            lines.push(format!("COPY {} ./", files.join(" ")));
            lines.push(format!("RUN {command}"));
        }
    }
    lines.push("COPY . .".to_owned());
    for (name, value) in &plan.build_variables {
        lines.push(format!("ARG {name}={}", quoted(value)));
    }
    if let Some(build) = &plan.build {
        // As one word, so that it means the same as elsewhere, lines and all.
        lines.push(format!("RUN {}", serde_json::json!(["/bin/sh", "-c", build])));
    }
    if plan.kind == Kind::Static {
        let output = if plan.output == "." { String::new() } else { format!("/{}", plan.output) };
        lines.push(format!("RUN rm -rf /usr/share/nginx/html && cp -R /app{output} /usr/share/nginx/html"));
    } else {
        lines.push(format!("ENV PORT={port}"));
    }
    lines.push(format!("RUN chown -R {USER}:{USER} /app"));
    lines.push(format!("USER {USER}"));
    lines.push(format!("EXPOSE {port}"));
    // A path that a shell would take apart is looked at by the platform's own probe only.
    let plain =
        |path: &&str| path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-~%".contains(&byte));
    let path = plan.probe.path.as_deref().filter(plain).unwrap_or("/");
    lines.push(format!(
        "HEALTHCHECK --interval=30s --timeout=30s --start-period=5s --retries=3 CMD {} http://127.0.0.1:{port}{path}",
        recipe.probe
    ));
    if let Some(start) = &plan.start {
        let command = serde_json::json!(["/bin/sh", "-c", start]);
        lines.push(format!("CMD {command}"));
    }
    lines.join("\n") + "\n"
}

fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_and_it_does_not_run_as_root() {
        for kind in [Kind::Static, Kind::Node, Kind::Python, Kind::Rust, Kind::Go, Kind::Procfile] {
            let mut plan = Plan::new(kind, (kind != Kind::Static).then(|| "./run \"all\"".to_owned()));
            plan.build = Some("make".to_owned());
            let text = dockerfile(&plan, &|_| true);
            assert_eq!(text, dockerfile(&plan, &|_| true));
            assert!(text.contains("RUN [\"/bin/sh\",\"-c\",\"make\"]"), "{text}");
            let last_user = text.lines().rfind(|line| line.starts_with("USER")).unwrap();
            assert_eq!(last_user, "USER 1000", "{text}");
            assert!(text.contains("HEALTHCHECK --interval=30s --timeout=30s --start-period=5s --retries=3"));
            assert!(text.contains("EXPOSE 8080\n"));
            assert_eq!(text.contains("CMD [\"/bin/sh\",\"-c\",\"./run \\\"all\\\"\"]"), kind != Kind::Static);
        }
    }

    #[test]
    fn the_projects_port_is_exposed_and_told_to_the_app() {
        let mut plan = Plan::new(Kind::Python, Some("python app.py".to_owned()));
        plan.port = Some(8000);
        let text = dockerfile(&plan, &|_| true);
        let ports: Vec<&str> = text.lines().filter(|line| line.starts_with("EXPOSE")).collect();
        assert_eq!(ports, ["EXPOSE 8000"]);
        assert!(text.contains("ENV PORT=8000\n") && text.contains("http://127.0.0.1:8000/"), "{text}");
    }

    #[test]
    fn dependencies_come_before_the_source() {
        let plan = Plan::new(Kind::Node, Some("node server.js".to_owned()));
        assert!(!dockerfile(&plan, &|_| false).contains("npm"), "nothing to install from");
        let text = dockerfile(&plan, &|_| true);
        let at = |part: &str| text.find(part).unwrap();
        assert!(at("COPY package.json") < at("npm ci") && at("npm ci") < at("COPY . ."), "{text}");
    }
}
