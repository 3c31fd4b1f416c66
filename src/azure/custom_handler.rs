//! The custom handler's side of the Functions host protocol: `POST /<function>` with `Data` and `Metadata`.
//!
//! Read in the host's source (version 4.1037, October 2024) and its documentation. An answer is never empty, since the
//! host then waits until the function's timeout; nothing is believed of `Metadata`, since a message's body overwrites it.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data, Path, PayloadConfig, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, guard, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::Instrument as _;

use crate::causes::causes;
use crate::triggers::dispatch::{DispatchError, Event, dispatch};
use crate::triggers::table::{FUNCTIONS, Function, Trigger, function};
use crate::windlass::Windlass;

/// Largest invocation: a batch of ten of the largest messages of the premium tier fits.
const MOST_BYTES: usize = 100 << 20;

#[derive(Deserialize)]
struct Invocation {
    #[serde(rename = "Data")]
    data: Map<String, Value>,
}

/// Mounts the trigger paths.
pub fn mount(config: &mut ServiceConfig, windlass: &Arc<Windlass>) {
    config.service(
        web::resource("/{function}")
            .guard(guard::fn_guard(|cx| {
                cx.head().method == actix_web::http::Method::POST && is_trigger_path(cx.head().uri.path())
            }))
            .app_data(Data::from(Arc::clone(windlass)))
            .app_data(PayloadConfig::new(MOST_BYTES))
            .route(web::post().to(invoke)),
    );
}

/// Every path of one segment that no HTTP route begins with: also unknown functions, which deserve a clear answer.
fn is_trigger_path(path: &str) -> bool {
    let name = path.trim_start_matches('/');
    let is_route = |function: &Function| match function.trigger {
        Trigger::Http { route, .. } => {
            route.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(name))
        }
        Trigger::ServiceBus { .. } | Trigger::StorageQueue { .. } | Trigger::Timer { .. } => false,
    };
    !name.is_empty() && !name.contains('/') && !FUNCTIONS.iter().any(is_route)
}

async fn invoke(
    request: HttpRequest,
    name: Path<String>,
    body: Bytes,
    windlass: Data<Windlass>,
) -> HttpResponse {
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned()
    };
    let invocation = header("x-azure-functions-invocationid");
    let span = tracing::debug_span!("invocation", invocation.id = %invocation, function.name = %name);
    let work = async {
        // The Functions host sends none; a web page in a browser on the same machine has to.
        // Nor does it compress, and a small compressed body could fill the memory.
        if ["origin", "content-encoding"].iter().any(|name| request.headers().contains_key(*name)) {
            return refuse(
                StatusCode::FORBIDDEN,
                &invocation,
                &name,
                "it does not come from the Functions host",
            );
        }
        let function = match function(&name) {
            Some(function) if !matches!(function.trigger, Trigger::Http { .. }) => function,
            _ => return refuse(StatusCode::NOT_FOUND, &invocation, &name, "there is no such function"),
        };
        if !header("content-type").to_ascii_lowercase().starts_with("application/json") {
            return refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &invocation,
                &name,
                "an invocation is application/json",
            );
        }
        let event = match read(function, &body) {
            Ok(event) => event,
            Err(reason) => return refuse(StatusCode::BAD_REQUEST, &invocation, &name, &reason),
        };
        match dispatch(&windlass, function, event).await {
            Ok(()) => HttpResponse::Ok().json(json!({})),
            Err(DispatchError::Malformed(reason)) => {
                refuse(StatusCode::BAD_REQUEST, &invocation, &name, &reason)
            }
            Err(error) => {
                tracing::error!(invocation.id = %invocation, function.name = %name, error = causes(&error), "invocation {invocation} of {name} failed");
                HttpResponse::InternalServerError().json(json!({ "error": error.to_string() }))
            }
        }
    };
    work.instrument(span).await
}

fn refuse(status: StatusCode, invocation: &str, name: &str, reason: &str) -> HttpResponse {
    tracing::warn!(
        invocation.id = invocation,
        function.name = name,
        reason,
        "invocation {invocation} of {name} was refused: {reason}"
    );
    HttpResponse::build(status).json(json!({ "error": reason }))
}

/// The event of an invocation's body.
fn read(function: &Function, body: &[u8]) -> Result<Event, String> {
    let invocation: Invocation =
        serde_json::from_slice(body).map_err(|error| format!("the body cannot be read: {error}"))?;
    if let Trigger::Timer { .. } = function.trigger {
        return Ok(Event::Tick);
    }
    let value = match invocation.data.values().next() {
        Some(value) if invocation.data.len() == 1 => value,
        _ => return Err("`Data` has to have exactly one member".to_owned()),
    };
    let many = function.trigger.brings_many();
    Ok(Event::Messages(if many { texts(value) } else { vec![text(value)] }))
}

/// A message's text. The host wraps it in one extra layer of JSON; its documentation shows it without.
fn text(value: &Value) -> String {
    let Some(layered) = value.as_str() else { return value.to_string() };
    let inner: Option<Value> = serde_json::from_str(layered).ok();
    inner.as_ref().and_then(Value::as_str).unwrap_or(layered).to_owned()
}

/// The messages of a batch: an array, or a string that holds one.
fn texts(value: &Value) -> Vec<String> {
    let inner: Option<Value> = value.as_str().and_then(|layered| serde_json::from_str(layered).ok());
    let plain = |element: &Value| element.as_str().map_or_else(|| element.to_string(), str::to_owned);
    match inner.as_ref().unwrap_or(value).as_array() {
        Some(elements) => elements.iter().map(plain).collect(),
        None => vec![text(value)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, data: &Value) -> Result<Vec<String>, String> {
        let body = json!({ "Data": data, "Metadata": { "sys": { "MethodName": "other" } } }).to_string();
        read(function(name).unwrap(), body.as_bytes()).map(|event| match event {
            Event::Messages(messages) => messages,
            Event::Tick => Vec::new(),
        })
    }

    #[test]
    fn one_extra_layer_is_taken_off_where_there_is_one() {
        let hint = r#"{"w1":{"run":"x"}}"#;
        for data in [
            json!({ "msg": Value::from(hint).to_string() }),
            json!({ "msg": hint }),
            json!({ "msg": { "w1": { "run": "x" } } }),
        ] {
            assert_eq!(check("step-build", &data).unwrap(), [hint]);
        }
        assert_eq!(check("step-build", &json!({ "msg": "\"ping\"" })).unwrap(), ["ping"]);
    }

    #[test]
    fn a_batch_may_be_texts_or_objects_layered_or_not() {
        for data in [
            json!({ "msgs": "[\"{}\",\"x\"]" }),
            json!({ "msgs": "[{},\"x\"]" }),
            json!({ "msgs": [{}, "x"] }),
        ] {
            assert_eq!(check("ADMIT", &data).unwrap(), ["{}", "x"]);
        }
    }

    #[test]
    fn data_has_one_member() {
        assert!(check("step-build", &json!({})).is_err());
        assert!(check("step-build", &json!({ "a": "x", "b": "y" })).is_err());
        assert!(check("timer-sweep", &json!({ "timer": {} })).unwrap().is_empty());
    }
}
