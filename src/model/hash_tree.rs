//! Hash trees: what a member holds, summed up so that two members find their differences cheaply.
//!
//! A partition has [`LEAVES_PER_PARTITION`] leaves, each the XOR of the elements (128 bits over
//! key, timestamp, kind and content) of the records whose key hash falls into it; the root is a
//! hash over the leaves. One more tree covers the system collections, which live on every member. A collection that
//! is placed by itself has trees of its own ([`Layout`]).
//!
//! Invariants: the order in which elements come and go leaves no trace, and toggling an element
//! twice restores the tree; so a tree is a pure function of the set of records. Two unlike leaves
//! can't cancel out in a root, which is why the root is a hash and not an XOR. An empty tree's root
//! is 0. Keeping the trees true on every merge, and comparing them with peers, is the engine's work.

use super::key::KeyHash;
use super::limits::{LEAVES_PER_PARTITION, MAX_PARTITION_BITS};
use super::placement::Layout;

/// The leaves of one tree, as they travel between members.
pub type Leaves = [u128; LEAVES_PER_PARTITION];

/// One partition's tree.
#[derive(Clone, PartialEq, Eq)]
pub struct HashTree {
    leaves: Leaves,
}

impl Default for HashTree {
    fn default() -> Self {
        Self { leaves: [0; LEAVES_PER_PARTITION] }
    }
}

impl HashTree {
    /// Adds an element, or takes it away if it is there. A leaf that no tree has is ignored:
    /// [`KeyHash::leaf`] never yields one.
    pub fn toggle(&mut self, leaf: u8, element: u128) {
        if let Some(sum) = self.leaves.get_mut(usize::from(leaf)) {
            *sum ^= element;
        }
    }

    /// Adds all elements of another tree; those of both are in none.
    fn add(&mut self, other: &Self) {
        for (sum, more) in self.leaves.iter_mut().zip(&other.leaves) {
            *sum ^= more;
        }
    }

    /// The first 128 bits of blake3 over all leaves; 0 if the tree is empty. Takes about 1 µs.
    #[must_use]
    pub fn root(&self) -> u128 {
        if self.is_empty() {
            return 0;
        }
        let mut bytes = [0u8; LEAVES_PER_PARTITION * 16];
        for (room, leaf) in bytes.chunks_exact_mut(16).zip(&self.leaves) {
            room.copy_from_slice(&leaf.to_le_bytes());
        }
        let digest = blake3::hash(&bytes);
        u128::from_le_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default())
    }

    /// One leaf; 0 if it is empty or no tree has it.
    #[must_use]
    pub fn leaf(&self, leaf: u8) -> u128 {
        self.leaves.get(usize::from(leaf)).copied().unwrap_or_default()
    }

    /// All leaves in order.
    #[must_use]
    pub const fn leaves(&self) -> &Leaves {
        &self.leaves
    }

    /// The leaves in which this tree and `other` differ, rising.
    pub fn differing<'a>(&'a self, other: &'a Leaves) -> impl Iterator<Item = u8> + use<'a> {
        let pairs = self.leaves.iter().zip(other);
        (0u8..).zip(pairs).filter(|(_, (own, theirs))| own != theirs).map(|(leaf, _)| leaf)
    }

    /// Whether no element is in the tree.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.iter().all(|leaf| *leaf == 0)
    }
}

impl std::fmt::Debug for HashTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashTree({:032x})", self.root())
    }
}

/// Which trees a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The one of the system collections.
    System,
    /// Those of a class, see [`Layout`].
    Class(usize),
}

/// The trees of all partitions, and the one of the system collections.
#[derive(Debug, Clone)]
pub struct HashTrees {
    partition_bits: u8,
    /// Class by class.
    trees: Vec<HashTree>,
    system: HashTree,
}

impl HashTrees {
    /// Empty trees for `1 << partition_bits` partitions of class 0, 1 KiB each; more bits than
    /// [`MAX_PARTITION_BITS`] count as that many.
    #[must_use]
    pub fn new(partition_bits: u8) -> Self {
        let partition_bits = partition_bits.min(MAX_PARTITION_BITS);
        let trees = vec![HashTree::default(); 1 << partition_bits];
        Self { partition_bits, trees, system: HashTree::default() }
    }

    /// Adds an element to the tree of its key, or takes it away if it is there.
    pub fn toggle(&mut self, group: Group, hash: KeyHash, element: u128) {
        let leaf = hash.leaf(self.partition_bits);
        let slice = usize::from(hash.partition(self.partition_bits));
        let tree = match group {
            Group::System => Some(&mut self.system),
            Group::Class(class) => self.trees.get_mut(class << self.partition_bits | slice),
        };
        if let Some(tree) = tree {
            tree.toggle(leaf, element);
        }
    }

    /// Gives each class of another layout of as many slices its trees. New classes have empty ones; what those had that are
    /// no classes any more is in those of class 0.
    pub fn regroup(&mut self, before: &Layout, after: &Layout) {
        let slices = after.slices();
        let mut trees = vec![HashTree::default(); after.partitions()];
        for (class, own) in self.trees.chunks(slices).enumerate() {
            let place = after.class_like(before, class).unwrap_or(0);
            let room = trees.chunks_mut(slices).nth(place).into_iter().flatten();
            for (tree, own) in room.zip(own) {
                tree.add(own);
            }
        }
        self.trees = trees;
    }

    /// A partition's tree; `None` if the cluster has no such partition.
    #[must_use]
    pub fn tree(&self, partition: u16) -> Option<&HashTree> {
        self.trees.get(usize::from(partition))
    }

