//! Asks Resource Manager, before a deployment makes anything, whether the identity may do what the deployment needs, and
//! whether the environment and the registry for it are there.
//!
//! Only what is certain ends a deployment. Who may not ask, or gets no answer in time, goes on, and the step that does it says
//! what Azure says. What was in order is not asked again for a few minutes; what was not is asked each time, so that a role
//! that was given counts at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join3;
use jiff::Timestamp;
use serde_json::Value;

use super::app_changes::environment;
use super::arm::{Arm, Contract};
use super::arm_error::ArmError;
use super::layers::obstacle_of;
use super::rights::{APPS, GROUPS, JOBS, PUSH, Right, SITES, TASKS, WRITE, is_by_repository, lacking, roles};
use crate::ambient::{Clock, after};
use crate::config::{AzureSettings, Strategy};
use crate::deploy::blobs::Blobs;
use crate::deploy::footing::{Footing, Needs, Unprepared};
use crate::deploy::target::Target;

/// How long what was in order counts as such: a look per deployment would be a call too many, and a role that is taken away
/// is told by the step that needs it.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Longest wait for one answer; the step has more to do within its minute.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a look is made with.
pub struct FootingParts {
    /// Resource Manager, for somebody who does not ask twice.
    pub arm: Arm,
    /// What everything is called, and how images are made.
    pub settings: AzureSettings,
    /// Sources: what is in them decides who builds.
    pub blobs: Arc<dyn Blobs>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// [`Footing`] on Azure.
pub struct AzureFooting {
    parts: FootingParts,
    /// Until when what was in order is not asked again. Names are those of one installation, so that there are few.
    fine: Mutex<BTreeMap<String, Timestamp>>,
}

/// Who makes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Tasks,
    Layers,
    Job,
    Group,
}

impl Maker {
    /// The one of a strategy, as far as that is certain: whether a job goes on shows when the registry refuses a task.
    fn of(strategy: &Strategy, files_are_enough: bool) -> Option<Self> {
        match strategy {
            Strategy::Layers => Some(Self::Layers),
            Strategy::Acr => Some(Self::Tasks),
            Strategy::Job(_) => Some(Self::Job),
            Strategy::Aci(_) => Some(Self::Group),
            Strategy::Auto(_) if files_are_enough => Some(Self::Layers),
            Strategy::Auto(None) => Some(Self::Tasks),
            Strategy::Auto(Some(_)) => None,
        }
    }
}

/// What is done to the resource group.
fn in_group(target: Target, maker: Option<Maker>) -> Vec<Right> {
    let runs = match target {
        Target::ContainerApps => APPS,
        Target::ContainerInstances => GROUPS,
        Target::StaticWebApps => SITES,
    };
    let builds = match maker {
        Some(Maker::Job) => Some(JOBS),
        Some(Maker::Group) => Some(GROUPS),
        Some(Maker::Tasks | Maker::Layers) | None => None,
    };
    let mut rights = vec![runs];
    rights.extend(builds.filter(|right| *right != runs));
    rights
}

fn forbidden(scope: &str, lacked: &[Right]) -> Unprepared {
    let actions: Vec<String> = lacked.iter().map(|right| right.any.join(" or ")).collect();
    let message = format!(
        "the identity of Windlass may not do {}; give it the role {} on {scope}",
        actions.join(" and "),
        roles(lacked)
    );
    Unprepared { code: "AZURE_FORBIDDEN", message }
}

/// Nobody is held up by a question without an answer.
fn unanswered(what: &str, error: &ArmError) {
    tracing::warn!(error = %error, "{what} was not looked at before the deployment; it goes on");
}

/// A look that is not waited for too long.
async fn bounded(look: impl Future<Output = Result<(), Unprepared>>) -> Result<(), Unprepared> {
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| {
        tracing::warn!("Azure did not say in time what it has for the deployment; it goes on");
        Ok(())
    })
}

impl AzureFooting {
    /// Looks with these parts.
    #[must_use]
    pub fn new(parts: FootingParts) -> Self {
        Self { parts, fine: Mutex::default() }
    }

