//! Spans and metrics as OTLP over HTTP has them in JSON (OpenTelemetry Protocol 1.x: ids in hexadecimal, 64-bit numbers as
//! text, enums as numbers).

use std::collections::BTreeMap;

use azure_core::http::Url;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::collector::{Happened, Kind, Span};
use super::exporter::Request;

/// Upper bounds of a histogram, in seconds: deployments take from moments to ten minutes.
const BOUNDS: [f64; 9] = [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// `AGGREGATION_TEMPORALITY_DELTA`: each request has what is new.
const DELTA: u8 = 1;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// A receiver of OTLP.
pub(super) struct Otlp {
    pub(super) traces: Url,
    metrics: Url,
}

impl Otlp {
    /// The receiver at this base address.
    pub(super) fn new(base: &Url) -> Self {
        let at = |signal: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}/v1/{signal}", base.path().trim_end_matches('/')));
            url
        };
        Self { traces: at("traces"), metrics: at("metrics") }
    }

    pub(super) fn requests(&self, spans: &[&Span]) -> Vec<Request> {
        let request = |url: &Url, body: &Value| Request { url: url.clone(), body: body.to_string().into() };
        let mut requests = vec![request(&self.traces, &traces(spans))];
        let histograms = histograms(spans);
        if !histograms.is_empty() {
            let scope = json!({ "scope": scope(), "metrics": histograms });
            let body = json!({ "resourceMetrics": [{ "resource": resource(), "scopeMetrics": [scope] }] });
            requests.push(request(&self.metrics, &body));
        }
        requests
    }
}

fn resource() -> Value {
    json!({ "attributes": [
        attribute("service.name", &json!("windlass")),
        attribute("service.version", &json!(env!("CARGO_PKG_VERSION"))),
    ] })
}

fn scope() -> Value {
    json!({ "name": "windlass", "version": env!("CARGO_PKG_VERSION") })
}

fn attribute(name: &str, value: &Value) -> Value {
    let typed = match value {
        Value::Bool(value) => json!({ "boolValue": value }),
        Value::Number(number) if number.is_f64() => json!({ "doubleValue": number }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::String(text) => json!({ "stringValue": text }),
        Value::Null | Value::Array(_) | Value::Object(_) => json!({ "stringValue": value.to_string() }),
    };
    json!({ "key": name, "value": typed })
}

fn attributes(fields: &[(&'static str, Value)]) -> Vec<Value> {
    fields.iter().map(|(name, value)| attribute(name, value)).collect()
}

fn nanos(at: Timestamp) -> String {
    at.as_nanosecond().to_string()
}

fn traces(spans: &[&Span]) -> Value {
    let spans: Vec<Value> = spans.iter().map(|span| written(span)).collect();
    json!({ "resourceSpans": [{ "resource": resource(), "scopeSpans": [{ "scope": scope(), "spans": spans }] }] })
}

fn written(span: &Span) -> Value {
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
        Kind::Consumer => 5,
    };
    let status = match span.fault() {
        Some(code) => json!({ "code": ERROR, "message": code }),
        None => json!({}),
    };
    json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id),
        "parentSpanId": span.parent.map(|parent| format!("{parent:016x}")).unwrap_or_default(),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanos(span.started),
        "endTimeUnixNano": nanos(span.ended),
        "attributes": attributes(&span.fields),
        "events": span.events.iter().filter(|event| event.figure.is_none()).map(event).collect::<Vec<_>>(),
        "status": status,
    })
}

/// Errors have the names of OpenTelemetry's conventions.
fn event(event: &Happened) -> Value {
    let mut attributes = attributes(&event.fields);
    let mut name = event.message.as_str();
    if let Some((code, _)) = event.exception() {
        attributes.push(attribute("exception.type", &json!(code)));
        attributes.push(attribute("message", &json!(event.message)));
        name = "exception";
    }
    json!({ "timeUnixNano": nanos(event.at), "name": name, "attributes": attributes })
}

