//! When watched records expire, so that who watches is told in time: the sweep of the whole table takes longer.
//!
//! What is listed for a watch or changes under one is noted here; what is not (there is no room, or only changes
//! are told and it was there before) the sweep finds. A record that left memory is known by its names, and is loaded
//! when its time is over.

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
    names: usize,
}

impl Expiries {
    /// Notes when a record expires; with its names if it is not in memory.
    pub(super) fn note(&mut self, expiry_ms: u64, hash: KeyHash, names: Option<HintKey>) {
        let names = names.filter(|_| self.names < MAX_NAMES);
        if self.due.len() >= MAX_EXPIRIES {
            return;
        }
        self.names += usize::from(names.is_some());
        let before = self.due.insert((expiry_ms, hash), names);
        self.names -= usize::from(before.flatten().is_some());
    }

    /// The next record whose time is over.
    pub(super) fn pop(&mut self, wall_ms: u64) -> Option<(u64, KeyHash, Option<HintKey>)> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= wall_ms)?;
        let ((expiry_ms, hash), names) = entry.remove_entry();
        self.names -= usize::from(names.is_some());
        Some((expiry_ms, hash, names))
    }

    /// Nobody watches any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
