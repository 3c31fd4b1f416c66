//! On which of Azure's services an app runs, and in which order a release takes the place of the one before.

use serde::{Deserialize, Serialize};

use super::detect::{Kind, Plan};

/// The service that runs an app. On one machine there is only that machine, so that it chooses nothing there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Revisions beside each other, traffic that moves in one instant, certificates, several replicas.
    #[default]
    ContainerApps,
    /// One container group with one name, without a certificate.
    ContainerInstances,
    /// Files without a process, with a host name and certificates of the service.
    StaticWebApps,
}

/// How a release takes the place of the one before, where both cannot have the app's name at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Make the new one, verify it, give it the name, delete the old one.
    #[default]
    Replace,
    /// Delete the old one, then make the new one.
    Recreate,
}

impl Target {
    /// Whether it need not be said.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl Strategy {
    /// Whether it need not be said.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Why the plan does not fit its target with these domains. The same on every backend, so that a project that was tried on one
/// machine is not refused elsewhere.
#[must_use]
pub fn unfit(plan: &Plan, domains: &[String]) -> Option<&'static str> {
    match plan.target {
        Target::ContainerApps => (plan.strategy == Strategy::Recreate).then_some(
            "strategy = \"recreate\" is for target = \"container-instances\"; with the other targets releases run beside each other",
        ),
        Target::ContainerInstances if plan.replicas.is_some_and(|replicas| replicas > 1) => {
            Some("target = \"container-instances\" runs one replica; leave `replicas` out, or use container-apps")
        }
        Target::ContainerInstances if !domains.is_empty() => Some(
            "target = \"container-instances\" has no certificates for domains of your own; use container-apps",
        ),
        Target::ContainerInstances => None,
        Target::StaticWebApps => unfit_for_a_site(plan),
    }
}

/// A site is files: what asks for a process does not fit.
fn unfit_for_a_site(plan: &Plan) -> Option<&'static str> {
    if plan.kind != Kind::Static {
        return Some("target = \"static-web-apps\" is for static sites; use container-apps for what runs");
    }
    if plan.strategy == Strategy::Recreate {
        return Some("strategy = \"recreate\" is for target = \"container-instances\"");
    }
    let process = plan.replicas.is_some() || plan.size.is_some() || plan.port.is_some();
    process.then_some(
        "target = \"static-web-apps\" runs no process; leave `replicas`, `size` and `port` out, or use container-apps",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_cannot_do_is_refused() {
        let plan =
            |target, strategy, replicas| Plan { target, strategy, replicas, ..Plan::new(Kind::Docker, None) };
        let (none, domain): (&[String], &[String]) = (&[], &["shop.example".to_owned()]);
        let (apps, groups) = (Target::ContainerApps, Target::ContainerInstances);
        let (replace, recreate) = (Strategy::Replace, Strategy::Recreate);
        for (target, strategy, replicas, domains, word) in [
            (apps, replace, Some(3), domain, None),
            (apps, recreate, None, none, Some("strategy")),
            (groups, replace, Some(1), none, None),
            (groups, recreate, None, none, None),
            (groups, replace, Some(2), none, Some("replicas")),
            (groups, replace, None, domain, Some("certificates")),
        ] {
            let why = unfit(&plan(target, strategy, replicas), domains);
            assert_eq!(why.is_some(), word.is_some(), "{why:?}");
            assert!(word.is_none_or(|word| why.unwrap().contains(word)), "{why:?}");
        }
    }

    #[test]
    fn only_plain_files_fit_a_static_web_app() {
        let site = || Plan { target: Target::StaticWebApps, ..Plan::new(Kind::Static, None) };
        assert_eq!(unfit(&site(), &["shop.example".to_owned()]), None);
        for (plan, word) in [
            (Plan { kind: Kind::Node, ..site() }, "static sites"),
            (Plan { strategy: Strategy::Recreate, ..site() }, "strategy"),
            (Plan { replicas: Some(1), ..site() }, "replicas"),
            (Plan { port: Some(8000), ..site() }, "port"),
            (Plan { size: Some(crate::deploy::size::Size::HALF), ..site() }, "size"),
        ] {
            let why = unfit(&plan, &[]).unwrap();
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(serde_json::to_value(site()).unwrap()["target"], "static-web-apps");
    }

    #[test]
    fn what_need_not_be_said_is_not_kept() {
        let usual = serde_json::to_value(Plan::new(Kind::Docker, None)).unwrap();
        assert!(usual.get("target").is_none() && usual.get("strategy").is_none());
        let plan = Plan {
            target: Target::ContainerInstances,
            strategy: Strategy::Recreate,
            ..Plan::new(Kind::Docker, None)
        };
        let kept = serde_json::to_value(&plan).unwrap();
        assert_eq!(kept["target"], "container-instances");
        assert_eq!(kept["strategy"], "recreate");
        assert_eq!(serde_json::from_value::<Plan>(kept).unwrap(), plan);
        assert_eq!(serde_json::from_value::<Plan>(usual).unwrap().target, Target::ContainerApps);
    }
}
