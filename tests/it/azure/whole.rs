//! The whole deploy chain on Azure: the real program under a strict host, on Cosmos DB's emulator and Azurite, with doubles
//! for all else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use windlass::azure::app_body::app_name;

use super::bus::MOST_DELIVERIES;
use super::cloud::Cloud;
use super::doubles::slow;
use super::image_registry::ImageRegistry;
use super::telemetry::outbound_calls_are_dependencies;
use crate::e2e::{copy_of, number};

/// Kills in CI; `WINDLASS_KILLS` asks for more, `WINDLASS_SEED` for the choices of an earlier run.
const KILLS: u64 = 6;
/// Deployments at the same time at most. With many more, every message would be cut so often that the queue gives it up, which
/// is right and not what this is about.
const MOST_AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_becomes_a_live_app_on_container_apps() {
    let Some(cloud) = Cloud::start(1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("node-api", folder.path());
    let id = cloud.deploy(&project, "node-api").await;
    let all = cloud.until_idle().await;
    assert_eq!(all[0]["status"], "succeeded", "{}\n{}", cloud.host.log(), cloud.cli(&["logs", &id]).await);
    let status = cloud.host.get(&format!("/deploy/{id}/status")).await;
    assert!(status.to_string().contains("https://node-api-"), "{status}");
    let log = cloud.cli(&["logs", &id]).await;
    assert!(log.contains("Step 2/3"), "the registry's log is ours too: {log}");
    assert_eq!(cloud.arm.builds(), 1);
    let app = app_name("node-api", "development");
    assert_eq!(cloud.arm.revisions(&app).len(), 1);
    cloud.deploy(&project, "node-api").await;
    assert!(cloud.until_idle().await.iter().all(|deployment| deployment["status"] == "succeeded"));
    assert_eq!(
        (cloud.arm.builds(), cloud.arm.revisions(&app).len()),
        (1, 2),
        "the same files are the same image"
    );
    cloud.assert_clean().await;
    cloud.host.stop();
    outbound_calls_are_dependencies(&cloud.ingestion.asked());
}

/// Each deployment is live, by one revision, and was built once, except that asking for a build is the one thing that a
/// kill between asking and writing down does again: for each such pair a call must have been cut.
#[expect(clippy::print_stderr, reason = "whoever asks for many kills wants to know what came of them")]
fn assert_done_once(cloud: &Cloud, deployments: &[Value]) {
    let mut apps: BTreeMap<&str, usize> = BTreeMap::new();
    for deployment in deployments {
        assert_eq!(deployment["status"], "succeeded", "{deployment}\n{}", cloud.host.log());
        *apps.entry(deployment["projectId"].as_str().unwrap()).or_default() += 1;
    }
    for (name, deployed) in apps {
        let app = app_name(name, "development");
        let revisions = cloud.arm.revisions(&app);
        assert_eq!(revisions.len(), deployed, "one revision for each deployment of {name}: {revisions:?}");
        let (live, active) = cloud.arm.serving(&app);
        assert_eq!(active, [live.unwrap()], "one revision of {name} runs, and it has the traffic");
    }
    let mut builds = cloud.builds();
    let asked = builds.len();
    builds.sort();
    builds.dedup();
    assert!((1..=deployments.len()).contains(&builds.len()), "only our runs were built: {builds:?}");
    assert!(asked - builds.len() <= cloud.host.cut(), "{asked} builds of {} runs", builds.len());
    eprintln!("{asked} builds of {} runs, {} calls were cut", builds.len(), cloud.host.cut());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_that_the_guide_puts_on_the_queue_becomes_a_live_app() {
    let Some(cloud) = Cloud::start(5).await else { return };
    let guide = include_str!("../../../docs/azure.md");
    let (_, job) = guide.split_once("--data '").unwrap();
    let (job, _) = job.split_once('\'').unwrap();
    for id in ["sent", "sent again"] {
        cloud.bus.put("deployment-queue", id, job);
    }
    let all = cloud.until_idle().await;
    let [only] = all.as_slice() else { panic!("the same job is one deployment: {all:?}") };
    assert_eq!(only["status"], "succeeded", "{only}\n{}", cloud.host.log());
    let app = app_name("hello", "development");
    assert_eq!(cloud.arm.revisions(&app).len(), 1);
    cloud.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_needs_no_build_becomes_an_image_without_a_build_service() {
    let Some(registry) = ImageRegistry::start().await else { return };
    registry.push_base("base").await;
    let bases = format!("node={}/base:1", registry.host);
    let more = [
        ("ACR_LOGIN_SERVER", registry.host.as_str()),
        ("WINDLASS_BASE_IMAGES", bases.as_str()),
        ("WINDLASS_BUILDER", "auto"),
    ];
    let Some(cloud) = Cloud::with(4, &more).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let id = cloud.deploy(&copy_of("node-api", folder.path()), "node-api").await;
    cloud.host.kill(1);
    let all = cloud.until_idle().await;
    let log = cloud.cli(&["logs", &id]).await;
    assert_eq!(all[0]["status"], "succeeded", "{}\n{log}", cloud.host.log());
    assert_eq!(cloud.arm.builds(), 0, "auto asks no build service for files on a base");
    let body = cloud.arm.body(&app_name("node-api", "development"));
    let image = body.pointer("/properties/template/containers/0/image").unwrap().as_str().unwrap();
    let (name, digest) = image.split_once('@').unwrap();
    let repository = name.strip_prefix(&format!("{}/", registry.host)).unwrap();
    let (found, _) = registry.manifest(repository, digest).await.unwrap();
    assert_eq!(found, digest, "what runs is in the registry by its digest");
    assert!(log.contains(image), "{log}");
    cloud.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_is_killed_again_and_again_loses_nothing() {
    let kills = usize::try_from(number("WINDLASS_KILLS", KILLS)).unwrap();
    let seed = number("WINDLASS_SEED", u64::from(std::process::id()));
    eprintln!("WINDLASS_KILLS={kills} WINDLASS_SEED={seed}");
    let Some(cloud) = Cloud::start(seed).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("node-api", folder.path());
    let mut deployments = Vec::new();
    let mut left = kills;
    while left > 0 {
        // Each round has something to build.
        std::fs::write(project.join("round.txt"), left.to_string()).unwrap();
        for n in 0..left.div_ceil(2).clamp(3, MOST_AT_ONCE) {
            deployments.push(cloud.deploy(&project, &format!("p{n}")).await);
        }
        cloud.host.kill(left);
        cloud.until_idle().await;
        left = cloud.host.kills_left();
        cloud.host.kill(0);
    }
    let mut all = Vec::new();
    for id in &deployments {
        all.push(cloud.host.get(&format!("/deploy/{id}/status")).await);
    }
    assert_done_once(&cloud, &all);
    cloud.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_too_long_dies_with_its_process_and_comes_again() {
    let Some(mut cloud) = Cloud::start(2).await else { return };
    cloud.host.careless = false;
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("node-api", folder.path());
    let id = cloud.deploy(&project, "late").await;
    // `functionTimeout`, on a shorter clock; a build cannot even be asked for within it.
    cloud.host.timeout = Duration::from_secs(2);
    slow(&cloud.arm.double.mood, Duration::from_secs(3));
    while cloud.host.cut() < 2 {
        cloud.round().await;
    }
    slow(&cloud.arm.double.mood, Duration::ZERO);
    cloud.host.timeout = Duration::from_secs(300);
    cloud.until_idle().await;
    let status = cloud.host.get(&format!("/deploy/{id}/status")).await;
    assert_done_once(&cloud, &[status]);
    cloud.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_read_becomes_a_dead_letter_and_harms_nobody() {
    let Some(mut cloud) = Cloud::start(3).await else { return };
    cloud.host.careless = false;
    // The host lifts what is at the top of a body over the metadata's own names.
    let hint = json!({
        "w1": { "run": "run_01a1fd19cddd7aba8cf17ae9898b8c53", "seq": 1 },
        "sys": { "MethodName": "timer-cleanup" }, "messageId": "other", "deliveryCount": 99,
    });
    cloud.bus.put("step-build", "polluted", &hint.to_string());
    cloud.put_alarm(&json!({ "w1": { "to": "step-sync", "due": "2026-11-20T09:00:00Z", "text": json!({ "w1": hint["w1"] }).to_string() } }).to_string()).await;
    cloud.bus.put("deployment-queue", "garbage", "this is no job");
    assert_eq!(cloud.alarms().await, 1);
    assert_eq!(cloud.bus.waiting(), 3, "the alarm became a hint on its queue");
    let mut deliveries = 0;
    while cloud.bus.waiting() > 0 {
        deliveries += cloud.round().await;
    }
    let most = usize::try_from(MOST_DELIVERIES).unwrap();
    assert_eq!(deliveries, 1 + 1 + most + 1, "a hint, the alarm's, a message ten times, and its dead letter");
    assert_eq!(cloud.bus.given_up(), 1);
    let letters = cloud.host.get("/operations/dead-letters").await;
    assert_eq!(letters["deadLetters"][0]["body"], "this is no job", "{letters}");
    assert_eq!(letters["deadLetters"].as_array().unwrap().len(), 1);
    assert_eq!(cloud.host.complaints(), [""; 0]);
}
