//! Single keys: get, put, delete, increment.

use super::failover::{Nature, Request};
use super::{Client, ClientError};
use crate::model::Timestamp;
use crate::model::edit::Condition;
use crate::model::key::KeyRef;
use crate::model::settings::Level;
use crate::node::handle::documents::{Ending, Entry, Outcome, Ttl, Verb, life_text};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use reqwest::Method;
use std::time::Duration;

/// The time to live of a value that has no end, whatever its collection's `default_ttl` says.
pub const LASTING: Duration = Duration::MAX;

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundValue {
    /// Its bytes; of a counter its number as text.
    pub value: Bytes,
    /// Its timestamp, for [`WriteOptions::condition`].
    pub timestamp: Timestamp,
    /// How long it lives still; `None`: for ever.
    pub ttl: Option<Duration>,
}

/// How a change is to be made.
///
/// ```
/// use kith::client::{Condition, WriteOptions};
/// use std::time::Duration;
///
/// let registration = WriteOptions {
///     ttl: Some(Duration::from_secs(10)),
///     condition: Condition::Absent,
///     ..WriteOptions::default()
/// };
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// How many owners must have it; `None` takes the client's level, else the cluster's setting.
    pub level: Option<Level>,
    /// How long a value lives; `None`: as its collection's `default_ttl` says, for ever where there is none;
    /// [`LASTING`]: for ever, whatever that says. Of no meaning for deleting and counting.
    pub ttl: Option<Duration>,
    /// A timestamp that the change must exceed, beside what the client has seen.
    pub after: Option<Timestamp>,
    /// What must hold of what is there; else [`ClientError::ConditionFailed`]. While members disagree about who
    /// is alive, two changes under the same condition may both be made, and the later one stays. Counting is under
    /// no condition.
    pub condition: Condition,
}

/// A change that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its timestamp; of a superseded one that of the record that stays.
    pub timestamp: Timestamp,
    /// Owners that are known to hold it durably.
    pub copies: u16,
    /// Whether a newer record was met, which stays.
    pub superseded: bool,
}

/// A counter after it was added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The number, as far as the member knows: others count at the same time.
    pub number: i64,
    /// Owners that are known to hold it durably.
    pub copies: u16,
}

