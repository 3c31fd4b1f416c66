//! Spans, errors and metrics as Application Insights' ingestion API 2.1 has them. It knows text only as a custom
//! dimension, so that a flag is `true` or `false` there, and a number its digits.

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::http::Url;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::collector::{Happened, Kind, Span, find};
use super::exporter::Request;
use crate::ambient::between;
use crate::config::AppInsights;

/// Who we are on the map of applications.
const ROLE: &str = "windlass";

/// An Application Insights resource.
pub(super) struct Ingestion {
    pub(super) url: Url,
    key: SecretString,
    token: Option<(Arc<dyn TokenCredential>, String)>,
}

impl Ingestion {
    /// The resource of these settings; with tokens of `credential` where it wants them.
    pub(super) fn new(settings: &AppInsights, credential: Option<&Arc<dyn TokenCredential>>) -> Self {
        let mut url = settings.endpoint.clone();
        url.set_path(&format!("{}/v2.1/track", url.path().trim_end_matches('/')));
        let token = credential.filter(|_| settings.with_identity).map(|credential| {
            (Arc::clone(credential), format!("{}/.default", settings.audience.trim_end_matches('/')))
        });
        Self { url, key: settings.key.clone(), token }
    }

    /// A token, where one is wanted.
    pub(super) async fn token(&self) -> azure_core::Result<Option<String>> {
        let Some((credential, scope)) = &self.token else { return Ok(None) };
        // Asking for the right to send telemetry is no telemetry itself.
        let token =
            credential.get_token(&[scope.as_str()], None).with_subscriber(NoSubscriber::default()).await?;
        Ok(Some(token.token.secret().to_owned()))
    }

    pub(super) fn request(&self, spans: &[&Span]) -> Request {
        let items: Vec<Value> = spans.iter().flat_map(|span| self.items(span)).collect();
        Request { url: self.url.clone(), body: Value::from(items).to_string().into() }
    }

    fn items(&self, span: &Span) -> Vec<Value> {
        let (kind, data) = match span.kind {
            Kind::Server | Kind::Consumer => ("Request", incoming(span)),
            Kind::Client | Kind::Internal => ("RemoteDependency", outgoing(span)),
        };
        let own = self.item(kind, span.started, (span.trace, span.parent), &data);
        let below = span.events.iter().map(|event| {
            let (kind, data) = happened(event);
            self.item(kind, event.at, (span.trace, Some(span.id)), &data)
        });
        std::iter::once(own).chain(below).collect()
    }

    fn item(&self, kind: &str, at: Timestamp, (trace, parent): (u128, Option<u64>), data: &Value) -> Value {
        let mut tags = Map::new();
        tags.insert("ai.cloud.role".to_owned(), ROLE.into());
        tags.insert("ai.application.ver".to_owned(), env!("CARGO_PKG_VERSION").into());
        tags.insert("ai.operation.id".to_owned(), format!("{trace:032x}").into());
        if let Some(parent) = parent {
            tags.insert("ai.operation.parentId".to_owned(), format!("{parent:016x}").into());
        }
        json!({
            "name": format!("Microsoft.ApplicationInsights.{kind}"),
            "time": at.to_string(),
            "iKey": self.key.expose_secret(),
            "tags": tags,
            "data": { "baseType": format!("{kind}Data"), "baseData": data },
        })
    }
}

fn duration(span: &Span) -> String {
    let whole = between(span.started, span.ended);
    let (seconds, micros) = (whole.as_secs(), whole.subsec_micros());
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    format!("{:02}.{:02}:{:02}:{:02}.{micros:06}", hours / 24, hours % 24, minutes % 60, seconds % 60)
}

fn text(value: &Value) -> Value {
    if value.is_string() { value.clone() } else { value.to_string().into() }
}

fn properties(fields: &[(&'static str, Value)]) -> Value {
    let version = ("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    let told = fields.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
    Value::Object(std::iter::once(version).chain(told).collect())
}

/// The answer's status, or the fault, or nothing.
fn result(span: &Span) -> Value {
    let status = find(&span.fields, "http.response.status_code").map(text);
    status.or_else(|| span.fault().map(Value::from)).unwrap_or_else(|| "0".into())
}

fn incoming(span: &Span) -> Value {
    json!({
        "ver": 2,
        "id": format!("{:016x}", span.id),
        "name": span.name,
        "duration": duration(span),
        "responseCode": result(span),
        "success": span.fault().is_none(),
        "properties": properties(&span.fields),
    })
}

fn outgoing(span: &Span) -> Value {
    let (kind, target) = match find(&span.fields, "server.address") {
        Some(address) => ("HTTP", text(address)),
        None => match find(&span.fields, "db.system.name") {
            Some(system) => ("Azure DocumentDB", text(system)),
            None => ("InProc", "".into()),
        },
    };
    json!({
        "ver": 2,
        "id": format!("{:016x}", span.id),
        "name": span.name,
        "duration": duration(span),
        "resultCode": result(span),
        "success": span.fault().is_none(),
        "type": kind,
        "target": target,
        "properties": properties(&span.fields),
    })
}

fn happened(event: &Happened) -> (&'static str, Value) {
    let properties = properties(&event.fields);
    if let Some((name, value)) = event.figure {
        let point = json!({ "name": name, "kind": "Measurement", "value": value, "count": 1 });
        return ("Metric", json!({ "ver": 2, "metrics": [point], "properties": properties }));
    }
    if let Some((code, message)) = event.exception() {
        let details = json!({ "typeName": code, "message": message, "hasFullStack": false });
        let data = json!({
            "ver": 2, "exceptions": [details], "severityLevel": "Error", "problemId": code, "properties": properties,
        });
        return ("Exception", data);
    }
    let data = json!({
        "ver": 2, "message": event.message, "severityLevel": "Information", "properties": properties,
    });
    ("Message", data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_days_and_microseconds() {
        let ended = Timestamp::UNIX_EPOCH + std::time::Duration::from_micros(93_784_000_005);
        let span = Span {
            trace: 1,
            id: 2,
            parent: None,
            name: String::new(),
            kind: Kind::Internal,
            started: Timestamp::UNIX_EPOCH,
            ended,
            fields: Vec::new(),
            events: Vec::new(),
        };
        assert_eq!(duration(&span), "01.02:03:04.000005");
    }
}
