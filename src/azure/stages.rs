//! Where a build stands, by the words of the service that makes it: whether it is built, and whether its image is pushed.
//!
//! ACR Tasks: "Quickstart: Build and run a container image using ACR Tasks" and its tutorials (Microsoft Learn). Kaniko:
//! `DoPush` in `pkg/executor/push.go`, 1.28. A build can print whatever it likes, so that only lines that name the image of the
//! run count, whose tag no build is told. Other words say nothing, and then nothing is said.

use jiff::Timestamp;

use crate::deploy::log::Line;

/// The step whose log it is.
const STEP: Option<&str> = Some("build");
/// How ACR Tasks begin a line of their own.
const STAMP: &str = "0000/00/00 00:00:00 ";

/// The image of a run.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    /// Its tag: the run.
    pub(super) tag: &'a str,
    /// Where kaniko sends it; none where the registry builds by itself.
    pub(super) repository: Option<&'a str>,
}

/// What a line says about an image.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    /// It is built, and begins to be pushed.
    Pushing(&'a str),
    /// It is in the registry.
    Pushed(&'a str),
}

impl Image<'_> {
    fn is_tag_of(&self, name: &str) -> bool {
        name.rsplit_once(':').is_some_and(|(_, tag)| tag == self.tag)
    }

    /// By ACR Tasks. What has to be tried again began with the first try.
    fn tasks<'l>(&self, line: &'l str) -> Option<Said<'l>> {
        let (stamp, said) = line.split_at_checked(STAMP.len())?;
        let fits = |(one, other): (u8, u8)| if other == b'0' { one.is_ascii_digit() } else { one == other };
        if !stamp.bytes().zip(STAMP.bytes()).all(fits) {
            return None;
        }
        let begun = said.strip_prefix("Pushing image: ").and_then(|rest| rest.strip_suffix(", attempt 1"));
        let found = match begun {
            Some(name) => Said::Pushing(name),
            None => Said::Pushed(said.strip_prefix("Successfully pushed image: ")?),
        };
        let (Said::Pushing(name) | Said::Pushed(name)) = found;
        self.is_tag_of(name).then_some(found)
    }

    /// By kaniko, whose lines begin with a level, colours and seconds.
    fn kaniko<'l>(&self, line: &'l str, repository: &str) -> Option<Said<'l>> {
        let (head, said) = line.split_once("] ")?;
        if !head.contains("INFO") {
            return None;
        }
        if let Some(name) = said.strip_prefix("Pushing image to ") {
            return self.is_tag_of(name).then_some(Said::Pushing(name));
        }
        let name = said.strip_prefix("Pushed ")?;
        let (place, _) = name.split_once("@sha256:")?;
        let (_, path) = place.split_once('/')?;
        (path == repository).then_some(Said::Pushed(name))
    }

    fn said<'l>(&self, line: &'l str) -> Option<Said<'l>> {
        let line = line.trim_end();
        match self.repository {
            Some(repository) => self.kaniko(line, repository),
            None => self.tasks(line),
        }
    }
}

/// The first line of a build's log: it runs.
pub(super) fn begun(at: Timestamp, builder: &str) -> Line {
    Line::new(at, "build.started", STEP, "Dockerfile").with("builder", builder)
}

