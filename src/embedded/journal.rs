//! The journal in SQLite: events, fold and hints of one move in one transaction.
//!
//! Leases live in memory: the data folder is held by one process, so a lease cannot outlive its holder, and a move
//! costs one commit. Fences rise for the life of the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::db::{Db, DbError};
use super::queue::{Posted, SqliteQueues};
use crate::ambient::Clock;
use crate::triggers::message::hint_text;
use crate::workflow::chain::StepName;
use crate::workflow::journal::{Append, Claim, Entry, Journal, JournalError, Lease, RunId};
use crate::workflow::queue::Hint;
use crate::workflow::state::{Event, RunState};

impl From<DbError> for JournalError {
    fn from(error: DbError) -> Self {
        Self::Unavailable(error.into())
    }
}

#[derive(Clone, Copy)]
struct Held {
    fence: u64,
    until: Timestamp,
}

#[derive(Default)]
struct Leases {
    held: HashMap<RunId, Held>,
    last_fence: u64,
}

/// [`Journal`] in SQLite.
pub struct SqliteJournal {
    db: Db,
    queues: Arc<SqliteQueues>,
    clock: Arc<dyn Clock>,
    leases: Arc<Mutex<Leases>>,
}

enum Written {
    Done(Vec<Posted>),
    Conflict,
    Fenced,
}

impl SqliteJournal {
    /// The journal in `db`; hints go to `queues`, which must be in the same database.
    #[must_use]
    pub fn new(db: Db, queues: Arc<SqliteQueues>, clock: Arc<dyn Clock>) -> Self {
        Self { db, queues, clock, leases: Arc::default() }
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, run: RunId) -> Result<Option<RunState>, JournalError> {
        let stored: Option<Vec<u8>> = self.db.read(|c| {
            c.prepare_cached("SELECT state FROM runs WHERE id = ?1")?
                .query_row([run.as_bytes()], |row| row.get(0))
                .optional()
        })?;
        stored.map(|json| parse(run, &json)).transpose()
    }
}

fn parse<T: serde::de::DeserializeOwned>(run: RunId, json: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(json).map_err(|error| JournalError::Damaged { run, source: error.into() })
}

fn to_json(run: RunId, value: &impl serde::Serialize) -> Result<Vec<u8>, JournalError> {
    serde_json::to_vec(value).map_err(|error| JournalError::Damaged { run, source: error.into() })
}

