//! `windlass doctor --azure` by the real program, against doubles of an installation that has everything, and of some that
//! have not.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};

use azure_core::base64::encode_url_safe;
use jiff::SignedDuration;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Value, json};
use windlass::ambient::{Clock as _, SystemClock};
use windlass::api::finding::State;
use windlass::azure::doctor::Probe;
use windlass::azure::services::Services;
use windlass::triggers::table::{FUNCTIONS, Trigger};

use super::doubles::{Answer, Asked, Double};
use super::openapi::Contract;
use super::{cosmos, settings, variables};
use crate::e2e::binary;

const TENANT: &str = "00000000-0000-0000-0000-00000000000a";
const CLIENT: &str = "00000000-0000-0000-0000-00000000000c";
/// The end of the path of the subscription itself.
const SUBSCRIPTION: &str = "/subscriptions/00000000-0000-0000-0000-000000000002$";
const SECRET: &str = "canary~8Q.secret";

/// Answers that are given instead, by a part of the path, or by its end where that part ends in `$`.
pub(super) type Instead = Vec<(&'static str, Answer)>;

/// What goes wrong where.
#[derive(Default)]
struct Troubles {
    authority: Instead,
    arm: Instead,
    vault: Instead,
    storage: Instead,
}

fn instead(troubles: &Instead, asked: &Asked) -> Option<Answer> {
    let hit = |part: &str| match part.strip_suffix('$') {
        Some(end) => asked.path.ends_with(end),
        None => asked.path.contains(part),
    };
    troubles.iter().find(|(part, _)| hit(part)).map(|(_, answer)| answer.clone())
}

fn ok(body: &Value) -> Answer {
    (200, vec![("content-type", "application/json".to_owned())], body.to_string())
}

pub(super) fn refusal(status: u16, code: &str, message: &str) -> Answer {
    (status, Vec::new(), json!({ "error": { "code": code, "message": message } }).to_string())
}

/// As Entra ID refuses: with line breaks in the text.
fn entra(status: u16, code: u32, text: &str) -> Answer {
    let text = format!("AADSTS{code}: {text}\r\nTrace ID: 1\r\nCorrelation ID: 2");
    let body = json!({ "error": "invalid_client", "error_description": text, "error_codes": [code] });
    (status, vec![("content-type", "application/json".to_owned())], body.to_string())
}

/// A token signed by nobody: only what it says is looked at.
fn token() -> String {
    let claims = json!({ "tid": TENANT, "appid": CLIENT }).to_string();
    format!("e30.{}.c2lnbmVk", encode_url_safe(claims))
}

/// The sign-in service.
pub(super) fn authority(troubles: Instead) -> Double {
    Double::start(move |asked| -> Answer {
        if let Some(answer) = instead(&troubles, asked) {
            return answer;
        }
        if asked.method == "POST" && asked.path.ends_with("/oauth2/v2.0/token") {
            assert!(asked.body.contains("grant_type=client_credentials"), "{}", asked.body);
            return ok(&json!({ "token_type": "Bearer", "expires_in": 3_600, "access_token": token() }));
        }
        assert!(asked.path.ends_with("/v2.0/.well-known/openid-configuration"), "{}", asked.path);
        ok(&json!({ "issuer": "here" }))
    })
}

fn resource(asked: &Asked) -> Answer {
    let segments: Vec<&str> = asked.path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["subscriptions", id] => ok(&json!({
            "subscriptionId": id, "displayName": "Shop", "state": "Enabled", "tenantId": TENANT,
            "subscriptionPolicies": { "quotaId": "PayAsYouGo_2014-09-01" },
        })),
        [.., "Microsoft.Authorization", "permissions"] => ok(&json!({ "value": [
            { "actions": ["*/read"], "notActions": [], "dataActions": [], "notDataActions": [] },
            { "actions": ["*"], "notActions": [], "dataActions": ["*"], "notDataActions": [] },
        ] })),
        [.., "queues", name] => ok(
            &json!({ "name": name, "properties": { "status": "Active", "requiresDuplicateDetection": true } }),
        ),
        [.., "managedEnvironments", name] => ok(&json!({
            "name": name, "location": "West Europe",
            "properties": { "defaultDomain": "blue.example", "provisioningState": "Succeeded" },
        })),
        [.., "registries", name] => {
            let properties = json!({ "loginServer": "registry.azurecr.io", "roleAssignmentMode": "LegacyRegistryPermissions" });
            ok(
                &json!({ "name": name, "location": "westeurope", "sku": { "name": "Basic" }, "properties": properties }),
            )
        }
        other => panic!("{other:?} is not played"),
    }
}

