//! The port over real sockets, against a member made of a map whose answers come late and in any
//! order.

use super::*;
use crate::engine::operation::{
    Change, Modified, OperationError, Outcome, Page, Read, Row, Scan, Stored, Wait, Write,
};
use crate::model::edit::{Edited, Modify, Returns, edit};
use crate::model::merge::CounterError;
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
    /// The disk is behind from so many writes on.
    congested_after: Option<usize>,
    waiting: Vec<Mailbox>,
    /// How many writes were waited for, and for how many copies.
    waits: Vec<(usize, u16)>,
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
            congested_after: None,
            waiting: Vec::new(),
            waits: Vec::new(),
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
        let mut found = self.records.iter().filter(|(name, _)| fits(name)).map(|(_, record)| record.clone());
        let rows: Vec<Row> = found.by_ref().take(scan.limit).map(Row::Whole).collect();
        let resume = found.next().and_then(|_| rows.last().map(|row| row.key().to_vec()));
        Page { rows, resume }
    }
}

impl Local for Fake {
    fn get_now<R>(&self, key: KeyRef<'_>, hit: impl FnOnce(Option<RecordRef<'_>>) -> R) -> Option<R> {
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
        let copies = Outcome::Copies(wait.copies.min(2));
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
        LocalInfo { member: "one".to_owned(), records: 3, ..LocalInfo::default() }
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
        let guard = Guard { access, tls: None };
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

/// Commands of one session and their replies.
const SESSION: &[(&str, &str)] = &[
    ("PING", "+PONG\r\n"),
    ("ping hello", "$5\r\nhello\r\n"),
    ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
    ("ECHO \"a b\"", "$3\r\na b\r\n"),
    ("GET none", "$-1\r\n"),
    ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
    ("SET k v", "+OK\r\n"),
    ("GET k", "$1\r\nv\r\n"),
    ("SET k v EX 1 PX 1", "-ERR syntax error\r\n"),
    ("SET k v EX x", "-ERR value is not an integer or out of range\r\n"),
    ("SET k v EX 0", "-ERR invalid expire time in 'set' command\r\n"),
    ("SET k v PX 9223372036854775807", "-ERR invalid expire time in 'set' command\r\n"),
    ("SET k v EX 9223372036854776", "-ERR invalid expire time in 'set' command\r\n"),
    ("SET k v px 1499", "+OK\r\n"),
    ("PTTL k", ":1499\r\n"),
    ("TTL k", ":1\r\n"),
    ("SET k v EX 2", "+OK\r\n"),
    ("PTTL k", ":2000\r\n"),
    ("SET k v EXAT 1001", "+OK\r\n"),
    ("PTTL k", ":1000\r\n"),
    ("SET k v PXAT 1000007", "+OK\r\n"),
    ("PTTL k", ":7\r\n"),
    ("SET k v", "+OK\r\n"),
    ("TTL k", ":-1\r\n"),
    ("TTL none", ":-2\r\n"),
    ("MSET a 1 b 2", "+OK\r\n"),
    ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command\r\n"),
    ("MGET a none b", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n"),
    ("EXISTS a a none b", ":3\r\n"),
    ("INCR a", ":2\r\n"),
    ("DECRBY a 12", ":-10\r\n"),
    ("INCRBY a +1", "-ERR value is not an integer or out of range\r\n"),
    ("DECRBY a -9223372036854775808", "-ERR decrement would overflow\r\n"),
    ("INCR k", "-ERR value is not an integer or out of range\r\n"),
    ("DEL a a none b", ":2\r\n"),
    ("UNLINK k", ":1\r\n"),
    ("SET '' v", "-ERR a key has at least one byte\r\n"),
    ("MSET k 1 '' 2", "-ERR a key has at least one byte\r\n"),
    ("EXISTS k", ":0\r\n"),
    ("SELECT 3", "+OK\r\n"),
    ("SET k three", "+OK\r\n"),
    ("SELECT 0", "+OK\r\n"),
    ("GET k", "$-1\r\n"),
    ("SELECT 65536", "-ERR DB index is out of range\r\n"),
    ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
    ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
    ("CONFIG GET appendonly", "*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n"),
    ("CONFIG GET nothing", "*0\r\n"),
    ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command\r\n"),
    ("CONFIG SET save x", "-ERR unknown subcommand 'SET'. Try CONFIG HELP.\r\n"),
    ("CLIENT SETNAME me", "+OK\r\n"),
    ("CLIENT GETNAME", "$2\r\nme\r\n"),
    ("CLIENT SETNAME 'a b'", "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"),
    ("CLIENT SETINFO lib-name x", "+OK\r\n"),
    ("CLIENT ID", ":1\r\n"),
    ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
    ("HELLO 2 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'\r\n"),
    ("HELLO 2 AUTH a b", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
    (
        "AUTH a",
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n",
    ),
    ("AUTH a b", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
    ("AUTH a b c", "-ERR syntax error\r\n"),
    ("FOO a \"b\\r\\nc\"", "-ERR unknown command 'FOO', with args beginning with: 'a' 'b  c' \r\n"),
    ("QUIT", "+OK\r\n"),
];

#[test]
fn each_command_answers_as_redis_does() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let mut stream = port.connect().await;
        for &(command, reply) in SESSION {
            stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
            let mut bytes = vec![0; reply.len()];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), reply, "{command}");
        }
        assert_eq!(rest(&mut stream).await, "", "QUIT closes");
    });
}

