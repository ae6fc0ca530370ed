//! Conditions of requests (RFC 9110 §13).
//!
//! The entity tag of a value is its record's timestamp in quotes. A counter has none: increments change what is read
//! and leave its timestamp as it is. A condition that can't be read is an error: passed over, it would let
//! a change happen that its client wanted only if it holds.

use super::failure::Failure;
use crate::model::edit::Condition;
use crate::model::{Kind, RecordRef, Timestamp};
use crate::node::handle::documents::ttl_left_ms;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Of a read the record's stamp, of a change its own or the one that won.
pub(super) const TIMESTAMP: HeaderName = HeaderName::from_static("kith-timestamp");
/// How long a record lives still.
const TTL: HeaderName = HeaderName::from_static("kith-ttl");

/// An entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag {
    /// Made for comparing what means the same, not what is the same.
    weak: bool,
    /// The timestamp in it; none in one that kith never gave.
    stamp: Option<Timestamp>,
}

/// What a condition names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    These(Vec<Tag>),
}

/// The condition that a change is under, if it is under one.
pub(super) fn of_change(headers: &HeaderMap) -> Result<Option<Condition>, Failure> {
    match (tags_in(headers, header::IF_MATCH)?, tags_in(headers, header::IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (Some(Tags::Any), None) => Ok(Some(Condition::Present)),
        (None, Some(Tags::Any)) => Ok(Some(Condition::Absent)),
        (Some(Tags::These(tags)), None) => match tags[..] {
            [Tag { weak: false, stamp: Some(stamp) }] => Ok(Some(Condition::Stamp(stamp))),
            _ => Err(bad_condition(
                "of a change `If-Match` holds one `kith-timestamp` in quotes, or `*` (anything is there)",
            )),
        },
        (None, Some(Tags::These(_))) => {
            Err(bad_condition("of a change `If-None-Match` is `*`: nothing is there"))
        }
        (Some(_), Some(_)) => Err(bad_condition("a change is under `If-Match` or `If-None-Match`, not both")),
    }
}

/// What the conditions of a read make of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is shown.
    Shown,
    /// The client has it.
    Unchanged,
    /// The client wanted another one only.
    Failed,
}

/// Judges the conditions of a read.
pub(super) fn of_read(headers: &HeaderMap, record: RecordRef<'_>) -> Result<Reading, Failure> {
    let own = entity(record);
    if let Some(Tags::These(tags)) = tags_in(headers, header::IF_MATCH)? {
        let is_own = |tag: &Tag| !tag.weak && own.is_some() && tag.stamp == own;
        if !tags.iter().any(is_own) {
            return Ok(Reading::Failed);
        }
    }
    Ok(match tags_in(headers, header::IF_NONE_MATCH)? {
        Some(Tags::Any) => Reading::Unchanged,
        Some(Tags::These(tags)) if tags.iter().any(|tag| own.is_some() && tag.stamp == own) => {
            Reading::Unchanged
        }
        _ => Reading::Shown,
    })
}

/// Whether a range is wanted of this very record, or of whatever there is (RFC 9110 §13.1.5).
pub(super) fn is_range_of(headers: &HeaderMap, record: RecordRef<'_>) -> bool {
    let Some(wanted) = headers.get(header::IF_RANGE) else { return true };
    let tag = wanted.to_str().ok().and_then(tag);
    tag.is_some_and(|tag| !tag.weak && tag.stamp.is_some() && tag.stamp == entity(record))
}

/// The timestamp that stands in a record's entity tag.
fn entity(record: RecordRef<'_>) -> Option<Timestamp> {
    (record.kind() == Kind::Value).then(|| record.timestamp())
}

/// Tells a record's timestamp, its entity tag, and how long it lives from `wall_ms` on.
pub(super) fn tell_record(headers: &mut HeaderMap, record: RecordRef<'_>, wall_ms: u64) {
    headers.insert(TIMESTAMP, text_header(&record.timestamp().to_string()));
    if let Some(ttl_ms) = ttl_left_ms(record.expiry_ms(), wall_ms) {
        headers.insert(TTL, text_header(&format!("{ttl_ms}ms")));
    }
    if let Some(stamp) = entity(record) {
        headers.insert(header::ETAG, tag_of(stamp));
    }
}

/// The entity tag of a value that was written so.
pub(super) fn tag_of(stamp: Timestamp) -> HeaderValue {
    text_header(&format!("\"{stamp}\""))
}

