//! Watches as server-sent events.
//!
//! A stream ends when the client goes, takes nothing for [`super::WRITE_TIMEOUT`], the member stops, or the client's
//! token is revoked, which the last event says; the deadlines of a request's head and of its answer are not for it
//! ([`Turns`](super::connection::Turns)).

use super::connection::{Arrival, Held};
use super::failure::Failure;
use super::names;
use super::query::Query;
use super::routes::Shared;
use crate::model::key::check_collection;
use crate::model::limits::{MAX_COLLECTION_BYTES, MAX_KEY_BYTES};
use crate::model::token::Role;
use crate::node::access::{Access, Caller, Origin};
use crate::node::handle::{Cursor, CursorError, Interest, Watch};
use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use std::convert::Infallible;

/// What a client sends that lost its connection: the last `id` that it got.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `GET /v1/watch/{collection}`
pub(super) async fn watch(
    State(shared): State<Shared>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::parse(&uri, &["prefix", "cursor", "values"])?;
    let collection = collection_in(&uri)?;
    let prefix = query.bytes("prefix").unwrap_or_default().to_vec();
    if prefix.len() > MAX_KEY_BYTES {
        let message = format!("`prefix` is longer than a key, {MAX_KEY_BYTES} bytes");
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad_parameter", message));
    }
    let with_values = query.flag("values")?.unwrap_or(true);
    let cursor = cursor_in(&query, &headers)?;
    let interest = Interest { collection: Some(collection.clone()), prefix };
    let watch = shared.handle.watch(interest, with_values, cursor).await?;
    let reader =
        Reader { collection, access: shared.access.clone(), origin: arrival.origin, caller: Some(caller) };
    let open = Open { watch: Some(watch), reader, _held: arrival.turns.hold() };
    let pieces = futures_util::stream::unfold(open, async |mut open| {
        let piece = open.next().await?;
        Some((Ok::<_, Infallible>(piece), open))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // Proxies must hand on what comes as it comes.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// A watch and the client that reads it.
struct Open {
    watch: Option<Watch>,
    reader: Reader,
    _held: Held,
}

impl Open {
    /// The next piece. Nothing is given any more to who may not read it any more: that is the last it hears.
    async fn next(&mut self) -> Option<Bytes> {
        let mut watch = self.watch.take()?;
        tokio::select! {
            biased;
            () = self.reader.lost() => {
                let message =
                    "the token that this watch was opened with is not valid any more, or may not read this";
                Some(Watch::ending("unauthenticated", message))
            }
            piece = watch.next() => {
                self.watch = Some(watch);
                piece
            }
        }
    }
}

/// Who reads, for as long as it may.
struct Reader {
    collection: String,
    access: Access,
    origin: Origin,
    caller: Option<Caller>,
}

impl Reader {
    /// Completes once it may read no more. Nothing is lost when it is dropped before.
    async fn lost(&mut self) {
        while self.caller.as_ref().is_some_and(|caller| caller.allows(Role::Read, &self.collection)) {
            self.access.changed().await;
            self.caller = self.access.review(self.origin, self.caller.take());
        }
    }
}

fn collection_in(uri: &Uri) -> Result<String, Failure> {
    let name = uri.path().strip_prefix("/v1/watch/").unwrap_or_default();
    if name.len() > 3 * MAX_COLLECTION_BYTES {
        return Err(Failure::new(StatusCode::URI_TOO_LONG, "bad_key", "the collection's name is too long"));
    }
    let collection = names::collection_in(name);
    check_collection(&collection)?;
    Ok(collection)
}

/// The cursor of the query, else that of the header; an empty header says that there was none.
fn cursor_in(query: &Query, headers: &HeaderMap) -> Result<Option<Cursor>, Failure> {
    let bad = |error: CursorError| Failure::new(StatusCode::BAD_REQUEST, "bad_cursor", error.to_string());
    if let Some(text) = query.text("cursor")? {
        return text.parse().map(Some).map_err(bad);
    }
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.to_str().map_err(|_| bad(CursorError))?;
    text.parse().map(Some).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::{Grant, Token, Tokens};
    use crate::security::{ClusterKeys, Keyring, Secret};
    use std::sync::Arc;

    #[tokio::test]
    async fn who_reads_is_lost_when_its_token_is_another_one_and_not_when_others_come() {
        let keys = ClusterKeys::derive(&Secret::parse("a secret of sixteen bytes").unwrap(), "c").unwrap();
        let (publisher, access) = Access::new(Keyring::new(keys, None), false);
        let tokens = |others: &[&str], role| {
            let made = others.iter().chain(&["app"]).map(|name| {
                let grants = vec![Grant { role, collections: "a".to_owned() }];
                (name.as_bytes(), Token::create(name, name, grants, 0).unwrap().0.encode())
            });
            let made: Vec<_> = made.collect();
            Arc::new(Tokens::from_records(made.iter().map(|(name, value)| (*name, value.as_slice()))))
        };
        publisher.publish(&tokens(&[], Role::Read));
        let origin = Origin { local: false, encrypted: false };
        let caller = access.admit(origin, Some("kith_app_app")).unwrap();
        let mut reader = Reader { collection: "a".to_owned(), access, origin, caller: Some(caller) };
        let mut ends = std::pin::pin!(reader.lost());
        publisher.publish(&tokens(&["other"], Role::Read));
        let is_over = std::future::poll_fn(|cx| std::task::Poll::Ready(ends.as_mut().poll(cx).is_ready()));
        assert!(!is_over.await, "another token came");
        publisher.publish(&tokens(&["other"], Role::Write));
        ends.await;
    }
}
