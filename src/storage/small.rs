//! Small files that are replaced as a whole: identity, incarnation, facts about the cluster.
//!
//! A file is written beside the old one, synced, renamed over it, and the directory synced: a crash
//! leaves the old or the new content, never a mixture. What is read back carries its length and a
//! checksum, so damage is an error and never content.
//!
//! ```text
//! 0      format version (1)
//! 1..5   bytes of content (little endian)
//! 5..21  128 bits of blake3 over name and content
//! 21..   content
//! ```

use super::disk::{Disk, File};
use super::error::StorageError;
use std::io;

/// Bytes in the content of a small file.
pub const MAX_SMALL_BYTES: usize = 16 << 20;
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 21;

/// The content of a file, `None` when there is none.
///
/// # Errors
/// [`StorageError::Damaged`] when the bytes are not what was written; what to do about it depends
/// on the file, so it stays where it is.
pub fn read<D: Disk>(disk: &D, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    const DOING: &str = "reading a small file";
    let file = match disk.open(name, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::from_io(DOING, error)),
    };
    let length = file.length().map_err(|error| StorageError::from_io(DOING, error))?;
    let length = usize::try_from(length).ok().filter(|length| *length <= HEADER_BYTES + MAX_SMALL_BYTES);
    let length =
        length.ok_or_else(|| StorageError::damaged(name, "it is longer than any that is written"))?;
    let mut bytes = vec![0; length];
    file.read(0, &mut bytes).map_err(|error| StorageError::from_io(DOING, error))?;
    let Some((header, content)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(StorageError::damaged(name, "it is cut off"));
    };
    if header != make_header(name, content) {
        return Err(match header.first() {
            Some(version) if *version > FORMAT => {
                StorageError::Format { what: name.to_owned(), version: u32::from(*version) }
            }
            _ => StorageError::damaged(name, "it does not match its checksum"),
        });
    }
    bytes.drain(..HEADER_BYTES);
    Ok(Some(bytes))
}

/// Replaces the content of a file; durable when this returns.
///
/// # Errors
/// After an error the file has the old or the new content.
pub fn write_atomic<D: Disk>(disk: &D, name: &str, content: &[u8]) -> Result<(), StorageError> {
    if content.len() > MAX_SMALL_BYTES {
        let (what, bytes) = ("a small file", content.len());
        return Err(StorageError::TooLarge { what, bytes, most: MAX_SMALL_BYTES });
    }
    let mut bytes = make_header(name, content);
    bytes.extend_from_slice(content);
    let fresh = format!("{name}.new");
    let write = || {
        let file = disk.open(&fresh, true)?;
        file.set_len(0)?;
        file.write(0, &bytes)?;
        file.sync_data()?;
        disk.rename(&fresh, name)?;
        disk.sync_dir()
    };
    write().map_err(|error| StorageError::from_io("writing a small file", error))
}

fn make_header(name: &str, content: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(content);
    let mut header = Vec::with_capacity(HEADER_BYTES + content.len());
    header.push(FORMAT);
    header.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    header.extend(hasher.finalize().as_bytes().iter().take(16));
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::OsDisk;

    #[test]
    fn a_small_file_is_read_as_it_was_last_written() {
        let place = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(place.path()).unwrap();
        assert!(read(&disk, "identity").unwrap().is_none());
        for content in [&b"first and longer"[..], b"second", b""] {
            write_atomic(&disk, "identity", content).unwrap();
            assert_eq!(read(&disk, "identity").unwrap().as_deref(), Some(content));
        }
        assert_eq!(disk.list().unwrap(), ["identity"]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(place.path()).unwrap();
        write_atomic(&disk, "facts", b"content").unwrap();
        let good = std::fs::read(place.path().join("facts")).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(place.path().join("facts"), &bad).unwrap();
            assert!(read(&disk, "facts").is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            std::fs::write(place.path().join("facts"), &good[..length]).unwrap();
            assert!(read(&disk, "facts").is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_small_file_under_another_name_is_not_taken_for_it() {
        let place = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(place.path()).unwrap();
        write_atomic(&disk, "one", b"1").unwrap();
        disk.rename("one", "two").unwrap();
        assert!(matches!(read(&disk, "two"), Err(StorageError::Damaged { .. })));
    }
}
