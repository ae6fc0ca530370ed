//! Looks ahead in what a client sent, for reads whose records may be fetched into the processor's cache together.
//!
//! What is found here is found again by the parser and carried out there; only the keys' hashes are kept for it.
//! So only the form that clients' libraries send is known, and anything else ends the look.
//!
//! Invariant: the commands that come next, as many as are foreseen, are those whose keys were hashed, in that order
//! and in the collection of that moment: none of them is another one than a read, so none selects another.

use super::commands::reads_one_key;
use crate::model::{KeyHash, KeyRef};
use smallvec::SmallVec;

/// Reads that are looked for together. More would push each other out of the processor's cache.
const READS_AT_ONCE: usize = 32;

/// The reads that come next.
#[derive(Debug, Default)]
pub struct Foreseen {
    hashes: SmallVec<[KeyHash; READS_AT_ONCE]>,
    /// How many of them were carried out.
    done: usize,
}

impl Foreseen {
    /// Looks at what comes next, if nothing is foreseen any more. Gives the hashes of what is new, if it is several.
    pub fn look(&mut self, bytes: &[u8], collection: &str) -> Option<&[KeyHash]> {
        if self.next().is_some() {
            return None;
        }
        let keys = keys_read(bytes).map_while(|key| KeyRef::new(collection, key).ok()).take(READS_AT_ONCE);
        self.hashes.clear();
        self.hashes.extend(keys.map(KeyRef::hash));
        self.done = 0;
        (self.hashes.len() > 1).then_some(&self.hashes)
    }

    /// The hash of the key that the next command reads, if it was foreseen.
    pub fn next(&self) -> Option<KeyHash> {
        self.hashes.get(self.done).copied()
    }

    /// The next command was carried out.
    pub const fn pass(&mut self) {
        self.done += 1;
    }

    /// Something came that nobody foresaw.
    pub fn clear(&mut self) {
        self.hashes.clear();
    }
}

/// The keys with which bytes begin: of commands that read one key each and are there whole.
fn keys_read(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let after = rest.strip_prefix(b"*2\r\n")?;
        let (name, after) = argument(after)?;
        let (key, after) = argument(after)?;
        if !reads_one_key(name) {
            return None;
        }
        rest = after;
        Some(key)
    })
}

/// A short argument, and what follows it.
fn argument(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = bytes.strip_prefix(b"$")?;
    let (length, after) = match digits {
        [a @ b'0'..=b'9', b'\r', b'\n', after @ ..] => (digit(*a), after),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', after @ ..] => (10 * digit(*a) + digit(*b), after),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', after @ ..] => {
            (100 * digit(*a) + 10 * digit(*b) + digit(*c), after)
        }
        _ => return None,
    };
    let (argument, after) = after.split_at_checked(length)?;
    Some((argument, after.strip_prefix(b"\r\n")?))
}

const fn digit(byte: u8) -> usize {
    (byte - b'0') as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<&[u8]> {
        keys_read(bytes).collect()
    }

    #[test]
    fn reads_are_found_up_to_the_first_command_that_is_none_or_not_whole() {
        let long = [b"*2\r\n$3\r\nGET\r\n$120\r\n".as_slice(), &[b'k'; 120], b"\r\n"].concat();
        let whole =
            [b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$6\r\nstrlen\r\n$2\r\nbc\r\n".as_slice(), &long].concat();
        assert_eq!(keys(&whole), [&b"a"[..], b"bc", &[b'k'; 120]]);
        for end in [
            &b"*2\r\n$3\r\nGET\r\n$2\r\nb"[..],
            b"*2\r\n$3\r\nGET\r\n$2\r\nbcd\r\n",
            b"*2\r\n$4\r\nINCR\r\n$1\r\nb\r\n",
            b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\nv\r\n",
            b"*2\r\n$3\r\nGET\r\n$\r\n\r\n",
            b"*2\r\n$3\r\nGET\r\n$99999999999999999999\r\nb\r\n",
            b"GET b\r\n",
            b"",
        ] {
            assert_eq!(keys(&[&whole, end].concat()).len(), 3, "{end:?}");
        }
    }
}
