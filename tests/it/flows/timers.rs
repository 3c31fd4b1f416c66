//! The embedded host's timers on a clock that stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use windlass::deploy::retention::{Reached, Remains, RemainsError};
use windlass::embedded::host::{Calls, Host, HostSettings};
use windlass::triggers::table::{FUNCTIONS, Trigger};

use crate::world::{Setup, World};

/// Counts the cleanups.
#[derive(Default)]
struct Counter(AtomicUsize);

#[async_trait]
impl Remains for Counter {
    fn name(&self) -> &'static str {
        "nothing"
    }

    async fn retain(&self, _: &Reached, _: Timestamp, _: bool) -> Result<u64, RemainsError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(0)
    }
}

#[tokio::test]
async fn after_a_long_pause_a_timer_ticks_once() {
    let counter = Arc::new(Counter::default());
    let remains = vec![Arc::clone(&counter) as Arc<dyn Remains>];
    let world = World::with(Setup { remains, ..Setup::default() });
    let function = FUNCTIONS.iter().find(|function| function.name == "timer-cleanup").unwrap();
    let Trigger::Timer { schedule } = function.trigger else { panic!("it is a timer") };
    let micros = |text: &str| text.parse::<Timestamp>().unwrap().as_microsecond();
    let missed = micros("2026-11-17T03:00:00Z");
    let insert = "INSERT INTO timers (name, schedule, next) VALUES ('timer-cleanup', ?1, ?2)";
    world.db.write(move |c| c.execute(insert, rusqlite::params![schedule, missed])).await.unwrap();
    let settings = HostSettings {
        concurrency: 1,
        batch: 1,
        deliveries: 1,
        timeout: Duration::from_secs(60),
        doubled_per_mille: 0,
    };
    let store = (world.db.clone(), Arc::clone(&world.queues));
    let host = Host::new(world.windlass.clone(), store, Calls::InProcess, settings);
    host.start();
    let stored = || -> i64 {
        let select = "SELECT next FROM timers WHERE name = 'timer-cleanup'";
        world.db.read(|c| c.query_row(select, [], |row| row.get(0))).unwrap()
    };
    while stored() <= world.now().as_microsecond() {
        // What is due in this moment still waits for the clock to say so.
        world.clock.advance(Duration::ZERO);
        tokio::task::yield_now().await;
    }
    assert_eq!(stored(), micros("2026-11-21T03:00:00Z"));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
    host.stop(Duration::from_secs(60)).await;
}
