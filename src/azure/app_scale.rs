//! How many replicas an app may have and when one is added: as Container Apps takes it, and as it says it again. Pure: no
//! calls here.

use serde_json::{Value, json};

use crate::deploy::size::Replicas;

/// Replicas of a revision that says no upper bound (`Scale.maxReplicas` of the contract).
const UNSAID_MOST: u64 = 10;

/// The scale of a revision.
pub(super) fn scale(replicas: Replicas) -> Value {
    json!({ "minReplicas": replicas.min, "maxReplicas": replicas.max, "rules": rules(replicas) })
}

/// When replicas are added. Load of the processor cannot bring an app back from none.
fn rules(replicas: Replicas) -> Vec<Value> {
    let http = json!({ "name": "http-scaling", "http": { "metadata": { "concurrentRequests": "100" } } });
    let cpu = json!({
        "name": "cpu-scaling",
        "custom": { "type": "cpu", "metadata": { "type": "Utilization", "value": "70" } },
    });
    if replicas.min > 0 { vec![http, cpu] } else { vec![http] }
}

/// How the revision scales, where that is not what was asked for; none also where it does not say how.
pub(super) fn unlike(asked: Replicas, revision: &Value) -> Option<String> {
    let found = revision.pointer("/properties/template/scale").filter(|scale| scale.is_object())?;
    let (found, asked) = (told(found), told(&scale(asked)));
    (found != asked).then(|| format!("the revision scales from {found}; asked for was {asked}"))
}

/// A scale as a person reads it, and as two of them are compared.
fn told(scale: &Value) -> String {
    let bound = |name: &str, unsaid: u64| scale.get(name).and_then(Value::as_u64).unwrap_or(unsaid);
    let rules = scale.get("rules").and_then(Value::as_array).into_iter().flatten();
    let mut names: Vec<&str> = rules.filter_map(|rule| rule.get("name")?.as_str()).collect();
    names.sort_unstable();
    let by = if names.is_empty() { "no rule".to_owned() } else { names.join(" and ") };
    format!("{} to {} replicas by {by}", bound("minReplicas", 0), bound("maxReplicas", UNSAID_MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_adds_replicas_and_a_sleeping_app_is_woken_by_requests_only() {
        let awake = rules(Replicas { min: 2, max: 10 });
        assert_eq!(awake[0].pointer("/http/metadata/concurrentRequests").unwrap(), "100");
        assert_eq!(awake[1].pointer("/custom/metadata/value").unwrap(), "70");
        assert_eq!(
            awake.iter().map(|rule| rule["name"].as_str().unwrap()).collect::<Vec<_>>(),
            ["http-scaling", "cpu-scaling"]
        );
        assert_eq!(rules(Replicas { min: 0, max: 2 }).len(), 1);
    }

    #[test]
    fn a_scale_is_like_the_one_that_was_asked_for_or_says_how_it_differs() {
        let of = |scale: Value| json!({ "properties": { "template": { "scale": scale } } });
        let asked = Replicas { min: 0, max: 10 };
        let rule = json!([{ "name": "http-scaling" }]);
        for like in [
            scale(asked),
            json!({ "minReplicas": null, "maxReplicas": null, "rules": rule }),
            json!({ "rules": rule, "cooldownPeriod": 300 }),
            Value::Null,
        ] {
            assert_eq!(unlike(asked, &of(like.clone())), None, "{like}");
        }
        assert_eq!(unlike(asked, &json!({ "properties": {} })), None);
        for (other, says) in [
            (json!({ "minReplicas": 0, "maxReplicas": 10 }), "0 to 10 replicas by no rule; asked"),
            (json!({ "maxReplicas": 1, "rules": rule }), "0 to 1 replicas by http-scaling; asked"),
            (scale(Replicas { min: 2, max: 10 }), "2 to 10 replicas by cpu-scaling and http-scaling; asked"),
        ] {
            let said = unlike(asked, &of(other)).unwrap();
            assert!(said.contains(says) && said.ends_with("0 to 10 replicas by http-scaling"), "{said}");
        }
    }
}
