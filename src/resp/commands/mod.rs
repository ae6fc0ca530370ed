//! The commands: their names and arities, and how they are carried out.
//!
//! A command either is done at once, has submitted operations whose answers fill its reply, or is
//! held back. A command that is held back is executed again, from the argument at which it stopped,
//! whenever something has changed; commands after it wait. That keeps three promises: replies are
//! bounded, a command that looks before it writes (DEL) does so in its turn, and a read that this
//! member can't answer at once neither overtakes a write before it nor is overtaken by one after it.
//!
//! Errors are Redis's, word for word where Redis has them.

pub mod auth;
mod keys;
mod server;
mod strings;

use super::connection::{Client, Shared};
use super::parse::Arguments;
use super::replies::{GatherReply, ReadReply, Replies, TOKENS};
use super::reply;
use crate::engine::operation::{Change, OperationError, Read, Write};
use crate::model::{KeyRef, RecordRef};
use crate::node::local::{Local, Mailbox};
use auth::Need;

/// The token of a read that belongs to no reply: a command looks before it writes.
pub const PROBE: u32 = TOKENS;
/// Bytes of a client's words that an error repeats.
const QUOTED_BYTES: usize = 128;

/// Whether a command came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Its reply is there or will come; the next command may begin.
    Done,
    /// It must be executed again later.
    Held,
}

/// Where a command that is held back goes on.
#[derive(Debug, Default)]
pub struct Progress {
    /// The next argument; 0 before the command began.
    next: usize,
    /// Its gathered reply, if it has one.
    token: u32,
    /// What it looked for before it writes.
    pub probe: Probe,
}

/// A look before a write.
#[derive(Debug, Default)]
pub enum Probe {
    /// Nothing is asked.
    #[default]
    Idle,
    /// The answer is still to come.
    Asked,
    /// Whether there is a record.
    Answered(Result<bool, OperationError>),
}

/// All that a command works with.
pub struct Context<'a, L> {
    /// This member.
    pub local: &'a L,
    /// Where answers arrive.
    pub mailbox: &'a Mailbox,
    /// What all connections share.
    pub shared: &'a Shared,
    /// What the connection knows of its client.
    pub client: &'a mut Client,
    /// Where replies go.
    pub replies: &'a mut Replies,
    /// This moment, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

#[derive(Debug, Clone, Copy)]
enum Name {
    Auth,
    Client,
    Command,
    Config,
    Decr,
    DecrBy,
    Del,
    Echo,
    Exists,
    Get,
    Hello,
    Incr,
    IncrBy,
    Info,
    MGet,
    MSet,
    PTtl,
    Ping,
    Quit,
    Select,
    Set,
    Ttl,
}

/// Name, arguments with the name (below zero: at least as many), what it is, what it takes. The most frequent come
/// first.
const COMMANDS: [(&str, isize, Name, Need); 23] = [
    ("get", 2, Name::Get, Need::Read),
    ("set", -3, Name::Set, Need::Write),
    ("mget", -2, Name::MGet, Need::Read),
    ("mset", -3, Name::MSet, Need::Write),
    ("del", -2, Name::Del, Need::Write),
    ("unlink", -2, Name::Del, Need::Write),
    ("exists", -2, Name::Exists, Need::Read),
    ("incr", 2, Name::Incr, Need::Write),
    ("decr", 2, Name::Decr, Need::Write),
    ("incrby", 3, Name::IncrBy, Need::Write),
    ("decrby", 3, Name::DecrBy, Need::Write),
    ("ttl", 2, Name::Ttl, Need::Read),
    ("pttl", 2, Name::PTtl, Need::Read),
    ("ping", -1, Name::Ping, Need::Known),
    ("echo", 2, Name::Echo, Need::Known),
    ("select", 2, Name::Select, Need::Known),
    ("auth", -2, Name::Auth, Need::Nothing),
    ("hello", -1, Name::Hello, Need::Nothing),
    ("client", -2, Name::Client, Need::Known),
    ("command", -1, Name::Command, Need::Known),
    ("config", -2, Name::Config, Need::Known),
    ("info", -1, Name::Info, Need::Known),
    ("quit", -1, Name::Quit, Need::Nothing),
];

/// Carries out one command.
pub fn execute<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    let word = arguments.get(0);
    let Some((text, arity, name, need)) = COMMANDS.iter().find(|c| word.eq_ignore_ascii_case(c.0.as_bytes()))
    else {
        return context.unknown_command(arguments);
    };
    let enough = arguments.len() >= arity.unsigned_abs();
    if !enough || (*arity > 0 && arguments.len() > arity.unsigned_abs()) {
        return context.wrong_arity(text);
    }
    if !context.client.session.may(*need) {
        return auth::refuse(context, text, *need);
    }
    match name {
        Name::Auth => auth::auth(context, arguments),
        Name::Get => context.read(arguments.get(1), ReadReply::Value),
        Name::Set => strings::set(context, arguments),
        Name::MGet => strings::mget(context, arguments),
        Name::MSet => strings::mset(context, arguments),
        Name::Incr => strings::increment(context, arguments, false),
        Name::Decr => strings::increment(context, arguments, true),
        Name::IncrBy => strings::increment(context, arguments, false),
        Name::DecrBy => strings::increment(context, arguments, true),
        Name::Del => keys::del(context, arguments),
        Name::Exists => keys::exists(context, arguments),
        Name::Ttl => context.read(arguments.get(1), ReadReply::Seconds),
        Name::PTtl => context.read(arguments.get(1), ReadReply::Milliseconds),
        Name::Ping => server::ping(context, arguments),
        Name::Echo => context.answer(|out| reply::bulk(out, arguments.get(1))),
        Name::Select => server::select(context, arguments),
        Name::Hello => server::hello(context, arguments),
        Name::Client => server::client(context, arguments),
        Name::Command => server::command(context, arguments),
        Name::Config => server::config(context, arguments),
        Name::Info => server::info(context, arguments),
        Name::Quit => server::quit(context),
    }
}

