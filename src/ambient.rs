//! The only sources of time and chance, and the one way to start a background task.
//!
//! Production passes [`SystemClock`] and [`SystemIds`]; tests pass [`ManualClock`] and [`SeededIds`], so
//! that a story is the same on every run.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Tells the time and waits for it.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The present instant, UTC.
    fn now(&self) -> Timestamp;
    /// Returns after `span` has passed on this clock.
    async fn sleep(&self, span: Duration);
}

/// Makes random numbers: ids, jitter, sandbox names.
pub trait Ids: Send + Sync {
    /// 128 random bits.
    fn random(&self) -> u128;
}

/// The computer's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the real clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that really sleeps")]
    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

/// The operating system's random numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemIds;

impl Ids for SystemIds {
    fn random(&self) -> u128 {
        rand::random()
    }
}

/// A clock that moves only when a test says so.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    now: Timestamp,
    sleepers: BTreeMap<(Timestamp, u64), oneshot::Sender<()>>,
    next: u64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { state: Mutex::new(Waiting { now, sleepers: BTreeMap::new(), next: 0 }) }
    }

    /// Moves the clock forward and wakes every sleeper whose time has come, earliest first.
    pub fn advance(&self, span: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = after(state.now, span);
        let now = state.now;
        let later = state.sleepers.split_off(&(now, u64::MAX));
        for (_, wake) in std::mem::replace(&mut state.sleepers, later) {
            if wake.send(()).is_err() {
                tracing::trace!("a sleeper was dropped before its time");
            }
        }
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    async fn sleep(&self, span: Duration) {
        let woken = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (wake, woken) = oneshot::channel();
            let key = (after(state.now, span), state.next);
            state.next += 1;
            state.sleepers.insert(key, wake);
            woken
        };
        // An error means that the clock is gone, and with it the test.
        drop(woken.await);
    }
}

/// Numbers that follow from a seed (the `SplitMix64` sequence).
#[derive(Debug)]
pub struct SeededIds(AtomicU64);

impl SeededIds {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Ids for SeededIds {
    fn random(&self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }
}

/// `span` after `start`; the far end of time when that is past it.
#[must_use]
pub fn after(start: Timestamp, span: Duration) -> Timestamp {
    start.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// `span` before `end`, as far as time goes.
#[must_use]
pub fn before(end: Timestamp, span: Duration) -> Timestamp {
    end.checked_sub(span).unwrap_or(Timestamp::MIN)
}

/// How long from `start` until `end`; zero when `end` is not later.
#[must_use]
pub fn between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or(Duration::ZERO)
}

/// Starts a background task. A panic in it is logged by the runtime's hook and does not end the process.
#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
pub fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
        let clock = std::sync::Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let sleeper = std::sync::Arc::clone(&clock);
        let task = spawn(async move { sleeper.sleep(Duration::from_secs(10)).await });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        clock.advance(Duration::from_secs(1));
        task.await.unwrap();
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let draw = |seed| {
            let ids = SeededIds::new(seed);
            (ids.random(), ids.random())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
