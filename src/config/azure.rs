//! Settings of the Azure backend. Every address is a setting, so that other clouds, and tests, are other values and not
//! other code.

use std::path::PathBuf;

use azure_core::http::Url;
use secrecy::SecretString;

use super::builder::BuilderSettings;
use super::clouds::CLOUDS;
use super::connection::REDACTED;
use super::targets::SiteSettings;
use super::workload::Workload;
use super::{Reader, Variable, may_have_key, shown, variable};

/// What apps are deployed to.
const TARGET: [&str; 5] = [
    "AZURE_SUBSCRIPTION_ID",
    "AZURE_RESOURCE_GROUP",
    "AZURE_CONTAINER_REGISTRY",
    "CONTAINER_APPS_ENVIRONMENT",
    "APPS_IDENTITY",
];
/// Region when none is set.
const LOCATION: &str = "eastus";
/// Characters of a registry's name (naming rules of Azure resources).
const REGISTRY_CHARS: std::ops::RangeInclusive<usize> = 5..=50;

/// How tokens are obtained.
#[derive(Clone)]
pub enum Auth {
    /// The identity of the Functions app; user-assigned when a client id is given.
    ManagedIdentity {
        /// Of a user-assigned identity.
        client: Option<String>,
    },
    /// A token file that the platform renews.
    WorkloadIdentity(Workload),
    /// An app registration with a secret.
    ServicePrincipal {
        /// Its directory.
        tenant: String,
        /// Its id.
        client: String,
        /// Its secret.
        secret: SecretString,
    },
    /// Whoever is signed in to the Azure CLI.
    Cli,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ManagedIdentity { client } => {
                f.debug_struct("ManagedIdentity").field("client", client).finish()
            }
            Self::WorkloadIdentity(workload) => f.debug_tuple("WorkloadIdentity").field(workload).finish(),
            Self::ServicePrincipal { tenant, client, secret: _ } => f
                .debug_struct("ServicePrincipal")
                .field("tenant", tenant)
                .field("client", client)
                .field("secret", &format_args!("{REDACTED}"))
                .finish(),
            Self::Cli => f.write_str("Cli"),
        }
    }
}

/// Where the platform gives tokens to what runs on it: App Service, Functions, Container Apps.
#[derive(Debug, Clone)]
pub struct PlatformIdentity {
    /// The endpoint.
    pub endpoint: Url,
    /// Shows that it is us who ask.
    pub header: SecretString,
}

/// Where Azure's services are, and who we are to them.
#[derive(Debug, Clone)]
pub struct AzureSettings {
    /// How tokens are obtained.
    pub auth: Auth,
    /// The directory of everything, where it is set.
    pub tenant: Option<String>,
    /// The platform's identity endpoint; without it a machine of Azure has its metadata service.
    pub platform: Option<PlatformIdentity>,
    /// Connection strings with a key, which is not used.
    pub unused_keys: Vec<&'static str>,
    /// Signs people and services in.
    pub authority: Url,
    /// Azure Resource Manager.
    pub arm: Url,
    /// Cosmos DB account.
    pub cosmos: Url,
    /// Its database.
    pub database: String,
    /// Service Bus namespace.
    pub service_bus: Url,
    /// Blob service.
    pub blobs: Url,
    /// Queue service.
    pub queues: Url,
    /// Key Vault.
    pub vault: Url,
    /// Log Analytics queries.
    pub logs: Url,
    /// Subscription that apps are deployed to.
    pub subscription: String,
    /// Resource group of the apps.
    pub group: String,
    /// Region of the apps.
    pub location: String,
    /// Log Analytics workspace that keeps what apps say.
    pub workspace: Option<String>,
    /// Container Apps environment of the apps.
    pub environment: String,
    /// Identity with which apps pull images and read their secrets; its resource id.
    pub apps_identity: String,
    /// Identity with which container groups pull images; its resource id.
    pub groups_identity: String,
    /// Name of the registry.
    pub registry: String,
    /// Its host name.
    pub login_server: String,
    /// Certificate that signed those of services on loopback.
    pub root_certificate: Option<PathBuf>,
    /// How images are made.
    pub builder: BuilderSettings,
    /// How static web apps are made.
    pub sites: SiteSettings,
}

