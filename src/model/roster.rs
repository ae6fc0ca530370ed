//! The roster: who belongs to the cluster, and in which state.
//!
//! It is kept as records of the collection [`super::key::ROSTER`]: one entry per member under its
//! id, and one fence per removed member under `removed/` and its id. A fence is a record of its own,
//! so no entry, whatever its stamp, brings a removed member back.
//!
//! Invariants: a roster is a pure function of the latest record under each key, in whatever order
//! they came. So an entry that can't be read counts as absent, as a deleted one does; and whatever
//! lies under a removed member's fence key fences, for good. Admitting members, and choosing what to
//! write, is the node's work.

use super::limits::MAX_NAME_BYTES;
use super::timestamp::{MemberId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;

/// Bytes of an entry's or removal's JSON form.
pub const MAX_ENTRY_BYTES: usize = 4_096;
/// Bytes of an address: the longest DNS name, a colon and a port.
pub const MAX_ADDRESS_BYTES: usize = 253 + 6;
/// Bytes of the reason for a removal.
pub const MAX_REASON_BYTES: usize = 500;

const REMOVED_PREFIX: &str = "removed/";

/// What a member's part in the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Admitted; it fills up and does not yet count among the old owners.
    Joining,
    /// A full member.
    Active,
    /// It hands everything over and does not count among the new owners.
    Leaving,
}

impl std::fmt::Display for MemberState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Leaving => "leaving",
        })
    }
}

/// What the cluster knows of one member: the value of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// The name that people use: 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`.
    pub name: String,
    /// The static key that the member proves in each handshake; its id follows from it.
    #[serde(with = "hex_key")]
    pub public_key: [u8; 32],
    /// Where peers reach it, as `host:port`.
    pub address: String,
    /// Where its HTTP listens, as `host:port`.
    pub http_address: String,
    /// The zone that it shares its fate with; empty for one of its own.
    pub zone: String,
    /// Its part in the cluster.
    pub state: MemberState,
    /// The hybrid time of its admission under this name. Later changes of the entry keep it: of two
    /// members with one name, the one admitted earlier holds it.
    pub admitted: u64,
}

/// Why an entry or removal is no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RosterError {
    /// It is too long to be looked at.
    #[error("a roster record has at most {MAX_ENTRY_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// It is not the JSON that it should be.
    #[error("the roster record can't be read: {0}")]
    Malformed(String),
    /// The name has a bad length or character.
    #[error("a member's name has 1 to {MAX_NAME_BYTES} characters of a-z, A-Z, 0-9, `-`, `_` and `.`")]
    Name,
    /// The zone has a bad length or character.
    #[error("a zone is empty or has 1 to {MAX_NAME_BYTES} characters of a-z, A-Z, 0-9, `-`, `_` and `.`")]
    Zone,
    /// The named address is none.
    #[error("`{0}` must be `host:port`, for example `10.0.0.1:7400` or `[::1]:7400`")]
    Address(&'static str),
    /// The reason of a removal is too long.
    #[error("the reason for a removal has at most {MAX_REASON_BYTES} bytes")]
    Reason,
    /// The key of the record belongs to another member than the public key.
    #[error("the entry's public key belongs to member {key}, not to {id}")]
    OtherMember {
        /// The member whose record this is.
        id: MemberId,
        /// The member that the public key makes.
        key: MemberId,
    },
}

impl RosterEntry {
    /// The id that follows from the public key.
    #[must_use]
    pub fn id(&self) -> MemberId {
        MemberId::of_public_key(&self.public_key)
    }

    /// The record's value. Check an entry made from outside with [`Self::validate`] first.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings, a number and a fixed array: nothing that JSON can't express.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a record's value; fields of newer versions are passed over.
    ///
    /// # Errors
    /// [`RosterError`] tells what is wrong; nothing is repaired silently.
    pub fn decode(bytes: &[u8]) -> Result<Self, RosterError> {
        let entry: Self = decode_json(bytes)?;
        entry.validate()?;
        Ok(entry)
    }

