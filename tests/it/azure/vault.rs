//! The sealing key in Key Vault, against a double that asks for a token first, as the service does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use windlass::azure::services::Services;
use windlass::azure::vault::sealing_key;
use windlass::deploy::secrets::Secrets as _;

use super::azurite::Unsigned;
use super::cosmos::Account;
use super::doubles::{Answer, Asked, Double};
use super::settings;

/// When every secret was made, in seconds since 1970.
const MADE: i64 = 1_700_000_000;

fn refusal(status: u16, code: &str) -> Answer {
    (status, Vec::new(), json!({ "error": { "code": code, "message": "no" } }).to_string())
}

/// Versions of secrets; the number of a version counts in the whole vault. What is deleted keeps its name.
pub(crate) fn vault() -> Double {
    let versions: Mutex<BTreeMap<(String, String), String>> = Mutex::default();
    let deleted: Mutex<BTreeSet<String>> = Mutex::default();
    let tags: Mutex<BTreeMap<String, Value>> = Mutex::default();
    Double::start(move |asked: &Asked| -> Answer {
        if asked.header("authorization").is_none() {
            let challenge = "Bearer authorization=\"https://login.microsoftonline.com/t\", resource=\"https://vault.azure.net\"";
            return (401, vec![("www-authenticate", challenge.to_owned())], String::new());
        }
        assert!(asked.query.contains("api-version="), "{}", asked.query);
        let host = asked.header("host").unwrap().to_owned();
        let mut versions = versions.lock().unwrap();
        let segments: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        let mut deleted = deleted.lock().unwrap();
        let mut tags = tags.lock().unwrap();
        let is_known = |name: &str| versions.keys().any(|(known, _)| known == name);
        let version = match (asked.method.as_str(), segments.as_slice()) {
            ("GET", ["secrets"]) => {
                let names: BTreeSet<&String> = versions.keys().map(|(name, _)| name).collect();
                let there = names.into_iter().filter(|name| !deleted.contains(*name));
                let listed = there.map(|name| {
                    json!({
                        "id": format!("https://{host}/secrets/{name}"), "tags": tags.get(name),
                        "attributes": { "enabled": true, "created": MADE, "updated": MADE },
                    })
                });
                let listed = json!({ "value": listed.collect::<Vec<Value>>(), "nextLink": null });
                return (200, Vec::new(), listed.to_string());
            }
            ("DELETE", ["secrets", name]) => {
                if !is_known(name) || !deleted.insert((*name).to_owned()) {
                    return refusal(404, "SecretNotFound");
                }
                return (200, Vec::new(), "{}".to_owned());
            }
            ("DELETE", ["deletedsecrets", name]) => {
                deleted.remove(*name);
                versions.retain(|(known, _), _| known != name);
                return (204, Vec::new(), String::new());
            }
            ("POST", ["deletedsecrets", name, "recover"]) => {
                if !deleted.remove(*name) {
                    return refusal(404, "SecretNotFound");
                }
                return (200, Vec::new(), "{}".to_owned());
            }
            ("PUT", ["secrets", name]) if deleted.contains(*name) => return refusal(409, "Conflict"),
            ("GET", ["secrets", name, ..]) if deleted.contains(*name) => {
                return refusal(404, "SecretNotFound");
            }
            ("PUT", ["secrets", _]) => {
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                let version = format!("v{}", versions.len() + 1);
                let value = body["value"].as_str().unwrap().to_owned();
                versions.insert((segments[1].to_owned(), version.clone()), value);
                tags.insert(segments[1].to_owned(), body["tags"].clone());
                version
            }
            ("GET", ["secrets", _, version]) => (*version).to_owned(),
            ("GET", ["secrets", name]) => {
                let newest = versions.keys().rfind(|(known, _)| known == name);
                newest.map(|(_, version)| version.clone()).unwrap_or_default()
            }
            other => panic!("{other:?}"),
        };
        match versions.get(&(segments[1].to_owned(), version.clone())) {
            Some(value) => {
                let id = format!("https://{host}/secrets/{}/{version}", segments[1]);
                (
                    200,
                    vec![("content-type", "application/json".to_owned())],
                    json!({ "id": id, "value": value }).to_string(),
                )
            }
            None => refusal(404, "SecretNotFound"),
        }
    })
}

#[tokio::test]
async fn one_key_is_made_and_everybody_uses_it() {
    let (double, account) = (vault(), Arc::new(Account::new().await));
    let settings = settings(&[("KEYVAULT_URL", &double.address)]);
    let key = async || {
        let services = Services::with(&settings, Arc::new(Unsigned)).unwrap();
        sealing_key(&services.vault().unwrap(), &account.records).await.unwrap()
    };
    // Two processes start at the same time and both make one.
    let (first, second) = tokio::join!(key(), key());
    let sealed = first.seal("canary-7");
    assert_eq!(second.open(&sealed).unwrap().expose_secret(), "canary-7");
    assert_eq!(key().await.open(&sealed).unwrap().expose_secret(), "canary-7", "after a restart too");
    let asked: Vec<String> = double.asked().iter().map(|asked| format!("{asked:?}")).collect();
    assert!(asked.iter().all(|asked| !asked.contains("canary")));
}
