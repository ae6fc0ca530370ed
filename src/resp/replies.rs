//! Replies of one connection, in the order of its commands.
//!
//! A reply that is known goes into the bytes that are sent next, unless an earlier one still
//! waits for its operation: then it is staged behind it. An answer that arrives fills its place, and
//! everything up to the next gap moves out, to be sent with one write.
//!
//! A change that looks at its key may be carried out by another member, so a read of the key that this member
//! could answer at once has to wait for it, and so has a write that this member could stamp itself. Keys are cast
//! into a few lots, and each lot counts the places that wait for such changes: both wait while their key's lot has
//! any.
//!
//! What a connection begins in one turn is bounded too, so that others have theirs: each command and each of its
//! operations counts as [`STEP_BYTES`], and what it takes and gives as its bytes.
//!
//! Invariants: replies leave in the order in which they were begun; a token names one place until
//! its reply has left; nothing is allocated per reply once the queues have grown to their use.

mod kinds;

pub use kinds::{ReadReply, Since, Unit, WriteReply};

use std::collections::VecDeque;

use super::reply::{Encoder, Protocol};
use crate::engine::operation::{Modified, OperationError, Outcome};
use crate::model::Record;

/// Tokens wrap around below this; the values from it on never name a place.
pub const TOKENS: u32 = 1 << 31;
/// Lots into which keys are cast, to tell whether one is among those that are looked at.
const LOTS: usize = 64;
/// What a buffer keeps of its memory once it is empty.
const KEPT_BYTES: usize = 64 << 10;
/// What a turn may cost: some hundred small commands, or fewer that are larger. Clients' usual pipelines fit.
const TURN_BYTES: usize = 256 << 10;
/// What a command, and each of its operations, costs beside its bytes.
const STEP_BYTES: usize = 1 << 10;

/// What several operations are answered with, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatherReply {
    /// OK once all writes are stored.
    Ok,
    /// How many records the reads found.
    Found,
    /// How many of the changes found something to change.
    Counted,
}

#[derive(Debug)]
struct Gather {
    reply: GatherReply,
    /// The lots of the keys that are looked at elsewhere.
    lots: u64,
    waiting: usize,
    /// Whether operations may still be added.
    open: bool,
    count: i64,
    failed: Option<OperationError>,
    /// Nothing is said of it.
    withdrawn: bool,
}

impl Gather {
    /// The lots to be given back, once all is answered.
    fn settled_lots(&mut self) -> u64 {
        if self.open || self.waiting > 0 { 0 } else { std::mem::take(&mut self.lots) }
    }
}

#[derive(Debug)]
enum Place {
    /// As many bytes of `staged`.
    Staged(usize),
    Reading(ReadReply),
    /// With the lot of the key, if it is looked at elsewhere.
    Writing(WriteReply, u64),
    Gather(Gather),
    Found(ReadReply, Option<Record>),
    Stored(Option<i64>),
    Modified(WriteReply, Modified),
    Failed(OperationError),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Replies {
    protocol: Protocol,
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
    /// Places that wait for changes that look, for each lot of keys.
    looking: [u16; LOTS],
    /// Bytes of records in places.
    held: usize,
    max_bytes: usize,
    max_waiting: usize,
    /// What this turn has cost.
    spent: usize,
    /// Errors since [`Replies::take_errors`] was called.
    errors: u64,
}

impl Replies {
    /// Nothing to send; [`Replies::is_full`] compares with these bounds, the first one until a turn begins.
    pub const fn new(max_bytes: usize, max_waiting: usize) -> Self {
        Self {
            protocol: Protocol::Resp2,
            out: Vec::new(),
            sent: 0,
            staged: Vec::new(),
            unstaged: 0,
            places: VecDeque::new(),
            first: 0,
            reads_waiting: 0,
            writes_waiting: 0,
            looking: [0; LOTS],
            held: 0,
            max_bytes,
            max_waiting,
            spent: 0,
            errors: 0,
        }
    }

    /// A turn of the connection begins, in which so many bytes may wait to be sent.
    pub const fn begin_turn(&mut self, max_bytes: usize) {
        (self.spent, self.max_bytes) = (0, max_bytes);
    }

    /// Adds to what the turn has cost. What is done some thousand million times in a second costs 1.
    pub const fn spend(&mut self, cost: usize) {
        self.spent = self.spent.saturating_add(cost);
    }

