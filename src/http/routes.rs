//! Every route, on one page. Both hosts mount the same table; no route can reach a trigger's path.

use std::sync::Arc;

use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder};

use super::problem::Problem;
use super::{
    Api, deployments, guard, health, metrics, operations, patience, projects, refused, sources, status,
    traced,
};

/// Bytes of a JSON body: a request with every variable at its limit fits.
const MOST_JSON_BYTES: usize = 10 << 20;

/// Bytes of a body that a resource takes, for the refusal of what is larger.
pub(super) struct MostBytes(pub(super) usize);

/// Mounts the API.
pub fn mount(config: &mut ServiceConfig, api: &Arc<Api>) {
    let manifest = api.windlass.tools.limits.source.manifest_bytes();
    let manifest = usize::try_from(manifest).unwrap_or(usize::MAX);
    config.app_data(Data::from(Arc::clone(api))).service(
        web::scope("")
            .wrap(from_fn(refused::in_our_words))
            .wrap(from_fn(guard::refuse_forged))
            .wrap(from_fn(patience::with_patience))
            // Around the guard: what is refused is part of a trace too.
            .wrap(from_fn(traced::in_a_span))
            .app_data(web::PayloadConfig::new(MOST_JSON_BYTES))
            .app_data(MostBytes(MOST_JSON_BYTES))
            .service(read("/", health::name))
            .service(web::resource("/deploy").post(deployments::create))
            .service(web::resource("/api/deploy").post(deployments::create_v2))
            .service(read("/deploy/project/{project}", deployments::of_project))
            .service(read("/deploy/{id}/status", deployments::status))
            .service(read("/deploy/{id}/sbom", deployments::materials))
            .service(read("/deploy/{id}/logs", deployments::logs))
            .service(web::resource("/deploy/{id}/cancel").post(deployments::cancel))
            .service(web::resource("/deploy/{id}/retry").post(deployments::retry))
            .service(read("/health", health::basic))
            .service(read("/health/detailed", health::detailed))
            .service(read("/health/ready", health::ready))
            .service(read("/health/live", health::live))
            .service(read("/ready", health::ready))
            .service(read("/status", status::service))
            .service(read("/status/queue", status::queue))
            .service(web::resource("/status/cleanup").post(status::cleanup))
            .service(read("/status/deployments", status::deployments))
            .service(read("/metrics", metrics::prometheus))
            .service(
                web::resource("/sources")
                    .app_data(web::PayloadConfig::new(manifest))
                    .app_data(MostBytes(manifest))
                    .post(sources::create),
            )
            .service(web::resource("/sources/blobs").post(sources::put_batch))
            .service(web::resource("/sources/blobs/{sha256}").put(sources::put_blob))
            .service(read("/projects/revisions", projects::revisions))
            .service(read("/projects/{project}/output", projects::output))
            .service(read("/operations/dead-letters", operations::dead_letters).delete(operations::purge))
            .service(
                read("/operations/dead-letters/{id}", operations::dead_letter).delete(operations::purge_one),
            )
            .service(web::resource("/operations/dead-letters/{id}/redrive").post(operations::redrive))
            .default_service(web::to(nothing_here)),
    );
}

/// A route that is read: HEAD asks for the head of the same answer (RFC 9110, section 9.3.2).
fn read<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path).get(handler.clone()).head(handler)
}

async fn nothing_here(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let detail = format!("{} {} is not part of the API", request.method(), request.path());
    api.answer(&request, Err(Problem::new("NOT_FOUND", detail)))
}
