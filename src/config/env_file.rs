//! The file `.env` beside a service: the same names as in the environment, which wins.

use std::collections::BTreeMap;
use std::path::Path;

use super::{BadSettings, variables};

/// What begins so is ours, so that an unknown name is a slip of the pen.
const OURS: &str = "WINDLASS_";

/// The file's variables.
#[derive(Debug, Default)]
pub struct EnvFile {
    /// Values by name.
    pub values: BTreeMap<String, String>,
    /// Names that look like settings of Windlass and are none.
    pub unknown: Vec<String>,
}

/// Reads the file.
///
/// # Errors
/// [`BadSettings`] when it cannot be read, or with every line that is wrong, by its number.
pub fn read(path: &Path) -> Result<EnvFile, BadSettings> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, &path.display().to_string()),
        Err(error) => Err(BadSettings(vec![format!("{} cannot be read: {error}", path.display())])),
    }
}

/// Reads the file; one that is not there has no variables.
///
/// # Errors
/// As [`read`].
pub fn read_if_there(path: &Path) -> Result<EnvFile, BadSettings> {
    if matches!(path.try_exists(), Ok(false)) { Ok(EnvFile::default()) } else { read(path) }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A value as a shell would read it, without its substitutions.
fn value(text: &str) -> &str {
    let text = text.trim();
    for quote in ['"', '\''] {
        let inner = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote));
        if let Some((inner, _)) = inner {
            return inner;
        }
    }
    if text.starts_with('#') { "" } else { text.split(" #").next().unwrap_or(text).trim_end() }
}

fn parse(text: &str, file: &str) -> Result<EnvFile, BadSettings> {
    let (mut found, mut problems) = (EnvFile::default(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        match line.split_once('=').map(|(name, text)| (name.trim_end(), value(text))) {
            Some((name, value)) if is_name(name) => {
                if name.starts_with(OURS) && !variables().any(|known| known.name == name) {
                    found.unknown.push(name.to_owned());
                }
                found.values.insert(name.to_owned(), value.to_owned());
            }
            Some(_) | None => {
                problems.push(format!("line {} of {file} is not NAME=VALUE", index + 1));
            }
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(BadSettings(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_a_shell_does() {
        let text = "# a comment\n\nexport LOG_LEVEL=debug # loud\nHOME = '/x # y'\nEMPTY=\nALSO= # empty\nQ=\"a b\"\nWINDLASS_PROT=1\nWINDLASS_PORT=2\n";
        let file = parse(text, ".env").unwrap();
        for (name, value) in
            [("LOG_LEVEL", "debug"), ("HOME", "/x # y"), ("EMPTY", ""), ("ALSO", ""), ("Q", "a b")]
        {
            assert_eq!(file.values[name], value, "{name}");
        }
        assert_eq!(file.unknown, ["WINDLASS_PROT"]);
        let problems = parse("GOOD=1\ncanary\n9=x\n", ".env").unwrap_err().0;
        assert_eq!(problems, ["line 2 of .env is not NAME=VALUE", "line 3 of .env is not NAME=VALUE"]);
        let nowhere = Path::new("/nowhere/.env");
        assert!(read_if_there(nowhere).unwrap().values.is_empty());
        assert!(read(nowhere).unwrap_err().0[0].contains("/nowhere/.env cannot be read"));
    }
}
