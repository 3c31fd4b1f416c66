//! The infrastructure says what the documents promise. That it also plans, `infra/terraform/check` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use windlass::triggers::table::{FUNCTIONS, Trigger};

use super::{files, root, text};

/// The body of the block of a Terraform file that starts with these words.
fn block(file: &str, header: &str) -> String {
    let text = text(&format!("infra/terraform/{file}"));
    let start = format!("{header} {{\n");
    let (_, body) = text.split_once(&start).unwrap_or_else(|| panic!("{file} has no {header}"));
    body.split("\n}").next().unwrap().to_owned()
}

/// What the block sets this argument to, without quotes.
fn setting(file: &str, header: &str, name: &str) -> String {
    block(file, header)
        .lines()
        .find_map(|line| {
            let (found, value) = line.split_once('=')?;
            (found.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
        })
        .unwrap_or_else(|| panic!("{header} in {file} does not set {name}"))
}

fn default(variable: &str) -> String {
    setting("variables.tf", &format!("variable \"{variable}\""), "default")
}

fn check(table: &[(&str, &str, &str, &str)]) {
    for (file, resource, name, value) in table {
        let (kind, label) = resource.split_once('.').unwrap();
        let found = setting(file, &format!("resource \"{kind}\" \"{label}\""), name);
        assert_eq!(found, *value, "{name} of {resource} in {file}");
    }
}

#[test]
fn terraform_has_the_documents_defaults() {
    for (variable, value) in [
        ("location", "eastus"),
        ("registry_sku", "Basic"),
        ("storage_replication", "LRS"),
        ("cosmos_consistency", "Eventual"),
    ] {
        assert_eq!(default(variable), value, "{variable}");
    }
    check(&[
        ("main.tf", "azurerm_resource_group.this", "location", "var.location"),
        ("registry.tf", "azurerm_container_registry.this", "sku", "var.registry_sku"),
        ("storage.tf", "azurerm_storage_account.this", "account_tier", "Standard"),
        ("storage.tf", "azurerm_storage_account.this", "account_replication_type", "var.storage_replication"),
        ("cosmos.tf", "azurerm_cosmosdb_account.this", "consistency_level", "var.cosmos_consistency"),
        ("keyvault.tf", "azurerm_key_vault.this", "rbac_authorization_enabled", "true"),
    ]);
    // Terraform makes the queues that the functions listen on.
    assert!(
        text("infra/terraform/messaging.tf").contains("fileset(local.functions_dir, \"*/function.json\")")
    );
    assert!(FUNCTIONS.iter().any(|function| matches!(
        &function.trigger,
        Trigger::ServiceBus { queue_name, .. } if *queue_name == "deployment-queue"
    )));
}

#[test]
fn nothing_is_opened_by_a_key_or_a_password() {
    check(&[
        ("storage.tf", "azurerm_storage_account.this", "shared_access_key_enabled", "false"),
        ("storage.tf", "azurerm_storage_account.this", "local_user_enabled", "false"),
        ("messaging.tf", "azurerm_servicebus_namespace.this", "local_auth_enabled", "false"),
        ("cosmos.tf", "azurerm_cosmosdb_account.this", "local_authentication_disabled", "true"),
        ("registry.tf", "azurerm_container_registry.this", "admin_enabled", "false"),
        ("monitoring.tf", "azurerm_log_analytics_workspace.this", "local_authentication_enabled", "false"),
        ("monitoring.tf", "azurerm_application_insights.this", "local_authentication_disabled", "true"),
        ("backing.tf", "azurerm_postgresql_flexible_server.apps", "password_auth_enabled", "false"),
        ("backing.tf", "azurerm_managed_redis.apps", "access_keys_authentication_enabled", "false"),
        (
            "functions.tf",
            "azurerm_function_app_flex_consumption.this",
            "storage_authentication_type",
            "UserAssignedIdentity",
        ),
    ]);
    let identities: Vec<String> = ["service", "apps", "builds"]
        .iter()
        .map(|name| {
            setting("identity.tf", &format!("resource \"azurerm_user_assigned_identity\" \"{name}\""), "name")
        })
        .collect();
    assert_eq!(identities, ["${local.base}-service", "${local.base}-apps", "${local.base}-builds"]);
}

#[test]
fn terraform_sets_only_what_is_read() {
    let terraform = text("infra/terraform/functions.tf");
    let (_, block) = terraform.split_once("windlass_settings = {").unwrap();
    let (block, _) = block.split_once("\n  }").unwrap();
    let set: Vec<&str> = block.lines().filter_map(|line| Some(line.split_once(" = ")?.0.trim())).collect();
    assert!(set.contains(&"WINDLASS_BUILDER"), "{set:?}");
    for name in set {
        assert!(windlass::config::variables().any(|known| known.name == name), "nobody reads {name}");
    }
}

/// Roles that could do everything, or give themselves the rest.
const TOO_MUCH: [&str; 5] = [
    "Contributor",
    "Key Vault Administrator",
    "Owner",
    "Role Based Access Control Administrator",
    "User Access Administrator",
];

#[test]
fn nobody_gets_a_role_that_could_do_everything() {
    let terraform = text("infra/terraform/roles.tf");
    let quoted = |line: &str| {
        let (_, rest) =
            line.split_once("role = \"").or_else(|| line.split_once("role_definition_name = \""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let mut given: BTreeSet<String> = terraform.lines().filter_map(quoted).collect();
    // The database has roles of its own, named by an id.
    assert!(text("infra/terraform/cosmos.tf").contains("is \"Cosmos DB Built-in Data Contributor\"."));
    given.insert("Cosmos DB Built-in Data Contributor".to_owned());
    let page = text("infra/terraform/README.md");
    let (_, section) = page.split_once("\n## Roles\n").unwrap();
    let documented: BTreeSet<String> = section
        .split("\n## ")
        .next()
        .unwrap()
        .lines()
        .filter(|line| {
            line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| identity")
        })
        .map(|line| line.split('|').nth(2).unwrap().trim().to_owned())
        .collect();
    assert_eq!(given, documented, "the list of roles in infra/terraform/README.md");
    assert!(given.contains("Key Vault Secrets Officer") && given.contains("Key Vault Secrets User"));

    let mut everywhere = given;
    for (folder, extension) in
        [("docs", "md"), ("infra", "md"), ("examples", "yml"), ("examples", "md"), (".github", "yml")]
    {
        for path in files(&root().join(folder), extension) {
            let page = std::fs::read_to_string(&path).unwrap();
            let asked =
                page.split("--role \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            everywhere.extend(asked);
        }
    }
    assert!(everywhere.contains("Website Contributor"), "the documents were not read");
    for role in TOO_MUCH {
        assert!(!everywhere.contains(role), "{role} is given away");
    }
}

#[test]
fn every_subnet_refuses_whom_it_does_not_know() {
    let group = "resource \"azurerm_network_security_group\" \"this\"";
    let association = "resource \"azurerm_subnet_network_security_group_association\" \"this\"";
    for header in ["resource \"azurerm_subnet\" \"this\"", group, association] {
        assert_eq!(setting("network.tf", header, "for_each"), "local.subnets", "{header}");
    }
    let words = block("network.tf", group).split_whitespace().collect::<Vec<_>>().join(" ");
    let refusal =
        "name = \"nobody-else\" priority = 4096 direction = \"Inbound\" access = \"Deny\" protocol = \"*\"";
    assert!(words.contains(refusal), "{words}");

    assert_eq!(default("network_mode"), "public");
    let endpoints = "resource \"azurerm_private_endpoint\" \"this\"";
    assert_eq!(setting("network.tf", endpoints, "for_each"), "local.endpoints");
    let network = text("infra/terraform/network.tf");
    assert!(network.contains("  endpoints = local.private ? merge("));
    for data in
        ["vaultcore.azure.net", "documents.azure.com", "blob.core.windows.net", "postgres.database.azure.com"]
    {
        assert!(network.contains(&format!("zone = \"privatelink.{data}\"")), "{data} has no private address");
    }
}

#[test]
fn there_is_a_template_for_each_service() {
    for (file, resource) in [
        ("frontdoor.tf", "azurerm_cdn_frontdoor_profile"),
        ("functions.tf", "azurerm_function_app_flex_consumption"),
        ("keyvault.tf", "azurerm_key_vault"),
        ("cosmos.tf", "azurerm_cosmosdb_account"),
    ] {
        block(file, &format!("resource \"{resource}\" \"this\""));
    }
    assert_eq!(templates().len(), 3);
    // Front Door, and what only apps use, are there when they are asked for and not before.
    for variable in ["front_door", "site", "database", "cache"] {
        assert_eq!(default(variable), "none", "{variable}");
    }
    for file in ["frontdoor.tf", "backing.tf"] {
        let text = text(&format!("infra/terraform/{file}"));
        for resource in text.split("\nresource \"").skip(1) {
            let optional = resource
                .split("\n}")
                .next()
                .unwrap()
                .lines()
                .any(|line| line.starts_with("  count = ") || line.starts_with("  for_each = "));
            assert!(optional, "{file}: {} is always there", resource.lines().next().unwrap());
        }
    }
}

/// The Logic Apps, by file name.
fn templates() -> BTreeMap<String, Value> {
    files(&root().join("infra/logic-apps"), "json")
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect()
}

#[test]
fn logic_apps_take_their_secrets_as_secure_parameters() {
    let secret = |name: &str| {
        ["token", "secret", "password", "key"].iter().any(|word| name.to_lowercase().ends_with(word))
    };
    let templates = templates();
    for (name, template) in &templates {
        let workflow = template["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|resource| resource["type"] == "Microsoft.Logic/workflows")
            .unwrap();
        for (parameters, wanted) in [
            (&template["parameters"], "securestring"),
            (&workflow["properties"]["definition"]["parameters"], "SecureString"),
        ] {
            for (parameter, description) in parameters.as_object().unwrap() {
                assert_eq!(description["type"] == wanted, secret(parameter), "{parameter} of {name}");
            }
            assert_eq!(parameters["apiToken"]["type"], wanted, "{name}");
            assert!(parameters["functionUrl"].is_object(), "{name}");
        }
        let first = &template["parameters"]["apiToken"];
        assert!(first.get("defaultValue").is_none(), "{name} has a token of its own");
    }
    let daily = &templates["scheduled-deploy"]["parameters"];
    assert_eq!(daily["bearerToken"]["type"], "securestring");
    assert_eq!(daily["dataverseApiUrl"]["type"], "string");
    assert_eq!((&daily["hour"]["defaultValue"], &daily["minute"]["defaultValue"]), (&json!(9), &json!(0)));
}

#[test]
fn logic_apps_start_and_send_as_the_documents_say() {
    let templates = templates();
    let definition = |name: &str| {
        let resources = templates[name]["resources"].as_array().unwrap();
        let workflow = resources.iter().find(|resource| resource["type"] == "Microsoft.Logic/workflows");
        workflow.unwrap()["properties"]["definition"].clone()
    };
    let event = definition("event-driven-deploy");
    let webhook = &event["triggers"]["When_a_Dataverse_record_is_created"];
    assert_eq!(webhook["type"], "ApiConnectionWebhook");
    assert_eq!(webhook["inputs"]["body"]["url"], "@{listCallbackUrl()}");
    let call = &event["actions"]["Call_Azure_Function"]["inputs"];
    assert_eq!((&call["method"], &call["uri"]), (&json!("POST"), &json!("@{parameters('functionUrl')}")));
    assert_eq!(call["body"], json!({ "trigger": "dataverse_record_created", "data": "@triggerBody()" }));

    let daily = definition("scheduled-deploy");
    let recurrence = &daily["triggers"]["Daily_Reminder_Check"]["recurrence"];
    assert_eq!((&recurrence["frequency"], &recurrence["interval"]), (&json!("Day"), &json!(1)));
    assert_eq!(recurrence["schedule"]["hours"], json!(["[parameters('hour')]"]));
    let sessions = daily.pointer("/actions/Is_Dataverse_given/actions/Get_Sessions_Today/inputs").unwrap();
    assert_eq!(sessions["method"], "GET");
    assert_eq!(sessions["authentication"]["value"], "Bearer @{parameters('bearerToken')}");
}

/// `name = value` lines of a file of values.
fn values(preset: &str) -> BTreeMap<String, String> {
    text(&format!("infra/terraform/presets/{preset}.tfvars"))
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
        .collect()
}

/// The least and the most that `12-15` means.
fn range(cell: &str) -> (u32, u32) {
    let (least, most) = cell.split_once('-').unwrap_or((cell, cell));
    (least.parse().unwrap(), most.parse().unwrap())
}

#[test]
fn the_tiers_are_presets_and_their_costs_add_up() {
    let has = |preset: &str, wanted: [&str; 3]| {
        let values = values(preset);
        assert_eq!(["site", "database", "cache"].map(|name| values[name].as_str()), wanted, "{preset}");
    };
    has("mvp", ["Free", "none", "none"]);
    has("standard", ["Free", "burstable", "none"]);
    has("full", ["Standard", "general", "replicated"]);
    let full = values("full");
    assert_eq!(
        (full["front_door"].as_str(), full["always_ready"].as_str()),
        ("Standard", "{ \"http\" = 2 }")
    );
    let check = text("infra/terraform/prove");
    assert!(check.contains("for preset in mvp standard full; do"), "the presets are not planned");

    let page = text("infra/terraform/presets/README.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows[0], ["USD a month", "mvp", "standard", "with a cache"]);
    let (total, lines) = rows[2..].split_last().unwrap();
    assert_eq!(lines.len(), 5);
    for column in 1..=3 {
        let sum = lines
            .iter()
            .map(|line| range(line[column]))
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_eq!(sum, range(total[column]), "the total of {}", rows[0][column]);
    }
    assert_eq!((total[1], total[3]), ("25", "52-55"), "the documents' totals");
}

const STUBS: [(&str, &str); 2] = [
    ("az", "case \"$*\" in 'account show'*) echo 00000000-0000-0000-0000-000000000000 ;; esac"),
    ("terraform", "case \"$*\" in *' output -raw '*) echo \"the-${4}\" ;; esac"),
];

fn script(path: &Path, body: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\necho \"${{0##*/}} $*\" >>\"$CALLS\"\n{body}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs `infra/deploy` in a folder where every program only writes down that it was called.
fn deploy(arguments: &[&str], files: &[&str], answer: &str) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for (name, body) in STUBS {
        script(&at("bin").join(name), body);
    }
    script(&at("infra/package"), "touch \"$1\"");
    script(&at("target/x86_64-unknown-linux-gnu/release/windlass"), "echo fit");
    std::fs::create_dir_all(at("infra/terraform")).unwrap();
    for file in files {
        std::fs::write(at("infra/terraform").join(file), "").unwrap();
    }
    std::fs::copy(root().join("infra/deploy"), at("infra/deploy")).unwrap();
    let path = format!("{}:/usr/bin:/bin", at("bin").display());
    let mut child = Command::new("bash")
        .arg(at("infra/deploy"))
        .args(arguments)
        .env("PATH", path)
        .env("CALLS", at("calls"))
        .env("WINDLASS_SMOKE_PAUSE", "0")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("TF_VAR_subscription_id")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever asks for nothing may be gone already.
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap_or_default();
    let output = child.wait_with_output().unwrap();
    let calls = std::fs::read_to_string(at("calls")).unwrap_or_default();
    (output, calls.lines().map(str::to_owned).collect())
}

/// Whether these parts are in the calls, in this order.
fn in_order(calls: &[String], parts: &[&str]) -> bool {
    let mut calls = calls.iter();
    parts.iter().all(|part| calls.any(|call| call.contains(part)))
}

#[test]
fn one_script_deploys_an_environment_and_production_asks_first() {
    let all = [
        "workspace select -or-create dev",
        "plan -input=false -var-file=dev.tfvars",
        "apply -input=false",
        "package ",
        "az functionapp deployment source config-zip",
        "windlass smoke the-api_url",
    ];
    let (output, calls) = deploy(&["dev"], &["dev.tfvars"], "");
    assert!(output.status.success() && in_order(&calls, &all), "{output:?} {calls:?}");
    assert!(
        calls.iter().any(|call| call.contains("--resource-group the-resource_group --name the-function_app"))
    );
    let (output, calls) = deploy(&["dev", "--plan"], &["dev.tfvars"], "");
    assert!(output.status.success() && in_order(&calls, &all[..2]), "{output:?} {calls:?}");
    assert!(!calls.iter().any(|call| call.contains("apply") || call.contains("config-zip")), "{calls:?}");

    for (answer, code) in [("", 1), ("yes\n", 1), ("prod\n", 0)] {
        let (output, calls) = deploy(&["prod"], &["prod.tfvars"], answer);
        assert_eq!(output.status.code(), Some(code), "{answer:?}: {output:?}");
        let changed = in_order(&calls, &["-var-file=prod.tfvars", "apply", "config-zip", "smoke"]);
        assert_eq!(changed, code == 0, "{answer:?}: {calls:?}");
        assert_eq!(calls.iter().any(|call| call.contains(" apply ")), code == 0, "{answer:?}: {calls:?}");
    }
    let (output, calls) = deploy(&["prod"], &["dev.tfvars"], "prod\n");
    assert!(output.status.code() == Some(78) && calls.is_empty(), "no values: {output:?} {calls:?}");
    let (output, calls) = deploy(&["staging"], &["dev.tfvars"], "");
    assert!(output.status.code() == Some(64) && calls.is_empty(), "{output:?} {calls:?}");
}

#[test]
fn saved_queries_and_alerts_name_functions_that_exist() {
    let page = text("docs/azure.md");
    let (_, section) = page.split_once("\n## Queries\n").unwrap();
    let queries: Vec<&str> =
        section.split("```kusto\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(queries.len() >= 4, "{queries:?}");
    for query in &queries {
        assert!(query.contains("where timestamp > ago(1h)"), "{query}");
        let balanced = ['(', '[']
            .iter()
            .zip([')', ']'])
            .all(|(open, close)| query.matches(*open).count() == query.matches(close).count());
        assert!(balanced, "{query}");
    }
    let named = |text: &str| -> Vec<String> {
        text.split("name == '").skip(1).map(|rest| rest.split('\'').next().unwrap().to_owned()).collect()
    };
    let mut names = named(&text("infra/terraform/monitoring.tf"));
    names.extend(queries.iter().copied().flat_map(named));
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        assert!(FUNCTIONS.iter().any(|function| function.name == name), "there is no function {name}");
    }
}
