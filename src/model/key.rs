//! Names of things that are stored: collections and keys, and the hash that places them.
//!
//! One hash per key decides everything: its top bits are the partition, the next six the leaf of
//! the partition's hash tree, and all of it indexes the table. blake3 makes it even and hard to
//! collide on purpose; it is the same on every member and for ever.

use super::limits::{LEAVES_PER_PARTITION, MAX_COLLECTION_BYTES, MAX_KEY_BYTES};

/// Collections whose names begin with this belong to kith and live on every member.
pub const SYSTEM_PREFIX: &str = "_system_";
/// One record per member: the roster.
pub const ROSTER: &str = "_system_roster";
/// One record per setting.
pub const SETTINGS: &str = "_system_settings";
/// One record per token of clients.
pub const TOKENS: &str = "_system_tokens";
/// The steps of changing the cluster secret.
pub const SECRETS: &str = "_system_secrets";
/// The collection that is used when a client names none.
pub const DEFAULT: &str = "default";

/// A key within its collection. Both are checked when a `KeyRef` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef<'a> {
    collection: &'a str,
    key: &'a [u8],
}

/// Why a collection or key is no good. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The collection's name has a bad length or character.
    #[error(
        "a collection's name has 1 to {MAX_COLLECTION_BYTES} characters of a-z, A-Z, 0-9, `_`, `-` and `.`"
    )]
    Collection,
    /// The collection's name is a step in a path.
    #[error("`.` and `..` can't name a collection: addresses on the web take them for steps in a path")]
    CollectionIsStep,
    /// The key is empty.
    #[error("a key has at least one byte")]
    Empty,
    /// The key is too long.
    #[error("a key has at most {MAX_KEY_BYTES} bytes; this one has {0}")]
    TooLong(usize),
}

impl<'a> KeyRef<'a> {
    /// Checks both names.
    ///
    /// # Errors
    /// [`KeyError`] tells which rule is broken.
    pub fn new(collection: &'a str, key: &'a [u8]) -> Result<Self, KeyError> {
        check_collection(collection)?;
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong(key.len()));
        }
        Ok(Self { collection, key })
    }

    /// The collection's name.
    #[must_use]
    pub const fn collection(self) -> &'a str {
        self.collection
    }

    /// The key's bytes.
    #[must_use]
    pub const fn key(self) -> &'a [u8] {
        self.key
    }

    /// Whether the key belongs to kith itself and lives on every member.
    #[must_use]
    pub fn is_system(self) -> bool {
        self.collection.starts_with(SYSTEM_PREFIX)
    }

    /// The hash that places this key.
    #[must_use]
    pub fn hash(self) -> KeyHash {
        KeyHash::of(self.collection.as_bytes(), self.key)
    }
}

/// Checks a collection's name.
///
/// # Errors
/// [`KeyError::Collection`], [`KeyError::CollectionIsStep`].
pub fn check_collection(name: &str) -> Result<(), KeyError> {
    let fits = (1..=MAX_COLLECTION_BYTES).contains(&name.len());
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    match name {
        _ if !fits || !plain => Err(KeyError::Collection),
        "." | ".." => Err(KeyError::CollectionIsStep),
        _ => Ok(()),
    }
}

/// The first 64 bits of blake3 over collection and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// Hashes a collection (its length first, so that no two pairs run together) and a key.
    #[must_use]
    pub fn of(collection: &[u8], key: &[u8]) -> Self {
        let digest = match 1 + collection.len() + key.len() {
            ..=64 => hash_joined::<64>(collection, key),
            65..=192 => hash_joined::<192>(collection, key),
            _ => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&[length_byte(collection)]).update(collection).update(key);
                hasher.finalize()
            }
        };
        let head = digest.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
        Self(u64::from_be_bytes(head))
    }

    /// The partition among `1 << partition_bits`.
    #[must_use]
    pub const fn partition(self, partition_bits: u8) -> u16 {
        if partition_bits == 0 { 0 } else { (self.0 >> (64 - partition_bits as u32)) as u16 }
    }

    /// The leaf within the partition's hash tree.
    #[must_use]
    pub const fn leaf(self, partition_bits: u8) -> u8 {
        ((self.0 << partition_bits) >> (64 - LEAVES_PER_PARTITION.trailing_zeros())) as u8
    }
}

/// Hashes names that fit into `N` bytes in one go: every operation does it.
fn hash_joined<const N: usize>(collection: &[u8], key: &[u8]) -> blake3::Hash {
    let mut buffer = [0; N];
    let total = 1 + collection.len() + key.len();
    if let Some((length, rest)) = buffer.get_mut(..total).and_then(<[u8]>::split_first_mut) {
        let (name, tail) = rest.split_at_mut(collection.len());
        *length = length_byte(collection);
        name.copy_from_slice(collection);
        tail.copy_from_slice(key);
    }
    blake3::hash(buffer.get(..total).unwrap_or_default())
}

#[expect(clippy::cast_possible_truncation, reason = "collections are checked to be shorter than 256 bytes")]
const fn length_byte(collection: &[u8]) -> u8 {
    collection.len() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_hash_by_the_same_rule() {
        for length in [1, 100, 183, 184, 185, 4000] {
            let key = vec![7; length];
            let mut plain = vec![7u8];
            plain.extend_from_slice(b"default");
            plain.extend_from_slice(&key);
            let expected = blake3::hash(&plain);
            assert_eq!(KeyHash::of(b"default", &key).0.to_be_bytes(), expected.as_bytes()[..8]);
        }
    }

    #[test]
    fn partition_and_leaf_are_the_top_bits_in_order() {
        let hash = KeyHash(0xABFC_0000_0000_0000_u64);
        assert_eq!(hash.partition(8), 0xAB);
        assert_eq!(hash.leaf(8), 0b11_1111);
        assert_eq!(hash.partition(0), 0);
    }

    #[test]
    fn bad_names_are_refused() {
        assert_eq!(KeyRef::new("", b"k"), Err(KeyError::Collection));
        assert_eq!(KeyRef::new("a/b", b"k"), Err(KeyError::Collection));
        assert_eq!(KeyRef::new(&"x".repeat(65), b"k"), Err(KeyError::Collection));
        for step in [".", ".."] {
            assert_eq!(KeyRef::new(step, b"k"), Err(KeyError::CollectionIsStep));
        }
        assert!(KeyRef::new("...", b"k").is_ok() && KeyRef::new(".a", b"k").is_ok());
        assert_eq!(KeyRef::new("a", b""), Err(KeyError::Empty));
        assert_eq!(KeyRef::new("a", &[0; 4097]), Err(KeyError::TooLong(4097)));
        assert!(KeyRef::new("a", &[0; 4096]).is_ok());
    }
}
