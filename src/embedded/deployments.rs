//! Deployments in SQLite. Admission is one transaction on the one writer, so that no cap can be passed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::db::{Db, DbError};
use super::queue::{Posted, SqliteQueues};
use crate::deploy::deployment::{
    Caps, DURATION_SAMPLES, Deployment, Deployments, Ending, Filter, NewDeployment, Requeued, RunMaker,
    Stats, Status, StoreError, Submitted,
};
use crate::deploy::ids::DeploymentId;
use crate::deploy::wish::Wish;
use crate::trace::TraceContext;
use crate::triggers::message::admit_text;
use crate::triggers::table::DEPLOYMENT_QUEUE;
use crate::workflow::journal::RunId;

const COLUMNS: &str = "no, id, status, run, created, started, ended, body, result";

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        Self(error.into())
    }
}

/// [`Deployments`] in SQLite.
pub struct SqliteDeployments {
    db: Db,
    queues: Arc<SqliteQueues>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    wish: Wish,
    correlation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceContext>,
}

impl SqliteDeployments {
    /// Deployments in `db`; admission is woken on `queues`, which must be in the same database.
    #[must_use]
    pub fn new(db: Db, queues: Arc<SqliteQueues>) -> Self {
        Self { db, queues }
    }

    /// Writes, and tells the queues of the message that woke admission once both are on disk.
    async fn write_and_wake<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &SqliteQueues) -> rusqlite::Result<(T, Option<Posted>)> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (queues, announcer) = (Arc::clone(&self.queues), Arc::clone(&self.queues));
        let written = self.db.write_then(
            move |c| work(c, &queues),
            move |(_, posted)| {
                if let Some(posted) = posted {
                    announcer.announce(posted);
                }
            },
        );
        Ok(written.await?.0)
    }
}

