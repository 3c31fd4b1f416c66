//! Azure Resource Manager with Container Apps, as far as we use it: it keeps state, takes its time, makes trouble when told
//! to, and holds every request and every one of its own answers against the published contract.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use windlass::deploy::ids::Digest;

use super::arm_domains::{Domains, domains_of, not_found, refused};
use super::doubles::{Answer, Asked, Double};
use super::groups_double::Instances;
use super::images::IMAGE;
use super::jobs_double::Jobs;
use super::openapi::Contract;
use super::sites_double::Sites;

const ROOT: &str = "/subscriptions/00000000-0000-0000-0000-000000000002";

/// What a revision of an image becomes.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// Healthy after so many looks.
    Healthy(u32),
    /// Failed, with this reason.
    Fails(&'static str),
    /// Its container crashes again and again.
    Crashes,
    /// The service takes the app and makes no revision of it.
    NeverMade,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) jobs: Jobs,
    pub(super) instances: Instances,
    pub(super) sites: Sites,
    apps: BTreeMap<String, App>,
    /// Looks until each operation is over.
    operations: BTreeMap<String, u32>,
    /// Where operations are said to be, when not here.
    elsewhere: Option<String>,
    /// Answers that are given instead, each once: method, part of the path, answer.
    troubles: Vec<(String, String, Answer)>,
    fate: Option<Fate>,
    /// Whatever is asked for, there is always one replica.
    unscaled: bool,
    /// Looks until each build is over.
    builds: Vec<u32>,
    /// The image that each build makes.
    images: Vec<String>,
    domains: Domains,
    /// What whoever asks for permissions is answered; everything is allowed without it.
    permissions: Option<Answer>,
    violations: Vec<String>,
}

struct App {
    body: Value,
    busy: u32,
    failed: bool,
    revisions: Vec<Revision>,
}

struct Revision {
    name: String,
    active: bool,
    looks: u32,
    fate: Fate,
    template: Value,
}

/// The double.
pub(crate) struct ArmDouble {
    pub(crate) double: Double,
    pub(super) state: Arc<Mutex<State>>,
}

impl Revision {
    fn view(&mut self, traffic: u64) -> Value {
        self.looks = self.looks.saturating_sub(1);
        let (provisioning, running, health, error) = match (&self.fate, self.looks) {
            (Fate::Fails(reason), 0) => ("Failed", "Failed", "None", *reason),
            (Fate::Healthy(_), 0) if !self.active => ("Deprovisioned", "Stopped", "None", ""),
            (Fate::Healthy(_) | Fate::Crashes, 0) => ("Provisioned", "Running", "Healthy", ""),
            _ => ("Provisioning", "Processing", "None", ""),
        };
        json!({
            "name": self.name,
            "properties": {
                "active": self.active, "trafficWeight": traffic, "replicas": 1, "provisioningState": provisioning,
                "runningState": running, "healthState": health, "provisioningError": error,
                "template": self.template,
            },
        })
    }
}

impl App {
    fn traffic(&self, revision: &str) -> u64 {
        let entries =
            self.body.pointer("/properties/configuration/ingress/traffic").and_then(Value::as_array);
        let latest = self.revisions.last().is_some_and(|last| last.name == revision);
        entries
            .into_iter()
            .flatten()
            .filter(|entry| entry["revisionName"] == revision || (latest && entry["latestRevision"] == true))
            .filter_map(|entry| entry["weight"].as_u64())
            .sum()
    }

    fn view(&mut self, name: &str) -> Value {
        let mut body = self.body.clone();
        self.busy = self.busy.saturating_sub(1);
        let ready = self
            .revisions
            .iter()
            .rev()
            .find(|revision| revision.looks == 0 && matches!(revision.fate, Fate::Healthy(_)));
        body["name"] = json!(name);
        body["type"] = json!("Microsoft.App/containerApps");
        body["properties"]["provisioningState"] = json!(match (self.busy, self.failed) {
            (0, false) => "Succeeded",
            (0, true) => "Failed",
            _ => "InProgress",
        });
        body["properties"]["latestReadyRevisionName"] =
            json!(ready.map(|ready| ready.name.clone()).unwrap_or_default());
        body["properties"]["customDomainVerificationId"] = json!("proof");
        body["properties"]["configuration"]["ingress"]["fqdn"] = json!(format!("{name}.westeurope.example"));
        // Values and addresses of secrets are never given back.
        let secrets = body.pointer_mut("/properties/configuration/secrets");
        for secret in secrets.and_then(Value::as_array_mut).into_iter().flatten() {
            *secret = json!({ "name": secret["name"] });
        }
        body
    }
}

