//! Watching: each key's latest state as a stream that outlives the members it comes from.
//!
//! States: *connecting* (to any member), *open* (events come), and again connecting when the connection ends, is silent
//! for longer than members are ([`SILENCE`]), or the member says that it can't go on. The cursor of the last event
//! goes along: the member that gave it goes on there, any other begins anew with a reset, and the reader learns it.
//!
//! Invariants: events are given in the order in which the member sent them, none twice; a cursor is used only after
//! its event was taken in; nothing is kept but one piece of the connection and the events in it. The reader's
//! slowness reaches the member: what it does not take is not fetched.

use super::answer::{RawAnswer, refusal};
use super::events::{Event, Parser};
use super::failover::{Attempts, Nature, Request};
use super::listing::Item;
use super::stream::Items;
use super::{Client, ClientError};
use crate::model::Timestamp;
use crate::model::key::check_collection;
use crate::node::handle::documents::Entry;
use bytes::Bytes;
use futures_util::stream;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a member that is alive may send nothing: it sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(40);
/// How long a member may take until it begins.
const BEGINNING: Duration = Duration::from_secs(10);
/// The pause behind a connection on which nothing was told: whoever ends each at once is not asked without a pause.
const PAUSE: Duration = Duration::from_secs(1);

/// What happened to the keys that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The current state follows, as puts, up to [`WatchEvent::Synced`]; of what was known before, that which is not
    /// among them is gone. Comes first, and after every gap.
    Reset {
        /// Why.
        reason: String,
    },
    /// A key has this value now.
    Put(Item),
    /// A key has no value any more.
    Delete {
        /// The key.
        key: Bytes,
        /// The timestamp of the deletion, or of the value that expired.
        timestamp: Timestamp,
        /// Whether its time to live was over.
        expired: bool,
    },
    /// The current state was given.
    Synced,
    /// The connection is lost and is being made again: what is known may be old until the next event comes.
    Interrupted {
        /// What happened.
        reason: String,
    },
}

/// A deletion as members tell it.
#[derive(Deserialize)]
struct Deleted {
    #[serde(flatten)]
    entry: Entry,
    #[serde(default)]
    expired: bool,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    reason: String,
}

