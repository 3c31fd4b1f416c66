//! Checks requests and answers against Microsoft's `OpenAPI` files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Levels of nested schemas; the files refer to themselves in places.
const DEEPEST: usize = 24;

/// The operations of some files.
pub(crate) struct Contract {
    operations: Vec<Operation>,
}

struct Operation {
    method: String,
    template: String,
    version: String,
    /// Names of what may stand in the query.
    queries: Vec<String>,
    body: Option<jsonschema::Validator>,
    body_required: bool,
    answers: BTreeMap<String, Option<jsonschema::Validator>>,
}

/// Which side a schema is for: what may only be read must not be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Answer,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/azure/specs")
}

fn load(path: &Path) -> Value {
    let mut file = read(path);
    // What a later version adds, where its own files are not here.
    let later = path.with_file_name("later.json");
    if later.exists() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let later = read(&later);
        file["info"]["version"] = later["version"].clone();
        for (pointer, added) in later[name].as_object().into_iter().flatten() {
            let target = file.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
            target.extend(added.as_object().unwrap().clone());
        }
    }
    file
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}")))
        .unwrap()
}

/// The target of a reference and the file it is in.
fn target(file: &Path, reference: &str) -> (PathBuf, Value) {
    let (other, pointer) = reference.split_once('#').unwrap();
    let file = if other.is_empty() { file.to_owned() } else { file.parent().unwrap().join(other) };
    let value = load(&file).pointer(pointer).unwrap_or_else(|| panic!("{reference}")).clone();
    (file, value)
}

/// A schema without references, with its parents' properties, and closed in requests.
fn resolve(file: &Path, schema: &Value, side: Side, depth: usize) -> Value {
    if depth == DEEPEST {
        return json!({});
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let (file, found) = target(file, reference);
        if found.get("discriminator").is_some() {
            return any_kind(&file, reference, side, depth + 1);
        }
        return resolve(&file, &found, side, depth + 1);
    }
    let mut plain = Map::new();
    for key in ["type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern"] {
        if let Some(value) = schema.get(key) {
            plain.insert(key.to_owned(), value.clone());
        }
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for parent in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        let (file, parent) = match parent.get("$ref").and_then(Value::as_str) {
            Some(reference) => target(file, reference),
            None => (file.to_owned(), parent.clone()),
        };
        let parent = resolve(&file, &parent, side, depth + 1);
        properties.extend(parent["properties"].as_object().cloned().unwrap_or_default());
        required.extend(parent["required"].as_array().cloned().unwrap_or_default());
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if side == Side::Request && property.get("readOnly") == Some(&json!(true)) {
            continue;
        }
        properties.insert(name.clone(), resolve(file, property, side, depth + 1));
    }
    required.extend(schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default());
    required.retain(|name| properties.contains_key(name.as_str().unwrap()));
    required.sort_by_key(Value::to_string);
    required.dedup();
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        plain.insert("additionalProperties".to_owned(), resolve(file, values, side, depth + 1));
    } else if !properties.is_empty() && side == Side::Request {
        plain.insert("additionalProperties".to_owned(), json!(false));
    }
    if let Some(items) = schema.get("items") {
        plain.insert("items".to_owned(), resolve(file, items, side, depth + 1));
    }
    if !properties.is_empty() {
        plain.insert("properties".to_owned(), Value::Object(properties));
    }
    if !required.is_empty() {
        plain.insert("required".to_owned(), Value::Array(required));
    }
    Value::Object(plain)
}

/// A schema that stands for the kinds that say they are one of it.
fn any_kind(file: &Path, reference: &str, side: Side, depth: usize) -> Value {
    let name = reference.rsplit('/').next().unwrap();
    let definitions = load(file)["definitions"].as_object().unwrap().clone();
    let is_kind = |schema: &Value| {
        let parents = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
        parents
            .filter_map(|parent| parent["$ref"].as_str())
            .any(|parent| parent.ends_with(&format!("/{name}")))
    };
    let kinds = definitions.values().filter(|schema| is_kind(schema));
    json!({ "anyOf": kinds.map(|kind| resolve(file, kind, side, depth + 1)).collect::<Vec<_>>() })
}

