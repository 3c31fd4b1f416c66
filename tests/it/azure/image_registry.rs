//! A real image registry (the reference implementation, as Debian ships it), started for one test, with a base in it.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use windlass::deploy::ids::Digest;

use super::azurite::free_port;
use super::http;
use crate::e2e::{have, until};

const PROGRAM: &str = "docker-registry";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Bytes of the base's second layer: three parts.
const NOISE: usize = 9 << 20;

/// A running registry.
pub(crate) struct ImageRegistry {
    process: Child,
    pub(crate) host: String,
    _folder: tempfile::TempDir,
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// One layer: its bytes, and the digest of what is in them.
fn layer(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> (Vec<u8>, Digest) {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    let tar = tar.into_inner().unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar).unwrap();
    (gzip.finish().unwrap(), Digest::of(&tar))
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, path, content).unwrap();
}

/// A shell where there is one, and bytes that cannot be made smaller.
fn layers() -> [(Vec<u8>, Digest); 2] {
    let shell = layer(|tar| {
        file(tar, "bin/busybox", &std::fs::read("/bin/busybox").unwrap_or_default());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, "bin/sh", "busybox").unwrap();
    });
    let mut state = 7_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(NOISE)
    .collect();
    [shell, layer(|tar| file(tar, "noise", &noise))]
}

fn descriptor(media: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media, "digest": format!("sha256:{}", Digest::of(bytes)), "size": bytes.len() })
}

impl ImageRegistry {
    /// A registry without sign-in, or `None`, said loudly, where it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        if !have(PROGRAM) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let host = format!("127.0.0.1:{port}");
        let storage = folder.path().join("storage");
        let settings = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n",
            storage.display()
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, settings).unwrap();
        let process = Command::new(PROGRAM)
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { process, host, _folder: folder };
        until(
            "the registry listens",
            || async move { std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() },
        )
        .await;
        Some(registry)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.host)
    }

    async fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let client = http();
        let begun = client.post(self.url(&format!("{repository}/blobs/uploads/"))).send().await.unwrap();
        let at = begun.headers()["location"].to_str().unwrap().to_owned();
        let sign = if at.contains('?') { '&' } else { '?' };
        let put = client.put(format!("{at}{sign}digest=sha256:{}", Digest::of(bytes)));
        let done = put.body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(done.status(), 201);
    }

    async fn push_manifest(&self, repository: &str, tag: &str, manifest: &Value) -> Vec<u8> {
        let bytes = manifest.to_string().into_bytes();
        let put = http().put(self.url(&format!("{repository}/manifests/{tag}")));
        let put = put.header("content-type", manifest["mediaType"].as_str().unwrap()).body(bytes.clone());
        assert_eq!(put.send().await.unwrap().status(), 201);
        bytes
    }

    /// An index with the tag `1`: the same files for two platforms.
    pub(crate) async fn push_base(&self, repository: &str) {
        let layers = layers();
        for (bytes, _) in &layers {
            self.push_blob(repository, bytes).await;
        }
        let mut entries = Vec::new();
        for architecture in ["arm64", "amd64"] {
            let diffs: Vec<String> = layers.iter().map(|(_, diff)| format!("sha256:{diff}")).collect();
            let config = json!({
                "os": "linux", "architecture": architecture,
                "config": { "Env": ["PATH=/bin"], "User": "0" },
                "rootfs": { "type": "layers", "diff_ids": diffs },
                "history": [{ "created_by": "shell" }, { "created_by": "noise" }],
            });
            let config = config.to_string().into_bytes();
            self.push_blob(repository, &config).await;
            let media = "application/vnd.oci.image.layer.v1.tar+gzip";
            let all: Vec<Value> = layers.iter().map(|(bytes, _)| descriptor(media, bytes)).collect();
            let manifest = json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "layers": all,
                "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            });
            let bytes = self.push_manifest(repository, architecture, &manifest).await;
            let mut entry = descriptor(MANIFEST, &bytes);
            entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            entries.push(entry);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        self.push_manifest(repository, "1", &index).await;
    }

    /// The manifest that a tag or a digest names, and its digest.
    pub(crate) async fn manifest(&self, repository: &str, version: &str) -> Option<(String, Value)> {
        let get = http().get(self.url(&format!("{repository}/manifests/{version}")));
        let answer = get.header("accept", MANIFEST).send().await.unwrap();
        if !answer.status().is_success() {
            return None;
        }
        let bytes = answer.bytes().await.unwrap();
        Some((format!("sha256:{}", Digest::of(&bytes)), serde_json::from_slice(&bytes).unwrap()))
    }

    /// A blob; none when the repository does not have it.
    pub(crate) async fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let url = self.url(&format!("{repository}/blobs/{digest}"));
        let answer = http().get(url).send().await.unwrap();
        if !answer.status().is_success() {
            return None;
        }
        let bytes = answer.bytes().await.unwrap().to_vec();
        assert_eq!(format!("sha256:{}", Digest::of(&bytes)), digest);
        Some(bytes)
    }

    pub(crate) async fn delete_blob(&self, repository: &str, digest: &str) {
        let url = self.url(&format!("{repository}/blobs/{digest}"));
        assert_eq!(http().delete(url).send().await.unwrap().status(), 202);
    }

    /// Digests of the base's layers, bottom first.
    pub(crate) fn base_layers() -> Vec<String> {
        layers().iter().map(|(bytes, _)| format!("sha256:{}", Digest::of(bytes))).collect()
    }
}
