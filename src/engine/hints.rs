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
/// Hints looked at for each that is wanted: a bound for one turn.
const LOOKED_AT: usize = 8;

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

/// A key that a member lacks.
#[derive(Debug)]
struct Hint {
    key: HintKey,
    /// Rises with each newer record that the member lacks: a confirmation of an older one does not
    /// discard the hint.
    version: u32,
    /// In which round it was sent last.
    sent_in: u32,
}

/// The hints for one member.
#[derive(Debug)]
struct MemberHints {
    keys: BTreeMap<KeyHash, Hint>,
    /// Every link begins a new round, in which each hint is sent once.
    round: u32,
    /// Hints that were not sent in this round.
    unsent: usize,
    cursor: Option<KeyHash>,
}

impl Default for MemberHints {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), round: 1, unsent: 0, cursor: None }
    }
}

impl MemberHints {
    /// Lets a hint be sent again, with the record of the day.
    fn again(&mut self, hash: KeyHash) {
        if let Some(hint) = self.keys.get_mut(&hash) {
            hint.version = hint.version.wrapping_add(1);
            self.unsent += usize::from(hint.sent_in == self.round);
            hint.sent_in = 0;
        }
    }
}

/// All hints of this member.
#[derive(Debug, Default)]
pub(super) struct Hints {
    members: BTreeMap<MemberId, MemberHints>,
    bytes: u64,
    dropped: u64,
}

impl Hints {
    /// Notes that `member` lacks the newest record of a key, unless the bound of `limit` bytes is
    /// reached.
    pub(super) fn add(&mut self, member: MemberId, hash: KeyHash, key: HintKey, limit: u64) -> Added {
        let hints = self.members.entry(member).or_default();
        if hints.keys.contains_key(&hash) {
            hints.again(hash);
            return Added::Already;
        }
        let cost = key.0.len() as u64 + OVERHEAD_BYTES;
        if self.bytes + cost > limit {
            self.dropped += 1;
            return Added::NoRoom;
        }
        self.bytes += cost;
        hints.unsent += 1;
        hints.keys.insert(hash, Hint { key, version: 0, sent_in: 0 });
        Added::New
    }

    /// Whether so many hints for a key fit below the bound of `limit` bytes.
    pub(super) fn has_room(&self, key: &HintKey, count: usize, limit: u64) -> bool {
        let each = key.0.len() as u64 + OVERHEAD_BYTES;
        self.bytes.saturating_add(each.saturating_mul(count as u64)) <= limit
    }

    /// The member refused what was sent for a hint: it is sent again.
    pub(super) fn again(&mut self, member: MemberId, hash: KeyHash) {
        if let Some(hints) = self.members.get_mut(&member) {
            hints.again(hash);
        }
    }

    /// The version that a confirmation of what is sent now will be good for; `None` when there is
    /// no such hint.
    pub(super) fn version(&self, member: MemberId, hash: KeyHash) -> Option<u32> {
        self.members.get(&member)?.keys.get(&hash).map(|hint| hint.version)
    }

    /// Notes that `member` has the record of a key that was the newest when the hint had this
    /// version (`None`: whatever its version).
    pub(super) fn done(&mut self, member: MemberId, hash: KeyHash, version: Option<u32>) -> Option<HintKey> {
        let hints = self.members.get_mut(&member)?;
        if version.is_some_and(|version| hints.keys.get(&hash).is_none_or(|hint| hint.version != version)) {
            return None;
        }
        let hint = hints.keys.remove(&hash)?;
        hints.unsent -= usize::from(hint.sent_in != hints.round);
        self.bytes -= hint.key.0.len() as u64 + OVERHEAD_BYTES;
        if hints.keys.is_empty() {
            self.members.remove(&member);
        }
        Some(hint.key)
    }

    /// Forgets the hints for members that are no more.
    pub(super) fn forget(&mut self, is_gone: impl Fn(MemberId) -> bool) {
        for (_, hints) in self.members.extract_if(.., |member, _| is_gone(*member)) {
            let bytes = |hint: &Hint| hint.key.0.len() as u64 + OVERHEAD_BYTES;
            self.bytes -= hints.keys.values().map(bytes).sum::<u64>();
        }
    }

    /// Forgets hints beyond the bound of `limit` bytes, as far as `may_go` allows it.
    pub(super) fn trim(&mut self, limit: u64, may_go: impl Fn(KeyRef<'_>) -> bool) {
        for hints in self.members.values_mut() {
            hints.keys.retain(|_, hint| {
                let stays = self.bytes <= limit || !hint.key.key().is_none_or(&may_go);
                if !stays {
                    self.bytes -= hint.key.0.len() as u64 + OVERHEAD_BYTES;
                    self.dropped += 1;
                    hints.unsent -= usize::from(hint.sent_in != hints.round);
                }
                stays
            });
        }
        self.members.retain(|_, hints| !hints.keys.is_empty());
    }

    /// The next hints to send to `member`, at most `count`; each comes once in a round.
    pub(super) fn next(&mut self, member: MemberId, count: usize) -> Vec<(KeyHash, HintKey)> {
        let Some(hints) = self.members.get_mut(&member).filter(|hints| hints.unsent > 0) else {
            return Vec::new();
        };
        let start = hints.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let round = hints.round;
        let (mut found, mut last) = (Vec::new(), None);
        for (hash, hint) in hints.keys.range_mut((start, Bound::Unbounded)).take(LOOKED_AT * count) {
            if found.len() == count {
                break;
            }
            last = Some(*hash);
            if hint.sent_in != round {
                hint.sent_in = round;
                found.push((*hash, hint.key.clone()));
            }
        }
        hints.unsent -= found.len();
        hints.cursor = last;
        found
    }

    /// Begins a new round: what was sent before may be lost.
    pub(super) fn rewind(&mut self, member: MemberId) {
        if let Some(hints) = self.members.get_mut(&member) {
            // 0 is for hints that were never sent.
            hints.round = hints.round.wrapping_add(1).max(1);
            hints.unsent = hints.keys.len();
            hints.cursor = None;
        }
    }

    /// All hints, for the journal.
    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberId, &HintKey)> {
        self.members
            .iter()
            .flat_map(|(member, hints)| hints.keys.values().map(move |hint| (*member, &hint.key)))
    }

    /// Whether any member lacks the newest record of a key.
    pub(super) fn names(&self, hash: KeyHash) -> bool {
        self.members.values().any(|hints| hints.keys.contains_key(&hash))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_go_is_forgotten_beyond_the_bound() {
        let mut hints = Hints::default();
        let names: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
        let key = |at: usize| KeyRef::new("c", names[at].as_bytes()).unwrap();
        for member in [MemberId(1), MemberId(2)] {
            for at in 0..10 {
                hints.add(member, key(at).hash(), HintKey::of(key(at)), u64::MAX);
            }
        }
        let each = hints.bytes() / 20;
        let is_own = |key: KeyRef<'_>| key.key() >= b"k4".as_slice();
        hints.trim(15 * each, is_own);
        assert_eq!((hints.pending(), hints.bytes(), hints.dropped()), (15, 15 * each, 5));
        hints.trim(0, is_own);
        assert_eq!((hints.pending(), hints.bytes(), hints.dropped()), (8, 8 * each, 12));
        for member in [MemberId(1), MemberId(2)] {
            let mut next: Vec<KeyHash> = hints.next(member, 20).into_iter().map(|(hash, _)| hash).collect();
            let mut held: Vec<KeyHash> = (0..4).map(|at| key(at).hash()).collect();
            next.sort_unstable();
            held.sort_unstable();
            assert_eq!(next, held, "what stays is sent");
        }
    }
}
