//! The port over real sockets, against a member made of a map whose answers come late and in any
//! order.

mod access;
mod bounds;
mod commands;
mod listening;
mod pipelines;

use super::*;
use crate::engine::operation::{
    Change, Modified, OperationError, Outcome, Page, Read, Row, Scan, Stored, Wait, Write,
};
use crate::model::edit::{Edited, Modify, Returns, edit};
use crate::model::merge::CounterError;
use crate::model::record::LASTING_MS;
use crate::model::token::{Grant, Role, Token, Tokens};
use crate::model::{KeyHash, KeyRef, MemberId, Record, RecordRef, Timestamp};
use crate::node::access::{Access, Publisher};
use crate::node::local::{
    ChangeKind, Interest, Kinds, LocalInfo, Mailbox, NamedChange, RespCounts, Subscription,
};
use crate::security::{ClusterKeys, Keyring, Secret};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};

const WALL_MS: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Reads are answered at once.
    Here,
    /// Reads are carried out some time after they were submitted.
    Elsewhere,
}

enum Pending {
    Answer(Outcome),
    Read(String, Vec<u8>),
}

struct State {
    place: Place,
    records: BTreeMap<(String, Vec<u8>), Record>,
    pending: Vec<(Mailbox, u32, Pending)>,
    held: bool,
    time: u64,
    afters: Vec<u64>,
    hits: usize,
    refusal: Option<OperationError>,
    random: u64,
    /// Records that are looked at for a page, readable or not.
    max_looked_at: usize,
    /// The disk is behind from so many writes on.
    congested_after: Option<usize>,
    waiting: Vec<Mailbox>,
    /// How many writes were waited for, and for how many copies.
    waits: Vec<(usize, u16)>,
    /// How many copies are found of them at most.
    copies: u16,
    /// Who listens, and whether it still does.
    subscriptions: Vec<(Mailbox, bool)>,
    counts: Rc<RespCounts>,
}

#[derive(Clone)]
struct Fake(Rc<RefCell<State>>);

impl Fake {
    fn new(place: Place, random: u64) -> Self {
        let fake = Self(Rc::new(RefCell::new(State {
            place,
            records: BTreeMap::new(),
            pending: Vec::new(),
            held: false,
            time: 100,
            afters: Vec::new(),
            hits: 0,
            refusal: None,
            random: random | 1,
            max_looked_at: usize::MAX,
            congested_after: None,
            waiting: Vec::new(),
            waits: Vec::new(),
            copies: 2,
            subscriptions: Vec::new(),
            counts: Rc::default(),
        })));
        tokio::task::spawn_local(fake.clone().answer_in_any_order());
        fake
    }

    async fn answer_in_any_order(self) {
        loop {
            yield_now().await;
            let mut state = self.0.borrow_mut();
            // xorshift: which answers are next, and how many before others run.
            for _ in 0..state.random % 4 {
                state.random ^= state.random << 13;
                state.random ^= state.random >> 7;
                state.random ^= state.random << 17;
                if state.pending.is_empty() || state.held {
                    break;
                }
                let index = usize::try_from(state.random).unwrap() % state.pending.len();
                let (mailbox, token, pending) = state.pending.swap_remove(index);
                let outcome = match pending {
                    Pending::Answer(outcome) => outcome,
                    Pending::Read(collection, key) => {
                        Outcome::Found(state.records.get(&(collection, key)).cloned())
                    }
                };
                mailbox.push(token, outcome);
            }
            state.random = state.random.wrapping_add(0x9E37_79B9_7F4A_7C15) | 1;
        }
    }
}

impl State {
    fn apply(&mut self, write: Write<'_>) -> Outcome {
        if let Some(refusal) = &self.refusal {
            return Outcome::Failed(refusal.clone());
        }
        self.time = (self.time + 1).max(write.after + 1);
        let timestamp = Timestamp { time: self.time, member: MemberId(1) };
        let name = (write.key.collection().to_owned(), write.key.key().to_vec());
        let mut number = None;
        match write.change {
            Change::Set { value, expiry_ms } => {
                self.records.insert(name, Record::value(write.key, timestamp, expiry_ms, value));
            }
            Change::Delete => _ = self.records.remove(&name),
            Change::Increment { delta } => {
                let old = self.records.get(&name).map_or(Some(0), |record| {
                    std::str::from_utf8(record.view().body()).unwrap().parse().ok()
                });
                let Some(old) = old else { return Outcome::Failed(CounterError::NotANumber.into()) };
                let new: i64 = old + delta;
                let record = Record::value(write.key, timestamp, None, new.to_string().as_bytes());
                self.records.insert(name, record);
                number = Some(new);
            }
            Change::Modify(modify) => return self.modify(&name, write.key, modify, timestamp),
        }
        Outcome::Stored(Stored { timestamp, copies: 2, superseded: false, hash: KeyHash(0), number })
    }
}