    /// Checks names, zone and addresses.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), RosterError> {
        if !is_name(&self.name) {
            return Err(RosterError::Name);
        }
        if !self.zone.is_empty() && !is_name(&self.zone) {
            return Err(RosterError::Zone);
        }
        if !is_address(&self.address) {
            return Err(RosterError::Address("address"));
        }
        if !is_address(&self.http_address) {
            return Err(RosterError::Address("http_address"));
        }
        Ok(())
    }
}

/// Why a member is fenced: the value of its fence.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Removal {
    /// The name that it had.
    pub name: String,
    /// Why it was removed, for people.
    pub reason: String,
}

impl Removal {
    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a fence's value.
    ///
    /// # Errors
    /// [`RosterError`]; the fence stands all the same.
    pub fn decode(bytes: &[u8]) -> Result<Self, RosterError> {
        let removal: Self = decode_json(bytes)?;
        if !is_name(&removal.name) {
            return Err(RosterError::Name);
        }
        if removal.reason.len() > MAX_REASON_BYTES {
            return Err(RosterError::Reason);
        }
        Ok(removal)
    }
}

fn decode_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RosterError> {
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(RosterError::TooLong(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|error| RosterError::Malformed(error.to_string()))
}

/// Whether a text may be a member's, cluster's or zone's name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether a text is `host:port` with a port that can be reached; an IPv6 host stands in brackets.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port_fits = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_fits = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
    };
    text.len() <= MAX_ADDRESS_BYTES && port_fits && host_fits
}

/// The key under which a member's entry lies.
#[must_use]
pub fn entry_key(id: MemberId) -> Vec<u8> {
    id.to_string().into_bytes()
}

/// The key under which a removed member's fence lies.
#[must_use]
pub fn removal_key(id: MemberId) -> Vec<u8> {
    format!("{REMOVED_PREFIX}{id}").into_bytes()
}

enum RosterKey {
    Entry(MemberId),
    Removal(MemberId),
}

/// Only the one spelling that the helpers above make: no two keys mean one member.
fn parse_key(key: &[u8]) -> Option<RosterKey> {
    let text = std::str::from_utf8(key).ok()?;
    let digits = text.strip_prefix(REMOVED_PREFIX).unwrap_or(text);
    let id: MemberId = digits.parse().ok()?;
    if key == entry_key(id) {
        Some(RosterKey::Entry(id))
    } else if key == removal_key(id) {
        Some(RosterKey::Removal(id))
    } else {
        None
    }
}

/// A member with the stamp of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterMember {
    /// What is known of it.
    pub entry: RosterEntry,
    /// The stamp of the record that says so.
    pub timestamp: Timestamp,
}

/// All members and all fences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    members: BTreeMap<MemberId, RosterMember>,
    removed: BTreeMap<MemberId, (Timestamp, Removal)>,
    /// The latest stamp under each entry key whose record holds no readable entry.
    absent: BTreeMap<MemberId, Timestamp>,
}

