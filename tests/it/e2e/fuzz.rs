//! Bodies that nobody would send, over HTTP: whatever comes is answered, and the service lives on.

use bytes::Bytes;
use serde_json::{Value, json};
use windlass::ambient::{Ids as _, SeededIds};

use super::{Server, number, parsed, request};

/// Bodies in CI; `WINDLASS_FUZZ` asks for more, `WINDLASS_SEED` for those of an earlier run.
const BODIES: u64 = 600;
const PATHS: [&str; 4] = ["/deploy", "/api/deploy", "/sources", "/status/cleanup"];
/// Members besides those that a request has to have.
const MEMBERS: [&str; 12] = [
    "source",
    "envVariables",
    "customDomain",
    "buildCommand",
    "startCommand",
    "outputDirectory",
    "containerSize",
    "priority",
    "metadata",
    "files",
    "dryRun",
    "__proto__",
];

/// Chance, repeatable.
struct Chance(SeededIds);

impl Chance {
    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.0.random() % bound as u128).unwrap()
    }

    fn of<T: Clone>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    fn text(&self) -> String {
        let kind = self.of(&[
            "",
            "a",
            "../..",
            "\u{0}",
            "é𝄞\u{202e}",
            "' OR 1=1 --",
            "${jndi:x}",
            "%2e%2e/",
            "\r\nx: y",
        ]);
        kind.repeat(self.of(&[1, 1, 2, 60, 5_000]))
    }

    fn value(&self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.of(&[i64::MIN, -1, 0, 1, i64::MAX])),
            3 => json!(self.of(&[f64::MIN, -0.5, 1e300])),
            4 | 5 => json!(self.text()),
            6 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => (0..self.below(4)).map(|_| (self.text(), self.value(depth - 1))).collect(),
        }
    }

    /// A request of which one member or a few are not as they should be.
    fn body(&self) -> Vec<u8> {
        let mut body = request("fuzzed");
        let members = body.as_object_mut().unwrap();
        let mut names: Vec<String> = members.keys().cloned().collect();
        names.extend(MEMBERS.map(str::to_owned));
        for _ in 0..=self.below(3) {
            members.insert(self.of(&names), self.value(3));
        }
        self.spoilt(body.to_string().into_bytes())
    }

    /// Most are JSON still.
    fn spoilt(&self, mut body: Vec<u8>) -> Vec<u8> {
        match self.below(8) {
            0 => body.truncate(self.below(body.len())),
            1 => {
                let at = self.below(body.len());
                body[at] ^= 1 << self.below(8);
            }
            2 => body = self.of(&["[", "{\"a\":", "\""]).repeat(self.of(&[1, 200, 20_000])).into_bytes(),
            3 => body = vec![0xff; self.of(&[0, 1, 100_000])],
            _ => {}
        }
        body
    }
}

#[tokio::test]
async fn no_body_is_left_without_an_answer_that_says_what_is_wrong() {
    let seed = number("WINDLASS_SEED", u64::from(std::process::id()));
    let chance = Chance(SeededIds::new(seed));
    let server = Server::with(&[("MAX_CONCURRENT_DEPLOYMENTS", "1")]);
    for body_number in 0..number("WINDLASS_FUZZ", BODIES) {
        let (path, body) = (chance.of(&PATHS), chance.body());
        let kind = chance.of(&[
            "application/json",
            "application/json",
            "application/json; charset=utf-16",
            "text/plain",
        ]);
        let shown = String::from_utf8_lossy(&body).chars().take(300).collect::<String>();
        let answer = server.call("POST", path, &[("content-type", kind)], Bytes::from(body)).await;
        let (status, said) = parsed(&answer);
        assert!(status < 500, "WINDLASS_SEED={seed}, body {body_number} to {path}: {status} {said}\n{shown}");
        if status >= 400 {
            let code = said["code"].as_str().unwrap_or_default();
            assert!(windlass::api::codes::find(code).is_some(), "{path}: {status} {said}\n{shown}");
        }
    }
    assert_eq!(server.get("/health").await.0, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
