//! The in-memory emulator of Cosmos DB that its makers ship inside their crates: their pipeline, without a network.

use std::sync::Arc;
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
    ConsistencyLevel, ContainerConfig, InMemoryEmulatorHttpClient, VirtualAccountConfig, VirtualRegion,
};
use serde_json::json;
use windlass::azure::cosmos::Container;

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

fn emulator_at(gateway: &str) -> Arc<InMemoryEmulatorHttpClient> {
    let region = VirtualRegion::new("East US", gateway.parse().unwrap());
    let config = VirtualAccountConfig::new(vec![region]).unwrap().with_consistency(ConsistencyLevel::Session);
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

/// The emulator behind a web server, for other processes; gives its address.
pub(crate) fn serve() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let state = Data::new((emulator_at(&address), address.clone()));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::clone(&state))
            .app_data(PayloadConfig::new(4 << 20))
            .default_service(actix_web::web::to(forward))
    });
    drop(windlass::ambient::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run()));
    address
}

async fn forward(
    request: HttpRequest,
    body: Bytes,
    state: Data<(Arc<InMemoryEmulatorHttpClient>, String)>,
) -> HttpResponse {
    let base: Url = state.1.parse().unwrap();
    let method: Method = request.method().as_str().parse().unwrap();
    let mut inner = Request::new(base.join(&request.uri().to_string()).unwrap(), method);
    for (name, value) in request.headers() {
        let name = HeaderName::from(name.as_str().to_owned());
        inner.insert_header(name, HeaderValue::from(value.to_str().unwrap().to_owned()));
    }
    inner.set_body(body);
    let answer = state.0.execute_request(&inner).await.unwrap().try_into_raw_response().await.unwrap();
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
        Self::with(emulator, Vec::new()).await
    }

    /// A client whose calls meet trouble, `percent` of a hundred tries at data.
    pub(crate) async fn troubled(
        emulator: &Arc<InMemoryEmulatorHttpClient>,
        trouble: Trouble,
        percent: u8,
    ) -> Self {
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
        Self::with(emulator, rules.collect()).await
    }

    async fn with(emulator: &Arc<InMemoryEmulatorHttpClient>, rules: Vec<Arc<FaultInjectionRule>>) -> Self {
        let account = AccountReference::with_authentication_key(
            GATEWAY.parse::<AccountEndpoint>().unwrap(),
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
