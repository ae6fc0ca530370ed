//! Bodies, read within bounds.
//!
//! A body that says it is too large is refused before a byte of it is read; one that does not say
//! is refused where it passes the limit. The bytes of all bodies together are bounded: room for a
//! body is taken before it is read and given back when its request is done.

use super::failure::Failure;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit of the room stands for.
const BYTES_PER_PERMIT: usize = 1_024;

/// Room for the bodies of all requests.
#[derive(Debug, Clone)]
pub(super) struct BodyRoom(Arc<Semaphore>);

/// A body and the room that it takes.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl BodyRoom {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / BYTES_PER_PERMIT)))
    }

    /// Reads a body of at most `limit` bytes; `what` names it in errors.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        what: &str,
        limit: usize,
    ) -> Result<ReadBody, Failure> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes: usize| bytes > limit) {
            return Err(Failure::too_large(what, limit));
        }
        let expected = announced.unwrap_or(limit);
        let permits = u32::try_from(expected.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let room = Arc::clone(&self.0).acquire_many_owned(permits).await.ok();
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default());
        let mut parts = body.into_data_stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| {
                Failure::new(StatusCode::BAD_REQUEST, "cut_off", format!("{what} could not be read: {error}"))
            })?;
            if bytes.len() + part.len() > limit {
                return Err(Failure::too_large(what, limit));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(ReadBody { bytes: bytes.freeze(), _room: room })
    }
}
