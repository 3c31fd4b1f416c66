//! Letters that are due much later wait in a Storage Queue, invisible until then; the function `alarm` passes them on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_storage_queue::QueueClient;
use azure_storage_queue::models::{QueueClientSendMessageOptions, QueueMessage};
use jiff::Timestamp;

use super::post::{Letter, Post, PostError};
use super::service_bus::ServiceBus;
use crate::ambient::{Clock, between};
use crate::triggers::message::alarm_text;

/// What is due sooner is scheduled by Service Bus, which is more punctual than the host's look at a Storage Queue.
const SOON: Duration = Duration::from_secs(60);
/// The longest a message may be invisible is seven days; what is due later is passed on to another one.
const LONGEST: Duration = Duration::from_secs(6 * 24 * 3_600);
/// A message stays until it is worked on.
const FOR_EVER: i32 = -1;

/// Both ways to send a letter.
pub struct AzurePost {
    bus: ServiceBus,
    alarms: QueueClient,
    clock: Arc<dyn Clock>,
}

impl AzurePost {
    /// Sends by `bus`, and through `alarms` what is due later.
    #[must_use]
    pub fn new(bus: ServiceBus, alarms: QueueClient, clock: Arc<dyn Clock>) -> Self {
        Self { bus, alarms, clock }
    }
}

/// How long a letter of this age waits, in whole seconds and never too short; `None` when the bus takes it.
fn waits(due: Timestamp, now: Timestamp) -> Option<i32> {
    let left = between(now, due);
    if left <= SOON {
        return None;
    }
    let seconds = left.min(LONGEST).as_millis().div_ceil(1_000);
    i32::try_from(seconds).ok()
}

#[async_trait]
impl Post for AzurePost {
    async fn send(&self, letter: Letter) -> Result<(), PostError> {
        let now = self.clock.now();
        let Some(seconds) = waits(letter.due, now) else { return self.bus.send(&letter, now).await };
        let text = alarm_text(letter.queue, &letter.text, letter.due);
        let options = QueueClientSendMessageOptions {
            visibility_timeout: Some(seconds),
            message_time_to_live: Some(FOR_EVER),
            ..QueueClientSendMessageOptions::default()
        };
        let message = QueueMessage { message_text: Some(text) };
        self.alarms.send_message(message.try_into()?, Some(options)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::after;

    #[test]
    fn what_is_due_soon_goes_by_bus_and_a_year_is_waited_for_in_parts() {
        let now = Timestamp::UNIX_EPOCH;
        let wait = |millis| waits(after(now, Duration::from_millis(millis)), now);
        assert_eq!([wait(0), wait(60_000), wait(60_001), wait(90_500)], [None, None, Some(61), Some(91)]);
        assert_eq!(wait(365 * 24 * 3_600_000), Some(6 * 24 * 3_600));
    }
}
