//! The HTTP API: one table of routes, small handlers, one place that turns errors into answers.

mod deployments;
mod guard;
mod health;
mod metrics;
mod operations;
pub mod problem;
mod projects;
pub mod routes;
mod sources;
mod status;
mod stream;

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

impl Api {
    /// The answer, or the problem with the request's own id.
    fn answer(&self, request: &HttpRequest, result: Result<HttpResponse, Problem>) -> HttpResponse {
        result.unwrap_or_else(|problem| problem.answer(&self.correlation(request)))
    }

    fn correlation(&self, request: &HttpRequest) -> String {
        problem::correlation(request, self.windlass.tools.ids.random())
    }
}
