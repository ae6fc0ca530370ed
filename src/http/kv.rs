//! Single keys and their values, as raw bytes.

use super::failure::Failure;
use super::names::{after_in, key_in};
use super::query::Query;
use super::routes::Shared;
use crate::model::limits::MAX_VALUE_BYTES;
use crate::model::settings::Level;
use crate::node::handle::documents::Outcome;
use crate::node::handle::{Operation, OperationError, Stored, readable_bytes};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// Of a read the record's stamp, of a change its own or the one that won.
const TIMESTAMP: HeaderName = HeaderName::from_static("kith-timestamp");
/// Owners that are known to hold a change durably.
const COPIES: HeaderName = HeaderName::from_static("kith-copies");
/// `true` when a change met a newer record.
const SUPERSEDED: HeaderName = HeaderName::from_static("kith-superseded");

/// `GET /v1/kv/{collection}/{key}`
pub(super) async fn get(State(shared): State<Shared>, uri: Uri) -> Result<Response, Failure> {
    let level = Query::parse(&uri, &["consistency"])?.level()?;
    let found = shared.handle.get(key_in(&uri)?, level).await;
    let Some(record) = found.map_err(|error| read_failure(error, level))? else {
        let message = "there is no record under this key";
        return Err(Failure::new(StatusCode::NOT_FOUND, "not_found", message));
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // A value is a client's; a browser must not take it for a page of this origin.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(TIMESTAMP, text_header(&record.view().timestamp().to_string()));
    Ok((headers, readable_bytes(&record)).into_response())
}

/// Why a read failed; where the level asks for several owners, that too few answered.
fn read_failure(error: OperationError, level: Option<Level>) -> Failure {
    match (&error, level) {
        (OperationError::Unreachable, Some(level @ (Level::Quorum | Level::All))) => {
            let message = format!(
                "too few owners answered in time for level `{level}`; use a lower level, which may be behind, or try again"
            );
            Failure::new(StatusCode::GATEWAY_TIMEOUT, error.code(), message)
        }
        _ => error.into(),
    }
}

/// `PUT /v1/kv/{collection}/{key}`
pub(super) async fn put(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let query = Query::parse(&uri, &["consistency", "ttl"])?;
    let (key, level, ttl_ms) = (key_in(&uri)?, query.level()?, query.ttl_ms()?);
    let after = after_in(&headers)?;
    let body = shared.bodies.read(&headers, body, "a value", MAX_VALUE_BYTES).await?;
    let operation = Operation::Put { key, value: body.bytes.clone(), ttl_ms, level, after };
    Ok(stored(&shared.handle.change(operation).await?))
}

/// `DELETE /v1/kv/{collection}/{key}`
pub(super) async fn delete(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let level = Query::parse(&uri, &["consistency"])?.level()?;
    let operation = Operation::Delete { key: key_in(&uri)?, level, after: after_in(&headers)? };
    Ok(stored(&shared.handle.change(operation).await?))
}

fn stored(stored: &Stored) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(TIMESTAMP, text_header(&stored.timestamp.to_string()));
    headers.insert(COPIES, HeaderValue::from(stored.copies));
    headers.insert(SUPERSEDED, HeaderValue::from_static(if stored.superseded { "true" } else { "false" }));
    (headers, Json(Outcome::of_stored(stored))).into_response()
}

/// A header of text that is always plain ASCII.
fn text_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