#[test]
fn info_has_the_sections_that_were_asked_for() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let all = port.exchange(b"INFO\r\n").await;
        for line in ["# Server", "redis_version:7.0.15", "connected_clients:1", "role:master", "member:one"] {
            assert!(all.lines().any(|found| found == line), "{line} is missing in {all}");
        }
        let one = port.exchange(b"INFO replication\r\n").await;
        assert!(one.contains("role:master") && !one.contains("# Server"), "{one}");
    });
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

#[test]
fn each_reply_is_in_the_protocol_in_which_its_command_was_sent() {
    run(async {
        for place in [Place::Here, Place::Elsewhere] {
            let port = Port::open(place, 9, Limits::default()).await;
            let input: String = PROTOCOLS.iter().map(|(command, _)| format!("{command}\r\n")).collect();
            let expected: String = PROTOCOLS.iter().map(|(_, reply)| *reply).collect();
            assert_eq!(port.exchange(input.as_bytes()).await, expected);
        }
    });
}

#[test]
fn a_scan_goes_on_over_another_connection_and_finds_each_key_once() {
    run(async {
        let port = Port::open(Place::Here, 3, Limits::default()).await;
        let pairs: String = (0..95).map(|n| format!(" k{n:02} {n} other{n} {n}")).collect();
        port.exchange(format!("MSET{pairs}\r\n").as_bytes()).await;
        let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
        loop {
            let page = port.exchange(format!("SCAN {cursor} MATCH k* COUNT 10\r\n").as_bytes()).await;
            let mut lines = page.lines().filter(|line| !line.starts_with(['*', '$'])).map(str::to_owned);
            cursor = lines.next().unwrap();
            let before = keys.len();
            keys.extend(lines);
            assert!(keys.len() - before <= 10);
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(keys, (0..95).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
        let unknown = "-ERR invalid cursor\r\n";
        assert_eq!(port.exchange(b"SCAN 77\r\nSCAN x\r\nSCAN -1\r\n").await, unknown.repeat(3));
    });
}

#[test]
fn keys_answers_no_more_than_a_value_may_have() {
    run(async {
        let port = Port::open(Place::Here, 3, Limits::default()).await;
        let long = "x".repeat(4_000);
        for n in 0..2_100 {
            let key = format!("{n:04}{long}");
            let record =
                Record::value(KeyRef::new("default", key.as_bytes()).unwrap(), Timestamp::ZERO, None, b"");
            port.fake.0.borrow_mut().records.insert(("default".to_owned(), key.into_bytes()), record);
        }
        let reply = port.exchange(b"KEYS *\r\nDBSIZE\r\nKEYS 000?x*\r\n").await;
        let refused =
            "-ERR too many keys match; use SCAN, which lists them some at a time\r\n:2100\r\n*10\r\n";
        assert!(reply.starts_with(refused), "{}", &reply[..100]);
        let flushed = port.exchange(b"FLUSHDB\r\nDBSIZE\r\nRANDOMKEY\r\n").await;
        assert_eq!(flushed, "+OK\r\n:0\r\n$-1\r\n");
    });
}

#[test]
fn commands_that_list_tell_why_they_can_not() {
    run(async {
        let port = Port::open(Place::Here, 3, Limits::default()).await;
        port.fake.0.borrow_mut().refusal = Some(OperationError::Unreachable);
        let reply = port.exchange(b"SCAN 0\r\nKEYS *\r\nDBSIZE\r\nRANDOMKEY\r\nFLUSHDB\r\nPING\r\n").await;
        let words: Vec<&str> = reply.lines().filter_map(|line| line.split(' ').next()).collect();
        let down = "-CLUSTERDOWN";
        assert_eq!(words, [down, down, down, down, down, "+PONG"]);
    });
}

/// Tells the listener of a subscription that keys were set.
fn tell(port: &Port, subscription: u64, keys: &[&str], collection: &str) {
    let changes = keys.iter().map(|key| NamedChange {
        kind: ChangeKind::Set,
        collection: collection.to_owned(),
        key: key.as_bytes().to_vec(),
    });
    let at = usize::try_from(subscription).unwrap() - 1;
    let mailbox = port.fake.0.borrow().subscriptions[at].0.clone();
    mailbox.push_changes(Subscription(subscription), &changes.collect());
}

#[test]
fn messages_stand_between_replies_and_end_with_the_subscription() {
    run(async {
        let port = Port::open(Place::Elsewhere, 5, Limits::default()).await;
        let mut stream = port.connect().await;
        stream.write_all(b"HELLO 3 SETNAME me\r\nSET k v\r\nSUBSCRIBE __keyspace@0__:k\r\n").await.unwrap();
        let confirmed = ">3\r\n$9\r\nsubscribe\r\n$16\r\n__keyspace@0__:k\r\n:1\r\n";
        expect(&mut stream, &format!("{}+OK\r\n{confirmed}", PROTOCOLS[2].1)).await;
        port.fake.0.borrow_mut().held = true;
        stream.write_all(b"MGET k k\r\nPING\r\n").await.unwrap();
        until(|| !port.fake.0.borrow().pending.is_empty()).await;
        tell(&port, 1, &["k", "other"], "default");
        for _ in 0..100 {
            yield_now().await;
        }
        port.fake.0.borrow_mut().held = false;
        let message = ">3\r\n$7\r\nmessage\r\n$16\r\n__keyspace@0__:k\r\n$3\r\nset\r\n";
        expect(&mut stream, &format!("*2\r\n$1\r\nv\r\n$1\r\nv\r\n+PONG\r\n{message}")).await;
        stream.write_all(b"RESET\r\n").await.unwrap();
        expect(&mut stream, "+RESET\r\n").await;
        assert!(!port.fake.0.borrow().subscriptions[0].1);
        tell(&port, 1, &["k"], "default");
        stream.write_all(b"PING\r\n").await.unwrap();
        expect(&mut stream, "+PONG\r\n").await;
    });
}

#[test]
fn who_does_not_read_what_it_listens_to_is_cut_off() {
    run(async {
        let limits = Limits { message_bytes: 100_000, ..Limits::default() };
        let port = Port::open(Place::Here, 5, limits).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        let mut stream = port.connect().await;
        stream.write_all(b"PSUBSCRIBE *\r\n").await.unwrap();
        expect(&mut stream, "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n").await;
        let long = "x".repeat(4_000);
        while counts.slow_listeners.get() == 0 {
            tell(&port, 1, &[long.as_str(); 10], "default");
            yield_now().await;
        }
        until(|| counts.connections.get() == 0).await;
    });
}

#[test]
fn what_a_connection_listened_to_ends_with_it() {
    run(async {
        let port = Port::open(Place::Here, 5, Limits::default()).await;
        let mut stream = port.connect().await;
        stream.write_all(b"SUBSCRIBE __keyspace@0__:a __keyspace@0__:b\r\nPSUBSCRIBE *\r\n").await.unwrap();
        until(|| port.fake.0.borrow().subscriptions.len() == 3).await;
        drop(stream);
        until(|| port.fake.0.borrow().counts.connections.get() == 0).await;
        assert!(port.fake.0.borrow().subscriptions.iter().all(|(_, listens)| !listens));
    });
}

#[test]
fn a_connection_has_a_share_of_what_can_be_watched() {
    run(async {
        let port = Port::open(Place::Here, 5, Limits::default()).await;
        let of_keys: String = (0..100).map(|key| format!("SUBSCRIBE __keyspace@0__:{key}\r\n")).collect();
        let told = port.exchange(format!("HELLO 3\r\n{of_keys}SUBSCRIBE news\r\n").as_bytes()).await;
        assert_eq!(told.matches("$9\r\nsubscribe\r\n").count(), 65, "news is no key's channel");
        assert_eq!(told.matches("-ERR a connection listens to 64").count(), 36);
        let state = port.fake.0.borrow();
        assert_eq!(state.subscriptions.len(), 64);
        assert_eq!(state.counts.refused_listeners.get(), 36);
    });
}

#[test]
fn names_and_patterns_that_are_listened_to_are_bounded() {
    run(async {
        let port = Port::open(Place::Here, 5, Limits::default()).await;
        let long = |bytes: usize| "x".repeat(bytes);
        let (wild, key) = (format!("*{}", long(256)), format!("__keyspace@0__:{}", long(4_097)));
        let refused = format!("SUBSCRIBE {}\r\nSUBSCRIBE {key}\r\nPSUBSCRIBE {wild}\r\n", long(4_161));
        let told = port.exchange(refused.as_bytes()).await;
        let replies: Vec<&str> = told.lines().collect();
        assert!(
            matches!(replies[..], [a, b, c] if a.contains("4160") && b.contains("4096") && c.contains("256"))
        );
        let large: String = (100..130).map(|n| format!("SUBSCRIBE {n}{}\r\n", long(4_000))).collect();
        let told = port.exchange(format!("HELLO 3\r\n{large}").as_bytes()).await;
        assert_eq!(told.matches("$9\r\nsubscribe\r\n").count(), 16);
        let patterns: String = (0..70).map(|n| format!("PSUBSCRIBE news-{n}*\r\n")).collect();
        let told = port.exchange(format!("HELLO 3\r\n{patterns}").as_bytes()).await;
        assert_eq!(told.matches("-ERR a connection listens to 64 patterns").count(), 6);
    });
}

#[test]
fn a_listener_hears_only_of_what_it_may_read() {
    run(async {
        let port = Port::open(Place::Here, 5, Limits::default()).await;
        port.tokens.publish(&tokens(&[("app", Role::Read, "1")]));
        let mut stream = port.connect().await;
        let input = b"AUTH kith_app_app\r\nSUBSCRIBE __keyevent@2__:set\r\nPSUBSCRIBE *\r\n";
        stream.write_all(input).await.unwrap();
        let forbidden =
            "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
        let confirmed = "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n";
        expect(&mut stream, &format!("+OK\r\n{forbidden}{confirmed}")).await;
        tell(&port, 1, &["a"], "2");
        tell(&port, 1, &["b"], "1");
        let head = "*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n";
        let first = format!("{head}$16\r\n__keyspace@1__:b\r\n$3\r\nset\r\n");
        expect(&mut stream, &format!("{first}{head}$18\r\n__keyevent@1__:set\r\n$1\r\nb\r\n")).await;
    });
}

#[test]
fn a_wait_is_for_what_was_written_before_and_is_answered_after_it() {
    run(async {
        for place in [Place::Here, Place::Elsewhere] {
            let port = Port::open(place, 5, Limits::default()).await;
            let reply = port
                .exchange(b"SET k v\r\nWAIT 1 0\r\nAPPEND k w\r\nINCR n\r\nWAIT 0 100\r\nGET k\r\n")
                .await;
            assert_eq!(reply, "+OK\r\n:1\r\n:2\r\n:1\r\n:0\r\n$2\r\nvw\r\n");
            assert_eq!(port.fake.0.borrow().waits, [(1, 2), (2, 1)]);
        }
    });
}

#[test]
fn a_copy_needs_the_right_to_write_where_it_goes() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.exchange(b"SELECT 1\r\nSET k v\r\n").await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "1")]));
        let reply =
            port.exchange(b"AUTH kith_app_app\r\nSELECT 1\r\nCOPY k l DB 2\r\nCOPY k l DB 12\r\n").await;
        let forbidden =
            "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
        assert_eq!(reply, format!("+OK\r\n+OK\r\n{forbidden}:1\r\n"));
    });
}

