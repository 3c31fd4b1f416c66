//! What Container Apps is told about a release, and what it says about a revision. Pure: no calls here.
//!
//! Names and bounds from "Naming rules" and the 2025-07-01 contract: an app has 2 to 32 characters and together with the
//! suffix of a revision 54 at most.

use serde_json::{Value, json};

use super::app_scale::scale;
use super::app_traffic::{kept, target_port};
use crate::deploy::detect::Probe;
use crate::deploy::dockerfile::PORT;
use crate::deploy::ids::{Digest, dns_label};
use crate::deploy::release::Release;
use crate::deploy::runtime::Health;

/// Characters of an app's name; with `--` and the suffix of a revision it stays below 54.
const MOST_LABEL: usize = 26;
/// Characters of the hash that tells names apart.
const HASH: usize = 6;
/// Says on a container app which app of ours it runs.
pub(super) const TAG: &str = "windlass-app";
/// Bounds of a probe that may be set.
const MOST_FAILURES: u64 = 10;
const MOST_PERIOD: u64 = 240;
/// Restarts after which a revision is given up.
pub(super) const MOST_RESTARTS: u32 = 3;

/// The name of the container app of a project, by its label, in an environment.
///
/// It ends with a hash of both, because names of different projects and environments may be the same when put together.
#[must_use]
pub fn app_name(label: &str, environment: &str) -> String {
    let plain = format!("{}-{}", dns_label(label), dns_label(environment)).replace("--", "-");
    let begins = if plain.starts_with(|char: char| char.is_ascii_lowercase()) { "" } else { "a" };
    let short: String = format!("{begins}{plain}").chars().take(MOST_LABEL - HASH - 1).collect();
    let digest = Digest::of(format!("{label}/{environment}").as_bytes()).to_string();
    format!("{}-{}", short.trim_matches('-'), digest.get(..HASH).unwrap_or_default())
}

/// The name of the container app that runs the release: its built-in host name begins with it.
#[must_use]
pub fn app_of(release: &Release) -> &str {
    let host = release.hosts.first().map(String::as_str).unwrap_or_default();
    host.split('.').next().unwrap_or(host)
}

/// The suffix of the revision of this release and run: the same each time it is asked for.
#[must_use]
pub fn suffix(release: &Release) -> String {
    let run = release.run.to_string();
    format!("r{}-{}", release.number, run.get(run.len().saturating_sub(8)..).unwrap_or_default())
}

/// Where the app listens.
#[must_use]
pub fn port(release: &Release) -> u16 {
    release.plan.port.unwrap_or(PORT)
}

/// Where everything of an app lives.
#[derive(Debug, Clone)]
pub struct Place {
    /// Region.
    pub location: String,
    /// Id of the environment.
    pub environment: String,
    /// Id of the identity with which apps pull images, and read their secrets where those are references.
    pub identity: String,
    /// Host name of the registry.
    pub registry: String,
}

/// A variable of the app that is kept in the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretVariable {
    /// The variable.
    pub variable: String,
    /// The app's name for the secret.
    pub name: String,
    /// The secret's address, with its version.
    pub url: String,
}

fn probes(probe: &Probe, port: u16) -> Value {
    let seconds = |millis: u64, most: u64| millis.div_ceil(1_000).clamp(1, most);
    let (period, timeout) = (seconds(probe.interval_ms, MOST_PERIOD), seconds(probe.timeout_ms, MOST_PERIOD));
    let path = probe.path.as_deref().unwrap_or("/");
    let check = if probe.path.is_some() {
        json!({ "httpGet": { "path": path, "port": port, "scheme": "HTTP" } })
    } else {
        json!({ "tcpSocket": { "port": port } })
    };
    let with = |kind: &str, period: u64, failures: u64| {
        let mut probe = check.clone();
        probe["type"] = json!(kind);
        probe["periodSeconds"] = json!(period);
        probe["timeoutSeconds"] = json!(timeout);
        probe["failureThreshold"] = json!(failures.clamp(1, MOST_FAILURES));
        probe
    };
    // The whole time of a start is spread over as many looks as may be asked for.
    let start = probe.start_seconds.div_ceil(MOST_FAILURES).clamp(1, MOST_PERIOD);
    json!([
        with("Startup", start, MOST_FAILURES),
        with("Readiness", period, u64::from(probe.retries)),
        with("Liveness", period.max(10), u64::from(probe.retries)),
    ])
}

