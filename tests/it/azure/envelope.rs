//! What the Functions host posts: each text in one more layer of JSON, times cut to seconds, and metadata that a body's own
//! properties overwrite.

use serde_json::{Map, Value, json};
use windlass::ambient::{Clock as _, SystemClock};
use windlass::triggers::table::{FOLDERS, Function};

use super::bus::Message;

/// The name of a function's input binding.
fn binding(function: &Function) -> String {
    let (_, file) = FOLDERS.iter().find(|(name, _)| *name == function.name).unwrap();
    let file: Value = serde_json::from_str(file).unwrap();
    let bindings = file["bindings"].as_array().unwrap();
    let trigger = bindings.iter().find(|binding| binding["type"].as_str().unwrap().ends_with("Trigger"));
    trigger.unwrap()["name"].as_str().unwrap().to_owned()
}

/// A text, number or array on its way to a handler.
fn layered(value: &Value) -> Value {
    Value::String(value.to_string())
}

fn sys(function: &Function) -> Value {
    json!({ "MethodName": function.name, "UtcNow": SystemClock.now().to_string(), "RandGuid": "5b0f4c1e-9a52-4d0b-8f57-2c1f6f0d7a11" })
}

/// Lifts the properties at the top of a body into the metadata, over whatever has the same name in any casing.
fn pollute(metadata: &mut Map<String, Value>, body: &str) {
    let Ok(Value::Object(body)) = serde_json::from_str(body) else { return };
    for (name, value) in body {
        let lifted = match value {
            Value::Null | Value::Array(_) => continue,
            Value::Object(_) => value,
            Value::Bool(truth) => layered(&json!(if truth { "True" } else { "False" })),
            Value::Number(number) => layered(&json!(number.to_string())),
            Value::String(_) => layered(&value),
        };
        metadata.retain(|known, _| !known.eq_ignore_ascii_case(&name));
        metadata.insert(name, lifted);
    }
}

/// One message of Service Bus, delivered `before` times more than it counts.
pub(crate) fn single(function: &Function, message: &Message, before: u32) -> Value {
    let body = Value::String(message.body.clone());
    let mut metadata = Map::from_iter([
        ("MessageReceiver".to_owned(), json!({})),
        ("Client".to_owned(), json!({ "IsClosed": false })),
        ("DeliveryCount".to_owned(), layered(&json!(message.deliveries + before))),
        ("SequenceNumber".to_owned(), layered(&json!(message.sequence))),
        ("MessageId".to_owned(), layered(&json!(message.id))),
        ("EnqueuedTimeUtc".to_owned(), json!("2026-11-20T09:15:41")),
        ("ApplicationProperties".to_owned(), json!({})),
        ("sys".to_owned(), sys(function)),
    ]);
    pollute(&mut metadata, &message.body);
    json!({ "Data": { (binding(function)): layered(&body) }, "Metadata": metadata })
}

/// A batch: nothing is lifted, and every name ends with `Array`.
pub(crate) fn many(function: &Function, batch: &[Message]) -> Value {
    let bodies: Vec<&str> = batch.iter().map(|message| message.body.as_str()).collect();
    let counts: Vec<u32> = batch.iter().map(|message| message.deliveries).collect();
    let ids: Vec<&str> = batch.iter().map(|message| message.id.as_str()).collect();
    json!({
        "Data": { (binding(function)): layered(&json!(bodies)) },
        "Metadata": {
            "DeliveryCountArray": layered(&json!(counts)),
            "MessageIdArray": layered(&json!(ids)),
            "CorrelationIdArray": layered(&json!(vec![Value::Null; batch.len()])),
            "sys": sys(function),
        },
    })
}

/// A message of a Storage Queue.
pub(crate) fn queued(function: &Function, (id, text): (&str, &str), dequeued: i64) -> Value {
    let mut metadata = Map::from_iter([
        ("DequeueCount".to_owned(), layered(&json!(dequeued))),
        ("Id".to_owned(), layered(&json!(id))),
        ("InsertionTime".to_owned(), json!("2026-11-20T09:16:00+00:00")),
        ("sys".to_owned(), sys(function)),
    ]);
    pollute(&mut metadata, text);
    json!({ "Data": { (binding(function)): layered(&json!(text)) }, "Metadata": metadata })
}

/// A tick that comes in time.
pub(crate) fn timer(function: &Function) -> Value {
    let status = json!({ "Last": "2026-11-20T09:10:00.0017762+00:00", "Next": "2026-11-20T09:15:00+00:00", "LastUpdated": "2026-11-20T09:10:00.0017762+00:00" });
    let timer = json!({ "Schedule": { "AdjustForDST": true }, "ScheduleStatus": status, "IsPastDue": false });
    json!({ "Data": { (binding(function)): timer }, "Metadata": { "sys": sys(function) } })
}
