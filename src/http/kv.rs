//! Keys and values: single ones as raw bytes, listings and batches as JSON.

use super::failure::Failure;
use super::query::Query;
use super::routes::Shared;
use super::{DEFAULT_LISTING_LIMIT, MAX_BATCH_ANSWER_BYTES, MAX_BATCH_BYTES, MAX_HTTP_BATCH_OPERATIONS};
use crate::model::Timestamp;
use crate::model::key::check_collection;
use crate::model::limits::{MAX_COLLECTION_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::model::settings::Level;
use crate::node::handle::documents::{Ending, Entry, Listing, Outcome, Outcomes};
use crate::node::handle::{
    Answer, Handle, Key, Operation, OperationError, Scan, Stopped, Stored, readable_bytes,
};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use std::time::{SystemTime, UNIX_EPOCH};

/// Of a read the record's stamp, of a change its own or the one that won.
const TIMESTAMP: HeaderName = HeaderName::from_static("kith-timestamp");
/// Owners that are known to hold a change durably.
const COPIES: HeaderName = HeaderName::from_static("kith-copies");
/// `true` when a change met a newer record.
const SUPERSEDED: HeaderName = HeaderName::from_static("kith-superseded");
/// A request's: the timestamp that its change must exceed.
const AFTER: HeaderName = HeaderName::from_static("kith-after");

/// Operations that are carried out together when a batch reads: so many of the largest values fit
/// into memory whatever they hold.
const READS_IN_A_PIECE: usize = 16;

/// What a cursor escapes so that it can stand in a query as it is.
const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>');

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

/// `GET /v1/kv/{collection}`
pub(super) async fn list(State(shared): State<Shared>, uri: Uri) -> Result<Json<Listing>, Failure> {
    let query = Query::parse(&uri, &["prefix", "after", "limit", "values", "held"])?;
    let (collection, _) = names_in(&uri)?;
    check_collection(&collection)?;
    for name in ["prefix", "after"] {
        if query.bytes(name).is_some_and(|bytes| bytes.len() > MAX_KEY_BYTES) {
            return Err(Failure::bad_request(format!(
                "`{name}` is longer than a key, {MAX_KEY_BYTES} bytes"
            )));
        }
    }
    let with_values = query.flag("values")?.unwrap_or(true);
    let scan = Scan {
        collection: collection.clone(),
        prefix: query.bytes("prefix").unwrap_or_default().to_vec(),
        after: query.bytes("after").map(<[u8]>::to_vec),
        limit: query.limit()?.unwrap_or(DEFAULT_LISTING_LIMIT),
        held: query.flag("held")?.unwrap_or(false),
    };
    let page = shared.handle.scan(scan).await?;
    let wall_ms = wall_ms();
    let entries = page.records.iter().map(|record| Entry::of_record(record, wall_ms, with_values)).collect();
    let next = page.resume.filter(|_| page.more).map(|key| percent_encode(&key, ESCAPED).to_string());
    Ok(Json(Listing { collection, entries, next }))
}

/// `POST /v1/batch`
pub(super) async fn batch(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Outcomes>, Failure> {
    let level = Query::parse(&uri, &["consistency"])?.level()?;
    let after = after_in(&headers)?;
    let body = shared.bodies.read(&headers, body, "a batch", MAX_BATCH_BYTES).await?;
    let operations =
        operations_in(&body.bytes, |entry| entry.operation(level, after).map_err(Failure::from))?;
    Ok(Json(Outcomes { results: run(&shared.handle, operations).await? }))
}

/// Carries out a batch in pieces; those with reads are small, so that what they find stays within
/// bounds.
async fn run(handle: &Handle, operations: Vec<Operation>) -> Result<Vec<Outcome>, Stopped> {
    let is_read = |operation: &Operation| matches!(operation, Operation::Get { .. });
    let piece = if operations.iter().any(is_read) { READS_IN_A_PIECE } else { operations.len() };
    let mut outcomes = Vec::with_capacity(operations.len());
    let mut found_bytes = 0;
    let mut operations = operations.into_iter().peekable();
    while operations.peek().is_some() {
        let (mut run, mut refused) = (Vec::new(), Vec::new());
        for operation in operations.by_ref().take(piece) {
            let refuse = found_bytes > MAX_BATCH_ANSWER_BYTES && is_read(&operation);
            refused.push(refuse);
            if !refuse {
                run.push(operation);
            }
        }
        let mut answers = handle.run(run).await?.into_iter();
        for refuse in refused {
            let answer = if refuse { None } else { answers.next() };
            if let Some(Ok(Answer::Found(Some(record)))) = &answer {
                found_bytes += record.view().body().len();
            }
            outcomes.push(answer.map_or_else(too_much_found, |answer| Outcome::of_answer(&answer)));
        }
    }
    Ok(outcomes)
}

fn too_much_found() -> Outcome {
    let message =
        format!("a batch finds at most {MAX_BATCH_ANSWER_BYTES} bytes of values; read this key by itself");
    Outcome { error: Some("too_large".to_owned()), message: Some(message), ..Outcome::new(Ending::Failed) }
}

/// The operations of a batch, all of which are checked before the first is carried out.
fn operations_in(
    body: &Bytes,
    operation: impl Fn(&Entry) -> Result<Operation, Failure>,
) -> Result<Vec<Operation>, Failure> {
    let text =
        std::str::from_utf8(body).map_err(|_| Failure::bad_request("a batch is JSON, which is UTF-8"))?;
    let too_many = || {
        let message = format!("a batch has at most {MAX_HTTP_BATCH_OPERATIONS} operations; send several");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    let mut operations = Vec::new();
    if text.trim_start().starts_with('[') {
        let entries: Vec<Entry> =
            serde_json::from_str(text).map_err(|error| Failure::bad_request(error.to_string()))?;
        if entries.len() > MAX_HTTP_BATCH_OPERATIONS {
            return Err(too_many());
        }
        for (index, entry) in entries.iter().enumerate() {
            operations.push(operation(entry).map_err(|failure| failure.at(&format!("element {index}")))?);
        }
        return Ok(operations);
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if operations.len() >= MAX_HTTP_BATCH_OPERATIONS {
            return Err(too_many());
        }
        let entry = Entry::parse(line).map_err(Failure::from);
        let read = entry.and_then(|entry| operation(&entry));
        operations.push(read.map_err(|failure| failure.at(&format!("line {}", index + 1)))?);
    }
    Ok(operations)
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

/// Collection and key of a path, percent-decoded; the key may hold any bytes, also slashes.
fn names_in(uri: &Uri) -> Result<(String, Vec<u8>), Failure> {
    let path = uri.path().strip_prefix("/v1/kv/").unwrap_or_default();
    let (collection, key) = path.split_once('/').unwrap_or((path, ""));
    let room = 3 * (MAX_COLLECTION_BYTES + MAX_KEY_BYTES) + 1;
    if path.len() > room {
        return Err(Failure::new(StatusCode::URI_TOO_LONG, "bad_key", "collection and key are too long"));
    }
    let collection = percent_decode_str(collection).decode_utf8_lossy().into_owned();
    Ok((collection, percent_decode_str(key).collect()))
}

fn key_in(uri: &Uri) -> Result<Key, Failure> {
    let (collection, key) = names_in(uri)?;
    Ok(Key::new(collection, key)?)
}

fn after_in(headers: &HeaderMap) -> Result<u64, Failure> {
    let Some(value) = headers.get(AFTER) else { return Ok(0) };
    let timestamp = value.to_str().ok().and_then(|text| text.parse::<Timestamp>().ok());
    let timestamp = timestamp.ok_or_else(|| {
        Failure::bad_request("`kith-after` holds a timestamp as `kith-timestamp` gave it before")
    })?;
    Ok(timestamp.time)
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
