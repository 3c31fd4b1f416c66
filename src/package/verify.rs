//! Looks at a package as the Functions host does: what it would refuse, skip, or run differently than meant.
//!
//! The rules are those of the host's source (4.1037): it reports a bad function and leaves it out, so that a slip of the
//! pen takes an endpoint away without a word at deployment.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use zip::ZipArchive;

use super::{PackageError, elf};
use crate::embedded::schedule::Schedule;

/// Largest package that Azure takes in one deployment (1 GB), and the largest file that is read here.
const MOST_BYTES: u64 = 1_000_000_000;
/// Characters of all triggers that the scale controller is told.
const MOST_TRIGGER_CHARS: usize = 204_800;
/// Bindings of the extension bundle and the host that Windlass knows.
const BINDINGS: [&str; 7] =
    ["httpTrigger", "http", "timerTrigger", "serviceBusTrigger", "serviceBus", "queueTrigger", "queue"];
/// What begins so belongs to the host.
const RESERVED_ROUTES: [&str; 2] = ["admin", "runtime"];

/// One thing that is wrong with a package.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The file in the package.
    pub file: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.problem)
    }
}

/// An HTTP function as the host routes it.
struct Route {
    file: String,
    path: String,
    methods: Vec<String>,
}

#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    routes: Vec<Route>,
    /// Functions that are not called by a route.
    triggers: Vec<String>,
    trigger_chars: usize,
}

impl Report {
    fn say(&mut self, file: &str, problem: impl Into<String>) {
        self.findings.push(Finding { file: file.to_owned(), problem: problem.into() });
    }
}

/// Everything that is wrong with the package; nothing when the host would run all of it.
///
/// # Errors
/// [`PackageError`] when it is not a zip, or cannot be read.
pub fn verify(path: &Path) -> Result<Vec<Finding>, PackageError> {
    let file = std::fs::File::open(path).map_err(PackageError::file(path))?;
    let bytes = file.metadata().map_err(PackageError::file(path))?.len();
    let unreadable = PackageError::unreadable(path);
    let mut zip = ZipArchive::new(file).map_err(&unreadable)?;
    let mut report = Report::default();
    if bytes > MOST_BYTES {
        report.say("package", format!("it has {bytes} bytes; Azure takes {MOST_BYTES}"));
    }
    let mut files: BTreeMap<String, (Option<u32>, Vec<u8>)> = BTreeMap::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(&unreadable)?;
        if entry.is_dir() {
            continue;
        }
        let name = entry.name().map_err(&unreadable)?.into_owned();
        if entry.enclosed_name().is_none() {
            report.say(&name, "the path leaves the package");
            continue;
        }
        let mut content = Vec::new();
        entry.by_ref().take(MOST_BYTES).read_to_end(&mut content).map_err(PackageError::file(path))?;
        files.insert(name, (entry.unix_mode(), content));
    }
    host(&files, &mut report);
    for (name, (_, content)) in &files {
        if let Some(function) = name.strip_suffix("/function.json").filter(|function| !function.contains('/'))
        {
            self::function(function, content, &mut report);
        }
    }
    if files.contains_key("local.settings.json") {
        report.say(
            "local.settings.json",
            "settings and secrets of a developer's machine do not belong in a package",
        );
    }
    overlaps(&mut report);
    Ok(report.findings)
}

/// `host.json` and the binary that it names.
fn host(files: &BTreeMap<String, (Option<u32>, Vec<u8>)>, report: &mut Report) {
    let Some((_, content)) = files.get("host.json") else {
        let nested = files.keys().any(|name| name.ends_with("/host.json"));
        let advice = if nested { "; it is in a folder, and belongs at the top" } else { "" };
        report.say("host.json", format!("it is missing{advice}"));
        return;
    };
    let host: Value = match serde_json::from_slice(content) {
        Ok(host) => host,
        Err(error) => return report.say("host.json", format!("it is not JSON: {error}")),
    };
    if host.get("version").and_then(Value::as_str) != Some("2.0") {
        report.say("host.json", "`version` has to be \"2.0\", or the host does not start");
    }
    if host.pointer("/customHandler/http/routes").is_some() {
        report.say("host.json", "`customHandler.http.routes` and function folders exclude each other");
    }
    if host.pointer("/extensionBundle/id").is_none() {
        report.say("host.json", "without `extensionBundle` there is no Service Bus and no queue");
    }
    let named = host.pointer("/customHandler/description/defaultExecutablePath").and_then(Value::as_str);
    let Some(named) = named else {
        return report.say("host.json", "`customHandler.description.defaultExecutablePath` names no binary");
    };
    let Some((mode, binary)) = files.get(named.trim_start_matches("./")) else {
        return report.say(named, "host.json names this binary, and it is not in the package");
    };
    if mode.is_none_or(|mode| mode & 0o100 == 0) {
        report.say(named, "it is not executable; make the package on Linux, where that is kept");
    }
    if let Some(problem) = elf::problem(binary) {
        report.say(named, problem);
    }
}

fn is_function_name(name: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    name.len() <= 128
        && name.starts_with(|char: char| char.is_ascii_alphabetic())
        && name.chars().all(fits)
        && !name.eq_ignore_ascii_case("host")
}

fn is_binding_name(name: &str) -> bool {
    name == "$return"
        || (name.len() <= 128
            && name.starts_with(|char: char| char.is_ascii_alphabetic())
            && name.chars().all(|char| char.is_ascii_alphanumeric()))
}

