//! Every function, once. A house test compares this table with `functions/*/function.json`, both ways.

/// What starts a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A request on this route; forwarded as it came.
    Http {
        /// In the host's notation.
        route: &'static str,
        /// Methods it takes.
        methods: &'static [&'static str],
    },
    /// A message on a Service Bus queue.
    ServiceBus {
        /// The queue.
        queue: &'static str,
        /// Whether up to ten come in one call.
        many: bool,
    },
    /// A message on a Storage Queue.
    StorageQueue {
        /// The queue.
        queue: &'static str,
    },
    /// A schedule in NCRONTAB, UTC.
    Timer {
        /// Six fields.
        schedule: &'static str,
    },
}

/// One function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Its folder and, for triggers, its path.
    pub name: &'static str,
    /// What starts it.
    pub trigger: Trigger,
}

const GET: &[&str] = &["get"];
const GET_POST: &[&str] = &["get", "post"];
const ANY: &[&str] = &["get", "post", "put", "delete"];

const fn http(name: &'static str, route: &'static str, methods: &'static [&'static str]) -> Function {
    Function { name, trigger: Trigger::Http { route, methods } }
}

const fn step(name: &'static str) -> Function {
    Function { name, trigger: Trigger::ServiceBus { queue: name, many: false } }
}

/// The queue on which admission is woken, and on which producers outside may put jobs.
pub const DEPLOYMENT_QUEUE: &str = "deployment-queue";

/// Every function.
pub const FUNCTIONS: &[Function] = &[
    http("http-deploy", "deploy/{*rest}", GET_POST),
    http("http-deploy-v2", "api/deploy", &["post"]),
    http("http-health", "health/{*rest}", GET),
    http("http-metrics", "metrics", GET),
    http("http-operations", "operations/{*rest}", ANY),
    http("http-projects", "projects/{*rest}", GET),
    http("http-ready", "ready", GET),
    http("http-sources", "sources/{*rest}", &["post", "put"]),
    http("http-status", "status/{*rest}", GET_POST),
    Function { name: "admit", trigger: Trigger::ServiceBus { queue: DEPLOYMENT_QUEUE, many: true } },
    step("step-validate"),
    step("step-builder"),
    step("step-sync"),
    step("step-build"),
    step("step-release"),
    step("step-domain"),
    step("step-cleanup"),
    Function { name: "dead-letter", trigger: Trigger::ServiceBus { queue: "deployment-dlq", many: false } },
    Function { name: "alarm", trigger: Trigger::StorageQueue { queue: "alarm" } },
    Function { name: "timer-sweep", trigger: Trigger::Timer { schedule: "0 * * * * *" } },
    Function { name: "timer-cleanup", trigger: Trigger::Timer { schedule: "0 0 3 * * *" } },
];

/// The function of that name, in any casing, as the Functions host compares names.
#[must_use]
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name.eq_ignore_ascii_case(name))
}

/// The queue that a function reads.
#[must_use]
pub fn queue_of(function: &Function) -> Option<&'static str> {
    match function.trigger {
        Trigger::ServiceBus { queue, .. } | Trigger::StorageQueue { queue } => Some(queue),
        Trigger::Http { .. } | Trigger::Timer { .. } => None,
    }
}
