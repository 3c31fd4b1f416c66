//! Shows a deployment's progress: bars on a terminal, plain lines elsewhere, or the events themselves as JSON lines.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::api;

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(80);
/// Width of the step names' column.
const NAME: usize = 9;

/// How to show things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Lines for people; with a moving last line on a terminal.
    Lines {
        /// Whether the last line may move.
        terminal: bool,
    },
    /// One JSON object per line.
    Json,
}

/// Where progress is shown.
pub struct Screen<'a> {
    out: &'a mut (dyn Write + Send),
    mode: Mode,
    bar: Option<ProgressBar>,
    started: Option<String>,
    /// Milliseconds that each step usually takes.
    usual: HashMap<String, u64>,
}

impl<'a> Screen<'a> {
    /// Shows on `out`.
    pub fn new(out: &'a mut (dyn Write + Send), mode: Mode) -> Self {
        let bar = (mode == Mode::Lines { terminal: true }).then(|| {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()).with_style(style("{msg}"))
        });
        Self { out, mode, bar, started: None, usual: HashMap::new() }
    }

    /// Lines for people; left out of JSON.
    pub fn say(&mut self, text: &str) {
        if self.mode != Mode::Json {
            text.lines().for_each(|line| self.print(&printable(line)));
        }
    }

    /// Learns how long steps usually take.
    pub fn learn(&mut self, steps: &[api::Step]) {
        let known = steps.iter().filter_map(|step| Some((step.name.clone(), step.usual_ms?)));
        self.usual = known.collect();
    }

    /// Bytes on their way.
    pub fn uploading(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_style(style("{spinner} upload    {bar:24} {bytes}/{total_bytes} {bytes_per_sec}"));
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// One event.
    pub fn show(&mut self, line: &api::Line) {
        if self.mode == Mode::Json {
            let json = serde_json::to_string(line).unwrap_or_default();
            self.print(&json);
            return;
        }
        let step = line.step.clone().unwrap_or_default();
        match line.kind.as_str() {
            "step.started" => self.begin(&step, line),
            "step.finished" => self.end("✓", &step, line),
            "step.failed" => {
                let again = line.data.get("retryAt").is_some_and(|at| !at.is_null());
                self.end(if again { "↻" } else { "✗" }, &step, line);
            }
            "step.undone" | "step.undoing" | "deployment.ended" | "push.started" | "push.finished"
            | "build.finished" => {}
            "build.started" => self.say(&format!("  │ $ {}", line.text)),
            "log" => self.say(&format!("  │ {}", line.text)),
            _ => self.say(&format!("• {}", line.text)),
        }
    }

    fn begin(&mut self, step: &str, line: &api::Line) {
        self.started = Some(line.at.clone());
        let text = format!("{step:NAME$} {}", line.text);
        // Below a second nobody waits.
        let usual = self.usual.get(step).filter(|ms| **ms >= 1_000).map(|ms| span(*ms));
        match &self.bar {
            Some(bar) => {
                let usual = usual.map(|usual| format!(" of about {usual}")).unwrap_or_default();
                bar.set_style(style(&format!("{{spinner}} {{msg}} {{elapsed}}{usual}")));
                bar.reset_elapsed();
                bar.set_message(printable(&text));
                bar.enable_steady_tick(TURN);
            }
            None => {
                let usual = usual.map(|usual| format!(", usually {usual}")).unwrap_or_default();
                self.say(&format!("→ {text}{usual}"));
            }
        }
    }

    fn end(&mut self, mark: &str, step: &str, line: &api::Line) {
        let took = self
            .started
            .take()
            .and_then(|start| elapsed(&start, &line.at))
            .map(|took| format!("  ({took})"))
            .unwrap_or_default();
        let text = format!("{mark} {step:NAME$} {}{took}", line.text);
        self.say(text.trim_end());
    }

    /// Ends the moving line.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn print(&mut self, text: &str) {
        let written = match &self.bar {
            Some(bar) => {
                bar.println(text);
                Ok(())
            }
            None => writeln!(self.out, "{text}").and_then(|()| self.out.flush()),
        };
        // Nobody reads any more; the deployment goes on.
        if let Err(error) = written {
            tracing::debug!(error = %error, "the output is closed");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A line without what a terminal would obey: a build could move the cursor, or rename the window.
pub(super) fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => skip_sequence(&mut chars),
            '\t' => plain.push('\t'),
            _ if char.is_control() => {}
            _ => plain.push(char),
        }
    }
    plain
}

