//! The places that SCAN went to: a client is given a number, a listing goes on after a key.
//!
//! The number is a hash of collection and key, so the same place has the same number, on whichever connection
//! it is asked for. The places are kept here, in the member; the oldest are forgotten when there are too many,
//! and a client that comes with a forgotten number is told that its cursor is invalid and begins anew.
//!
//! Invariants: as many numbers as keys; their keys together take at most [`MAX_KEY_BYTES`].

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::model::key::KeyHash;

/// Places that are remembered.
const MAX_PLACES: usize = 64 << 10;
/// Bytes of keys that are remembered.
const MAX_KEY_BYTES: usize = 8 << 20;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Cursors(RefCell<Places>);

#[derive(Debug, Default)]
struct Places {
    keys: BTreeMap<u64, Rc<[u8]>>,
    /// Numbers with the count of those given before, the oldest first. A number that was given again stands
    /// here twice; only the later one counts.
    order: VecDeque<(u64, u64)>,
    given: BTreeMap<u64, u64>,
    count: u64,
    bytes: usize,
}

impl Cursors {
    /// The number of the place after `key`; never 0.
    pub fn place(&self, collection: &str, key: &[u8]) -> u64 {
        let number = KeyHash::of(collection.as_bytes(), key).0.max(1);
        self.0.borrow_mut().remember(number, key);
        number
    }

    /// The key after which the listing of that number goes on.
    pub fn key(&self, number: u64) -> Option<Rc<[u8]>> {
        self.0.borrow().keys.get(&number).map(Rc::clone)
    }
}

impl Places {
    fn remember(&mut self, number: u64, key: &[u8]) {
        self.count += 1;
        self.given.insert(number, self.count);
        self.order.push_back((number, self.count));
        if self.keys.insert(number, key.into()).is_none() {
            self.bytes += key.len();
        }
        while self.keys.len() > MAX_PLACES || self.bytes > MAX_KEY_BYTES || self.order.len() > 2 * MAX_PLACES
        {
            let Some((oldest, count)) = self.order.pop_front() else { return };
            if self.given.get(&oldest) == Some(&count) {
                self.given.remove(&oldest);
                self.bytes -= self.keys.remove(&oldest).map_or(0, |key| key.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_has_the_same_number_and_another_collection_has_another_one() {
        let cursors = Cursors::default();
        let number = cursors.place("default", b"k");
        assert_eq!(cursors.place("default", b"k"), number);
        assert_ne!(cursors.place("1", b"k"), number);
        assert_eq!(cursors.key(number).as_deref(), Some(&b"k"[..]));
        assert_eq!(cursors.key(7), None);
    }

    #[test]
    fn the_oldest_places_are_forgotten_and_those_that_were_given_again_are_not() {
        let cursors = Cursors::default();
        let key = |n: usize| n.to_string().into_bytes();
        let (kept, first) = (cursors.place("default", b"kept"), cursors.place("default", &key(0)));
        for n in 1..2 * MAX_PLACES {
            cursors.place("default", &key(n));
            if n % 1_000 == 0 {
                cursors.place("default", b"kept");
            }
        }
        assert!(cursors.key(kept).is_some() && cursors.key(first).is_none());
        let places = cursors.0.borrow();
        assert_eq!((places.keys.len(), places.given.len()), (MAX_PLACES, MAX_PLACES));
        assert!(places.order.len() <= 2 * MAX_PLACES);
    }

    #[test]
    fn long_keys_are_bounded_by_their_bytes() {
        let cursors = Cursors::default();
        for n in 0..=MAX_KEY_BYTES / 4_000 {
            let mut key = n.to_string().into_bytes();
            key.resize(4_000, b'x');
            cursors.place("default", &key);
        }
        let places = cursors.0.borrow();
        assert!(places.bytes <= MAX_KEY_BYTES);
        assert_eq!(places.bytes, places.keys.len() * 4_000);
    }
}
