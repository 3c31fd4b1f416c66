//! Container groups that run apps: a part of the double of Resource Manager. A name belongs to one group at a time, and a
//! group that is changed starts again.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::arm_domains::{not_found, refused};
use super::arm_double::{ArmDouble, State};
use super::doubles::{Answer, Asked};

/// Looks until a group runs.
const LOOKS: u32 = 3;
/// Later than any test, so that no app is late, and earlier.
const FUTURE: &str = "2100-01-01T00:00:00Z";
const PAST: &str = "2020-01-01T00:00:00Z";

/// What becomes of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum GroupFate {
    /// Its container runs.
    #[default]
    Runs,
    /// It has run for years.
    RunsLong,
    /// Its container ends again and again.
    Crashes,
    /// Its image cannot be pulled.
    NoImage,
    /// It is given up.
    Fails,
}

#[derive(Default)]
pub(super) struct Instances {
    groups: BTreeMap<String, AppGroup>,
    fate: GroupFate,
}

struct AppGroup {
    body: Value,
    looks: u32,
    fate: GroupFate,
}

fn label(body: &Value) -> &str {
    body["properties"]["ipAddress"]["dnsNameLabel"].as_str().unwrap()
}

/// What may not be changed in place.
fn fixed(body: &Value) -> [&Value; 3] {
    let properties = &body["properties"];
    let resources = &properties["containers"][0]["properties"]["resources"];
    [&properties["osType"], &properties["restartPolicy"], resources]
}

impl AppGroup {
    fn view(&mut self, name: &str) -> Value {
        self.looks = self.looks.saturating_sub(1);
        let running = |since: &str| json!({ "restartCount": 0, "currentState": { "state": "Running", "startTime": since } });
        let waiting = |restarts: u64, events: Value| json!({ "restartCount": restarts, "currentState": { "state": "Waiting" }, "events": events });
        let (state, view) = match (self.looks, self.fate) {
            (1.., _) => ("Creating", waiting(0, json!([]))),
            (0, GroupFate::Runs) => ("Succeeded", running(FUTURE)),
            (0, GroupFate::RunsLong) => ("Succeeded", running(PAST)),
            (0, GroupFate::Crashes) => ("Succeeded", waiting(4, json!([]))),
            (0, GroupFate::NoImage) => {
                let event =
                    json!({ "name": "Failed", "count": 3, "message": "Failed to pull image: denied" });
                ("Succeeded", waiting(0, json!([event])))
            }
            (0, GroupFate::Fails) => ("Failed", Value::Null),
        };
        let mut body = self.body.clone();
        (body["name"], body["properties"]["provisioningState"]) = (json!(name), json!(state));
        body["properties"]["instanceView"] =
            json!({ "state": "Running", "events": [{ "name": "Failed", "message": "no room in the zone" }] });
        // Every app of a test answers here.
        body["properties"]["ipAddress"]["fqdn"] = json!("127.0.0.1");
        let container = &mut body["properties"]["containers"][0]["properties"];
        if !view.is_null() {
            container["instanceView"] = view;
        }
        for variable in container["environmentVariables"].as_array_mut().unwrap() {
            if variable.get("secureValue").is_some() {
                *variable = json!({ "name": variable["name"] });
            }
        }
        body
    }
}

impl State {
    /// Whether this is about a group that runs an app: a build has no name.
    pub(super) fn is_app(&self, name: &str, asked: &Asked) -> bool {
        self.instances.groups.contains_key(name) || asked.body.contains("\"ipAddress\"")
    }

    pub(super) fn app_group(
        &mut self,
        (name, rest): (&str, &[&str]),
        asked: &Asked,
        address: &str,
    ) -> Answer {
        let groups = &mut self.instances.groups;
        match (asked.method.as_str(), rest) {
            ("PUT", []) => {
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                let wanted = label(&body);
                if groups.iter().any(|(other, group)| other != name && label(&group.body) == wanted) {
                    // The sentence is the service's own, as people report it.
                    let text = format!(
                        "The DNS name label '{wanted}' in container group '{name}' not available. Try using a different label."
                    );
                    return refused(400, "DnsNameLabel", &text);
                }
                if groups.get(name).is_some_and(|known| fixed(&known.body) != fixed(&body)) {
                    return refused(400, "InvalidContainerGroupUpdate", name);
                }
                let mut group = AppGroup { body, looks: LOOKS + 1, fate: self.instances.fate };
                let view = group.view(name).to_string();
                groups.insert(name.to_owned(), group);
                (201, Vec::new(), view)
            }
            ("GET", []) => (200, Vec::new(), groups.get_mut(name).unwrap().view(name).to_string()),
            ("GET", ["containers", "app", "logs"]) => {
                assert!(asked.query.contains("tail="), "{}", asked.query);
                (200, Vec::new(), json!({ "content": "older\nnewest\n" }).to_string())
            }
            ("DELETE", []) => match groups.remove(name) {
                Some(_) => (202, vec![("location", self.operation(address, 1))], String::new()),
                None => not_found(name),
            },
            other => panic!("{other:?} is not played"),
        }
    }
}

impl ArmDouble {
    /// What the next groups of apps become.
    pub(crate) fn group_fate(&self, fate: GroupFate) {
        self.state.lock().unwrap().instances.fate = fate;
    }

    /// Names and labels of the groups that run apps.
    pub(crate) fn groups(&self) -> Vec<(String, String)> {
        let state = self.state.lock().unwrap();
        let groups = state.instances.groups.iter();
        groups.map(|(name, group)| (name.clone(), label(&group.body).to_owned())).collect()
    }

    /// What a group was made of.
    pub(crate) fn group(&self, name: &str) -> Value {
        self.state.lock().unwrap().instances.groups[name].body.clone()
    }
}
