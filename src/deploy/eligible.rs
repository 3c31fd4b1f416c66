//! Which projects become an image without anything being run: files on a base that can run them.

use serde_json::Value;

use super::detect::{Kind, NODE_INSTALLS, Plan};
use super::source::Manifest;

/// More than this is not surely read and packed within half of an invocation, so that the rest is left for sending.
const MOST_FILES: usize = 10_000;
const MOST_BYTES: u64 = 128 << 20;
/// Names with this beginning delete files of the layers below.
const WHITEOUT: &str = ".wh.";
/// Where Node looks for what a project depends on.
const MODULES: &str = "node_modules/";

/// Why this project needs more than its files on a base; none when it does not. `package` is its `package.json`.
#[must_use]
pub fn obstacle(plan: &Plan, source: &Manifest, package: Option<&str>) -> Option<String> {
    if plan.kind == Kind::Docker {
        return Some("its Dockerfile has to be built".to_owned());
    }
    let build = plan.build.as_deref().map(str::trim).filter(|build| !build.is_empty());
    if let Some(build) = build
        && !is_installed(plan.kind, build, source, package)
    {
        let line = build.lines().next().unwrap_or_default();
        return Some(format!("its build command has to run: {line}"));
    }
    if let Some(missing) = missing_program(plan, source) {
        return Some(format!("it starts with {missing}, which is not among its files"));
    }
    let named = |fits: &dyn Fn(&str) -> bool| source.files().iter().find(|file| fits(&file.path));
    if plan.kind == Kind::Node
        && let Some(native) = named(&|path| path.starts_with(MODULES) && path.ends_with(".node"))
    {
        return Some(format!("{} is native code of the machine that it comes from", native.path));
    }
    if let Some(mark) = named(&|path| path.split('/').any(|part| part.starts_with(WHITEOUT))) {
        return Some(format!("{} would delete a file of the base", mark.path));
    }
    if source.files().len() > MOST_FILES || source.bytes() > MOST_BYTES {
        return Some(format!("it has more than {MOST_FILES} files or {} MiB", MOST_BYTES >> 20));
    }
    None
}

/// Whether the command only installs what the source brings along.
fn is_installed(kind: Kind, build: &str, source: &Manifest, package: Option<&str>) -> bool {
    let Some(package) = package.filter(|_| kind == Kind::Node && NODE_INSTALLS.contains(&build)) else {
        return false;
    };
    let Ok(package) = serde_json::from_str::<Value>(package) else { return false };
    let mut names = ["dependencies", "devDependencies"]
        .into_iter()
        .filter_map(|key| package.get(key).and_then(Value::as_object))
        .flat_map(serde_json::Map::keys);
    names.all(|name| source.get(&format!("{MODULES}{name}/package.json")).is_some())
}

/// The program that the start command names by its path and that no build makes.
fn missing_program<'a>(plan: &'a Plan, source: &Manifest) -> Option<&'a str> {
    let word = plan.start.as_deref()?.split_whitespace().next()?;
    let path = word.strip_prefix("./").or_else(|| word.starts_with(".venv/").then_some(word))?;
    let path = if plan.output == "." { path.to_owned() } else { format!("{}/{path}", plan.output) };
    source.get(&path).is_none().then_some(word)
}

#[cfg(test)]
mod tests {
    use super::super::ids::Digest;
    use super::super::source::{FileEntry, SourceLimits};
    use super::*;

    fn source(paths: &[&str]) -> Manifest {
        let mut paths = paths.to_vec();
        paths.sort_unstable();
        let file = |path: &&str| FileEntry {
            path: (*path).to_owned(),
            size: 3,
            mode: 0o644,
            sha256: Digest::of(b"abc"),
        };
        Manifest::new(paths.iter().map(file).collect(), &SourceLimits::default()).unwrap()
    }

    fn plan(kind: Kind, build: Option<&str>, start: Option<&str>) -> Plan {
        Plan { build: build.map(str::to_owned), ..Plan::new(kind, start.map(str::to_owned)) }
    }

    #[test]
    fn only_projects_that_run_nothing_to_be_built_are_eligible() {
        let install = Some(NODE_INSTALLS[0]);
        let package = Some(r#"{"dependencies":{"@a/b":"1"},"devDependencies":{"c":"1"}}"#);
        let vendored = ["node_modules/@a/b/package.json", "node_modules/c/package.json", "package.json"];
        let node = Some("node server.js");
        let fits: [(Plan, &[&str]); 6] = [
            (plan(Kind::Static, None, None), &["index.html"]),
            (plan(Kind::Node, None, node), &["server.js"]),
            (plan(Kind::Node, install, node), &vendored),
            (plan(Kind::Python, None, Some("python3 app.py")), &["app.py"]),
            (plan(Kind::Procfile, None, Some("./run --all")), &["run"]),
            (plan(Kind::Rust, Some(" "), Some("./bin/web")), &["bin/web"]),
        ];
        for (plan, files) in fits {
            assert_eq!(obstacle(&plan, &source(files), package), None, "{plan:?}");
        }
        let native = [&vendored[..], &["node_modules/c/x.node"]].concat();
        let pip = Some("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt");
        let unfit: [(Plan, &[&str], &str); 9] = [
            (plan(Kind::Docker, None, None), &["Dockerfile"], "Dockerfile"),
            (plan(Kind::Static, Some("make"), None), &["index.html"], "make"),
            (plan(Kind::Node, install, node), &["package.json"], "npm ci"),
            (plan(Kind::Node, install, node), &vendored[..2], ""),
            (plan(Kind::Node, install, node), &native, "x.node"),
            (plan(Kind::Python, pip, Some(".venv/bin/python app.py")), &["app.py"], "venv"),
            (plan(Kind::Python, Some(""), Some(".venv/bin/python app.py")), &["app.py"], ".venv/bin/python"),
            (plan(Kind::Procfile, None, Some("./run")), &["other"], "./run"),
            (plan(Kind::Static, None, None), &["a/.wh.b", "index.html"], ".wh.b"),
        ];
        for (index, (plan, files, why)) in unfit.into_iter().enumerate() {
            // The fourth has everything but one dependency.
            let package = if index == 3 { Some(r#"{"dependencies":{"d":"1"}}"#) } else { package };
            let said = obstacle(&plan, &source(files), package);
            assert!(said.as_ref().is_some_and(|said| said.contains(why)), "{plan:?}: {said:?}");
        }
    }
}
