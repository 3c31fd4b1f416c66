//! The suite of the `Backlog` port: what the platform gave up is kept until somebody deals with it.

use windlass::triggers::table::DEPLOYMENT_QUEUE;
use windlass::workflow::backlog::Backlog;

use super::Store;
use windlass::embedded::backlog::SqliteBacklog;

const HINT: &str = r#"{"w1":{"run":"run_0000019a00000000000000000000000a","seq":3}}"#;

/// Buries, lists, sends again and purges; `sent` counts what came to a queue since it was asked last.
pub(crate) async fn letters_are_kept_sent_again_and_purged(
    backlog: &dyn Backlog,
    sent: impl Fn(&'static str) -> usize,
) {
    assert_eq!(backlog.dead_letter_count().await.unwrap(), 0);
    let hint = backlog.bury(HINT).await.unwrap();
    assert_eq!(backlog.bury(HINT).await.unwrap(), hint, "the same letter once more");
    let job = backlog.bury(r#"{"projectId":"p"}"#).await.unwrap();
    let letters = backlog.dead_letters(10).await.unwrap();
    assert_eq!((letters.len(), backlog.dead_letters(1).await.unwrap().len()), (2, 1));
    let buried = letters.iter().find(|letter| letter.id == hint).unwrap();
    assert_eq!((buried.body.as_str(), buried.deliveries, buried.queue.as_str()), (HINT, 2, "step-validate"));
    assert_eq!(backlog.dead_letter(hint).await.unwrap().as_ref(), Some(buried));
    assert_eq!(backlog.dead_letter(77).await.unwrap(), None);
    assert!(!backlog.redrive(77).await.unwrap());
    assert!(backlog.redrive(hint).await.unwrap());
    assert!(!backlog.redrive(hint).await.unwrap(), "it is dead no more");
    assert_eq!(sent("step-validate"), 1);
    assert!(backlog.redrive(job).await.unwrap());
    assert_eq!(sent(DEPLOYMENT_QUEUE), 1);
    let (one, two) = (backlog.bury("x").await.unwrap(), backlog.bury("y").await.unwrap());
    assert_ne!(one, two);
    assert_eq!(backlog.purge(Some(one)).await.unwrap(), 1);
    assert_eq!(backlog.purge(None).await.unwrap(), 1);
    assert_eq!(backlog.dead_letter_count().await.unwrap(), 0);
}

#[tokio::test]
async fn the_embedded_backlog_passes_the_suite() {
    let store = Store::new();
    let backlog = SqliteBacklog {
        db: store.db.clone(),
        queues: std::sync::Arc::clone(&store.queues),
        clock: std::sync::Arc::clone(&store.clock) as _,
    };
    letters_are_kept_sent_again_and_purged(&backlog, |queue| store.sent(queue)).await;
}
