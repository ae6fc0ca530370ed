//! One client's connection: reads, executes and writes with as few system calls and wake-ups as
//! there can be.
//!
//! One task owns everything and one poll does all that can be done: take the answers that arrived,
//! execute the complete commands, read until nothing more is there, and send every reply whose turn
//! has come with one write. It sleeps until the socket can be read or written or an answer arrives.
//! A poll costs no more than a turn ([`Replies::is_turn_over`]); then whoever is ready comes first.
//!
//! A client that may not stay is told why: it listens to what it may not read any more, or showed no token in time. One that
//! does not read is cut off ([`super::unsent`]).
//!
//! Invariants: commands begin in the order in which they were sent; while too much is unsent or
//! unanswered, or waits for the disk, nothing more is executed, and while a complete command waits
//! nothing more is read, so a client that does not read its replies stops being read.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::Limits;
use super::ahead::Foreseen;
use super::clients::{Addresses, Cut, Shown};
use super::commands::auth::{Need, Session};
use super::commands::{self, Context, Flow, PROBE, Progress, listen};
use super::input::Input;
use super::listening::Listening;
use super::parse::ProtocolError;
use super::replies::Replies;
use super::reply::Encoder;
use super::shared::{Shared, count};
use super::unsent::SCARCE_BYTES;
use super::written::Written;
use crate::engine::operation::{Modified, Outcome};
use crate::model::key::DEFAULT;
use crate::node::local::{Changes, Local};
use crate::security::tls::ClientStream;

/// Reads of one poll, before other tasks get their turn.
const READS_PER_POLL: usize = 8;
/// Steps of comparing changes with patterns in one poll, give or take one change: a millisecond or two.
const STEPS_PER_POLL: usize = 1 << 20;
/// How long, and for how many reads, a client that was told of its protocol error may go on sending
/// before the connection is cut: closing at once would let the error be lost.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 64;

/// What a connection knows of its client.
#[derive(Debug)]
pub struct Client {
    /// What others are shown of it.
    pub shown: Rc<Shown>,
    /// The collection that was selected.
    pub collection: String,
    /// Who it is and what it may do.
    pub session: Session,
    /// The highest time that this session has seen.
    pub seen: u64,
    /// What it wrote.
    pub written: Written,
    /// What it listens to.
    pub listening: Listening,
    /// Whether it asked to end.
    pub quits: bool,
    /// Where the command that is held back goes on.
    pub progress: Progress,
    /// The reads that come next.
    pub foreseen: Foreseen,
}

/// A connection and its state.
pub struct Connection<L: Local> {
    stream: ClientStream,
    local: L,
    shared: Rc<Shared>,
    client: Client,
    input: Input,
    replies: Replies,
    /// What is told on channels, until it may stand behind the replies.
    messages: Vec<u8>,
    /// Changes of which only so many were compared with what is listened to.
    telling: Option<(Changes, usize)>,
    max_message_bytes: usize,
    max_output_bytes: usize,
    /// Nothing more is read or executed.
    ending: bool,
    /// It ends because the client did something wrong, of which it is told.
    broken: bool,
    /// Whether the next command waits until replies have left.
    is_held: bool,
}

/// Why [`Connection::execute`] came to an end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// More bytes are needed.
    Input,
    /// A complete command waits for answers or for replies to leave.
    Held,
}

/// How much of what came is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    /// The rest is left to the next poll, after the other tasks' turn.
    Part,
    /// More than is kept for a client that does not read.
    TooMuch,
}

/// Has the task go on after everybody's turn: those that are ready, and those whose sockets are. Waking it at once would
/// put it behind the former only, and before the runtime looks at sockets again, whose clients would wait for many turns.
fn give_way(task: &mut TaskContext<'_>) {
    // It is the first poll that asks for the wake, and it is pending always.
    _ = std::pin::pin!(tokio::task::yield_now()).poll(task);
}

