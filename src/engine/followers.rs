//! Messages that must not come before the records that were queued before them.
//!
//! Records wait while frames are unconfirmed, messages do not. But a change that looks must find what its front
//! wrote before, and its front must have what the change made before it tells its client: else a session
//! would not find its own writes. So these messages remember the last record that was queued before them, and
//! leave in the frame in which it leaves, or later.
//!
//! Invariant: among each other they keep their order.

use super::peer::Chunk;
use crate::protocol::frame::MAX_MESSAGES;
use crate::protocol::message::{Message, Reply, Request};
use std::collections::VecDeque;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Followers {
    queue: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
}

impl Followers {
    /// Whether a message is one of these.
    pub(super) const fn is_for(message: &Message) -> bool {
        matches!(message, Message::Request(_, Request::Write(_)) | Message::Reply(_, Reply::Modified { .. }))
    }

    /// Queues a message behind the record of that number.
    pub(super) fn push(&mut self, record: u64, message: &[u8]) {
        self.bytes += message.len();
        self.queue.push_back((record, message.to_vec()));
    }

    /// Whether one may leave once the record of that number has left.
    pub(super) fn is_due(&self, record: u64) -> bool {
        self.queue.front().is_some_and(|(behind, _)| *behind <= record)
    }

    /// Moves what may leave with or after the record of that number, and fits into `room` bytes.
    pub(super) fn take(&mut self, record: u64, room: usize, into: &mut Chunk) {
        let max_messages = u32::try_from(MAX_MESSAGES).unwrap_or(u32::MAX);
        while into.count < max_messages
            && let Some((_, message)) = self.queue.pop_front_if(|(behind, message)| {
                *behind <= record && into.bytes.len() + message.len() <= room
            })
        {
            self.bytes -= message.len();
            into.bytes.extend_from_slice(&message);
            into.count += 1;
        }
    }

    /// Bytes that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}
