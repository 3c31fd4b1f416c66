//! What is looked at on Azure before a deployment makes anything: rights, the environment, the registry.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass::ambient::{Clock, ManualClock};
use windlass::azure::app_body::app_name;
use windlass::azure::arm::Arm;
use windlass::azure::footing::{AzureFooting, FootingParts};
use windlass::azure::services::Services;
use windlass::deploy::blobs::Blobs;
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::footing::{Footing as _, Needs, Unprepared};
use windlass::deploy::ids::{Digest, Name};
use windlass::deploy::source::{FileEntry, Manifest, SourceLimits};
use windlass::deploy::target::Target;
use windlass::embedded::files::FileBlobs;

use super::arm_double::ArmDouble;
use super::azurite::Unsigned;
use super::cloud::Cloud;
use super::doubles::{down, up};
use super::settings;
use crate::e2e::copy_of;

const GROUP: &str = "/subscriptions/00000000-0000-0000-0000-000000000002/resourceGroups/apps";

struct Story {
    arm: ArmDouble,
    clock: Arc<ManualClock>,
    footing: AzureFooting,
    _folder: tempfile::TempDir,
}

/// The permissions of somebody with one role.
fn role(actions: &[&str]) -> Value {
    json!({ "value": [{ "actions": actions, "notActions": [], "dataActions": [], "notDataActions": [] }] })
}

