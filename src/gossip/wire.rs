//! Bounds what hostile bytes can become, before chitchat decodes them.
//!
//! The decoder of chitchat 0.11.2 inflates every block of a delta to as much as 65,535 bytes, and a block
//! may take 14: 64 KiB of input become 300 MB. [`inspect`] walks a message without inflating anything and
//! lets it pass only if it can become no more than [`MAX_DELTA_BLOCKS`] · 64 KiB = 2 MiB. (An honest delta
//! fills its blocks with 16 KiB each; the longest facts of 400 members take 26 of them.)
//!
//! Layout, little-endian: magic 45139 (2), version 0 (1), type (1); then a digest, a text and a delta as
//! the type has them. Digest: count (2), entries of id text, generation (8), address, three numbers (24).
//! Delta: blocks of tag (1), length (2), bytes, ended by tag 0.
//!
//! Invariants: never panics, allocates nothing; an entry whose id and address are not of one member is
//! refused, so every id that chitchat lists stands for a member.

use super::address_of;
use crate::model::MemberId;
use crate::model::limits::MAX_MEMBERS;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Bytes in one gossip message.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Lives in one digest: below the number (about 940) at which chitchat's own arithmetic fails.
pub const MAX_DIGEST_ENTRIES: u16 = 2 * MAX_MEMBERS as u16;
/// Blocks in one delta.
pub const MAX_DELTA_BLOCKS: usize = 32;
/// Bytes in the cluster text.
pub const MAX_CLUSTER_BYTES: usize = 256;

const MAGIC: [u8; 3] = [0x53, 0xb0, 0];
/// Hexadecimal digits of an id.
const ID_BYTES: usize = 16;

/// A gossip message that is not decoded. Nothing has changed; the sender may be of another version, or
/// hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("gossip message of {0} bytes: at most {MAX_MESSAGE_BYTES} are accepted")]
    TooLong(usize),
    /// Ends in the middle.
    #[error("gossip message ends in its {0}")]
    Truncated(&'static str),
    /// Not a message of this protocol.
    #[error("not a gossip message of a known version or type")]
    Unknown,
    /// More lives than [`MAX_DIGEST_ENTRIES`].
    #[error("gossip digest lists {0} lives: at most {MAX_DIGEST_ENTRIES} are accepted")]
    TooManyLives(u16),
    /// An entry whose id and address don't belong together.
    #[error("gossip digest lists an entry that is no member")]
    NotAMember,
    /// The cluster text is too long.
    #[error("gossip message names a cluster with {0} bytes: at most {MAX_CLUSTER_BYTES} are accepted")]
    ClusterTooLong(usize),
    /// It would inflate beyond the bound.
    #[error("gossip delta has more than {MAX_DELTA_BLOCKS} blocks: it could inflate without bound")]
    TooManyBlocks,
    /// Bytes are left over.
    #[error("gossip message goes on after its end by {0} bytes")]
    LeftOver(usize),
    /// chitchat refused what passed the inspection.
    #[error("gossip message can't be decoded")]
    Undecodable,
}

/// Checks a message's bounds and shape.
///
/// # Errors
/// Says which bound or shape is broken.
pub fn inspect(message: &[u8]) -> Result<(), WireError> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLong(message.len()));
    }
    let mut rest = Rest(message);
    if rest.array::<3>("header")? != MAGIC {
        return Err(WireError::Unknown);
    }
    match rest.array::<1>("header")? {
        [0] => {
            digest(&mut rest)?;
            cluster(&mut rest)?;
        }
        [1] => {
            digest(&mut rest)?;
            delta(&mut rest)?;
        }
        [2] => delta(&mut rest)?,
        [3] => {}
        _ => return Err(WireError::Unknown),
    }
    if rest.0.is_empty() { Ok(()) } else { Err(WireError::LeftOver(rest.0.len())) }
}

fn digest(rest: &mut Rest<'_>) -> Result<(), WireError> {
    let lives = rest.u16("digest")?;
    if lives > MAX_DIGEST_ENTRIES {
        return Err(WireError::TooManyLives(lives));
    }
    for _ in 0..lives {
        if usize::from(rest.u16("digest")?) != ID_BYTES {
            return Err(WireError::NotAMember);
        }
        let id = rest.take(ID_BYTES, "digest")?;
        let member: Option<MemberId> = std::str::from_utf8(id).ok().and_then(|text| text.parse().ok());
        rest.take(8, "digest")?;
        // Members speak of each other by IPv6 addresses only; another kind of entry is no member's.
        if rest.array::<1>("digest")? != [6] {
            return Err(WireError::NotAMember);
        }
        let ip = Ipv6Addr::from(rest.array::<16>("digest")?);
        let address = SocketAddr::new(IpAddr::V6(ip), rest.u16("digest")?);
        let lower = !id.iter().any(u8::is_ascii_uppercase);
        if !lower || member.map(address_of) != Some(address) {
            return Err(WireError::NotAMember);
        }
        rest.take(24, "digest")?;
    }
    Ok(())
}

fn cluster(rest: &mut Rest<'_>) -> Result<(), WireError> {
    let bytes = usize::from(rest.u16("cluster")?);
    if bytes > MAX_CLUSTER_BYTES {
        return Err(WireError::ClusterTooLong(bytes));
    }
    rest.take(bytes, "cluster").map(|_| ())
}

fn delta(rest: &mut Rest<'_>) -> Result<(), WireError> {
    for _ in 0..=MAX_DELTA_BLOCKS {
        match rest.array::<1>("delta")? {
            [0] => return Ok(()),
            [1 | 2] => {
                let bytes = usize::from(rest.u16("delta")?);
                rest.take(bytes, "delta")?;
            }
            _ => return Err(WireError::Unknown),
        }
    }
    Err(WireError::TooManyBlocks)
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize, part: &'static str) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(bytes).ok_or(WireError::Truncated(part))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated(part))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u16(&mut self, part: &'static str) -> Result<u16, WireError> {
        self.array(part).map(u16::from_le_bytes)
    }
}

#[cfg(test)]
mod tests;
