//! Whose turn it is: one record that every change of a deployment goes through, so that no cap can be passed although
//! many processes work at the same time.
//!
//! It holds only what waits or runs, and counters of all else, because Cosmos DB adds nothing up.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::cosmos::Batch;
use super::record::Record;
use crate::deploy::deployment::{Caps, Status};
use crate::deploy::ids::{DeploymentId, Digest, Name};
use crate::deploy::wish::Wish;

/// Deployments that wait or run at most. With names as long as names may be they have 1 MB; a change of the desk goes into
/// one batch with what changes with it, and Cosmos DB takes 2 MB.
const MOST_PLACES: usize = 2_000;

/// A deployment that waits or runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) no: i64,
    pub(super) id: DeploymentId,
    pub(super) org: Name,
    pub(super) app: String,
}

impl Place {
    pub(super) fn of(no: i64, id: DeploymentId, wish: &Wish) -> Self {
        Self { no, id, org: wish.org.clone(), app: wish.app() }
    }
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Desk {
    /// The number of the newest deployment.
    pub(super) last: i64,
    /// Those who have their turn.
    pub(super) running: Vec<Place>,
    /// Those who wait, oldest first.
    pub(super) queued: Vec<Place>,
    /// How many deployments have each status.
    pub(super) counts: BTreeMap<Status, u64>,
    /// By chance, for each write: whose this was, when its answer is lost.
    #[serde(default)]
    pub(super) writer: String,
}

impl Desk {
    /// Counts a deployment that has `to` now and had `from`.
    pub(super) fn count(&mut self, from: Option<Status>, to: Option<Status>) {
        if let Some(count) = from.and_then(|from| self.counts.get_mut(&from)) {
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            *self.counts.entry(to).or_default() += 1;
        }
        self.counts.retain(|_, count| *count > 0);
    }

    /// Whether nobody more can wait.
    pub(super) fn is_full(&self) -> bool {
        self.queued.len() + self.running.len() >= MOST_PLACES
    }

    /// Puts a deployment where its number belongs.
    pub(super) fn enqueue(&mut self, place: Place) {
        let at = self.queued.partition_point(|other| other.no < place.no);
        self.queued.insert(at, place);
    }

    /// Takes a waiting deployment out.
    pub(super) fn leave_queue(&mut self, id: DeploymentId) -> Option<Place> {
        let at = self.queued.iter().position(|place| place.id == id)?;
        Some(self.queued.remove(at))
    }

    /// Ends the turn of a deployment.
    pub(super) fn end_turn(&mut self, id: DeploymentId) {
        self.running.retain(|place| place.id != id);
    }

    /// Gives those their turn who may have it, at most so many: oldest first, within the caps, one for each app.
    pub(super) fn admit(&mut self, caps: Caps, most: usize) -> Vec<Place> {
        let mut apps: HashSet<String> = self.running.iter().map(|place| place.app.clone()).collect();
        let mut orgs: HashMap<Name, usize> = HashMap::new();
        for place in &self.running {
            *orgs.entry(place.org.clone()).or_default() += 1;
        }
        let most = caps.total.saturating_sub(self.running.len()).min(most);
        let mut chosen = Vec::new();
        for place in &self.queued {
            if chosen.len() == most {
                break;
            }
            let of_org = orgs.entry(place.org.clone()).or_default();
            if *of_org < caps.per_org && apps.insert(place.app.clone()) {
                *of_org += 1;
                chosen.push(place.clone());
            }
        }
        self.queued.retain(|place| !chosen.contains(place));
        self.running.extend(chosen.iter().cloned());
        for _ in &chosen {
            self.count(Some(Status::Queued), Some(Status::Running));
        }
        chosen
    }
}

/// An idempotency key that was used.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) kind: String,
    pub(super) digest: Digest,
    pub(super) deployment: DeploymentId,
    pub(super) at: i64,
}

/// A change that goes with a change of the desk.
pub(super) enum Write {
    Record(Box<Record>),
    Key(String, Key),
    Gone(DeploymentId),
}

/// The desk while it is changed.
pub(super) struct Draft {
    pub(super) etag: Option<String>,
    pub(super) before: Desk,
    pub(super) desk: Desk,
    pub(super) writes: Vec<Write>,
}

impl Draft {
    pub(super) fn put(&mut self, record: Record) {
        self.writes.push(Write::Record(Box::new(record)));
    }

    /// The desk, as `id`, and what goes with it, as one write.
    pub(super) fn batch(&self, partition: &str, id: &str) -> Batch {
        let desk = Batch::of(partition).write(id, &self.desk, self.etag.as_deref());
        self.writes.iter().fold(desk, |batch, write| match write {
            Write::Record(record) => batch.put(&record.deployment.to_string(), record),
            Write::Key(id, key) => batch.put(id, key),
            Write::Gone(id) => batch.remove(&id.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_desk_leaves_room_in_a_batch() {
        let name = "n".repeat(128);
        let place = |no: i64| Place {
            no: i64::MAX - no,
            id: DeploymentId::new(0),
            org: name.parse().unwrap(),
            app: format!("{name}/{name}/preview-{}", "p".repeat(20)),
        };
        let mut desk = Desk { queued: (0..1_999).map(place).collect(), ..Desk::default() };
        assert!(!desk.is_full());
        desk.running.push(place(0));
        assert!(desk.is_full());
        assert!(serde_json::to_vec(&desk).unwrap().len() < 1 << 20);
    }
}
