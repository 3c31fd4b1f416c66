//! Checks the wish against what exists, and makes the plan that the other steps follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::starter::starter;
use crate::deploy::deployment::Deployment;
use crate::deploy::detect::{DetectError, Facts, Kind, Plan, detect};
use crate::deploy::footing::Needs;
use crate::deploy::ids::{Digest, Name};
use crate::deploy::release::Artifact;
use crate::deploy::runtime::Place;
use crate::deploy::source::{Manifest, SourceError};
use crate::deploy::target::{Target, unfit};
use crate::deploy::wish::Wish;
use crate::windlass::Tools;
use crate::workflow::chain::{Context, Next, Step, StepError};

/// Largest project file that detection reads.
const MOST_FACT_BYTES: u64 = 1 << 20;

/// What the other steps need to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Validated {
    /// The source that is deployed.
    pub source: Digest,
    /// How.
    pub plan: Plan,
    /// What the artifact is made of, by name.
    pub inputs: BTreeMap<String, String>,
    /// Digest of the inputs.
    pub inputs_digest: Digest,
    /// An artifact that was made of the same inputs before.
    pub reused: Option<Artifact>,
    /// Host names, the built-in one first.
    pub hosts: Vec<String>,
}

/// The step.
pub(super) struct Validate(pub(super) Arc<Tools>);

#[async_trait]
impl Step for Validate {
    async fn run(&self, cx: &Context<'_>) -> Result<Next, StepError> {
        let tools = &self.0;
        let deployment = super::deployment(tools, cx).await?;
        let wish = &deployment.wish;
        let project = tools.releases.project(&wish.org, &wish.project, &wish.title, cx.now).await?;
        let manifest = match wish.source.or(project.source) {
            Some(source) => manifest(tools, &wish.org, source).await?,
            None => starter(tools.blobs.as_ref(), &wish.org, cx.now).await?,
        };
        tools.retention.use_source(&wish.org, manifest.digest(), cx.now).await?;
        manifest
            .fits(&tools.limits.source)
            .map_err(|error| StepError::permanent("SOURCE_TOO_LARGE", error.to_string()))?;
        refuse_missing(tools, &wish.org, &manifest, cx.now).await?;
        let plan = plan(tools, &deployment, &manifest).await?;
        let source = manifest.digest();
        if wish.source.is_some() {
            tools.releases.set_source(&project, source).await?;
        }
        let domains: Vec<String> = wish.domain.iter().chain(&plan.domains).cloned().collect();
        if let Some(why) = unfit(&plan, &domains) {
            return Err(StepError::permanent("VALIDATION_PROJECT", why));
        }
        let mut inputs = inputs(source, &plan);
        inputs.extend(tools.artifacts.inputs(&wish.app(), &plan));
        let inputs_digest = Digest::of(serde_json::to_string(&inputs).unwrap_or_default().as_bytes());
        let reused = match tools.releases.artifact(&wish.org, inputs_digest).await? {
            Some(artifact) => {
                // Before the look: from here on a cleanup sees that it is needed.
                tools.releases.keep_artifact(&wish.org, inputs_digest, &artifact, cx.now).await?;
                let there = tools.artifacts.has(&wish.org, &wish.app(), artifact.digest, cx.now).await?;
                there.then_some(artifact)
            }
            None => None,
        };
        let needs = Needs { org: &wish.org, plan: &plan, source: reused.is_none().then_some(&manifest) };
        refuse_unprepared(tools, &needs).await?;
        let hosts = hosts(tools, wish, (&project.label, plan.target), domains).await?;
        Next::with(&Validated { source, plan, inputs, inputs_digest, reused, hosts })
    }
}

/// Every host name of the app, the built-in one first. Asked when the plan fits: the service may have to make it.
async fn hosts(
    tools: &Tools,
    wish: &Wish,
    (label, target): (&str, Target),
    domains: Vec<String>,
) -> Result<Vec<String>, StepError> {
    let app = wish.app();
    let place = Place { app: &app, label, environment: &wish.environment, target };
    let own = tools.runtime.addresses().host(place).await?;
    let mut hosts = vec![own];
    hosts.extend(domains);
    hosts.dedup();
    refuse_taken(tools, &app, &hosts).await?;
    Ok(hosts)
}