#[test]
fn large_commands_of_all_connections_together_are_bounded() {
    run(async {
        let limits = Limits { large_input_bytes: 80_000, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let large = |bytes: usize| {
            let value = "x".repeat(bytes);
            format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${bytes}\r\n{value}")
        };
        let mut first = port.connect().await;
        first.write_all(large(60_000).as_bytes()).await.unwrap();
        until(|| port.fake.0.borrow().counts.bytes_received.get() >= 60_000).await;
        let mut second = port.connect().await;
        _ = second.write_all(large(60_000).as_bytes()).await;
        let refused = "-ERR Protocol error: too many large requests at once, try again shortly\r\n";
        assert_eq!(rest(&mut second).await, refused);
        assert_eq!(port.fake.0.borrow().counts.too_large.get(), 1);
        first.write_all(b"\r\n").await.unwrap();
        expect(&mut first, "+OK\r\n").await;
        drop(first);
        until(|| port.fake.0.borrow().counts.connections.get() == 0).await;
        assert_eq!(port.exchange(format!("{}\r\n", large(60_000)).as_bytes()).await, "+OK\r\n");
    });
}

#[test]
fn an_unknown_command_is_quoted_only_in_part() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let long = "x".repeat(300);
        let reply = port.exchange(format!("{long} {long} {long}\r\n").as_bytes()).await;
        let part = "x".repeat(128);
        assert_eq!(reply, format!("-ERR unknown command '{part}', with args beginning with: '{part}' \r\n"));
    });
}

