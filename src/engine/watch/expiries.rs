//! When watched records expire, so that who watches is told in time: the sweep of the whole table takes longer.
//!
//! What is listed for a watch or changes under one is noted here; what is not (there is no room, or only changes
//! are told and it was there before) the sweep finds. A record that left memory is known by its names; it is loaded
//! when its time is over, and expires when redb has answered.
//!
//! Of a key only what was noted last counts: however often it is written anew, it takes one place.

use super::super::hints::HintKey;
use crate::model::KeyHash;
use std::collections::BTreeMap;

/// Records whose expiry is known.
const MAX_EXPIRIES: usize = 1 << 20;
/// Those of them that left memory.
const MAX_NAMES: usize = 1 << 17;

/// When watched records expire, by the hashes of their keys.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    due: BTreeMap<(u64, KeyHash), Option<HintKey>>,
    of_key: BTreeMap<KeyHash, u64>,
    names: usize,
}

impl Expiries {
    /// Notes when a record expires; with its names if it is not in memory.
    pub(super) fn note(&mut self, expiry_ms: u64, hash: KeyHash, names: Option<HintKey>) {
        if let Some(before_ms) = self.of_key.get(&hash) {
            self.take(*before_ms, hash);
        }
        if self.due.len() >= MAX_EXPIRIES {
            return;
        }
        let names = names.filter(|_| self.names < MAX_NAMES);
        self.names += usize::from(names.is_some());
        self.due.insert((expiry_ms, hash), names);
        self.of_key.insert(hash, expiry_ms);
    }

    /// The next record whose time is over.
    pub(super) fn pop(&mut self, wall_ms: u64) -> Option<(KeyHash, Option<HintKey>)> {
        let (expiry_ms, hash) = *self.due.first_key_value()?.0;
        (expiry_ms <= wall_ms).then(|| (hash, self.take(expiry_ms, hash)))
    }

    /// Takes out what is known of a key; gives its names.
    fn take(&mut self, expiry_ms: u64, hash: KeyHash) -> Option<HintKey> {
        self.of_key.remove(&hash);
        let names = self.due.remove(&(expiry_ms, hash)).flatten();
        self.names -= usize::from(names.is_some());
        names
    }

    /// Nobody watches any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeyRef;

    #[test]
    fn a_key_that_is_written_again_and_again_takes_one_place_and_expires_as_it_was_written_last() {
        let mut expiries = Expiries::default();
        let key = KeyRef::new("c", b"k").unwrap();
        for expiry_ms in [5, 7, 6, 9, 8] {
            expiries.note(expiry_ms, key.hash(), Some(HintKey::of(key)));
        }
        assert_eq!((expiries.due.len(), expiries.of_key.len(), expiries.names), (1, 1, 1));
        assert_eq!(expiries.pop(7), None);
        assert_eq!(expiries.pop(8), Some((key.hash(), Some(HintKey::of(key)))));
        assert_eq!((expiries.pop(u64::MAX), expiries.of_key.len(), expiries.names), (None, 0, 0));
    }
}