/// A header of text that is always plain ASCII.
pub(super) fn text_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Tells that a condition does not hold, and of what is there its timestamp.
pub(super) fn failed(present: Option<Timestamp>) -> Response {
    let is = present.map_or_else(
        || "there is nothing under this key".to_owned(),
        |stamp| format!("what is there has the timestamp {stamp}"),
    );
    let message = format!("the condition does not hold, so this changes nothing: {is}");
    let mut response =
        Failure::new(StatusCode::PRECONDITION_FAILED, "condition_failed", message).into_response();
    if let Some(stamp) = present {
        response.headers_mut().insert(TIMESTAMP, text_header(&stamp.to_string()));
    }
    response
}

fn bad_condition(message: &str) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "bad_condition", message)
}

fn tags_in(headers: &HeaderMap, name: HeaderName) -> Result<Option<Tags>, Failure> {
    let mut tags = Vec::new();
    for value in headers.get_all(&name) {
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" && headers.get_all(&name).iter().count() == 1 {
            return Ok(Some(Tags::Any));
        }
        for part in text.split(',') {
            let tag = tag(part.trim()).ok_or_else(|| {
                bad_condition(&format!("`{name}` holds a `kith-timestamp` in double quotes, or `*`"))
            })?;
            tags.push(tag);
        }
    }
    Ok(if tags.is_empty() { None } else { Some(Tags::These(tags)) })
}

fn tag(text: &str) -> Option<Tag> {
    let strong = text.strip_prefix("W/");
    let inner = strong.unwrap_or(text).strip_prefix('"')?.strip_suffix('"')?;
    Some(Tag { weak: strong.is_some(), stamp: inner.parse().ok() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, MemberId, Record};

    const STAMP: Timestamp = Timestamp { time: 7, member: MemberId(1) };
    const OTHER: Timestamp = Timestamp { time: 8, member: MemberId(1) };

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_change_is_under_one_condition_that_can_be_read_or_is_refused() {
        let (own, none) = (header::IF_MATCH, header::IF_NONE_MATCH);
        let stamp = format!("\"{STAMP}\"");
        let good = [
            (headers(&[]), None),
            (headers(&[(own.clone(), &stamp)]), Some(Condition::Stamp(STAMP))),
            (headers(&[(own.clone(), "*")]), Some(Condition::Present)),
            (headers(&[(none.clone(), " * ")]), Some(Condition::Absent)),
        ];
        for (headers, condition) in good {
            assert_eq!(of_change(&headers).unwrap(), condition);
        }
        let (weak, two, bare) = (format!("W/{stamp}"), format!("{stamp}, {stamp}"), STAMP.to_string());
        let bad = [
            vec![(own.clone(), &bare[..])],
            vec![(own.clone(), &weak[..])],
            vec![(own.clone(), &two[..])],
            vec![(own.clone(), "\"yesterday\"")],
            vec![(own.clone(), "")],
            vec![(own.clone(), "\"")],
            vec![(none.clone(), &stamp[..])],
            vec![(own, "*"), (none, "*")],
        ];
        for pairs in bad {
            let answer = of_change(&headers(&pairs)).unwrap_err().into_response();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{pairs:?}");
        }
    }

    #[test]
    fn a_read_is_judged_by_the_tag_of_its_record_and_a_counter_has_none() {
        let key = KeyRef::new("c", b"k").unwrap();
        let value = Record::value(key, STAMP, None, b"v");
        let counter = Record::counter(key, STAMP, 1, None, 3, &[]);
        let judge = |record: &Record, name: HeaderName, value: &str| {
            of_read(&headers(&[(name, value)]), record.view()).unwrap()
        };
        let (own, none) = (header::IF_MATCH, header::IF_NONE_MATCH);
        let (stamp, other) = (format!("\"{STAMP}\""), format!("\"{OTHER}\""));
        assert_eq!(judge(&value, none.clone(), &stamp), Reading::Unchanged);
        assert_eq!(judge(&value, none.clone(), &format!("\"x\", W/{stamp}")), Reading::Unchanged);
        assert_eq!(judge(&value, none.clone(), &other), Reading::Shown);
        assert_eq!(judge(&counter, none.clone(), &stamp), Reading::Shown);
        assert_eq!(judge(&counter, none, "*"), Reading::Unchanged);
        assert_eq!(judge(&value, own.clone(), &stamp), Reading::Shown);
        assert_eq!(judge(&value, own.clone(), &format!("W/{stamp}")), Reading::Failed);
        assert_eq!(judge(&counter, own.clone(), &stamp), Reading::Failed);
        assert_eq!(judge(&counter, own, "*"), Reading::Shown);
    }
}
