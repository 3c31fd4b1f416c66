//! What the minute's timer does: repair.

use super::ActionError;
use crate::windlass::Windlass;

impl Windlass {
    /// Repairs: begins admitted runs that were never begun, admits, and resends late hints.
    ///
    /// # Errors
    /// [`ActionError`]; the next sweep goes on.
    pub async fn sweep(&self) -> Result<usize, ActionError> {
        let begun = self.begin_admitted().await;
        let admitted = self.admit().await;
        // Whatever stands in the way of admission, runs under way go on.
        let sent = self.engine.sweep(self.queue.as_ref()).await?;
        begun?;
        admitted?;
        Ok(sent)
    }
}
