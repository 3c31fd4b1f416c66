//! That a build service's own words tell building and pushing apart in the deployment's log.

use jiff::Timestamp;
use windlass::deploy::builder::{BuildJob, BuildStatus, Builder as _};
use windlass::deploy::log::From;

use super::kaniko_story::{REPOSITORY, Story, Where};

/// Kinds and texts of what the log of a build has.
async fn told(story: &Story, job: &BuildJob) -> Vec<(String, String)> {
    let lines = story.logs.read(job.deployment, From::After(0), 100).await.unwrap();
    lines.into_iter().map(|line| (line.kind, line.text)).collect()
}

fn kinds(told: &[(String, String)]) -> Vec<&str> {
    told.iter().map(|(kind, _)| kind.as_str()).collect()
}

#[tokio::test]
async fn the_log_of_acr_tasks_tells_building_and_pushing_apart() {
    let story = Story::new(Where::Job).await;
    let (builder, (job, manifest)) = (story.tasks(), story.job(1).await);
    builder.sync(job.run, &job.org, &manifest).await.unwrap();
    builder.start(job.clone()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(builder.status(job.run).await, BuildStatus::Running);
    }
    assert_eq!(
        kinds(&told(&story, &job).await),
        ["build.started", "log", "log"],
        "what is not over is not said"
    );
    for _ in 0..2 {
        assert!(matches!(builder.status(job.run).await, BuildStatus::Done(_)));
    }
    let told = told(&story, &job).await;
    let wanted = [
        "build.started",
        "log",
        "log",
        "build.finished",
        "push.started",
        "log",
        "log",
        "log",
        "push.finished",
    ];
    assert_eq!(kinds(&told), wanted, "each once: {told:?}");
    let image = format!("registry.azurecr.io/{REPOSITORY}:{}", job.run);
    assert!(told[4].1 == image && told[8].1 == image, "{told:?}");
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn the_log_of_kaniko_tells_building_and_pushing_apart() {
    for place in [Where::Job, Where::Group] {
        let story = Story::new(place).await;
        let job = story.started(1).await;
        story.pushed(job.run);
        let name = format!("{}/{REPOSITORY}", story.settings.login_server);
        let named = format!("{name}@sha256:{}", "ab".repeat(32));
        if place == Where::Job {
            let line = |second: u8, text: String| -> (Timestamp, String) {
                (format!("2026-11-20T09:00:0{second}Z").parse().unwrap(), text)
            };
            story.said.lock().unwrap().extend([
                line(1, "INFO[0000] Retrieving image manifest".to_owned()),
                line(2, format!("INFO[0001] Pushing image to {name}:{} ", job.run)),
                line(3, format!("INFO[0002] Pushed {named}")),
                line(4, "windlass: kaniko ended with exit code 0".to_owned()),
            ]);
        }
        assert!(matches!(story.ended(job.run).await, BuildStatus::Done(_)));
        let told = told(&story, &job).await;
        let events: Vec<(&str, &str)> = told
            .iter()
            .filter(|(kind, _)| kind != "log")
            .map(|(kind, text)| (kind.as_str(), text.as_str()))
            .collect();
        let tagged = format!("{name}:{}", job.run);
        let wanted = [
            ("build.started", "Dockerfile"),
            ("build.finished", ""),
            ("push.started", tagged.as_str()),
            ("push.finished", named.as_str()),
        ];
        assert_eq!(events, wanted, "{told:?}");
        assert_eq!(story.arm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn of_a_build_that_fails_nothing_is_said_to_be_pushed() {
    let story = Story::new(Where::Group).await;
    story.arm.build_fate(super::jobs_double::BuildFate::Ends(2));
    let job = story.started(1).await;
    assert!(matches!(story.ended(job.run).await, BuildStatus::Failed(_)));
    let told = told(&story, &job).await;
    assert!(kinds(&told).contains(&"build.started"), "{told:?}");
    assert!(
        !kinds(&told).iter().any(|kind| kind.starts_with("push.") || *kind == "build.finished"),
        "{told:?}"
    );
}
