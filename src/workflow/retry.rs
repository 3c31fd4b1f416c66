//! How long to wait before a step is tried again.

use std::time::Duration;

/// Retries of one step: exponential with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first one: 3 retries are 4 runs.
    pub retries: u32,
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of any wait.
    pub cap: Duration,
}

impl RetryPolicy {
    /// Three retries within at most 1 s, 2 s and 4 s: long enough for a hiccup, short enough for a person who waits.
    pub const DEFAULT: Self = Self { retries: 3, base: Duration::from_secs(1), cap: Duration::from_secs(30) };
    /// For work whose failure says something about the project, not about the weather.
    pub const NEVER: Self = Self { retries: 0, ..Self::DEFAULT };

    /// The wait after try number `attempt` (1 = the first) failed, or `None` when no try is left. `chance` decides
    /// where between nothing and the bound it lies ("full jitter", AWS architecture blog, 2015).
    #[must_use]
    pub fn wait_after(&self, attempt: u32, chance: u128) -> Option<Duration> {
        if attempt > self.retries {
            return None;
        }
        let bound = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.cap);
        let bound_ms = u128::max(bound.as_millis(), 1);
        u64::try_from(chance % bound_ms).ok().map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_retries_are_four_runs() {
        let waits: Vec<_> = (1..=5).map(|n| RetryPolicy::DEFAULT.wait_after(n, 0).is_some()).collect();
        assert_eq!(waits, [true, true, true, false, false]);
    }

    #[test]
    fn the_wait_never_passes_its_bound() {
        for attempt in 1..=3 {
            for chance in [0, 1, 999, u128::MAX, 123_456_789] {
                let wait = RetryPolicy::DEFAULT.wait_after(attempt, chance).unwrap();
                assert!(wait < Duration::from_secs(1 << (attempt - 1)), "{attempt} {wait:?}");
            }
        }
    }

    #[test]
    fn a_step_without_retries_is_tried_once() {
        assert_eq!(RetryPolicy::NEVER.wait_after(1, 5), None);
    }
}
