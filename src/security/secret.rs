//! The cluster secret and the keys that come from it.
//!
//! The secret is stretched once per start with Argon2id, salted with the cluster's name, and then
//! split by HKDF with a label per use. So a weak secret costs an attacker memory and time for each
//! guess, and no key tells anything about another.
//!
//! Invariants: a secret has 16 bytes or more; the secret and the pre-shared key are wiped when
//! dropped and never appear in `Debug` or errors. Where the text comes from is config's business.

use crate::model::MemberId;
use crate::model::rotation::{Envelope, SEALED_BYTES, Sealed};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::{digest, hkdf, hmac};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

pub use crate::model::rotation::KeyId;

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
const SEALING_LABEL: &[u8] = b"sealing of the next secret";
const PROOF_LABEL: &[u8] = b"proof on a link that stands";

/// Bytes of a stretched secret: all keys come from them, so they are as secret as it is.
pub const ROOT_BYTES: usize = 32;
/// Bytes of a proof on a link.
pub const PROOF_BYTES: usize = 32;

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

/// What a secret becomes for one cluster.
#[derive(Clone)]
pub struct ClusterKeys {
    root: Zeroizing<[u8; ROOT_BYTES]>,
    link: Zeroizing<[u8; 32]>,
    operator: Zeroizing<[u8; 32]>,
    sealing: Zeroizing<[u8; 32]>,
    proof: Zeroizing<[u8; 32]>,
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

        let params = Params::new(STRETCH_KIB, STRETCH_PASSES, STRETCH_LANES, Some(ROOT_BYTES))
            .map_err(|_| SecretError::Stretch)?;
        let mut stretched = Zeroizing::new([0; ROOT_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(&secret.0, salt.as_ref(), stretched.as_mut_slice())
            .map_err(|_| SecretError::Stretch)?;
        Self::from_root(stretched)
    }

    /// The keys that come from a secret that was stretched before.
    ///
    /// # Errors
    /// [`SecretError::Stretch`] if the keys can't be made.
    pub fn from_root(root: Zeroizing<[u8; ROOT_BYTES]>) -> Result<Self, SecretError> {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, HKDF_SALT).extract(root.as_slice());
        let zero = || Zeroizing::new([0; 32]);
        let (link, operator, sealing, proof) = (zero(), zero(), zero(), zero());
        let mut keys = Self { root, link, operator, sealing, proof, id: KeyId([0; 8]) };
        expand(&extracted, LINK_LABEL, keys.link.as_mut_slice())?;
        expand(&extracted, OPERATOR_LABEL, keys.operator.as_mut_slice())?;
        expand(&extracted, SEALING_LABEL, keys.sealing.as_mut_slice())?;
        expand(&extracted, PROOF_LABEL, keys.proof.as_mut_slice())?;
        expand(&extracted, KEY_ID_LABEL, &mut keys.id.0)?;
        Ok(keys)
    }

    /// The public name of these keys.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The stretched secret, for the file in the data directory only.
    pub(super) fn root(&self) -> &[u8; ROOT_BYTES] {
        &self.root
    }

    /// The pre-shared key of links.
    pub(super) fn link(&self) -> &[u8; 32] {
        &self.link
    }

    /// The key of an operator's proofs.
    pub(super) fn operator(&self) -> &[u8; 32] {
        &self.operator
    }

    /// The next secret's keys, sealed for those who have these; `nonce` are random bytes of the system's generator.
    ///
    /// # Errors
    /// [`SecretError::Stretch`] if the cipher can't be set up.
    pub fn seal(&self, next: &Self, nonce: [u8; NONCE_LEN]) -> Result<Sealed, SecretError> {
        let mut body = Zeroizing::new(*next.root());
        let tag = self.sealing_key()?.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.about(next.id)),
            body.as_mut_slice(),
        );
        let tag = tag.map_err(|_| SecretError::Stretch)?;
        let mut sealed = [0; SEALED_BYTES];
        let bytes = nonce.iter().chain(body.iter()).chain(tag.as_ref());
        sealed.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(sealed)
    }

    /// These keys and the next secret's, each sealed under the other.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn envelope(&self, next: &Self, nonces: [[u8; NONCE_LEN]; 2]) -> Result<Envelope, SecretError> {
        let [one, other] = nonces;
        Ok(Envelope { to: self.seal(next, one)?, from: next.seal(self, other)? })
    }

    /// Opens what [`Self::seal`] gave for the secret of this id; `None` if it was altered, or sealed under other keys
    /// or for another secret.
    #[must_use]
    pub fn open(&self, sealed: &Sealed, next: KeyId) -> Option<Self> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let about = Aad::from(self.about(next));
        let opened = self.sealing_key().ok()?.open_in_place(nonce, about, &mut body).ok()?;
        let root = Zeroizing::new(<[u8; ROOT_BYTES]>::try_from(&*opened).ok()?);
        Self::from_root(root).ok().filter(|keys| keys.id == next)
    }

    fn sealing_key(&self) -> Result<LessSafeKey, SecretError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, self.sealing.as_slice());
        key.map(LessSafeKey::new).map_err(|_| SecretError::Stretch)
    }

    fn about(&self, next: KeyId) -> [u8; 16] {
        let mut about = [0; 16];
        let bytes = self.id.0.iter().chain(&next.0);
        about.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        about
    }

    /// What proves on a link that stands, made with another secret perhaps, that `member` at its one end has these keys.
    /// `binding` names the link, so the proof is worth nothing on another one.
    #[must_use]
    pub fn prove(&self, binding: &[u8; 32], member: MemberId) -> [u8; PROOF_BYTES] {
        let tag = hmac::sign(&self.proof_key(), &proven(binding, member));
        let mut proof = [0; PROOF_BYTES];
        proof.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        proof
    }

    /// Whether `member` at the other end of a link proved that it has these keys. Takes as long wherever it is wrong.
    #[must_use]
    pub fn is_proof(&self, proof: &[u8; PROOF_BYTES], binding: &[u8; 32], member: MemberId) -> bool {
        hmac::verify(&self.proof_key(), &proven(binding, member), proof).is_ok()
    }

    fn proof_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.proof.as_slice())
    }
}

