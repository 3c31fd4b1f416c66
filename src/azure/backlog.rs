//! Looks into the queues of Service Bus, and keeps what it gave up.
//!
//! Every queue forwards its dead letters to `deployment-dlq`, whose function hands them over here, because a message that
//! a function has taken is gone from the queue.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arm::{Arm, Contract};
use super::cosmos::{Container, Fault, Stored};
use super::post::{Letter, Post};
use super::record::time;
use crate::ambient::Clock;
use crate::deploy::ids::Digest;
use crate::triggers::message::queue_for;
use crate::triggers::table::{FUNCTIONS, Trigger};
use crate::workflow::backlog::{Backlog, BacklogError, DeadLetter, Depth};

const PARTITION: &str = "dead-letters";

/// A dead letter as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    kind: String,
    /// Names it; the same text given up again is the same letter.
    number: i64,
    body: String,
    times: u32,
    first: i64,
    last: i64,
}

impl From<Record> for DeadLetter {
    fn from(record: Record) -> Self {
        Self {
            id: record.number,
            queue: queue_for(&record.body).to_owned(),
            body: record.body,
            reason: "MaxDeliveryCountExceeded".to_owned(),
            error: None,
            deliveries: record.times,
            first_at: time(record.first),
            last_at: time(record.last),
        }
    }
}

/// [`Backlog`] on Service Bus and Cosmos DB.
pub struct AzureBacklog {
    /// Knows how many messages there are.
    pub arm: Arc<Arm>,
    /// Name of the Service Bus namespace.
    pub namespace: String,
    /// Keeps dead letters.
    pub records: Container,
    /// Sends them again.
    pub post: Arc<dyn Post>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> BacklogError {
    BacklogError(Box::new(error))
}

impl From<Fault> for BacklogError {
    fn from(fault: Fault) -> Self {
        failed(fault)
    }
}

/// The number that the text gets: positive, and exact in JSON.
fn number(body: &str) -> i64 {
    let digest = Digest::of(body.as_bytes()).0;
    digest.iter().take(6).fold(0, |number, byte| number << 8 | i64::from(*byte))
}

fn queues() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().filter_map(|function| match function.trigger {
        Trigger::ServiceBus { queue_name, .. } => Some(queue_name),
        Trigger::Http { .. } | Trigger::StorageQueue { .. } | Trigger::Timer { .. } => None,
    })
}

/// Messages of a queue; the counts may be left out, which is not the same as none.
fn messages(queue: &Value) -> Option<u64> {
    let counts = queue.pointer("/properties/countDetails")?;
    let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or_default();
    Some(count("activeMessageCount") + count("scheduledMessageCount"))
}

impl AzureBacklog {
    async fn depth(&self, queue: &'static str) -> Result<Option<Depth>, BacklogError> {
        let resource = format!("Microsoft.ServiceBus/namespaces/{}/queues/{queue}", self.namespace);
        let found = self.arm.get(Contract::ServiceBus, &resource).await.map_err(failed)?;
        let Some(messages) = found.as_ref().and_then(messages) else { return Ok(None) };
        Ok(Some(Depth { queue: queue.to_owned(), messages, oldest: None }))
    }

    async fn all(&self) -> Result<Vec<Record>, Fault> {
        let text = "SELECT * FROM c WHERE c.kind = 'dead-letter' ORDER BY c.last DESC";
        self.records.find(PARTITION, text, &[]).await
    }
}

#[async_trait]
impl Backlog for AzureBacklog {
    async fn depths(&self) -> Result<Vec<Depth>, BacklogError> {
        let depths = try_join_all(queues().map(|queue| self.depth(queue))).await?;
        Ok(depths.into_iter().flatten().collect())
    }

    async fn dead_letters(&self, most: usize) -> Result<Vec<DeadLetter>, BacklogError> {
        Ok(self.all().await?.into_iter().take(most).map(DeadLetter::from).collect())
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, BacklogError> {
        let known: Option<Stored<Record>> = self.records.read_fresh(PARTITION, &id.to_string()).await?;
        Ok(known.map(|known| known.body.into()))
    }

    async fn dead_letter_count(&self) -> Result<u64, BacklogError> {
        Ok(self.all().await?.len() as u64)
    }

    async fn bury(&self, body: &str) -> Result<i64, BacklogError> {
        let (number, now) = (number(body), self.clock.now().as_microsecond());
        let id = number.to_string();
        let known: Option<Stored<Record>> = self.records.read_fresh(PARTITION, &id).await?;
        let (times, first) = known.map_or((1, now), |known| (known.body.times + 1, known.body.first));
        let record =
            Record { kind: "dead-letter".to_owned(), number, body: body.to_owned(), times, first, last: now };
        self.records.put(PARTITION, &id, &record).await?;
        Ok(number)
    }

    async fn redrive(&self, id: i64) -> Result<bool, BacklogError> {
        let known: Option<Stored<Record>> = self.records.read_fresh(PARTITION, &id.to_string()).await?;
        let Some(Stored { body: record, etag }) = known else { return Ok(false) };
        let now = self.clock.now();
        let letter = Letter {
            id: format!("redrive-{id}-{}", now.as_microsecond()),
            about: id.to_string(),
            queue: queue_for(&record.body),
            text: record.body,
            due: now,
        };
        // First sent, then forgotten: a crash in between leaves a letter that may be sent twice, which is harmless.
        self.post.send(letter).await.map_err(BacklogError)?;
        self.records.delete(PARTITION, &id.to_string(), Some(&etag)).await?;
        Ok(true)
    }

    async fn purge(&self, id: Option<i64>) -> Result<u64, BacklogError> {
        let ids: Vec<String> = match id {
            Some(id) => vec![id.to_string()],
            None => self.all().await?.iter().map(|record| record.number.to_string()).collect(),
        };
        let mut purged = 0;
        for id in ids {
            purged += u64::from(self.records.delete(PARTITION, &id, None).await?);
        }
        Ok(purged)
    }
}
