//! The small Functions host of one machine: hands messages and ticks to functions as the real host would.
//!
//! The same where it can be seen: at least once, immediate redelivery, a last delivery and then the dead letters, one
//! tick at a time, one past-due tick after a pause, a timeout per invocation. Different: nobody polls; a delivery
//! follows its commit at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::OptionalExtension as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::db::{Db, DbError};
use super::queue::{Delivery, SqliteQueues};
use super::schedule::Schedule;
use super::upstream::{Pool, full};
use crate::ambient::between;
use crate::causes::causes;
use crate::triggers::dispatch::{Event, dispatch};
use crate::triggers::table::{FUNCTIONS, Function, Trigger, queue_of};
use crate::windlass::Windlass;

/// How functions are called.
#[derive(Clone)]
pub enum Calls {
    /// Directly.
    InProcess,
    /// Through the custom handler's port, as the real host calls them.
    Http(Pool, SocketAddr),
}

/// How the host behaves: the values of `host.json`, and the queue settings.
#[derive(Debug, Clone, Copy)]
pub struct HostSettings {
    /// Invocations of one function at the same time.
    pub concurrency: usize,
    /// Messages in one batch.
    pub batch: usize,
    /// Deliveries before a message goes to the dead letters.
    pub deliveries: u32,
    /// Of one invocation.
    pub timeout: Duration,
    /// Deliveries in a thousand that are made twice. For tests.
    pub doubled_per_mille: u16,
}

/// The running host.
pub struct Host {
    windlass: Windlass,
    queues: Arc<SqliteQueues>,
    db: Db,
    calls: Calls,
    settings: HostSettings,
    stop: CancellationToken,
    tasks: TaskTracker,
    running: AtomicU64,
}

