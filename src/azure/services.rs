//! The clients of Azure's services, each made once.

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, Url};
use azure_data_cosmos::options::{
    BinaryEncodingOptions, ConnectionPoolOptions, EndToEndOperationLatencyPolicy, OperationOptionsBuilder,
    ThrottlingRetryOptionsBuilder,
};
use azure_data_cosmos::{
    AccountEndpoint, AccountReference, CosmosClientBuilder, CosmosRuntime, RoutingStrategy,
};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use azure_storage_blob::{
    BlobContainerClient, BlobContainerClientOptions, BlobServiceClient, BlobServiceClientOptions,
};
use azure_storage_queue::{QueueClient, QueueClientOptions};

use super::alarms::AzurePost;
use super::app_logs::AppLogs;
use super::arm::Arm;
use super::cosmos::Container;
use super::identity::credential;
use super::images::Images;
use super::loans::Loans;
use super::registry::Registries;
use super::registry_login::Login;
use super::service_bus::ServiceBus;
use super::transport::{Wire, WireError, patient};
use crate::ambient::Clock;
use crate::config::{AzureSettings, is_loopback};

/// Containers of Cosmos DB.
const RUNS: &str = "runs";
const RECORDS: &str = "records";
/// Containers of Blob Storage.
const CONTENT: &str = "content";
const LOGS: &str = "logs";
/// The queue of the function `alarm`.
const ALARM: &str = "alarm";
/// Version of the storage services that every supported Azurite knows.
const STORAGE_VERSION: &str = "2025-11-05";
/// Characters of the value of a tag in Key Vault.
const MOST_TAG: usize = 256;
/// Longest wait for Cosmos DB within one operation; an invocation has 60 s.
const COSMOS_WAIT: Duration = Duration::from_secs(20);

/// Why Azure's services cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The HTTP client.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Cosmos DB.
    #[error("Cosmos DB cannot be used")]
    Cosmos(#[from] azure_data_cosmos::CosmosError),
    /// Another service, or the credential.
    #[error("{service} cannot be used")]
    Client {
        /// Which one.
        service: &'static str,
        /// Why.
        #[source]
        source: azure_core::Error,
    },
}

fn failed(service: &'static str) -> impl Fn(azure_core::Error) -> ServiceError {
    move |source| ServiceError::Client { service, source }
}

/// Makes clients for the configured services.
pub struct Services {
    settings: AzureSettings,
    wire: Wire,
    credential: Arc<dyn TokenCredential>,
}

impl Services {
    /// Clients for these services; nothing is called yet.
    ///
    /// # Errors
    /// [`ServiceError`] when the settings make no client.
    pub fn new(settings: &AzureSettings) -> Result<Self, ServiceError> {
        Self::over(settings, Wire::new(settings)?)
    }

    /// Clients that ask once only, and so say at once what is wrong.
    ///
    /// # Errors
    /// [`ServiceError`] when the settings make no client.
    pub fn hasty(settings: &AzureSettings) -> Result<Self, ServiceError> {
        Self::over(settings, Wire::new(settings)?.hasty())
    }

    fn over(settings: &AzureSettings, wire: Wire) -> Result<Self, ServiceError> {
        tracing::debug!(?settings, "the services of Azure");
        let credential = credential(settings, &wire).map_err(failed("the sign-in"))?;
        Ok(Self { settings: settings.clone(), wire, credential })
    }

    /// Clients for these services, as somebody else.
    ///
    /// # Errors
    /// [`ServiceError`] when the settings make no client.
    pub fn with(
        settings: &AzureSettings,
        credential: Arc<dyn TokenCredential>,
    ) -> Result<Self, ServiceError> {
        Ok(Self { settings: settings.clone(), wire: Wire::new(settings)?, credential })
    }

    /// The containers of runs and of records. Asks the account what it is.
    ///
    /// # Errors
    /// [`ServiceError::Cosmos`].
    pub async fn cosmos(&self) -> Result<(Container, Container), ServiceError> {
        let endpoint = &self.settings.cosmos;
        let inside = is_loopback(endpoint);
        let pool = ConnectionPoolOptions::builder().with_is_http2_allowed(!inside).build()?;
        let runtime = CosmosRuntime::builder().with_connection_pool(pool).build().await?;
        let throttling = ThrottlingRetryOptionsBuilder::new().with_max_retry_wait_time(COSMOS_WAIT).build();
        let operations = OperationOptionsBuilder::new()
            .with_end_to_end_latency_policy(EndToEndOperationLatencyPolicy::new(COSMOS_WAIT))
            .with_throttling_retry_options(throttling)
            .build();
        let account = AccountReference::with_credential(
            AccountEndpoint::from(endpoint.clone()),
            Arc::clone(&self.credential),
        );
        let client = CosmosClientBuilder::new()
            .with_runtime(runtime)
            .with_default_operation_options(operations)
            // The makers' own Linux emulator cannot read the binary form.
            .with_binary_encoding_options(BinaryEncodingOptions::new().with_enabled(!inside))
            .build(account, RoutingStrategy::PreferredRegions(Vec::new()))
            .await?;
        let database = client.database_client(self.settings.database.as_str());
        let runs = database.container_client(RUNS, None).await?;
        let records = database.container_client(RECORDS, None).await?;
        Ok((Container::new(runs), Container::new(records)))
    }