/// Every variable of this page.
pub(super) const AZURE_VARIABLES: [Variable; 29] = [
    variable("WINDLASS_AZURE_CLOUD", "public", "Microsoft's cloud: public, usgovernment or china"),
    variable(
        "WINDLASS_AZURE_AUTH",
        "managed-identity",
        "managed-identity, workload-identity, service-principal or cli",
    ),
    variable("AZURE_TENANT_ID", "", "directory of the service principal, and of the Azure CLI's tokens"),
    variable("AZURE_CLIENT_ID", "", "id of the service principal, or of a user-assigned identity"),
    variable("AZURE_CLIENT_SECRET", "", "secret of the service principal"),
    variable("AZURE_FEDERATED_TOKEN_FILE", "", "file with the token of workload-identity"),
    variable("AZURE_SUBSCRIPTION_ID", "", "subscription that apps are deployed to"),
    variable("AZURE_RESOURCE_GROUP", "", "resource group of the apps"),
    variable("AZURE_LOCATION", "eastus", "region of the apps"),
    variable("AZURE_CONTAINER_REGISTRY", "", "registry of the images: its name"),
    variable("COSMOS_ENDPOINT", "", "Cosmos DB account, https://<account>.documents.azure.com/"),
    variable("COSMOS_DATABASE", "windlass", "database with the containers `runs` and `records`"),
    variable("SERVICEBUS_NAMESPACE", "", "Service Bus namespace: its name, host or address"),
    variable(
        "AZURE_SERVICE_BUS_CONNECTION_STRING",
        "",
        "instead of SERVICEBUS_NAMESPACE; its key is not used",
    ),
    variable("AZURE_STORAGE_CONNECTION_STRING", "", "instead of STORAGE_ACCOUNT; its key is not used"),
    variable("AZURE_COSMOS_CONNECTION_STRING", "", "instead of COSMOS_ENDPOINT; its key is not used"),
    variable("STORAGE_ACCOUNT", "", "storage account of content, logs and alarms"),
    variable("WINDLASS_BLOB_ENDPOINT", "", "blob service, when it is not the account's own address"),
    variable("WINDLASS_QUEUE_ENDPOINT", "", "queue service, when it is not the account's own address"),
    variable("KEYVAULT_URL", "", "Key Vault: its name or address"),
    variable("AZURE_KEY_VAULT_URI", "", "the older name of KEYVAULT_URL"),
    variable("WINDLASS_AUTHORITY", "", "sign-in service, when it is not the cloud's own"),
    variable("WINDLASS_ARM_ENDPOINT", "", "Azure Resource Manager, when it is not the cloud's own"),
    variable("WINDLASS_LOG_ANALYTICS_ENDPOINT", "", "Log Analytics, when it is not the cloud's own"),
    variable("CONTAINER_APPS_ENVIRONMENT", "", "Container Apps environment of the apps"),
    variable("APPS_IDENTITY", "", "resource id of the identity with which apps pull images and read secrets"),
    variable("ACR_LOGIN_SERVER", "", "host name of the registry, when it is not <name>.azurecr.io"),
    variable("LOG_ANALYTICS_WORKSPACE", "", "id of the workspace that keeps what apps say"),
    variable("WINDLASS_ROOT_CERTIFICATE", "", "certificate (PEM) that is trusted for services on loopback"),
];

