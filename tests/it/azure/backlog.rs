//! Queues of Service Bus: their counts by Resource Manager, and what they gave up.

use std::sync::Arc;

use windlass::ambient::ManualClock;
use windlass::azure::backlog::AzureBacklog;
use windlass::azure::services::Services;
use windlass::triggers::table::{FUNCTIONS, Trigger};
use windlass::workflow::backlog::Backlog as _;

use super::arm_double::ArmDouble;
use super::azurite::Unsigned;
use super::cosmos::Account;
use super::settings;
use crate::ports::{Outbox, backlog};

#[tokio::test]
async fn queues_are_counted_and_dead_letters_pass_the_suite() {
    let arm = ArmDouble::start();
    let settings = settings(&[("WINDLASS_ARM_ENDPOINT", &arm.double.address)]);
    let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
    let outbox: Arc<Outbox> = Arc::default();
    let letters = AzureBacklog {
        arm: Arc::new(services.arm()),
        namespace: "bus".to_owned(),
        records: Account::new().await.records,
        post: Arc::clone(&outbox) as _,
        clock: Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap())),
    };
    backlog::letters_are_kept_sent_again_and_purged(&letters, |queue| outbox.take(queue)).await;
    let depths = letters.depths().await.unwrap();
    let queues =
        FUNCTIONS.iter().filter(|function| matches!(function.trigger, Trigger::ServiceBus { .. })).count();
    // One queue does not say its counts, which is not the same as empty.
    assert_eq!(depths.len(), queues - 1);
    assert!(depths.iter().all(|depth| depth.messages == 5), "active and scheduled ones: {depths:?}");
    arm.trouble("GET", "/queues/", 403, "AuthorizationFailed");
    assert!(letters.depths().await.is_err());
    assert_eq!(arm.violations(), [""; 0]);
}