impl Story {
    fn new(builder: &str) -> Self {
        let arm = ArmDouble::start();
        let settings =
            settings(&[("WINDLASS_ARM_ENDPOINT", &arm.double.address), ("WINDLASS_BUILDER", builder)]);
        let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(FileBlobs::open(&folder.path().join("blobs")).unwrap());
        let clock = Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()));
        let footing = AzureFooting::new(FootingParts {
            arm: Arm::new(&settings, &services.credential(), &services.wire().hasty()),
            settings,
            blobs,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        });
        Self { arm, clock, footing, _folder: folder }
    }

    /// A look before a project of this kind is deployed there, which has to be built.
    async fn look(&self, kind: Kind, target: Target) -> Result<(), Unprepared> {
        let entry =
            FileEntry { path: "index.html".to_owned(), size: 1, mode: 0o644, sha256: Digest::of(b"x") };
        let source = Manifest::new(vec![entry], &SourceLimits::default()).unwrap();
        let (org, plan): (Name, _) = ("o".parse().unwrap(), Plan { target, ..Plan::new(kind, None) });
        self.footing.look(&Needs { org: &org, plan: &plan, source: Some(&source) }).await
    }

    /// The same for one whose artifact is used again.
    async fn look_again(&self, target: Target) -> Result<(), Unprepared> {
        let (org, plan): (Name, _) = ("o".parse().unwrap(), Plan { target, ..Plan::new(Kind::Docker, None) });
        self.footing.look(&Needs { org: &org, plan: &plan, source: None }).await
    }

    fn asked(&self) -> usize {
        self.arm.double.asked().len()
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_with_its_action_its_role_and_its_scope() {
    let registry = format!("{GROUP}/providers/Microsoft.ContainerRegistry/registries/registry");
    let tasks = "Microsoft.ContainerRegistry/registries/scheduleRun/action";
    for (builder, kind, target, actions, action, role_of, scope) in [
        (
            "acr",
            Kind::Docker,
            Target::ContainerApps,
            &["*/read", tasks][..],
            "Microsoft.App/containerApps/write",
            "Container Apps Contributor",
            GROUP,
        ),
        (
            "acr",
            Kind::Docker,
            Target::ContainerInstances,
            &["Microsoft.App/*", tasks][..],
            "Microsoft.ContainerInstance/containerGroups/write",
            "Azure Container Instances Contributor Role",
            GROUP,
        ),
        (
            "acr",
            Kind::Docker,
            Target::ContainerApps,
            &["*/read", "microsoft.app/*"][..],
            tasks,
            "Container Registry Tasks Contributor",
            registry.as_str(),
        ),
        (
            "auto",
            Kind::Static,
            Target::ContainerApps,
            &["Microsoft.App/*", tasks][..],
            "Microsoft.ContainerRegistry/registries/push/write",
            "AcrPush",
            registry.as_str(),
        ),
    ] {
        let story = Story::new(builder);
        story.arm.permits(200, &role(actions));
        let told = story.look(kind, target).await.unwrap_err();
        assert_eq!(told.code, "AZURE_FORBIDDEN");
        let wanted = format!("may not do {action}; give it the role {role_of} on {scope}");
        assert!(told.message.ends_with(&wanted), "{}", told.message);
        // The role counts as soon as it is there.
        story.arm.permits(200, &role(&["*"]));
        story.look(kind, target).await.unwrap();
        assert_eq!(story.arm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn only_what_the_deployment_does_is_needed() {
    let story = Story::new("acr");
    story.arm.permits(200, &role(&["*/read", "Microsoft.App/containerApps/write"]));
    story.look_again(Target::ContainerApps).await.unwrap();
    assert!(story.look(Kind::Docker, Target::ContainerApps).await.is_err(), "a build needs more");
    let role = json!({ "actions": ["*"], "notActions": ["Microsoft.App/*/write"] });
    story.clock.advance(Duration::from_secs(301));
    story.arm.permits(200, &json!({ "value": [role] }));
    assert!(story.look_again(Target::ContainerApps).await.is_err(), "what a role excludes it does not give");
    story.look_again(Target::ContainerInstances).await.unwrap();
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn what_was_in_order_is_not_asked_again_for_some_minutes() {
    let story = Story::new("acr");
    for (advance, calls) in [(0, 4), (0, 4), (299, 4), (2, 8)] {
        story.clock.advance(Duration::from_secs(advance));
        story.look(Kind::Docker, Target::ContainerApps).await.unwrap();
        assert_eq!(story.asked(), calls, "two places, and what may be done in them");
    }
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_question_without_an_answer_holds_nobody_up() {
    let story = Story::new("acr");
    let refusal = json!({ "error": { "code": "AuthorizationFailed", "message": "no" } });
    let mut page = role(&["*/read"]);
    page["nextLink"] = json!("https://management.azure.com/next");
    for (status, body) in [(403, &refusal), (429, &refusal), (200, &page)] {
        story.arm.permits(status, body);
        story.arm.trouble("GET", "/managedEnvironments/", 403, "AuthorizationFailed");
        story.arm.trouble("GET", "/registries/", 503, "ServerTimeout");
        story.look(Kind::Docker, Target::ContainerApps).await.unwrap();
    }
    down(&story.arm.double.mood, 503);
    story.look(Kind::Docker, Target::ContainerApps).await.unwrap();
    up(&story.arm.double.mood);
    story.arm.permits(200, &role(&["*/read"]));
    assert!(story.look(Kind::Docker, Target::ContainerApps).await.is_err(), "nothing of that was remembered");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_place_that_is_not_there_is_named_with_its_setting() {
    let story = Story::new("acr");
    for (part, what, setting) in [
        ("/managedEnvironments/", "Container Apps environment env", "CONTAINER_APPS_ENVIRONMENT"),
        ("/registries/", "registry registry", "AZURE_CONTAINER_REGISTRY"),
    ] {
        story.arm.trouble("GET", part, 404, "ResourceNotFound");
        let told = story.look(Kind::Docker, Target::ContainerApps).await.unwrap_err();
        assert_eq!(told.code, "AZURE_RESOURCE_MISSING");
        assert!(told.message.contains(what) && told.message.contains(setting), "{}", told.message);
        story.look(Kind::Docker, Target::ContainerApps).await.unwrap();
        story.clock.advance(Duration::from_secs(301));
    }
    // Images that the registry does not make may go to one of another group.
    let elsewhere = Story::new("layers");
    elsewhere.arm.trouble("GET", "/registries/", 404, "ResourceNotFound");
    elsewhere.look(Kind::Static, Target::ContainerApps).await.unwrap();
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_without_rights_ends_the_first_step_and_nothing_is_made() {
    let Some(mut cloud) = Cloud::start(6).await else { return };
    cloud.host.careless = false;
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("node-api", folder.path());
    let ended = async |cloud: &Cloud| {
        let id = cloud.deploy(&project, "node-api").await;
        cloud.until_idle().await;
        cloud.host.get(&format!("/deploy/{id}/status")).await
    };
    cloud.arm.permits(200, &role(&["*/read"]));
    let status = ended(&cloud).await;
    let error = &status["error"];
    assert_eq!(
        (&status["status"], &error["code"], &error["step"], &error["retryable"]),
        (&json!("failed"), &json!("AZURE_FORBIDDEN"), &json!("validate"), &json!(false)),
        "{status}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&format!("role Container Apps Contributor on {GROUP}")), "{message}");
    let asked = cloud.arm.double.asked();
    assert!(asked.iter().all(|asked| asked.method == "GET"), "Azure was only read");
    let app = app_name("node-api", "development");
    assert!(!cloud.arm.has(&app) && cloud.arm.builds() == 0);

    // Who may not even ask is not refused for that.
    cloud.arm.permits(403, &json!({ "error": { "code": "AuthorizationFailed", "message": "no" } }));
    let status = ended(&cloud).await;
    assert_eq!(status["status"], "succeeded", "{status}\n{}", cloud.host.log());
    cloud.arm.permits(200, &role(&["*"]));
    let status = ended(&cloud).await;
    assert_eq!(status["status"], "succeeded", "{status}\n{}", cloud.host.log());
    assert!(cloud.arm.has(&app) && cloud.arm.builds() == 1);
    cloud.assert_clean().await;
}
