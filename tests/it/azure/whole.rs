//! The whole deploy chain on Azure: the real program as custom handler, on Cosmos DB's emulator and Azurite, with doubles
//! for all else, and a host that delivers messages at least once.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use azure_core::credentials::TokenCredential as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use windlass::ambient::{Clock as _, SystemClock};
use windlass::azure::app_body::app_name;
use windlass::triggers::table::{FUNCTIONS, Function, queue_of};

use super::arm_double::ArmDouble;
use super::azurite::{Azurite, Unsigned};
use super::cosmos;
use super::doubles::{Answer, Double};
use super::telemetry::outbound_calls_are_dependencies;
use super::vault::vault;
use crate::e2e::{copy_of, until};

/// A message on its way.
struct Message {
    queue: String,
    body: String,
    due: Timestamp,
}

type Waiting = Arc<Mutex<Vec<Message>>>;

/// A Service Bus namespace that keeps what comes until it is delivered.
fn namespace() -> (Double, Waiting) {
    let waiting: Waiting = Arc::default();
    let kept = Arc::clone(&waiting);
    let known: Mutex<BTreeMap<String, ()>> = Mutex::default();
    let double = Double::start(move |asked| -> Answer {
        let properties: Value = serde_json::from_str(asked.header("brokerproperties").unwrap()).unwrap();
        let id = properties["MessageId"].as_str().unwrap().to_owned();
        if known.lock().unwrap().insert(id, ()).is_none() {
            let due = properties["ScheduledEnqueueTimeUtc"].as_str();
            let due = due.map(|text| jiff::fmt::rfc2822::parse(text).unwrap().timestamp());
            let queue = asked.path.trim_matches('/').split('/').next().unwrap().to_owned();
            let due = due.unwrap_or(Timestamp::UNIX_EPOCH);
            kept.lock().unwrap().push(Message { queue, body: asked.body.clone(), due });
        }
        (201, Vec::new(), String::new())
    });
    (double, waiting)
}

/// What the Functions host posts for a message.
fn envelope(function: &Function, body: &str) -> Value {
    let data = if function.trigger.brings_many() {
        json!({ "msgs": json!([body]).to_string() })
    } else {
        json!({ "msg": json!(body).to_string() })
    };
    json!({ "Data": data, "Metadata": { "DeliveryCount": "1", "sys": { "MethodName": function.name } } })
}

