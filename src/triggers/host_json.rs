//! `host.json`: how the Functions host behaves, and the embedded host with it.

use std::time::Duration;

use serde_json::{Value, json};

/// The file, as it is packaged.
const TEXT: &str = include_str!("../../host.json");

/// The settings of the queues that an operator may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// Messages in one batch.
    pub batch_size: usize,
    /// How long a message may wait for company at most. The embedded host never lets one wait.
    pub batch_timeout: Duration,
    /// Deliveries after the first before a message goes to the dead letters.
    pub retries: u32,
}

/// What the embedded host reads of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostJson {
    /// `functionTimeout`: of one invocation.
    pub function_timeout: Duration,
    /// `maxConcurrentCalls`: invocations of one function at the same time.
    pub concurrent_calls: usize,
    /// The queues.
    pub queue: QueueSettings,
}

/// `hh:mm:ss`.
fn span(value: &Value) -> Option<Duration> {
    let mut parts = value.as_str()?.split(':').map(str::parse::<u64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(Duration::from_secs(hours * 3_600 + minutes * 60 + seconds))
}

impl HostJson {
    /// Reads the file that is compiled in; `None` when it lacks something, which a test rules out.
    #[must_use]
    pub fn compiled_in() -> Option<Self> {
        let host: Value = serde_json::from_str(TEXT).ok()?;
        let bus = host.pointer("/extensions/serviceBus")?;
        let count = |value: &Value| usize::try_from(value.as_u64()?).ok();
        let deliveries = host.pointer("/extensions/queues/maxDequeueCount")?.as_u64()?;
        Some(Self {
            function_timeout: span(host.get("functionTimeout")?)?,
            concurrent_calls: count(bus.get("maxConcurrentCalls")?)?,
            queue: QueueSettings {
                batch_size: count(bus.get("maxMessageBatchSize")?)?,
                batch_timeout: span(bus.get("maxBatchWaitTime")?)?,
                retries: u32::try_from(deliveries.checked_sub(1)?).ok()?,
            },
        })
    }
}

/// The file with an operator's queue settings in it.
#[must_use]
pub fn generated(queue: QueueSettings) -> Value {
    let mut host: Value = serde_json::from_str(TEXT).unwrap_or_default();
    let seconds = queue.batch_timeout.as_secs();
    let wait = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    host["extensions"]["serviceBus"]["maxMessageBatchSize"] = json!(queue.batch_size);
    host["extensions"]["serviceBus"]["maxBatchWaitTime"] = json!(wait);
    host["extensions"]["queues"]["maxDequeueCount"] = json!(queue.retries + 1);
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_overrides_reach_it() {
        let host = HostJson::compiled_in().unwrap();
        assert_eq!((host.function_timeout.as_secs(), host.concurrent_calls), (300, 32));
        assert_eq!(
            generated(host.queue),
            serde_json::from_str::<Value>(TEXT).unwrap(),
            "without overrides it is the file"
        );
        let queue = QueueSettings { batch_size: 4, batch_timeout: Duration::from_secs(95), retries: 7 };
        let file = generated(queue);
        let bus = &file["extensions"]["serviceBus"];
        assert_eq!((&bus["maxMessageBatchSize"], &bus["maxBatchWaitTime"]), (&json!(4), &json!("00:01:35")));
        assert_eq!(file["extensions"]["queues"]["maxDequeueCount"], 8);
    }
}
