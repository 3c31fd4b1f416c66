//! Whether the registry is there, and whether the identity may do there what the builders do.

use serde_json::Value;

use super::Doctor;
use super::services::TERRAFORM;
use super::trouble::{Place, Trouble};
use crate::api::finding::{Finding, State};
use crate::azure::arm::Contract;
use crate::azure::rights::{PUSH, Right, TASKS, WRITE, is_by_repository};
use crate::config::Strategy;

const NAME: &str = "registry";
/// How the quota ids of free offers begin; ACR Tasks are paused for them (Microsoft Learn, "ACR Tasks overview").
const FREE_OFFERS: [&str; 3] = ["FreeTrial", "AzureForStudents", "AzurePass"];

/// What images are made with: by tasks the registry itself pushes, all others push by themselves.
fn rights(strategy: &Strategy, by_repository: bool) -> &'static [Right] {
    match (strategy, by_repository) {
        (Strategy::Acr, _) => &[TASKS],
        (Strategy::Auto(_), false) => &[TASKS, PUSH],
        (Strategy::Auto(_), true) => &[TASKS, WRITE],
        (Strategy::Layers | Strategy::Job(_) | Strategy::Aci(_), false) => &[PUSH],
        (Strategy::Layers | Strategy::Job(_) | Strategy::Aci(_), true) => &[WRITE],
    }
}

impl Doctor<'_> {
    pub(super) async fn registry(&self) -> Vec<Finding> {
        let name = &self.settings.registry;
        if self.settings.builder.login.is_some() {
            let seen = "not looked at: WINDLASS_REGISTRY_USER signs in to a registry that is none of Azure's";
            return vec![Finding::absent(NAME, seen)];
        }
        let place = Place {
            name: NAME,
            setting: "AZURE_CONTAINER_REGISTRY",
            role: "Reader",
            scope: self.arm.id(&format!("Microsoft.ContainerRegistry/registries/{name}")),
            make: format!("make the registry {name}: {TERRAFORM}"),
        };
        let found = match self.arm.look(Contract::Registries, &place.scope).await {
            Ok(found) => found,
            Err(error) => return vec![self.failed(&place, &Trouble::of(&error))],
        };
        let text = |name: &str| {
            found.pointer(&format!("/properties/{name}")).and_then(Value::as_str).unwrap_or_default()
        };
        let (server, wanted) = (text("loginServer"), &self.settings.login_server);
        if !server.eq_ignore_ascii_case(wanted) {
            let seen = format!("{name} answers on {server}, Windlass uses {wanted}");
            return vec![Finding::failed(NAME, seen, format!("set ACR_LOGIN_SERVER={server}"))];
        }
        let by_repository = is_by_repository(&found);
        let strategy = &self.settings.builder.strategy;
        let row = self.with_rights(&place, server.to_owned(), rights(strategy, by_repository)).await;
        let tasks = match strategy {
            Strategy::Acr | Strategy::Auto(_) if row.state == State::Ok => {
                self.tasks(server, by_repository).await
            }
            Strategy::Acr if by_repository => self.tasks(server, by_repository).await,
            Strategy::Auto(_) | Strategy::Acr | Strategy::Layers | Strategy::Job(_) | Strategy::Aci(_) => {
                None
            }
        };
        vec![tasks.unwrap_or(row)]
    }

    /// The row of a registry that does not run tasks, or whose tasks cannot push, as far as that can be known before.
    async fn tasks(&self, server: &str, by_repository: bool) -> Option<Finding> {
        let strategy = &self.settings.builder.strategy;
        if by_repository {
            let seen =
                format!("{server} gives roles by repository (ABAC); builds by ACR Tasks may not push there");
            let next = format!(
                "az acr update --name {} --role-assignment-mode rbac, or WINDLASS_BUILDER=job with WINDLASS_KANIKO_IMAGE",
                self.settings.registry
            );
            return Some(match strategy {
                Strategy::Acr => Finding::failed(NAME, seen, next),
                Strategy::Auto(_) | Strategy::Layers | Strategy::Job(_) | Strategy::Aci(_) => {
                    Finding::warn(NAME, seen, next)
                }
            });
        }
        if matches!(strategy, Strategy::Auto(Some(_))) {
            return None;
        }
        let subscription = self.subscribed().await.ok()?;
        let quota = subscription.pointer("/subscriptionPolicies/quotaId")?.as_str()?;
        let free = FREE_OFFERS.iter().any(|offer| quota.starts_with(offer));
        let seen = format!(
            "{server}; the subscription is a free one ({quota}), for which ACR Tasks are usually paused"
        );
        let next = "if builds end with TasksOperationsNotAllowed, set WINDLASS_KANIKO_IMAGE and leave WINDLASS_BUILDER at auto, or upgrade the subscription";
        free.then(|| Finding::warn(NAME, seen, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::reference::PinnedImage;

    #[test]
    fn each_way_of_making_images_needs_its_own_roles() {
        let image: PinnedImage = format!("ghcr.io/o/kaniko@sha256:{}", "ab".repeat(32)).parse().unwrap();
        let roles = |strategy: &Strategy, by_repository| {
            rights(strategy, by_repository).iter().map(|right| right.role).collect::<Vec<_>>()
        };
        for (strategy, by_repository, wanted) in [
            (Strategy::Acr, false, &[TASKS.role][..]),
            (Strategy::Auto(None), false, &[TASKS.role, PUSH.role][..]),
            (Strategy::Auto(None), true, &[TASKS.role, WRITE.role][..]),
            (Strategy::Layers, false, &[PUSH.role][..]),
            (Strategy::Job(image.clone()), false, &[PUSH.role][..]),
            (Strategy::Aci(image), true, &[WRITE.role][..]),
        ] {
            assert_eq!(roles(&strategy, by_repository), wanted, "{strategy:?}");
        }
    }
}