impl Host {
    /// A host for `windlass` that reads `queues`.
    #[must_use]
    pub fn new(
        windlass: Windlass,
        (db, queues): (Db, Arc<SqliteQueues>),
        calls: Calls,
        settings: HostSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            windlass,
            queues,
            db,
            calls,
            settings,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            running: AtomicU64::new(0),
        })
    }

    /// Starts reading every queue and ticking every timer.
    pub fn start(self: &Arc<Self>) {
        let alarms = Arc::clone(self);
        self.until_stopped(async move { alarms.queues.ring_alarms().await });
        for function in FUNCTIONS.iter() {
            let host = Arc::clone(self);
            match function.trigger {
                Trigger::Http { .. } => {}
                Trigger::ServiceBus { .. } | Trigger::StorageQueue { .. } => {
                    self.until_stopped(async move { host.read_queue(function).await });
                }
                Trigger::Timer { schedule } => {
                    self.until_stopped(async move { host.keep_time(function, schedule).await });
                }
            }
        }
    }

    /// Takes no more messages and waits until invocations under way have ended, at most `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.windlass.engine.clock.sleep(grace) => tracing::warn!("invocations were still under way; they come again after the next start"),
        }
    }

    /// Invocations under way.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    fn until_stopped(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        drop(self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        }));
    }

    async fn read_queue(self: Arc<Self>, function: &'static Function) {
        let Some(queue) = queue_of(function) else { return };
        let many = function.trigger.brings_many();
        let most = if many { self.settings.batch } else { 1 };
        let free = Arc::new(Semaphore::new(if many { 1 } else { self.settings.concurrency }));
        loop {
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            let batch = self.queues.take(queue, most).await;
            let host = Arc::clone(&self);
            drop(self.tasks.spawn(async move {
                host.deliver(function, queue, batch).await;
                drop(permit);
            }));
        }
    }

    async fn deliver(
        self: &Arc<Self>,
        function: &'static Function,
        queue: &'static str,
        batch: Vec<Delivery>,
    ) {
        let chance = self.windlass.engine.ids.random() % 1_000;
        if self.settings.doubled_per_mille > 0 && chance < u128::from(self.settings.doubled_per_mille) {
            let (host, twin) = (Arc::clone(self), batch.clone());
            drop(self.tasks.spawn(async move { drop(host.invoke(function, Call::Messages(&twin)).await) }));
        }
        match self.invoke(function, Call::Messages(&batch)).await {
            Ok(()) => batch.iter().for_each(|delivery| self.queues.complete(delivery)),
            Err(error) => {
                tracing::warn!(
                    function.name = function.name,
                    error,
                    "an invocation of {} failed; its messages come again",
                    function.name
                );
                // A failed batch is taken apart, so that one bad message does not use up its neighbours' deliveries.
                let alone = batch.len() == 1;
                for delivery in batch {
                    let result = if alone {
                        Err(error.clone())
                    } else {
                        self.invoke(function, Call::Messages(std::slice::from_ref(&delivery))).await
                    };
                    match result {
                        Ok(()) => self.queues.complete(&delivery),
                        Err(error) => self.abandon(queue, delivery, error).await,
                    }
                }
            }
        }
    }

    async fn abandon(&self, queue: &str, delivery: Delivery, error: String) {
        if let Err(error) = self.queues.abandon(queue, delivery, error, self.settings.deliveries).await {
            tracing::error!(error = %error, "a failed message could not be put back; it comes again after the next start");
        }
    }

    async fn invoke(&self, function: &'static Function, call: Call<'_>) -> Result<(), String> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let result = tokio::select! {
            biased;
            result = self.call(function, call) => result,
            () = self.windlass.engine.clock.sleep(self.settings.timeout) => Err(format!("it did not end within {} s", self.settings.timeout.as_secs())),
        };
        self.running.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn call(&self, function: &'static Function, call: Call<'_>) -> Result<(), String> {
        let (pool, address) = match &self.calls {
            Calls::InProcess => {
                return dispatch(&self.windlass, function, call.event())
                    .await
                    .map_err(|error| causes(&error));
            }
            Calls::Http(pool, address) => (pool, *address),
        };
        let now = self.windlass.engine.clock.now();
        let id = self.windlass.engine.ids.random();
        let request = hyper::Request::post(format!("/{}", function.name))
            .header("host", "127.0.0.1")
            .header("content-type", "application/json; charset=utf-8")
            .header(
                "x-azure-functions-invocationid",
                format!(
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    id >> 96,
                    (id >> 80) & 0xffff,
                    (id >> 64) & 0xffff,
                    (id >> 48) & 0xffff,
                    id & 0xffff_ffff_ffff
                ),
            )
            .body(full(call.payload(function, now).to_string()))
            .map_err(|error| error.to_string())?;
        let answer = pool.fetch(address, request).await.map_err(|error| causes(&error))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(format!("{}: {}", answer.status(), String::from_utf8_lossy(answer.body())))
        }
    }

    async fn keep_time(self: Arc<Self>, function: &'static Function, text: &'static str) {
        let schedule = match Schedule::parse(text) {
            Ok(schedule) => schedule,
            Err(error) => {
                return tracing::error!(function.name = function.name, error = %error, "a timer cannot be kept");
            }
        };
        let clock = Arc::clone(&self.windlass.engine.clock);
        let mut next = match self.stored_next(function.name, text) {
            Ok(stored) => stored.or_else(|| schedule.next(clock.now())),
            Err(error) => {
                tracing::error!(function.name = function.name, error = %error, "a timer's status cannot be read");
                schedule.next(clock.now())
            }
        };
        while let Some(due) = next {
            self.store_next(function.name, text, due).await;
            // The first moment is in the past when the service was down: one tick, however many were missed.
            clock.sleep(between(clock.now(), due)).await;
            if clock.now() < due {
                continue;
            }
            let begun = clock.now();
            if let Err(error) = self.invoke(function, Call::Tick { due }).await {
                tracing::warn!(function.name = function.name, error, "a tick of {} failed", function.name);
            }
            // What was missed during a long call is made up for at once, in one tick. What was missed before it was
            // made up for by it.
            next = match (schedule.next(begun.max(due)), clock.now()) {
                (Some(missed), now) if missed < now => Some(now),
                (next, _) => next,
            };
        }
    }

    fn stored_next(&self, name: &str, schedule: &str) -> Result<Option<jiff::Timestamp>, DbError> {
        let stored: Option<i64> = self.db.read(|c| {
            c.query_row(
                "SELECT next FROM timers WHERE name = ?1 AND schedule = ?2",
                [name, schedule],
                |row| row.get(0),
            )
            .optional()
        })?;
        Ok(stored.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok()))
    }

    async fn store_next(&self, name: &'static str, schedule: &'static str, next: jiff::Timestamp) {
        let stored = self.db.write(move |c| {
            c.execute(
                "INSERT INTO timers (name, schedule, next) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET schedule = excluded.schedule, last = next, next = excluded.next",
                rusqlite::params![name, schedule, next.as_microsecond()],
            )
        });
        if let Err(error) = stored.await {
            tracing::warn!(function.name = name, error = %error, "a timer's status could not be stored");
        }
    }
}

enum Call<'a> {
    Messages(&'a [Delivery]),
    Tick { due: jiff::Timestamp },
}

impl Call<'_> {
    fn event(&self) -> Event {
        match self {
            Self::Messages(batch) => {
                Event::Messages(batch.iter().map(|delivery| delivery.body.to_string()).collect())
            }
            Self::Tick { .. } => Event::Tick,
        }
    }

    /// The body that the real host sends (functions-host-protocol, sections 4.1 to 4.4).
    fn payload(&self, function: &Function, now: jiff::Timestamp) -> Value {
        let sys = json!({ "MethodName": function.name, "UtcNow": now });
        match self {
            Self::Tick { due } => json!({
                "Data": { "timer": { "Schedule": { "AdjustForDST": true }, "ScheduleStatus": { "Next": due }, "IsPastDue": between(*due, now) > Duration::from_secs(1) } },
                "Metadata": { "sys": sys },
            }),
            Self::Messages([only]) if !function.trigger.brings_many() => {
                json!({
                    "Data": { "msg": layered(&only.body) },
                    "Metadata": { "DeliveryCount": only.count.to_string(), "MessageId": layered(&only.id.to_string()), "sys": sys },
                })
            }
            Self::Messages(batch) => {
                let texts: Vec<&str> = batch.iter().map(|delivery| &*delivery.body).collect();
                json!({ "Data": { "msgs": json!(texts).to_string() }, "Metadata": { "sys": sys } })
            }
        }
    }
}

/// Text as the host writes it: one extra layer of JSON.
fn layered(text: &str) -> String {
    Value::from(text).to_string()
}
