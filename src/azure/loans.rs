//! Content that is lent to a build: readable by its address alone, for as long as the build may take.
//!
//! The address is a user delegation SAS ("Create a user delegation SAS", version 2022-11-02): signed with a key that the
//! service gives to our identity, for one blob, for reading, by https. No key of the account is used.

use std::time::Duration;

use azure_core::credentials::Secret;
use azure_core::error::ErrorKind;
use azure_core::hmac::hmac_sha256;
use azure_core::http::{StatusCode, Url};
use azure_core::time::OffsetDateTime;
use azure_core::{Error, base64};
use azure_storage_blob::models::KeyInfo;
use azure_storage_blob::{BlobClient, BlobServiceClient};
use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use secrecy::SecretString;

use super::blobs::{commit, stage};
use super::context::Blocks;
use super::upload::AT_ONCE;
use crate::ambient::before;
use crate::config::is_loopback;
use crate::deploy::builder::BuilderError;

/// Version of the signature: the newest that Azurite and every cloud know.
const VERSION: &str = "2022-11-02";
/// How long before now a signature is valid, because clocks differ.
const SKEW: Duration = Duration::from_secs(300);

/// The key that signs, as the service gave it.
struct Key {
    object: String,
    tenant: String,
    start: String,
    expiry: String,
    service: String,
    version: String,
    value: Secret,
}

/// Where it lies.
struct Place {
    address: Url,
    container: &'static str,
}

/// Lends blobs of one container.
pub struct Loans {
    service: BlobServiceClient,
    place: Place,
}

fn incomplete() -> Error {
    Error::with_message(ErrorKind::DataConversion, "the service's key lacks a part")
}

fn time(at: Timestamp) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(at.as_second())
        .map_err(|error| Error::new(ErrorKind::DataConversion, error))
}

/// As the signature wants it: seconds, UTC.
fn text(at: OffsetDateTime) -> Result<String, Error> {
    let at = Timestamp::from_second(at.unix_timestamp());
    at.map(|at| at.to_string()).map_err(|error| Error::new(ErrorKind::DataConversion, error))
}

fn refused(error: &Error) -> BuilderError {
    if error.http_status() == Some(StatusCode::Forbidden) {
        return BuilderError::Rejected {
            code: "AZURE_FORBIDDEN",
            message: "the identity of Windlass may not lend content to builds; it needs Storage Blob Data Contributor on the storage account".to_owned(),
        };
    }
    BuilderError::Unavailable(format!("Blob Storage: {error}"))
}

impl Loans {
    /// Lends what it puts into `container` of the service at `address`.
    #[must_use]
    pub fn new(service: BlobServiceClient, address: Url, container: &'static str) -> Self {
        Self { service, place: Place { address, container } }
    }

    fn blob(&self, name: &str) -> BlobClient {
        self.service.blob_client(self.place.container, name)
    }

    /// Stores the blocks as `name`, and gives the address at which everybody may read it from now until then.
    ///
    /// # Errors
    /// [`BuilderError`].
    pub async fn lend(
        &self,
        name: &str,
        blocks: Blocks,
        times: (Timestamp, Timestamp),
    ) -> Result<SecretString, BuilderError> {
        self.store(name, blocks).await?;
        self.address(name, times).await
    }

    /// Stores the blocks as `name`. Nothing is there before all of it is.
    ///
    /// # Errors
    /// [`BuilderError`].
    pub async fn store(&self, name: &str, blocks: Blocks) -> Result<(), BuilderError> {
        let blob = &self.blob(name).block_blob_client();
        let sent = blocks.enumerate().map(|(number, block)| async move {
            let staged = stage(blob, format!("{number:08}"), block?).await;
            staged.map_err(|error| refused(&error))
        });
        let ids: Vec<Vec<u8>> = sent.buffered(AT_ONCE).try_collect().await?;
        commit(blob, ids).await.map_err(|error| refused(&error))
    }

    /// The address at which everybody may read what is stored as `name`, from now until then.
    ///
    /// # Errors
    /// [`BuilderError`].
    pub async fn address(
        &self,
        name: &str,
        (now, until): (Timestamp, Timestamp),
    ) -> Result<SecretString, BuilderError> {
        let key = self.key(now, until).await.map_err(|error| refused(&error))?;
        let address = self.place.signed(name, &key).map_err(|error| refused(&error))?;
        Ok(SecretString::from(address))
    }

