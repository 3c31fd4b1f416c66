//! What a replica runs: a command in its cage, or a container.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use super::containers::{Container, Containers, env_file};
use super::sandbox::{Cage, Machine, readable};
use crate::workflow::journal::RunId;

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

/// The system gives each caller another port; nobody else takes it in the moment until it is used.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
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
