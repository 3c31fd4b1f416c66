//! The in-memory emulator of Cosmos DB that its makers ship inside their crates: their pipeline, without a network.

use std::sync::Arc;
use std::time::Duration;

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
    let region = VirtualRegion::new("East US", GATEWAY.parse().unwrap());
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
