//! The command line's grammar.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

use super::subcommands::{BenchCommand, ConfigCommand, DlqCommand};

/// Whom the platform lets call the HTTP functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AuthLevel {
    /// Anybody.
    Anonymous,
    /// Whoever has a function key.
    Function,
}

/// Deploys a folder as a live, health-checked app, durably.
#[derive(Debug, Parser)]
#[command(
    name = "windlass",
    version,
    about,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Start here:  windlass up examples/hello"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Server to talk to; otherwise `WINDLASS_URL`, or port 3010 of this machine.
    #[arg(long, global = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub server: Option<String>,
    /// Prints JSON, one object per line.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Flags of commands that start a service; each is also an environment variable.
#[derive(Debug, Clone, Default, Args)]
pub struct ServiceFlags {
    /// Port of the API; 0 takes a free one (3010 unless told otherwise).
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub port: Option<String>,
    /// Port of the deployed apps; 0 takes a free one (3080 unless told otherwise).
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub apps_port: Option<String>,
    /// Where everything is kept (.windlass unless told otherwise).
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub data_dir: Option<String>,
}

impl ServiceFlags {
    /// The flags as variables, which win over the environment.
    #[must_use]
    pub fn as_variables(&self) -> BTreeMap<String, String> {
        let given = [
            ("WINDLASS_PORT", &self.port),
            ("WINDLASS_APPS_PORT", &self.apps_port),
            ("WINDLASS_DATA_DIR", &self.data_dir),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
    }
}

/// What is deployed, and for whom.
#[derive(Debug, Clone, Args)]
pub struct DeployFlags {
    /// The folder.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// The project (otherwise `name` in windlass.toml, or the name of the folder).
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub project: Option<String>,
    /// development, staging, production, preview or preview-NAME; otherwise `environment` in windlass.toml, or development.
    #[arg(long, short, value_parser = NonEmptyStringValueParser::new())]
    pub environment: Option<String>,
    /// A host name of its own.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub domain: Option<String>,
    /// A variable for the running app; repeatable.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    pub variables: Vec<(String, String)>,
    /// Whose project it is.
    #[arg(long, default_value = "local")]
    pub organization: String,
    /// Who deploys.
    #[arg(long, default_value = "local")]
    pub user: String,
}

fn variable(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write NAME=VALUE".to_owned())
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts the service if none runs, deploys a folder, and keeps serving.
    #[command(
        after_help = "Examples:\n  windlass up\n  windlass up examples/hello\n  windlass up shop --env GREETING=hello --port 0 --apps-port 0"
    )]
    Up {
        /// What is deployed.
        #[command(flatten)]
        deploy: DeployFlags,
        /// The service.
        #[command(flatten)]
        service: ServiceFlags,
    },
    /// Runs the service: API on port 3010, apps on port 3080.
    #[command(
        after_help = "Examples:\n  windlass serve\n  windlass serve --data-dir /var/lib/windlass --port 8000"
    )]
    Serve {
        /// The service.
        #[command(flatten)]
        service: ServiceFlags,
    },
    /// Runs as an Azure Functions custom handler; chosen by itself when `FUNCTIONS_CUSTOMHANDLER_PORT` is set.
    #[command(after_help = "Example:\n  FUNCTIONS_CUSTOMHANDLER_PORT=7071 windlass handler")]
    Handler,
    /// Deploys a folder to a running service and shows the progress.
    #[command(
        after_help = "Examples:\n  windlass deploy\n  windlass deploy shop --environment production --domain shop.example\n  windlass deploy --detach --json"
    )]
    Deploy {
        /// What is deployed.
        #[command(flatten)]
        deploy: DeployFlags,
        /// Returns once the deployment is accepted.
        #[arg(long)]
        detach: bool,
    },
    /// Shows a deployment, or the whole service.
    #[command(after_help = "Examples:\n  windlass status\n  windlass status dep_7N3K8M2M5Q9 --watch")]
    Status {
        /// The deployment.
        id: Option<String>,
        /// Shows every change until it has ended.
        #[arg(long)]
        watch: bool,
    },
    /// Shows a deployment's log, or what a running app says.
    #[command(
        after_help = "Examples:\n  windlass logs dep_7N3K8M2M5Q9\n  windlass logs dep_7N3K8M2M5Q9 -f --step build\n  windlass logs --app hello"
    )]
    Logs {
        /// The deployment.
        #[arg(required_unless_present = "app")]
        id: Option<String>,
        /// Goes on until the deployment has ended.
        #[arg(short, long)]
        follow: bool,
        /// Only of this step.
        #[arg(long)]
        step: Option<String>,
        /// The project whose running app is meant.
        #[arg(long, value_name = "PROJECT", conflicts_with_all = ["id", "follow", "step"])]
        app: Option<String>,
        /// The app's environment.
        #[arg(long, short, default_value = "development")]
        environment: String,
        /// Whose project it is.
        #[arg(long, default_value = "local")]
        organization: String,
    },
    /// Stops a deployment; what it did is undone.
    #[command(after_help = "Example:\n  windlass cancel dep_7N3K8M2M5Q9")]
    Cancel {
        /// The deployment.
        id: String,
    },
    /// Tries a failed or cancelled deployment again, or resumes a stuck one.
    #[command(after_help = "Example:\n  windlass retry dep_7N3K8M2M5Q9")]
    Retry {
        /// The deployment.
        id: String,
    },
    /// Lists the newest deployments.
    #[command(after_help = "Examples:\n  windlass list\n  windlass list hello")]
    List {
        /// Only of this project.
        project: Option<String>,
    },
    /// Says why a deployment waits, was built, was not built, or failed.
    #[command(after_help = "Example:\n  windlass explain dep_7N3K8M2M5Q9")]
    Explain {
        /// The deployment.
        id: String,
    },
    /// Prints a deployment's software bill of materials.
    #[command(after_help = "Example:\n  windlass sbom dep_7N3K8M2M5Q9 > sbom.json")]
    Sbom {
        /// The deployment.
        id: String,
    },
    /// Looks at messages that failed too often.
    #[command(
        after_help = "Examples:\n  windlass dlq list\n  windlass dlq show 17\n  windlass dlq redrive 17\n  windlass dlq purge"
    )]
    Dlq {
        /// What to do.
        #[command(subcommand)]
        command: DlqCommand,
    },
    /// Removes what is older than the service keeps: deployments, logs, sources and artifacts.
    #[command(after_help = "Examples:\n  windlass cleanup --dry-run\n  windlass cleanup")]
    Cleanup {
        /// Only counts.
        #[arg(long)]
        dry_run: bool,
    },
    /// Checks a running service, and an app, from outside.
    #[command(
        after_help = "Examples:\n  windlass smoke\n  windlass smoke http://127.0.0.1:3010 --app http://hello.localhost:3080"
    )]
    Smoke {
        /// The service.
        url: Option<String>,
        /// An app's address.
        #[arg(long)]
        app: Option<String>,
    },
    /// Makes or checks the package that Azure Functions runs.
    #[command(
        after_help = "Examples:\n  infra/package windlass.zip\n  windlass package --binary ./windlass --output windlass.zip\n  windlass package --verify windlass.zip"
    )]
    Package {
        /// Where the package is written.
        #[arg(long, default_value = "windlass.zip", conflicts_with = "verify")]
        output: PathBuf,
        /// The binary for Azure; this one unless told otherwise.
        #[arg(long, conflicts_with = "verify")]
        binary: Option<PathBuf>,
        /// Whom the platform lets call the HTTP functions; our own authentication is behind it.
        #[arg(long, value_enum, default_value = "anonymous", conflicts_with = "verify")]
        auth_level: AuthLevel,
        /// Checks this package instead of making one.
        #[arg(long, value_name = "FILE")]
        verify: Option<PathBuf>,
    },
    /// Checks this machine, or an installation on Azure.
    #[command(after_help = "Examples:\n  windlass doctor\n  windlass doctor --azure --env-file azure.env")]
    Doctor {
        /// Checks the installation on Azure that the settings name; nothing is changed.
        #[arg(long)]
        azure: bool,
        /// File with settings, such as the `.env` of a service.
        #[arg(long, value_name = "FILE")]
        env_file: Option<PathBuf>,
        /// The service.
        #[command(flatten)]
        service: ServiceFlags,
    },
    /// Writes `.env.example` here: every setting and what it means, to be copied to `.env`.
    #[command(after_help = "Example:\n  windlass init && cp .env.example .env && windlass serve")]
    Init,
    /// Explains the settings, and the project file to editors.
    #[command(
        after_help = "Examples:\n  windlass config explain\n  QUEUE_MAX_RETRIES=5 windlass config host\n  windlass config schema > windlass.schema.json"
    )]
    Config {
        /// File with settings, such as the `.env` of a service.
        #[arg(long, global = true, value_name = "FILE")]
        env_file: Option<PathBuf>,
        /// What to do.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Prints the version.
    #[command(after_help = "Example:\n  windlass version --json")]
    Version,
    /// Prints completions for a shell.
    #[command(after_help = "Example:\n  windlass completions bash > /etc/bash_completion.d/windlass")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Measures this machine with a throw-away service.
    #[command(
        after_help = "Examples:\n  windlass bench chain --steps 8 --concurrency 64 --seconds 5 --json\n  windlass bench plan ."
    )]
    Bench {
        /// What to measure.
        #[command(subcommand)]
        command: BenchCommand,
    },
}

impl Command {
    /// The flags of a command that starts a service, as variables.
    #[must_use]
    pub fn service_variables(&self) -> BTreeMap<String, String> {
        let (Self::Up { service, .. } | Self::Serve { service } | Self::Doctor { service, .. }) = self else {
            return BTreeMap::new();
        };
        let mut variables = service.as_variables();
        if let Self::Doctor { azure, .. } = self {
            let backend = if *azure { "azure" } else { "embedded" };
            variables.insert("WINDLASS_BACKEND".to_owned(), backend.to_owned());
        }
        variables
    }
}
