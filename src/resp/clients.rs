//! The open connections of a port, and what each shows of itself to all of them: CLIENT LIST.
//!
//! A connection counts as long as it is registered. What it shows is a handful of cells that it sets while it
//! works, so that nobody asks a connection anything.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;

use super::reply::Protocol;
use crate::node::local::Mailbox;

/// Bytes of what a client tells of itself: its name, its library's name, its library's version.
pub const MAX_TOLD_BYTES: usize = 256;

/// The user that every token answers to, and who shows none.
pub const DEFAULT_USER: &str = "default";

/// The client's address and the member's, of one connection.
pub type Addresses = (SocketAddr, SocketAddr);

/// Why a connection ends though its client did not end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Its client did not say in time who it is.
    Stranger,
    /// Its client took nothing of what waited for it, or sent nothing more of a large command.
    Stalled,
    /// What waited for all clients was too much, and this one had the greatest part in it.
    Evicted,
}

/// How long something has lasted, in the port's sweeps. Nobody needs to look at a clock to begin or end it.
#[derive(Debug, Default)]
pub struct Lasting(Cell<Option<u32>>);

impl Lasting {
    /// Whether it is so now; it goes on if it was so before.
    pub fn set(&self, is_so: bool) {
        self.0.set(is_so.then(|| self.0.get().unwrap_or_default()));
    }

    /// It is not so, or begins anew.
    pub fn end(&self) {
        self.0.set(None);
    }

    /// Sweeps since it began.
    pub fn sweeps(&self) -> u32 {
        self.0.get().unwrap_or_default()
    }

    fn sweep(&self) {
        self.0.set(self.0.get().map(|sweeps| sweeps.saturating_add(1)));
    }
}

/// What a connection shows.
#[derive(Debug)]
pub struct Shown {
    /// The connection's number, never used twice.
    pub id: i64,
    /// Where it is from and where it came.
    pub addresses: Addresses,
    /// When it began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Where its answers arrive.
    pub mailbox: Mailbox,
    /// The name that the client gave itself.
    pub name: RefCell<Vec<u8>>,
    /// The client's library and its version.
    pub library: RefCell<[Vec<u8>; 2]>,
    /// The name of the token that its client shows.
    pub user: RefCell<Option<String>>,
    /// The number of the collection that is selected.
    pub database: Cell<u16>,
    /// What is spoken.
    pub protocol: Cell<Protocol>,
    /// When the last command began, in milliseconds since the Unix epoch.
    pub last_ms: Cell<u64>,
    /// The last command's name; empty before the first one.
    pub last: Cell<&'static str>,
    /// Channels and patterns that it listens to.
    pub listening: Cell<(usize, usize)>,
    /// Bytes that were received and not executed.
    pub unexecuted: Cell<usize>,
    /// Bytes of its buffer for commands beyond the usual size, as they are counted for all connections together.
    pub large_input: Cell<usize>,
    /// Bytes of memory of what waits for its client to read.
    pub unsent: Cell<usize>,
    /// Whether there are any.
    pub owing: Lasting,
    /// Whether something could be sent of which the client takes nothing.
    pub stalled: Lasting,
    /// Whether its client has begun a large command, whose rest is awaited.
    pub halted: Lasting,
    /// Whether its client is to say who it is, and did not.
    pub unknown: Lasting,
    /// Why it ends.
    pub cut: Cell<Option<Cut>>,
}

impl Shown {
    /// A connection that did nothing yet.
    pub fn new(id: i64, addresses: Addresses, since_ms: u64) -> Self {
        Self {
            id,
            addresses,
            since_ms,
            mailbox: Mailbox::new(),
            name: RefCell::default(),
            library: RefCell::default(),
            user: RefCell::default(),
            database: Cell::new(0),
            protocol: Cell::default(),
            last_ms: Cell::new(since_ms),
            last: Cell::new(""),
            listening: Cell::default(),
            unexecuted: Cell::new(0),
            large_input: Cell::new(0),
            unsent: Cell::new(0),
            owing: Lasting::default(),
            stalled: Lasting::default(),
            halted: Lasting::default(),
            unknown: Lasting::default(),
            cut: Cell::new(None),
        }
    }

    /// Whether it ends without being told anything more.
    pub fn is_cut_off(&self) -> bool {
        matches!(self.cut.get(), Some(Cut::Stalled | Cut::Evicted))
    }

    /// Some time has passed.
    pub fn sweep(&self) {
        for lasting in [&self.owing, &self.stalled, &self.halted, &self.unknown] {
            lasting.sweep();
        }
    }

    /// Whether it listens to any channel.
    pub fn is_listening(&self) -> bool {
        self.listening.get() != (0, 0)
    }

    /// Appends the line that CLIENT LIST and CLIENT INFO have for it.
    pub fn line(&self, out: &mut String, wall_ms: u64) {
        let seconds = |since_ms: u64| wall_ms.saturating_sub(since_ms) / 1_000;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (name, library, user) = (self.name.borrow(), self.library.borrow(), self.user.borrow());
        let (channels, patterns) = self.listening.get();
        let [library, library_version] = &*library;
        let (unexecuted, unsent) = (self.unexecuted.get(), self.unsent.get());
        let last = if self.last.get().is_empty() { "NULL" } else { self.last.get() };
        let version = match self.protocol.get() {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        // Writing to a string can't fail.
        _ = writeln!(
            out,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub={channels} psub={patterns} ssub=0 multi=-1 \
             qbuf={unexecuted} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={unsent} oll=0 omem={unsent} \
             tot-mem={} events=r cmd={last} user={} redir=-1 resp={version} lib-name={} lib-ver={}",
            self.id,
            self.addresses.0,
            self.addresses.1,
            text(&name),
            seconds(self.since_ms),
            seconds(self.last_ms.get()),
            if self.is_listening() { "P" } else { "N" },
            self.database.get(),
            unexecuted + unsent,
            user.as_deref().unwrap_or(DEFAULT_USER),
            text(library),
            text(library_version),
        );
    }
}

/// The open connections of a port.
#[derive(Debug, Default)]
pub struct Clients {
    open: RefCell<BTreeMap<i64, Rc<Shown>>>,
    last_id: Cell<i64>,
}

impl Clients {
    /// Registers a connection.
    pub fn register(&self, addresses: Addresses, wall_ms: u64) -> Rc<Shown> {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let shown = Rc::new(Shown::new(id, addresses, wall_ms));
        self.open.borrow_mut().insert(id, Rc::clone(&shown));
        shown
    }

    /// Forgets a connection.
    pub fn remove(&self, id: i64) {
        self.open.borrow_mut().remove(&id);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// The one for which `measure` gives the most, of those for which it gives anything.
    pub fn max_by_key<K: Ord>(&self, measure: impl Fn(&Shown) -> Option<K>) -> Option<Rc<Shown>> {
        let open = self.open.borrow();
        let measured = open.values().filter_map(|shown| Some((measure(shown)?, shown)));
        measured.max_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, shown)| Rc::clone(shown))
    }

    /// Calls `look` with each, the oldest first.
    pub fn for_each(&self, mut look: impl FnMut(&Shown)) {
        for shown in self.open.borrow().values() {
            look(shown);
        }
    }
}
