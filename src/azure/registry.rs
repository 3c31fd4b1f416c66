//! An image registry, as far as putting an image on a base needs it (OCI distribution specification 1.1).
//!
//! Blobs are looked for before they are sent, and sent in parts, so that whoever was cut short goes on where it was.

use std::sync::Arc;

use azure_core::http::headers::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, Headers, WWW_AUTHENTICATE,
};
use azure_core::http::{Method, Request, Url};
use bytes::Bytes;
use serde_json::Value;

use super::registry_door::{Door, RegistryError};
use super::registry_login::{Login, authorization};
use super::transport::{Answer, Wire};
use crate::deploy::ids::Digest;
use crate::deploy::image::{MANIFEST, MANIFESTS};

const LOCATION: HeaderName = HeaderName::from_static("location");
const RANGE: HeaderName = HeaderName::from_static("range");
const CONTENT_RANGE: HeaderName = HeaderName::from_static("content-range");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Largest manifest or configuration that is read; the specification asks registries for as much.
const MOST_BYTES: usize = 4 << 20;
/// Places that a blob may be moved to on its way.
const HOPS: usize = 3;

/// Whether an upload has begun.
pub(super) enum Begun {
    /// It was there in another repository.
    Mounted,
    /// Its parts go to this address.
    At(String),
}

/// A registry that was signed in to, for a few repositories and a few minutes.
pub struct Session {
    pub(super) door: Door,
    authorization: Option<String>,
}

