//! What the identity may do at a scope, as Azure works it out from every role that it has there and above.
//!
//! What deployments need is listed here once: for `doctor`, and for the look before a deployment begins.

use serde_json::Value;

use super::arm::{Arm, Contract};
use super::arm_error::ArmError;

/// Whether something is done to a resource, or to what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    /// To the resource.
    Control,
    /// To what is in it.
    Data,
}

/// Something that the service does, and the built-in role that allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Right {
    pub(super) role: &'static str,
    pub(super) plane: Plane,
    /// One of these is enough.
    pub(super) any: &'static [&'static str],
}

/// Apps on Container Apps.
pub(super) const APPS: Right = Right {
    role: "Container Apps Contributor",
    plane: Plane::Control,
    any: &["Microsoft.App/containerApps/write"],
};
/// Builds in jobs.
pub(super) const JOBS: Right = Right {
    role: "Container Apps Jobs Contributor",
    plane: Plane::Control,
    any: &["Microsoft.App/jobs/write"],
};
/// Apps and builds in container groups.
pub(super) const GROUPS: Right = Right {
    role: "Azure Container Instances Contributor Role",
    plane: Plane::Control,
    any: &["Microsoft.ContainerInstance/containerGroups/write"],
};
/// Static sites. No built-in role has no more than this.
pub(super) const SITES: Right = Right {
    role: "Windlass Static Web Apps (made by infra/terraform/staticsites.tf)",
    plane: Plane::Control,
    any: &["Microsoft.Web/staticSites/write"],
};
/// Builds by the registry.
pub(super) const TASKS: Right = Right {
    role: "Container Registry Tasks Contributor",
    plane: Plane::Control,
    any: &["Microsoft.ContainerRegistry/registries/scheduleRun/action"],
};
/// Images that are not made by the registry.
pub(super) const PUSH: Right = Right {
    role: "AcrPush",
    plane: Plane::Control,
    any: &["Microsoft.ContainerRegistry/registries/push/write"],
};
/// In place of [`PUSH`], where a registry gives roles by repository.
pub(super) const WRITE: Right = Right {
    role: "Container Registry Repository Writer",
    plane: Plane::Data,
    any: &["Microsoft.ContainerRegistry/registries/repositories/content/write"],
};

/// Whether a registry, as Resource Manager shows it, gives roles by repository.
pub(super) fn is_by_repository(registry: &Value) -> bool {
    let mode = registry.pointer("/properties/roleAssignmentMode").and_then(Value::as_str);
    mode == Some("AbacRepositoryPermissions")
}

/// The roles of these rights, as a sentence names them.
pub(super) fn roles(rights: &[Right]) -> String {
    let roles: Vec<&str> = rights.iter().map(|right| right.role).collect();
    roles.join(" and ")
}

/// Whether an action is one of a pattern, in which `*` stands for anything.
fn fits(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == action };
    let Some(mut left) = action.strip_prefix(first) else { return false };
    let mut pieces = rest.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return left.ends_with(piece);
        }
        let Some((_, after)) = left.split_once(piece) else { return false };
        left = after;
    }
    true
}

/// Whether one of the permissions allows the action; each is what one role gives.
fn allows(permissions: &[Value], plane: Plane, action: &str) -> bool {
    let (yes, no) = match plane {
        Plane::Control => ("actions", "notActions"),
        Plane::Data => ("dataActions", "notDataActions"),
    };
    let named = |permission: &Value, list: &str| {
        let patterns = permission.get(list).and_then(Value::as_array).into_iter().flatten();
        patterns.filter_map(Value::as_str).any(|pattern| fits(pattern, action))
    };
    permissions.iter().any(|permission| named(permission, yes) && !named(permission, no))
}

