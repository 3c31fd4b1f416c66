//! Queues in SQLite with an in-memory view: a message is ready the moment its commit is on disk, nobody polls.
//!
//! At least once: a message is deleted after it was completed, with a later commit. What was taken and not completed
//! when the process died is ready again after the start. Order is the order of commits, except after a redelivery.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::Notify;

use super::db::{Db, DbError};
use crate::ambient::{Clock, between};
use crate::triggers::message::hint_text;
use crate::workflow::queue::{Hint, Queue, QueueError};

/// Due messages moved to their queues in one go.
const MOST_DUE: i64 = 1_000;
/// How long the alarm sleeps when nothing is due: any time will do, since a new message wakes it.
const IDLE: Duration = Duration::from_secs(3_600);
/// How often reading what is due is tried again when the database refuses.
const AGAIN: Duration = Duration::from_secs(1);

/// One delivery of a message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub id: i64,
    /// Its text.
    pub body: Arc<str>,
    /// 1 for the first delivery.
    pub count: u32,
}

/// A message that is in the database, or will be with the commit that is under way.
#[derive(Debug)]
pub struct Posted {
    queue: String,
    due: i64,
    delivery: Delivery,
}

#[derive(Default)]
struct Lane {
    ready: Mutex<VecDeque<Delivery>>,
    wake: Notify,
}

/// Every queue of this machine.
pub struct SqliteQueues {
    db: Db,
    clock: Arc<dyn Clock>,
    lanes: HashMap<&'static str, Lane>,
    next_id: AtomicI64,
    alarm: Notify,
    /// Due time and id of the newest message that was handed over because it was due.
    rung: Mutex<(i64, i64)>,
}

