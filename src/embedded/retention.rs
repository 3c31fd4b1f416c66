//! Forgets records in SQLite, some at a time, so that nobody waits long for the writer.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, ToSql, named_params, params};

use super::db::Db;
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::retention::{Forgotten, Needed, Retention};
use crate::workflow::journal::RunId;

/// Records of a kind in one transaction.
const SOME: i64 = 500;
/// That an organization has content is a source without a digest, which is never forgotten.
const NOTE_OWNER: &str = "INSERT OR IGNORE INTO sources (org, digest, created) VALUES (?1, '', 0)";

/// [`Retention`] in SQLite.
pub struct SqliteRetention(pub Db);

/// Deployments that ended before `:before`, that are neither live nor among the newest releases of their app, and whose
/// app nobody changes now, since what was live before is what a failure goes back to.
const OLD: &str = "SELECT d.id FROM deployments d
    WHERE d.ended < :before AND d.status IN ('succeeded', 'failed', 'cancelled', 'superseded')
    AND NOT EXISTS (SELECT 1 FROM releases r WHERE r.deployment = d.id AND (r.live = 1 OR
        r.number > (SELECT max(number) FROM releases newest WHERE newest.app = r.app) - :releases))
    AND NOT EXISTS (SELECT 1 FROM deployments o WHERE o.status IN ('running', 'stuck')
        AND o.org = d.org AND o.project = d.project AND o.environment = d.environment)
    ORDER BY d.no";

/// Runs that have ended and that no deployment is left for. A run's id begins with the time of its start.
fn orphans(deployments: &str) -> String {
    format!(
        "SELECT id FROM runs WHERE open = 0 AND id < :earliest AND NOT EXISTS (
         SELECT 1 FROM deployments d WHERE d.run = runs.id {deployments})"
    )
}

/// Artifacts that were kept before `:before` and that no release is made of.
fn unused(releases: &str) -> String {
    format!(
        "FROM artifacts WHERE created < :before AND body ->> '$.digest' NOT IN (
         SELECT body ->> '$.artifact' FROM releases {releases})"
    )
}

fn forget(c: &Connection, before: Timestamp, releases: u32) -> rusqlite::Result<Forgotten> {
    let at = before.as_microsecond();
    let old = old(c, before, releases, SOME)?;
    for id in &old {
        for delete in ["DELETE FROM releases WHERE deployment = ?1", "DELETE FROM deployments WHERE id = ?1"]
        {
            c.prepare_cached(delete)?.execute([id.to_string()])?;
        }
    }
    let some = format!("{} ORDER BY id LIMIT {SOME}", orphans(""));
    let earliest = RunId::new(before, 0);
    let earliest = named_params! { ":earliest": earliest.as_bytes() };
    c.execute(&format!("DELETE FROM events WHERE run IN ({some})"), earliest)?;
    let runs = c.execute(&format!("DELETE FROM runs WHERE id IN ({some})"), earliest)?;
    let artifacts = c.execute(&format!("DELETE {}", unused("")), named_params! { ":before": at })?;
    let keys = c.execute("DELETE FROM requests WHERE at < ?1", [at])?;
    c.execute("DELETE FROM sources WHERE created < ?1 AND digest <> ''", [at])?;
    Ok(Forgotten { deployments: old, runs: runs as u64, artifacts: artifacts as u64, keys: keys as u64 })
}

fn old(c: &Connection, before: Timestamp, releases: u32, most: i64) -> rusqlite::Result<Vec<DeploymentId>> {
    let bounds = named_params! { ":before": before.as_microsecond(), ":releases": releases, ":most": most };
    let ids: Vec<String> = c
        .prepare(&format!("{OLD} LIMIT :most"))?
        .query_map(bounds, |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
}

/// What [`forget`] would do until nothing is left to forget, without doing it.
fn count(c: &Connection, before: Timestamp, releases: u32) -> rusqlite::Result<Forgotten> {
    let (at, earliest) = (before.as_microsecond(), RunId::new(before, 0));
    let one = |sql: &str, bounds: &[(&str, &dyn ToSql)]| {
        c.query_row(sql, bounds, |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    };
    let runs = format!("SELECT count(*) FROM ({})", orphans(&format!("AND d.id NOT IN ({OLD})")));
    let artifacts = format!("SELECT count(*) {}", unused(&format!("WHERE deployment NOT IN ({OLD})")));
    let bounds: &[(&str, &dyn ToSql)] = named_params! { ":before": at, ":releases": releases };
    let earliest = named_params! { ":before": at, ":releases": releases, ":earliest": earliest.as_bytes() };
    Ok(Forgotten {
        deployments: old(c, before, releases, i64::MAX)?,
        runs: one(&runs, earliest)?,
        artifacts: one(&artifacts, bounds)?,
        keys: one("SELECT count(*) FROM requests WHERE at < :at", named_params! { ":at": at })?,
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
    async fn note_owner(&self, org: &Name) -> Result<(), StoreError> {
        let select = "SELECT EXISTS (SELECT 1 FROM sources WHERE org = ?1 AND digest = '')";
        let known: bool =
            self.0.read(|c| c.prepare_cached(select)?.query_row([org.as_str()], |row| row.get(0)))?;
        if !known {
            let org = org.clone();
            self.0.write(move |c| c.execute(NOTE_OWNER, [org.as_str()])).await?;
        }
        Ok(())
    }

    async fn use_source(&self, org: &Name, source: Digest, now: Timestamp) -> Result<(), StoreError> {
        let org = org.clone();
        let written = self.0.write(move |c| {
            c.prepare_cached(NOTE_OWNER)?.execute([org.as_str()])?;
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
            let projects: Vec<String> = c
                .prepare("SELECT id FROM projects WHERE org = ?1 ORDER BY 1")?
                .query_map([org.as_str()], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(Needed {
                sources: digests(c, sources, org, since)?,
                artifacts: digests(c, artifacts, org, since)?,
                projects: projects.iter().filter_map(|project| project.parse().ok()).collect(),
            })
        })?)
    }
}
