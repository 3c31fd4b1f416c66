//! Every route, on one page. Both hosts mount the same table; no route can reach a trigger's path.

use std::sync::Arc;

use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};

use super::problem::Problem;
use super::{
    Api, deployments, guard, health, metrics, operations, patience, projects, refused, sources, status,
    traced,
};

/// Bytes of a JSON body: a request with every variable at its limit fits.
pub(super) const MOST_JSON_BYTES: usize = 10 << 20;

/// Mounts the API.
pub fn mount(config: &mut ServiceConfig, api: &Arc<Api>) {
    config.app_data(Data::from(Arc::clone(api))).service(
        web::scope("")
            .wrap(from_fn(refused::in_our_words))
            .wrap(from_fn(guard::refuse_forged))
            .wrap(from_fn(patience::with_patience))
            // Around the guard: what is refused is part of a trace too.
            .wrap(from_fn(traced::in_a_span))
            .app_data(web::PayloadConfig::new(MOST_JSON_BYTES))
            .service(web::resource("/").get(health::name))
            .service(web::resource("/deploy").post(deployments::create))
            .service(web::resource("/api/deploy").post(deployments::create_v2))
            .service(web::resource("/deploy/project/{project}").get(deployments::of_project))
            .service(web::resource("/deploy/{id}/status").get(deployments::status))
            .service(web::resource("/deploy/{id}/sbom").get(deployments::materials))
            .service(web::resource("/deploy/{id}/logs").get(deployments::logs))
            .service(web::resource("/deploy/{id}/cancel").post(deployments::cancel))
            .service(web::resource("/deploy/{id}/retry").post(deployments::retry))
            .service(web::resource("/health").get(health::basic))
            .service(web::resource("/health/detailed").get(health::detailed))
            .service(web::resource("/health/ready").get(health::ready))
            .service(web::resource("/health/live").get(health::live))
            .service(web::resource("/ready").get(health::ready))
            .service(web::resource("/status").get(status::service))
            .service(web::resource("/status/queue").get(status::queue))
            .service(web::resource("/status/cleanup").post(status::cleanup))
            .service(web::resource("/status/deployments").get(status::deployments))
            .service(web::resource("/metrics").get(metrics::prometheus))
            .service(web::resource("/sources").post(sources::create))
            .service(web::resource("/sources/blobs").post(sources::put_batch))
            .service(web::resource("/sources/blobs/{sha256}").put(sources::put_blob))
            .service(web::resource("/projects/revisions").get(projects::revisions))
            .service(web::resource("/projects/{project}/output").get(projects::output))
            .service(
                web::resource("/operations/dead-letters")
                    .get(operations::dead_letters)
                    .delete(operations::purge),
            )
            .service(
                web::resource("/operations/dead-letters/{id}")
                    .get(operations::dead_letter)
                    .delete(operations::purge_one),
            )
            .service(web::resource("/operations/dead-letters/{id}/redrive").post(operations::redrive))
            .default_service(web::to(nothing_here)),
    );
}

async fn nothing_here(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let detail = format!("{} {} is not part of the API", request.method(), request.path());
    api.answer(&request, Err(Problem::new("NOT_FOUND", detail)))
}
