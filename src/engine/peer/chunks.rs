//! Bytes that wait for the frames of a link, in pieces of which each goes into one frame.
//!
//! Invariant: the partitions that a piece names are numbered by one placement.

use std::collections::VecDeque;

/// Bytes of records or messages in one frame, if there is more than one of them.
pub(super) const CHUNK_BYTES: usize = 512 << 10;

/// Bytes that go into one frame.
#[derive(Debug, Default)]
pub(in crate::engine) struct Chunk {
    pub(in crate::engine) bytes: Vec<u8>,
    pub(in crate::engine) count: u32,
    /// The placement by whose numbers its messages name partitions, once the present one numbers them otherwise.
    pub(super) placement: Option<u64>,
}

/// A queue of bytes for frames.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    pub(super) queue: VecDeque<Chunk>,
    pub(super) bytes: usize,
    spare: Vec<u8>,
}

impl Chunks {
    /// The chunk that the next item of so many bytes goes into: a large one goes alone.
    pub(super) fn open(&mut self, bytes: usize, max_items: u32) -> &mut Chunk {
        let full = |chunk: &Chunk| {
            let is_long = chunk.count > 0 && chunk.bytes.len() + bytes > CHUNK_BYTES;
            is_long || chunk.count >= max_items || chunk.placement.is_some()
        };
        if self.queue.back().is_none_or(full) {
            let bytes = std::mem::take(&mut self.spare);
            self.queue.push_back(Chunk { bytes, count: 0, placement: None });
        }
        let last = self.queue.len().saturating_sub(1);
        #[expect(clippy::indexing_slicing, reason = "a chunk was pushed if there was none")]
        &mut self.queue[last]
    }

    /// The next chunk, if it is within `room` bytes.
    pub(super) fn take(&mut self, room: usize) -> Option<Chunk> {
        let chunk = self.queue.pop_front_if(|chunk| chunk.bytes.len() <= room)?;
        self.bytes -= chunk.bytes.len();
        Some(chunk)
    }

    /// Keeps an allocation that was used up, unless it is a huge one.
    pub(super) fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() <= 2 * CHUNK_BYTES {
            bytes.clear();
            self.spare = bytes;
        }
    }
}
