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
mod client;
mod edits;
mod info;
mod introspection;
mod keys;
pub mod listen;
mod listing;
mod moves;
mod random;
mod server;
mod strings;
pub mod table;

use super::connection::Client;
use super::parse::{Arguments, Oversize, number};
use super::replies::{GatherReply, ReadReply, Replies, TOKENS, WriteReply};
use super::reply::Encoder;
use super::shared::{Shared, count};
use crate::engine::operation::{Change, Outcome, Read, Write};
use crate::model::edit::Modify;
use crate::model::key::DEFAULT;
use crate::model::{KeyRef, Record, RecordRef};
use crate::node::local::Local;
use auth::Need;
use listing::Listing;
use random::Descent;
use table::{Run, Spec};

/// The token of an operation that belongs to no reply: a command looks before it goes on.
pub const PROBE: u32 = TOKENS;
/// Databases that SELECT knows.
pub const DATABASES: u32 = 1 << 16;
/// Bytes of a client's words that an error repeats.
const QUOTED_BYTES: usize = 128;
/// What Redis says of a number that is none.
const NOT_AN_INTEGER: &str = "value is not an integer or out of range";

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
    /// What it asked under [`PROBE`].
    asked: Asked,
    /// What a command that goes through all keys has found.
    listing: Listing,
    /// Where RANDOMKEY is.
    descent: Descent,
    /// When WAIT ends, in milliseconds since the Unix epoch.
    until_ms: Option<u64>,
    /// What RENAME or COPY has read.
    moved: Option<Record>,
}

impl Progress {
    /// Whether no command is held back in its middle, so that something may stand behind the last reply.
    pub const fn is_between(&self) -> bool {
        self.next == 0
    }

    /// Bytes of memory of what a command has found and was answered before its end.
    pub fn room(&self) -> usize {
        let of_record =
            |record: &Option<Record>| record.as_ref().map_or(0, |record| record.view().bytes().len());
        let answered = match &self.asked {
            Asked::Answered(Outcome::Page(page)) => listing::rows_room(&page.rows),
            Asked::Answered(Outcome::Found(record)) => of_record(record),
            Asked::Answered(Outcome::Modified(modified)) => of_record(&modified.record),
            Asked::Nothing
            | Asked::Waiting
            | Asked::Answered(Outcome::Stored(_) | Outcome::Copies(_) | Outcome::Failed(_)) => 0,
        };
        self.listing.room() + of_record(&self.moved) + answered
    }

    /// Whether a command is held back that has asked or done something already.
    const fn has_begun(&self) -> bool {
        !self.is_between()
            || !matches!(self.asked, Asked::Nothing)
            || self.listing.has_begun()
            || self.descent.has_begun()
            || self.until_ms.is_some()
            || self.moved.is_some()
    }

    /// What was asked under [`PROBE`] is answered.
    pub fn answer(&mut self, outcome: Outcome) {
        self.asked = Asked::Answered(outcome);
    }
}

/// A question that a command must know the answer of before it goes on.
#[derive(Debug, Default)]
enum Asked {
    /// Nothing is asked.
    #[default]
    Nothing,
    /// The answer is still to come.
    Waiting,
    /// The answer.
    Answered(Outcome),
}

/// All that a command works with.
pub struct Context<'a, L> {
    /// This member.
    pub local: &'a L,
    /// What all connections share.
    pub shared: &'a Shared,
    /// What the connection knows of its client.
    pub client: &'a mut Client,
    /// Where replies go.
    pub replies: &'a mut Replies,
    /// This moment, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// Whether the argument at a place of a command is a key; see [`super::parse::IsKey`].
pub fn is_key(command: &[u8], at: usize, of: usize) -> bool {
    table::find(command).is_some_and(|spec| spec.takes(of) && spec.is_key(at, of))
}

/// Whether a command of this name and one argument reads the key that it names, and no more.
pub fn reads_one_key(name: &[u8]) -> bool {
    table::find(name).is_some_and(|spec| matches!(spec.run, Run::Read(_)))
}

/// Carries out one command.
pub fn execute<L: Local>(context: &mut Context<'_, L>, arguments: Arguments<'_>) -> Flow {
    if let Some(oversize) = arguments.refused() {
        return context.refuse_oversize(oversize);
    }
    let Some(mut spec) = table::find(arguments.get(0)) else {
        if is_of_http(arguments.get(0)) {
            context.client.quits = true;
            return Flow::Done;
        }
        return context.unknown_command(arguments);
    };
    if spec.run == Run::Container && arguments.len() > 1 {
        match spec.subcommand(arguments.get(1)) {
            Some(subcommand) => spec = subcommand,
            None => return context.unknown_subcommand(spec.name, arguments.get(1)),
        }
    }
    if !spec.takes(arguments.len()) {
        return context.wrong_arity(spec.name);
    }
    if !spec.run.is_for_listeners() && listen::is_listening_only(context) {
        return listen::refuse(context, spec.name);
    }
    let need = spec.need();
    if !context.client.session.may(need) {
        return auth::refuse(context, spec.name, need);
    }
    context.client.shown.last.set(spec.name);
    context.client.shown.last_ms.set(context.wall_ms);
    carry_out(context, spec, arguments)
}

