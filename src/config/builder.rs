//! Settings of how images are made on Azure.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::{Reader, Variable, variable};
use crate::deploy::detect::Kind;
use crate::deploy::dockerfile::recipe;
use crate::deploy::image::{Platform, runs_as};
use crate::deploy::reference::{PinnedImage, Reference};

/// What makes images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// `layers` where nothing has to be run, else ACR Tasks; where the registry refuses those, `job` if there is an image.
    Auto(Option<PinnedImage>),
    /// The project's files as a layer on a base, without a build service.
    Layers,
    /// ACR Tasks.
    Acr,
    /// This image of kaniko in a job of Container Apps.
    Job(PinnedImage),
    /// The same in a container group of Azure Container Instances.
    Aci(PinnedImage),
}

impl Strategy {
    /// The strategy of a word in the setting. `job` and `aci` are none without an image.
    fn of(word: &str, kaniko: Option<PinnedImage>) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto(kaniko)),
            "layers" => Some(Self::Layers),
            "acr" => Some(Self::Acr),
            "job" => kaniko.map(Self::Job),
            "aci" => kaniko.map(Self::Aci),
            _ => None,
        }
    }
}

/// Bases by the word in the setting: a kind of project that has one of its own.
const KINDS: [(&str, Kind); 4] =
    [("static", Kind::Static), ("node", Kind::Node), ("python", Kind::Python), ("procfile", Kind::Procfile)];

/// A name and a password for the registry, where it is none of Azure's.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// The name.
    pub user: String,
    /// The password.
    pub secret: SecretString,
}

/// How images are made.
#[derive(Debug, Clone)]
pub struct BuilderSettings {
    /// What makes them.
    pub strategy: Strategy,
    /// What they run on.
    pub platform: Platform,
    /// Whether the newest one of a project has the tag `latest` too.
    pub latest: bool,
    /// Id of the identity that pulls the image of kaniko, where it is not public.
    pub puller: Option<String>,
    /// Instead of the identity.
    pub login: Option<RegistryLogin>,
    bases: BTreeMap<&'static str, Reference>,
}

impl BuilderSettings {
    /// The image that projects of this kind are put on; none only if our own default is no name of an image.
    #[must_use]
    pub fn base(&self, kind: Kind) -> Option<Reference> {
        let kind = runs_as(kind);
        let word = KINDS.iter().find(|(_, known)| *known == kind).map(|(word, _)| *word)?;
        self.bases.get(word).cloned().or_else(|| recipe(kind).base.parse().ok())
    }

    /// Hosts of the bases.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.bases.values().map(Reference::host)
    }
}

/// Every variable of this page.
pub(super) const BUILDER_VARIABLES: [Variable; 8] = [
    variable("WINDLASS_BUILDER", "auto", "what makes images: auto, layers, acr, job or aci"),
    variable(
        "WINDLASS_BASE_IMAGES",
        "",
        "images that `layers` puts projects on: static=…,node=…,python=…,procfile=…, each registry/repository@sha256:…",
    ),
    variable("WINDLASS_PLATFORM", "linux/amd64", "what images of `layers` run on"),
    variable(
        "WINDLASS_TAG_LATEST",
        "false",
        "whether `layers` gives a project's newest image the tag latest: true or false",
    ),
    variable(
        "WINDLASS_KANIKO_IMAGE",
        "",
        "image of kaniko with a shell for `job` and `aci`: registry/repository@sha256:…",
    ),
    variable(
        "WINDLASS_KANIKO_IDENTITY",
        "",
        "resource id of the identity that pulls that image; empty for a public one",
    ),
    variable("WINDLASS_REGISTRY_USER", "", "user of a registry that is none of Azure's"),
    variable("WINDLASS_REGISTRY_SECRET", "", "its password"),
];

