//! Puts the embedded service together: one data folder, one process.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};

use super::backlog::SqliteBacklog;
use super::builder::{BuilderParts, ProcessBuilder};
use super::containers::Containers;
use super::db::Db;
use super::deployments::SqliteDeployments;
use super::files::FileBlobs;
use super::folders::{close_to_others, empty, make_private};
use super::journal::SqliteJournal;
use super::logs::FileLogs;
use super::queue::{SqliteQueue, SqliteQueues};
use super::releases::SqliteReleases;
use super::retention::SqliteRetention;
use super::runtime::{LocalRuntime, RuntimeParts};
use super::sandbox::Machine;
use super::secrets::{KeyError, key_of};
use super::upstream::Pool;
use crate::ambient::{Clock, Ids, SystemClock, SystemIds};
use crate::config::Settings;
use crate::deploy::artifacts::Bundles;
use crate::deploy::ids::Digest;
use crate::deploy::log::Logs;
use crate::deploy::secrets::Secrets;
use crate::deploy::size::Size;
use crate::triggers::table;
use crate::windlass::{Check, Looks, Tools, Windlass};
use crate::workflow::Engine;
use crate::workflow::chain::{Chain, Chains};
use crate::workflow::queue::Queue;

/// Where builds work.
const WORKSPACES: &str = "workspaces";
/// How often and how long the lock of a dead service is waited for.
const LOOK: Duration = Duration::from_millis(10);
const MOST_LOOKS: u32 = 500;

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Somebody else works on the data folder.
    #[error("{path} is in use by another Windlass (process {pid}); stop it, or choose another --data-dir")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who holds it.
        pid: String,
    },
    /// The data folder cannot be used.
    #[error("the data folder {path} cannot be used")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] super::db::DbError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The content store.
    #[error(transparent)]
    Blobs(#[from] crate::deploy::blobs::BlobError),
}

/// The connected service, before anything runs.
pub struct Embedded {
    /// The ports.
    pub windlass: Windlass,
    /// The database and its queues, for the host.
    pub store: (Db, Arc<SqliteQueues>),
    /// The runtime, for the front door.
    pub runtime: Arc<LocalRuntime>,
    /// Loopback connections.
    pub pool: Pool,
    /// Held as long as the service lives.
    pub lock: std::fs::File,
}

/// Opens the data folder. `more` are chains besides `deploy`, for benchmarks.
///
/// # Errors
/// [`ConnectError`], which says what to do.
pub fn connect(settings: &Settings, more: Vec<Chain>) -> Result<Embedded, ConnectError> {
    let (root, lock) = take_folder(&settings.data_dir)?;
    let (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>) = (Arc::new(SystemClock), Arc::new(SystemIds));
    let machine = machine(settings, &root)?;
    let db = Db::open(&root.join("windlass.db"))?;
    let queues = SqliteQueues::open(db.clone(), Arc::clone(&clock), &table::queues())?;
    let queue: Arc<dyn Queue> = Arc::new(SqliteQueue(Arc::clone(&queues)));
    let blobs = FileBlobs::open(&root.join("blobs"))?;
    let logs = Arc::new(FileLogs::open(&root.join("logs")).map_err(folder(&root))?);
    let secrets: Arc<dyn Secrets> = Arc::new(key_of(&db, &root.join("secret.key"))?);
    let pool = Pool::new(tokio::runtime::Handle::current());
    let workshop = Workshop {
        containers: Arc::new(Containers::new(machine.clone(), Arc::clone(&clock), &root)),
        root,
        blobs: blobs.clone(),
        queue: Arc::clone(&queue),
        clock: Arc::clone(&clock),
        machine: machine.clone(),
    };
    let root = &workshop.root;
    let builder =
        workshop.builder(Arc::clone(&logs) as Arc<_>, settings.limits.build).map_err(folder(root))?;
    let runtime = workshop.runtime(Arc::clone(&secrets), pool.clone()).map_err(folder(root))?;
    let runtime = Arc::new(runtime);
    let tools = Arc::new(Tools {
        clock: Arc::clone(&clock),
        ids: Arc::clone(&ids),
        deployments: Arc::new(SqliteDeployments::new(db.clone(), Arc::clone(&queues))),
        releases: Arc::new(SqliteReleases(db.clone())),
        retention: Arc::new(SqliteRetention(db.clone())),
        remains: Vec::new(),
        footing: Vec::new(),
        artifacts: Arc::new(Bundles(Arc::new(blobs.clone()))),
        blobs: Arc::new(blobs),
        logs,
        builder: Arc::new(builder),
        runtime: Arc::clone(&runtime) as Arc<_>,
        secrets,
        backlog: Arc::new(SqliteBacklog {
            db: db.clone(),
            queues: Arc::clone(&queues),
            clock: Arc::clone(&clock),
        }),
        checks: vec![Arc::new(StoreCheck(db.clone())), Arc::new(FolderCheck::new(root.join("blobs")))],
        limits: settings.limits,
        looks: Looks::WOKEN,
    });
    let engine = engine(&tools, more, (&db, &queues));
    Ok(Embedded { windlass: Windlass { engine, queue, tools }, store: (db, queues), runtime, pool, lock })
}

