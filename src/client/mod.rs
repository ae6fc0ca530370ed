//! A client of the HTTP door, for the command line and for programs.
//!
//! It knows several members' addresses and asks the first that can be reached: an address at which
//! nothing listens is passed over, because nothing was sent to it. An answer, also a refusal, is
//! never asked for again elsewhere.
//!
//! Errors keep apart what a caller handles differently: nobody reached, refused with a reason,
//! fate unknown, and an answer that no kith gives ([`ClientError`]).

pub mod convergence;
mod error;
mod options;
mod tokens;

pub use error::ClientError;
pub use options::ClientOptions;

use crate::model::key::{KeyRef, check_collection};
use crate::model::settings::Level;
use crate::node::handle::documents::{Ending, Entry, ErrorDocument, Listing, Outcome, Outcomes, Ttl, Verb};
use crate::node::handle::status::{
    Cluster, InitRequest, JoinRequest, Physical, Placement, Removed, Roster, Settings, SettingsRequest,
    Status,
};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Where a member serves HTTP by default.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7401";

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundValue {
    /// Its bytes; of a counter its number as text.
    pub value: Bytes,
    /// Its timestamp as text, for [`WriteOptions::after`].
    pub timestamp: String,
}

/// How a change is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// How many owners must have it; `None` takes the cluster's setting.
    pub level: Option<Level>,
    /// How long a value lives, in milliseconds; `None` for ever.
    pub ttl_ms: Option<u64>,
    /// The last timestamp that was seen: the change will exceed it.
    pub after: Option<String>,
}

/// Which page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingQuery {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// [`Listing::next`] of the page before.
    pub after: Option<String>,
    /// Keys at most.
    pub limit: usize,
    /// Whether values come with the keys.
    pub values: bool,
    /// Only what the asked member itself holds, also when it left its cluster or was removed.
    pub held: bool,
}

/// Asks members over HTTP. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// `http` or `https`.
    scheme: &'static str,
    addresses: Vec<String>,
}

impl Client {
    /// A client of the members whose HTTP ports are at `addresses` (`host:port`), the first
    /// preferred. Connects to none yet.
    ///
    /// # Errors
    /// [`ClientError::Address`] names what is no address.
    pub fn new<I>(addresses: I) -> Result<Self, ClientError>
    where
        I: IntoIterator<Item: Into<String>>,
    {
        Self::with(addresses, &ClientOptions::default())
    }

