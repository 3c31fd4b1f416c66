//! Where a piece of work belongs in a distributed trace (W3C Trace Context, level 1), and how spans say so.
//!
//! Spans and events with the target [`TARGET`] are telemetry, not log lines: without an exporter they cost nothing. A span's
//! name and kind are in its fields `otel.name` and `otel.kind`, as tracing's bridges to OpenTelemetry have them;
//! `trace.context` is its own place, where somebody else has to know it, and `trace.parent` the place above it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Target of what is telemetry.
pub const TARGET: &str = "telemetry";

/// A span of a trace, written `00-<trace>-<span>-01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
}

impl TraceContext {
    /// A span of `trace`, named by some of 128 random bits. Zeros, which would mean nothing, become ones.
    #[must_use]
    pub fn new(trace: u128, random: u128) -> Self {
        let half = random.to_be_bytes().first_chunk().map_or(0, |half| u64::from_be_bytes(*half));
        Self { trace: trace.max(1), span: half.max(1) }
    }

    /// The trace of something that has a name and came without one; the same name gives the same trace.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let (trace, span) = digest.split_at(16);
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        Self::new(number(trace), number(span))
    }

    /// The whole trace.
    #[must_use]
    pub fn trace(self) -> u128 {
        self.trace
    }

    /// The span in it.
    #[must_use]
    pub fn span(self) -> u64 {
        self.span
    }

    /// The trace's id as it is written: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// Text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a traceparent is 00-<32 hexadecimal digits>-<16 hexadecimal digits>-<2 hexadecimal digits>")]
pub struct BadTraceContext;

impl FromStr for TraceContext {
    type Err = BadTraceContext;

    fn from_str(text: &str) -> Result<Self, BadTraceContext> {
        parse(text).ok_or(BadTraceContext)
    }
}

/// Newer versions may have more parts; version ff means nothing (section 3.2.2.1 of the recommendation).
fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let span = hex(parts.next()?, 16)?;
    hex(parts.next()?, 2)?;
    if version == 0xff || trace == 0 || span == 0 || (version == 0 && parts.next().is_some()) {
        return None;
    }
    Some(TraceContext { trace, span: u64::try_from(span).ok()? })
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if plain && text.len() == digits { u128::from_str_radix(text, 16).ok() } else { None }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_reads_as_it_is_written() {
        let context: TraceContext = GOOD.parse().unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let json = serde_json::to_string(&context).unwrap();
        assert_eq!(serde_json::from_str::<TraceContext>(&json).unwrap(), context);
        assert!(GOOD.replacen("00", "01", 1).parse::<TraceContext>().is_ok());
        assert!(format!("{}-more", GOOD.replacen("00", "01", 1)).parse::<TraceContext>().is_ok());
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            String::new(),
            GOOD.to_uppercase(),
            format!("{GOOD}-more"),
            GOOD.replacen("00", "ff", 1),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("00f067aa0ba902b7", "+0f067aa0ba902b7"),
            GOOD.replace("-01", ""),
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_has_one_trace() {
        assert_eq!(TraceContext::of_name("a"), TraceContext::of_name("a"));
        assert_ne!(TraceContext::of_name("a").trace(), TraceContext::of_name("b").trace());
        assert_ne!(TraceContext::new(0, 0).span(), 0);
    }
}