#[test]
fn broken_requests_are_answered_and_cut_off() {
    let cases: [(&[u8], &str); 5] = [
        (b"PING\r\n*x\r\n", "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n:4\r\nPING\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n$\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"GET 'a\r\nPING\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388609\r\nabc", "-ERR Protocol error: invalid bulk length\r\n"),
    ];
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        for (input, reply) in cases {
            let mut stream = port.connect().await;
            stream.write_all(input).await.unwrap();
            assert_eq!(rest(&mut stream).await, reply);
        }
    });
}

#[test]
fn each_refusal_of_the_member_has_its_word() {
    run(async {
        for place in [Place::Here, Place::Elsewhere] {
            let port = Port::open(place, 7, Limits::default()).await;
            port.fake.0.borrow_mut().refusal = Some(OperationError::Starting);
            let reply = port.exchange(b"SET k v\r\nMSET k 1 l 2\r\nINCR k\r\nPING\r\n").await;
            let words: Vec<&str> = reply.lines().filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(words, ["-LOADING", "-LOADING", "-LOADING", "+PONG"]);
        }
        let port = Port::open(Place::Elsewhere, 7, Limits::default()).await;
        port.fake.0.borrow_mut().refusal = Some(OperationError::Unreachable);
        let reply = port.exchange(b"GET k\r\nDEL k l\r\nEXISTS k\r\nMGET k\r\n").await;
        let words: Vec<&str> = reply.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(words, ["-CLUSTERDOWN", "-CLUSTERDOWN", "-CLUSTERDOWN", "*1", "-CLUSTERDOWN"]);
    });
}

