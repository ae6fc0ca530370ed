//! Floor 3: one encrypted TCP link per peer.
//!
//! [`connect()`] and [`Acceptor`] carry the handshake of [`crate::security`] over a socket within a
//! deadline and give a [`Link`]; its reader and writer move sealed frames with as few system calls as
//! there can be: many frames per read, one write per turn and no wake-up in the common case.
//!
//! Invariants: nothing is decoded before it is authenticated; every buffer has a bound and large ones
//! are given back; any error but [`LinkError::Full`] and [`LinkError::Oversize`] ends the link. What
//! frames mean, when to dial again ([`retry_delay`] says how long to wait) and when a silent link is
//! dead is for the caller to decide.

mod connect;
mod dial;
mod link;

pub use connect::{Acceptor, Arrival, connect};
pub use dial::retry_delay;
pub use link::{BLOCKED_BYTES, Frame, Link, LinkReader, LinkWriter, MAX_BUFFERED_BYTES, PeerInfo};

use crate::model::limits::MAX_FRAME_BYTES;
use crate::security::{HandshakeError, Refusal, SealError};
use std::io;

/// What a frame is for: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Messages between engines.
    Engine = 0,
    /// Gossip.
    Gossip = 1,
    /// Joining, settings and other talk between nodes.
    Control = 2,
    /// The sender ends the link, and why.
    Goodbye = 3,
}

impl TryFrom<u8> for FrameKind {
    type Error = LinkError;

    fn try_from(kind: u8) -> Result<Self, LinkError> {
        match kind {
            0 => Ok(Self::Engine),
            1 => Ok(Self::Gossip),
            2 => Ok(Self::Control),
            3 => Ok(Self::Goodbye),
            unknown => Err(LinkError::UnknownKind(unknown)),
        }
    }
}

/// Why there is no link, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The connection could not be made, or broke.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The handshake ended without a session.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The peer closed the connection in the middle of a handshake or frame.
    #[error("the other side closed the connection in the middle of a message: see its log for the reason")]
    CutOff,
    /// A frame could not be opened or sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A frame of a kind that this version doesn't know.
    #[error("a frame of the unknown kind {0} arrived, which the agreed protocol version does not have")]
    UnknownKind(u8),
    /// The frame is over the bound. Nothing was queued, the link lives.
    #[error("a frame of {0} bytes is over the bound of {MAX_FRAME_BYTES}: send it in parts")]
    Oversize(usize),
    /// Too much waits to be sent. Nothing was queued, the link lives.
    #[error("too much waits to be sent to this peer: queue the frame again once the link has drained")]
    Full,
}

impl LinkError {
    /// Whether no link will ever stand until a person changes what one of the sides was told.
    pub(crate) const fn must_be_mended(&self) -> bool {
        let Self::Handshake(HandshakeError::Refused(refusal) | HandshakeError::RefusedByPeer(refusal)) = self
        else {
            return false;
        };
        match refusal {
            Refusal::WrongCluster { .. }
            | Refusal::IncompatibleProtocol { .. }
            | Refusal::UnknownKeyId
            | Refusal::RetiredSecret => true,
            Refusal::Authentication | Refusal::Timeout | Refusal::Malformed | Refusal::Busy => false,
        }
    }
}
