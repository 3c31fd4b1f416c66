//! Domains on Container Apps: in Azure's order, with a certificate, and away again.

use serde_json::{Value, json};
use windlass::deploy::release::Release;
use windlass::deploy::runtime::{Binding, Bound, DnsRecord, Missing, Runtime as _, RuntimeError};

use super::apps::{APP, Story};

const DOMAIN: &str = "www.shop.example";

fn release(story: &Story, number: u64, domains: &[&str]) -> Release {
    let mut release = story.release(number);
    release.hosts.extend(domains.iter().map(|domain| (*domain).to_owned()));
    release
}

/// The domains that the app has.
fn domains(story: &Story) -> Value {
    story.arm.body(APP)["properties"]["configuration"]["ingress"]["customDomains"].clone()
}

async fn look(story: &Story, release: &Release) -> Vec<Missing> {
    match story.runtime.bind(release).await.unwrap() {
        Binding::Bound(bound) => panic!("{bound:?} are bound too early"),
        Binding::Waiting(pending) => pending.into_iter().map(|pending| pending.missing).collect(),
    }
}

/// Looks until all are bound; what was missing on the way, each once in a row.
async fn bind(story: &Story, release: &Release) -> (Vec<Missing>, Vec<Bound>) {
    let mut way = Vec::new();
    for _ in 0..30 {
        match story.runtime.bind(release).await.unwrap() {
            Binding::Bound(bound) => {
                way.dedup();
                return (way, bound);
            }
            Binding::Waiting(pending) => way.extend(pending.into_iter().map(|pending| pending.missing)),
        }
        for domain in release.domains() {
            let early = domains(story).to_string().contains("SniEnabled");
            assert!(early || story.runtime.answers(domain).await.unwrap().is_none(), "without a certificate");
        }
    }
    panic!("{way:?} and never bound");
}

fn record(kind: &'static str, name: &str, value: &str) -> DnsRecord {
    DnsRecord { kind, name: name.to_owned(), value: value.to_owned() }
}

