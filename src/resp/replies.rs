//! Replies of one connection, in the order of its commands.
//!
//! A reply that is known goes into the bytes that are sent next, unless an earlier one still
//! waits for its operation: then it is staged behind it. An answer that arrives fills its place, and
//! everything up to the next gap moves out, to be sent with one write.
//!
//! Invariants: replies leave in the order in which they were begun; a token names one place until
//! its reply has left; nothing is allocated per reply once the queues have grown to their use.

use std::collections::VecDeque;

use super::reply;
use crate::engine::operation::{OperationError, Outcome};
use crate::model::{Record, RecordRef};

/// Tokens wrap around below this; the values from it on never name a place.
pub const TOKENS: u32 = 1 << 31;
/// What a buffer keeps of its memory once it is empty.
const KEPT_BYTES: usize = 64 << 10;

/// What a read is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadReply {
    /// The value's bytes, or nil.
    Value,
    /// The milliseconds until the expiry; -1 without expiry, -2 without record.
    Milliseconds,
    /// The same in seconds, rounded.
    Seconds,
}

impl ReadReply {
    /// Encodes the reply for what was found.
    pub fn encode(self, out: &mut Vec<u8>, found: Option<RecordRef<'_>>, wall_ms: u64) {
        if self == Self::Value {
            return reply::record(out, found);
        }
        let Some(record) = found else { return reply::integer(out, -2) };
        let Some(expiry) = record.expiry_ms() else { return reply::integer(out, -1) };
        let left = i64::try_from(expiry.saturating_sub(wall_ms)).unwrap_or(i64::MAX);
        let in_unit = if self == Self::Seconds { left.saturating_add(500) / 1_000 } else { left };
        reply::integer(out, in_unit);
    }
}

/// What several operations are answered with, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatherReply {
    /// OK once all writes are stored.
    Ok,
    /// How many records the reads found.
    Found,
    /// What was counted by [`Replies::count`], once all writes are stored.
    Counted,
}

#[derive(Debug)]
struct Gather {
    reply: GatherReply,
    waiting: usize,
    /// Whether operations may still be added.
    open: bool,
    count: i64,
    failed: Option<OperationError>,
}

#[derive(Debug)]
enum Place {
    /// As many bytes of `staged`.
    Staged(usize),
    Reading(ReadReply),
    Writing,
    Gather(Gather),
    Found(ReadReply, Option<Record>),
    /// The number after an increment; OK without. A write that met a newer record is answered so too: for
    /// its client it was stored, and the other write came after it.
    Stored(Option<i64>),
    Failed(OperationError),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Replies {
    out: Vec<u8>,
    sent: usize,
    staged: Vec<u8>,
    /// Bytes of `staged` that moved out.
    unstaged: usize,
    places: VecDeque<Place>,
    /// The token of the first place.
    first: u32,
    reads_waiting: usize,
    writes_waiting: usize,
    /// Bytes of records in places.
    held: usize,
    max_bytes: usize,
    max_waiting: usize,
    /// Errors since [`Replies::take_errors`] was called.
    errors: u64,
}

impl Replies {
    /// Nothing to send; [`Replies::is_full`] compares with these bounds.
    pub const fn new(max_bytes: usize, max_waiting: usize) -> Self {
        Self {
            out: Vec::new(),
            sent: 0,
            staged: Vec::new(),
            unstaged: 0,
            places: VecDeque::new(),
            first: 0,
            reads_waiting: 0,
            writes_waiting: 0,
            held: 0,
            max_bytes,
            max_waiting,
            errors: 0,
        }
    }

    /// Whether no further operation should begin until replies have left.
    pub fn is_full(&self) -> bool {
        let bytes = self.out.len() - self.sent + self.staged.len() - self.unstaged + self.held;
        let waiting = self.reads_waiting + self.writes_waiting;
        bytes >= self.max_bytes || waiting >= self.max_waiting || self.places.len() >= 2 * self.max_waiting
    }

    /// Whether everything was answered and sent.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.out.is_empty()
    }

    /// Whether writes were submitted that are not answered yet.
    pub const fn awaits_writes(&self) -> bool {
        self.writes_waiting > 0
    }

    /// Whether reads were submitted that are not answered yet.
    pub const fn awaits_reads(&self) -> bool {
        self.reads_waiting > 0
    }

    /// Adds a reply that is known.
    pub fn ready(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.places.is_empty() {
            return encode(&mut self.out);
        }
        let before = self.staged.len();
        encode(&mut self.staged);
        let added = self.staged.len() - before;
        match self.places.back_mut() {
            Some(Place::Staged(bytes)) => *bytes += added,
            _ => self.places.push_back(Place::Staged(added)),
        }
    }

    /// Adds a reply that is known and an error.
    pub fn refused(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.errors += 1;
        self.ready(encode);
    }

    /// How many errors there were since the last call.
    pub const fn take_errors(&mut self) -> u64 {
        std::mem::replace(&mut self.errors, 0)
    }

    /// Adds the reply of a read that is submitted now under the token returned.
    pub fn read(&mut self, reply: ReadReply) -> u32 {
        self.reads_waiting += 1;
        self.add(Place::Reading(reply))
    }

