//! The bytes of the records in memory, in cells of equal sizes.
//!
//! A general allocator rounds a record of 165 bytes up to 192 and needs a pointer and a length to it. Here a
//! record takes at most 7 bytes more than it has (up to a kilobyte; 63 up to four), and who keeps it needs the
//! cell's class and number: five bytes. Cells come in blocks of one class; a block without any record gives its memory back.
//! What is larger is a matter of the allocator again.
//!
//! Invariants: a block is listed in `open` or in `vacant` at most once; in `open` if it has room and memory, in
//! `vacant` only if it has no memory; a free cell that was used before names the next one in its first two bytes.
#![expect(
    clippy::indexing_slicing,
    reason = "cells are named by whoever was given them; classes and blocks never go away"
)]

/// Cells of up to so many bytes differ by [`FINE_STEP`].
const FINE_BYTES: usize = 1_024;
const FINE_STEP: usize = 8;
/// Cells of up to so many bytes differ by [`COARSE_STEP`].
const COARSE_BYTES: usize = 4_096;
const COARSE_STEP: usize = 64;
const FINE_CLASSES: usize = FINE_BYTES / FINE_STEP;
/// Classes, with none of no bytes.
const CLASSES: usize = 1 + FINE_CLASSES + (COARSE_BYTES - FINE_BYTES) / COARSE_STEP;
/// The class of what has an allocation of its own.
const LARGE: u8 = u8::MAX;
/// Bytes of a block.
const BLOCK_BYTES: usize = 32 << 10;
/// No cell of a block.
const NONE: u16 = u16::MAX;

/// Where a record's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellId {
    /// 0 for nowhere.
    pub(super) class: u8,
    pub(super) number: u32,
}

impl CellId {
    /// No cell.
    pub(super) const NOWHERE: Self = Self { class: 0, number: 0 };
}

/// All cells.
#[derive(Debug)]
pub(super) struct Cells {
    classes: Vec<Class>,
    large: Vec<Box<[u8]>>,
    free_large: Vec<u32>,
}

#[derive(Debug, Default)]
struct Class {
    blocks: Vec<Block>,
    /// Blocks with room, the last one first; those that have none any more are found out when they are asked.
    open: Vec<u32>,
    /// Blocks without memory.
    vacant: Vec<u32>,
}

#[derive(Debug)]
struct Block {
    /// As long as cells of it were ever used.
    bytes: Vec<u8>,
    /// The first free cell among those that were used before.
    free: u16,
    used: u16,
    is_open: bool,
}

impl Default for Cells {
    fn default() -> Self {
        let classes = std::iter::repeat_with(Class::default).take(CLASSES).collect();
        Self { classes, large: Vec::new(), free_large: Vec::new() }
    }
}

impl Cells {
    /// Keeps a copy of some bytes, at least one.
    pub(super) fn put(&mut self, bytes: &[u8]) -> CellId {
        let class = class_of(bytes.len());
        let number = if class == LARGE {
            self.put_large(bytes)
        } else {
            self.classes[usize::from(class)].put(bytes, size_of(class))
        };
        CellId { class, number }
    }

    fn put_large(&mut self, bytes: &[u8]) -> u32 {
        match self.free_large.pop() {
            Some(number) => {
                self.large[number as usize] = bytes.into();
                number
            }
            None => {
                self.large.push(bytes.into());
                to_u32(self.large.len() - 1)
            }
        }
    }

    /// What a cell holds, and zeros or what it held before behind that; nothing of nowhere.
    pub(super) fn get(&self, id: CellId) -> &[u8] {
        if id.class == LARGE {
            return &self.large[id.number as usize];
        }
        if id.class == 0 {
            return &[];
        }
        let size = size_of(id.class);
        let (block, cell) = split(id.number, size);
        &self.classes[usize::from(id.class)].blocks[block].bytes[cell * size..(cell + 1) * size]
    }

    /// Keeps other bytes instead; in the same cell, if they fit as well there as in any.
    pub(super) fn replace(&mut self, id: CellId, bytes: &[u8]) -> CellId {
        if id.class != class_of(bytes.len()) {
            self.free(id);
            return self.put(bytes);
        }
        if id.class == LARGE {
            let place = &mut self.large[id.number as usize];
            if place.len() == bytes.len() {
                place.copy_from_slice(bytes);
            } else {
                *place = bytes.into();
            }
        } else {
            let size = size_of(id.class);
            let (block, cell) = split(id.number, size);
            let place = &mut self.classes[usize::from(id.class)].blocks[block].bytes[cell * size..];
            place[..bytes.len()].copy_from_slice(bytes);
        }
        id
    }

    /// Gives a cell back.
    pub(super) fn free(&mut self, id: CellId) {
        match id.class {
            0 => {}
            LARGE => {
                self.large[id.number as usize] = Box::default();
                self.free_large.push(id.number);
            }
            class => self.classes[usize::from(class)].free(id.number, size_of(class)),
        }
    }
}

impl Class {
    fn put(&mut self, bytes: &[u8], size: usize) -> u32 {
        let at = self.block_with_room(size);
        let block = &mut self.blocks[at];
        block.used += 1;
        let cell = if block.free == NONE {
            if block.bytes.capacity() == 0 {
                block.bytes.reserve_exact(cells_per_block(size) * size);
            }
            let cell = block.bytes.len() / size;
            block.bytes.extend_from_slice(bytes);
            block.bytes.resize((cell + 1) * size, 0);
            cell
        } else {
            let cell = usize::from(block.free);
            let place = &mut block.bytes[cell * size..];
            block.free = u16::from_le_bytes([place[0], place[1]]);
            place[..bytes.len()].copy_from_slice(bytes);
            cell
        };
        to_u32(at * cells_per_block(size) + cell)
    }

