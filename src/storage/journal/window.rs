//! A window of bounded size on a file that is read from front to back.
//!
//! Segments may be larger than memory, so replay looks at them through this. The window grows only
//! to what one frame needs.

use super::super::disk::File;
use super::super::error::StorageError;

const READING: &str = "reading the journal";
const STEP_BYTES: usize = 1 << 20;

pub(super) struct Window<'a, F> {
    file: &'a F,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, F: File> Window<'a, F> {
    pub fn new(file: &'a F) -> Result<Self, StorageError> {
        let length = file.length().map_err(|error| StorageError::from_io(READING, error))?;
        Ok(Self { file, length, start: 0, bytes: Vec::new() })
    }

    /// Bytes in the file.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// `count` bytes from `offset` on, or `None` where the file ends before.
    pub fn get(&mut self, offset: u64, count: usize) -> Result<Option<&[u8]>, StorageError> {
        let Some(end) = offset.checked_add(count as u64).filter(|end| *end <= self.length) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let left = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
            self.bytes.resize(count.max(STEP_BYTES).min(left), 0);
            self.start = offset;
            let read = self.file.read(offset, &mut self.bytes);
            if let Err(error) = read {
                self.bytes.clear();
                return Err(StorageError::from_io(READING, error));
            }
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).and_then(|tail| tail.get(..count)))
    }

    /// As many bytes from `offset` on as are at hand without growing; empty only at the end.
    pub fn rest(&mut self, offset: u64) -> Result<&[u8], StorageError> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        Ok(self.get(offset, left.min(STEP_BYTES))?.unwrap_or_default())
    }
}
