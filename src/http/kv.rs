//! Single keys and their values, as raw bytes.

use super::conditions::{self, Reading, TIMESTAMP, text_header};
use super::failure::Failure;
use super::names::{after_in, key_in, wall_ms};
use super::query::{Query, QueryError};
use super::ranges::{Wanted, wanted};
use super::routes::Shared;
use crate::model::edit::{Condition, Edit, Modify, Returns};
use crate::model::settings::Level;
use crate::model::{Kind, Record};
use crate::node::handle::documents::{Outcome, new_expiry};
use crate::node::handle::{Answer, Key, Operation, OperationError, Stored, readable_bytes};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

/// Owners that are known to hold a change durably.
const COPIES: HeaderName = HeaderName::from_static("kith-copies");
/// `true` when a change met a newer record.
const SUPERSEDED: HeaderName = HeaderName::from_static("kith-superseded");

/// `GET /v1/kv/{collection}/{key}`
pub(super) async fn get(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let level = Query::parse(&uri, &["consistency"])?.level()?;
    let found = shared.handle.get(key_in(&uri)?, level).await;
    let Some(record) = found.map_err(|error| read_failure(error, level))? else {
        let message = "there is no record under this key";
        return Err(Failure::new(StatusCode::NOT_FOUND, "not_found", message));
    };
    let mut told = HeaderMap::new();
    conditions::tell_record(&mut told, record.view(), wall_ms());
    match conditions::of_read(&headers, record.view())? {
        Reading::Shown => {}
        Reading::Unchanged => return Ok((StatusCode::NOT_MODIFIED, told).into_response()),
        Reading::Failed => return Ok(conditions::failed(Some(record.view().timestamp()))),
    }
    told.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // A value is a client's; a browser must not take it for a page of this origin.
    told.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    told.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let is_range = conditions::is_range_of(&headers, record.view());
    let value = shared.answers.hold(value_of(record))?;
    let length = value.len();
    match if is_range { wanted(&headers, length) } else { Wanted::Whole } {
        Wanted::Whole => Ok((told, value).into_response()),
        Wanted::Part(part) => {
            let place = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            told.insert(header::CONTENT_RANGE, text_header(&place));
            Ok((StatusCode::PARTIAL_CONTENT, told, value.slice(part)).into_response())
        }
        Wanted::Nothing => {
            let message = format!(
                "the value has {length} bytes, and no such part; `Range: bytes=0-99` asks for the first hundred"
            );
            let failure = Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", message);
            let place = [(header::CONTENT_RANGE, text_header(&format!("bytes */{length}")))];
            Ok((place, failure).into_response())
        }
    }
}

/// What a client reads from a record. A value stays where it is in memory: it may be large.
fn value_of(record: Record) -> Bytes {
    if record.view().kind() != Kind::Value {
        return readable_bytes(&record);
    }
    let length = record.view().body().len();
    let bytes = Bytes::from(record.into_bytes());
    // The body ends a record.
    bytes.slice(bytes.len() - length..)
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
    let asked = Query::parse(&uri, &["consistency", "ttl"])
        .map_err(Failure::from)
        .and_then(|query| Ok((Change::in_request(&uri, &query, &headers)?, query.ttl_ms()?)));
    let (change, ttl_ms) = match asked {
        Ok(asked) => asked,
        Err(failure) => return Err(shared.bodies.refuse(&headers, body, failure)),
    };
    let most = shared.handle.max_value_bytes();
    let body = shared.bodies.read(&headers, body, "a value", most).await.map_err(Failure::of_value)?;
    let value = body.bytes.clone();
    let Change { key, level, after, condition } = change;
    match condition {
        None => change_now(&shared, Operation::Put { key, value, ttl_ms, level, after }).await,
        Some(condition) => {
            let expiry = new_expiry(ttl_ms, wall_ms());
            let modify = Modify { condition, edit: Edit::Set { value, expiry }, returns: Returns::Nothing };
            change_now(&shared, Operation::Modify { key, modify, level, after }).await
        }
    }
}

/// `DELETE /v1/kv/{collection}/{key}`
pub(super) async fn delete(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::parse(&uri, &["consistency"])?;
    let Change { key, level, after, condition } = Change::in_request(&uri, &query, &headers)?;
    let operation = match condition {
        None => Operation::Delete { key, level, after },
        Some(Condition::Absent) => {
            let message = "what is not there can't be deleted; `If-None-Match` goes with a PUT";
            return Err(Failure::new(StatusCode::BAD_REQUEST, "bad_condition", message));
        }
        Some(condition) => {
            let modify = Modify { condition, edit: Edit::Delete, returns: Returns::Nothing };
            Operation::Modify { key, modify, level, after }
        }
    };
    change_now(&shared, operation).await
}

/// `POST /v1/kv/{collection}/{key}?increment=`
pub(super) async fn increment(
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::parse(&uri, &["increment", "consistency"])?;
    let Change { key, level, after, condition } = Change::in_request(&uri, &query, &headers)?;
    if condition.is_some() {
        let message = "an increment is under no condition: all of them count";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad_condition", message));
    }
    let delta = query.whole_number("increment")?.ok_or_else(|| {
        let problem = "how much is added to the counter, a whole number; values are stored by PUT".to_owned();
        QueryError::Invalid { name: "increment", problem }
    })?;
    change_now(&shared, Operation::Increment { key, delta, level, after }).await
}

/// What all changes of one key say.
struct Change {
    key: Key,
    level: Option<Level>,
    after: u64,
    condition: Option<Condition>,
}

impl Change {
    fn in_request(uri: &Uri, query: &Query, headers: &HeaderMap) -> Result<Self, Failure> {
        let (key, level, after) = (key_in(uri)?, query.level()?, after_in(headers)?);
        Ok(Self { key, level, after, condition: conditions::of_change(headers)? })
    }
}

/// Carries out a change of one key.
async fn change_now(shared: &Shared, operation: Operation) -> Result<Response, Failure> {
    let is_value = !matches!(operation, Operation::Delete { .. } | Operation::Increment { .. })
        && !matches!(&operation, Operation::Modify { modify, .. } if modify.edit == Edit::Delete);
    match shared.handle.run_one(operation).await? {
        Answer::Stored(done) => Ok(stored(&done, is_value)),
        Answer::Modified(modified) => match modified.made() {
            Ok(done) => Ok(stored(&done, is_value)),
            Err(present) => Ok(conditions::failed(present)),
        },
        Answer::Found(_) => Err(OperationError::Unknown { copies: 0 }.into()),
    }
}

fn stored(stored: &Stored, is_value: bool) -> Response {
    let mut headers = HeaderMap::new();
    if is_value && !stored.superseded {
        headers.insert(header::ETAG, conditions::tag_of(stored.timestamp));
    }
    headers.insert(TIMESTAMP, text_header(&stored.timestamp.to_string()));
    headers.insert(COPIES, HeaderValue::from(stored.copies));
    headers.insert(SUPERSEDED, HeaderValue::from_static(if stored.superseded { "true" } else { "false" }));
    (headers, Json(Outcome::of_stored(stored))).into_response()
}
