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
//! Giving a counter another expiry stamps it anew and leaves its *birth*: the stamp and epoch under which its
//! pairs began. Counters of one birth (or of births that take each other up, as above) join their pairs whatever
//! their stamps are; the rest is the later one's. So what is counted elsewhere meanwhile is not lost. Where
//! something else was written between the two stamps, that order is no longer associative: who saw the other
//! write first has dropped the earlier pairs, who did not has kept them. The owners become equal all the same, by
//! joining again, and what is kept then are pairs that the other write did not know of.
//!
//! What can't exist together: a counter of stamp s and epoch 3 with (a) anything below s that is not
//! young, and (b) young ones with anything else of stamp s. A tombstone settles when nothing older exists
//! anywhere and every clock is past s (a), and is dropped when nobody has it, or what extends it, as a
//! present one any more (b): what comes late to a settled one is lifted, see [`merge_over_settled`].
//! `integration/reclaim_model.rs` has the protocol that sees to it.

use super::key::KeyRef;
use super::limits::MAX_COUNTER_PAIRS;
use super::record::{Birth, Kind, Pair, Record, RecordRef};
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
        _ if joins(present, incoming) => join_counters(present, incoming),
        Ordering::Less => Merged::Present,
        Ordering::Greater => Merged::Incoming,
        Ordering::Equal if present.epoch() > 0 => join_counters(present, incoming),
        Ordering::Equal => {
            let content = |r: RecordRef<'_>| (r.element(), r.kind() == Kind::ExpiredValue);
            if content(incoming) > content(present) { Merged::Incoming } else { Merged::Present }
        }
    }
}

/// Whether two records are counters whose pairs count together.
#[must_use]
pub fn joins(one: RecordRef<'_>, other: RecordRef<'_>) -> bool {
    let (a, b) = (one.birth(), other.birth());
    one.kind() == Kind::Counter
        && other.kind() == Kind::Counter
        && (a == b || takes_up(a, b) || takes_up(b, a))
}

/// Whether what was born so extends a settled tombstone, and `other` the same one before it settled or
/// after it was dropped.
fn takes_up(birth: Birth, other: Birth) -> bool {
    let of_same = other == Birth { epoch: 2, ..birth };
    birth.epoch == 3 && (of_same || other == YOUNG)
}

/// The birth of a counter that began over nothing.
const YOUNG: Birth = Birth { timestamp: Timestamp::ZERO, epoch: 1 };

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
    let birth = incoming.birth();
    let extends = birth.epoch == 2 && birth.timestamp == settled.timestamp();
    match incoming.key_ref() {
        Ok(key) if extends => {
            let pairs: Vec<Pair> = incoming.pairs().collect();
            let birth = Birth { epoch: 3, ..birth };
            Some(Record::counter_born(key, incoming.timestamp(), birth, incoming.expiry_ms(), 0, &pairs))
        }
        _ => Some(Record::copy_of(incoming)),
    }
}

