//! Runs releases as supervised processes, or as files served in-process, behind the built-in proxy.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::containers::Containers;
use super::files::FileBlobs;
use super::folders::removed;
use super::pack::unpack;
use super::revision::{Parts, Revision};
use super::routes::{Backend, Routes, Upstream};
use super::sandbox::Machine;
use super::upstream::Pool;
use crate::ambient::{Clock, after, between};
use crate::deploy::detect::Kind;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Addresses, Binding, Health, Place, RevisionView, Runtime, RuntimeError};
use crate::deploy::secrets::Secrets;
use crate::deploy::wish::Environment;
use crate::workflow::journal::RunId;
use crate::workflow::queue::{Hint, Queue};

/// How long requests may go on at a revision that lost its traffic.
const DRAIN: Duration = Duration::from_secs(10);
/// A request that was routed a moment before the switch has arrived after this time.
const IN_BETWEEN: Duration = Duration::from_millis(250);
/// How often a draining revision is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// What the runtime works with.
pub struct RuntimeParts {
    /// Folder of the revisions.
    pub root: PathBuf,
    /// Artifacts.
    pub blobs: FileBlobs,
    /// Opens the apps' environment.
    pub secrets: Arc<dyn Secrets>,
    /// Wakes runs.
    pub queue: Arc<dyn Queue>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Starts commands.
    pub machine: Machine,
    /// Runs images.
    pub(super) containers: Arc<Containers>,
    /// Loopback connections.
    pub pool: Pool,
    /// Where background work runs.
    pub background: tokio::runtime::Handle,
}

/// [`Runtime`] on this machine.
pub struct LocalRuntime {
    parts: Arc<RuntimeParts>,
    /// Which host leads where; the proxy reads it.
    pub routes: Arc<Routes>,
    /// Where apps answer.
    pub addresses: LocalAddresses,
    revisions: Arc<Mutex<HashMap<RunId, Arc<Revision>>>>,
}

/// `http://<project>.localhost:<port>`; names below `localhost` lead to this machine (RFC 6761, section 6.3).
#[derive(Debug, Default)]
pub struct LocalAddresses(AtomicU16);

impl LocalAddresses {
    /// Sets the port, once it is known.
    pub fn set_port(&self, port: u16) {
        self.0.store(port, Ordering::Relaxed);
    }
}

#[async_trait]
impl Addresses for LocalAddresses {
    async fn host(&self, place: Place<'_>) -> Result<String, RuntimeError> {
        let (label, environment) = (place.label, place.environment);
        Ok(match environment {
            Environment::Development => format!("{label}.localhost"),
            Environment::Staging | Environment::Production | Environment::Preview(_) => {
                format!("{label}--{environment}.localhost")
            }
        })
    }

    fn url(&self, _release: &Release, host: &str) -> String {
        format!("http://{host}:{}", self.0.load(Ordering::Relaxed))
    }
}

