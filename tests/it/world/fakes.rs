//! Builds and apps without processes: they do what the real ones promise, at once, and can be told to fail.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use windlass::ambient::{Clock, after};
use windlass::deploy::blobs::Blobs;
use windlass::deploy::builder::{
    BuildFailure, BuildJob, BuildStatus, Builder, BuilderError, Packed, Started,
};
use windlass::deploy::ids::{Digest, Name};
use windlass::deploy::release::Release;
use windlass::deploy::runtime::{Addresses, Binding, Health, Place, RevisionView, Runtime, RuntimeError};
use windlass::deploy::source::Manifest;
use windlass::embedded::files::FileBlobs;
use windlass::workflow::journal::RunId;
use windlass::workflow::queue::{Hint, Queue};

#[derive(Default)]
struct Builds {
    workspaces: HashSet<RunId>,
    fresh: HashSet<RunId>,
    status: HashMap<RunId, BuildStatus>,
    built: usize,
    fail: Option<&'static str>,
    hang: bool,
    images: bool,
}

pub(crate) struct FakeBuilder {
    builds: Mutex<Builds>,
    blobs: FileBlobs,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
}

impl FakeBuilder {
    pub(crate) fn new(blobs: FileBlobs, queue: Arc<dyn Queue>, clock: Arc<dyn Clock>) -> Self {
        Self { builds: Mutex::default(), blobs, queue, clock }
    }

    pub(crate) fn fail_with(&self, code: Option<&'static str>) {
        self.builds.lock().unwrap().fail = code;
    }

    pub(crate) fn hang(&self) {
        self.builds.lock().unwrap().hang = true;
    }

    /// Takes projects with a Dockerfile too.
    pub(crate) fn take_dockerfiles(&self) {
        self.builds.lock().unwrap().images = true;
    }

    pub(crate) fn built(&self) -> usize {
        self.builds.lock().unwrap().built
    }

    pub(crate) fn workspaces(&self) -> usize {
        self.builds.lock().unwrap().workspaces.len()
    }
}

#[async_trait]
impl Builder for FakeBuilder {
    async fn builds_images(&self) -> Result<(), String> {
        if self.builds.lock().unwrap().images { Ok(()) } else { Err("no engine".to_owned()) }
    }

    async fn prepare(&self, run: RunId) -> Result<(), BuilderError> {
        let mut builds = self.builds.lock().unwrap();
        builds.workspaces.insert(run);
        builds.fresh.remove(&run);
        builds.status.remove(&run);
        Ok(())
    }

    async fn sync(&self, run: RunId, _org: &Name, _source: &Manifest) -> Result<(), BuilderError> {
        self.builds.lock().unwrap().fresh.insert(run);
        Ok(())
    }

    async fn start(&self, job: BuildJob) -> Result<Started, BuilderError> {
        let bundle = format!("bundle of {}", job.run);
        let packed =
            Packed { digest: Digest::of(bundle.as_bytes()), bytes: Some(bundle.len() as u64), files: 1 };
        {
            let mut builds = self.builds.lock().unwrap();
            if builds.status.contains_key(&job.run) {
                return Ok(Started::Running);
            }
            if !builds.fresh.remove(&job.run) {
                return Ok(Started::NotFresh);
            }
            if builds.hang {
                builds.status.insert(job.run, BuildStatus::Running);
                return Ok(Started::Running);
            }
            let status = match builds.fail {
                Some(code) => BuildStatus::Failed(BuildFailure {
                    code,
                    message: "it does not build".to_owned(),
                    detail: serde_json::json!({ "tail": ["oops"] }),
                }),
                None => BuildStatus::Done(packed.clone()),
            };
            builds.built += 1;
            builds.status.insert(job.run, status);
        }
        let mut writer = self.blobs.writer(&job.org, packed.digest, bundle.len() as u64).await.unwrap();
        writer.write(bundle.into()).await.unwrap();
        writer.finish().await.unwrap();
        self.queue.send(&job.wake, self.clock.now()).await.unwrap();
        Ok(Started::Running)
    }

