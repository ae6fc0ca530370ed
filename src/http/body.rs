//! Bodies, read within bounds.
//!
//! A body that says it is too large is refused before a byte of it is read; one that does not say
//! is refused where it passes the limit. The bytes of all bodies together are bounded: room for a
//! body is taken before it is read and given back when its request is done.
//!
//! Of a body that is refused some is still taken off the wire and thrown away, beside the answer: a
//! connection that ends with unread bytes is reset, and its client would see that instead of the reason.

use super::failure::Failure;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit of the room stands for.
const BYTES_PER_PERMIT: usize = 1_024;
/// Bytes of a refused body that are thrown away: far more than is on its way before the client sees the answer.
const DISCARDED_BYTES: usize = 64 << 20;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

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
        let mut parts = body.into_data_stream();
        if announced.is_some_and(|bytes: usize| bytes > limit) {
            return Err(discarding(headers, parts, Failure::too_large(what, limit)));
        }
        let expected = announced.unwrap_or(limit);
        let permits = u32::try_from(expected.div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let room = Arc::clone(&self.0).acquire_many_owned(permits).await.ok();
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default());
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| {
                Failure::new(StatusCode::BAD_REQUEST, "cut_off", format!("{what} could not be read: {error}"))
            })?;
            if bytes.len() + part.len() > limit {
                tokio::spawn(discard(parts));
                return Err(Failure::too_large(what, limit));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(ReadBody { bytes: bytes.freeze(), _room: room })
    }

    /// Refuses a request for another reason than its body, which is not read.
    pub(super) fn refuse(&self, headers: &HeaderMap, body: Body, failure: Failure) -> Failure {
        discarding(headers, body.into_data_stream(), failure)
    }
}

fn discarding(headers: &HeaderMap, parts: BodyDataStream, failure: Failure) -> Failure {
    // Who waits to be told to go on sends nothing now.
    if !headers.contains_key(header::EXPECT) {
        tokio::spawn(discard(parts));
    }
    failure
}

async fn discard(mut parts: BodyDataStream) {
    let discarded = async {
        let mut room = DISCARDED_BYTES;
        while let Some(Ok(part)) = parts.next().await {
            match room.checked_sub(part.len()) {
                Some(left) => room = left,
                None => return,
            }
        }
    };
    // Either way the connection ends with what is left.
    _ = tokio::time::timeout(DISCARD_TIMEOUT, discarded).await;
}
