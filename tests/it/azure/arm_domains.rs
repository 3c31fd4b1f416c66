//! Host names and managed certificates, as Resource Manager plays them: records are seen once somebody has set them, and
//! certificates are issued after some looks, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::doubles::{Answer, Asked};

#[derive(Default)]
pub(crate) struct Domains {
    /// Domains whose records are set, and the kind of the one that leads to the app.
    pub(crate) records: BTreeMap<&'static str, &'static str>,
    /// Domains of another app.
    pub(crate) taken: BTreeSet<&'static str>,
    /// Looks until the next certificate is issued.
    pub(crate) looks: u32,
    /// Why it is not issued.
    pub(crate) refusal: Option<&'static str>,
    certificates: BTreeMap<String, Certificate>,
}

struct Certificate {
    body: Value,
    looks: u32,
    refusal: Option<&'static str>,
}

impl Certificate {
    fn state(&self) -> &'static str {
        match (self.looks, self.refusal) {
            (0, None) => "Succeeded",
            (0, Some(_)) => "Failed",
            _ => "Pending",
        }
    }

    fn view(&self, name: &str) -> Value {
        let mut view = self.body.clone();
        view["name"] = json!(name);
        view["properties"]["provisioningState"] = json!(self.state());
        if let Some(refusal) = self.refusal.filter(|_| self.looks == 0) {
            view["properties"]["error"] = json!(refusal);
        }
        view
    }
}

/// The domains in the body of an app.
pub(super) fn domains_of(app: &Value) -> &[Value] {
    let known = app.pointer("/properties/configuration/ingress/customDomains");
    known.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn not_found(what: &str) -> Answer {
    refused(404, "ResourceNotFound", what)
}

pub(super) fn refused(status: u16, code: &str, what: &str) -> Answer {
    let body = json!({ "error": { "code": code, "message": format!("{code}: {what}") } });
    (status, Vec::new(), body.to_string())
}

impl Domains {
    /// The certificates that there are: their subjects and how they are validated.
    pub(crate) fn certificates(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let properties = self.certificates.values().map(|certificate| &certificate.body["properties"]);
        properties
            .map(|properties| {
                (text(&properties["subjectName"]), text(&properties["domainControlValidation"]))
            })
            .collect()
    }

    /// Whether an app may have these domains.
    pub(super) fn change(&self, entries: &[Value]) -> Result<(), Answer> {
        for entry in entries {
            let name = entry["name"].as_str().unwrap();
            if !self.records.contains_key(name) {
                return Err(refused(400, "InvalidCustomHostNameValidation", name));
            }
            let issued = |id: &str| {
                let certificate = self.certificates.get(id.rsplit('/').next().unwrap());
                certificate.is_some_and(|certificate| {
                    certificate.state() == "Succeeded"
                        && certificate.body["properties"]["subjectName"] == name
                })
            };
            if entry["bindingType"] == "SniEnabled" && !entry["certificateId"].as_str().is_some_and(issued) {
                return Err(refused(400, "InvalidCertificateId", name));
            }
        }
        Ok(())
    }

    /// What is said of a certificate or a host name; `bound` are the domains of all apps.
    pub(super) fn answer(&mut self, (method, name): (&str, &str), asked: &Asked, bound: &[Value]) -> Answer {
        match method {
            "POST" => self.analysis(&asked.query),
            "PUT" => self.order(name, serde_json::from_str(&asked.body).unwrap(), bound),
            "GET" => match self.certificates.get_mut(name) {
                Some(certificate) => {
                    certificate.looks = certificate.looks.saturating_sub(1);
                    (200, Vec::new(), certificate.view(name).to_string())
                }
                None => not_found(name),
            },
            "DELETE" => {
                let uses = |entry: &Value| {
                    entry["certificateId"].as_str().is_some_and(|id| id.ends_with(&format!("/{name}")))
                };
                if bound.iter().any(uses) {
                    return refused(409, "CertificateInUse", name);
                }
                let status = if self.certificates.remove(name).is_some() { 200 } else { 204 };
                (status, Vec::new(), String::new())
            }
            other => panic!("{other} is not played"),
        }
    }

    fn analysis(&self, query: &str) -> Answer {
        let domain = query.split('&').find_map(|pair| pair.strip_prefix("customHostname=")).unwrap();
        let kind = self.records.get(domain).copied();
        let seen = |wanted: &str| if kind == Some(wanted) { vec!["seen"] } else { Vec::new() };
        let taken = self.taken.contains(domain);
        let body = json!({
            "hostName": domain,
            "isHostnameAlreadyVerified": false,
            "customDomainVerificationTest": if kind.is_some() { "Passed" } else { "Failed" },
            "hasConflictOnManagedEnvironment": taken,
            "conflictingContainerAppResourceId": if taken { "/subscriptions/s/x/other-app" } else { "" },
            "cNameRecords": seen("CNAME"),
            "aRecords": seen("A"),
        });
        (200, Vec::new(), body.to_string())
    }

    fn order(&mut self, name: &str, body: Value, bound: &[Value]) -> Answer {
        let subject = &body["properties"]["subjectName"];
        if !bound.iter().any(|entry| entry["name"] == *subject) {
            return refused(400, "RequireCustomHostnameInEnvironment", name);
        }
        let certificate = Certificate { body, looks: self.looks, refusal: self.refusal };
        let view = certificate.view(name).to_string();
        self.certificates.insert(name.to_owned(), certificate);
        (201, Vec::new(), view)
    }
}
