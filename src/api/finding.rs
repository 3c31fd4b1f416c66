//! What `windlass doctor` finds.

use serde::Serialize;

/// Version of the form; members are only added within a version.
const VERSION: u8 = 1;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but not everywhere or not for long.
    Warn,
    /// Something does not work.
    Failed,
    /// Not there, and not needed here.
    Absent,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Failed => "failed",
            Self::Absent => "absent",
        })
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    v: u8,
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub seen: String,
    /// What to do next, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    #[must_use]
    pub fn ok(name: &'static str, seen: impl Into<String>) -> Self {
        Self { v: VERSION, name, state: State::Ok, seen: seen.into(), next: None }
    }

    /// Something that is not needed here.
    #[must_use]
    pub fn absent(name: &'static str, seen: impl Into<String>) -> Self {
        Self { state: State::Absent, ..Self::ok(name, seen) }
    }

    /// Something that works, but not everywhere or not for long.
    #[must_use]
    pub fn warn(name: &'static str, seen: impl Into<String>, next: impl Into<String>) -> Self {
        Self { state: State::Warn, next: Some(next.into()), ..Self::ok(name, seen) }
    }

    /// Something that does not work.
    #[must_use]
    pub fn failed(name: &'static str, seen: impl Into<String>, next: impl Into<String>) -> Self {
        Self { state: State::Failed, next: Some(next.into()), ..Self::ok(name, seen) }
    }
}