/// Resource Manager; what was not as the contract has it is kept.
fn arm(troubles: Instead, violations: Arc<Mutex<Vec<String>>>) -> Double {
    let contract = Contract::of(&[
        "Microsoft.App/2024-03-01/ManagedEnvironments.json",
        "Microsoft.Authorization/2022-04-01/authorization-RoleDefinitionsCalls.json",
        "Microsoft.Resources/2022-12-01/subscriptions.json",
        "Microsoft.ServiceBus/2024-01-01/Queue.json",
    ]);
    Double::start(move |asked| -> Answer {
        assert_eq!(asked.method, "GET", "nothing is changed");
        assert_eq!(asked.header("authorization"), Some(format!("Bearer {}", token()).as_str()));
        let answer = instead(&troubles, asked).unwrap_or_else(|| resource(asked));
        // Of this version of registries there is no file here, only the table of their properties.
        if asked.path.contains("/registries/") && !asked.path.ends_with("/permissions") {
            assert_eq!(asked.query, "api-version=2025-11-01");
            return answer;
        }
        let checked = contract
            .request("GET", &asked.path, &asked.query, &asked.body)
            .and_then(|operation| contract.answer(operation, answer.0, &answer.2));
        if let Err(complaint) = checked {
            violations.lock().unwrap().push(format!("{}: {complaint}", asked.path));
        }
        answer
    })
}

/// Key Vault, which asks for a token first.
pub(super) fn vault(troubles: Instead) -> Double {
    Double::start(move |asked| -> Answer {
        assert_eq!(asked.method, "GET", "nothing is changed");
        if asked.header("authorization").is_none() {
            let challenge = "Bearer authorization=\"https://login.microsoftonline.com/t\", resource=\"https://vault.azure.net\"";
            return (401, vec![("www-authenticate", challenge.to_owned())], String::new());
        }
        instead(&troubles, asked).unwrap_or_else(|| refusal(404, "SecretNotFound", "no such secret"))
    })
}

/// Blob and Queue Storage: whatever is asked for is there.
fn storage(troubles: Instead) -> Double {
    Double::start(move |asked| -> Answer {
        assert_eq!(asked.method, "GET", "nothing is changed");
        instead(&troubles, asked).unwrap_or_else(|| (200, Vec::new(), String::new()))
    })
}

/// An installation, and a machine with a folder of programs.
struct Installation {
    authority: Double,
    arm: Double,
    vault: Double,
    storage: Double,
    logs: Double,
    bus: Double,
    cosmos: cosmos::Served,
    violations: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
}

/// What the program said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn row(&self, name: &str) -> Value {
        let mut rows = self.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {}", self.out))
    }

    fn check(&self, name: &str, state: &str, seen: &str, next: &str) {
        let row = self.row(name);
        let text = |member: &str| row[member].as_str().unwrap_or_default().to_owned();
        assert!(text("state") == state && text("seen").contains(seen), "{seen}: {row}");
        assert!(text("next").contains(next), "{next}: {row}");
    }
}

impl Installation {
    fn start() -> Self {
        Self::with(Troubles::default())
    }

