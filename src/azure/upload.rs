//! Puts content at an address that carries its own permission.
//!
//! It goes in blocks, some at the same time. Each has a time limit of its own, so that the whole may take as long as its
//! size asks for. An upload that is cut short begins anew, at another address: who knows an address may write there, so
//! it is not kept.

use azure_core::base64::encode;
use azure_core::http::headers::CONTENT_TYPE;
use azure_core::http::{Context, Method, Pipeline, Request, Url};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::context::{Blocks, ContextError};

/// Blocks on their way at the same time; with the one that is being packed they are what is held in memory.
pub(super) const AT_ONCE: usize = 4;

/// Why content did not get there.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// It cannot be read.
    #[error(transparent)]
    Content(#[from] ContextError),
    /// It cannot be written.
    #[error("the place for the content cannot be written: {0}")]
    Place(azure_core::Error),
}

fn request(place: &Url, query: &[(&str, &str)]) -> Request {
    let mut url = place.clone();
    url.query_pairs_mut().extend_pairs(query);
    Request::new(url, Method::Put)
}

async fn send(pipeline: &Pipeline, mut request: Request) -> Result<(), UploadError> {
    pipeline.send(&Context::new(), &mut request, None).await.map(drop).map_err(UploadError::Place)
}

/// Writes the blocks as one blob at `place`. Nothing is there before all of it is.
///
/// # Errors
/// [`UploadError`].
pub async fn upload(pipeline: &Pipeline, place: &Url, blocks: Blocks) -> Result<(), UploadError> {
    let sent = blocks.enumerate().map(|(number, block)| async move {
        let id = encode(format!("{number:08}"));
        let mut request = request(place, &[("comp", "block"), ("blockid", id.as_str())]);
        request.set_body(block?);
        send(pipeline, request).await?;
        Ok::<String, UploadError>(id)
    });
    let ids: Vec<String> = sent.buffered(AT_ONCE).try_collect().await?;
    let latest: String = ids.iter().map(|id| format!("<Latest>{id}</Latest>")).collect();
    let mut request = request(place, &[("comp", "blocklist")]);
    request.insert_header(CONTENT_TYPE, "application/xml");
    request.insert_header("x-ms-blob-content-type", "application/gzip");
    request.set_body(format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{latest}</BlockList>"));
    send(pipeline, request).await
}
