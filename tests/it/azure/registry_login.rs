//! Signing in at a registry of Azure's, against a double that hands out tokens as the service documents it.

use std::sync::Arc;

use azure_core::credentials::TokenCredential as _;
use serde_json::json;
use windlass::ambient::SystemClock;
use windlass::deploy::builder::{BuildStatus, Builder as _};
use windlass::deploy::detect::{Kind, Plan};
use windlass::deploy::ids::Digest;

use super::azurite::Unsigned;
use super::doubles::{Answer, Asked, Double};
use super::layers::{Bench, job};

pub(crate) fn base_config() -> String {
    json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [] } })
        .to_string()
}

/// The manifest of a base without layers.
pub(crate) fn base_manifest() -> String {
    let config = base_config();
    let digest = format!("sha256:{}", Digest::of(config.as_bytes()));
    let about = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len() });
    json!({ "layers": [], "config": about }).to_string()
}

/// A registry that has every blob, and a sign-in that allows what it is asked for, or nothing.
fn registry(allows: bool) -> Double {
    Double::start(move |asked: &Asked| -> Answer {
        let text = |status: u16, body: String| (status, Vec::new(), body);
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/v2/") => {
                let realm = format!("http://{}/oauth2/token", asked.header("host").unwrap());
                let challenge = format!("Bearer realm=\"{realm}\",service=\"images.azurecr.io\"");
                (401, vec![("www-authenticate", challenge)], String::new())
            }
            ("POST", "/oauth2/exchange") => text(200, json!({ "refresh_token": "refresh-1" }).to_string()),
            ("POST", "/oauth2/token") if !allows => {
                text(401, json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "no" }] }).to_string())
            }
            ("POST", "/oauth2/token") => text(200, json!({ "access_token": "access-1" }).to_string()),
            _ if asked.header("authorization") != Some("Bearer access-1") => text(401, String::new()),
            ("GET", "/v2/base/manifests/1") => text(200, base_manifest()),
            ("GET", path) if path.starts_with("/v2/base/blobs/") => text(200, base_config()),
            ("HEAD", _) => text(200, String::new()),
            ("PUT", path) if path.starts_with("/v2/windlass/o/site/manifests/") => text(201, String::new()),
            other => panic!("{other:?} is not played"),
        }
    })
}

/// What becomes of a site, and what the registry was asked.
async fn push(allows: bool) -> (BuildStatus, Vec<Asked>) {
    let double = registry(allows);
    let host = double.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let base = format!("static={host}/base:1");
    let values = [("ACR_LOGIN_SERVER", host.as_str()), ("WINDLASS_BASE_IMAGES", base.as_str())];
    let bench = Bench::new(&values, Arc::new(SystemClock)).await;
    let source = bench.source(&[("index.html", b"hello")]).await;
    let job = job(1, Plan::new(Kind::Static, None));
    bench.begin(&source, &job).await;
    (bench.builder.status(job.run).await, double.asked())
}

#[tokio::test]
async fn the_identity_gets_a_token_for_one_repository_and_no_other_token_leaves_the_sign_in() {
    let (status, asked) = push(true).await;
    assert!(matches!(status, BuildStatus::Done(_)), "{status:?}");
    let identity = Unsigned.get_token(&[], None).await.unwrap().token.secret().to_owned();
    // The head is the same in every token of this double.
    let head = identity.split('.').next().unwrap();
    let find = |path: &str| asked.iter().find(|asked| asked.path == path).unwrap();
    let exchange = find("/oauth2/exchange");
    assert!(
        exchange.body.contains("grant_type=access_token") && exchange.body.contains(head),
        "{exchange:?}"
    );
    assert!(exchange.body.contains("service=images.azurecr.io"), "{exchange:?}");
    let token = find("/oauth2/token");
    assert!(token.body.contains("grant_type=refresh_token&service=images.azurecr.io"), "{token:?}");
    assert!(
        token.body.contains("scope=repository%3Awindlass%2Fo%2Fsite%3Apull%2Cpush+repository%3Abase%3Apull&"),
        "one repository to write, the base to read: {token:?}"
    );
    for asked in asked.iter().filter(|asked| asked.path.starts_with("/v2/")) {
        let said = format!("{asked:?}");
        assert!(!said.contains(head) && !said.contains("refresh-1"), "{said}");
    }
}

#[tokio::test]
async fn a_registry_that_lets_nobody_in_ends_the_build_with_advice() {
    let (status, _) = push(false).await;
    let BuildStatus::Failed(failure) = status else { panic!("{status:?}") };
    assert_eq!(failure.code, "REGISTRY_FORBIDDEN");
    assert!(failure.message.contains("AcrPush"), "{}", failure.message);
}
