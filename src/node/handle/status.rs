//! What a member tells about itself and its cluster, as data that is also JSON.
//!
//! The same types are filled by the node, written by HTTP and read by the client, so there is one
//! list of what can be known and one name for each thing. Ids are text (16 hexadecimal digits),
//! because JSON numbers lose bits; durations and sizes have their unit in the name. Readers ignore
//! fields that they don't know, and new fields get a default, so that versions can be mixed.

use super::convergence::Convergence;
pub use super::topology::{
    Cluster, MemberRow, OwnerRow, Physical, PhysicalRow, Placement, PlacementRow, Roster, RosterRow, Standing,
};
use crate::model::MemberId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Writes and reads what has a text form as that text.
pub(super) mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(in crate::node::handle) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in crate::node::handle) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// How far a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its start flow runs.
    Starting,
    /// It is up, knows no cluster, and waits for `init`, `join` or a seed that knows one.
    NoCluster,
    /// It was admitted, or looks for a member that admits it, and brings its data up.
    Joining,
    /// It belongs to a cluster, has lost the cluster's roster and settings, and waits for a member that
    /// has them.
    RecordsLost,
    /// Another member of its name was let in first; it needs another `name` to come back.
    NameTaken,
    /// It left its cluster.
    Left,
    /// It was removed from its cluster.
    Removed,
    /// Its data directory is a copy, or an old one that was restored; it serves no more.
    Outdated,
    /// It serves clients.
    Ready,
    /// It takes no new work and ends.
    Stopping,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::NoCluster => "no_cluster",
            Self::Joining => "joining",
            Self::RecordsLost => "records_lost",
            Self::NameTaken => "name_taken",
            Self::Left => "left",
            Self::Removed => "removed",
            Self::Outdated => "outdated",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        })
    }
}

/// A member's answer to "how are you".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Its id, which follows from its public key.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterName>,
    /// How far it is.
    pub state: State,
    /// The steps of its start so far, in order.
    pub start_steps: Vec<StartStep>,
    /// The version of kith.
    pub version: String,
    /// Which of its lives this is; each start raises it.
    pub incarnation: u64,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Its clock beside the others'.
    pub clock: ClockStatus,
    /// The setting `sync`: what counts as durable.
    pub sync: String,
    /// Its storage.
    pub storage: StorageStatus,
    /// Records that it keeps for owners that did not confirm them.
    pub hints: HintStatus,
    /// What is changing in the cluster, as far as this member knows.
    #[serde(default)]
    pub transitions: Vec<Transition>,
    /// Whether it and the others hold the same, as far as it knows; absent before it is in a cluster.
    #[serde(default)]
    pub convergence: Option<Convergence>,
    /// The members that it knows, itself left out.
    pub peers: Vec<PeerStatus>,
    /// What a person should look at, as sentences that say what to do.
    pub warnings: Vec<String>,
}

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A member joins.
    Join,
    /// A member leaves.
    Leave,
    /// The number of copies of each record.
    ReplicationFactor,
    /// A member's zone.
    Zone,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::ReplicationFactor => "replication factor",
            Self::Zone => "zone",
        })
    }
}

/// A change of the cluster that moves partitions to other owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// What changes.
    pub change: Change,
    /// The name of the member that it is about, if it is about one.
    pub member: Option<String>,
    /// The collection that it is about, if it is about one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// The replication factor or zone in force.
    pub from: Option<String>,
    /// The one that is wanted.
    pub to: Option<String>,
    /// It has not begun, because it waits for another one.
    pub waits: bool,
    /// Partitions whose owners change by what is under way.
    pub partitions: u32,
    /// Those of them whose owners to come are known to be complete.
    pub partitions_done: u32,
    /// What it waits for besides, if that is known.
    pub reason: Option<String>,
}

/// What came of the removal of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// The member's id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// The name that it had.
    pub name: String,
    /// What may be lost by it, and what to look at, as sentences.
    pub warnings: Vec<String>,
}

/// Which cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterName {
    /// The UUID that was made when it was created.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// One step of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartStep {
    /// What is done.
    pub name: String,
    /// How long it took, or takes up to now, in milliseconds.
    pub duration_ms: u64,
    /// How it ended, or that it runs.
    pub outcome: StepOutcome,
}

/// How a step of a start ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It runs.
    Running,
    /// It is done.
    Done,
    /// It failed, with the reason.
    Failed(String),
}

/// A member's clock beside the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockStatus {
    /// How far its wall clock is ahead of the median of the live members' clocks, in milliseconds;
    /// negative when it is behind.
    pub offset_ms: i64,
    /// Whether it is near enough to the median to give writes their timestamps.
    pub may_stamp: bool,
}

/// A member's storage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageStatus {
    /// Bytes in its journals, which a start would replay.
    pub journal_bytes: u64,
    /// Records in the table in memory.
    pub table_records: u64,
    /// Bytes that they take there.
    pub table_bytes: u64,
    /// Records that it holds in all, tombstones included.
    pub records: u64,
    /// Whether it takes writes.
    pub accepts_writes: bool,
    /// Stored records that were found damaged since it started. They come again from other members.
    pub damaged_records: u64,
    /// The last round of the scrub, which reads all that is stored to find damage; none before its end.
    pub last_scrub: Option<ScrubStatus>,
    /// What went wrong and what was done about it: files set aside, a full disk, partitions that
    /// are being rebuilt.
    pub problems: Vec<String>,
}

/// A round of the scrub through all that a member has stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScrubStatus {
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// Records that were whole.
    pub records: u64,
    /// Records that were damaged.
    pub damaged: u64,
}

/// What a member keeps for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HintStatus {
    /// Records.
    pub pending: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Whether two members are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// An authenticated link carries frames.
    Up,
    /// There is none at the moment.
    Down,
}

/// What a member knows of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerStatus {
    /// Its id.
    #[serde(with = "as_text")]
    #[schemars(with = "String")]
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Where it listens for peers.
    pub address: String,
    /// Whether a link to it is up.
    pub link: Link,
    /// What failure detection says; absent as long as nothing was heard of it.
    pub alive: Option<bool>,
    /// Why the last attempt at a link was refused, by either side; absent once one is up.
    pub last_refusal: Option<String>,
}

/// What a new cluster is to be. Whatever is left out comes from the member's own file, else from
/// the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// Slices of the key space: a power of two, fixed for the cluster's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// First settings, by name, as they are written in `kith init NAME=VALUE`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Where a cluster is that this member is to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// `host:port` of the peer port of any of its members.
    pub address: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_text_in_json_and_comes_back_whole() {
        let peer = PeerStatus {
            id: MemberId(u64::MAX - 1),
            name: "a".to_owned(),
            address: "127.0.0.1:7400".to_owned(),
            link: Link::Up,
            alive: None,
            last_refusal: None,
        };
        let json = serde_json::to_string(&peer).unwrap();
        assert!(json.contains(r#""id":"fffffffffffffffe""#), "{json}");
        assert_eq!(serde_json::from_str::<PeerStatus>(&json).unwrap(), peer);
    }

    #[test]
    fn an_unknown_field_of_an_init_request_is_refused() {
        let error = serde_json::from_str::<InitRequest>(r#"{"partition":4}"#).unwrap_err();
        assert!(error.to_string().contains("partitions"), "{error}");
    }
}
