//! An established link: who is at the other end, its reader and its writer.
//!
//! The reader takes what the socket has in large pieces and opens frame after frame from them. The
//! writer seals frames as they are queued, because the order of sealing is the order of sending, and
//! writes as much as the socket takes at once; only what is left needs a wake-up.
//!
//! Invariants: the reader holds at most one frame and [`READ_BYTES`] of unopened bytes, the writer at
//! most [`MAX_BUFFERED_BYTES`]; buffers that grew for a large frame are given back. [`LinkReader::next`]
//! and [`LinkWriter::flush`] lose nothing when they are cancelled.

use super::{FrameKind, LinkError};
use crate::model::MemberId;
use crate::model::limits::MAX_FRAME_BYTES;
use crate::security::seal::{MAX_SEALED_CHUNK_BYTES, sealed_bytes};
use crate::security::{Advance, KeyId, Opener, Role, SealError, Sealer};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes of a new reader's buffer: an idle link stays small.
const FIRST_READ_BYTES: usize = 16 << 10;
/// Bytes that a busy reader asks the socket for at once: two full chunks.
const READ_BYTES: usize = 2 * MAX_SEALED_CHUNK_BYTES;
/// While more than this waits to be sent, frames other than gossip should be held back.
pub const BLOCKED_BYTES: usize = 256 << 10;
/// The most that may wait to be sent: a largest frame behind an unblocked buffer, and gossip.
pub const MAX_BUFFERED_BYTES: usize = BLOCKED_BYTES + sealed_bytes(MAX_FRAME_BYTES) + (1 << 20);
/// An empty outgoing buffer above this size is given back.
const KEPT_BYTES: usize = 2 * BLOCKED_BYTES;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The id that belongs to the peer's key.
    pub member: MemberId,
    /// The peer's static key, proved in the handshake. Whether it is the expected one is for the
    /// caller to check.
    pub public_key: [u8; 32],
    /// What the peer wants to be in this link.
    pub role: Role,
    /// The secret that both proved when the link was made.
    pub key: KeyId,
    /// Names this link and no other, the same on both sides. Not secret.
    pub binding: [u8; 32],
    /// What the peer told about itself, authenticated.
    pub introduction: Vec<u8>,
    /// The newest protocol version that both speak.
    pub protocol: u16,
    /// The other end of the TCP connection.
    pub address: SocketAddr,
}

/// An established link.
#[derive(Debug)]
pub struct Link {
    /// Who is at the other end.
    pub peer: PeerInfo,
    /// What comes from there.
    pub reader: LinkReader,
    /// What goes there.
    pub writer: LinkWriter,
}

impl Link {
    pub(super) fn new(peer: PeerInfo, stream: TcpStream, sealer: Sealer, opener: Opener) -> Self {
        let (read, write) = stream.into_split();
        let reader = LinkReader { stream: read, opener, buffer: vec![0; FIRST_READ_BYTES], start: 0, end: 0 };
        let writer = LinkWriter { stream: write, sealer, buffer: Vec::new(), sent: 0 };
        Self { peer, reader, writer }
    }
}

/// A frame that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is for.
    pub kind: FrameKind,
    /// Its body.
    pub bytes: &'a [u8],
}

/// The receiving half of a link.
#[derive(Debug)]
pub struct LinkReader {
    stream: OwnedReadHalf,
    opener: Opener,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl LinkReader {
    /// The next frame, waiting for it if need be; `None` when the peer closed the connection between
    /// two frames. A cancelled call loses nothing.
    ///
    /// # Errors
    /// Every [`LinkError`] is final: drop the link.
    pub async fn next(&mut self) -> Result<Option<Frame<'_>>, LinkError> {
        while let Some(needed) = self.open_buffered()? {
            self.make_room(needed);
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            let read = self.stream.read(room).await?;
            if read == 0 {
                let between_frames = self.start == self.end && !self.opener.is_inside_frame();
                return if between_frames { Ok(None) } else { Err(LinkError::CutOff) };
            }
            self.end += read;
        }
        self.frame()
    }