impl Reader<'_> {
    /// How images are made.
    pub(super) fn builder(&mut self) -> BuilderSettings {
        let wanted = "use linux/<architecture>, such as linux/amd64";
        let platform =
            self.parsed("WINDLASS_PLATFORM", Platform::default(), wanted, |text| text.parse().ok());
        let wanted = "use static, node, python or procfile, then = and registry/repository@sha256:<digest> or registry/repository:tag; several with commas between";
        let bases = self.parsed("WINDLASS_BASE_IMAGES", BTreeMap::new(), wanted, bases);
        let latest = self.parsed("WINDLASS_TAG_LATEST", false, "use true or false", |text| text.parse().ok());
        let [user, secret] = ["WINDLASS_REGISTRY_USER", "WINDLASS_REGISTRY_SECRET"]
            .map(|name| self.text(name).map(str::to_owned));
        if user.is_some() != secret.is_some() {
            self.problems
                .push("set both or none of WINDLASS_REGISTRY_USER and WINDLASS_REGISTRY_SECRET".to_owned());
        }
        let wanted = "use <registry>/<repository>@sha256:<64 hexadecimal digits>";
        let kaniko = self.parsed("WINDLASS_KANIKO_IMAGE", None, wanted, |text| text.parse().ok().map(Some));
        let wanted = if self.text("WINDLASS_KANIKO_IMAGE").is_some() {
            "use auto, layers, acr, job or aci"
        } else {
            "use auto, layers or acr; job and aci run the image of WINDLASS_KANIKO_IMAGE, which is not set"
        };
        let usual = Strategy::Auto(kaniko.clone());
        let strategy =
            self.parsed("WINDLASS_BUILDER", usual, wanted, |word| Strategy::of(word, kaniko.clone()));
        let puller = self.text("WINDLASS_KANIKO_IDENTITY").map(str::to_owned);
        let login = user.zip(secret).map(|(user, secret)| RegistryLogin { user, secret: secret.into() });
        BuilderSettings { strategy, platform, latest, puller, login, bases }
    }
}

fn bases(text: &str) -> Option<BTreeMap<&'static str, Reference>> {
    let base = |entry: &str| {
        let (word, name) = entry.split_once('=')?;
        let (word, _) = KINDS.iter().find(|(known, _)| *known == word.trim())?;
        let base: Reference = name.trim().parse().ok()?;
        Some((*word, base))
    };
    text.split(',').map(base).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[(&str, &str)]) -> (BuilderSettings, Vec<String>) {
        let values: BTreeMap<String, String> =
            values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut reader = Reader { values: &values, problems: Vec::new() };
        (reader.builder(), reader.problems)
    }

    #[test]
    fn every_base_and_strategy_has_a_default_and_can_be_set() {
        let (plain, problems) = check(&[]);
        assert_eq!(problems, [""; 0]);
        assert_eq!((&plain.strategy, plain.latest), (&Strategy::Auto(None), false));
        assert_eq!(plain.platform.to_string(), "linux/amd64");
        for kind in [Kind::Static, Kind::Node, Kind::Python, Kind::Rust, Kind::Go, Kind::Procfile] {
            assert!(plain.base(kind).is_some(), "{kind:?}");
        }
        let digest = "ab".repeat(32);
        let bases = format!("node=mirror.azurecr.io/node@sha256:{digest}, procfile=127.0.0.1:5000/base:1");
        let (set, problems) = check(&[
            ("WINDLASS_BUILDER", "layers"),
            ("WINDLASS_BASE_IMAGES", &bases),
            ("WINDLASS_PLATFORM", "linux/arm64/v8"),
            ("WINDLASS_TAG_LATEST", "true"),
            ("WINDLASS_REGISTRY_USER", "robot"),
            ("WINDLASS_REGISTRY_SECRET", "s"),
        ]);
        assert_eq!(problems, [""; 0]);
        assert_eq!((&set.strategy, set.latest, set.login.is_some()), (&Strategy::Layers, true, true));
        let text = format!("127.0.0.1:5000/kaniko@sha256:{digest}");
        let image: PinnedImage = text.parse().unwrap();
        for (word, strategy) in [
            ("auto", Strategy::Auto(Some(image.clone()))),
            ("job", Strategy::Job(image.clone())),
            ("aci", Strategy::Aci(image)),
        ] {
            let (set, problems) = check(&[("WINDLASS_BUILDER", word), ("WINDLASS_KANIKO_IMAGE", &text)]);
            assert_eq!((set.strategy, problems), (strategy, Vec::new()));
        }
        assert_eq!(set.base(Kind::Node).unwrap().host(), "mirror.azurecr.io");
        assert_eq!(set.base(Kind::Go).unwrap().to_string(), "127.0.0.1:5000/base:1");
        assert_eq!(set.base(Kind::Python), plain.base(Kind::Python));
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        let (_, problems) = check(&[
            ("WINDLASS_BUILDER", "docker"),
            ("WINDLASS_BASE_IMAGES", "node=node:22"),
            ("WINDLASS_PLATFORM", "windows/amd64"),
            ("WINDLASS_TAG_LATEST", "yes"),
            ("WINDLASS_REGISTRY_USER", "robot"),
        ]);
        assert_eq!(problems.len(), 5, "{problems:?}");
        let (_, problems) = check(&[("WINDLASS_BUILDER", "job")]);
        assert!(problems[0].contains("WINDLASS_KANIKO_IMAGE"), "{problems:?}");
        let (_, problems) = check(&[("WINDLASS_KANIKO_IMAGE", "ghcr.io/o/kaniko:debug")]);
        assert_eq!(problems.len(), 1, "a tag is no image for good: {problems:?}");
    }
}
