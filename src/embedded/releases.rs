//! Projects, releases and artifacts in SQLite.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::db::Db;
use super::deployments::{from_json, to_json};
use crate::deploy::deployment::StoreError;
use crate::deploy::ids::{Digest, Name};
use crate::deploy::release::{Artifact, Project, Release, Releases, labels};

/// [`Releases`] in SQLite.
pub struct SqliteReleases(pub Db);

fn find_project(c: &Connection, org: &Name, id: &Name) -> rusqlite::Result<Option<Project>> {
    c.prepare_cached("SELECT name, label, source FROM projects WHERE org = ?1 AND id = ?2")?
        .query_row(params![org.as_str(), id.as_str()], |row| {
            Ok(Project {
                org: org.clone(),
                id: id.clone(),
                title: row.get(0)?,
                label: row.get(1)?,
                source: row.get::<_, Option<String>>(2)?.and_then(|digest| digest.parse().ok()),
            })
        })
        .optional()
}

/// The first of the project's labels that nobody has.
fn free_label(c: &Connection, org: &Name, id: &Name) -> rusqlite::Result<String> {
    let mut candidates = labels(org, id);
    let last = candidates.pop().unwrap_or_default();
    for candidate in candidates {
        let taken: bool = c
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM projects WHERE label = ?1)")?
            .query_row([&candidate], |row| row.get(0))?;
        if !taken {
            return Ok(candidate);
        }
    }
    Ok(last)
}

fn release(row: &Row<'_>) -> rusqlite::Result<Release> {
    let mut release: Release = from_json(&row.get::<_, Vec<u8>>(1)?)?;
    release.number = row.get::<_, i64>(0)?.cast_unsigned();
    Ok(release)
}

#[async_trait]
impl Releases for SqliteReleases {
    async fn project(
        &self,
        org: &Name,
        id: &Name,
        title: &str,
        now: Timestamp,
    ) -> Result<Project, StoreError> {
        let found = self.0.read(|c| find_project(c, org, id))?;
        if let Some(project) = found.filter(|project| project.title == title) {
            return Ok(project);
        }
        let (org, id, title) = (org.clone(), id.clone(), title.to_owned());
        let written = self.0.write(move |c| {
            let label = match find_project(c, &org, &id)? {
                Some(project) => project.label,
                None => free_label(c, &org, &id)?,
            };
            c.prepare_cached(
                "INSERT INTO projects (org, id, name, label, created) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (org, id) DO UPDATE SET name = excluded.name",
            )?
            .execute(params![org.as_str(), id.as_str(), title, label, now.as_microsecond()])?;
            find_project(c, &org, &id)
        });
        written.await?.ok_or_else(|| StoreError("the project just written is not there".into()))
    }

    async fn set_source(&self, project: &Project, source: Digest) -> Result<(), StoreError> {
        if project.source == Some(source) {
            return Ok(());
        }
        let (org, id) = (project.org.clone(), project.id.clone());
        let written =
            self.0.write(move |c| {
                c.prepare_cached("UPDATE projects SET source = ?3 WHERE org = ?1 AND id = ?2")?
                    .execute(params![org.as_str(), id.as_str(), source.to_string()])
            });
        written.await?;
        Ok(())
    }

    async fn record(&self, wanted: &Release, now: Timestamp) -> Result<Release, StoreError> {
        let body = to_json(wanted)?;
        let (app, deployment, run) = (wanted.app.clone(), wanted.deployment.to_string(), wanted.run);
        let written = self.0.write(move |c| {
            let find = "SELECT number, body FROM releases WHERE deployment = ?1";
            let found = c.prepare_cached(find)?.query_row([&deployment], release).optional()?;
            if let Some(mut found) = found {
                // A retried deployment is a new run of the same release.
                if found.run != run {
                    c.prepare_cached("UPDATE releases SET body = ?2 WHERE deployment = ?1")?
                        .execute(params![deployment, body])?;
                    found = c.prepare_cached(find)?.query_row([&deployment], release)?;
                }
                return Ok(found);
            }
            c.prepare_cached(
                "INSERT INTO releases (app, number, deployment, created, body)
                 VALUES (?1, (SELECT ifnull(max(number), 0) + 1 FROM releases WHERE app = ?1), ?2, ?3, ?4)",
            )?
            .execute(params![app, deployment, now.as_microsecond(), body])?;
            c.prepare_cached(find)?.query_row([&deployment], release)
        });
        Ok(written.await?)
    }

    async fn make_live(&self, app: &str, number: Option<u64>) -> Result<Option<u64>, StoreError> {
        let app = app.to_owned();
        let written = self.0.write(move |c| {
            let before: Option<i64> = c
                .prepare_cached("SELECT number FROM releases WHERE app = ?1 AND live = 1")?
                .query_row([&app], |row| row.get(0))
                .optional()?;
            c.prepare_cached("UPDATE releases SET live = 0 WHERE app = ?1 AND live = 1")?.execute([&app])?;
            if let Some(number) = number {
                c.prepare_cached("UPDATE releases SET live = 1 WHERE app = ?1 AND number = ?2")?
                    .execute(params![app, number.cast_signed()])?;
            }
            Ok(before.map(i64::cast_unsigned))
        });
        Ok(written.await?)
    }

    async fn live(&self) -> Result<Vec<Release>, StoreError> {
        Ok(self.0.read(|c| {
            c.prepare_cached("SELECT number, body FROM releases WHERE live = 1 ORDER BY app")?
                .query_map([], release)?
                .collect()
        })?)
    }

    async fn live_of(&self, app: &str) -> Result<Option<Release>, StoreError> {
        Ok(self.0.read(|c| {
            c.prepare_cached("SELECT number, body FROM releases WHERE app = ?1 AND live = 1")?
                .query_row([app], release)
                .optional()
        })?)
    }

    async fn get(&self, app: &str, number: u64) -> Result<Option<Release>, StoreError> {
        Ok(self.0.read(|c| {
            c.prepare_cached("SELECT number, body FROM releases WHERE app = ?1 AND number = ?2")?
                .query_row(params![app, number.cast_signed()], release)
                .optional()
        })?)
    }

    async fn artifact(&self, org: &Name, inputs: Digest) -> Result<Option<Artifact>, StoreError> {
        Ok(self.0.read(|c| {
            c.prepare_cached("SELECT body FROM artifacts WHERE org = ?1 AND inputs = ?2")?
                .query_row(params![org.as_str(), inputs.to_string()], |row| {
                    from_json(&row.get::<_, Vec<u8>>(0)?)
                })
                .optional()
        })?)
    }

    async fn keep_artifact(
        &self,
        org: &Name,
        inputs: Digest,
        artifact: &Artifact,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (org, body) = (org.clone(), to_json(artifact)?);
        let written = self.0.write(move |c| {
            c.prepare_cached(
                "INSERT OR REPLACE INTO artifacts (org, inputs, body, created) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![org.as_str(), inputs.to_string(), body, now.as_microsecond()])
        });
        written.await?;
        Ok(())
    }
}