    /// The next frame if it has already been received, without touching the socket: what a turn can
    /// still take in before it answers.
    ///
    /// # Errors
    /// Every [`LinkError`] is final: drop the link.
    pub fn next_buffered(&mut self) -> Result<Option<Frame<'_>>, LinkError> {
        if self.open_buffered()?.is_some() { Ok(None) } else { self.frame() }
    }

    /// Bytes that this reader holds.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.buffer.capacity() + self.opener.held_bytes()
    }

    /// Opens chunks that have been received until a frame is complete; else says how many bytes the
    /// buffer must hold from `start` on.
    fn open_buffered(&mut self) -> Result<Option<usize>, LinkError> {
        let input = self.buffer.get(self.start..self.end).unwrap_or_default();
        let (consumed, needed) = match self.opener.advance(input)? {
            Advance::Frame { consumed } => (consumed, None),
            Advance::More { consumed, needed } => (consumed, Some(needed)),
        };
        self.start += consumed;
        Ok(needed)
    }

    fn frame(&self) -> Result<Option<Frame<'_>>, LinkError> {
        let (kind, bytes) = self.opener.frame().ok_or(SealError::Malformed)?;
        Ok(Some(Frame { kind: FrameKind::try_from(kind)?, bytes }))
    }

    /// Moves what is left to the front and grows the buffer when a chunk or the traffic asks for it.
    fn make_room(&mut self, needed: usize) {
        let full = self.end == self.buffer.len();
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if (full || needed > self.buffer.len()) && self.buffer.len() < READ_BYTES {
            self.buffer.resize(READ_BYTES, 0);
        }
    }
}

/// The sending half of a link.
#[derive(Debug)]
pub struct LinkWriter {
    stream: OwnedWriteHalf,
    sealer: Sealer,
    buffer: Vec<u8>,
    sent: usize,
}

impl LinkWriter {
    /// Seals a frame behind those that wait. Nothing is sent before [`LinkWriter::try_flush`] or
    /// [`LinkWriter::flush`].
    ///
    /// # Errors
    /// [`LinkError::Full`] and [`LinkError::Oversize`] leave everything as it was; any other error is
    /// final.
    pub fn queue(&mut self, kind: FrameKind, body: &[u8]) -> Result<(), LinkError> {
        if body.len() > MAX_FRAME_BYTES {
            return Err(LinkError::Oversize(body.len()));
        }
        if self.buffered() + sealed_bytes(body.len()) > MAX_BUFFERED_BYTES {
            return Err(LinkError::Full);
        }
        if self.sent > 0 {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
        Ok(self.sealer.seal(kind as u8, body, &mut self.buffer)?)
    }

    /// Sealed bytes that wait to be sent.
    #[must_use]
    pub const fn buffered(&self) -> usize {
        self.buffer.len() - self.sent
    }

    /// Whether so much waits that only gossip should be queued, so that it doesn't come late.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.buffered() > BLOCKED_BYTES
    }

    /// Sends what the socket takes at once and says whether all is gone. In the common case this is
    /// one system call and no wake-up.
    ///
    /// # Errors
    /// Every error is final: drop the link.
    pub fn try_flush(&mut self) -> Result<bool, LinkError> {
        while let Some(rest) = self.buffer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.try_write(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.buffer.clear();
        self.sent = 0;
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer.shrink_to(KEPT_BYTES);
        }
        Ok(true)
    }

    /// Whether the socket may take more; else `context` is woken when it may.
    ///
    /// # Errors
    /// Every error is final: drop the link.
    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.stream.as_ref().poll_write_ready(context).map_err(LinkError::from)
    }

    /// Waits until the socket may take more.
    ///
    /// # Errors
    /// Every error is final: drop the link.
    pub async fn writable(&self) -> Result<(), LinkError> {
        Ok(self.stream.writable().await?)
    }

    /// Sends everything that waits. A cancelled call loses nothing; call it again.
    ///
    /// # Errors
    /// Every error is final: drop the link.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.try_flush()? {
            self.writable().await?;
        }
        Ok(())
    }

    /// Sends everything that waits and tells the peer that nothing more will come.
    ///
    /// # Errors
    /// Every error is final: drop the link.
    pub async fn close(mut self) -> Result<(), LinkError> {
        self.flush().await?;
        // Dropping the half shuts the sending direction down, behind what the kernel still holds.
        drop(self.stream);
        Ok(())
    }
}
