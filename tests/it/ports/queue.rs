//! The suite of queues and alarms.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use windlass::ambient::{Clock as _, after};

use super::Store;

impl Store {
    async fn enqueue(&self, text: &str, seconds: u64) {
        let due = after(self.clock.now(), Duration::from_secs(seconds));
        self.queues.enqueue("step-build", text.to_owned(), due).await.unwrap();
    }

    fn ready(&self) -> Vec<String> {
        self.queues.ring().unwrap();
        let taken = self.queues.take("step-build", 100).now_or_never().unwrap_or_default();
        taken.iter().map(|delivery| delivery.body.to_string()).collect()
    }
}

#[tokio::test]
async fn messages_come_in_order_and_never_early() {
    let store = Store::new();
    for (text, seconds) in [("later", 60), ("soon", 1), ("now", 0), ("too", 0)] {
        store.enqueue(text, seconds).await;
    }
    assert_eq!(store.ready(), ["now", "too"]);
    store.clock.advance(Duration::from_millis(999));
    assert!(store.ready().is_empty());
    store.clock.advance(Duration::from_millis(1));
    assert_eq!(store.ready(), ["soon"]);
    store.clock.advance(Duration::from_secs(600));
    assert_eq!(store.ready(), ["later"]);
}

#[tokio::test]
async fn a_single_message_waits_for_no_company() {
    let store = Store::new();
    let begun = store.clock.now();
    let send = async |text: &str| {
        store.queues.enqueue("deployment-queue", text.to_owned(), begun).await.unwrap();
    };
    send("first").await;
    let there = store.queues.take("deployment-queue", 10).now_or_never();
    assert_eq!(there.map(|batch| batch.len()), Some(1));
    // One that comes while a batch of ten is waited for: no time passes until it is handed over.
    let queues = Arc::clone(&store.queues);
    let waiting = windlass::ambient::spawn(async move { queues.take("deployment-queue", 10).await.len() });
    tokio::task::yield_now().await;
    send("second").await;
    assert_eq!((waiting.await.unwrap(), store.clock.now()), (1, begun));
}

#[tokio::test]
async fn what_was_not_completed_comes_again_after_a_restart() {
    let store = Store::new();
    for text in ["done", "taken", "waiting"] {
        store.enqueue(text, 0).await;
    }
    store.enqueue("later", 60).await;
    let taken = store.queues.take("step-build", 2).await;
    store.queues.complete(&taken[0]);
    // The next commit carries the deletion.
    store.enqueue("new", 0).await;
    let store = store.reopen();
    assert_eq!(store.ready(), ["taken", "waiting", "new"]);
    store.clock.advance(Duration::from_secs(61));
    assert_eq!(store.ready(), ["later"]);
}

#[tokio::test]
async fn a_message_that_keeps_failing_ends_in_the_dead_letters() {
    let store = Store::new();
    store.enqueue("poison", 0).await;
    for delivery in 1..=4 {
        let message = store.queues.take("step-build", 1).await.remove(0);
        assert_eq!(message.count, delivery);
        store.clock.advance(Duration::from_secs(1));
        store.queues.abandon("step-build", message, format!("error {delivery}"), 4).await.unwrap();
    }
    assert!(store.ready().is_empty());
    let notice = store.queues.take("deployment-dlq", 1).await.remove(0);
    assert!(notice.body.contains("deadLetter"));
    let (body, error, deliveries, span): (String, String, u32, i64) = store
        .db
        .read(|c| {
            c.query_row("SELECT body, error, deliveries, last_at - first_at FROM dead_letters", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
        })
        .unwrap();
    assert_eq!((body.as_str(), error.as_str(), deliveries), ("poison", "error 4", 4));
    assert_eq!(span, 4_000_000, "first and last time are kept, in microseconds");
}

#[tokio::test]
async fn deliveries_are_counted_across_restarts() {
    let store = Store::new();
    store.enqueue("poison", 0).await;
    let message = store.queues.take("step-build", 1).await.remove(0);
    store.queues.abandon("step-build", message, "no".to_owned(), 4).await.unwrap();
    let store = store.reopen();
    assert_eq!(store.queues.take("step-build", 1).await[0].count, 2);
}
