//! Finds out how a source is built and started, from its file names and a few of its files.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::dockerfile::exposed;
use super::project_file::{HealthSection, ProjectFile};
use super::target::{Strategy, Target};

/// Build commands of Node projects that install what `package.json` asks for and do nothing else: with and without a lock file.
pub const NODE_INSTALLS: [&str; 2] = ["npm ci --no-audit --no-fund", "npm install --no-audit --no-fund"];

/// What sort of project it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Files, served as they are.
    Static,
    /// `package.json`.
    Node,
    /// `requirements.txt`, `pyproject.toml`, or `app.py`/`main.py`.
    Python,
    /// `Cargo.toml`.
    Rust,
    /// `go.mod`.
    Go,
    /// `Procfile` with a `web` line.
    Procfile,
    /// `Dockerfile`.
    Docker,
}

/// How to check a replica's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// `None`: any answer below 500 on `/` will do; otherwise 200–399 on this path.
    pub path: Option<String>,
    /// Of one probe.
    pub timeout_ms: u64,
    /// From one probe to the next.
    pub interval_ms: u64,
    /// Of the whole start.
    pub start_seconds: u64,
    /// Failed probes in a row that a running replica survives.
    pub retries: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self { path: None, timeout_ms: 2_000, interval_ms: 100, start_seconds: 60, retries: 3 }
    }
}

/// How a source becomes a running app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What sort of project it is.
    pub kind: Kind,
    /// Run once before packing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Run for each replica; `None` for static sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// What is packed, relative to the source.
    pub output: String,
    /// When a replica counts as healthy.
    pub probe: Probe,
    /// Replicas that the project asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Host names that the project asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// CPU and memory that the project asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<super::size::Size>,
    /// Where a container listens, when the image does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Variables of the running app that the project sets itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Variables of the build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_variables: BTreeMap<String, String>,
    /// Where it runs on Azure.
    #[serde(default, skip_serializing_if = "Target::is_usual")]
    pub target: Target,
    /// In which order releases change places.
    #[serde(default, skip_serializing_if = "Strategy::is_usual")]
    pub strategy: Strategy,
}

impl Plan {
    /// A project of this kind that nothing more is known of.
    #[must_use]
    pub fn new(kind: Kind, start: Option<String>) -> Self {
        Self {
            kind,
            build: None,
            start,
            output: ".".to_owned(),
            probe: Probe::default(),
            replicas: None,
            domains: Vec::new(),
            size: None,
            port: None,
            variables: BTreeMap::new(),
            build_variables: BTreeMap::new(),
            target: Target::default(),
            strategy: Strategy::default(),
        }
    }
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetectError {
    /// Nothing that we know.
    #[error(
        "cannot tell how to run this project: it has none of index.html, package.json, requirements.txt, pyproject.toml, app.py, main.py, Cargo.toml, go.mod, Procfile or Dockerfile. Add one, or a windlass.toml with kind and start"
    )]
    Unknown,
    /// Known, but it does not say how to start.
    #[error("this {kind:?} project does not say how it starts: {hint}")]
    NoStart {
        /// What it is.
        kind: Kind,
        /// What to add.
        hint: &'static str,
        /// All that is known but the start.
        plan: Box<Plan>,
    },
    /// `windlass.toml` cannot be used.
    #[error("windlass.toml: {0}")]
    ProjectFile(String),
}

/// The few things that detection asks about a source.
pub struct Facts<'a> {
    /// Whether there is such a file.
    pub has: &'a dyn Fn(&str) -> bool,
    /// Content of `package.json`, where there is one.
    pub package_json: Option<String>,
    /// Content of `Procfile`.
    pub procfile: Option<String>,
    /// Content of `Cargo.toml`.
    pub cargo_toml: Option<String>,
    /// Content of `Dockerfile`.
    pub dockerfile: Option<String>,
    /// Content of `windlass.toml`.
    pub project_file: Option<String>,
}