    fn fine(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.fine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn was_fine(&self, what: &str) -> bool {
        let now = self.parts.clock.now();
        self.fine().get(what).is_some_and(|until| now < *until)
    }

    fn remember(&self, what: &str) {
        let until = after(self.parts.clock.now(), REMEMBERED);
        self.fine().insert(what.to_owned(), until);
    }

    fn absent(&self, what: &str, setting: &str) -> Unprepared {
        let group = &self.parts.settings.group;
        let message = format!(
            "there is no {what} in the resource group {group}; make it, or correct {setting} and AZURE_RESOURCE_GROUP"
        );
        Unprepared { code: "AZURE_RESOURCE_MISSING", message }
    }

    async fn maker(&self, needs: &Needs<'_>) -> Option<Maker> {
        let source = needs.source?;
        let strategy = &self.parts.settings.builder.strategy;
        let files_are_enough = match strategy {
            Strategy::Auto(_) => {
                let obstacle = obstacle_of(self.parts.blobs.as_ref(), needs.org, source, needs.plan).await;
                obstacle.ok()?.is_none()
            }
            Strategy::Layers | Strategy::Acr | Strategy::Job(_) | Strategy::Aci(_) => false,
        };
        Maker::of(strategy, files_are_enough)
    }

    /// Whether the Container Apps environment is there.
    async fn environment(&self) -> Result<(), Unprepared> {
        let name = &self.parts.settings.environment;
        let resource = environment(name);
        if self.was_fine(&resource) {
            return Ok(());
        }
        match self.parts.arm.get(Contract::ContainerApps, &resource).await {
            Ok(Some(_)) => self.remember(&resource),
            Ok(None) => {
                let what = format!("Container Apps environment {name}");
                return Err(self.absent(&what, "CONTAINER_APPS_ENVIRONMENT"));
            }
            Err(error) => unanswered("the Container Apps environment", &error),
        }
        Ok(())
    }

    /// Whether these rights are there; `what` is the name by which that is remembered.
    async fn may(&self, scope: &str, rights: &[Right], what: &str) -> Result<(), Unprepared> {
        if self.was_fine(what) {
            return Ok(());
        }
        match lacking(&self.parts.arm, scope, rights).await {
            Ok(Some(lacked)) if lacked.is_empty() => self.remember(what),
            Ok(Some(lacked)) => return Err(forbidden(scope, &lacked)),
            Ok(None) => tracing::debug!(scope, "Azure names more permissions than fit on a page"),
            Err(error) => unanswered("what the identity may do", &error),
        }
        Ok(())
    }

    async fn group(&self, target: Target, maker: Option<Maker>) -> Result<(), Unprepared> {
        let rights = in_group(target, maker);
        self.may(&self.parts.arm.scope(), &rights, &roles(&rights)).await
    }

    /// Whether the registry is there and takes what `maker` makes. With a user of its own it is none of Azure's.
    async fn registry(&self, maker: Maker) -> Result<(), Unprepared> {
        let settings = &self.parts.settings;
        let resource = format!("Microsoft.ContainerRegistry/registries/{}", settings.registry);
        let what = format!("{resource} {maker:?}");
        if settings.builder.login.is_some() || self.was_fine(&what) {
            return Ok(());
        }
        let is_ours = |found: &Value| {
            let server = found.pointer("/properties/loginServer").and_then(Value::as_str);
            server.is_some_and(|server| server.eq_ignore_ascii_case(&settings.login_server))
        };
        let right = match (maker, self.parts.arm.get(Contract::Registries, &resource).await) {
            (Maker::Tasks, Ok(None)) => {
                let what = format!("registry {}", settings.registry);
                return Err(self.absent(&what, "AZURE_CONTAINER_REGISTRY"));
            }
            (Maker::Tasks, Ok(Some(_)) | Err(_)) => TASKS,
            (Maker::Layers | Maker::Job | Maker::Group, Ok(Some(found))) if is_ours(&found) => {
                if is_by_repository(&found) {
                    WRITE
                } else {
                    PUSH
                }
            }
            // Images go to a registry of another group, which says itself what it takes.
            (Maker::Layers | Maker::Job | Maker::Group, Ok(_)) => {
                self.remember(&what);
                return Ok(());
            }
            (Maker::Layers | Maker::Job | Maker::Group, Err(error)) => {
                unanswered("the registry", &error);
                return Ok(());
            }
        };
        self.may(&self.parts.arm.id(&resource), &[right], &what).await
    }
}

#[async_trait]
impl Footing for AzureFooting {
    async fn look(&self, needs: &Needs<'_>) -> Result<(), Unprepared> {
        let (target, maker) = (needs.plan.target, self.maker(needs).await);
        let place = async {
            let is_used = target == Target::ContainerApps || maker == Some(Maker::Job);
            if is_used { self.environment().await } else { Ok(()) }
        };
        let registry = async {
            match maker {
                Some(maker) => self.registry(maker).await,
                None => Ok(()),
            }
        };
        let (place, group, registry) =
            join3(bounded(place), bounded(self.group(target, maker)), bounded(registry)).await;
        place.and(group).and(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::reference::PinnedImage;

    #[test]
    fn who_makes_an_image_is_only_said_where_it_is_certain() {
        let image: PinnedImage = format!("ghcr.io/o/kaniko@sha256:{}", "ab".repeat(32)).parse().unwrap();
        for (strategy, enough, wanted) in [
            (Strategy::Layers, false, Some(Maker::Layers)),
            (Strategy::Acr, false, Some(Maker::Tasks)),
            (Strategy::Job(image.clone()), false, Some(Maker::Job)),
            (Strategy::Aci(image.clone()), false, Some(Maker::Group)),
            (Strategy::Auto(None), true, Some(Maker::Layers)),
            (Strategy::Auto(None), false, Some(Maker::Tasks)),
            (Strategy::Auto(Some(image.clone())), true, Some(Maker::Layers)),
            (Strategy::Auto(Some(image)), false, None),
        ] {
            assert_eq!(Maker::of(&strategy, enough), wanted, "{strategy:?} {enough}");
        }
    }

    #[test]
    fn each_target_and_maker_needs_its_own_rights_in_the_group() {
        let (apps, groups) = (Target::ContainerApps, Target::ContainerInstances);
        for (target, maker, wanted) in [
            (apps, None, &[APPS][..]),
            (apps, Some(Maker::Tasks), &[APPS][..]),
            (apps, Some(Maker::Job), &[APPS, JOBS][..]),
            (apps, Some(Maker::Group), &[APPS, GROUPS][..]),
            (groups, Some(Maker::Layers), &[GROUPS][..]),
            (groups, Some(Maker::Group), &[GROUPS][..]),
            (Target::StaticWebApps, Some(Maker::Layers), &[SITES][..]),
        ] {
            assert_eq!(in_group(target, maker), wanted, "{target:?} {maker:?}");
        }
    }

    #[test]
    fn a_missing_right_is_told_with_its_role_and_scope() {
        let told = forbidden("/subscriptions/s/resourceGroups/g", &[APPS, JOBS]);
        assert_eq!(told.code, "AZURE_FORBIDDEN");
        assert_eq!(
            told.to_string(),
            "the identity of Windlass may not do Microsoft.App/containerApps/write and Microsoft.App/jobs/write; \
             give it the role Container Apps Contributor and Container Apps Jobs Contributor on /subscriptions/s/resourceGroups/g"
        );
    }
}
