//! `windlass init`: the template of a service's settings, beside where the service will run.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::Output;

/// The name of the template; `serve` reads a copy of it called `.env`.
const NAME: &str = ".env.example";
/// Compiled in, so that a template has the settings of the program that wrote it.
const TEMPLATE: &str = include_str!("../../.env.example");

/// Writes the template into a folder. A file of that name that is there already is never changed.
///
/// # Errors
/// When another file has that name, the folder cannot be written, or the output is closed.
pub fn write(folder: &Path, out: &mut Output<'_>) -> anyhow::Result<()> {
    let path = folder.join(NAME);
    let written = match File::create_new(&path) {
        Ok(file) => {
            fill(file, &path)?;
            true
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if !std::fs::read(&path).is_ok_and(|there| there == TEMPLATE.as_bytes()) {
                bail!(
                    "{} is there already with another content and was left alone; rename it, then run this again",
                    path.display()
                );
            }
            false
        }
        Err(error) => return Err(error).with_context(|| format!("{} cannot be written", path.display())),
    };
    out.put(&json!({ "file": path, "written": written }), |to| {
        let done = if written { "Wrote" } else { "Nothing to do, this is there already:" };
        writeln!(to, "{done} {}", path.display())?;
        writeln!(to, "Next:  cp {NAME} .env, set in it what you need, and start with  windlass serve")
    })
}

/// Half a template would look like somebody's own file to the next call, so that it does not stay.
fn fill(mut file: File, path: &Path) -> anyhow::Result<()> {
    if let Err(error) = file.write_all(TEMPLATE.as_bytes()) {
        drop(std::fs::remove_file(path));
        return Err(error).with_context(|| format!("{} cannot be written", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(folder: &Path, json: bool) -> anyhow::Result<String> {
        let mut text = Vec::new();
        write(folder, &mut Output { to: &mut text, json })?;
        Ok(String::from_utf8(text)?.replace(&format!("{}/", folder.display()), ""))
    }

    #[test]
    fn the_template_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        insta::assert_snapshot!(told(folder.path(), false).unwrap().trim_end(), @r"
        Wrote .env.example
        Next:  cp .env.example .env, set in it what you need, and start with  windlass serve
        ");
        assert_eq!(std::fs::read_to_string(folder.path().join(NAME)).unwrap(), TEMPLATE);
        insta::assert_snapshot!(told(folder.path(), true).unwrap().trim_end(), @r#"{"file":".env.example","written":false}"#);
    }

    #[test]
    fn somebody_elses_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), "MINE=1\n").unwrap();
        let refused = told(folder.path(), true).unwrap_err().to_string();
        assert!(refused.contains("was left alone"), "{refused}");
        assert_eq!(std::fs::read_to_string(folder.path().join(NAME)).unwrap(), "MINE=1\n");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let refused = format!("{:#}", told(Path::new("/nowhere"), false).unwrap_err());
        assert!(refused.contains("/nowhere/.env.example cannot be written: "), "{refused}");
    }
}
