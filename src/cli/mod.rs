//! The command line: each command is one small function that makes API calls and prints the answer.

pub mod args;
pub mod client;
mod commit;
pub mod deploy;
pub mod doctor;
pub mod explain;
pub mod failure;
pub mod init;
pub mod left_out;
pub mod letters;
pub mod logs;
mod naming;
pub mod screen;
pub mod show;
pub mod smoke;
pub mod subcommands;
pub mod tree;
mod upload;

use std::io::Write;

use serde::Serialize;

use crate::api;

/// Exit codes; documented in `docs/cli.md`.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// The deployment did not succeed, or the command failed.
    pub const FAILED: u8 = 1;
    /// The command line was not understood (clap's own).
    pub const USAGE: u8 = 2;
    /// No server answers.
    pub const UNREACHABLE: u8 = 3;
    /// The server refuses the request.
    pub const REFUSED: u8 = 4;
    /// The deployment was cancelled or superseded.
    pub const CANCELLED: u8 = 5;
    /// The settings are wrong (`EX_CONFIG` of sysexits.h).
    pub const CONFIG: u8 = 78;
    /// Interrupted; the deployment goes on.
    pub const DETACHED: u8 = 130;
}

/// On whose behalf the command line speaks.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Organization.
    pub organization: String,
    /// User.
    pub user: String,
}

/// How a followed deployment ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Its last status.
    pub status: api::Status,
}

impl Ending {
    /// Whether it has not ended at all yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.status.status.as_str(), "queued" | "running")
    }

    /// The exit code that tells it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.status.status.as_str() {
            "succeeded" => exit::OK,
            "cancelled" | "superseded" => exit::CANCELLED,
            _ => exit::FAILED,
        }
    }

    /// Tells it to people.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn write(&self, to: &mut dyn Write) -> std::io::Result<()> {
        match (&self.status.error, self.status.urls.first()) {
            (None, Some(url)) if self.status.status == "succeeded" => writeln!(to, "Live at {url}"),
            (Some(error), _) => show::write_fault(to, error),
            _ => writeln!(to, "{} is {}", self.status.deployment_id, self.status.status),
        }
    }
}

/// Where answers are printed: for people, or as one JSON object per line.
pub struct Output<'a> {
    /// The stream.
    pub to: &'a mut (dyn Write + Send),
    /// Whether it is JSON.
    pub json: bool,
}

impl Output<'_> {
    /// Prints one answer.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn put(
        &mut self,
        answer: &impl Serialize,
        people: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        if self.json {
            writeln!(self.to, "{}", serde_json::to_string(answer)?)?;
        } else {
            let mut text = Vec::new();
            people(&mut text)?;
            // Apps and builds have their words in it.
            for line in String::from_utf8_lossy(&text).lines() {
                writeln!(self.to, "{}", screen::printable(line))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_words_and_programs_what_was_said() {
        let said = "\u{1b}]0;title\u{7}red\n\n\u{1b}[2Jnext";
        for (json, shown) in
            [(false, "red\n\nnext\n"), (true, "\"\\u001b]0;title\\u0007red\\n\\n\\u001b[2Jnext\"\n")]
        {
            let mut text = Vec::new();
            let mut out = Output { to: &mut text, json };
            out.put(&said, |to| writeln!(to, "{said}")).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), shown);
        }
    }
}
