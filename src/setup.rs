//! The settings of a command: its flags, the environment, the file `.env` of a service, and on Azure the vault.

use std::collections::BTreeMap;
use std::path::Path;

use crate::azure::vaulted::complete;
use crate::cli::args::Command;
use crate::config::{BadSettings, Settings, env_file, gather};

/// Beside a service, in the folder that it is started in.
const FILE: &str = ".env";

/// What was found.
pub struct Setup {
    /// The settings.
    pub settings: Settings,
    /// What they were made of.
    pub values: BTreeMap<String, String>,
    /// What people should know, although it stops nothing.
    pub warnings: Vec<String>,
}

/// Whether the Functions host started us, with no arguments of ours.
#[must_use]
pub fn is_handler() -> bool {
    let values = gather(&env_file::EnvFile::default(), &BTreeMap::new());
    values.contains_key("FUNCTIONS_CUSTOMHANDLER_PORT")
}

/// Finds the settings. Only a service and what looks at one read the file: the folder of any other command is somebody's
/// project, and its `.env` is the app's.
///
/// # Errors
/// [`BadSettings`] with every problem.
pub async fn setup(command: &Command) -> Result<Setup, BadSettings> {
    let of_a_service =
        matches!(command, Command::Serve { .. } | Command::Doctor { .. } | Command::Config { .. });
    let file = if of_a_service { env_file::read(Path::new(FILE))? } else { env_file::EnvFile::default() };
    let mut values = gather(&file, &command.service_variables());
    if matches!(command, Command::Handler | Command::Doctor { azure: true, .. }) {
        values = complete(values).await?;
    }
    let warnings = file.unknown.iter().map(|name| {
        format!("{name} in {FILE} is no setting of Windlass; `windlass config explain` lists them all")
    });
    Ok(Setup { settings: Settings::from_values(&values)?, values, warnings: warnings.collect() })
}