fn wake(
    c: &Connection,
    queues: &SqliteQueues,
    id: DeploymentId,
    now: Timestamp,
) -> rusqlite::Result<Option<Posted>> {
    queues.post(c, DEPLOYMENT_QUEUE, &admit_text(id), now).map(Some)
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

pub(super) fn time(micros: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(unreadable)
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(json: &[u8]) -> rusqlite::Result<T> {
    serde_json::from_slice(json).map_err(unreadable)
}

pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError(error.into()))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Deployment> {
    let body: Body = from_json(&row.get::<_, Vec<u8>>(7)?)?;
    let result: Option<Vec<u8>> = row.get(8)?;
    let times = |index| row.get::<_, Option<i64>>(index)?.map(time).transpose();
    Ok(Deployment {
        no: row.get(0)?,
        id: row.get::<_, String>(1)?.parse().map_err(unreadable)?,
        status: Status::from_word(&row.get::<_, String>(2)?).unwrap_or(Status::Stuck),
        run: row.get::<_, Option<[u8; 16]>>(3)?.map(RunId::from_bytes),
        created: time(row.get(4)?)?,
        started: times(5)?,
        ended: times(6)?,
        wish: body.wish,
        correlation: body.correlation,
        trace: body.trace,
        result: result.map(|json| from_json(&json)).transpose()?.unwrap_or_default(),
    })
}

#[async_trait]
impl Deployments for SqliteDeployments {
    async fn submit(&self, new: NewDeployment) -> Result<Submitted, StoreError> {
        let (wish, correlation) = (new.wish.clone(), new.correlation.clone());
        let body = to_json(&Body { wish, correlation, trace: new.trace })?;
        self.write_and_wake(move |c, queues| {
            let org = new.wish.org.as_str();
            if let Some((key, digest)) = &new.key {
                let since = new.repeats_since();
                let earlier: Option<(String, String)> = c
                    .prepare_cached(
                        "SELECT digest, deployment FROM requests WHERE org = ?1 AND key = ?2 AND at >= ?3",
                    )?
                    .query_row(params![org, key, since], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                match earlier {
                    Some((same, id)) if same == digest.to_string() => {
                        return Ok((Submitted::Repeated(id.parse().map_err(unreadable)?), None));
                    }
                    Some(_) => return Ok((Submitted::KeyReused, None)),
                    None => {
                        c.prepare_cached("INSERT OR REPLACE INTO requests (org, key, digest, deployment, at) VALUES (?1, ?2, ?3, ?4, ?5)")?
                            .execute(params![org, key, digest.to_string(), new.id.to_string(), new.at.as_microsecond()])?;
                    }
                }
            }
            insert(c, &new, &body)?;
            Ok((Submitted::New, wake(c, queues, new.id, new.at)?))
        })
        .await
    }

    async fn get(&self, id: DeploymentId) -> Result<Option<Deployment>, StoreError> {
        Ok(self.db.read(|c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM deployments WHERE id = ?1"))?
                .query_row([id.to_string()], read)
                .optional()
        })?)
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Deployment>, StoreError> {
        let mut conditions = vec!["no < ?1".to_owned()];
        let mut values = vec![Sql::Integer(filter.before.unwrap_or(i64::MAX))];
        let wanted = [
            ("project", filter.project.as_ref().map(ToString::to_string)),
            ("status", filter.status.map(|status| status.as_str().to_owned())),
            ("environment", filter.environment.as_ref().map(ToString::to_string)),
        ];
        for (column, value) in wanted {
            if let Some(value) = value {
                values.push(Sql::Text(value));
                conditions.push(format!("{column} = ?{}", values.len()));
            }
        }
        values.push(Sql::Integer(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
        let sql = format!(
            "SELECT {COLUMNS} FROM deployments WHERE {} ORDER BY no DESC LIMIT ?{}",
            conditions.join(" AND "),
            values.len()
        );
        Ok(self.db.read(|c| {
            c.prepare_cached(&sql)?.query_map(rusqlite::params_from_iter(values), read)?.collect()
        })?)
    }

    async fn admit(&self, caps: Caps, now: Timestamp, run: RunMaker) -> Result<Vec<Deployment>, StoreError> {
        let admitted = self.db.write(move |c| {
            let mut admitted = Vec::new();
            for no in choose(c, caps)? {
                c.prepare_cached(
                    "UPDATE deployments SET status = 'running', run = ?2, started = ?3, updated = ?3, ended = NULL WHERE no = ?1",
                )?
                .execute(params![no, run().as_bytes(), now.as_microsecond()])?;
                let sql = format!("SELECT {COLUMNS} FROM deployments WHERE no = ?1");
                admitted.push(c.prepare_cached(&sql)?.query_row([no], read)?);
            }
            Ok(admitted)
        });
        Ok(admitted.await?)
    }

    async fn settle(
        &self,
        (id, run): (DeploymentId, RunId),
        status: Status,
        result: &Ending,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let result = to_json(result)?;
        self.write_and_wake(move |c, queues| {
            let changed = c
                .prepare_cached(
                    "UPDATE deployments SET status = ?2, result = ?3, ended = ?4, updated = ?4
                     WHERE id = ?1 AND run = ?5 AND status IN ('running', 'stuck') AND status <> ?2",
                )?
                .execute(params![
                    id.to_string(),
                    status.as_str(),
                    result,
                    now.as_microsecond(),
                    run.as_bytes()
                ])?;
            let posted = if changed == 0 { None } else { wake(c, queues, id, now)? };
            Ok(((), posted))
        })
        .await
    }

    async fn cancel_queued(&self, id: DeploymentId, now: Timestamp) -> Result<bool, StoreError> {
        let changed = self.db.write(move |c| {
            c.prepare_cached("UPDATE deployments SET status = 'cancelled', ended = ?2, updated = ?2 WHERE id = ?1 AND status = 'queued'")?
                .execute(params![id.to_string(), now.as_microsecond()])
        });
        Ok(changed.await? == 1)
    }

    async fn requeue(&self, id: DeploymentId, now: Timestamp) -> Result<Requeued, StoreError> {
        self.write_and_wake(move |c, queues| {
            let queued = c
                .prepare_cached(
                    "UPDATE deployments SET status = 'queued', result = NULL, ended = NULL, updated = ?2
                     WHERE id = ?1 AND status IN ('failed', 'cancelled')",
                )?
                .execute(params![id.to_string(), now.as_microsecond()])?;
            if queued == 1 {
                return Ok((Requeued::Queued, wake(c, queues, id, now)?));
            }
            let running = c
                .prepare_cached(
                    "UPDATE deployments AS d SET status = 'running', ended = NULL, updated = ?2
                     WHERE id = ?1 AND status = 'stuck' AND NOT EXISTS (
                         SELECT 1 FROM deployments o WHERE o.status = 'running' AND o.org = d.org
                         AND o.project = d.project AND o.environment = d.environment)",
                )?
                .execute(params![id.to_string(), now.as_microsecond()])?;
            Ok((if running == 1 { Requeued::Running } else { Requeued::Refused }, None))
        })
        .await
    }

    async fn stats(&self) -> Result<Stats, StoreError> {
        Ok(self.db.read(|c| {
            let mut counts = c.prepare_cached("SELECT status, count(*) FROM deployments GROUP BY status")?;
            let rows = counts.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            let mut stats = Stats::default();
            for row in rows {
                let (word, count) = row?;
                if let Some(status) = Status::from_word(&word) {
                    stats.by_status.insert(status, count.cast_unsigned());
                }
            }
            Ok(stats)
        })?)
    }

    async fn ended_since(&self, since: Timestamp) -> Result<u64, StoreError> {
        let select = "SELECT count(*) FROM deployments
            WHERE ended >= ?1 AND status IN ('succeeded', 'failed', 'cancelled')";
        let count: i64 = self
            .db
            .read(|c| c.prepare_cached(select)?.query_row([since.as_microsecond()], |row| row.get(0)))?;
        Ok(count.cast_unsigned())
    }

    async fn durations_ms(&self) -> Result<Vec<u64>, StoreError> {
        let mut durations: Vec<u64> = self.db.read(|c| {
            let mut newest = c.prepare_cached(
                "SELECT (ended - started) / 1000 FROM deployments WHERE status = 'succeeded' ORDER BY no DESC LIMIT ?1",
            )?;
            let rows = newest.query_map([DURATION_SAMPLES], |row| row.get::<_, Option<i64>>(0))?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().map(i64::cast_unsigned).collect())
        })?;
        durations.sort_unstable();
        Ok(durations)
    }
}

/// Stores the deployment and supersedes what waited for the same app.
fn insert(c: &Connection, new: &NewDeployment, body: &[u8]) -> rusqlite::Result<()> {
    let wish = &new.wish;
    let at = new.at.as_microsecond();
    c.prepare_cached(
        "UPDATE deployments SET status = 'superseded', ended = ?4, updated = ?4
         WHERE status = 'queued' AND org = ?1 AND project = ?2 AND environment = ?3",
    )?
    .execute(params![wish.org.as_str(), wish.project.as_str(), wish.environment.to_string(), at])?;
    c.prepare_cached(
        "INSERT INTO deployments (id, org, project, environment, status, created, updated, body)
         VALUES (?1, ?2, ?3, ?4, 'queued', ?5, ?5, ?6)",
    )?
    .execute(params![
        new.id.to_string(),
        wish.org.as_str(),
        wish.project.as_str(),
        wish.environment.to_string(),
        at,
        body
    ])?;
    Ok(())
}

/// The numbers of those whose turn it is: oldest first, within the caps, one per app.
fn choose(c: &Connection, caps: Caps) -> rusqlite::Result<Vec<i64>> {
    let mut select = c.prepare_cached(
        "SELECT no, org, project || '/' || environment FROM deployments WHERE status = ?1 ORDER BY no",
    )?;
    let owned =
        |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?));
    let mut apps: HashSet<(String, String)> = HashSet::new();
    let mut orgs: HashMap<String, usize> = HashMap::new();
    for row in select.query_map([Status::Running.as_str()], owned)? {
        let (_, org, app) = row?;
        *orgs.entry(org.clone()).or_default() += 1;
        apps.insert((org, app));
    }
    let mut free = caps.total.saturating_sub(orgs.values().sum());
    let mut chosen = Vec::new();
    if free == 0 {
        return Ok(chosen);
    }
    for row in select.query_map([Status::Queued.as_str()], owned)? {
        let (no, org, app) = row?;
        let of_org = orgs.entry(org.clone()).or_default();
        if *of_org < caps.per_org && apps.insert((org, app)) {
            *of_org += 1;
            free -= 1;
            chosen.push(no);
        }
        if free == 0 {
            break;
        }
    }
    Ok(chosen)
}
