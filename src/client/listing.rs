//! Listings: the keys of a collection in order, a page at a time or as a stream.
//!
//! A page tells the key that it has come to, so the next one may come from any member. A stream asks for one page
//! ahead while its reader works on the one before: there are never more than two in memory.

use super::failover::Nature;
use super::stream::Items;
use super::{Client, ClientError};
use crate::model::Timestamp;
use crate::model::key::check_collection;
use crate::node::handle::documents::{DocumentError, Entry, Listing, Ttl};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use std::collections::VecDeque;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;

/// Keys in a page of a stream with values.
const PAGE: usize = 1_000;

/// Which keys of a collection, and which page of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingQuery {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Only keys from here on, this one included.
    pub start: Vec<u8>,
    /// Only keys before this one.
    pub end: Option<Vec<u8>>,
    /// The last key first.
    pub reverse: bool,
    /// Whether values come with the keys.
    pub values: bool,
    /// Keys of a page at most; a stream goes on.
    pub limit: usize,
    /// [`Listing::next`] of the page before.
    pub after: Option<String>,
    /// Only what the asked member itself holds, also when it left its cluster or was removed.
    pub held: bool,
}

impl Default for ListingQuery {
    /// All keys with their values.
    fn default() -> Self {
        Self {
            prefix: Vec::new(),
            start: Vec::new(),
            end: None,
            reverse: false,
            values: true,
            limit: PAGE,
            after: None,
            held: false,
        }
    }
}

impl ListingQuery {
    /// All keys that begin with `prefix`, with their values.
    #[must_use]
    pub fn with_prefix(prefix: impl Into<Vec<u8>>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    fn path(&self, collection: &str) -> String {
        let collection = utf8_percent_encode(collection, NON_ALPHANUMERIC);
        let Self { limit, values, .. } = self;
        let mut path = format!("/v1/kv/{collection}?limit={limit}&values={values}");
        let mut key = |name: &str, bytes: &[u8]| {
            path.push_str(&format!("&{name}={}", percent_encode(bytes, NON_ALPHANUMERIC)));
        };
        if !self.prefix.is_empty() {
            key("prefix", &self.prefix);
        }
        if !self.start.is_empty() {
            key("start", &self.start);
        }
        if let Some(end) = &self.end {
            key("end", end);
        }
        for (name, is_set) in [("reverse", self.reverse), ("held", self.held)] {
            if is_set {
                path.push_str(&format!("&{name}=true"));
            }
        }
        // It is percent-encoded already.
        if let Some(after) = &self.after {
            path.push_str(&format!("&after={after}"));
        }
        path
    }
}

/// A record of a listing or of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// Its key.
    pub key: Bytes,
    /// Its value, of a counter its number as text; `None` if only keys were asked for.
    pub value: Option<Bytes>,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// How long it lived yet when it was listed; `None` for ever.
    pub ttl: Option<Duration>,
}

impl Item {
    pub(super) fn of(entry: &Entry, values: bool) -> Result<Self, String> {
        let told = |error: DocumentError| error.to_string();
        let value = if values { Some(entry.value_bytes().map_err(told)?) } else { None };
        let timestamp = entry.timestamp.as_ref().and_then(|text| text.parse().ok());
        let ttl = entry.ttl.as_ref().map(Ttl::as_ms).transpose().map_err(|error| error.to_string())?;
        Ok(Self {
            key: entry.key_bytes().map_err(told)?,
            value,
            timestamp: timestamp.ok_or("an entry without a timestamp")?,
            ttl: ttl.map(Duration::from_millis),
        })
    }
}

