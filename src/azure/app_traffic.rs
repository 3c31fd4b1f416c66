//! Which revisions of a container app have its traffic, and at which port: both are the app's, and change together.

use serde_json::{Value, json};

use super::app_body::{port, said_again, text};
use crate::deploy::release::Release;

/// The traffic of an app by the names of its revisions, so that a new one gets none of it, also where somebody has split it
/// by hand; none while no revision was ever ready.
pub(super) fn kept(app: &Value) -> Option<Vec<Value>> {
    let ready =
        app.pointer("/properties/latestReadyRevisionName").and_then(Value::as_str).unwrap_or_default();
    let named = |entry: &Value| {
        let is_newest = entry.get("latestRevision") == Some(&Value::Bool(true));
        let name = if is_newest { ready } else { text(entry, "/revisionName") };
        let mut named = said_again(entry);
        named["revisionName"] = json!(name);
        if let Some(members) = named.as_object_mut() {
            members.remove("latestRevision");
        }
        (!name.is_empty()).then_some(named)
    };
    let traffic = app.pointer("/properties/configuration/ingress/traffic")?.as_array()?;
    let kept: Vec<Value> = traffic.iter().map(named).collect::<Option<_>>()?;
    (!kept.is_empty()).then_some(kept)
}

/// Where the app's traffic goes to in its revision.
pub(super) fn target_port(app: &Value) -> Option<u64> {
    let port = app.pointer("/properties/configuration/ingress/targetPort").and_then(Value::as_u64);
    port.filter(|port| *port > 0)
}

/// The ingress that gives the release all the traffic, at its own port; none when it has that already.
pub(super) fn moved(app: &Value, release: &Release, revision: &str) -> Option<Value> {
    let traffic = json!([{ "revisionName": revision, "weight": 100 }]);
    let has_all = app.pointer("/properties/configuration/ingress/traffic") == Some(&traffic);
    let is_there = has_all && target_port(app) == Some(u64::from(port(release)));
    (!is_there).then(|| json!({ "targetPort": port(release), "traffic": traffic }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_revision_gets_no_traffic_of_those_that_have_it() {
        let app = |ready: &str, traffic: Value| json!({ "properties": { "latestReadyRevisionName": ready, "configuration": { "ingress": { "traffic": traffic } } } });
        let split = json!([{ "revisionName": "a--r1", "weight": 80 }, { "latestRevision": true, "weight": 20, "label": "new" }]);
        let wanted = [
            json!({ "revisionName": "a--r1", "weight": 80 }),
            json!({ "revisionName": "a--r2", "weight": 20, "label": "new" }),
        ];
        assert_eq!(kept(&app("a--r2", split)).unwrap(), wanted);
        assert_eq!(kept(&app("", json!([{ "latestRevision": true, "weight": 100 }]))), None);
        assert_eq!(kept(&app("a--r1", json!([]))), None);
    }
}