impl State {
    fn put(&mut self, name: &str, body: Value, address: &str) -> Answer {
        let fate = self.fate.clone().unwrap_or(Fate::Healthy(1));
        let looks = if let Fate::Healthy(looks) = fate { looks } else { 1 };
        let mut template = body["properties"]["template"].clone();
        let suffix = template["revisionSuffix"].as_str().unwrap().to_owned();
        if self.unscaled {
            template["scale"] = json!({ "minReplicas": 1, "maxReplicas": 1 });
        }
        let app = self.apps.entry(name.to_owned()).or_insert_with(|| App {
            body: Value::Null,
            busy: 0,
            failed: false,
            revisions: Vec::new(),
        });
        let revision = format!("{name}--{suffix}");
        for entry in body["properties"]["configuration"]["ingress"]["traffic"].as_array().unwrap() {
            if let Some(named) = entry["revisionName"].as_str()
                && !app.revisions.iter().any(|known| known.name == named)
            {
                return refused(400, "RevisionNotFound", named);
            }
        }
        app.failed = matches!(fate, Fate::NeverMade);
        if !app.failed && !app.revisions.iter().any(|known| known.name == revision) {
            app.revisions.push(Revision { name: revision, active: true, looks, fate, template });
        }
        app.body = body;
        app.busy = 1;
        let view = app.view(name).to_string();
        (201, vec![("azure-asyncoperation", self.operation(address, 2))], view)
    }

    pub(super) fn operation(&mut self, address: &str, looks: u32) -> String {
        let id = format!("op{}", self.operations.len());
        self.operations.insert(id.clone(), looks);
        let address = self.elsewhere.as_deref().unwrap_or(address);
        format!(
            "{address}{}/providers/Microsoft.App/locations/westeurope/containerappOperationStatuses/{id}?api-version=2099-01-01",
            &ROOT[1..]
        )
    }

    fn patch(&mut self, name: &str, change: &Value, address: &str) -> Answer {
        let Some(app) = self.apps.get_mut(name) else { return not_found(name) };
        for (member, value) in change["properties"]["configuration"]["ingress"].as_object().unwrap() {
            let entries = value.as_array().map(Vec::as_slice).unwrap_or_default();
            match member.as_str() {
                "customDomains" => {
                    if let Err(refused) = self.domains.change(entries) {
                        return refused;
                    }
                    app.busy = 2;
                }
                "targetPort" => assert!(value.is_u64(), "{value}"),
                member => {
                    let sum: u64 = entries.iter().filter_map(|entry| entry["weight"].as_u64()).sum();
                    assert_eq!((member, sum), ("traffic", 100), "weights are percents");
                }
            }
            app.body["properties"]["configuration"]["ingress"][member] = value.clone();
        }
        (202, vec![("location", self.operation(address, 2)), ("retry-after", "1".to_owned())], String::new())
    }

    fn revision(&mut self, (app, revision): (&str, &str), action: Option<&str>) -> Answer {
        let Some(app) = self.apps.get_mut(app) else { return not_found(app) };
        let traffic = app.traffic(revision);
        let Some(found) = app.revisions.iter_mut().find(|known| known.name == revision) else {
            return not_found(revision);
        };
        match action {
            None => (200, Vec::new(), found.view(traffic).to_string()),
            Some("replicas") => {
                let crashes = matches!(found.fate, Fate::Crashes);
                let container = json!({ "name": "app", "ready": !crashes && found.looks == 0, "started": true, "restartCount": if crashes { 5 } else { 0 } });
                let replica = json!({ "name": "r", "properties": { "containers": [container] } });
                (200, Vec::new(), json!({ "value": [replica] }).to_string())
            }
            Some("deactivate") if traffic > 0 => refused(400, "RevisionHasTraffic", revision),
            Some(action) => {
                found.active = action == "activate";
                if let (true, Fate::Healthy(looks)) = (found.active, &found.fate) {
                    found.looks = *looks;
                }
                (200, Vec::new(), String::new())
            }
        }
    }

