//! Floor 1: what members say to each other, and its bytes.
//!
//! A *frame* is what one turn of a member's loop has for one peer: its clock, the digest of its
//! placement, confirmations, records, and messages ([`frame`]). Records travel in their canonical
//! form; all else is small and goes through bincode, here and nowhere else ([`message`]). Every
//! decode is bounded by its input's length and must consume all of it.

pub mod compare;
pub mod frame;
pub mod introduction;
pub mod message;
pub mod reclaim;
pub mod watch;

/// The versions of this protocol that this build speaks. Two members speak the highest that both
/// know; without one in common they refuse each other.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 1..=CLASSES;

/// The first version whose members can place a collection by itself. Who speaks an older one would place its records
/// elsewhere.
pub const CLASSES: u16 = 2;

/// Bytes that are no frame or message. The link they came on can't be trusted to be in step and
/// is closed; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A frame ends before its content does.
    #[error("a frame is cut off")]
    CutOff,
    /// A frame of a version that this build does not know.
    #[error("frame version {0} is unknown to this version of kith")]
    Version(u8),
    /// A field has a value that no version writes.
    #[error("a frame has an impossible {0}")]
    Malformed(&'static str),
    /// A record inside does not parse.
    #[error("a frame carries a bad record: {0}")]
    Record(#[from] crate::model::record::RecordError),
    /// A message inside does not decode.
    #[error("a frame carries a bad message: {0}")]
    Message(String),
    /// Bytes are left over.
    #[error("{0} bytes follow the end of a frame or message")]
    Trailing(usize),
}