    async fn status(&self, run: RunId) -> BuildStatus {
        self.builds.lock().unwrap().status.get(&run).cloned().unwrap_or(BuildStatus::Unknown)
    }

    async fn discard(&self, run: RunId) -> Result<(), BuilderError> {
        let mut builds = self.builds.lock().unwrap();
        builds.workspaces.remove(&run);
        builds.status.remove(&run);
        builds.fresh.remove(&run);
        Ok(())
    }

    async fn leftovers(&self) -> Result<Vec<RunId>, BuilderError> {
        Ok(self.builds.lock().unwrap().workspaces.iter().copied().collect())
    }
}

#[derive(Default)]
struct Running {
    revisions: BTreeMap<RunId, String>,
    /// When each revision answers.
    ready: HashMap<RunId, Timestamp>,
    hosts: BTreeMap<String, (String, RunId)>,
    started: Vec<RunId>,
    /// Those that cannot be unpacked, and how many more there will be.
    broken: HashSet<RunId>,
    to_break: usize,
    sick: bool,
    slow: Duration,
    /// Calls that fail, and how often.
    trouble: HashMap<&'static str, usize>,
    /// What the next looks at the domains find; the last one stays.
    bindings: VecDeque<Binding>,
    unbound: Vec<String>,
    hasty: usize,
}

impl Running {
    fn trouble(&mut self, call: &str) -> Result<(), RuntimeError> {
        match self.trouble.get_mut(call) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(RuntimeError::Unavailable(format!("no {call} now")))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) struct FakeRuntime {
    running: Mutex<Running>,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
}

impl FakeRuntime {
    pub(crate) fn new(queue: Arc<dyn Queue>, clock: Arc<dyn Clock>) -> Self {
        Self { running: Mutex::default(), queue, clock }
    }

    pub(crate) fn make_sick(&self, sick: bool) {
        self.running.lock().unwrap().sick = sick;
    }

    /// So many starts from now on fail for want of room.
    pub(crate) fn cannot_unpack(&self, times: usize) {
        self.running.lock().unwrap().to_break = times;
    }

    /// How often a revision was started, not counting calls that found it.
    pub(crate) fn starts_of(&self, revision: RunId) -> usize {
        self.running.lock().unwrap().started.iter().filter(|run| **run == revision).count()
    }

    /// What starts from now on answers after so long.
    pub(crate) fn make_slow(&self, slow: Duration) {
        self.running.lock().unwrap().slow = slow;
    }

    /// The next so many such calls find nobody.
    pub(crate) fn fails(&self, call: &'static str, times: usize) {
        self.running.lock().unwrap().trouble.insert(call, times);
    }

    /// What the next looks at the domains find; the last one stays.
    pub(crate) fn binds(&self, bindings: Vec<Binding>) {
        self.running.lock().unwrap().bindings = bindings.into();
    }

    /// Domains that were taken away.
    pub(crate) fn unbound(&self) -> Vec<String> {
        self.running.lock().unwrap().unbound.clone()
    }

    /// Switches to a revision that did not answer yet.
    pub(crate) fn hasty(&self) -> usize {
        self.running.lock().unwrap().hasty
    }

    /// Host name → run, for every route.
    pub(crate) fn hosts(&self) -> BTreeMap<String, RunId> {
        self.running.lock().unwrap().hosts.iter().map(|(host, (_, run))| (host.clone(), *run)).collect()
    }