impl Roster {
    /// Takes in a record of [`super::key::ROSTER`]: its key, its value (`None` for a tombstone) and
    /// its stamp; says whether members or fences changed. Older records than the one known, and keys
    /// that mean nothing, change nothing.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: Timestamp) -> bool {
        match parse_key(key) {
            Some(RosterKey::Entry(id)) => self.apply_entry(id, value, timestamp),
            Some(RosterKey::Removal(id)) => self.apply_removal(id, value, timestamp),
            None => false,
        }
    }

    fn apply_entry(&mut self, id: MemberId, value: Option<&[u8]>, timestamp: Timestamp) -> bool {
        let held = self.members.get(&id).map(|member| member.timestamp);
        let known = held.max(self.absent.get(&id).copied());
        if self.is_removed(id) || known.is_some_and(|known| timestamp < known) {
            return false;
        }
        match value.map(|value| read_entry(id, value)) {
            Some(Ok(entry)) => {
                self.absent.remove(&id);
                let member = RosterMember { entry, timestamp };
                let before = self.members.insert(id, member);
                before.as_ref() != self.members.get(&id)
            }
            Some(Err(_)) | None => {
                self.absent.insert(id, timestamp);
                self.members.remove(&id).is_some()
            }
        }
    }

    fn apply_removal(&mut self, id: MemberId, value: Option<&[u8]>, timestamp: Timestamp) -> bool {
        if self.removed.get(&id).is_some_and(|(known, _)| timestamp < *known) {
            return false;
        }
        self.members.remove(&id);
        self.absent.remove(&id);
        let removal = value.and_then(|value| Removal::decode(value).ok()).unwrap_or_default();
        let fence = (timestamp, removal);
        let before = self.removed.insert(id, fence);
        before.as_ref() != self.removed.get(&id)
    }

    /// All members that are not removed, rising by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (MemberId, &RosterMember)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// A member that is not removed.
    #[must_use]
    pub fn get(&self, id: MemberId) -> Option<&RosterMember> {
        self.members.get(&id)
    }

    /// The member that holds a name: of several, the one admitted first.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<(MemberId, &RosterMember)> {
        let named = self.members().filter(|(_, member)| member.entry.name == name);
        named.min_by_key(|(id, member)| (member.entry.admitted, *id))
    }

    /// The id of the member that holds a name; a member that is not its name's holder has to give
    /// it up.
    #[must_use]
    pub fn holder_of(&self, name: &str) -> Option<MemberId> {
        self.by_name(name).map(|(id, _)| id)
    }

    /// Whether a member is fenced for good.
    #[must_use]
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains_key(&id)
    }

    /// Why a member is fenced; names and reason are empty if its fence can't be read.
    #[must_use]
    pub fn removal(&self, id: MemberId) -> Option<&Removal> {
        self.removed.get(&id).map(|(_, removal)| removal)
    }

    /// The fenced members, rising by id.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = (MemberId, &Removal)> {
        self.removed.iter().map(|(id, (_, removal))| (*id, removal))
    }

    /// The number of members that are not removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether no member is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// 64 bits over all members, their entries and stamps, and all fences: rosters that show the
    /// same have the same digest.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("kith 2026 roster digest");
        let mut feed = |kind: u8, id: MemberId, timestamp: Timestamp, content: &[u8]| {
            hasher.update(&[kind]).update(&id.0.to_le_bytes());
            hasher.update(&timestamp.time.to_le_bytes()).update(&timestamp.member.0.to_le_bytes());
            hasher.update(&(content.len() as u64).to_le_bytes()).update(content);
        };
        for (id, member) in &self.members {
            feed(0, *id, member.timestamp, &member.entry.encode());
        }
        for (id, (timestamp, removal)) in &self.removed {
            feed(1, *id, *timestamp, &removal.encode());
        }
        let head = hasher.finalize().as_bytes().first_chunk().copied();
        u64::from_le_bytes(head.unwrap_or_default())
    }
}

fn read_entry(id: MemberId, value: &[u8]) -> Result<RosterEntry, RosterError> {
    let entry = RosterEntry::decode(value)?;
    let key = entry.id();
    if key == id { Ok(entry) } else { Err(RosterError::OtherMember { id, key }) }
}

/// A public key as 64 hexadecimal digits.
mod hex_key {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::borrow::Cow;
    use std::fmt::Write;

    pub fn serialize<S: Serializer>(key: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        let text = key.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        parse(text.as_bytes()).ok_or_else(|| D::Error::custom("a public key has 64 hexadecimal digits"))
    }

    fn parse(text: &[u8]) -> Option<[u8; 32]> {
        if text.len() != 64 {
            return None;
        }
        let mut key = [0; 32];
        for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
            for digit in digits {
                let value = char::from(*digit).to_digit(16)?;
                *byte = (*byte << 4) | u8::try_from(value).ok()?;
            }
        }
        Some(key)
    }
}