fn is_registry(name: &str) -> bool {
    REGISTRY_CHARS.contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether a token may travel there: by TLS, or without leaving the machine.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The address of the registry with this host; like other tools, plain http on loopback.
#[must_use]
pub fn registry_address(host: &str) -> Option<Url> {
    let url: Url = format!("https://{host}/").parse().ok()?;
    if is_loopback(&url) { format!("http://{host}/").parse().ok() } else { Some(url) }
}

impl AzureSettings {
    /// Addresses of the registries that the settings name.
    pub fn registries(&self) -> impl Iterator<Item = Url> {
        [self.login_server.as_str()].into_iter().chain(self.builder.hosts()).filter_map(registry_address)
    }
}

pub(super) fn address(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url))).then_some(url)
}

impl Reader<'_> {
    fn needed(&mut self, names: &[&str]) -> String {
        let found = names.iter().find_map(|name| self.text(name)).map(str::to_owned);
        found.unwrap_or_else(|| {
            self.problems.push(format!("{} is not set; the Azure backend needs it", names.join(" or ")));
            String::new()
        })
    }

    /// The address in the last of `names`, or the one that follows from the others.
    fn address(&mut self, names: &[&str], otherwise: Option<String>) -> Option<Url> {
        let name = names.last().copied().unwrap_or_default();
        let Some(text) = self.text(name).map(str::to_owned).or(otherwise) else {
            self.problems.push(format!("{} is not set; the Azure backend needs it", names.join(" or ")));
            return None;
        };
        self.checked(name, &text, &text)
    }

    /// A setting that may be a name, a host or an address, as an address: the first of `names`, else what follows from
    /// others, else the other names.
    fn service(&mut self, names: &[&str], suffix: &str, otherwise: Option<String>) -> Option<Url> {
        let own = names.first().and_then(|name| self.text(name)).map(str::to_owned);
        let text = own.or(otherwise).unwrap_or_else(|| self.needed(names));
        let whole = match text.as_str() {
            "" => return None,
            address if address.contains("://") => address.to_owned(),
            host if host.contains('.') => format!("https://{host}/"),
            name => format!("https://{name}.{suffix}/"),
        };
        self.checked(names.first().copied().unwrap_or_default(), &text, &whole)
    }

    fn checked(&mut self, name: &str, text: &str, whole: &str) -> Option<Url> {
        // A host may have nearly any character: a whole connection string would be one, and be looked up by its key.
        let found = address(whole).filter(|_| !may_have_key(text));
        if found.is_none() {
            let text = shown(name, text);
            let wanted = "use an https address (http only on loopback) without a key or password";
            self.problems.push(format!("{name} is `{text}`; {wanted}"));
        }
        found
    }

    fn check_registry(&mut self, registry: &str) {
        if !registry.is_empty() && !is_registry(registry) {
            let name = "AZURE_CONTAINER_REGISTRY";
            let text = shown(name, registry);
            let problem = format!("{name} is `{text}`; a registry's name has 5 to 50 letters and digits");
            self.problems.push(problem);
        }
    }

    fn auth(&mut self) -> Auth {
        let client = self.text("AZURE_CLIENT_ID").map(str::to_owned);
        match self.text("WINDLASS_AZURE_AUTH").unwrap_or("managed-identity") {
            "managed-identity" => Auth::ManagedIdentity { client },
            "workload-identity" => Auth::WorkloadIdentity(self.workload()),
            "service-principal" => Auth::ServicePrincipal {
                tenant: self.needed(&["AZURE_TENANT_ID"]),
                client: self.needed(&["AZURE_CLIENT_ID"]),
                secret: SecretString::from(self.needed(&["AZURE_CLIENT_SECRET"])),
            },
            "cli" => Auth::Cli,
            other => {
                let text = shown("WINDLASS_AZURE_AUTH", other);
                let problem = format!(
                    "WINDLASS_AZURE_AUTH is `{text}`; use managed-identity, workload-identity, service-principal or cli"
                );
                self.problems.push(problem);
                Auth::Cli
            }
        }
    }

    /// As the platform says it; whatever is not an address is left to the SDK to complain about.
    fn platform(&self) -> Option<PlatformIdentity> {
        let endpoint = self.text("IDENTITY_ENDPOINT")?.parse().ok()?;
        Some(PlatformIdentity { endpoint, header: SecretString::from(self.text("IDENTITY_HEADER")?) })
    }

    /// The settings of the Azure backend; `None` when something is among the problems.
    pub(super) fn azure(&mut self) -> Option<AzureSettings> {
        let wanted = "use public, usgovernment or china";
        let cloud = self.parsed("WINDLASS_AZURE_CLOUD", CLOUDS[0].1, wanted, |text| {
            CLOUDS.iter().find(|(word, _)| *word == text).map(|(_, cloud)| *cloud)
        });
        let [account, hosts] = ["STORAGE_ACCOUNT", "AzureWebJobsStorage__accountName"]
            .map(|name| self.text(name).map(str::to_owned));
        // The Functions host has an account of its own in its settings, which is ours only if nothing says otherwise.
        let storage = |kind: &str, string: Option<String>| {
            let at = |name: &String| format!("https://{name}.{kind}.{}/", cloud.storage);
            account.as_ref().map(at).or(string).or_else(|| hosts.as_ref().map(at))
        };
        let auth = self.auth();
        let authority = self.address(&["WINDLASS_AUTHORITY"], Some(cloud.authority.to_owned()));
        let arm = self.address(&["WINDLASS_ARM_ENDPOINT"], Some(cloud.arm.to_owned()));
        let strings = self.connection_strings();
        let cosmos = self.address(&["COSMOS_ENDPOINT"], strings.cosmos);
        let bus = ["SERVICEBUS_NAMESPACE", "ServiceBusConnection__fullyQualifiedNamespace"];
        let service_bus = self.service(&bus, cloud.service_bus, strings.service_bus);
        let blobs =
            self.address(&["STORAGE_ACCOUNT", "WINDLASS_BLOB_ENDPOINT"], storage("blob", strings.blobs));
        let queues =
            self.address(&["STORAGE_ACCOUNT", "WINDLASS_QUEUE_ENDPOINT"], storage("queue", strings.queues));
        let vault = self.service(&["KEYVAULT_URL", "AZURE_KEY_VAULT_URI"], cloud.vault, None);
        let logs = self.address(&["WINDLASS_LOG_ANALYTICS_ENDPOINT"], Some(cloud.logs.to_owned()));
        let [subscription, group, registry, environment, apps_identity] =
            TARGET.map(|name| self.needed(&[name]));
        self.check_registry(&registry);
        let location = self.text("AZURE_LOCATION").unwrap_or(LOCATION).to_owned();
        let sites = self.sites(&location);
        Some(AzureSettings {
            auth,
            tenant: self.text("AZURE_TENANT_ID").map(str::to_owned),
            platform: self.platform(),
            unused_keys: strings.unused_keys,
            authority: authority?,
            arm: arm?,
            cosmos: cosmos?,
            database: self.text("COSMOS_DATABASE").unwrap_or("windlass").to_owned(),
            service_bus: service_bus?,
            blobs: blobs?,
            queues: queues?,
            vault: vault?,
            logs: logs?,
            subscription,
            group,
            location,
            workspace: self.text("LOG_ANALYTICS_WORKSPACE").map(str::to_owned),
            // Terraform knows the environment by its id, people by its name.
            environment: environment.rsplit('/').next().unwrap_or(&environment).to_owned(),
            groups_identity: self.groups_identity(&apps_identity),
            apps_identity,
            login_server: self
                .text("ACR_LOGIN_SERVER")
                .map_or_else(|| format!("{registry}.{}", cloud.registry).to_ascii_lowercase(), str::to_owned),
            registry,
            root_certificate: self.text("WINDLASS_ROOT_CERTIFICATE").map(PathBuf::from),
            builder: self.builder(),
            sites,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{BadSettings, Settings};
    use super::*;

    const NEEDED: [(&str, &str); 10] = [
        ("WINDLASS_BACKEND", "azure"),
        ("COSMOS_ENDPOINT", "https://wl.documents.azure.com/"),
        ("SERVICEBUS_NAMESPACE", "wl-bus"),
        ("STORAGE_ACCOUNT", "wlstore"),
        ("KEYVAULT_URL", "wl-vault"),
        ("AZURE_SUBSCRIPTION_ID", "s"),
        ("AZURE_RESOURCE_GROUP", "g"),
        ("AZURE_CONTAINER_REGISTRY", "images"),
        (
            "CONTAINER_APPS_ENVIRONMENT",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.App/managedEnvironments/env",
        ),
        ("APPS_IDENTITY", "/subscriptions/s/apps"),
    ];

    fn check(more: &[(&str, &str)]) -> Result<AzureSettings, BadSettings> {
        let values: BTreeMap<String, String> = NEEDED
            .iter()
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::from_values(&values).map(|settings| *settings.azure.unwrap())
    }

    #[test]
    fn names_become_addresses_of_the_cloud() {
        let public = check(&[]).unwrap();
        assert_eq!(public.service_bus.as_str(), "https://wl-bus.servicebus.windows.net/");
        assert_eq!(public.blobs.as_str(), "https://wlstore.blob.core.windows.net/");
        assert_eq!(public.vault.as_str(), "https://wl-vault.vault.azure.net/");
        assert!(matches!(public.auth, Auth::ManagedIdentity { client: None }));
        assert_eq!((public.location.as_str(), public.environment.as_str()), ("eastus", "env"));
        assert_eq!(public.login_server, "images.azurecr.io");
        assert!(check(&[("AZURE_CONTAINER_REGISTRY", "no-dashes")]).is_err());
        let older =
            check(&[("KEYVAULT_URL", ""), ("AZURE_KEY_VAULT_URI", "https://old.vault.azure.net/")]).unwrap();
        assert_eq!(older.vault.as_str(), "https://old.vault.azure.net/");
        let china = check(&[("WINDLASS_AZURE_CLOUD", "china")]).unwrap();
        assert_eq!(china.queues.as_str(), "https://wlstore.queue.core.chinacloudapi.cn/");
        assert_eq!(china.arm.as_str(), "https://management.chinacloudapi.cn/");
    }

    #[test]
    fn a_client_id_names_an_identity_or_a_service_principal() {
        let identity = check(&[("AZURE_CLIENT_ID", "c")]).unwrap();
        assert!(matches!(&identity.auth, Auth::ManagedIdentity { client: Some(client) } if client == "c"));
        let principal = [
            ("WINDLASS_AZURE_AUTH", "service-principal"),
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_TENANT_ID", "t"),
            ("AZURE_CLIENT_SECRET", "canary"),
        ];
        let principal = check(&principal).unwrap();
        assert!(matches!(&principal.auth, Auth::ServicePrincipal { client, .. } if client == "c"));
        let shown = format!("{principal:?}");
        assert!(shown.contains("[redacted]") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn a_connection_string_stands_in_for_a_setting_and_does_not_win_over_it() {
        let string = ("AZURE_COSMOS_CONNECTION_STRING", "AccountEndpoint=https://other.documents.azure.com/");
        assert_eq!(check(&[string]).unwrap().cosmos.as_str(), "https://wl.documents.azure.com/");
        let alone = check(&[
            string,
            ("COSMOS_ENDPOINT", ""),
            ("SERVICEBUS_NAMESPACE", ""),
            ("AZURE_SERVICE_BUS_CONNECTION_STRING", "wl.servicebus.windows.net"),
            ("STORAGE_ACCOUNT", ""),
            ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=other;AccountKey=Y2FuYXJ5"),
        ])
        .unwrap();
        assert_eq!(alone.cosmos.as_str(), "https://other.documents.azure.com/");
        assert_eq!(alone.service_bus.as_str(), "https://wl.servicebus.windows.net/");
        assert_eq!(alone.queues.as_str(), "https://other.queue.core.windows.net/");
        assert_eq!(alone.unused_keys, ["AZURE_STORAGE_CONNECTION_STRING"]);
        // What the host has for itself comes last.
        let hosts = [
            ("STORAGE_ACCOUNT", ""),
            ("SERVICEBUS_NAMESPACE", ""),
            ("AzureWebJobsStorage__accountName", "host"),
            ("ServiceBusConnection__fullyQualifiedNamespace", "host.servicebus.windows.net"),
        ];
        let strings = [
            ("AZURE_SERVICE_BUS_CONNECTION_STRING", "wl.servicebus.windows.net"),
            ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=other"),
        ];
        for (more, account, bus) in [(&strings[..], "other", "wl"), (&[][..], "host", "host")] {
            let found = check(&[&hosts[..], more].concat()).unwrap();
            assert_eq!(found.blobs.as_str(), format!("https://{account}.blob.core.windows.net/"));
            assert_eq!(found.queues.as_str(), format!("https://{account}.queue.core.windows.net/"));
            assert_eq!(found.service_bus.as_str(), format!("https://{bus}.servicebus.windows.net/"));
        }
    }

    #[test]
    fn plain_http_stays_on_the_machine() {
        let loopback = check(&[("WINDLASS_ARM_ENDPOINT", "http://127.0.0.1:9000/")]).unwrap();
        assert_eq!(loopback.arm.port(), Some(9000));
        let problems = check(&[("WINDLASS_ARM_ENDPOINT", "http://example.com/")]).unwrap_err().0;
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("http only on loopback"), "{problems:?}");
        let vault = [("KEYVAULT_URL", ""), ("AZURE_KEY_VAULT_URI", "http://wl-vault.vault.azure.net/")];
        let problems = check(&vault).unwrap_err().0;
        assert!(problems.iter().any(|problem| problem.contains("http only on loopback")), "{problems:?}");
    }

    #[test]
    fn a_key_in_the_wrong_setting_is_not_repeated() {
        for (name, text) in [
            ("COSMOS_ENDPOINT", "AccountEndpoint=https://a/;AccountKey=canary=="),
            ("SERVICEBUS_NAMESPACE", "Endpoint=sb://a.servicebus.windows.net/;SharedAccessKey=canary"),
            ("STORAGE_ACCOUNT", "AccountName=a;AccountKey=canary=="),
            ("WINDLASS_BLOB_ENDPOINT", "https://a.blob.core.windows.net/?sig=canary"),
            ("KEYVAULT_URL", "http://me:canary@vault.example/"),
            ("AZURE_CONTAINER_REGISTRY", "me:canary@registry.example"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:canary@collector.example"),
        ] {
            let problems = check(&[(name, text)]).unwrap_err().0;
            assert!(problems.iter().any(|problem| problem.contains("is `[redacted]`")), "{problems:?}");
            assert!(!problems.iter().any(|problem| problem.contains("canary")), "{problems:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_at_once() {
        let values = BTreeMap::from([
            ("WINDLASS_BACKEND".to_owned(), "azure".to_owned()),
            ("WINDLASS_AZURE_AUTH".to_owned(), "service-principal".to_owned()),
        ]);
        let problems = Settings::from_values(&values).unwrap_err().0;
        for name in [
            "COSMOS_ENDPOINT",
            "SERVICEBUS_NAMESPACE",
            "KEYVAULT_URL",
            "AZURE_CLIENT_SECRET",
            "AZURE_CONTAINER_REGISTRY",
        ] {
            assert!(problems.iter().any(|problem| problem.contains(name)), "{name}: {problems:?}");
        }
    }
}
