//! How a command that failed says so, on stderr and by its exit code.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use super::client::ClientError;
use super::exit;
use super::screen::printable;
use crate::api::ProblemField;
use crate::config::BadSettings;

/// With `--json`: one line, after whatever the command had answered on stdout.
#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    error: Failure<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure<'a> {
    code: &'a str,
    message: String,
    exit_code: u8,
    #[serde(skip_serializing_if = "<[ProblemField]>::is_empty")]
    errors: &'a [ProblemField],
}

/// Tells why a command failed; gives its exit code. That nobody reads the output any more is no failure.
pub fn tell(error: &anyhow::Error, json: bool, to: &mut dyn Write) -> u8 {
    if is_closed(error) {
        return exit::OK;
    }
    let failure = failure(error);
    let exit_code = failure.exit_code;
    let line = if json {
        serde_json::to_string(&Line { v: 1, error: failure }).unwrap_or_default()
    } else {
        let text = format!("error: {error:#}");
        text.lines().map(printable).collect::<Vec<_>>().join("\n")
    };
    // Nothing is left to be done when even stderr is closed.
    drop(writeln!(to, "{line}"));
    exit_code
}

fn failure(error: &anyhow::Error) -> Failure<'_> {
    let plain = |code, exit_code| Failure { code, message: format!("{error:#}"), exit_code, errors: &[] };
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(problem)) => Failure {
            code: &problem.code,
            message: problem.detail.clone(),
            exit_code: exit::REFUSED,
            errors: &problem.errors,
        },
        Some(ClientError::Unreachable(_)) => plain("UNREACHABLE", exit::UNREACHABLE),
        Some(ClientError::BadAddress(_) | ClientError::Https(_)) => plain("USAGE", exit::USAGE),
        Some(ClientError::Strange { .. } | ClientError::Page(_) | ClientError::Broken(_)) => {
            plain("FAILED", exit::FAILED)
        }
        None if error.downcast_ref::<BadSettings>().is_some() => plain("CONFIG", exit::CONFIG),
        None => plain("FAILED", exit::FAILED),
    }
}

/// Whether whoever read the output went away, as `head` does when it has enough.
#[must_use]
pub fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn told(error: &anyhow::Error, json: bool) -> (u8, String) {
        let mut text = Vec::new();
        let code = tell(error, json, &mut text);
        (code, String::from_utf8(text).unwrap())
    }

    fn refused() -> anyhow::Error {
        let problem = serde_json::json!({
            "type": "urn:windlass:error:validation", "title": "t", "status": 400, "detail": "no", "code": "VALIDATION_REQUEST",
            "category": "user", "retryable": false, "correlationId": "c",
            "errors": [{ "pointer": "/userId", "message": "is missing" }]
        });
        let problem = serde_json::from_value(problem).unwrap();
        anyhow::Error::from(ClientError::Problem(Box::new(problem))).context("cannot upload a")
    }

    #[test]
    fn people_are_told_in_words_and_programs_in_one_line() {
        assert_eq!(
            told(&refused(), false),
            (4, "error: cannot upload a: VALIDATION_REQUEST: no\n".to_owned())
        );
        insta::assert_snapshot!(told(&refused(), true).1, @r#"{"v":1,"error":{"code":"VALIDATION_REQUEST","message":"no","exitCode":4,"errors":[{"pointer":"/userId","message":"is missing"}]}}"#);
        let settings = anyhow::Error::from(BadSettings(vec!["PORT is `x`".to_owned()]));
        let (code, line) = told(&settings, true);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (code, &line["error"]["code"], &line["error"]["exitCode"]),
            (78, &"CONFIG".into(), &78.into())
        );
        let (code, line) = told(&anyhow::anyhow!("x is not a folder"), true);
        assert_eq!(code, 1);
        assert_eq!(
            line,
            "{\"v\":1,\"error\":{\"code\":\"FAILED\",\"message\":\"x is not a folder\",\"exitCode\":1}}\n"
        );
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let broken = Err::<(), _>(std::io::Error::from(ErrorKind::BrokenPipe)).context("answer").unwrap_err();
        assert_eq!(told(&broken, false), (0, String::new()));
        let denied = anyhow::Error::from(std::io::Error::from(ErrorKind::PermissionDenied));
        assert_eq!(told(&denied, false).0, 1);
    }
}
