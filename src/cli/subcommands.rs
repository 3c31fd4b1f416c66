//! What follows after `windlass dlq`, `config` and `bench`.

use std::path::PathBuf;

use clap::Subcommand;

/// `windlass dlq …`.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Lists them, newest first.
    List,
    /// Shows one with its body and why it is there.
    Show {
        /// Its id.
        id: i64,
    },
    /// Puts one back into its queue.
    Redrive {
        /// Its id.
        id: i64,
    },
    /// Deletes one, or all.
    Purge {
        /// Its id.
        id: Option<i64>,
    },
}

/// `windlass config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every setting: its value, where it comes from, what it does.
    Explain,
    /// Prints host.json with this environment's queue settings in it.
    Host,
    /// Prints the JSON schema of windlass.toml, by which an editor completes and checks it.
    Schema,
}

/// `windlass bench …`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Chains of empty steps through the whole service.
    Chain {
        /// Steps of one chain.
        #[arg(long, default_value_t = 8)]
        steps: usize,
        /// Chains at the same time.
        #[arg(long, default_value_t = 64)]
        concurrency: usize,
        /// How long.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// http: through the custom handler's port, as under the Functions host; in-process: directly.
        #[arg(long, default_value = "http", value_parser = ["http", "in-process"])]
        dispatch: String,
        /// Runs that ended before, as after years of work.
        #[arg(long, default_value_t = 0)]
        finished: u32,
    },
    /// From a SIGKILL to the first progress of the next service, with builds under way.
    Crash {
        /// How often.
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// Reading and hashing a folder, from nothing and unchanged.
    Plan {
        /// The folder.
        dir: PathBuf,
    },
    /// Packing a folder.
    Pack {
        /// The folder.
        dir: PathBuf,
    },
    /// From the start of the process to its first answer.
    Start {
        /// Deployments that are stored.
        #[arg(long, default_value_t = 100_000)]
        deployments: u32,
        /// How often it is started.
        #[arg(long, default_value_t = 20)]
        starts: usize,
    },
    /// Lists, status and log reads among many deployments.
    List {
        /// Deployments that are stored.
        #[arg(long, default_value_t = 100_000)]
        deployments: u32,
        /// Clients at the same time.
        #[arg(long, default_value_t = 16)]
        clients: usize,
    },
    /// How late alarms ring, with many pending.
    Timers {
        /// Alarms.
        #[arg(long, default_value_t = 100_000)]
        count: u32,
        /// Over how long they are spread.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
}
