//! The files of a site, taken out of the layers of its image and put into a zip.
//!
//! Layers come top first: what an upper one has or hides is not taken from a lower one (image specification, "Whiteouts").

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::registry_door::RegistryError;
use crate::deploy::builder::BuilderError;
use crate::deploy::dockerfile::SITE;
use crate::deploy::runtime::RuntimeError;

/// Begins the name of what hides something in the layers below.
const WHITEOUT: &str = ".wh.";
/// Hides everything that the layers below have in its folder.
const OPAQUE: &str = ".wh..wh..opq";
/// Files of a site ("Quotas in Azure Static Web Apps", Microsoft Learn).
const MOST_FILES: usize = 15_000;

/// Why a site cannot be packed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackError {
    /// More than the service takes.
    #[error(
        "the site has more than {bytes} bytes or {MOST_FILES} files, which Static Web Apps does not take; leave files out, or use container-apps"
    )]
    TooLarge {
        /// What it takes.
        bytes: u64,
    },
    /// Something that is no plain file, or none at all.
    #[error("the site cannot be a static web app: {0}")]
    Unfit(String),
    /// The image is not what it should be.
    #[error("the release's image cannot be read: {0}")]
    Image(String),
    /// The registry.
    #[error(transparent)]
    Registry(RegistryError),
    /// A layer is no archive.
    #[error("the release's image cannot be read")]
    Io(#[from] io::Error),
    /// The zip.
    #[error("the site cannot be packed")]
    Zip(#[from] zip::result::ZipError),
    /// Whoever wanted the zip is gone, and knows why.
    #[error("nobody takes the zip")]
    Gone,
}

/// What packed content could not be stored or lent for.
pub(super) fn of_loan(error: BuilderError) -> RuntimeError {
    match error {
        BuilderError::Unavailable(message) => RuntimeError::Unavailable(message),
        BuilderError::Rejected { code, message } => RuntimeError::Rejected { code, message },
    }
}

impl From<PackError> for RuntimeError {
    fn from(error: PackError) -> Self {
        let message = error.to_string();
        match error {
            PackError::TooLarge { .. } => Self::Rejected { code: "SITE_TOO_LARGE", message },
            PackError::Unfit(_) => Self::Rejected { code: "SITE_UNFIT", message },
            PackError::Image(_) => Self::Rejected { code: "RELEASE_IMAGE", message },
            PackError::Registry(error) => of_loan(error.into()),
            PackError::Io(source) => Self::Unavailable(format!("{message}: {source}")),
            PackError::Zip(source) => Self::Unavailable(format!("{message}: {source}")),
            PackError::Gone => Self::Unavailable(message),
        }
    }
}

/// Takes files out of layers.
pub(super) struct Files {
    most_bytes: u64,
    /// Paths that are not taken from lower layers, and neither is what is below them.
    hidden: BTreeSet<String>,
    pub(super) bytes: u64,
    pub(super) files: usize,
}

/// Where the site is in an archive.
fn root() -> &'static str {
    SITE.trim_start_matches('/')
}