    /// Every other build does not name its image, as one that depends on no other image.
    fn build(&self, index: usize) -> Value {
        let (done, names) = (self.builds[index] == 0, index.is_multiple_of(2));
        let image = json!({ "registry": "registry.azurecr.io", "repository": "app", "digest": format!("sha256:{}", Digest::of(IMAGE)) });
        json!({ "name": "run", "properties": {
            "runId": format!("cb{index}"), "status": if done { "Succeeded" } else { "Running" },
            "outputImages": if done && names { vec![image] } else { Vec::new() },
        } })
    }

    /// What a build has said so far, in the words of ACR Tasks.
    fn log(&self, id: &str) -> String {
        let index: usize = id.trim_start_matches("cb").parse().unwrap();
        let mut log = "Step 1/3\nStep 2/3\n".to_owned();
        if self.builds[index] == 0 {
            let image = format!("registry.azurecr.io/{}", self.images[index]);
            log.push_str(&format!(
                "2026/11/20 09:00:11 Pushing image: {image}, attempt 1\n4a853682c993: Pushed\n2026/11/20 09:00:21 Successfully pushed image: {image}\n"
            ));
        }
        log
    }

    fn registry(&mut self, asked: &Asked, rest: &[&str], address: &str) -> Answer {
        match (asked.method.as_str(), rest) {
            ("GET", []) => {
                let properties = json!({ "loginServer": "registry.azurecr.io", "roleAssignmentMode": "LegacyRegistryPermissions" });
                (200, Vec::new(), json!({ "name": "registry", "properties": properties }).to_string())
            }
            ("POST", ["listBuildSourceUploadUrl"]) => {
                let slot = json!({ "uploadUrl": format!("{address}upload/source.tar.gz"), "relativePath": "upload/source.tar.gz" });
                (200, Vec::new(), slot.to_string())
            }
            ("POST", ["scheduleRun"]) => {
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                self.images.push(body["imageNames"][0].as_str().unwrap().to_owned());
                self.builds.push(3);
                let last = self.builds.len() - 1;
                // The contract has both.
                let (status, headers) = if last.is_multiple_of(2) {
                    (202, vec![("location", self.operation(address, 9))])
                } else {
                    (200, Vec::new())
                };
                (status, headers, self.build(last).to_string())
            }
            ("GET", ["runs", id]) => {
                let index = id.trim_start_matches("cb").parse().unwrap();
                self.builds[index] = u32::saturating_sub(self.builds[index], 1);
                (200, Vec::new(), self.build(index).to_string())
            }
            ("POST", ["runs", id, "listLogSasUrl"]) => {
                (200, Vec::new(), json!({ "logLink": format!("{address}log/{id}") }).to_string())
            }
            other => panic!("{other:?} is not played"),
        }
    }

    /// Where an operation stands.
    fn look(&mut self, id: &str) -> Answer {
        let left = self.operations.get_mut(id).unwrap();
        *left = left.saturating_sub(1);
        let (status, state) = if *left == 0 { (200, "Succeeded") } else { (202, "InProgress") };
        self.apps.values_mut().filter(|_| status == 200).for_each(|app| app.busy = 0);
        (status, vec![("retry-after", "1".to_owned())], json!({ "id": id, "status": state }).to_string())
    }

