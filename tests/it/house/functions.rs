//! The function table, the function folders and host.json say the same, and are valid for the host.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use windlass::triggers::table::{Cardinality, FOLDERS, FUNCTIONS, Function, Trigger};

use super::root;

fn read(path: &str) -> Value {
    serde_json::from_str(
        &std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}")),
    )
    .unwrap()
}

fn expected(function: &Function) -> Vec<Value> {
    match &function.trigger {
        Trigger::Http { route, methods } => vec![
            json!({ "type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "anonymous", "methods": methods, "route": route }),
            json!({ "type": "http", "direction": "out", "name": "res" }),
        ],
        Trigger::ServiceBus { queue_name: queue, cardinality: Cardinality::One } => {
            vec![
                json!({ "type": "serviceBusTrigger", "direction": "in", "name": "msg", "queueName": queue, "connection": "ServiceBusConnection" }),
            ]
        }
        Trigger::ServiceBus { queue_name: queue, cardinality: Cardinality::Many } => vec![json!({
            "type": "serviceBusTrigger", "direction": "in", "name": "msgs", "queueName": queue, "connection": "ServiceBusConnection",
            "cardinality": "many", "dataType": "string",
        })],
        Trigger::StorageQueue { queue_name: queue } => {
            vec![
                json!({ "type": "queueTrigger", "direction": "in", "name": "msg", "queueName": queue, "connection": "AzureWebJobsStorage" }),
            ]
        }
        Trigger::Timer { schedule } => {
            vec![json!({ "type": "timerTrigger", "direction": "in", "name": "timer", "schedule": schedule })]
        }
    }
}

#[test]
fn the_table_and_the_folders_are_the_same() {
    let folders: BTreeSet<String> = std::fs::read_dir(root().join("functions"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<String> = FUNCTIONS.iter().map(|function| function.name.to_owned()).collect();
    assert_eq!(folders, names);
    assert_eq!(FUNCTIONS.len(), FOLDERS.len());
    for function in FUNCTIONS.iter() {
        let file = read(&format!("functions/{}/function.json", function.name));
        assert_eq!(file["bindings"], Value::Array(expected(function)), "{}", function.name);
    }
}

#[test]
fn every_file_is_valid_for_its_published_schema() {
    let check = |schema: &str, files: &[String]| {
        let mut schema = read(&format!("tests/it/house/schemas/{schema}"));
        if let Some(bindings) = schema.pointer_mut("/properties/bindings/items/oneOf/1/oneOf") {
            // These two definitions do not say which type they are for, so they fit every binding, and "exactly one"
            // of the published schema could never hold.
            let too_wide = ["#/definitions/sqlBinding", "#/definitions/mySqlBinding"];
            bindings
                .as_array_mut()
                .unwrap()
                .retain(|binding| !too_wide.iter().any(|name| binding["$ref"] == *name));
        }
        let validator = jsonschema::validator_for(&schema).unwrap();
        for file in files {
            let errors: Vec<String> =
                validator.iter_errors(&read(file)).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{file}: {errors:?}");
        }
    };
    check("host.schema.json", &["host.json".to_owned()]);
    let mut broken = expected(&FUNCTIONS[0]);
    broken[0]["authLevel"] = json!("nobody");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("function.json"), json!({ "bindings": broken }).to_string()).unwrap();
    let broken = folder.path().join("function.json").display().to_string();
    assert!(
        std::panic::catch_unwind(|| check("function.schema.json", &[broken])).is_err(),
        "the check notices nothing"
    );
    check(
        "function.schema.json",
        &FUNCTIONS
            .iter()
            .map(|function| format!("functions/{}/function.json", function.name))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn compose_starts_the_service_with_settings_that_exist() {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let compose = text("compose.yaml");
    let known: Vec<&str> = windlass::config::variables().map(|variable| variable.name).collect();
    let set = compose.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("      ")?.split_once(": ")?;
        (value.starts_with("${") && !name.starts_with(' ')).then_some(name)
    });
    let set: Vec<&str> = set.collect();
    assert_eq!(set.len(), 3, "{set:?}");
    assert!(set.iter().all(|name| known.contains(name)), "{set:?}");
    assert!(compose.contains("network_mode: host"), "the service listens on loopback only");
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains("COPY target/release/windlass ") && dockerfile.contains("CMD [\"serve\""));
    assert!(text(".dockerignore").contains("!target/release/windlass"));
    assert!(text(".github/workflows/ci.yml").contains("bash .ci/compose"), "a job of CI starts it");
}

#[test]
fn the_examples_name_every_setting() {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let environment = text(".env.example");
    let local = text("local.settings.json.example");
    let read: Value = serde_json::from_str(&local).unwrap();
    // Of a name that is there twice the parser keeps one.
    let outer = read.as_object().unwrap();
    let inner = outer.values().filter_map(Value::as_object).map(serde_json::Map::len);
    let members = outer.len() + inner.sum::<usize>();
    assert_eq!(local.matches("\":").count(), members, "a name is there twice");
    for variable in windlass::config::variables() {
        let line = format!("{}=", variable.name);
        let known = environment.lines().filter(|known| known.trim_start_matches("# ").starts_with(&line));
        assert_eq!(known.count(), 1, "{line}");
        assert!(
            read["Values"].get(variable.name).is_some(),
            "{} is not in local.settings.json.example",
            variable.name
        );
    }
}

#[test]
fn host_json_carries_the_documents_values() {
    let host = read("host.json");
    assert_eq!(host["functionTimeout"], "00:05:00");
    assert_eq!(
        host["healthMonitor"],
        json!({ "enabled": true, "healthCheckInterval": "00:00:10", "healthCheckWindow": "00:02:00", "healthCheckThreshold": 6 })
    );
    assert_eq!(host["singleton"], json!({ "lockPeriod": "00:00:30", "listenerLockPeriod": "00:01:00" }));
    assert_eq!(host["extensionBundle"]["version"], "[4.*, 5.0.0)");
    assert_eq!(
        host["logging"]["applicationInsights"]["samplingSettings"],
        json!({ "isEnabled": true, "excludedTypes": "Request" })
    );
    assert_eq!(
        (
            host["extensions"]["http"]["routePrefix"].as_str(),
            host["extensions"]["serviceBus"]["maxMessageBatchSize"].as_u64()
        ),
        (Some(""), Some(10))
    );
    assert_eq!(
        (
            host["customHandler"]["enableProxyingHttpRequest"].as_bool(),
            host["customHandler"]["enableForwardingHttpRequest"].as_bool()
        ),
        (Some(true), Some(true))
    );
}

#[test]
fn no_http_route_leads_to_a_triggers_path() {
    let routes: Vec<&str> = FUNCTIONS
        .iter()
        .filter_map(
            |function| if let Trigger::Http { route, .. } = &function.trigger { Some(*route) } else { None },
        )
        .collect();
    for function in FUNCTIONS.iter().filter(|function| !matches!(function.trigger, Trigger::Http { .. })) {
        for route in &routes {
            let first = route.split('/').next().unwrap();
            assert!(
                !first.starts_with('{') && !first.eq_ignore_ascii_case(function.name),
                "{route} reaches {}",
                function.name
            );
        }
    }
    for function in FUNCTIONS.iter() {
        let plain = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        assert!(
            plain(function.name) && function.name != "host" && !function.name.starts_with("admin"),
            "{}",
            function.name
        );
    }
}
