//! Static web apps: a part of the double of Resource Manager. A site takes one zip after the other, each after some looks, and
//! shows what it took at its own host name, which is the double's.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::arm_domains::{not_found, refused};
use super::arm_double::{ArmDouble, State};
use super::doubles::{Answer, Asked};

/// What becomes of a zip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SiteFate {
    /// It is there after so many looks.
    Ready(u32),
    /// The operation fails.
    Fails,
    /// The operation succeeds, and the content is bad.
    Bad,
}

pub(super) struct Sites {
    sites: BTreeMap<String, Site>,
    fate: SiteFate,
    /// Domains whose records are set.
    records: BTreeSet<&'static str>,
    /// What pages answer with.
    status: u16,
}

impl Default for Sites {
    fn default() -> Self {
        Self { sites: BTreeMap::new(), fate: SiteFate::Ready(1), records: BTreeSet::new(), status: 200 }
    }
}

#[derive(Default)]
struct Site {
    body: Value,
    host: String,
    /// What it takes, and looks until it has it.
    taking: Option<(Value, u32, SiteFate)>,
    status: Option<&'static str>,
    /// Everything it was told.
    told: Vec<Value>,
    live: String,
    domains: BTreeMap<String, &'static str>,
}

impl Site {
    fn view(&self, name: &str) -> Value {
        let mut view = self.body.clone();
        (view["name"], view["type"]) = (json!(name), json!("Microsoft.Web/staticSites"));
        view["properties"]["defaultHostname"] = json!(self.host);
        view
    }

    /// A look at the operation.
    fn look(&mut self) -> Answer {
        let Some((told, looks, fate)) = self.taking.take() else {
            return (200, Vec::new(), json!({ "status": "Succeeded" }).to_string());
        };
        let looks = looks.saturating_sub(1);
        if looks > 0 {
            self.taking = Some((told, looks, fate));
            let soon = vec![("retry-after", "1".to_owned())];
            return (202, soon, json!({ "status": "InProgress" }).to_string());
        }
        let status = match fate {
            SiteFate::Ready(_) => {
                self.live = told["deploymentTitle"].as_str().unwrap().to_owned();
                self.status = Some("Ready");
                json!({ "status": "Succeeded" })
            }
            SiteFate::Bad => {
                self.status = Some("Failed");
                json!({ "status": "Succeeded" })
            }
            SiteFate::Fails => {
                let error = json!({ "code": "BadZip", "message": "the zip has no default file" });
                json!({ "status": "Failed", "error": error })
            }
        };
        (200, Vec::new(), status.to_string())
    }
}

fn view(domain: &str, state: &str) -> Value {
    let mut properties = json!({ "domainName": domain, "status": state });
    if state != "RetrievingValidationToken" {
        properties["validationToken"] = json!("token-1");
    }
    json!({ "name": domain, "properties": properties })
}

impl Sites {
    pub(super) fn are_there(&self) -> bool {
        !self.sites.is_empty()
    }

    /// What somebody sees who opens a site.
    pub(super) fn page(&self) -> Answer {
        let live = self.sites.values().map(|site| site.live.clone()).next().unwrap_or_default();
        (self.status, Vec::new(), live)
    }

    fn domain(&mut self, (name, domain): (&str, &str), asked: &Asked, validate: bool) -> Answer {
        let seen = self.records.contains(domain);
        let site = self.sites.get_mut(name).unwrap();
        let unseen = || {
            let text = "CNAME Record is invalid.  Please ensure the CNAME record has been created.";
            refused(400, "BadRequest", text)
        };
        match asked.method.as_str() {
            "GET" => {
                let Some(state) = site.domains.get_mut(domain) else { return not_found(domain) };
                *state = match *state {
                    "RetrievingValidationToken" => "Validating",
                    "Validating" if seen => "Adding",
                    "Adding" => "Ready",
                    other => other,
                };
                (200, Vec::new(), view(domain, state).to_string())
            }
            "POST" if validate => {
                if seen {
                    (200, Vec::new(), String::new())
                } else {
                    unseen()
                }
            }
            "PUT" => {
                let body: Value = serde_json::from_str(&asked.body).unwrap();
                let first = match body["properties"]["validationMethod"].as_str().unwrap() {
                    "cname-delegation" if !seen => return unseen(),
                    "cname-delegation" => "Validating",
                    "dns-txt-token" => "RetrievingValidationToken",
                    other => panic!("{other}"),
                };
                site.domains.insert(domain.to_owned(), first);
                (202, Vec::new(), view(domain, first).to_string())
            }
            "DELETE" => match site.domains.remove(domain) {
                Some(_) => (200, Vec::new(), String::new()),
                None => not_found(domain),
            },
            other => panic!("{other} is not played"),
        }
    }
}

