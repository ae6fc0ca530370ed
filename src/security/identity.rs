//! A member's identity: one static X25519 key pair.
//!
//! The public key is what peers pin in the roster, and [`MemberId`] is derived from it; whoever
//! holds the private key *is* the member. This module makes the pair and gives its bytes for the
//! identity file; storing them is left to the caller.

use crate::model::MemberId;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an identity file's content.
pub const IDENTITY_BYTES: usize = 64;

/// Why bytes are no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The bytes were cut, or private and public half don't belong together.
    #[error(
        "the identity is damaged: restore its file from a backup, or start from an empty data directory as a new member"
    )]
    Damaged,
    /// The key agreement that the build should contain is missing.
    #[error("this build lacks X25519: build kith with its default dependencies")]
    Unavailable,
}

/// The key pair that a member proves in every handshake.
#[derive(Clone)]
pub struct Identity {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Identity {
    /// A new identity from 32 random bytes, which must come from the system's generator.
    ///
    /// # Errors
    /// [`IdentityError::Unavailable`].
    pub fn generate(mut random: [u8; 32]) -> Result<Self, IdentityError> {
        let mut agreement =
            DefaultResolver.resolve_dh(&DHChoice::Curve25519).ok_or(IdentityError::Unavailable)?;
        agreement.set(&random);
        let public = agreement.pubkey().first_chunk().copied().ok_or(IdentityError::Unavailable)?;
        let identity = Self { private: Zeroizing::new(random), public };
        random.zeroize();
        Ok(identity)
    }

    /// Reads what [`Identity::to_bytes`] gave.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] when the bytes were altered or cut.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let (private, public) = bytes.split_first_chunk::<32>().ok_or(IdentityError::Damaged)?;
        let identity = Self::generate(*private)?;
        if identity.public == *public { Ok(identity) } else { Err(IdentityError::Damaged) }
    }

    /// Private key, then public key: secret, for the identity file only.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; IDENTITY_BYTES]> {
        let mut bytes = Zeroizing::new([0; IDENTITY_BYTES]);
        let (private, public) = bytes.split_at_mut(32);
        private.copy_from_slice(self.private.as_slice());
        public.copy_from_slice(&self.public);
        bytes
    }

    /// The public key, which peers pin.
    #[must_use]
    pub const fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// The id that belongs to the public key.
    #[must_use]
    pub fn member_id(&self) -> MemberId {
        MemberId::of_public_key(&self.public)
    }

    pub(super) fn private_key(&self) -> &[u8] {
        self.private.as_slice()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("member", &self.member_id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_that_of_the_x25519_standard() {
        // RFC 7748, section 6.1, Alice's pair.
        let private: [u8; 32] = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let identity = Identity::generate(private).unwrap();
        assert_eq!(identity.public_key()[..8], [0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54]);
    }

    #[test]
    fn an_identity_survives_its_file_and_damage_is_noticed() {
        let identity = Identity::generate([7; 32]).unwrap();
        let bytes = identity.to_bytes();
        let again = Identity::from_bytes(bytes.as_slice()).unwrap();
        assert_eq!(again.member_id(), identity.member_id());
        for cut in 0..IDENTITY_BYTES {
            assert_eq!(Identity::from_bytes(&bytes[..cut]).unwrap_err(), IdentityError::Damaged);
        }
        let mut altered = *bytes;
        altered[40] ^= 1;
        assert_eq!(Identity::from_bytes(&altered).unwrap_err(), IdentityError::Damaged);
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let identity = Identity::generate([7; 32]).unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity {{ member: {}, .. }}", identity.member_id()));
    }
}
