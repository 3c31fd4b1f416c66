//! The in-memory emulator of Cosmos DB that its makers ship inside their crates: their pipeline, without a network.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use azure_core::http::headers::{HeaderName, HeaderValue};
use azure_core::http::{Method, Request, Url};
use azure_data_cosmos::fault_injection::{
    FaultInjectionConditionBuilder, FaultInjectionErrorType, FaultInjectionResultBuilder, FaultInjectionRule,
    FaultInjectionRuleBuilder, FaultOperationType,
};
use azure_data_cosmos::options::{
    EndToEndOperationLatencyPolicy, OperationOptionsBuilder, Region, RoutingStrategy,
    ThrottlingRetryOptionsBuilder,
};
use azure_data_cosmos::{AccountEndpoint, AccountReference, CosmosClientBuilder, CosmosRuntimeBuilder};
use azure_data_cosmos_driver::in_memory_emulator::{
    ConsistencyLevel, ContainerConfig, InMemoryEmulatorHttpClient, ReplicationConfig, VirtualAccountConfig,
    VirtualRegion,
};
use serde_json::json;
use windlass::azure::cosmos::Container;

use super::doubles::{Moody, enter, leave};

const GATEWAY: &str = "https://eastus.emulator.local";
const DATABASE: &str = "windlass";

/// An account with the two containers.
pub(crate) struct Account {
    pub(crate) runs: Container,
    pub(crate) records: Container,
}

/// An emulator with the database and its containers, of several physical partitions each.
pub(crate) fn emulator() -> Arc<InMemoryEmulatorHttpClient> {
    emulator_at(GATEWAY)
}

/// The same in two regions; the first one writes.
pub(crate) fn two_regions() -> Arc<InMemoryEmulatorHttpClient> {
    emulator_in(&[("East US", GATEWAY), ("West US", "https://westus.emulator.local")])
}

fn emulator_at(gateway: &str) -> Arc<InMemoryEmulatorHttpClient> {
    emulator_in(&[("East US", gateway)])
}

fn emulator_in(regions: &[(&str, &str)]) -> Arc<InMemoryEmulatorHttpClient> {
    let region = |(name, gateway): &(&str, &str)| VirtualRegion::new(name, gateway.parse().unwrap());
    let config = VirtualAccountConfig::new(regions.iter().map(region).collect()).unwrap();
    let config = config
        .with_consistency(ConsistencyLevel::Session)
        .with_replication_config(ReplicationConfig::immediate());
    let emulator = Arc::new(InMemoryEmulatorHttpClient::new(config));
    let store = emulator.store();
    store.create_database(DATABASE);
    for container in ["runs", "records"] {
        let key = serde_json::from_value(json!({ "paths": ["/pk"], "kind": "Hash", "version": 2 })).unwrap();
        let size = ContainerConfig::new().with_partition_count(3).with_throughput(100_000).build().unwrap();
        store.create_container_with_config(DATABASE, container, key, size);
    }
    emulator
}

/// An emulator that other processes reach.
pub(crate) struct Served {
    pub(crate) address: String,
    pub(crate) mood: Moody,
    emulator: Arc<InMemoryEmulatorHttpClient>,
    calls: Arc<Mutex<Vec<String>>>,
}

struct Door {
    emulator: Arc<InMemoryEmulatorHttpClient>,
    address: String,
    mood: Moody,
    calls: Arc<Mutex<Vec<String>>>,
}

/// The emulator behind a web server.
pub(crate) fn serve() -> Served {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let (emulator, mood, calls) = (emulator_at(&address), Moody::default(), Arc::default());
    let served = Served { address: address.clone(), mood, emulator, calls };
    let state = Data::new(Door {
        emulator: Arc::clone(&served.emulator),
        address,
        mood: Arc::clone(&served.mood),
        calls: Arc::clone(&served.calls),
    });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::clone(&state))
            .app_data(PayloadConfig::new(4 << 20))
            .default_service(actix_web::web::to(forward))
    });
    drop(windlass::ambient::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run()));
    served
}

impl Served {
    /// Paths that were called with a purpose of ours: not those by which the SDK learns what the account is.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// A client beside the web server: it is neither counted nor disturbed.
    pub(crate) async fn account(&self) -> Account {
        Account::at(&self.emulator, &self.address, Vec::new()).await
    }
}

async fn forward(request: HttpRequest, body: Bytes, door: Data<Door>) -> HttpResponse {
    let path = request.path().to_owned();
    if path.contains("/docs") {
        door.calls.lock().unwrap().push(path);
        if let Some((status, headers, body)) = enter(&door.mood).await {
            let mut answer = HttpResponse::build(StatusCode::from_u16(status).unwrap());
            for header in headers {
                answer.insert_header(header);
            }
            return answer.body(body);
        }
    }
    let answer = pass(&request, body, &door).await;
    leave(&door.mood);
    answer
}

