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

fn given(body: &Value) -> Answer {
    (200, vec![("content-type", "application/json".to_owned())], body.to_string())
}

/// Versions of secrets; the number of a version counts in the whole vault. What is deleted keeps its name.
#[derive(Default)]
struct Vault {
    versions: BTreeMap<(String, String), String>,
    tags: BTreeMap<String, Value>,
    deleted: BTreeSet<String>,
}

impl Vault {
    fn answer(&mut self, asked: &Asked) -> Answer {
        let host = asked.header("host").unwrap();
        let segments: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
        match (asked.method.as_str(), segments.as_slice()) {
            ("GET", ["secrets"]) => self.list(host),
            ("DELETE", ["secrets", name]) => {
                self.known(name, |vault| vault.deleted.insert((*name).to_owned()))
            }
            ("POST", ["deletedsecrets", name, "recover"]) => {
                self.known(name, |vault| vault.deleted.remove(*name))
            }
            ("DELETE", ["deletedsecrets", name]) => {
                self.deleted.remove(*name);
                self.versions.retain(|(known, _), _| known != name);
                (204, Vec::new(), String::new())
            }
            ("PUT", ["secrets", name]) if self.deleted.contains(*name) => refusal(409, "Conflict"),
            ("GET", ["secrets", name, ..]) if self.deleted.contains(*name) => refusal(404, "SecretNotFound"),
            ("PUT", ["secrets", name]) => {
                let version = self.put(name, &serde_json::from_str(&asked.body).unwrap());
                self.get(host, name, &version)
            }
            ("GET", ["secrets", name, version]) => self.get(host, name, version),
            ("GET", ["secrets", name]) => {
                let newest = self.versions.keys().rfind(|(known, _)| known == name);
                let version = newest.map(|(_, version)| version.clone()).unwrap_or_default();
                self.get(host, name, &version)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Does it to a secret that is there, if that makes a difference.
    fn known(&mut self, name: &str, change: impl FnOnce(&mut Self) -> bool) -> Answer {
        let is_known = self.versions.keys().any(|(known, _)| known == name);
        if is_known && change(self) { given(&json!({})) } else { refusal(404, "SecretNotFound") }
    }

    fn list(&self, host: &str) -> Answer {
        let names: BTreeSet<&String> = self.versions.keys().map(|(name, _)| name).collect();
        let there = names.into_iter().filter(|name| !self.deleted.contains(*name));
        let listed = there.map(|name| {
            json!({
                "id": format!("https://{host}/secrets/{name}"), "tags": self.tags.get(name),
                "attributes": { "enabled": true, "created": MADE, "updated": MADE },
            })
        });
        given(&json!({ "value": listed.collect::<Vec<Value>>(), "nextLink": null }))
    }

    fn put(&mut self, name: &str, body: &Value) -> String {
        let version = format!("v{}", self.versions.len() + 1);
        let value = body["value"].as_str().unwrap().to_owned();
        self.versions.insert((name.to_owned(), version.clone()), value);
        self.tags.insert(name.to_owned(), body["tags"].clone());
        version
    }

    fn get(&self, host: &str, name: &str, version: &str) -> Answer {
        match self.versions.get(&(name.to_owned(), version.to_owned())) {
            Some(value) => {
                given(&json!({ "id": format!("https://{host}/secrets/{name}/{version}"), "value": value }))
            }
            None => refusal(404, "SecretNotFound"),
        }
    }
}

pub(crate) fn vault() -> Double {
    let vault: Mutex<Vault> = Mutex::default();
    Double::start(move |asked: &Asked| -> Answer {
        if asked.header("authorization").is_none() {
            let challenge = "Bearer authorization=\"https://login.microsoftonline.com/t\", resource=\"https://vault.azure.net\"";
            return (401, vec![("www-authenticate", challenge.to_owned())], String::new());
        }
        assert!(asked.query.contains("api-version="), "{}", asked.query);
        vault.lock().unwrap().answer(asked)
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
