//! Questions about a member and its cluster, and changes of them.
//!
//! What concerns the asked member is asked of one member: of the first that can be connected to, and if it changes
//! that member, of the first address and no other. All else any member can tell or do.

use super::failover::{Nature, Request};
use super::{Client, ClientError};
use crate::model::key::KeyRef;
use crate::node::handle::status::{
    Cluster, InitRequest, JoinRequest, Physical, Placement, Removed, Roster, Status,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

impl Client {
    /// How the member is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read(Nature::ReadOne, "/v1/status").await
    }

    /// Whether the member serves clients.
    ///
    /// # Errors
    /// [`ClientError`]; a member that is not ready is [`ClientError::Refused`] with status 503.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.ask(Request::new(Nature::ReadOne, Method::GET, "/health/ready")).await.map(|_| ())
    }

    /// Whether the member's process does its work, whatever its cluster does.
    ///
    /// # Errors
    /// [`ClientError`]; a member that does not is [`ClientError::Refused`] with status 503.
    pub async fn live(&self) -> Result<(), ClientError> {
        self.ask(Request::new(Nature::ReadOne, Method::GET, "/health/live")).await.map(|_| ())
    }

    /// The cluster and its members.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        self.read(Nature::Read, "/v1/cluster").await
    }

    /// The members that gossip can see.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn physical(&self) -> Result<Physical, ClientError> {
        self.read(Nature::Read, "/v1/cluster/physical").await
    }

    /// The roster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn roster(&self) -> Result<Roster, ClientError> {
        self.read(Nature::Read, "/v1/cluster/roster").await
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
        self.read(Nature::Read, &format!("/v1/cluster/placement{query}")).await
    }

    /// Creates a cluster with the member as its first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn init(&self, request: &InitRequest) -> Result<Cluster, ClientError> {
        self.send(Nature::ChangeOne, Method::POST, "/v1/cluster/init", request).await
    }

    /// Lets the member join the cluster of another one, whose peer port is at `address`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn join(&self, address: &str) -> Result<Cluster, ClientError> {
        let request = JoinRequest { address: address.to_owned() };
        self.send(Nature::ChangeOne, Method::POST, "/v1/cluster/join", &request).await
    }

    /// Lets the member hand over what it holds, and go. It goes on after the answer: its status shows
    /// how far it is, and at last that it left.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leave(&self) -> Result<Status, ClientError> {
        self.ask(Request::new(Nature::ChangeOne, Method::POST, "/v1/cluster/leave")).await?.json()
    }

    /// Fences a member for good, by its name or id; with `force` also where something may be lost.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, name: &str, force: bool) -> Result<Removed, ClientError> {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let path = format!("/v1/cluster/members/{name}?force={force}");
        self.ask(Request::new(Nature::Govern, Method::DELETE, path)).await?.json()
    }

    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        nature: Nature,
        path: &str,
    ) -> Result<T, ClientError> {
        self.ask(Request::new(nature, Method::GET, path)).await?.json()
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        nature: Nature,
        method: Method,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(document).map_err(|error| self.foreign(&error))?;
        self.ask(Request::new(nature, method, path).body(body)).await?.json()
    }
}