async fn pass(request: &HttpRequest, body: Bytes, door: &Door) -> HttpResponse {
    let base: Url = door.address.parse().unwrap();
    let method: Method = request.method().as_str().parse().unwrap();
    let mut inner = Request::new(base.join(&request.uri().to_string()).unwrap(), method);
    for (name, value) in request.headers() {
        let name = HeaderName::from(name.as_str().to_owned());
        inner.insert_header(name, HeaderValue::from(value.to_str().unwrap().to_owned()));
    }
    inner.set_body(body);
    let answer = door.emulator.execute_request(&inner).await.unwrap().try_into_raw_response().await.unwrap();
    let mut out = HttpResponse::build(StatusCode::from_u16(u16::from(answer.status())).unwrap());
    for (name, value) in answer.headers().iter() {
        out.insert_header((name.as_str(), value.as_str()));
    }
    out.body(Bytes::copy_from_slice(answer.body().as_ref()))
}

impl Account {
    pub(crate) async fn new() -> Self {
        Self::of(&emulator()).await
    }

    /// A client of its own on this emulator, as another process would have.
    pub(crate) async fn of(emulator: &Arc<InMemoryEmulatorHttpClient>) -> Self {
        Self::at(emulator, GATEWAY, Vec::new()).await
    }

    /// A client whose calls meet trouble, `percent` of a hundred tries at data.
    pub(crate) async fn troubled(
        emulator: &Arc<InMemoryEmulatorHttpClient>,
        trouble: Trouble,
        percent: u8,
    ) -> Self {
        Self::ruled(emulator, rules(trouble, percent)).await
    }

    /// A client whose calls go by these rules.
    pub(crate) async fn ruled(
        emulator: &Arc<InMemoryEmulatorHttpClient>,
        rules: Vec<Arc<FaultInjectionRule>>,
    ) -> Self {
        Self::at(emulator, GATEWAY, rules).await
    }

    async fn at(
        emulator: &Arc<InMemoryEmulatorHttpClient>,
        gateway: &str,
        rules: Vec<Arc<FaultInjectionRule>>,
    ) -> Self {
        let account = AccountReference::with_authentication_key(
            gateway.parse::<AccountEndpoint>().unwrap(),
            azure_core::credentials::Secret::new("dGVzdGtleQ=="),
        );
        let runtime = CosmosRuntimeBuilder::from(emulator.runtime_builder_with_fault_rules(rules.clone()));
        // Few tries below, so that trouble comes up to us.
        let options = OperationOptionsBuilder::new()
            .with_throttling_retry_options(
                ThrottlingRetryOptionsBuilder::new().with_max_retry_count(2).build(),
            )
            .with_end_to_end_latency_policy(EndToEndOperationLatencyPolicy::new(Duration::from_secs(5)))
            .with_max_failover_retry_count(1)
            .build();
        let client = CosmosClientBuilder::new()
            .with_runtime(runtime.build().await.unwrap())
            .with_default_operation_options(options)
            .build(account, RoutingStrategy::ProximityTo(Region::EAST_US))
            .await
            .unwrap();
        let database = client.database_client(DATABASE);
        let container =
            async |name: &str| Container::new(database.container_client(name, None).await.unwrap());
        Self { runs: container("runs").await, records: container("records").await }
    }
}

/// Rules by which calls at data meet trouble, `percent` of a hundred; they can be switched off and on.
pub(crate) fn rules(trouble: Trouble, percent: u8) -> Vec<Arc<FaultInjectionRule>> {
    let kind = match trouble {
        Trouble::LostAnswers => FaultInjectionErrorType::ResponseTimeoutAfterService,
        Trouble::Throttled => FaultInjectionErrorType::TooManyRequests,
        Trouble::Unavailable => FaultInjectionErrorType::ServiceUnavailable,
        Trouble::RetryWith => FaultInjectionErrorType::RetryWith,
    };
    let rules = [
        FaultOperationType::BatchItem,
        FaultOperationType::CreateItem,
        FaultOperationType::ReplaceItem,
        FaultOperationType::DeleteItem,
        FaultOperationType::ReadItem,
    ]
    .into_iter()
    .enumerate()
    .map(|(index, operation)| {
        let condition = FaultInjectionConditionBuilder::new().with_operation_type(operation).build();
        let result = FaultInjectionResultBuilder::new()
            .with_error(kind)
            .with_probability(f32::from(percent) / 100.0)
            .build();
        let rule = FaultInjectionRuleBuilder::new(format!("trouble-{index}"), result);
        Arc::new(rule.with_condition(condition).build())
    });
    rules.collect()
}

/// What the service may do to a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    /// It is done, and nobody hears of it.
    LostAnswers,
    /// 429.
    Throttled,
    /// 503.
    Unavailable,
    /// 449.
    RetryWith,
}