    /// Adds a command or an operation, with its bytes.
    pub const fn step(&mut self, bytes: usize) {
        self.spend(STEP_BYTES.saturating_add(bytes));
    }

    /// Whether the turn has cost what it may.
    pub const fn is_turn_over(&self) -> bool {
        self.spent >= TURN_BYTES
    }

    /// Whether no further operation should begin until replies have left, or until the connection's next turn.
    pub fn is_full(&self) -> bool {
        self.unsent() >= self.max_bytes || self.is_deep() || self.is_turn_over()
    }

    /// Bytes that wait to be sent, or for what is to be sent before them.
    const fn unsent(&self) -> usize {
        self.out.len() - self.sent + self.staged.len() - self.unstaged + self.held
    }

    /// Bytes of memory that these are in: what was sent before them stays until it is the greater part.
    pub const fn room(&self) -> usize {
        if self.unsent() == 0 { 0 } else { self.out.len() + self.staged.len() + self.held }
    }

    /// Whether that is because too many wait for their answers.
    pub fn is_deep(&self) -> bool {
        let waiting = self.reads_waiting + self.writes_waiting;
        waiting >= self.max_waiting || self.places.len() >= 2 * self.max_waiting
    }

    /// How replies from now on are encoded. Only while none waits.
    pub const fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// How replies are encoded.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether commands before wait for their replies.
    pub fn awaits_any(&self) -> bool {
        !self.places.is_empty()
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
    pub fn ready(&mut self, encode: impl FnOnce(&mut Encoder<'_>)) {
        if self.places.is_empty() {
            let before = self.out.len();
            encode(&mut Encoder::new(&mut self.out, self.protocol));
            return self.step(self.out.len() - before);
        }
        let before = self.staged.len();
        encode(&mut Encoder::new(&mut self.staged, self.protocol));
        let added = self.staged.len() - before;
        self.step(added);
        match self.places.back_mut() {
            Some(Place::Staged(bytes)) => *bytes += added,
            _ => self.places.push_back(Place::Staged(added)),
        }
    }

    /// Puts messages, which belong to no command, behind the replies so far. Only while no reply waits.
    pub fn append(&mut self, messages: &mut Vec<u8>) {
        self.out.append(messages);
    }

    /// Adds a reply that is known and an error.
    pub fn refused(&mut self, encode: impl FnOnce(&mut Encoder<'_>)) {
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
    pub fn write(&mut self, reply: WriteReply) -> u32 {
        self.writes_waiting += 1;
        self.add(Place::Writing(reply, 0))
    }

    /// Adds the reply of a change that looks at a key, and is submitted now under the token returned.
    pub fn look(&mut self, reply: WriteReply, key: &[u8]) -> u32 {
        self.writes_waiting += 1;
        let lots = 1 << lot(key);
        self.begin_looking(lots);
        self.add(Place::Writing(reply, lots))
    }

    /// Whether a key may be among those that are looked at. Its home may be another member, so what this one
    /// has of it may be older than what its client has sent.
    pub fn is_looked_at(&self, key: &[u8]) -> bool {
        self.writes_waiting > 0 && self.looking.get(lot(key)).is_some_and(|places| *places > 0)
    }

    fn begin_looking(&mut self, lots: u64) {
        for (_, places) in self.looking.iter_mut().enumerate().filter(|(at, _)| lots >> at & 1 == 1) {
            *places = places.saturating_add(1);
        }
    }

    fn end_looking(&mut self, lots: u64) {
        for (_, places) in self.looking.iter_mut().enumerate().filter(|(at, _)| lots >> at & 1 == 1) {
            *places = places.saturating_sub(1);
        }
    }

    /// Adds the one reply of several operations that will be submitted under the token returned:
    /// each is announced by [`Replies::expect`], and [`Replies::close`] says that no more come.
    pub fn gather(&mut self, reply: GatherReply) -> u32 {
        let (lots, waiting, count, failed) = (0, 0, 0, None);
        self.add(Place::Gather(Gather { reply, lots, waiting, open: true, count, failed, withdrawn: false }))
    }

    /// Announces one more operation of a gathered reply.
    pub fn expect(&mut self, token: u32) {
        self.step(0);
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

    /// Announces one more change of a gathered reply that looks at a key.
    pub fn expect_look(&mut self, token: u32, key: &[u8]) {
        self.expect(token);
        let lots = 1 << lot(key);
        if let Some(Place::Gather(gather)) = self.place(token)
            && gather.lots & lots == 0
        {
            gather.lots |= lots;
            self.begin_looking(lots);
        }
    }

    /// Makes a gathered reply an error; the first one counts.
    pub fn fail(&mut self, token: u32, error: OperationError) {
        if let Some(Place::Gather(gather)) = self.place(token) {
            gather.failed.get_or_insert(error);
        }
    }

    /// Closes a gathered reply that something else is said instead of, once its operations are answered.
    pub fn withdraw(&mut self, token: u32) {
        if let Some(Place::Gather(gather)) = self.place(token) {
            gather.withdrawn = true;
        }
        self.close(token);
    }

    /// No more operations will be announced for a gathered reply.
    pub fn close(&mut self, token: u32) {
        if let Some(Place::Gather(gather)) = self.place(token) {
            gather.open = false;
            let lots = gather.settled_lots();
            self.end_looking(lots);
        }
    }

    /// Fills the place that `token` names. Unknown tokens are ignored.
    pub fn settle(&mut self, token: u32, outcome: Outcome) {
        let Some(place) = self.place(token) else { return };
        let filled = match (&mut *place, outcome) {
            (Place::Gather(gather), outcome) => {
                gather.waiting = gather.waiting.saturating_sub(1);
                match outcome {
                    Outcome::Found(Some(_)) | Outcome::Modified(Modified { stored: Some(_), .. }) => {
                        gather.count += 1;
                    }
                    Outcome::Failed(error) => _ = gather.failed.get_or_insert(error),
                    Outcome::Found(None)
                    | Outcome::Modified(_)
                    | Outcome::Stored(_)
                    | Outcome::Page(_)
                    | Outcome::Copies(_) => {}
                }
                let (reply, lots) = (gather.reply, gather.settled_lots());
                let waiting = match reply {
                    GatherReply::Found => &mut self.reads_waiting,
                    GatherReply::Ok | GatherReply::Counted => &mut self.writes_waiting,
                };
                *waiting = waiting.saturating_sub(1);
                return self.end_looking(lots);
            }
            (Place::Reading(reply), Outcome::Found(record)) => Place::Found(*reply, record),
            (Place::Reading(_) | Place::Writing(..), Outcome::Failed(error)) => Place::Failed(error),
            (Place::Writing(WriteReply::Plain, _), Outcome::Stored(stored)) => Place::Stored(stored.number),
            (Place::Writing(reply, _), Outcome::Modified(modified)) => Place::Modified(*reply, modified),
            // An answer of another kind than the question tells nothing.
            (Place::Reading(_) | Place::Writing(..), _) => {
                Place::Failed(OperationError::Unknown { copies: 0 })
            }
            // Answered before.
            (
                Place::Staged(_)
                | Place::Found(..)
                | Place::Stored(_)
                | Place::Modified(..)
                | Place::Failed(_),
                _,
            ) => return,
        };
        let held = held_bytes(&filled);
        match std::mem::replace(place, filled) {
            Place::Writing(_, lots) => {
                self.writes_waiting = self.writes_waiting.saturating_sub(1);
                self.end_looking(lots);
            }
            _ => self.reads_waiting = self.reads_waiting.saturating_sub(1),
        }
        self.held += held;
    }

    /// Moves every reply whose turn has come to the bytes that are sent next.
    pub fn advance(&mut self, wall_ms: u64) {
        while let Some(place) = self.places.pop_front() {
            self.held = self.held.saturating_sub(held_bytes(&place));
            let mut out = Encoder::new(&mut self.out, self.protocol);
            match place {
                Place::Staged(bytes) => {
                    let end = self.unstaged + bytes;
                    out.encoded(self.staged.get(self.unstaged..end).unwrap_or_default());
                    self.unstaged = end;
                }
                Place::Found(reply, record) => {
                    reply.encode(&mut out, record.as_ref().map(Record::view), wall_ms);
                }
                Place::Stored(None) => out.ok(),
                Place::Stored(Some(number)) => out.integer(number),
                Place::Modified(reply, modified) => reply.encode(&mut out, &modified),
                Place::Failed(error) => {
                    self.errors += 1;
                    out.operation_error(&error);
                }
                Place::Gather(Gather { waiting: 0, open: false, withdrawn: true, .. }) => {}
                Place::Gather(Gather { waiting: 0, open: false, failed, count, reply, .. }) => {
                    match (failed, reply) {
                        (Some(error), _) => {
                            self.errors += 1;
                            out.operation_error(&error);
                        }
                        (None, GatherReply::Ok) => out.ok(),
                        (None, GatherReply::Found | GatherReply::Counted) => out.integer(count),
                    }
                }
                waiting @ (Place::Reading(_) | Place::Writing(..) | Place::Gather(_)) => {
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
        self.step(0);
        let index = u32::try_from(self.places.len()).unwrap_or_default();
        self.places.push_back(place);
        (self.first + index) % TOKENS
    }

    fn place(&mut self, token: u32) -> Option<&mut Place> {
        let index = token.wrapping_sub(self.first) % TOKENS;
        if token < TOKENS { self.places.get_mut(index as usize) } else { None }
    }
}

/// The lot of a key: one of [`LOTS`]. What differs in keys is mostly at their ends.
fn lot(key: &[u8]) -> usize {
    let tail = key.iter().rev().take(16);
    let mixed = tail.fold(0u32, |mixed, byte| (mixed ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (mixed.wrapping_mul(0x9E37_79B9) >> 26) as usize % LOTS
}

/// Drops the first `used` bytes once they are all, or the greater part of many.
fn forget(buffer: &mut Vec<u8>, used: &mut usize) {
    if *used >= buffer.len() {
        buffer.clear();
        buffer.shrink_to(KEPT_BYTES);
    } else if *used >= KEPT_BYTES && *used >= buffer.len() / 2 {
        buffer.drain(..*used);
        buffer.shrink_to(KEPT_BYTES);
    } else {
        return;
    }
    *used = 0;
}

fn held_bytes(place: &Place) -> usize {
    match place {
        Place::Found(_, Some(record)) | Place::Modified(_, Modified { record: Some(record), .. }) => {
            record.view().bytes().len()
        }
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
        replies.ready(|out| out.ok());
        let token = replies.write(WriteReply::Plain);
        replies.ready(|out| out.integer(5));
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
    fn a_key_is_looked_at_until_the_last_change_of_it_is_answered() {
        let mut replies = Replies::new(1 << 20, 16);
        let modified = || Outcome::Modified(Modified { stored: None, present: None, record: None });
        let first = replies.look(WriteReply::Flag, b"k");
        let gathered = replies.gather(GatherReply::Counted);
        replies.expect_look(gathered, b"k");
        replies.expect_look(gathered, b"k");
        replies.write(WriteReply::Plain);
        assert!(replies.is_looked_at(b"k") && !replies.is_looked_at(b"l"));
        replies.settle(gathered, modified());
        replies.settle(first, modified());
        replies.settle(gathered, modified());
        assert!(replies.is_looked_at(b"k"), "more may follow");
        replies.close(gathered);
        assert!(!replies.is_looked_at(b"k") && replies.awaits_writes());
        assert_eq!(take(&mut replies), ":0\r\n:0\r\n");
        assert_eq!(replies.looking, [0; LOTS]);
    }

    #[test]
    fn a_lock_that_another_one_got_at_the_same_time_is_not_got() {
        for (reply, got, lost) in [
            (WriteReply::Locked, "+OK\r\n", "$-1\r\n"),
            (WriteReply::LockedFlag, ":1\r\n", ":0\r\n"),
            (WriteReply::LockedRecord, "$-1\r\n", "-UNKNOWN "),
            (WriteReply::OkOrNil, "+OK\r\n", "+OK\r\n"),
            (WriteReply::Flag, ":1\r\n", ":1\r\n"),
        ] {
            for (superseded, expected) in [(false, got), (true, lost)] {
                let (timestamp, hash) = (Timestamp::ZERO, KeyHash(0));
                let stored = Stored { timestamp, copies: 2, superseded, hash, number: None };
                let mut replies = Replies::new(1 << 20, 16);
                let token = replies.look(reply, b"k");
                let modified = Modified { stored: Some(stored), present: None, record: None };
                replies.settle(token, Outcome::Modified(modified));
                let text = take(&mut replies);
                assert!(text.starts_with(expected), "{reply:?} {text}");
            }
        }
    }

    #[test]
    fn tokens_wrap_around() {
        let mut replies = Replies::new(1 << 20, 16);
        replies.first = TOKENS - 1;
        let (last, zero) = (replies.write(WriteReply::Plain), replies.write(WriteReply::Plain));
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
                    replies.ready(|out| out.integer(number));
                } else {
                    waiting.push((replies.write(WriteReply::Plain), number));
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
