//! Who there is, as data that is also JSON: the members that gossip sees, those that were admitted, and what
//! each of them owns.
//!
//! The forms are those of [`status`](super::status), which has these types, too.

use super::status::as_text;
use crate::model::MemberId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The members that gossip can see: the physical topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Physical {
    /// Who looked.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub seen_by: MemberId,
    /// What it saw, itself included, by name.
    pub members: Vec<PhysicalRow>,
}

/// One member that gossip can see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PhysicalRow {
    /// Its id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where it listens for peers.
    pub address: String,
    /// Which of its lives.
    pub incarnation: u64,
    /// Whether it is thought alive.
    pub alive: bool,
}

/// A member's place in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It brings up what it will own.
    Joining,
    /// It owns its share.
    Active,
    /// It hands over what it owns.
    Leaving,
    /// It left.
    Left,
    /// It was removed; its key is fenced for good.
    Removed,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Leaving => "leaving",
            Self::Left => "left",
            Self::Removed => "removed",
        })
    }
}

/// A cluster and its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cluster {
    /// The UUID that was made when it was created.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Slices of the key space.
    pub partitions: u32,
    /// Copies of each record.
    pub replication_factor: u32,
    /// Equal on members that would place every record alike.
    pub placement_digest: String,
    /// The members of the roster, by name; who left or was removed is not among them.
    pub members: Vec<MemberRow>,
}

/// One member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberRow {
    /// Its id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where it listens for peers.
    pub address: String,
    /// Where it serves HTTP, if that is known.
    pub http_address: Option<String>,
    /// Its zone; copies of a record go to distinct zones first.
    pub zone: Option<String>,
    /// Its place in the cluster.
    pub standing: Standing,
    /// What failure detection says; absent as long as nothing was heard of it.
    pub alive: Option<bool>,
    /// Whether it serves clients, as it said last; absent as long as it said nothing.
    #[serde(default)]
    pub ready: Option<bool>,
    /// The version of kith that it runs, if that is known.
    #[serde(default)]
    pub version: Option<String>,
    /// How far its wall clock is ahead of the median of the members' clocks, in milliseconds, if that is known.
    #[serde(default)]
    pub clock_offset_ms: Option<i64>,
    /// Which of its lives was heard of last.
    pub incarnation: Option<u64>,
    /// Partitions that it owns.
    pub partitions: u32,
    /// Whether it is the member that answers.
    pub this_member: bool,
}

/// The replicated list of admitted members: the logical topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Roster {
    /// Equal on members that hold the same roster.
    pub digest: String,
    /// Its entries, by name.
    pub entries: Vec<RosterRow>,
}

/// One entry of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RosterRow {
    /// The member's id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Its pinned public key, 64 hexadecimal digits.
    pub public_key: String,
    /// Where it listens for peers.
    pub address: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Its place in the cluster.
    pub standing: Standing,
    /// The timestamp of the entry, as text: the later entry wins.
    pub timestamp: String,
}

/// Who owns which partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Placement {
    /// All partitions: the slices of the key space, once for most collections and once for each that has, or had, a
    /// replication factor of its own.
    pub partitions: u32,
    /// Equal on members that would place every record alike.
    pub digest: String,
    /// The partitions that were asked about, in order.
    pub rows: Vec<PlacementRow>,
}

/// Who owns one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementRow {
    /// Which partition.
    pub partition: u32,
    /// The collection that it is of, if that is placed by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Name of the owner that looks before it changes, for whoever asks: the first that can be reached, is complete and has a
    /// right clock, as far as the answering member knows; none while no complete one can be reached.
    pub home: Option<String>,
    /// Its owners, in order of preference.
    pub owners: Vec<OwnerRow>,
}

/// One owner of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerRow {
    /// The owner's id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Whether it belongs to the set that holds the partition now.
    pub old: bool,
    /// Whether it belongs to the set that is to hold it; equal to `old` when nothing is changing.
    pub new: bool,
    /// Whether it is thought alive.
    pub alive: bool,
    /// Whether it was compared with the other owners and may serve reads, as far as the answering
    /// member knows.
    pub complete: bool,
}