impl LocalRuntime {
    /// Revisions below `parts.root`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(parts: RuntimeParts) -> std::io::Result<Self> {
        std::fs::create_dir_all(&parts.root)?;
        Ok(Self {
            parts: Arc::new(parts),
            routes: Arc::default(),
            addresses: LocalAddresses::default(),
            revisions: Arc::default(),
        })
    }

    /// Brings every live release back after a start; folders of revisions that are not live are removed.
    ///
    /// # Errors
    /// [`RuntimeError`] for a release that cannot even be begun; the others are begun.
    pub async fn restore(&self, live: &[Release]) -> Result<(), RuntimeError> {
        for entry in std::fs::read_dir(&self.parts.root).into_iter().flatten().flatten() {
            let keep =
                live.iter().any(|release| entry.file_name().to_str() == Some(&release.run.to_string()));
            if !keep && let Err(error) = removed(entry.path()).await {
                tracing::warn!(error, "an old revision could not be removed");
            }
        }
        let containers = Arc::clone(&self.parts.containers);
        containers.keep(live.iter().map(|release| release.run).collect());
        self.parts.background.spawn(async move {
            if let Err(error) = containers.clean_up().await {
                tracing::warn!(error, "what an earlier service left in the container engine is still there");
            }
        });
        let mut result = Ok(());
        for release in live {
            match self.start(release, None).await {
                Ok(()) => self.route(release).into_iter().for_each(drop),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Asks every app to end and waits until they have; the next start brings back what was live.
    pub async fn halt(&self) {
        let all: Vec<Arc<Revision>> = self.revisions().values().cloned().collect();
        all.iter().for_each(|revision| revision.ask_to_end());
        for revision in all {
            revision.halted().await;
        }
    }

    fn revisions(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Revision>>> {
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn revision(&self, run: RunId) -> Option<Arc<Revision>> {
        self.revisions().get(&run).cloned()
    }

    fn route(&self, release: &Release) -> Vec<Arc<Upstream>> {
        self.revision(release.run)
            .map_or_else(Vec::new, |revision| self.routes.switch(&release.hosts, &revision.target))
    }

    fn environment(&self, release: &Release) -> Result<BTreeMap<String, String>, RuntimeError> {
        let mut variables = release.plan.variables.clone();
        variables.insert("ENVIRONMENT".to_owned(), release.environment.to_string());
        variables.insert("WINDLASS_RELEASE".to_owned(), release.number.to_string());
        for (name, sealed) in &release.env {
            let value = self.parts.secrets.open(sealed).map_err(|error| RuntimeError::Rejected {
                code: "SECRET_UNREADABLE",
                message: format!("{name}: {error}"),
            })?;
            variables.insert(name.clone(), value.expose_secret().to_owned());
        }
        Ok(variables)
    }

    /// Stops what lost its traffic, once its requests are over or the time is up.
    fn drain(&self, lost: Vec<Arc<Upstream>>) {
        for target in lost {
            let Some(revision) = self.revision(target.revision) else { continue };
            if !Arc::ptr_eq(&revision.target, &target) {
                // It was started anew, and the new one has the traffic.
                continue;
            }
            revision.draining();
            let (clock, revisions) = (Arc::clone(&self.parts.clock), Arc::clone(&self.revisions));
            self.parts.background.spawn(async move {
                drained(clock.as_ref(), &target).await;
                revision.stop().await;
                let mut all = revisions.lock().unwrap_or_else(PoisonError::into_inner);
                if all.get(&target.revision).is_some_and(|known| Arc::ptr_eq(known, &revision)) {
                    all.remove(&target.revision);
                }
            });
        }
    }
}

#[async_trait]
impl Runtime for LocalRuntime {
    async fn start(&self, release: &Release, wake: Option<Hint>) -> Result<(), RuntimeError> {
        let variables = self.environment(release)?;
        let folder = self.parts.root.join(release.run.to_string());
        match self.revision(release.run) {
            Some(known) if !known.is_leaving() && !known.has_given_up() => {
                known.announce(wake);
                return Ok(());
            }
            // What is on its way out cannot be held back, and what has given up does nothing more: it goes first, then it
            // starts anew.
            Some(leaving) => leaving.stop().await,
            None => {}
        }
        let app = folder.join("app");
        let backend = match release.plan.kind {
            Kind::Static => Backend::Files(app.clone()),
            Kind::Node | Kind::Python | Kind::Rust | Kind::Go | Kind::Procfile | Kind::Docker => {
                Backend::Replicas(ArcSwap::from_pointee(Vec::new()))
            }
        };
        let target = Upstream::new(release.run, release.app.clone(), backend);
        let parts = Parts {
            runtime: Arc::clone(&self.parts),
            release: release.clone(),
            folder,
            app,
            variables,
            stop: CancellationToken::new(),
        };
        let revision = Revision::start(parts, target, wake);
        self.revisions().insert(release.run, revision);
        Ok(())
    }

    async fn health(&self, revision: RunId) -> Health {
        self.revision(revision).map_or(Health::Unknown, |revision| revision.health())
    }

    async fn switch(&self, release: &Release) -> Result<(), RuntimeError> {
        if self.revision(release.run).is_none() {
            return Err(RuntimeError::Unavailable("the revision is not running".to_owned()));
        }
        let lost = self.route(release);
        self.drain(lost);
        Ok(())
    }

    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError> {
        let found = self.revision(revision);
        if let Some(found) = found {
            if found.is_draining() {
                drained(self.parts.clock.as_ref(), &found.target).await;
            }
            found.stop().await;
            self.revisions().remove(&revision);
        }
        removed(self.parts.root.join(revision.to_string())).await.map_err(RuntimeError::Unavailable)
    }

    async fn withdraw(&self, app: &str) -> Result<(), RuntimeError> {
        let lost = self.routes.withdraw(app);
        self.drain(lost);
        Ok(())
    }

    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError> {
        Ok(self.routes.get(host).map(|target| target.revision))
    }

    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError> {
        // A domain is one more host route, and the switch set it.
        Ok(Binding::plain(release))
    }

    async fn unbind(&self, _release: &Release, _domains: &[String]) -> Result<(), RuntimeError> {
        // A switch takes away what its release does not ask for.
        Ok(())
    }

    async fn revisions(&self) -> Vec<RevisionView> {
        let hosts = self.routes.hosts();
        let live: Vec<RunId> =
            hosts.iter().filter_map(|host| self.routes.get(host)).map(|target| target.revision).collect();
        let mut views: Vec<RevisionView> = self
            .revisions()
            .iter()
            .filter(|(_, revision)| !revision.is_stopped())
            .map(|(run, revision)| revision.view(live.contains(run)))
            .collect();
        views.sort_by(|a, b| (&a.app, a.release).cmp(&(&b.app, b.release)));
        views
    }

    async fn output(&self, app: &str, most: usize) -> Result<Vec<String>, RuntimeError> {
        let newest = self
            .revisions()
            .values()
            .filter(|revision| revision.target.app == app && !revision.is_stopped())
            .max_by_key(|revision| revision.number())
            .cloned();
        Ok(newest.map_or_else(Vec::new, |revision| revision.tail(most)))
    }

    fn addresses(&self) -> &dyn Addresses {
        &self.addresses
    }
}

/// Waits until the target's requests are over, or the time for it is up.
async fn drained(clock: &dyn Clock, target: &Upstream) {
    let until = after(clock.now(), DRAIN);
    clock.sleep(IN_BETWEEN).await;
    while target.busy() > 0 && !between(clock.now(), until).is_zero() {
        clock.sleep(DRAIN_LOOK).await;
    }
}

/// Unpacks the release's bundle into `app`, unless it is there already.
pub(super) async fn materialise(parts: &RuntimeParts, release: &Release, app: PathBuf) -> Result<(), String> {
    let (blobs, org, artifact) = (parts.blobs.clone(), release.org.clone(), release.artifact);
    let unpacked = tokio::task::spawn_blocking(move || {
        if app.exists() {
            return Ok(());
        }
        let bundle = blobs.open_verified(&org, artifact).map_err(|error| error.to_string())?;
        unpack(bundle, &app).map_err(|error| format!("{}: {error}", app.display()))
    });
    unpacked.await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::super::pack::pack;
    use super::*;
    use crate::ambient::{Ids as _, SystemClock, SystemIds};
    use crate::deploy::detect::Plan;
    use crate::deploy::ids::DeploymentId;
    use crate::deploy::sealing::KeySecrets;
    use crate::deploy::size::{Replicas, Size};
    use crate::workflow::queue::QueueError;

    struct Post(UnboundedSender<Hint>);

    #[async_trait]
    impl Queue for Post {
        async fn send(&self, hint: &Hint, _not_before: Timestamp) -> Result<(), QueueError> {
            self.0.send(hint.clone()).unwrap();
            Ok(())
        }
    }

    fn runtime(home: &Path) -> (LocalRuntime, UnboundedReceiver<Hint>) {
        let (post, hints) = unbounded_channel();
        let machine =
            Machine { program: "/bin/false".into(), owner: "o".to_owned(), path: String::new(), home: None };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let background = tokio::runtime::Handle::current();
        let runtime = LocalRuntime::new(RuntimeParts {
            root: home.join("revisions"),
            blobs: FileBlobs::open(&home.join("blobs")).unwrap(),
            secrets: Arc::new(KeySecrets::new([7; 32])),
            queue: Arc::new(Post(post)),
            clock: Arc::clone(&clock),
            machine: machine.clone(),
            containers: Arc::new(Containers::new(machine, clock, home)),
            pool: Pool::new(background.clone()),
            background,
        });
        (runtime.unwrap(), hints)
    }

    /// A site whose bundle is at the path that comes with it, and nowhere else yet.
    fn release(home: &Path) -> (Release, PathBuf) {
        let (site, bundle) = (home.join("site"), home.join("bundle"));
        std::fs::create_dir(&site).unwrap();
        std::fs::write(site.join("index.html"), "x").unwrap();
        let release = Release {
            app: "o/site/staging".to_owned(),
            number: 1,
            deployment: DeploymentId::new(1),
            run: RunId::new(Timestamp::UNIX_EPOCH, SystemIds.random()),
            org: "o".parse().unwrap(),
            environment: Environment::Staging,
            artifact: pack(&site, ".", &bundle, &|| false).unwrap().digest,
            plan: Plan::new(Kind::Static, None),
            env: BTreeMap::new(),
            size: Size::HALF,
            replicas: Replicas { min: 1, max: 1 },
            hosts: vec!["site.localhost".to_owned()],
        };
        (release, bundle)
    }

    #[tokio::test]
    async fn what_has_given_up_starts_anew_and_whoever_waits_is_woken() {
        let home = tempfile::tempdir().unwrap();
        let (runtime, mut hints) = runtime(home.path());
        let (release, bundle) = release(home.path());
        let mut woken = async |hint: &Hint| {
            let came = tokio::time::timeout(Duration::from_secs(60), hints.recv()).await;
            assert_eq!(came.unwrap().as_ref(), Some(hint));
        };
        let wake = |number| Hint::wake(RunId::new(Timestamp::UNIX_EPOCH, number), "step-release");
        runtime.start(&release, None).await.unwrap();
        assert_eq!(runtime.health(release.run).await, Health::Starting);
        runtime.start(&release, Some(wake(1))).await.unwrap();
        woken(&wake(1)).await;
        let health = runtime.health(release.run).await;
        assert!(matches!(health, Health::Failed { code: "RELEASE_NOT_UNPACKED", .. }), "{health:?}");
        runtime.switch(&release).await.unwrap();

        runtime.parts.blobs.adopt(&release.org, &bundle, release.artifact).unwrap();
        runtime.start(&release, Some(wake(2))).await.unwrap();
        woken(&wake(2)).await;
        assert_eq!(runtime.health(release.run).await, Health::Healthy);
        runtime.switch(&release).await.unwrap();
        let revision = runtime.revision(release.run).unwrap();
        assert!(!revision.is_leaving(), "it lost its traffic to nobody but itself");
        assert!(Arc::ptr_eq(&runtime.routes.get("site.localhost").unwrap(), &revision.target));
    }
}
