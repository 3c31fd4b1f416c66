//! The deploy chain as people experience it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use windlass::actions::{Cancelled, Retried};
use windlass::deploy::deployment::Status;
use windlass::deploy::footing::{Footing, Needs, Unprepared};
use windlass::deploy::log::From;

use crate::world::{Fault, Faults, Setup, World};

const ALL_DONE: [(&str, &str); 7] = [
    ("validate", "succeeded"),
    ("builder", "succeeded"),
    ("sync", "succeeded"),
    ("build", "succeeded"),
    ("release", "succeeded"),
    ("domain", "skipped"),
    ("cleanup", "succeeded"),
];

#[tokio::test]
async fn a_folder_becomes_a_live_release() {
    let mut world = World::new();
    let id = world.deploy("shop", "one").await;
    assert_eq!(world.status(id).await, Status::Queued);
    world.run_until_idle().await;
    assert_eq!(world.statuses(id).await, ALL_DONE);
    let deployment = world.get(id).await;
    assert_eq!((deployment.status, deployment.result.release), (Status::Succeeded, Some(1)));
    assert_eq!(deployment.result.urls, ["http://shop.development.localhost"]);
    assert_eq!(world.runtime.hosts().values().copied().collect::<Vec<_>>(), [deployment.run.unwrap()]);
    assert_eq!(world.builder.workspaces(), 0);
    // The artifact is named by its digest and comes back by it.
    let view = world.windlass.view(id).await.unwrap().unwrap();
    let digest = view.steps[3].output["artifact"]["digest"].as_str().unwrap().parse().unwrap();
    assert!(
        !world.windlass.tools.blobs.read(&deployment.wish.org, digest, 1 << 20).await.unwrap().is_empty()
    );
    let bill = world.windlass.bill_of_materials(id).await.unwrap().unwrap();
    assert_eq!(
        bill["metadata"]["component"]["hashes"][0]["content"],
        view.steps[3].output["artifact"]["digest"]
    );
    world.refold(deployment.run.unwrap()).await;
}

#[tokio::test]
async fn the_log_tells_the_steps_in_order() {
    let mut world = World::new();
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let lines = world.windlass.tools.logs.read(id, From::After(0), 1_000).await.unwrap();
    let told: Vec<String> =
        lines.iter().map(|line| format!("{} {}", line.kind, line.step.clone().unwrap_or_default())).collect();
    let mut expected: Vec<String> = ALL_DONE
        .iter()
        .flat_map(|(step, _)| [format!("step.started {step}"), format!("step.finished {step}")])
        .collect();
    expected.push("deployment.ended ".to_owned());
    assert_eq!(told, expected);
}

#[tokio::test]
async fn the_usual_time_of_each_step_is_learned() {
    let mut world = World::new();
    let usual = async |world: &World, id| {
        let view = world.windlass.view(id).await.unwrap().unwrap();
        view.steps.iter().map(|step| step.usual_ms).collect::<Vec<_>>()
    };
    for page in ["one", "two", "three"] {
        let id = world.deploy("shop", page).await;
        assert!(page != "one" || usual(&world, id).await == [None; 7]);
        world.step().await;
        // What it waits for its first step counts as the first step's.
        world.clock.advance(Duration::from_secs(2));
        world.run_until_idle().await;
        assert_eq!(usual(&world, id).await, [None; 7], "it is over");
    }
    let id = world.deploy("shop", "four").await;
    assert_eq!(usual(&world, id).await, [Some(2_000), Some(0), Some(0), Some(0), Some(0), None, Some(0)]);
}

#[tokio::test]
async fn without_a_source_the_starter_page_is_deployed() {
    let mut world = World::new();
    let id = world.submit(&World::request("empty")).await;
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Succeeded);
}

#[tokio::test]
async fn the_newest_source_of_a_project_is_deployed_again() {
    let mut world = World::new();
    let first = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let second = world.submit(&World::request("shop")).await;
    world.run_until_idle().await;
    let view = world.windlass.view(second).await.unwrap().unwrap();
    assert_eq!(view.steps[3].output["reused"], true);
    assert_eq!(world.builder.built(), 1);
    assert_eq!(world.get(second).await.result.release, Some(2));
    assert_ne!(first, second);
}