    /// Adds the reply of a write that is submitted now under the token returned.
    pub fn write(&mut self) -> u32 {
        self.writes_waiting += 1;
        self.add(Place::Writing)
    }

    /// Adds the one reply of several operations that will be submitted under the token returned:
    /// each is announced by [`Replies::expect`], and [`Replies::close`] says that no more come.
    pub fn gather(&mut self, reply: GatherReply) -> u32 {
        self.add(Place::Gather(Gather { reply, waiting: 0, open: true, count: 0, failed: None }))
    }

    /// Announces one more operation of a gathered reply.
    pub fn expect(&mut self, token: u32) {
        if let Some(Place::Gather(gather)) = self.place(token) {
            gather.waiting += 1;
            match gather.reply {
                GatherReply::Found => self.reads_waiting += 1,
                GatherReply::Ok | GatherReply::Counted => self.writes_waiting += 1,
            }
        }
    }

    /// Adds one to the count of a gathered reply.
    pub fn count(&mut self, token: u32) {
        if let Some(Place::Gather(gather)) = self.place(token) {
            gather.count += 1;
        }
    }

    /// Makes a gathered reply an error; the first one counts.
    pub fn fail(&mut self, token: u32, error: OperationError) {
        if let Some(Place::Gather(gather)) = self.place(token) {
            gather.failed.get_or_insert(error);
        }
    }

    /// No more operations will be announced for a gathered reply.
    pub fn close(&mut self, token: u32) {
        if let Some(Place::Gather(gather)) = self.place(token) {
            gather.open = false;
        }
    }

    /// Fills the place that `token` names. Unknown tokens are ignored.
    pub fn settle(&mut self, token: u32, outcome: Outcome) {
        let Some(place) = self.place(token) else { return };
        let filled = match (&mut *place, outcome) {
            (Place::Gather(gather), outcome) => {
                gather.waiting = gather.waiting.saturating_sub(1);
                match outcome {
                    Outcome::Found(Some(_)) => gather.count += 1,
                    Outcome::Failed(error) => _ = gather.failed.get_or_insert(error),
                    Outcome::Found(None)
                    | Outcome::Stored(_)
                    | Outcome::Modified(_)
                    | Outcome::Page(_)
                    | Outcome::Copies(_) => {}
                }
                let waiting = match gather.reply {
                    GatherReply::Found => &mut self.reads_waiting,
                    GatherReply::Ok | GatherReply::Counted => &mut self.writes_waiting,
                };
                *waiting = waiting.saturating_sub(1);
                return;
            }
            (Place::Reading(reply), Outcome::Found(record)) => Place::Found(*reply, record),
            (Place::Reading(_) | Place::Writing, Outcome::Failed(error)) => Place::Failed(error),
            (Place::Writing, Outcome::Stored(stored)) => Place::Stored(stored.number),
            // An answer of another kind than the question tells nothing.
            (Place::Reading(_) | Place::Writing, _) => Place::Failed(OperationError::Unknown { copies: 0 }),
            // Answered before.
            (Place::Staged(_) | Place::Found(..) | Place::Stored(_) | Place::Failed(_), _) => return,
        };
        let held = held_bytes(&filled);
        let was_read = matches!(std::mem::replace(place, filled), Place::Reading(_));
        let waiting = if was_read { &mut self.reads_waiting } else { &mut self.writes_waiting };
        *waiting = waiting.saturating_sub(1);
        self.held += held;
    }

    /// Moves every reply whose turn has come to the bytes that are sent next.
    pub fn advance(&mut self, wall_ms: u64) {
        while let Some(place) = self.places.pop_front() {
            self.held = self.held.saturating_sub(held_bytes(&place));
            match place {
                Place::Staged(bytes) => {
                    let end = self.unstaged + bytes;
                    self.out.extend_from_slice(self.staged.get(self.unstaged..end).unwrap_or_default());
                    self.unstaged = end;
                }
                Place::Found(reply, record) => {
                    reply.encode(&mut self.out, record.as_ref().map(Record::view), wall_ms);
                }
                Place::Stored(None) => reply::ok(&mut self.out),
                Place::Stored(Some(number)) => reply::integer(&mut self.out, number),
                Place::Failed(error) => {
                    self.errors += 1;
                    reply::operation_error(&mut self.out, &error);
                }
                Place::Gather(Gather { waiting: 0, open: false, failed, count, reply }) => {
                    match (failed, reply) {
                        (Some(error), _) => {
                            self.errors += 1;
                            reply::operation_error(&mut self.out, &error);
                        }
                        (None, GatherReply::Ok) => reply::ok(&mut self.out),
                        (None, GatherReply::Found | GatherReply::Counted) => {
                            reply::integer(&mut self.out, count);
                        }
                    }
                }
                waiting @ (Place::Reading(_) | Place::Writing | Place::Gather(_)) => {
                    self.places.push_front(waiting);
                    return forget(&mut self.staged, &mut self.unstaged);
                }
            }
            self.first = (self.first + 1) % TOKENS;
        }
        forget(&mut self.staged, &mut self.unstaged);
    }