/// Skips what belongs to an escape character (ECMA-48, sections 5.3 to 5.6). A sequence that does not end takes the rest.
fn skip_sequence(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        // Parameters, then a last byte from @ to ~.
        Some('[') => skip_to(chars, |char| matches!(char, '@'..='~')),
        // A string up to BEL, or to the string terminator: the escape character and a backslash.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let mut before = ' ';
            skip_to(chars, |char| {
                let terminator = before == '\u{1b}' && char == '\\';
                before = char;
                terminator || char == '\u{7}'
            });
        }
        // Intermediate bytes, then the last one.
        Some(' '..='/') => skip_to(chars, |char| !matches!(char, ' '..='/')),
        Some(_) | None => {}
    }
}

fn skip_to(chars: &mut std::str::Chars<'_>, mut is_last: impl FnMut(char) -> bool) {
    for char in chars.by_ref() {
        if is_last(char) {
            return;
        }
    }
}

fn elapsed(start: &str, end: &str) -> Option<String> {
    let (start, end): (jiff::Timestamp, jiff::Timestamp) = (start.parse().ok()?, end.parse().ok()?);
    Some(span(u64::try_from(end.duration_since(start).as_millis()).unwrap_or_default()))
}

fn span(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1_000, ms % 1_000 / 100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, step: &str, at: &str, text: &str) -> api::Line {
        api::Line {
            v: 1,
            id: 1,
            at: at.to_owned(),
            kind: kind.to_owned(),
            step: Some(step.to_owned()),
            text: text.to_owned(),
            data: serde_json::Map::new(),
        }
    }

    fn shown(mode: Mode) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, mode);
        screen.say("Uploading 1 file");
        screen.learn(&[api::Step {
            name: "build".to_owned(),
            usual_ms: Some(1_340),
            ..api::Step::default()
        }]);
        screen.show(&line("step.started", "build", "2026-11-20T09:00:00Z", "Building and packing"));
        screen.show(&line("build.started", "build", "2026-11-20T09:00:00Z", "sh build.sh"));
        screen.show(&line("log", "build", "2026-11-20T09:00:01Z", "\u{1b}[31mred\u{1b}[0m\u{7}"));
        screen.show(&line("step.finished", "build", "2026-11-20T09:00:01.25Z", "3 files packed into 1.2 kB"));
        screen.show(&line("step.failed", "release", "2026-11-20T09:00:02Z", "the app does not answer"));
        screen.close();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_lines_tell_the_story() {
        insta::assert_snapshot!(shown(Mode::Lines { terminal: false }), @r"
        Uploading 1 file
        → build     Building and packing, usually 1.3 s
          │ $ sh build.sh
          │ red
        ✓ build     3 files packed into 1.2 kB  (1.2 s)
        ✗ release   the app does not answer
        ");
    }

    #[test]
    fn what_a_terminal_would_obey_is_left_out_and_nothing_else() {
        for (text, plain) in [
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]8;;http://a\u{1b}\\link\u{1b}]8;;\u{1b}\\.", "link."),
            ("\u{1b}[1;31mred\u{1b}[0m \u{1b}[2K\u{1b}[3~y", "red y"),
            ("\u{1b}(Bplain\u{1b}7\u{1b}=x", "plainx"),
            ("\u{1b}Pq~~\u{1b}\\x", "x"),
            ("a\tb\u{8}\u{9b}c é日", "a\tbc é日"),
            ("cut \u{1b}[", "cut "),
            ("cut \u{1b}]0;for ever", "cut "),
            ("cut \u{1b}", "cut "),
        ] {
            assert_eq!(printable(text), plain, "{text:?}");
        }
    }

    #[test]
    fn no_event_is_obeyed_by_a_terminal() {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, Mode::Lines { terminal: false });
        for kind in ["step.started", "step.failed", "build.started", "log", "step.retried"] {
            screen.show(&line(kind, "build", "2026-11-20T09:00:00Z", "\u{1b}[2Jsaid\u{7}\u{8}"));
        }
        screen.close();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("said").count(), 5, "{text}");
        assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
    }

    #[test]
    fn json_lines_are_the_events() {
        let text = shown(Mode::Json);
        assert_eq!(text.lines().count(), 5);
        assert!(text.lines().all(|line| serde_json::from_str::<api::Line>(line).is_ok()));
    }
}