#[test]
fn a_sessions_writes_follow_what_it_has_seen() {
    run(async {
        for place in [Place::Here, Place::Elsewhere] {
            let port = Port::open(place, 3, Limits::default()).await;
            {
                let mut state = port.fake.0.borrow_mut();
                let key = KeyRef::new("default", b"k").unwrap();
                let stamp = Timestamp { time: 5_000, member: MemberId(9) };
                let record = Record::value(key, stamp, None, b"v");
                state.records.insert(("default".to_owned(), b"k".to_vec()), record);
            }
            let mut stream = port.connect().await;
            for (command, reply) in [
                ("SET a 1", "+OK\r\n"),
                ("GET k", "$1\r\nv\r\n"),
                ("SET a 2", "+OK\r\n"),
                ("DEL a", ":1\r\n"),
            ] {
                stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
                expect(&mut stream, reply).await;
            }
            assert_eq!(port.fake.0.borrow().afters, [0, 5_000, 5_001]);
        }
    });
}

/// Lets the disk catch up, with room for so many more writes.
fn relieve(port: &Port, writes: Option<usize>) {
    let mut state = port.fake.0.borrow_mut();
    state.congested_after = writes.map(|more| state.afters.len() + more);
    for mailbox in state.waiting.drain(..) {
        mailbox.wake();
    }
}

#[test]
fn no_command_is_executed_while_the_disk_is_behind_and_all_are_once_it_has_caught_up() {
    run(async {
        let port = Port::open(Place::Here, 5, Limits::default()).await;
        relieve(&port, Some(3));
        let mut stream = port.connect().await;
        stream.write_all(b"SET a 1\r\nMSET b 2 c 3 d 4 e 5\r\nGET a\r\nDEL a b\r\nGET a\r\n").await.unwrap();
        expect(&mut stream, "+OK\r\n").await;
        until(|| !port.fake.0.borrow().waiting.is_empty()).await;
        assert_eq!(port.fake.0.borrow().afters.len(), 3, "MSET waits in its middle");
        relieve(&port, Some(3));
        expect(&mut stream, "+OK\r\n$1\r\n1\r\n").await;
        until(|| !port.fake.0.borrow().waiting.is_empty()).await;
        assert_eq!(port.fake.0.borrow().afters.len(), 6, "DEL waits in its middle");
        relieve(&port, None);
        expect(&mut stream, ":2\r\n$-1\r\n").await;
        assert_eq!(port.fake.0.borrow().counts.commands.get(), 5);
    });
}

#[test]
fn a_port_that_closes_does_not_wait_for_the_disk_beyond_its_deadline() {
    run(async {
        let limits = Limits { drain: Duration::from_millis(20), ..Limits::default() };
        let port = Port::open(Place::Here, 5, limits).await;
        relieve(&port, Some(0));
        let mut stream = port.connect().await;
        stream.write_all(b"SET a 1\r\n").await.unwrap();
        until(|| !port.fake.0.borrow().waiting.is_empty()).await;
        port.stop.send(()).unwrap();
        port.ended.await.unwrap();
        assert_eq!(port.fake.0.borrow().afters, [0; 0]);
    });
}

#[test]
fn what_the_port_does_is_counted() {
    run(async {
        let limits = Limits { connections: 1, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        let mut stream = port.connect().await;
        let sent = b"PING\r\nFOO\r\nINCRBY a b\r\nSET a b\r\nINCR a\r\n";
        stream.write_all(sent).await.unwrap();
        until(|| counts.errors.get() == 3).await;
        assert_eq!((counts.commands.get(), counts.connections.get()), (5, 1));
        assert_eq!(rest(&mut port.connect().await).await, "-ERR max number of clients reached\r\n");
        stream.shutdown().await.unwrap();
        let received = rest(&mut stream).await;
        until(|| counts.connections.get() == 0).await;
        assert_eq!((counts.accepted.get(), counts.rejected.get()), (1, 1));
        let bytes = (counts.bytes_received.get(), counts.bytes_sent.get());
        assert_eq!(bytes, (sent.len() as u64, received.len() as u64));
    });
}

#[test]
fn commands_with_more_keys_than_may_be_in_flight_are_carried_out_whole() {
    run(async {
        for place in [Place::Here, Place::Elsewhere] {
            let limits = Limits { in_flight: 8, ..Limits::default() };
            let port = Port::open(place, 5, limits).await;
            let pairs: String = (0..1_000).map(|n| format!(" key{n} {n}")).collect();
            let names: String = (0..1_000).map(|n| format!(" key{n}")).collect();
            let values: String =
                (0..1_000).map(|n: i32| format!("${}\r\n{n}\r\n", n.to_string().len())).collect();
            let input =
                format!("MSET{pairs}\r\nEXISTS{names}\r\nMGET{names}\r\nDEL{names}\r\nEXISTS{names}\r\n");
            let reply = port.exchange(input.as_bytes()).await;
            assert_eq!(reply, format!("+OK\r\n:1000\r\n*1000\r\n{values}:1000\r\n:0\r\n"));
        }
    });
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    const COMMANDS: usize = 2_000;
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let value = "x".repeat(100_000);
        assert_eq!(
            port.exchange(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n{value}\r\n").as_bytes()).await,
            "+OK\r\n"
        );
        let (mut reading, mut writing) = port.connect().await.into_split();
        let writer = tokio::task::spawn_local(async move {
            writing.write_all("GET k\r\n".repeat(COMMANDS).as_bytes()).await.unwrap();
            writing
        });
        // It stops once the sockets' buffers and its own are full, far from the end.
        let (mut hits, mut same) = (0, 0);
        while same < 1_000 {
            yield_now().await;
            let now = port.fake.0.borrow().hits;
            (hits, same) = if now == hits && now > 0 { (now, same + 1) } else { (now, 0) };
        }
        assert!(hits < COMMANDS, "{hits} replies of 100 kB were made for a client that reads none");
        let mut got = 0;
        let mut buffer = vec![0; 1 << 20];
        while got < COMMANDS * 100_011 {
            got += reading.read(&mut buffer).await.unwrap();
        }
        assert_eq!(got, COMMANDS * "$100000\r\n\r\n".len() + COMMANDS * value.len());
        writer.await.unwrap();
    });
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits { connections: 1, ..Limits::default() }).await;
        let mut first = port.connect().await;
        first.write_all(b"PING\r\n").await.unwrap();
        expect(&mut first, "+PONG\r\n").await;
        assert_eq!(rest(&mut port.connect().await).await, "-ERR max number of clients reached\r\n");
        drop(first);
        let mut got = Vec::new();
        while got != b"+OK\r\n" {
            let mut next = port.connect().await;
            // Refused connections may be reset at any point.
            _ = next.write_all(b"QUIT\r\n").await;
            got.clear();
            _ = next.read_to_end(&mut got).await;
        }
    });
}

