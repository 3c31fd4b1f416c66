//! Jobs of Container Apps and container groups, as far as builds use them: a part of the double of Resource Manager.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::arm_domains::not_found;
use super::arm_double::ArmDouble;
use super::doubles::{Answer, Asked};

/// Looks until a job is made, and until what runs is over.
const LOOKS: u32 = 2;

/// What becomes of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildFate {
    /// It goes on until somebody stops it.
    Runs,
    /// Kaniko ends with this exit code.
    Ends(i64),
    /// The platform kills its container.
    Killed,
}

#[derive(Default)]
pub(super) struct Jobs {
    jobs: BTreeMap<String, Job>,
    groups: BTreeMap<String, Group>,
    fate: Option<BuildFate>,
    /// Whether the next start is done and answered as if it was not.
    lose_start: bool,
    /// Containers that were ever begun.
    begun: usize,
}

struct Job {
    body: Value,
    looks: u32,
    executions: Vec<Execution>,
}

struct Execution {
    looks: u32,
    stopped: bool,
}

struct Group {
    body: Value,
    looks: u32,
}

fn accepted(address: &str) -> Answer {
    let operation = format!("{address}subscriptions/s/providers/Microsoft.App/locations/l/operations/o");
    (202, vec![("location", operation)], String::new())
}

fn refused(status: u16, code: &str) -> Answer {
    (status, Vec::new(), json!({ "error": { "code": code, "message": code } }).to_string())
}

impl Execution {
    fn view(&mut self, name: &str, fate: BuildFate) -> Value {
        self.looks = self.looks.saturating_sub(1);
        let status = match (self.stopped, self.looks, fate) {
            (true, _, _) => "Stopped",
            (false, 0, BuildFate::Ends(0)) => "Succeeded",
            (false, 0, BuildFate::Ends(_) | BuildFate::Killed) => "Failed",
            (false, _, _) => "Running",
        };
        json!({ "name": name, "properties": { "status": status, "startTime": "2026-11-20T09:00:00Z" } })
    }
}

impl Group {
    /// The exit code of the container: the script's own, whatever kaniko's was.
    fn exit(&self, fate: BuildFate) -> i64 {
        let command = &self.body["properties"]["containers"][0]["properties"]["command"];
        match fate {
            BuildFate::Ends(code) if command[2].as_str().unwrap().trim_end().ends_with("exit $code") => code,
            BuildFate::Ends(_) => 0,
            BuildFate::Killed | BuildFate::Runs => 137,
        }
    }

    fn view(&mut self, name: &str, fate: BuildFate) -> Value {
        self.looks = self.looks.saturating_sub(1);
        let (running, code) = (json!({ "state": "Running" }), self.exit(fate));
        let ended = json!({ "state": "Terminated", "exitCode": code, "detailStatus": "Error" });
        let view = match (self.looks, fate) {
            (0, BuildFate::Ends(_)) if code == 0 => json!({ "restartCount": 0, "currentState": ended }),
            // Never is a wish only.
            (0, BuildFate::Ends(_) | BuildFate::Killed) => {
                json!({ "restartCount": 1, "currentState": running, "previousState": ended })
            }
            _ => json!({ "restartCount": 0, "currentState": running }),
        };
        let mut body = self.body.clone();
        body["name"] = json!(name);
        body["properties"]["provisioningState"] = json!("Succeeded");
        let container = &mut body["properties"]["containers"][0]["properties"];
        container["instanceView"] = view;
        // Values that were given as secure are never given back.
        for variable in container["environmentVariables"].as_array_mut().unwrap() {
            *variable = json!({ "name": variable["name"] });
        }
        body
    }

    /// Where kaniko was told to send the image.
    fn destination(&self) -> String {
        let command = &self.body["properties"]["containers"][0]["properties"]["command"];
        let mut arguments = command.as_array().unwrap().iter().filter_map(Value::as_str);
        arguments.find_map(|word| word.strip_prefix("--destination=")).unwrap().to_owned()
    }

    fn log(&self, fate: BuildFate) -> String {
        let mut lines = vec!["2026-11-20T09:00:01.5Z INFO Retrieving image manifest".to_owned()];
        if let (0, BuildFate::Ends(code)) = (self.looks, fate) {
            if code == 0 {
                let image = self.destination();
                let (name, _) = image.rsplit_once(':').unwrap();
                lines.push(format!(
                    "2026-11-20T09:00:02Z \u{1b}[36mINFO\u{1b}[0m[0001] Pushing image to {image} "
                ));
                lines.push(format!(
                    "2026-11-20T09:00:02.5Z \u{1b}[36mINFO\u{1b}[0m[0001] Pushed {name}@sha256:{} ",
                    "ab".repeat(32)
                ));
            } else {
                lines.push("2026-11-20T09:00:02Z error building image: no such file".to_owned());
            }
            lines.push("2026-11-20T09:00:03Z ".to_owned());
            lines.push(format!("2026-11-20T09:00:03Z windlass: kaniko ended with exit code {code}"));
        }
        lines.join("\n")
    }
}