fn validator(file: &Path, schema: &Value, side: Side) -> jsonschema::Validator {
    jsonschema::validator_for(&resolve(file, schema, side, 0))
        .unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

fn operation(file: &Path, version: &str, (template, method): (&str, &str), operation: &Value) -> Operation {
    let parameters: Vec<Value> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|parameter| match parameter.get("$ref").and_then(Value::as_str) {
            Some(reference) => target(file, reference).1,
            None => parameter.clone(),
        })
        .collect();
    let body = parameters.iter().find(|parameter| parameter["in"] == "body");
    let queries = parameters.iter().filter(|parameter| parameter["in"] == "query");
    let answers = operation["responses"].as_object().unwrap().iter().map(|(status, answer)| {
        (status.clone(), answer.get("schema").map(|schema| validator(file, schema, Side::Answer)))
    });
    Operation {
        method: method.to_uppercase(),
        template: template.to_owned(),
        version: version.to_owned(),
        queries: queries.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect(),
        body: body.map(|body| validator(file, &body["schema"], Side::Request)),
        body_required: body.is_some_and(|body| body["required"] == true),
        answers: answers.collect(),
    }
}

fn fits(template: &str, path: &str) -> bool {
    // Of what lies in a group, this part is empty.
    let template = template.replace("/{parentResourcePath}", "");
    let (template, path): (Vec<&str>, Vec<&str>) =
        (template.trim_matches('/').split('/').collect(), path.trim_matches('/').split('/').collect());
    template.len() == path.len()
        && template
            .iter()
            .zip(path)
            .all(|(wanted, given)| wanted.starts_with('{') || wanted.eq_ignore_ascii_case(given))
}

fn complaints(validator: &jsonschema::Validator, value: &Value) -> Result<(), String> {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{} at {}", error, error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

impl Contract {
    /// The contract of these files below `specs`.
    pub(crate) fn of(files: &[&str]) -> Self {
        let mut operations = Vec::new();
        for name in files {
            let file = folder().join(name);
            let contract = load(&file);
            let version = contract["info"]["version"].as_str().unwrap();
            for (template, methods) in contract["paths"].as_object().unwrap() {
                for (method, told) in methods.as_object().unwrap() {
                    operations.push(operation(&file, version, (template, method), told));
                }
            }
        }
        Self { operations }
    }

    /// Whether the request is one that the contract allows; gives its operation.
    pub(crate) fn request(&self, method: &str, path: &str, query: &str, body: &str) -> Result<usize, String> {
        let found = self
            .operations
            .iter()
            .position(|operation| operation.method == method && fits(&operation.template, path))
            .ok_or_else(|| format!("{method} {path} is no operation"))?;
        let operation = &self.operations[found];
        let asked: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let versions: Vec<&str> =
            asked.iter().filter(|(name, _)| *name == "api-version").map(|(_, value)| *value).collect();
        if versions != [operation.version.as_str()] {
            return Err(format!("the query `{query}` is not api-version={}", operation.version));
        }
        if let Some((name, _)) =
            asked.iter().find(|(name, _)| !operation.queries.iter().any(|known| known == name))
        {
            return Err(format!("`{name}` is no parameter of {method} {}", operation.template));
        }
        match (&operation.body, body.is_empty()) {
            (None, true) => Ok(found),
            (None, false) => Err("this operation takes no body".to_owned()),
            (Some(_), true) if operation.body_required => Err("this operation needs a body".to_owned()),
            (Some(_), true) => Ok(found),
            (Some(schema), false) => {
                let body = serde_json::from_str(body).map_err(|error| error.to_string())?;
                complaints(schema, &body).map(|()| found)
            }
        }
    }

    /// Whether the answer is one that the contract allows.
    pub(crate) fn answer(&self, operation: usize, status: u16, body: &str) -> Result<(), String> {
        let operation = &self.operations[operation];
        let told = operation.answers.get(&status.to_string());
        let told = told.or_else(|| operation.answers.get("default").filter(|_| status >= 400));
        match told {
            None => Err(format!("{status} is no answer of {} {}", operation.method, operation.template)),
            Some(Some(schema)) if !body.is_empty() => {
                complaints(schema, &serde_json::from_str(body).map_err(|error| error.to_string())?)
            }
            Some(_) => Ok(()),
        }
    }
}
