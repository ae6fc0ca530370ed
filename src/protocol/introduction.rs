//! What two members tell each other of themselves inside the handshake, and what a joiner asks.
//!
//! An introduction is sealed by the handshake, so it is authentic but not yet believed: the
//! receiver checks cluster, roster and lives before it uses the link.

use super::ProtocolError;
use super::message::{decode_whole, encode_whole};
use serde::{Deserialize, Serialize};

/// Who a member is, right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The cluster that it belongs to, if it belongs to one.
    pub cluster: Option<ClusterFacts>,
    /// Its name.
    pub name: String,
    /// The address at which peers reach it.
    pub address: String,
    /// The address at which its HTTP is reached.
    pub http_address: String,
    /// Its zone; empty for none.
    pub zone: String,
    /// How often it was started.
    pub incarnation: u64,
    /// Drawn at random at this start.
    pub life: u64,
    /// Its wall clock in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Whether it would create a cluster.
    pub bootstrap: bool,
}

/// What is fixed when a cluster is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// The cluster's id, a UUID.
    pub id: u128,
    /// Its name.
    pub name: String,
    /// Bits of its number of partitions.
    pub partition_bits: u8,
}

/// What is said on a link before both sides belong to the cluster, in control frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Let me in.
    Join,
    /// You are in: the cluster, and its system records.
    Welcome {
        /// The cluster.
        cluster: ClusterFacts,
        /// Roster and settings: canonical bytes, one after the other.
        records: Vec<u8>,
    },
    /// The link is refused or given up, and why; what to do is in the reason's text.
    Refused(Refusal),
    /// I belong to no cluster.
    NoCluster,
    /// I am about to create the cluster: let me in if there is one, else promise to create none.
    Claim,
    /// I belong to no cluster and create none until this claim is over.
    Promised {
        /// Where all those listen that came by and may have created one meanwhile.
        callers: Vec<String>,
    },
    /// The claim is over; I created nothing.
    Release,
    /// On a link between members: I have this secret, too, to which the cluster changes.
    SecretProof {
        /// The secret's id.
        key: [u8; 8],
        /// What proves it on this link.
        proof: [u8; 32],
    },
}

/// Why a member is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another cluster.
    #[error(
        "it belongs to cluster {theirs}, this member to {ours}; start it with an empty data directory to join here"
    )]
    OtherCluster {
        /// The refusing side's cluster id.
        ours: String,
        /// The refused side's.
        theirs: String,
    },
    /// Its name is another member's.
    #[error(
        "the name `{0}` is used by another member; choose another `name` in its config file, or run `kith remove {0}` in the cluster first if that member will not come back"
    )]
    NameTaken(String),
    /// It was removed.
    #[error(
        "it is in the cluster no more (it left, or was removed); start it with an empty data directory to join as a new member"
    )]
    Removed,
    /// Its clock is too far off.
    #[error("its clock is {offset_ms} ms off, {allowed_ms} ms are allowed; set its clock (NTP)")]
    Clock {
        /// How far, in milliseconds; positive is ahead.
        offset_ms: i64,
        /// What is allowed, in milliseconds.
        allowed_ms: u64,
    },
    /// A later life of it was seen: this is a copied or restored data directory.
    #[error(
        "{}: its data directory is a copy or was restored; start it with an empty one", told_life(*seen, *got)
    )]
    OldLife {
        /// The highest incarnation that was seen.
        seen: u64,
        /// The one it came with.
        got: u64,
    },
    /// It is not in the roster.
    #[error("it is not in the roster of this cluster; let it join first")]
    NotAMember,
    /// The roster is full.
    #[error("the cluster has {0} members, the most that it may have")]
    Full(usize),
    /// The refusing member belongs to no cluster itself.
    #[error("the member it asked belongs to no cluster yet")]
    NoCluster,
    /// The refusing member can't decide now.
    #[error("the member it asked is not ready: {0}")]
    NotReady(String),
    /// Another member is about to create the cluster.
    #[error("member `{0}` is about to create the cluster; wait some seconds and it can be joined")]
    Creating(String),
}

/// Why two lives of a member can't be one after the other.
fn told_life(seen: u64, got: u64) -> String {
    if seen == got {
        format!("another life of it with the same incarnation {seen} was seen")
    } else {
        format!("a later life of it was seen (incarnation {seen}, and it came with {got})")
    }
}

impl ClusterFacts {
    /// The bytes for a small file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Three plain fields always encode.
        encode_whole(self).unwrap_or_default()
    }

    /// Reads what [`ClusterFacts::encode`] gave.
    ///
    /// # Errors
    /// [`ProtocolError`] when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        decode_whole(bytes)
    }
}

impl Introduction {
    /// The bytes that go into the handshake.
    ///
    /// # Errors
    /// [`ProtocolError`] when it is too large; names from a checked config never are.
    pub fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        encode_whole(self)
    }

    /// Reads an introduction from all of `bytes`.
    ///
    /// # Errors
    /// [`ProtocolError`] when they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        decode_whole(bytes)
    }
}

impl Control {
    /// The bytes of a control frame.
    ///
    /// # Errors
    /// [`ProtocolError`] when it is too large.
    pub fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        encode_whole(self)
    }

    /// Reads a control frame.
    ///
    /// # Errors
    /// [`ProtocolError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        decode_whole(bytes)
    }
}