impl Session {
    /// Signs in at the registry with this host, for these scopes.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn open(
        wire: &Wire,
        host: &str,
        login: &Login,
        scopes: &[String],
    ) -> Result<Self, RegistryError> {
        let door = Door::new(wire, host)?;
        let answer = door.ask(Request::new(door.url("")?, Method::Get)).await?;
        let challenge = answer.headers.get_optional_string(&WWW_AUTHENTICATE);
        let authorization = match (answer.status, challenge) {
            (200, _) => None,
            (401, Some(challenge)) => authorization(&door, login, &challenge, scopes).await?,
            _ => return Err(door.error(&answer)),
        };
        Ok(Self { door, authorization })
    }

    /// Asks as who we are; an address elsewhere is asked as nobody, because a token that went to a foreign host would be lost.
    pub(super) async fn ask(&self, mut request: Request) -> Result<Answer, RegistryError> {
        let (here, there) = (&self.door.base, request.url());
        let ours = here.host_str() == there.host_str()
            && here.port_or_known_default() == there.port_or_known_default();
        if let Some(authorization) = self.authorization.as_ref().filter(|_| ours) {
            request.insert_header(AUTHORIZATION, authorization.clone());
        }
        self.door.ask(request).await
    }

    /// Where an answer points to.
    fn location(&self, headers: &Headers) -> Result<Url, RegistryError> {
        let text = headers.get_optional_str(&LOCATION);
        let url = text.and_then(|text| self.door.base.join(text).ok());
        url.map(|url| Wire::secure(&url)).ok_or_else(|| self.door.refused("its answer points nowhere"))
    }

    /// The manifest that a tag or a digest names, with its digest; `None` when there is none.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn manifest(
        &self,
        repository: &str,
        version: &str,
    ) -> Result<Option<(Digest, Value)>, RegistryError> {
        let mut request =
            Request::new(self.door.url(&format!("{repository}/manifests/{version}"))?, Method::Get);
        request.insert_header(ACCEPT, MANIFESTS.join(", "));
        let answer = self.ask(request).await?;
        match answer.status {
            200 if answer.body.len() <= MOST_BYTES => {
                let manifest = serde_json::from_slice(&answer.body);
                let manifest = manifest.map_err(|_| self.door.refused("its manifest is not JSON"))?;
                let digest = Digest::of(&answer.body);
                if version.strip_prefix("sha256:").is_some_and(|wanted| wanted != digest.to_string()) {
                    return Err(self.door.refused("its manifest is not what its digest says"));
                }
                Ok(Some((digest, manifest)))
            }
            200 => Err(self.door.refused("its manifest is too large")),
            404 => Ok(None),
            _ => Err(self.door.error(&answer)),
        }
    }

    /// A small blob, checked.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn small(&self, repository: &str, digest: Digest, size: u64) -> Result<Bytes, RegistryError> {
        if size > MOST_BYTES as u64 {
            return Err(self.door.refused("a configuration is too large"));
        }
        let bytes = self.part(repository, digest, (0, size)).await?;
        if Digest::of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(self.door.refused("a blob is not what its digest says"))
        }
    }

    /// The bytes of a blob from the first to before the second.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn part(
        &self,
        repository: &str,
        digest: Digest,
        (from, to): (u64, u64),
    ) -> Result<Bytes, RegistryError> {
        let mut url = self.door.url(&format!("{repository}/blobs/sha256:{digest}"))?;
        for _ in 0..HOPS {
            let mut request = Request::new(url, Method::Get);
            request.insert_header(RANGE, format!("bytes={from}-{}", to.saturating_sub(1)));
            let answer = self.ask(request).await?;
            // A registry that knows no ranges gives all of it, which must not be once for each part.
            let skipped = match answer.status {
                200 if answer.body.len() > MOST_BYTES => {
                    let why = "it gives large blobs as a whole only; import the base into your own registry";
                    return Err(self.door.refused(why));
                }
                200 => from,
                206 => 0,
                301..=303 | 307 | 308 => {
                    url = self.location(&answer.headers)?;
                    continue;
                }
                _ => return Err(self.door.error(&answer)),
            };
            let range = usize::try_from(skipped).ok().zip(usize::try_from(skipped + (to - from)).ok());
            let part = range
                .filter(|(_, end)| *end <= answer.body.len())
                .map(|(start, end)| answer.body.slice(start..end));
            return part.ok_or_else(|| self.door.unavailable(&"a blob came cut short"));
        }
        Err(self.door.refused("a blob is moved on and on"))
    }

    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn has(&self, repository: &str, digest: Digest) -> Result<bool, RegistryError> {
        let url = self.door.url(&format!("{repository}/blobs/sha256:{digest}"))?;
        let answer = self.ask(Request::new(url, Method::Head)).await?;
        match answer.status {
            // Some say where it is, which is as good.
            200..=399 => Ok(true),
            404 => Ok(false),
            _ => Err(self.door.error(&answer)),
        }
    }

    /// Begins an upload; `from` may have the blob already.
    pub(super) async fn begin(
        &self,
        repository: &str,
        digest: Digest,
        from: Option<&str>,
    ) -> Result<Begun, RegistryError> {
        let mut url = self.door.url(&format!("{repository}/blobs/uploads/"))?;
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("mount", &format!("sha256:{digest}")).append_pair("from", from);
        }
        let mut request = Request::new(url, Method::Post);
        request.insert_header(CONTENT_LENGTH, "0");
        let answer = self.ask(request).await?;
        match answer.status {
            201 => Ok(Begun::Mounted),
            202 => Ok(Begun::At(self.location(&answer.headers)?.to_string())),
            _ => Err(self.door.error(&answer)),
        }
    }

    /// Sends the next part; gives the address of the one after it, or none when the upload is lost.
    pub(super) async fn append(
        &self,
        at: &str,
        from: u64,
        part: Bytes,
    ) -> Result<Option<String>, RegistryError> {
        let Ok(url) = at.parse::<Url>() else { return Ok(None) };
        let mut request = Request::new(url, Method::Patch);
        request.insert_header(CONTENT_TYPE, "application/octet-stream");
        request.insert_header(CONTENT_LENGTH, part.len().to_string());
        let last = (from + part.len() as u64).saturating_sub(1);
        request.insert_header(CONTENT_RANGE, format!("{from}-{last}"));
        request.set_body(part);
        let answer = self.ask(request).await?;
        match answer.status {
            201 | 202 => Ok(Some(self.location(&answer.headers)?.to_string())),
            400 | 404 | 416 => Ok(None),
            _ => Err(self.door.error(&answer)),
        }
    }

    /// Ends an upload; false when it is lost, or its bytes are not those of the digest.
    pub(super) async fn finish(&self, at: &str, digest: Digest) -> Result<bool, RegistryError> {
        let Ok(mut url) = at.parse::<Url>() else { return Ok(false) };
        url.query_pairs_mut().append_pair("digest", &format!("sha256:{digest}"));
        let mut request = Request::new(url, Method::Put);
        request.insert_header(CONTENT_LENGTH, "0");
        let answer = self.ask(request).await?;
        match answer.status {
            201 | 204 => Ok(true),
            400 | 404 | 416 => Ok(false),
            _ => Err(self.door.error(&answer)),
        }
    }

    /// Gives the image of this manifest a tag.
    ///
    /// # Errors
    /// [`RegistryError`]; also when the registry keeps something else than it was given.
    pub async fn tag(&self, repository: &str, tag: &str, manifest: &[u8]) -> Result<(), RegistryError> {
        let mut request = Request::new(self.door.url(&format!("{repository}/manifests/{tag}"))?, Method::Put);
        request.insert_header(CONTENT_TYPE, MANIFEST);
        request.set_body(manifest.to_vec());
        let answer = self.ask(request).await?;
        if answer.status != 201 {
            return Err(self.door.error(&answer));
        }
        let wanted = format!("sha256:{}", Digest::of(manifest));
        match answer.headers.get_optional_str(&CONTENT_DIGEST) {
            Some(kept) if kept != wanted => {
                Err(self.door.refused("it keeps another manifest than it was given"))
            }
            _ => Ok(()),
        }
    }

    /// The token of this session, for somebody who may use its repositories and no others; none where the registry wants
    /// none.
    ///
    /// # Errors
    /// [`RegistryError`] where the sign-in is by a password, which would be good for everything.
    pub fn pass(&self) -> Result<Option<&str>, RegistryError> {
        let Some(authorization) = &self.authorization else { return Ok(None) };
        let token = authorization.strip_prefix("Bearer ");
        token.map(Some).ok_or_else(|| self.door.refused("it gives no token for one repository only"))
    }

    /// An error that asking again does not mend.
    #[must_use]
    pub fn refuses(&self, why: &str) -> RegistryError {
        self.door.refused(why)
    }
}

/// What every session needs, and who signs in where.
#[derive(Clone)]
pub struct Registries {
    wire: Wire,
    own: String,
    login: Arc<Login>,
}

impl Registries {
    /// The registry with the host `own` is signed in to by `login`; others are read as nobody.
    #[must_use]
    pub fn new(wire: Wire, own: String, login: Login) -> Self {
        Self { wire, own, login: Arc::new(login) }
    }

    /// The host of our own registry.
    #[must_use]
    pub fn own(&self) -> &str {
        &self.own
    }

    /// Signs in.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn session(&self, host: &str, scopes: &[String]) -> Result<Session, RegistryError> {
        let login = if host == self.own { self.login.as_ref() } else { &Login::Nobody };
        Session::open(&self.wire, host, login, scopes).await
    }

    /// The image that our registry has under a tag.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn tagged(&self, repository: &str, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let session = self.session(&self.own, &[format!("repository:{repository}:pull")]).await?;
        Ok(session.manifest(repository, tag).await?.map(|(digest, _)| digest))
    }
}