fn insert_event(c: &Connection, run: RunId, seq: u64, at: i64, body: &[u8]) -> rusqlite::Result<()> {
    c.prepare_cached("INSERT INTO events (run, seq, at, body) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        run.as_bytes(),
        seq.cast_signed(),
        at,
        body
    ])?;
    Ok(())
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn create(
        &self,
        run: RunId,
        first: &Event,
        state: &RunState,
        hint: Hint,
    ) -> Result<(), JournalError> {
        let (event, body) = (to_json(run, first)?, to_json(run, state)?);
        let at = state.started;
        let (queues, announcer) = (Arc::clone(&self.queues), Arc::clone(&self.queues));
        self.db
            .write_then(
                move |c| {
                    let added = c
                        .prepare_cached(
                            "INSERT OR IGNORE INTO runs (id, version, open, state) VALUES (?1, 1, 1, ?2)",
                        )?
                        .execute(params![run.as_bytes(), body])?;
                    if added == 0 {
                        return Ok(None);
                    }
                    insert_event(c, run, 1, at.as_microsecond(), &event)?;
                    queues.post(c, hint.function, &hint_text(&hint), at).map(Some)
                },
                move |posted| {
                    if let Some(posted) = posted {
                        announcer.announce(posted);
                    }
                },
            )
            .await?;
        Ok(())
    }

    async fn claim(&self, run: RunId, now: Timestamp, until: Timestamp) -> Result<Claim, JournalError> {
        let lease = {
            let mut leases = self.leases();
            if leases.held.get(&run).is_some_and(|held| held.until > now) {
                return Ok(Claim::Busy);
            }
            leases.last_fence += 1;
            let fence = leases.last_fence;
            leases.held.insert(run, Held { fence, until });
            Lease { run, fence }
        };
        match self.state(run) {
            Ok(Some(state)) => Ok(Claim::Held(lease, Box::new(state))),
            Ok(None) => {
                self.release(&lease).await;
                Ok(Claim::Missing)
            }
            Err(error) => {
                self.release(&lease).await;
                Err(error)
            }
        }
    }

    async fn renew(&self, lease: &Lease, until: Timestamp) -> Result<(), JournalError> {
        match self.leases().held.get_mut(&lease.run) {
            Some(held) if held.fence == lease.fence => {
                held.until = until;
                Ok(())
            }
            _ => Err(JournalError::Fenced(lease.run)),
        }
    }

    async fn release(&self, lease: &Lease) {
        drop_lease(&self.leases, lease);
    }

    async fn append(&self, append: Append<'_>) -> Result<(), JournalError> {
        let run = append.run;
        let body = to_json(run, append.state)?;
        let events: Vec<Vec<u8>> =
            append.events.iter().map(|event| to_json(run, event)).collect::<Result<_, _>>()?;
        let (expected, version, open) = (append.expected, append.state.version, !append.state.is_over());
        let (lease, hints, at) = (append.lease.cloned(), append.hints, self.clock.now().as_microsecond());
        let (queues, announcer) = (Arc::clone(&self.queues), Arc::clone(&self.queues));
        let (leases, ended) = (Arc::clone(&self.leases), append.lease.cloned());
        let released = Arc::clone(&self.leases);
        let written = self.db.write_then(
            move |c| {
                if lease.is_some_and(|lease| !holds(&leases, &lease)) {
                    return Ok(Written::Fenced);
                }
                let updated = c
                    .prepare_cached(
                        "UPDATE runs SET version = ?3, open = ?4, state = ?5 WHERE id = ?1 AND version = ?2",
                    )?
                    .execute(params![
                        run.as_bytes(),
                        expected.cast_signed(),
                        version.cast_signed(),
                        open,
                        body
                    ])?;
                if updated == 0 {
                    return Ok(Written::Conflict);
                }
                for (seq, event) in (expected + 1..).zip(&events) {
                    insert_event(c, run, seq, at, event)?;
                }
                hints
                    .iter()
                    .map(|(hint, due)| queues.post(c, hint.function, &hint_text(hint), *due))
                    .collect::<Result<_, _>>()
                    .map(Written::Done)
            },
            move |written| {
                if let Written::Done(posted) = written {
                    // First the lease, then the hint: whoever takes the hint must find the run free.
                    if let Some(lease) = &ended {
                        drop_lease(&released, lease);
                    }
                    posted.iter().for_each(|posted| announcer.announce(posted));
                }
            },
        );
        match written.await? {
            Written::Done(_) => Ok(()),
            Written::Conflict => Err(JournalError::Conflict(run)),
            Written::Fenced => Err(JournalError::Fenced(run)),
        }
    }

    async fn history(&self, run: RunId) -> Result<Option<(RunState, Vec<Entry>)>, JournalError> {
        let stored = self.db.read(|c| {
            // One read transaction, so that the fold and the events are of the same moment.
            let snapshot = c.unchecked_transaction()?;
            let state: Option<Vec<u8>> = snapshot
                .prepare_cached("SELECT state FROM runs WHERE id = ?1")?
                .query_row([run.as_bytes()], |row| row.get(0))
                .optional()?;
            let mut select =
                snapshot.prepare_cached("SELECT seq, at, body FROM events WHERE run = ?1 ORDER BY seq")?;
            let rows = select.query_map([run.as_bytes()], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
            })?;
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(state.map(|state| (state, rows)))
        })?;
        let Some((state, rows)) = stored else { return Ok(None) };
        let entry = |(seq, at, body): (i64, i64, Vec<u8>)| {
            let at = Timestamp::from_microsecond(at)
                .map_err(|error| JournalError::Damaged { run, source: error.into() })?;
            Ok(Entry { seq: seq.cast_unsigned(), at, event: parse(run, &body)? })
        };
        let entries = rows.into_iter().map(entry).collect::<Result<_, JournalError>>()?;
        Ok(Some((parse(run, &state)?, entries)))
    }

    async fn output(&self, run: RunId, step: &StepName) -> Result<Option<Value>, JournalError> {
        let found: Option<String> = self.db.read(|c| {
            c.prepare_cached(
                "SELECT ifnull(CAST(body AS TEXT) -> '$.output', 'null') FROM events
                 WHERE run = ?1 AND CAST(body AS TEXT) ->> '$.type' = 'step_done'
                   AND CAST(body AS TEXT) ->> '$.step' = ?2 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row(params![run.as_bytes(), step.as_str()], |row| row.get(0))
            .optional()
        })?;
        found.map(|json| parse(run, json.as_bytes())).transpose()
    }

    async fn open_runs(&self, now: Timestamp) -> Result<Vec<(RunId, RunState)>, JournalError> {
        let rows = self.db.read(|c| {
            let mut select = c.prepare_cached("SELECT id, state FROM runs WHERE open = 1 ORDER BY id")?;
            select
                .query_map([], |row| Ok((RunId::from_bytes(row.get(0)?), row.get::<_, Vec<u8>>(1)?)))?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let busy: Vec<RunId> =
            self.leases().held.iter().filter(|(_, held)| held.until > now).map(|(run, _)| *run).collect();
        rows.into_iter()
            .filter(|(run, _)| !busy.contains(run))
            .map(|(run, state)| Ok((run, parse(run, &state)?)))
            .collect()
    }
}

fn holds(leases: &Mutex<Leases>, lease: &Lease) -> bool {
    let leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
    leases.held.get(&lease.run).is_some_and(|held| held.fence == lease.fence)
}

fn drop_lease(leases: &Mutex<Leases>, lease: &Lease) {
    let mut leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
    if leases.held.get(&lease.run).is_some_and(|held| held.fence == lease.fence) {
        leases.held.remove(&lease.run);
    }
}
