//! `/sources`: a manifest first, then the contents that are missing.

use std::io::Write as _;

use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use serde::Deserialize;

use super::Api;
use super::deployments::json;
use super::problem::Problem;
use crate::api::{self, batch};
use crate::deploy::blobs::{BlobError, BlobWriter};
use crate::deploy::ids::{Digest, Name};
use crate::deploy::source::FileEntry;

/// `POST /sources`.
pub(super) async fn create(api: Data<Api>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let accepted = async {
        let new: api::NewSource = serde_json::from_value(json(&request, &body)?)
            .map_err(|error| Problem::new("BAD_REQUEST", format!("the manifest cannot be read: {error}")))?;
        let org = owner(&new.organization_id)?;
        let entry = |file: api::File| {
            let sha256 = file.sha256.parse().map_err(|bad: crate::deploy::ids::BadId| {
                Problem::new("SOURCE_INVALID", format!("{}: {bad}", file.path))
            })?;
            Ok(FileEntry { path: file.path, size: file.size, mode: file.mode, sha256 })
        };
        let files = new.files.into_iter().map(entry).collect::<Result<Vec<_>, Problem>>()?;
        let accepted = api.windlass.accept_source(&org, files).await?;
        let missing = accepted.missing.iter().map(ToString::to_string).collect();
        Ok(HttpResponse::Ok().json(api::Source { source: accepted.digest.to_string(), missing }))
    };
    api.answer(&request, accepted.await)
}

fn owner(text: &str) -> Result<Name, Problem> {
    text.parse().map_err(|bad: crate::deploy::ids::BadId| Problem::field("/organizationId", bad.to_string()))
}

/// Query of `PUT /sources/blobs/{sha256}`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BlobQuery {
    organization_id: String,
}

/// `PUT /sources/blobs/{sha256}`: plain, or compressed with `Content-Encoding: zstd`; verified while it comes in.
pub(super) async fn put_blob(
    api: Data<Api>,
    request: HttpRequest,
    path: Path<String>,
    query: Result<Query<BlobQuery>, actix_web::Error>,
    payload: Payload,
) -> HttpResponse {
    let kept = async {
        let query = query.map_err(|error| Problem::query(&error))?;
        let org = owner(&query.organization_id)?;
        let digest: Digest = path
            .parse()
            .map_err(|bad: crate::deploy::ids::BadId| Problem::new("BAD_REQUEST", bad.to_string()))?;
        api.windlass.tools.retention.note_owner(&org).await?;
        let blobs = &api.windlass.tools.blobs;
        let mut writer = blobs.writer(&org, digest, api.windlass.tools.limits.source.file_bytes).await?;
        receive(&request, payload, writer.as_mut()).await?;
        writer.finish().await?;
        Ok(HttpResponse::Created().json(serde_json::json!({ "sha256": digest })))
    };
    api.answer(&request, kept.await)
}

/// A batch as it comes in: in memory, and no larger than a batch may be.
#[derive(Default)]
struct Gathered {
    content: Vec<u8>,
}

#[async_trait]
impl BlobWriter for Gathered {
    async fn write(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        // The heads of the contents come on top.
        const MOST: u64 = 2 * batch::MOST_BATCH_BYTES;
        if (self.content.len() + chunk.len()) as u64 > MOST {
            return Err(BlobError::TooLarge(MOST));
        }
        self.content.extend_from_slice(&chunk);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), BlobError> {
        Ok(())
    }
}

/// `POST /sources/blobs`: many small contents; see [`batch`]. Plain, or compressed with `Content-Encoding: zstd`.
pub(super) async fn put_batch(
    api: Data<Api>,
    request: HttpRequest,
    query: Result<Query<BlobQuery>, actix_web::Error>,
    payload: Payload,
) -> HttpResponse {
    let kept = async {
        let bad = |detail: &str| Problem::new("BAD_REQUEST", detail);
        let query = query.map_err(|error| Problem::query(&error))?;
        let org = owner(&query.organization_id)?;
        if request.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != batch::MEDIA_TYPE) {
            return Err(bad(&format!("a batch is {}", batch::MEDIA_TYPE)));
        }
        let mut gathered = Gathered::default();
        receive(&request, payload, &mut gathered).await?;
        let body = Bytes::from(gathered.content);
        let contents = batch::split(&body).ok_or_else(|| bad("the batch cannot be read"))?;
        let content = |(sha256, content): (&str, &[u8])| {
            let digest: Digest =
                sha256.parse().map_err(|error: crate::deploy::ids::BadId| bad(&error.to_string()))?;
            Ok((digest, body.slice_ref(content)))
        };
        let contents = contents.into_iter().map(content).collect::<Result<Vec<_>, Problem>>()?;
        let count = contents.len();
        api.windlass.tools.retention.note_owner(&org).await?;
        api.windlass.tools.blobs.keep_all(&org, contents).await?;
        Ok(HttpResponse::Created().json(serde_json::json!({ "kept": count })))
    };
    api.answer(&request, kept.await)
}

/// Writes a body, decompressed as its header says.
async fn receive(
    request: &HttpRequest,
    payload: Payload,
    writer: &mut dyn BlobWriter,
) -> Result<(), Problem> {
    match request.headers().get(header::CONTENT_ENCODING).map(header::HeaderValue::as_bytes) {
        None => plain(payload, writer).await,
        Some(b"zstd") => zstd(payload, writer).await,
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let detail = format!("Content-Encoding `{other}` is not known; use zstd or none");
            Err(Problem::new("BAD_REQUEST", detail))
        }
    }
}

async fn plain(mut payload: Payload, writer: &mut dyn BlobWriter) -> Result<(), Problem> {
    while let Some(chunk) = payload.next().await {
        writer
            .write(
                chunk
                    .map_err(|error| Problem::new("BAD_REQUEST", format!("the upload broke off: {error}")))?,
            )
            .await?;
    }
    Ok(())
}

async fn zstd(mut payload: Payload, writer: &mut dyn BlobWriter) -> Result<(), Problem> {
    let bad = |error: std::io::Error| Problem::new("BAD_REQUEST", format!("the upload is not zstd: {error}"));
    let mut decoder = ::zstd::stream::write::Decoder::new(Vec::new()).map_err(bad)?;
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|error| Problem::new("BAD_REQUEST", format!("the upload broke off: {error}")))?;
        // A small piece at a time, so that a bomb is stopped by the size limit and not by the memory.
        for piece in chunk.chunks(1024) {
            decoder.write_all(piece).map_err(bad)?;
            let plain = std::mem::take(decoder.get_mut());
            writer.write(Bytes::from(plain)).await?;
        }
    }
    decoder.flush().map_err(bad)?;
    Ok(writer.write(Bytes::from(std::mem::take(decoder.get_mut()))).await?)
}