#[tokio::test]
async fn a_domain_is_verified_certified_and_bound_in_that_order() {
    let story = Story::new().await;
    let first = release(&story, 1, &[DOMAIN]);
    story.make_live(&first).await;
    let wanted = vec![
        record("TXT", "asuid.www.shop.example", "proof"),
        record("CNAME", DOMAIN, "shop-production-903fef.westeurope.example"),
    ];
    assert_eq!(look(&story, &first).await, [Missing::Records(wanted)]);
    assert_eq!(domains(&story), Value::Null, "nothing is changed before the owner has agreed");

    story.arm.domains(|domains| {
        domains.records.insert(DOMAIN, "CNAME");
        domains.looks = 3;
    });
    let (way, bound) = bind(&story, &first).await;
    let pending = Missing::Certificate("Pending".to_owned());
    assert_eq!(way, [Missing::Change, pending, Missing::Change]);
    assert_eq!(bound[0].domain, DOMAIN);
    let certificate = bound[0].certificate.clone().unwrap();
    let entry = domains(&story)[0].clone();
    assert_eq!((&entry["name"], &entry["bindingType"]), (&json!(DOMAIN), &json!("SniEnabled")));
    assert!(entry["certificateId"].as_str().unwrap().ends_with(&format!(
        "/providers/Microsoft.App/managedEnvironments/environment/managedCertificates/{certificate}"
    )));
    let issued = story.arm.domains(|domains| domains.certificates());
    assert_eq!(issued, [(DOMAIN.to_owned(), "CNAME".to_owned())]);
    assert_eq!(story.runtime.answers(DOMAIN).await.unwrap(), Some(first.run));

    // The next release is a PUT of the whole app.
    let second = release(&story, 2, &[DOMAIN]);
    story.make_live(&second).await;
    assert_eq!(domains(&story)[0], entry);
    assert_eq!(story.runtime.bind(&second).await.unwrap(), Binding::Bound(bound));
    assert_eq!(story.runtime.answers(DOMAIN).await.unwrap(), Some(second.run));

    // One that does not ask for it.
    let third = release(&story, 3, &[]);
    story.make_live(&third).await;
    assert_eq!(domains(&story)[0], entry, "not before it is sure that the third one stays");
    for _ in 0..2 {
        story.runtime.unbind(&third, &[DOMAIN.to_owned()]).await.unwrap();
        assert_eq!(domains(&story), json!([]));
        assert!(story.arm.domains(|domains| domains.certificates()).is_empty());
    }
    assert_eq!(story.runtime.answers(DOMAIN).await.unwrap(), None);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn the_top_of_a_zone_is_led_by_an_address_and_others_domains_stay() {
    let story = Story::new().await;
    let release = release(&story, 1, &["shop.example", DOMAIN]);
    story.make_live(&release).await;
    let missing = look(&story, &release).await;
    let wanted = vec![record("TXT", "asuid.shop.example", "proof"), record("A", "shop.example", "20.0.0.7")];
    assert_eq!(missing[0], Missing::Records(wanted));
    assert_eq!(missing.len(), 2);
    story.arm.domains(|domains| domains.records.insert("shop.example", "A"));
    let missing = look(&story, &release).await;
    assert!(missing[0] == Missing::Change && matches!(missing[1], Missing::Records(_)), "{missing:?}");
    story.arm.domains(|domains| domains.records.insert(DOMAIN, "CNAME"));
    let (_, bound) = bind(&story, &release).await;
    assert_eq!(bound.len(), 2);
    let mut issued = story.arm.domains(|domains| domains.certificates());
    issued.sort();
    let issued: Vec<_> = issued.iter().map(|(name, by)| (name.as_str(), by.as_str())).collect();
    assert_eq!(issued, [("shop.example", "HTTP"), (DOMAIN, "CNAME")]);
    story.runtime.unbind(&release, &[DOMAIN.to_owned()]).await.unwrap();
    assert_eq!(domains(&story)[0]["name"], "shop.example");
    assert_eq!(domains(&story).as_array().unwrap().len(), 1);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_domain_of_another_app_is_refused() {
    let story = Story::new().await;
    let release = release(&story, 1, &[DOMAIN]);
    story.make_live(&release).await;
    story.arm.domains(|domains| {
        domains.records.insert(DOMAIN, "CNAME");
        domains.taken.insert(DOMAIN);
    });
    let refused = story.runtime.bind(&release).await.unwrap_err();
    assert!(
        matches!(&refused, RuntimeError::Rejected { code: "DOMAIN_TAKEN", message } if message.contains("other-app")),
        "{refused:?}"
    );
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_certificate_that_is_not_issued_says_why_and_the_next_try_orders_another() {
    let story = Story::new().await;
    let release = release(&story, 1, &[DOMAIN]);
    story.make_live(&release).await;
    story.arm.domains(|domains| {
        domains.records.insert(DOMAIN, "CNAME");
        domains.refusal = Some("a CAA record forbids it");
        domains.looks = 2;
    });
    let refused = loop {
        match story.runtime.bind(&release).await {
            Ok(Binding::Waiting(_)) => {}
            Ok(Binding::Bound(bound)) => panic!("{bound:?}"),
            Err(refused) => break refused,
        }
    };
    assert!(
        matches!(&refused, RuntimeError::Rejected { code: "DOMAIN_CERTIFICATE_FAILED", message } if message.contains("CAA record forbids")),
        "{refused:?}"
    );
    assert!(story.arm.domains(|domains| domains.certificates()).is_empty());
    story.arm.domains(|domains| domains.refusal = None);
    // The environment may not know the host name in the first moment.
    story.arm.trouble("PUT", "/managedCertificates/", 400, "RequireCustomHostnameInEnvironment");
    let (way, _) = bind(&story, &release).await;
    assert_eq!(way[0], Missing::Change);
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_domain_that_is_not_on_the_app_keeps_its_certificate() {
    let story = Story::new().await;
    let release = release(&story, 1, &[DOMAIN]);
    story.make_live(&release).await;
    story.arm.domains(|domains| {
        domains.records.insert(DOMAIN, "CNAME");
        domains.looks = 100;
    });
    for _ in 0..10 {
        look(&story, &release).await;
    }
    assert_eq!(story.arm.domains(|domains| domains.certificates()).len(), 1, "it is being issued");
    let mut other = release.clone();
    other.hosts[0] = "other-production-000000.westeurope.example".to_owned();
    story.runtime.unbind(&other, &[DOMAIN.to_owned()]).await.unwrap();
    assert_eq!(story.arm.domains(|domains| domains.certificates()).len(), 1);
    story.runtime.unbind(&release, &[DOMAIN.to_owned()]).await.unwrap();
    assert!(story.arm.domains(|domains| domains.certificates()).is_empty());
    assert_eq!(story.arm.violations(), [""; 0]);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_removed_now_holds_nothing_up() {
    let story = Story::new().await;
    let release = release(&story, 1, &[DOMAIN]);
    story.make_live(&release).await;
    story.arm.domains(|domains| domains.records.insert(DOMAIN, "CNAME"));
    bind(&story, &release).await;
    let gone = [DOMAIN.to_owned()];
    story.arm.trouble("DELETE", "/managedCertificates/", 409, "CertificateInUse");
    story.runtime.unbind(&release, &gone).await.unwrap();
    assert_eq!(domains(&story), json!([]));
    assert_eq!(story.arm.domains(|domains| domains.certificates()).len(), 1);
    // Whoever asks for the domain again finds it.
    let (way, _) = bind(&story, &release).await;
    assert_eq!(way, [Missing::Change]);
    story.arm.trouble("PATCH", "/containerApps/", 403, "AuthorizationFailed");
    assert!(story.runtime.unbind(&release, &gone).await.is_err(), "it still leads there");
    assert_eq!(story.arm.violations(), [""; 0]);
}