/// A path of an archive without what means nothing; none for the root itself.
fn plain(bytes: &[u8]) -> Result<Option<String>, PackError> {
    let text = String::from_utf8_lossy(bytes);
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(PackError::Unfit(format!("`{text}` leads out of its folder")));
    }
    let path = parts.join("/");
    let is_odd = std::str::from_utf8(bytes).is_err() || path.contains('\\');
    if is_odd && path.starts_with(root()) {
        return Err(PackError::Unfit(format!("`{path}` is no name that every system has")));
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

impl Files {
    /// Of at most so many bytes.
    pub(super) fn new(most_bytes: u64) -> Self {
        Self { most_bytes, hidden: BTreeSet::new(), bytes: 0, files: 0 }
    }

    fn is_hidden(&self, path: &str) -> bool {
        let ends = path.char_indices().filter(|(_, char)| *char == '/').map(|(end, _)| end);
        ends.chain([path.len()]).filter_map(|end| path.get(..end)).any(|part| self.hidden.contains(part))
    }

    fn count(&mut self, bytes: u64) -> Result<(), PackError> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.files += 1;
        if self.bytes > self.most_bytes || self.files > MOST_FILES {
            return Err(PackError::TooLarge { bytes: self.most_bytes });
        }
        Ok(())
    }

    /// Takes the site's files out of the next lower layer; false when those below it cannot have any more.
    pub(super) fn take<W: Write + Seek>(
        &mut self,
        layer: &mut dyn Read,
        zip: &mut ZipWriter<W>,
    ) -> Result<bool, PackError> {
        // A fixed time and mode, so that the same image makes the same zip.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(0o644);
        let (mut gone, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let mut archive = tar::Archive::new(layer);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let Some(path) = plain(&entry.path_bytes())? else { continue };
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == OPAQUE {
                gone.insert(folder.to_owned());
                continue;
            }
            if let Some(name) = name.strip_prefix(WHITEOUT) {
                let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                gone.insert(path);
                continue;
            }
            let kind = entry.header().entry_type();
            let inside = path.strip_prefix(root()).filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let Some(inside) = inside.filter(|_| !kind.is_dir() && !self.is_hidden(&path)) else { continue };
            if inside.is_empty() || !(kind.is_file() || kind.is_contiguous()) {
                return Err(PackError::Unfit(format!("`{path}` is a link or a device")));
            }
            if !taken.insert(path.clone()) {
                return Err(PackError::Image(format!("`{path}` is there twice")));
            }
            self.count(entry.size())?;
            zip.start_file(inside.trim_start_matches('/'), options)?;
            io::copy(&mut entry, zip)?;
        }
        self.hidden.append(&mut gone);
        self.hidden.append(&mut taken);
        Ok(!self.is_hidden(root()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    enum Is<'a> {
        File(&'a str),
        Link,
    }

    fn layer(entries: &[(&str, Is<'_>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, is) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            let content = match is {
                Is::File(content) => *content,
                Is::Link => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_link_name("elsewhere").unwrap();
                    ""
                }
            };
            header.set_size(content.len() as u64);
            // As it stands there, which the library's own way to write would refuse.
            let name = header.as_old_mut();
            name.name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// The files of an image with these layers, top first, and whether layers below would count.
    fn packed(most: u64, layers: &[Vec<u8>]) -> Result<(Vec<(String, String)>, bool), PackError> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let (mut files, mut more) = (Files::new(most), true);
        for layer in layers {
            more = files.take(&mut layer.as_slice(), &mut zip)?;
        }
        let mut zip = zip::ZipArchive::new(zip.finish()?)?;
        let mut found = Vec::new();
        for index in 0..zip.len() {
            let mut file = zip.by_index(index)?;
            let mut content = String::new();
            file.read_to_string(&mut content)?;
            found.push((file.name().unwrap().into_owned(), content));
        }
        Ok((found, more))
    }

    fn path(name: &str) -> String {
        format!("{}/{name}", root())
    }

    #[test]
    fn upper_layers_hide_what_lower_ones_have() {
        let (index, wh, below, other) = (path("index.html"), path(".wh.old"), path("old/a"), path("b/c"));
        let top = layer(&[(&index, Is::File("new")), (&wh, Is::File("")), ("etc/passwd", Is::File("x"))]);
        let under = layer(&[
            (&index, Is::File("old")),
            (&below, Is::File("gone")),
            (&format!("./{other}"), Is::File("c")),
        ]);
        let wanted =
            [("index.html".to_owned(), "new".to_owned()), ("b/c".to_owned(), "c".to_owned())].to_vec();
        assert_eq!(packed(100, &[top.clone(), under.clone()]).unwrap(), (wanted, true));
        let opaque = layer(&[(&path(OPAQUE), Is::File("")), (&path("a"), Is::File("a"))]);
        let (found, more) = packed(100, &[opaque]).unwrap();
        assert_eq!((found.len(), more), (1, false), "what is below needs not be read");
        let removed = layer(&[("usr/share/nginx/.wh.html", Is::File(""))]);
        assert!(!packed(100, &[top, removed]).unwrap().1);
    }

    #[test]
    fn what_is_no_plain_file_or_too_much_is_refused() {
        let code = |layers: &[Vec<u8>]| match RuntimeError::from(packed(3, layers).unwrap_err()) {
            RuntimeError::Rejected { code, .. } => code,
            RuntimeError::Unavailable(message) => panic!("{message}"),
        };
        assert_eq!(code(&[layer(&[(&path("../../x"), Is::File("x"))])]), "SITE_UNFIT");
        assert_eq!(code(&[layer(&[("../x", Is::File("x"))])]), "SITE_UNFIT");
        assert_eq!(code(&[layer(&[(&path("a\\b"), Is::File("x"))])]), "SITE_UNFIT");
        assert_eq!(code(&[layer(&[(&path("a"), Is::Link)])]), "SITE_UNFIT");
        assert_eq!(code(&[layer(&[(root(), Is::Link)])]), "SITE_UNFIT");
        assert_eq!(code(&[layer(&[(&path("a"), Is::File("four"))])]), "SITE_TOO_LARGE");
        let twice = [layer(&[(&path("a"), Is::File("1")), (&path("a"), Is::File("2"))])];
        assert_eq!(code(&twice), "RELEASE_IMAGE");
        let mut files = Files::new(u64::MAX);
        for _ in 0..MOST_FILES {
            files.count(1).unwrap();
        }
        assert!(matches!(files.count(0), Err(PackError::TooLarge { .. })));
    }
}