    pub(crate) fn revisions_of(&self, app: &str) -> Vec<RunId> {
        self.running
            .lock()
            .unwrap()
            .revisions
            .iter()
            .filter(|(_, other)| *other == app)
            .map(|(run, _)| *run)
            .collect()
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn start(&self, release: &Release, wake: Option<Hint>) -> Result<(), RuntimeError> {
        let ready = {
            let mut running = self.running.lock().unwrap();
            running.trouble("start")?;
            let (run, now) = (release.run, self.clock.now());
            let given_up = running.broken.contains(&run) && running.ready[&run] <= now;
            if given_up || !running.revisions.contains_key(&run) {
                running.revisions.insert(run, release.app.clone());
                running.started.push(run);
                let ready = after(now, running.slow);
                running.ready.insert(run, ready);
                if running.to_break > 0 {
                    running.to_break -= 1;
                    running.broken.insert(run);
                } else {
                    running.broken.remove(&run);
                }
            }
            running.ready[&run]
        };
        if let Some(wake) = wake {
            self.queue.send(&wake, ready.max(self.clock.now())).await.unwrap();
        }
        Ok(())
    }

    async fn health(&self, revision: RunId) -> Health {
        let running = self.running.lock().unwrap();
        match running.revisions.get(&revision) {
            None => Health::Unknown,
            Some(_) if running.sick => Health::Failed {
                code: "RELEASE_UNHEALTHY",
                message: "it does not answer".to_owned(),
                tail: vec!["bye".to_owned()],
            },
            Some(_) if running.ready[&revision] > self.clock.now() => Health::Starting,
            Some(_) if running.broken.contains(&revision) => Health::Failed {
                code: "RELEASE_NOT_UNPACKED",
                message: "no space left on device".to_owned(),
                tail: Vec::new(),
            },
            Some(_) => Health::Healthy,
        }
    }

    async fn switch(&self, release: &Release) -> Result<(), RuntimeError> {
        let mut running = self.running.lock().unwrap();
        running.trouble("switch")?;
        if !running.revisions.contains_key(&release.run) {
            return Err(RuntimeError::Unavailable("not running".to_owned()));
        }
        running.hasty += usize::from(running.ready[&release.run] > self.clock.now());
        running.hosts.retain(|_, (app, _)| *app != release.app);
        for host in &release.hosts {
            running.hosts.insert(host.clone(), (release.app.clone(), release.run));
        }
        let Running { revisions, ready, broken, .. } = &mut *running;
        revisions.retain(|run, app| *run == release.run || *app != release.app);
        ready.retain(|run, _| revisions.contains_key(run));
        broken.retain(|run| revisions.contains_key(run));
        Ok(())
    }

    async fn stop(&self, revision: RunId) -> Result<(), RuntimeError> {
        let mut running = self.running.lock().unwrap();
        running.trouble("stop")?;
        running.revisions.remove(&revision);
        running.ready.remove(&revision);
        running.broken.remove(&revision);
        Ok(())
    }

    async fn withdraw(&self, app: &str) -> Result<(), RuntimeError> {
        let mut running = self.running.lock().unwrap();
        running.trouble("withdraw")?;
        running.hosts.retain(|_, (other, _)| other != app);
        Ok(())
    }

    async fn answers(&self, host: &str) -> Result<Option<RunId>, RuntimeError> {
        let mut running = self.running.lock().unwrap();
        running.trouble("answers")?;
        Ok(running.hosts.get(host).map(|(_, run)| *run))
    }

    async fn bind(&self, release: &Release) -> Result<Binding, RuntimeError> {
        let mut running = self.running.lock().unwrap();
        running.trouble("bind")?;
        let last = running.bindings.len() < 2;
        let next = if last { running.bindings.front().cloned() } else { running.bindings.pop_front() };
        Ok(next.unwrap_or_else(|| Binding::plain(release)))
    }

    async fn unbind(&self, _release: &Release, domains: &[String]) -> Result<(), RuntimeError> {
        let mut running = self.running.lock().unwrap();
        running.trouble("unbind")?;
        running.unbound.extend_from_slice(domains);
        Ok(())
    }

    async fn revisions(&self) -> Vec<RevisionView> {
        Vec::new()
    }

    async fn output(&self, _app: &str, _most: usize) -> Result<Vec<String>, RuntimeError> {
        Ok(Vec::new())
    }

    fn addresses(&self) -> &dyn Addresses {
        self
    }
}

#[async_trait]
impl Addresses for FakeRuntime {
    async fn host(&self, place: Place<'_>) -> Result<String, RuntimeError> {
        Ok(format!("{}.{}.localhost", place.label, place.environment))
    }

    fn url(&self, _release: &Release, host: &str) -> String {
        format!("http://{host}")
    }
}