/// Rights that the identity needs at the scope and lacks; `None` when the answer does not settle it.
///
/// # Errors
/// [`ArmError`] when Azure does not say; a missing resource is one.
pub(super) async fn lacking(
    arm: &Arm,
    scope: &str,
    rights: &[Right],
) -> Result<Option<Vec<Right>>, ArmError> {
    let id = format!("{scope}/providers/Microsoft.Authorization/permissions");
    let found = arm.look(Contract::Permissions, &id).await?;
    let permissions = found.get("value").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let allowed = |right: &&Right| right.any.iter().any(|action| allows(permissions, right.plane, action));
    let lacked: Vec<Right> = rights.iter().filter(|right| !allowed(right)).copied().collect();
    // What is not on this page may be on the next one.
    let goes_on = found.get("nextLink").is_some_and(|link| !link.is_null());
    Ok((lacked.is_empty() || !goes_on).then_some(lacked))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The same by trying every length that a star can have.
    fn fits_slowly(pattern: &[u8], action: &[u8]) -> bool {
        match pattern.split_first() {
            None => action.is_empty(),
            Some((b'*', rest)) => (0..=action.len()).any(|from| fits_slowly(rest, &action[from..])),
            Some((first, rest)) => action
                .split_first()
                .is_some_and(|(one, others)| one.eq_ignore_ascii_case(first) && fits_slowly(rest, others)),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_its_stars_can_stand_for(pattern in "[aB/*]{0,7}", action in "[Ab/]{0,9}") {
            prop_assert_eq!(fits(&pattern, &action), fits_slowly(pattern.as_bytes(), action.as_bytes()));
        }

        #[test]
        fn what_a_star_takes_the_place_of_still_fits(
            action in "[A-Za-z]{1,6}(/[A-Za-z]{1,6}){1,4}",
            from in 0_usize..40,
            most in 0_usize..40,
        ) {
            let from = from.min(action.len());
            let to = (from + most).min(action.len());
            let pattern = format!("{}*{}", &action[..from], &action[to..]);
            prop_assert!(fits(&pattern, &action.to_ascii_uppercase()), "{pattern} {action}");
            let (role, denied) = (json!({ "actions": [pattern] }), json!({ "actions": ["*"], "notActions": [pattern] }));
            prop_assert!(allows(&[role], Plane::Control, &action));
            prop_assert!(!allows(&[denied], Plane::Control, &action));
        }
    }

    #[test]
    fn patterns_have_stars() {
        for (pattern, action, wanted) in [
            ("*", "Microsoft.App/containerApps/write", true),
            (
                "Microsoft.ServiceBus/*/send/action",
                "Microsoft.ServiceBus/namespaces/messages/send/action",
                true,
            ),
            (
                "Microsoft.ServiceBus/*/send/action",
                "Microsoft.ServiceBus/namespaces/messages/receive/action",
                false,
            ),
            ("*/read", "microsoft.app/CONTAINERAPPS/READ", true),
            ("*/read", "Microsoft.App/containerApps/write", false),
            ("Microsoft.App/containerApps/write", "Microsoft.App/containerApps/write", true),
            ("Microsoft.App/*/b/*/d", "Microsoft.App/a/b/c/d", true),
            ("Microsoft.App/*/b/*/d", "Microsoft.App/a/b/d", false),
        ] {
            assert_eq!(fits(pattern, action), wanted, "{pattern} {action}");
        }
    }

    #[test]
    fn what_one_role_excludes_another_may_give() {
        let one = json!({ "actions": ["*"], "notActions": ["Microsoft.App/*/write"] });
        let other = json!({ "actions": ["Microsoft.App/*"], "dataActions": ["x/read"] });
        let write = |roles: &[Value]| allows(roles, Plane::Control, "Microsoft.App/containerApps/write");
        assert!(!write(std::slice::from_ref(&one)));
        assert!(write(&[one, other.clone()]));
        assert!(allows(std::slice::from_ref(&other), Plane::Data, "x/read"));
        assert!(!allows(&[other], Plane::Control, "x/read"));
    }
}
