//! What deployments leave in the vault and in the registry: what goes, and what must not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde_json::{Value, json};
use windlass::azure::secret_remains::SecretRemains;
use windlass::deploy::ids::Digest;
use windlass::deploy::retention::{Reached, Remains};
use windlass::deploy::runtime::{Runtime as _, RuntimeError};
use windlass::workflow::journal::RunId;

use super::apps::{APP, Story};
use super::doubles::{Answer, Asked, Double};
use super::images::services;
use crate::world::World;

const REPOSITORY: &str = "windlass/o/shop";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const OLD: &str = "2026-01-01T00:00:00.1234567Z";
const YOUNG: &str = "2026-11-20T00:00:00Z";
/// Manifests on a page of the double.
const ON_A_PAGE: usize = 3;

/// After every secret of the double was made, and between the images' times.
fn late() -> Timestamp {
    "2026-11-19T00:00:00Z".parse().unwrap()
}

/// Names of the references that the newest body of the app has.
fn referenced(story: &Story) -> Vec<String> {
    let body = story.arm.body(APP);
    let secrets = body["properties"]["configuration"]["secrets"].as_array().unwrap();
    secrets.iter().map(|secret| secret["name"].as_str().unwrap().to_owned()).collect()
}

/// Names of the secrets that were put into the vault, oldest first.
fn made(story: &Story) -> Vec<String> {
    let asked = story.asked_vault.asked();
    let puts = asked.iter().filter(|asked| asked.method == "PUT" && !asked.body.is_empty());
    puts.map(|asked| asked.path.rsplit('/').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn secrets_of_forgotten_deployments_leave_the_app_and_then_the_vault() {
    let story = Story::new().await;
    let mut world = World::new();
    let known = world.deploy("shop", "page").await;
    world.run_until_idle().await;
    let remains_of = |installation: String| SecretRemains {
        vault: story.services.vault().unwrap(),
        arm: Arc::new(story.services.arm()),
        deployments: Arc::clone(&world.windlass.tools.deployments),
        installation,
    };
    let remains = remains_of(story.services.installation());
    let retain = async |before, dry| remains.retain(&Reached::default(), before, dry).await.unwrap();

    story.go_live(1).await;
    assert_eq!(retain(late(), false).await, 0, "the app names it, so that deleting it would break the app");
    let mut second = story.release(2);
    second.deployment = known;
    story.make_live(&second).await;
    assert_eq!(referenced(&story).len(), 2, "the first release was live until then");
    assert_eq!(retain(late(), false).await, 0);
    story.go_live(3).await;
    assert_eq!(referenced(&story).len(), 2, "those of the second and the third");

    assert_eq!(retain(Timestamp::UNIX_EPOCH, false).await, 0, "all are young");
    let other = remains_of("another/windlass".to_owned());
    assert_eq!(other.retain(&Reached::default(), late(), false).await.unwrap(), 0, "none of them is its");
    assert_eq!(retain(late(), true).await, 1);
    assert_eq!(retain(late(), true).await, 1, "a dry run removes nothing");
    assert_eq!(retain(late(), false).await, 1);
    assert_eq!(retain(late(), false).await, 0);
    let vault = story.services.vault().unwrap();
    let secrets = made(&story);
    assert!(vault.get_secret(&secrets[0], None).await.is_err());
    for kept in &secrets[1..] {
        vault.get_secret(kept, None).await.unwrap();
    }
    // Without the app nothing names the third any more. The second's deployment is known, and may be started again.
    story.runtime.withdraw("o/shop/production").await.unwrap();
    assert_eq!(retain(late(), false).await, 1);
    assert!(vault.get_secret(&secrets[2], None).await.is_err());
    vault.get_secret(&secrets[1], None).await.unwrap();
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_reference_that_leads_nowhere_never_breaks_a_release() {
    let story = Story::new().await;
    story.go_live(1).await;
    let vault = story.services.vault().unwrap();
    vault.delete_secret(&made(&story)[0], None).await.unwrap();
    let second = story.release(2);
    let told = story.runtime.start(&second, None).await.unwrap_err();
    assert!(matches!(&told, RuntimeError::Unavailable(why) if why.contains("being recovered")), "{told}");
    story.make_live(&second).await;
    assert_eq!(referenced(&story).len(), 2);

    let secret = made(&story).pop().unwrap();
    vault.delete_secret(&secret, None).await.unwrap();
    vault.purge_deleted_secret(&secret, None).await.unwrap();
    story.go_live(3).await;
    assert_eq!(referenced(&story).len(), 1, "only what can be read");
    assert_eq!(story.arm.violations(), [""; 0]);
}

/// Manifests by digest: how the registry lists them, and what they say.
type Manifests = Arc<Mutex<BTreeMap<String, (Value, String)>>>;

/// Adds a manifest with what the list says of it; gives its digest.
fn add(manifests: &Manifests, body: &Value, listed: &Value) -> Digest {
    let text = body.to_string();
    let digest = Digest::of(text.as_bytes());
    let name = format!("sha256:{digest}");
    let mut entry = json!({
        "digest": name, "mediaType": IMAGE, "createdTime": OLD, "lastUpdateTime": OLD,
        "changeableAttributes": { "deleteEnabled": true },
    });
    entry.as_object_mut().unwrap().extend(listed.as_object().unwrap().clone());
    manifests.lock().unwrap().insert(name, (entry, text));
    digest
}

fn page(manifests: &Manifests, query: &str) -> Answer {
    let last = query.split('&').find_map(|pair| pair.strip_prefix("last=")).unwrap_or_default();
    let manifests = manifests.lock().unwrap();
    let rest: Vec<(&String, &Value)> = manifests
        .iter()
        .filter(|(digest, _)| digest.as_str() > last)
        .map(|(digest, (entry, _))| (digest, entry))
        .collect();
    let listed: Vec<&Value> = rest.iter().take(ON_A_PAGE).map(|(_, entry)| *entry).collect();
    let mut headers = Vec::new();
    if let Some((last, _)) = rest.get(ON_A_PAGE - 1).filter(|_| rest.len() > ON_A_PAGE) {
        let next =
            format!("</acr/v1/{REPOSITORY}/_manifests?api-version=2021-07-01&last={last}>; rel=\"next\"");
        headers.push(("link", next));
    }
    (200, headers, json!({ "imageName": REPOSITORY, "manifests": listed }).to_string())
}

/// A registry whose identity may read, and delete if it is said so.
fn registry(manifests: &Manifests, may_delete: bool) -> Double {
    let manifests = Arc::clone(manifests);
    Double::start(move |asked: &Asked| -> Answer {
        let text = |status: u16, body: String| (status, Vec::new(), body);
        let of_repository = asked.path.strip_prefix(&format!("/v2/{REPOSITORY}/manifests/"));
        match (asked.method.as_str(), asked.path.as_str(), of_repository) {
            ("GET", "/v2/", _) => {
                let challenge = "Bearer realm=\"https://nowhere.invalid/\",service=\"images.azurecr.io\"";
                (401, vec![("www-authenticate", challenge.to_owned())], String::new())
            }
            ("POST", "/oauth2/exchange", _) => text(200, json!({ "refresh_token": "refresh" }).to_string()),
            ("POST", "/oauth2/token", _) if asked.body.contains("delete") && !may_delete => {
                text(401, String::new())
            }
            ("POST", "/oauth2/token", _) => text(200, json!({ "access_token": "access" }).to_string()),
            _ if asked.header("authorization") != Some("Bearer access") => text(401, String::new()),
            ("GET", "/acr/v1/windlass/o/shop/_manifests", _) => page(&manifests, &asked.query),
            ("GET", _, Some(digest)) => match manifests.lock().unwrap().get(digest) {
                Some((_, body)) => text(200, body.clone()),
                None => text(404, String::new()),
            },
            ("DELETE", _, Some(digest)) => match manifests.lock().unwrap().remove(digest) {
                Some(_) => text(202, String::new()),
                None => text(404, String::new()),
            },
            ("GET", _, None) => text(404, String::new()),
            other => panic!("{other:?} is not played"),
        }
    })
}

/// A repository with something of every kind. Gives what a record names, and what may go.
fn repository(manifests: &Manifests) -> (Vec<Digest>, Vec<Digest>) {
    let image = |n: u64| json!({ "schemaVersion": 2, "n": n });
    let index = |of: Digest| json!({ "schemaVersion": 2, "manifests": [{ "mediaType": IMAGE, "digest": format!("sha256:{of}") }] });
    let run = RunId::new(Timestamp::UNIX_EPOCH, 7).to_string();
    let kept = add(manifests, &image(1), &json!({ "tags": [run] }));
    let part = add(manifests, &image(2), &json!({}));
    let kept_index = add(manifests, &index(part), &json!({ "mediaType": INDEX }));
    let about = json!({ "schemaVersion": 2, "subject": { "digest": format!("sha256:{kept}") } });
    add(manifests, &about, &json!({}));
    add(manifests, &image(3), &json!({ "tags": ["v1"] }));
    add(manifests, &image(4), &json!({ "lastUpdateTime": YOUNG }));
    add(manifests, &image(5), &json!({ "changeableAttributes": { "deleteEnabled": false } }));

    let tagged = add(manifests, &image(6), &json!({ "tags": [run, Digest::of(b"source").to_string()] }));
    let untagged = add(manifests, &image(7), &json!({ "tags": null }));
    let old_part = add(manifests, &image(8), &json!({}));
    let old_index = add(manifests, &index(old_part), &json!({ "mediaType": INDEX }));
    (vec![kept, kept_index], vec![tagged, untagged, old_part, old_index])
}

fn reached(artifacts: Vec<Digest>) -> Reached {
    let projects = ["o/other", "o/shop", "o/shop-2"].map(str::to_owned);
    Reached { projects: projects.into(), artifacts: artifacts.into_iter().collect() }
}

#[tokio::test]
async fn images_that_no_record_names_are_deleted_and_all_others_stay() {
    let manifests = Manifests::default();
    let (kept, gone) = repository(&manifests);
    let double = registry(&manifests, true);
    let images = services(&double).images();
    let reached = reached(kept);
    let names = || manifests.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    let before = names();
    assert_eq!(images.retain(&reached, late(), true).await.unwrap(), 4);
    assert_eq!(names(), before, "a dry run deletes nothing");
    assert_eq!(images.retain(&reached, late(), false).await.unwrap(), 4);
    let gone: Vec<String> = gone.iter().map(|digest| format!("sha256:{digest}")).collect();
    let stays: Vec<String> = before.into_iter().filter(|name| !gone.contains(name)).collect();
    assert_eq!(names(), stays);
    assert_eq!(images.retain(&reached, late(), false).await.unwrap(), 0);
    let asked = double.asked();
    let first = asked.iter().find(|asked| asked.method == "DELETE").unwrap();
    assert!(first.path.ends_with(&gone[3]), "an index goes before its images: {}", first.path);
}

#[tokio::test]
async fn without_the_right_to_delete_images_stay_and_the_cleanup_goes_on() {
    let manifests = Manifests::default();
    let (kept, _) = repository(&manifests);
    let double = registry(&manifests, false);
    let images = services(&double).images();
    let all = manifests.lock().unwrap().len();
    assert_eq!(images.retain(&reached(kept), late(), false).await.unwrap(), 0);
    assert_eq!(manifests.lock().unwrap().len(), all);
    let tokens = double.asked().iter().filter(|asked| asked.path == "/oauth2/token").count();
    assert_eq!(tokens, 1, "one refusal, and one warning, is enough");
}
