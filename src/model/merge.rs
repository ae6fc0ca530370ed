//! How two records of one key become one: the laws that make replicas equal.
//!
//! Merging is commutative and idempotent, and associative for all records that can exist together:
//! those form a join semilattice. The order is lexicographic: timestamp, then the counter's epoch, then
//!
//! - values and tombstones (epoch 0): the greater element; of a value and the tombstone that it
//!   became by expiring (equal elements) the tombstone;
//! - counters (epoch above 0): the greater base, and both sides' pairs, each the greater of the
//!   two; an expired counter swallows the pairs of its own stamp and epoch.
//!
//! An increment never stamps. It extends the base that it finds: epoch 1 over something live, 2
//! over something deleted or expired, at that same stamp, so it wins the tie against what it
//! extends, and increments on both sides of a cut join under one base.
//!
//! While a tombstone of stamp s is reclaimed, one owner may still hold it (an increment's base is
//! zero at s, epoch 2), the next has settled it (epoch 3), another has dropped it (zero at stamp 0,
//! epoch 1). All three bases are zero, and all their increments count. So epoch 3 takes up the pairs of
//! epoch 2 of its stamp, and of the *young*: counters of stamp 0 and epoch 1.
//!
//! What can't exist together: a counter of stamp s and epoch 3 with (a) anything below s that is not
//! young, and (b) young ones with anything else of stamp s. A tombstone settles when nothing older exists
//! anywhere and every clock is past s (a), and is dropped when nobody has it, or what extends it, as a
//! present one any more (b): what comes late to a settled one is lifted, see [`merge_over_settled`].
//! `integration/reclaim_model.rs` has the protocol that sees to it.

use super::key::KeyRef;
use super::limits::MAX_COUNTER_PAIRS;
use super::record::{Kind, Pair, Record, RecordRef};
use super::timestamp::{MemberId, Timestamp};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// What merging an incoming record into a present one yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// The present record stays as it is.
    Present,
    /// The incoming record takes its place, unchanged.
    Incoming,
    /// Something of both.
    Joined(Record),
}

/// Merges two records of the same key.
#[must_use]
pub fn merge(present: RecordRef<'_>, incoming: RecordRef<'_>) -> Merged {
    let rank = |r: RecordRef<'_>| (r.timestamp(), r.epoch());
    match rank(incoming).cmp(&rank(present)) {
        _ if takes_up(present, incoming) || takes_up(incoming, present) => join_counters(present, incoming),
        Ordering::Less => Merged::Present,
        Ordering::Greater => Merged::Incoming,
        Ordering::Equal if present.epoch() > 0 => join_counters(present, incoming),
        Ordering::Equal => {
            let content = |r: RecordRef<'_>| (r.element(), r.kind() == Kind::ExpiredValue);
            if content(incoming) > content(present) { Merged::Incoming } else { Merged::Present }
        }
    }
}

/// Whether `record` extends a settled tombstone, and `other` the same one before it settled or after
/// it was dropped.
fn takes_up(record: RecordRef<'_>, other: RecordRef<'_>) -> bool {
    let of_same = other.epoch() == 2 && other.timestamp() == record.timestamp();
    record.epoch() == 3 && (of_same || is_young(other))
}

/// Whether a record is a counter that began over nothing.
fn is_young(record: RecordRef<'_>) -> bool {
    record.kind() == Kind::Counter && record.epoch() == 1 && record.timestamp() == Timestamp::ZERO
}

/// Merges what comes to a settled tombstone of the stamp `settled`: `None` when it is that tombstone
/// itself (nothing changes), else the record that takes its place.
///
/// Anything else is taken as if nothing were there, except that a counter which extends the
/// tombstone as present becomes one that extends it as settled, so that it joins with those of owners
/// that dropped it.
#[must_use]
pub fn merge_over_settled(settled: RecordRef<'_>, incoming: RecordRef<'_>) -> Option<Record> {
    if incoming == settled {
        return None;
    }
    let stamp = settled.timestamp();
    let extends = incoming.epoch() == 2 && incoming.timestamp() == stamp;
    match incoming.key_ref() {
        Ok(key) if extends => {
            let pairs: Vec<Pair> = incoming.pairs().collect();
            Some(Record::counter(key, stamp, 3, None, 0, &pairs))
        }
        _ => Some(Record::copy_of(incoming)),
    }
}

fn join_counters(present: RecordRef<'_>, incoming: RecordRef<'_>) -> Merged {
    let base_of = |r: RecordRef<'_>| (r.timestamp(), r.epoch(), r.expiry_ms(), r.base());
    let (timestamp, epoch, expiry, base) = base_of(present).max(base_of(incoming));
    let Ok(key) = present.key_ref() else { return Merged::Present };
    let expired = [present, incoming].iter().any(|r| r.kind() == Kind::ExpiredCounter);
    let pairs = if expired { Vec::new() } else { join_pairs(present, incoming) };
    let live = Record::counter(key, timestamp, epoch, expiry, base, &pairs);
    let joined = if expired { Record::expired(live.view()).unwrap_or(live) } else { live };
    if joined.view() == present {
        Merged::Present
    } else if joined.view() == incoming {
        Merged::Incoming
    } else {
        Merged::Joined(joined)
    }
}

