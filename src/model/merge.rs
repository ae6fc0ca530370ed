//! How two records of one key become one: the laws that make replicas equal.
//!
//! Merging is commutative, associative and idempotent: records of a key form a join semilattice.
//! The order is lexicographic: timestamp, then the counter's epoch, then
//!
//! - values and tombstones (epoch 0): the greater element; of a value and the tombstone that it
//!   became by expiring (equal elements) the tombstone;
//! - counters (epoch above 0): the greater base, and both sides' pairs, each the greater of the
//!   two; an expired counter swallows the pairs of its own stamp and epoch.
//!
//! An increment never stamps. It extends the base that it finds: epoch 1 over something live, 2
//! over something deleted or expired, at that same stamp, so it wins the tie against what it
//! extends, and increments on both sides of a cut join under one base.

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
        Ordering::Less => Merged::Present,
        Ordering::Greater => Merged::Incoming,
        Ordering::Equal if present.epoch() > 0 => join_counters(present, incoming),
        Ordering::Equal => {
            let content = |r: RecordRef<'_>| (r.element(), r.kind() == Kind::ExpiredValue);
            if content(incoming) > content(present) { Merged::Incoming } else { Merged::Present }
        }
    }
}

fn join_counters(present: RecordRef<'_>, incoming: RecordRef<'_>) -> Merged {
    let base_of = |r: RecordRef<'_>| (r.expiry_ms(), r.base());
    let (expiry, base) = base_of(present).max(base_of(incoming));
    let Ok(key) = present.key_ref() else { return Merged::Present };
    let expired = [present, incoming].iter().any(|r| r.kind() == Kind::ExpiredCounter);
    let pairs = if expired { Vec::new() } else { join_pairs(present, incoming) };
    let live = Record::counter(key, present.timestamp(), present.epoch(), expiry, base, &pairs);
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

/// The record after `member` in its life `incarnation` has counted `delta`, given what it holds.
///
/// # Errors
/// [`CounterError`] when what is there can't be counted on.
pub fn increment(
    key: KeyRef<'_>,
    present: Option<RecordRef<'_>>,
    wall_ms: u64,
    (member, incarnation): (MemberId, u64),
    delta: i64,
) -> Result<Record, CounterError> {
    let readable = present.filter(|r| r.is_readable(wall_ms));
    let stamp = present.map_or(Timestamp::ZERO, RecordRef::timestamp);
    let (epoch, expiry, base, mut pairs) = match readable {
        Some(r) if r.kind() == Kind::Counter => (r.epoch(), r.expiry_ms(), r.base(), r.pairs().collect()),
        Some(r) => (1, r.expiry_ms(), parse_number(r.body())?, Vec::new()),
        None => (if present.is_some() { 2 } else { 1 }, None, 0, Vec::new()),
    };
    let total = readable.map_or(0, |r| if r.kind() == Kind::Counter { r.total() } else { base });
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

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(
            a in any_record(), b in any_record(), c in any_record()
        ) {
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert!(join(&a, &b).view().verify().is_ok());
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
            let one = increment(key(), view, wall, (MemberId(90), 1), left);
            let other = increment(key(), view, wall, (MemberId(91), 1), right);
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
        let counted = increment(key(), None, 0, (MemberId(1), 1), 5).unwrap();
        let set = Record::value(key(), Timestamp { time: 1, member: MemberId(1) }, None, b"x");
        assert_eq!(join(&counted, &set), set);
    }

    #[test]
    fn an_increment_that_would_overflow_is_refused() {
        let full = Record::value(key(), Timestamp::ZERO, None, i64::MAX.to_string().as_bytes());
        let refused = increment(key(), Some(full.view()), 0, (MemberId(1), 1), 1);
        assert_eq!(refused, Err(CounterError::Overflow));
        let word = Record::value(key(), Timestamp::ZERO, None, b"+1");
        assert_eq!(
            increment(key(), Some(word.view()), 0, (MemberId(1), 1), 1),
            Err(CounterError::NotANumber)
        );
    }
}