impl<L: Local> Context<'_, L> {
    fn answer(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Flow {
        self.replies.ready(encode);
        Flow::Done
    }

    fn error(&mut self, message: &str) -> Flow {
        self.refuse("ERR", message.as_bytes())
    }

    fn refuse(&mut self, word: &str, message: &[u8]) -> Flow {
        self.replies.refused(|out| reply::error(out, word, message));
        Flow::Done
    }

    /// Whether one more write of a command with several must wait.
    fn must_wait(&self) -> bool {
        if self.replies.is_full() || self.replies.awaits_reads() {
            return true;
        }
        let congested = self.local.is_congested();
        if congested {
            self.local.wake_when_relieved(self.mailbox);
        }
        congested
    }

    fn wrong_arity(&mut self, command: &str) -> Flow {
        self.error(&format!("wrong number of arguments for '{command}' command"))
    }

    fn unknown_command(&mut self, arguments: Arguments<'_>) -> Flow {
        let mut message = b"unknown command '".to_vec();
        message.extend(quotable(arguments.get(0)).take(QUOTED_BYTES));
        message.extend_from_slice(b"', with args beginning with: ");
        let mut room = QUOTED_BYTES;
        for argument in arguments.from(1) {
            let before = message.len();
            message.push(b'\'');
            message.extend(quotable(argument).take(room));
            message.extend_from_slice(b"' ");
            room = room.saturating_sub(message.len() - before);
            if room == 0 {
                break;
            }
        }
        self.refuse("ERR", &message)
    }

    fn unknown_subcommand(&mut self, command: &str, subcommand: &[u8]) -> Flow {
        let mut message = b"unknown subcommand '".to_vec();
        message.extend(quotable(subcommand).take(QUOTED_BYTES));
        message.extend_from_slice(b"'. Try ");
        message.extend_from_slice(command.as_bytes());
        message.extend_from_slice(b" HELP.");
        self.refuse("ERR", &message)
    }

    /// Answers one read: at once if this member can, else when the answer is there.
    fn read(&mut self, key: &[u8], reply: ReadReply) -> Flow {
        let Client { collection, seen, .. } = &mut *self.client;
        let key = match KeyRef::new(collection, key) {
            Ok(key) => key,
            Err(error) => return self.error(&error.to_string()),
        };
        let (wall_ms, replies) = (self.wall_ms, &mut *self.replies);
        let hit = self.local.get_now(key, |found| {
            note(seen, found);
            replies.ready(|out| reply.encode(out, found, wall_ms));
        });
        if hit.is_none() {
            if self.replies.awaits_writes() {
                return Flow::Held;
            }
            let token = self.replies.read(reply);
            self.local.read(self.mailbox, token, Read { key, level: None });
        }
        Flow::Done
    }

    /// Submits one write whose answer becomes the reply.
    fn write(&mut self, key: &[u8], change: Change<'_>) -> Flow {
        if self.replies.awaits_reads() {
            return Flow::Held;
        }
        let after = self.client.seen;
        match KeyRef::new(&self.client.collection, key) {
            Ok(key) => {
                let token = self.replies.write();
                self.local.write(self.mailbox, token, Write { key, change, level: None, after });
                Flow::Done
            }
            Err(error) => self.error(&error.to_string()),
        }
    }

    /// Submits one of several writes that share a reply. Its key was checked before.
    fn write_one_of(&mut self, token: u32, key: &[u8], change: Change<'_>) {
        if let Ok(key) = KeyRef::new(&self.client.collection, key) {
            self.replies.expect(token);
            let after = self.client.seen;
            self.local.write(self.mailbox, token, Write { key, change, level: None, after });
        }
    }

    /// An error, before anything is done, if one of several keys is no key.
    fn refuse_bad_keys<'k>(&mut self, mut keys: impl Iterator<Item = &'k [u8]>) -> Option<Flow> {
        if self.client.progress.next > 0 {
            return None;
        }
        let collection = &self.client.collection;
        let error = keys.find_map(|key| KeyRef::new(collection, key).err())?;
        Some(self.error(&error.to_string()))
    }

    /// Begins a reply of several operations, or goes on with it. `first` is the argument at which
    /// the command begins.
    fn gather(&mut self, reply: GatherReply, first: usize) -> u32 {
        if self.client.progress.next == 0 {
            self.client.progress.next = first;
            self.client.progress.token = self.replies.gather(reply);
        }
        self.client.progress.token
    }

    /// All operations of a gathered reply were submitted.
    fn gathered(&mut self, token: u32) -> Flow {
        self.client.progress = Progress::default();
        self.replies.close(token);
        Flow::Done
    }
}

/// The session's next write will follow what it has seen.
fn note(seen: &mut u64, found: Option<RecordRef<'_>>) {
    if let Some(record) = found {
        *seen = record.timestamp().time.max(*seen);
    }
}

/// A client's bytes up to the first NUL, where Redis's messages end too.
fn quotable(word: &[u8]) -> impl Iterator<Item = u8> {
    word.iter().copied().take_while(|&byte| byte != 0)
}
