//! `windlass.toml`: what a project says about itself. Everything in it is optional.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::detect::Kind;
use super::target::{Strategy, Target};

/// The file's name at the root of a source.
pub const NAME: &str = "windlass.toml";
/// Its JSON schema, for editors.
pub const SCHEMA: &str = include_str!("../../docs/windlass.schema.json");

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectFile {
    /// Instead of the folder's name.
    pub name: Option<String>,
    /// Instead of detection.
    pub kind: Option<Kind>,
    /// Build command.
    pub build: Option<String>,
    /// Start command.
    pub start: Option<String>,
    /// Folder that the build fills: what is packed, and for static sites served.
    pub output: Option<String>,
    /// Default environment of `windlass up` and `windlass deploy`.
    pub environment: Option<String>,
    /// Where a container listens; other apps are told in `PORT`.
    pub port: Option<u16>,
    /// Variables of the running app that are no secrets; those of a request win.
    pub variables: BTreeMap<String, String>,
    /// Variables of the build.
    pub build_variables: BTreeMap<String, String>,
    /// Replicas that run here. Wider than what is possible, as all numbers here, so that the refusal can say what is.
    pub replicas: Option<i128>,
    /// Where it runs on Azure.
    pub target: Target,
    /// In which order releases change places.
    pub strategy: Strategy,
    /// Extra host names.
    pub domains: Vec<String>,
    /// More patterns to leave out, as in `.gitignore`.
    pub ignore: Vec<String>,
    /// CPU and memory of one replica.
    pub size: Option<SizeSection>,
    /// Health check.
    pub health: HealthSection,
}

/// `[size]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeSection {
    /// Such as `"0.5"`.
    pub cpu: String,
    /// Such as `"1Gi"`.
    pub memory: String,
}

/// `[health]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSection {
    /// Has to answer with 200–399. Without it any answer below 500 on `/` will do.
    pub path: Option<String>,
    /// How long one probe may take.
    pub timeout_ms: Option<i128>,
    /// From one probe to the next.
    pub interval_ms: Option<i128>,
    /// How long the whole start may take.
    pub start_seconds: Option<i128>,
    /// Failed probes in a row that a running replica survives.
    pub retries: Option<i128>,
}

impl ProjectFile {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong, with line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}