/// What builds and running apps have in common.
struct Workshop {
    root: PathBuf,
    blobs: FileBlobs,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    machine: Machine,
    containers: Arc<Containers>,
}

impl Workshop {
    fn builder(&self, logs: Arc<dyn Logs>, size: Size) -> std::io::Result<ProcessBuilder> {
        ProcessBuilder::new(BuilderParts {
            root: self.root.join(WORKSPACES),
            blobs: self.blobs.clone(),
            logs,
            queue: Arc::clone(&self.queue),
            clock: Arc::clone(&self.clock),
            machine: self.machine.clone(),
            containers: Arc::clone(&self.containers),
            size,
            background: tokio::runtime::Handle::current(),
        })
    }

    fn runtime(&self, secrets: Arc<dyn Secrets>, pool: Pool) -> std::io::Result<LocalRuntime> {
        LocalRuntime::new(RuntimeParts {
            root: self.root.join("revisions"),
            blobs: self.blobs.clone(),
            secrets,
            queue: Arc::clone(&self.queue),
            clock: Arc::clone(&self.clock),
            machine: self.machine.clone(),
            containers: Arc::clone(&self.containers),
            pool,
            background: tokio::runtime::Handle::current(),
        })
    }
}

fn engine(tools: &Arc<Tools>, more: Vec<Chain>, (db, queues): (&Db, &Arc<SqliteQueues>)) -> Engine {
    let chains = std::iter::once(crate::steps::deploy_chain(tools)).chain(more);
    Engine {
        journal: Arc::new(SqliteJournal::new(db.clone(), Arc::clone(queues), Arc::clone(&tools.clock))),
        chains: Arc::new(Chains::new(chains)),
        clock: Arc::clone(&tools.clock),
        ids: Arc::clone(&tools.ids),
    }
}

fn folder(path: &Path) -> impl Fn(std::io::Error) -> ConnectError {
    let path = path.to_owned();
    move |source| ConnectError::Folder { path: path.clone(), source }
}

/// How commands are started; what an earlier service left running is killed first, and what it was building removed.
fn machine(settings: &Settings, root: &Path) -> Result<Machine, ConnectError> {
    let machine = Machine {
        program: std::env::current_exe().map_err(folder(root))?,
        owner: Digest::of(root.as_os_str().as_encoded_bytes()).to_string(),
        path: settings.path.clone(),
        home: settings.home.clone(),
    };
    let orphans = machine.kill_orphans();
    if orphans > 0 {
        tracing::info!(orphans, "killed {orphans} processes that an earlier service left");
    }
    // Every interrupted build begins anew; what it wrote may have filled the disk, and no commit could follow.
    empty(&root.join(WORKSPACES));
    Ok(machine)
}

/// Makes the folder and takes it for this process, and closes what it holds to others.
fn take_folder(path: &Path) -> Result<(PathBuf, std::fs::File), ConnectError> {
    let root = std::path::absolute(path).map_err(folder(path))?;
    make_private(&root).map_err(folder(&root))?;
    // As it really lies: what commands may read is compared with it.
    let root = root.canonicalize().map_err(folder(&root))?;
    let lock = lock(&root)?;
    // The folder itself may be another's, with other things in it; what is in these is nobody else's in any case.
    for name in ["blobs", "logs", "revisions", WORKSPACES] {
        let private = root.join(name);
        make_private(&private).map_err(folder(&root))?;
        close_to_others(&private);
    }
    Ok((root, lock))
}

