//! The cluster secret and the keys that come from it.
//!
//! The secret is stretched once per start with Argon2id, salted with the cluster's name, and then
//! split by HKDF with a label per use. So a weak secret costs an attacker memory and time for each
//! guess, and no key tells anything about another.
//!
//! Invariants: a secret has 16 bytes or more; the secret and the pre-shared key are wiped when
//! dropped and never appear in `Debug` or errors. Where the text comes from is config's business.

use argon2::{Algorithm, Argon2, Params, Version};
use ring::{digest, hkdf};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// The shortest secret that is accepted, in bytes.
pub const MIN_SECRET_BYTES: usize = 16;
/// The longest secret that is accepted, in bytes.
pub const MAX_SECRET_BYTES: usize = 1_024;

/// Argon2id: 19 MiB, two passes, one lane. The smallest setting that OWASP's password storage
/// guide recommends; an edge gateway with 64 MiB can afford it, and it is paid once per start.
const STRETCH_KIB: u32 = 19 * 1024;
const STRETCH_PASSES: u32 = 2;
const STRETCH_LANES: u32 = 1;

const SALT_LABEL: &[u8] = b"kith 2026 cluster salt";
const HKDF_SALT: &[u8] = b"kith 2026 cluster keys";
const LINK_LABEL: &[u8] = b"link pre-shared key";
const OPERATOR_LABEL: &[u8] = b"operator of clients' ports";
const KEY_ID_LABEL: &[u8] = b"key id";

/// Characters of a generated secret: none is taken for another when read aloud or copied by hand.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Why a secret can't be used. No variant holds any part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Fewer than [`MIN_SECRET_BYTES`].
    #[error(
        "the cluster secret has {0} bytes, at least {MIN_SECRET_BYTES} are needed: \
         make a good one with `kith secret` and give the same to every member"
    )]
    TooShort(usize),
    /// More than [`MAX_SECRET_BYTES`].
    #[error(
        "the cluster secret has {0} bytes, at most {MAX_SECRET_BYTES} are allowed: \
         is this the right file? `kith secret` makes a good one"
    )]
    TooLong(usize),
    /// The memory for stretching was not there.
    #[error("the cluster secret could not be stretched: it takes 19 MiB of free memory once at start")]
    Stretch,
}

/// The text that every member of a cluster shares.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes a secret as it was read from a file, the environment or the config; newlines at its
    /// end don't count.
    ///
    /// # Errors
    /// [`SecretError::TooShort`] and [`SecretError::TooLong`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim_end_matches(['\n', '\r']);
        match text.len() {
            length if length < MIN_SECRET_BYTES => Err(SecretError::TooShort(length)),
            length if length > MAX_SECRET_BYTES => Err(SecretError::TooLong(length)),
            _ => Ok(Self(Zeroizing::new(text.as_bytes().to_vec()))),
        }
    }

    /// A new secret of 52 letters and digits that holds all 256 bits of `random`.
    #[must_use]
    pub fn generate(mut random: [u8; 32]) -> String {
        let mut text = String::with_capacity(52);
        let mut pending: u32 = 0;
        let mut bits = 0;
        for byte in random {
            pending = (pending << 8) | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                text.push(letter(pending >> bits));
            }
        }
        text.push(letter(pending << (5 - bits)));
        random.zeroize();
        text
    }
}