#[tokio::test]
async fn what_a_build_does_not_depend_on_does_not_repeat_it() {
    let mut world = World::new();
    let first = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let digest = async |world: &World, id| {
        let view = world.windlass.view(id).await.unwrap().unwrap();
        (view.steps[0].output["inputs_digest"].clone(), view.steps[3].output["reused"].clone())
    };
    let built = digest(&world, first).await;
    let mut body = World::request("shop");
    body["envVariables"] = json!({ "COLOUR": "red" });
    body["customDomain"] = json!("shop.example");
    body["containerSize"] = json!({ "cpu": "1", "memory": "2Gi" });
    let second = world.submit(&body).await;
    world.run_until_idle().await;
    assert_eq!(digest(&world, second).await, (built.0.clone(), json!(true)));
    body["buildCommand"] = json!("make");
    let third = world.submit(&body).await;
    world.run_until_idle().await;
    let rebuilt = digest(&world, third).await;
    assert!(rebuilt.0 != built.0 && rebuilt.1 == json!(false));
    assert_eq!(world.builder.built(), 2);
}

#[tokio::test]
async fn a_failed_build_keeps_what_is_live_and_can_be_retried() {
    let mut world = World::new();
    let live = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let live = world.get(live).await.run.unwrap();
    world.builder.fail_with(Some("BUILD_FAILED"));
    let id = world.deploy("shop", "two").await;
    world.run_until_idle().await;
    let failed = world.get(id).await;
    let fault = failed.result.fault.unwrap();
    assert_eq!(
        (failed.status, fault.code.as_str(), fault.step.as_str()),
        (Status::Failed, "BUILD_FAILED", "build")
    );
    assert_eq!(fault.detail["tail"][0], "oops");
    assert_eq!(world.runtime.hosts().values().copied().collect::<Vec<_>>(), [live]);
    assert_eq!(world.builder.workspaces(), 0);
    world.builder.fail_with(None);
    assert_eq!(world.windlass.retry(id, "test").await.unwrap(), Retried::Queued);
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Succeeded);
    assert_eq!(world.windlass.retry(id, "test").await.unwrap(), Retried::Refused(Status::Succeeded));
}

#[tokio::test]
async fn a_retry_after_a_failed_release_does_not_build_again() {
    let mut world = World::new();
    world.runtime.make_sick(true);
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    assert_eq!(world.get(id).await.result.fault.unwrap().code, "RELEASE_UNHEALTHY");
    assert!(world.runtime.hosts().is_empty() && world.runtime.revisions_of("o/shop/development").is_empty());
    world.runtime.make_sick(false);
    assert_eq!(world.windlass.retry(id, "test").await.unwrap(), Retried::Queued);
    world.run_until_idle().await;
    assert_eq!((world.status(id).await, world.builder.built()), (Status::Succeeded, 1));
}

#[tokio::test]
async fn a_release_that_finds_no_room_is_started_again() {
    let mut world = World::new();
    world.runtime.cannot_unpack(2);
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let deployment = world.get(id).await;
    assert_eq!((deployment.status, deployment.result.fault), (Status::Succeeded, None));
    assert_eq!(world.runtime.starts_of(deployment.run.unwrap()), 3);
    // The first try and three more.
    world.runtime.cannot_unpack(4);
    let id = world.deploy("shop", "two").await;
    world.run_until_idle().await;
    let deployment = world.get(id).await;
    let fault = deployment.result.fault.unwrap();
    assert_eq!((deployment.status, fault.code.as_str()), (Status::Failed, "RELEASE_NOT_UNPACKED"));
    assert!(fault.retryable, "{fault:?}");
    assert_eq!(world.runtime.starts_of(deployment.run.unwrap()), 4);
    assert_eq!(world.windlass.tools.releases.live().await.unwrap()[0].number, 1);
    world.windlass.retry(id, "test").await.unwrap();
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Succeeded);
}

#[tokio::test]
async fn rolls_back_the_traffic_when_a_later_step_fails() {
    let faults = Faults::default();
    let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
    let live = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let live = world.get(live).await.run.unwrap();
    faults.set("domain", Fault::Permanent);
    let id = world.deploy("shop", "two").await;
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Failed);
    assert_eq!(world.runtime.hosts().values().copied().collect::<Vec<_>>(), [live]);
    assert_eq!(world.windlass.tools.releases.live().await.unwrap()[0].number, 1);
}

