//! What a project is made of, read from its lock files, as `CycloneDX` 1.5
//! (<https://cyclonedx.org/docs/1.5/json/>).

use serde_json::{Value, json};

/// Files that are read, at the root of a source.
pub const LOCK_FILES: [&str; 4] = ["package-lock.json", "Cargo.lock", "requirements.txt", "go.sum"];

/// A library: the kind of package URL (<https://github.com/package-url/purl-spec>), name and version.
type Library = (&'static str, String, String);

/// The bill of materials of a project. `read` gives a lock file's text; `source` and `artifact` are digests.
#[must_use]
pub fn bill(
    project: &str,
    source: &str,
    artifact: Option<&str>,
    read: &dyn Fn(&str) -> Option<String>,
) -> Value {
    let text = |name: &str| read(name).unwrap_or_default();
    let mut libraries = npm(&text(LOCK_FILES[0]));
    libraries.extend(cargo(&text(LOCK_FILES[1])));
    libraries.extend(pypi(&text(LOCK_FILES[2])));
    libraries.extend(golang(&text(LOCK_FILES[3])));
    libraries.sort();
    libraries.dedup();
    let component = |(kind, name, version): Library| {
        let purl = format!("pkg:{kind}/{}@{version}", name.replace('@', "%40"));
        json!({ "type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl })
    };
    let hashes: Vec<Value> =
        artifact.into_iter().map(|digest| json!({ "alg": "SHA-256", "content": digest })).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": project, "version": source, "hashes": hashes } },
        "components": libraries.into_iter().map(component).collect::<Vec<_>>(),
    })
}

/// `package-lock.json`, lockfile versions 2 and 3.
fn npm(text: &str) -> Vec<Library> {
    let lock: Value = serde_json::from_str(text).unwrap_or_default();
    let packages = lock.get("packages").and_then(Value::as_object);
    let library = |(path, package): (&String, &Value)| {
        let (_, name) = path.rsplit_once("node_modules/")?;
        Some(("npm", name.to_owned(), package.get("version")?.as_str()?.to_owned()))
    };
    packages.into_iter().flatten().filter_map(library).collect()
}

/// `Cargo.lock`: packages that come from elsewhere.
fn cargo(text: &str) -> Vec<Library> {
    let lock: toml::Table = text.parse().unwrap_or_default();
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let library = |package: &toml::Value| {
        package.get("source")?;
        let field = |name: &str| Some(package.get(name)?.as_str()?.to_owned());
        Some(("cargo", field("name")?, field("version")?))
    };
    packages.into_iter().flatten().filter_map(library).collect()
}

/// `requirements.txt`: lines that pin a version.
fn pypi(text: &str) -> Vec<Library> {
    let library = |line: &str| {
        let line = line.split(['#', ';']).next()?;
        let (name, version) = line.split_once("==")?;
        let name = name.split('[').next()?.trim().to_lowercase();
        let version = version.split_whitespace().next()?.to_owned();
        Some(("pypi", name, version))
    };
    text.lines().filter_map(library).collect()
}

/// `go.sum`: modules, without the lines for their `go.mod` alone.
fn golang(text: &str) -> Vec<Library> {
    let library = |line: &str| {
        let mut parts = line.split_whitespace();
        let (name, version) = (parts.next()?, parts.next()?);
        (version.starts_with('v') && !version.ends_with("/go.mod"))
            .then(|| ("golang", name.to_owned(), version.to_owned()))
    };
    text.lines().filter_map(library).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lock_file_is_read_and_damaged_ones_are_passed_over() {
        let read = |name: &str| {
            let text = match name {
                "package-lock.json" => {
                    r#"{"packages":{"":{"version":"1"},"node_modules/@a/b":{"version":"2.0.0"},"node_modules/x/node_modules/c":{"version":"3.0.0"}}}"#
                }
                "Cargo.lock" => {
                    "[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\nsource = \"registry\"\n"
                }
                "requirements.txt" => {
                    "# all\nFlask[async]==3.0.0 ; python_version > '3'\nnot-pinned\nflask==3.0.0\n"
                }
                _ => "example.org/m v1.2.0 h1:x\nexample.org/m v1.2.0/go.mod h1:y\n",
            };
            Some(text.to_owned())
        };
        let bill = bill("shop", "abc", Some("def"), &read);
        let purls: Vec<&str> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["purl"].as_str().unwrap())
            .collect();
        assert_eq!(
            purls,
            [
                "pkg:cargo/serde@1.0.0",
                "pkg:golang/example.org/m@v1.2.0",
                "pkg:npm/%40a/b@2.0.0",
                "pkg:npm/c@3.0.0",
                "pkg:pypi/flask@3.0.0"
            ]
        );
        assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], "def");
        let damaged = super::bill("shop", "abc", None, &|_| Some("{ [ ==".to_owned()));
        assert_eq!(damaged["components"].as_array().unwrap().len(), 0);
    }
}
