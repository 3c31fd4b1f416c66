//! All of Azure for the real program: Cosmos DB's emulator, Azurite, doubles for the rest, and the host that calls it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use azure_core::credentials::TokenCredential as _;
use azure_storage_queue::models::QueueClientReceiveMessagesOptions;
use serde_json::{Value, json};
use windlass::ambient::{Clock as _, SystemClock};
use windlass::config::AzureSettings;
use windlass::triggers::table::function;

use super::arm_double::ArmDouble;
use super::azurite::{Azurite, Unsigned};
use super::bus::Bus;
use super::cosmos::{self, Account, Served};
use super::doubles::{Answer, Double, Moody, watch};
use super::envelope::queued;
use super::host::{Host, Outcome};
use super::images::registry;
use super::vault::vault;
use crate::e2e::until;

/// How long a round of deployments may take, far beyond a slow machine.
const LIMIT: Duration = Duration::from_secs(600);
/// A round without work.
const ROUND: Duration = Duration::from_millis(20);
/// Such rounds between two looks at statuses, and between two ticks of the minute's timer.
const LOOK_EACH: usize = 10;
const TICK_EACH: usize = 150;

/// Azure.
pub(crate) struct Cloud {
    pub(crate) host: Host,
    pub(crate) arm: ArmDouble,
    pub(crate) bus: Bus,
    pub(crate) served: Served,
    pub(crate) vault: Double,
    /// Where telemetry goes.
    pub(crate) ingestion: Double,
    pub(crate) account: Account,
    azurite: Azurite,
    elsewhere: Elsewhere,
    _identity: Double,
    _registry: Double,
}

/// Where everything goes that is meant for another machine, and ends.
struct Elsewhere {
    address: String,
    calls: Arc<AtomicUsize>,
}

impl Elsewhere {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let calls: Arc<AtomicUsize> = Arc::default();
        let count = Arc::clone(&calls);
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, calls }
    }
}

/// The identity endpoint of App Service.
async fn identity() -> Double {
    let token = Unsigned.get_token(&[], None).await.unwrap().token.secret().to_owned();
    Double::start(move |asked| -> Answer {
        assert_eq!(asked.header("x-identity-header"), Some("secret"));
        let until = (SystemClock.now() + jiff::SignedDuration::from_hours(1)).as_second();
        let body = json!({ "access_token": token, "expires_on": until.to_string(), "resource": "r", "token_type": "Bearer" });
        (200, vec![("content-type", "application/json".to_owned())], body.to_string())
    })
}