fn carry_out<L: Local>(context: &mut Context<'_, L>, spec: &'static Spec, arguments: Arguments<'_>) -> Flow {
    match spec.run {
        Run::Read(reply) => context.read(arguments.get(1), reply),
        Run::Set => strings::set(context, arguments),
        Run::SetEx(unit) => strings::set_expiring(context, arguments, spec, unit),
        Run::SetNx => edits::set_absent(context, arguments),
        Run::GetSet => edits::get_set(context, arguments),
        Run::GetDel => edits::get_delete(context, arguments),
        Run::GetEx => edits::get_expire(context, arguments),
        Run::Append => edits::append(context, arguments),
        Run::SetRange => edits::set_range(context, arguments),
        Run::AddFloat => edits::add_float(context, arguments),
        Run::Expire(since, unit) => edits::expire(context, arguments, spec, since, unit),
        Run::Persist => edits::persist(context, arguments),
        Run::Rename => moves::rename(context, arguments),
        Run::Copy => moves::copy(context, arguments),
        Run::GetRange => strings::get_range(context, arguments),
        Run::MGet => strings::mget(context, arguments),
        Run::MSet => strings::mset(context, arguments),
        Run::Count { down } => strings::increment(context, arguments, down),
        Run::Del => keys::del(context, arguments),
        Run::Exists => keys::exists(context, arguments),
        Run::Scan => listing::scan(context, arguments),
        Run::Keys => listing::keys(context, arguments),
        Run::DbSize => listing::size(context),
        Run::RandomKey => random::random_key(context),
        Run::FlushDb => listing::flush(context, arguments),
        Run::Ping => server::ping(context, arguments),
        Run::Echo => context.answer(|out| out.bulk(arguments.get(1))),
        Run::Time => server::time(context),
        Run::Wait => server::wait(context, arguments),
        Run::Select => server::select(context, arguments),
        Run::ConfigGet => server::config_get(context, arguments),
        Run::Info => info::info(context, arguments),
        Run::Subscribe(kind) => listen::subscribe(context, arguments, kind),
        Run::Unsubscribe(kind) => listen::unsubscribe(context, arguments, kind),
        Run::Auth => auth::auth(context, arguments),
        Run::Hello => client::hello(context, arguments),
        Run::Reset => client::reset(context),
        Run::Quit => client::quit(context),
        Run::ClientId => client::id(context),
        Run::ClientGetName => client::get_name(context),
        Run::ClientSetName => client::set_name(context, arguments),
        Run::ClientSetInfo => client::set_info(context, arguments),
        Run::ClientSwitch => client::switch(context, arguments),
        Run::ClientInfo => client::info(context),
        Run::ClientList => client::list(context, arguments),
        // COMMAND alone; the other ones take a subcommand.
        Run::Container => introspection::all(context),
        Run::CommandCount => introspection::count(context),
        Run::CommandDocs => introspection::docs(context, arguments),
        Run::CommandInfo => introspection::info(context, arguments),
        Run::CommandList => introspection::list(context, arguments),
        Run::Help => introspection::help(context, spec),
    }
}