/// Makes the plan.
///
/// # Errors
/// [`DetectError`], which says what to add.
pub fn detect(facts: &Facts<'_>) -> Result<Plan, DetectError> {
    let text = facts.project_file.as_deref().unwrap_or_default();
    let file = ProjectFile::parse(text).map_err(DetectError::ProjectFile)?;
    let kind = file
        .kind
        .or_else(|| kind(facts))
        .or(file.start.is_some().then_some(Kind::Procfile))
        .ok_or(DetectError::Unknown)?;
    let mut plan = match kind {
        Kind::Static => site(facts),
        Kind::Node => node(facts)?,
        Kind::Python => python(facts),
        Kind::Rust => rust(facts),
        Kind::Go => plain(Kind::Go, Some("go build -o .windlass-app ."), Some("./.windlass-app")),
        Kind::Procfile => plain(Kind::Procfile, None, None),
        Kind::Docker => {
            Plan { port: facts.dockerfile.as_deref().and_then(exposed), ..plain(Kind::Docker, None, None) }
        }
    };
    // An image says itself how it starts.
    if let Some(web) = facts.procfile.as_deref().and_then(web_line).filter(|_| kind != Kind::Docker) {
        plan.start = Some(web);
    }
    amend(&mut plan, file)?;
    let hint = match kind {
        Kind::Static | Kind::Docker => return Ok(plan),
        Kind::Node => "add a start script to package.json, or an index.js, server.js or app.js",
        Kind::Python => "add an app.py or main.py, or a start command to windlass.toml",
        Kind::Procfile => "add a line `web: <command>` to the Procfile",
        Kind::Rust | Kind::Go => "add a start command to windlass.toml",
    };
    if plan.start.is_none() {
        Err(DetectError::NoStart { kind, hint, plan: Box::new(plan) })
    } else {
        Ok(plan)
    }
}

fn kind(facts: &Facts<'_>) -> Option<Kind> {
    let has = facts.has;
    let candidates = [
        (Kind::Docker, has("Dockerfile")),
        (
            Kind::Procfile,
            has("Procfile") && !has("package.json") && !has("requirements.txt") && !has("pyproject.toml"),
        ),
        (Kind::Node, has("package.json")),
        (Kind::Rust, has("Cargo.toml")),
        (Kind::Go, has("go.mod")),
        (
            Kind::Python,
            ["requirements.txt", "pyproject.toml", "app.py", "main.py"].iter().any(|name| has(name)),
        ),
        (Kind::Static, ["index.html", "public/index.html", "dist/index.html"].iter().any(|name| has(name))),
    ];
    candidates.into_iter().find(|(_, fits)| *fits).map(|(kind, _)| kind)
}

fn plain(kind: Kind, build: Option<&str>, start: Option<&str>) -> Plan {
    Plan { build: build.map(str::to_owned), ..Plan::new(kind, start.map(str::to_owned)) }
}

fn site(facts: &Facts<'_>) -> Plan {
    let folder = ["public", "dist"].into_iter().find(|folder| (facts.has)(&format!("{folder}/index.html")));
    let root = (facts.has)("index.html");
    Plan { output: folder.filter(|_| !root).unwrap_or(".").to_owned(), ..plain(Kind::Static, None, None) }
}

fn node(facts: &Facts<'_>) -> Result<Plan, DetectError> {
    let text = facts.package_json.as_deref().unwrap_or("{}");
    let package: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| DetectError::ProjectFile(format!("package.json is not JSON: {error}")))?;
    let script = |name: &str| package.pointer(&format!("/scripts/{name}")).is_some();
    let needs = ["dependencies", "devDependencies"].iter().any(|key| {
        package.get(key).and_then(serde_json::Value::as_object).is_some_and(|object| !object.is_empty())
    });
    let [locked, loose] = NODE_INSTALLS;
    let install = if (facts.has)("package-lock.json") { locked } else { loose };
    let mut commands: Vec<&str> = Vec::new();
    commands.extend(needs.then_some(install));
    commands.extend(script("build").then_some("npm run build"));
    let build = (!commands.is_empty()).then(|| commands.join(" && "));
    let main = package.get("main").and_then(serde_json::Value::as_str).filter(|main| (facts.has)(main));
    let found =
        main.or_else(|| ["server.js", "index.js", "app.js"].into_iter().find(|name| (facts.has)(name)));
    let start = if script("start") {
        Some("npm start --silent".to_owned())
    } else {
        found.map(|file| format!("node {file}"))
    };
    Ok(Plan { build, start, ..plain(Kind::Node, None, None) })
}