fn proven(binding: &[u8; 32], member: MemberId) -> [u8; 40] {
    let mut bytes = [0; 40];
    let parts = binding.iter().copied().chain(member.0.to_be_bytes());
    bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    bytes
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

/// The secrets that a member accepts: one, and while it is being changed one more. How it comes to change is told in
/// [`crate::model::rotation`].
#[derive(Debug, Clone)]
pub struct Keyring {
    current: ClusterKeys,
    other: Option<ClusterKeys>,
    retired: Vec<KeyId>,
}

impl Keyring {
    /// A keyring whose `current` keys are preferred.
    #[must_use]
    pub const fn new(current: ClusterKeys, other: Option<ClusterKeys>) -> Self {
        Self { current, other, retired: Vec::new() }
    }

    /// The same, knowing secrets that were accepted once, to tell those who come with them.
    #[must_use]
    pub fn with_retired(self, retired: Vec<KeyId>) -> Self {
        Self { retired, ..self }
    }

    /// The keys of this id, when they are valid here.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<&ClusterKeys> {
        self.keys().find(|keys| keys.id == id)
    }

    /// One or two key sets, the preferred first.
    pub fn keys(&self) -> impl Iterator<Item = &ClusterKeys> {
        std::iter::once(&self.current).chain(&self.other)
    }

    /// The keys that are offered first.
    #[must_use]
    pub const fn current(&self) -> &ClusterKeys {
        &self.current
    }

    /// Secrets that were accepted once, by their ids.
    #[must_use]
    pub fn retired(&self) -> &[KeyId] {
        &self.retired
    }

    /// Whether a secret was accepted once and is no more.
    #[must_use]
    pub fn is_retired(&self, id: KeyId) -> bool {
        self.retired.contains(&id)
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
    fn the_next_secret_is_opened_by_who_has_this_one_and_by_nobody_else() {
        let derive = |secret: &str| ClusterKeys::derive(&Secret::parse(secret).unwrap(), "c").unwrap();
        let (old, new, other) = (
            derive("correct horse battery"),
            derive("another horse battery"),
            derive("a third horse battery"),
        );
        let sealed = old.seal(&new, [7; NONCE_LEN]).unwrap();
        assert!(!sealed.windows(8).any(|part| new.root().windows(8).any(|root| root == part)));
        let opened = old.open(&sealed, new.id()).unwrap();
        assert_eq!((opened.id(), opened.link(), opened.root()), (new.id(), new.link(), new.root()));
        assert!(old.open(&sealed, other.id()).is_none() && other.open(&sealed, new.id()).is_none());
        for bit in 0..8 * SEALED_BYTES {
            let mut altered = sealed;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(old.open(&altered, new.id()).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_proof_on_a_link_holds_for_its_keys_link_and_sender_only() {
        let derive = |secret: &str| ClusterKeys::derive(&Secret::parse(secret).unwrap(), "c").unwrap();
        let (keys, other) = (derive("correct horse battery"), derive("another horse battery"));
        let proof = keys.prove(&[1; 32], MemberId(1));
        assert!(keys.is_proof(&proof, &[1; 32], MemberId(1)));
        assert!(!keys.is_proof(&proof, &[2; 32], MemberId(1)), "another link");
        assert!(!keys.is_proof(&proof, &[1; 32], MemberId(2)), "sent back");
        assert!(!other.is_proof(&proof, &[1; 32], MemberId(1)), "another secret");
        let mut altered = proof;
        altered[31] ^= 1;
        assert!(!keys.is_proof(&altered, &[1; 32], MemberId(1)));
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