#[tokio::test]
async fn a_cancelled_deployment_is_undone_and_the_next_one_starts() {
    let mut world = World::new();
    world.builder.hang();
    let id = world.deploy("shop", "one").await;
    while world.windlass.view(id).await.unwrap().unwrap().current != Some("build") {
        assert!(world.step().await);
    }
    let waiting = world.deploy("shop", "two").await;
    assert_eq!(world.windlass.cancel(id, "test").await.unwrap(), Cancelled::Stopping);
    for _ in 0..20 {
        world.step().await;
    }
    assert_eq!(world.status(id).await, Status::Cancelled);
    assert_eq!(world.status(waiting).await, Status::Running);
    assert_eq!(world.windlass.cancel(id, "test").await.unwrap(), Cancelled::TooLate(Status::Cancelled));
    world.windlass.cancel(waiting, "test").await.unwrap();
    world.run_until_idle().await;
    assert_eq!(world.builder.workspaces(), 0);
}

#[tokio::test]
async fn a_deployment_that_waits_is_cancelled_at_once() {
    let mut world = World::new();
    let id = world.deploy("shop", "one").await;
    assert_eq!(world.windlass.cancel(id, "test").await.unwrap(), Cancelled::AtOnce);
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Cancelled);
}

#[tokio::test]
async fn the_deadline_ends_a_build_that_hangs() {
    let mut world = World::new();
    world.builder.hang();
    let id = world.deploy("shop", "one").await;
    let begun = world.now();
    world.run_until_idle().await;
    let deployment = world.get(id).await;
    assert_eq!(deployment.result.fault.unwrap().code, "DEPLOYMENT_TIMEOUT");
    let took = windlass::ambient::between(begun, deployment.ended.unwrap());
    assert!(took >= Duration::from_secs(600) && took < Duration::from_secs(631), "{took:?}");
    assert_eq!(world.builder.workspaces(), 0);
}

#[tokio::test]
async fn a_stuck_undo_is_visible_and_can_be_resumed() {
    let faults = Faults::default();
    let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
    faults.set("release", Fault::Permanent);
    faults.set("builder", Fault::UndoFails);
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let stuck = world.get(id).await;
    assert_eq!((stuck.status, stuck.result.fault.unwrap().code.as_str()), (Status::Stuck, "TEST_UNDO"));
    faults.clear();
    assert_eq!(world.windlass.retry(id, "test").await.unwrap(), Retried::Resumed);
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Failed);
    assert_eq!(world.builder.workspaces(), 0);
}

#[tokio::test]
async fn a_domain_belongs_to_one_app() {
    let mut world = World::new();
    let mut body = World::request("one");
    body["customDomain"] = json!("shop.example");
    let first = world.submit(&body).await;
    world.run_until_idle().await;
    assert_eq!(
        world.get(first).await.result.urls,
        ["http://one.development.localhost", "http://shop.example"]
    );
    body["projectId"] = json!("two");
    let second = world.submit(&body).await;
    world.run_until_idle().await;
    let fault = world.get(second).await.result.fault.unwrap();
    assert_eq!(fault.code, "DOMAIN_TAKEN");
    let owner = world.get(first).await.wish.app();
    assert!(fault.message.contains(&format!("shop.example belongs to {owner};")), "{}", fault.message);
    assert!(fault.message.contains("deploy that without it"), "{}", fault.message);
    body["customDomain"] = json!("one.development.localhost");
    let third = world.submit(&body).await;
    world.run_until_idle().await;
    let said = world.get(third).await.result.fault.unwrap().message;
    assert!(said.contains(&format!("is the address of {owner} itself")), "{said}");
    // Nobody is told what other organizations have.
    body["organizationId"] = json!("elsewhere");
    body["customDomain"] = json!("shop.example");
    let fourth = world.submit(&body).await;
    world.run_until_idle().await;
    let said = world.get(fourth).await.result.fault.unwrap().message;
    assert!(said.contains("of another organization") && !said.contains(&owner), "{said}");
}

