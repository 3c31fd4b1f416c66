//! What a source does not have unless `.windlassignore` asks for it: secrets, which would lie readable in the store, and
//! what tools make anew, which is large and full of links.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ignore::DirEntry;
use ignore::gitignore::Gitignore;

/// Where a project says what is left out besides, and with a leading `!` what is taken all the same.
pub(super) const RULES: &str = ".windlassignore";
/// Paths that are named; of more, their number.
const NAMED: usize = 3;

/// Paths that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    secrets: BTreeSet<String>,
    made: BTreeSet<String>,
}

impl LeftOut {
    /// What people should know of it: what is missing, why, and how to have it.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let secrets = line(&self.secrets, "secrets: use --env");
        let made = line(&self.made, "the build makes it anew");
        secrets.into_iter().chain(made).collect()
    }
}

fn line(paths: &BTreeSet<String>, why: &str) -> Option<String> {
    let first = paths.first()?;
    let named: Vec<&str> = paths.iter().take(NAMED).map(String::as_str).collect();
    let more = match paths.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = named.join(", ");
    Some(format!("left out: {named}{more} ({why}; keep it with !{first} in {RULES})"))
}

/// Decides what is taken, and remembers what is not.
#[derive(Clone, Default)]
pub(super) struct Choice(Arc<Mutex<LeftOut>>);

impl Choice {
    /// Whether `entry`, which no rule of the project leaves out, is taken.
    pub(super) fn takes(&self, root: &Path, entry: &DirEntry) -> bool {
        let Some(name) = entry.file_name().to_str() else { return true };
        if matches!(name, ".git" | ".windlass") {
            return false;
        }
        let (is_secret, is_made) = (is_secret(name), is_made(name, entry.path()));
        let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
        if !(is_secret || is_made) || is_wanted(root, entry.path(), is_folder) {
            return true;
        }
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).display().to_string();
        let mut left_out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = if is_secret { &mut left_out.secrets } else { &mut left_out.made };
        paths.insert(path);
        false
    }

    /// What was left out so far.
    pub(super) fn left_out(&self) -> LeftOut {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn is_secret(name: &str) -> bool {
    name == ".env" || (name.starts_with(".env.") && name != ".env.example")
}

/// What package managers, interpreters and compilers leave in a project.
fn is_made(name: &str, path: &Path) -> bool {
    matches!(name, "node_modules" | ".venv" | "__pycache__")
        || (name == "target" && path.with_file_name("Cargo.toml").is_file())
}

/// Whether the project's own rules name it with a `!`; the innermost rule counts.
fn is_wanted(root: &Path, path: &Path, is_folder: bool) -> bool {
    let mut folders = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root));
    let wanted = folders.find_map(|folder| {
        let (rules, _) = Gitignore::new(folder.join(RULES));
        let found = rules.matched(path, is_folder);
        (!found.is_none()).then(|| found.is_whitelist())
    });
    wanted == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tree;

    /// What is taken of these files, and what is said of the rest.
    fn read(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("project");
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = tree::read(&root, &[], &folder.path().join("memory"), i128::MAX).unwrap();
        (tree.files.into_iter().map(|file| file.path).collect(), tree.left_out.lines())
    }

    #[test]
    fn secrets_are_left_out_with_a_line_that_says_so() {
        let files = [(".env", "A=1"), (".env.example", "A="), ("api/.env.local", "A=1"), ("index.html", "x")];
        let (taken, said) = read(&files);
        assert_eq!(taken, [".env.example", "index.html"]);
        let wanted =
            "left out: .env, api/.env.local (secrets: use --env; keep it with !.env in .windlassignore)";
        assert_eq!(said, [wanted]);
    }

    #[test]
    fn what_the_project_wants_is_taken() {
        let rules = (".windlassignore", "!.env\n");
        let (taken, said) = read(&[rules, (".env", "A=1"), (".gitignore", ".env\n"), ("a/.env", "B=1")]);
        assert_eq!(taken, [".env", ".gitignore", ".windlassignore", "a/.env"]);
        assert!(said.is_empty(), "{said:?}");
        let nearer = ("a/.windlassignore", "/.env\n");
        let (taken, _) = read(&[rules, nearer, (".env", "A=1"), ("a/.env", "B=1")]);
        assert_eq!(taken, [".env", ".windlassignore", "a/.windlassignore"]);
    }

    #[test]
    fn what_git_leaves_out_is_not_mentioned() {
        let (taken, said) = read(&[(".gitignore", ".env\n"), (".env", "A=1")]);
        assert_eq!((taken, said), (vec![".gitignore".to_owned()], Vec::new()));
    }

    #[test]
    fn what_tools_make_is_left_out_with_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("project");
        for path in [
            "node_modules/.bin",
            "api/target/debug",
            "api/src",
            "shop/target",
            "tool/__pycache__",
            ".venv/bin",
        ] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in [
            "api/Cargo.toml",
            "api/target/debug/api",
            "shop/target/kept",
            "node_modules/m.js",
            "tool/__pycache__/a.pyc",
        ] {
            std::fs::write(root.join(path), "x").unwrap();
        }
        for path in ["node_modules/.bin/x", ".venv/bin/python"] {
            std::os::unix::fs::symlink("/bin/true", root.join(path)).unwrap();
        }
        let memory = folder.path().join("memory");
        let tree = tree::read(&root, &[], &memory, 0).unwrap();
        let taken: Vec<&str> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            taken,
            ["api/Cargo.toml", "shop/target/kept"],
            "without Cargo.toml, `target` is a name like any other"
        );
        let wanted = "left out: .venv, api/target, node_modules and 1 more (the build makes it anew; keep it with !.venv in .windlassignore)";
        assert_eq!(tree.left_out.lines(), [wanted]);
        std::fs::remove_file(root.join("node_modules/.bin/x")).unwrap();
        std::fs::write(root.join(RULES), "!node_modules\n").unwrap();
        let tree = tree::read(&root, &[], &memory, 0).unwrap();
        assert!(tree.files.iter().any(|file| file.path == "node_modules/m.js"));
    }

    #[test]
    fn many_are_counted() {
        let paths = ["a", "b", "c", "d", "e"].map(|folder| format!("{folder}/.env"));
        let said = line(&paths.into_iter().collect(), "why").unwrap();
        assert!(
            said.starts_with("left out: a/.env, b/.env, c/.env and 2 more (why; keep it with !a/.env"),
            "{said}"
        );
    }
}