/// The variables of a container. A name twice lets the activation fail without a reason; what was set for the deployment
/// wins.
pub(super) fn variables(release: &Release, secrets: &[SecretVariable]) -> Vec<Value> {
    let own = [("PORT", port(release).to_string()), ("HOST", "0.0.0.0".to_owned())];
    let own = own.map(|(name, value)| json!({ "name": name, "value": value }));
    let plain = release.plan.variables.iter().map(|(name, value)| json!({ "name": name, "value": value }));
    let sealed = secrets.iter().map(|secret| json!({ "name": secret.variable, "secretRef": secret.name }));
    let mut variables: Vec<Value> = Vec::new();
    for variable in own.into_iter().chain(plain).chain(sealed) {
        variables.retain(|known| known["name"] != variable["name"]);
        variables.push(variable);
    }
    variables
}

/// The app's references to the vault: those that are known, and the release's.
fn references(place: &Place, secrets: &[SecretVariable], known: &[Value]) -> Vec<Value> {
    let mut references = known.to_vec();
    for secret in secrets {
        references.retain(|known| known["name"] != secret.name);
        references
            .push(json!({ "name": secret.name, "keyVaultUrl": secret.url, "identity": place.identity }));
    }
    references
}

/// What a GET said, as a change may say it again: without what is unset.
#[must_use]
pub fn said_again(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let set = members.iter().filter(|(_, value)| !value.is_null());
            Value::Object(set.map(|(name, value)| (name.clone(), said_again(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(said_again).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// `ours` over what is known: a PUT replaces the whole, and domains and what others have set have to stay.
fn over(known: Option<&Value>, mut ours: Value) -> Value {
    for (name, value) in known.and_then(Value::as_object).into_iter().flatten() {
        // `fqdn` may only be read.
        if name != "fqdn" && !value.is_null() && ours.get(name).is_none() {
            ours[name.as_str()] = said_again(value);
        }
    }
    ours
}

/// Whether two ids name the same resource.
fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// That what runs in a container cannot use the identity, which is there to pull its image and to read its references: it may
/// read those of all other apps as well.
pub(super) fn kept_from_containers(identity: &str) -> Value {
    json!({ "identity": identity, "lifecycle": "None" })
}

/// The identities of the app: ours, and those that others gave it.
fn identities(place: &Place, before: Option<&Value>) -> Value {
    let known = before.and_then(|app| app.pointer("/identity/userAssignedIdentities")?.as_object());
    let theirs = known.into_iter().flatten().map(|(id, _)| id).filter(|id| !is_same(id, &place.identity));
    let all: serde_json::Map<String, Value> =
        theirs.chain([&place.identity]).map(|id| (id.clone(), json!({}))).collect();
    let has_own = before.is_some_and(|app| text(app, "/identity/type").contains("SystemAssigned"));
    let kind = if has_own { "SystemAssigned,UserAssigned" } else { "UserAssigned" };
    json!({ "type": kind, "userAssignedIdentities": all })
}

/// Who may use which identity: what runs in the app not ours.
fn identity_settings(place: &Place, before: Option<&Value>) -> Vec<Value> {
    let known = before.and_then(|app| app.pointer("/properties/configuration/identitySettings")?.as_array());
    let mut settings: Vec<Value> = known.into_iter().flatten().map(said_again).collect();
    settings.retain(|setting| !is_same(text(setting, "/identity"), &place.identity));
    settings.push(kept_from_containers(&place.identity));
    settings
}

/// The image of the release, by digest.
pub(super) fn image(release: &Release, place: &Place) -> String {
    format!("{}/{}@sha256:{}", place.registry, repository_of(&release.app), release.artifact)
}

fn container(release: &Release, place: &Place, secrets: &[SecretVariable]) -> Value {
    let mut container = json!({
        "name": "app",
        "image": image(release, place),
        "resources": { "cpu": f64::from(release.size.cpu_millis) / 1_000.0, "memory": release.size.memory() },
        "env": variables(release, secrets),
        "probes": probes(&release.plan.probe, port(release)),
    });
    // The image does not know it: a Dockerfile has its own command, and an image that is reused was made with another one.
    if let Some(start) = &release.plan.start {
        container["command"] = json!(["sh", "-c", start]);
    }
    container
}

/// The app with the release as a new revision. What is live `before` keeps the traffic; the first revision ever gets it when
/// it is ready.
#[must_use]
pub fn body(
    release: &Release,
    place: &Place,
    secrets: &[SecretVariable],
    known: &[Value],
    before: Option<&Value>,
) -> Value {
    let kept = before.and_then(kept);
    // The port is the app's, not the revision's: it moves with the traffic, and the probes name their own.
    let live_port = before.filter(|_| kept.is_some()).and_then(target_port);
    let traffic = kept.unwrap_or_else(|| vec![json!({ "latestRevision": true, "weight": 100 })]);
    let ingress = over(
        before.and_then(|app| app.pointer("/properties/configuration/ingress")),
        json!({
            "external": true,
            "targetPort": live_port.unwrap_or_else(|| u64::from(port(release))),
            "transport": "auto",
            "allowInsecure": false,
            "traffic": traffic,
        }),
    );
    let configuration = over(
        before.and_then(|app| app.pointer("/properties/configuration")),
        json!({
            "activeRevisionsMode": "Multiple",
            "maxInactiveRevisions": 20,
            "secrets": references(place, secrets, known),
            "registries": [{ "server": place.registry, "identity": place.identity }],
            "identitySettings": identity_settings(place, before),
            "ingress": ingress,
        }),
    );
    json!({
        "location": place.location,
        "identity": identities(place, before),
        "tags": over(before.and_then(|app| app.get("tags")), json!({ (TAG): release.app })),
        "properties": {
            "environmentId": place.environment,
            "workloadProfileName": "Consumption",
            "configuration": configuration,
            "template": {
                "revisionSuffix": suffix(release),
                "terminationGracePeriodSeconds": 30,
                "containers": [container(release, place, secrets)],
                "scale": scale(release.replicas),
            },
        },
    })
}

/// The repository of the images of `organization/project/environment`: another one for each organization and project.
#[must_use]
pub fn repository_of(app: &str) -> String {
    let mut parts = app.split('/').map(path_part);
    let (org, project) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("windlass/{org}/{project}")
}

/// A name as registries take it. A name that had to be changed gets a hash, because others may have changed to the same.
fn path_part(name: &str) -> String {
    let label = dns_label(name);
    if label == name {
        return label;
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    format!("{label}-{}", digest.get(..HASH).unwrap_or_default())
}

/// The text at a place in an answer; empty when there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a container app runs this app of ours.
#[must_use]
pub fn is_of(found: &Value, app: &str) -> bool {
    found.get("tags").and_then(|tags| tags.get(TAG)).and_then(Value::as_str) == Some(app)
}

/// Where a resource stands with its latest change.
#[must_use]
pub fn state(resource: &Value) -> &str {
    text(resource, "/properties/provisioningState")
}

/// The revision that has all the traffic of an app; none while none was ever ready.
#[must_use]
pub fn live(app: &Value) -> Option<String> {
    let traffic = app.pointer("/properties/configuration/ingress/traffic")?.as_array()?;
    let all = traffic.iter().find(|entry| entry.get("weight").and_then(Value::as_u64) == Some(100))?;
    let name = if all.get("latestRevision") == Some(&Value::Bool(true)) {
        app.pointer("/properties/latestReadyRevisionName")?
    } else {
        all.get("revisionName")?
    };
    name.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Whether no revision of the app was ever ready, so that nothing is lost with it.
#[must_use]
pub fn never_ready(app: &Value) -> bool {
    let traffic = app.pointer("/properties/configuration/ingress/traffic").and_then(Value::as_array);
    let newest = |entry: &Value| entry.get("latestRevision") == Some(&Value::Bool(true));
    let ready =
        app.pointer("/properties/latestReadyRevisionName").and_then(Value::as_str).unwrap_or_default();
    ready.is_empty() && traffic.is_some_and(|traffic| traffic.len() == 1 && traffic.iter().all(newest))
}

/// Replicas of a revision, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// All.
    pub replicas: usize,
    /// Those whose containers are all ready.
    pub ready: usize,
    /// The most restarts of one container.
    pub restarts: u32,
}

/// Counts the list of a revision's replicas.
#[must_use]
pub fn figures(replicas: &Value) -> Figures {
    let mut figures = Figures::default();
    for replica in replicas.pointer("/value").and_then(Value::as_array).into_iter().flatten() {
        let containers = replica.pointer("/properties/containers").and_then(Value::as_array);
        let containers = containers.map(Vec::as_slice).unwrap_or_default();
        let is_ready = |container: &Value| container.get("ready") == Some(&Value::Bool(true));
        let restarts =
            containers.iter().filter_map(|container| container.get("restartCount")?.as_u64()).max();
        figures.replicas += 1;
        figures.ready += usize::from(!containers.is_empty() && containers.iter().all(is_ready));
        figures.restarts =
            figures.restarts.max(u32::try_from(restarts.unwrap_or_default()).unwrap_or(u32::MAX));
    }
    figures
}

/// How a revision is, from what the service says of it and of its replicas. The lists of states are open: what is not known
/// is taken as "not yet".
#[must_use]
pub fn health(revision: &Value, replicas: &Value) -> Health {
    let states =
        (text(revision, "/properties/provisioningState"), text(revision, "/properties/runningState"));
    let figures = figures(replicas);
    let said = ["/properties/provisioningError", "/properties/runningStateDetails"]
        .map(|pointer| text(revision, pointer))
        .into_iter()
        .find(|said| !said.is_empty())
        .unwrap_or("Container Apps gave no reason");
    match states {
        ("Failed", _) => failed(said),
        (_, "Failed" | "ActivationFailed") => failed(said),
        _ if figures.restarts >= MOST_RESTARTS => Health::Failed {
            code: "RELEASE_CRASHED",
            message: format!("the app crashed {} times while it started: {said}", figures.restarts),
            tail: Vec::new(),
        },
        ("Provisioned", "ScaledToZero") => Health::Healthy,
        ("Provisioned", "Running" | "RunningAtMaxScale")
            if text(revision, "/properties/healthState") == "Healthy" && figures.ready > 0 =>
        {
            Health::Healthy
        }
        _ => Health::Starting,
    }
}

/// The health of a revision that failed, with what the service said.
#[must_use]
pub fn failed(said: &str) -> Health {
    let (code, advice) = if said.contains("MANIFEST_UNKNOWN") {
        ("RELEASE_IMAGE", "the image is not in the registry; deploy again")
    } else if said.contains("UNAUTHORIZED") || said.contains("denied") {
        ("RELEASE_IMAGE", "the apps' identity may not pull the image; it needs AcrPull on the registry")
    } else if said.to_ascii_lowercase().contains("quota") {
        ("RELEASE_QUOTA", "the environment has no cores left; ask for a larger quota or scale apps down")
    } else {
        ("RELEASE_UNHEALTHY", "the revision did not start")
    };
    Health::Failed { code, message: format!("{advice}: {said}"), tail: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_rules_and_differ() {
        for (label, environment) in [
            ("shop", "production"),
            ("1st", "staging"),
            ("project-with-a-long-name", "preview-feature-42"),
            ("x", "x"),
        ] {
            let name = app_name(label, environment);
            let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
            assert!((2..=MOST_LABEL).contains(&name.len()) && name.chars().all(fits), "{name}");
            assert!(!name.contains("--") && !name.ends_with('-'), "{name}");
            assert!(name.starts_with(|char: char| char.is_ascii_lowercase()), "{name}");
        }
        assert!(app_name("shop", "production").starts_with("shop-production-"));
        assert_ne!(app_name("shop", "preview-production"), app_name("shop-preview", "production"));
        let long = "a-label-that-is-far-too-long-for-an-app";
        assert_ne!(app_name(long, "preview-1"), app_name(long, "preview-2"));
    }

    #[test]
    fn organizations_never_share_a_repository() {
        assert_eq!(repository_of("o/shop/production"), "windlass/o/shop");
        assert_eq!(repository_of("o/shop/production"), repository_of("o/shop/staging"));
        let long = "an-organization-with-a-name-of-more-than-forty-characters";
        let longer = format!("{long}-2");
        let names = ["acme", "Acme", "ac.me", "ac-me", "ac_me", long, longer.as_str()];
        let repositories: std::collections::BTreeSet<String> =
            names.iter().map(|name| repository_of(&format!("{name}/shop/production"))).collect();
        assert_eq!(repositories.len(), names.len(), "{repositories:?}");
        let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-/".contains(char);
        assert!(repositories.iter().all(|repository| repository.chars().all(fits)), "{repositories:?}");
    }

    #[test]
    fn what_others_set_stays_and_what_is_unset_or_only_read_does_not() {
        let known = json!({
            "fqdn": "a.example", "targetPort": 80, "stickySessions": { "affinity": "sticky" }, "corsPolicy": null,
            "customDomains": [{ "name": "shop.example", "bindingType": "Disabled", "certificateId": null }],
        });
        let wanted = json!({
            "targetPort": 8080, "stickySessions": { "affinity": "sticky" },
            "customDomains": [{ "name": "shop.example", "bindingType": "Disabled" }],
        });
        assert_eq!(over(Some(&known), json!({ "targetPort": 8080 })), wanted);
        for nothing in [None, Some(&Value::Null)] {
            assert_eq!(over(nothing, json!({ "targetPort": 8080 })), json!({ "targetPort": 8080 }));
        }
    }

    #[test]
    fn what_runs_in_an_app_uses_the_identities_of_others_and_not_ours() {
        let place = Place {
            location: String::new(),
            environment: String::new(),
            identity: "/subscriptions/s/resourceGroups/g/apps".to_owned(),
            registry: String::new(),
        };
        let ours = kept_from_containers(&place.identity);
        assert_eq!(
            identities(&place, None),
            json!({ "type": "UserAssigned", "userAssignedIdentities": { (place.identity.as_str()): {} } })
        );
        assert_eq!(identity_settings(&place, None), std::slice::from_ref(&ours));
        let theirs = json!({ "identity": "/theirs", "lifecycle": "Main" });
        let before = json!({
            "identity": { "type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {
                "/subscriptions/s/resourcegroups/G/apps": { "clientId": "c" }, "/theirs": { "clientId": "d" },
            } },
            "properties": { "configuration": { "identitySettings": [theirs, { "identity": place.identity, "lifecycle": "All" }] } },
        });
        let wanted = json!({ "/theirs": {}, (place.identity.as_str()): {} });
        let kept = identities(&place, Some(&before));
        assert_eq!(
            (&kept["type"], &kept["userAssignedIdentities"]),
            (&json!("SystemAssigned,UserAssigned"), &wanted)
        );
        assert_eq!(identity_settings(&place, Some(&before)), [theirs, ours]);
    }

    #[test]
    fn health_is_decoded_with_its_reason() {
        let revision = |provisioning: &str, running: &str, error: &str| json!({ "properties": { "provisioningState": provisioning, "runningState": running, "healthState": "Healthy", "provisioningError": error } });
        let replicas = |ready: bool, restarts: u64| json!({ "value": [{ "properties": { "containers": [{ "ready": ready, "restartCount": restarts }] } }] });
        let code = |revision: &Value, replicas: &Value| match health(revision, replicas) {
            Health::Failed { code, .. } => code,
            Health::Healthy => "healthy",
            Health::Starting => "starting",
            Health::Unknown => "unknown",
        };
        let running = revision("Provisioned", "Running", "");
        assert_eq!(code(&running, &replicas(true, 0)), "healthy");
        assert_eq!(code(&running, &replicas(false, 0)), "starting");
        assert_eq!(code(&running, &replicas(true, 3)), "RELEASE_CRASHED");
        assert_eq!(code(&revision("Provisioned", "ScaledToZero", ""), &json!({})), "healthy");
        assert_eq!(code(&revision("Provisioning", "Activating", ""), &json!({})), "starting");
        assert_eq!(code(&revision("Failed", "", "GET https: MANIFEST_UNKNOWN"), &json!({})), "RELEASE_IMAGE");
        assert_eq!(code(&revision("Failed", "", "UNAUTHORIZED"), &json!({})), "RELEASE_IMAGE");
        let no_cores = "Maximum Allowed Cores exceeded: the cores Quota of the environment is 20";
        assert_eq!(code(&revision("Failed", "", no_cores), &json!({})), "RELEASE_QUOTA");
        assert_eq!(
            code(&revision("Provisioned", "Failed", "port 80 closed"), &json!({})),
            "RELEASE_UNHEALTHY"
        );
    }
}
