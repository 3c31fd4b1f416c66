//! Domains of static web apps. The service looks at the owner's DNS records, then issues a certificate and renews it by
//! itself.
//!
//! A name below a zone's top is proved by the CNAME that leads it here, which has to be there before; a top, where no CNAME
//! can be, by a token in a TXT record. Where a domain stands is asked of Azure each time.

use std::sync::Arc;

use serde_json::json;

use super::app_body::text;
use super::app_changes::Changes;
use super::app_domains::is_apex;
use super::arm::{Arm, Begun};
use super::arm_error::ArmError;
use super::site_content::{SITES, site};
use crate::deploy::release::Release;
use crate::deploy::runtime::{Binding, Bound, DnsRecord, Missing, Pending, RuntimeError};

/// Words in what the service says when it does not see the records.
const RECORDS: [&str; 4] = ["cname", "txt", "dns", "record"];

/// Binds domains of static web apps.
pub(super) struct SiteDomains {
    pub(super) arm: Arc<Arm>,
    pub(super) changes: Changes,
}

fn resource(name: &str, domain: &str) -> String {
    format!("{}/customDomains/{domain}", site(name))
}

fn is_about_records(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    RECORDS.iter().any(|word| said.contains(word))
}

/// What the owner has to set, so that `domain` leads to `host`. The token is looked for at either name.
fn records(domain: &str, host: &str, token: &str) -> Vec<DnsRecord> {
    let record = |kind, name: String, value: &str| DnsRecord { kind, name, value: value.to_owned() };
    if !is_apex(domain) {
        return vec![record("CNAME", domain.to_owned(), host)];
    }
    vec![
        record("TXT", domain.to_owned(), token),
        record("TXT", format!("_dnsauth.{domain}"), token),
        record("ALIAS", domain.to_owned(), host),
    ]
}

impl SiteDomains {
    /// Makes the next move for each of the release's domains on the site `name` with this host name.
    pub(super) async fn bind(
        &self,
        (name, host): (&str, &str),
        release: &Release,
    ) -> Result<Binding, RuntimeError> {
        let (mut bound, mut pending) = (Vec::new(), Vec::new());
        for domain in release.domains() {
            match self.next((name, host), domain).await? {
                None => bound.push(Bound { domain: domain.clone(), certificate: None }),
                Some(missing) => pending.push(Pending { domain: domain.clone(), missing }),
            }
        }
        Ok(if pending.is_empty() { Binding::Bound(bound) } else { Binding::Waiting(pending) })
    }

    /// Whether the site answers requests for `domain`, with a certificate.
    pub(super) async fn serves(&self, name: &str, domain: &str) -> Result<bool, RuntimeError> {
        let found = self.arm.get(SITES, &resource(name, domain)).await?;
        Ok(found.is_some_and(|found| text(&found, "/properties/status") == "Ready"))
    }

    /// Takes a domain off the site, and its certificate with it.
    pub(super) async fn remove(&self, name: &str, domain: &str) -> Result<(), RuntimeError> {
        let begun = self.arm.delete(SITES, &resource(name, domain)).await?;
        self.changes.finish(begun).await
    }

    async fn next(&self, (name, host): (&str, &str), domain: &str) -> Result<Option<Missing>, RuntimeError> {
        let Some(found) = self.arm.get(SITES, &resource(name, domain)).await? else {
            return self.add((name, host), domain).await.map(Some);
        };
        let said = text(&found, "/properties/errorMessage");
        let records = || records(domain, host, text(&found, "/properties/validationToken"));
        Ok(match text(&found, "/properties/status") {
            "Ready" => None,
            "Validating" if is_apex(domain) => Some(Missing::Records(records())),
            // It led here once.
            "Unhealthy" => Some(Missing::Records(records())),
            "" | "RetrievingValidationToken" | "Deleting" => Some(Missing::Change),
            "Failed" => {
                // The next look asks for it anew.
                self.remove(name, domain).await?;
                if !is_about_records(said) {
                    let message = format!("Static Web Apps did not take {domain}: {said}");
                    return Err(RuntimeError::Rejected { code: "DOMAIN_CERTIFICATE_FAILED", message });
                }
                Some(if is_apex(domain) { Missing::Change } else { Missing::Records(records()) })
            }
            other => Some(Missing::Certificate(other.to_owned())),
        })
    }

    /// Asks for a domain that the site does not have. A CNAME has to be seen before, because the service gives a domain
    /// up at once whose record it does not see.
    async fn add(&self, (name, host): (&str, &str), domain: &str) -> Result<Missing, RuntimeError> {
        let resource = resource(name, domain);
        let method = if is_apex(domain) { "dns-txt-token" } else { "cname-delegation" };
        let wanted = json!({ "properties": { "validationMethod": method } });
        if !is_apex(domain) {
            let seen = self.arm.act(SITES, &format!("{resource}/validate"), Some(&wanted)).await;
            match self.answered(seen, domain).await {
                Ok(()) => {}
                Err(RuntimeError::Rejected { code: "DOMAIN_DNS_MISSING", .. }) => {
                    return Ok(Missing::Records(records(domain, host, "")));
                }
                Err(error) => return Err(error),
            }
        }
        // How it goes on is asked of the domain itself.
        self.arm.put(SITES, &resource, &wanted).await.map_err(|error| refused(error.into(), domain))?;
        Ok(Missing::Change)
    }

    async fn answered(&self, begun: Result<Begun, ArmError>, domain: &str) -> Result<(), RuntimeError> {
        let answered = match begun {
            Ok(begun) => self.changes.finish(begun).await,
            Err(error) => Err(error.into()),
        };
        answered.map_err(|error| refused(error, domain))
    }
}

/// Tells apart why a domain is not taken.
fn refused(error: RuntimeError, domain: &str) -> RuntimeError {
    match error {
        RuntimeError::Rejected { code: "AZURE_NAME_TAKEN", message } => RuntimeError::Rejected {
            code: "DOMAIN_TAKEN",
            message: format!("{domain} belongs to another static web app; remove it there first: {message}"),
        },
        RuntimeError::Rejected { code: "AZURE_REJECTED", message } if is_about_records(&message) => {
            RuntimeError::Rejected { code: "DOMAIN_DNS_MISSING", message }
        }
        other @ (RuntimeError::Rejected { .. } | RuntimeError::Unavailable(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_top_is_proved_by_a_token_and_anything_below_by_its_cname() {
        let told = |domain: &str| {
            records(domain, "x.azurestaticapps.net", "t").iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told("www.shop.example"), ["CNAME www.shop.example = x.azurestaticapps.net"]);
        assert_eq!(
            told("shop.example"),
            [
                "TXT shop.example = t",
                "TXT _dnsauth.shop.example = t",
                "ALIAS shop.example = x.azurestaticapps.net"
            ]
        );
    }

    #[test]
    fn missing_records_are_told_from_other_refusals() {
        let code = |code: &'static str, message: &str| match refused(
            RuntimeError::Rejected { code, message: message.to_owned() },
            "a.example",
        ) {
            RuntimeError::Rejected { code, .. } => code,
            RuntimeError::Unavailable(message) => panic!("{message}"),
        };
        assert_eq!(code("AZURE_REJECTED", "CNAME Record is invalid."), "DOMAIN_DNS_MISSING");
        assert_eq!(code("AZURE_REJECTED", "no more domains"), "AZURE_REJECTED");
        assert_eq!(code("AZURE_NAME_TAKEN", "dns"), "DOMAIN_TAKEN");
        assert_eq!(code("AZURE_FORBIDDEN", "dns"), "AZURE_FORBIDDEN");
    }
}