#[test]
fn a_closing_port_answers_what_it_has_read() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.fake.0.borrow_mut().held = true;
        let (mut busy, mut idle) = (port.connect().await, port.connect().await);
        busy.write_all(b"SET k v\r\nGET k\r\nPI").await.unwrap();
        idle.write_all(b"PING\r\n").await.unwrap();
        expect(&mut idle, "+PONG\r\n").await;
        until(|| port.fake.0.borrow().hits == 1).await;
        port.stop.send(()).unwrap();
        assert_eq!(rest(&mut idle).await, "");
        port.fake.0.borrow_mut().held = false;
        assert_eq!(rest(&mut busy).await, "+OK\r\n$1\r\nv\r\n");
        port.ended.await.unwrap();
        assert!(TcpStream::connect(port.address).await.is_err());
    });
}

#[test]
fn a_closing_port_cuts_what_is_not_answered_in_time() {
    run(async {
        let limits = Limits { drain: Duration::from_millis(20), ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        port.fake.0.borrow_mut().held = true;
        let mut stream = port.connect().await;
        stream.write_all(b"SET k v\r\n").await.unwrap();
        until(|| !port.fake.0.borrow().pending.is_empty()).await;
        port.stop.send(()).unwrap();
        port.ended.await.unwrap();
        assert_eq!(rest(&mut stream).await, "");
    });
}

#[test]
fn answers_for_a_client_that_left_are_dropped() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.fake.0.borrow_mut().held = true;
        let mut stream = port.connect().await;
        stream.write_all(b"SET k v\r\n").await.unwrap();
        until(|| !port.fake.0.borrow().pending.is_empty()).await;
        // Unsent replies to a socket that was reset end the connection.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        port.fake.0.borrow_mut().held = false;
        until(|| port.fake.0.borrow().pending.is_empty()).await;
        assert_eq!(port.exchange(b"GET k\r\n").await, "$1\r\nv\r\n");
    });
}

/// What one command does to the simplest store there is.
fn model(store: &mut BTreeMap<u8, i64>, (kind, key, value): (u8, u8, i16)) -> (String, String) {
    let found = |store: &BTreeMap<u8, i64>, key: u8| {
        store.get(&key).map_or("$-1\r\n".to_owned(), |v| format!("${}\r\n{v}\r\n", v.to_string().len()))
    };
    let (other, value) = (key ^ 1, i64::from(value));
    match kind {
        0 => (format!("GET {key}"), found(store, key)),
        1 => {
            store.insert(key, value);
            (format!("SET {key} {value}"), "+OK\r\n".to_owned())
        }
        2 => {
            let deleted = [key, other].iter().filter(|key| store.remove(key).is_some()).count();
            (format!("DEL {key} {other}"), format!(":{deleted}\r\n"))
        }
        3 => {
            let total = store.entry(key).or_default();
            *total += value;
            (format!("INCRBY {key} {value}"), format!(":{total}\r\n"))
        }
        4 => {
            store.extend([(key, value), (other, 5)]);
            (format!("MSET {key} {value} {other} 5"), "+OK\r\n".to_owned())
        }
        5 => {
            let (first, second) = (found(store, key), found(store, other));
            (format!("MGET {key} {other}"), format!("*2\r\n{first}{second}"))
        }
        6 => {
            let count = [key, other].iter().filter(|key| store.contains_key(key)).count();
            (format!("EXISTS {key} {other}"), format!(":{count}\r\n"))
        }
        _ => looking_model(store, (kind, key, value)),
    }
}

