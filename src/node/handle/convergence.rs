//! Whether members hold the same, as data that is also JSON: what each knows of itself and of the others, and
//! which writes lost.
//!
//! The forms are those of [`status`](super::status): ids and digests are text, units are in the names.

use super::documents::text_or_base64;
use super::status::{State, as_text};
use crate::engine;
use crate::model::MemberId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one member knows of whether all hold the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Convergence {
    /// The member's id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// Which of its lives this is; `quiet_rounds` counts within one.
    pub incarnation: u64,
    /// Equal on members that would place every record alike.
    pub placement_digest: String,
    /// Equal on members that hold the same roster and settings.
    pub system_digest: String,
    /// It has just started, and takes what it missed.
    pub catching_up: bool,
    /// Partitions that it owns.
    pub owned_partitions: u32,
    /// Those of them that it still copies or has not compared, and serves no reads of.
    pub incomplete_partitions: u32,
    /// Changes of the cluster that are under way or wait for another one.
    pub changes: u32,
    /// Partitions whose owners to come are not all complete yet.
    pub awaited_partitions: u32,
    /// Partitions of which it holds records without owning them, until all owners have them.
    pub foreign_partitions: u32,
    /// Collections that it still brings into hash trees of their own. Until that is done it compares with nobody, and may hold
    /// more for others than it tells.
    #[serde(default)]
    pub unsorted_collections: u32,
    /// Leaves of its hash trees that are wrong because records were lost, until they are mended.
    pub wrong_leaves: u64,
    /// Hints that it keeps, for whomever.
    pub hints: u64,
    /// Tombstones in its memory that wait until every owner has them and nothing older is under way.
    pub tombstones_waiting: u64,
    /// Tombstones in its memory that are settled and wait to be dropped.
    pub tombstones_settled: u64,
    /// Rounds in this life at whose end all had arrived that was under way at their begin.
    pub quiet_rounds: u64,
    /// Fresh records that met newer ones here since it started.
    pub superseded_records: u64,
    /// How far its wall clock is ahead of the median of the members' clocks, in milliseconds.
    pub clock_offset_ms: i64,
    /// What it knows of each other member, by id.
    pub peers: Vec<PeerConvergence>,
    /// Of each partition that it owns a digest of all its records; only if it was asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roots: BTreeMap<u16, String>,
}

/// What a member knows of convergence with another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerConvergence {
    /// The other one's id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where it serves HTTP, if that is known.
    pub http_address: Option<String>,
    /// Whether a link to it is up and it is not known to be dead.
    pub reachable: bool,
    /// Milliseconds since the last comparison with it began that was completed: whatever it held then is
    /// here. Absent before the first under the present placement.
    pub lag_ms: Option<u64>,
    /// Records on their way to it that it did not confirm after fsync.
    pub records_under_way: u64,
    /// Hints that are kept for it.
    pub hints: u64,
    /// Leaves of hash trees that differed from its own when that was last looked at.
    pub differing_leaves: u64,
    /// How far its wall clock is ahead of the median of the members' clocks, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// Tombstones that can't be reclaimed before it answers; of the last batch that waited for it.
    pub tombstones_held_back: u64,
}

/// Writes that lost to concurrent ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Superseded {
    /// Fresh records that met newer ones at the asked member since it started. A write may be counted at
    /// each of its owners.
    pub records: u64,
    /// The latest of them, the last one first.
    pub latest: Vec<SupersededWrite>,
}

/// A write that lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SupersededWrite {
    /// The collection.
    pub collection: String,
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The stamp of the write that lost.
    pub timestamp: String,
    /// The stamp of the record that won.
    pub winner: String,
    /// When the member noticed, in milliseconds since the Unix epoch.
    pub noticed_ms: u64,
}

impl SupersededWrite {
    /// As the engine keeps it.
    #[must_use]
    pub fn of(lost: &engine::Superseded) -> Self {
        let (key, key_base64) = text_or_base64(&lost.key);
        Self {
            collection: lost.collection.clone(),
            key,
            key_base64,
            timestamp: lost.timestamp.to_string(),
            winner: lost.winner.to_string(),
            noticed_ms: lost.noticed_ms,
        }
    }
}
