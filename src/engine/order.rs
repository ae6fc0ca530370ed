//! Key order over the table's slots, for scans and checkpoints.
//!
//! A sorted list of slot ids in chunks. Only new keys touch it; overwrites never do. Names stay in the
//! records, which lie anywhere in memory: looking at one costs more than everything else here. So a
//! chunk keeps beside each id a *mark*, four bytes of its name from where the chunk's names begin to
//! differ, and a search looks at records only where marks are equal. 8 bytes a key.
//!
//! Invariants: every occupied slot's id is in exactly one chunk, and chunks are never empty; a
//! chunk's `low` is not above any of its names and above all names of the chunk before it; all its
//! names begin with the first `shared` bytes of `low`.
#![expect(clippy::indexing_slicing, reason = "positions come from searches in the same lists")]

use crate::model::KeyRange;
use smallvec::SmallVec;

/// Ids in a chunk before it is split in two.
const CHUNK_IDS: usize = 1_024;
/// Ids by which a chunk's memory grows.
const GROWTH_IDS: usize = 128;

/// Collection and key of a slot, compared in this order.
pub(super) type Names<'a> = (&'a [u8], &'a [u8]);

/// Both names as one string of bytes with the same order: no collection's name has a zero byte.
type Flat = SmallVec<[u8; 64]>;

/// The order of all keys.
#[derive(Debug, Default)]
pub(super) struct Order {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    low: Box<[u8]>,
    shared: usize,
    ids: Vec<u32>,
    marks: Vec<u32>,
}

impl Order {
    /// Adds a slot that was just filled.
    pub(super) fn insert<'a>(&mut self, id: u32, names: impl Fn(u32) -> Names<'a>) {
        let name = flat(names(id));
        let at = self.chunk_of(&name);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Chunk::of(vec![id], &names));
            return;
        };
        chunk.insert(id, &name, &names);
        if chunk.ids.len() <= CHUNK_IDS {
            return;
        }
        // Names that come in order fill their chunks.
        let is_last = chunk.ids.last() == Some(&id) && at + 1 == self.chunks.len();
        let middle = if is_last { CHUNK_IDS } else { CHUNK_IDS / 2 };
        let chunk = &mut self.chunks[at];
        let upper = chunk.ids.split_off(middle);
        let mut lower = std::mem::take(&mut chunk.ids);
        lower.shrink_to_fit();
        self.chunks.splice(at..=at, [Chunk::of(lower, &names), Chunk::of(upper, &names)]);
    }

    /// Forgets a slot. Its names must still be readable.
    pub(super) fn remove<'a>(&mut self, id: u32, names: impl Fn(u32) -> Names<'a>) {
        let name = flat(names(id));
        let chunk_at = self.chunk_of(&name);
        let Some(chunk) = self.chunks.get_mut(chunk_at) else { return };
        let at = chunk.locate(&name, &names);
        debug_assert_eq!(chunk.ids.get(at), Some(&id), "an occupied slot is in the order");
        if chunk.ids.get(at) == Some(&id) {
            chunk.ids.remove(at);
            chunk.marks.remove(at);
        }
        if chunk.ids.is_empty() {
            self.chunks.remove(chunk_at);
        }
    }

    /// The ids of all keys from `start` on (after it, if `exclusive`), in order.
    pub(super) fn iter_from<'a>(
        &self,
        start: Names<'_>,
        exclusive: bool,
        names: impl Fn(u32) -> Names<'a>,
    ) -> impl Iterator<Item = u32> {
        let name = flat(start);
        let chunk = self.chunk_of(&name);
        let at = self.chunks.get(chunk).map_or(0, |chunk| chunk.locate(&name, &names));
        let first = self.chunks.get(chunk).map(|chunk| &chunk.ids[at..]).unwrap_or_default();
        let skip = exclusive && first.first().is_some_and(|id| names(*id) == start);
        let rest = self.chunks.get(chunk + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flat_map(|chunk| &chunk.ids)).copied().skip(usize::from(skip))
    }

    /// The ids of a collection's keys of a range, in order, from either end.
    pub(super) fn range<'a>(
        &self,
        collection: &[u8],
        keys: &KeyRange,
        names: impl Fn(u32) -> Names<'a>,
    ) -> impl DoubleEndedIterator<Item = u32> {
        let end = match &keys.end {
            Some(end) => flat((collection, end)),
            // What comes after the zero byte behind the collection's name.
            None => Flat::from_iter(collection.iter().copied().chain([1])),
        };
        let first = self.place_of(&flat((collection, &keys.start)), &names);
        let last = self.place_of(&end, &names);
        let chunks = if first < last { self.chunks.get(first.0..=last.0) } else { None };
        chunks.unwrap_or_default().iter().enumerate().flat_map(move |(offset, chunk)| {
            let chunk_at = first.0 + offset;
            let from = if chunk_at == first.0 { first.1 } else { 0 };
            let to = if chunk_at == last.0 { last.1 } else { chunk.ids.len() };
            chunk.ids.get(from..to).unwrap_or_default().iter().copied()
        })
    }

    /// The chunk and the place in it where the first id not below `name` is, or belongs.
    fn place_of<'a>(&self, name: &[u8], names: &impl Fn(u32) -> Names<'a>) -> (usize, usize) {
        let at = self.chunk_of(name);
        (at, self.chunks.get(at).map_or(0, |chunk| chunk.locate(name, names)))
    }

    /// How many keys are before `name`.
    pub(super) fn rank<'a>(&self, name: Names<'_>, names: impl Fn(u32) -> Names<'a>) -> usize {
        let (chunk, at) = self.place_of(&flat(name), &names);
        self.chunks.iter().take(chunk).map(|chunk| chunk.ids.len()).sum::<usize>() + at
    }

    /// The chunk that a name is in, or belongs to.
    fn chunk_of(&self, name: &[u8]) -> usize {
        self.chunks.partition_point(|chunk| *chunk.low <= *name).saturating_sub(1)
    }
}

