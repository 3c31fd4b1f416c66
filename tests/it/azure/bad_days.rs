//! Bad days on Azure: each says by code and sentence what is wrong, leaves what was there as it was, and goes on afterwards.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use windlass::ambient::{Clock as _, ManualClock, after};
use windlass::azure::app_secrets::AppSecrets;
use windlass::azure::arm::{Arm, Contract};
use windlass::azure::services::Services;
use windlass::azure::vault::sealing_key;
use windlass::deploy::runtime::{Health, Runtime as _, RuntimeError};
use windlass::workflow::chain::StepName;
use windlass::workflow::journal::{Append, Claim, Journal, JournalError, Lease, RunId};
use windlass::workflow::state::{Event, RunState};

use super::apps::{APP, Story};
use super::arm_double::{ArmDouble, Fate};
use super::azurite::Unsigned;
use super::cloud::Cloud;
use super::cosmos::{Account, Trouble, emulator, rules, two_regions};
use super::doubles::{Answer, Double, down, slow, up};
use super::journal::{begin, journal, walk};
use super::settings;
use super::vault::vault;
use crate::e2e::{copy_of, until};

/// The Container Apps environment, which the program reads when it starts.
const ENVIRONMENT: &str = "Microsoft.App/managedEnvironments/env";

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-11-20T09:00:00Z".parse().unwrap()))
}