/// A line that a build said, for the deployment's log, between what follows from it.
pub(super) fn told(image: Image<'_>, at: Timestamp, text: String) -> Vec<Line> {
    let event = |kind: &str, text: &str| Line::new(at, kind, STEP, text);
    let (before, after) = match image.said(&text) {
        Some(Said::Pushing(name)) => (vec![event("build.finished", ""), event("push.started", name)], None),
        Some(Said::Pushed(name)) => {
            let done = event("push.finished", name);
            let done = match name.split_once("@sha256:") {
                Some((_, digest)) => done.with("digest", digest),
                None => done,
            };
            (Vec::new(), Some(done))
        }
        None => (Vec::new(), None),
    };
    before.into_iter().chain([Line::new(at, "log", STEP, text)]).chain(after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "run_01a1fd19cddd7aba8cf17ae9898b8c53";

    fn kinds(image: Image<'_>, log: &str) -> Vec<(String, String)> {
        let lines = log.lines().flat_map(|line| told(image, Timestamp::UNIX_EPOCH, line.to_owned()));
        lines.map(|line| (line.kind, line.text)).filter(|(kind, _)| kind != "log").collect()
    }

    fn check(image: Image<'_>, log: &str, wanted: &[(&str, &str)]) {
        let wanted: Vec<(String, String)> =
            wanted.iter().map(|(kind, text)| ((*kind).to_owned(), (*text).to_owned())).collect();
        assert_eq!(kinds(image, log), wanted, "{log}");
    }

    #[test]
    fn acr_tasks_say_when_they_push() {
        // As in the tutorial, with our tag.
        let log = format!(
            "2020/11/18 18:31:55 Successfully logged in\n\
             Sending build context to Docker daemon   21.5kB\n\
             Step 1/5 : FROM node:15-alpine\n\
             Successfully tagged myregistry.azurecr.io/helloacrtasks:{RUN}\n\
             2020/11/18 18:32:11 Pushing image: myregistry.azurecr.io/helloacrtasks:{RUN}, attempt 1\n\
             The push refers to repository [myregistry.azurecr.io/helloacrtasks]\n\
             c44b9827df52: Pushed\n\
             2020/11/18 18:32:31 Pushing image: myregistry.azurecr.io/helloacrtasks:{RUN}, attempt 2\n\
             {RUN}: digest: sha256:b038dcaa72b2889f56deaff7fa675f58c7c666041584f706c783a3958c4ac8d1 size: 1366\n\
             2020/11/18 18:32:43 Successfully pushed image: myregistry.azurecr.io/helloacrtasks:{RUN}\n"
        );
        let name = format!("myregistry.azurecr.io/helloacrtasks:{RUN}");
        let image = Image { tag: RUN, repository: None };
        check(image, &log, &[("build.finished", ""), ("push.started", &name), ("push.finished", &name)]);
    }

    #[test]
    fn kaniko_says_when_it_pushes_with_colours_and_without() {
        let image = Image { tag: RUN, repository: Some("windlass/o/shop") };
        let (tagged, named) = (
            format!("r.azurecr.io/windlass/o/shop:{RUN}"),
            format!("r.azurecr.io/windlass/o/shop@sha256:{}", "ab".repeat(32)),
        );
        for head in ["INFO[0041]", "\u{1b}[36mINFO\u{1b}[0m[0041]"] {
            let log = format!(
                "{head} Taking snapshot of full filesystem...        \n\
                 {head} Pushing image to {tagged}   \n\
                 {head} Pushed {named} \n"
            );
            let wanted = [
                ("build.finished", ""),
                ("push.started", tagged.as_str()),
                ("push.finished", named.as_str()),
            ];
            check(image, &log, &wanted);
        }
        let line = told(image, Timestamp::UNIX_EPOCH, format!("INFO[0041] Pushed {named}")).remove(1);
        assert_eq!(line.data["digest"], "ab".repeat(32));
    }

    #[test]
    fn what_a_build_prints_itself_is_not_believed() {
        for (repository, log) in [
            (None, "2020/11/18 18:32:43 Successfully pushed image: r.azurecr.io/shop:v1"),
            (None, "Successfully pushed image: r.azurecr.io/shop:run_01a1fd19cddd7aba8cf17ae9898b8c53"),
            (
                None,
                "2020-11-18 18:32:43 Pushing image: r/shop:run_01a1fd19cddd7aba8cf17ae9898b8c53, attempt 1",
            ),
            (None, "ééééééééééé: Pushed"),
            (Some("windlass/o/shop"), "INFO[0041] Pushing image to r.azurecr.io/windlass/o/shop:v1"),
            (Some("windlass/o/shop"), "INFO[0041] Pushed r.azurecr.io/windlass/o/other@sha256:ab"),
            (Some("windlass/o/shop"), "Pushed r.azurecr.io/windlass/o/shop@sha256:ab"),
            (Some("windlass/o/shop"), ""),
        ] {
            check(Image { tag: RUN, repository }, log, &[]);
        }
    }
}
