//! What the lock of a data folder says: which process holds it, and where the API of that service answers.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Its name in the data folder. The first line is the process, the second one the address.
pub const NAME: &str = "windlass.lock";

/// The process that holds the lock, as it wrote itself down.
///
/// # Errors
/// When it cannot be read.
pub fn holder(mut lock: &File) -> std::io::Result<String> {
    let mut text = String::new();
    lock.rewind()?;
    lock.read_to_string(&mut text)?;
    Ok(line(&text, 0).to_owned())
}

fn line(text: &str, number: usize) -> &str {
    text.lines().nth(number).unwrap_or_default().trim()
}

/// Says where the service that holds the lock answers. Without it `up` does not find the service, nothing else.
pub fn announce(mut lock: &File, api: SocketAddr) {
    if let Err(error) = writeln!(lock, "{api}") {
        tracing::warn!(error = %error, "{NAME} cannot be written; `windlass up` will not find this service");
    }
}

/// Where the service answers that works on this data folder, if there is one.
#[must_use]
pub fn find(data_dir: &Path) -> Option<SocketAddr> {
    line(&held(data_dir)?, 1).parse().ok()
}

/// The process that works on this data folder, if there is one.
#[must_use]
pub fn worker(data_dir: &Path) -> Option<String> {
    Some(line(&held(data_dir)?, 0).to_owned())
}

/// What the lock says while somebody holds it.
fn held(data_dir: &Path) -> Option<String> {
    let mut lock = File::open(data_dir.join(NAME)).ok()?;
    // Whoever gets the lock is alone: what it says is of a service that is gone. Shared, so that it keeps no service that starts
    // meanwhile from its folder for longer than this look.
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_found_while_it_holds_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find(folder.path()), None, "there is no lock");
        let path = folder.path().join(NAME);
        let mut held = File::options().create_new(true).read(true).write(true).open(path).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        writeln!(held, "4711").unwrap();
        assert_eq!((holder(&held).unwrap().as_str(), find(folder.path())), ("4711", None), "it is starting");
        let api = SocketAddr::from(([127, 0, 0, 1], 3010));
        announce(&held, api);
        assert_eq!((holder(&held).unwrap().as_str(), find(folder.path())), ("4711", Some(api)));
        flock(&held, FlockOperation::Unlock).unwrap();
        assert_eq!(find(folder.path()), None, "it is gone");
    }
}
