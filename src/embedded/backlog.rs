//! Looks into the queues of this machine.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{OptionalExtension as _, Row, params};

use super::db::{Db, DbError};
use super::deployments::time;
use super::queue::SqliteQueues;
use crate::ambient::Clock;
use crate::triggers::message::queue_for;
use crate::workflow::backlog::{Backlog, BacklogError, DeadLetter, Depth};

impl From<DbError> for BacklogError {
    fn from(error: DbError) -> Self {
        Self(error.into())
    }
}

/// [`Backlog`] in SQLite.
pub struct SqliteBacklog {
    /// The database of the queues.
    pub db: Db,
    /// The queues.
    pub queues: Arc<SqliteQueues>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The columns of a [`DeadLetter`].
const COLUMNS: &str = "id, queue, body, reason, error, deliveries, first_at, last_at";

fn dead_letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        queue: row.get(1)?,
        body: row.get(2)?,
        reason: row.get(3)?,
        error: row.get(4)?,
        deliveries: row.get(5)?,
        first_at: time(row.get(6)?)?,
        last_at: time(row.get(7)?)?,
    })
}

#[async_trait]
impl Backlog for SqliteBacklog {
    async fn depths(&self) -> Result<Vec<Depth>, BacklogError> {
        let rows = self.queues.depths()?;
        let depth = |(queue, messages, oldest): (String, i64, i64)| Depth {
            queue,
            messages: messages.cast_unsigned(),
            oldest: time(oldest).ok(),
        };
        Ok(rows.into_iter().map(depth).collect())
    }

    async fn dead_letters(&self, most: usize) -> Result<Vec<DeadLetter>, BacklogError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let text = format!("SELECT {COLUMNS} FROM dead_letters ORDER BY last_at DESC, id DESC LIMIT ?1");
        Ok(self.db.read(|c| c.prepare_cached(&text)?.query_map([most], dead_letter)?.collect())?)
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, BacklogError> {
        let text = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = ?1");
        Ok(self.db.read(|c| c.prepare_cached(&text)?.query_row([id], dead_letter).optional())?)
    }

    async fn dead_letter_count(&self) -> Result<u64, BacklogError> {
        let count: i64 =
            self.db.read(|c| c.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0)))?;
        Ok(count.cast_unsigned())
    }

    async fn bury(&self, body: &str) -> Result<i64, BacklogError> {
        let (text, now) = (body.to_owned(), self.clock.now().as_microsecond());
        let buried = self.db.write(move |c| {
            let known: Option<i64> = c
                .prepare_cached("SELECT id FROM dead_letters WHERE body = ?1")?
                .query_row([&text], |row| row.get(0))
                .optional()?;
            if let Some(id) = known {
                c.prepare_cached(
                    "UPDATE dead_letters SET deliveries = deliveries + 1, last_at = ?2 WHERE id = ?1",
                )?
                .execute(params![id, now])?;
                return Ok(id);
            }
            c.prepare_cached(
                "INSERT INTO dead_letters (queue, body, reason, deliveries, first_at, last_at)
                 VALUES (?1, ?2, 'MaxDeliveryCountExceeded', 1, ?3, ?3)",
            )?
            .execute(params![queue_for(&text), text, now])?;
            Ok(c.last_insert_rowid())
        });
        Ok(buried.await?)
    }

    async fn redrive(&self, id: i64) -> Result<bool, BacklogError> {
        let (queues, announcer, now) = (Arc::clone(&self.queues), Arc::clone(&self.queues), self.clock.now());
        let posted = self.db.write_then(
            move |c| {
                let dead: Option<(String, String)> = c
                    .query_row("SELECT queue, body FROM dead_letters WHERE id = ?1", [id], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .optional()?;
                let Some((queue, body)) = dead else { return Ok(None) };
                c.execute("DELETE FROM dead_letters WHERE id = ?1", [id])?;
                queues.post(c, &queue, &body, now).map(Some)
            },
            move |posted| {
                if let Some(posted) = posted {
                    announcer.announce(posted);
                }
            },
        );
        Ok(posted.await?.is_some())
    }

    async fn purge(&self, id: Option<i64>) -> Result<u64, BacklogError> {
        let deleted = self
            .db
            .write(move |c| c.execute("DELETE FROM dead_letters WHERE ?1 IS NULL OR id = ?1", params![id]));
        Ok(deleted.await? as u64)
    }
}