fn join_pairs(a: RecordRef<'_>, b: RecordRef<'_>) -> Vec<Pair> {
    let (mut a, mut b) = (a.pairs().peekable(), b.pairs().peekable());
    let mut joined = Vec::new();
    loop {
        let owner = |p: &Pair| (p.member, p.incarnation);
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => match owner(x).cmp(&owner(y)) {
                Ordering::Less => a.next(),
                Ordering::Greater => b.next(),
                Ordering::Equal => {
                    let other = b.next();
                    a.next().zip(other).map(|(x, y)| Pair {
                        plus: x.plus.max(y.plus),
                        minus: x.minus.max(y.minus),
                        ..x
                    })
                }
            },
            (Some(_), None) => a.next(),
            (None, _) => b.next(),
        };
        match next {
            Some(pair) => joined.push(pair),
            None => return joined,
        }
    }
}

/// Why an increment was refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum CounterError {
    /// The value there is no number.
    #[error("value is not an integer or out of range")]
    NotANumber,
    /// The result would leave the range of a signed 64-bit number.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The counter has shares of too many lives; setting it to its number again clears them.
    #[error("the counter was changed by too many lives of members; set it anew")]
    TooManyPairs,
}

/// What an increment finds.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// Nothing at all.
    Nothing,
    /// A record, be it a tombstone.
    Record(RecordRef<'a>),
    /// A settled tombstone of this stamp.
    Settled(Timestamp),
}

/// The record after `member` in its life `incarnation` has counted `delta`, given what it holds.
///
/// # Errors
/// [`CounterError`] when what is there can't be counted on.
pub fn increment(
    key: KeyRef<'_>,
    found: Found<'_>,
    wall_ms: u64,
    (member, incarnation): (MemberId, u64),
    delta: i64,
) -> Result<Record, CounterError> {
    let (stamp, epoch, readable) = match found {
        Found::Nothing => (Timestamp::ZERO, 1, None),
        Found::Settled(stamp) => (stamp, 3, None),
        Found::Record(r) if r.is_readable(wall_ms) => (r.timestamp(), r.epoch().max(1), Some(r)),
        Found::Record(r) => (r.timestamp(), 2, None),
    };
    let (expiry, base, mut pairs, total) = match readable {
        Some(r) if r.kind() == Kind::Counter => (r.expiry_ms(), r.base(), r.pairs().collect(), r.total()),
        Some(r) => {
            let number = parse_number(r.body())?;
            (r.expiry_ms(), number, Vec::new(), number)
        }
        None => (None, 0, Vec::new(), 0),
    };
    total.checked_add(delta).ok_or(CounterError::Overflow)?;
    let at = match pairs.binary_search_by_key(&(member, incarnation), |p: &Pair| (p.member, p.incarnation)) {
        Ok(at) => at,
        Err(_) if pairs.len() >= MAX_COUNTER_PAIRS => return Err(CounterError::TooManyPairs),
        Err(at) => {
            pairs.insert(at, Pair { member, incarnation, plus: 0, minus: 0 });
            at
        }
    };
    if let Some(pair) = pairs.get_mut(at) {
        let side = if delta < 0 { &mut pair.minus } else { &mut pair.plus };
        *side = side.checked_add(delta.unsigned_abs()).ok_or(CounterError::Overflow)?;
    }
    Ok(Record::counter(key, stamp, epoch, expiry, base, &pairs))
}

