//! The database file: migrations, group commit, and errors that take nothing along.

use std::sync::Arc;

use rusqlite::Connection;
use windlass::embedded::db::{Db, DbError};

/// Every schema that was ever released, oldest first. A new migration adds one file here.
const OLDER: [&[&str]; 3] = [
    &[],
    &[
        include_str!("../../../src/embedded/migrations/0001.sql"),
        "PRAGMA application_id = 0x574E444C; PRAGMA user_version = 1;",
    ],
    &[
        include_str!("../../../src/embedded/migrations/0001.sql"),
        include_str!("../../../src/embedded/migrations/0002.sql"),
        "PRAGMA application_id = 0x574E444C; PRAGMA user_version = 2;",
    ],
];

#[test]
fn every_older_version_is_migrated_to_the_same_schema() {
    let schema = |path: &std::path::Path| -> Vec<String> {
        drop(Db::open(path).unwrap());
        let connection = Connection::open(path).unwrap();
        let mut select =
            connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    let fresh = schema(&folder.path().join("fresh"));
    assert!(fresh.len() > 10);
    for (version, sql) in OLDER.iter().enumerate() {
        let path = folder.path().join(format!("v{version}"));
        Connection::open(&path).unwrap().execute_batch(&sql.concat()).unwrap();
        assert_eq!(schema(&path), fresh);
    }
}

#[test]
fn another_programs_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(Db::open(&path), Err(DbError::Damaged { .. })));
    assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
}

#[test]
fn what_a_newer_version_left_in_its_log_stays_there() {
    let folder = tempfile::tempdir().unwrap();
    let (begun, left) = (folder.path().join("begun"), folder.path().join("left"));
    drop(Db::open(&begun).unwrap());
    let newer = Connection::open(&begun).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    // As a crash leaves it: the log holds what the file does not.
    let log =
        |path: &std::path::Path| path.with_file_name(format!("{}-wal", path.file_name().unwrap().display()));
    std::fs::copy(&begun, &left).unwrap();
    std::fs::copy(log(&begun), log(&left)).unwrap();
    let before = [&left, &log(&left)].map(|path| std::fs::read(path).unwrap());
    assert!(!before[1].is_empty());
    assert!(matches!(Db::open(&left), Err(DbError::Newer { found: 99, .. })));
    assert!([&left, &log(&left)].map(|path| std::fs::read(path).unwrap()) == before, "a file was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_commits_and_each_gets_its_own_answer() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&folder.path().join("db")).unwrap();
    db.write(|c| c.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY)")).await.unwrap();
    let before = db.commits();
    let writers: Vec<_> = (0..500_i64)
        .map(|number| {
            let db = db.clone();
            windlass::ambient::spawn(async move {
                db.write(move |c| c.execute("INSERT INTO t VALUES (?1)", [number]).map(|_| number))
                    .await
                    .unwrap()
            })
        })
        .collect();
    for (number, writer) in (0..).zip(writers) {
        assert_eq!(writer.await.unwrap(), number);
    }
    let commits = db.commits() - before;
    assert!(commits < 250, "500 writes took {commits} commits");
    let count: i64 = db.read(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))).unwrap();
    assert_eq!(count, 500);
}

#[tokio::test]
async fn a_write_that_fails_leaves_nothing_and_the_next_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&folder.path().join("db")).unwrap();
    db.write(|c| c.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY)")).await.unwrap();
    let failed = db
        .write(|c| {
            c.execute("INSERT INTO t VALUES (1)", [])?;
            c.execute("INSERT INTO t VALUES (1)", [])
        })
        .await;
    assert!(failed.is_err() && !db.last_commit_was_fine());
    // Neighbours in the same transaction stand.
    let (one, two, three) = tokio::join!(
        db.write(|c| c.execute("INSERT INTO t VALUES (7)", [])),
        db.write(|c| c.execute("INSERT INTO t VALUES (7)", [])),
        db.write(|c| c.execute("DELETE FROM t WHERE x = 7", [])),
    );
    assert!(one.is_ok() && two.is_err() && three.is_ok());
    db.write(|c| c.execute("INSERT INTO t VALUES (2)", [])).await.unwrap();
    let rows: Vec<i64> =
        db.read(|c| c.prepare("SELECT x FROM t")?.query_map([], |row| row.get(0))?.collect()).unwrap();
    assert_eq!(rows, [2]);
    assert!(db.last_commit_was_fine() && db.verify().unwrap().is_empty());
}

#[tokio::test]
async fn everybody_hears_why_nothing_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let db = Db::open(&path).unwrap();
    db.write(|c| c.execute_batch("CREATE TABLE t (x)")).await.unwrap();
    // Waits for nobody, so that the test does not.
    db.write(|c| c.busy_timeout(std::time::Duration::ZERO)).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let insert = || db.write(|c| c.execute("INSERT INTO t VALUES (1)", []));
    let (one, two) = tokio::join!(insert(), insert());
    for refused in [one, two] {
        let Err(DbError::Sqlite(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{error}");
    }
    assert!(!db.last_commit_was_fine());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(insert().await.unwrap(), 1);
    assert!(db.last_commit_was_fine());
}

#[tokio::test]
async fn a_full_disk_is_said_clearly_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&folder.path().join("db")).unwrap();
    db.write(|c| c.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES ('kept')")).await.unwrap();
    // SQLite answers SQLITE_FULL beyond this size, as it does on a full disk.
    db.write(|c| c.pragma_update(None, "max_page_count", 40)).await.unwrap();
    let error = db.write(|c| c.execute("INSERT INTO t VALUES (zeroblob(1000000))", [])).await.unwrap_err();
    assert!(matches!(error, DbError::Full(_)), "{error:?}");
    // What the API answers follows from the cause.
    let store = windlass::deploy::deployment::StoreError::from(error);
    assert!(windlass::causes::is_disk_full(&store), "{store:?}");
    db.write(|c| c.pragma_update(None, "max_page_count", 1_000_000)).await.unwrap();
    db.write(|c| c.execute("INSERT INTO t VALUES ('later')", [])).await.unwrap();
    let db = Arc::new(db);
    let count: i64 = db.read(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))).unwrap();
    assert_eq!(count, 2);
}
