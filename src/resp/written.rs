//! What a connection remembers of its writes, so that WAIT can ask for copies of them.
//!
//! The last ones by the hashes of their keys and their stamps; of all before them, and of increments, which have
//! no stamp of their own, only how few copies the worst of their answers told.

use std::collections::VecDeque;

use crate::engine::operation::Stored;
use crate::model::{KeyHash, Timestamp};

/// Writes that are remembered one by one.
const MAX_WRITES: usize = 256;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Written {
    last: VecDeque<Stored>,
    least: Option<u16>,
}

impl Written {
    /// Remembers a write that was acknowledged.
    pub fn note(&mut self, stored: Stored) {
        if self.last.len() >= MAX_WRITES
            && let Some(oldest) = self.last.pop_front()
        {
            self.note_unnamed(oldest.copies);
        }
        self.last.push_back(stored);
    }

    /// Remembers a write that its stamp does not name, as an increment, of which so many copies were told.
    pub fn note_unnamed(&mut self, copies: u16) {
        self.least = Some(self.least.map_or(copies, |least| least.min(copies)));
    }

    /// The last writes.
    pub fn last(&self) -> Vec<(KeyHash, Timestamp, u16)> {
        self.last.iter().map(|stored| (stored.hash, stored.timestamp, stored.copies)).collect()
    }

    /// The fewest copies that were told of those before them.
    pub const fn least(&self) -> Option<u16> {
        self.least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writes_are_named_and_of_those_before_the_fewest_copies_are_known() {
        let mut written = Written::default();
        for number in 0..MAX_WRITES as u64 + 3 {
            let (timestamp, hash) = (Timestamp::ZERO, KeyHash(number));
            let copies = if number == 1 { 2 } else { 3 };
            written.note(Stored { timestamp, copies, superseded: false, hash, number: None });
            assert_eq!(written.least().is_some(), number >= MAX_WRITES as u64);
        }
        assert_eq!((written.last().len(), written.last()[0].0), (MAX_WRITES, KeyHash(3)));
        assert_eq!(written.least(), Some(2));
    }
}