    /// The value of a key, if there is a readable record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(
        &self,
        collection: &str,
        key: &[u8],
        level: Option<Level>,
    ) -> Result<Option<FoundValue>, ClientError> {
        KeyRef::new(collection, key)?;
        if is_dot_segment(key) {
            return self.get_by_batch(collection, key, level).await;
        }
        let path = key_path(collection, key, &[("consistency", level.map(|level| level.to_string()))]);
        match self.ask(Method::GET, &path, &[], Bytes::new()).await {
            Ok(answer) => {
                Ok(Some(FoundValue { timestamp: answer.timestamp.unwrap_or_default(), value: answer.body }))
            }
            Err(ClientError::Refused { code, .. }) if code == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put(
        &self,
        collection: &str,
        key: &[u8],
        value: Bytes,
        options: &WriteOptions,
    ) -> Result<Outcome, ClientError> {
        KeyRef::new(collection, key)?;
        if is_dot_segment(key) {
            let ttl = options.ttl_ms.map(Ttl::of_ms);
            return self.change_by_batch(Entry { ttl, ..Entry::put(collection, key, &value) }, options).await;
        }
        let ttl = options.ttl_ms.map(|ttl| format!("{ttl}ms"));
        let level = options.level.map(|level| level.to_string());
        let path = key_path(collection, key, &[("consistency", level), ("ttl", ttl)]);
        self.ask(Method::PUT, &path, &after(options), value).await?.json()
    }

    /// Deletes a key; `ttl_ms` has no meaning here.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(
        &self,
        collection: &str,
        key: &[u8],
        options: &WriteOptions,
    ) -> Result<Outcome, ClientError> {
        KeyRef::new(collection, key)?;
        if is_dot_segment(key) {
            return self.change_by_batch(Entry::about(Verb::Delete, collection, key), options).await;
        }
        let level = options.level.map(|level| level.to_string());
        let path = key_path(collection, key, &[("consistency", level)]);
        self.ask(Method::DELETE, &path, &after(options), Bytes::new()).await?.json()
    }

    async fn get_by_batch(
        &self,
        collection: &str,
        key: &[u8],
        level: Option<Level>,
    ) -> Result<Option<FoundValue>, ClientError> {
        let outcome = self.batch_of_one(Entry::about(Verb::Get, collection, key), level, &[]).await?;
        if outcome.outcome == Ending::NotFound {
            return Ok(None);
        }
        let value = outcome.value_bytes().map_err(|error| self.foreign(&error))?;
        Ok(Some(FoundValue { value, timestamp: outcome.timestamp.unwrap_or_default() }))
    }

    async fn change_by_batch(&self, change: Entry, options: &WriteOptions) -> Result<Outcome, ClientError> {
        self.batch_of_one(change, options.level, &after(options)).await
    }

    async fn batch_of_one(
        &self,
        operation: Entry,
        level: Option<Level>,
        headers: &[(&str, &str)],
    ) -> Result<Outcome, ClientError> {
        let outcomes = self.send_batch(&[operation], level, headers).await?;
        outcomes.into_iter().next().map_or_else(|| Err(self.foreign(&"no outcome")), completed)
    }

    /// One page of a collection, in order of the keys' bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, collection: &str, query: &ListingQuery) -> Result<Listing, ClientError> {
        check_collection(collection)?;
        let collection = utf8_percent_encode(collection, NON_ALPHANUMERIC);
        let prefix = percent_encode(&query.prefix, NON_ALPHANUMERIC);
        let after = query.after.as_ref().map_or_else(String::new, |next| format!("&after={next}"));
        let (limit, values) = (query.limit, query.values);
        let held = if query.held { "&held=true" } else { "" };
        let path = format!("/v1/kv/{collection}?prefix={prefix}&limit={limit}&values={values}{held}{after}");
        self.ask(Method::GET, &path, &[], Bytes::new()).await?.json()
    }

    /// Carries out operations, none of which waits for another; the outcomes are in their order.
    ///
    /// # Errors
    /// [`ClientError`]; what happened to single operations is in the outcomes.
    pub async fn batch(
        &self,
        operations: &[Entry],
        level: Option<Level>,
    ) -> Result<Vec<Outcome>, ClientError> {
        self.send_batch(operations, level, &[]).await
    }

    async fn send_batch(
        &self,
        operations: &[Entry],
        level: Option<Level>,
        headers: &[(&str, &str)],
    ) -> Result<Vec<Outcome>, ClientError> {
        let mut body = Vec::new();
        for operation in operations {
            serde_json::to_writer(&mut body, operation).map_err(|error| self.foreign(&error))?;
            body.push(b'\n');
        }
        let query = level.map_or_else(String::new, |level| format!("?consistency={level}"));
        let asked = self.ask(Method::POST, &format!("/v1/batch{query}"), headers, body.into()).await;
        let answer = asked.map_err(|error| match error {
            ClientError::Unknown { address, reason }
                if operations.iter().all(|operation| operation.op == Some(Verb::Get)) =>
            {
                ClientError::Lost { address, reason }
            }
            other => other,
        })?;
        let outcomes = answer.json::<Outcomes>()?.results;
        if outcomes.len() == operations.len() {
            return Ok(outcomes);
        }
        let reason = format!("{} outcomes of {} operations", outcomes.len(), operations.len());
        Err(ClientError::Foreign { address: answer.address, reason })
    }

    /// How the member is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read("/v1/status").await
    }

    /// Whether the member serves clients.
    ///
    /// # Errors
    /// [`ClientError`]; a member that is not ready is [`ClientError::Refused`] with status 503.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.ask(Method::GET, "/health/ready", &[], Bytes::new()).await.map(|_| ())
    }

    /// Whether the member's process does its work, whatever its cluster does.
    ///
    /// # Errors
    /// [`ClientError`]; a member that does not is [`ClientError::Refused`] with status 503.
    pub async fn live(&self) -> Result<(), ClientError> {
        self.ask(Method::GET, "/health/live", &[], Bytes::new()).await.map(|_| ())
    }

    /// The cluster and its members.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        self.read("/v1/cluster").await
    }

    /// The members that gossip can see.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn physical(&self) -> Result<Physical, ClientError> {
        self.read("/v1/cluster/physical").await
    }

    /// The roster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn roster(&self) -> Result<Roster, ClientError> {
        self.read("/v1/cluster/roster").await
    }

    /// Who owns the partition of a key (a collection and a key in it), or every partition.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn placement(&self, key: Option<(&str, &[u8])>) -> Result<Placement, ClientError> {
        if let Some((collection, key)) = key {
            KeyRef::new(collection, key)?;
        }
        let query = key.map_or_else(String::new, |(collection, key)| {
            let collection = utf8_percent_encode(collection, NON_ALPHANUMERIC);
            format!("?collection={collection}&key={}", percent_encode(key, NON_ALPHANUMERIC))
        });
        self.read(&format!("/v1/cluster/placement{query}")).await
    }

    /// The cluster's settings.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn settings(&self) -> Result<Settings, ClientError> {
        self.read("/v1/settings").await
    }

    /// Creates a cluster with the member as its first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn init(&self, request: &InitRequest) -> Result<Cluster, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.foreign(&error))?;
        self.ask(Method::POST, "/v1/cluster/init", &[], body.into()).await?.json()
    }

    /// Lets the member join the cluster of another one, whose peer port is at `address`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn join(&self, address: &str) -> Result<Cluster, ClientError> {
        let request = JoinRequest { address: address.to_owned() };
        let body = serde_json::to_vec(&request).map_err(|error| self.foreign(&error))?;
        self.ask(Method::POST, "/v1/cluster/join", &[], body.into()).await?.json()
    }

    /// Lets the member hand over what it holds, and go. It goes on after the answer: its status shows
    /// how far it is, and at last that it left.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leave(&self) -> Result<Status, ClientError> {
        self.ask(Method::POST, "/v1/cluster/leave", &[], Bytes::new()).await?.json()
    }

    /// Fences a member for good, by its name or id; with `force` also where something may be lost.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, name: &str, force: bool) -> Result<Removed, ClientError> {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let path = format!("/v1/cluster/members/{name}?force={force}");
        self.ask(Method::DELETE, &path, &[], Bytes::new()).await?.json()
    }

    /// Changes cluster-wide settings, all or none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn change_settings(
        &self,
        settings: &BTreeMap<String, String>,
    ) -> Result<Settings, ClientError> {
        let request = SettingsRequest { settings: settings.clone() };
        let body = serde_json::to_vec(&request).map_err(|error| self.foreign(&error))?;
        self.ask(Method::PATCH, "/v1/settings", &[], body.into()).await?.json()
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, &[], Bytes::new()).await?.json()
    }

    fn foreign(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Foreign { address: self.addresses.join(", "), reason: reason.to_string() }
    }

    /// Sends one request to the first member that can be connected to.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<RawAnswer, ClientError> {
        let changes = method != Method::GET;
        let mut reason = String::new();
        for address in &self.addresses {
            let mut request = self.http.request(method.clone(), format!("{}://{address}{path}", self.scheme));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            match request.body(body.clone()).send().await {
                Ok(response) => return RawAnswer::read(address, changes, response).await,
                Err(error) if error.is_connect() => reason = cause(&error),
                Err(error) => return Err(lost(address, changes, &error)),
            }
        }
        Err(ClientError::Unreachable { addresses: self.addresses.join(", "), reason })
    }
}