impl Client {
    /// One page of a collection, in order of the keys' bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, collection: &str, query: &ListingQuery) -> Result<Listing, ClientError> {
        check_collection(collection)?;
        // Others hold something else.
        let nature = if query.held { Nature::ReadOne } else { Nature::Read };
        let page: Listing = self.read(nature, &query.path(collection)).await?;
        page.entries.iter().for_each(|entry| self.note_text(entry.timestamp.as_ref()));
        Ok(page)
    }

    /// All that a query asks for, in order of the keys' bytes, whatever its size: pages come as they are needed, one of
    /// them ahead, each from a member that can be asked then. What changes meanwhile is seen or not, and no key
    /// comes twice. After an error nothing comes any more.
    ///
    /// Must be called, and read, within a tokio runtime.
    ///
    /// ```no_run
    /// # async fn scan(client: &kith::Client) -> Result<(), kith::client::ClientError> {
    /// use kith::client::ListingQuery;
    ///
    /// let mut users = client.scan("default", ListingQuery::with_prefix("user:"));
    /// while let Some(user) = users.next().await {
    ///     let user = user?;
    ///     println!("{:?} of {}", user.key, user.timestamp);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn scan(&self, collection: &str, query: ListingQuery) -> Items<Item> {
        let timed = self.scan_timed(collection, query);
        Items::new(timed.map(|told| told.map(|(item, _)| item)))
    }

    /// The same, each with the time at which its page had come: what is left of its life counts from then, however late
    /// it is read.
    pub(crate) fn scan_timed(&self, collection: &str, query: ListingQuery) -> Items<(Item, SystemTime)> {
        let scan = Scan {
            client: self.clone(),
            collection: collection.to_owned(),
            values: query.values,
            ahead: None,
            next: Some(query),
            ready: VecDeque::new(),
        };
        Items::new(stream::unfold(Some(scan), async |scan| {
            let mut scan = scan?;
            match scan.next().await {
                Ok(timed) => Some((Ok(timed?), Some(scan))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

/// A scan that goes on.
struct Scan {
    client: Client,
    collection: String,
    values: bool,
    /// The page that was asked for.
    ahead: Option<Ahead>,
    /// What to ask for next; `None` at the end.
    next: Option<ListingQuery>,
    ready: VecDeque<(Item, SystemTime)>,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<(Item, SystemTime)>, ClientError> {
        loop {
            if let Some(timed) = self.ready.pop_front() {
                return Ok(Some(timed));
            }
            self.go_ahead();
            let Some(ahead) = &mut self.ahead else { return Ok(None) };
            let (page, came_at) = ahead.task_result().await?;
            let query = self.next.take();
            self.ahead = None;
            self.next =
                page.next.map(|after| ListingQuery { after: Some(after), ..query.unwrap_or_default() });
            self.go_ahead();
            for entry in &page.entries {
                let item = Item::of(entry, self.values).map_err(|reason| self.client.foreign(&reason))?;
                self.ready.push_back((item, came_at));
            }
        }
    }

    fn go_ahead(&mut self) {
        let (None, Some(query)) = (&self.ahead, &self.next) else { return };
        let (client, collection, query) = (self.client.clone(), self.collection.clone(), query.clone());
        let page = async move {
            let page = client.list(&collection, &query).await;
            page.map(|page| (page, SystemTime::now()))
        };
        self.ahead = Some(Ahead(tokio::spawn(page)));
    }
}

/// A page that was asked for, and when it came; nobody asks any more once it is dropped.
struct Ahead(JoinHandle<Result<(Listing, SystemTime), ClientError>>);

impl Ahead {
    async fn task_result(&mut self) -> Result<(Listing, SystemTime), ClientError> {
        let ended = |error: tokio::task::JoinError| {
            Err(ClientError::Lost { address: "the runtime".to_owned(), reason: error.to_string() })
        };
        (&mut self.0).await.unwrap_or_else(ended)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_only_what_is_asked_for() {
        assert_eq!(ListingQuery::default().path("c"), "/v1/kv/c?limit=1000&values=true");
        let query = ListingQuery {
            prefix: b"a/\xff".to_vec(),
            start: b"b".to_vec(),
            end: Some(Vec::new()),
            reverse: true,
            values: false,
            limit: 5,
            after: Some("x%20".to_owned()),
            held: true,
        };
        assert_eq!(
            query.path("c"),
            "/v1/kv/c?limit=5&values=false&prefix=a%2F%FF&start=b&end=&reverse=true&held=true&after=x%20"
        );
    }
}
