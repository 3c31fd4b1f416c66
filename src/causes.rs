//! An error and what caused it.

use std::error::Error;

/// The error, its cause, the cause of that, and so on.
pub fn all<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The error with its causes, on one line.
#[must_use]
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = all(error).map(ToString::to_string).collect();
    texts.join(": ")
}

/// Whether a disk without room is among the causes.
#[must_use]
pub fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    let full = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::StorageFull;
    all(error).any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(full))
}