impl<L: Local> Connection<L> {
    /// Registers a connection; it counts until it is dropped.
    pub fn new(
        (stream, addresses): (ClientStream, Addresses),
        local: L,
        shared: Rc<Shared>,
        session: Session,
        limits: &Limits,
    ) -> Self {
        let shown = shared.clients.register(addresses, local.read_clocks());
        count(&shared.counts.accepted, 1);
        count(&shared.counts.connections, 1);
        let client = Client {
            shown,
            collection: DEFAULT.to_owned(),
            session,
            seen: 0,
            written: Written::default(),
            listening: Listening::default(),
            quits: false,
            progress: Progress::default(),
            foreseen: Foreseen::default(),
        };
        Self {
            stream,
            local,
            shared,
            client,
            input: Input::default(),
            replies: Replies::new(limits.output_bytes, limits.in_flight),
            messages: Vec::new(),
            telling: None,
            max_message_bytes: limits.message_bytes,
            max_output_bytes: limits.output_bytes,
            ending: false,
            broken: false,
            is_held: false,
        }
    }

    /// Serves the client until it leaves, breaks the protocol, or the port closes.
    pub async fn run(mut self) {
        if let Some(denied) = self.client.session.turned_away() {
            self.replies.refused(|out| out.error("DENIED", denied.to_string().as_bytes()));
            (self.ending, self.broken) = (true, true);
        }
        let served = poll_fn(|task| self.poll(task)).await;
        // Errors mean that the client is gone or was cut off, and nobody is left to be told.
        if served.is_err() {
            return;
        }
        let closed = tokio::time::timeout(self.shared.stall, self.stream.shutdown()).await;
        if matches!(closed, Ok(Ok(()))) && self.broken {
            _ = tokio::time::timeout(LINGER, self.linger()).await;
        }
    }