#[tokio::test]
async fn the_same_key_and_body_give_the_same_deployment() {
    let world = World::new();
    let body = World::request("shop");
    let submit = |body: serde_json::Value| {
        let windlass = world.windlass.clone();
        async move { windlass.submit(&body, Some("k".to_owned()), "test").await }
    };
    let first = submit(body.clone()).await.unwrap().id;
    assert_eq!(submit(body.clone()).await.unwrap().id, first);
    let mut other = body;
    other["projectName"] = json!("Other");
    assert!(submit(other).await.is_err());
}

#[tokio::test]
async fn secrets_never_reach_state_or_logs() {
    let mut world = World::new();
    let mut body = World::request("shop");
    body["envVariables"] = json!({ "TOKEN": "canary-7f3a" });
    let id = world.submit(&body).await;
    world.run_until_idle().await;
    let deployment = world.get(id).await;
    let (_, entries) = world.windlass.engine.journal.history(deployment.run.unwrap()).await.unwrap().unwrap();
    let lines = world.windlass.tools.logs.read(id, From::After(0), 1_000).await.unwrap();
    let everything = format!(
        "{deployment:?} {} {}",
        serde_json::to_string(&entries).unwrap(),
        serde_json::to_string(&lines).unwrap()
    );
    assert!(
        !everything.contains("canary") && serde_json::to_string(&deployment.wish).unwrap().contains("x1:")
    );
}

#[tokio::test]
async fn a_run_that_lost_its_turn_cannot_end_the_deployment() {
    let mut world = World::new();
    world.builder.fail_with(Some("BUILD_FAILED"));
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let old = world.get(id).await;
    world.windlass.retry(id, "test").await.unwrap();
    assert!(world.step().await);
    let running = world.get(id).await;
    assert!(running.status == Status::Running && running.run != old.run);
    let deployments = &world.windlass.tools.deployments;
    deployments.settle((id, old.run.unwrap()), Status::Failed, &old.result, world.now()).await.unwrap();
    assert_eq!(world.status(id).await, Status::Running);
    world.builder.fail_with(None);
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Succeeded);
}

#[tokio::test]
async fn a_stuck_deployment_is_not_resumed_beside_another_of_its_app() {
    let faults = Faults::default();
    let mut world = World::with(Setup { faults: faults.clone(), ..Setup::default() });
    faults.set("release", Fault::Permanent);
    faults.set("builder", Fault::UndoFails);
    let stuck = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    faults.clear();
    world.builder.hang();
    let other = world.deploy("shop", "two").await;
    assert!(world.step().await);
    assert_eq!(world.status(other).await, Status::Running);
    assert_eq!(world.windlass.retry(stuck, "test").await.unwrap(), Retried::Refused(Status::Stuck));
    world.windlass.cancel(other, "test").await.unwrap();
    world.run_until_idle().await;
    assert_eq!(world.windlass.retry(stuck, "test").await.unwrap(), Retried::Resumed);
    world.run_until_idle().await;
    assert_eq!(world.status(stuck).await, Status::Failed);
}

#[tokio::test]
async fn a_worker_that_loses_its_lease_in_the_middle_of_a_step_drops_the_result() {
    let mut world = World::new();
    let id = world.deploy("shop", "one").await;
    while world.windlass.view(id).await.unwrap().unwrap().current != Some("build") {
        assert!(world.step().await);
    }
    let run = world.get(id).await.run.unwrap();
    let journal = &world.windlass.engine.journal;
    let now = world.now();
    let held = journal.claim(run, now, windlass::ambient::after(now, Duration::from_secs(30))).await.unwrap();
    let windlass::workflow::journal::Claim::Held(slow, before) = held else { panic!("not held") };
    // Heartbeats stop; another worker takes over and finishes the run.
    world.clock.advance(Duration::from_secs(31));
    world.run_until_idle().await;
    assert_eq!(world.status(id).await, Status::Succeeded);
    let event = windlass::workflow::state::Event::StepDone {
        step: windlass::workflow::chain::StepName::new("build"),
        output: json!({}),
    };
    let mut state = (*before).clone();
    state.apply(&event, world.now()).unwrap();
    let append = windlass::workflow::journal::Append {
        run,
        expected: before.version,
        lease: Some(&slow),
        events: &[event],
        state: &state,
        hints: Vec::new(),
    };
    let refused = world.windlass.engine.journal.append(append).await;
    assert!(matches!(refused, Err(windlass::workflow::journal::JournalError::Fenced(_))), "{refused:?}");
    world.refold(run).await;
}

