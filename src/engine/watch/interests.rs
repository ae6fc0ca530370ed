//! Which watches a key is of interest to.
//!
//! Watches of the same interest share an entry, and entries stand in the order of their prefixes. Every prefix of a
//! key stands before it, and whatever stands between a prefix and the key begins with that prefix, too: so the
//! longest one is found by one look and each shorter one by another, however many others there are.

use crate::model::KeyRef;
use crate::protocol::watch::Interest;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The watches that a key is of interest to.
pub(super) type Matching = SmallVec<[u64; 8]>;

/// The watches of some prefixes.
type Prefixes = BTreeMap<Vec<u8>, SmallVec<[u64; 2]>>;

/// What is watched.
#[derive(Debug, Default)]
pub(super) struct Interests {
    all: Prefixes,
    collections: BTreeMap<String, Prefixes>,
}

impl Interests {
    /// Adds a watch, whose number is not there yet.
    pub(super) fn add(&mut self, interest: &Interest, watch: u64) {
        let prefixes = match &interest.collection {
            None => &mut self.all,
            Some(collection) => self.collections.entry(collection.clone()).or_default(),
        };
        prefixes.entry(interest.prefix.clone()).or_default().push(watch);
    }

    /// Takes a watch out.
    pub(super) fn remove(&mut self, interest: &Interest, watch: u64) {
        let Some(collection) = &interest.collection else { return remove(&mut self.all, interest, watch) };
        if let Some(prefixes) = self.collections.get_mut(collection) {
            remove(prefixes, interest, watch);
            if prefixes.is_empty() {
                self.collections.remove(collection);
            }
        }
    }

    /// Puts the watches of a key into `matching`, which is emptied first. Who watches all collections does not
    /// watch kith's own.
    pub(super) fn find(&self, key: KeyRef<'_>, matching: &mut Matching) {
        matching.clear();
        if !key.is_system() {
            find(&self.all, key.key(), matching);
        }
        if let Some(prefixes) = self.collections.get(key.collection()) {
            find(prefixes, key.key(), matching);
        }
    }
}

fn remove(prefixes: &mut Prefixes, interest: &Interest, watch: u64) {
    if let Some(watches) = prefixes.get_mut(&interest.prefix) {
        watches.retain(|other| *other != watch);
        if watches.is_empty() {
            prefixes.remove(&interest.prefix);
        }
    }
}

/// All prefixes that don't stand behind `bound`.
const fn up_to(bound: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(bound))
}

fn find(prefixes: &Prefixes, key: &[u8], matching: &mut Matching) {
    let mut bound = key;
    while let Some((prefix, watches)) = prefixes.range::<[u8], _>(up_to(bound)).next_back() {
        let common = prefix.iter().zip(key).take_while(|(a, b)| a == b).count();
        let is_prefix = common == prefix.len();
        if is_prefix {
            matching.extend_from_slice(watches);
        }
        // What is left are prefixes that are shorter than what both have in common.
        let rest = if is_prefix { common.checked_sub(1) } else { Some(common) };
        match rest.and_then(|rest| key.get(..rest)) {
            Some(shorter) => bound = shorter,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interest(collection: Option<&str>, prefix: &[u8]) -> Interest {
        Interest { collection: collection.map(str::to_owned), prefix: prefix.to_vec() }
    }

    fn found(interests: &Interests, collection: &str, key: &[u8]) -> Vec<u64> {
        let mut matching = Matching::new();
        interests.find(KeyRef::new(collection, key).unwrap(), &mut matching);
        matching.sort_unstable();
        matching.to_vec()
    }

    #[test]
    fn who_watches_all_collections_does_not_watch_those_of_the_system() {
        let mut interests = Interests::default();
        interests.add(&interest(None, b"k"), 1);
        interests.add(&interest(Some("_system_settings"), b""), 2);
        assert_eq!(found(&interests, "c", b"key"), [1]);
        assert_eq!(found(&interests, "_system_settings", b"key"), [2]);
    }

    #[test]
    fn a_watch_that_was_taken_out_is_found_no_more_and_leaves_nothing() {
        let mut interests = Interests::default();
        for watch in [1, 2] {
            interests.add(&interest(Some("c"), b"k"), watch);
        }
        interests.remove(&interest(Some("c"), b"k"), 1);
        assert_eq!(found(&interests, "c", b"k"), [2]);
        interests.remove(&interest(Some("c"), b"k"), 2);
        assert!(interests.collections.is_empty() && found(&interests, "c", b"k").is_empty());
    }

    proptest! {
        #[test]
        fn just_those_watches_are_found_whose_prefix_the_key_begins_with(
            prefixes in prop::collection::vec("[ab]{0,4}", 0..24), key in "[ab]{1,6}"
        ) {
            let mut interests = Interests::default();
            for (watch, prefix) in (0..).zip(&prefixes) {
                interests.add(&interest(Some("c"), prefix.as_bytes()), watch);
            }
            let is_prefix = |(_, prefix): &(u64, &String)| key.starts_with(prefix.as_str());
            let expected: Vec<u64> = (0..).zip(&prefixes).filter(is_prefix).map(|(watch, _)| watch).collect();
            prop_assert_eq!(found(&interests, "c", key.as_bytes()), expected);
            prop_assert!(found(&interests, "d", key.as_bytes()).is_empty());
        }
    }
}
