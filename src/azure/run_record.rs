//! A run as Cosmos DB keeps it.
//!
//! Every move rewrites the record, so it must not grow with what says nothing new: looks at the same work in a row are
//! stored once, with their number, and older events go to pages that are written once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::workflow::chain::StepName;
use crate::workflow::journal::{Append, Entry};
use crate::workflow::state::{Event, RunState};

/// Id of the record, and its kind.
pub(super) const RUN: &str = "run";
/// Bytes of events in the run itself; more go to a page. A record has 2 MB at most.
const MOST_INLINE_BYTES: usize = 256 * 1024;

/// A run as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunRecord {
    pub(super) kind: String,
    /// Whether it goes on by itself.
    pub(super) open: bool,
    /// When it began, in microseconds since 1970.
    pub(super) started: i64,
    pub(super) state: RunState,
    /// The newest events.
    pub(super) events: Vec<Kept>,
    /// Full pages of older ones.
    #[serde(default)]
    pub(super) pages: u32,
}

/// A full page of older events.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) events: Vec<Kept>,
}

/// An event, or several looks at the same work in a row: the number and time of the first one, and what the newest says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    entry: Entry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    again: Option<Again>,
}

/// Looks after the first one.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Again {
    times: u64,
    /// When the newest was.
    at: Timestamp,
}

/// Where the page of this number is.
pub(super) fn page_id(number: u32) -> String {
    format!("page-{number}")
}

/// Every event with a number of its own. Of looks in a row between the first and the newest only the number is known.
pub(super) fn unfolded(kept: Vec<Kept>) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(kept.len());
    for Kept { entry, again } in kept {
        let times = again.map_or(0, |again| again.times);
        let at = again.map_or(entry.at, |again| again.at);
        let later = (1..=times).map(|next| Entry { seq: entry.seq + next, at, event: entry.event.clone() });
        let later: Vec<Entry> = later.collect();
        entries.push(entry);
        entries.extend(later);
    }
    entries
}

/// What the step answered when it finished last, as far as these events know.
pub(super) fn output_of(events: &[Kept], step: &StepName) -> Option<Value> {
    events.iter().rev().find_map(|kept| {
        if let Event::StepDone { step: done, output } = &kept.entry.event
            && done == step
        {
            return Some(output.clone());
        }
        None
    })
}

impl Kept {
    /// Takes the event in, if it is one more look at the same work.
    fn absorbs(&mut self, event: &Event, at: Timestamp) -> bool {
        let Event::StepWaits { step, memo, .. } = &self.entry.event else { return false };
        let Event::StepWaits { step: next, memo: found, .. } = event else { return false };
        if step != next || memo != found {
            return false;
        }
        self.entry.event = event.clone();
        self.again = Some(Again { times: self.again.map_or(0, |again| again.times) + 1, at });
        true
    }
}

impl RunRecord {
    /// The record of a run that begins with `first`.
    pub(super) fn begun(first: &Event, state: &RunState) -> Self {
        let entry = Entry { seq: 1, at: state.started, event: first.clone() };
        Self::new(state, vec![Kept { entry, again: None }], 0)
    }

    fn new(state: &RunState, events: Vec<Kept>, pages: u32) -> Self {
        Self {
            kind: RUN.to_owned(),
            open: !state.is_over(),
            started: state.started.as_microsecond(),
            state: state.clone(),
            events,
            pages,
        }
    }

    /// The record after an append, and the page that became full with it.
    pub(super) fn followed_by(&self, append: &Append<'_>, at: Timestamp) -> (Self, Option<(String, Page)>) {
        let mut events = self.events.clone();
        let old = events.len();
        for (seq, event) in (append.expected + 1..).zip(append.events) {
            if !events.last_mut().is_some_and(|newest| newest.absorbs(event, at)) {
                events.push(Kept { entry: Entry { seq, at, event: event.clone() }, again: None });
            }
        }
        let bytes = serde_json::to_vec(&events).map_or(0, |json| json.len());
        if bytes <= MOST_INLINE_BYTES || old == 0 {
            return (Self::new(append.state, events, self.pages), None);
        }
        let newest = events.split_off(old);
        let page = (page_id(self.pages), Page { events });
        (Self::new(append.state, newest, self.pages + 1), Some(page))
    }
}
