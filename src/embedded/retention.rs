//! Forgets records in SQLite, some at a time, so that nobody waits long for the writer.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::db::Db;
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::retention::{Forgotten, Needed, Retention};
use crate::workflow::journal::RunId;

/// Records of a kind in one transaction.
const SOME: i64 = 500;

/// [`Retention`] in SQLite.
pub struct SqliteRetention(pub Db);

/// Ended before ?1, and neither live nor among the ?2 newest releases of its app; ?3 at most.
const OLD: &str = "SELECT d.id FROM deployments d
    WHERE d.ended < ?1 AND d.status IN ('succeeded', 'failed', 'cancelled', 'superseded')
    AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.deployment = d.id AND (r.live = 1 OR
        r.number > (SELECT max(number) FROM releases newest WHERE newest.app = r.app) - ?2))
    ORDER BY d.no LIMIT ?3";

fn forget(c: &Connection, before: Timestamp, releases: u32, most: i64) -> rusqlite::Result<Forgotten> {
    let at = before.as_microsecond();
    let old: Vec<String> = c
        .prepare(OLD)?
        .query_map(params![at, releases, most], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &old {
        for delete in [
            "DELETE FROM releases WHERE deployment = ?1",
            "DELETE FROM requests WHERE deployment = ?1",
            "DELETE FROM deployments WHERE id = ?1",
        ] {
            c.prepare_cached(delete)?.execute([id])?;
        }
    }
    // A run's id begins with the time of its start.
    let earliest = RunId::new(before, 0);
    let ended = "SELECT id FROM runs WHERE open = 0 AND id < ?1 ORDER BY id LIMIT ?2";
    let limits = params![earliest.as_bytes(), most];
    c.prepare(&format!("DELETE FROM events WHERE run IN ({ended})"))?.execute(limits)?;
    let runs = c.prepare(&format!("DELETE FROM runs WHERE id IN ({ended})"))?.execute(limits)?;
    let artifacts = c.execute(
        "DELETE FROM artifacts WHERE created < ?1
         AND body ->> '$.digest' NOT IN (SELECT body ->> '$.artifact' FROM releases)",
        [at],
    )?;
    let keys = c.execute("DELETE FROM requests WHERE at < ?1", [at])?;
    c.execute("DELETE FROM sources WHERE created < ?1", [at])?;
    Ok(Forgotten {
        deployments: old.iter().filter_map(|id| id.parse::<DeploymentId>().ok()).collect(),
        runs: runs as u64,
        artifacts: artifacts as u64,
        keys: keys as u64,
    })
}

fn digests(c: &Connection, sql: &str, org: &Name, since: Timestamp) -> rusqlite::Result<Vec<Digest>> {
    let mut select = c.prepare(sql)?;
    let rows = select
        .query_map(params![org.as_str(), since.as_microsecond()], |row| row.get::<_, Option<String>>(0))?;
    let texts = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(texts.into_iter().flatten().filter_map(|text| text.parse().ok()).collect())
}

#[async_trait]
impl Retention for SqliteRetention {
    async fn use_source(&self, org: &Name, source: Digest, now: Timestamp) -> Result<(), StoreError> {
        let org = org.clone();
        let written = self.0.write(move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO sources (org, digest, created) VALUES (?1, ?2, ?3)")?
                .execute(params![org.as_str(), source.to_string(), now.as_microsecond()])
        });
        written.await?;
        Ok(())
    }

    async fn forget(&self, before: Timestamp, releases: u32, dry: bool) -> Result<Forgotten, StoreError> {
        let written = self.0.write(move |c| {
            if !dry {
                return forget(c, before, releases, SOME);
            }
            c.execute_batch("SAVEPOINT dry")?;
            let forgotten = forget(c, before, releases, i64::MAX);
            c.execute_batch("ROLLBACK TO dry; RELEASE dry")?;
            forgotten
        });
        Ok(written.await?)
    }

    async fn organizations(&self) -> Result<Vec<Name>, StoreError> {
        let names: Vec<String> = self.0.read(|c| {
            c.prepare(
                "SELECT org FROM projects UNION SELECT org FROM sources UNION SELECT org FROM artifacts ORDER BY 1",
            )?
            .query_map([], |row| row.get(0))?
            .collect()
        })?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    async fn needed(&self, org: &Name, since: Timestamp) -> Result<Needed, StoreError> {
        Ok(self.0.read(|c| {
            let sources = "SELECT source FROM projects WHERE org = ?1 AND ?2 = ?2
                UNION SELECT body ->> '$.wish.source' FROM deployments WHERE org = ?1
                UNION SELECT digest FROM sources WHERE org = ?1 AND created >= ?2";
            let artifacts =
                "SELECT body ->> '$.artifact' FROM releases WHERE body ->> '$.org' = ?1 AND ?2 = ?2
                UNION SELECT body ->> '$.digest' FROM artifacts WHERE org = ?1";
            Ok(Needed {
                sources: digests(c, sources, org, since)?,
                artifacts: digests(c, artifacts, org, since)?,
            })
        })?)
    }
}
