//! Environment and flags → typed settings. The only reader of the environment; reports every problem at once.

mod azure;
mod builder;
mod clouds;
mod connection;
pub mod env_file;
mod targets;
mod telemetry;
mod vaulted;
mod workload;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::deploy::deployment::Caps;
use crate::deploy::retention::Keep;
use crate::deploy::size::{Size, parse_cpu, parse_memory};
use crate::deploy::source::SourceLimits;
use crate::triggers::host_json::{HostJson, QueueSettings};
use crate::windlass::Limits;

/// Where the adapters come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// This machine.
    Embedded,
    /// Azure's services.
    Azure,
}

/// Least important lines that are logged.
pub use tracing::Level;

pub use azure::{Auth, AzureSettings, PlatformIdentity, is_loopback, registry_address};
pub use builder::{BuilderSettings, RegistryLogin, Strategy};
pub use targets::{SiteSettings, SiteSku};
pub use telemetry::{AppInsights, TelemetrySettings};
pub use vaulted::{Vaulted, vaulted};
pub use workload::Workload;

/// All settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the adapters come from.
    pub backend: Backend,
    /// Port of the API; 0 takes a free one.
    pub port: u16,
    /// Port of the deployed apps; 0 takes a free one.
    pub apps_port: u16,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Address to listen on.
    pub bind: IpAddr,
    /// Least important lines that are logged.
    pub log_level: Level,
    /// Bounds of deployments and sources.
    pub limits: Limits,
    /// What the embedded host does as the real one would.
    pub host: HostJson,
    /// Deliveries in a thousand that are made twice, for tests.
    pub doubled_per_mille: u16,
    /// Whether the embedded host calls functions over HTTP, as the real one does.
    pub http_calls: bool,
    /// Port that the Functions host expects us on.
    pub handler_port: Option<u16>,
    /// `PATH` for builds and apps.
    pub path: String,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// Where the command line keeps what it can make again.
    pub cache_dir: PathBuf,
    /// Server that the command line talks to.
    pub server: Option<String>,
    /// Azure's services, when they are the backend.
    pub azure: Option<Box<AzureSettings>>,
    /// Who receives telemetry.
    pub telemetry: TelemetrySettings,
}

/// One row of `windlass config explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Name of the variable.
    pub name: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

/// Every variable that is read.
pub fn variables() -> impl Iterator<Item = &'static Variable> {
    let azure =
        azure::AZURE_VARIABLES.iter().chain(&builder::BUILDER_VARIABLES).chain(&targets::TARGET_VARIABLES);
    VARIABLES.iter().chain(azure).chain(&telemetry::TELEMETRY_VARIABLES)
}

const VARIABLES: &[Variable] = &[
    variable("WINDLASS_BACKEND", "embedded", "where the adapters come from: embedded or azure"),
    variable("WINDLASS_PORT", "3010", "port of the API; 0 takes a free one"),
    variable("WINDLASS_APPS_PORT", "3080", "port of the deployed apps; 0 takes a free one"),
    variable("WINDLASS_DATA_DIR", ".windlass", "where everything is kept"),
    variable("WINDLASS_BIND", "127.0.0.1", "address to listen on; only loopback until API tokens exist"),
    variable("WINDLASS_URL", "", "server that the command line talks to"),
    variable("WINDLASS_DISPATCH", "in-process", "how the embedded host calls functions: in-process or http"),
    variable("WINDLASS_DOUBLED_DELIVERIES", "0", "deliveries in a thousand that are made twice, for tests"),
    variable("LOG_LEVEL", "info", "debug, info, warn or error"),
    variable("MAX_CONCURRENT_DEPLOYMENTS", "5", "deployments at the same time"),
    variable("MAX_CONCURRENT_PER_ORGANIZATION", "3", "deployments of one organization at the same time"),
    variable(
        "DEPLOYMENT_TIMEOUT_MS",
        "600000",
        "longest deployment; MAX_DEPLOYMENT_TIMEOUT is the same setting",
    ),
    variable(
        "MAX_DEPLOYMENT_TIMEOUT",
        "600000",
        "the older name of DEPLOYMENT_TIMEOUT_MS; both with different values are refused",
    ),
    variable("BUILD_CONTAINER_CPU", "2", "cores of a build"),
    variable("BUILD_CONTAINER_MEMORY", "4Gi", "memory of each process of a build"),
    variable("QUEUE_MAX_BATCH_SIZE", "10", "messages in one batch"),
    variable("QUEUE_MAX_BATCH_TIMEOUT", "30", "seconds that a message waits for company at most"),
    variable(
        "QUEUE_MAX_RETRIES",
        "3",
        "deliveries after the first before a message goes to the dead letters",
    ),
    variable("WINDLASS_KEEP_DAYS", "30", "days for which deployments that have ended are kept"),
    variable("WINDLASS_KEEP_RELEASES", "10", "newest releases of each app that are kept whatever their age"),
    variable("WINDLASS_MAX_SOURCE_FILES", "50000", "files of one source"),
    variable("WINDLASS_MAX_SOURCE_BYTES", "1073741824", "bytes of one source"),
    variable("WINDLASS_MAX_FILE_BYTES", "104857600", "bytes of one file"),
];

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings have {} problem(s):\n{}", .0.len(), .0.iter().map(|problem| format!("  - {problem}")).collect::<Vec<_>>().join("\n"))]
pub struct BadSettings(pub Vec<String>);