/// An answer before anybody knows what it means.
struct RawAnswer {
    address: String,
    timestamp: Option<String>,
    body: Bytes,
}

impl RawAnswer {
    async fn read(address: &str, changes: bool, response: reqwest::Response) -> Result<Self, ClientError> {
        let status = response.status();
        let timestamp = response.headers().get("kith-timestamp");
        let timestamp = timestamp.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.bytes().await.map_err(|error| lost(address, changes, &error))?;
        if status.is_success() {
            return Ok(Self { address: address.to_owned(), timestamp, body });
        }
        Err(refusal(address, status, &body))
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Foreign {
            address: self.address.clone(),
            reason: error.to_string(),
        })
    }
}

fn lost(address: &str, changes: bool, error: &reqwest::Error) -> ClientError {
    let (address, reason) = (address.to_owned(), cause(error));
    if changes { ClientError::Unknown { address, reason } } else { ClientError::Lost { address, reason } }
}

fn refusal(address: &str, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorDocument>(body) {
        Ok(ErrorDocument { error, message }) => {
            ClientError::Refused { status: status.as_u16(), code: error, message }
        }
        Err(_) => ClientError::Foreign { address: address.to_owned(), reason: format!("status {status}") },
    }
}

/// Turns an outcome that failed into an error.
///
/// # Errors
/// [`ClientError::Refused`] with the outcome's reason.
pub fn completed(outcome: Outcome) -> Result<Outcome, ClientError> {
    if outcome.outcome != Ending::Failed {
        return Ok(outcome);
    }
    Err(ClientError::Refused {
        status: StatusCode::OK.as_u16(),
        code: outcome.error.unwrap_or_default(),
        message: outcome.message.unwrap_or_default(),
    })
}

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