/// Takes the folder for this process. The lock ends with the process, however it ends.
fn lock(root: &Path) -> Result<std::fs::File, ConnectError> {
    let path = root.join(crate::lock::NAME);
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(folder(root))?;
    let mut looks = 0;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = crate::lock::holder(&file).map_err(folder(root))?;
        // A child that a dying service was about to start has its files open until it becomes another program.
        looks += 1;
        // Our own number is that of an earlier service, as in a container.
        let is_another = pid != std::process::id().to_string();
        if (is_another && is_alive(&pid)) || looks > MOST_LOOKS {
            return Err(ConnectError::InUse { path: root.to_owned(), pid });
        }
        std::thread::park_timeout(LOOK);
    }
    let write = |file: &mut std::fs::File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(folder(root))?;
    Ok(file)
}

/// Whether a process runs, and is not only waiting to be noticed as dead.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

struct StoreCheck(Db);

#[async_trait]
impl Check for StoreCheck {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn check(&self) -> Result<(), String> {
        // An update without effect still takes the write lock and commits.
        self.0
            .write(|c| c.execute("UPDATE timers SET last = last WHERE name = ''", []))
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    fn last_use_was_fine(&self) -> bool {
        self.0.last_commit_was_fine()
    }
}

/// Whether content can be written.
struct FolderCheck {
    blobs: PathBuf,
    next: AtomicU64,
}

impl FolderCheck {
    fn new(blobs: PathBuf) -> Self {
        Self { blobs, next: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Check for FolderCheck {
    fn name(&self) -> &'static str {
        "content"
    }

    async fn check(&self) -> Result<(), String> {
        // A name for each, since many may ask at once; among what comes in, where the next start removes what a crash left.
        let name = format!("probe-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let probe = self.blobs.join("incoming").join(name);
        let written = tokio::task::spawn_blocking(move || {
            std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(&probe))
        });
        let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        written.map_err(|error| format!("the content store cannot be written: {error}"))
    }

    fn last_use_was_fine(&self) -> bool {
        self.blobs.is_dir()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ambient::spawn;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn checks_at_the_same_time_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let incoming = folder.path().join("incoming");
        std::fs::create_dir(&incoming).unwrap();
        let check = Arc::new(FolderCheck::new(folder.path().to_owned()));
        let asking: Vec<_> = (0..1_000)
            .map(|_| {
                let check = Arc::clone(&check);
                spawn(async move { check.check().await })
            })
            .collect();
        for asked in asking {
            assert_eq!(asked.await.unwrap(), Ok(()));
        }
        assert!(std::fs::read_dir(&incoming).unwrap().next().is_none());
        std::fs::remove_dir(&incoming).unwrap();
        assert!(check.check().await.is_err());
    }

    fn settings(folder: &Path) -> Settings {
        let folder = folder.display().to_string();
        Settings::from_values(&BTreeMap::from([("WINDLASS_DATA_DIR".to_owned(), folder)])).unwrap()
    }

    #[tokio::test]
    async fn what_interrupted_builds_left_is_gone_before_the_database_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(WORKSPACES).join("run_1");
        std::fs::create_dir_all(left.join("src")).unwrap();
        std::fs::write(left.join("src/huge"), "x").unwrap();
        // No database can be opened here.
        std::fs::create_dir(folder.path().join("windlass.db")).unwrap();
        assert!(connect(&settings(folder.path()), Vec::new()).is_err());
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn only_its_owner_reads_what_the_folder_holds() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let made = folder.path().join("made");
        drop(connect(&settings(&made), Vec::new()).unwrap());
        assert_eq!(mode(&made), 0o700);
        // As an earlier version left it.
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755)).unwrap();
        let names = ["blobs", "logs", "revisions", WORKSPACES, "windlass.db"];
        for name in names {
            std::fs::set_permissions(made.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let running = connect(&settings(&made), Vec::new()).unwrap();
        for name in names {
            assert_eq!(mode(&made.join(name)) & 0o077, 0, "{name}");
        }
        assert_eq!(mode(&made.join("windlass.db-wal")) & 0o077, 0);
        assert_eq!(mode(&made), 0o755, "the folder may be somebody's home");
        drop(running);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = connect(&settings(&file), Vec::new()).err().unwrap();
        let said = crate::causes::causes(&error);
        assert_eq!(said, format!("the data folder {} cannot be used: it is not a folder", file.display()));
    }
}
