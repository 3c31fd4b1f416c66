//! The chains, in order. One file per step.

mod build;
mod builder;
mod cleanup;
mod domain;
pub mod names;
mod observer;
mod release;
mod starter;
mod sync;
mod validate;

use std::sync::Arc;

use crate::deploy::artifacts::ArtifactError;
use crate::deploy::blobs::BlobError;
use crate::deploy::builder::BuilderError;
use crate::deploy::deployment::{Deployment, StoreError};
use crate::deploy::ids::DeploymentId;
use crate::deploy::release::Release;
use crate::deploy::runtime::RuntimeError;
use crate::windlass::Tools;
use crate::workflow::chain::{Chain, Context, Place, Step, StepError};

pub use build::BUILDER_VERSION;
pub use observer::STEP_TEXTS;
pub use release::Released;
pub use validate::Validated;

/// The deploy chain: validate, builder, sync, build, release, domain; then cleanup, always.
#[must_use]
pub fn deploy_chain(tools: &Arc<Tools>) -> Chain {
    let retry = tools.looks.retry;
    let place = |name, function, step: Arc<dyn Step>| Place { name, function, retry, step };
    Chain {
        name: names::DEPLOY,
        version: 1,
        steps: vec![
            place(names::VALIDATE, "step-validate", Arc::new(validate::Validate(Arc::clone(tools)))),
            place(names::BUILDER, "step-builder", Arc::new(builder::Prepare(Arc::clone(tools)))),
            place(names::SYNC, "step-sync", Arc::new(sync::Sync(Arc::clone(tools)))),
            place(names::BUILD, "step-build", Arc::new(build::Build(Arc::clone(tools)))),
            place(names::RELEASE, "step-release", Arc::new(release::GoLive(Arc::clone(tools)))),
            place(names::DOMAIN, "step-domain", Arc::new(domain::Bind(Arc::clone(tools)))),
        ],
        cleanup: Some(place(names::CLEANUP, "step-cleanup", Arc::new(cleanup::Cleanup(Arc::clone(tools))))),
        observer: Some(Arc::new(observer::DeploymentObserver(Arc::clone(tools)))),
    }
}

/// The deployment that a run is about.
async fn deployment(tools: &Tools, cx: &Context<'_>) -> Result<Deployment, StepError> {
    let id: DeploymentId = cx
        .subject
        .parse()
        .map_err(|_| StepError::permanent("INTERNAL", format!("{} is no deployment", cx.subject)))?;
    tools
        .deployments
        .get(id)
        .await?
        .ok_or_else(|| StepError::permanent("DEPLOYMENT_NOT_FOUND", format!("{id} does not exist any more")))
}

/// Release `number` of the deployment's app.
async fn recorded(tools: &Tools, cx: &Context<'_>, number: u64) -> Result<Release, StepError> {
    let app = deployment(tools, cx).await?.wish.app();
    let release = tools.releases.get(&app, number).await?;
    release.ok_or_else(|| {
        // A store far away may know it a moment later.
        StepError::transient("STORE_UNAVAILABLE", format!("release {number} of {app} is not recorded"))
    })
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::transient("STORE_UNAVAILABLE", error.to_string())
    }
}

impl From<BlobError> for StepError {
    fn from(error: BlobError) -> Self {
        match &error {
            BlobError::Missing(_) => Self::permanent("SOURCE_INCOMPLETE", error.to_string()),
            BlobError::Damaged(_) => Self::permanent("CONTENT_DAMAGED", error.to_string()),
            BlobError::Mismatch { .. } => Self::permanent("CONTENT_MISMATCH", error.to_string()),
            BlobError::TooLarge(_) => Self::permanent("SOURCE_TOO_LARGE", error.to_string()),
            BlobError::Full => Self::transient("DISK_FULL", error.to_string()),
            BlobError::Unavailable { source, .. } => {
                Self::transient("STORE_UNAVAILABLE", format!("{error}: {source}"))
            }
        }
    }
}

impl From<ArtifactError> for StepError {
    fn from(error: ArtifactError) -> Self {
        Self::transient("ARTIFACT_STORE_FAILED", error.to_string())
    }
}

impl From<BuilderError> for StepError {
    fn from(error: BuilderError) -> Self {
        match error {
            BuilderError::Unavailable(message) => Self::transient("BUILDER_UNAVAILABLE", message),
            BuilderError::Rejected { code, message } => Self::permanent(code, message),
        }
    }
}

impl From<RuntimeError> for StepError {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Unavailable(message) => Self::transient("RUNTIME_UNAVAILABLE", message),
            RuntimeError::Rejected { code, message } => Self::permanent(code, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::ids::Digest;
    use crate::workflow::chain::ErrorClass::{Permanent, Transient};

    #[test]
    fn what_a_port_cannot_do_has_a_code_and_is_tried_again_only_where_that_helps() {
        let digest = Digest::of(b"x");
        let broken = || std::io::Error::other("gone");
        let store = StoreError(Box::new(broken()));
        let blobs = BlobError::Unavailable { path: "p".to_owned(), source: broken() };
        for (error, code, class) in [
            (StepError::from(store), "STORE_UNAVAILABLE", Transient),
            (blobs.into(), "STORE_UNAVAILABLE", Transient),
            (BlobError::Full.into(), "DISK_FULL", Transient),
            (BlobError::Missing(digest).into(), "SOURCE_INCOMPLETE", Permanent),
            (BlobError::Damaged(digest).into(), "CONTENT_DAMAGED", Permanent),
            (BlobError::Mismatch { expected: digest, found: digest }.into(), "CONTENT_MISMATCH", Permanent),
            (BlobError::TooLarge(1).into(), "SOURCE_TOO_LARGE", Permanent),
            (ArtifactError("gone".to_owned()).into(), "ARTIFACT_STORE_FAILED", Transient),
            (BuilderError::Unavailable("gone".to_owned()).into(), "BUILDER_UNAVAILABLE", Transient),
            (
                BuilderError::Rejected { code: "REGISTRY_FORBIDDEN", message: "no".to_owned() }.into(),
                "REGISTRY_FORBIDDEN",
                Permanent,
            ),
            (RuntimeError::Unavailable("gone".to_owned()).into(), "RUNTIME_UNAVAILABLE", Transient),
        ] {
            assert_eq!((error.code.as_str(), error.class), (code, class), "{error}");
        }
    }
}