    fn blob_container(&self, name: &str) -> Result<BlobContainerClient, ServiceError> {
        let options = BlobContainerClientOptions {
            client_options: self.wire.options(),
            version: STORAGE_VERSION.to_owned(),
        };
        let url = child(&self.settings.blobs, name);
        BlobContainerClient::new(url, Some(Arc::clone(&self.credential)), Some(options))
            .map_err(failed("Blob Storage"))
    }

    /// The container of content.
    ///
    /// # Errors
    /// [`ServiceError::Client`].
    pub fn content(&self) -> Result<BlobContainerClient, ServiceError> {
        self.blob_container(CONTENT)
    }

    /// Content that is lent to builds, in the container of content.
    ///
    /// # Errors
    /// [`ServiceError::Client`].
    pub fn loans(&self) -> Result<Loans, ServiceError> {
        let options = BlobServiceClientOptions {
            client_options: self.wire.options(),
            version: STORAGE_VERSION.to_owned(),
        };
        let address = Wire::secure(&self.settings.blobs);
        let service =
            BlobServiceClient::new(address.clone(), Some(Arc::clone(&self.credential)), Some(options))
                .map_err(failed("Blob Storage"))?;
        Ok(Loans::new(service, address, CONTENT))
    }

    /// The container of logs.
    ///
    /// # Errors
    /// [`ServiceError::Client`].
    pub fn logs(&self) -> Result<BlobContainerClient, ServiceError> {
        self.blob_container(LOGS)
    }

    /// The queue of alarms.
    ///
    /// # Errors
    /// [`ServiceError::Client`].
    pub fn alarms(&self) -> Result<QueueClient, ServiceError> {
        let options =
            QueueClientOptions { client_options: self.wire.options(), version: STORAGE_VERSION.to_owned() };
        let url = child(&self.settings.queues, ALARM);
        QueueClient::new(url, Some(Arc::clone(&self.credential)), Some(options))
            .map_err(failed("Queue Storage"))
    }

    /// Sends messages now and later.
    ///
    /// # Errors
    /// [`ServiceError::Client`].
    pub fn post(&self, clock: Arc<dyn Clock>) -> Result<AzurePost, ServiceError> {
        let bus = ServiceBus::new(&self.settings.service_bus, &self.credential, &self.wire);
        Ok(AzurePost::new(bus, self.alarms()?, clock))
    }

    /// Tells this installation from others that use the same vault: where its records are. Short enough for a tag.
    #[must_use]
    pub fn installation(&self) -> String {
        let account = self.settings.cosmos.host_str().unwrap_or_default();
        format!("{account}/{}", self.settings.database).chars().take(MOST_TAG).collect()
    }

    /// Who we are.
    #[must_use]
    pub fn credential(&self) -> Arc<dyn TokenCredential> {
        Arc::clone(&self.credential)
    }

    /// The HTTP client.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.wire.clone()
    }

    /// Image registries.
    #[must_use]
    pub fn registries(&self) -> Registries {
        let login = match &self.settings.builder.login {
            Some(login) => Login::Password { user: login.user.clone(), secret: login.secret.clone() },
            None => Login::Identity(Arc::clone(&self.credential)),
        };
        Registries::new(self.wire(), self.settings.login_server.clone(), login)
    }

    /// Resource Manager.
    #[must_use]
    pub fn arm(&self) -> Arm {
        Arm::new(&self.settings, &self.credential, &self.wire)
    }

    /// The images of apps.
    #[must_use]
    pub fn images(&self) -> Images {
        Images(self.registries())
    }

    /// What apps say.
    #[must_use]
    pub fn app_logs(&self) -> AppLogs {
        AppLogs::new(&self.settings, &self.credential, &self.wire)
    }

    /// The vault.
    ///
    /// # Errors
    /// [`ServiceError::Client`].
    pub fn vault(&self) -> Result<SecretClient, ServiceError> {
        let options = SecretClientOptions {
            // Whoever waits for the vault is an invocation or a start, and both are tried again.
            client_options: ClientOptions { retry: patient(), ..self.wire.options() },
            // A vault on loopback cannot be a subdomain of the resource that it names.
            verify_challenge_resource: Some(!is_loopback(&self.settings.vault)),
            ..SecretClientOptions::default()
        };
        let url = Wire::secure(&self.settings.vault);
        SecretClient::new(url.as_str(), Arc::clone(&self.credential), Some(options))
            .map_err(failed("Key Vault"))
    }
}

/// `name` below the address of a service.
fn child(service: &Url, name: &str) -> Url {
    let mut url = Wire::secure(service);
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push(name);
    }
    url
}