    fn answer(&mut self, asked: &Asked, address: &str) -> Answer {
        let path = asked.path.trim_start_matches(ROOT).trim_start_matches('/');
        let segments: Vec<&str> = path.split('/').collect();
        let body = || serde_json::from_str(&asked.body).unwrap();
        match (asked.method.as_str(), segments.as_slice()) {
            ("GET", [.., "containerappOperationStatuses", id]) => self.look(id),
            ("GET", [.., "Microsoft.Authorization", "permissions"]) => {
                let all = json!({ "value": [{ "actions": ["*"], "notActions": [], "dataActions": ["*"] }] });
                self.permissions.clone().unwrap_or_else(|| (200, Vec::new(), all.to_string()))
            }
            ("GET", [.., "queues", queue]) => {
                let counts = json!({ "activeMessageCount": 2, "scheduledMessageCount": 3, "deadLetterMessageCount": 1 });
                let counts =
                    if *queue == "step-build" { json!({}) } else { json!({ "countDetails": counts }) };
                (200, Vec::new(), json!({ "name": queue, "properties": counts }).to_string())
            }
            ("GET", [.., "managedEnvironments", name]) => {
                let properties = json!({ "defaultDomain": "westeurope.example", "staticIp": "20.0.0.7", "provisioningState": "Succeeded" });
                let body = json!({ "name": name, "location": "westeurope", "properties": properties });
                (200, Vec::new(), body.to_string())
            }
            (method, [.., "managedCertificates", name] | [.., name, "listCustomHostNameAnalysis"]) => {
                let bound =
                    self.apps.values().flat_map(|app| domains_of(&app.body)).cloned().collect::<Vec<_>>();
                self.domains.answer((method, name), asked, &bound)
            }
            (_, [_, _, _, "Microsoft.ContainerRegistry", _, _, rest @ ..]) => {
                self.registry(asked, rest, address)
            }
            (_, [_, _, _, _, "containerGroups", name, rest @ ..]) if self.is_app(name, asked) => {
                self.app_group((name, rest), asked, address)
            }
            (_, [_, _, _, _, "staticSites", name, rest @ ..]) => self.site((name, rest), asked, address),
            (_, [_, _, _, _, kind @ ("jobs" | "containerGroups"), rest @ ..]) => {
                self.jobs.answer((kind, rest), asked, address)
            }
            ("GET", [.., "containerApps", name]) => match self.apps.get_mut(*name) {
                Some(app) => (200, Vec::new(), app.view(name).to_string()),
                None => not_found(name),
            },
            ("PUT", [.., "containerApps", name]) => self.put(name, body(), address),
            ("PATCH", [.., "containerApps", name]) => self.patch(name, &body(), address),
            ("POST", [.., "containerApps", name, "listSecrets"]) => {
                let secrets = &self.apps[*name].body["properties"]["configuration"]["secrets"];
                (
                    200,
                    Vec::new(),
                    json!({ "value": secrets.as_array().cloned().unwrap_or_default() }).to_string(),
                )
            }
            ("DELETE", [.., "containerApps", name]) => match self.apps.remove(*name) {
                Some(_) => (202, vec![("location", self.operation(address, 1))], String::new()),
                None => (204, Vec::new(), String::new()),
            },
            (_, [.., "containerApps", app, "revisions", name]) => self.revision((app, name), None),
            (_, [.., "containerApps", app, "revisions", name, action]) => {
                self.revision((app, name), Some(action))
            }
            other => panic!("{other:?} is not played"),
        }
    }
}

/// Whether no file here has the contract of what is asked: of registries in this version there is only the table of their
/// properties, and where operations are is the service's choice.
fn is_beyond(asked: &Asked) -> bool {
    let is_registry = asked.path.ends_with("/registries/registry") && asked.query == "api-version=2025-11-01";
    is_registry
        || ["containerappOperationStatuses", "operationResults"].iter().any(|part| asked.path.contains(part))
}