/// The figures of one metric with the same attributes.
struct Figures {
    attributes: Vec<Value>,
    from: Timestamp,
    until: Timestamp,
    values: Vec<f64>,
}

fn histograms(spans: &[&Span]) -> Vec<Value> {
    let mut metrics: BTreeMap<&str, BTreeMap<String, Figures>> = BTreeMap::new();
    for (span, event) in spans.iter().flat_map(|span| span.events.iter().map(move |event| (span, event))) {
        let Some((name, value)) = event.figure else { continue };
        let attributes = attributes(&event.fields);
        let figures =
            metrics.entry(name).or_default().entry(json!(attributes).to_string()).or_insert_with(|| {
                Figures { attributes, from: span.started, until: event.at, values: Vec::new() }
            });
        figures.from = figures.from.min(span.started);
        figures.until = figures.until.max(event.at);
        figures.values.push(value);
    }
    let metric = |(name, points): (&str, BTreeMap<String, Figures>)| {
        let points: Vec<Value> = points.into_values().map(point).collect();
        let unit = if name.ends_with("_seconds") { "s" } else { "1" };
        json!({ "name": name, "unit": unit, "histogram": { "aggregationTemporality": DELTA, "dataPoints": points } })
    };
    metrics.into_iter().map(metric).collect()
}

fn point(figures: Figures) -> Value {
    let Figures { attributes, from, until, values } = figures;
    let within = |low: Option<f64>, high: Option<f64>| {
        let inside =
            |value: &&f64| low.is_none_or(|low| **value > low) && high.is_none_or(|high| **value <= high);
        values.iter().filter(inside).count().to_string()
    };
    let lows = std::iter::once(None).chain(BOUNDS.map(Some));
    let highs = BOUNDS.map(Some).into_iter().chain(std::iter::once(None));
    let counts: Vec<String> = lows.zip(highs).map(|(low, high)| within(low, high)).collect();
    json!({
        "attributes": attributes,
        "startTimeUnixNano": nanos(from),
        "timeUnixNano": nanos(until),
        "count": values.len().to_string(),
        "sum": values.iter().sum::<f64>(),
        "min": values.iter().copied().fold(f64::INFINITY, f64::min),
        "max": values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "explicitBounds": BOUNDS,
        "bucketCounts": counts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_with_the_same_attributes_are_one_point() {
        let figure = |value, environment: &str| Happened {
            at: Timestamp::UNIX_EPOCH,
            message: String::new(),
            fields: vec![("environment", json!(environment))],
            figure: Some(("some_seconds", value)),
        };
        let span = Span {
            trace: 1,
            id: 2,
            parent: None,
            name: "x".to_owned(),
            kind: Kind::Internal,
            started: Timestamp::UNIX_EPOCH,
            ended: Timestamp::UNIX_EPOCH,
            fields: Vec::new(),
            events: vec![figure(1.0, "a"), figure(700.0, "a"), figure(3.0, "b")],
        };
        let metrics = histograms(&[&span]);
        assert_eq!(metrics.len(), 1);
        let points = metrics[0]["histogram"]["dataPoints"].as_array().unwrap();
        assert_eq!((points.len(), &points[0]["count"], &points[0]["max"]), (2, &json!("2"), &json!(700.0)));
        assert_eq!(
            points[0]["bucketCounts"],
            json!(["1", "0", "0", "0", "0", "0", "0", "0", "0", "1"]),
            "a bound belongs to the bucket below it"
        );
        assert_eq!(points[0]["attributes"][0]["value"]["stringValue"], "a");
    }

    #[test]
    fn values_keep_their_types() {
        let of = |value: Value| attribute("x", &value)["value"].clone();
        assert_eq!(of(json!(true)), json!({ "boolValue": true }));
        assert_eq!(of(json!(7)), json!({ "intValue": "7" }));
        assert_eq!(of(json!(0.5)), json!({ "doubleValue": 0.5 }));
        assert_eq!(of(json!("x")), json!({ "stringValue": "x" }));
    }
}
