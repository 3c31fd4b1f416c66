//! Builds by kaniko in jobs and in container groups, and the way there from ACR Tasks.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use windlass::ambient::{Clock as _, SystemClock, after};
use windlass::deploy::builder::{BuildStatus, Builder as _, BuilderError, Started};
use windlass::deploy::log::From;

use super::azurite::Azurite;
use super::jobs_double::BuildFate;
use super::kaniko_story::{REPOSITORY, Story, Where, builder};

fn code(status: &BuildStatus) -> (&str, &Value) {
    match status {
        BuildStatus::Failed(failure) => (failure.code, &failure.detail),
        BuildStatus::Unknown | BuildStatus::Running | BuildStatus::Done(_) => panic!("{status:?}"),
    }
}

#[tokio::test]
async fn kaniko_builds_in_a_container_of_its_own_and_the_image_counts_by_its_digest() {
    for place in [Where::Job, Where::Group] {
        let story = Story::new(place).await;
        let job = story.started(1).await;
        let digest = story.pushed(job.run);
        let made = story.arm.containers();
        let [(name, body)] = made.as_slice() else { panic!("{made:?}") };
        let deployment = job.deployment.to_string().replace('_', "-").to_lowercase();
        assert!(name.starts_with(&format!("wl-{deployment}-")), "{name}");
        assert_eq!(body["tags"]["windlass-run"], job.run.to_string());
        let properties = &body["properties"];
        if place == Where::Job {
            let configuration = &properties["configuration"];
            assert_eq!(
                (&configuration["replicaRetryLimit"], &configuration["replicaTimeout"]),
                (&json!(0), &json!(600))
            );
        } else {
            assert_eq!(properties["restartPolicy"], "Never");
            let command = &properties["containers"][0]["properties"]["command"];
            assert_eq!(command[4], "600", "a group has no limit, so that its script keeps the time");
            assert!(command[2].as_str().unwrap().contains("/busybox/timeout $1"), "{command}");
        }
        let size = if place == Where::Job {
            (&properties["template"]["containers"][0]["resources"], json!({ "cpu": 2.0, "memory": "4Gi" }))
        } else {
            let container = &properties["containers"][0]["properties"];
            (&container["resources"]["requests"], json!({ "cpu": 2.0, "memoryInGB": 4.0 }))
        };
        assert_eq!(*size.0, size.1);
        let all = body.to_string();
        assert!(
            all.contains(&format!("/{REPOSITORY}:{}", job.run)) && all.contains("--build-arg=MODE=two words")
        );
        assert_eq!(body.get("identity"), None, "a build is nobody on Azure");
        let done = story.ended(job.run).await;
        assert!(
            matches!(&done, BuildStatus::Done(packed) if packed.digest == digest && packed.files == 1),
            "{done:?}"
        );
        assert_eq!(story.ended(job.run).await, done, "it is told the same again");
        assert_eq!(story.arm.begun(), 1);

        story.builder.discard(job.run).await.unwrap();
        assert!(story.arm.containers().is_empty());
        assert_eq!(story.builder.leftovers().await.unwrap(), [job.run], "it may still be going");
        story.builder.discard(job.run).await.unwrap();
        story.builder.discard(job.run).await.unwrap();
        assert!(story.builder.leftovers().await.unwrap().is_empty());
        assert_eq!(story.arm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_build_holds_a_pass_for_its_repository_and_an_address_and_both_in_secret() {
    for place in [Where::Job, Where::Group] {
        let story = Story::new(place).await;
        let job = story.started(1).await;
        let mut body = story.arm.containers().remove(0).1;
        let (secrets, member) = match place {
            Where::Job => (&mut body["properties"]["configuration"]["secrets"], "value"),
            Where::Group => {
                let container = &mut body["properties"]["containers"][0]["properties"];
                (&mut container["environmentVariables"], "secureValue")
            }
        };
        let kept = secrets.take();
        let values: Vec<&str> =
            kept.as_array().unwrap().iter().map(|secret| secret[member].as_str().unwrap()).collect();
        let [context, registry] = values.as_slice() else { panic!("{values:?}") };
        let wanted = format!("/devstoreaccount1/content/context-{}.tar.gz?sp=r&", job.run);
        assert!(context.starts_with("https://127.0.0.1:") && context.contains(&wanted), "{context}");
        let registry: Value = serde_json::from_str(registry).unwrap();
        let host = &story.settings.login_server;
        let pass = format!("pass-repository:{REPOSITORY}:pull,push");
        assert_eq!(registry, json!({ "auths": { (host.as_str()): { "registrytoken": pass } } }));
        let rest = body.to_string();
        assert!(!rest.contains("pass-") && !rest.contains("sig="), "{rest}");
        let lent = story.storage.asked();
        assert!(lent.iter().any(|asked| asked.method == "PUT" && asked.path.contains(&job.run.to_string())));
        assert_eq!(story.arm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_failed_build_in_a_container_says_its_exit_code_and_last_lines() {
    for place in [Where::Job, Where::Group] {
        let story = Story::new(place).await;
        story.arm.build_fate(BuildFate::Ends(2));
        let job = story.started(1).await;
        story.pushed(job.run);
        if place == Where::Job {
            story.runs_on(job.run).await;
            let line =
                |at: &str, text: &str| -> (Timestamp, String) { (at.parse().unwrap(), text.to_owned()) };
            story.said.lock().unwrap().extend([
                line("2026-11-20T09:00:02Z", "error building image: no such file"),
                line("2026-11-20T09:00:03Z", "windlass: kaniko ended with exit code 2"),
            ]);
        }
        let status = story.ended(job.run).await;
        let (failed, detail) = code(&status);
        assert_eq!((failed, &detail["exitCode"]), ("BUILD_FAILED", &json!(2)), "{detail}");
        assert!(detail["tail"].to_string().contains("error building image"), "{detail}");
        let lines = story.logs.read(job.deployment, From::Tail(100), 100).await.unwrap();
        let errors = lines.iter().filter(|line| line.text.contains("error building image"));
        assert_eq!(errors.count(), 1, "each line is taken over once: {lines:?}");
        assert_eq!(story.arm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn the_last_lines_of_a_job_are_waited_for_only_so_long() {
    let story = Story::new(Where::Job).await;
    story.arm.build_fate(BuildFate::Ends(1));
    let job = story.started(1).await;
    story.runs_on(job.run).await;
    story.clock.advance(Duration::from_secs(181));
    let status = story.ended(job.run).await;
    let (failed, detail) = code(&status);
    assert_eq!((failed, &detail["exitCode"]), ("BUILD_FAILED", &Value::Null), "{detail}");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn of_a_group_that_runs_again_the_first_end_counts() {
    let story = Story::new(Where::Group).await;
    story.arm.build_fate(BuildFate::Killed);
    let job = story.started(1).await;
    // The second time it came through.
    story.pushed(job.run);
    let status = story.ended(job.run).await;
    let (failed, detail) = code(&status);
    assert_eq!((failed, &detail["exitCode"]), ("BUILD_FAILED", &json!(137)), "{detail}");
    story.builder.discard(job.run).await.unwrap();
    assert!(story.arm.containers().is_empty(), "it runs no third time");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_build_that_takes_too_long_or_is_cancelled_leaves_no_container() {
    for (place, late) in
        [(Where::Job, true), (Where::Group, true), (Where::Job, false), (Where::Group, false)]
    {
        let story = Story::new(place).await;
        story.arm.build_fate(BuildFate::Runs);
        let job = story.started(1).await;
        story.runs_on(job.run).await;
        if late {
            story.clock.advance(Duration::from_secs(601));
            for _ in 0..2 {
                assert_eq!(code(&story.ended(job.run).await).0, "DEPLOYMENT_TIMEOUT");
            }
        }
        story.builder.discard(job.run).await.unwrap();
        assert!(story.arm.containers().is_empty());
        assert_eq!(story.asked("POST", "/stop"), usize::from(place == Where::Job));
        assert_eq!(story.builder.status(job.run).await, BuildStatus::Unknown);
        assert!(story.storage.asked().iter().any(|asked| asked.method == "DELETE"), "the source goes too");
        assert_eq!(story.arm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_job_runs_once_whatever_happens_to_its_start() {
    // It is busy: certainly not begun.
    let story = Story::new(Where::Job).await;
    story.arm.trouble("POST", "/start", 409, "ContainerAppOperationInProgress");
    let job = story.started(1).await;
    story.pushed(job.run);
    assert!(matches!(story.ended(job.run).await, BuildStatus::Done(_)));
    assert_eq!((story.arm.begun(), story.asked("POST", "/start")), (1, 2));

    // It is begun, and whoever asked died before the answer: the next one finds it.
    let story = Story::new(Where::Job).await;
    story.arm.lose_start();
    let job = story.started(1).await;
    story.pushed(job.run);
    let parts = (&story.account, &story.clock, &story.blobs, &story.logs);
    let other = builder(&story.settings, Where::Job, parts);
    for _ in 0..3 {
        assert_eq!(story.builder.status(job.run).await, BuildStatus::Running);
    }
    assert_eq!(other.start(job.clone()).await.unwrap(), Started::Running);
    assert!(matches!(other.status(job.run).await, BuildStatus::Done(_)));
    assert_eq!((story.arm.begun(), story.asked("PUT", "/jobs/")), (1, 1));

    // Whoever asked died before it was begun: it is begun when that is certain.
    let story = Story::new(Where::Job).await;
    story.arm.trouble("POST", "/start", 503, "ServerTimeout");
    let job = story.started(1).await;
    story.pushed(job.run);
    story.runs_on(job.run).await;
    assert_eq!(story.arm.begun(), 0);
    story.clock.advance(Duration::from_secs(61));
    assert!(matches!(story.ended(job.run).await, BuildStatus::Done(_)));
    assert_eq!(story.arm.begun(), 1);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_container_that_could_not_be_made_is_made_by_the_next_try() {
    for (place, part, busy) in [
        (Where::Job, "/jobs/", "ContainerAppOperationInProgress"),
        (Where::Group, "/containerGroups/", "ContainerGroupTransitioning"),
    ] {
        let story = Story::new(place).await;
        let (job, manifest) = story.job(1).await;
        story.builder.sync(job.run, &job.org, &manifest).await.unwrap();
        story.arm.trouble("PUT", part, 409, busy);
        let busy = story.builder.start(job.clone()).await;
        assert!(matches!(&busy, Err(BuilderError::Unavailable(_))), "{busy:?}");
        assert_eq!(story.builder.status(job.run).await, BuildStatus::Unknown);
        story.arm.trouble("PUT", part, 403, "AuthorizationFailed");
        let forbidden = story.builder.start(job.clone()).await;
        assert!(
            matches!(&forbidden, Err(BuilderError::Rejected { code: "AZURE_FORBIDDEN", .. })),
            "{forbidden:?}"
        );
        assert_eq!(story.builder.start(job.clone()).await.unwrap(), Started::Running);
        assert_eq!(story.builder.start(job.clone()).await.unwrap(), Started::Running);
        story.pushed(job.run);
        assert!(matches!(story.ended(job.run).await, BuildStatus::Done(_)));
        assert_eq!((story.arm.begun(), story.asked("PUT", part)), (1, 3));
        assert_eq!(story.arm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn a_registry_that_refuses_tasks_is_remembered_and_a_job_goes_on() {
    let story = Story::new(Where::Job).await;
    let (first, other) = (story.tasks(), story.tasks());
    let (job, manifest) = story.job(1).await;
    assert!(first.may_build().await.unwrap());
    first.sync(job.run, &job.org, &manifest).await.unwrap();
    story.arm.trouble("POST", "/scheduleRun", 400, "TasksOperationsNotAllowed");
    let refused = first.start(job.clone()).await;
    assert!(
        matches!(&refused, Err(BuilderError::Rejected { code: "BUILDER_NOT_ALLOWED", .. })),
        "{refused:?}"
    );
    assert!(!first.may_build().await.unwrap() && !other.may_build().await.unwrap());

    // The same run, with what the first builder prepared.
    assert_eq!(story.builder.start(job.clone()).await.unwrap(), Started::Running);
    let digest = story.pushed(job.run);
    assert_eq!(other.status(job.run).await, BuildStatus::Unknown);
    other.discard(job.run).await.unwrap();
    assert!(other.leftovers().await.unwrap().is_empty());
    assert_eq!(story.arm.containers().len(), 1, "it is not the other's to discard");
    let done = story.ended(job.run).await;
    assert!(matches!(&done, BuildStatus::Done(packed) if packed.digest == digest), "{done:?}");
    story.clock.advance(Duration::from_secs(86_401));
    assert!(other.may_build().await.unwrap(), "it is asked again some day");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn lent_content_is_read_by_its_address_and_by_nothing_less() {
    let Some(azurite) = Azurite::start().await else { return };
    let loans = azurite.services().loans().unwrap();
    let now = SystemClock.now();
    let until = after(now, Duration::from_secs(600));
    let pieces = [b"pack".as_slice(), b"ed"].map(|piece| Ok(bytes::Bytes::from_static(piece)));
    let blocks = futures_util::StreamExt::boxed(futures_util::stream::iter(pieces));
    let address = loans.lend("context-1", blocks, (now, until)).await.unwrap();
    let address = address.expose_secret().to_owned();
    let root = std::fs::read(azurite.settings.root_certificate.as_ref().unwrap()).unwrap();
    let root = reqwest::Certificate::from_pem(&root).unwrap();
    let client = windlass::tls::client().no_proxy().tls_certs_merge([root]).build().unwrap();
    let get = async |address: &str| {
        let answer = client.get(address).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    };
    assert_eq!(get(&address).await, (200, bytes::Bytes::from_static(b"packed")));
    for less in [address.split('?').next().unwrap().to_owned(), address.replace("sp=r&", "sp=rw&")] {
        let (status, _) = get(&less).await;
        assert!((400..500).contains(&status), "{status} for {less}");
    }
    loans.take_back("context-1").await.unwrap();
    loans.take_back("context-1").await.unwrap();
    assert_eq!(get(&address).await.0, 404);
}
