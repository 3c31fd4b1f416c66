//! What is sent to Service Bus, against a double that refuses every request that the documentation does not allow.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use windlass::ambient::{Clock as _, ManualClock, after};
use windlass::azure::post::{Letter, Post, PostedQueue, admit_letter, hint_letter};
use windlass::azure::services::Services;
use windlass::deploy::ids::DeploymentId;
use windlass::workflow::journal::RunId;
use windlass::workflow::queue::{Hint, Queue as _};

use super::azurite::Unsigned;
use super::doubles::{Answer, Asked, Double};
use super::settings;

/// "Send Message" of the REST reference: path, headers and broker properties.
pub(crate) fn refusal(asked: &Asked) -> Option<String> {
    let segments: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    if asked.method != "POST" || segments.len() != 2 || segments[1] != "messages" {
        return Some(format!("{} {} is not POST /<queue>/messages", asked.method, asked.path));
    }
    if !asked.header("authorization").is_some_and(|token| token.starts_with("Bearer ")) {
        return Some("no bearer token".to_owned());
    }
    let Some(properties) = asked.header("brokerproperties") else {
        return Some("no BrokerProperties".to_owned());
    };
    let Ok(Value::Object(properties)) = serde_json::from_str(properties) else {
        return Some("BrokerProperties is not one line of JSON".to_owned());
    };
    let known = ["MessageId", "CorrelationId", "ScheduledEnqueueTimeUtc", "TimeToLive", "Label", "SessionId"];
    if let Some(name) = properties.keys().find(|name| !known.contains(&name.as_str())) {
        return Some(format!("unknown property {name}"));
    }
    let id = properties.get("MessageId").and_then(Value::as_str).unwrap_or_default();
    (id.is_empty() || id.len() > 128).then(|| format!("MessageId has {} characters", id.len()))
}

/// A namespace with duplicate detection, whose first answers are `troubles`.
fn namespace(troubles: &[u16]) -> (Double, Arc<Mutex<Vec<Asked>>>) {
    let kept: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let (messages, ids) = (Arc::clone(&kept), Mutex::new(HashSet::new()));
    let troubles = Mutex::new(troubles.to_vec());
    let double = Double::start(move |asked| -> Answer {
        if let Some(refusal) = refusal(asked) {
            return (400, Vec::new(), refusal);
        }
        let trouble = troubles.lock().unwrap().pop();
        let properties: Value = serde_json::from_str(asked.header("brokerproperties").unwrap()).unwrap();
        let id = properties["MessageId"].as_str().unwrap().to_owned();
        // A gateway may fail although the message was taken.
        if trouble != Some(429) && ids.lock().unwrap().insert(id) {
            messages.lock().unwrap().push(asked.clone());
        }
        let retry = vec![("retry-after-ms", "1".to_owned())];
        trouble.map_or((201, Vec::new(), String::new()), |status| (status, retry, String::new()))
    });
    (double, kept)
}

fn post(namespace: &Double, clock: &Arc<ManualClock>) -> Arc<dyn Post> {
    let settings = settings(&[("SERVICEBUS_NAMESPACE", &namespace.address)]);
    let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
    Arc::new(services.post(Arc::clone(clock) as Arc<_>).unwrap())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()))
}

#[tokio::test]
async fn a_letter_is_sent_as_documented_and_taken_once() {
    let clock = clock();
    let (double, kept) = namespace(&[503, 429, 500]);
    let post = post(&double, &clock);
    let run = RunId::new(clock.now(), 7);
    let hint = Hint { run, function: "step-build", seq: 3 };
    post.send(hint_letter(&hint, clock.now())).await.unwrap();
    assert_eq!(double.asked().len(), 4, "three troubles and then it went");
    let kept = kept.lock().unwrap();
    let [message] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(message.path, "/step-build/messages");
    assert_eq!(message.body, format!("{{\"w1\":{{\"run\":\"{run}\",\"seq\":3}}}}"));
    let properties: Value = serde_json::from_str(message.header("brokerproperties").unwrap()).unwrap();
    assert_eq!(properties["MessageId"], format!("{run}-step-build-3"));
    assert_eq!(properties["CorrelationId"], run.to_string());
    assert_eq!(properties.get("ScheduledEnqueueTimeUtc"), None);
}

#[tokio::test]
async fn a_hint_sent_again_is_not_taken_for_a_duplicate() {
    let clock = clock();
    let (double, kept) = namespace(&[]);
    let post = post(&double, &clock);
    let hint = Hint { run: RunId::new(clock.now(), 7), function: "step-sync", seq: 3 };
    let count = || kept.lock().unwrap().len();
    for _ in 0..2 {
        post.send(hint_letter(&hint, clock.now())).await.unwrap();
    }
    assert_eq!(count(), 1, "an append that is tried twice is one message");
    let queue = PostedQueue(Arc::clone(&post));
    queue.send(&hint, clock.now()).await.unwrap();
    clock.advance(Duration::from_secs(60));
    queue.send(&hint, clock.now()).await.unwrap();
    assert_eq!(count(), 3, "the sweep means what it sends");
    for soon in [50, 70] {
        queue.send(&hint, after(clock.now(), Duration::from_millis(soon))).await.unwrap();
    }
    assert_eq!(count(), 4, "who finds the run busy twice within a second looks again once");
    queue.send(&hint, after(clock.now(), Duration::from_secs(20))).await.unwrap();
    let last = kept.lock().unwrap().last().unwrap().clone();
    let properties: Value = serde_json::from_str(last.header("brokerproperties").unwrap()).unwrap();
    assert_eq!(properties["ScheduledEnqueueTimeUtc"], "Fri, 20 Nov 2026 09:01:20 GMT");
    post.send(admit_letter(DeploymentId::new(1), clock.now())).await.unwrap();
    assert_eq!(kept.lock().unwrap().last().unwrap().path, "/deployment-queue/messages");
}

#[tokio::test]
async fn a_refusal_is_told_and_a_huge_message_never_sent() {
    let clock = clock();
    let double = Double::start(|_| (401, Vec::new(), "no".to_owned()));
    let post = post(&double, &clock);
    let letter = Letter {
        id: "i".to_owned(),
        about: "r".to_owned(),
        queue: "step-build",
        text: "x".repeat(300_000),
        due: clock.now(),
    };
    let told = post.send(letter.clone()).await.unwrap_err().to_string();
    assert!(told.contains("300000 bytes"), "{told}");
    assert!(double.asked().is_empty());
    assert!(post.send(Letter { text: "{}".to_owned(), ..letter }).await.is_err());
    assert_eq!(double.asked().len(), 1, "a refusal is not tried again");
}
