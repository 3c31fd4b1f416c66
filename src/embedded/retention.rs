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

/// Deployments that ended before ?1, that are neither live nor among the ?2 newest releases of their app, and whose app
/// nobody changes now, since what was live before is what a failure goes back to.
const OLD: &str = "SELECT d.id FROM deployments d
    WHERE d.ended < ?1 AND d.status IN ('succeeded', 'failed', 'cancelled', 'superseded')
    AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.deployment = d.id AND (r.live = 1 OR
        r.number > (SELECT max(number) FROM releases newest WHERE newest.app = r.app) - ?2))
    AND NOT EXISTS (SELECT 1 FROM deployments o WHERE o.status IN ('running', 'stuck')
        AND o.org = d.org AND o.project = d.project AND o.environment = d.environment)
    ORDER BY d.no";
/// Runs that have ended and that no deployment is left for; a run's id begins with the time of its start.
const ORPHANS: &str = "SELECT id FROM runs WHERE open = 0 AND id < ?1
    AND NOT EXISTS (SELECT 1 FROM deployments d WHERE d.run = runs.id)";
/// Artifacts kept before ?1 that no release is made of.
const UNUSED: &str =
    "created < ?1 AND body ->> '$.digest' NOT IN (SELECT body ->> '$.artifact' FROM releases)";

fn forget(c: &Connection, before: Timestamp, releases: u32) -> rusqlite::Result<Forgotten> {
    let at = before.as_microsecond();
    let old = old(c, before, releases, SOME)?;
    for id in &old {
        for delete in ["DELETE FROM releases WHERE deployment = ?1", "DELETE FROM deployments WHERE id = ?1"]
        {
            c.prepare_cached(delete)?.execute([id.to_string()])?;
        }
    }
    let (earliest, some) = (RunId::new(before, 0), format!("{ORPHANS} ORDER BY id LIMIT {SOME}"));
    let limit = params![earliest.as_bytes()];
    c.prepare(&format!("DELETE FROM events WHERE run IN ({some})"))?.execute(limit)?;
    let runs = c.prepare(&format!("DELETE FROM runs WHERE id IN ({some})"))?.execute(limit)?;
    let artifacts = c.execute(&format!("DELETE FROM artifacts WHERE {UNUSED}"), [at])?;
    let keys = c.execute("DELETE FROM requests WHERE at < ?1", [at])?;
    c.execute("DELETE FROM sources WHERE created < ?1", [at])?;
    Ok(Forgotten { deployments: old, runs: runs as u64, artifacts: artifacts as u64, keys: keys as u64 })
}

fn old(c: &Connection, before: Timestamp, releases: u32, most: i64) -> rusqlite::Result<Vec<DeploymentId>> {
    let ids: Vec<String> = c
        .prepare(&format!("{OLD} LIMIT ?3"))?
        .query_map(params![before.as_microsecond(), releases, most], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
}

/// What [`forget`] would do until nothing is left to forget, without doing it.
fn count(c: &Connection, before: Timestamp, releases: u32) -> rusqlite::Result<Forgotten> {
    let at = before.as_microsecond();
    let one = |sql: &str, params: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<u64> {
        c.query_row(sql, params, |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    };
    let earliest = RunId::new(before, 0);
    let kept =
        format!("d.run = runs.id AND d.id NOT IN ({})", OLD.replace("?1", "?2").replace("- ?2", "- ?3"));
    let runs = ORPHANS.replace("d.run = runs.id", &kept);
    let unused = UNUSED.replace("FROM releases", &format!("FROM releases WHERE deployment NOT IN ({OLD})"));
    Ok(Forgotten {
        deployments: old(c, before, releases, i64::MAX)?,
        runs: one(&format!("SELECT count(*) FROM ({runs})"), &[earliest.as_bytes(), &at, &releases])?,
        artifacts: one(&format!("SELECT count(*) FROM artifacts WHERE {unused}"), &[&at, &releases])?,
        keys: one("SELECT count(*) FROM requests WHERE at < ?1", &[&at])?,
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
        if dry {
            return Ok(self.0.read(|c| count(c, before, releases))?);
        }
        Ok(self.0.write(move |c| forget(c, before, releases)).await?)
    }

    async fn old(&self, before: Timestamp, releases: u32) -> Result<Vec<DeploymentId>, StoreError> {
        Ok(self.0.read(|c| old(c, before, releases, SOME))?)
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