fn after(options: &WriteOptions) -> Vec<(&str, &str)> {
    options.after.iter().map(|timestamp| ("kith-after", timestamp.as_str())).collect()
}

/// `host:port`, of which the host is a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The innermost cause, which is what a person can do something about.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for address in ["127.0.0.1:7401", "localhost:1", "[::1]:7401", "member-1.example:65535"] {
            assert!(Client::new([address]).is_ok(), "{address}");
        }
        for address in
            ["", "localhost", ":7401", "http://localhost:7401", "::1:7401", "a:0", "a:70000", "a b:1"]
        {
            assert!(matches!(Client::new([address]), Err(ClientError::Address(_))), "{address}");
        }
    }

    #[test]
    fn a_key_of_any_bytes_becomes_a_path() {
        let level = Some("all".to_owned());
        let path = key_path("c", b"a/\xff ?", &[("consistency", level), ("ttl", None)]);
        assert_eq!(path, "/v1/kv/c/a%2F%FF%20%3F?consistency=all");
    }

    #[tokio::test]
    async fn what_is_no_collection_or_key_is_refused_before_anything_is_sent() {
        // Where nothing listens: whatever were sent would end in another error.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new([closed.to_string()]).unwrap();
        let (options, long) = (WriteOptions::default(), vec![b'k'; crate::model::limits::MAX_KEY_BYTES + 1]);
        let names: [(&str, &[u8]); 6] =
            [("..", b"k"), (".", b"k"), ("", b"k"), ("a/b", b"k"), ("c", b""), ("c", &long)];
        for (collection, key) in names {
            let errors = [
                client.get(collection, key, None).await.unwrap_err(),
                client.put(collection, key, Bytes::new(), &options).await.unwrap_err(),
                client.delete(collection, key, &options).await.unwrap_err(),
                client.placement(Some((collection, key))).await.unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, ClientError::Key(_)), "{collection:?} {}: {error}", key.len());
            }
        }
        let query = ListingQuery { prefix: Vec::new(), after: None, limit: 1, values: false, held: false };
        for collection in ["..", ".", "", "a/b"] {
            let error = client.list(collection, &query).await.unwrap_err();
            assert!(matches!(error, ClientError::Key(_)), "{collection:?}: {error}");
        }
    }

    #[tokio::test]
    async fn only_a_change_that_got_no_answer_is_told_to_be_unknown() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new([listener.local_addr().unwrap().to_string()]).unwrap();
        let hang_up = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 1];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut asked).await.unwrap();
            }
        };
        let ask = async {
            let read = client.get("c", b"k", None).await.unwrap_err();
            // A key that travels in a batch.
            let batched = client.get("c", b"..", None).await.unwrap_err();
            (read, batched, client.put("c", b"k", Bytes::new(), &WriteOptions::default()).await.unwrap_err())
        };
        let (read, batched, change) =
            tokio::select! { errors = ask => errors, () = hang_up => unreachable!() };
        assert!(matches!(read, ClientError::Lost { .. }), "{read}");
        assert!(matches!(batched, ClientError::Lost { .. }));
        assert!(read.to_string().contains("HTTP port") && !read.to_string().contains("unknown"), "{read}");
        assert!(matches!(change, ClientError::Unknown { .. }), "{change}");
        assert!(change.to_string().contains("unknown"), "{change}");
    }

    #[tokio::test]
    async fn an_address_where_nothing_listens_is_told_with_what_to_do() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Client::new([closed.to_string()]).unwrap().status().await.unwrap_err().to_string();
        assert!(error.contains(&closed.to_string()) && error.contains("kith dev"), "{error}");
    }
}