impl Client {
    /// Watches the keys of a collection that begin with `prefix`, with or without their values: first the current
    /// state, then each key's latest state as it changes. A key that changes quickly may be told of only once.
    ///
    /// It goes on for ever: when the member dies, another one is asked, until there is one. It ends with an
    /// error if none takes it within the client's patience in the beginning, or later if it is refused.
    ///
    /// ```no_run
    /// # async fn watch(client: &kith::Client) -> Result<(), kith::client::ClientError> {
    /// use kith::client::WatchEvent;
    /// use std::collections::BTreeMap;
    ///
    /// let mut known = BTreeMap::new();
    /// let mut watch = client.watch("services", b"web/", true);
    /// while let Some(event) = watch.next().await {
    ///     match event? {
    ///         WatchEvent::Reset { .. } => known.clear(),
    ///         WatchEvent::Put(item) => drop(known.insert(item.key, item.value)),
    ///         WatchEvent::Delete { key, .. } => drop(known.remove(&key)),
    ///         WatchEvent::Synced => println!("{} services", known.len()),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self, collection: &str, prefix: &[u8], values: bool) -> Items<WatchEvent> {
        let watch = Watch {
            client: self.clone(),
            collection: collection.to_owned(),
            query: format!("?prefix={}&values={values}", percent_encode(prefix, NON_ALPHANUMERIC)),
            values,
            cursor: None,
            open: None,
            began: false,
            told: false,
            events: VecDeque::new(),
            interrupted: None,
        };
        Items::new(stream::unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

/// A watch that goes on.
struct Watch {
    client: Client,
    collection: String,
    query: String,
    values: bool,
    cursor: Option<String>,
    open: Option<Open>,
    /// Whether any member took it yet.
    began: bool,
    /// Whether anything came on the latest connection.
    told: bool,
    events: VecDeque<Event>,
    /// That the connection was lost, if that was not told yet.
    interrupted: Option<String>,
}

/// A connection on which events come.
struct Open {
    member: usize,
    response: Response,
    parser: Parser,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchEvent, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.told = true;
                let cursor = event.id.clone();
                let taken = self.taken(event)?;
                self.cursor = cursor.or(self.cursor.take());
                if let Some(event) = taken {
                    return Ok(event);
                }
                continue;
            }
            if let Some(reason) = self.interrupted.take() {
                return Ok(WatchEvent::Interrupted { reason });
            }
            let Some(open) = &mut self.open else {
                self.connect().await?;
                continue;
            };
            match tokio::time::timeout(SILENCE, open.response.chunk()).await {
                Ok(Ok(Some(piece))) => {
                    if let Err(reason) = open.parser.take(&piece, &mut self.events) {
                        return Err(self.client.foreign(&reason));
                    }
                }
                Ok(Ok(None)) => self.interrupt("the member ended the watch".to_owned()),
                Ok(Err(error)) => self.interrupt(super::answer::cause(&error)),
                Err(_) => self.interrupt(format!("nothing came for {} s", SILENCE.as_secs())),
            }
        }
    }

    fn interrupt(&mut self, reason: String) {
        if let Some(open) = self.open.take() {
            self.client.members.failed(open.member);
            let address = self.client.members.address(open.member);
            self.interrupted = Some(format!("{address}: {reason}"));
        }
    }

    /// What an event says; nothing if it is about the connection or unknown.
    fn taken(&mut self, event: Event) -> Result<Option<WatchEvent>, ClientError> {
        let foreign = |reason: &dyn std::fmt::Display| self.client.foreign(reason);
        let json = |error: serde_json::Error| foreign(&error);
        Ok(Some(match event.kind.as_str() {
            "reset" => {
                let Told { reason } = serde_json::from_str(&event.data).map_err(json)?;
                WatchEvent::Reset { reason }
            }
            "put" => {
                let entry: Entry = serde_json::from_str(&event.data).map_err(json)?;
                let item = Item::of(&entry, self.values).map_err(|reason| foreign(&reason))?;
                self.client.note(item.timestamp);
                WatchEvent::Put(item)
            }
            "delete" => {
                let Deleted { entry, expired } = serde_json::from_str(&event.data).map_err(json)?;
                let Item { key, timestamp, .. } =
                    Item::of(&entry, false).map_err(|reason| foreign(&reason))?;
                self.client.note(timestamp);
                WatchEvent::Delete { key, timestamp, expired }
            }
            "synced" => WatchEvent::Synced,
            "error" => {
                self.ended_with(&event.data)?;
                return Ok(None);
            }
            _ => return Ok(None),
        }))
    }

    /// The member says why it does not go on: others may.
    fn ended_with(&mut self, document: &str) -> Result<(), ClientError> {
        let error = refusal("the member", false, StatusCode::OK, None, document.as_bytes());
        if !Attempts::new(&self.client, Nature::Read).passes(&error) {
            return Err(error);
        }
        self.interrupt(error.to_string());
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        check_collection(&self.collection)?;
        let collection = utf8_percent_encode(&self.collection, NON_ALPHANUMERIC);
        let mut request = Request::get(format!("/v1/watch/{collection}{}", self.query));
        if let Some(cursor) = &self.cursor {
            request = request.header("last-event-id", cursor.clone());
        }
        let client = self.client.clone();
        let mut attempts = Attempts::new(&client, Nature::Read);
        if self.began {
            attempts.never_give_up();
            if !self.told {
                tokio::time::sleep(PAUSE).await;
            }
        }
        while let Some(member) = attempts.next().await {
            match open(&client, member, &request).await {
                Ok(response) => {
                    client.members.answered(member);
                    (self.began, self.told) = (true, false);
                    self.open = Some(Open { member, response, parser: Parser::default() });
                    return Ok(());
                }
                Err(error) => attempts.failed(member, error)?,
            }
        }
        Err(attempts.give_up())
    }
}

async fn open(client: &Client, member: usize, request: &Request) -> Result<Response, ClientError> {
    let address = client.members.address(member);
    let response = client.begun(member, request, BEGINNING).await?;
    let is_events = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/event-stream");
    if response.status().is_success() && response.headers().get(CONTENT_TYPE).is_some_and(is_events) {
        return Ok(response);
    }
    let answer = RawAnswer::read(address, false, response).await?;
    Err(answer.foreign(&"no stream of events"))
}