/// What deployments stand on, of which something is missing until it is mended.
#[derive(Default)]
struct Ground {
    whole: AtomicBool,
    /// For each look whether something was to be built.
    looks: Mutex<Vec<bool>>,
}

#[async_trait]
impl Footing for Ground {
    async fn look(&self, needs: &Needs<'_>) -> Result<(), Unprepared> {
        self.looks.lock().unwrap().push(needs.source.is_some());
        if self.whole.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Unprepared { code: "AZURE_FORBIDDEN", message: "give it the role".to_owned() })
    }
}

#[tokio::test]
async fn what_is_missing_elsewhere_ends_the_first_step_and_nothing_is_built() {
    let ground = Arc::new(Ground::default());
    let footing: Vec<Arc<dyn Footing>> = vec![Arc::clone(&ground) as Arc<dyn Footing>];
    let mut world = World::with(Setup { footing, ..Setup::default() });
    let id = world.deploy("shop", "one").await;
    world.run_until_idle().await;
    let fault = world.get(id).await.result.fault.unwrap();
    assert_eq!((fault.code.as_str(), fault.step.as_str()), ("AZURE_FORBIDDEN", "validate"));
    assert!(!fault.retryable && fault.message.contains("give it the role"), "{fault:?}");
    assert!(world.runtime.hosts().is_empty() && world.builder.workspaces() == 0);
    assert_eq!(world.builder.built(), 0);
    ground.whole.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let id = world.deploy("shop", "one").await;
        world.run_until_idle().await;
        assert_eq!(world.status(id).await, Status::Succeeded);
    }
    let looks = ground.looks.lock().unwrap().clone();
    assert_eq!(looks, [true, true, false], "an artifact that is there is not built again");
}

#[tokio::test]
async fn what_does_not_fit_its_target_is_refused_before_it_is_built() {
    let mut world = World::new();
    for (more, domain, says) in [
        ("", Some("shop.example"), "certificates"),
        ("replicas = 2\n", None, "one replica"),
        ("domains = [\"shop.example\"]\n", None, "certificates"),
    ] {
        let project = format!("target = \"container-instances\"\n{more}");
        let files = [("index.html", "one"), ("windlass.toml", project.as_str())];
        let mut body = World::request("shop");
        body["source"] = json!(world.upload("o", &files).await.to_string());
        body["customDomain"] = json!(domain);
        let id = world.submit(&body).await;
        world.run_until_idle().await;
        let fault = world.get(id).await.result.fault.unwrap();
        assert_eq!((fault.code.as_str(), fault.step.as_str()), ("VALIDATION_PROJECT", "validate"));
        assert!(world.runtime.hosts().is_empty() && world.builder.workspaces() == 0);
        assert!(fault.message.contains(says), "{}", fault.message);
    }
    assert_eq!(world.builder.built(), 0);
}

#[tokio::test]
async fn a_source_that_cannot_be_built_here_ends_the_first_step() {
    let mut world = World::new();
    let docker = world.upload("o", &[("Dockerfile", "FROM scratch")]).await;
    let nowhere = windlass::deploy::ids::Digest::of(b"nobody sent it");
    let shown = nowhere.to_string();
    let wanted =
        [(docker, "VALIDATION_DOCKERFILE", "no engine"), (nowhere, "SOURCE_NOT_FOUND", shown.as_str())];
    for (source, code, says) in wanted {
        let mut body = World::request("shop");
        body["source"] = json!(source.to_string());
        let id = world.submit(&body).await;
        world.run_until_idle().await;
        let fault = world.get(id).await.result.fault.unwrap();
        assert_eq!((fault.code.as_str(), fault.step.as_str()), (code, "validate"));
        assert!(fault.message.contains(says), "{}", fault.message);
    }
    assert_eq!((world.builder.built(), world.builder.workspaces()), (0, 0));
}
