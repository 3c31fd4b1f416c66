//! Domains of container apps, with managed certificates. Azure wants this order: the owner's DNS records, the host name on
//! the app, the certificate, the binding.
//!
//! Where a domain stands is asked of Azure each time. One look makes one move for each domain and waits for nothing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::app_body::{Place, said_again, state, text};
use super::app_changes::{APPS, Changes, app, environment, is_changing};
use super::arm::{Arm, Begun};
use super::arm_error::ArmError;
use crate::ambient::Clock;
use crate::deploy::ids::{Digest, dns_label};
use crate::deploy::release::Release;
use crate::deploy::runtime::{Binding, Bound, DnsRecord, Missing, Pending, RuntimeError};

const DOMAINS: &str = "/properties/configuration/ingress/customDomains";
/// Characters of a domain, and of its hash, in the name of its certificate.
const LABEL: usize = 20;
const HASH: usize = 8;
/// What a certificate is refused with while the environment does not know its host name yet.
const NOT_KNOWN_YET: &str = "RequireCustomHostnameInEnvironment";

/// What can be done for a domain now.
enum Move {
    /// Nothing, it is bound.
    Bound(Bound),
    /// Nothing, something is missing.
    Wait(Missing),
    /// The app's list of domains gets this entry.
    Change(Value),
}

/// Binds domains of apps in one environment.
pub(super) struct Domains {
    arm: Arc<Arm>,
    changes: Changes,
    location: String,
    /// The environment's resource.
    environment: String,
}

/// What Azure sees of a domain.
struct Analysis(Value);

impl Analysis {
    fn is(&self, member: &str) -> bool {
        self.0.get(member) == Some(&Value::Bool(true))
    }

    fn sees(&self, records: &str) -> bool {
        self.0.get(records).and_then(Value::as_array).is_some_and(|records| !records.is_empty())
    }
}

/// Whether a domain is the top of its zone, as far as its name tells; no CNAME can be there.
pub(super) fn is_apex(domain: &str) -> bool {
    domain.split('.').count() == 2
}

/// The name of a domain's certificate: the same each time it is asked for.
fn certificate_name(domain: &str) -> String {
    let label: String = dns_label(domain).chars().take(LABEL).collect();
    let digest = Digest::of(domain.as_bytes()).to_string();
    format!("w-{}-{}", label.trim_matches('-'), digest.get(..HASH).unwrap_or_default())
}

/// The app's domains, as a change may name them again.
fn entries(app: &Value) -> Vec<Value> {
    let known = app.pointer(DOMAINS).and_then(Value::as_array);
    known.into_iter().flatten().map(said_again).collect()
}

/// Whether the app answers requests for `domain`, with a certificate.
pub(super) fn serves(app: &Value, domain: &str) -> bool {
    entries(app).iter().any(|entry| entry["name"] == domain && entry["bindingType"] == "SniEnabled")
}

impl Domains {
    pub(super) fn new(arm: &Arc<Arm>, clock: &Arc<dyn Clock>, place: &Place) -> Self {
        let name = place.environment.rsplit('/').next().unwrap_or_default();
        Self {
            arm: Arc::clone(arm),
            changes: Changes { arm: Arc::clone(arm), clock: Arc::clone(clock) },
            location: place.location.clone(),
            environment: environment(name),
        }
    }

    /// Makes the next move for each of the release's domains on the app `name`.
    pub(super) async fn bind(&self, name: &str, release: &Release) -> Result<Binding, RuntimeError> {
        if release.domains().is_empty() {
            return Ok(Binding::plain(release));
        }
        let Some(found) = self.arm.get(APPS, &app(name)).await? else {
            return Err(RuntimeError::Unavailable(format!("the app {name} is not there yet")));
        };
        let (mut entries, mut bound, mut pending) = (entries(&found), Vec::new(), Vec::new());
        let mut changed = false;
        for domain in release.domains() {
            let next = if is_changing(&found) {
                Move::Wait(Missing::Change)
            } else {
                self.next(&found, (name, domain.as_str()), &release.hosts).await?
            };
            let missing = match next {
                Move::Bound(known) => {
                    bound.push(known);
                    continue;
                }
                Move::Wait(missing) => missing,
                Move::Change(entry) => {
                    entries.retain(|known| known["name"] != entry["name"]);
                    entries.push(entry);
                    changed = true;
                    Missing::Change
                }
            };
            pending.push(Pending { domain: domain.clone(), missing });
        }
        if changed {
            self.change(name, &entries).await?;
        }
        Ok(if pending.is_empty() { Binding::Bound(bound) } else { Binding::Waiting(pending) })
    }