    fn with(troubles: Troubles) -> Self {
        let violations = Arc::<Mutex<Vec<String>>>::default();
        Self {
            authority: authority(troubles.authority),
            arm: arm(troubles.arm, Arc::clone(&violations)),
            vault: vault(troubles.vault),
            storage: storage(troubles.storage),
            logs: Double::start(|asked| -> Answer {
                assert!(asked.body.contains("windlass-doctor"), "{}", asked.body);
                ok(&json!({ "tables": [{ "rows": [] }] }))
            }),
            bus: Double::start(|asked| -> Answer {
                assert_eq!((asked.method.as_str(), asked.header("authorization")), ("GET", None));
                (401, Vec::new(), String::new())
            }),
            cosmos: cosmos::serve(),
            violations,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Puts a program on the machine.
    fn program(&self, name: &str, script: &str) {
        let path = self.folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn doctor(&self, arguments: &[&str], more: &[(&str, &str)]) -> Said {
        let mut values = variables(&[
            ("WINDLASS_AUTHORITY", &self.authority.address),
            ("WINDLASS_ARM_ENDPOINT", &self.arm.address),
            ("SERVICEBUS_NAMESPACE", &self.bus.address),
            ("KEYVAULT_URL", &self.vault.address),
            ("WINDLASS_BLOB_ENDPOINT", &self.storage.address),
            ("WINDLASS_QUEUE_ENDPOINT", &self.storage.address),
            ("WINDLASS_LOG_ANALYTICS_ENDPOINT", &self.logs.address),
            ("LOG_ANALYTICS_WORKSPACE", "workspace"),
            ("COSMOS_ENDPOINT", &self.cosmos.address),
            ("COSMOS_DISABLE_IMDS", "1"),
            ("WINDLASS_AZURE_AUTH", "service-principal"),
            ("AZURE_TENANT_ID", TENANT),
            ("AZURE_CLIENT_ID", CLIENT),
            ("AZURE_CLIENT_SECRET", SECRET),
        ]);
        values.remove("WINDLASS_BACKEND");
        values.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let output = Command::new(binary())
            .args(["doctor", "--azure"])
            .args(arguments)
            .env_clear()
            .env("PATH", self.folder.path())
            .envs(values)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The text with names instead of ports.
    fn named(&self, text: &str) -> String {
        let services = [
            (&self.authority.address, "authority"),
            (&self.arm.address, "arm"),
            (&self.vault.address, "vault"),
            (&self.storage.address, "storage"),
            (&self.cosmos.address, "cosmos"),
        ];
        services.iter().fold(text.to_owned(), |text, (address, name)| {
            let host = address.trim_start_matches("http://").trim_end_matches('/');
            text.replace(host, &format!("{name}.test"))
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_that_has_everything_is_fine() {
    let azure = Installation::start();
    let said = azure.doctor(&[], &[]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let queues = FUNCTIONS.iter().filter(|function| matches!(function.trigger, Trigger::ServiceBus { .. }));
    let out = azure.named(&said.out).replace(&format!("{} queues", queues.count()), "all queues");
    insta::assert_snapshot!(out, @r"
    absent azure-cli          not on the PATH; this sign-in does not need it
    absent identity           not used: WINDLASS_AZURE_AUTH is service-principal
    ok     sign-in-service    https://authority.test/ knows the directory 00000000-0000-0000-0000-00000000000a
    ok     clock              right within a minute
    ok     sign-in            00000000-0000-0000-0000-00000000000c, by service principal, in directory 00000000-0000-0000-0000-00000000000a
    ok     subscription       ********-****-****-****-********0002 (Shop) of directory 00000000-0000-0000-0000-00000000000a is Enabled
    ok     service-bus        all queues
    ok     storage-content    the container content
    ok     storage-logs       the container logs
    ok     storage-alarm      the queue alarm
    warn   cosmos             the containers runs and records of windlass can be read; whether they can be written is not known
                              → see that the identity has the role Cosmos DB Built-in Data Contributor (az cosmosdb sql role assignment create)
    ok     key-vault          secrets can be read; the first start makes the sealing key
    ok     container-apps     env in West Europe, apps on blue.example
    ok     registry           registry.azurecr.io
    ok     log-analytics      the workspace can be asked
    ");
    assert_eq!(*azure.violations.lock().unwrap(), [""; 0]);
    let said = azure.doctor(&["--json"], &[]);
    let row = said.out.lines().find(|line| line.contains("\"subscription\"")).unwrap();
    insta::assert_snapshot!(row, @r#"{"v":1,"name":"subscription","state":"ok","seen":"********-****-****-****-********0002 (Shop) of directory 00000000-0000-0000-0000-00000000000a is Enabled"}"#);
}

/// What only a reader may do.
fn reader() -> Answer {
    ok(&json!({ "value": [{ "actions": ["*/read"], "dataActions": [] }] }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_with_what_to_do() {
    let code = |code: &str| vec![("x-ms-error-code", code.to_owned())];
    let disabled = json!({ "displayName": "Shop", "state": "Disabled", "tenantId": TENANT });
    let abac =
        json!({ "loginServer": "registry.azurecr.io", "roleAssignmentMode": "AbacRepositoryPermissions" });
    let azure = Installation::with(Troubles {
        arm: vec![
            ("/namespaces/127/providers/", reader()),
            ("/Microsoft.Storage/", reader()),
            (
                "/managedEnvironments/",
                refusal(404, "ResourceGroupNotFound", "Resource group 'apps' was not found."),
            ),
            ("/registries/registry$", ok(&json!({ "properties": abac }))),
            (SUBSCRIPTION, ok(&disabled)),
        ],
        vault: vec![("/secrets/", refusal(403, "Forbidden", "Caller is not authorized.\r\nAction: 'get'"))],
        storage: vec![
            ("/content", (404, code("ContainerNotFound"), String::new())),
            ("/alarm", (403, code("AuthorizationPermissionMismatch"), String::new())),
        ],
        ..Troubles::default()
    });
    let said = azure.doctor(&["--json"], &[("COSMOS_DATABASE", "other")]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    said.check("subscription", "failed", "is Disabled", "reactivate the subscription");
    let roles =
        "the role Azure Service Bus Data Sender and Azure Service Bus Data Receiver on /subscriptions/";
    said.check("service-bus", "failed", "queues, but", roles);
    said.check("container-apps", "failed", "ResourceGroupNotFound", "make the resource group apps");
    said.check("registry", "warn", "ABAC", "az acr update --name registry");
    let officer = "the role Key Vault Secrets Officer on /subscriptions/";
    said.check("key-vault", "failed", "Caller is not authorized", officer);
    said.check("storage-content", "failed", "ContainerNotFound", "make the container content");
    said.check(
        "storage-logs",
        "failed",
        "logs, but",
        "the role Storage Blob Data Contributor on /subscriptions/",
    );
    let contributor = "the role Storage Queue Data Contributor on /subscriptions/";
    said.check("storage-alarm", "failed", "AuthorizationPermissionMismatch", contributor);
    said.check("cosmos", "failed", "404", "make the database other with the containers runs and records");
    assert_eq!(*azure.violations.lock().unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_are_those_of_what_makes_the_images() {
    let pusher = json!([{ "actions": ["*/read", "Microsoft.ContainerRegistry/registries/push/write"] }]);
    let azure = Installation::with(Troubles {
        arm: vec![("/registries/registry/providers/", ok(&json!({ "value": pusher })))],
        ..Troubles::default()
    });
    let builder = |more: &[(&str, &str)]| azure.doctor(&["--json"], more);
    let tasks = "the role Container Registry Tasks Contributor on /subscriptions/";
    builder(&[]).check("registry", "failed", "registry.azurecr.io, but", tasks);
    builder(&[("WINDLASS_BUILDER", "layers")]).check("registry", "ok", "registry.azurecr.io", "");
    let login = [("WINDLASS_REGISTRY_USER", "robot"), ("WINDLASS_REGISTRY_SECRET", "s")];
    builder(&login).check("registry", "absent", "none of Azure's", "");
    let abac =
        json!({ "loginServer": "registry.azurecr.io", "roleAssignmentMode": "AbacRepositoryPermissions" });
    let azure = Installation::with(Troubles {
        arm: vec![("/registries/registry$", ok(&json!({ "properties": abac })))],
        ..Troubles::default()
    });
    let builder = |word: &str| azure.doctor(&["--json"], &[("WINDLASS_BUILDER", word)]);
    builder("acr").check("registry", "failed", "ABAC", "WINDLASS_BUILDER=job");
    builder("layers").check("registry", "ok", "registry.azurecr.io", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apps_need_roles_in_three_places() {
    let kaniko = format!("ghcr.io/o/kaniko@sha256:{}", "ab".repeat(32));
    let only_apps = json!([{ "actions": ["*/read", "Microsoft.App/containerApps/write"] }]);
    for (place, role) in [
        ("/resourceGroups/apps/providers/Microsoft.Authorization/", "Container Apps Jobs Contributor"),
        ("/managedEnvironments/env/providers/", "Container Apps ManagedEnvironments Contributor"),
        ("/userAssignedIdentities/apps/providers/", "Managed Identity Operator"),
    ] {
        let arm = vec![(place, ok(&json!({ "value": only_apps })))];
        let azure = Installation::with(Troubles { arm, ..Troubles::default() });
        let said = azure
            .doctor(&["--json"], &[("WINDLASS_BUILDER", "job"), ("WINDLASS_KANIKO_IMAGE", kaniko.as_str())]);
        said.check("container-apps", "failed", &format!("the role {role}"), &format!("the role {role} on"));
        assert_eq!(*azure.violations.lock().unwrap(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_on_the_way_is_told_from_trouble_there() {
    let off = SystemClock.now() - SignedDuration::from_hours(1);
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&off).unwrap();
    let free = json!({
        "displayName": "Shop", "state": "PastDue", "tenantId": TENANT,
        "subscriptionPolicies": { "quotaId": "FreeTrial_2014-09-01" },
    });
    let firewall =
        "<?xml version=\"1.0\"?><Error><Code>AuthorizationFailure</Code><Message>No.</Message></Error>";
    let azure = Installation::with(Troubles {
        authority: vec![("openid-configuration", (200, vec![("date", date)], "{}".to_owned()))],
        arm: vec![
            ("/queues/step-build$", refusal(404, "ResourceNotFound", "no")),
            ("/managedEnvironments/", refusal(429, "TooManyRequests", "slower")),
            ("/Microsoft.Storage/", refusal(403, "AuthorizationFailed", "no")),
            (SUBSCRIPTION, ok(&free)),
        ],
        storage: vec![("/content", (403, Vec::new(), firewall.to_owned()))],
        ..Troubles::default()
    });
    let key = "DefaultEndpointsProtocol=https;AccountName=wl;AccountKey=Y2FuYXJ5";
    let said = azure.doctor(
        &["--json"],
        &[
            ("KEYVAULT_URL", "http://127.0.0.1:1/"),
            ("LOG_ANALYTICS_WORKSPACE", ""),
            ("AZURE_STORAGE_CONNECTION_STRING", key),
        ],
    );
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    said.check("clock", "failed", " s ahead", "by a time service");
    said.check("service-bus", "failed", "step-build are not there", "make the namespace and its queues");
    said.check("container-apps", "failed", "429 TooManyRequests", "asks for patience");
    said.check("storage-content", "failed", "403 AuthorizationFailure: No.", "network rules");
    said.check("storage-logs", "warn", "does not say", "the role Storage Blob Data Contributor");
    said.check("key-vault", "failed", "refused", "nothing answers there: check KEYVAULT_URL");
    said.check("subscription", "warn", "is PastDue", "pay what is open");
    said.check("registry", "warn", "FreeTrial", "TasksOperationsNotAllowed, set WINDLASS_KANIKO_IMAGE");
    said.check("log-analytics", "warn", "no workspace", "LOG_ANALYTICS_WORKSPACE");
    said.check("connection-strings", "warn", "AZURE_STORAGE_CONNECTION_STRING", "take the key out");
    assert!(!said.out.contains("Y2FuYXJ5") && !said.err.contains("Y2FuYXJ5"));
    assert_eq!(*azure.violations.lock().unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_without_an_address_says_which_setting_to_check() {
    let azure = Installation::start();
    // The C library refuses a name with so long a part by itself, so that nobody outside is asked. TLS would refuse it before
    // that, but sees the alias only.
    let file = azure.folder.path().join("aliases");
    std::fs::write(&file, format!("nothing {}.invalid\n", "a".repeat(64))).unwrap();
    let aliases = ("HOSTALIASES", file.to_str().unwrap());
    let doctor = |names: &[&'static str]| {
        let nowhere = names.iter().map(|name| (*name, "https://nothing/"));
        azure.doctor(&["--json"], &nowhere.chain([aliases]).collect::<Vec<_>>())
    };
    let said = doctor(&[
        "COSMOS_ENDPOINT",
        "SERVICEBUS_NAMESPACE",
        "KEYVAULT_URL",
        "WINDLASS_BLOB_ENDPOINT",
        "WINDLASS_QUEUE_ENDPOINT",
        "WINDLASS_LOG_ANALYTICS_ENDPOINT",
    ]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    let check = |said: &Said, row: &str, setting: &str| {
        said.check(row, "failed", "nothing/", &format!("the name has no address: check {setting};"));
    };
    check(&said, "cosmos", "COSMOS_ENDPOINT");
    check(&said, "service-bus", "SERVICEBUS_NAMESPACE");
    check(&said, "key-vault", "KEYVAULT_URL");
    for row in ["storage-content", "storage-logs", "storage-alarm"] {
        check(&said, row, "STORAGE_ACCOUNT");
    }
    said.check("log-analytics", "failed", "dns error", "the network's way to Log Analytics");
    let said = doctor(&["WINDLASS_ARM_ENDPOINT"]);
    for row in ["subscription", "service-bus", "container-apps", "registry"] {
        check(&said, row, "WINDLASS_AZURE_CLOUD and WINDLASS_ARM_ENDPOINT");
    }
    let said = doctor(&["WINDLASS_AUTHORITY"]);
    check(&said, "sign-in", "WINDLASS_AUTHORITY");
    check(&said, "sign-in-service", "WINDLASS_AZURE_CLOUD");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_vault_is_a_row_and_not_the_end() {
    let closed = || vec![("/secrets/", refusal(403, "Forbidden", "Caller is not authorized."))];
    let azure = Installation::with(Troubles { vault: closed(), ..Troubles::default() });
    let missing = [("CONTAINER_APPS_ENVIRONMENT", "")];
    let said = azure.doctor(&["--json"], &missing);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    said.check("settings", "failed", "secret container-apps-environment", "the rows sign-in and key-vault");
    said.check("key-vault", "failed", "Caller is not authorized", "Key Vault Secrets Officer");
    said.check("container-apps", "absent", "CONTAINER_APPS_ENVIRONMENT is not known", "");
    said.check("registry", "ok", "registry.azurecr.io", "");
    let authority = vec![("/oauth2/", entra(401, 7_000_222, "The provided client secret keys are expired."))];
    let azure = Installation::with(Troubles { authority, ..Troubles::default() });
    let said = azure.doctor(&["--json"], &missing);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    said.check("sign-in", "failed", "AADSTS7000222", "has expired");
    said.check("registry", "absent", "the sign-in does not work", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_sign_in_says_why() {
    let expired = entra(401, 7_000_222, "The provided client secret keys for the app are expired.");
    let unknown = entra(400, 90_002, "Tenant 'x' not found.");
    for (path, answer, seen, next) in [
        ("/oauth2/", expired, "AADSTS7000222", format!("the secret of {CLIENT} has expired")),
        ("/oauth2/", unknown.clone(), "AADSTS90002", format!("AZURE_TENANT_ID {TENANT} is no directory")),
    ] {
        let authority = vec![(path, answer), ("openid-configuration", unknown.clone())];
        let azure = Installation::with(Troubles { authority, ..Troubles::default() });
        let said = azure.doctor(&["--json"], &[]);
        assert_eq!(said.code, 1);
        said.check("sign-in", "failed", seen, &next);
        said.check("sign-in-service", "failed", TENANT, &format!("AZURE_TENANT_ID {TENANT} is no directory"));
        said.check("cosmos", "absent", "the sign-in does not work", "");
        assert!(azure.arm.asked().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_signs_in_or_hears_what_is_missing() {
    let azure = Installation::start();
    let file = azure.folder.path().join("token");
    let path = file.to_str().unwrap();
    let doctor = |azure: &Installation, path: &str| {
        let workload = [("WINDLASS_AZURE_AUTH", "workload-identity"), ("AZURE_FEDERATED_TOKEN_FILE", path)];
        azure.doctor(&["--json"], &workload)
    };
    let missing = format!("AZURE_FEDERATED_TOKEN_FILE {path} cannot be read");
    doctor(&azure, path).check("sign-in", "failed", &missing, "what the platform sets");
    std::fs::write(&file, "canary").unwrap();
    let said = doctor(&azure, path);
    said.check("sign-in", "ok", "by workload identity", "");
    assert!(!said.out.contains("canary") && !said.err.contains("canary"));
    let unset = doctor(&azure, "");
    assert_eq!(unset.code, 78);
    assert!(unset.err.contains("AZURE_FEDERATED_TOKEN_FILE is not set; workload-identity"), "{}", unset.err);
    let stranger = entra(401, 700_213, "No matching federated identity record found.");
    let azure =
        Installation::with(Troubles { authority: vec![("/oauth2/", stranger)], ..Troubles::default() });
    let advice = format!("no federated credential of {CLIENT} fits the workload");
    doctor(&azure, path).check("sign-in", "failed", "AADSTS700213", &advice);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_is_in_no_line_at_any_level() {
    let refused = entra(401, 7_000_215, "Invalid client secret provided.");
    for authority in [Vec::new(), vec![("/oauth2/", refused)]] {
        let azure = Installation::with(Troubles { authority, ..Troubles::default() });
        let said = azure.doctor(&[], &[("LOG_LEVEL", "trace"), ("RUST_LOG", "trace")]);
        let sent = azure.authority.asked().iter().any(|asked| asked.body.contains("canary"));
        assert!(sent, "the secret is used: {}", said.out);
        assert!(said.err.contains("[redacted]"), "{}", said.err);
        for text in [&said.out, &said.err] {
            assert!(!text.contains("canary") && !text.contains(&token()), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_id_chooses_the_identity() {
    let azure = Installation::start();
    let identity = Double::start(|asked| -> Answer {
        assert_eq!(asked.header("x-identity-header"), Some("header"));
        assert!(asked.query.contains("api-version=2019-08-01"), "{}", asked.query);
        if asked.query.contains(&format!("client_id={CLIENT}")) {
            let until = (SystemClock.now() + SignedDuration::from_hours(1)).as_second().to_string();
            return ok(
                &json!({ "access_token": token(), "expires_on": until, "resource": "r", "token_type": "Bearer" }),
            );
        }
        let text = "Identity not found";
        (400, Vec::new(), json!({ "error": "invalid_request", "error_description": text }).to_string())
    });
    let platform = [
        ("WINDLASS_AZURE_AUTH", "managed-identity"),
        ("IDENTITY_ENDPOINT", identity.address.as_str()),
        ("IDENTITY_HEADER", "header"),
        ("AZURE_CLIENT_SECRET", ""),
    ];
    let said = azure.doctor(&["--json"], &platform);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    said.check("identity", "ok", &format!("gives tokens to the identity {CLIENT}"), "");
    said.check("sign-in", "ok", "by managed identity", "");
    let said = azure.doctor(&["--json"], &[&platform[..], &[("AZURE_CLIENT_ID", "other")]].concat());
    said.check("identity", "failed", "400 for the identity other: Identity not found", "client id other");
    said.check("sign-in", "failed", "no token by managed identity", "see the row identity");
    // The same variable names a service principal when one signs in.
    azure.doctor(&["--json"], &[("AZURE_CLIENT_ID", "principal")]);
    assert!(azure.authority.asked().iter().any(|asked| asked.body.contains("client_id=principal")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_azure_cli_signs_in_on_a_machine_of_ones_own() {
    let azure = Installation::start();
    let cli = [("WINDLASS_AZURE_AUTH", "cli")];
    let said = azure.doctor(&["--json"], &cli);
    said.check("azure-cli", "failed", "not on the PATH", "install it");
    said.check("sign-in", "failed", "az not found on PATH", "azure-cli");
    let active = "00000000-0000-0000-0000-000000000002";
    azure.program("az", &format!(
        r#"case "$*" in
"version --output json") echo '{{"azure-cli":"2.66.0"}}' ;;
"account show --output json") echo '{{"id":"{active}","tenantId":"{TENANT}"}}' ;;
"account get-access-token"*"--tenant {TENANT}") echo '{{"accessToken":"{}","expires_on":4102444800,"tokenType":"Bearer"}}' ;;
"account get-access-token"*) echo "AADSTS90002: Tenant not found." >&2; exit 1 ;;
*) exit 2 ;;
esac"#,
        token()
    ));
    let said = azure.doctor(&["--json"], &cli);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let seen = format!(
        "2.66.0, signed in; active subscription ********-****-****-****-********0002 of directory {TENANT}"
    );
    said.check("azure-cli", "ok", &seen, "");
    said.check("identity", "warn", "the rows below tell what you may do", "the identity's roles");
    said.check("sign-in", "ok", "by the Azure CLI", "");
    let wrong = [cli[0], ("AZURE_TENANT_ID", "wrong.example"), ("AZURE_SUBSCRIPTION_ID", "other")];
    let said = azure.doctor(&["--json"], &wrong);
    said.check("sign-in", "failed", "AADSTS90002", "AZURE_TENANT_ID wrong.example is no directory");
    said.check("azure-cli", "warn", "which is not AZURE_SUBSCRIPTION_ID", "az account set");
    azure.program("az", r#"[ "$1" = version ] && echo '{"azure-cli":"2.66.0"}' || { echo "Please run az login" >&2; exit 1; }"#);
    let said = azure.doctor(&["--json"], &cli);
    said.check("azure-cli", "warn", "2.66.0, not signed in", "az login");
    said.check("sign-in", "failed", "Please run az login", "az login");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_may_not_do_is_no_failure_of_the_service() {
    let azure = Installation::with(Troubles {
        arm: vec![
            ("/Microsoft.Storage/", reader()),
            (SUBSCRIPTION, refusal(403, "AuthorizationFailed", "no")),
        ],
        vault: vec![("/secrets/", refusal(403, "Forbidden", "Caller is not authorized."))],
        ..Troubles::default()
    });
    let signed_in = format!(
        r#"[ "$1" = version ] && echo '{{"azure-cli":"2.66.0"}}' || echo '{{"accessToken":"{}","expires_on":4102444800,"tokenType":"Bearer"}}'"#,
        token()
    );
    azure.program("az", &signed_in);
    let said = azure.doctor(&["--json"], &[("WINDLASS_AZURE_AUTH", "cli")]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for (name, role) in [
        ("storage-logs", "Storage Blob Data Contributor"),
        ("key-vault", "Key Vault Secrets Officer"),
        ("subscription", "Reader"),
    ] {
        let seen = format!("you lack {role}; the service's identity was not looked at");
        said.check(name, "warn", &seen, &format!("the service's identity has the role {role} on "));
    }
}

#[tokio::test]
async fn the_metadata_service_has_a_second_to_answer() {
    let double = Double::start(|asked| -> Answer {
        assert_eq!((asked.header("metadata"), asked.header("x-identity-header")), (Some("true"), None));
        assert!(asked.query.contains("api-version=2018-02-01"), "{}", asked.query);
        ok(&json!({ "access_token": "canary" }))
    });
    let wire = Services::hasty(&settings(&[])).unwrap().wire();
    let probe = |address: &str| Probe {
        endpoint: address.parse().unwrap(),
        header: None,
        client: None,
        audience: "https://management.azure.com/".to_owned(),
    };
    let found = probe(&double.address).ask(&wire).await;
    assert_eq!(found.state, State::Ok);
    assert!(found.seen.contains("the system-assigned identity") && !found.seen.contains("canary"));
    // It takes the connection, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let found = probe(&format!("http://{}/", silent.local_addr().unwrap())).ask(&wire).await;
    assert_eq!(found.state, State::Failed);
    assert!(found.seen.contains("does not answer within 1 s"), "{found:?}");
    assert!(found.next.unwrap().contains("WINDLASS_AZURE_AUTH=cli"));
}
