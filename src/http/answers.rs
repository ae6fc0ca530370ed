//! Large answers, their bytes bounded together.
//!
//! An answer is in memory until its client has taken it, and a client may take its time. So what is large takes room
//! and gives it back with its last byte, or with its connection. A read that finds no room is refused: what it
//! brought is let go at once. A batch also changes things, so it waits for its room before it begins.

use super::MAX_BATCH_ANSWER_BYTES;
use super::failure::Failure;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit of the room stands for.
const BYTES_PER_PERMIT: usize = 1_024;
/// Answers up to this size take no room: connections are bounded, too.
const SMALL_BYTES: usize = 16 << 10;

/// Room for the answers to all requests.
#[derive(Debug, Clone)]
pub(super) struct AnswerRoom(Arc<Semaphore>);

/// Bytes and the room that they take.
struct Held {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Room that was taken before it is known how much is needed.
pub(super) struct Reserved(Option<OwnedSemaphorePermit>);

const fn permits(bytes: usize) -> u32 {
    let permits = bytes.div_ceil(BYTES_PER_PERMIT);
    if permits > u32::MAX as usize { u32::MAX } else { permits as u32 }
}

impl AnswerRoom {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / BYTES_PER_PERMIT)))
    }

    /// Takes room for bytes until they and all parts of them are gone.
    pub(super) fn hold(&self, bytes: Bytes) -> Result<Bytes, Failure> {
        if bytes.len() <= SMALL_BYTES {
            return Ok(bytes);
        }
        let room = Arc::clone(&self.0).try_acquire_many_owned(permits(bytes.len())).map_err(|_| {
            let message = "too many large answers are on their way to clients; try again shortly";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
        })?;
        Ok(Bytes::from_owner(Held { bytes, _room: Some(room) }))
    }

    /// A document as an answer.
    pub(super) fn json(&self, document: &impl Serialize) -> Result<Response, Failure> {
        Ok(json(self.hold(encoded(document))?))
    }

    /// Waits for room for as much as a batch may find.
    pub(super) async fn reserve(&self) -> Reserved {
        // The semaphore is never closed.
        Reserved(Arc::clone(&self.0).acquire_many_owned(permits(MAX_BATCH_ANSWER_BYTES)).await.ok())
    }
}

impl Reserved {
    /// For what needs no room.
    pub(super) const fn nothing() -> Self {
        Self(None)
    }

    /// A document as an answer, which keeps as much of the room as it needs.
    pub(super) fn json(mut self, document: &impl Serialize) -> Response {
        let bytes = encoded(document);
        let needed = permits(bytes.len()) as usize;
        if let Some(room) = &mut self.0 {
            let surplus = room.num_permits().saturating_sub(needed);
            drop(room.split(surplus));
        }
        json(Bytes::from_owner(Held { bytes, _room: self.0 }))
    }
}

fn encoded(document: &impl Serialize) -> Bytes {
    // Documents are plain data with text for keys, which always has a form as JSON.
    serde_json::to_vec(document).unwrap_or_default().into()
}

fn json(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    #[test]
    fn room_is_taken_until_the_last_part_of_an_answer_is_gone() {
        let room = AnswerRoom::new(100 << 10);
        let value = || Bytes::from(vec![7; 60 << 10]);
        let held = room.hold(value()).unwrap();
        let part = held.slice(5..9);
        drop(held);
        let refused = room.hold(value()).unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(room.hold(Bytes::from(vec![7; SMALL_BYTES])).is_ok(), "what is small is always answered");
        drop(part);
        assert!(room.hold(value()).is_ok());
    }

    #[tokio::test]
    async fn a_batch_gives_back_what_its_answer_does_not_need() {
        let room = AnswerRoom::new(MAX_BATCH_ANSWER_BYTES);
        let reserved = room.reserve().await;
        assert_eq!(room.0.available_permits(), 0);
        let answer = reserved.json(&vec!["x"; 1_000]);
        assert_eq!(room.0.available_permits(), MAX_BATCH_ANSWER_BYTES / BYTES_PER_PERMIT - 4);
        drop(answer);
        assert_eq!(room.0.available_permits(), MAX_BATCH_ANSWER_BYTES / BYTES_PER_PERMIT);
    }
}
