//! OCI images made of a base and one layer (image specification 1.1). Pure: the same inputs give the same bytes.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::detect::{Kind, Plan};
use super::dockerfile::{
    APP, HEALTH_INTERVAL, HEALTH_RETRIES, HEALTH_START, HEALTH_TIMEOUT, PORT, USER, recipe, start_command,
};
use super::ids::Digest;

/// The media types of manifests that a base may have, best first.
pub const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// What we write.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Docker's names of the same bytes.
const LAYERS: [(&str, &str); 5] = [
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", LAYER),
    ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"),
    (LAYER, LAYER),
    ("application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar"),
    ("application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
];
/// When everything of ours was made.
const CREATED: &str = "1970-01-01T00:00:00Z";
const SECOND: u64 = 1_000_000_000;

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`, where it matters.
    pub variant: Option<String>,
}

impl Default for Platform {
    fn default() -> Self {
        Self { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a platform is linux/<architecture>, such as linux/amd64 or linux/arm64/v8")]
pub struct BadPlatform;

impl FromStr for Platform {
    type Err = BadPlatform;

    fn from_str(text: &str) -> Result<Self, BadPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let fits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match parts.as_slice() {
            ["linux", architecture, rest @ ..] if rest.len() < 2 && parts.iter().all(fits) => Ok(Self {
                os: "linux".to_owned(),
                architecture: (*architecture).to_owned(),
                variant: rest.first().map(|variant| (*variant).to_owned()),
            }),
            _ => Err(BadPlatform),
        }
    }
}

impl Platform {
    /// Whether an entry of an index, or a configuration, is for this platform.
    fn is_of(&self, value: &Value) -> bool {
        let is = |key: &str, wanted: &str| value.get(key).and_then(Value::as_str) == Some(wanted);
        is("os", &self.os)
            && is("architecture", &self.architecture)
            && self.variant.as_ref().is_none_or(|variant| is("variant", variant))
    }
}

/// A blob that an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Of its bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub media: String,
}

impl Descriptor {
    fn of(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let digest = text("digest")?.strip_prefix("sha256:")?.parse().ok()?;
        Some(Self { digest, size: value.get("size")?.as_u64()?, media: text("mediaType")?.to_owned() })
    }

    fn to_json(&self) -> Value {
        json!({ "mediaType": self.media, "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

/// What a registry gave for the name of a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An index; this of it is for the platform.
    Index(Digest),
    /// One image: its configuration and its layers, bottom first.
    Image(Descriptor, Vec<Descriptor>),
}

/// Why a base cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBase {
    /// Not for this platform.
    #[error("has no image for {0}")]
    Platform(Platform),
    /// Not an image that can be pushed elsewhere.
    #[error("is no image that can be built on")]
    Shape,
}

/// Reads the manifest of a base.
///
/// # Errors
/// [`BadBase`].
pub fn read(manifest: &Value, platform: &Platform) -> Result<Found, BadBase> {
    if let Some(entries) = manifest.get("manifests").and_then(Value::as_array) {
        let fits = |entry: &&Value| entry.get("platform").is_some_and(|found| platform.is_of(found));
        let entry = entries.iter().find(fits).ok_or_else(|| BadBase::Platform(platform.clone()))?;
        return Ok(Found::Index(Descriptor::of(entry).ok_or(BadBase::Shape)?.digest));
    }
    let config = manifest.get("config").and_then(Descriptor::of).ok_or(BadBase::Shape)?;
    let layers = manifest.get("layers").and_then(Value::as_array).ok_or(BadBase::Shape)?;
    let layers = layers.iter().map(|layer| {
        let layer = Descriptor::of(layer)?;
        let (_, media) = LAYERS.into_iter().find(|(known, _)| *known == layer.media)?;
        Some(Descriptor { media: media.to_owned(), ..layer })
    });
    Ok(Found::Image(config, layers.collect::<Option<_>>().ok_or(BadBase::Shape)?))
}

/// An image to build on.
#[derive(Debug, Clone)]
pub struct Base {
    /// As it was asked for.
    pub name: String,
    /// Of its manifest.
    pub digest: Digest,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
    config: Map<String, Value>,
}

impl Base {
    /// The base with this configuration.
    ///
    /// # Errors
    /// [`BadBase`] when it is for another platform or does not fit its layers.
    pub fn new(
        (name, digest): (String, Digest),
        layers: Vec<Descriptor>,
        config: Value,
        platform: &Platform,
    ) -> Result<Self, BadBase> {
        if !platform.is_of(&config) {
            return Err(BadBase::Platform(platform.clone()));
        }
        let diffs = config.pointer("/rootfs/diff_ids").and_then(Value::as_array).map(Vec::len);
        let Value::Object(config) = config else { return Err(BadBase::Shape) };
        if diffs != Some(layers.len()) {
            return Err(BadBase::Shape);
        }
        Ok(Self { name, digest, layers, config })
    }

    fn list(&self, of: &str, key: &str) -> Vec<Value> {
        let found = self.config.get(of).and_then(|of| of.get(key)).and_then(Value::as_array);
        found.cloned().unwrap_or_default()
    }
}

/// The layer with the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppLayer {
    /// Of its bytes.
    pub digest: Digest,
    /// Of its bytes before compression.
    pub diff: Digest,
    /// Bytes.
    pub size: u64,
}

impl AppLayer {
    /// As a manifest names it.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor { digest: self.digest, size: self.size, media: LAYER.to_owned() }
    }
}

/// The kind whose base runs what this plan starts: compiled programs need no compiler.
#[must_use]
pub fn runs_as(kind: Kind) -> Kind {
    match kind {
        Kind::Static | Kind::Node | Kind::Python => kind,
        Kind::Rust | Kind::Go | Kind::Procfile | Kind::Docker => Kind::Procfile,
    }
}

/// How a container of the plan runs: the base's settings with ours on top.
fn settings(base: &Base, plan: &Plan) -> Map<String, Value> {
    let kind = runs_as(plan.kind);
    let port = plan.port.unwrap_or(PORT);
    let mut settings = base.config.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    set("User", json!(USER.to_string()));
    set("ExposedPorts", json!({ (format!("{port}/tcp")): {} }));
    set(
        "Healthcheck",
        json!({
            "Test": ["CMD-SHELL", recipe(kind).health_command(plan)],
            "Interval": HEALTH_INTERVAL * SECOND,
            "Timeout": HEALTH_TIMEOUT * SECOND,
            "StartPeriod": HEALTH_START * SECOND,
            "Retries": HEALTH_RETRIES,
        }),
    );
    if kind != Kind::Static {
        set("WorkingDir", json!(APP));
        let mut variables = base.list("config", "Env");
        variables.retain(|known| known.as_str().is_none_or(|known| !known.starts_with("PORT=")));
        variables.push(json!(format!("PORT={port}")));
        set("Env", Value::Array(variables));
    }
    if let Some(command) = start_command(plan) {
        set("Cmd", command);
    }
    settings
}

/// The configuration of the image.
#[must_use]
pub fn configuration(base: &Base, plan: &Plan, layer: &AppLayer) -> Vec<u8> {
    let mut diffs = base.list("rootfs", "diff_ids");
    diffs.push(json!(format!("sha256:{}", layer.diff)));
    let mut whole = Map::new();
    for key in ["os", "architecture", "variant", "os.version", "os.features"] {
        if let Some(value) = base.config.get(key) {
            whole.insert(key.to_owned(), value.clone());
        }
    }
    whole.insert("created".to_owned(), json!(CREATED));
    whole.insert("config".to_owned(), Value::Object(settings(base, plan)));
    whole.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diffs }));
    // A history tells of every layer or is left out.
    if let Some(Value::Array(history)) = base.config.get("history") {
        let ours = json!({ "created": CREATED, "created_by": "windlass: the app's files" });
        let history: Vec<Value> = history.iter().cloned().chain([ours]).collect();
        whole.insert("history".to_owned(), Value::Array(history));
    }
    Value::Object(whole).to_string().into_bytes()
}

/// The manifest of the image; it says on what the image was built.
#[must_use]
pub fn manifest(base: &Base, layer: &AppLayer, config: &Descriptor) -> Vec<u8> {
    let layers: Vec<Value> =
        base.layers.iter().chain([&layer.descriptor()]).map(Descriptor::to_json).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.to_json(),
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.base.name": base.name,
            "org.opencontainers.image.base.digest": format!("sha256:{}", base.digest),
        },
    });
    manifest.to_string().into_bytes()
}

/// As a manifest names a configuration.
#[must_use]
pub fn config_descriptor(config: &[u8]) -> Descriptor {
    Descriptor { digest: Digest::of(config), size: config.len() as u64, media: CONFIG.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base {
        let layer =
            json!({ "mediaType": LAYERS[0].0, "digest": format!("sha256:{}", "11".repeat(32)), "size": 7 });
        let config = json!({ "mediaType": "x", "digest": format!("sha256:{}", "22".repeat(32)), "size": 9 });
        let manifest = json!({ "config": config, "layers": [layer] });
        let Found::Image(_, layers) = read(&manifest, &Platform::default()).unwrap() else { panic!() };
        let config = json!({
            "os": "linux", "architecture": "amd64", "created": "2026-01-01T00:00:00Z", "container": "x",
            "config": { "Env": ["PATH=/bin", "PORT=1"], "User": "root", "Entrypoint": ["/start"] },
            "rootfs": { "type": "layers", "diff_ids": ["sha256:33"] },
            "history": [{ "created_by": "them" }],
        });
        let name = ("docker.io/library/node:22-slim".to_owned(), Digest::of(b"base"));
        Base::new(name, layers, config, &Platform::default()).unwrap()
    }

    #[test]
    fn an_image_runs_as_nobody_and_says_what_it_is_made_of() {
        let layer = AppLayer { digest: Digest::of(b"a"), diff: Digest::of(b"b"), size: 5 };
        let plan = Plan::new(Kind::Node, Some("node server.js".to_owned()));
        let bytes = configuration(&base(), &plan, &layer);
        assert_eq!(bytes, configuration(&base(), &plan, &layer));
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(config["config"]["User"], "1000");
        assert_eq!(config["config"]["Env"], json!(["PATH=/bin", "PORT=8080"]));
        assert_eq!(config["config"]["Cmd"], json!(["/bin/sh", "-c", "node server.js"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/start"]));
        assert_eq!(config["config"]["ExposedPorts"], json!({ "8080/tcp": {} }));
        let health = &config["config"]["Healthcheck"];
        assert_eq!((&health["Interval"], &health["Timeout"]), (&json!(30 * SECOND), &json!(30 * SECOND)));
        assert_eq!((&health["StartPeriod"], &health["Retries"]), (&json!(5 * SECOND), &json!(3)));
        assert_eq!(config["created"], CREATED);
        assert!(config.get("container").is_none());
        assert_eq!(config["rootfs"]["diff_ids"][1], format!("sha256:{}", layer.diff));
        assert_eq!(config["history"].as_array().unwrap().len(), 2);
        let manifest: Value =
            serde_json::from_slice(&manifest(&base(), &layer, &config_descriptor(&bytes))).unwrap();
        assert_eq!(manifest["layers"][0]["mediaType"], LAYER, "Docker's name becomes the standard's");
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
        let annotation = &manifest["annotations"]["org.opencontainers.image.base.digest"];
        assert_eq!(annotation, &json!(format!("sha256:{}", Digest::of(b"base"))));
    }

    #[test]
    fn the_platform_is_found_in_the_index_or_it_is_said_that_it_is_not() {
        let entry = |os: &str, architecture: &str, byte: &str| json!({ "mediaType": MANIFEST, "size": 1, "digest": format!("sha256:{}", byte.repeat(32)), "platform": { "os": os, "architecture": architecture } });
        let index = json!({ "manifests": [entry("unknown", "unknown", "00"), entry("linux", "arm64", "aa"), entry("linux", "amd64", "bb")] });
        let found = |platform: &str| read(&index, &platform.parse().unwrap());
        assert_eq!(found("linux/amd64"), Ok(Found::Index("bb".repeat(32).parse().unwrap())));
        assert_eq!(found("linux/arm64"), Ok(Found::Index("aa".repeat(32).parse().unwrap())));
        assert!(matches!(found("linux/s390x"), Err(BadBase::Platform(_))));
        assert!(matches!(found("linux/arm64/v8"), Err(BadBase::Platform(_))), "it does not say its variant");
        assert_eq!(read(&json!({}), &Platform::default()), Err(BadBase::Shape));
        for bad in ["windows/amd64", "linux", "linux/", "linux/a/b/c", ""] {
            assert_eq!(bad.parse::<Platform>(), Err(BadPlatform), "{bad}");
        }
        assert_eq!("linux/arm64/v8".parse::<Platform>().unwrap().to_string(), "linux/arm64/v8");
    }
}