fn same_everywhere() -> [(&'static str, String); 8] {
    [
        ("WINDLASS_BACKEND", "azure"),
        ("WINDLASS_BUILDER", "acr"),
        ("MAX_CONCURRENT_DEPLOYMENTS", "50"),
        ("MAX_CONCURRENT_PER_ORGANIZATION", "50"),
        ("IDENTITY_HEADER", "secret"),
        ("NO_PROXY", "127.0.0.1,localhost"),
        ("COSMOS_DISABLE_IMDS", "1"),
        ("APPLICATIONINSIGHTS_AUTHENTICATION_STRING", "Authorization=AAD"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
}

/// What is called how, and where Azurite is.
fn names(settings: &AzureSettings) -> [(&'static str, String); 9] {
    [
        ("WINDLASS_BLOB_ENDPOINT", settings.blobs.to_string()),
        ("WINDLASS_QUEUE_ENDPOINT", settings.queues.to_string()),
        ("WINDLASS_ROOT_CERTIFICATE", settings.root_certificate.as_ref().unwrap().display().to_string()),
        ("AZURE_SUBSCRIPTION_ID", settings.subscription.clone()),
        ("AZURE_RESOURCE_GROUP", settings.group.clone()),
        ("AZURE_LOCATION", settings.location.clone()),
        ("CONTAINER_APPS_ENVIRONMENT", settings.environment.clone()),
        ("APPS_IDENTITY", settings.apps_identity.clone()),
        ("AZURE_CONTAINER_REGISTRY", settings.registry.clone()),
    ]
}

impl Cloud {
    /// Everything but the program, which starts with its first call; `None`, said loudly, where Azurite is not installed.
    pub(crate) async fn start(seed: u64) -> Option<Self> {
        Self::with(seed, &[]).await
    }

    /// The same with these settings instead of the usual ones.
    pub(crate) async fn with(seed: u64, more: &[(&str, &str)]) -> Option<Self> {
        let azurite = Azurite::start().await?;
        let (arm, vault, bus, identity) = (ArmDouble::start(), vault(), Bus::start(), identity().await);
        let ingestion = Double::start(|_| -> Answer { (200, Vec::new(), "{}".to_owned()) });
        let (images, elsewhere) = (registry("windlass/"), Elsewhere::start());
        let served = cosmos::serve();
        let settings = &azurite.settings;
        let variables = [
            ("COSMOS_ENDPOINT", served.address.clone()),
            ("SERVICEBUS_NAMESPACE", bus.double.address.clone()),
            ("WINDLASS_ARM_ENDPOINT", arm.double.address.clone()),
            ("KEYVAULT_URL", vault.address.clone()),
            ("IDENTITY_ENDPOINT", identity.address.clone()),
            (
                "ACR_LOGIN_SERVER",
                images.address.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            ),
            ("HTTPS_PROXY", elsewhere.address.clone()),
            ("HTTP_PROXY", elsewhere.address.clone()),
            (
                "APPLICATIONINSIGHTS_CONNECTION_STRING",
                format!("InstrumentationKey=k;IngestionEndpoint={}", ingestion.address),
            ),
        ];
        let variables = same_everywhere().into_iter().chain(names(settings)).chain(variables);
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let variables: BTreeMap<&str, String> = variables.chain(more).collect();
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let account = served.account().await;
        let host = Host::new(variables, azurite.folder().to_owned(), account.runs.clone(), seed);
        let cloud = Self {
            host,
            arm,
            bus,
            served,
            vault,
            ingestion,
            account,
            azurite,
            elsewhere,
            _identity: identity,
            _registry: images,
        };
        for mood in cloud.moods() {
            watch(mood, &cloud.host.tap());
        }
        Some(cloud)
    }

    /// The services between whose calls the program may die.
    fn moods(&self) -> [&Moody; 4] {
        [&self.served.mood, &self.arm.double.mood, &self.bus.double.mood, &self.vault.mood]
    }

    /// The newest deployments, once all of them have ended.
    async fn ended(&self) -> Option<Vec<Value>> {
        let list = self.host.get("/status/deployments?limit=100").await;
        let all = list["deployments"].as_array()?.clone();
        let goes_on =
            |deployment: &Value| matches!(deployment["status"].as_str(), None | Some("queued" | "running"));
        (!all.iter().any(goes_on)).then_some(all)
    }

    /// Plays the host until every deployment has ended and every message is worked on; gives the deployments.
    pub(crate) async fn until_idle(&self) -> Vec<Value> {
        let begun = Instant::now();
        let mut idle = 0_usize;
        loop {
            assert!(begun.elapsed() < LIMIT, "not over: {}", self.host.log());
            if self.round().await > 0 {
                continue;
            }
            idle += 1;
            if idle.is_multiple_of(TICK_EACH) {
                self.host.tick("timer-sweep").await;
                self.alarms().await;
            }
            if idle.is_multiple_of(LOOK_EACH)
                && self.bus.waiting() == 0
                && let Some(all) = self.ended().await
            {
                return all;
            }
        }
    }

    /// Hands over what is due, or takes a breath when nothing is; gives how many messages that were.
    pub(crate) async fn round(&self) -> usize {
        let delivered = self.host.deliver(&self.bus).await;
        if delivered == 0 {
            SystemClock.sleep(ROUND).await;
        }
        delivered
    }

    /// Hands over the alarms that are due; gives how many.
    pub(crate) async fn alarms(&self) -> usize {
        let queue = self.azurite.services().alarms().unwrap();
        let options =
            QueueClientReceiveMessagesOptions { number_of_messages: Some(16), ..Default::default() };
        let received = queue.receive_messages(Some(options)).await.unwrap().into_model().unwrap();
        let received = received.items.unwrap_or_default();
        let count = received.len();
        for message in received {
            let (id, receipt) = (message.message_id.unwrap(), message.pop_receipt.unwrap());
            let alarm = function("alarm").unwrap();
            let text = message.message_text.unwrap();
            let body = queued(alarm, (&id, &text), message.dequeue_count.unwrap());
            if self.host.invoke(alarm, &body).await == Outcome::Done {
                queue.delete_message(&id, &receipt, None).await.unwrap();
            }
        }
        count
    }

    /// Puts an alarm into its queue, as the program does.
    pub(crate) async fn put_alarm(&self, text: &str) {
        let queue = self.azurite.services().alarms().unwrap();
        let message = azure_storage_queue::models::QueueMessage { message_text: Some(text.to_owned()) };
        queue.send_message(message.try_into().unwrap(), None).await.unwrap();
    }

    /// Hands a folder over and gives the deployment's id.
    pub(crate) async fn deploy(&self, project: &Path, name: &str) -> String {
        let said = self.cli(&["deploy", project.to_str().unwrap(), "--detach", "--project", name]).await;
        said.lines().last().unwrap().to_owned()
    }

    pub(crate) async fn cli(&self, arguments: &[&str]) -> String {
        let url = self.host.url().await;
        let output = Command::new(env!("CARGO_BIN_EXE_windlass"))
            .args(["--server", &url])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let log = || format!("{}{}", String::from_utf8_lossy(&output.stderr), self.host.log());
        assert!(output.status.success(), "{}", log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs for which somebody asked the registry to build, once for each time.
    pub(crate) fn builds(&self) -> Vec<String> {
        let asked = self.arm.double.asked();
        let builds = asked.iter().filter(|asked| asked.path.ends_with("/scheduleRun"));
        let tag = |image: &str| image.rsplit(':').next().unwrap_or_default().to_owned();
        builds
            .map(|asked| {
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                tag(body["imageNames"][0].as_str().unwrap())
            })
            .collect()
    }

    /// What must be true whatever happened: nothing is left, nobody complains, and no contract was broken.
    pub(crate) async fn assert_clean(&self) {
        until("the last lease has run out", || async {
            let now = SystemClock.now().as_microsecond();
            let text = "SELECT c.pk FROM c WHERE c.id = 'lease' AND c.ends > @now";
            let held: Vec<Value> =
                self.account.runs.find_everywhere(text, &[("@now", json!(now))]).await.unwrap();
            held.is_empty()
        })
        .await;
        assert_eq!(self.bus.given_up(), 0, "a message was delivered too often");
        let letters = self.host.get("/operations/dead-letters").await;
        assert_eq!(letters["deadLetters"], json!([]), "{letters}");
        assert_eq!(self.host.complaints(), [""; 0], "{}", self.host.log());
        assert_eq!(self.arm.violations(), [""; 0]);
        assert_eq!(self.elsewhere.calls.load(Ordering::Relaxed), 0, "somebody called another machine");
    }
}