#[tokio::test]
async fn a_missing_permission_names_the_role_and_the_scope() {
    let story = Story::new().await;
    story.go_live(1).await;
    let before = story.arm.serving(APP);
    let said = "The client 'c' with object id 'o' does not have authorization to perform action 'Microsoft.App/containerApps/write' over scope '/subscriptions/s/resourceGroups/apps' or the scope is invalid.";
    story.arm.trouble_saying(("PUT", "/containerApps/"), 403, "AuthorizationFailed", said);
    let release = story.release(2);
    let Err(RuntimeError::Rejected { code, message }) = story.runtime.start(&release, None).await else {
        panic!("it was allowed")
    };
    assert_eq!(code, "AZURE_FORBIDDEN");
    let wanted = "the role Container Apps Contributor on /subscriptions/s/resourceGroups/apps";
    assert!(message.contains(wanted), "{message}");
    story.runtime.stop(release.run).await.unwrap();
    assert_eq!(story.arm.serving(APP), before);
    story.go_live(3).await;
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn each_refusal_has_a_code_of_its_own_and_changes_nothing() {
    let story = Story::new().await;
    story.go_live(1).await;
    let before = story.arm.serving(APP);
    let cases = [
        (400, "LocationIsOfferRestricted", "AZURE_CAPACITY"),
        (409, "ZonalAllocationFailed", "AZURE_CAPACITY"),
        (400, "ManagedEnvironmentQuotaReached", "AZURE_QUOTA"),
        (409, "ContainerAppAlreadyExists", "AZURE_NAME_TAKEN"),
        (409, "ResourceSoftDeleted", "AZURE_SOFT_DELETED"),
        (401, "InvalidAuthenticationTokenTenant", "AZURE_NOT_FOUND"),
    ];
    for (number, (status, said, wanted)) in (2..).zip(cases) {
        story.arm.trouble("PUT", "/containerApps/", status, said);
        let release = story.release(number);
        let refused = story.runtime.start(&release, None).await;
        assert!(
            matches!(&refused, Err(RuntimeError::Rejected { code, message }) if *code == wanted && message.contains(said)),
            "{refused:?}"
        );
        story.runtime.stop(release.run).await.unwrap();
        assert_eq!(story.arm.serving(APP), before, "{said}");
        // Nothing but the refusal stood in its way.
        story.runtime.start(&release, None).await.unwrap();
        assert_eq!(story.settled(&release).await, Health::Healthy);
        story.runtime.stop(release.run).await.unwrap();
    }
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_container_app_that_is_not_ours_is_left_alone() {
    let story = Story::new().await;
    let theirs = json!({
        "location": "westeurope",
        "properties": {
            "configuration": {
                "activeRevisionsMode": "Multiple",
                "ingress": { "external": true, "targetPort": 80, "traffic": [{ "latestRevision": true, "weight": 100 }] },
            },
            "template": { "revisionSuffix": "theirs", "containers": [{ "name": "app", "image": "theirs:1" }] },
        },
    });
    let arm = story.services.arm();
    arm.put(Contract::ContainerApps, &format!("Microsoft.App/containerApps/{APP}"), &theirs).await.unwrap();
    let release = story.release(1);
    let refused = story.runtime.start(&release, None).await;
    assert!(matches!(refused, Err(RuntimeError::Rejected { code: "AZURE_NAME_TAKEN", .. })), "{refused:?}");
    story.runtime.stop(release.run).await.unwrap();
    assert_eq!(story.arm.revisions(APP), [format!("{APP}--theirs")]);
    assert_eq!(story.arm.body(APP), theirs);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_revision_that_never_becomes_healthy_leaves_the_live_one_alone() {
    let story = Story::new().await;
    story.go_live(1).await;
    let before = story.arm.serving(APP);
    story.arm.fate(Fate::Healthy(1_000));
    let release = story.release(2);
    story.runtime.start(&release, None).await.unwrap();
    for _ in 0..10 {
        assert_eq!(story.runtime.health(release.run).await, Health::Starting, "the deadline ends it");
    }
    story.runtime.stop(release.run).await.unwrap();
    assert_eq!(story.arm.serving(APP), before);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_deleted_secret_is_recovered_and_used_again() {
    let story = Story::new().await;
    let secrets = AppSecrets::new(story.secrets(), story.services.vault().unwrap(), "i".to_owned());
    let release = story.release(1);
    let kept = secrets.keep(&release, "shop").await.unwrap();
    let asked = story.asked_vault.asked();
    let made = asked.iter().find(|asked| asked.method == "PUT" && !asked.body.is_empty()).unwrap();
    let name = made.path.rsplit('/').next().unwrap();
    story.services.vault().unwrap().delete_secret(name, None).await.unwrap();
    let told = secrets.keep(&release, "shop").await.unwrap_err();
    assert!(matches!(&told, RuntimeError::Unavailable(why) if why.contains("being recovered")), "{told}");
    assert_eq!(secrets.keep(&release, "shop").await.unwrap(), kept, "the same version comes back");
}

/// Resource Manager for an app registration with this secret.
fn arm_of(login: &Double, arm: &ArmDouble, secret: &str) -> Arm {
    let settings = settings(&[
        ("WINDLASS_AZURE_AUTH", "service-principal"),
        ("AZURE_TENANT_ID", "00000000-0000-0000-0000-000000000003"),
        ("AZURE_CLIENT_ID", "00000000-0000-0000-0000-000000000004"),
        ("AZURE_CLIENT_SECRET", secret),
        ("WINDLASS_AUTHORITY", &login.address),
        ("WINDLASS_ARM_ENDPOINT", &arm.double.address),
    ]);
    Services::new(&settings).unwrap().arm()
}

/// A sign-in that knows the secret `new-one` only.
fn login() -> Double {
    Double::start(|asked| -> Answer {
        assert!(asked.path.ends_with("/oauth2/v2.0/token"), "{}", asked.path);
        let json_kind = vec![("content-type", "application/json".to_owned())];
        if asked.body.contains("client_secret=new-one") {
            let token = json!({ "token_type": "Bearer", "expires_in": 3_600, "access_token": "token" });
            return (200, json_kind, token.to_string());
        }
        let said = "AADSTS7000222: The provided client secret keys for app are expired.";
        let refusal =
            json!({ "error": "invalid_client", "error_description": said, "error_codes": [7_000_222] });
        (401, json_kind, refusal.to_string())
    })
}

#[tokio::test]
async fn an_expired_secret_says_which_setting_to_mend() {
    let (login, arm) = (login(), ArmDouble::start());
    let expired = arm_of(&login, &arm, "old-one").get(Contract::ContainerApps, ENVIRONMENT).await;
    let error = expired.unwrap_err();
    assert_eq!((error.code(), error.may_pass()), ("AZURE_SIGN_IN", false), "{error:?}");
    assert!(error.to_string().contains("AZURE_CLIENT_SECRET"), "{error}");
    assert!(!format!("{error:?}").contains("old-one"), "no secret in an error");
    assert!(arm.double.asked().is_empty(), "nothing was asked without a token");
    let mended = arm_of(&login, &arm, "new-one").get(Contract::ContainerApps, ENVIRONMENT).await;
    assert!(mended.unwrap().is_some());
}

#[tokio::test]
async fn a_slow_sign_in_is_waited_for_once() {
    let (login, double) = (login(), ArmDouble::start());
    slow(&login.mood, Duration::from_millis(300));
    let arm = arm_of(&login, &double, "new-one");
    let found = join_all((0..8).map(|_| arm.get(Contract::ContainerApps, ENVIRONMENT))).await;
    assert!(found.into_iter().all(|found| found.unwrap().is_some()));
    assert_eq!(login.asked().len(), 1, "everybody shares the token");
}

#[tokio::test]
async fn a_subscription_of_somebody_else_is_not_taken_for_an_empty_one() {
    let double = ArmDouble::start();
    let settings = settings(&[("WINDLASS_ARM_ENDPOINT", &double.double.address)]);
    let arm = Services::with(&settings, Arc::new(Unsigned)).unwrap().arm();
    let get = async || arm.get(Contract::ContainerApps, ENVIRONMENT).await;
    double.trouble("GET", "/managedEnvironments/", 404, "SubscriptionNotFound");
    let error = get().await.unwrap_err();
    assert_eq!((error.code(), error.may_pass()), ("AZURE_NOT_FOUND", false));
    assert!(error.to_string().contains("AZURE_SUBSCRIPTION_ID"), "{error}");
    double.trouble("GET", "/managedEnvironments/", 404, "ResourceNotFound");
    assert_eq!(get().await.unwrap(), None);
    assert!(get().await.unwrap().is_some());
}

#[tokio::test]
async fn a_deleted_sealing_key_says_how_it_comes_back() {
    let (double, account) = (vault(), Account::new().await);
    let settings = settings(&[("KEYVAULT_URL", &double.address)]);
    let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
    let client = services.vault().unwrap();
    sealing_key(&client, &account.records).await.unwrap();
    client.delete_secret("windlass-sealing-key", None).await.unwrap();
    let told = sealing_key(&client, &account.records).await.err().unwrap().to_string();
    assert!(told.contains("az keyvault secret recover"), "{told}");
    client.recover_deleted_secret("windlass-sealing-key", None).await.unwrap();
    sealing_key(&client, &account.records).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_is_down_at_the_start_is_named_and_the_next_start_works() {
    let Some(cloud) = Cloud::start(4).await else { return };
    down(&cloud.vault.mood, 503);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = cloud.host.spawn(port);
    until("it gives up", || std::future::ready(child.try_wait().unwrap().is_some())).await;
    let code = child.wait().unwrap().code();
    assert!(code.is_some_and(|code| code != 0 && code != 200), "the host starts it again: {code:?}");
    assert!(cloud.host.log().contains("Key Vault"), "{}", cloud.host.log());
    up(&cloud.vault.mood);
    assert_eq!(cloud.host.get("/").await["name"], "windlass");
    cloud.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_while_service_bus_is_down_is_accepted_and_done_later() {
    let Some(mut cloud) = Cloud::start(5).await else { return };
    cloud.host.careless = false;
    let folder = tempfile::tempdir().unwrap();
    let project = copy_of("node-api", folder.path());
    down(&cloud.bus.double.mood, 503);
    let id = cloud.deploy(&project, "patient").await;
    assert_eq!(cloud.bus.waiting(), 0, "no message came through");
    let path = format!("/deploy/{id}/status");
    assert_eq!(cloud.host.get(&path).await["status"], "queued");
    up(&cloud.bus.double.mood);
    cloud.until_idle().await;
    assert_eq!(cloud.host.get(&path).await["status"], "succeeded", "{}", cloud.host.log());
    assert_eq!(cloud.arm.builds(), 1);
    cloud.assert_clean().await;
}

/// The move number `n` of a run that waits for ever.
fn wait(state: &RunState, text: &str, clock: &ManualClock) -> (Event, RunState) {
    let memo = json!({ "text": text });
    let event = Event::StepWaits { step: StepName::new("s"), until: jiff::Timestamp::MAX, memo };
    let mut next = state.clone();
    next.apply(&event, clock.now()).unwrap();
    (event, next)
}

async fn held(journal: &impl Journal, run: RunId, clock: &ManualClock) -> (Lease, RunState) {
    let now = clock.now();
    let claimed = journal.claim(run, now, after(now, Duration::from_secs(30))).await.unwrap();
    let Claim::Held(lease, state) = claimed else { panic!("{claimed:?}") };
    (lease, *state)
}

fn append<'a>(lease: &'a Lease, (event, next): &'a (Event, RunState)) -> Append<'a> {
    let events = std::slice::from_ref(event);
    Append {
        run: lease.run,
        expected: next.version - 1,
        lease: Some(lease),
        events,
        state: next,
        hints: Vec::new(),
    }
}

#[tokio::test]
async fn a_minute_of_throttling_costs_a_minute() {
    let (emulator, clock) = (emulator(), clock());
    let rules = rules(Trouble::Throttled, 100);
    let set = |on: bool| rules.iter().for_each(|rule| if on { rule.enable() } else { rule.disable() });
    set(false);
    let account = Account::ruled(&emulator, rules.clone()).await;
    let journal = journal(&account, &clock);
    let run = RunId::new(clock.now(), 1);
    let (first, state, hint) = begin(run, clock.now());
    journal.create(run, &first, &state, hint).await.unwrap();
    assert_eq!(walk(&journal, run, &clock, 3).await, 0);
    set(true);
    for _ in 0..6 {
        let now = clock.now();
        let told = journal.claim(run, now, after(now, Duration::from_secs(30))).await;
        assert!(matches!(told, Err(JournalError::Unavailable(_))), "so the message comes again: {told:?}");
        clock.advance(Duration::from_secs(10));
    }
    set(false);
    assert_eq!(walk(&journal, run, &clock, 6).await, 0);
    let (stored, entries) = journal.history(run).await.unwrap().unwrap();
    assert_eq!((stored.version, entries.len()), (7, 7));
}

#[tokio::test]
async fn clocks_that_differ_cost_a_move_and_nothing_else() {
    let emulator = emulator();
    let (late, early) = (clock(), clock());
    early.advance(Duration::from_secs(60));
    let (a, b) = (Account::of(&emulator).await, Account::of(&emulator).await);
    let (slow_one, fast_one) = (journal(&a, &late), journal(&b, &early));
    let run = RunId::new(late.now(), 1);
    let (first, state, hint) = begin(run, late.now());
    slow_one.create(run, &first, &state, hint).await.unwrap();
    let (lost, state) = held(&slow_one, run, &late).await;
    // By a clock that is a minute ahead the lease has run out long ago.
    let (lease, same) = held(&fast_one, run, &early).await;
    assert_eq!(state, same);
    let fenced = slow_one.append(append(&lost, &wait(&state, "lost", &late))).await;
    assert!(matches!(fenced, Err(JournalError::Fenced(_))), "{fenced:?}");
    fast_one.append(append(&lease, &wait(&state, "first", &early))).await.unwrap();
    let (lease, state) = held(&slow_one, run, &late).await;
    slow_one.append(append(&lease, &wait(&state, "second", &late))).await.unwrap();
    let (_, entries) = slow_one.history(run).await.unwrap().unwrap();
    let told: Vec<String> = entries[1..].iter().map(|entry| format!("{:?}", entry.event)).collect();
    assert!(told.len() == 2 && told[0].contains("first") && told[1].contains("second"), "{told:?}");
}

#[tokio::test]
async fn a_move_that_is_too_large_is_refused_and_the_run_goes_on() {
    let (account, clock) = (Account::new().await, clock());
    let journal = journal(&account, &clock);
    let run = RunId::new(clock.now(), 1);
    let (first, state, hint) = begin(run, clock.now());
    journal.create(run, &first, &state, hint).await.unwrap();
    let (lease, state) = held(&journal, run, &clock).await;
    let large = "x".repeat(3_000_000);
    let refused = journal.append(append(&lease, &wait(&state, &large, &clock))).await;
    assert!(matches!(refused, Err(JournalError::Damaged { .. })), "trying again would not help: {refused:?}");
    assert!(account.records.put("p", "i", &json!({ "text": large })).await.is_err());
    clock.advance(Duration::from_secs(31));
    assert_eq!(walk(&journal, run, &clock, 3).await, 0);
    let (stored, entries) = journal.history(run).await.unwrap().unwrap();
    assert_eq!((stored.version, entries.len()), (4, 4));
}

#[tokio::test]
async fn a_failover_to_another_region_loses_no_move() {
    let (emulator, clock) = (two_regions(), clock());
    let account = Account::of(&emulator).await;
    let journal = journal(&account, &clock);
    let run = RunId::new(clock.now(), 1);
    let (first, state, hint) = begin(run, clock.now());
    journal.create(run, &first, &state, hint).await.unwrap();
    walk(&journal, run, &clock, 3).await;
    emulator.store().set_write_region("West US").unwrap();
    let after = tokio::time::timeout(Duration::from_secs(60), walk(&journal, run, &clock, 6)).await;
    assert!(after.is_ok(), "the new region is never found");
    let (stored, entries) = journal.history(run).await.unwrap().unwrap();
    assert_eq!((stored.version, entries.len()), (7, 7));
    assert!(entries.iter().zip(1..).all(|(entry, seq)| entry.seq == seq));
}
