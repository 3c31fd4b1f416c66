//! What somebody asks for with a deployment, read from JSON and checked completely.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::{Commit, Digest, Name};
use super::secrets::Sealed;
use super::size::Size;

/// Environment variables of one deployment at most.
const MOST_VARIABLES: usize = 256;
/// Bytes of one value: Key Vault keeps 25 KB in a secret ("About Azure Key Vault secrets").
const MOST_VARIABLE_BYTES: usize = 24 * 1024;
/// Names and values of an environment together. Sealed they are twice as large, and a change of a live release writes
/// them twice with one batch of Cosmos DB, which takes 2 MB.
const MOST_ENVIRONMENT_BYTES: usize = 128 * 1024;
/// Longest command line and longest project name.
const MOST_COMMAND_BYTES: usize = 8 * 1024;
const MOST_TITLE_CHARS: usize = 200;
/// Fields of the documents' request, and two that are ours: `source` and `commitSha`.
const FIELDS: [&str; 12] = [
    "projectId",
    "userId",
    "organizationId",
    "projectName",
    "environment",
    "customDomain",
    "containerSize",
    "envVariables",
    "buildCommand",
    "startCommand",
    "source",
    "commitSha",
];

/// Where a release lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Environment {
    /// For the one who writes it.
    Development,
    /// For those who test it.
    Staging,
    /// For those who use it.
    Production,
    /// One of many: `preview` or `preview-<name>`.
    Preview(String),
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Development => f.write_str("development"),
            Self::Staging => f.write_str("staging"),
            Self::Production => f.write_str("production"),
            Self::Preview(name) if name.is_empty() => f.write_str("preview"),
            Self::Preview(name) => write!(f, "preview-{name}"),
        }
    }
}

impl FromStr for Environment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |name: &str| {
            !name.is_empty()
                && name.len() <= 20
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        match text {
            "development" => Ok(Self::Development),
            "staging" => Ok(Self::Staging),
            "production" => Ok(Self::Production),
            "preview" => Ok(Self::Preview(String::new())),
            _ => match text.strip_prefix("preview-") {
                Some(name) if plain(name) => Ok(Self::Preview(name.to_owned())),
                _ => Err(format!(
                    "`{text}` is no environment; use development, staging, production, preview or preview-<name>"
                )),
            },
        }
    }
}

impl Serialize for Environment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Environment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a deployment is to make live.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wish {
    /// The organization that owns the project.
    pub org: Name,
    /// Who asks.
    pub user: Name,
    /// The project.
    pub project: Name,
    /// The project's name for people.
    pub title: String,
    /// Where it is to live.
    pub environment: Environment,
    /// A host name of its own, as DNS writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Instead of the environment's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// For the running app only; sealed.
    #[serde(default)]
    pub env: BTreeMap<String, Sealed>,
    /// Instead of the detected build command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Instead of the detected start command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The source's digest; without it the newest uploaded one of the project, or the starter page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
    /// The commit that was checked out where the source was read; told on, never used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

impl Wish {
    /// The app that the deployment changes: one per organization, project and environment.
    #[must_use]
    pub fn app(&self) -> String {
        format!("{}/{}/{}", self.org, self.project, self.environment)
    }
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer to the field.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Reads a request body of the documents' shape. `seal` seals each value of `envVariables`.
///
/// # Errors
/// Every problem of the body at once.
pub fn parse(body: &Value, seal: &dyn Fn(&str) -> Sealed) -> Result<Wish, Vec<FieldError>> {
    let Some(fields) = body.as_object() else {
        return Err(vec![FieldError {
            pointer: String::new(),
            message: "the body has to be a JSON object".to_owned(),
        }]);
    };
    let mut form = Form { fields, errors: Vec::new() };
    form.refuse_unknown();
    let org = form.required("organizationId", |text| text.parse::<Name>().map_err(|bad| bad.to_string()));
    let user = form.required("userId", |text| text.parse::<Name>().map_err(|bad| bad.to_string()));
    let project = form.required("projectId", |text| text.parse::<Name>().map_err(|bad| bad.to_string()));
    let title = form.required("projectName", title);
    let environment = form.required("environment", Environment::from_str);
    let domain = form.optional("customDomain", domain);
    let size = form.size();
    let env = form.variables(seal);
    let build = form.optional("buildCommand", command);
    let start = form.optional("startCommand", command);
    let source = form.optional("source", |text| text.parse::<Digest>().map_err(|bad| bad.to_string()));
    let commit = form.optional("commitSha", |text| text.parse::<Commit>().map_err(|bad| bad.to_string()));
    match (org, user, project, title, environment) {
        (Some(org), Some(user), Some(project), Some(title), Some(environment)) if form.errors.is_empty() => {
            Ok(Wish {
                org,
                user,
                project,
                title,
                environment,
                domain,
                size,
                env,
                build,
                start,
                source,
                commit,
            })
        }
        _ => Err(form.errors),
    }
}

struct Form<'a> {
    fields: &'a Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Form<'_> {
    fn refuse(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError { pointer: pointer.into(), message: message.into() });
    }

