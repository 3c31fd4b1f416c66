//! How the code reads: budgets, who may depend on whom, and documents that follow from code.

use std::path::Path;

use super::{files, root};

/// Production lines of a file, without its tests.
fn production(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

#[test]
fn files_and_folders_stay_small() {
    let sources = files(&root().join("src"), "rs");
    let mut lengths: Vec<(usize, String)> =
        sources.iter().map(|path| (production(path).lines().count(), path.display().to_string())).collect();
    lengths.sort();
    let (longest, path) = lengths.last().unwrap();
    assert!(*longest <= 400, "{path} has {longest} lines");
    let (ninth, path) = &lengths[lengths.len() * 8 / 10];
    assert!(*ninth <= 290, "{path} has {ninth} lines; eight files of ten have at most 290");
    for path in &sources {
        assert!(
            path.strip_prefix(root()).unwrap().components().count() <= 4,
            "{} is too deep",
            path.display()
        );
    }
}

/// Figures that are measured on a quiet machine and kept; `.ci/speed` compares a machine with them by ratios.
#[test]
fn the_baseline_keeps_the_promised_times() {
    let text = std::fs::read_to_string(root().join("docs/bench-baseline.json")).unwrap();
    let baseline: serde_json::Value = serde_json::from_str(&text).unwrap();
    // The documents' times in milliseconds, then ours, which are tighter.
    for (pointer, most) in [
        ("/list_100000/list_p99_ms", 200.0),
        ("/list_100000/status_p99_ms", 10.0),
        ("/chain_http_64/p50_ms", 25.0),
        ("/chain_http_64/p99_ms", 45.0),
        ("/chain_http_64/fsyncs_per_step", 0.1),
        ("/chain_http_64/rss_mib", 64.0),
        ("/chain_http_1/p50_ms", 3.5),
        ("/chain_http_1/p99_ms", 7.0),
        ("/step_512_against_8", 1.1),
        ("/finished_100000_against_0", 1.1),
        ("/crash/first_progress_p50_ms", 50.0),
        ("/timers_100000/late_p99_ms", 50.0),
        ("/timers_100000/early", 0.0),
        ("/start_100000/p99_ms", 20.0),
        ("/start_100000/rss_idle_mib", 20.0),
        ("/list_100000/list_p99_ms", 5.0),
        ("/list_100000/status_p99_ms", 2.0),
        ("/list_100000/store_list_p95_ms", 100.0),
        ("/list_100000/store_get_p95_ms", 100.0),
        ("/list_100000/tail_1000_p99_ms", 5.0),
        ("/list_100000/line_to_follower_p99_ms", 50.0),
        ("/plan_20000/unchanged_ms", 40.0),
        ("/pack_20000/ms", 710.0),
    ] {
        let figure = baseline.pointer(pointer).and_then(serde_json::Value::as_f64);
        assert!(figure.is_some_and(|figure| figure <= most), "{pointer} is {figure:?}, at most {most}");
    }
    assert!(baseline["chain_http_64"]["per_s"].as_f64().unwrap() >= 3_000.0);
}

#[test]
fn traits_stay_small() {
    for path in files(&root().join("src"), "rs") {
        for declaration in production(&path).split("\npub trait ").skip(1) {
            let body = declaration.split("\n}").next().unwrap();
            let methods = body
                .lines()
                .filter(|line| line.starts_with("    fn ") || line.starts_with("    async fn "))
                .count();
            let name = declaration.split([' ', ':', '{']).next().unwrap();
            assert!(methods <= 11, "{name} in {} has {methods} methods", path.display());
        }
    }
}

/// Folder or file below `src` → modules that it may not use.
const NEVER: [(&str, &[&str]); 13] = [
    (
        "ambient.rs",
        &[
            "actions", "api", "azure", "cli", "config", "deploy", "embedded", "http", "serve", "steps",
            "triggers", "windlass", "workflow",
        ],
    ),
    (
        "workflow",
        &[
            "actions", "api", "azure", "cli", "config", "deploy", "embedded", "http", "serve", "steps",
            "triggers", "windlass",
        ],
    ),
    (
        "deploy",
        &[
            "actions", "api", "azure", "cli", "config", "embedded", "http", "serve", "steps", "triggers",
            "windlass",
        ],
    ),
    (
        "api",
        &[
            "actions", "ambient", "azure", "cli", "config", "deploy", "embedded", "http", "serve", "steps",
            "triggers", "windlass", "workflow",
        ],
    ),
    ("steps", &["actions", "azure", "cli", "embedded", "http", "serve", "triggers"]),
    ("actions", &["azure", "cli", "embedded", "http", "serve", "triggers"]),
    ("triggers", &["azure", "cli", "embedded", "http", "serve"]),
    ("http", &["azure", "cli", "embedded", "serve", "steps"]),
    ("embedded", &["azure", "cli", "http", "serve"]),
    ("azure", &["cli", "embedded", "http", "serve"]),
    (
        "cli",
        &[
            "actions", "azure", "deploy", "embedded", "http", "serve", "steps", "triggers", "windlass",
            "workflow",
        ],
    ),
    ("windlass.rs", &["azure", "cli", "embedded", "http", "serve"]),
    ("trace.rs", &["actions", "ambient", "api", "config", "deploy", "telemetry", "windlass", "workflow"]),
];

#[test]
fn modules_depend_only_on_what_they_may() {
    for (part, never) in NEVER {
        let path = root().join("src").join(part);
        let sources = if path.is_dir() { files(&path, "rs") } else { vec![path] };
        for source in sources {
            for line in production(&source).lines().filter(|line| line.contains("crate::")) {
                for module in never {
                    let used = line.contains(&format!("crate::{module}::"))
                        || line.contains(&format!("crate::{module};"));
                    assert!(!used, "{} may not use {module}: {line}", source.display());
                }
            }
        }
    }
}

#[test]
fn the_error_page_follows_from_the_catalogue() {
    let path = root().join("docs/errors.md");
    let wanted = windlass::api::codes::as_markdown();
    if std::env::var_os("WINDLASS_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/errors.md is out of date; run: WINDLASS_WRITE_DOCS=1 cargo test the_error_page"
    );
}

#[test]
fn every_code_that_is_used_is_in_the_catalogue() {
    let is_code = |text: &str| {
        text.len() > 4 && text.contains('_') && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    };
    for path in files(&root().join("src"), "rs").into_iter().filter(|path| {
        ["steps", "http", "embedded", "azure"]
            .iter()
            .any(|part| path.starts_with(root().join("src").join(part)))
    }) {
        for line in production(&path).lines().filter(|line| {
            ["Problem::new(", "permanent(", "transient(", "failure(\"", "failed(\"", "code: \"", "code ="]
                .iter()
                .any(|call| line.contains(call))
        }) {
            for text in line.split('"').skip(1).step_by(2).filter(|text| is_code(text)) {
                assert!(windlass::api::codes::find(text).is_some(), "{} uses {text}", path.display());
            }
        }
    }
}

/// A code that no product code gives is none; a code that no test waits for may never come. The catalogue's own page and
/// tests do not count.
#[test]
fn every_code_is_given_by_the_product_and_waited_for_by_a_test() {
    let (mut product, mut tests) = (String::new(), String::new());
    for path in files(&root().join("src"), "rs") {
        if !path.starts_with(root().join("src/api")) {
            let (text, given) = (std::fs::read_to_string(&path).unwrap(), production(&path));
            tests.push_str(&text[given.len()..]);
            product.push_str(&given);
        }
    }
    for path in files(&root().join("tests/it"), "rs") {
        tests.push_str(&std::fs::read_to_string(path).unwrap());
    }
    let missing = |text: &str| {
        let codes = windlass::api::catalogue::CODES.iter().map(|entry| entry.code);
        codes.filter(|code| !text.contains(&format!("\"{code}\""))).collect::<Vec<_>>()
    };
    assert_eq!(missing(&product), [""; 0], "given nowhere");
    assert_eq!(missing(&tests), [""; 0], "no test");
}

#[test]
fn every_requirement_that_is_claimed_names_a_test_that_exists() {
    let page = std::fs::read_to_string(root().join("docs/requirements.md")).unwrap();
    let mut tests = String::new();
    for folder in ["src", "tests/it"] {
        for path in files(&root().join(folder), "rs") {
            tests.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| 00")).collect();
    assert!(rows.len() > 50, "{}", rows.len());
    for row in rows {
        let test = row.split('|').nth(2).unwrap().trim().trim_matches('`');
        let name = test.rsplit("::").next().unwrap();
        assert!(tests.contains(&format!("fn {name}(")), "{row}: there is no such test");
    }
}
