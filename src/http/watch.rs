//! Watches as server-sent events.
//!
//! A stream ends when the client goes, takes nothing for [`super::WRITE_TIMEOUT`], or the member stops; the
//! deadlines of a request's head and of its answer are not for it ([`Turns`](super::connection::Turns)).

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
    let open = Open {
        watch: Some(watch),
        collection,
        access: shared.access.clone(),
        origin: arrival.origin,
        caller: Some(caller),
        _held: arrival.turns.hold(),
    };
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
    collection: String,
    access: Access,
    origin: Origin,
    caller: Option<Caller>,
    _held: Held,
}

impl Open {
    /// The next piece. Nothing is given any more to who may not read it any more: then its end is.
    async fn next(&mut self) -> Option<Bytes> {
        let piece = self.watch.as_mut()?.next().await?;
        if self.access.has_changed() {
            self.caller = self.access.review(self.origin, self.caller.take());
        }
        if self.caller.as_ref().is_some_and(|caller| caller.allows(Role::Read, &self.collection)) {
            return Some(piece);
        }
        self.watch = None;
        let message = "the token that this watch was opened with is not valid any more, or may not read this";
        Some(Watch::ending("unauthenticated", message))
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
