//! A deployment's log as server-sent events: ids, heartbeats, and an end when the deployment has ended.

use std::collections::VecDeque;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data};

use super::Api;
use crate::deploy::ids::DeploymentId;
use crate::deploy::log::{From, Line};

/// Silence after which a comment is sent: below the 230 s after which Azure's front end cuts a silent answer.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Lines read at a time.
const LINES: usize = 500;

struct Following {
    api: Data<Api>,
    deployment: DeploymentId,
    from: From,
    /// Where the log ended when it was looked at last. What is before it and no line, such as one that was cut short, is
    /// not waited for again.
    seen: u64,
    step: Option<String>,
    waiting: VecDeque<Line>,
    ended: bool,
}

/// The stream of lines from `from` on.
pub(super) fn events(
    api: Data<Api>,
    deployment: DeploymentId,
    from: From,
    step: Option<String>,
) -> HttpResponse {
    let following =
        Following { api, deployment, from, seen: 0, step, waiting: VecDeque::new(), ended: false };
    let events = futures_util::stream::unfold(following, |mut following| async move {
        let text = following.next().await?;
        Some((Ok::<Bytes, std::io::Error>(Bytes::from(text)), following))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(events)
}

impl Following {
    async fn next(&mut self) -> Option<String> {
        let tools = &self.api.windlass.tools;
        // One for all turns: to the client lines of other steps are silence too.
        let mut silence = tools.clock.sleep(HEARTBEAT);
        loop {
            if self.waiting.is_empty() {
                match tools.logs.read(self.deployment, self.from, LINES).await {
                    Ok(lines) => self.waiting.extend(lines),
                    Err(error) => {
                        tracing::warn!(deployment.id = %self.deployment, error = %error, "a followed log cannot be read");
                        return None;
                    }
                }
            }
            let after = if let From::After(id) = self.from { id } else { 0 };
            let mut text = String::new();
            let mut last = None;
            for line in self.waiting.drain(..) {
                self.from = From::After(line.id);
                // A retried deployment says more after its first end.
                self.ended = line.kind == "deployment.ended";
                last = Some(line.id);
                if self.step.is_none() || line.step == self.step {
                    text.push_str(&event(&line));
                }
            }
            if !text.is_empty() {
                return Some(text);
            }
            if last.is_some() {
                continue;
            }
            if self.ended {
                return None;
            }
            if let From::Tail(_) = self.from {
                self.from = From::After(0);
            }
            tokio::select! {
                biased;
                () = &mut silence => {
                    // A crash may have swallowed the last line; the record still knows that it is over.
                    let deployment = tools.deployments.get(self.deployment).await;
                    self.ended = !matches!(deployment, Ok(Some(deployment)) if !deployment.status.is_final());
                    return Some(": still here\n\n".to_owned());
                }
                end = tools.logs.changed(self.deployment, after.max(self.seen)) => self.seen = end,
            }
        }
    }
}

fn event(line: &Line) -> String {
    // A line is one JSON object without line ends, which is what an event's data may be.
    let json = serde_json::to_string(line).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {json}\n\n", line.id, line.kind)
}