/// The stored manifest of a source.
pub(super) async fn manifest(tools: &Tools, org: &Name, source: Digest) -> Result<Manifest, StepError> {
    Manifest::read(tools.blobs.as_ref(), org, source).await.map_err(|error| match error {
        SourceError::Store(error) => error.into(),
        SourceError::Missing(_) | SourceError::NoSource(_) => {
            StepError::permanent("SOURCE_NOT_FOUND", error.to_string())
        }
    })
}

async fn refuse_missing(
    tools: &Tools,
    org: &Name,
    manifest: &Manifest,
    now: Timestamp,
) -> Result<(), StepError> {
    let files = manifest.files().iter().map(|file| file.sha256);
    let digests: Vec<Digest> = files.chain([manifest.digest()]).collect();
    let missing = tools.blobs.missing(org, &digests, now).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StepError::permanent(
        "SOURCE_INCOMPLETE",
        format!("{} files of the source were not uploaded", missing.len()),
    ))
}

/// Refuses what would only fail later, after something was made.
async fn refuse_unprepared(tools: &Tools, needs: &Needs<'_>) -> Result<(), StepError> {
    for footing in &tools.footing {
        let looked = footing.look(needs).await;
        looked.map_err(|missing| StepError::permanent(missing.code, missing.message))?;
    }
    Ok(())
}

async fn refuse_taken(tools: &Tools, app: &str, hosts: &[String]) -> Result<(), StepError> {
    let live = tools.releases.live().await?;
    let taken = live
        .iter()
        .filter(|release| release.app != app)
        .flat_map(|release| &release.hosts)
        .find(|host| hosts.contains(host));
    match taken {
        Some(host) => Err(StepError::permanent(
            "DOMAIN_TAKEN",
            format!("{host} already belongs to another app; remove it there first"),
        )),
        None => Ok(()),
    }
}

/// What detection says of the source.
async fn detected(
    tools: &Tools,
    org: &Name,
    manifest: &Manifest,
) -> Result<Result<Plan, DetectError>, StepError> {
    let mut texts = BTreeMap::new();
    for name in ["package.json", "Procfile", "Cargo.toml", "Dockerfile", crate::deploy::project_file::NAME] {
        if let Some(file) = manifest.get(name) {
            let bytes = tools.blobs.read(org, file.sha256, MOST_FACT_BYTES).await?;
            texts.insert(name, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(detect(&Facts {
        has: &|name| manifest.get(name).is_some(),
        package_json: texts.remove("package.json"),
        procfile: texts.remove("Procfile"),
        cargo_toml: texts.remove("Cargo.toml"),
        dockerfile: texts.remove("Dockerfile"),
        project_file: texts.remove(crate::deploy::project_file::NAME),
    }))
}

async fn plan(tools: &Tools, deployment: &Deployment, manifest: &Manifest) -> Result<Plan, StepError> {
    let wish = &deployment.wish;
    let detected = detected(tools, &wish.org, manifest).await?;
    let mut plan = match (detected, &wish.start) {
        (Ok(plan), _) => plan,
        // A start command in the request is all that these projects lack.
        (Err(DetectError::Unknown), Some(start)) => Plan::new(Kind::Procfile, Some(start.clone())),
        (Err(DetectError::NoStart { plan, .. }), Some(_)) => *plan,
        (Err(error), _) => return Err(StepError::permanent("VALIDATION_PROJECT", error.to_string())),
    };
    if plan.kind == Kind::Docker
        && let Err(missing) = tools.builder.builds_images().await
    {
        let message = format!(
            "this project has a Dockerfile, but {missing}; or add a windlass.toml with another kind and a start command"
        );
        return Err(StepError::permanent("VALIDATION_DOCKERFILE", message));
    }
    plan.build = wish.build.clone().or(plan.build);
    if let Some(start) = &wish.start {
        plan.start = Some(start.clone());
        if plan.kind == Kind::Static {
            plan.kind = Kind::Procfile;
        }
    }
    Ok(plan)
}

/// Everything that decides what an artifact contains, so that the same inputs give the same artifact.
fn inputs(source: Digest, plan: &Plan) -> BTreeMap<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    BTreeMap::from([
        ("source".to_owned(), source.to_string()),
        ("build command".to_owned(), text(&plan.build)),
        ("output folder".to_owned(), plan.output.clone()),
        ("kind of artifact".to_owned(), if plan.kind == Kind::Docker { "image" } else { "files" }.to_owned()),
        (
            "build variables".to_owned(),
            Digest::of(format!("{:?}", plan.build_variables).as_bytes()).to_string(),
        ),
        ("builder version".to_owned(), super::BUILDER_VERSION.to_owned()),
    ])
}
