//! The zip that Azure Functions runs: `host.json` and the function folders at its top, beside the executable binary.

mod elf;
mod verify;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::cli::args::AuthLevel;
use crate::config::Settings;
use crate::triggers::host_json;
use crate::triggers::table::FOLDERS;

pub use verify::{Finding, verify};

/// Name of the binary in the package, as `host.json` names it.
const BINARY: &str = "windlass";

/// Why no package was made.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file.
    #[error("{path} cannot be used")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The zip.
    #[error("the package cannot be written")]
    Zip(#[from] zip::result::ZipError),
    /// A zip that was made elsewhere, or broke on its way.
    #[error("{path} cannot be read as a zip")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: zip::result::ZipError,
    },
    /// A file of the package is not JSON.
    #[error("a file of the package is not JSON")]
    Json(#[from] serde_json::Error),
    /// The host would not run it.
    #[error("the package would not run:\n{}", .0.iter().map(|finding| format!("  - {finding}")).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Finding>),
}

impl PackageError {
    fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), source }
    }

    fn unreadable(path: &Path) -> impl Fn(zip::result::ZipError) -> Self {
        let path = path.to_owned();
        move |source| Self::Unreadable { path: path.clone(), source }
    }
}

/// What goes into a package.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where the package is written.
    pub output: PathBuf,
    /// The binary for Azure.
    pub binary: PathBuf,
    /// Of the HTTP functions.
    pub auth: AuthLevel,
}

/// Writes the package and verifies it; what would not run is not left there. The same inputs give the same bytes.
///
/// # Errors
/// [`PackageError`].
pub fn package(order: &Order, settings: &Settings) -> Result<u64, PackageError> {
    let binary = std::fs::read(&order.binary).map_err(PackageError::file(&order.binary))?;
    let partial = order.output.with_extension("partial");
    let file = std::fs::File::create(&partial).map_err(PackageError::file(&partial))?;
    let written = write(file, &binary, order.auth, settings).and_then(|()| {
        let findings = verify(&partial)?;
        if findings.is_empty() { Ok(()) } else { Err(PackageError::Refused(findings)) }
    });
    if let Err(error) = written {
        drop(std::fs::remove_file(&partial));
        return Err(error);
    }
    std::fs::rename(&partial, &order.output).map_err(PackageError::file(&order.output))?;
    let bytes = std::fs::metadata(&order.output).map_err(PackageError::file(&order.output))?.len();
    Ok(bytes)
}

fn write(
    file: std::fs::File,
    binary: &[u8],
    auth: AuthLevel,
    settings: &Settings,
) -> Result<(), PackageError> {
    let broken = PackageError::file(Path::new("the package"));
    let mut zip = ZipWriter::new(file);
    // A fixed time and mode, so that a package tells by its bytes whether anything changed.
    let plain = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o644);
    zip.start_file("host.json", plain)?;
    zip.write_all(format!("{:#}\n", host_json::generated(settings.host.queue)).as_bytes())
        .map_err(&broken)?;
    for (name, json) in FOLDERS {
        zip.start_file(format!("{name}/function.json"), plain)?;
        zip.write_all(function_json(json, auth)?.as_bytes()).map_err(&broken)?;
    }
    zip.start_file(BINARY, plain.unix_permissions(0o755))?;
    zip.write_all(binary).map_err(&broken)?;
    zip.finish()?.sync_all().map_err(&broken)
}

fn function_json(json: &str, auth: AuthLevel) -> Result<String, PackageError> {
    let mut function: Value = serde_json::from_str(json)?;
    let level = match auth {
        AuthLevel::Anonymous => "anonymous",
        AuthLevel::Function => "function",
    };
    for binding in function.pointer_mut("/bindings").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(known) = binding.get_mut("authLevel") {
            *known = level.into();
        }
    }
    Ok(format!("{function:#}\n"))
}
