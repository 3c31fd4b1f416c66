//! The settings of a command: its flags, the environment, a file, and on Azure the vault.

use std::collections::BTreeMap;
use std::path::Path;

use crate::azure::doctor::Unknown;
use crate::azure::vaulted::{complete, complete_hastily};
use crate::cli::args::Command;
use crate::config::{BadSettings, Settings, env_file, gather, vaulted};

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
    /// What the vault should have had. Only the doctor goes on without.
    pub unknown: Unknown,
}

/// Whether the Functions host started us, with no arguments of ours.
#[must_use]
pub fn is_handler() -> bool {
    let values = gather(&env_file::EnvFile::default(), &BTreeMap::new());
    values.contains_key("FUNCTIONS_CUSTOMHANDLER_PORT")
}

/// The file of settings. Only a service reads the one beside it: the folder of any other command may be a stranger's
/// project, whose `.env` could send our tokens to an address of its own. Others read the file that they are told.
fn file(command: &Command) -> Result<(env_file::EnvFile, &Path), BadSettings> {
    if let Command::Doctor { env_file: Some(named), .. } | Command::Config { env_file: Some(named), .. } =
        command
    {
        return Ok((env_file::read(named)?, named.as_path()));
    }
    let beside = Path::new(FILE);
    let serves = matches!(command, Command::Serve { .. });
    let file = if serves { env_file::read_if_there(beside)? } else { env_file::EnvFile::default() };
    Ok((file, beside))
}

/// Finds the settings.
///
/// # Errors
/// [`BadSettings`] with every problem.
pub async fn setup(command: &Command) -> Result<Setup, BadSettings> {
    let (file, path) = file(command)?;
    let mut values = gather(&file, &command.service_variables());
    let mut stood_in = None;
    if matches!(command, Command::Handler) {
        values = complete(values).await?;
    } else if matches!(command, Command::Doctor { azure: true, .. }) {
        match complete_hastily(values.clone()).await {
            Ok(complete) => values = complete,
            Err(problems) => {
                let (missing, settings) = vaulted(&values).ok_or_else(|| problems.clone())?;
                let names = missing.iter().map(|missing| missing.name).collect();
                stood_in = Some((settings, Unknown { problems: problems.0, names }));
            }
        }
    }
    let (settings, unknown) = match stood_in {
        Some(found) => found,
        None => (Settings::from_values(&values)?, Unknown::default()),
    };
    let warnings = file.unknown.iter().map(|name| {
        let path = path.display();
        format!("{name} in {path} is no setting of Windlass; `windlass config explain` lists them all")
    });
    Ok(Setup { settings, values, warnings: warnings.collect(), unknown })
}
