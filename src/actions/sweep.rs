//! What the minute's timer does: repair.

use super::ActionError;
use crate::windlass::Windlass;

impl Windlass {
    /// Repairs: begins admitted runs that were never begun, admits, and resends late hints.
    ///
    /// # Errors
    /// [`ActionError`]; the next sweep goes on.
    pub async fn sweep(&self) -> Result<usize, ActionError> {
        self.begin_admitted().await?;
        self.admit().await?;
        Ok(self.engine.sweep(self.queue.as_ref()).await?)
    }
}
