//! Hints: which owners lack the newest record of which keys.
//!
//! A hint names a key and the member that lacks it; the record itself is in the table like any
//! other, so only the newest is ever sent. Hints are journalled, bounded in bytes, sent when the
//! member can be reached, and discarded when it has confirmed after fsync.

use crate::model::{KeyHash, KeyRef, MemberId};
use std::collections::BTreeMap;
use std::ops::Bound;

/// What a hint costs in memory beside its names.
const OVERHEAD_BYTES: u64 = 64;

/// Collection and key of a hint: the length of the collection's name, then both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HintKey(Box<[u8]>);

impl HintKey {
    pub(super) fn of(key: KeyRef<'_>) -> Self {
        let mut bytes = Vec::with_capacity(1 + key.collection().len() + key.key().len());
        bytes.push(u8::try_from(key.collection().len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(key.collection().as_bytes());
        bytes.extend_from_slice(key.key());
        Self(bytes.into())
    }

    /// Checks bytes that are said to be a hint's key.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let hint = Self(bytes.into());
        hint.key().is_some().then_some(hint)
    }

    pub(super) const fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn key(&self) -> Option<KeyRef<'_>> {
        let (length, names) = self.0.split_first()?;
        let (collection, key) = names.split_at_checked(usize::from(*length))?;
        KeyRef::new(std::str::from_utf8(collection).ok()?, key).ok()
    }
}

/// The hints for one member.
#[derive(Debug, Default)]
pub(super) struct MemberHints {
    keys: BTreeMap<KeyHash, HintKey>,
    cursor: Option<KeyHash>,
}

/// All hints of this member.
#[derive(Debug, Default)]
pub(super) struct Hints {
    members: BTreeMap<MemberId, MemberHints>,
    bytes: u64,
    dropped: u64,
}

impl Hints {
    /// Notes that `member` lacks a key. False when the bound of `limit` bytes is reached; true
    /// with nothing noted twice.
    pub(super) fn add(&mut self, member: MemberId, hash: KeyHash, key: HintKey, limit: u64) -> Added {
        let hints = self.members.entry(member).or_default();
        if hints.keys.contains_key(&hash) {
            return Added::Already;
        }
        let cost = key.0.len() as u64 + OVERHEAD_BYTES;
        if self.bytes + cost > limit {
            self.dropped += 1;
            return Added::NoRoom;
        }
        self.bytes += cost;
        hints.keys.insert(hash, key);
        Added::New
    }

    /// Notes that `member` has the newest record of a key.
    pub(super) fn done(&mut self, member: MemberId, hash: KeyHash) -> Option<HintKey> {
        let hints = self.members.get_mut(&member)?;
        let key = hints.keys.remove(&hash)?;
        self.bytes -= key.0.len() as u64 + OVERHEAD_BYTES;
        if hints.keys.is_empty() {
            self.members.remove(&member);
        }
        Some(key)
    }

    /// The next hints to send to `member`, at most `count`; after the last it begins anew.
    pub(super) fn next(&mut self, member: MemberId, count: usize) -> Vec<(KeyHash, HintKey)> {
        let Some(hints) = self.members.get_mut(&member) else { return Vec::new() };
        let start = hints.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let range = hints.keys.range((start, Bound::Unbounded)).take(count);
        let found: Vec<_> = range.map(|(hash, key)| (*hash, key.clone())).collect();
        hints.cursor = found.last().map(|(hash, _)| *hash);
        found
    }

    /// Begins anew with the first hint for `member`: what was sent before may be lost.
    pub(super) fn rewind(&mut self, member: MemberId) {
        if let Some(hints) = self.members.get_mut(&member) {
            hints.cursor = None;
        }
    }

    /// All hints, for the journal.
    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberId, &HintKey)> {
        self.members.iter().flat_map(|(member, hints)| hints.keys.values().map(move |key| (*member, key)))
    }

    /// Hints that wait for `member`.
    pub(super) fn pending_for(&self, member: MemberId) -> usize {
        self.members.get(&member).map_or(0, |hints| hints.keys.len())
    }

    /// Hints that wait for anyone.
    pub(super) fn pending(&self) -> usize {
        self.members.values().map(|hints| hints.keys.len()).sum()
    }

    /// Memory that hints take, about, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hints that found no room.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What became of a new hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// It was noted.
    New,
    /// It was there.
    Already,
    /// The bound is reached.
    NoRoom,
}
