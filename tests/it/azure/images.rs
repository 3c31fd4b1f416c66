//! Images in a registry, against a double that gives tokens as Azure's registry documentation says.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use windlass::azure::services::Services;
use windlass::deploy::artifacts::Artifacts as _;
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::ids::{Digest, Name};

use super::azurite::Unsigned;
use super::doubles::{Answer, Asked, Double};
use super::settings;

/// The manifest of an image.
pub(crate) const IMAGE: &[u8] = b"{}";

/// A registry that has [`IMAGE`] in each repository with this beginning, also by the tags of runs, and an identity that may read there only.
pub(crate) fn registry(repositories: &'static str) -> Double {
    let scope = format!("scope=repository%3A{}", repositories.replace('/', "%2F"));
    Double::start(move |asked: &Asked| -> Answer {
        let given = |name: &str, token: &str| (200, Vec::new(), json!({ (name): token }).to_string());
        match (asked.method.as_str(), asked.path.as_str()) {
            ("POST", "/oauth2/exchange") => {
                assert!(
                    asked.body.starts_with("grant_type=access_token&service=images.azurecr.io"),
                    "{}",
                    asked.body
                );
                given("refresh_token", "refresh")
            }
            ("POST", "/oauth2/token") => {
                assert!(asked.body.ends_with("&refresh_token=refresh"), "{}", asked.body);
                if asked.body.contains(&scope) {
                    given("access_token", "access")
                } else {
                    (401, Vec::new(), String::new())
                }
            }
            ("GET", "/v2/") => {
                let challenge = "Bearer realm=\"https://nowhere.invalid/\",service=\"images.azurecr.io\"";
                (401, vec![("www-authenticate", challenge.to_owned())], String::new())
            }
            ("GET", path) => {
                assert_eq!(asked.header("authorization"), Some("Bearer access"));
                assert!(
                    asked.header("accept").unwrap().contains("application/vnd.oci.image.manifest.v1+json")
                );
                let named = path.ends_with(&format!("/manifests/sha256:{}", Digest::of(IMAGE)));
                let there = path.starts_with(&format!("/v2/{repositories}"))
                    && (named || path.contains("/manifests/run_"));
                if path.ends_with(&Digest::of(b"refused").to_string()) {
                    (405, Vec::new(), String::new())
                } else if there {
                    (200, Vec::new(), String::from_utf8_lossy(IMAGE).into_owned())
                } else {
                    (404, Vec::new(), String::new())
                }
            }
            other => panic!("{other:?}"),
        }
    })
}

pub(crate) fn services(double: &Double) -> Services {
    let host = double.address.trim_start_matches("http://").trim_end_matches('/');
    let settings = settings(&[("ACR_LOGIN_SERVER", host), ("WINDLASS_ARM_ENDPOINT", &double.address)]);
    Services::with(&settings, Arc::new(Unsigned)).unwrap()
}

#[tokio::test]
async fn an_image_is_reused_while_the_registry_has_it() {
    let (image, now): (_, Timestamp) = (Digest::of(IMAGE), Timestamp::UNIX_EPOCH);
    let double = registry("windlass/o/shop");
    let images = services(&double).images();
    let org: Name = "o".parse().unwrap();
    let has = async |app: &str, image| images.has(&org, app, image, now).await.unwrap();
    assert!(has("o/shop/production", image).await);
    assert!(has("o/shop/staging", image).await, "the environments of a project share their images");
    assert!(!has("o/shop/production", Digest::of(b"deleted")).await);
    assert!(!has("o/shop/production", Digest::of(b"refused")).await, "nor what the registry refuses to show");
    assert!(!has("o/other/production", image).await, "where the identity may not look, it builds anew");
    drop(double);
}

#[test]
fn an_image_is_decided_by_what_is_written_into_it() {
    let images = Services::with(&settings(&[]), Arc::new(Unsigned)).unwrap().images();
    let plan = |start: &str| Plan::new(Kind::Node, Some(start.to_owned()));
    let app = "o/shop/production";
    assert_eq!(images.inputs(app, &plan("a")), images.inputs("o/shop/staging", &plan("a")));
    assert_ne!(images.inputs(app, &plan("a")), images.inputs(app, &plan("b")));
    assert_ne!(images.inputs(app, &plan("a")), images.inputs("o/other/production", &plan("a")));
    for other in
        [("WINDLASS_BASE_IMAGES", "node=images.example/node:24"), ("WINDLASS_PLATFORM", "linux/arm64")]
    {
        let others = Services::with(&settings(&[other]), Arc::new(Unsigned)).unwrap().images();
        assert_ne!(images.inputs(app, &plan("a")), others.inputs(app, &plan("a")), "{other:?}");
    }
    let own = Plan::new(Kind::Docker, Some("a".to_owned()));
    assert_eq!(images.inputs(app, &own).into_keys().collect::<Vec<_>>(), ["repository"]);
}
