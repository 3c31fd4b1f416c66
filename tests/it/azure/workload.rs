//! The sign-in of a workload: the token in its file is exchanged for one of Entra ID.

use std::collections::BTreeMap;
use std::path::Path;

use azure_core::http::Url;
use serde_json::json;
use windlass::azure::arm::Contract;
use windlass::azure::services::Services;

use super::arm_double::ArmDouble;
use super::doubles::{Answer, Asked, Double};
use super::settings;

const TENANT: &str = "00000000-0000-0000-0000-00000000000a";
const CLIENT: &str = "00000000-0000-0000-0000-00000000000c";
const ENVIRONMENT: &str = "Microsoft.App/managedEnvironments/env";

fn form(asked: &Asked) -> BTreeMap<String, String> {
    let url: Url = format!("http://form/?{}", asked.body).parse().unwrap();
    url.query_pairs().into_owned().collect()
}

/// A sign-in whose tokens are nearly over, so that the next call wants another.
fn login() -> Double {
    Double::start(|asked| -> Answer {
        let form = form(asked);
        let token = format!("for-{}", form["client_assertion"]);
        let body = json!({ "token_type": "Bearer", "expires_in": 60, "access_token": token });
        (200, vec![("content-type", "application/json".to_owned())], body.to_string())
    })
}

fn services(login: &Double, arm: &ArmDouble, file: &Path) -> Services {
    let settings = settings(&[
        ("WINDLASS_AZURE_AUTH", "workload-identity"),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", CLIENT),
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
        ("WINDLASS_AUTHORITY", &login.address),
        ("WINDLASS_ARM_ENDPOINT", &arm.double.address),
    ]);
    Services::new(&settings).unwrap()
}

#[tokio::test]
async fn a_workload_signs_in_with_the_token_of_its_file() {
    let (login, arm, folder) = (login(), ArmDouble::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("token");
    let services = services(&login, &arm, &file);
    for (number, token) in ["first", "renewed"].into_iter().enumerate() {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let found = services.arm().get(Contract::ContainerApps, ENVIRONMENT).await;
        assert!(found.unwrap().is_some());
        let asked = login.asked().into_iter().next_back().unwrap();
        let path = format!("/{TENANT}/oauth2/v2.0/token");
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", path.as_str()));
        assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
        let scope = format!("{}.default", arm.double.address.replace("http:", "https:"));
        let wanted = [
            ("client_assertion", token),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_id", CLIENT),
            ("grant_type", "client_credentials"),
            ("scope", scope.as_str()),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(form(&asked), BTreeMap::from(wanted));
        let used = arm.double.asked();
        assert_eq!(used.len(), number + 1);
        assert_eq!(used[number].header("authorization"), Some(format!("Bearer for-{token}").as_str()));
    }
    assert_eq!(arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_workload_without_a_token_is_told_which_file_was_wanted() {
    let (login, arm, folder) = (login(), ArmDouble::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("token");
    let services = services(&login, &arm, &file);
    let error = async || {
        let scopes = ["https://management.azure.com/.default"];
        services.credential().get_token(&scopes, None).await.unwrap_err().to_string()
    };
    let named = format!("AZURE_FEDERATED_TOKEN_FILE {}", file.display());
    let missing = error().await;
    assert!(missing.contains(&format!("{named} cannot be read: No such file")), "{missing}");
    std::fs::write(&file, "\n").unwrap();
    let empty = error().await;
    assert!(empty.contains(&format!("{named} is empty")), "{empty}");
    assert!(login.asked().is_empty(), "nobody is asked with an empty token");
}
