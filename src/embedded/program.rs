//! What a replica runs: a command in its cage, or a container.

use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use super::containers::{Container, Containers, env_file};
use super::sandbox::{Cage, Machine, readable};
use crate::ambient::{Ids as _, SystemIds};
use crate::workflow::journal::RunId;

/// The range from which the kernel takes the ports of connections (ip(7), `ip_local_port_range`).
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The first port that apps get: above those of most services.
const FIRST: u16 = 20_000;
/// Ports below the kernel's range that are worth looking through.
const FEWEST: u16 = 1_000;

/// Counts the ports on from anywhere, so that several services on a machine seldom try the same.
static NEXT: LazyLock<AtomicU16> =
    LazyLock::new(|| AtomicU16::new(u16::try_from(SystemIds.random() & 0xffff).unwrap_or_default()));

/// A command of an unpacked bundle.
pub(super) struct Process {
    pub(super) run: RunId,
    /// The bundle: where it starts, and what it may change.
    pub(super) dir: PathBuf,
    /// The revision's other folder that it may change.
    pub(super) home: PathBuf,
    pub(super) command: String,
    pub(super) machine: Machine,
}

/// What a replica runs.
pub(super) enum Program {
    Process(Process),
    Container(Arc<Containers>, Container),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => write!(f, "{}", process.dir.display()),
            Self::Container(_, container) => write!(f, "container {}-{}", container.run, container.replica),
        }
    }
}

impl Program {
    /// Starts it on a free port of 127.0.0.1, which it gives, with nothing in its environment but `variables`, what tells
    /// it where it is, and what its image sets.
    pub(super) async fn start(&self, variables: &BTreeMap<String, String>) -> std::io::Result<(Child, u16)> {
        let mut variables = variables.clone();
        match self {
            Self::Process(process) => {
                let port = free_port()?;
                variables.insert("PORT".to_owned(), port.to_string());
                Ok((process.start(variables)?, port))
            }
            Self::Container(containers, container) => {
                let inner = containers.prepare(container).await.map_err(std::io::Error::other)?;
                variables.insert("PORT".to_owned(), inner.to_string());
                variables.insert("HOST".to_owned(), "0.0.0.0".to_owned());
                let text = env_file(&variables).map_err(std::io::Error::other)?;
                let port = free_port()?;
                let mut command =
                    containers.run(container, port, inner).await.map_err(std::io::Error::other)?;
                let mut child = command.spawn()?;
                if let Some(mut pipe) = child.stdin.take() {
                    pipe.write_all(text.as_bytes()).await?;
                }
                Ok((child, port))
            }
        }
    }

    /// Takes away what is left of it after its end.
    pub(super) async fn clear(&self) {
        if let Self::Container(containers, container) = self
            && let Err(error) = containers.remove(container).await
        {
            tracing::warn!(program = %self, error, "a container could not be removed");
        }
    }
}

/// A port on which nobody listens, and another one for each caller. The app takes it only when it has come so far; until
/// then any connection of this machine could take one of the kernel's own range, so it comes from below that.
fn free_port() -> std::io::Result<u16> {
    let many = std::fs::read_to_string(OUTGOING).ok().and_then(|range| below(&range));
    if let Some(port) = many.and_then(|many| next_free(FIRST, many, &NEXT)) {
        return Ok(port);
    }
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// How many ports there are from [`FIRST`] to the kernel's `range`, if these are enough.
fn below(range: &str) -> Option<u16> {
    let begins: u16 = range.split_whitespace().next()?.parse().ok()?;
    begins.checked_sub(FIRST).filter(|many| *many >= FEWEST)
}

/// The next of so `many` ports from `first` on which nobody listens.
fn next_free(first: u16, many: u16, next: &AtomicU16) -> Option<u16> {
    (0..many)
        .map(|_| first + next.fetch_add(1, Ordering::Relaxed) % many)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

impl Process {
    fn start(&self, mut variables: BTreeMap<String, String>) -> std::io::Result<Child> {
        let machine = &self.machine;
        let mut read = readable(&machine.path, machine.home.as_deref(), &self.dir);
        read.push(machine.program.clone());
        // A command line with several commands cannot be replaced by the last one.
        let compound = self.command.contains([';', '&', '|', '\n', '(', '=']);
        let command = if compound { self.command.clone() } else { format!("exec {}", self.command) };
        let cage = Cage {
            read,
            write: vec![self.dir.clone(), self.home.clone()],
            dir: self.dir.clone(),
            command,
            ..Cage::default()
        };
        let home = self.home.to_string_lossy().into_owned();
        variables.insert("HOST".to_owned(), "127.0.0.1".to_owned());
        variables.insert("HOME".to_owned(), home.clone());
        variables.insert("TMPDIR".to_owned(), home);
        machine.command(self.run, &cage, &variables)?.spawn()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_lies_below_those_that_connections_take() {
        for (range, many) in [
            ("32768\t60999\n", Some(12_768)),
            ("21000 60999", Some(1_000)),
            ("20999 60999", None),
            ("1024 65535", None),
            ("", None),
        ] {
            assert_eq!(below(range), many, "{range}");
        }
        let range = std::fs::read_to_string(OUTGOING).unwrap();
        if let Some(many) = below(&range) {
            assert!((FIRST..FIRST + many).contains(&free_port().unwrap()));
        }
    }

    #[test]
    fn each_caller_gets_another_port_and_none_on_which_somebody_listens() {
        let next = AtomicU16::new(u16::MAX);
        let ports: Vec<u16> = (0..20).map(|_| next_free(FIRST, 5_000, &next).unwrap()).collect();
        let different: std::collections::BTreeSet<&u16> = ports.iter().collect();
        assert_eq!(different.len(), ports.len(), "{ports:?}");
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(next_free(port, 1, &next), None);
        assert_ne!(next_free(port - 1, 2, &next), Some(port));
    }
}
