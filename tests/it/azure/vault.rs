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

fn refusal(status: u16, code: &str) -> Answer {
    (status, Vec::new(), json!({ "error": { "code": code, "message": "no" } }).to_string())
}

/// Versions of secrets; the number of a version counts in the whole vault. What is deleted keeps its name.
pub(crate) fn vault() -> Double {
    let versions: Mutex<BTreeMap<(String, String), String>> = Mutex::default();
    let deleted: Mutex<BTreeSet<String>> = Mutex::default();
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
        let version = match (asked.method.as_str(), segments.as_slice()) {
            ("DELETE", ["secrets", name]) => {
                deleted.insert((*name).to_owned());
                return (200, Vec::new(), "{}".to_owned());
            }
            ("POST", ["deletedsecrets", name, "recover"]) => {
                deleted.remove(*name);
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