fn join_counters(present: RecordRef<'_>, incoming: RecordRef<'_>) -> Merged {
    let base_of = |r: RecordRef<'_>| (r.timestamp(), r.epoch(), r.expiry_ms(), r.base());
    let (timestamp, epoch, expiry, base) = base_of(present).max(base_of(incoming));
    let (a, b) = (present.birth(), incoming.birth());
    let born = if takes_up(a, b) || !takes_up(b, a) && a >= b { a } else { b };
    let birth = if epoch == 1 { born } else { Birth { timestamp, epoch } };
    let Ok(key) = present.key_ref() else { return Merged::Present };
    let expired = [present, incoming].iter().any(|r| r.kind() == Kind::ExpiredCounter);
    let pairs = if expired { Vec::new() } else { join_pairs(present, incoming) };
    let live = Record::counter_born(key, timestamp, birth, expiry, base, &pairs);
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
    let born = |timestamp, epoch| (timestamp, Birth { timestamp, epoch });
    let ((stamp, birth), readable) = match found {
        Found::Nothing => (born(Timestamp::ZERO, 1), None),
        Found::Settled(stamp) => (born(stamp, 3), None),
        Found::Record(r) if !r.is_readable(wall_ms) => (born(r.timestamp(), 2), None),
        Found::Record(r) if r.kind() == Kind::Counter => ((r.timestamp(), r.birth()), Some(r)),
        Found::Record(r) => (born(r.timestamp(), 1), Some(r)),
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
    Ok(Record::counter_born(key, stamp, birth, expiry, base, &pairs))
}

/// What is readable (a counter, or a value that reads as a whole number just as one would) as a counter with
/// another stamp and expiry. What others count on it meanwhile joins it.
#[must_use]
pub fn restamp_counter(
    key: KeyRef<'_>,
    readable: RecordRef<'_>,
    timestamp: Timestamp,
    expiry_ms: Option<u64>,
) -> Option<Record> {
    let pairs: Vec<Pair> = readable.pairs().collect();
    let (birth, base) = match readable.kind() {
        Kind::Counter => (readable.birth(), readable.base()),
        _ => (Birth { timestamp: readable.timestamp(), epoch: 1 }, plain_number(readable)?),
    };
    Some(Record::counter_born(key, timestamp, birth, expiry_ms, base, &pairs))
}

/// The number of a value whose bytes are just those of the number written out.
#[must_use]
pub fn plain_number(value: RecordRef<'_>) -> Option<i64> {
    let number = parse_number(value.body()).ok().filter(|_| value.kind() == Kind::Value)?;
    (number.to_string().as_bytes() == value.body()).then_some(number)
}

/// A number in the one form that it has: no plus, no leading zero, no space.
fn parse_number(text: &[u8]) -> Result<i64, CounterError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = matches!(digits, [b'1'..=b'9', ..]) || text == b"0";
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

    fn is_young(record: RecordRef<'_>) -> bool {
        record.kind() == Kind::Counter && record.birth() == YOUNG
    }

    /// What the header says of epoch 3, and of what was written between two stamps of a counter.
    fn can_exist_together(records: [&Record; 3]) -> bool {
        let views = records.map(Record::view);
        let rank = |r: RecordRef<'_>| (r.timestamp(), r.epoch());
        let was_restamped = |r: RecordRef<'_>| r.birth().timestamp != r.timestamp();
        // Nobody else gives such a stamp.
        let is_unlike = |a: RecordRef<'_>, b: RecordRef<'_>| {
            was_restamped(a)
                && rank(a).0 == rank(b).0
                && (a.birth(), a.expiry_ms()) != (b.birth(), b.expiry_ms())
        };
        if views.iter().any(|a| views.iter().any(|b| is_unlike(*a, *b))) {
            return false;
        }
        for high in views.iter().copied().filter(|r| was_restamped(*r)) {
            for low in views.iter().copied().filter(|low| joins(high, *low)) {
                let between =
                    |r: &RecordRef<'_>| rank(*r) > rank(low) && rank(*r) < rank(high) && !joins(*r, high);
                if views.iter().any(between) {
                    return false;
                }
            }
        }
        let has_young = views.iter().any(|r| is_young(*r));
        let is_amiss = |stamp: Timestamp, r: RecordRef<'_>| match r.birth().timestamp.cmp(&stamp) {
            Ordering::Less => !is_young(r),
            Ordering::Equal => r.birth().epoch == 1 || has_young && r.birth().epoch != 3,
            Ordering::Greater => false,
        };
        let mut settled = views.iter().map(|r| r.birth()).filter(|birth| birth.epoch == 3);
        !settled.any(|birth| views.iter().any(|r| is_amiss(birth.timestamp, *r)))
    }

    /// What there may be while the tombstone of one stamp is reclaimed, and after.
    fn about_one_tombstone() -> impl Strategy<Value = Record> {
        let pairs = prop::collection::btree_map(0u64..3, 0u64..9, 0..3);
        (0u8..7, pairs).prop_map(|(what, pairs)| {
            let stamp = |time| Timestamp { time, member: MemberId(1) };
            let pair = |(m, plus)| Pair { member: MemberId(m), incarnation: 1, plus, minus: 0 };
            let pairs: Vec<Pair> = pairs.into_iter().map(pair).collect();
            match what {
                0 => Record::tombstone(key(), stamp(5)),
                1 => Record::counter(key(), Timestamp::ZERO, 1, None, 0, &pairs),
                2 => Record::value(key(), stamp(6), None, b"1"),
                3 | 4 => Record::counter(key(), stamp(5), what - 1, None, 0, &pairs),
                _ => {
                    let birth = Birth { timestamp: stamp(5), epoch: what - 3 };
                    Record::counter_born(key(), stamp(u64::from(what) + 2), birth, Some(9), 0, &pairs)
                }
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

    proptest! {
        #[test]
        fn what_is_counted_while_a_counter_gets_another_expiry_is_not_lost(
            start in prop::option::of(any_record()), early in 1i64..9, late in 1i64..9, at in prop::option::of(5u64..9)
        ) {
            let found = start.as_ref().map_or(Found::Nothing, |record| Found::Record(record.view()));
            let Ok(before) = increment(key(), found, 1, (MemberId(90), 1), early) else { return Ok(()) };
            let elsewhere = increment(key(), Found::Record(before.view()), 1, (MemberId(91), 1), late).unwrap();
            let stamp = Timestamp { time: 40, member: MemberId(90) };
            let restamped = restamp_counter(key(), before.view(), stamp, at).unwrap();
            prop_assert_eq!(restamped.view().total(), before.view().total());
            let joined = join(&restamped, &elsewhere);
            prop_assert_eq!(joined.view().total(), before.view().total() + late);
            prop_assert_eq!((joined.view().expiry_ms(), joined.view().timestamp()), (at, stamp));
            let more = increment(key(), Found::Record(restamped.view()), 1, (MemberId(92), 1), late).unwrap();
            prop_assert_eq!(join(&more, &elsewhere).view().total(), before.view().total() + 2 * late);
        }

        #[test]
        fn owners_become_equal_though_something_was_written_between_two_stamps(
            records in prop::collection::vec(any_record(), 2..6), orders in prop::collection::vec(any::<u64>(), 3)
        ) {
            // Each owner takes them in an order of its own, then they exchange what they have.
            let mut owners: Vec<Record> = orders.iter().map(|order| {
                let mut records = records.clone();
                let turns = usize::try_from(order % records.len() as u64).unwrap();
                records.rotate_left(turns);
                records.iter().skip(1).fold(records[0].clone(), |held, record| join(&held, record))
            }).collect();
            for _ in 0..3 {
                for one in 0..owners.len() {
                    for other in 0..owners.len() {
                        owners[one] = join(&owners[one], &owners[other]);
                    }
                }
            }
            prop_assert!(owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
        }
    }

    #[test]
    fn a_set_between_two_stamps_of_a_counter_loses_against_the_second() {
        let stamp = |time| Timestamp { time, member: MemberId(1) };
        let counted = increment(key(), Found::Nothing, 0, (MemberId(1), 1), 5).unwrap();
        let restamped = restamp_counter(key(), counted.view(), stamp(9), Some(100)).unwrap();
        let set = Record::value(key(), stamp(8), None, b"x");
        assert_eq!(join(&restamped, &set), restamped);
        let later = Record::value(key(), stamp(10), None, b"x");
        assert_eq!(join(&restamped, &later), later);
        let number = Record::value(key(), stamp(8), None, b"12");
        assert_eq!(restamp_counter(key(), number.view(), stamp(9), None).unwrap().view().total(), 12);
        for text in [&b"012"[..], b"-0", b"1.5", b"x", b""] {
            let value = Record::value(key(), stamp(8), None, text);
            assert_eq!(restamp_counter(key(), value.view(), stamp(9), None), None, "{text:?}");
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
