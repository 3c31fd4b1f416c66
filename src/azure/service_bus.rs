//! Sends messages to Service Bus over its REST interface (operations by HTTPS, Microsoft Learn, "Send Message").
//!
//! Receiving, completing and dead-lettering is the Functions host's work.

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::http::headers::{CONTENT_TYPE, HeaderName};
use azure_core::http::{Context, Method, Pipeline, Request, RetryOptions, Url};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Map, Value, json};

use super::post::{Letter, PostError, whole_second};
use super::transport::Wire;

/// Audience of tokens for Service Bus, the same in every cloud.
const SCOPE: &str = "https://servicebus.azure.net/.default";
/// Largest message of the Standard tier; ours are far smaller.
const MOST_BYTES: usize = 256 * 1024;
const BROKER_PROPERTIES: HeaderName = HeaderName::from_static("brokerproperties");

/// A namespace.
pub struct ServiceBus {
    pipeline: Pipeline,
    namespace: Url,
}

impl ServiceBus {
    /// The namespace at this address.
    #[must_use]
    pub fn new(namespace: &Url, credential: &Arc<dyn TokenCredential>, wire: &Wire) -> Self {
        let pipeline = wire.pipeline(RetryOptions::default(), Some((credential, SCOPE)));
        Self { pipeline, namespace: Wire::secure(namespace) }
    }

    /// Puts a message on its queue; delivered at once, or when it is due.
    ///
    /// The pipeline repeats what got no answer, so duplicate detection has to be on: the message id is the letter's.
    ///
    /// # Errors
    /// [`PostError`] when the namespace did not take it.
    pub async fn send(&self, letter: &Letter, now: Timestamp) -> Result<(), PostError> {
        if letter.text.len() > MOST_BYTES {
            return Err(format!(
                "the message {} has {} bytes, more than Service Bus takes",
                letter.id,
                letter.text.len()
            )
            .into());
        }
        let mut url = self.namespace.clone();
        url.path_segments_mut()
            .map_err(|()| "the namespace's address has no path")?
            .pop_if_empty()
            .extend([letter.queue, "messages"]);
        let mut request = Request::new(url, Method::Post);
        request.insert_header(CONTENT_TYPE, "application/json");
        request.insert_header(BROKER_PROPERTIES, broker_properties(letter, now)?.to_string());
        request.set_body(letter.text.clone());
        self.pipeline.send(&Context::new(), &mut request, None).await?;
        Ok(())
    }
}

fn broker_properties(letter: &Letter, now: Timestamp) -> Result<Value, PostError> {
    let mut properties = Map::from_iter([
        ("MessageId".to_owned(), json!(letter.id)),
        ("CorrelationId".to_owned(), json!(letter.about)),
    ]);
    if letter.due > now {
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&whole_second(letter.due))?;
        properties.insert("ScheduledEnqueueTimeUtc".to_owned(), json!(text));
    }
    Ok(Value::Object(properties))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_later_is_scheduled_in_whole_seconds_and_never_early() {
        let now: Timestamp = "2026-11-21T06:00:00.2Z".parse().unwrap();
        let letter = |due: &str| Letter {
            id: "i".to_owned(),
            about: "r".to_owned(),
            queue: "step-build",
            text: "{}".to_owned(),
            due: due.parse().unwrap(),
        };
        let at =
            |due: &str| broker_properties(&letter(due), now).unwrap().get("ScheduledEnqueueTimeUtc").cloned();
        assert_eq!(at("2026-11-21T06:00:00Z"), None);
        assert_eq!(at("2026-11-21T06:00:00.3Z"), Some(json!("Sat, 21 Nov 2026 06:00:01 GMT")));
        assert_eq!(at("2026-11-21T06:01:00Z"), Some(json!("Sat, 21 Nov 2026 06:01:00 GMT")));
    }
}