fn text(binding: &Value, key: &str) -> String {
    binding.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Types, directions and names of a function's bindings.
fn bindings_of(file: &str, bindings: &[Value], report: &mut Report) {
    let mut names: Vec<String> = Vec::new();
    for binding in bindings {
        let (kind, own) = (text(binding, "type"), text(binding, "name"));
        if !BINDINGS.contains(&kind.as_str()) {
            report.say(file, format!("the binding type `{kind}` is not known"));
        }
        if !matches!(text(binding, "direction").as_str(), "in" | "out" | "inout") {
            report.say(file, format!("the direction of `{own}` has to be in, out or inout"));
        }
        if !is_binding_name(&own) {
            report.say(
                file,
                format!("`{own}` is not a binding name: letters and digits, beginning with a letter"),
            );
        }
        if names.iter().any(|known| known.eq_ignore_ascii_case(&own)) {
            report.say(file, format!("two bindings are called `{own}`"));
        }
        names.push(own);
    }
}

fn function(name: &str, content: &[u8], report: &mut Report) {
    let file = format!("{name}/function.json");
    if !is_function_name(name) {
        report.say(
            &file,
            "a function's name has letters, digits, _ and -, begins with a letter, and is not `host`",
        );
    }
    let function: Value = match serde_json::from_slice(content) {
        Ok(function) => function,
        Err(error) => return report.say(&file, format!("it is not JSON: {error}")),
    };
    let empty = Vec::new();
    let bindings = function.get("bindings").and_then(Value::as_array).unwrap_or(&empty);
    bindings_of(&file, bindings, report);
    let triggers: Vec<&Value> =
        bindings.iter().filter(|binding| text(binding, "type").ends_with("Trigger")).collect();
    let [trigger] = triggers.as_slice() else {
        return report.say(&file, format!("it has {} triggers, and needs exactly one", triggers.len()));
    };
    report.trigger_chars += trigger.to_string().len();
    if report.trigger_chars > MOST_TRIGGER_CHARS {
        report.say(&file, "all triggers together are more than the scale controller is told");
    }
    match text(trigger, "type").as_str() {
        "httpTrigger" => http(name, &file, (trigger, bindings), report),
        kind => {
            report.triggers.push(name.to_owned());
            let source = if kind == "timerTrigger" { "schedule" } else { "queueName" };
            let value = text(trigger, source);
            if value.is_empty() {
                report.say(&file, format!("the trigger has no `{source}`"));
            } else if kind == "timerTrigger"
                && !value.starts_with('%')
                && let Err(error) = Schedule::parse(&value)
            {
                report.say(&file, format!("the schedule `{value}` cannot be read: {error}"));
            }
        }
    }
}

fn http(name: &str, file: &str, (trigger, bindings): (&Value, &[Value]), report: &mut Report) {
    let outputs = bindings.iter().filter(|binding| binding.get("type") == Some(&"http".into())).count();
    if outputs != 1 || bindings.len() != 2 {
        report.say(
            file,
            "only one httpTrigger and one http output are passed on as they came; this would be an envelope",
        );
    }
    let route = trigger.get("route").and_then(Value::as_str).unwrap_or(name).to_ascii_lowercase();
    if let Some(reserved) = RESERVED_ROUTES.iter().find(|reserved| route.starts_with(**reserved)) {
        report.say(file, format!("a route may not begin with `{reserved}`, which belongs to the host"));
    }
    let methods = trigger.get("methods").and_then(Value::as_array);
    let methods = methods.map(|methods| {
        methods.iter().filter_map(|method| Some(method.as_str()?.to_ascii_lowercase())).collect()
    });
    report.routes.push(Route { file: file.to_owned(), path: route, methods: methods.unwrap_or_default() });
}

/// Whether some path fits both templates. A parameter fits any one segment, a catch-all whatever is left.
fn overlap(a: &str, b: &str) -> bool {
    let catch_all = |segment: &str| segment.starts_with("{*");
    let parameter = |segment: &str| segment.starts_with('{');
    let (mut left, mut right) = (a.split('/'), b.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(one), _) | (_, Some(one)) if catch_all(one) => return true,
            (_, Some(other)) if catch_all(other) => return true,
            (Some(one), Some(other)) if parameter(one) || parameter(other) || one == other => {}
            _ => return false,
        }
    }
}

fn overlaps(report: &mut Report) {
    let mut found = Vec::new();
    for (index, one) in report.routes.iter().enumerate() {
        for other in report.routes.iter().skip(index + 1) {
            let same_method = one.methods.is_empty()
                || other.methods.is_empty()
                || one.methods.iter().any(|method| other.methods.contains(method));
            if same_method && overlap(&one.path, &other.path) {
                let problem = format!(
                    "`{}` overlaps `{}` of {}; the host takes the function whose name comes first",
                    one.path, other.path, other.file
                );
                found.push(Finding { file: one.file.clone(), problem });
            }
        }
        for trigger in &report.triggers {
            if overlap(&one.path, &trigger.to_ascii_lowercase()) {
                let problem =
                    format!("`{}` reaches the trigger {trigger}, which anybody could call then", one.path);
                found.push(Finding { file: one.file.clone(), problem });
            }
        }
    }
    report.findings.extend(found);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_overlap_when_one_path_fits_both() {
        for (a, b, wanted) in [
            ("deploy/{*rest}", "deploy/{id}/status", true),
            ("deploy/{*rest}", "deploy", true),
            ("deploy/{*rest}", "api/deploy", false),
            ("{*rest}", "step-build", true),
            ("a/{id}", "a/b", true),
            ("a/{id}", "a/b/c", false),
            ("ready", "ready", true),
        ] {
            assert_eq!((overlap(a, b), overlap(b, a)), (wanted, wanted), "{a} {b}");
        }
    }
}