    /// Takes `domains` off the app `name`, then removes their certificates, which cannot be removed while they are bound.
    /// What is not on this app may be another one's, which waits for its certificate.
    pub(super) async fn unbind(&self, name: &str, domains: &[String]) -> Result<(), RuntimeError> {
        let Some(found) = self.changes.settled(name).await? else { return Ok(()) };
        let (gone, kept): (Vec<Value>, Vec<Value>) =
            entries(&found).into_iter().partition(|entry| domains.iter().any(|name| entry["name"] == *name));
        if gone.is_empty() {
            return Ok(());
        }
        let begun = self.change(name, &kept).await?;
        self.changes.finish(begun).await?;
        for entry in &gone {
            let domain = text(entry, "/name");
            match self.arm.delete(APPS, &self.certificate(domain)).await {
                Ok(_) => {}
                // Without its domain it does nothing, and whoever binds the domain again finds it.
                Err(error @ (ArmError::Busy(_) | ArmError::Rejected(_) | ArmError::Failed(_))) => {
                    tracing::warn!(domain, error = %error, "the certificate of {domain} stays for now");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn change(&self, name: &str, entries: &[Value]) -> Result<Begun, RuntimeError> {
        let change = json!({
            "location": self.location,
            "properties": { "configuration": { "ingress": { "customDomains": entries } } },
        });
        Ok(self.arm.patch(APPS, &app(name), &change).await?)
    }

    async fn next(
        &self,
        found: &Value,
        (name, domain): (&str, &str),
        hosts: &[String],
    ) -> Result<Move, RuntimeError> {
        let entries = entries(found);
        let Some(entry) = entries.iter().find(|entry| entry["name"] == domain) else {
            let seen = self.analysis(name, domain).await?;
            return self.add(found, domain, hosts, &seen).await;
        };
        if entry["bindingType"] == "SniEnabled" {
            let certificate = entry["certificateId"].as_str().and_then(|id| id.rsplit('/').next());
            let certificate = certificate.map(str::to_owned);
            return Ok(Move::Bound(Bound { domain: domain.to_owned(), certificate }));
        }
        let Some(certificate) = self.arm.get(APPS, &self.certificate(domain)).await? else {
            return self.order(name, domain).await;
        };
        match state(&certificate) {
            "Succeeded" => {
                let id = self.arm.id(&self.certificate(domain));
                let entry = json!({ "name": domain, "bindingType": "SniEnabled", "certificateId": id });
                Ok(Move::Change(entry))
            }
            "Failed" | "Canceled" => {
                let said = text(&certificate, "/properties/error");
                let said = if said.is_empty() { "no reason was given" } else { said };
                let message = format!(
                    "the certificate of {domain} was not issued: {said}; its DNS record has to lead straight to the app, and CAA records have to allow digicert.com"
                );
                // The next try orders another one.
                self.arm.delete(APPS, &self.certificate(domain)).await?;
                Err(RuntimeError::Rejected { code: "DOMAIN_CERTIFICATE_FAILED", message })
            }
            other => Ok(Move::Wait(Missing::Certificate(other.to_owned()))),
        }
    }

    /// A domain that is not on the app yet: it is put there once Azure sees that it belongs to its owner.
    async fn add(
        &self,
        found: &Value,
        domain: &str,
        hosts: &[String],
        seen: &Analysis,
    ) -> Result<Move, RuntimeError> {
        if seen.is("hasConflictOnManagedEnvironment") || seen.is("conflictWithEnvironmentCustomDomain") {
            let other = text(&seen.0, "/conflictingContainerAppResourceId");
            let other = other.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("another app");
            let message = format!("{domain} is bound to {other} in this environment; remove it there first");
            return Err(RuntimeError::Rejected { code: "DOMAIN_TAKEN", message });
        }
        let passed = text(&seen.0, "/customDomainVerificationTest") == "Passed";
        if !passed && !seen.is("isHostnameAlreadyVerified") {
            let id = text(found, "/properties/customDomainVerificationId");
            return Ok(Move::Wait(Missing::Records(self.records(domain, hosts, id).await?)));
        }
        // What failed at an earlier time would be taken for the answer to this one.
        let certificate = self.certificate(domain);
        let old = self.arm.get(APPS, &certificate).await?;
        if old.as_ref().is_some_and(|old| matches!(state(old), "Failed" | "Canceled")) {
            self.arm.delete(APPS, &certificate).await?;
        }
        Ok(Move::Change(json!({ "name": domain, "bindingType": "Disabled" })))
    }

    /// Asks for the certificate of a domain that is on the app.
    async fn order(&self, name: &str, domain: &str) -> Result<Move, RuntimeError> {
        let seen = self.analysis(name, domain).await?;
        let by_cname = seen.sees("cNameRecords") || (!seen.sees("aRecords") && !is_apex(domain));
        let wanted = json!({
            "location": self.location,
            "properties": {
                "subjectName": domain,
                "domainControlValidation": if by_cname { "CNAME" } else { "HTTP" },
            },
        });
        match self.arm.put(APPS, &self.certificate(domain), &wanted).await {
            Ok(_) => Ok(Move::Wait(Missing::Certificate("Pending".to_owned()))),
            Err(ArmError::Rejected(cause)) if cause.code == NOT_KNOWN_YET => Ok(Move::Wait(Missing::Change)),
            Err(error) => Err(error.into()),
        }
    }

    async fn analysis(&self, name: &str, domain: &str) -> Result<Analysis, RuntimeError> {
        // A domain has letters, digits, `-` and `.` only.
        let action = format!("{}/listCustomHostNameAnalysis?customHostname={domain}", app(name));
        match self.arm.act(APPS, &action, None).await? {
            Begun::Done(seen) => Ok(Analysis(seen)),
            Begun::Running(_) => {
                Err(RuntimeError::Unavailable(format!("Azure still looks at the records of {domain}")))
            }
        }
    }

    /// The records that lead a domain to the app, and prove whose it is.
    async fn records(
        &self,
        domain: &str,
        hosts: &[String],
        id: &str,
    ) -> Result<Vec<DnsRecord>, RuntimeError> {
        let record = |kind, name: String, value: &str| DnsRecord { kind, name, value: value.to_owned() };
        let proof = record("TXT", format!("asuid.{domain}"), id);
        if !is_apex(domain) {
            let host = hosts.first().map(String::as_str).unwrap_or_default();
            return Ok(vec![proof, record("CNAME", domain.to_owned(), host)]);
        }
        let environment = self.arm.get(APPS, &self.environment).await?.unwrap_or_default();
        let address = text(&environment, "/properties/staticIp");
        Ok(vec![proof, record("A", domain.to_owned(), address)])
    }

    /// The resource of a domain's certificate.
    fn certificate(&self, domain: &str) -> String {
        format!("{}/managedCertificates/{}", self.environment, certificate_name(domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates_are_short_and_differ() {
        let long = "a-host-name-that-goes-on.and-on.shop.example";
        for domain in ["shop.example", "www.shop.example", long] {
            let name = certificate_name(domain);
            let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
            assert!(name.len() <= 32 && name.chars().all(fits) && !name.contains("--"), "{name}");
            assert_eq!(name, certificate_name(domain));
        }
        assert_ne!(certificate_name(long), certificate_name(&format!("{long}.other")));
    }

    #[test]
    fn a_domain_without_a_certificate_is_not_served() {
        let app = |entry: Value| json!({ "properties": { "configuration": { "ingress": { "customDomains": [entry] } } } });
        let sni = json!({ "name": "a.example", "bindingType": "SniEnabled", "certificateId": "x" });
        assert!(serves(&app(sni.clone()), "a.example") && !serves(&app(sni), "b.example"));
        let disabled = json!({ "name": "a.example", "bindingType": "Disabled", "certificateId": null });
        assert!(!serves(&app(disabled.clone()), "a.example"));
        assert_eq!(entries(&app(disabled)), [json!({ "name": "a.example", "bindingType": "Disabled" })]);
        assert!(entries(&json!({ "properties": { "configuration": { "ingress": null } } })).is_empty());
    }
}