    fn block_with_room(&mut self, size: usize) -> usize {
        while let Some(at) = self.open.last().map(|at| *at as usize) {
            let block = &mut self.blocks[at];
            let has_memory = block.bytes.capacity() > 0;
            if has_memory && usize::from(block.used) < cells_per_block(size) {
                return at;
            }
            block.is_open = false;
            self.open.pop();
            if !has_memory {
                self.vacant.push(to_u32(at));
            }
        }
        let at = self.vacant.pop().map_or(self.blocks.len(), |at| at as usize);
        if at == self.blocks.len() {
            self.blocks.push(Block { bytes: Vec::new(), free: NONE, used: 0, is_open: false });
        }
        self.blocks[at].is_open = true;
        self.open.push(to_u32(at));
        at
    }

    fn free(&mut self, number: u32, size: usize) {
        let (at, cell) = split(number, size);
        let block = &mut self.blocks[at];
        block.bytes[cell * size..][..2].copy_from_slice(&block.free.to_le_bytes());
        block.free = u16::try_from(cell).unwrap_or(NONE);
        block.used -= 1;
        if !block.is_open {
            block.is_open = true;
            self.open.push(to_u32(at));
        }
        // The last one stays: records that come and go would have it allocated again and again.
        if block.used == 0 && self.open.len() > 1 {
            block.bytes = Vec::new();
            block.free = NONE;
        }
    }
}

/// The class of so many bytes.
const fn class_of(bytes: usize) -> u8 {
    if bytes <= FINE_BYTES {
        bytes.div_ceil(FINE_STEP) as u8
    } else if bytes <= COARSE_BYTES {
        (FINE_CLASSES + (bytes - FINE_BYTES).div_ceil(COARSE_STEP)) as u8
    } else {
        LARGE
    }
}

/// Bytes of a cell.
const fn size_of(class: u8) -> usize {
    let class = class as usize;
    if class <= FINE_CLASSES { class * FINE_STEP } else { FINE_BYTES + (class - FINE_CLASSES) * COARSE_STEP }
}

const fn cells_per_block(size: usize) -> usize {
    BLOCK_BYTES / size
}

/// The block of a cell, and its place there.
const fn split(number: u32, size: usize) -> (usize, usize) {
    let number = number as usize;
    (number / cells_per_block(size), number % cells_per_block(size))
}

/// There are fewer cells than slots, and those have numbers of 32 bits.
fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + seed) as u8).collect()
    }

    #[test]
    fn classes_fit_their_sizes() {
        for length in 1..=COARSE_BYTES {
            let size = size_of(class_of(length));
            assert!(size >= length && usize::from(class_of(length)) < CLASSES, "{length}");
            assert!(size - length < if length <= FINE_BYTES { FINE_STEP } else { COARSE_STEP }, "{length}");
        }
        assert_eq!(class_of(COARSE_BYTES + 1), LARGE);
        assert!(CLASSES < usize::from(LARGE));
    }

    proptest! {
        #[test]
        fn what_was_put_stays_until_it_is_freed(
            steps in prop::collection::vec((0usize..400, 0u8..4, 1usize..6_000), 1..3_000)
        ) {
            let mut cells = Cells::default();
            let mut kept: Vec<(CellId, Vec<u8>)> = Vec::new();
            for (seed, (at, step, length)) in steps.into_iter().enumerate() {
                // Few lengths, so that blocks fill and empty.
                let length = if length % 3 == 0 { length } else { length % 5 * 200 + 30 };
                let what = bytes(length, seed);
                match (step, kept.get_mut(at)) {
                    (0, Some(_)) => {
                        let (id, _) = kept.swap_remove(at);
                        cells.free(id);
                    }
                    (1, Some((id, held))) => {
                        *id = cells.replace(*id, &what);
                        *held = what;
                    }
                    _ => kept.push((cells.put(&what), what)),
                }
                if seed % 64 == 0 {
                    for (id, held) in &kept {
                        prop_assert!(cells.get(*id).starts_with(held));
                    }
                }
            }
            for (id, held) in &kept {
                prop_assert!(cells.get(*id).starts_with(held));
            }
        }
    }

    #[test]
    fn blocks_without_records_give_their_memory_back_and_are_used_again() {
        let mut cells = Cells::default();
        let what = bytes(160, 1);
        let memory = |cells: &Cells| -> usize {
            cells.classes.iter().flat_map(|class| &class.blocks).map(|block| block.bytes.capacity()).sum()
        };
        let ids: Vec<CellId> = (0..10_000).map(|_| cells.put(&what)).collect();
        let full = memory(&cells);
        assert!(full <= 10_000 * 160 + 2 * BLOCK_BYTES);
        ids.iter().for_each(|id| cells.free(*id));
        assert!(memory(&cells) <= BLOCK_BYTES);
        let again: Vec<CellId> = (0..10_000).map(|_| cells.put(&what)).collect();
        assert_eq!(memory(&cells), full);
        assert_eq!(cells.classes[usize::from(again[0].class)].blocks.len(), full.div_ceil(BLOCK_BYTES));
    }
}