impl Jobs {
    fn fate(&self) -> BuildFate {
        self.fate.unwrap_or(BuildFate::Ends(0))
    }

    pub(super) fn answer(&mut self, (kind, rest): (&str, &[&str]), asked: &Asked, address: &str) -> Answer {
        match kind {
            "jobs" => self.job(&asked.method, rest, &asked.body, address),
            _ => self.group(&asked.method, rest, &asked.body, address),
        }
    }

    fn job(&mut self, method: &str, rest: &[&str], body: &str, address: &str) -> Answer {
        let fate = self.fate();
        if let ("PUT", [name]) = (method, rest) {
            let body: Value = serde_json::from_str(body).unwrap();
            let job = Job { body: body.clone(), looks: LOOKS, executions: Vec::new() };
            self.jobs.insert((*name).to_owned(), job);
            let (_, headers, _) = accepted(address);
            return (201, vec![("azure-asyncoperation", headers[0].1.clone())], body.to_string());
        }
        let Some(job) = self.jobs.get_mut(rest[0]) else {
            let missing = not_found(rest[0]);
            return if method == "DELETE" { (204, Vec::new(), String::new()) } else { missing };
        };
        match (method, rest) {
            ("GET", [name]) => {
                job.looks = job.looks.saturating_sub(1);
                let mut view = job.body.clone();
                let state = if job.looks == 0 { "Succeeded" } else { "InProgress" };
                (view["name"], view["properties"]["provisioningState"]) = (json!(name), json!(state));
                view["properties"]["configuration"]["secrets"] = json!([]);
                (200, Vec::new(), view.to_string())
            }
            ("GET", [name, "executions"]) => {
                let executions = job.executions.iter_mut().enumerate();
                let views: Vec<Value> =
                    executions.map(|(index, one)| one.view(&format!("{name}-{index}"), fate)).collect();
                (200, Vec::new(), json!({ "value": views }).to_string())
            }
            ("POST", [_, "start"]) if job.looks > 0 => refused(409, "ContainerAppOperationInProgress"),
            ("POST", [_, "start"]) => {
                job.executions.push(Execution { looks: LOOKS, stopped: false });
                self.begun += 1;
                if std::mem::take(&mut self.lose_start) {
                    return refused(503, "ServiceUnavailable");
                }
                accepted(address)
            }
            ("POST", [_, "executions", execution, "stop"]) => {
                let index: usize = execution.rsplit('-').next().unwrap().parse().unwrap();
                job.executions[index].stopped = true;
                accepted(address)
            }
            ("DELETE", [name]) => {
                self.jobs.remove(*name);
                accepted(address)
            }
            other => panic!("{other:?} is not played"),
        }
    }

    fn group(&mut self, method: &str, rest: &[&str], body: &str, address: &str) -> Answer {
        let fate = self.fate();
        match (method, rest) {
            ("PUT", [name]) => {
                let mut group = Group { body: serde_json::from_str(body).unwrap(), looks: LOOKS + 1 };
                let view = group.view(name, fate).to_string();
                self.begun += 1;
                self.groups.insert((*name).to_owned(), group);
                (201, Vec::new(), view)
            }
            ("GET", [name]) => match self.groups.get_mut(*name) {
                Some(group) => (200, Vec::new(), group.view(name, fate).to_string()),
                None => not_found(name),
            },
            ("GET", [name, "containers", "build", "logs"]) => match self.groups.get(*name) {
                Some(group) => (200, Vec::new(), json!({ "content": group.log(fate) }).to_string()),
                None => not_found(name),
            },
            ("DELETE", [name]) => match self.groups.remove(*name) {
                Some(_) => accepted(address),
                None => (204, Vec::new(), String::new()),
            },
            other => panic!("{other:?} is not played"),
        }
    }
}

impl ArmDouble {
    /// What becomes of builds in containers.
    pub(crate) fn build_fate(&self, fate: BuildFate) {
        self.state.lock().unwrap().jobs.fate = Some(fate);
    }

    /// Does the next start of a job, and answers as if it had not.
    pub(crate) fn lose_start(&self) {
        self.state.lock().unwrap().jobs.lose_start = true;
    }

    /// Containers of builds that were ever begun.
    pub(crate) fn begun(&self) -> usize {
        self.state.lock().unwrap().jobs.begun
    }

    /// Jobs and groups that exist, with what they were made of.
    pub(crate) fn containers(&self) -> Vec<(String, Value)> {
        let state = self.state.lock().unwrap();
        let jobs = state.jobs.jobs.iter().map(|(name, job)| (name.clone(), job.body.clone()));
        let groups = state.jobs.groups.iter().map(|(name, group)| (name.clone(), group.body.clone()));
        jobs.chain(groups).collect()
    }
}
