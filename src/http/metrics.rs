//! `GET /metrics`: figures of deployments and queues as Prometheus reads them (text format 0.0.4).

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use super::Api;
use super::problem::Problem;
use crate::ambient::between;
use crate::deploy::deployment::Status;

/// The format's media type.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric with its lines.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Label and value, and the figure.
    lines: Vec<(Option<(&'static str, String)>, f64)>,
}

fn write(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, lines } in metrics {
        text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (label, figure) in lines {
            let label =
                label.as_ref().map(|(label, value)| format!("{{{label}=\"{value}\"}}")).unwrap_or_default();
            text += &format!("{name}{label} {figure}\n");
        }
    }
    text
}

async fn metrics(api: &Api) -> Result<Vec<Metric>, Problem> {
    let tools = &api.windlass.tools;
    let (stats, durations) = (tools.deployments.stats().await?, tools.deployments.durations_ms().await?);
    let (depths, dead) = (tools.backlog.depths().await?, tools.backlog.dead_letter_count().await?);
    let count = |status: Status| stats.by_status.get(&status).copied().unwrap_or_default() as f64;
    let quantile = |percent: usize| {
        let index = (durations.len() * percent / 100).min(durations.len().saturating_sub(1));
        durations.get(index).map(|ms| (Some(("quantile", format!("0.{percent}"))), *ms as f64 / 1_000.0))
    };
    let gauge = |name, help, lines| Metric { name, kind: "gauge", help, lines };
    Ok(vec![
        gauge(
            "windlass_info",
            "The version that runs.",
            vec![(Some(("version", env!("CARGO_PKG_VERSION").to_owned())), 1.0)],
        ),
        gauge(
            "windlass_uptime_seconds",
            "Since the service started.",
            vec![(None, between(api.started, tools.clock.now()).as_secs_f64())],
        ),
        gauge(
            "windlass_deployments",
            "Deployments that are kept, by status.",
            Status::ALL
                .into_iter()
                .map(|status| (Some(("status", status.as_str().to_owned())), count(status)))
                .collect(),
        ),
        gauge(
            "windlass_deploy_duration_seconds",
            "From admission to success, of the newest successful deployments.",
            [50, 95].into_iter().filter_map(quantile).collect(),
        ),
        gauge(
            "windlass_queue_messages",
            "Messages that wait or are being worked on.",
            depths
                .iter()
                .map(|depth| (Some(("queue", depth.queue.clone())), depth.messages as f64))
                .collect(),
        ),
        gauge("windlass_dead_letters", "Messages that failed too often.", vec![(None, dead as f64)]),
    ])
}

/// `GET /metrics`.
pub(super) async fn prometheus(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let metrics = metrics(&api).await;
    api.answer(
        &request,
        metrics.map(|metrics| HttpResponse::Ok().content_type(MEDIA_TYPE).body(write(&metrics))),
    )
}
