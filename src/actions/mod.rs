//! One file per thing that a person or a timer can ask for, each an `impl Windlass`.

mod admit;
mod cancel;
mod clean;
mod materials;
mod retry;
mod source;
mod submit;
mod sweep;
mod view;

pub use cancel::Cancelled;
pub use clean::Cleaned;
pub use retry::Retried;
pub use source::{AcceptedSource, SourceError};
pub use submit::{Accepted, SubmitError};
pub use view::{StepView, View};

use crate::deploy::deployment::StoreError;
use crate::workflow::journal::JournalError;

/// Why an action could not be performed. Trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The repairs.
    #[error(transparent)]
    Sweep(#[from] crate::workflow::sweep::SweepError),
    /// The content.
    #[error(transparent)]
    Blobs(#[from] crate::deploy::blobs::BlobError),
    /// The workspaces.
    #[error(transparent)]
    Builder(#[from] crate::deploy::builder::BuilderError),
}