impl ArmDouble {
    pub(crate) fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let contract = Contract::of(&[
            "Microsoft.App/2024-03-01/ContainerApps.json",
            "Microsoft.App/2024-03-01/ContainerAppsRevisions.json",
            "Microsoft.App/2024-03-01/Jobs.json",
            "Microsoft.App/2024-03-01/ManagedEnvironments.json",
            "Microsoft.Authorization/2022-04-01/authorization-RoleDefinitionsCalls.json",
            "Microsoft.ContainerInstance/2023-05-01/containerInstance.json",
            "Microsoft.ContainerRegistry/2019-04-01-tasks/containerregistry_build.json",
            "Microsoft.ServiceBus/2024-01-01/Queue.json",
            "Microsoft.Web/2024-04-01/StaticSites.json",
        ]);
        let kept = Arc::clone(&state);
        let double = Double::start(move |asked| -> Answer {
            // The source and the log of a build do not go by Resource Manager.
            if asked.path.starts_with("/upload/") {
                assert!(asked.query.starts_with("comp=block"), "{}", asked.query);
                return (201, Vec::new(), String::new());
            }
            let mut state = kept.lock().unwrap();
            if let Some(id) = asked.path.strip_prefix("/log/") {
                return (200, Vec::new(), state.log(id));
            }
            // Nor do the pages of a site.
            if !asked.path.starts_with("/subscriptions/") && state.sites.are_there() {
                return state.sites.page();
            }
            assert!(asked.header("authorization").is_some_and(|token| token.starts_with("Bearer ")));
            let address = format!("http://{}/", asked.header("host").unwrap());
            let played = is_beyond(asked);
            let operation = contract.request(&asked.method, &asked.path, &asked.query, &asked.body);
            if let (false, Err(complaint)) = (played, &operation) {
                state.violations.push(format!("{} {}: {complaint}", asked.method, asked.path));
                return (
                    400,
                    Vec::new(),
                    json!({ "error": { "code": "Violation", "message": complaint } }).to_string(),
                );
            }
            let trouble = state
                .troubles
                .iter()
                .position(|(method, part, _)| *method == asked.method && asked.path.contains(part.as_str()));
            let answer = match trouble {
                Some(index) => state.troubles.remove(index).2,
                None => state.answer(asked, &address),
            };
            if let Ok(operation) = operation
                && let Err(complaint) = contract.answer(operation, answer.0, &answer.2)
            {
                state
                    .violations
                    .push(format!("answer {} to {} {}: {complaint}", answer.0, asked.method, asked.path));
            }
            answer
        });
        Self { double, state }
    }

    /// Answers the next such request so.
    pub(crate) fn trouble(&self, method: &str, part: &str, status: u16, code: &str) {
        self.trouble_saying((method, part), status, code, &format!("{code} happened"));
    }

    /// The same with a sentence.
    pub(crate) fn trouble_saying(&self, (method, part): (&str, &str), status: u16, code: &str, text: &str) {
        let body = json!({ "error": { "code": code, "message": text } }).to_string();
        let answer = (status, vec![("retry-after", "1".to_owned())], body);
        self.state.lock().unwrap().troubles.push((method.to_owned(), part.to_owned(), answer));
    }

    /// What is answered from now on to whoever asks what it may do.
    pub(crate) fn permits(&self, status: u16, body: &Value) {
        self.state.lock().unwrap().permissions = Some((status, Vec::new(), body.to_string()));
    }

    /// Operations are said to be at this address from now on.
    pub(crate) fn operates_at(&self, address: &str) {
        self.state.lock().unwrap().elsewhere = Some(address.to_owned());
    }

    /// What the next revisions become.
    pub(crate) fn fate(&self, fate: Fate) {
        self.state.lock().unwrap().fate = Some(fate);
    }

    /// The next revisions do not scale.
    pub(crate) fn does_not_scale(&self) {
        self.state.lock().unwrap().unscaled = true;
    }

    /// The revision that has the traffic of an app, and the active ones.
    pub(crate) fn serving(&self, app: &str) -> (Option<String>, Vec<String>) {
        let state = self.state.lock().unwrap();
        let app = &state.apps[app];
        let live = app.revisions.iter().find(|revision| app.traffic(&revision.name) == 100);
        let active = app.revisions.iter().filter(|revision| revision.active);
        (live.map(|live| live.name.clone()), active.map(|active| active.name.clone()).collect())
    }

    /// Every revision of an app.
    pub(crate) fn revisions(&self, app: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.apps[app].revisions.iter().map(|revision| revision.name.clone()).collect()
    }

    /// The newest body of an app.
    pub(crate) fn body(&self, app: &str) -> Value {
        self.state.lock().unwrap().apps[app].body.clone()
    }

    /// What the owners of domains and the issuer of certificates do.
    pub(crate) fn domains<T>(&self, act: impl FnOnce(&mut Domains) -> T) -> T {
        act(&mut self.state.lock().unwrap().domains)
    }

    /// Builds that were asked for.
    pub(crate) fn builds(&self) -> usize {
        self.state.lock().unwrap().builds.len()
    }

    pub(crate) fn has(&self, app: &str) -> bool {
        self.state.lock().unwrap().apps.contains_key(app)
    }

    /// Whatever was not as the contract has it.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state.lock().unwrap().violations.clone()
    }
}