impl Chunk {
    /// A chunk of sorted ids, at least one.
    fn of<'a>(ids: Vec<u32>, names: &impl Fn(u32) -> Names<'a>) -> Self {
        let low = flat(names(ids[0]));
        let shared = common(&low, &flat(names(ids[ids.len() - 1])));
        let mut chunk = Self { low: low.as_slice().into(), shared, ids, marks: Vec::new() };
        chunk.mark_all(names);
        chunk
    }

    fn mark_all<'a>(&mut self, names: &impl Fn(u32) -> Names<'a>) {
        let shared = self.shared;
        self.marks.clear();
        self.marks.extend(self.ids.iter().map(|id| mark(&flat(names(*id)), shared)));
    }

    fn insert<'a>(&mut self, id: u32, name: &[u8], names: &impl Fn(u32) -> Names<'a>) {
        let shared = common(&self.low[..self.shared], name);
        if shared < self.shared {
            self.shared = shared;
            self.mark_all(names);
        }
        if *name < *self.low {
            self.low = name.into();
        }
        let at = self.locate(name, names);
        // Doubling would leave half of it unused where chunks are cut in two.
        if self.ids.len() == self.ids.capacity() {
            self.ids.reserve_exact(GROWTH_IDS);
            self.marks.reserve_exact(GROWTH_IDS);
        }
        self.ids.insert(at, id);
        self.marks.insert(at, mark(name, self.shared));
    }

    /// Where the first id not below `name` is, or belongs.
    fn locate<'a>(&self, name: &[u8], names: &impl Fn(u32) -> Names<'a>) -> usize {
        if common(&self.low[..self.shared], name) < self.shared {
            return if *name < *self.low { 0 } else { self.ids.len() };
        }
        let mark = mark(name, self.shared);
        let first = self.marks.partition_point(|other| *other < mark);
        let equal = self.marks[first..].partition_point(|other| *other == mark);
        let same = &self.ids[first..first + equal];
        first + same.partition_point(|other| flat(names(*other)).as_slice() < name)
    }
}

fn flat((collection, key): Names<'_>) -> Flat {
    let mut name = Flat::from_slice(collection);
    name.push(0);
    name.extend_from_slice(key);
    name
}

/// How many bytes two names begin with in common.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The four bytes of a name from `shared` on, padded with zeros.
fn mark(name: &[u8], shared: usize) -> u32 {
    let tail = name.get(shared..).unwrap_or_default();
    let mut bytes = [0; 4];
    bytes.iter_mut().zip(tail).for_each(|(byte, there)| *byte = *there);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Keys of many shapes: random, rising with a long common beginning, each the beginning of the next.
    fn key(n: u32) -> Vec<u8> {
        match n % 3 {
            0 => format!("{:x}", n.wrapping_mul(2_654_435_761)).into_bytes(),
            1 => format!("a/long/way/to/the/key:{n:012}").into_bytes(),
            _ => vec![u8::from(n.is_multiple_of(2)); 1 + n as usize / 90],
        }
    }

    proptest! {
        #[test]
        fn it_lists_what_a_sorted_map_lists(
            steps in prop::collection::vec((prop::bool::weighted(0.8), 0u32..9_000), 1..6_000),
            start in 0u32..9_000,
            end in 0u32..9_000,
        ) {
            let keys: Vec<Vec<u8>> = (0..9_000).map(key).collect();
            let collections = [&b"c"[..], b"c1", b"d"];
            let names = |id: u32| (collections[id as usize / 7 % 3], keys[id as usize].as_slice());
            let mut order = Order::default();
            let mut model = BTreeMap::new();
            for (add, id) in steps {
                if add && !model.contains_key(&names(id)) {
                    model.insert(names(id), id);
                    order.insert(id, names);
                } else if !add && model.get(&names(id)) == Some(&id) {
                    model.remove(&names(id));
                    order.remove(id, names);
                }
            }
            let from = names(start);
            let listed: Vec<u32> = order.iter_from(from, false, names).collect();
            prop_assert_eq!(&listed, &model.range(from..).map(|(_, id)| *id).collect::<Vec<_>>());
            let after: Vec<u32> = order.iter_from(from, true, names).collect();
            prop_assert_eq!(order.rank(from, names), model.range(..from).count());
            let skip = usize::from(model.contains_key(&from));
            prop_assert_eq!(&after, &listed[skip..]);
            let (mut low, mut high) = (names(start).1.to_vec(), Some(names(end).1.to_vec()));
            if end % 5 == 0 {
                high = None;
            }
            if start % 5 == 0 {
                low = Vec::new();
            }
            let range = KeyRange { start: low, end: high };
            for collection in collections {
                let fits = |(name, key): &Names<'_>| *name == collection && range.contains(key);
                let listed: Vec<u32> = order.range(collection, &range, names).collect();
                let expected: Vec<u32> = model.iter().filter(|(name, _)| fits(name)).map(|(_, id)| *id).collect();
                prop_assert_eq!(&listed, &expected);
                let mut back: Vec<u32> = order.range(collection, &range, names).rev().collect();
                back.reverse();
                prop_assert_eq!(back, expected);
            }
        }
    }

    #[test]
    fn names_that_come_in_order_fill_their_chunks() {
        let keys: Vec<Vec<u8>> = (0..5_000u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let names = |id: u32| (&b"c"[..], keys[id as usize].as_slice());
        let mut order = Order::default();
        (0..5_000).for_each(|id| order.insert(id, names));
        assert_eq!(order.chunks.len(), 5);
    }
}
