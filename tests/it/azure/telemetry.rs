//! What Application Insights gets to know of a deployment on Azure.

use std::collections::HashSet;

use serde_json::Value;

use super::doubles::Asked;

/// Calls to Azure's services are dependencies of the step that made them, in the trace of the request.
pub(crate) fn outbound_calls_are_dependencies(asked: &[Asked]) {
    assert!(!asked.is_empty(), "nothing was sent");
    let mut items: Vec<Value> = Vec::new();
    for asked in asked {
        assert!(asked.header("authorization").is_some_and(|value| value.starts_with("Bearer ")));
        items.extend(serde_json::from_str::<Vec<Value>>(&asked.body).unwrap());
    }
    let data =
        |item: &Value, name: &str| item["data"]["baseData"][name].as_str().unwrap_or_default().to_owned();
    let request = items.iter().find(|item| data(item, "name") == "POST /deploy").unwrap();
    let trace = &request["tags"]["ai.operation.id"];
    let ours: Vec<&Value> = items.iter().filter(|item| item["tags"]["ai.operation.id"] == *trace).collect();
    let steps: HashSet<String> = ours
        .iter()
        .filter(|item| data(item, "name").starts_with("step "))
        .map(|step| data(step, "id"))
        .collect();
    for (kind, target) in [("HTTP", "127.0.0.1"), ("Azure DocumentDB", "azure.cosmosdb")] {
        let found = ours.iter().any(|item| {
            let parent = item["tags"]["ai.operation.parentId"].as_str().unwrap_or_default();
            data(item, "type") == kind && data(item, "target") == target && steps.contains(parent)
        });
        assert!(found, "no {kind} below a step");
    }
    let claims = ours.iter().filter(|item| data(item, "name") == "cosmos batch");
    assert!(claims.count() > steps.len(), "the claims before the steps are in the trace too");
}