impl Client {
    /// The value of a key, if there is a readable record. `level` says how many owners are asked; `None` takes the
    /// client's level, else the cluster's setting.
    ///
    /// # Errors
    /// [`ClientError`]. It is tried at other members, and again.
    pub async fn get(
        &self,
        collection: &str,
        key: &[u8],
        level: Option<Level>,
    ) -> Result<Option<FoundValue>, ClientError> {
        KeyRef::new(collection, key)?;
        let level = level.or(self.read_level);
        if is_dot_segment(key) {
            return self.get_by_batch(collection, key, level).await;
        }
        let path = key_path(collection, key, &[("consistency", level.map(|level| level.to_string()))]);
        match self.ask(Request::get(path)).await {
            Ok(answer) => {
                let timestamp = answer.timestamp.ok_or_else(|| answer.foreign(&"no kith-timestamp"))?;
                let ttl = answer.ttl_ms.map(Duration::from_millis);
                Ok(Some(FoundValue { timestamp, ttl, value: answer.body }))
            }
            Err(ClientError::Refused { code, .. }) if code == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a value.
    ///
    /// # Errors
    /// [`ClientError`]. It is tried at other members, and again, only as long as surely nothing was stored.
    pub async fn put(
        &self,
        collection: &str,
        key: &[u8],
        value: Bytes,
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        KeyRef::new(collection, key)?;
        if is_dot_segment(key) {
            let ttl = options.ttl.map(|ttl| Ttl::of_ms(millis(ttl)));
            return self.change_by_batch(Entry { ttl, ..Entry::put(collection, key, &value) }, options).await;
        }
        let ttl = options.ttl.map(|ttl| life_text(millis(ttl)));
        self.written(&self.change(Method::PUT, collection, key, &[("ttl", ttl)], value, options).await?)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// [`ClientError`]. It is tried at other members, and again, only as long as surely nothing was deleted.
    pub async fn delete(
        &self,
        collection: &str,
        key: &[u8],
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        KeyRef::new(collection, key)?;
        if options.condition == Condition::Absent {
            return Err(ClientError::Condition("what is not there can't be deleted"));
        }
        if is_dot_segment(key) {
            return self.change_by_batch(Entry::about(Verb::Delete, collection, key), options).await;
        }
        self.written(&self.change(Method::DELETE, collection, key, &[], Bytes::new(), options).await?)
    }

    /// Adds to a counter, also a negative number; where nothing is it begins at zero. Increments at several members at
    /// once all count, also while these can't talk; so the number is what the member knows.
    ///
    /// # Errors
    /// [`ClientError`]. It is tried at other members, and again, only as long as surely nothing was counted.
    pub async fn increment(
        &self,
        collection: &str,
        key: &[u8],
        delta: i64,
        options: &WriteOptions,
    ) -> Result<Counted, ClientError> {
        KeyRef::new(collection, key)?;
        if options.condition != Condition::Always {
            return Err(ClientError::Condition("an increment is under no condition: all of them count"));
        }
        let outcome = if is_dot_segment(key) {
            let entry = Entry { delta: Some(delta), ..Entry::about(Verb::Increment, collection, key) };
            self.batch_of_one(entry, options).await?
        } else {
            let query = [("increment", Some(delta.to_string()))];
            self.change(Method::POST, collection, key, &query, Bytes::new(), options).await?
        };
        let number = outcome.number.ok_or_else(|| self.foreign(&"no number of a counter"))?;
        Ok(Counted { number, copies: outcome.copies.unwrap_or_default() })
    }

    async fn change(
        &self,
        method: Method,
        collection: &str,
        key: &[u8],
        query: &[(&str, Option<String>)],
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Outcome, ClientError> {
        let level = options.level.or(self.write_level).map(|level| level.to_string());
        let query: Vec<_> = query.iter().cloned().chain([("consistency", level)]).collect();
        let mut request = Request::new(Nature::Change, method, key_path(collection, key, &query)).body(body);
        request = match options.condition {
            Condition::Always => request,
            Condition::Absent => request.header("if-none-match", "*".to_owned()),
            Condition::Present => request.header("if-match", "*".to_owned()),
            Condition::Stamp(stamp) => request.header("if-match", format!("\"{stamp}\"")),
            Condition::Element(_) => return Err(NO_ELEMENT),
        };
        self.ask(self.following(request, options.after)).await?.json()
    }

    fn written(&self, outcome: &Outcome) -> Result<Written, ClientError> {
        let timestamp = outcome.timestamp.as_ref().and_then(|text| text.parse().ok());
        Ok(Written {
            timestamp: timestamp.ok_or_else(|| self.foreign(&"no timestamp of a change"))?,
            copies: outcome.copies.unwrap_or_default(),
            superseded: outcome.outcome == Ending::Superseded,
        })
    }

    /// Lets a change follow what was seen.
    pub(super) fn following(&self, request: Request, after: Option<Timestamp>) -> Request {
        match after.max(self.seen()) {
            Some(after) => request.header("kith-after", after.to_string()),
            None => request,
        }
    }

    async fn get_by_batch(
        &self,
        collection: &str,
        key: &[u8],
        level: Option<Level>,
    ) -> Result<Option<FoundValue>, ClientError> {
        let options = WriteOptions { level, ..WriteOptions::default() };
        let outcome = self.batch_of_one(Entry::about(Verb::Get, collection, key), &options).await?;
        if outcome.outcome == Ending::NotFound {
            return Ok(None);
        }
        let value = outcome.value_bytes().map_err(|error| self.foreign(&error))?;
        let ttl_ms =
            outcome.ttl.as_ref().map(Ttl::as_ms).transpose().map_err(|error| self.foreign(&error))?;
        let ttl = ttl_ms.map(Duration::from_millis);
        Ok(Some(FoundValue { value, timestamp: self.written(&outcome)?.timestamp, ttl }))
    }

    async fn change_by_batch(&self, change: Entry, options: &WriteOptions) -> Result<Written, ClientError> {
        let condition = match options.condition {
            Condition::Always => None,
            Condition::Absent => Some("absent".to_owned()),
            Condition::Present => Some("present".to_owned()),
            Condition::Stamp(stamp) => Some(stamp.to_string()),
            Condition::Element(_) => return Err(NO_ELEMENT),
        };
        let outcome = self.batch_of_one(Entry { condition, ..change }, options).await?;
        self.written(&outcome)
    }
}

const NO_ELEMENT: ClientError =
    ClientError::Condition("HTTP knows no elements of records; name the value's timestamp");

/// Whether URLs take the key for a step in a path, however it is written; such keys travel in
/// batches.
fn is_dot_segment(key: &[u8]) -> bool {
    key == b"." || key == b".."
}

fn key_path(collection: &str, key: &[u8], query: &[(&str, Option<String>)]) -> String {
    let collection = utf8_percent_encode(collection, NON_ALPHANUMERIC);
    let mut path = format!("/v1/kv/{collection}/{}", percent_encode(key, NON_ALPHANUMERIC));
    let given = query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    for (separator, (name, value)) in std::iter::once('?').chain(std::iter::repeat('&')).zip(given) {
        path.push(separator);
        path.push_str(name);
        path.push('=');
        path.push_str(value);
    }
    path
}

/// A time to live as members take it: at least a millisecond; of [`LASTING`] the largest number, which means the same.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_any_bytes_becomes_a_path() {
        let level = Some("all".to_owned());
        let path = key_path("c", b"a/\xff ?", &[("consistency", level), ("ttl", None)]);
        assert_eq!(path, "/v1/kv/c/a%2F%FF%20%3F?consistency=all");
    }
}
