//! Which project a folder becomes, when its name says so.

use std::path::Path;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::tree::hex;

/// Longest project id of the API.
const MOST: usize = 128;
/// How much of a name is kept when a digest has to tell it apart: more than a DNS label takes.
const MOST_READABLE: usize = 64;
/// Digits of that digest.
const DIGITS: usize = 8;

/// The name of the folder.
///
/// # Errors
/// When it has none.
pub(super) fn folder_name(root: &Path) -> anyhow::Result<String> {
    let name = root.file_name().context("this folder has no name of its own; give one with --project")?;
    Ok(name.to_string_lossy().into_owned())
}

/// A name as the API takes project ids. Names that differ by more than spaces become different projects: what an id cannot
/// say, a digest of the name says.
pub(super) fn project_id(name: &str) -> String {
    let name = name.trim();
    let fits = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    let all: String = name.chars().map(|char| if fits(char) { char } else { '-' }).collect();
    let id = all.trim_start_matches(|char: char| !char.is_ascii_alphanumeric()).trim_end_matches('-');
    if !id.is_empty() && id.len() <= MOST && id == name.replace(' ', "-") {
        return id.to_owned();
    }
    let readable = id.get(..MOST_READABLE).unwrap_or(id).trim_end_matches('-');
    let readable = if readable.is_empty() { "project" } else { readable };
    let digest = hex(&Sha256::digest(name.as_bytes()).into());
    format!("{readable}-{}", digest.get(..DIGITS).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_an_id_stays_and_any_other_becomes_one_of_its_own() {
        let most = "x".repeat(128);
        for (name, id) in [
            ("hello", "hello"),
            ("My Shop", "My-Shop"),
            (" My Shop ", "My-Shop"),
            ("a.b-c_d", "a.b-c_d"),
            (most.as_str(), most.as_str()),
        ] {
            assert_eq!(project_id(name), id);
        }
        let (long, cut) = ("x".repeat(129), format!("{}-", "x".repeat(64)));
        for (name, begins) in [
            ("My Shop!", "My-Shop-"),
            ("_x", "x-"),
            ("../../etc", "etc-"),
            ("émo😀", "mo-"),
            ("日本", "project-"),
            ("中国", "project-"),
            ("", "project-"),
            (long.as_str(), cut.as_str()),
        ] {
            let id = project_id(name);
            let digits = id.strip_prefix(begins).unwrap_or_else(|| panic!("{name}: {id}"));
            assert!(digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
    }

    #[test]
    fn different_names_are_different_projects() {
        let names = ["日本", "中国", "app", "etc", "../../etc", "mo", "mo-", "émo😀", "My Shop", "My Shop!"];
        let ids: std::collections::BTreeSet<String> = names.into_iter().map(project_id).collect();
        assert_eq!(ids.len(), names.len(), "{ids:?}");
    }

    #[test]
    fn a_folder_without_a_name_is_no_project() {
        assert_eq!(folder_name(Path::new("/a/日本")).unwrap(), "日本");
        assert!(folder_name(Path::new("/")).unwrap_err().to_string().contains("--project"));
    }
}
