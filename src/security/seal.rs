//! Sealed frames: what crosses a link after its handshake.
//!
//! A frame is one kind byte and a body. It is cut into chunks of at most [`CHUNK_BYTES`] bytes; each
//! is sealed with ChaCha20-Poly1305 under a nonce that both sides count, and travels behind its
//! sealed length. The first chunk begins with the frame's length, so the length is authenticated
//! before anything is made room for. All chunks but a frame's last are full.
//!
//! ```text
//! frame  = length: u32 of (kind + body) | kind: u8 | body
//! chunk  = sealed length: u16 | sealed bytes, 16 more than plain
//! ```
//!
//! Invariants: a nonce is used once per direction, in order, so a chunk that was replayed, reordered,
//! reflected, dropped or altered fails to open; after the first failure an [`Opener`] opens nothing
//! more. Nonces have 64 bits and the last is never used: at ten million chunks a second they last
//! 58,000 years, so a link needs no new keys while it lives. Memory grows with bytes that arrived,
//! never with a length that was only announced.

use crate::model::limits::MAX_FRAME_BYTES;
use snow::StatelessTransportState;
use std::fmt;
use std::sync::Arc;

/// Bytes that sealing adds to a chunk.
const TAG_BYTES: usize = 16;
/// Plain bytes in a full chunk.
pub const CHUNK_BYTES: usize = u16::MAX as usize - TAG_BYTES;
/// Bytes in front of a sealed chunk: its length.
const CHUNK_HEAD_BYTES: usize = 2;
/// Bytes of the largest chunk with its head: what a reader must have room for.
pub const MAX_SEALED_CHUNK_BYTES: usize = CHUNK_HEAD_BYTES + CHUNK_BYTES + TAG_BYTES;
/// Bytes in front of a frame's body, inside its first chunk: length and kind.
const FRAME_HEAD_BYTES: usize = 5;
/// A frame buffer above this size is given back once it was not needed for a while.
const KEPT_BYTES: usize = 256 << 10;
/// Frames that must fit into [`KEPT_BYTES`] before a larger buffer is given back.
const QUIET_FRAMES: u32 = 64;

/// Why a frame can't be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Longer than [`MAX_FRAME_BYTES`]. When sealing: nothing was sealed and the link lives.
    #[error("a frame of {0} bytes is over the bound of {MAX_FRAME_BYTES}: send it in parts")]
    Oversize(usize),
    /// A chunk was altered, replayed, reordered or dropped. The link is over.
    #[error(
        "a sealed chunk failed to open, it was altered or is out of order: the link is closed and must be made anew"
    )]
    Altered,
    /// A chunk that opened but is not laid out like one. The link is over.
    #[error(
        "a sealed chunk is not laid out as the protocol demands: the link is closed; do both sides run released versions?"
    )]
    Malformed,
    /// All nonces are used, or the cipher refused to work. The link is over.
    #[error("the link's keys can't be used any longer: the link is closed and must be made anew")]
    Exhausted,
    /// An earlier chunk failed. The link is over.
    #[error("the link failed before: it must be made anew")]
    Failed,
}

/// Bytes that a frame with such a body takes when sealed.
#[must_use]
pub const fn sealed_bytes(body_bytes: usize) -> usize {
    let plain = FRAME_HEAD_BYTES + body_bytes;
    plain + plain.div_ceil(CHUNK_BYTES) * (CHUNK_HEAD_BYTES + TAG_BYTES)
}

/// Seals the frames of one direction.
pub struct Sealer {
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
    first_chunk: Vec<u8>,
}

impl Sealer {
    pub(super) const fn new(cipher: Arc<StatelessTransportState>, nonce: u64) -> Self {
        Self { cipher, nonce, first_chunk: Vec::new() }
    }