    /// What can be sent now.
    pub fn output(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    /// `bytes` of the output were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        forget(&mut self.out, &mut self.sent);
    }

    fn add(&mut self, place: Place) -> u32 {
        let index = u32::try_from(self.places.len()).unwrap_or_default();
        self.places.push_back(place);
        (self.first + index) % TOKENS
    }

    fn place(&mut self, token: u32) -> Option<&mut Place> {
        let index = token.wrapping_sub(self.first) % TOKENS;
        if token < TOKENS { self.places.get_mut(index as usize) } else { None }
    }
}

/// Drops the first `used` bytes once they are all, or the greater part of many.
fn forget(buffer: &mut Vec<u8>, used: &mut usize) {
    if *used >= buffer.len() {
        buffer.clear();
        buffer.shrink_to(KEPT_BYTES);
    } else if *used >= KEPT_BYTES && *used >= buffer.len() / 2 {
        buffer.drain(..*used);
    } else {
        return;
    }
    *used = 0;
}

fn held_bytes(place: &Place) -> usize {
    match place {
        Place::Found(_, Some(record)) => record.view().bytes().len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::operation::Stored;
    use crate::model::{KeyHash, KeyRef, Timestamp};
    use proptest::prelude::*;

    fn stored(number: Option<i64>) -> Outcome {
        Outcome::Stored(Stored {
            timestamp: Timestamp::ZERO,
            copies: 1,
            superseded: false,
            hash: KeyHash(0),
            number,
        })
    }

    fn take(replies: &mut Replies) -> String {
        replies.advance(0);
        let text = String::from_utf8(replies.output().to_vec()).unwrap();
        replies.sent(text.len());
        text
    }

    #[test]
    fn a_known_reply_waits_behind_an_unknown_one() {
        let mut replies = Replies::new(1 << 20, 16);
        replies.ready(reply::ok);
        let token = replies.write();
        replies.ready(|out| reply::integer(out, 5));
        assert_eq!(take(&mut replies), "+OK\r\n");
        assert!(replies.awaits_writes());
        replies.settle(token, stored(Some(4)));
        assert_eq!(take(&mut replies), ":4\r\n:5\r\n");
        assert!(replies.is_empty() && !replies.awaits_writes());
    }

    #[test]
    fn a_gathered_reply_is_the_first_error_if_there_is_one() {
        let mut replies = Replies::new(1 << 20, 16);
        for failing in [false, true] {
            let token = replies.gather(GatherReply::Ok);
            for _ in 0..3 {
                replies.expect(token);
            }
            replies.settle(token, stored(None));
            let second = if failing { Outcome::Failed(OperationError::Starting) } else { stored(None) };
            replies.settle(token, second);
            replies.settle(token, stored(None));
            assert_eq!(take(&mut replies), "", "more operations may follow");
            replies.close(token);
            assert!(take(&mut replies).starts_with(if failing { "-LOADING" } else { "+OK" }));
        }
    }

    #[test]
    fn records_that_wait_for_their_turn_count_as_output() {
        let mut replies = Replies::new(1_000, 16);
        let first = replies.read(ReadReply::Value);
        let second = replies.read(ReadReply::Value);
        let key = KeyRef::new("default", b"k").unwrap();
        let record = || Outcome::Found(Some(Record::value(key, Timestamp::ZERO, None, &[b'x'; 1_000])));
        replies.settle(second, record());
        assert!(replies.is_full());
        replies.settle(first, Outcome::Found(None));
        assert!(take(&mut replies).starts_with("$-1\r\n$1000\r\nx"));
        assert!(!replies.is_full());
    }

    #[test]
    fn tokens_wrap_around() {
        let mut replies = Replies::new(1 << 20, 16);
        replies.first = TOKENS - 1;
        let (last, zero) = (replies.write(), replies.write());
        assert_eq!((last, zero), (TOKENS - 1, 0));
        replies.settle(zero, stored(Some(2)));
        replies.settle(TOKENS, stored(Some(9)));
        replies.settle(last, stored(Some(1)));
        assert_eq!(take(&mut replies), ":1\r\n:2\r\n");
    }

    proptest! {
        #[test]
        fn replies_leave_in_the_order_of_their_commands(
            kinds in proptest::collection::vec(any::<bool>(), 1..40),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let mut replies = Replies::new(1 << 20, 64);
            let (mut waiting, mut expected, mut got) = (Vec::new(), String::new(), String::new());
            for (number, known) in (0i64..).zip(kinds) {
                expected.push_str(&format!(":{number}\r\n"));
                if known {
                    replies.ready(|out| reply::integer(out, number));
                } else {
                    waiting.push((replies.write(), number));
                }
            }
            for index in order {
                if waiting.is_empty() {
                    break;
                }
                let (token, number) = waiting.swap_remove(index.index(waiting.len()));
                replies.settle(token, stored(Some(number)));
                got.push_str(&take(&mut replies));
            }
            got.push_str(&take(&mut replies));
            prop_assert_eq!(got, expected);
        }
    }
}
