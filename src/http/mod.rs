//! The HTTP API: one table of routes, small handlers, one place that turns errors into answers.

mod deployments;
mod guard;
mod health;
mod metrics;
mod operations;
mod patience;
pub mod problem;
mod projects;
mod refused;
pub mod routes;
mod sources;
mod status;
mod stream;
mod traced;

use std::sync::atomic::AtomicBool;

use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;

use self::problem::Problem;
use crate::windlass::Windlass;

/// What every handler gets.
pub struct Api {
    /// The actions.
    pub windlass: Windlass,
    /// When the service started.
    pub started: Timestamp,
    /// False while it starts and while it stops.
    pub ready: AtomicBool,
    /// Names that requests may be for; anything else is DNS rebinding.
    pub hosts: Vec<String>,
}

/// Names of this machine, in the form of a Host header.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

impl Api {
    /// For requests to this machine; `ready` when it takes work at once.
    #[must_use]
    pub fn new(windlass: &Windlass, ready: bool) -> Self {
        Self {
            started: windlass.tools.clock.now(),
            windlass: windlass.clone(),
            ready: AtomicBool::new(ready),
            hosts: LOOPBACK.map(str::to_owned).to_vec(),
        }
    }

    /// The answer, or the problem with the request's own id.
    fn answer(&self, request: &HttpRequest, result: Result<HttpResponse, Problem>) -> HttpResponse {
        result.unwrap_or_else(|problem| problem.answer(&self.correlation(request)))
    }

    fn correlation(&self, request: &HttpRequest) -> String {
        problem::correlation(request, self.windlass.tools.ids.random())
    }
}
