//! How the records of a cluster are divided: into *classes*, and each of these into slices.
//!
//! A collection that ever had a replication factor of its own is a class of its own; all others are class 0. A slice is what
//! the top bits of a key's hash tell, and a *partition* is one slice of one class. Partitions are numbered class by class, and
//! classes by the names of their collections; so members that know of the same classes give the same numbers. Whoever keeps
//! something by partition while classes come or go goes by their names ([`Layout::carried`]).

use crate::model::key::{KeyHash, KeyRef};
use crate::model::limits::{MAX_PARTITION_BITS, MAX_PARTITIONS};
use crate::model::settings::collection::max_factors;

// The number behind the last partition's has 16 bits, too, and there is room for a class of its own in every cluster.
const _: () = assert!(MAX_PARTITIONS < 1 << 16 && MAX_PARTITIONS > 1 << MAX_PARTITION_BITS);

/// The classes of a cluster, and into how many slices each is divided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    partition_bits: u8,
    /// The collections that are classes of their own, rising: the first is class 1.
    collections: Vec<String>,
}

impl Layout {
    /// `1 << partition_bits` slices (more bits than [`MAX_PARTITION_BITS`] count as that many) of all collections, and of
    /// each of these, of which the first [`max_factors`] count, by itself.
    pub fn new<'a>(partition_bits: u8, collections: impl Iterator<Item = &'a str>) -> Self {
        let mut collections: Vec<String> = collections.map(str::to_owned).collect();
        collections.sort_unstable();
        collections.dedup();
        collections.truncate(max_factors(partition_bits));
        Self { partition_bits: partition_bits.min(MAX_PARTITION_BITS), collections }
    }

    /// The logarithm of the number of slices.
    #[must_use]
    pub const fn partition_bits(&self) -> u8 {
        self.partition_bits
    }

    /// The number of slices of a class.
    #[must_use]
    pub const fn slices(&self) -> usize {
        1 << self.partition_bits
    }

    /// The number of classes, at least one.
    #[must_use]
    pub const fn classes(&self) -> usize {
        1 + self.collections.len()
    }

    /// The number of partitions.
    #[must_use]
    pub const fn partitions(&self) -> usize {
        self.classes() << self.partition_bits
    }

    /// The collections that are classes of their own, from class 1 on.
    #[must_use]
    pub fn collections(&self) -> &[String] {
        &self.collections
    }

    /// The class of a collection.
    #[must_use]
    pub fn class_of(&self, collection: &str) -> usize {
        // Most clusters have but one, and every operation asks.
        if self.collections.is_empty() {
            return 0;
        }
        self.collections.binary_search_by(|other| other.as_str().cmp(collection)).map_or(0, |at| at + 1)
    }

    /// The partition of a key.
    #[must_use]
    pub fn partition_of(&self, key: KeyRef<'_>, hash: KeyHash) -> u16 {
        self.partition_in(self.class_of(key.collection()), hash)
    }

    /// The partition of a hash in a class.
    #[must_use]
    pub fn partition_in(&self, class: usize, hash: KeyHash) -> u16 {
        self.partition_at(class, hash.partition(self.partition_bits))
    }

    /// The partitions that a hash may belong to, one of each class.
    pub fn partitions_with(&self, hash: KeyHash) -> impl Iterator<Item = u16> + use<> {
        let (slice, bits) = (hash.partition(self.partition_bits), self.partition_bits);
        (0..self.classes()).map(move |class| partition_at(class, slice, bits))
    }

    /// The partition that a slice of a class is.
    #[must_use]
    pub fn partition_at(&self, class: usize, slice: u16) -> u16 {
        partition_at(class, slice, self.partition_bits)
    }

    /// The class of a partition.
    #[must_use]
    pub const fn class_at(&self, partition: u16) -> usize {
        partition as usize >> self.partition_bits
    }

    /// The slice that a partition is of its class.
    #[must_use]
    pub const fn slice_at(&self, partition: u16) -> u16 {
        partition & ((1u16 << self.partition_bits) - 1)
    }

    /// The collection that a partition is of; none for those that share class 0.
    #[must_use]
    pub fn collection_at(&self, partition: u16) -> Option<&str> {
        let at = self.class_at(partition).checked_sub(1)?;
        self.collections.get(at).map(String::as_str)
    }

    /// The collection that all of these partitions are of; none if they are of several classes, or of those that share class 0.
    pub fn collection_of(&self, mut partitions: impl Iterator<Item = u16>) -> Option<&str> {
        let first = partitions.next()?;
        let are_alike = partitions.all(|other| self.class_at(other) == self.class_at(first));
        self.collection_at(first).filter(|_| are_alike)
    }

    /// All partitions.
    pub fn every(&self) -> impl Iterator<Item = u16> + use<> {
        (0..self.partitions()).map_while(|partition| u16::try_from(partition).ok())
    }

    /// What held of partitions of another layout of the same cluster, for those of this one. What a class of its own is now
    /// was among class 0, and what held there holds for it. What no class of its own is any more joined class 0, for which only
    /// holds what held for both.
    #[must_use]
    pub fn carried(&self, before: &Self, held: impl Fn(u16) -> bool) -> Vec<bool> {
        let gone: Vec<usize> =
            (1..before.classes()).filter(|class| self.class_like(before, *class).is_none()).collect();
        let carried = self.every().map(|partition| {
            let (class, slice) = (self.class_at(partition), self.slice_at(partition));
            let was = before.class_like(self, class).unwrap_or(0);
            let mut joined = gone.iter().filter(|_| class == 0);
            held(before.partition_at(was, slice))
                && joined.all(|gone| held(before.partition_at(*gone, slice)))
        });
        carried.collect()
    }

    /// The class here that a class of another layout is.
    #[must_use]
    pub fn class_like(&self, other: &Self, class: usize) -> Option<usize> {
        let Some(at) = class.checked_sub(1) else { return Some(0) };
        let class = self.class_of(other.collections.get(at)?);
        (class > 0).then_some(class)
    }
}

