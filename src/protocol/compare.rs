//! Comparing what two members hold: ever finer sums of the same records, then the records that differ.
//!
//! Who compares asks, in this order, for the *leaves* of partitions whose roots differ, for *sums* over
//! parts of differing leaves, for a *list* of the records in differing parts, and for the records that
//! it lacks. Numbers that come in thousands are packed: bincode would make them longer.

use serde::{Deserialize, Serialize};

/// Bytes of one [`Listed`] on the wire.
pub const LISTED_BYTES: usize = 24;
/// The logarithm of the largest number of parts that a leaf is cut into.
pub const MAX_GRAIN_BITS: u8 = 8;

/// A leaf of a hash tree: partition and number.
pub type LeafId = (u16, u8);

/// How finely leaves are cut for a comparison, and what makes this one's sums its own: records whose
/// marks collide in one comparison don't in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grain {
    /// The logarithm of the number of parts of a leaf, at most [`MAX_GRAIN_BITS`].
    pub bits: u8,
    /// Mixed into every mark.
    pub salt: u64,
}

impl Grain {
    /// A record's mark: 64 bits of its element and the salt. What a comparison has found equal may be dropped
    /// elsewhere, so no fewer will do.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "half of a number is what is wanted")]
    pub const fn mark(self, element: u128) -> u64 {
        let mixed = (element as u64 ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (element >> 64) as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        // The salt must reach the lower bits, too.
        mixed ^ mixed >> 32
    }

    /// The part of its leaf that a key belongs to, in a cluster of `1 << partition_bits` partitions.
    #[must_use]
    pub const fn part(self, hash: u64, partition_bits: u8) -> usize {
        let bits = if self.bits > MAX_GRAIN_BITS { MAX_GRAIN_BITS } else { self.bits };
        let below_leaf = hash << (partition_bits as u32 + 6);
        if bits == 0 { 0 } else { (below_leaf >> (64 - bits as u32)) as usize }
    }

    /// Parts of a leaf.
    #[must_use]
    pub const fn parts(self) -> usize {
        1 << if self.bits > MAX_GRAIN_BITS { MAX_GRAIN_BITS } else { self.bits }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The leaves of those partitions whose roots (their lower halves) are others than these.
    Roots {
        /// Partition and root.
        roots: Vec<(u16, u64)>,
        /// Answer only once all that the answer rests on is fsynced.
        durable: bool,
        /// Nobody needs this now: who would have to walk through all of redb for it had better refuse.
        repeats: bool,
    },
    /// The sums of the parts of these leaves.
    Sums {
        /// The leaves, rising.
        leaves: Vec<LeafId>,
        /// How they are cut.
        grain: Grain,
    },
    /// What is in these parts of these leaves.
    List {
        /// The leaves, rising, and of each the parts that are wanted: bit p of byte p/8.
        parts: Vec<(LeafId, Vec<u8>)>,
        /// How they are cut.
        grain: Grain,
        /// Answer only once all that the answer rests on is fsynced.
        durable: bool,
    },
    /// Records by the hashes of their keys, packed, from memory.
    Fetch {
        /// Eight bytes each.
        hashes: Vec<u8>,
    },
    /// Records by the hashes of their keys, packed, from the disk.
    FetchStored {
        /// Eight bytes each.
        hashes: Vec<u8>,
        /// Collection and key to go on after; both are empty at the beginning.
        after: (String, Vec<u8>),
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compared {
    /// Partitions with other roots, and their 64 leaves (the lower half of each), eight bytes each.
    Leaves(Vec<(u16, Vec<u8>)>),
    /// The sums of the parts of all leaves that were asked for, eight bytes each.
    Sums(Vec<u8>),
    /// What is in the parts that were asked for.
    Listed {
        /// The first so many leaves of those that were asked for; the others are asked for again.
        leaves: u32,
        /// [`LISTED_BYTES`] each, in no order.
        entries: Vec<u8>,
    },
    /// Records from memory.
    Fetched {
        /// Canonical bytes, one after the other.
        records: Vec<u8>,
        /// The first so many of the hashes were looked for.
        done: u32,
        /// Those of them that may be on the disk only, eight bytes each.
        stored: Vec<u8>,
    },
    /// Records from the disk.
    FetchedStored {
        /// Canonical bytes, one after the other.
        records: Vec<u8>,
        /// Collection and key to go on after; none at the end.
        next: Option<(String, Vec<u8>)>,
    },
    /// The answer is being worked on, and has come further: it is worth waiting for.
    Working,
}

/// One record of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The hash of its key.
    pub hash: u64,
    /// Its time.
    pub time: u64,
    /// Its mark, see [`Grain::mark`].
    pub mark: u64,
}

impl Listed {
    /// Appends it.
    pub fn pack(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.time.to_le_bytes());
        out.extend_from_slice(&self.mark.to_le_bytes());
    }

    /// All that was packed; what is left over at the end is no record and is passed over.
    pub fn unpack(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.chunks_exact(LISTED_BYTES).filter_map(|bytes| {
            let (hash, rest) = bytes.split_first_chunk()?;
            let (time, mark) = rest.split_first_chunk()?;
            let [hash, time, mark] =
                [hash, time, mark.first_chunk()?].map(|bytes| u64::from_le_bytes(*bytes));
            Some(Self { hash, time, mark })
        })
    }
}

/// Packs numbers of eight bytes.
#[must_use]
pub fn pack(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Unpacks numbers of eight bytes; what is left over at the end is none.
pub fn unpack(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_back(entries in prop::collection::vec(any::<(u64, u64, u64)>(), 0..9)) {
            let listed = entries.iter().map(|(hash, time, mark)| Listed { hash: *hash, time: *time, mark: *mark });
            let mut bytes = Vec::new();
            listed.clone().for_each(|entry| entry.pack(&mut bytes));
            prop_assert_eq!(bytes.len(), entries.len() * LISTED_BYTES);
            prop_assert!(Listed::unpack(&bytes).eq(listed));
            let hashes = entries.iter().map(|entry| entry.0);
            prop_assert!(unpack(&pack(hashes.clone())).eq(hashes));
        }

        #[test]
        fn every_key_belongs_to_one_part_of_its_leaf(hash in any::<u64>(), bits in 0u8..12, partition in 0u8..12) {
            let grain = Grain { bits, salt: 0 };
            prop_assert!(grain.part(hash, partition) < grain.parts());
            // Only bits below those of partition and leaf count.
            let other = hash ^ (1 << 63 >> (partition + 5));
            prop_assert_eq!(grain.part(hash, partition), grain.part(other, partition));
        }
    }

    #[test]
    fn marks_that_collide_under_one_salt_differ_under_another() {
        let (one, other) = (Grain { bits: 4, salt: 1 }, Grain { bits: 4, salt: 2 });
        // The upper half makes up for what the lower half is under one salt.
        let lower = |half: u64| (half ^ one.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let element = |half: u64| u128::from(lower(half)) << 64 | u128::from(half);
        let (a, b) = (element(77), element(1 << 60));
        assert_eq!(one.mark(a), one.mark(b));
        assert_ne!(other.mark(a), other.mark(b));
    }

    #[test]
    fn of_many_records_no_two_have_the_same_mark() {
        let elements = (1..=300_000u128).map(|n| n.wrapping_mul(0x1234_5678_9abc_def1_2345_6789_abcd_ef01));
        let marks: std::collections::BTreeSet<_> =
            elements.map(|element| Grain { bits: 4, salt: 1 }.mark(element)).collect();
        assert_eq!(marks.len(), 300_000);
    }
}