struct Cloud {
    azurite: Azurite,
    arm: ArmDouble,
    waiting: Waiting,
    ingestion: Double,
    variables: Vec<(String, String)>,
    port: u16,
    handler: Mutex<Option<Child>>,
    _kept: Vec<Double>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Cloud {
    async fn start() -> Option<Self> {
        let azurite = Azurite::start().await?;
        let (arm, vault, (bus, waiting)) = (ArmDouble::start(), vault(), namespace());
        let token = Unsigned.get_token(&[], None).await.unwrap().token.secret().to_owned();
        let identity = Double::start(move |asked| -> Answer {
            assert_eq!(asked.header("x-identity-header"), Some("secret"));
            let until = (SystemClock.now() + jiff::SignedDuration::from_hours(1)).as_second();
            let body = json!({ "access_token": token, "expires_on": until.to_string(), "resource": "r", "token_type": "Bearer" });
            (200, vec![("content-type", "application/json".to_owned())], body.to_string())
        });
        let ingestion = Double::start(|_| (200, Vec::new(), "{}".to_owned()));
        let address = cosmos::serve();
        let settings = &azurite.settings;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let variables = [
            ("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string()),
            ("WINDLASS_BACKEND", "azure".to_owned()),
            ("COSMOS_ENDPOINT", address),
            ("SERVICEBUS_NAMESPACE", bus.address.clone()),
            ("WINDLASS_BLOB_ENDPOINT", settings.blobs.to_string()),
            ("WINDLASS_QUEUE_ENDPOINT", settings.queues.to_string()),
            ("WINDLASS_ROOT_CERTIFICATE", settings.root_certificate.as_ref().unwrap().display().to_string()),
            ("WINDLASS_ARM_ENDPOINT", arm.double.address.clone()),
            ("KEYVAULT_URL", vault.address.clone()),
            ("IDENTITY_ENDPOINT", identity.address.clone()),
            ("IDENTITY_HEADER", "secret".to_owned()),
            ("AZURE_SUBSCRIPTION_ID", settings.subscription.clone()),
            ("AZURE_RESOURCE_GROUP", settings.group.clone()),
            ("AZURE_LOCATION", settings.location.clone()),
            ("CONTAINER_APPS_ENVIRONMENT", settings.environment.clone()),
            ("APPS_IDENTITY", settings.apps_identity.clone()),
            ("AZURE_CONTAINER_REGISTRY", settings.registry.clone()),
            ("COSMOS_DISABLE_IMDS", "1".to_owned()),
            (
                "APPLICATIONINSIGHTS_CONNECTION_STRING",
                format!("InstrumentationKey=k;IngestionEndpoint={}", ingestion.address),
            ),
            ("APPLICATIONINSIGHTS_AUTHENTICATION_STRING", "Authorization=AAD".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let kept = vec![vault, bus, identity];
        Some(Self {
            azurite,
            arm,
            waiting,
            ingestion,
            variables,
            port,
            handler: Mutex::default(),
            _kept: kept,
        })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn run(&self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_windlass"))
            .env_clear()
            .envs(self.variables.clone())
            .stdout(Stdio::from(log))
            .spawn()
            .unwrap();
        *self.handler.lock().unwrap() = Some(child);
        until("the handler answers", || async { reqwest::get(format!("{}/", self.url())).await.is_ok() })
            .await;
    }

    fn kill(&self) {
        if let Some(mut child) = self.handler.lock().unwrap().take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// SIGTERM, and waits until it has ended.
    fn stop(&self) {
        if let Some(mut child) = self.handler.lock().unwrap().take() {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            child.wait().unwrap();
        }
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.azurite.folder().join("handler.log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Hands over what is due, each message until the handler has taken it, and some twice.
    async fn deliver(&self, now: Timestamp) {
        let due: Vec<Message> = {
            let mut waiting = self.waiting.lock().unwrap();
            let (due, later) =
                std::mem::take(&mut *waiting).into_iter().partition(|message| message.due <= now);
            *waiting = later;
            due
        };
        for (index, message) in due.into_iter().enumerate() {
            let function =
                FUNCTIONS.iter().find(|function| queue_of(function) == Some(message.queue.as_str())).unwrap();
            let times = if index % 5 == 4 { 2 } else { 1 };
            for _ in 0..times {
                if !self.post(function.name, &envelope(function, &message.body)).await {
                    let again =
                        Message { queue: message.queue.clone(), body: message.body.clone(), due: now };
                    self.waiting.lock().unwrap().push(again);
                    break;
                }
            }
        }
    }

    async fn tick(&self, timer: &str) {
        let body = json!({ "Data": { "timer": {} }, "Metadata": { "sys": { "MethodName": timer } } });
        self.post(timer, &body).await;
    }

    /// Plays the host until every deployment has ended; `killed` kills the handler so often, at moments that follow from
    /// the number of what was delivered.
    async fn until_all_ended(&self, killed: usize) -> Value {
        let begun = Instant::now();
        let (mut rounds, mut kills) = (0_usize, 0);
        loop {
            assert!(begun.elapsed() < Duration::from_secs(180), "not over: {}", self.log());
            self.deliver(SystemClock.now()).await;
            rounds += 1;
            if kills < killed && rounds % 7 == 3 {
                self.kill();
                self.run().await;
                kills += 1;
            }
            if rounds % 40 == 0 {
                self.tick("timer-sweep").await;
            }
            let list = self.get("/status/deployments").await;
            let all = list["deployments"].as_array().cloned().unwrap_or_default();
            let ended =
                |deployment: &Value| !matches!(deployment["status"].as_str(), Some("queued" | "running"));
            if kills >= killed && !all.is_empty() && all.iter().all(ended) {
                return list;
            }
            until("a moment has passed", {
                let from = Instant::now();
                move || std::future::ready(from.elapsed() > Duration::from_millis(50))
            })
            .await;
        }
    }

    async fn post(&self, function: &str, body: &Value) -> bool {
        let call = reqwest::Client::new().post(format!("{}/{function}", self.url()));
        let answer = call.header("content-type", "application/json").body(body.to_string()).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// What the API says; nothing while there is no handler.
    async fn get(&self, path: &str) -> Value {
        let Ok(answer) = reqwest::get(format!("{}{path}", self.url())).await else { return Value::Null };
        serde_json::from_slice(&answer.bytes().await.unwrap_or_default()).unwrap_or_default()
    }

    /// Hands a folder over and gives the deployment's id.
    fn deploy(&self, project: &std::path::Path, name: &str) -> String {
        let said = self.cli(&["deploy", project.to_str().unwrap(), "--detach", "--project", name]);
        said.lines().last().unwrap().to_owned()
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_windlass"))
            .args(["--server", &self.url()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), self.log());
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_becomes_a_live_app_on_container_apps() {
    let Some(cloud) = Cloud::start().await else { return };
    cloud.run().await;
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("node-api", folder.path());
    let id = cloud.deploy(&project, "node-api");
    let list = cloud.until_all_ended(0).await;
    assert_eq!(
        list["deployments"][0]["status"],
        "succeeded",
        "{}\n{}",
        cloud.log(),
        cloud.cli(&["logs", &id])
    );
    let status = cloud.get(&format!("/deploy/{id}/status")).await;
    assert!(status.to_string().contains("https://node-api-"), "{status}");
    let log = cloud.cli(&["logs", &id]);
    assert!(log.contains("Step 2/3"), "the registry's log is ours too: {log}");
    assert_eq!(cloud.arm.builds(), 1);
    assert_eq!(cloud.arm.violations(), [""; 0]);
    cloud.stop();
    outbound_calls_are_dependencies(&cloud.ingestion.asked());
}

/// Kills in CI; more on demand.
const KILLS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_is_killed_again_and_again_loses_nothing() {
    let Some(cloud) = Cloud::start().await else { return };
    let kills = std::env::var("WINDLASS_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    cloud.run().await;
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("node-api", folder.path());
    let names = ["one", "two", "three"];
    for name in names {
        cloud.deploy(&project, name);
    }
    let list = cloud.until_all_ended(kills).await;
    let deployments = list["deployments"].as_array().unwrap();
    assert_eq!(deployments.len(), names.len());
    for deployment in deployments {
        assert_eq!(deployment["status"], "succeeded", "{deployment}\n{}", cloud.log());
    }
    // Asking for a build is the one thing that a kill between asking and writing down does twice.
    let builds = cloud.arm.builds();
    assert!((names.len()..=names.len() + kills).contains(&builds), "{builds} builds");
    for name in names {
        let (live, active) = cloud.arm.serving(&app_name(name, "development"));
        assert_eq!(active, [live.unwrap()], "one revision of {name} runs, and it has the traffic");
    }
    assert_eq!(cloud.arm.violations(), [""; 0]);
}