/// The same for commands that look before they change, or at all keys.
fn looking_model(store: &mut BTreeMap<u8, i64>, (kind, key, value): (u8, u8, i64)) -> (String, String) {
    let found = |store: &BTreeMap<u8, i64>, key: u8| {
        store.get(&key).map_or("$-1\r\n".to_owned(), |v| format!("${}\r\n{v}\r\n", v.to_string().len()))
    };
    let other = key ^ 1;
    match kind {
        7 => {
            let reply = format!(":{}\r\n", i64::from(!store.contains_key(&key)));
            store.entry(key).or_insert(value);
            (format!("SETNX {key} {value}"), reply)
        }
        8 => {
            let before = found(store, key);
            store.remove(&key);
            (format!("GETDEL {key}"), before)
        }
        9 => {
            let before = found(store, key);
            if store.contains_key(&key) {
                store.insert(key, value);
            }
            (format!("SET {key} {value} XX GET"), before)
        }
        10 => {
            let length = store.get(&key).map_or(0, |value| value.to_string().len());
            (format!("STRLEN {key}"), format!(":{length}\r\n"))
        }
        11 => {
            let Some(moved) = store.remove(&key) else {
                return (format!("RENAME {key} {other}"), "-ERR no such key\r\n".to_owned());
            };
            store.insert(other, moved);
            (format!("RENAME {key} {other}"), "+OK\r\n".to_owned())
        }
        12 => {
            let copied = store.get(&key).copied().filter(|_| !store.contains_key(&other));
            store.extend(copied.map(|value| (other, value)));
            (format!("COPY {key} {other}"), format!(":{}\r\n", i64::from(copied.is_some())))
        }
        13 => ("DBSIZE".to_owned(), format!(":{}\r\n", store.len())),
        14 => {
            let keys: String = store.keys().map(|key| format!("$1\r\n{key}\r\n")).collect();
            ("SCAN 0 COUNT 10".to_owned(), format!("*2\r\n$1\r\n0\r\n*{}\r\n{keys}", store.len()))
        }
        15 if value % 4 == 0 => {
            store.clear();
            ("FLUSHDB".to_owned(), "+OK\r\n".to_owned())
        }
        _ => (format!("ECHO {value}"), format!("${}\r\n{value}\r\n", value.to_string().len())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_pipeline_is_answered_as_if_its_commands_came_one_by_one(
        commands in proptest::collection::vec((0u8..17, 0u8..4, any::<i16>()), 1..80),
        elsewhere: bool,
        random: u64,
        piece in 1usize..400,
        in_flight in 1usize..20,
    ) {
        let (mut store, mut input, mut expected) = (BTreeMap::new(), String::new(), String::new());
        for command in commands {
            let (request, reply) = model(&mut store, command);
            input.push_str(&request);
            input.push_str("\r\n");
            expected.push_str(&reply);
        }
        run(async {
            let place = if elsewhere { Place::Elsewhere } else { Place::Here };
            let port = Port::open(place, random, Limits { in_flight, ..Limits::default() }).await;
            let mut stream = port.connect().await;
            for part in input.as_bytes().chunks(piece) {
                stream.write_all(part).await.unwrap();
                yield_now().await;
            }
            stream.shutdown().await.unwrap();
            assert_eq!(rest(&mut stream).await, expected);
        });
    }

    #[test]
    fn arbitrary_bytes_harm_nobody(inputs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..4)) {
        run(async {
            let port = Port::open(Place::Here, 1, Limits::default()).await;
            for input in inputs {
                let mut stream = port.connect().await;
                _ = stream.write_all(&input).await;
                _ = stream.shutdown().await;
                _ = stream.read_to_end(&mut Vec::new()).await;
            }
            assert_eq!(port.exchange(b"PING\r\n").await, "+PONG\r\n");
        });
    }
}

/// Tokens by name, role and beginning of collections' names; the secret of each is its name again.
fn tokens(all: &[(&str, Role, &str)]) -> Arc<Tokens> {
    let values: Vec<_> = all
        .iter()
        .map(|(name, role, prefix)| {
            let grants = vec![Grant { role: *role, collections: (*prefix).to_owned() }];
            (name.as_bytes(), Token::create(name, name, grants, 0).unwrap().0.encode())
        })
        .collect();
    Arc::new(Tokens::from_records(values.iter().map(|(name, value)| (*name, value.as_slice()))))
}

/// What a client meets once there are tokens: `app` writes in the collections `1...`, `eye` reads everywhere.
const GUARDED: &[(&str, &str)] = &[
    ("PING", "-NOAUTH Authentication required.\r\n"),
    ("GET k", "-NOAUTH Authentication required.\r\n"),
    (
        "HELLO 2",
        "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n",
    ),
    ("AUTH kith_app_wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
    ("AUTH eye kith_app_app", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
    ("PING", "-NOAUTH Authentication required.\r\n"),
    ("AUTH kith_app_app", "+OK\r\n"),
    ("PING", "+PONG\r\n"),
    ("GET k", "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"),
    ("SELECT 12", "+OK\r\n"),
    ("SET k v", "+OK\r\n"),
    ("GET k", "$1\r\nv\r\n"),
    ("SELECT 2", "+OK\r\n"),
    ("SET k v", "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"),
    ("AUTH default kith_eye_eye", "+OK\r\n"),
    ("GET k", "$-1\r\n"),
    ("DEL k", "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"),
    ("AUTH app kith_app_app", "+OK\r\n"),
    ("AUTH app kith_app_wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
    ("SELECT 1", "+OK\r\n"),
    ("SET k v", "+OK\r\n"),
];

#[test]
fn a_token_opens_its_collections_and_no_others() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "1"), ("eye", Role::Read, "")]));
        let mut stream = port.connect().await;
        for &(command, reply) in GUARDED {
            stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
            let mut bytes = vec![0; reply.len()];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), reply, "{command}");
        }
        let hello = port.exchange(b"HELLO 2 AUTH app kith_app_app SETNAME me\r\nCLIENT GETNAME\r\n").await;
        assert!(hello.starts_with("*14\r\n") && hello.ends_with("$2\r\nme\r\n"), "{hello}");
    });
}