impl State {
    fn modify(
        &mut self,
        name: &(String, Vec<u8>),
        key: KeyRef<'_>,
        modify: &Modify,
        timestamp: Timestamp,
    ) -> Outcome {
        let before = self.records.get(name).cloned();
        let readable = before.as_ref().map(Record::view);
        let (length, after) = match edit(readable, modify, WALL_MS, 1 << 20) {
            Err(error) => return Outcome::Failed(error.into()),
            Ok(Edited::Unmet) => {
                let present = readable.map(RecordRef::timestamp);
                let record = before.filter(|_| modify.returns != Returns::Nothing);
                return Outcome::Modified(Modified { stored: None, present, record });
            }
            Ok(Edited::Deleted) => (0, None),
            Ok(Edited::Value(value, expiry)) => {
                let expiry = expiry.filter(|end| *end != LASTING_MS);
                (value.len(), Some(Record::value(key, timestamp, expiry, &value)))
            }
            Ok(Edited::Counter(expiry)) => {
                let text = readable.map_or(0, RecordRef::total).to_string();
                (0, Some(Record::value(key, timestamp, expiry, text.as_bytes())))
            }
        };
        match after.clone() {
            Some(record) => _ = self.records.insert(name.clone(), record),
            None => _ = self.records.remove(name),
        }
        let number = i64::try_from(length).ok();
        let stored = Some(Stored { timestamp, copies: 2, superseded: false, hash: KeyHash(0), number });
        let present = before.as_ref().map(|record| record.view().timestamp());
        let record = match modify.returns {
            Returns::Nothing => None,
            Returns::Before => before,
            Returns::After => after,
        };
        Outcome::Modified(Modified { stored, present, record })
    }
}

impl State {
    fn page(&self, scan: &Scan) -> Page {
        let fits =
            |(collection, key): &(String, Vec<u8>)| *collection == scan.collection && scan.keys.contains(key);
        let fitting = self.records.iter().filter(|(name, _)| fits(name));
        let mut found: Vec<&Record> = fitting.map(|(_, record)| record).collect();
        if scan.reverse {
            found.reverse();
        }
        let (mut rows, mut come_to) = (Vec::new(), None);
        for (looked_at, record) in found.into_iter().enumerate() {
            if rows.len() == scan.limit || looked_at == self.max_looked_at {
                return Page { rows, resume: come_to };
            }
            come_to = Some(record.view().key().to_vec());
            if record.view().is_readable(WALL_MS) {
                rows.push(Row::Whole(record.clone()));
            }
        }
        Page { rows, resume: None }
    }
}

