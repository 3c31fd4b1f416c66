//! Which host name leads where. Read by every request, replaced as a whole, so that a switch is one instant.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::workflow::journal::RunId;

/// Where a revision's requests go.
#[derive(Debug)]
pub enum Backend {
    /// Files of this folder.
    Files(PathBuf),
    /// The replicas that answer now.
    Replicas(ArcSwap<Vec<SocketAddr>>),
}

/// A revision as the proxy sees it.
#[derive(Debug)]
pub struct Upstream {
    /// The revision.
    pub revision: RunId,
    /// The app, for messages.
    pub app: String,
    /// Where requests go.
    pub backend: Backend,
    next: AtomicUsize,
    busy: AtomicUsize,
}

/// Counts one request as long as it lives.
#[derive(Debug)]
pub struct Busy(Arc<Upstream>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Upstream {
    /// A target without traffic.
    #[must_use]
    pub fn new(revision: RunId, app: String, backend: Backend) -> Arc<Self> {
        Arc::new(Self { revision, app, backend, next: AtomicUsize::new(0), busy: AtomicUsize::new(0) })
    }

    /// Counts a request in.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// Requests under way.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// The replica whose turn it is.
    #[must_use]
    pub fn replica(&self) -> Option<SocketAddr> {
        let Backend::Replicas(ready) = &self.backend else { return None };
        let ready = ready.load();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        ready.get(turn.checked_rem(ready.len())?).copied()
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Routes {
    hosts: ArcSwap<HashMap<String, Arc<Upstream>>>,
    changing: Mutex<()>,
}

impl Routes {
    /// Where `host` (without a port, lower case) leads.
    #[must_use]
    pub fn get(&self, host: &str) -> Option<Arc<Upstream>> {
        self.hosts.load().get(host).cloned()
    }

    /// Every host name, sorted.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = self.hosts.load().keys().cloned().collect();
        hosts.sort();
        hosts
    }

    /// Leads `hosts`, and no other hosts, to `target`'s app. Gives the targets that lost their last host.
    pub fn switch(&self, hosts: &[String], target: &Arc<Upstream>) -> Vec<Arc<Upstream>> {
        self.replace(&target.app, hosts.iter().map(|host| (host.clone(), Arc::clone(target))))
    }

    /// Takes the app's hosts away. Gives the targets that answered there.
    pub fn withdraw(&self, app: &str) -> Vec<Arc<Upstream>> {
        self.replace(app, std::iter::empty())
    }

    fn replace(&self, app: &str, added: impl Iterator<Item = (String, Arc<Upstream>)>) -> Vec<Arc<Upstream>> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.hosts.load_full();
        let mut hosts = (*before).clone();
        hosts.retain(|_, target| target.app != app);
        hosts.extend(added);
        let mut lost: Vec<Arc<Upstream>> =
            before.values().filter(|old| !hosts.values().any(|new| Arc::ptr_eq(old, new))).cloned().collect();
        lost.sort_by_key(|target| target.revision);
        lost.dedup_by_key(|target| target.revision);
        self.hosts.store(Arc::new(hosts));
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(random: u128, app: &str) -> Arc<Upstream> {
        let run = RunId::new(jiff::Timestamp::UNIX_EPOCH, random);
        Upstream::new(run, app.to_owned(), Backend::Replicas(ArcSwap::from_pointee(Vec::new())))
    }

    #[test]
    fn a_switch_moves_every_host_of_the_app_and_no_other() {
        let routes = Routes::default();
        let (one, two, other) = (target(1, "a"), target(2, "a"), target(3, "b"));
        assert!(routes.switch(&["a.localhost".into(), "a.de".into()], &one).is_empty());
        assert!(routes.switch(&["b.localhost".into()], &other).is_empty());
        let lost = routes.switch(&["a.localhost".into()], &two);
        assert_eq!(lost.iter().map(|target| target.revision).collect::<Vec<_>>(), [one.revision]);
        assert_eq!(routes.hosts(), ["a.localhost", "b.localhost"]);
        assert_eq!(routes.get("a.localhost").unwrap().revision, two.revision);
        assert_eq!(routes.withdraw("b").len(), 1);
        assert!(routes.get("b.localhost").is_none());
    }

    #[test]
    fn replicas_take_turns() {
        let target = target(1, "a");
        assert_eq!(target.replica(), None);
        let Backend::Replicas(ready) = &target.backend else { unreachable!() };
        ready.store(Arc::new(vec![
            SocketAddr::from(([127, 0, 0, 1], 1)),
            SocketAddr::from(([127, 0, 0, 1], 2)),
        ]));
        let ports: Vec<u16> = (0..4).filter_map(|_| target.replica()).map(|address| address.port()).collect();
        assert_eq!(ports.iter().filter(|port| **port == 1).count(), 2);
    }
}
