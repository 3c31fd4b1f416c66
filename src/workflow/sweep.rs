//! Repairs what was lost: sends again the hints of runs that should have moved by now.

use std::time::Duration;

use super::Engine;
use super::advance::next_hint;
use super::journal::JournalError;
use super::queue::{Queue, QueueError};
use crate::ambient::between;

/// A hint is late when it was due this long ago: well past any healthy delivery.
const LATE: Duration = Duration::from_secs(15);

/// Why a sweep stopped early. The next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The journal.
    #[error("the open runs could not be read")]
    Journal(#[from] JournalError),
    /// The queue.
    #[error("a late hint could not be sent")]
    Queue(#[from] QueueError),
}

impl Engine {
    /// Sends a hint for every open run at once. After a start: what a run waited for may have died with the process,
    /// and its alarm may be far away. A run that waits for a retry still waits.
    ///
    /// # Errors
    /// [`SweepError`]; hints sent so far stay sent.
    pub async fn wake_all(&self, queue: &dyn Queue) -> Result<(), SweepError> {
        let now = self.clock.now();
        for (run, state) in self.journal.open_runs(now).await? {
            let chain = self.chains.get(&state.chain, state.chain_version);
            if let Some((hint, _)) = chain.and_then(|chain| next_hint(run, &state, chain, now)) {
                queue.send(&hint, now).await?;
            }
        }
        Ok(())
    }

    /// Sends the hint of every open run that nobody holds and that is late, and gives their number. An expired
    /// lease counts as nobody; a passed deadline makes a waiting run due.
    ///
    /// # Errors
    /// [`SweepError`]; hints sent so far stay sent.
    pub async fn sweep(&self, queue: &dyn Queue) -> Result<usize, SweepError> {
        let now = self.clock.now();
        let mut sent = 0;
        for (run, state) in self.journal.open_runs(now).await? {
            let Some(chain) = self.chains.get(&state.chain, state.chain_version) else { continue };
            let Some((hint, _)) = next_hint(run, &state, chain, now) else { continue };
            let due = state.not_before.or(state.look_at).map_or(state.updated, |at| at.min(state.deadline));
            if between(due, now) >= LATE {
                queue.send(&hint, now).await?;
                sent += 1;
            }
        }
        Ok(sent)
    }
}
