//! The schema of `windlass.toml` that editors read says what the parser takes.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass::deploy::detect::{Facts, Plan, detect};
use windlass::deploy::project_file::{NAME, ProjectFile, SCHEMA};
use windlass::deploy::target::unfit;

use super::{files, root, text};

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// What the schema says against a file.
fn complaints(file: &str) -> Vec<String> {
    let value: Value = toml::from_str(file).unwrap();
    let validator = jsonschema::validator_for(&schema()).unwrap();
    validator.iter_errors(&value).map(|error| error.to_string()).collect()
}

/// What the service says of a site with this file.
fn planned(file: &str) -> Result<Plan, String> {
    let facts = Facts {
        has: &|name| name == "index.html",
        package_json: None,
        procfile: None,
        cargo_toml: None,
        dockerfile: Some("FROM scratch".to_owned()),
        project_file: Some(file.to_owned()),
    };
    let plan = detect(&facts).map_err(|error| error.to_string())?;
    unfit(&plan, &plan.domains).map_or(Ok(plan), |why| Err(why.to_owned()))
}

/// The words in backticks after "expected": what the parser would have taken.
fn expected(wrong: &str) -> BTreeSet<String> {
    let said = ProjectFile::parse(wrong).unwrap_err();
    let (_, words) = said.rsplit_once("expected").unwrap_or_else(|| panic!("{wrong}: {said}"));
    words.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_schema_knows_the_keys_and_words_that_the_parser_knows() {
    let schema = schema();
    for (pointer, wrong) in [
        ("", "zzz = 1"),
        ("/properties/size", "[size]\nzzz = 1"),
        ("/properties/health", "[health]\nzzz = 1"),
    ] {
        let section = schema.pointer(pointer).unwrap();
        assert_eq!(section["additionalProperties"], false, "{pointer}");
        let keys: BTreeSet<String> = section["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, expected(wrong), "{pointer}");
    }
    for key in ["kind", "target", "strategy"] {
        let words = schema["properties"][key]["enum"].as_array().unwrap();
        let words: BTreeSet<String> = words.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
        assert_eq!(words, expected(&format!("{key} = \"zzz\"")), "{key}");
    }
}

#[test]
fn every_project_file_that_we_show_is_valid() {
    let examples = files(&root().join("examples"), "toml");
    let examples: Vec<_> = examples.into_iter().filter(|path| path.ends_with(NAME)).collect();
    assert!(examples.len() >= 3, "{examples:?}");
    let mut shown: Vec<String> = examples.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let pages = ["docs/project-file.md", "README.md"].map(text);
    let blocks = pages.iter().flat_map(|page| page.split("```toml\n").skip(1));
    shown.extend(blocks.map(|block| block.split("```").next().unwrap().to_owned()));
    assert!(shown.len() > examples.len());
    for file in shown {
        assert_eq!(complaints(&file), [""; 0], "{file}");
        ProjectFile::parse(&file).unwrap();
    }
}

/// The schema and the service think the same of these files.
fn agree(right: &[&str], wrong: &[&str]) {
    for right in right {
        assert_eq!((complaints(right), planned(right).err()), (Vec::new(), None), "{right}");
    }
    for wrong in wrong {
        assert!(!complaints(wrong).is_empty(), "the schema takes {wrong}");
        assert!(planned(wrong).is_err(), "the service takes {wrong}");
    }
}

#[test]
fn what_is_wrong_is_wrong_for_both() {
    let right = [
        "",
        "kind = \"docker\"\nport = 8080",
        "output = \".\"",
        "output = \"a/..b/c.d\"",
        "replicas = 20",
        "domains = [\"shop.example\", \"münchen.example.\"]",
        "target = \"container-instances\"\nstrategy = \"recreate\"\nreplicas = 1",
        "[size]\ncpu = \"0.5\"\nmemory = \"1024Mi\"",
        "[variables]\n_A1 = \"\"\nPORTS = \"1\"",
    ];
    let wrong = [
        "colour = 1",
        "name = 1",
        "kind = \"vm\"",
        "build = [\"npm\", \"ci\"]",
        "output = \"\"",
        "output = \"/x\"",
        "output = \"../x\"",
        "output = \"x/./y\"",
        "output = \"x/\"",
        "port = 65536",
        "port = \"80\"",
        "replicas = 0",
        "replicas = 21",
        "replicas = 1.5",
        "target = \"vm\"",
        "strategy = \"blue-green\"",
        "strategy = \"recreate\"",
        "target = \"container-instances\"\nreplicas = 2",
        "target = \"container-instances\"\ndomains = [\"shop.example\"]",
        "domains = \"shop.example\"",
        "domains = [\"https://shop.example\"]",
        "ignore = \"drafts/\"",
        "variables = [\"A=1\"]",
        "[variables]\n\"A B\" = \"\"",
        "[build_variables]\n1A = \"\"",
        "[build_variables]\nA = 1",
        "[size]\ncpu = \"1\"",
        "[size]\ncpu = 1\nmemory = \"2Gi\"",
        "[size]\ncpu = \"one\"\nmemory = \"2Gi\"",
        "[size]\ncpu = \"1\"\nmemory = \"2\"",
        "[health]\npath = \"up\"",
        "[health]\ncolour = 1",
    ];
    agree(&right, &wrong);
    // The service refuses it with the request; an editor should say so at once.
    assert!(!complaints("environment = \"prod\"").is_empty());
    assert!(complaints("environment = \"preview-7\"").is_empty());
}

#[test]
fn limits_and_names_that_are_ours_are_the_same_for_both() {
    let right = [
        "[health]\npath = \"/\"\ntimeout_ms = 1\ninterval_ms = 10\nstart_seconds = 1\nretries = 1",
        "[health]\ntimeout_ms = 60000\ninterval_ms = 60000\nstart_seconds = 600\nretries = 100",
        "[build_variables]\nPORT = \"1\"",
    ];
    let wrong = [
        "[health]\ntimeout_ms = -1",
        "[health]\ntimeout_ms = 0",
        "[health]\ntimeout_ms = 60001",
        "[health]\ninterval_ms = 9",
        "[health]\ninterval_ms = 60001",
        "[health]\nstart_seconds = 0",
        "[health]\nstart_seconds = 601",
        "[health]\nretries = 0",
        "[health]\nretries = 101",
        "[variables]\nPORT = \"1\"",
        "[variables]\nHOST = \"x\"",
        "[variables]\nWINDLASS_OWNER = \"x\"",
    ];
    agree(&right, &wrong);
}

#[test]
fn the_command_line_prints_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let output = crate::e2e::windlass(folder.path()).args(["config", "schema"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text("docs/windlass.schema.json"));
}