fn partition_at(class: usize, slice: u16, partition_bits: u8) -> u16 {
    // The bound on classes keeps it within 16 bits.
    u16::try_from(class << partition_bits).unwrap_or(u16::MAX) | slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(bits: u8, collections: &[&str]) -> Layout {
        Layout::new(bits, collections.iter().copied())
    }

    proptest! {
        #[test]
        fn every_key_has_one_partition_and_that_tells_its_class_and_slice(
            bits in 0..=MAX_PARTITION_BITS,
            classes in prop::collection::btree_set("[a-f]", 0..6),
            collection in "[a-h]",
            name in prop::collection::vec(any::<u8>(), 1..9),
        ) {
            let layout = Layout::new(bits, classes.iter().map(String::as_str));
            let key = KeyRef::new(&collection, &name).unwrap();
            let (hash, partition) = (key.hash(), layout.partition_of(key, key.hash()));
            prop_assert!(usize::from(partition) < layout.partitions());
            prop_assert_eq!(layout.slice_at(partition), hash.partition(bits));
            let expected = classes.iter().take(max_factors(bits)).find(|class| **class == collection);
            let expected = expected.map(String::as_str);
            prop_assert_eq!(layout.collection_at(partition), expected);
            prop_assert_eq!(layout.partition_at(layout.class_at(partition), layout.slice_at(partition)), partition);
            prop_assert!(layout.partitions_with(hash).any(|other| other == partition));
        }

        #[test]
        fn what_holds_is_carried_by_the_names_of_classes(
            before in prop::collection::btree_set("[a-e]", 0..5),
            after in prop::collection::btree_set("[a-e]", 0..5),
            bits in prop::collection::vec(any::<bool>(), 24),
        ) {
            let old = Layout::new(2, before.iter().map(String::as_str));
            let new = Layout::new(2, after.iter().map(String::as_str));
            let held = |partition: u16| bits[usize::from(partition)];
            let carried = new.carried(&old, held);
            prop_assert_eq!(carried.len(), new.partitions());
            for slice in 0..4 {
                for name in &after {
                    let was = old.partition_at(old.class_of(name), slice);
                    let is = new.partition_at(new.class_of(name), slice);
                    prop_assert_eq!(carried[usize::from(is)], held(was));
                }
                let joined = before.difference(&after).all(|name| held(old.partition_at(old.class_of(name), slice)));
                prop_assert_eq!(carried[usize::from(slice)], held(slice) && joined);
            }
        }
    }

    #[test]
    fn partitions_are_of_one_collection_if_they_all_are_and_it_is_a_class_of_its_own() {
        let layout = layout(2, &["a", "b"]);
        let of = |partitions: &[u16]| layout.collection_of(partitions.iter().copied());
        assert_eq!((of(&[4, 7]), of(&[8])), (Some("a"), Some("b")));
        assert_eq!((of(&[7, 8]), of(&[0, 3]), of(&[])), (None, None, None));
    }

    #[test]
    fn a_cluster_without_classes_is_numbered_by_slices() {
        let layout = layout(3, &[]);
        assert_eq!((layout.classes(), layout.partitions()), (1, 8));
        let key = KeyRef::new("c", b"k").unwrap();
        assert_eq!(layout.partition_of(key, key.hash()), key.hash().partition(3));
    }

    #[test]
    fn the_more_slices_there_are_the_fewer_collections_are_classes() {
        let names: Vec<String> = (0..20).map(|number| format!("c{number:02}")).collect();
        let layout = |bits| Layout::new(bits, names.iter().map(String::as_str));
        for (bits, own) in [(0, 14), (8, 14), (9, 14), (10, 7), (11, 3), (12, 1)] {
            let layout = layout(bits);
            assert_eq!((layout.classes(), max_factors(bits)), (own + 1, own), "{bits}");
            assert!(layout.partitions() <= MAX_PARTITIONS);
            assert_eq!(layout.every().count(), layout.partitions());
            assert_eq!(layout.collections(), &names[..own]);
        }
        assert_eq!(layout(12).collection_at(8_191), Some("c00"));
        assert_eq!(layout(255), layout(MAX_PARTITION_BITS));
    }
}