    /// Appends the sealed frame to `out`. Nothing else is allocated once the sealer is warm.
    ///
    /// # Errors
    /// [`SealError::Oversize`] leaves everything as it was. [`SealError::Exhausted`] ends the link.
    pub fn seal(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let length = u32::try_from(body.len()).ok().and_then(|length| length.checked_add(1));
        let (Some(length), true) = (length, body.len() <= MAX_FRAME_BYTES) else {
            return Err(SealError::Oversize(body.len()));
        };
        out.reserve(sealed_bytes(body.len()));
        let (head, rest) = body.split_at(body.len().min(CHUNK_BYTES - FRAME_HEAD_BYTES));
        let mut first = std::mem::take(&mut self.first_chunk);
        first.clear();
        first.extend_from_slice(&length.to_be_bytes());
        first.push(kind);
        first.extend_from_slice(head);
        let mut sealed = self.seal_chunk(&first, out);
        self.first_chunk = first;
        for chunk in rest.chunks(CHUNK_BYTES) {
            sealed = sealed.and_then(|()| self.seal_chunk(chunk, out));
        }
        sealed
    }

    fn seal_chunk(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let sealed = plain.len() + TAG_BYTES;
        let head = u16::try_from(sealed).map_err(|_| SealError::Malformed)?;
        out.extend_from_slice(&head.to_be_bytes());
        let start = out.len();
        out.resize(start + sealed, 0);
        let room = out.get_mut(start..).ok_or(SealError::Malformed)?;
        self.cipher.write_message(self.nonce, plain, room).map_err(|_| SealError::Exhausted)?;
        self.nonce += 1;
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

/// What [`Opener::advance`] did with its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// A frame is complete: [`Opener::frame`] gives it until the next call.
    Frame {
        /// Bytes of the input that were used.
        consumed: usize,
    },
    /// More bytes are needed.
    More {
        /// Bytes of the input that were used.
        consumed: usize,
        /// Bytes that the next input must hold at least, the unused ones included.
        needed: usize,
    },
}

/// Opens the frames of one direction.
pub struct Opener {
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
    /// Frame head and body. It is longer than what is filled, so that it need not be zeroed again.
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of the frame, head included, once its first chunk was opened.
    total: Option<usize>,
    quiet: u32,
    failed: bool,
}

impl Opener {
    pub(super) const fn new(cipher: Arc<StatelessTransportState>, nonce: u64) -> Self {
        Self { cipher, nonce, buffer: Vec::new(), filled: 0, total: None, quiet: 0, failed: false }
    }

    /// Opens whole chunks from the front of `input` until a frame is complete or none is left.
    ///
    /// # Errors
    /// Every [`SealError`] is final.
    pub fn advance(&mut self, input: &[u8]) -> Result<Advance, SealError> {
        if self.failed {
            return Err(SealError::Failed);
        }
        let result = self.open_chunks(input);
        self.failed = result.is_err();
        result
    }

    /// The complete frame: its kind and body.
    #[must_use]
    pub fn frame(&self) -> Option<(u8, &[u8])> {
        let total = self.total.filter(|total| *total == self.filled)?;
        let (kind, body) = self.buffer.get(FRAME_HEAD_BYTES - 1..total)?.split_first()?;
        Some((*kind, body))
    }

    /// Whether a frame has begun and is not complete.
    #[must_use]
    pub fn is_inside_frame(&self) -> bool {
        self.total.is_some_and(|total| self.filled < total)
    }

    /// Bytes that the opener holds for the present and coming frames.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    fn open_chunks(&mut self, input: &[u8]) -> Result<Advance, SealError> {
        if self.total == Some(self.filled) {
            self.begin_frame();
        }
        let mut rest = input;
        loop {
            let consumed = input.len() - rest.len();
            let Some((head, tail)) = rest.split_first_chunk::<CHUNK_HEAD_BYTES>() else {
                return Ok(Advance::More { consumed, needed: CHUNK_HEAD_BYTES });
            };
            let sealed = usize::from(u16::from_be_bytes(*head));
            self.check_chunk(sealed)?;
            let Some((chunk, tail)) = tail.split_at_checked(sealed) else {
                return Ok(Advance::More { consumed, needed: CHUNK_HEAD_BYTES + sealed });
            };
            self.open_chunk(chunk)?;
            rest = tail;
            if self.total == Some(self.filled) {
                return Ok(Advance::Frame { consumed: input.len() - rest.len() });
            }
        }
    }

