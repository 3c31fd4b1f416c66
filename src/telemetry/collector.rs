//! Makes spans, and what happened in them, out of what the program tells `tracing`.
//!
//! A hint learns its trace only when its run has been read, by calls that are part of the same trace. So the spans of one
//! piece of work stay together until the outermost one ends; only then all of them get their trace and leave.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::exporter::Outlet;
use crate::ambient::{Clock as _, Ids as _, SystemClock, SystemIds};
use crate::trace::TraceContext;

/// Spans below an outermost one, and events of one span, that are kept: far more than any work of ours has.
const MOST_SPANS: usize = 1_000;
const MOST_EVENTS: usize = 32;
/// Characters of one value.
const MOST_CHARS: usize = 1_024;
/// Begins the name of a field that is a figure.
const FIGURE: &str = "histogram.";

/// Names and values.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Client,
    Consumer,
    Internal,
}

/// A piece of work that is over.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) fields: Fields,
    pub(super) events: Vec<Happened>,
}

impl Span {
    /// Whether it failed: then it says with what.
    pub(super) fn fault(&self) -> Option<&str> {
        find(&self.fields, "fault.code").and_then(Value::as_str)
    }
}

/// Something that happened in a span.
#[derive(Debug)]
pub(super) struct Happened {
    pub(super) at: Timestamp,
    pub(super) message: String,
    pub(super) fields: Fields,
    /// A metric and its value; such an event says nothing else.
    pub(super) figure: Option<(&'static str, f64)>,
}

impl Happened {
    /// Code and message of an error.
    pub(super) fn exception(&self) -> Option<(&str, &str)> {
        let code = find(&self.fields, "exception.code")?.as_str()?;
        Some((code, find(&self.fields, "exception.message").and_then(Value::as_str).unwrap_or_default()))
    }
}

pub(super) fn find<'a>(fields: &'a [(&'static str, Value)], name: &str) -> Option<&'a Value> {
    fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The layer.
pub(super) struct Collector(pub(super) Vec<Outlet>);

/// What is known of a span before it ends.
struct Open {
    tree: Arc<Mutex<Tree>>,
    outermost: bool,
    span: Span,
}

/// An outermost span with everything below it.
struct Tree {
    trace: u128,
    /// Where it hangs in the trace.
    above: Option<u64>,
    done: Vec<Span>,
}

impl Tree {
    fn join(&mut self, above: TraceContext) {
        self.trace = above.trace();
        self.above = Some(above.span());
    }

    /// Keeps a span; gives all of them when it is the outermost.
    fn finish(&mut self, mut span: Span, outermost: bool) -> Option<Vec<Span>> {
        if !outermost {
            if self.done.len() < MOST_SPANS {
                self.done.push(span);
            }
            return None;
        }
        span.parent = self.above;
        let mut all = std::mem::take(&mut self.done);
        all.push(span);
        for span in &mut all {
            span.trace = self.trace;
        }
        Some(all)
    }
}

/// What a span or an event was told.
#[derive(Default)]
struct Told(Fields);

impl Told {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.push((field.name(), value));
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(index).1)
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name).and_then(|value| value.as_str().map(str::to_owned))
    }

    fn context(&mut self, name: &str) -> Option<TraceContext> {
        self.text(name)?.parse().ok()
    }

    fn figure(&mut self) -> Option<(&'static str, f64)> {
        let index = self.0.iter().position(|(name, _)| name.starts_with(FIGURE))?;
        let (name, value) = self.0.swap_remove(index);
        Some((name.strip_prefix(FIGURE)?, value.as_f64()?))
    }
}

impl Visit for Told {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.chars().take(MOST_CHARS).collect::<String>().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl<S> Layer<S> for Collector
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let Some(span) = cx.span(id) else { return };
        let mut told = Told::default();
        attributes.record(&mut told);
        let parent = span.parent().and_then(|parent| {
            parent.extensions().get::<Open>().map(|open| (Arc::clone(&open.tree), open.span.id))
        });
        let fresh = TraceContext::new(SystemIds.random(), SystemIds.random());
        let own = told.context("trace.context").unwrap_or(fresh);
        let above = told.context("trace.parent");
        let (tree, parent) = match parent {
            Some((tree, parent)) => (tree, Some(parent)),
            None => {
                let mut tree = Tree { trace: own.trace(), above: None, done: Vec::new() };
                if let Some(above) = above {
                    tree.join(above);
                }
                (Arc::new(Mutex::new(tree)), None)
            }
        };
        let now = SystemClock.now();
        let kind = match told.text("otel.kind").as_deref() {
            Some("server") => Kind::Server,
            Some("client") => Kind::Client,
            Some("consumer") => Kind::Consumer,
            _ => Kind::Internal,
        };
        let made = Span {
            trace: own.trace(),
            id: own.span(),
            parent,
            name: told.text("otel.name").unwrap_or_else(|| span.name().to_owned()),
            kind,
            started: now,
            ended: now,
            fields: told.0,
            events: Vec::new(),
        };
        span.extensions_mut().insert(Open { tree, outermost: parent.is_none(), span: made });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        let Some(span) = cx.span(id) else { return };
        let mut told = Told::default();
        values.record(&mut told);
        let (name, above) = (told.text("otel.name"), told.context("trace.parent"));
        let mut extensions = span.extensions_mut();
        let Some(open) = extensions.get_mut::<Open>() else { return };
        if let (Some(above), true) = (above, open.outermost) {
            open.tree.lock().unwrap_or_else(PoisonError::into_inner).join(above);
        }
        if let Some(name) = name {
            open.span.name = name;
        }
        open.span.fields.retain(|(known, _)| told.0.iter().all(|(name, _)| name != known));
        open.span.fields.append(&mut told.0);
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let Some(span) = cx.event_span(event) else { return };
        let mut told = Told::default();
        event.record(&mut told);
        let message = told.text("message").unwrap_or_default();
        let figure = told.figure();
        let happened = Happened { at: SystemClock.now(), message, fields: told.0, figure };
        let mut extensions = span.extensions_mut();
        if let Some(open) = extensions.get_mut::<Open>()
            && open.span.events.len() < MOST_EVENTS
        {
            open.span.events.push(happened);
        }
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        let Some(span) = cx.span(&id) else { return };
        let open = span.extensions_mut().remove::<Open>();
        let Some(Open { tree, outermost, span: mut made }) = open else { return };
        made.ended = SystemClock.now();
        let finished = tree.lock().unwrap_or_else(PoisonError::into_inner).finish(made, outermost);
        if let Some(spans) = finished {
            let batch = Arc::new(spans);
            for outlet in &self.0 {
                outlet.put(&batch);
            }
        }
    }
}
