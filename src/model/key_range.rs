//! Ranges of keys: what a listing is about, and what is left of it.
//!
//! Keys are ordered by their bytes. Prefixes, bounds and the place that a walk has come to, in either
//! direction, all are one thing: a first key that belongs, and a first one that does not any more.

use serde::{Deserialize, Serialize};

/// The keys from `start` on and before `end`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyRange {
    /// The first key that belongs to it, whether it exists or not.
    pub start: Vec<u8>,
    /// The first key after it that does not; none: there is no end.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn with_prefix(prefix: &[u8]) -> Self {
        // The next string of bytes that does not begin so; after 0xff at every place there is none.
        let end = prefix.iter().rposition(|byte| *byte < u8::MAX).map(|last| {
            let mut end = prefix.get(..=last).unwrap_or_default().to_vec();
            if let Some(byte) = end.last_mut() {
                *byte += 1;
            }
            end
        });
        Self { start: prefix.to_vec(), end }
    }

    /// Those that are not below `start`.
    #[must_use]
    pub fn starting_at(mut self, start: &[u8]) -> Self {
        if *start > *self.start {
            self.start = start.to_vec();
        }
        self
    }

    /// Those that are below `end`.
    #[must_use]
    pub fn ending_before(mut self, end: &[u8]) -> Self {
        if self.end.as_deref().is_none_or(|present| end < present) {
            self.end = Some(end.to_vec());
        }
        self
    }

    /// Those that a walk has still before it when it has come to `key`: the ones above it, or those below
    /// it if the walk is `reverse`.
    #[must_use]
    pub fn beyond(self, key: &[u8], reverse: bool) -> Self {
        if reverse {
            return self.ending_before(key);
        }
        // Nothing lies between a string of bytes and the same with a zero behind it.
        self.starting_at(&[key, &[0]].concat())
    }

    /// Whether no key can belong to it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether a key belongs to it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        *key >= *self.start && self.end.as_deref().is_none_or(|end| key < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Short, of few different bytes, so that one often begins with another.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0, 1, 0x61, 0xfe, 0xff]), 0..5)
    }

    proptest! {
        #[test]
        fn a_range_holds_what_begins_with_its_prefix_within_its_bounds_and_beyond_its_walk(
            (prefix, start, end, walked, key) in (name(), name(), name(), name(), name()), reverse: bool
        ) {
            let range = KeyRange::with_prefix(&prefix).starting_at(&start).ending_before(&end);
            let bounded = key.starts_with(&prefix) && key >= start && key < end;
            prop_assert_eq!(range.contains(&key), bounded);
            let is_ahead = if reverse { key < walked } else { key > walked };
            let rest = range.beyond(&walked, reverse);
            prop_assert_eq!(rest.contains(&key), bounded && is_ahead);
            prop_assert!(!(rest.is_empty() && rest.contains(&key)));
        }
    }
}