    fn refuse_unknown(&mut self) {
        let unknown: Vec<_> =
            self.fields.keys().filter(|key| !FIELDS.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            self.refuse(
                format!("/{}", key.replace('~', "~0").replace('/', "~1")),
                format!("unknown field; known are {}", FIELDS.join(", ")),
            );
        }
    }

    fn required<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if matches!(self.fields.get(key), None | Some(Value::Null)) {
            self.refuse(format!("/{key}"), "is missing");
            return None;
        }
        self.optional(key, read)
    }

    fn optional<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = match self.fields.get(key) {
            None | Some(Value::Null) => return None,
            Some(value) => value,
        };
        match value.as_str().map_or_else(|| Err("has to be text".to_owned()), read) {
            Ok(value) => Some(value),
            Err(message) => {
                self.refuse(format!("/{key}"), message);
                None
            }
        }
    }

    fn size(&mut self) -> Option<Size> {
        let size = match self.fields.get("containerSize") {
            None | Some(Value::Null) => return None,
            Some(size) => size,
        };
        let part = |key: &str| size.get(key).and_then(Value::as_str);
        match (part("cpu"), part("memory")) {
            (Some(cpu), Some(memory)) => match Size::parse(cpu, memory) {
                Ok(size) => Some(size),
                Err(bad) => {
                    self.refuse("/containerSize", bad.to_string());
                    None
                }
            },
            _ => {
                self.refuse("/containerSize", "needs the texts cpu and memory, such as \"1\" and \"2Gi\"");
                None
            }
        }
    }

    fn variables(&mut self, seal: &dyn Fn(&str) -> Sealed) -> BTreeMap<String, Sealed> {
        let mut variables = BTreeMap::new();
        let given = match self.fields.get("envVariables") {
            None | Some(Value::Null) => return variables,
            Some(Value::Object(given)) => given,
            Some(_) => {
                self.refuse("/envVariables", "has to be an object of texts");
                return variables;
            }
        };
        if given.len() > MOST_VARIABLES {
            self.refuse("/envVariables", format!("at most {MOST_VARIABLES} variables"));
        }
        let length = |value: &Value| value.as_str().map_or(0, str::len);
        if let Err(problem) = fits(given.iter().map(|(name, value)| name.len() + length(value)).sum()) {
            self.refuse("/envVariables", problem);
        }
        for (name, value) in given {
            let pointer = format!("/envVariables/{}", token(name));
            let value = value.as_str().ok_or(NO_VALUE);
            let checked =
                value.and_then(|value| variable(name, value).and_then(|()| not_ours(name)).map(|()| value));
            match checked {
                Ok(value) => drop(variables.insert(name.clone(), seal(value))),
                Err(problem) => self.refuse(pointer, problem),
            }
        }
        variables
    }
}

const NO_VALUE: &str = "has to be text of at most 24576 bytes without NUL";

/// Checks an environment variable.
///
/// # Errors
/// What is wrong with it.
pub(super) fn variable(name: &str, value: &str) -> Result<(), &'static str> {
    let well_named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !well_named {
        return Err("has to be named with letters, digits and _, and not begin with a digit");
    }
    if value.len() > MOST_VARIABLE_BYTES || value.contains('\0') { Err(NO_VALUE) } else { Ok(()) }
}

/// A name as a part of a JSON pointer (RFC 6901, section 3).
#[must_use]
pub fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Refuses a variable of the running app that Windlass sets itself: it would have no effect, or on Azure a bad one.
///
/// # Errors
/// What is wrong with it.
pub(super) fn not_ours(name: &str) -> Result<(), &'static str> {
    if ["PORT", "HOST"].contains(&name) || name.starts_with("WINDLASS_") {
        return Err(
            "is set by Windlass: PORT and HOST tell the app where to listen, and WINDLASS_… is for Windlass itself",
        );
    }
    Ok(())
}

/// Checks how many bytes the names and values of an environment have together.
///
/// # Errors
/// What is wrong with it.
pub(super) fn fits(bytes: usize) -> Result<(), String> {
    if bytes > MOST_ENVIRONMENT_BYTES {
        return Err(format!(
            "names and values have {bytes} bytes together; at most {MOST_ENVIRONMENT_BYTES} are kept"
        ));
    }
    Ok(())
}

fn title(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MOST_TITLE_CHARS || text.chars().any(char::is_control) {
        return Err(format!("has to be 1 to {MOST_TITLE_CHARS} characters without control characters"));
    }
    Ok(text.to_owned())
}