    async fn linger(&mut self) {
        // What it sent is needed no more, and what it sends now is not kept, so the buffer does not grow.
        self.input = Input::default();
        self.count_input();
        for _ in 0..LINGER_READS {
            if !matches!(self.stream.read(self.input.room()).await, Ok(1..)) {
                return;
            }
        }
    }

    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        self.client.shown.mailbox.attend();
        self.client.session.refresh(&self.client.collection, &self.client.shown);
        if self.client.shown.is_cut_off() {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        let scarce = if self.shared.is_scarce() { SCARCE_BYTES } else { usize::MAX };
        self.replies.begin_turn(self.max_output_bytes.min(scarce));
        let mut reads = 0;
        loop {
            self.collect();
            let wall_ms = self.local.read_clocks();
            let pause = self.execute(wall_ms);
            self.look_around(wall_ms);
            self.ending |= self.client.quits || (pause == Pause::Input && self.shared.is_stopping());
            if pause == Pause::Input && !self.ending && self.read(task)?.is_ready() {
                reads += 1;
                if reads < READS_PER_POLL {
                    continue;
                }
            }
            self.replies.advance(wall_ms);
            let told = self.tell();
            if told == Told::TooMuch {
                return Poll::Ready(Err(std::io::ErrorKind::QuotaExceeded.into()));
            }
            count(&self.shared.counts.errors, self.replies.take_errors());
            let sent = self.send(task)?;
            if self.ending && self.replies.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let is_over = pause == Pause::Held && self.replies.is_turn_over();
            let gives_way = is_over || reads >= READS_PER_POLL || told == Told::Part;
            if sent && pause == Pause::Held && !gives_way {
                continue;
            }
            self.show(pause)?;
            if gives_way {
                give_way(task);
                return Poll::Pending;
            }
            if self.client.shown.mailbox.sleep(task.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// Ends the connection, and tells it why, when its client may not stay.
    fn look_around(&mut self, wall_ms: u64) {
        let Client { session, listening, shown, progress, quits, .. } = &self.client;
        if self.ending || *quits {
            return;
        }
        let is_known = session.may(Need::Known);
        let is_late = shown.cut.get() == Some(Cut::Stranger);
        if is_late {
            shown.cut.set(None);
        }
        let is_deaf = |collection: &str| !session.may_read(collection);
        if listening.collections().any(is_deaf) || !is_known && !listening.is_empty() {
            listen::revoke(&mut self.context(wall_ms));
            self.broken = true;
        } else if is_late && !is_known && progress.is_between() {
            count(&self.shared.counts.unauthenticated, 1);
            self.replies
                .refused(|out| out.error("NOAUTH", b"Authentication required, and none came in time."));
            (self.ending, self.broken) = (true, true);
        }
    }

    fn context(&mut self, wall_ms: u64) -> Context<'_, L> {
        let Self { local, shared, client, replies, .. } = self;
        Context { local, shared, client, replies, wall_ms }
    }

    /// Takes in the changes that came, and puts what they tell behind the replies once it can stand there.
    fn tell(&mut self) -> Told {
        let Client { shown, listening, session, progress, .. } = &self.client;
        let mut steps = 0;
        while steps < STEPS_PER_POLL {
            let begun = self.telling.take();
            let Some(((subscription, changes), from)) =
                begun.or_else(|| shown.mailbox.pop_changes().map(|changes| (changes, 0)))
            else {
                break;
            };
            let mut out = Encoder::new(&mut self.messages, self.replies.protocol());
            let mut next = from;
            while steps < STEPS_PER_POLL
                && let Some(change) = changes.get(next)
            {
                if session.may_read(&change.collection) {
                    steps += listening.tell(subscription, change, &mut out);
                }
                next += 1;
            }
            if next < changes.len() {
                self.telling = Some(((subscription, changes), next));
            }
            let waiting = self.messages.len() + self.replies.output().len();
            if waiting > self.max_message_bytes || shown.mailbox.missed_changes() > 0 {
                count(&self.shared.counts.slow_listeners, 1);
                return Told::TooMuch;
            }
        }
        if !self.messages.is_empty() && progress.is_between() && !self.replies.awaits_any() {
            self.replies.append(&mut self.messages);
        }
        if steps < STEPS_PER_POLL { Told::All } else { Told::Part }
    }

    /// Shows the others how much is under way. An error if it is too much.
    fn show(&self, pause: Pause) -> std::io::Result<()> {
        let Client { shown, session, progress, .. } = &self.client;
        shown.unexecuted.set(self.input.unexecuted());
        shown.unknown.set(!session.may(Need::Known));
        shown.stalled.set(!self.replies.output().is_empty());
        shown.halted.set(pause == Pause::Input && !self.ending && self.input.large_bytes() > 0);
        self.shared.owe(shown, self.replies.room() + self.messages.len() + progress.room());
        if shown.is_cut_off() { Err(std::io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
    }

    /// Takes the answers that arrived.
    fn collect(&mut self) {
        while let Some((token, outcome)) = self.client.shown.mailbox.pop() {
            match &outcome {
                Outcome::Stored(stored) if stored.number.is_some() => {
                    self.client.written.note_unnamed(stored.copies);
                }
                Outcome::Stored(stored) | Outcome::Modified(Modified { stored: Some(stored), .. }) => {
                    self.client.written.note(*stored);
                }
                Outcome::Modified(_)
                | Outcome::Found(_)
                | Outcome::Page(_)
                | Outcome::Copies(_)
                | Outcome::Failed(_) => {}
            }
            let time = match &outcome {
                Outcome::Stored(stored) => stored.timestamp.time,
                Outcome::Modified(Modified { stored, present, .. }) => {
                    let stamp = stored.map(|stored| stored.timestamp).or(*present);
                    stamp.map_or(0, |stamp| stamp.time)
                }
                Outcome::Found(Some(record)) => record.view().timestamp().time,
                Outcome::Found(None) | Outcome::Page(_) | Outcome::Copies(_) | Outcome::Failed(_) => 0,
            };
            self.client.seen = self.client.seen.max(time);
            if token == PROBE {
                self.client.progress.answer(outcome);
            } else {
                self.replies.settle(token, outcome);
            }
        }
    }

    /// Executes the commands that are complete.
    fn execute(&mut self, wall_ms: u64) -> Pause {
        let value_bytes = self.local.max_value_bytes();
        while !self.ending && !self.client.quits {
            let Client { foreseen, collection, .. } = &mut self.client;
            if let Some(keys) = foreseen.look(self.input.next_bytes(), collection) {
                self.local.foresee(keys);
            }
            let arguments = match self.input.command(value_bytes) {
                Ok(Some(arguments)) => arguments,
                Ok(None) => return Pause::Input,
                Err(error) => {
                    self.refuse(error);
                    break;
                }
            };
            if self.replies.is_turn_over() {
                return Pause::Held;
            }
            if self.replies.is_full() {
                return self.held();
            }
            if self.local.is_congested() {
                self.local.wake_when_relieved(&self.client.shown.mailbox);
                return Pause::Held;
            }
            self.is_held = false;
            let mut context = Context {
                local: &self.local,
                shared: &self.shared,
                client: &mut self.client,
                replies: &mut self.replies,
                wall_ms,
            };
            let is_command = !arguments.is_empty();
            let was_foreseen = is_command && arguments.refused().is_none();
            // An empty line is no command.
            if is_command {
                if commands::execute(&mut context, arguments) == Flow::Held {
                    return Pause::Held;
                }
                count(&self.shared.counts.commands, 1);
            }
            match was_foreseen {
                true => self.client.foreseen.pass(),
                false => self.client.foreseen.clear(),
            }
            self.replies.step(self.input.consume());
        }
        Pause::Input
    }

    /// Counts why nothing more is executed, once for each time it begins.
    fn held(&mut self) -> Pause {
        let counts = &self.shared.counts;
        if !std::mem::replace(&mut self.is_held, true) {
            count(if self.replies.is_deep() { &counts.held_pipeline } else { &counts.held_output }, 1);
        }
        Pause::Held
    }

    /// Tells the client what is wrong with its bytes. Nothing after them can be understood.
    fn refuse(&mut self, error: ProtocolError) {
        let counts = &self.shared.counts;
        count(if error.is_of_size() { &counts.too_large } else { &counts.malformed }, 1);
        self.replies.refused(|out| out.protocol_error(error));
        (self.ending, self.broken) = (true, true);
    }

    /// Whether all connections together keep within their bound when this one's buffer grows; idle ones may be cut off for it.
    fn may_grow(&self) -> bool {
        let more = self.input.growth();
        more == 0 || self.client.session.may(Need::Known) && self.shared.make_room_for(more)
    }

    /// Reads once. Ready if something happened: bytes came, or the client's end was seen.
    fn read(&mut self, task: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        if !self.may_grow() {
            // Strangers take no part in the room for large commands, lest they leave none to others.
            let is_known = self.client.session.may(Need::Known);
            self.refuse(if is_known { ProtocolError::NoRoom } else { ProtocolError::Stranger });
            return Poll::Ready(Ok(()));
        }
        let mut room = ReadBuf::new(self.input.room());
        let polled = Pin::new(&mut self.stream).poll_read(task, &mut room);
        let bytes = room.filled().len();
        self.count_input();
        if let Poll::Ready(Ok(())) = polled {
            self.input.filled(bytes);
            self.client.shown.halted.end();
            count(&self.shared.counts.bytes_received, bytes as u64);
            self.ending |= bytes == 0;
        }
        polled
    }

    /// Counts the buffer at its size, after each time that it may have changed.
    fn count_input(&self) {
        self.shared.resize_input(&self.client.shown, self.input.large_bytes());
    }

    /// Sends what can be sent. True if all of it went and it was not nothing.
    fn send(&mut self, task: &mut TaskContext<'_>) -> std::io::Result<bool> {
        let mut sent = false;
        while !self.replies.output().is_empty() {
            match Pin::new(&mut self.stream).poll_write(task, self.replies.output()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    self.replies.sent(bytes);
                    self.client.shown.stalled.end();
                    count(&self.shared.counts.bytes_sent, bytes as u64);
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
            sent = true;
        }
        // TLS may keep back what the socket did not take; whatever it takes next wakes this task.
        if self.stream.is_encrypted()
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(task)
        {
            return Err(error);
        }
        Ok(sent)
    }
}

impl<L: Local> Drop for Connection<L> {
    fn drop(&mut self) {
        for subscription in self.client.listening.subscriptions() {
            self.local.unsubscribe(subscription);
        }
        let Shared { clients, counts, .. } = &*self.shared;
        clients.remove(self.client.shown.id);
        self.shared.owe(&self.client.shown, 0);
        self.shared.resize_input(&self.client.shown, 0);
        counts.connections.set(counts.connections.get().saturating_sub(1));
        self.client.shown.mailbox.close();
    }
}