/// Settings whose values have `=`, `;` or `@` in them, and no secrets.
const OPEN: [&str; 3] = ["WINDLASS_BASE_IMAGES", "WINDLASS_KANIKO_IMAGE", telemetry::AUTHENTICATION];

/// Whether a key or a password may be in it: a connection string, a signed address, a name with a password.
fn may_have_key(text: &str) -> bool {
    text.contains(['=', ';', '@'])
}

/// A value as it may be shown. People paste connection strings into settings that are no connection strings.
fn shown(name: &str, value: &str) -> String {
    match name {
        secret if secret.ends_with("_SECRET") => connection::REDACTED.to_owned(),
        string if string.ends_with("_CONNECTION_STRING") => connection::redacted(value),
        closed if !OPEN.contains(&closed) && may_have_key(value) => connection::REDACTED.to_owned(),
        _ => value.to_owned(),
    }
}

struct Reader<'a> {
    values: &'a BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn parsed<T>(&mut self, name: &str, default: T, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let problem = |text: &str| format!("{name} is `{}`; {wanted}", shown(name, text));
        match self.text(name).map(|text| parse(text).ok_or_else(|| problem(text))) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(problem)) => {
                self.problems.push(problem);
                default
            }
        }
    }

    fn number(&mut self, name: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let wanted = format!("use a whole number from {} to {}", range.start(), range.end());
        self.parsed(name, default, &wanted, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    fn count(&mut self, name: &str, default: u64, most: u64) -> usize {
        usize::try_from(self.number(name, default, 1..=most)).unwrap_or(usize::MAX)
    }

    fn port(&mut self, name: &str, default: u16) -> u16 {
        u16::try_from(self.number(name, u64::from(default), 0..=65_535)).unwrap_or(default)
    }

    /// Of the API and of the apps.
    fn ports(&mut self) -> (u16, u16) {
        let (api, apps) = (self.port("WINDLASS_PORT", 3010), self.port("WINDLASS_APPS_PORT", 3080));
        if api == apps && api != 0 {
            self.problems.push(format!(
                "the API (WINDLASS_PORT, --port) and the apps (WINDLASS_APPS_PORT, --apps-port) both have port {api}; choose another for one of them"
            ));
        }
        (api, apps)
    }

    fn timeout(&mut self) -> Duration {
        let names = ["DEPLOYMENT_TIMEOUT_MS", "MAX_DEPLOYMENT_TIMEOUT"];
        if let [Some(first), Some(second)] = names.map(|name| self.text(name))
            && first != second
        {
            let problem = format!(
                "DEPLOYMENT_TIMEOUT_MS is `{first}` and MAX_DEPLOYMENT_TIMEOUT is `{second}`; they are the same setting, keep one"
            );
            self.problems.push(problem);
        }
        let older = self.number(names[1], 600_000, 1..=86_400_000);
        Duration::from_millis(self.number(names[0], older, 1..=86_400_000))
    }

    fn limits(&mut self) -> Limits {
        Limits {
            caps: Caps {
                total: self.count("MAX_CONCURRENT_DEPLOYMENTS", 5, 1_000),
                per_org: self.count("MAX_CONCURRENT_PER_ORGANIZATION", 3, 1_000),
            },
            deployment: self.timeout(),
            build: self.build_size(),
            keep: Keep {
                days: u16::try_from(self.number("WINDLASS_KEEP_DAYS", 30, 1..=3_650)).unwrap_or(30),
                releases: u32::try_from(self.number("WINDLASS_KEEP_RELEASES", 10, 1..=1_000)).unwrap_or(10),
            },
            source: SourceLimits {
                files: self.count("WINDLASS_MAX_SOURCE_FILES", 50_000, 10_000_000),
                bytes: self.number("WINDLASS_MAX_SOURCE_BYTES", 1 << 30, 1..=1 << 44),
                file_bytes: self.number("WINDLASS_MAX_FILE_BYTES", 100 << 20, 1..=1 << 44),
            },
        }
    }

    fn host(&mut self) -> Option<HostJson> {
        let Some(host) = HostJson::compiled_in() else {
            self.problems.push("the compiled-in host.json cannot be read".to_owned());
            return None;
        };
        let queue = host.queue;
        let (batch, retries) = (queue.batch_size as u64, u64::from(queue.retries));
        let timeout = self.number("QUEUE_MAX_BATCH_TIMEOUT", queue.batch_timeout.as_secs(), 0..=150);
        let queue = QueueSettings {
            batch_size: self.count("QUEUE_MAX_BATCH_SIZE", batch, 1_000),
            batch_timeout: Duration::from_secs(timeout),
            retries: u32::try_from(self.number("QUEUE_MAX_RETRIES", retries, 0..=100))
                .unwrap_or(queue.retries),
        };
        Some(HostJson { queue, ..host })
    }

    fn build_size(&mut self) -> Size {
        let cpu_millis =
            self.parsed("BUILD_CONTAINER_CPU", 2_000, "use a number of cores such as 0.5 or 2", |text| {
                parse_cpu(text).ok().filter(|cpu| (100..=64_000).contains(cpu))
            });
        let memory_mib =
            self.parsed("BUILD_CONTAINER_MEMORY", 4_096, "use an amount such as 2Gi or 2048Mi", |text| {
                parse_memory(text).ok().filter(|memory| *memory >= 64)
            });
        Size { cpu_millis, memory_mib }
    }

    fn level(&mut self) -> Level {
        self.parsed("LOG_LEVEL", Level::INFO, "use debug, info, warn or error", |text| match text {
            "trace" => Some(Level::TRACE),
            "debug" => Some(Level::DEBUG),
            "info" => Some(Level::INFO),
            "warn" => Some(Level::WARN),
            "error" => Some(Level::ERROR),
            _ => None,
        })
    }
}

impl Settings {
    /// The settings of these variables.
    ///
    /// # Errors
    /// [`BadSettings`] with every problem.
    pub fn from_values(values: &BTreeMap<String, String>) -> Result<Self, BadSettings> {
        let mut reader = Reader { values, problems: Vec::new() };
        let home = reader.text("HOME").map(PathBuf::from);
        let caches = reader
            .text("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".cache")));
        let Some(host) = reader.host() else { return Err(BadSettings(reader.problems)) };
        let (port, apps_port) = reader.ports();
        let wanted = "use embedded or azure";
        let backend = reader.parsed("WINDLASS_BACKEND", Backend::Embedded, wanted, |text| match text {
            "embedded" => Some(Backend::Embedded),
            "azure" => Some(Backend::Azure),
            _ => None,
        });
        let settings =
            Self {
                backend,
                azure: if backend == Backend::Azure { reader.azure().map(Box::new) } else { None },
                port,
                apps_port,
                data_dir: reader
                    .text("WINDLASS_DATA_DIR")
                    .map_or_else(|| PathBuf::from(".windlass"), PathBuf::from),
                bind: reader.parsed(
                    "WINDLASS_BIND",
                    IpAddr::from([127, 0, 0, 1]),
                    "use 127.0.0.1 or ::1; other addresses need API tokens, which this version does not have",
                    |text| text.parse().ok().filter(IpAddr::is_loopback),
                ),
                log_level: reader.level(),
                limits: reader.limits(),
                host,
                doubled_per_mille: u16::try_from(reader.number("WINDLASS_DOUBLED_DELIVERIES", 0, 0..=1_000))
                    .unwrap_or(0),
                http_calls: reader.parsed("WINDLASS_DISPATCH", false, "use in-process or http", |text| {
                    match text {
                        "in-process" => Some(false),
                        "http" => Some(true),
                        _ => None,
                    }
                }),
                handler_port: reader
                    .text("FUNCTIONS_CUSTOMHANDLER_PORT")
                    .is_some()
                    .then(|| reader.port("FUNCTIONS_CUSTOMHANDLER_PORT", 0)),
                path: reader.text("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin").to_owned(),
                cache_dir: caches.unwrap_or_else(|| PathBuf::from(".windlass-cache")).join("windlass"),
                home,
                server: reader.text("WINDLASS_URL").map(str::to_owned),
                telemetry: reader.telemetry(),
            };
        if reader.problems.is_empty() { Ok(settings) } else { Err(BadSettings(reader.problems)) }
    }
}

/// The variables of this process: flags win over the environment, which wins over a file.
#[must_use]
pub fn gather(file: &env_file::EnvFile, flags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    // A value that is not UTF-8, or empty, is treated as if it were not there.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut values = file.values.clone();
    values.extend(environment.filter(|(_, value)| !value.is_empty()));
    values.retain(|_, value| !value.is_empty());
    values.extend(flags.clone());
    values
}

/// Which of the variables are set, with their values but for secrets.
#[must_use]
pub fn explain(values: &BTreeMap<String, String>) -> Vec<(Variable, Option<String>)> {
    variables()
        .map(|variable| (*variable, values.get(variable.name).map(|value| shown(variable.name, value))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[(&str, &str)]) -> Result<Settings, BadSettings> {
        Settings::from_values(
            &values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[test]
    fn the_documented_defaults_hold() {
        let settings = check(&[]).unwrap();
        assert_eq!((settings.port, settings.apps_port, settings.backend), (3010, 3080, Backend::Embedded));
        assert_eq!((settings.limits.caps.total, settings.limits.caps.per_org), (5, 3));
        assert_eq!(settings.limits.deployment, Duration::from_millis(600_000));
        let queue = settings.host.queue;
        assert_eq!((queue.batch_size, queue.batch_timeout.as_secs(), queue.retries), (10, 30, 3));
        assert_eq!(settings.log_level, Level::INFO);
    }

    #[test]
    fn both_names_of_the_timeout_are_one_setting() {
        for values in [
            &[("DEPLOYMENT_TIMEOUT_MS", "1000")][..],
            &[("MAX_DEPLOYMENT_TIMEOUT", "1000")],
            &[("DEPLOYMENT_TIMEOUT_MS", "1000"), ("MAX_DEPLOYMENT_TIMEOUT", "1000")],
        ] {
            assert_eq!(check(values).unwrap().limits.deployment, Duration::from_secs(1));
        }
        assert!(check(&[("DEPLOYMENT_TIMEOUT_MS", "1000"), ("MAX_DEPLOYMENT_TIMEOUT", "2000")]).is_err());
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let problems = check(&[
            ("LOG_LEVEL", "loud"),
            ("MAX_CONCURRENT_DEPLOYMENTS", "0"),
            ("BUILD_CONTAINER_CPU", "many"),
            ("BUILD_CONTAINER_MEMORY", "2GB"),
            ("WINDLASS_PORT", "70000"),
            ("WINDLASS_BIND", "0.0.0.0"),
            ("QUEUE_MAX_RETRIES", "-1"),
            ("WINDLASS_BACKEND", "cloud"),
        ])
        .unwrap_err()
        .0;
        assert_eq!(problems.len(), 8, "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("need API tokens")));
    }

    #[test]
    fn every_level_of_the_log_has_its_name() {
        let levels = [Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        for (word, level) in ["debug", "info", "warn", "error"].into_iter().zip(levels) {
            assert_eq!(check(&[("LOG_LEVEL", word)]).unwrap().log_level, level);
        }
        assert!(check(&[("LOG_LEVEL", "loud")]).is_err());
    }

    #[test]
    fn secrets_are_not_explained() {
        let values = [
            ("AZURE_CLIENT_SECRET", "canary"),
            ("AZURE_COSMOS_CONNECTION_STRING", "AccountEndpoint=https://a/;AccountKey=canary"),
            ("COSMOS_ENDPOINT", "AccountEndpoint=https://a/;AccountKey=canary"),
            ("KEYVAULT_URL", "https://me:canary@vault.example/"),
            ("LOG_LEVEL", "debug"),
            ("WINDLASS_KANIKO_IMAGE", "r/kaniko@sha256:ab"),
        ];
        let values: BTreeMap<String, String> =
            values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let set: Vec<String> = explain(&values).into_iter().filter_map(|(_, value)| value).collect();
        let string = "AccountEndpoint=https://a/;AccountKey=[redacted]";
        assert_eq!(set, ["debug", "[redacted]", "[redacted]", string, "[redacted]", "r/kaniko@sha256:ab"]);
    }

    #[test]
    fn build_sizes_take_both_units() {
        for memory in ["2Gi", "2048Mi"] {
            assert_eq!(
                check(&[("BUILD_CONTAINER_MEMORY", memory), ("BUILD_CONTAINER_CPU", "0.5")])
                    .unwrap()
                    .limits
                    .build,
                Size { cpu_millis: 500, memory_mib: 2_048 }
            );
        }
    }
}