fn python(facts: &Facts<'_>) -> Plan {
    let install = if (facts.has)("requirements.txt") {
        Some(
            "python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt",
        )
    } else if (facts.has)("pyproject.toml") {
        Some("python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check .")
    } else {
        None
    };
    let python = if install.is_some() { ".venv/bin/python" } else { "python3" };
    let start = ["app.py", "main.py"]
        .into_iter()
        .find(|name| (facts.has)(name))
        .map(|file| format!("{python} {file}"));
    Plan { start, ..plain(Kind::Python, install, None) }
}

fn rust(facts: &Facts<'_>) -> Plan {
    let manifest: Option<toml::Table> = facts.cargo_toml.as_deref().and_then(|text| text.parse().ok());
    let name =
        manifest.as_ref().and_then(|table| table.get("package")?.get("name")?.as_str().map(str::to_owned));
    let locked = if (facts.has)("Cargo.lock") { " --locked" } else { "" };
    let build = format!("cargo build --release{locked}");
    let start = name.map(|name| format!("./target/release/{name}"));
    Plan { start, ..plain(Kind::Rust, Some(&build), None) }
}

fn web_line(procfile: &str) -> Option<String> {
    procfile
        .lines()
        .find_map(|line| line.strip_prefix("web:"))
        .map(|command| command.trim().to_owned())
        .filter(|command| !command.is_empty())
}

fn amend(plan: &mut Plan, file: ProjectFile) -> Result<(), DetectError> {
    let bad = |message: String| DetectError::ProjectFile(message);
    plan.build = file.build.or(plan.build.take());
    plan.start = file.start.or(plan.start.take());
    (plan.target, plan.strategy) = (file.target, file.strategy);
    if let Some(output) = file.output {
        let inside =
            output == "." || output.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !inside || output.starts_with('/') {
            return Err(bad(format!("output `{output}` is not a folder inside the project")));
        }
        plan.output = output;
    }
    if file.port.is_some() && plan.kind != Kind::Docker {
        return Err(bad(
            "port is for projects with a Dockerfile; this app gets a free one in PORT, so that a new release can start beside the old one".to_owned(),
        ));
    }
    plan.port = file.port.or(plan.port);
    for (name, value) in file.variables.iter().chain(&file.build_variables) {
        super::wish::variable(name, value).map_err(|problem| bad(format!("variable `{name}` {problem}")))?;
    }
    for name in file.variables.keys() {
        super::wish::not_ours(name).map_err(|problem| bad(format!("variable `{name}` {problem}")))?;
    }
    let all = file.variables.iter().chain(&file.build_variables);
    super::wish::fits(all.map(|(name, value)| name.len() + value.len()).sum())
        .map_err(|problem| bad(format!("variables: {problem}")))?;
    plan.variables = file.variables;
    plan.build_variables = file.build_variables;
    plan.replicas = within("replicas", file.replicas, 1..=20)?.or(plan.replicas);
    if let Some(size) = file.size {
        plan.size =
            Some(super::size::Size::parse(&size.cpu, &size.memory).map_err(|error| bad(error.to_string()))?);
    }
    plan.domains = file
        .domains
        .iter()
        .map(|domain| super::wish::domain(domain))
        .collect::<Result<_, _>>()
        .map_err(bad)?;
    watched(&mut plan.probe, file.health)
}