impl State {
    pub(super) fn site(&mut self, (name, rest): (&str, &[&str]), asked: &Asked, address: &str) -> Answer {
        let host = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let (method, fate) = (asked.method.as_str(), self.sites.fate);
        let sites = &mut self.sites.sites;
        match (method, rest) {
            ("PUT", []) => {
                let site = sites.entry(name.to_owned()).or_default();
                site.body = serde_json::from_str(&asked.body).unwrap();
                site.host = host;
                let view = site.view(name).to_string();
                (202, vec![("azure-asyncoperation", self.operation(address, 1))], view)
            }
            ("DELETE", []) => match sites.remove(name) {
                Some(_) => (202, vec![("location", self.operation(address, 1))], String::new()),
                None => not_found(name),
            },
            (_, ["customDomains", domain, more @ ..]) => {
                self.sites.domain((name, *domain), asked, *more == ["validate"])
            }
            (method, rest) => {
                let Some(site) = sites.get_mut(name) else { return not_found(name) };
                match (method, rest) {
                    ("GET", []) => (200, Vec::new(), site.view(name).to_string()),
                    ("GET", ["operationResults"]) => site.look(),
                    ("GET", ["builds"]) => {
                        let properties =
                            json!({ "hostname": site.host, "status": site.status.unwrap_or("Deploying") });
                        let build = json!({ "name": "default", "properties": properties });
                        (200, Vec::new(), json!({ "value": [build] }).to_string())
                    }
                    ("POST", ["zipdeploy"]) if site.taking.is_some() => {
                        refused(409, "Conflict", "it is busy")
                    }
                    ("POST", ["zipdeploy"]) => {
                        let body: Value = serde_json::from_str(&asked.body).unwrap();
                        let told = body["properties"].clone();
                        assert_eq!(told["provider"], "windlass");
                        let looks = if let SiteFate::Ready(looks) = fate { looks } else { 1 };
                        site.taking = Some((told.clone(), looks, fate));
                        site.status = Some("Deploying");
                        site.told.push(told);
                        let operation = format!(
                            "{address}{}/operationResults?api-version=2019-01-01",
                            asked.path.trim_start_matches('/').trim_end_matches("/zipdeploy")
                        );
                        (202, vec![("azure-asyncoperation", operation)], String::new())
                    }
                    other => panic!("{other:?} is not played"),
                }
            }
        }
    }
}

impl ArmDouble {
    /// What the next zips become.
    pub(crate) fn site_fate(&self, fate: SiteFate) {
        self.state.lock().unwrap().sites.fate = fate;
    }

    /// What sites answer with.
    pub(crate) fn site_status(&self, status: u16) {
        self.state.lock().unwrap().sites.status = status;
    }

    /// Sets the records of a domain.
    pub(crate) fn site_records(&self, domain: &'static str) {
        self.state.lock().unwrap().sites.records.insert(domain);
    }

    /// Makes a site of somebody else's.
    pub(crate) fn foreign_site(&self, name: &str) {
        let body = json!({ "location": "westeurope", "sku": { "name": "Free" }, "properties": {} });
        let site = Site { body, host: "theirs.example".to_owned(), ..Site::default() };
        self.state.lock().unwrap().sites.sites.insert(name.to_owned(), site);
    }

    /// Names of the sites, and what each shows.
    pub(crate) fn sites(&self) -> Vec<(String, String)> {
        let state = self.state.lock().unwrap();
        state.sites.sites.iter().map(|(name, site)| (name.clone(), site.live.clone())).collect()
    }

    /// What sites were told to take.
    pub(crate) fn told(&self) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.sites.sites.values().flat_map(|site| site.told.clone()).collect()
    }

    /// What a site was made of.
    pub(crate) fn site_body(&self, name: &str) -> Value {
        self.state.lock().unwrap().sites.sites[name].body.clone()
    }
}
