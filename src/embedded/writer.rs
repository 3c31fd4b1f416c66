//! The one thread that writes: it commits whatever is waiting in one transaction, so that one fsync serves many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::db::DbError;

/// Jobs in one transaction at most, so that the first of them never waits long.
const MOST_JOBS: usize = 512;
/// How long a lazy job waits for company. Well below the time after which its effect would be missed.
const LAZY: Duration = Duration::from_millis(20);

/// What a job leaves to be done once it is known whether the commit succeeded.
type Finish = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;
/// With it why the job was refused, if it was.
type Done = (Finish, Option<rusqlite::Error>);
/// Without a connection, when its turn does not come, a job only says whom to tell.
type Work = Box<dyn FnOnce(Option<&Connection>) -> Done + Send>;

enum Job {
    Now(Work),
    Lazy(Work),
}

/// Counts for benchmarks and `/status`.
#[derive(Debug, Default)]
pub(super) struct WriterStats {
    pub(super) commits: AtomicU64,
    pub(super) failing: AtomicBool,
}

pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    stats: Arc<WriterStats>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (jobs, waiting) = channel();
        let stats = Arc::new(WriterStats::default());
        let counted = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || write_until_closed(&connection, &waiting, &counted))?;
        Ok(Self { jobs: Some(jobs), stats, thread: Some(thread) })
    }

    pub(super) fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// Runs `work` in the next commit; once that is on disk, `then` on the writer's thread, then answers.
    pub(super) async fn write<T, F, A>(&self, work: F, then: A) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (answer, answered) = oneshot::channel::<Result<T, DbError>>();
        self.submit(Job::Now(Box::new(move |connection: Option<&Connection>| {
            let refused = match connection.map(work) {
                Some(Ok(value)) => {
                    let finish: Finish = Box::new(move |committed: Result<(), &rusqlite::Error>| {
                        if committed.is_ok() {
                            then(&value);
                        }
                        // Nobody listens when the caller was cancelled; the write stands all the same.
                        drop(answer.send(committed.map(|()| value).map_err(copy)));
                    });
                    return (finish, None);
                }
                Some(Err(error)) => Some(error),
                None => None,
            };
            let finish: Finish = Box::new(move |committed: Result<(), &rusqlite::Error>| {
                drop(answer.send(Err(committed.err().map_or(DbError::Closed, copy))));
            });
            (finish, refused)
        })));
        answered.await.unwrap_or(Err(DbError::Closed))
    }

    pub(super) fn write_lazily<F>(&self, work: F)
    where
        F: FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        self.submit(Job::Lazy(Box::new(move |connection: Option<&Connection>| {
            let refused = connection.and_then(|connection| work(connection).err());
            let finish: Finish = Box::new(|_| ());
            (finish, refused)
        })));
    }

    fn submit(&self, job: Job) {
        // A job that cannot be taken is dropped, and its caller hears that the database is closed.
        if let Some(jobs) = &self.jobs {
            drop(jobs.send(job));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the database's writer thread panicked");
        }
    }
}

/// The same error for another of those who shared the transaction.
fn copy(error: &rusqlite::Error) -> DbError {
    let code = error
        .sqlite_error()
        .copied()
        .unwrap_or_else(|| rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR));
    rusqlite::Error::SqliteFailure(code, Some(error.to_string())).into()
}

fn write_until_closed(connection: &Connection, waiting: &Receiver<Job>, stats: &WriterStats) {
    let mut batch: Vec<Work> = Vec::with_capacity(MOST_JOBS);
    loop {
        let mut urgent = false;
        // Lazy jobs wait for the first urgent one, but not for ever.
        while !urgent {
            let next = if batch.is_empty() {
                waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                waiting.recv_timeout(LAZY)
            };
            match next {
                Ok(Job::Now(work)) => {
                    batch.push(work);
                    urgent = true;
                }
                Ok(Job::Lazy(work)) => {
                    batch.push(work);
                    urgent = batch.len() >= MOST_JOBS;
                }
                Err(RecvTimeoutError::Timeout) => urgent = true,
                Err(RecvTimeoutError::Disconnected) => {
                    commit(connection, &mut batch, stats);
                    return;
                }
            }
        }
        while batch.len() < MOST_JOBS {
            match waiting.try_recv() {
                Ok(Job::Now(work) | Job::Lazy(work)) => batch.push(work),
                Err(_) => break,
            }
        }
        commit(connection, &mut batch, stats);
    }
}

fn commit(connection: &Connection, batch: &mut Vec<Work>, stats: &WriterStats) {
    if batch.is_empty() {
        return;
    }
    let mut done = Vec::with_capacity(batch.len());
    let mut jobs = batch.drain(..);
    let result = run(connection, &mut jobs, &mut done);
    // Those whose turn did not come hear why, as everybody does.
    done.extend(jobs.map(|work| work(None)));
    if let Err(error) = &result {
        tracing::error!(error = %error, jobs = done.len(), "a commit failed and was taken back");
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            tracing::error!(error = %error, "the rollback failed too");
        }
    }
    let fine = result.is_ok() && done.iter().all(|(_, refused)| refused.is_none());
    stats.commits.fetch_add(1, Ordering::Relaxed);
    stats.failing.store(!fine, Ordering::Relaxed);
    for (finish, refused) in done {
        finish(refused.as_ref().map_or(result.as_ref().copied(), Err));
    }
}

/// One transaction of every job. A job that is refused is taken back alone; its neighbours stand.
fn run(
    connection: &Connection,
    jobs: &mut dyn Iterator<Item = Work>,
    done: &mut Vec<Done>,
) -> rusqlite::Result<()> {
    let execute = |sql| connection.prepare_cached(sql)?.execute([]);
    execute("BEGIN IMMEDIATE")?;
    for work in jobs {
        if let Err(error) = execute("SAVEPOINT job") {
            done.push(work(None));
            return Err(error);
        }
        match work(Some(connection)) {
            (finish, None) => done.push((finish, None)),
            // Some errors end the whole transaction (https://sqlite.org/lang_transaction.html, section 3).
            (finish, Some(error)) if connection.is_autocommit() => {
                done.push((finish, None));
                return Err(error);
            }
            (finish, Some(error)) => {
                tracing::error!(error = %error, "a write was refused and is taken back");
                done.push((finish, Some(error)));
                execute("ROLLBACK TO job")?;
            }
        }
        execute("RELEASE job")?;
    }
    execute("COMMIT")?;
    Ok(())
}
