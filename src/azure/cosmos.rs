//! One container of Cosmos DB, in the few words that the adapters need.
//!
//! What a change is decided on is read by a batch, which is taken to go to the replica that writes (ADR 0011); every write
//! over something known is guarded by `If-Match`.

use azure_data_cosmos::models::{PartitionKey, TransactionalBatch};
use azure_data_cosmos::options::{
    BatchOptions, ContentResponseOnWrite, ItemWriteOptions, OperationOptionsBuilder, Precondition,
};
use azure_data_cosmos::{ContainerClient, CosmosError, FeedScope, Query};
use futures_util::TryStreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::dependency::cosmos;
use crate::deploy::deployment::StoreError;

/// Statuses of the service, as its REST reference lists them.
pub(super) const CONFLICT: u16 = 409;
pub(super) const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 412;
const RETRY_WITH: u16 = 449;
const TOO_LARGE: u16 = 413;
/// Of an operation that failed only because another one of its batch did.
const FAILED_DEPENDENCY: u16 = 424;

/// How often a change that lost a race is tried again before the caller hears of it.
pub(super) const RACES: u32 = 32;

/// Why Cosmos DB did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// One operation of the batch was refused, and so nothing was done.
    #[error("operation {index} of a batch was refused with status {status}")]
    Refused {
        /// Which one.
        index: usize,
        /// Why.
        status: u16,
    },
    /// The record is larger than 2 MB.
    #[error("a record is larger than Cosmos DB keeps")]
    TooLarge,
    /// Somebody else was faster, too often.
    #[error("the record is changed by too many at the same time")]
    Busy,
    /// A stored record cannot be read.
    #[error("a stored record cannot be read")]
    Unreadable(#[from] serde_json::Error),
    /// The service did not answer, or not as it should.
    #[error("Cosmos DB cannot be used")]
    Unavailable(#[from] CosmosError),
}

impl Fault {
    /// Whether somebody else wrote first.
    #[must_use]
    pub fn is_race(&self) -> bool {
        matches!(self, Self::Refused { status: CONFLICT | PRECONDITION_FAILED | RETRY_WITH | NOT_FOUND, .. })
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self(fault.into())
    }
}

/// A record and the tag that guards its next change.
#[derive(Debug, Clone, Deserialize)]
pub struct Stored<T> {
    /// Changes with every write.
    #[serde(rename = "_etag")]
    pub etag: String,
    /// The record.
    #[serde(flatten)]
    pub body: T,
}

/// A record with its place. One that goes by itself says after how many seconds, as `ttl`.
#[derive(Serialize)]
struct Item<'a, T> {
    id: &'a str,
    pk: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

/// The record as the SDK is given it: always one type, because the SDK's calls are compiled anew for each.
fn item(pk: &str, id: &str, body: &impl Serialize) -> Result<Value, serde_json::Error> {
    serde_json::to_value(Item { id, pk, body })
}

/// Several changes of one partition: all or none.
pub struct Batch {
    pk: String,
    inner: TransactionalBatch,
    failed: Option<Fault>,
}

impl Batch {
    /// Changes in partition `pk`.
    #[must_use]
    pub fn of(pk: &str) -> Self {
        Self {
            pk: pk.to_owned(),
            inner: TransactionalBatch::new(PartitionKey::from(pk.to_owned())),
            failed: None,
        }
    }

    fn then(mut self, next: impl FnOnce(TransactionalBatch) -> Result<TransactionalBatch, Fault>) -> Self {
        let inner =
            std::mem::replace(&mut self.inner, TransactionalBatch::new(PartitionKey::from(self.pk.clone())));
        match next(inner) {
            Ok(inner) => self.inner = inner,
            Err(fault) => self.failed = Some(fault),
        }
        self
    }

    /// Writes a record that is not there yet.
    #[must_use]
    pub fn create(self, id: &str, body: &impl Serialize) -> Self {
        let item = item(&self.pk, id, body);
        self.then(|inner| Ok(inner.create_item(item?)?))
    }

    /// Writes a record, whatever is there.
    #[must_use]
    pub fn put(self, id: &str, body: &impl Serialize) -> Self {
        let item = item(&self.pk, id, body);
        self.then(|inner| Ok(inner.upsert_item(item?, None)?))
    }

    /// Writes a record over the one with this tag.
    #[must_use]
    pub fn replace(self, id: &str, body: &impl Serialize, etag: &str) -> Self {
        let item = item(&self.pk, id, body);
        let guard = azure_data_cosmos::options::BatchReplaceOptions::default()
            .with_precondition(Precondition::if_match(etag.to_owned()));
        self.then(|inner| Ok(inner.replace_item(id.to_owned(), item?, Some(guard))?))
    }

    /// Writes a record over the one with this tag, or as a new one where there was none.
    #[must_use]
    pub fn write(self, id: &str, body: &impl Serialize, etag: Option<&str>) -> Self {
        match etag {
            Some(etag) => self.replace(id, body, etag),
            None => self.create(id, body),
        }
    }

    /// Reads a record, fresh.
    #[must_use]
    pub fn read(self, id: &str) -> Self {
        self.then(|inner| Ok(inner.read_item(id.to_owned(), None)))
    }

    /// Deletes a record that is there.
    #[must_use]
    pub fn remove(self, id: &str) -> Self {
        self.then(|inner| Ok(inner.delete_item(id.to_owned(), None)))
    }

    /// Deletes a record if it still has this tag.
    #[must_use]
    pub fn delete(self, id: &str, etag: &str) -> Self {
        let guard = azure_data_cosmos::options::BatchDeleteOptions::default()
            .with_precondition(Precondition::if_match(etag.to_owned()));
        self.then(|inner| Ok(inner.delete_item(id.to_owned(), Some(guard))))
    }
}

/// What one operation of a batch left: its tag and, where there is one, its record.
#[derive(Debug, Default)]
pub struct Left {
    /// Tag of the record after it.
    pub etag: Option<String>,
    /// The record after it.
    pub body: Option<Box<RawValue>>,
}

/// A container. Cheap to clone.
#[derive(Clone)]
pub struct Container(ContainerClient);

impl Container {
    /// The container of this client.
    #[must_use]
    pub fn new(client: ContainerClient) -> Self {
        Self(client)
    }

    /// One record; it may be older than the newest.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn read<T: DeserializeOwned>(&self, pk: &str, id: &str) -> Result<Option<Stored<T>>, Fault> {
        Ok(self.read_value(pk, id).await?.map(serde_json::from_value).transpose()?)
    }

    async fn read_value(&self, pk: &str, id: &str) -> Result<Option<Value>, Fault> {
        match cosmos("read", self.0.read_item(pk.to_owned(), id, None)).await {
            Ok(response) => Ok(Some(response.into_model()?)),
            Err(error) if error.status().is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// One record as it is now, as far as batches go to the replica that writes.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn read_fresh<T: DeserializeOwned>(
        &self,
        pk: &str,
        id: &str,
    ) -> Result<Option<Stored<T>>, Fault> {
        match self.commit(Batch::of(pk).read(id)).await {
            Ok(left) => {
                let body = left.into_iter().next().and_then(|left| left.body);
                Ok(body.map(|body| serde_json::from_str(body.get())).transpose()?)
            }
            Err(Fault::Refused { status: NOT_FOUND, .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Writes a record, whatever is there.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn put(&self, pk: &str, id: &str, body: &impl Serialize) -> Result<(), Fault> {
        self.put_value(pk, id, item(pk, id, body)?).await
    }

    async fn put_value(&self, pk: &str, id: &str, item: Value) -> Result<(), Fault> {
        cosmos("upsert", self.0.upsert_item(pk.to_owned(), id, item, None)).await.map_err(too_large)?;
        Ok(())
    }

    /// Writes a record that is not there yet; false when there is one.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn create(&self, pk: &str, id: &str, body: &impl Serialize) -> Result<bool, Fault> {
        self.create_value(pk, id, item(pk, id, body)?).await
    }

    async fn create_value(&self, pk: &str, id: &str, item: Value) -> Result<bool, Fault> {
        match cosmos("create", self.0.create_item(pk.to_owned(), id, item, None)).await {
            Ok(_) => Ok(true),
            Err(error) if error.status().is_conflict() => Ok(false),
            Err(error) => Err(too_large(error)),
        }
    }

    /// Writes a record over the one with this tag and gives the new tag; `None` when it has another tag, or is gone.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn replace(
        &self,
        (pk, id): (&str, &str),
        body: &impl Serialize,
        etag: &str,
    ) -> Result<Option<String>, Fault> {
        self.replace_value((pk, id), item(pk, id, body)?, etag).await
    }

    async fn replace_value(
        &self,
        (pk, id): (&str, &str),
        item: Value,
        etag: &str,
    ) -> Result<Option<String>, Fault> {
        let guard = ItemWriteOptions::default().with_precondition(Precondition::if_match(etag.to_owned()));
        match cosmos("replace", self.0.replace_item(pk.to_owned(), id, item, Some(guard))).await {
            Ok(response) => Ok(response.headers().etag().map(ToString::to_string)),
            Err(error) if error.status().is_precondition_failed() || error.status().is_not_found() => {
                Ok(None)
            }
            Err(error) => Err(too_large(error)),
        }
    }

    /// Deletes a record, only with this tag when one is given; false when it is not there, or has another tag.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn delete(&self, pk: &str, id: &str, etag: Option<&str>) -> Result<bool, Fault> {
        let guard = etag.map(|etag| {
            ItemWriteOptions::default().with_precondition(Precondition::if_match(etag.to_owned()))
        });
        match cosmos("delete", self.0.delete_item(pk.to_owned(), id, guard)).await {
            Ok(_) => Ok(true),
            Err(error) if error.status().is_not_found() || error.status().is_precondition_failed() => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Does all of the batch, or nothing. Gives what each operation left.
    ///
    /// # Errors
    /// [`Fault::Refused`] names the operation at fault.
    pub async fn commit(&self, batch: Batch) -> Result<Vec<Left>, Fault> {
        if let Some(fault) = batch.failed {
            return Err(fault);
        }
        let contents = OperationOptionsBuilder::new()
            .with_content_response_on_write(ContentResponseOnWrite::Enabled)
            .build();
        let options = BatchOptions::default().with_operation_options(contents);
        let call = self.0.execute_transactional_batch(batch.inner, Some(options));
        let response = cosmos("batch", call).await.map_err(too_large)?;
        let answer = response.into_model()?;
        let refused = answer
            .results()
            .iter()
            .enumerate()
            .map(|(index, result)| (index, result.status_code(), result.is_success()))
            .find(|(_, status, success)| !success && *status != FAILED_DEPENDENCY);
        match refused {
            Some((_, TOO_LARGE, _)) => Err(Fault::TooLarge),
            Some((index, status, _)) => Err(Fault::Refused { index, status }),
            None => Ok(answer
                .results()
                .iter()
                .map(|result| Left {
                    etag: result.etag().map(ToString::to_string),
                    body: result.resource_body().map(ToOwned::to_owned),
                })
                .collect()),
        }
    }

    /// Records of one partition that a query finds.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn find<T: DeserializeOwned>(
        &self,
        pk: &str,
        text: &str,
        parameters: &[(&str, Value)],
    ) -> Result<Vec<T>, Fault> {
        self.search(FeedScope::partition(pk.to_owned()), text, parameters).await
    }

    /// Records of all partitions that a query finds: filters only, because the service adds nothing up across partitions.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn find_everywhere<T: DeserializeOwned>(
        &self,
        text: &str,
        parameters: &[(&str, Value)],
    ) -> Result<Vec<T>, Fault> {
        self.search(FeedScope::full_container(), text, parameters).await
    }

    async fn search<T: DeserializeOwned>(
        &self,
        scope: FeedScope,
        text: &str,
        parameters: &[(&str, Value)],
    ) -> Result<Vec<T>, Fault> {
        let found = self.search_values(scope, text, parameters).await?;
        Ok(found.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?)
    }

    async fn search_values(
        &self,
        scope: FeedScope,
        text: &str,
        parameters: &[(&str, Value)],
    ) -> Result<Vec<Value>, Fault> {
        let mut query = Query::from(text);
        for (name, value) in parameters {
            query = query.with_parameter(*name, value)?;
        }
        let call = async { self.0.query_items::<Value>(query, scope, None).await?.try_collect().await };
        Ok(cosmos("query", call).await?)
    }
}

fn too_large(error: CosmosError) -> Fault {
    if u16::from(error.status().status_code()) == TOO_LARGE { Fault::TooLarge } else { error.into() }
}