fn parse_number(text: &[u8]) -> Result<i64, CounterError> {
    let plain = text.first().is_some_and(|b| *b != b'+');
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse::<i64>().ok());
    number.filter(|_| plain).ok_or(CounterError::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{any_record, key};
    use super::*;
    use proptest::prelude::*;

    fn join(a: &Record, b: &Record) -> Record {
        match merge(a.view(), b.view()) {
            Merged::Present => a.clone(),
            Merged::Incoming => b.clone(),
            Merged::Joined(record) => record,
        }
    }

    /// What the header says of epoch 3.
    fn can_exist_together(records: [&Record; 3]) -> bool {
        let views = records.map(Record::view);
        let has_young = views.iter().any(|r| is_young(*r));
        let is_amiss = |stamp: Timestamp, r: RecordRef<'_>| match r.timestamp().cmp(&stamp) {
            Ordering::Less => !is_young(r),
            Ordering::Equal => r.epoch() == 1 || has_young && r.epoch() != 3,
            Ordering::Greater => false,
        };
        let mut settled = views.iter().filter(|r| r.epoch() == 3).map(|r| r.timestamp());
        !settled.any(|stamp| views.iter().any(|r| is_amiss(stamp, *r)))
    }

    /// What there may be while the tombstone of one stamp is reclaimed, and after.
    fn about_one_tombstone() -> impl Strategy<Value = Record> {
        let pairs = prop::collection::btree_map(0u64..3, 0u64..9, 0..3);
        (0u8..6, pairs).prop_map(|(what, pairs)| {
            let stamp = |time| Timestamp { time, member: MemberId(1) };
            let pair = |(m, plus)| Pair { member: MemberId(m), incarnation: 1, plus, minus: 0 };
            let pairs: Vec<Pair> = pairs.into_iter().map(pair).collect();
            match what {
                0 => Record::tombstone(key(), stamp(5)),
                1 => Record::counter(key(), Timestamp::ZERO, 1, None, 0, &pairs),
                2 => Record::value(key(), stamp(6), None, b"1"),
                _ => Record::counter(key(), stamp(5), what.min(3), None, 0, &pairs),
            }
        })
    }

    proptest! {
        #[test]
        fn merging_is_commutative_and_idempotent_and_associative_for_what_can_exist_together(
            a in any_record(), b in any_record(), c in any_record()
        ) {
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert!(join(&a, &b).view().verify().is_ok());
            if can_exist_together([&a, &b, &c]) {
                prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            }
        }

        #[test]
        fn merging_is_associative_while_a_tombstone_is_reclaimed(
            a in about_one_tombstone(), b in about_one_tombstone(), c in about_one_tombstone()
        ) {
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            if can_exist_together([&a, &b, &c]) {
                prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            }
        }

        #[test]
        fn increments_over_a_tombstone_present_settled_and_dropped_all_count(
            first in 1i64..9, second in 1i64..9, third in 1i64..9
        ) {
            let tombstone = Record::tombstone(key(), Timestamp { time: 5, member: MemberId(1) });
            let count = |found, member, delta| increment(key(), found, 0, (MemberId(member), 1), delta).unwrap();
            let settled = Found::Settled(tombstone.view().timestamp());
            let over_settled = count(settled, 1, first);
            let over_present = count(Found::Record(tombstone.view()), 2, second);
            let over_nothing = count(Found::Nothing, 3, third);
            let both = join(&over_present, &over_settled);
            prop_assert_eq!(join(&over_nothing, &both).view().total(), first + second + third);
            let lifted = merge_over_settled(tombstone.view(), over_present.view()).unwrap();
            prop_assert_eq!(join(&lifted, &over_nothing).view().total(), second + third);
            prop_assert_eq!(merge_over_settled(tombstone.view(), tombstone.view()), None);
            prop_assert_eq!(merge_over_settled(tombstone.view(), over_nothing.view()), Some(over_nothing));
        }

        #[test]
        fn increments_on_both_sides_of_a_cut_all_count(
            start in prop::option::of(any_record()), left in 1i64..9, right in -9i64..-1
        ) {
            let wall = 1;
            let view = start.as_ref().map(Record::view);
            let before = view.filter(|r| r.is_readable(wall)).map_or(0, |r| match r.kind() {
                Kind::Counter => r.total(),
                _ => parse_number(r.body()).unwrap_or(0),
            });
            let found = view.map_or(Found::Nothing, Found::Record);
            let one = increment(key(), found, wall, (MemberId(90), 1), left);
            let other = increment(key(), found, wall, (MemberId(91), 1), right);
            if let (Ok(one), Ok(other)) = (one, other) {
                prop_assert_eq!(join(&one, &other).view().total(), before + left + right);
                if let Some(start) = &start {
                    prop_assert_eq!(join(start, &one), one, "what extends a record wins over it");
                }
            } else {
                prop_assert_eq!(view.map(RecordRef::kind), Some(Kind::Value), "only a value can refuse");
            }
        }
    }

    #[test]
    fn a_set_after_increments_replaces_them() {
        let counted = increment(key(), Found::Nothing, 0, (MemberId(1), 1), 5).unwrap();
        let set = Record::value(key(), Timestamp { time: 1, member: MemberId(1) }, None, b"x");
        assert_eq!(join(&counted, &set), set);
    }

    #[test]
    fn an_increment_that_would_overflow_is_refused() {
        let full = Record::value(key(), Timestamp::ZERO, None, i64::MAX.to_string().as_bytes());
        let refused = increment(key(), Found::Record(full.view()), 0, (MemberId(1), 1), 1);
        assert_eq!(refused, Err(CounterError::Overflow));
        let word = Record::value(key(), Timestamp::ZERO, None, b"+1");
        assert_eq!(
            increment(key(), Found::Record(word.view()), 0, (MemberId(1), 1), 1),
            Err(CounterError::NotANumber)
        );
    }
}
