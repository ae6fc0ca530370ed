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
use std::collections::{BTreeMap, BTreeSet};
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
    /// The zone that it moves to, if it moves: it becomes `zone` when the owners that follow from it are
    /// complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_zone: Option<String>,
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

    /// Whether the member moves to another zone.
    #[must_use]
    pub fn changes_zone(&self) -> bool {
        self.next_zone.as_ref().is_some_and(|next| *next != self.zone)
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
        let is_zone = |zone: &String| zone.is_empty() || is_name(zone);
        if !is_zone(&self.zone) || !self.next_zone.as_ref().is_none_or(is_zone) {
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

    /// The members that hold their names, which is all but those that were let in elsewhere at the
    /// same time under another's name. Only these have a part in the cluster; the others have to
    /// choose another name.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<MemberId> {
        let mut holders: BTreeMap<&str, (u64, MemberId)> = BTreeMap::new();
        for (id, member) in self.members() {
            let claim = (member.entry.admitted, id);
            let holder = holders.entry(&member.entry.name).or_insert(claim);
            *holder = claim.min(*holder);
        }
        holders.into_values().map(|(_, id)| id).collect()
    }

    /// Whether a majority of the members that hold their names was heard, `me` among them; else how many of how
    /// many were. Only who has heard one, since it was asked, removes a member: of two sides of a cut one at
    /// most has a majority.
    ///
    /// # Errors
    /// How many were heard, and how many there are.
    pub fn majority(&self, me: MemberId, was_heard: impl Fn(MemberId) -> bool) -> Result<(), (usize, usize)> {
        let holders = self.holders();
        let live = holders.iter().filter(|member| **member == me || was_heard(**member)).count();
        if 2 * live > holders.len() { Ok(()) } else { Err((live, holders.len())) }
    }

    /// Whether a member is in the roster and holds its name.
    #[must_use]
    pub fn holds_its_name(&self, id: MemberId) -> bool {
        self.get(id).is_some_and(|member| self.holder_of(&member.entry.name) == Some(id))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(number: u8) -> RosterEntry {
        RosterEntry {
            name: format!("member{number}"),
            public_key: [number; 32],
            address: "db1.example.net:7400".to_owned(),
            http_address: "[::1]:7401".to_owned(),
            zone: String::new(),
            next_zone: None,
            state: MemberState::Active,
            admitted: u64::from(number),
        }
    }

    fn at(time: u64) -> Timestamp {
        Timestamp { time, member: MemberId(1) }
    }

    fn put(roster: &mut Roster, entry: &RosterEntry, time: u64) -> bool {
        roster.apply(&entry_key(entry.id()), Some(&entry.encode()), at(time))
    }

    type Change = (Vec<u8>, Option<Vec<u8>>, Timestamp);

    /// One change of one of three members: an entry, a fence, a tombstone, or what can't be read.
    fn change() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
        (0u8..3, 0u8..8, prop::sample::select(vec!["a", "b"])).prop_map(|(number, kind, zone)| {
            let entry = RosterEntry { zone: zone.to_owned(), ..entry(number) };
            let removal = Removal { name: entry.name.clone(), reason: zone.to_owned() };
            let id = entry.id();
            match kind {
                0 => (removal_key(id), Some(removal.encode())),
                1 => (removal_key(id), None),
                2 => (entry_key(id), None),
                3 => (entry_key(id), Some(b"{}".to_vec())),
                4 => (entry_key(id), Some(self::entry(number + 100).encode())),
                _ => (entry_key(id), Some(entry.encode())),
            }
        })
    }

    fn changes() -> impl Strategy<Value = (Vec<Change>, Vec<Change>)> {
        let stamped = prop::collection::vec(change(), 0..16).prop_map(|changes| {
            (1..).zip(changes).map(|(time, (key, value))| (key, value, at(time))).collect::<Vec<_>>()
        });
        stamped.prop_flat_map(|changes| (Just(changes.clone()), Just(changes).prop_shuffle()))
    }

    fn after(changes: &[Change]) -> Roster {
        let mut roster = Roster::default();
        for (key, value, timestamp) in changes {
            let before = (roster.digest(), roster.clone());
            let changed = roster.apply(key, value.as_deref(), *timestamp);
            assert_eq!(changed, roster.digest() != before.0);
            assert!(!roster.apply(key, value.as_deref(), *timestamp), "applying is idempotent");
        }
        roster
    }

    proptest! {
        #[test]
        fn the_order_in_which_records_come_leaves_no_trace((changes, shuffled) in changes()) {
            let (left, right) = (after(&changes), after(&shuffled));
            prop_assert_eq!(&left, &right);
            prop_assert_eq!(left.digest(), right.digest());
        }

        #[test]
        fn only_the_latest_record_under_each_key_counts((changes, _) in changes()) {
            let latest: BTreeMap<_, _> =
                changes.iter().map(|(key, value, at)| (key.clone(), (value.clone(), *at))).collect();
            let latest: Vec<Change> = latest.into_iter().map(|(key, (value, at))| (key, value, at)).collect();
            prop_assert_eq!(after(&changes).digest(), after(&latest).digest());
        }

        #[test]
        fn no_bytes_from_outside_panic(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut roster = Roster::default();
            roster.apply(&key, Some(&value), at(1));
            let text = String::from_utf8_lossy(&value);
            let _ = (RosterEntry::decode(&value), Removal::decode(&value), is_address(&text), is_name(&text));
            prop_assert!(!roster.apply(&entry_key(MemberId(7)), Some(&value), at(1)));
        }
    }

    #[test]
    fn an_entry_survives_its_json_form_and_fields_of_newer_versions() {
        let entry = entry(3);
        assert_eq!(RosterEntry::decode(&entry.encode()), Ok(entry.clone()));
        let text = String::from_utf8(entry.encode()).unwrap();
        let newer = text.replacen('{', r#"{"weight":[1,{"x":null}],"#, 1);
        assert_eq!(RosterEntry::decode(newer.as_bytes()), Ok(entry));
        assert!(text.contains(r#""state":"active""#) && text.contains(&"03".repeat(32)), "{text}");
    }

    #[test]
    fn a_removed_member_stays_removed_whatever_its_entry_says() {
        let mut roster = Roster::default();
        let (one, two) = (entry(1), entry(2));
        assert!(put(&mut roster, &one, 5) && put(&mut roster, &two, 5));
        let removal = Removal { name: one.name.clone(), reason: "its disk burnt".to_owned() };
        assert!(roster.apply(&removal_key(one.id()), Some(&removal.encode()), at(1)));
        assert!(!put(&mut roster, &one, 1_000_000));
        assert!(roster.is_removed(one.id()) && roster.get(one.id()).is_none());
        assert_eq!(roster.removal(one.id()), Some(&removal));
        assert_eq!(roster.len(), 1);

        roster.apply(&removal_key(one.id()), None, at(2_000_000));
        assert!(!put(&mut roster, &one, 3_000_000), "not even a deleted fence lets it back in");
        assert_eq!(roster.removed().len(), 1);
    }

    #[test]
    fn an_older_entry_does_not_replace_a_newer_one() {
        let mut roster = Roster::default();
        let joining = RosterEntry { state: MemberState::Joining, ..entry(1) };
        assert!(put(&mut roster, &entry(1), 9));
        assert!(!put(&mut roster, &joining, 8));
        assert_eq!(roster.get(joining.id()).unwrap().entry.state, MemberState::Active);
        assert!(roster.apply(&entry_key(joining.id()), None, at(10)));
        assert!(!put(&mut roster, &entry(1), 9) && roster.is_empty());
    }

    #[test]
    fn of_two_members_with_one_name_the_one_admitted_first_holds_it() {
        let mut roster = Roster::default();
        let first = RosterEntry { name: "a".to_owned(), admitted: 10, ..entry(1) };
        let second = RosterEntry { name: "a".to_owned(), admitted: 11, ..entry(2) };
        put(&mut roster, &second, 11);
        assert_eq!(roster.holder_of("a"), Some(second.id()));
        put(&mut roster, &first, 900);
        assert_eq!(roster.holder_of("a"), Some(first.id()), "a later change of the entry keeps the name");
        assert_eq!(roster.by_name("b"), None);
        roster.apply(&removal_key(first.id()), None, at(1));
        assert_eq!(roster.holder_of("a"), Some(second.id()));
    }

    #[test]
    fn an_entry_under_another_members_key_is_no_entry() {
        let mut roster = Roster::default();
        assert!(!roster.apply(&entry_key(entry(2).id()), Some(&entry(1).encode()), at(1)));
        assert!(roster.is_empty());
    }

    #[test]
    fn a_key_has_one_spelling() {
        let mut roster = Roster::default();
        let one = (0..=255).map(entry).find(|e| e.id().to_string().contains(char::is_alphabetic)).unwrap();
        for key in [entry_key(one.id()).to_ascii_uppercase(), b"x".to_vec(), b"removed/".to_vec(), vec![]] {
            assert!(!roster.apply(&key, Some(&one.encode()), at(1)));
        }
        assert!(!roster.apply(&removal_key(one.id()).to_ascii_uppercase(), None, at(1)));
    }

    #[test]
    fn every_broken_rule_has_its_error() {
        let broken = |change: fn(&mut RosterEntry)| {
            let mut entry = entry(1);
            change(&mut entry);
            RosterEntry::decode(&entry.encode()).unwrap_err()
        };
        assert_eq!(broken(|e| e.name = String::new()), RosterError::Name);
        assert_eq!(broken(|e| e.name = "x".repeat(64)), RosterError::Name);
        assert_eq!(broken(|e| e.name = "é".to_owned()), RosterError::Name);
        assert_eq!(broken(|e| e.zone = "a b".to_owned()), RosterError::Zone);
        assert_eq!(broken(|e| e.next_zone = Some("a b".to_owned())), RosterError::Zone);
        assert_eq!(broken(|e| e.address = "nowhere".to_owned()), RosterError::Address("address"));
        assert_eq!(broken(|e| e.http_address = "h:0".to_owned()), RosterError::Address("http_address"));
        assert!(matches!(broken(|e| e.name = "x".repeat(5_000)), RosterError::TooLong(_)));
        assert!(matches!(RosterEntry::decode(b"[]"), Err(RosterError::Malformed(_))));
        let text = String::from_utf8(entry(1).encode()).unwrap();
        for (from, to) in
            [("active", "asleep"), ("0101", "01"), ("0101", "01é"), ("\"address\"", "\"adress\"")]
        {
            assert!(RosterEntry::decode(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
        let long = Removal { name: "a".to_owned(), reason: "x".repeat(501) };
        assert_eq!(Removal::decode(&long.encode()), Err(RosterError::Reason));
    }

    #[test]
    fn the_largest_entry_fits() {
        let longest = RosterEntry {
            name: "x".repeat(63),
            zone: "z".repeat(63),
            next_zone: Some("n".repeat(63)),
            address: format!("{}:65535", "a".repeat(253)),
            http_address: format!("{}:65535", "b".repeat(253)),
            admitted: u64::MAX,
            ..entry(1)
        };
        assert_eq!(RosterEntry::decode(&longest.encode()), Ok(longest));
        let removal = Removal { name: "x".repeat(63), reason: "\u{1}".repeat(500) };
        assert_eq!(Removal::decode(&removal.encode()), Ok(removal));
    }

    #[test]
    fn addresses_name_a_host_and_a_port() {
        for good in ["127.0.0.1:1", "[2001:db8::1]:7400", "a:65535", "kith-0.kith_svc.local:7400"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "", ":", ":1", "a", "a:", "a:0", "a:65536", "a:+1", "::1:7400", "[::1]", "[a]:1", "a b:1",
            "a:1:2",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(!is_address(&format!("{}:1", "a".repeat(300))));
    }
}
