//! Microsoft's storage emulator, started for one test, with a token that it accepts.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use azure_core::base64::encode_url_safe;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use serde_json::json;
use windlass::azure::services::Services;
use windlass::config::AzureSettings;

use super::settings;
use crate::e2e::{have, until};

/// A running emulator.
pub(crate) struct Azurite {
    process: Child,
    pub(crate) settings: AzureSettings,
    folder: tempfile::TempDir,
}

/// A token as Microsoft's sign-in makes them, but signed by nobody: Azurite looks at what it says only.
#[derive(Debug)]
pub(crate) struct Unsigned;

#[async_trait]
impl TokenCredential for Unsigned {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let part =
            |value: serde_json::Value| encode_url_safe(value.to_string()).trim_end_matches('=').to_owned();
        let head = part(json!({ "alg": "RS256", "typ": "JWT" }));
        let claims = part(json!({
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000001/",
            "oid": "00000000-0000-0000-0000-000000000003", "tid": "00000000-0000-0000-0000-000000000001",
            "nbf": now - 60, "iat": now - 60, "exp": now + 3_600,
        }));
        let token = format!("{head}.{claims}.c2lnbmVk");
        Ok(AccessToken::new(token, OffsetDateTime::now_utc() + Duration::from_secs(3_600)))
    }
}

/// Within this the emulator has made what is asked of it first.
const SOON: Duration = Duration::from_secs(15);

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A root certificate in `root.pem`, and one for 127.0.0.1 that it signed.
pub(crate) fn certificates(folder: &Path) -> PathBuf {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let root =
        ["req", "-x509", "-keyout", "root.key", "-out", "root.pem", "-days", "30", "-subj", "/CN=root"];
    openssl(folder, &[&root[..], &key].concat());
    let leaf = ["req", "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=127.0.0.1"];
    openssl(folder, &[&leaf[..], &key].concat());
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let sign = "x509 -req -in leaf.csr -CA root.pem -CAkey root.key -CAcreateserial -out leaf.pem -days 30 -extfile names";
    openssl(folder, &sign.split(' ').collect::<Vec<_>>());
    folder.join("root.pem")
}

impl Azurite {
    /// An emulator with its containers and its queue, or `None`, said loudly, where it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        if !["azurite", "openssl"].iter().all(|tool| have(tool)) {
            return None;
        }
        // Somebody else may take a port in the moment until the emulator has it.
        for _ in 0..3 {
            let azurite = Self::begin().await;
            if tokio::time::timeout(SOON, azurite.furnish()).await.is_ok_and(|done| done.is_ok()) {
                return Some(azurite);
            }
        }
        panic!("the emulator does not start");
    }

    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = certificates(folder.path());
        let (blobs, queues) = (free_port(), free_port());
        let port = |port: u16| port.to_string();
        let process = Command::new("azurite")
            .args(["--silent", "--loose", "--inMemoryPersistence", "--disableTelemetry", "--oauth", "basic"])
            .args(["--cert", "leaf.pem", "--key", "leaf.key", "--tableHost", "127.0.0.1", "--tablePort", "0"])
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port(blobs)])
            .args(["--queueHost", "127.0.0.1", "--queuePort", &port(queues)])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let address = |port| format!("https://127.0.0.1:{port}/devstoreaccount1");
        let settings = settings(&[
            ("WINDLASS_BLOB_ENDPOINT", &address(blobs)),
            ("WINDLASS_QUEUE_ENDPOINT", &address(queues)),
            ("WINDLASS_ROOT_CERTIFICATE", root.to_str().unwrap()),
        ]);
        let azurite = Self { process, settings, folder };
        for port in [blobs, queues] {
            until(
                "azurite listens",
                || async move { std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() },
            )
            .await;
        }
        azurite
    }

    /// Makes the containers and the queue.
    async fn furnish(&self) -> azure_core::Result<()> {
        let services = self.services();
        services.content().unwrap().create(None).await?;
        services.logs().unwrap().create(None).await?;
        services.alarms().unwrap().create(None).await?;
        Ok(())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn services(&self) -> Services {
        Services::with(&self.settings, Arc::new(Unsigned)).unwrap()
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