impl SqliteQueues {
    /// Opens the queues `names` and makes everything ready that is due.
    ///
    /// # Errors
    /// [`DbError`] when the messages cannot be read.
    pub fn open(db: Db, clock: Arc<dyn Clock>, names: &[&'static str]) -> Result<Arc<Self>, DbError> {
        let now = clock.now().as_microsecond();
        let lanes = names.iter().map(|name| (*name, Lane::default())).collect();
        let highest: i64 =
            db.read(|c| c.query_row("SELECT ifnull(max(id), 0) FROM messages", [], |row| row.get(0)))?;
        // Ids are never used twice, so that completing a doubled delivery cannot hit a newer message.
        let next_id = AtomicI64::new(now.max(highest + 1));
        let queues =
            Self { db, clock, lanes, next_id, alarm: Notify::new(), rung: Mutex::new((now, i64::MAX)) };
        let ready = queues.db.read(|c| {
            let mut select =
                c.prepare("SELECT id, queue, body, deliveries FROM messages WHERE due <= ?1 ORDER BY id")?;
            select.query_map([now], posted)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        for message in ready {
            queues.hand_over(message);
        }
        Ok(Arc::new(queues))
    }

    /// Inserts a message in the transaction under way. Announce it after the commit.
    ///
    /// # Errors
    /// As SQLite reports it.
    pub fn post(
        &self,
        c: &Connection,
        queue: &str,
        body: &str,
        not_before: Timestamp,
    ) -> rusqlite::Result<Posted> {
        let now = self.clock.now();
        let due = if not_before > now { not_before.as_microsecond() } else { 0 };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        c.prepare_cached(
            "INSERT INTO messages (id, queue, body, due, enqueued) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id, queue, body, due, now.as_microsecond()])?;
        Ok(Posted { queue: queue.to_owned(), due, delivery: Delivery { id, body: body.into(), count: 1 } })
    }

    /// Makes committed messages ready, or sets the alarm for them.
    pub fn announce(&self, message: &Posted) {
        if message.due > self.clock.now().as_microsecond() {
            self.alarm.notify_one();
        } else {
            self.hand_over(Posted {
                queue: message.queue.clone(),
                due: message.due,
                delivery: message.delivery.clone(),
            });
        }
    }

    /// Stores a message for `queue`.
    ///
    /// # Errors
    /// [`DbError`] when it is not stored.
    pub async fn enqueue(
        self: &Arc<Self>,
        queue: &str,
        body: String,
        not_before: Timestamp,
    ) -> Result<(), DbError> {
        let (poster, announcer, queue) = (Arc::clone(self), Arc::clone(self), queue.to_owned());
        self.db
            .write_then(
                move |c| poster.post(c, &queue, &body, not_before),
                move |message| announcer.announce(message),
            )
            .await
            .map(|_| ())
    }

    /// Waits for messages of `queue` and takes up to `most`. Never returns for a queue that does not exist.
    pub async fn take(&self, queue: &str, most: usize) -> Vec<Delivery> {
        let Some(lane) = self.lanes.get(queue) else { return std::future::pending().await };
        loop {
            {
                let mut ready = lane.ready.lock().unwrap_or_else(PoisonError::into_inner);
                if !ready.is_empty() {
                    let count = ready.len().min(most);
                    return ready.drain(..count).collect();
                }
            }
            lane.wake.notified().await;
        }
    }

    /// The message was worked on; it is deleted with a later commit.
    pub fn complete(&self, delivery: &Delivery) {
        let id = delivery.id;
        self.db.write_lazily(move |c| {
            c.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
            Ok(())
        });
    }

    /// The delivery failed: the message is ready again at once, or after `most` deliveries in the dead letters.
    ///
    /// # Errors
    /// [`DbError`]; the message is then ready again after the next start.
    pub async fn abandon(
        self: &Arc<Self>,
        queue: &str,
        delivery: Delivery,
        error: String,
        most: u32,
    ) -> Result<(), DbError> {
        let (queues, name) = (Arc::clone(self), queue.to_owned());
        let again = Posted {
            queue: queue.to_owned(),
            due: 0,
            delivery: Delivery { count: delivery.count + 1, ..delivery.clone() },
        };
        let bury = delivery.count >= most;
        let announcer = Arc::clone(self);
        self.db
            .write_then(
                move |c| {
                    if bury {
                        queues.bury(c, &name, &delivery, &error).map(Some)
                    } else {
                        count_failure(c, &delivery, &error)
                    }
                },
                move |buried| announcer.announce(buried.as_ref().unwrap_or(&again)),
            )
            .await
            .map(|_| ())
    }

    /// Moves a message to the dead letters and tells the dead-letter function.
    fn bury(
        &self,
        c: &Connection,
        queue: &str,
        delivery: &Delivery,
        error: &str,
    ) -> rusqlite::Result<Posted> {
        let now = self.clock.now();
        c.execute(
            "INSERT OR REPLACE INTO dead_letters (id, queue, body, reason, error, deliveries, first_at, last_at)
             SELECT id, queue, body, 'MaxDeliveryCountExceeded', ?2, ?3, enqueued, ?4 FROM messages WHERE id = ?1",
            params![delivery.id, error, delivery.count, now.as_microsecond()],
        )?;
        c.execute("DELETE FROM messages WHERE id = ?1", [delivery.id])?;
        let notice = serde_json::json!({ "w1": { "deadLetter": delivery.id, "queue": queue } }).to_string();
        self.post(c, DEAD_LETTER_QUEUE, &notice, now)
    }

    fn hand_over(&self, message: Posted) {
        if let Some(lane) = self.lanes.get(message.queue.as_str()) {
            lane.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(message.delivery);
            lane.wake.notify_one();
        } else {
            tracing::warn!(queue = message.queue, "a message waits in a queue that no function reads");
        }
    }

    /// Moves messages to their queues when they are due: never early, and woken rather than polled. Runs for ever.
    pub async fn ring_alarms(&self) {
        loop {
            let span = match self.ring() {
                Ok(Some(next)) => between(self.clock.now(), next),
                Ok(None) => IDLE,
                Err(error) => {
                    tracing::error!(error = %error, "alarms could not be read; trying again");
                    AGAIN
                }
            };
            tokio::select! {
                () = self.clock.sleep(span.min(IDLE)) => {}
                () = self.alarm.notified() => {}
            }
        }
    }

    /// Hands over what has become due since the last call, and gives the time of the next.
    ///
    /// # Errors
    /// [`DbError`] when the messages cannot be read; the next call hands them over.
    pub fn ring(&self) -> Result<Option<Timestamp>, DbError> {
        let now = self.clock.now().as_microsecond();
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if rung.0 > now {
            // The clock was set back: what comes due from here on has to be handed over, if need be twice.
            *rung = (now, i64::MAX);
        }
        loop {
            let (due, id) = *rung;
            let ready = self.db.read(|c| {
                let mut select = c.prepare_cached(
                    "SELECT id, queue, body, deliveries, due FROM messages
                     WHERE due > 0 AND due <= ?1 AND (due, id) > (?2, ?3) ORDER BY due, id LIMIT ?4",
                )?;
                let rows = select.query_map(params![now, due, id, MOST_DUE], |row| {
                    Ok((posted(row)?, row.get::<_, i64>(4)?))
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })?;
            let Some((last, last_due)) = ready.last() else { break };
            *rung = (*last_due, last.delivery.id);
            for (message, _) in ready {
                self.hand_over(message);
            }
        }
        let next: Option<i64> = self.db.read(|c| {
            c.prepare_cached("SELECT min(due) FROM messages WHERE due > 0 AND due > ?1")?
                .query_row([now], |row| row.get(0))
        })?;
        Ok(next.and_then(|micros| Timestamp::from_microsecond(micros).ok()))
    }

    /// Messages waiting or being worked on, and the enqueue time of the oldest, per queue.
    ///
    /// # Errors
    /// [`DbError`] when they cannot be read.
    pub fn depths(&self) -> Result<Vec<(String, i64, i64)>, DbError> {
        self.db.read(|c| {
            let mut select = c.prepare_cached(
                "SELECT queue, count(*), min(enqueued) FROM messages GROUP BY queue ORDER BY queue",
            )?;
            select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })
    }
}

/// Where the dead-letter function listens.
pub const DEAD_LETTER_QUEUE: &str = "deployment-dlq";

fn count_failure(c: &Connection, delivery: &Delivery, error: &str) -> rusqlite::Result<Option<Posted>> {
    c.execute(
        "UPDATE messages SET deliveries = ?2, error = ?3, due = 0 WHERE id = ?1",
        params![delivery.id, delivery.count, error],
    )?;
    Ok(None)
}

fn posted(row: &rusqlite::Row<'_>) -> rusqlite::Result<Posted> {
    let body: String = row.get(2)?;
    let delivery = Delivery { id: row.get(0)?, body: body.into(), count: row.get::<_, u32>(3)? + 1 };
    Ok(Posted { queue: row.get(1)?, due: 0, delivery })
}

/// [`Queue`] on the queues of this machine.
pub struct SqliteQueue(pub Arc<SqliteQueues>);

#[async_trait]
impl Queue for SqliteQueue {
    async fn send(&self, hint: &Hint, not_before: Timestamp) -> Result<(), QueueError> {
        self.0
            .enqueue(hint.function, hint_text(hint), not_before)
            .await
            .map_err(|error| QueueError { run: hint.run, source: error.into() })
    }
}