impl Local for Fake {
    fn get_now<R>(
        &self,
        key: KeyRef<'_>,
        hash: KeyHash,
        hit: impl FnOnce(Option<RecordRef<'_>>) -> R,
    ) -> Option<R> {
        assert_eq!(hash, key.hash());
        let mut state = self.0.borrow_mut();
        if state.place == Place::Elsewhere {
            return None;
        }
        state.hits += 1;
        let name = (key.collection().to_owned(), key.key().to_vec());
        Some(hit(state.records.get(&name).map(Record::view)))
    }

    fn read(&self, mailbox: &Mailbox, token: u32, read: Read<'_>) {
        let mut state = self.0.borrow_mut();
        let pending = match &state.refusal {
            Some(refusal) => Pending::Answer(Outcome::Failed(refusal.clone())),
            None => Pending::Read(read.key.collection().to_owned(), read.key.key().to_vec()),
        };
        state.pending.push((mailbox.clone(), token, pending));
    }

    fn write(&self, mailbox: &Mailbox, token: u32, write: Write<'_>) {
        let mut state = self.0.borrow_mut();
        state.afters.push(write.after);
        let outcome = state.apply(write);
        state.pending.push((mailbox.clone(), token, Pending::Answer(outcome)));
    }

    fn wait(&self, mailbox: &Mailbox, token: u32, wait: Wait) {
        let copies = Outcome::Copies(wait.copies.min(self.0.borrow().copies));
        self.0.borrow_mut().waits.push((wait.writes.len(), wait.copies));
        self.0.borrow_mut().pending.push((mailbox.clone(), token, Pending::Answer(copies)));
    }

    fn scan(&self, mailbox: &Mailbox, token: u32, scan: &Scan) {
        let mut state = self.0.borrow_mut();
        let outcome = match &state.refusal {
            Some(refusal) => Outcome::Failed(refusal.clone()),
            None => Outcome::Page(state.page(scan)),
        };
        state.pending.push((mailbox.clone(), token, Pending::Answer(outcome)));
    }

    fn read_clocks(&self) -> u64 {
        WALL_MS
    }

    fn info(&self) -> LocalInfo {
        let collections = ["default", "1", "2"].map(|name| (name.to_owned(), 1)).to_vec();
        LocalInfo { member: "one".to_owned(), records: 3, collections, ..LocalInfo::default() }
    }

    fn max_value_bytes(&self) -> usize {
        crate::model::limits::MAX_VALUE_BYTES
    }

    fn is_congested(&self) -> bool {
        let state = self.0.borrow();
        state.congested_after.is_some_and(|writes| state.afters.len() >= writes)
    }

    fn wake_when_relieved(&self, mailbox: &Mailbox) {
        self.0.borrow_mut().waiting.push(mailbox.clone());
    }

    fn subscribe(&self, mailbox: &Mailbox, _: &Interest, _: Kinds) -> Result<Subscription, OperationError> {
        let mut state = self.0.borrow_mut();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        state.subscriptions.push((mailbox.clone(), true));
        Ok(Subscription(state.subscriptions.len() as u64))
    }

    fn unsubscribe(&self, subscription: Subscription) {
        let at = usize::try_from(subscription.0).unwrap() - 1;
        self.0.borrow_mut().subscriptions[at].1 = false;
    }

    fn resp_counts(&self) -> Rc<RespCounts> {
        Rc::clone(&self.0.borrow().counts)
    }
}

struct Port {
    address: std::net::SocketAddr,
    fake: Fake,
    tokens: Publisher,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Port {
    async fn open(place: Place, random: u64, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, fake) = (listener.local_addr().unwrap(), Fake::new(place, random));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { _ = stopped.await };
        let keys = Secret::parse("a secret of sixteen bytes").unwrap();
        let keyring = Keyring::new(ClusterKeys::derive(&keys, "c").unwrap(), None);
        let (tokens, access) = Access::new(keyring, false);
        tokens.publish(&Arc::default());
        let guard = Guard { access, tls: None, advertised: "localhost".into() };
        let ended = tokio::task::spawn_local(serve(listener, fake.clone(), guard, limits, shutdown));
        Self { address, fake, tokens, stop, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `input` over a connection of its own and returns all that comes back.
    async fn exchange(&self, input: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(input).await.unwrap();
        stream.shutdown().await.unwrap();
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn expect(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(60);
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(limit, test).await.unwrap() });
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

/// Tokens by name, role and collections between spaces; the secret of each is its name again.
fn tokens(all: &[(&str, Role, &str)]) -> Arc<Tokens> {
    let values: Vec<_> = all
        .iter()
        .map(|(name, role, collections)| {
            let grant = |collections: &str| Grant { role: *role, collections: collections.to_owned() };
            let grants = collections.split(' ').map(grant).collect();
            (name.as_bytes(), Token::create(name, name, grants, 0).unwrap().0.encode())
        })
        .collect();
    Arc::new(Tokens::from_records(values.iter().map(|(name, value)| (*name, value.as_slice()))))
}

/// What another protocol changes, and only for commands behind the one that asked for it.
const PROTOCOLS: &[(&str, &str)] = &[
    ("GET none", "$-1\r\n"),
    ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
    (
        "HELLO 3 SETNAME me",
        "%7\r\n$6\r\nserver\r\n$4\r\nkith\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n\
         $4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
    ),
    ("GET none", "_\r\n"),
    ("MGET none none", "*2\r\n_\r\n_\r\n"),
    ("SET k v XX", "_\r\n"),
    ("CONFIG GET save", "%1\r\n$4\r\nsave\r\n$0\r\n\r\n"),
    ("INFO nothing", "=4\r\ntxt:\r\n"),
    ("SELECT 5", "+OK\r\n"),
    ("CLIENT GETNAME", "$2\r\nme\r\n"),
    ("RESET", "+RESET\r\n"),
    ("CLIENT GETNAME", "$-1\r\n"),
    ("SET k v", "+OK\r\n"),
    ("SELECT 0", "+OK\r\n"),
    ("GET k", "$1\r\nv\r\n"),
];
