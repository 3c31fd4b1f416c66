//! The one list of functions. What starts each is read from its `function.json`, as the Functions host reads it.

use std::sync::LazyLock;

use serde::Deserialize;

/// What starts a function: its input binding.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum Trigger {
    /// A request on this route; forwarded as it came.
    #[serde(rename = "httpTrigger")]
    Http {
        /// In the host's notation.
        route: &'static str,
        /// Methods it takes.
        methods: Vec<&'static str>,
    },
    /// A message on a Service Bus queue.
    #[serde(rename = "serviceBusTrigger", rename_all = "camelCase")]
    ServiceBus {
        /// The queue.
        queue_name: &'static str,
        /// How many messages come in one call.
        #[serde(default)]
        cardinality: Cardinality,
    },
    /// A message on a Storage Queue.
    #[serde(rename = "queueTrigger", rename_all = "camelCase")]
    StorageQueue {
        /// The queue.
        queue_name: &'static str,
    },
    /// A schedule in NCRONTAB, UTC.
    #[serde(rename = "timerTrigger")]
    Timer {
        /// Six fields.
        schedule: &'static str,
    },
}

impl Trigger {
    /// Whether a call brings an array of messages.
    #[must_use]
    pub fn brings_many(&self) -> bool {
        matches!(self, Self::ServiceBus { cardinality: Cardinality::Many, .. })
    }
}

/// How many messages a call brings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cardinality {
    /// One.
    #[default]
    One,
    /// As many as `host.json` lets wait for each other.
    Many,
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its folder and, for triggers, its path.
    pub name: &'static str,
    /// What starts it.
    pub trigger: Trigger,
}

/// The queue on which admission is woken, and on which producers outside may put jobs.
pub const DEPLOYMENT_QUEUE: &str = "deployment-queue";

macro_rules! folders {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../functions/", $name, "/function.json")))),+]
    };
}

/// Each folder with its `function.json`.
pub const FOLDERS: &[(&str, &str)] = folders![
    "http-deploy",
    "http-deploy-v2",
    "http-health",
    "http-metrics",
    "http-operations",
    "http-projects",
    "http-ready",
    "http-sources",
    "http-status",
    "admit",
    "step-validate",
    "step-builder",
    "step-sync",
    "step-build",
    "step-release",
    "step-domain",
    "step-cleanup",
    "dead-letter",
    "alarm",
    "timer-sweep",
    "timer-cleanup",
];

/// Every function. A folder that cannot be read is left out, as the host leaves it out; a house test rules that out.
pub static FUNCTIONS: LazyLock<Vec<Function>> = LazyLock::new(|| {
    let read = |(name, json): &(&'static str, &'static str)| Some(Function { name, trigger: trigger(json)? });
    FOLDERS.iter().filter_map(read).collect()
});

/// The trigger that a `function.json` declares; `None` when it declares none that Windlass knows.
fn trigger(json: &'static str) -> Option<Trigger> {
    #[derive(Deserialize)]
    struct File {
        #[serde(borrow)]
        bindings: Vec<&'static serde_json::value::RawValue>,
    }
    let file: File = serde_json::from_str(json).ok()?;
    file.bindings.iter().find_map(|binding| serde_json::from_str(binding.get()).ok())
}

/// The function of that name, in any casing, as the Functions host compares names.
#[must_use]
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name.eq_ignore_ascii_case(name))
}

/// The functions that carry the steps of a deployment, in their order.
#[must_use]
pub fn steps() -> Vec<&'static str> {
    FOLDERS.iter().map(|(name, _)| *name).filter(|name| name.starts_with("step-")).collect()
}

/// Every queue that a function reads.
#[must_use]
pub fn queues() -> Vec<&'static str> {
    FUNCTIONS.iter().filter_map(queue_of).collect()
}

/// The queue that a function reads.
#[must_use]
pub fn queue_of(function: &Function) -> Option<&'static str> {
    match function.trigger {
        Trigger::ServiceBus { queue_name, .. } | Trigger::StorageQueue { queue_name } => Some(queue_name),
        Trigger::Http { .. } | Trigger::Timer { .. } => None,
    }
}