#[test]
fn an_open_connection_loses_what_its_token_loses() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let mut early = port.connect().await;
        early.write_all(b"PING\r\n").await.unwrap();
        expect(&mut early, "+PONG\r\n").await;
        port.tokens.publish(&tokens(&[("app", Role::Write, ""), ("eye", Role::Read, "")]));
        early.write_all(b"PING\r\nAUTH kith_app_app\r\nSET k v\r\n").await.unwrap();
        expect(&mut early, "-NOAUTH Authentication required.\r\n+OK\r\n+OK\r\n").await;
        port.tokens.publish(&tokens(&[("app", Role::Read, ""), ("eye", Role::Read, "")]));
        early.write_all(b"GET k\r\nAUTH kith_app_app\r\nGET k\r\n").await.unwrap();
        expect(&mut early, "-NOAUTH Authentication required.\r\n+OK\r\n$1\r\nv\r\n").await;
        port.tokens.publish(&tokens(&[("eye", Role::Read, "")]));
        early.write_all(b"GET k\r\n").await.unwrap();
        expect(&mut early, "-NOAUTH Authentication required.\r\n").await;
    });
}

#[test]
fn a_command_that_loses_its_right_in_its_middle_ends_the_connection() {
    run(async {
        for (command, place) in [
            ("KEYS *", Place::Here),
            ("SCAN 0", Place::Here),
            ("DEL a b c d e f g h", Place::Here),
            ("MSET a 1 b 1 c 1 d 1 e 1 f 1", Place::Here),
            ("EXISTS a b c d e f g h", Place::Elsewhere),
            ("FLUSHDB", Place::Here),
            ("COPY a z", Place::Here),
            ("RENAME a z", Place::Here),
            ("WAIT 1 0", Place::Here),
        ] {
            let port = Port::open(place, 5, Limits { in_flight: 4, ..Limits::default() }).await;
            port.exchange(b"SET a 1\r\nSET b 1\r\n").await;
            port.tokens.publish(&tokens(&[("app", Role::Write, ""), ("eye", Role::Write, "")]));
            let mut stream = port.connect().await;
            stream.write_all(b"AUTH kith_app_app\r\nPING\r\n").await.unwrap();
            expect(&mut stream, "+OK\r\n+PONG\r\n").await;
            port.fake.0.borrow_mut().held = true;
            let input = format!("{command}\r\nAUTH kith_eye_eye\r\nSET later 1\r\nKEYS *\r\n");
            stream.write_all(input.as_bytes()).await.unwrap();
            until(|| !port.fake.0.borrow().pending.is_empty()).await;
            port.tokens.publish(&tokens(&[("eye", Role::Write, "")]));
            port.fake.0.borrow_mut().held = false;
            assert_eq!(rest(&mut stream).await, "-NOAUTH Authentication required.\r\n", "{command}");
            let later = (DEFAULT.to_owned(), b"later".to_vec());
            assert!(!port.fake.0.borrow().records.contains_key(&later), "{command}");
        }
    });
}

#[test]
fn a_client_that_was_not_let_in_gets_no_more_than_the_usual_buffer() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "")]));
        let mut large = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n".to_vec();
        large.resize(large.len() + 100_000, b'x');
        large.extend_from_slice(b"\r\n");
        let mut stream = port.connect().await;
        // The connection may be cut while this is sent.
        _ = stream.write_all(&large).await;
        let mut told = Vec::new();
        _ = stream.read_to_end(&mut told).await;
        assert_eq!(String::from_utf8(told).unwrap(), "-ERR Protocol error: unauthenticated bulk length\r\n");
        let known = [b"AUTH kith_app_app\r\n".as_slice(), &large].concat();
        assert_eq!(port.exchange(&known).await, "+OK\r\n+OK\r\n");
    });
}