    /// The tree of the system collections.
    #[must_use]
    pub const fn system(&self) -> &HashTree {
        &self.system
    }

    /// The roots of all partitions, in order; computed as they are asked for.
    pub fn roots(&self) -> impl ExactSizeIterator<Item = u128> + '_ {
        self.trees.iter().map(HashTree::root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn group(is_system: bool) -> Group {
        if is_system { Group::System } else { Group::Class(0) }
    }

    proptest! {
        #[test]
        fn the_order_of_changes_leaves_no_trace(
            elements in prop::collection::vec((any::<u64>(), any::<bool>(), any::<u128>()), 0..50),
            seed in any::<u64>(),
        ) {
            let mut shuffled = elements.clone();
            shuffled.sort_by_key(|(hash, _, element)| hash.wrapping_mul(seed | 1) ^ (*element as u64));
            let (mut left, mut right) = (HashTrees::new(4), HashTrees::new(4));
            for (hash, is_system, element) in elements {
                left.toggle(group(is_system), KeyHash(hash), element);
            }
            for (hash, is_system, element) in &shuffled {
                right.toggle(group(*is_system), KeyHash(*hash), *element);
            }
            prop_assert!(left.roots().eq(right.roots()));
            prop_assert_eq!(left.system(), right.system());

            for (hash, is_system, element) in shuffled {
                left.toggle(group(is_system), KeyHash(hash), element);
            }
            prop_assert!(left.roots().all(|root| root == 0));
            prop_assert!(left.system().is_empty());
        }

        #[test]
        fn a_missing_record_shows_in_its_leaf_alone(
            common in prop::collection::vec((any::<u64>(), 1..u128::MAX), 0..50),
            missing in any::<u64>(),
            element in 1..u128::MAX,
        ) {
            let mut left = HashTrees::new(2);
            for (hash, element) in common {
                left.toggle(group(false), KeyHash(hash), element);
            }
            let mut right = left.clone();
            let missing = KeyHash(missing);
            right.toggle(group(false), missing, element);
            for partition in 0..4 {
                let (left, right) = (left.tree(partition).unwrap(), right.tree(partition).unwrap());
                let differing: Vec<u8> = left.differing(right.leaves()).collect();
                if partition == missing.partition(2) {
                    prop_assert_eq!(differing, vec![missing.leaf(2)]);
                    prop_assert_ne!(left.root(), right.root());
                } else {
                    prop_assert!(differing.is_empty());
                    prop_assert_eq!(left.root(), right.root());
                }
            }
            prop_assert!(right.system().is_empty());
        }
    }

    #[test]
    fn system_records_are_in_the_system_tree_alone() {
        let mut trees = HashTrees::new(8);
        trees.toggle(group(true), KeyHash(77), 5);
        assert!(trees.roots().all(|root| root == 0));
        assert!(!trees.system().is_empty());
    }

    #[test]
    fn classes_keep_their_trees_by_name_and_what_is_none_any_more_joins_class_0() {
        let layout = |names: &[&str]| Layout::new(1, names.iter().copied());
        let root = |trees: &HashTrees, partition| trees.tree(partition).unwrap().root();
        let alone = |element| {
            let mut tree = HashTree::default();
            tree.toggle(0, element);
            tree.root()
        };
        let mut trees = HashTrees::new(1);
        trees.toggle(Group::Class(0), KeyHash(0), 1);
        trees.regroup(&layout(&[]), &layout(&["b"]));
        trees.toggle(Group::Class(1), KeyHash(0), 2);
        trees.regroup(&layout(&["b"]), &layout(&["a", "b"]));
        assert_eq!((root(&trees, 0), root(&trees, 2), root(&trees, 4)), (alone(1), 0, alone(2)));
        trees.toggle(Group::Class(1), KeyHash(0), 4);
        trees.regroup(&layout(&["a", "b"]), &layout(&["a"]));
        assert_eq!((root(&trees, 0), root(&trees, 2), trees.roots().len()), (alone(3), alone(4), 4));
    }

    #[test]
    fn equal_elements_in_two_leaves_do_not_cancel_in_the_root() {
        let mut tree = HashTree::default();
        tree.toggle(1, 9);
        tree.toggle(2, 9);
        let mut swapped = HashTree::default();
        swapped.toggle(3, 9);
        swapped.toggle(2, 9);
        assert_ne!(tree.root(), 0);
        assert_ne!(tree.root(), swapped.root());
    }

    #[test]
    fn a_partition_or_leaf_that_does_not_exist_is_nothing() {
        let mut trees = HashTrees::new(0);
        assert!(trees.tree(0).is_some() && trees.tree(1).is_none());
        trees.toggle(group(false), KeyHash(u64::MAX), 1);
        assert_eq!(trees.tree(0).unwrap().leaf(63), 1);
        assert_eq!(HashTrees::new(255).roots().len(), 1 << MAX_PARTITION_BITS);
        let mut tree = HashTree::default();
        tree.toggle(64, 1);
        assert!(tree.is_empty());
        assert_eq!(tree.leaf(64), 0);
    }

    #[test]
    fn roots_never_change_between_versions() {
        let mut tree = HashTree::default();
        tree.toggle(0, 1);
        let mut bytes = vec![0u8; 1024];
        bytes[0] = 1;
        let expected: [u8; 16] = blake3::hash(&bytes).as_bytes()[..16].try_into().unwrap();
        assert_eq!(tree.root(), u128::from_le_bytes(expected));
    }
}
