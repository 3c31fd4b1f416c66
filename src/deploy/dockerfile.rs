//! A Dockerfile for a project that has none: the same text for the same plan.
//!
//! Dependencies come before the rest of the source, so that their layer is found again; what runs is nobody's root.

use std::collections::BTreeMap;

use super::detect::{Kind, Plan};

/// Where an app listens inside its container unless its project says otherwise.
pub const PORT: u16 = 8080;
/// Raised when the same plan gives another text, so that no older image passes for the new one.
const VERSION: &str = "2";
/// The user that runs the app.
pub const USER: u32 = 1000;
/// Where an app lives in its image.
pub const APP: &str = "/app";
/// Where the web server of static sites looks for them.
pub const SITE: &str = "/usr/share/nginx/html";

/// How often an image says that it is to be looked at, in seconds, and how many failures count.
pub const HEALTH_INTERVAL: u64 = 30;
/// Seconds that a look may take.
pub const HEALTH_TIMEOUT: u64 = 30;
/// Seconds from the start in which failures do not count.
pub const HEALTH_START: u64 = 5;
/// Failures in a row that make it unhealthy.
pub const HEALTH_RETRIES: u32 = 3;

/// What an image of a kind of project is made of.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The image to begin with.
    pub base: &'static str,
    /// Files that decide what is installed, and how; those that exist are copied and used first.
    install: Option<(&'static [&'static str], &'static str)>,
    /// A probe that the base can run, without its address.
    probe: &'static str,
}

impl Recipe {
    /// The shell command that tells whether the app of this plan is well.
    #[must_use]
    pub fn health_command(&self, plan: &Plan) -> String {
        // A path that a shell would take apart is looked at by the platform's own probe only.
        let plain =
            |path: &&str| path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-~%".contains(&byte));
        let path = plan.probe.path.as_deref().filter(plain).unwrap_or("/");
        format!("{} http://127.0.0.1:{}{path}", self.probe, plan.port.unwrap_or(PORT))
    }
}

/// What starts the app of this plan, as an image says it; none when the base knows.
#[must_use]
pub fn start_command(plan: &Plan) -> Option<serde_json::Value> {
    // As one word, so that it means the same as elsewhere, lines and all.
    plan.start.as_ref().map(|start| serde_json::json!(["/bin/sh", "-c", start]))
}

/// What images of this kind are made of.
#[must_use]
pub fn recipe(kind: Kind) -> Recipe {
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
        lines = vec![format!("FROM {} AS build", recipe.base), "USER root".to_owned()];
    }
    lines.push(format!("WORKDIR {APP}"));
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
        lines.extend(site(recipe.base, &plan.output));
    } else {
        lines.push(format!("ENV PORT={port}"));
        lines.push(format!("RUN chown -R {USER}:{USER} {APP}"));
    }
    lines.push(format!("USER {USER}"));
    lines.push(format!("EXPOSE {port}"));
    lines.push(format!(
        "HEALTHCHECK --interval={HEALTH_INTERVAL}s --timeout={HEALTH_TIMEOUT}s --start-period={HEALTH_START}s --retries={HEALTH_RETRIES} CMD {}",
        recipe.health_command(plan)
    ));
    if let Some(command) = start_command(plan) {
        lines.push(format!("CMD {command}"));
    }
    lines.join("\n") + "\n"
}

/// A second stage, so that a site's image has what was built and nothing that it was built of.
fn site(base: &str, output: &str) -> [String; 4] {
    let built = if output == "." { APP.to_owned() } else { format!("{APP}/{output}") };
    [
        format!("FROM {base}"),
        "USER root".to_owned(),
        // The base has pages of its own there.
        format!("RUN rm -rf {SITE}"),
        format!("COPY --from=build {}", serde_json::json!([built, SITE])),
    ]
}

/// What the text depends on besides the source's files, the build command, its variables and the folder that it fills; by
/// name.
#[must_use]
pub fn inputs(plan: &Plan) -> BTreeMap<String, String> {
    let port = plan.port.unwrap_or(PORT).to_string();
    [
        ("kind of project", format!("{:?}", plan.kind).to_lowercase()),
        ("start command", plan.start.clone().unwrap_or_default()),
        ("port", port),
        ("health check", plan.probe.path.clone().unwrap_or_default()),
        ("Dockerfile version", VERSION.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The lowest port that the last stage of a Dockerfile says it listens on. What a variable or its base says is not known here.
#[must_use]
pub fn exposed(text: &str) -> Option<u16> {
    let mut ports: Vec<u16> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let instruction = words.next().unwrap_or_default();
        if instruction.eq_ignore_ascii_case("FROM") {
            ports.clear();
        } else if instruction.eq_ignore_ascii_case("EXPOSE") {
            ports.extend(words.filter_map(port));
        }
    }
    ports.into_iter().min()
}

/// `8080`, `8080/tcp`, or the first of `8080-8090`.
fn port(word: &str) -> Option<u16> {
    let (port, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    port.split('-').next()?.parse().ok().filter(|_| protocol.eq_ignore_ascii_case("tcp"))
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
    fn whatever_changes_the_text_is_among_the_inputs() {
        let plain = || Plan::new(Kind::Node, Some("node server.js".to_owned()));
        let mut plans = vec![plain(), Plan::new(Kind::Static, None), Plan::new(Kind::Python, plain().start)];
        let mut with = |change: &dyn Fn(&mut Plan)| {
            let mut plan = plain();
            change(&mut plan);
            plans.push(plan);
        };
        with(&|plan| plan.start = Some("node other.js".to_owned()));
        with(&|plan| plan.port = Some(3_000));
        with(&|plan| plan.probe.path = Some("/up".to_owned()));
        for (index, one) in plans.iter().enumerate() {
            for other in &plans[..index] {
                assert_ne!(dockerfile(one, &|_| true), dockerfile(other, &|_| true));
                assert_ne!(inputs(one), inputs(other));
            }
        }
    }

    #[test]
    fn the_last_stages_lowest_port_counts() {
        for (text, wanted) in [
            ("FROM x\nEXPOSE 3000", Some(3_000)),
            ("FROM x\nexpose 9000/tcp 53/udp\nEXPOSE 8000-8010", Some(8_000)),
            ("FROM x AS build\nEXPOSE 80\nFROM y\nCMD [\"./run\"]", None),
            ("FROM x\n# EXPOSE 1\nEXPOSE $PORT 70000", None),
            ("", None),
        ] {
            assert_eq!(exposed(text), wanted, "{text}");
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
    fn a_site_brings_what_was_built_and_nothing_else() {
        for (output, folder) in [(".", "/app"), ("my site", "/app/my site")] {
            let plan = Plan { output: output.to_owned(), ..Plan::new(Kind::Static, None) };
            let text = dockerfile(&plan, &|_| true);
            let (build, site) = text.split_once("\nFROM ").unwrap();
            assert!(build.contains(" AS build\n") && build.contains("COPY . ."), "{text}");
            let copies: Vec<&str> = site.lines().filter(|line| line.starts_with("COPY")).collect();
            assert_eq!(copies, [format!("COPY --from=build [\"{folder}\",\"{SITE}\"]")]);
        }
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
