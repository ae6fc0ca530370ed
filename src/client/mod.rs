//! Clients of a cluster, in Rust, over HTTP: for programs, and what the command line uses.
//!
//! A [`Client`] knows the addresses of several members and asks the first that can take a request; one that is
//! down, gone or busy is passed over, and asked last for a while. What surely did nothing is tried again; a change
//! of which nobody knows whether it was made never is ([`ClientError::Unknown`]).
//!
//! A client is also a *session*: whatever it changes follows all that it has seen, at whichever member, whatever
//! their clocks say. Its clones share addresses, connections and session.
//!
//! ```no_run
//! use kith::Client;
//! use kith::client::{ClientError, Condition, WriteOptions};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), ClientError> {
//! let client = Client::new(["127.0.0.1:7401", "127.0.0.1:7411", "127.0.0.1:7421"])?;
//!
//! let for_a_minute = WriteOptions { ttl: Some(Duration::from_secs(60)), ..WriteOptions::default() };
//! client.put("sessions", b"42", "Ada".into(), &for_a_minute).await?;
//!
//! if let Some(found) = client.get("sessions", b"42", None).await? {
//!     // Only if nobody changed it meanwhile.
//!     let unchanged = WriteOptions { condition: Condition::Stamp(found.timestamp), ..for_a_minute };
//!     match client.put("sessions", b"42", "Ada Lovelace".into(), &unchanged).await {
//!         Err(ClientError::ConditionFailed { present }) => println!("it is of {present:?} now"),
//!         other => drop(other?),
//!     }
//! }
//!
//! let visits = client.increment("counters", b"visits", 1, &WriteOptions::default()).await?;
//! println!("visit {}", visits.number);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/registry.rs` is a whole program.

mod answer;
mod batch;
mod builder;
mod cluster;
pub mod convergence;
mod error;
mod events;
mod failover;
mod listing;
mod members;
mod secrets;
mod settings;
mod stream;
mod tokens;
mod values;
mod watch;

pub use crate::model::edit::Condition;
pub use crate::model::settings::Level;
pub use crate::model::{MemberId, Timestamp};
pub use crate::security::trust::TlsProblem;
pub use answer::completed;
pub use builder::ClientBuilder;
pub use error::{ClientError, Tried};
pub use listing::{Item, ListingQuery};
pub use stream::Items;
pub use values::{Counted, FoundValue, LASTING, WriteOptions, Written};
pub use watch::WatchEvent;

use members::{Members, Session};
use std::sync::Arc;
use std::time::Duration;

/// Where a member serves HTTP by default.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7401";

/// Asks members over HTTP. Cheap to clone; clones share their connections and what they have seen.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// `http` or `https`.
    scheme: &'static str,
    members: Arc<Members>,
    /// What changes must exceed; `None` if they need not.
    session: Option<Arc<Session>>,
    timeout: Duration,
    patience: Duration,
    read_level: Option<Level>,
    write_level: Option<Level>,
}

impl Client {
    /// A client of the members whose HTTP ports are at `addresses` (`host:port`, with TLS `https://host:port` for
    /// all of them), the first preferred. Connects to none yet.
    ///
    /// # Errors
    /// [`ClientError::Address`] names what is no address.
    pub fn new<I>(addresses: I) -> Result<Self, ClientError>
    where
        I: IntoIterator<Item: Into<String>>,
    {
        Self::builder(addresses).build()
    }

    /// A client that is not as all are.
    #[must_use]
    pub fn builder<I>(addresses: I) -> ClientBuilder
    where
        I: IntoIterator<Item: Into<String>>,
    {
        ClientBuilder::new(addresses)
    }

    /// The highest timestamp that this client and its clones have seen, which their next changes will exceed; `None`
    /// if they have seen none, or don't follow. Its member is of no meaning.
    #[must_use]
    pub fn seen(&self) -> Option<Timestamp> {
        self.session.as_ref().and_then(|session| session.seen())
    }

    fn note(&self, seen: Timestamp) {
        if let Some(session) = &self.session {
            session.note(seen);
        }
    }

    fn note_text(&self, seen: Option<&String>) {
        if let Some(seen) = seen.and_then(|text| text.parse().ok()) {
            self.note(seen);
        }
    }

    fn addresses(&self) -> String {
        self.members.addresses().collect::<Vec<_>>().join(", ")
    }

    fn foreign(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Foreign { address: self.addresses(), reason: reason.to_string() }
    }
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

#[cfg(test)]
mod tests;
