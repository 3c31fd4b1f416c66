//! How long to wait before a step is tried again.

use std::time::Duration;

/// Where a wait lies below its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Anywhere: what failed together spreads best ("full jitter", AWS architecture blog, 2015).
    Full,
    /// In the upper half: all tries together last as long as one can count on.
    UpperHalf,
}

/// Retries of one step: exponential, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first one: 3 retries are 4 runs.
    pub retries: u32,
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of any wait.
    pub cap: Duration,
    /// Where the waits lie below their bounds.
    pub jitter: Jitter,
}

impl RetryPolicy {
    /// Three retries within at most 1 s, 2 s and 4 s: long enough for a hiccup, short enough for a person who waits.
    pub const DEFAULT: Self =
        Self { retries: 3, base: Duration::from_secs(1), cap: Duration::from_secs(30), jitter: Jitter::Full };
    /// Twelve retries within two to four minutes: services far away are sometimes gone for a minute or more, and a
    /// deployment has ten.
    pub const PATIENT: Self = Self { retries: 12, jitter: Jitter::UpperHalf, ..Self::DEFAULT };
    /// For work whose failure says something about the project, not about the weather.
    pub const NEVER: Self = Self { retries: 0, ..Self::DEFAULT };

    /// The wait after try number `attempt` (1 = the first) failed, or `None` when no try is left. `chance` decides
    /// where below the bound it lies.
    #[must_use]
    pub fn wait_after(&self, attempt: u32, chance: u128) -> Option<Duration> {
        if attempt > self.retries {
            return None;
        }
        let bound = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.cap);
        let bound_ms = u128::max(bound.as_millis(), 1);
        let wait = match self.jitter {
            Jitter::Full => chance % bound_ms,
            Jitter::UpperHalf => bound_ms / 2 + chance % (bound_ms - bound_ms / 2),
        };
        u64::try_from(wait).ok().map(Duration::from_millis)
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
        for policy in [RetryPolicy::DEFAULT, RetryPolicy::PATIENT] {
            for attempt in 1..=3 {
                for chance in [0, 1, 999, u128::MAX, 123_456_789] {
                    let wait = policy.wait_after(attempt, chance).unwrap();
                    assert!(wait < Duration::from_secs(1 << (attempt - 1)), "{attempt} {wait:?}");
                }
            }
        }
    }

    #[test]
    fn patience_lasts_for_minutes_whatever_chance_says() {
        for chance in [0, 7, 499, u128::MAX] {
            let waits = (1..).map_while(|attempt| RetryPolicy::PATIENT.wait_after(attempt, chance));
            let whole: Duration = waits.sum();
            assert!(whole >= Duration::from_secs(120) && whole <= Duration::from_secs(241), "{whole:?}");
        }
    }

    #[test]
    fn a_step_without_retries_is_tried_once() {
        assert_eq!(RetryPolicy::NEVER.wait_after(1, 5), None);
    }
}