/// The probe as the project wants it. What the app is later restarted for has to be what was asked for, so nothing is
/// brought into the limits in silence.
fn watched(probe: &mut Probe, wanted: HealthSection) -> Result<(), DetectError> {
    if let Some(path) = wanted.path {
        if !path.starts_with('/') {
            return Err(DetectError::ProjectFile(format!("health.path `{path}` has to begin with /")));
        }
        probe.path = Some(path);
    }
    probe.timeout_ms =
        within("health.timeout_ms", wanted.timeout_ms, 1..=60_000)?.unwrap_or(probe.timeout_ms);
    probe.interval_ms =
        within("health.interval_ms", wanted.interval_ms, 10..=60_000)?.unwrap_or(probe.interval_ms);
    probe.start_seconds =
        within("health.start_seconds", wanted.start_seconds, 1..=600)?.unwrap_or(probe.start_seconds);
    probe.retries = within("health.retries", wanted.retries, 1..=100)?.unwrap_or(probe.retries);
    Ok(())
}

/// A number of the project file, if it is a possible one.
fn within<T: TryFrom<i128>>(
    name: &str,
    number: Option<i128>,
    possible: RangeInclusive<i128>,
) -> Result<Option<T>, DetectError> {
    let Some(number) = number else { return Ok(None) };
    let fitting = T::try_from(number).ok().filter(|_| possible.contains(&number));
    fitting.map(Some).ok_or_else(|| {
        let (least, most) = (possible.start(), possible.end());
        DetectError::ProjectFile(format!("{name} is {number}; between {least} and {most} are possible"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Result<Plan, DetectError> {
        let read =
            |name: &str| files.iter().find(|(file, _)| *file == name).map(|(_, text)| (*text).to_owned());
        detect(&Facts {
            has: &|name| files.iter().any(|(file, _)| *file == name),
            package_json: read("package.json"),
            procfile: read("Procfile"),
            cargo_toml: read("Cargo.toml"),
            dockerfile: read("Dockerfile"),
            project_file: read("windlass.toml"),
        })
    }

    /// Files; kind, build, start and output that they give.
    type Case<'a> = (&'a [(&'a str, &'a str)], Kind, Option<&'a str>, Option<&'a str>, &'a str);

    #[test]
    fn every_kind_is_found() {
        let package = r#"{"main":"x.js","scripts":{"build":"b"},"dependencies":{"a":"1"}}"#;
        let cases: [Case<'_>; 9] = [
            (&[("index.html", "")], Kind::Static, None, None, "."),
            (&[("public/index.html", "")], Kind::Static, None, None, "public"),
            (
                &[("package.json", package), ("x.js", "")],
                Kind::Node,
                Some("npm install --no-audit --no-fund && npm run build"),
                Some("node x.js"),
                ".",
            ),
            (
                &[("package.json", r#"{"scripts":{"start":"s"}}"#)],
                Kind::Node,
                None,
                Some("npm start --silent"),
                ".",
            ),
            (&[("app.py", "")], Kind::Python, None, Some("python3 app.py"), "."),
            (
                &[("Cargo.toml", "[package]\nname = \"web\"")],
                Kind::Rust,
                Some("cargo build --release"),
                Some("./target/release/web"),
                ".",
            ),
            (&[("go.mod", "")], Kind::Go, Some("go build -o .windlass-app ."), Some("./.windlass-app"), "."),
            (
                &[("Procfile", "worker: x\nweb: ./run --port $PORT\n")],
                Kind::Procfile,
                None,
                Some("./run --port $PORT"),
                ".",
            ),
            (&[("Dockerfile", "FROM x"), ("package.json", "{}")], Kind::Docker, None, None, "."),
        ];
        for (files, kind, build, start, output) in cases {
            let plan = check(files).unwrap();
            assert_eq!(
                (plan.kind, plan.build.as_deref(), plan.start.as_deref(), plan.output.as_str()),
                (kind, build, start, output)
            );
        }
    }

    #[test]
    fn the_project_file_wins() {
        let plan = check(&[
            ("index.html", ""),
            ("windlass.toml", "kind = \"static\"\nbuild = \"sh build.sh\"\noutput = \"public\"\nreplicas = 2\n[health]\npath = \"/up\"\n"),
        ]).unwrap();
        assert_eq!(
            (plan.build.as_deref(), plan.output.as_str(), plan.replicas),
            (Some("sh build.sh"), "public", Some(2))
        );
        assert_eq!(plan.probe.path.as_deref(), Some("/up"));
        assert_eq!((plan.target, plan.strategy), (Target::ContainerApps, Strategy::Replace));
        let aimed = "target = \"container-instances\"\nstrategy = \"recreate\"";
        let plan = check(&[("index.html", ""), ("windlass.toml", aimed)]).unwrap();
        assert_eq!((plan.target, plan.strategy), (Target::ContainerInstances, Strategy::Recreate));
    }

    #[test]
    fn variables_of_a_project_are_bounded_as_those_of_a_request() {
        let file = |count: usize| {
            let line = |n: usize| format!("V{n:03} = \"{}\"\n", "x".repeat(508));
            format!("[variables]\n{}", (0..count).map(line).collect::<String>())
        };
        assert!(check(&[("index.html", ""), ("windlass.toml", &file(256))]).is_ok());
        let said = check(&[("index.html", ""), ("windlass.toml", &file(257))]).unwrap_err().to_string();
        assert!(said.contains("at most 131072"), "{said}");
    }

    #[test]
    fn a_container_listens_where_its_dockerfile_says_unless_the_project_says_otherwise() {
        let dockerfile = ("Dockerfile", "FROM x\nEXPOSE 3000\n");
        assert_eq!(check(&[dockerfile]).unwrap().port, Some(3_000));
        let project = ("windlass.toml", "port = 4000\nstart = \"./run\"");
        let plan = check(&[dockerfile, project]).unwrap();
        assert_eq!((plan.port, plan.start.as_deref()), (Some(4_000), Some("./run")));
        assert_eq!(check(&[dockerfile, ("windlass.toml", "kind = \"static\"")]).unwrap().port, None);
    }

    #[test]
    fn errors_say_what_to_do() {
        for (files, says) in [
            (&[("README.md", "")][..], "Add one"),
            (&[("package.json", "{}")], "start script"),
            (&[("package.json", "{")], "not JSON"),
            (&[("windlass.toml", "colour = 1")], "unknown field"),
            (&[("index.html", ""), ("windlass.toml", "output = \"../x\"")], "not a folder inside"),
            (&[("index.html", ""), ("windlass.toml", "replicas = 0")], "between 1 and 20"),
            (
                &[("index.html", ""), ("windlass.toml", "replicas = 99999999999999999999")],
                "is 99999999999999999999; between 1 and 20",
            ),
            (&[("index.html", ""), ("windlass.toml", "[health]\ntimeout_ms = 0")], "between 1 and 60000"),
            (&[("index.html", ""), ("windlass.toml", "[health]\ninterval_ms = 9")], "between 10 and 60000"),
            (
                &[("index.html", ""), ("windlass.toml", "[health]\nstart_seconds = 99999999999")],
                "health.start_seconds is 99999999999; between 1 and 600",
            ),
            (&[("index.html", ""), ("windlass.toml", "[health]\nretries = -1")], "between 1 and 100"),
            (&[("index.html", ""), ("windlass.toml", "target = \"vm\"")], "container-instances"),
            (&[("index.html", ""), ("windlass.toml", "[health]\npath = \"up\"")], "begin with /"),
            (&[("Procfile", "worker: x")], "web: <command>"),
            (&[("app.py", ""), ("windlass.toml", "port = 80")], "gets a free one in PORT"),
            (&[("app.py", ""), ("windlass.toml", "[variables]\n\"A B\" = \"\"")], "variable `A B`"),
        ] {
            let said = check(files).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