    fn begin_frame(&mut self) {
        self.quiet = if self.filled > KEPT_BYTES { 0 } else { self.quiet.saturating_add(1) };
        if self.quiet >= QUIET_FRAMES && self.buffer.capacity() > KEPT_BYTES + MAX_SEALED_CHUNK_BYTES {
            self.buffer = Vec::new();
        }
        self.filled = 0;
        self.total = None;
    }

    /// Checks a chunk's sealed length before any of it is awaited.
    fn check_chunk(&self, sealed: usize) -> Result<(), SealError> {
        let fits = match self.total {
            None => sealed >= FRAME_HEAD_BYTES + TAG_BYTES,
            Some(total) => sealed == (total - self.filled).min(CHUNK_BYTES) + TAG_BYTES,
        };
        if fits { Ok(()) } else { Err(SealError::Malformed) }
    }

    fn open_chunk(&mut self, sealed: &[u8]) -> Result<(), SealError> {
        let end = self.filled + sealed.len();
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        let room = self.buffer.get_mut(self.filled..end).ok_or(SealError::Malformed)?;
        let opened = self.cipher.read_message(self.nonce, sealed, room).map_err(|error| match error {
            snow::Error::State(_) => SealError::Exhausted,
            _ => SealError::Altered,
        })?;
        self.nonce += 1;
        self.filled += opened;
        if self.total.is_none() {
            self.total = Some(self.check_frame(opened)?);
        }
        Ok(())
    }

    /// Reads the frame's length from its first chunk and checks it against its bounds.
    fn check_frame(&self, opened: usize) -> Result<usize, SealError> {
        let length = self.buffer.first_chunk::<4>().ok_or(SealError::Malformed)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| SealError::Malformed)?;
        let body = length.checked_sub(1).ok_or(SealError::Malformed)?;
        if body > MAX_FRAME_BYTES {
            return Err(SealError::Oversize(body));
        }
        let total = FRAME_HEAD_BYTES + body;
        if opened == total.min(CHUNK_BYTES) { Ok(total) } else { Err(SealError::Malformed) }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("nonce", &self.nonce)
            .field("filled", &self.filled)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snow::{Builder, HandshakeState};

    fn pair() -> (Sealer, Opener) {
        let params: snow::params::NoiseParams = "Noise_NN_25519_ChaChaPoly_SHA256".parse().unwrap();
        let mut a = Builder::new(params.clone()).build_initiator().unwrap();
        let mut b = Builder::new(params).build_responder().unwrap();
        let (mut message, mut payload) = ([0; 200], [0; 200]);
        let length = a.write_message(&[], &mut message).unwrap();
        b.read_message(&message[..length], &mut payload).unwrap();
        let length = b.write_message(&[], &mut message).unwrap();
        a.read_message(&message[..length], &mut payload).unwrap();
        let cipher = |noise: HandshakeState| Arc::new(noise.into_stateless_transport_mode().unwrap());
        (Sealer::new(cipher(a), 0), Opener::new(cipher(b), 0))
    }

    #[test]
    fn a_frame_of_every_size_around_a_chunks_edge_survives() {
        let (mut sealer, mut opener) = pair();
        let edge = CHUNK_BYTES - FRAME_HEAD_BYTES;
        let sizes =
            [0, 1, edge - 1, edge, edge + 1, edge + CHUNK_BYTES, edge + CHUNK_BYTES + 1, MAX_FRAME_BYTES];
        for (kind, size) in (0..).zip(sizes) {
            let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut sealed = Vec::new();
            sealer.seal(kind, &body, &mut sealed).unwrap();
            assert_eq!(sealed.len(), sealed_bytes(size));
            assert_eq!(opener.advance(&sealed), Ok(Advance::Frame { consumed: sealed.len() }));
            assert_eq!(opener.frame(), Some((kind, body.as_slice())));
        }
    }

