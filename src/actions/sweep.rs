//! What the timers do: repair, and remove what nobody needs.

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

    /// Removes workspaces that no open run owns. Gives their number.
    ///
    /// # Errors
    /// [`ActionError`]; the next cleanup goes on.
    pub async fn remove_leftovers(&self) -> Result<usize, ActionError> {
        let open = self.engine.journal.open_runs(self.tools.clock.now()).await?;
        let mut removed = 0;
        for run in self.tools.builder.leftovers().await? {
            let over = match self.engine.journal.history(run).await? {
                Some((state, _)) => state.is_over(),
                None => true,
            };
            if over && !open.iter().any(|(other, _)| *other == run) {
                self.tools.builder.discard(run).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}
