//! What requests of several kinds name: collection and key of a path, the timestamp that a change must follow, and
//! the time of day that lengths of time count from.

use super::failure::Failure;
use crate::model::Timestamp;
use crate::model::limits::{MAX_COLLECTION_BYTES, MAX_KEY_BYTES};
use crate::node::handle::Key;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use std::time::{SystemTime, UNIX_EPOCH};

/// A request's: the timestamp that its change must exceed.
const AFTER: HeaderName = HeaderName::from_static("kith-after");

/// Collection and key of a path, percent-decoded; the key may hold any bytes, also slashes.
pub(super) fn names_in(uri: &Uri) -> Result<(String, Vec<u8>), Failure> {
    let path = uri.path().strip_prefix("/v1/kv/").unwrap_or_default();
    let (collection, key) = path.split_once('/').unwrap_or((path, ""));
    let room = 3 * (MAX_COLLECTION_BYTES + MAX_KEY_BYTES) + 1;
    if path.len() > room {
        return Err(Failure::new(StatusCode::URI_TOO_LONG, "bad_key", "collection and key are too long"));
    }
    Ok((collection_in(collection), percent_decode_str(key).collect()))
}

/// The collection that a path below a route names, percent-decoded.
pub(super) fn collection_in(names: &str) -> String {
    let collection = names.split_once('/').map_or(names, |(collection, _)| collection);
    percent_decode_str(collection).decode_utf8_lossy().into_owned()
}

/// The key that a path names.
pub(super) fn key_in(uri: &Uri) -> Result<Key, Failure> {
    let (collection, key) = names_in(uri)?;
    Ok(Key::new(collection, key)?)
}

/// A member's or token's name in a path.
pub(super) fn name_in(name: Result<Path<String>, PathRejection>) -> Result<String, Failure> {
    let wrong =
        |_| Failure::new(StatusCode::BAD_REQUEST, "bad_parameter", "the name in the path is not UTF-8");
    name.map(|Path(name)| name).map_err(wrong)
}

/// What `kith-after` holds, 0 where it is not given.
pub(super) fn after_in(headers: &HeaderMap) -> Result<u64, Failure> {
    let Some(value) = headers.get(AFTER) else { return Ok(0) };
    let timestamp = value.to_str().ok().and_then(|text| text.parse::<Timestamp>().ok());
    let timestamp = timestamp.ok_or_else(|| {
        let message = "`kith-after` holds a timestamp as `kith-timestamp` gave it before";
        Failure::new(StatusCode::BAD_REQUEST, "bad_timestamp", message)
    })?;
    Ok(timestamp.time)
}

/// Milliseconds since the Unix epoch.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
