//! The suites of the `Logs` and `Secrets` ports.

use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use windlass::ambient::{Clock as _, SystemClock, after};
use windlass::deploy::ids::DeploymentId;
use windlass::deploy::log::{From, Line, Logs};
use windlass::deploy::secrets::Secrets;
use windlass::embedded::logs::FileLogs;
use windlass::embedded::secrets::key_file;

fn line(text: &str) -> Line {
    Line::new(Timestamp::UNIX_EPOCH, "log", Some("build"), text).with("n", 1)
}

async fn texts(logs: &dyn Logs, id: DeploymentId, from: From) -> Vec<String> {
    logs.read(id, from, 100).await.unwrap().into_iter().map(|line| line.text).collect()
}

/// Leaves four lines of deployment 1 and one of deployment 2.
pub(crate) async fn lines_resume_and_follow(logs: &dyn Logs) {
    let (id, other) = (DeploymentId::new(1), DeploymentId::new(2));
    assert!(logs.changed(id, 0).now_or_never().is_none(), "there is nothing yet");
    logs.append(id, vec![line("one"), line("two")]).await.unwrap();
    logs.append(other, vec![line("theirs")]).await.unwrap();
    logs.append(id, vec![line("three")]).await.unwrap();
    let all = logs.read(id, From::After(0), 100).await.unwrap();
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id) && all[0].id > 0);
    assert_eq!(all[0].data["n"], 1);
    assert_eq!(texts(logs, id, From::After(all[0].id)).await, ["two", "three"]);
    assert_eq!(texts(logs, id, From::Tail(1)).await, ["three"]);
    assert_eq!(texts(logs, id, From::Tail(9)).await, ["one", "two", "three"]);
    assert_eq!(logs.read(id, From::After(0), 2).await.unwrap().len(), 2);
    let last = all[2].id;
    assert_eq!(logs.changed(id, all[1].id).await, last);
    // Inside the last line there is nothing to read, but an end; after that whoever waits does wait.
    assert!(texts(logs, id, From::After(last - 2)).await.is_empty());
    assert_eq!(logs.changed(id, last - 2).await, last);
    assert!(logs.changed(id, last).now_or_never().is_none());
    let (more, end) = tokio::join!(logs.append(id, vec![line("four")]), logs.changed(id, last));
    more.unwrap();
    assert!(end > last);
    assert_eq!(logs.read(id, From::After(0), 100).await.unwrap()[..3], all);
}

#[tokio::test]
async fn lines_resume_follow_compress_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let logs: Box<dyn Logs> = Box::new(FileLogs::open(folder.path()).unwrap());
    let (id, other) = (DeploymentId::new(1), DeploymentId::new(2));
    lines_resume_and_follow(logs.as_ref()).await;
    assert!(logs.changed(id, 0).now_or_never().is_some(), "there is more already");
    let all = logs.read(id, From::After(0), 100).await.unwrap();
    assert_eq!(logs.compress(after(SystemClock.now(), Duration::from_secs(60))).await.unwrap(), 2);
    assert_eq!(texts(logs.as_ref(), id, From::After(0)).await, ["one", "two", "three", "four"]);
    assert_eq!(logs.read(id, From::After(0), 100).await.unwrap(), all);
    logs.remove(id).await.unwrap();
    logs.remove(id).await.unwrap();
    assert!(texts(logs.as_ref(), id, From::After(0)).await.is_empty());
    assert_eq!(texts(logs.as_ref(), other, From::After(0)).await, ["theirs"]);
}

/// Where the child of the following test finds its logs.
const FOLDER: &str = "WINDLASS_TEST_LOGS";

/// The test runs itself as a child whose files may not grow beyond a block, so that a write ends in the middle of a line.
#[tokio::test]
async fn lines_that_find_no_room_leave_nothing() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        let folder = tempfile::tempdir().unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "ports::logs::lines_that_find_no_room_leave_nothing", "--nocapture"])
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let logs = FileLogs::open(folder.as_ref()).unwrap();
    let id = DeploymentId::new(1);
    logs.append(id, vec![line("one")]).await.unwrap();
    let end = logs.changed(id, 0).await;
    assert!(logs.append(id, vec![line(&"x".repeat(100_000))]).await.is_err());
    assert!(logs.changed(id, end).now_or_never().is_none());
    logs.append(id, vec![line("two")]).await.unwrap();
    assert_eq!(texts(&logs, id, From::After(0)).await, ["one", "two"]);
    let all = logs.read(id, From::After(0), 100).await.unwrap();
    assert_eq!(logs.changed(id, end).await, all[1].id);
}

#[tokio::test]
async fn a_log_without_a_line_to_come_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path()).unwrap();
    let [cut, blocked] = [1, 2].map(DeploymentId::new);
    let path = |id: DeploymentId| folder.path().join(format!("{id}.jsonl"));
    std::fs::write(path(cut), "{\"v\":1,\"at\":\"1970").unwrap();
    let end = logs.changed(cut, 0).await;
    assert!(texts(&logs, cut, From::After(0)).await.is_empty());
    assert!(logs.changed(cut, end).now_or_never().is_none());
    std::fs::create_dir(path(blocked)).unwrap();
    assert!(logs.changed(blocked, 0).now_or_never().is_none(), "it cannot be opened");
}

#[test]
fn a_secret_is_opened_with_its_own_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| -> Box<dyn Secrets> { Box::new(key_file(&folder.path().join(name)).unwrap()) };
    let secrets = open("key");
    let (sealed, again) = (secrets.seal("canary"), secrets.seal("canary"));
    let text = serde_json::to_string(&sealed).unwrap();
    assert!(!text.contains("canary") && text != serde_json::to_string(&again).unwrap());
    assert_eq!(open("key").open(&sealed).unwrap().expose_secret(), "canary", "after a restart too");
    assert!(open("other").open(&sealed).is_err());
}