fn command(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.len() > MOST_COMMAND_BYTES || text.contains('\0') {
        return Err(format!("has to be a command of 1 to {MOST_COMMAND_BYTES} bytes"));
    }
    Ok(text.to_owned())
}

/// A host name as DNS writes it: lower case, punycode, at least two labels.
///
/// # Errors
/// What is wrong with it.
pub fn domain(text: &str) -> Result<String, String> {
    let bad = || format!("`{text}` is not a host name such as myapp.com (no scheme, port or path)");
    let ascii = idna::domain_to_ascii_strict(text.trim_end_matches('.')).map_err(|_| bad())?;
    let labels_fit = ascii
        .split('.')
        .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    let numeric = ascii.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if !ascii.contains('.') || !labels_fit || numeric || ascii.len() > 253 { Err(bad()) } else { Ok(ascii) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(body: &Value) -> Result<Wish, Vec<FieldError>> {
        parse(body, &|text| Sealed::for_tests(text))
    }

    fn full() -> Value {
        json!({ "projectId": "my-app", "userId": "user_123", "organizationId": "org_456", "projectName": "My Application",
                "environment": "production", "customDomain": "MyApp.com", "containerSize": { "cpu": "1", "memory": "2Gi" },
                "envVariables": { "DATABASE_URL": "postgres://...", "API_KEY": "secret123" },
                "buildCommand": "npm run build", "startCommand": "npm start" })
    }

    #[test]
    fn the_documents_body_is_a_wish() {
        let wish = check(&full()).unwrap();
        assert_eq!(wish.app(), "org_456/my-app/production");
        assert_eq!(wish.domain.as_deref(), Some("myapp.com"));
        assert_eq!(wish.env.len(), 2);
    }

    #[test]
    fn every_problem_is_reported_with_its_pointer() {
        let errors = check(&json!({ "projectId": 7, "environment": "prod", "customDomain": "https://x.de", "commitSha": "main", "envVariables": { "1": "x", "OK": 2 }, "colour": "red" })).unwrap_err();
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/colour",
                "/organizationId",
                "/userId",
                "/projectId",
                "/projectName",
                "/environment",
                "/customDomain",
                "/envVariables/1",
                "/envVariables/OK",
                "/commitSha"
            ]
        );
    }

    #[test]
    fn variables_that_windlass_sets_are_refused() {
        let mut body = full();
        body["envVariables"] = json!({ "PORT": "1", "HOST": "x", "WINDLASS_OWNER": "x", "PORTS": "1", "MY_HOST": "x",
                                       "ENVIRONMENT": "x", "HOSTNAME": "x", "port": "1" });
        let errors = check(&body).unwrap_err();
        let mut pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, ["/envVariables/HOST", "/envVariables/PORT", "/envVariables/WINDLASS_OWNER"]);
        assert!(errors[0].message.contains("is set by Windlass"), "{errors:?}");
    }

    #[test]
    fn an_environment_is_one_of_those_that_the_refusal_lists() {
        for text in ["development", "staging", "production", "preview", "preview-7"] {
            assert_eq!(text.parse::<Environment>().unwrap().to_string(), text);
            let said = "prod".parse::<Environment>().unwrap_err();
            assert!(said.contains(text.trim_end_matches('7')), "{said}");
        }
    }

    #[test]
    fn an_environment_is_bounded_as_a_whole_and_in_each_value() {
        let with = |count: usize, bytes: usize| {
            let mut body = full();
            let variables = (0..count).map(|n| (format!("V{n:03}"), json!("x".repeat(bytes))));
            body["envVariables"] = Value::Object(variables.collect());
            check(&body).map_err(|errors| errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>())
        };
        assert_eq!(with(256, 508).unwrap().env.len(), 256);
        assert_eq!(with(256, 509).unwrap_err(), ["/envVariables"]);
        assert_eq!(with(1, 24 * 1024).unwrap().env.len(), 1);
        assert_eq!(with(1, 24 * 1024 + 1).unwrap_err(), ["/envVariables/V000"]);
    }

    #[test]
    fn domains_are_written_as_dns_writes_them() {
        assert_eq!(domain("Bücher.example").unwrap(), "xn--bcher-kva.example");
        for bad in
            ["", "localhost", "a/b", "http://a.b", "a.b:80", "a..b", "-a.de", "1.2.3.4", "a_b.de", "a b.de"]
        {
            assert!(domain(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(text in "\\PC{0,40}", key in "\\PC{0,10}") {
            let mut body = full();
            for field in FIELDS { body[field] = json!(text); }
            body["envVariables"] = json!({ key.clone(): text });
            body[key] = json!(1);
            drop(check(&body));
        }
    }
}
