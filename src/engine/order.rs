//! Key order over the table's slots, for scans and checkpoints.
//!
//! A sorted list of slot ids in chunks, beside a short unsorted list of recent ones that is folded
//! in when it is full or when order is asked for. Only new keys touch it; overwrites never do.
//! Ids take 4 bytes a key, names stay in the records.
//!
//! Invariant: every occupied slot's id is in exactly one place, and chunks are never empty.
#![expect(clippy::indexing_slicing, reason = "positions come from searches in the same lists")]

use std::cmp::Ordering;

/// Ids in a chunk before it is split in two.
const CHUNK_IDS: usize = 512;
/// Ids that wait unsorted. Folding them in takes about a millisecond.
const RECENT_IDS: usize = 1_024;

/// Collection and key of a slot, compared in this order.
pub(super) type Names<'a> = (&'a [u8], &'a [u8]);

/// The order of all keys.
#[derive(Debug, Default)]
pub(super) struct Order {
    chunks: Vec<Vec<u32>>,
    recent: Vec<u32>,
}

impl Order {
    /// Adds a slot that was just filled.
    pub(super) fn insert<'a>(&mut self, id: u32, names: impl Fn(u32) -> Names<'a>) {
        self.recent.push(id);
        if self.recent.len() >= RECENT_IDS {
            self.fold(names);
        }
    }

    /// Forgets a slot. Its names must still be readable.
    pub(super) fn remove<'a>(&mut self, id: u32, names: impl Fn(u32) -> Names<'a>) {
        if let Some(at) = self.recent.iter().position(|recent| *recent == id) {
            self.recent.swap_remove(at);
            return;
        }
        let (chunk, at) = self.locate(names(id), &names);
        if let Some(ids) = self.chunks.get_mut(chunk) {
            debug_assert_eq!(ids.get(at), Some(&id), "an occupied slot is in the order");
            if ids.get(at) == Some(&id) {
                ids.remove(at);
            }
            if ids.is_empty() {
                self.chunks.remove(chunk);
            }
        }
    }

    /// The ids of all keys from `start` on (after it, if `exclusive`), in order.
    pub(super) fn iter_from<'a>(
        &mut self,
        start: Names<'_>,
        exclusive: bool,
        names: impl Fn(u32) -> Names<'a>,
    ) -> impl Iterator<Item = u32> {
        self.fold(&names);
        let (chunk, at) = self.locate(start, &names);
        let first = self.chunks.get(chunk).map(|ids| &ids[at..]).unwrap_or_default();
        let skip = exclusive && first.first().is_some_and(|id| names(*id) == start);
        let rest = self.chunks.get(chunk + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flatten()).copied().skip(usize::from(skip))
    }

    /// Sorts the recent ids in.
    fn fold<'a>(&mut self, names: impl Fn(u32) -> Names<'a>) {
        let mut recent = std::mem::take(&mut self.recent);
        recent.sort_unstable_by(|a, b| names(*a).cmp(&names(*b)));
        let mut rest = &recent[..];
        let mut chunk = 0;
        while let Some(first) = rest.first() {
            let target = names(*first);
            chunk += self.chunks[chunk..].partition_point(|ids| names(ids[0]) <= target).saturating_sub(1);
            let count = match self.chunks.get(chunk + 1) {
                Some(next) => rest.partition_point(|id| names(*id) < names(next[0])),
                None => rest.len(),
            };
            let (batch, tail) = rest.split_at(count);
            rest = tail;
            self.merge_into(chunk, batch, &names);
        }
        recent.clear();
        self.recent = recent;
    }

    /// Merges sorted ids into one chunk, and splits it when it grew too long.
    fn merge_into<'a>(&mut self, chunk: usize, batch: &[u32], names: &impl Fn(u32) -> Names<'a>) {
        let Some(old) = self.chunks.get_mut(chunk).map(std::mem::take) else {
            self.chunks.extend(batch.chunks(CHUNK_IDS / 2).map(<[u32]>::to_vec));
            return;
        };
        let mut merged = Vec::with_capacity(old.len() + batch.len());
        let mut rest = &old[..];
        for id in batch {
            let before = rest.partition_point(|present| names(*present) < names(*id));
            merged.extend_from_slice(&rest[..before]);
            merged.push(*id);
            rest = &rest[before..];
        }
        merged.extend_from_slice(rest);
        if merged.len() <= CHUNK_IDS {
            self.chunks[chunk] = merged;
        } else {
            let halves = merged.chunks(CHUNK_IDS / 2).map(<[u32]>::to_vec);
            self.chunks.splice(chunk..=chunk, halves);
        }
    }

    /// Where the first id not below `target` is, or belongs.
    fn locate<'a>(&self, target: Names<'_>, names: &impl Fn(u32) -> Names<'a>) -> (usize, usize) {
        let after = self.chunks.partition_point(|ids| names(ids[0]).cmp(&target) == Ordering::Less);
        let chunk = after.saturating_sub(1);
        let at = self.chunks.get(chunk).map_or(0, |ids| ids.partition_point(|id| names(*id) < target));
        match self.chunks.get(chunk) {
            Some(ids) if at == ids.len() && chunk + 1 < self.chunks.len() => (chunk + 1, 0),
            _ => (chunk, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_lists_what_a_sorted_map_lists(
            steps in prop::collection::vec((any::<bool>(), 0u32..3_000), 1..6_000), start in 0u32..3_000
        ) {
            let keys: Vec<String> = (0..3_000u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
            let names = |id: u32| (&b"c"[..], keys[id as usize].as_bytes());
            let mut order = Order::default();
            let mut model = BTreeMap::new();
            for (add, id) in steps {
                if add && model.insert(names(id), id).is_none() {
                    order.insert(id, names);
                } else if !add && model.remove(&names(id)).is_some() {
                    order.remove(id, names);
                }
            }
            let from = names(start);
            let listed: Vec<u32> = order.iter_from(from, false, names).collect();
            prop_assert_eq!(listed, model.range(from..).map(|(_, id)| *id).collect::<Vec<_>>());
            let after: Vec<u32> = order.iter_from(from, true, names).collect();
            let expected: Vec<u32> = model.range(from..).map(|(_, id)| *id).filter(|id| *id != start).collect();
            prop_assert_eq!(after, expected);
        }
    }
}
