//! The one SQLite database: opened, checked and migrated here; read on a few connections, written by one thread.
//!
//! WAL with synchronous=FULL: a commit is on disk before anybody hears of it. Readers see committed data only.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::folders::close_to_others;
use super::writer::{Writer, WriterStats};

/// Marks the file as ours (`WNDL`), so that another program's database is never touched.
const APPLICATION_ID: i64 = 0x574E_444C;
/// Every SQLite file begins with this (sqlite.org/fileformat2.html, section 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Migrations in order; the database's version is the number that it has seen. Never edited, only added to.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
];
/// Idle read connections kept; more are opened when needed and closed again.
const IDLE_READERS: usize = 8;
/// Statements that a connection keeps prepared: more than we have.
const STATEMENTS: usize = 128;
/// WAL pages after which the writer copies them into the database: 16 MiB, so that it is rare under load.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Not ours, or broken. It is left as it is.
    #[error(
        "{path} is not a readable Windlass database ({reason}); it was left untouched. Move it away to start afresh, or restore a copy"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Written by a newer Windlass. It is left as it is.
    #[error(
        "{path} was written by a newer Windlass (database version {found}, this one knows {known}); it was left untouched. Use the newer version"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Our newest.
        known: usize,
    },
    /// The disk has no room left. Nothing was written; the same call works again when there is room.
    #[error("the disk that holds the database is full")]
    Full(#[source] std::io::Error),
    /// The file or its folder cannot be written.
    #[error("the database cannot be written: {0}")]
    ReadOnly(String),
    /// The service is stopping.
    #[error("the database is closed")]
    Closed,
    /// Anything else that SQLite says.
    #[error("the database answered with an error")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly};
        match error.sqlite_error_code() {
            Some(DiskFull) => Self::Full(std::io::ErrorKind::StorageFull.into()),
            Some(ReadOnly | PermissionDenied | CannotOpen) => Self::ReadOnly(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}

/// The open database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    writer: Writer,
    idle: Mutex<Vec<Connection>>,
}

impl Db {
    /// Opens `path`, creating or migrating it.
    ///
    /// # Errors
    /// [`DbError::Damaged`] and [`DbError::Newer`] leave the file untouched.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        check_header(path)?;
        let read_only = |error| DbError::ReadOnly(format!("{}: {error}", path.display()));
        // A new one is nobody else's from its first byte on.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(read_only)?;
        let mut connection = open_file(path)?;
        let seen = check_owner(path, &connection)?;
        close(path);
        set_up(path, &connection)?;
        migrate(&mut connection, seen)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        let writer = Writer::start(connection).map_err(|error| DbError::ReadOnly(error.to_string()))?;
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), writer, idle: Mutex::new(Vec::new()) }) })
    }

    /// Runs `work` in the next commit and answers once that is on disk.
    ///
    /// Everything that waits shares one transaction; an SQL error takes back what `work` did and nothing else.
    ///
    /// # Errors
    /// [`DbError`] when nothing of `work` was written.
    pub async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.inner.writer.write(work, |_| ()).await
    }

    /// As [`Db::write`], and runs `then` once the commit is on disk, whether or not the caller still waits. `then`
    /// runs on the writer's thread, so it must be quick.
    ///
    /// # Errors
    /// As [`Db::write`]; `then` has not run.
    pub async fn write_then<T, F, A>(&self, work: F, then: A) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        self.inner.writer.write(work, then).await
    }

    /// Runs `work` together with a later commit. Lost when the process dies first: only for what is repeated anyway.
    pub fn write_lazily<F>(&self, work: F)
    where
        F: FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        self.inner.writer.write_lazily(work);
    }

    /// Runs a short read on a connection of its own.
    ///
    /// # Errors
    /// [`DbError`] as SQLite reports it.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, DbError> {
        let idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = connect(&self.inner.path)?;
                connection.pragma_update(None, "query_only", true)?;
                connection
            }
        };
        let result = work(&connection);
        let mut idle = self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READERS {
            idle.push(connection);
        }
        Ok(result?)
    }

    /// Commits since the database was opened.
    #[must_use]
    pub fn commits(&self) -> u64 {
        let stats: &WriterStats = self.inner.writer.stats();
        stats.commits.load(Ordering::Relaxed)
    }

    /// Whether the newest commit succeeded.
    #[must_use]
    pub fn last_commit_was_fine(&self) -> bool {
        !self.inner.writer.stats().failing.load(Ordering::Relaxed)
    }

    /// Every page checked for damage. Takes seconds on a large database.
    ///
    /// # Errors
    /// [`DbError`] when it cannot be read at all.
    pub fn verify(&self) -> Result<Vec<String>, DbError> {
        self.read(|connection| {
            let mut statement = connection.prepare("PRAGMA integrity_check")?;
            let rows: Vec<String> =
                statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            Ok(rows.into_iter().filter(|row| row != "ok").collect())
        })
    }
}

/// A connection to a database that is ours.
fn connect(path: &Path) -> Result<Connection, DbError> {
    let connection = open_file(path)?;
    set_up(path, &connection)?;
    Ok(connection)
}

/// A connection that has not written anything yet.
fn open_file(path: &Path) -> Result<Connection, DbError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

/// How we use a database; the first of it writes to the file.
fn set_up(path: &Path, connection: &Connection) -> Result<(), DbError> {
    let setup = connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON;",
    );
    setup.map_err(|error| damaged_or(path, error))
}

/// Closes the file to other users; what SQLite makes beside it gets the same mode.
fn close(path: &Path) {
    for beside in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(beside);
        close_to_others(Path::new(&name));
    }
}

fn check_header(path: &Path) -> Result<(), DbError> {
    let damaged = |reason: &str| DbError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let head = match std::fs::File::open(path) {
        Ok(mut file) => {
            let mut head = Vec::with_capacity(MAGIC.len());
            std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, 16), &mut head)
                .map_err(|error| DbError::ReadOnly(format!("{}: {error}", path.display())))?;
            head
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DbError::ReadOnly(format!("{}: {error}", path.display()))),
    };
    if head.is_empty() || head == MAGIC {
        Ok(())
    } else {
        Err(damaged("the file does not begin like a database"))
    }
}

/// Refuses what is not ours, without a change to it, and gives the number of migrations that the database has seen.
fn check_owner(path: &Path, connection: &Connection) -> Result<usize, DbError> {
    // Otherwise the last to close a database writes into it what its log still holds.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version: i64 = pragma(path, connection, "user_version")?;
    let application: i64 = pragma(path, connection, "application_id")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| damaged_or(path, error))?;
    if application != APPLICATION_ID && (tables > 0 || version > 0) {
        let reason = "it belongs to another program".to_owned();
        return Err(DbError::Damaged { path: path.to_owned(), reason });
    }
    let seen = usize::try_from(version).unwrap_or(usize::MAX);
    if seen > MIGRATIONS.len() {
        return Err(DbError::Newer { path: path.to_owned(), found: version, known: MIGRATIONS.len() });
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(seen)
}

fn migrate(connection: &mut Connection, seen: usize) -> Result<(), DbError> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(seen) {
        let step = connection.transaction()?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))?;
        step.commit()?;
    }
    Ok(())
}

fn pragma(path: &Path, connection: &Connection, name: &str) -> Result<i64, DbError> {
    connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|error| damaged_or(path, error))
}

fn damaged_or(path: &Path, error: rusqlite::Error) -> DbError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            DbError::Damaged { path: path.to_owned(), reason: error.to_string() }
        }
        _ => error.into(),
    }
}
