//! The commit that is checked out in a folder, read from git's own files (gitrepository-layout(5)): no git has to be
//! installed, and nothing of the folder is run.

use std::path::{Component, Path, PathBuf};

/// Begins a file that names another reference.
const SYMBOLIC: &str = "ref: ";
/// References that lead to one another; git follows as many.
const MOST_HOPS: usize = 5;
/// Largest file that is read: `packed-refs` of a million references.
const MOST_BYTES: u64 = 100 << 20;

/// The commit of the work tree that `folder` is in. `None` when there is none, or one that these rules cannot read;
/// what was changed since is not looked at.
pub(super) fn checked_out(folder: &Path) -> Option<String> {
    let repository = folder.ancestors().find_map(repository)?;
    // A further work tree has a HEAD of its own and shares the branches.
    let shared = match text(&repository.join("commondir")) {
        Some(path) => repository.join(path.trim()),
        None => repository.clone(),
    };
    let mut said = text(&repository.join("HEAD"))?;
    for _ in 0..MOST_HOPS {
        let Some(name) = said.trim().strip_prefix(SYMBOLIC) else { return commit(&said) };
        if !is_reference(name) {
            return None;
        }
        said = match text(&repository.join(name)).or_else(|| text(&shared.join(name))) {
            Some(said) => said,
            None => return packed(&text(&shared.join("packed-refs"))?, name),
        };
    }
    None
}

/// Where git keeps what belongs to the work tree that begins at `folder`.
fn repository(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(".git");
    if path.is_dir() {
        return Some(path);
    }
    // A further work tree, or a submodule.
    let elsewhere = text(&path)?;
    Some(folder.join(elsewhere.trim().strip_prefix("gitdir: ")?))
}

fn text(path: &Path) -> Option<String> {
    let about = std::fs::metadata(path).ok()?;
    let read = about.is_file() && about.len() <= MOST_BYTES;
    let bytes = if read { std::fs::read(path).ok()? } else { return None };
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A name below `refs`, and not one that leads out of it.
fn is_reference(name: &str) -> bool {
    let path = Path::new(name);
    path.starts_with("refs") && path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn commit(text: &str) -> Option<String> {
    let text = text.trim();
    let named = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    named.then(|| text.to_owned())
}

/// The commit of a reference that `git gc` or `git clone` has put into the one file of all.
fn packed(references: &str, name: &str) -> Option<String> {
    let lines = references.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(_, reference)| *reference == name).find_map(|(named, _)| commit(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "89abcdef0123456789abcdef0123456789abcdef";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    /// What `app` of a tree with these files is a commit of.
    fn found(files: &[(&str, &str)]) -> Option<String> {
        let root = tree(files);
        std::fs::create_dir_all(root.path().join("app")).unwrap();
        checked_out(&root.path().join("app"))
    }

    #[test]
    fn a_branch_a_detached_head_and_packed_references_lead_to_the_commit() {
        let (branch, line) = (("app/.git/HEAD", "ref: refs/heads/a/b\n"), format!("{ONE}\n"));
        let packed =
            format!("# pack-refs with: peeled\n{OTHER} refs/heads/a\n^{OTHER}\n{ONE} refs/heads/a/b\n");
        let loose = ("app/.git/refs/heads/a/b", line.as_str());
        let stale = packed.replace(ONE, OTHER);
        for files in [
            vec![("app/.git/HEAD", line.as_str())],
            vec![branch, loose],
            vec![branch, ("app/.git/packed-refs", packed.as_str())],
            // The loose one is newer.
            vec![branch, loose, ("app/.git/packed-refs", stale.as_str())],
            // A folder of a repository.
            vec![(".git/HEAD", line.as_str())],
            vec![branch, ("app/.git/refs/heads/a/b", "ref: refs/heads/c"), ("app/.git/refs/heads/c", ONE)],
        ] {
            assert_eq!(found(&files).as_deref(), Some(ONE), "{files:?}");
        }
        let long = "0123456789abcdef".repeat(4);
        assert_eq!(found(&[("app/.git/HEAD", long.as_str())]), Some(long.clone()));
    }

    #[test]
    fn further_work_trees_and_submodules_are_followed() {
        let own = ("main/.git/worktrees/app/HEAD", "ref: refs/heads/topic\n");
        let files = [
            ("app/.git", "gitdir: ../main/.git/worktrees/app\n"),
            own,
            ("main/.git/worktrees/app/commondir", "../..\n"),
            ("main/.git/HEAD", OTHER),
            ("main/.git/refs/heads/topic", ONE),
        ];
        assert_eq!(found(&files).as_deref(), Some(ONE));
        let files = [("app/.git", "gitdir: ../.git/modules/app\n"), (".git/modules/app/HEAD", ONE)];
        assert_eq!(found(&files).as_deref(), Some(ONE));
    }

    #[test]
    fn what_cannot_be_read_is_no_commit() {
        for files in [
            vec![],
            vec![("app/.git/HEAD", "")],
            vec![("app/.git/HEAD", "abcdef0\n")],
            // No commit was made yet; or the references are kept in another way.
            vec![("app/.git/HEAD", "ref: refs/heads/main\n")],
            vec![("app/.git/HEAD", "ref: refs/heads/main\n"), ("app/.git/packed-refs", "# none\n")],
            vec![("app/.git/HEAD", "ref: refs/../../secret"), ("app/.git/refs/x", ONE), ("app/secret", ONE)],
            vec![("app/.git/HEAD", "ref: /etc/passwd")],
            vec![("app/.git/HEAD", "ref: refs/a"), ("app/.git/refs/a", "ref: refs/a")],
            vec![("app/.git", "gitdir: nowhere\n")],
            vec![("app/.git", "something else\n")],
        ] {
            assert_eq!(found(&files), None, "{files:?}");
        }
    }
}