    /// Deletes what was lent. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// [`BuilderError`].
    pub async fn take_back(&self, name: &str) -> Result<(), BuilderError> {
        match self.blob(name).delete(None).await {
            Ok(_) => Ok(()),
            Err(error) if error.http_status() == Some(StatusCode::NotFound) => Ok(()),
            Err(error) => Err(refused(&error)),
        }
    }

    async fn key(&self, now: Timestamp, until: Timestamp) -> Result<Key, Error> {
        let start = time(before(now, SKEW))?;
        let info = KeyInfo { start: Some(start), expiry: Some(time(until)?), ..KeyInfo::default() };
        let key = self.service.get_user_delegation_key(info.try_into()?, None).await?.into_model()?;
        Ok(Key {
            object: key.signed_oid.ok_or_else(incomplete)?,
            tenant: key.signed_tid.ok_or_else(incomplete)?,
            start: text(key.signed_start.ok_or_else(incomplete)?)?,
            expiry: text(key.signed_expiry.ok_or_else(incomplete)?)?,
            service: key.signed_service.ok_or_else(incomplete)?,
            version: key.signed_version.ok_or_else(incomplete)?,
            value: Secret::new(base64::encode(key.value.ok_or_else(incomplete)?)),
        })
    }
}

impl Place {
    /// The name of the account: in the host, and on loopback in the path.
    fn account(&self) -> &str {
        if is_loopback(&self.address) {
            return self.address.path().trim_matches('/').split('/').next().unwrap_or_default();
        }
        self.address.host_str().unwrap_or_default().split('.').next().unwrap_or_default()
    }

    fn signed(&self, name: &str, key: &Key) -> Result<String, Error> {
        let resource = format!("/blob/{}/{}/{name}", self.account(), self.container);
        // Empty: who else may use it, its trace, where from, a snapshot, an encryption scope, and headers of the answer.
        let said: [&str; 24] = [
            "r",
            &key.start,
            &key.expiry,
            &resource,
            &key.object,
            &key.tenant,
            &key.start,
            &key.expiry,
            &key.service,
            &key.version,
            "",
            "",
            "",
            "",
            "https",
            VERSION,
            "b",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
        ];
        let signature = hmac_sha256(&said.join("\n"), &key.value)?;
        let fields: [(&str, &str); 13] = [
            ("sp", "r"),
            ("st", &key.start),
            ("se", &key.expiry),
            ("skoid", &key.object),
            ("sktid", &key.tenant),
            ("skt", &key.start),
            ("ske", &key.expiry),
            ("sks", &key.service),
            ("skv", &key.version),
            ("spr", "https"),
            ("sv", VERSION),
            ("sr", "b"),
            ("sig", &signature),
        ];
        let mut query = self.address.clone();
        query.query_pairs_mut().clear().extend_pairs(fields);
        // With its port, though it is the usual one: kaniko takes an address without for one that the account's key opens
        // (its `AzureBlobStorageHostRegEx`).
        let port = self.address.port_or_known_default().unwrap_or(443);
        let host = self.address.host_str().unwrap_or_default();
        let path = self.address.path().trim_end_matches('/');
        let query = query.query().unwrap_or_default();
        Ok(format!("https://{host}:{port}{path}/{}/{name}?{query}", self.container))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Azurite judges the signature; this is about the address.
    #[test]
    fn an_address_names_its_port_and_the_account_is_found() {
        let place = |address: &str| Place { address: address.parse().unwrap(), container: "content" };
        let key = Key {
            object: "o".to_owned(),
            tenant: "t".to_owned(),
            start: "2026-11-20T09:00:00Z".to_owned(),
            expiry: "2026-11-20T10:00:00Z".to_owned(),
            service: "b".to_owned(),
            version: "v".to_owned(),
            value: Secret::new("a2V5"),
        };
        let public = place("https://wlstore.blob.core.windows.net/");
        assert_eq!(public.account(), "wlstore");
        let address = public.signed("context-1", &key).unwrap();
        assert!(
            address.starts_with(
                "https://wlstore.blob.core.windows.net:443/content/context-1?sp=r&st=2026-11-20T09%3A00%3A00Z"
            ),
            "{address}"
        );
        assert_eq!(place("http://127.0.0.1:9/devstoreaccount1").account(), "devstoreaccount1");
    }
}