    #[test]
    fn a_frame_over_the_bound_is_not_sealed_and_the_sealer_lives() {
        let (mut sealer, mut opener) = pair();
        let mut sealed = Vec::new();
        let body = vec![0; MAX_FRAME_BYTES + 1];
        assert_eq!(sealer.seal(0, &body, &mut sealed), Err(SealError::Oversize(body.len())));
        assert!(sealed.is_empty());
        sealer.seal(0, b"next", &mut sealed).unwrap();
        assert!(matches!(opener.advance(&sealed), Ok(Advance::Frame { .. })));
    }

    #[test]
    fn an_announced_length_over_the_bound_is_refused_before_room_is_made() {
        let (mut sealer, mut opener) = pair();
        let mut first = u32::MAX.to_be_bytes().to_vec();
        first.resize(CHUNK_BYTES, 0);
        let mut sealed = Vec::new();
        sealer.seal_chunk(&first, &mut sealed).unwrap();
        assert_eq!(opener.advance(&sealed), Err(SealError::Oversize(u32::MAX as usize - 1)));
        assert!(opener.held_bytes() <= MAX_SEALED_CHUNK_BYTES);
        assert_eq!(opener.advance(&sealed), Err(SealError::Failed));
    }

    #[test]
    fn a_large_announced_length_makes_no_room_before_its_bytes_arrive() {
        let (mut sealer, mut opener) = pair();
        let mut sealed = Vec::new();
        sealer.seal(0, &vec![1; MAX_FRAME_BYTES], &mut sealed).unwrap();
        let first = &sealed[..MAX_SEALED_CHUNK_BYTES];
        assert!(matches!(opener.advance(first), Ok(Advance::More { .. })));
        assert!(opener.held_bytes() <= 2 * MAX_SEALED_CHUNK_BYTES);
        assert!(opener.is_inside_frame() && opener.frame().is_none());
    }

    #[test]
    fn chunks_that_are_not_laid_out_as_agreed_are_refused() {
        for plain in [
            vec![0, 0, 0, 0, 7],    // no kind
            vec![0, 0, 0, 9, 7],    // announces more than it holds although not full
            vec![0, 0, 0, 1, 7, 7], // holds more than it announces
        ] {
            let (mut sealer, mut opener) = pair();
            let mut sealed = Vec::new();
            sealer.seal_chunk(&plain, &mut sealed).unwrap();
            assert_eq!(opener.advance(&sealed), Err(SealError::Malformed));
            assert_eq!(opener.frame(), None);
        }
        let (_, mut opener) = pair();
        assert_eq!(opener.advance(&[0, 20]), Err(SealError::Malformed), "too short to hold a head");
    }

    #[test]
    fn room_for_a_huge_frame_is_given_back_after_quiet_ones() {
        let (mut sealer, mut opener) = pair();
        let mut sealed = Vec::new();
        sealer.seal(0, &vec![1; 4 << 20], &mut sealed).unwrap();
        for _ in 0..=QUIET_FRAMES {
            sealer.seal(0, b"small", &mut sealed).unwrap();
        }
        let mut rest = sealed.as_slice();
        while let Ok(Advance::Frame { consumed }) = opener.advance(rest) {
            rest = &rest[consumed..];
        }
        assert!(rest.is_empty());
        assert!(opener.held_bytes() <= KEPT_BYTES, "{}", opener.held_bytes());
    }

    #[test]
    fn the_last_nonce_is_never_used() {
        let (mut sealer, _) = pair();
        sealer.nonce = u64::MAX;
        assert_eq!(sealer.seal(0, b"", &mut Vec::new()), Err(SealError::Exhausted));
    }
}