fn letter(value: u32) -> char {
    char::from(ALPHABET.get((value & 31) as usize).copied().unwrap_or(b'a'))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Tells two secrets of a cluster apart without telling anything about them. Public.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a secret becomes for one cluster.
#[derive(Clone)]
pub struct ClusterKeys {
    link: Zeroizing<[u8; 32]>,
    operator: Zeroizing<[u8; 32]>,
    id: KeyId,
}

impl ClusterKeys {
    /// Stretches `secret` for the cluster of this name. Takes some 20 ms and 19 MiB.
    ///
    /// # Errors
    /// [`SecretError::Stretch`] when the memory can't be had.
    pub fn derive(secret: &Secret, cluster: &str) -> Result<Self, SecretError> {
        let mut salt = digest::Context::new(&digest::SHA256);
        salt.update(SALT_LABEL);
        salt.update(cluster.as_bytes());
        let salt = salt.finish();

        let params = Params::new(STRETCH_KIB, STRETCH_PASSES, STRETCH_LANES, Some(32))
            .map_err(|_| SecretError::Stretch)?;
        let mut stretched = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(&secret.0, salt.as_ref(), stretched.as_mut_slice())
            .map_err(|_| SecretError::Stretch)?;

        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, HKDF_SALT).extract(stretched.as_slice());
        let zero = || Zeroizing::new([0; 32]);
        let mut keys = Self { link: zero(), operator: zero(), id: KeyId([0; 8]) };
        expand(&root, LINK_LABEL, keys.link.as_mut_slice())?;
        expand(&root, OPERATOR_LABEL, keys.operator.as_mut_slice())?;
        expand(&root, KEY_ID_LABEL, &mut keys.id.0)?;
        Ok(keys)
    }

    /// The public name of these keys.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The pre-shared key of links.
    pub(super) fn link(&self) -> &[u8; 32] {
        &self.link
    }

    /// The key of an operator's proofs.
    pub(super) fn operator(&self) -> &[u8; 32] {
        &self.operator
    }
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterKeys").field("id", &self.id).finish_non_exhaustive()
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(root: &hkdf::Prk, label: &[u8], out: &mut [u8]) -> Result<(), SecretError> {
    root.expand(&[label], Length(out.len()))
        .and_then(|material| material.fill(out))
        .map_err(|_| SecretError::Stretch)
}

/// The secrets that a member accepts: its own, and while the secret is being changed one more.
///
/// To change a secret with no member down, start the members one after the other with the new
/// secret first and the old one second, then once more with only the new one: any two members
/// share a secret at every moment.
#[derive(Debug, Clone)]
pub struct Keyring {
    current: ClusterKeys,
    previous: Option<ClusterKeys>,
}

impl Keyring {
    /// A keyring whose `current` keys are preferred.
    #[must_use]
    pub const fn new(current: ClusterKeys, previous: Option<ClusterKeys>) -> Self {
        Self { current, previous }
    }

    /// The keys of this id, when they are valid here.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<&ClusterKeys> {
        self.keys().find(|keys| keys.id == id)
    }

    /// One or two key sets, the preferred first.
    pub fn keys(&self) -> impl Iterator<Item = &ClusterKeys> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_refused_and_the_error_names_the_command() {
        let error = Secret::parse("fifteen bytes!!\n").unwrap_err();
        assert_eq!(error, SecretError::TooShort(15));
        assert!(error.to_string().contains("kith secret"));
        assert!(Secret::parse("sixteen bytes!!!").is_ok());
        assert_eq!(Secret::parse(&"x".repeat(1_025)).unwrap_err(), SecretError::TooLong(1_025));
    }

    #[test]
    fn newlines_at_the_end_do_not_count() {
        let plain = ClusterKeys::derive(&Secret::parse("correct horse battery").unwrap(), "c").unwrap();
        let lines = ClusterKeys::derive(&Secret::parse("correct horse battery\r\n").unwrap(), "c").unwrap();
        assert_eq!(plain.id(), lines.id());
        assert_eq!(plain.link(), lines.link());
    }

    #[test]
    fn secret_and_cluster_name_both_decide_the_keys() {
        let derive = |secret: &str, name| ClusterKeys::derive(&Secret::parse(secret).unwrap(), name).unwrap();
        let keys = [
            derive("correct horse battery", "one"),
            derive("correct horse battery", "two"),
            derive("correct horse batterz", "one"),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a.id(), b.id());
                assert_ne!(a.link(), b.link());
            }
        }
    }

    #[test]
    fn a_generated_secret_keeps_every_bit_and_is_accepted() {
        let text = Secret::generate([0xA5; 32]);
        assert_eq!(text.len(), 52);
        assert!(text.bytes().all(|b| ALPHABET.contains(&b)));
        assert!(Secret::parse(&text).is_ok());
        for bit in 0..256 {
            let mut random = [0xA5; 32];
            random[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Secret::generate(random), text);
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let secret = Secret::parse("correct horse battery").unwrap();
        let keys = ClusterKeys::derive(&secret, "c").unwrap();
        let hidden = format!("{secret:?} {keys:?}");
        assert!(!hidden.contains("horse"));
        assert!(!hidden.contains(&format!("{:?}", keys.link()[..4].to_vec())));
    }
}