impl<L: Local> Context<'_, L> {
    fn answer(&mut self, encode: impl FnOnce(&mut Encoder<'_>)) -> Flow {
        self.replies.ready(encode);
        Flow::Done
    }

    fn answer_ok(&mut self) -> Flow {
        self.answer(|out| out.ok())
    }

    fn error(&mut self, message: &str) -> Flow {
        self.refuse("ERR", message.as_bytes())
    }

    fn refuse(&mut self, word: &str, message: &[u8]) -> Flow {
        self.replies.refused(|out| out.error(word, message));
        Flow::Done
    }

    /// Whether one more write of a command with several must wait.
    fn must_wait(&self) -> bool {
        if self.replies.is_full() || self.replies.awaits_reads() {
            return true;
        }
        let congested = self.local.is_congested();
        if congested {
            self.local.wake_when_relieved(&self.client.shown.mailbox);
        }
        congested
    }

    /// Answers a command of which nothing was kept.
    fn refuse_oversize(&mut self, oversize: Oversize) -> Flow {
        count(&self.shared.counts.too_large, 1);
        if !self.client.session.may(Need::Known) {
            return auth::refuse(self, "", Need::Known);
        }
        self.error(&oversize.to_string())
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
        message.extend(command.bytes().map(|byte| byte.to_ascii_uppercase()));
        message.extend_from_slice(b" HELP.");
        self.refuse("ERR", &message)
    }

    /// Answers one read: at once if this member can, else when the answer is there.
    fn read(&mut self, key: &[u8], reply: ReadReply) -> Flow {
        if self.replies.is_looked_at(key) {
            return Flow::Held;
        }
        let Client { collection, seen, shown, foreseen, .. } = &mut *self.client;
        let key = match KeyRef::new(collection, key) {
            Ok(key) => key,
            Err(error) => return self.error(&error.to_string()),
        };
        let hash = foreseen.next().unwrap_or_else(|| key.hash());
        debug_assert_eq!(hash, key.hash(), "what was foreseen comes");
        let (wall_ms, replies) = (self.wall_ms, &mut *self.replies);
        let hit = self.local.get_now(key, hash, |found| {
            note(seen, found);
            replies.ready(|out| reply.encode(out, found, wall_ms));
        });
        if hit.is_none() {
            if self.replies.awaits_writes() {
                return Flow::Held;
            }
            let token = self.replies.read(reply);
            self.local.read(&shown.mailbox, token, Read { key, level: None });
        }
        Flow::Done
    }

    /// Asks something that the command must know before it goes on: `None` until the answer is there. What was
    /// sent before is answered first, so that neither overtakes the other.
    fn ask(&mut self, submit: impl FnOnce(&L, &Client)) -> Option<Outcome> {
        match std::mem::take(&mut self.client.progress.asked) {
            Asked::Answered(outcome) => return Some(outcome),
            Asked::Nothing if self.replies.awaits_writes() || self.replies.awaits_reads() => {}
            Asked::Nothing => {
                self.client.progress.asked = Asked::Waiting;
                submit(self.local, self.client);
            }
            Asked::Waiting => self.client.progress.asked = Asked::Waiting,
        }
        None
    }

    /// A number among the arguments, or Redis's error.
    fn integer(&mut self, text: &[u8]) -> Result<i64, Flow> {
        number(text).ok_or_else(|| self.error(NOT_AN_INTEGER))
    }

    /// The number of a database, or Redis's error.
    fn database(&mut self, text: &[u8]) -> Result<u16, Flow> {
        let index = self.integer(text)?;
        if i32::try_from(index).is_err() {
            let (least, most) = (i32::MIN, i32::MAX);
            let message = format!("value is out of range, value must between {least} and {most}");
            return Err(self.error(&message));
        }
        u16::try_from(index).map_err(|_| self.error("DB index is out of range"))
    }

    /// Submits one write whose answer becomes the reply.
    fn write(&mut self, key: &[u8], change: Change<'_>) -> Flow {
        self.submit(key, change, WriteReply::Plain)
    }

    fn submit(&mut self, key: &[u8], change: Change<'_>, reply: WriteReply) -> Flow {
        if self.replies.awaits_reads() || self.would_overtake(key, change) {
            return Flow::Held;
        }
        let after = self.client.seen;
        match KeyRef::new(&self.client.collection, key) {
            Ok(key) => {
                let token = match change {
                    Change::Modify(_) => self.replies.look(reply, key.key()),
                    Change::Set { .. } | Change::Delete | Change::Increment { .. } => {
                        self.replies.write(reply)
                    }
                };
                self.local.write(
                    &self.client.shown.mailbox,
                    token,
                    Write { key, change, level: None, after },
                );
                Flow::Done
            }
            Err(error) => self.error(&error.to_string()),
        }
    }

    /// Whether a write that this member may stamp itself follows one that is still at its key's home: it would
    /// be stamped by a clock that knows nothing of that one, and could lose to it.
    fn would_overtake(&self, key: &[u8], change: Change<'_>) -> bool {
        !matches!(change, Change::Modify(_)) && self.replies.is_looked_at(key)
    }

    /// Submits one change that looks first, and whose answer becomes the reply.
    fn modify(&mut self, key: &[u8], modify: &Modify, reply: WriteReply) -> Flow {
        self.submit(key, Change::Modify(modify), reply)
    }

    /// Submits one of several writes that share a reply. Its key was checked before.
    fn write_one_of(&mut self, token: u32, key: &[u8], change: Change<'_>) {
        if let Ok(key) = KeyRef::new(&self.client.collection, key) {
            match change {
                Change::Modify(_) => self.replies.expect_look(token, key.key()),
                Change::Set { .. } | Change::Delete | Change::Increment { .. } => self.replies.expect(token),
            }
            let after = self.client.seen;
            self.local.write(&self.client.shown.mailbox, token, Write { key, change, level: None, after });
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

/// Whether the client is a browser that was led here: what stands in its request must not be carried out.
fn is_of_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"POST") || word.eq_ignore_ascii_case(b"HOST:")
}

/// The collection that a database is.
fn collection_of(database: u16) -> String {
    if database == 0 { DEFAULT.to_owned() } else { database.to_string() }
}

/// The session's next write will follow what it has seen.
fn note(seen: &mut u64, found: Option<RecordRef<'_>>) {
    if let Some(record) = found {
        *seen = record.timestamp().time.max(*seen);
    }
}

/// A client's word as an error repeats it.
fn quoted(word: &[u8]) -> String {
    let word: Vec<u8> = quotable(word).take(QUOTED_BYTES).collect();
    String::from_utf8_lossy(&word).into_owned()
}

/// A client's bytes up to the first NUL, where Redis's messages end too.
fn quotable(word: &[u8]) -> impl Iterator<Item = u8> {
    word.iter().copied().take_while(|&byte| byte != 0)
}
