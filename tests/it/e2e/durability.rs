//! SIGKILL at random moments: nothing is lost, nothing is done twice, nothing is left over.
//!
//! `WINDLASS_KILLS` sets the number of kills (100 otherwise) and `WINDLASS_SEED` repeats a run.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use windlass::ambient::{Clock as _, Ids as _, SeededIds, SystemClock};
use windlass::workflow::state::{Event, RunState};

use super::{Server, children_of, have, number, until};

const PROJECTS: u64 = 12;
/// Longest life of a service, in milliseconds: long enough for a whole deployment, short enough to hit its middle.
const LONGEST_LIFE_MS: u64 = 250;

/// Takes the lock of the one deployment at a time of each project, as the service does not supersede running ones.
async fn submit(server: &Server, project: u64, round: u64) -> Option<String> {
    let mut body = super::request(&format!("p{project}"));
    // The script counts itself: every time that it runs to its end is one line.
    body["buildCommand"] = json!(format!("sleep 0.0{}; echo effect {round}", round % 9));
    if project == 0 && have("python3") {
        body["startCommand"] = json!("echo started; exec python3 -m http.server --bind 127.0.0.1 $PORT");
    }
    let request = hyper::Request::post("/deploy")
        .header("host", server.api.to_string())
        .header("content-type", "application/json")
        .header("idempotency-key", format!("{project}-{round}"))
        .body(windlass::embedded::upstream::full(body.to_string()))
        .unwrap();
    let answer = server.pool.fetch(server.api, request).await.ok()?;
    let accepted: Value = serde_json::from_slice(answer.body()).ok()?;
    accepted["deploymentId"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_service_at_any_moment_loses_nothing() {
    let (kills, seed) =
        (number("WINDLASS_KILLS", 100), number("WINDLASS_SEED", u64::from(std::process::id())));
    println!("WINDLASS_SEED={seed} WINDLASS_KILLS={kills}");
    let chance = SeededIds::new(seed);
    let mut server =
        Server::with(&[("WINDLASS_DOUBLED_DELIVERIES", "50"), ("MAX_CONCURRENT_PER_ORGANIZATION", "5")]);
    let mut accepted: Vec<String> = Vec::new();
    let mut killed = Vec::new();
    for kill in 0..kills {
        for project in 0..3 {
            accepted.extend(submit(&server, (kill * 3 + project) % PROJECTS, kill).await);
        }
        let life = u64::try_from(chance.random() % u128::from(LONGEST_LIFE_MS)).unwrap();
        tokio::task::spawn_blocking(move || std::thread::sleep(Duration::from_millis(life))).await.unwrap();
        // A kill hurts from when it is sent until the new service has woken every run.
        killed.push(SystemClock.now());
        server = server.kill_and_restart();
    }
    until("everything has ended", async || {
        let (_, status) = server.get("/status").await;
        status["deployments"]["queued"] == 0 && status["deployments"]["running"] == 0
    })
    .await;
    let (mut ends, mut repeated) = (HashMap::<String, usize>::new(), 0);
    for id in &accepted {
        let (code, status) = server.get(&format!("/deploy/{id}/status")).await;
        assert_eq!(code, 200, "seed {seed}: {id} was accepted and is lost");
        let end = status["status"].as_str().unwrap();
        assert!(matches!(end, "succeeded" | "superseded"), "seed {seed}: {status}");
        *ends.entry(end.to_owned()).or_default() += 1;
        let time = |name: &str| status[name].as_str().map(|text| text.parse::<jiff::Timestamp>().unwrap());
        let (Some(begun), Some(ended)) = (time("startedAt"), time("endedAt")) else { continue };
        let hurt = killed.iter().filter(|at| (begun..=ended).contains(at)).count();
        let (_, log) = server.get(&format!("/deploy/{id}/logs?step=build&limit=1000")).await;
        let lines = log["logs"].as_array().unwrap();
        let effects = lines
            .iter()
            .filter(|line| line["text"].as_str().is_some_and(|text| text.starts_with("effect ")))
            .count();
        let reused = status["steps"][3]["output"]["reused"] == true;
        // Only a kill repeats a build, and nothing but the build's own inputs leaves it out.
        assert!(
            effects <= 1 + hurt && (reused || effects >= 1),
            "seed {seed}: {effects} builds, {hurt} kills: {status}"
        );
        repeated += effects.saturating_sub(1);
    }
    println!("{repeated} builds were repeated after a kill");
    println!("{} accepted: {ends:?}", accepted.len());
    assert!(accepted.len() as u64 >= kills && ends["succeeded"] > 0);
    verify(&server, seed).await;
}

/// Nothing is left over, and the journal folds to what is stored.
async fn verify(server: &Server, seed: u64) {
    let data = server.folder.path().join("data");
    assert!(
        std::fs::read_dir(data.join("workspaces")).unwrap().next().is_none(),
        "seed {seed}: a workspace is left"
    );
    assert!(
        std::fs::read_dir(data.join("blobs/incoming")).unwrap().next().is_none(),
        "seed {seed}: a temporary blob is left"
    );
    let apps = if have("python3") { 1 } else { 0 };
    until("the app answers again", async || apps == 0 || server.app("p0.localhost", "/").await.0 == 200)
        .await;
    assert_eq!(children_of(server.folder.path()).len(), apps, "seed {seed}: a process is left");
    let revisions = std::fs::read_dir(data.join("revisions")).unwrap().count() as u64;
    assert_eq!(revisions, PROJECTS, "seed {seed}: a revision is left, or a live one is gone");
    let (_, queue) = server.get("/status/queue").await;
    assert_eq!(queue["deadLetters"]["count"], 0, "seed {seed}");
    let connection = rusqlite::Connection::open(data.join("windlass.db")).unwrap();
    let mut select = connection.prepare("SELECT id, version, state FROM runs").unwrap();
    let rows = select
        .query_map([], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?.cast_unsigned(), row.get::<_, Vec<u8>>(2)?))
        })
        .unwrap();
    for row in rows {
        let (run, version, state) = row.unwrap();
        let stored: RunState = serde_json::from_slice(&state).unwrap();
        let mut events =
            connection.prepare("SELECT at, body FROM events WHERE run = ?1 ORDER BY seq").unwrap();
        let events: Vec<(i64, Vec<u8>)> = events
            .query_map([&run], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let parsed: Vec<Event> =
            events.iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect();
        let at = |index: usize| jiff::Timestamp::from_microsecond(events[index].0).unwrap();
        let mut folded = RunState::begin(&parsed[0], at(0)).unwrap();
        for (index, event) in parsed.iter().enumerate().skip(1) {
            folded.apply(event, at(index)).unwrap();
        }
        assert_eq!(
            (folded.version, folded.phase, folded.outcome),
            (version, stored.phase, stored.outcome),
            "seed {seed}"
        );
        // Each step is done at most once per run.
        let name = |event: &Event| {
            if let Event::StepDone { step, .. } = event { Some(step.to_string()) } else { None }
        };
        let mut done: Vec<String> = parsed.iter().filter_map(name).collect();
        let all = done.len();
        done.dedup();
        assert_eq!(done.len(), all, "seed {seed}: a step was done twice");
    }
}
