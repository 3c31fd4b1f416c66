//! What the identity may do at a scope, as Azure works it out from every role that it has there and above.

use serde_json::Value;

use crate::azure::arm::{Arm, Contract};
use crate::azure::arm_error::ArmError;

/// Whether something is done to a resource, or to what is in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plane {
    /// To the resource.
    Control,
    /// To what is in it.
    Data,
}

/// Something that the service does, and the built-in role that allows it.
pub(super) struct Right {
    pub(super) role: &'static str,
    pub(super) plane: Plane,
    /// One of these is enough.
    pub(super) any: &'static [&'static str],
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

/// Roles that the identity needs at the scope and lacks; `None` when the answer does not settle it.
///
/// # Errors
/// [`ArmError`] when Azure does not say; a missing resource is one.
pub(super) async fn lacking(
    arm: &Arm,
    scope: &str,
    rights: &[Right],
) -> Result<Option<Vec<&'static str>>, ArmError> {
    let id = format!("{scope}/providers/Microsoft.Authorization/permissions");
    let found = arm.look(Contract::Permissions, &id).await?;
    let permissions = found.get("value").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let allowed = |right: &&Right| right.any.iter().any(|action| allows(permissions, right.plane, action));
    let roles: Vec<&'static str> =
        rights.iter().filter(|right| !allowed(right)).map(|right| right.role).collect();
    // What is not on this page may be on the next one.
    let goes_on = found.get("nextLink").is_some_and(|link| !link.is_null());
    Ok((roles.is_empty() || !goes_on).then_some(roles))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
