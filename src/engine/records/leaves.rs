//! Wrong leaves of the hash trees, and how they are summed up anew.

use super::super::mending::LeafSet;
use super::super::table::{SHADOW, SYSTEM, UNRESOLVED};
use super::Records;
use crate::model::KeyHash;
use crate::model::hash_tree::Group;
use crate::model::limits::LEAVES_PER_PARTITION;
use std::collections::BTreeMap;

impl Records {
    /// Makes a wrong leaf right, if all its records are in memory.
    pub(super) fn mend(&mut self, hash: KeyHash) {
        let leaf = self.evicted_of(hash);
        if leaf.is_wrong && leaf.count == 0 {
            let (slice, leaf) = (hash.partition(self.partition_bits), hash.leaf(self.partition_bits));
            self.sum_up(&[(slice, 1 << leaf)].into());
        }
    }

    /// Makes leaves right, those of all classes, whose records are all in memory.
    fn sum_up(&mut self, leaves: &LeafSet) {
        let bits = self.partition_bits;
        let place = |hash: KeyHash| (hash.partition(bits), hash.leaf(bits));
        let classes = self.layout.classes();
        let mut sums: BTreeMap<(u16, u8), Vec<u128>> =
            places(leaves).map(|place| (place, vec![0; classes])).collect();
        let mut seen = Vec::new();
        for id in self.table.sweep(0, self.table.slots()) {
            // Unresolved ones have no element in the tree yet, those of the system a tree of their own.
            if self.table.has_any(id, SYSTEM | UNRESOLVED) {
                continue;
            }
            let Some(sums) = sums.get_mut(&place(self.table.hash(id))) else { continue };
            if let Group::Class(class) = self.group_at(id)
                && let Some(sum) = sums.get_mut(class)
            {
                *sum ^= self.tree_element(id);
                seen.push(id);
            }
        }
        // What they hid is not in the sum.
        for id in seen {
            self.table.clear_flags(id, SHADOW);
        }
        for ((slice, leaf), right) in sums {
            let hash = leaf_begin(slice, leaf, bits);
            for (class, right) in right.into_iter().enumerate() {
                let tree = self.trees.tree(self.layout.partition_at(class, slice));
                let present = tree.map_or(0, |tree| tree.leaf(leaf));
                self.trees.toggle(Group::Class(class), hash, present ^ right);
            }
            if std::mem::take(&mut self.evicted(hash).is_wrong) {
                self.wrong -= 1;
                self.mended += 1;
            }
        }
    }

    /// Chooses wrong leaves with about so many evicted records, at least one leaf if there is any. Nothing
    /// of them is evicted until the mending ends.
    pub(in crate::engine) fn begin_mending(&mut self, records: u64) -> LeafSet {
        let (mut chosen, mut count) = (LeafSet::new(), 0);
        if self.wrong == 0 {
            return chosen;
        }
        for (at, leaf) in self.evicted.iter_mut().enumerate().filter(|(_, leaf)| leaf.is_wrong) {
            if count >= records {
                break;
            }
            count += u64::from(leaf.count);
            leaf.is_mending = true;
            let Ok(slice) = u16::try_from(at / LEAVES_PER_PARTITION) else { break };
            *chosen.entry(slice).or_default() |= 1 << (at % LEAVES_PER_PARTITION);
        }
        chosen
    }

    /// Ends a mending: the table has all records of these leaves.
    pub(in crate::engine) fn end_mending(&mut self, leaves: &LeafSet) {
        for (slice, leaf) in places(leaves) {
            let evicted = self.evicted(leaf_begin(slice, leaf, self.partition_bits));
            (evicted.count, evicted.is_mending) = (0, false);
        }
        self.sum_up(leaves);
    }

    /// Records of redb are gone, nobody knows which: no leaf with records that only redb had is right.
    pub(in crate::engine) fn distrust_leaves(&mut self) {
        for leaf in self.evicted.iter_mut().filter(|leaf| leaf.count > 0) {
            self.wrong += usize::from(!std::mem::replace(&mut leaf.is_wrong, true));
        }
    }
}

/// The leaves of a set.
fn places(leaves: &LeafSet) -> impl Iterator<Item = (u16, u8)> {
    let of = |bits: u64| (0..64).filter(move |leaf| bits >> leaf & 1 == 1);
    leaves.iter().flat_map(move |(slice, bits)| of(*bits).map(|leaf| (*slice, leaf)))
}

/// The first hash of a leaf.
const fn leaf_begin(slice: u16, leaf: u8, partition_bits: u8) -> KeyHash {
    let leaf_bits = LEAVES_PER_PARTITION.trailing_zeros();
    KeyHash(((slice as u64) << leaf_bits | leaf as u64) << (64 - leaf_bits - partition_bits as u32))
}
