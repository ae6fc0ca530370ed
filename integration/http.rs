//! HTTP over a real socket, in front of a member that is a map.
//!
//! The fake answers the handle's requests as a member of one would, so these tests show what HTTP
//! and the client make of them, and nothing about replication.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what is not as expected fails the test, also in its helpers"
)]

use bytes::Bytes;
use kith::client::convergence::Watch;
use kith::client::{Client, ClientError, LASTING, ListingQuery, WriteOptions};
use kith::model::edit::{Edited, Modify, edit};
use kith::model::limits::MAX_VALUE_BYTES;
use kith::model::record::LASTING_MS;
use kith::model::token::{Grant, Role, Token, Tokens};
use kith::model::{KeyHash, KeyRef, MemberId, Record, Timestamp};
use kith::node::access::{Access, Guard, Publisher};
use kith::node::handle::convergence::{Convergence, PeerConvergence, Superseded, SupersededWrite};
use kith::node::handle::documents::{Ending, Entry, Verb};
use kith::node::handle::events::Events;
use kith::node::handle::secrets::{Control as SecretControl, SecretState, SecretStep};
use kith::node::handle::settings::Control as SettingsControl;
use kith::node::handle::status::{
    ClockStatus, HintStatus, InitRequest, Physical, Removed, State, Status, StorageStatus,
};
use kith::node::handle::tokens::{Control as TokenControl, TokenList};
use kith::node::handle::{
    Answer, Control, ControlError, Handle, Modified, Operation, OperationError, Page, Request, Requests, Row,
    Scan, Stored,
};
use kith::security::{ClusterKeys, Keyring, Secret, operator};
use kith::telemetry::Telemetry;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[path = "http/described.rs"]
mod described;
#[path = "http/malformed.rs"]
mod malformed;
#[path = "http/page.rs"]
mod page;
#[path = "http/values.rs"]
mod values;

/// A key whose conditional changes always lose to another one.
const RACED: &[u8] = b"raced";

/// When a value ends, of which that was asked: in one collection values end that are stored without saying.
fn expiry_of(key: KeyRef<'_>, asked: Option<u64>) -> Option<u64> {
    let ends = asked.or_else(|| (key.collection() == "fleeting").then_some(u64::MAX / 2));
    ends.filter(|end| *end != LASTING_MS)
}

/// A member that keeps records in a map and belongs to a cluster or to none.
struct FakeMember {
    records: BTreeMap<(String, Vec<u8>), Record>,
    time: u64,
    in_cluster: bool,
    /// What it knows of convergence with another member.
    peer: Option<PeerConvergence>,
}

impl FakeMember {
    async fn answer(mut self, mut requests: Requests) {
        while let Some(request) = requests.recv().await {
            match request {
                Request::Operations { operations, reply } => {
                    let answers = operations.iter().map(|operation| self.carry_out(operation)).collect();
                    let _ = reply.send(answers);
                }
                Request::Scan { scan, reply } => drop(reply.send(Ok(self.page(&scan)))),
                // What it watches is shown with real members.
                Request::Watch(_) => {}
                Request::Control(control) => self.control(control),
            }
        }
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<Answer, OperationError> {
        if !self.in_cluster {
            return Err(OperationError::NoCluster);
        }
        let place = (operation.key().collection().to_owned(), operation.key().bytes().to_vec());
        let key = operation.key().key_ref().unwrap();
        if key.is_system() && !matches!(operation, Operation::Get { .. }) {
            return Err(OperationError::SystemCollection);
        }
        self.time = self.time.saturating_add(1);
        let after = match operation {
            Operation::Get { .. } => return Ok(Answer::Found(self.records.get(&place).cloned())),
            Operation::Modify { modify, .. } => return Ok(Answer::Modified(self.modify(place, key, modify))),
            Operation::Put { after, .. }
            | Operation::Delete { after, .. }
            | Operation::Increment { after, .. } => *after,
        };
        self.time = self.time.max(after.saturating_add(1));
        let timestamp = Timestamp { time: self.time, member: MemberId(7) };
        let number = match operation {
            Operation::Put { value, ttl_ms, .. } => {
                let expiry_ms = expiry_of(key, ttl_ms.map(|ttl| (u64::MAX / 2).saturating_add(ttl)));
                self.records.insert(place, Record::value(key, timestamp, expiry_ms, value));
                None
            }
            Operation::Increment { delta, .. } => {
                let before = self.records.get(&place).map_or(0, |record| record.view().total());
                self.records.insert(
                    place,
                    Record::counter(key, timestamp, 1, None, before.saturating_add(*delta), &[]),
                );
                Some(before.saturating_add(*delta))
            }
            _ => {
                self.records.remove(&place);
                None
            }
        };
        Ok(Answer::Stored(Stored { timestamp, copies: 2, superseded: false, hash: KeyHash(0), number }))
    }

    fn modify(&mut self, place: (String, Vec<u8>), key: KeyRef<'_>, modify: &Modify) -> Modified {
        let present = self.records.get(&place).map(|record| record.view().timestamp());
        let timestamp = Timestamp { time: self.time, member: MemberId(7) };
        let found = self.records.get(&place).map(Record::view);
        match edit(found, modify, 0, MAX_VALUE_BYTES).unwrap() {
            Edited::Unmet => return Modified { stored: None, present, record: None },
            Edited::Value(value, expiry) => {
                let expiry = expiry_of(key, expiry);
                drop(self.records.insert(place, Record::value(key, timestamp, expiry, &value)));
            }
            _ => drop(self.records.remove(&place)),
        }
        let superseded = key.key() == RACED;
        let stored = Stored { timestamp, copies: 2, superseded, hash: KeyHash(0), number: None };
        Modified { stored: Some(stored), present, record: None }
    }

    fn page(&self, scan: &Scan) -> Page {
        let fitting = self
            .records
            .iter()
            .filter(|((collection, key), _)| *collection == scan.collection && scan.keys.contains(key));
        let mut fitting: Vec<_> = fitting.map(|(_, record)| record.view()).collect();
        if scan.reverse {
            fitting.reverse();
        }
        let more = fitting.len() > scan.limit;
        fitting.truncate(scan.limit);
        let resume = fitting.last().filter(|_| more).map(|record| record.key().to_vec());
        Page { rows: fitting.into_iter().map(|record| Row::of(record, scan.keys_only)).collect(), resume }
    }

    fn control(&self, control: Control) {
        match control {
            Control::Status(reply) => drop(reply.send(self.status())),
            Control::Physical(reply) => {
                let _ = reply.send(Physical { seen_by: MemberId(7), members: Vec::new() });
            }
            Control::Events { after, reply } => {
                let _ = reply.send(Events { incarnation: after, life: "a".to_owned(), events: Vec::new() });
            }
            Control::Cluster(reply) => drop(reply.send(Err(ControlError::NoCluster))),
            Control::Roster(reply) => drop(reply.send(Err(ControlError::NoCluster))),
            Control::Placement { reply, .. } => drop(reply.send(Err(ControlError::NoCluster))),
            Control::Settings(control) => answer_settings(control),
            Control::Secrets(control) => answer_secrets(control),
            Control::Collections { reply, .. } => drop(reply.send(Err(ControlError::NoCluster))),
            Control::Convergence { roots, reply } => drop(reply.send(self.convergence(roots))),
            Control::Superseded(reply) => drop(reply.send(Ok(Superseded {
                records: 3,
                latest: vec![SupersededWrite {
                    collection: "c".to_owned(),
                    key: None,
                    key_base64: Some("/w==".to_owned()),
                    timestamp: "1".to_owned(),
                    winner: "2".to_owned(),
                    noticed_ms: 5,
                }],
            }))),
            Control::Init { request, reply } => {
                let reason = format!("{:?} partitions", request.partitions);
                let _ = reply.send(Err(ControlError::InvalidCluster(reason)));
            }
            Control::Join { address, reply } => {
                let reason = "connection refused".to_owned();
                let _ = reply.send(Err(ControlError::Unreachable { address, reason }));
            }
            Control::Leave(reply) => drop(reply.send(Err(ControlError::LastMember))),
            Control::Remove { name, force: true, reply } => {
                let warnings = vec!["something is lost".to_owned()];
                let _ = reply.send(Ok(Removed { id: MemberId(9), name, warnings }));
            }
            Control::Remove { name, force: false, reply } => {
                let nearest = Some("two".to_owned());
                let _ = reply.send(Err(ControlError::UnknownMember { name, nearest }));
            }
            Control::Tokens(TokenControl::List { reply, .. }) => {
                let _ = reply.send(Ok(TokenList { tokens: Vec::new() }));
            }
            Control::Tokens(TokenControl::Create { by, reply, .. }) => {
                let _ = reply.send(Err(ControlError::TokenExists(by.name().unwrap_or("-").to_owned())));
            }
            Control::Tokens(TokenControl::Revoke { name, reply, .. }) => {
                let _ = reply.send(Err(ControlError::LastAdminToken(name)));
            }
        }
    }

    fn convergence(&self, with_roots: bool) -> Result<Convergence, ControlError> {
        let peer = self.peer.clone().ok_or(ControlError::NoCluster)?;
        // Of two members that know of each other.
        let id = MemberId(3 - peer.id.0);
        let roots = if with_roots { BTreeMap::from([(9, "1f".to_owned())]) } else { BTreeMap::new() };
        Ok(Convergence {
            id,
            name: format!("m{}", id.0),
            state: State::Ready,
            incarnation: 1,
            placement_digest: "p".to_owned(),
            system_digest: "s".to_owned(),
            catching_up: false,
            owned_partitions: 1,
            incomplete_partitions: 0,
            changes: 0,
            awaited_partitions: 0,
            foreign_partitions: 0,
            unsorted_collections: 0,
            wrong_leaves: 0,
            hints: peer.hints,
            tombstones_waiting: 0,
            tombstones_settled: 0,
            quiet_rounds: 0,
            superseded_records: 0,
            clock_offset_ms: 0,
            peers: vec![peer],
            roots,
        })
    }

    fn status(&self) -> Status {
        Status {
            id: MemberId(7),
            name: "one".to_owned(),
            cluster: None,
            state: if self.in_cluster { State::Ready } else { State::NoCluster },
            start_steps: Vec::new(),
            version: "0".to_owned(),
            incarnation: 1,
            uptime_ms: 0,
            clock: ClockStatus { offset_ms: 0, may_stamp: true },
            sync: "always".to_owned(),
            storage: StorageStatus::default(),
            hints: HintStatus::default(),
            transitions: Vec::new(),
            convergence: None,
            peers: Vec::new(),
            warnings: if self.in_cluster { Vec::new() } else { vec!["it waits for a seed".to_owned()] },
        }
    }
}

static KEYS: LazyLock<ClusterKeys> =
    LazyLock::new(|| ClusterKeys::derive(&Secret::parse("a secret of sixteen bytes").unwrap(), "c").unwrap());

struct Served {
    tokens: Publisher,
    address: SocketAddr,
    client: Client,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
    description: tokio::sync::OnceCell<serde_json::Value>,
}

/// Serves a handle on a port of its own.
async fn serve_handle(handle: Handle) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let telemetry = Telemetry::new("served", "0");
    let shutdown = async move { drop(stopped.await) };
    let (tokens, access) = Access::new(Keyring::new(KEYS.clone(), None), false);
    tokens.publish(&Arc::default());
    let guard = Guard { access, tls: None, advertised: "kith.example".into() };
    let server = tokio::spawn(kith::http::serve(listener, 64, handle, guard, telemetry, shutdown));
    Served {
        tokens,
        address,
        client: Client::new([address.to_string()]).unwrap(),
        stop,
        server,
        description: tokio::sync::OnceCell::new(),
    }
}

async fn serve(in_cluster: bool) -> Served {
    let (handle, requests) = Handle::channel();
    tokio::spawn(FakeMember { records: BTreeMap::new(), time: 0, in_cluster, peer: None }.answer(requests));
    serve_handle(handle).await
}

/// A member of two that knows this of the other one.
async fn serve_one_of_two(peer: PeerConvergence) -> Served {
    let (handle, requests) = Handle::channel();
    let member = FakeMember { records: BTreeMap::new(), time: 0, in_cluster: true, peer: Some(peer) };
    tokio::spawn(member.answer(requests));
    serve_handle(handle).await
}

fn peer(id: u64, http_address: String, hints: u64) -> PeerConvergence {
    PeerConvergence {
        id: MemberId(id),
        name: format!("m{id}"),
        http_address: Some(http_address),
        reachable: true,
        lag_ms: None,
        records_under_way: 0,
        hints,
        differing_leaves: 0,
        clock_offset_ms: Some(-3),
        tombstones_held_back: 0,
    }
}

impl Served {
    /// Sends text as it is and reads to the end of the connection.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> String {
        self.send_with(method, path, &[], body).await
    }

    async fn send_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let length = body.len();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}");
        for (name, value) in headers {
            head = format!("{head}\r\n{name}: {value}");
        }
        let answer = self.raw(&format!("{head}\r\n\r\n{body}")).await;
        described::assert_described(self.description().await, method, path, &answer);
        answer
    }

    /// What the server says of itself to programs.
    async fn description(&self) -> &serde_json::Value {
        let ask = async || {
            let request = "GET /v1/openapi.json HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            serde_json::from_str(described::body_of(&self.raw(request).await)).unwrap()
        };
        self.description.get_or_init(ask).await
    }
}

fn assert_has(answer: &str, parts: &[&str]) {
    for part in parts {
        assert!(answer.contains(part), "`{part}` is missing in:\n{answer}");
    }
}

#[tokio::test]
async fn what_is_put_under_a_key_of_any_bytes_is_got_listed_and_deleted() {
    let served = serve(true).await;
    let keys: [&[u8]; 7] =
        [b".", b"..", b"a b/c?d&e#f%", b"plain", b"\x00\xff", "ключ".as_bytes(), b"%2e%2e"];
    for key in keys {
        let value = Bytes::copy_from_slice(&[key, b" is it"].concat());
        let outcome = served.client.put("c", key, value.clone(), &WriteOptions::default()).await.unwrap();
        assert_eq!((outcome.superseded, outcome.copies), (false, 2));
        let found = served.client.get("c", key, None).await.unwrap().unwrap();
        assert_eq!((found.timestamp, found.value), (outcome.timestamp, value));
    }
    let mut query = ListingQuery { limit: 2, values: false, ..ListingQuery::default() };
    let mut listed = Vec::new();
    loop {
        let page = served.client.list("c", &query).await.unwrap();
        assert!(page.entries.iter().all(|entry| entry.value.is_none()));
        listed.extend(page.entries.iter().map(|entry| entry.key_bytes().unwrap().to_vec()));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    let mut expected = keys.map(<[u8]>::to_vec);
    expected.sort();
    assert_eq!(listed, expected);
    for key in keys {
        served.client.delete("c", key, &WriteOptions::default()).await.unwrap();
        assert_eq!(served.client.get("c", key, None).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_change_follows_the_timestamp_that_its_client_saw() {
    let served = serve(true).await;
    let seen = Timestamp { time: 1 << 40, member: MemberId(1) };
    let ttl = Some(Duration::from_millis(1_500));
    let options = WriteOptions { after: Some(seen), ttl, ..WriteOptions::default() };
    let written = served.client.put("c", b"k", Bytes::from_static(b"v"), &options).await.unwrap();
    assert!(written.timestamp > seen);
    // What the client has seen from there on its own.
    assert_eq!(served.client.seen().unwrap().time, written.timestamp.time);
    let other = Client::new([served.address.to_string()]).unwrap();
    other.get("c", b"k", None).await.unwrap().unwrap();
    let deleted = other.delete("c", b"k", &WriteOptions::default()).await.unwrap();
    assert!(deleted.timestamp > written.timestamp);
    let wrong = served.send_with("DELETE", "/v1/kv/c/k", &[("kith-after", "yesterday")], "").await;
    assert_has(&wrong, &["400", "kith-after"]);
}

#[tokio::test]
async fn a_value_may_be_stored_to_last_whatever_its_collection_says() {
    let served = serve(true).await;
    let put = "/v1/kv/fleeting/";
    served.send("PUT", &format!("{put}unsaid"), "v").await;
    served.send("PUT", &format!("{put}raw?ttl=none"), "v").await;
    served.send_with("PUT", &format!("{put}new?ttl=none"), &[("if-none-match", "*")], "v").await;
    let batch = r#"{"collection":"fleeting","key":"line","value":"v","ttl":"none"}
        {"collection":"fleeting","key":"new line","value":"v","ttl":"none","if":"absent"}"#;
    served.send("POST", "/v1/batch", batch).await;
    let lasting = WriteOptions { ttl: Some(LASTING), ..WriteOptions::default() };
    for key in ["library", "."] {
        served.client.put("fleeting", key.as_bytes(), "v".into(), &lasting).await.unwrap();
    }
    let ends = async |key: &str| {
        served.client.get("fleeting", key.as_bytes(), None).await.unwrap().unwrap().ttl.is_some()
    };
    assert!(ends("unsaid").await);
    for key in ["raw", "new", "line", "new line", "library", "."] {
        assert!(!ends(key).await, "{key}");
    }
}

#[tokio::test]
async fn headers_tell_the_stamp_and_the_copies() {
    let served = serve(true).await;
    let put = served.send("PUT", "/v1/kv/c/k?consistency=all&ttl=10s", "value").await;
    assert_has(&put, &["200 OK", "kith-timestamp: 00000000", "kith-copies: 2", "kith-superseded: false"]);
    let get = served.send("GET", "/v1/kv/c/k", "").await;
    assert_has(&get, &["200 OK", "kith-timestamp: 00000000", "application/octet-stream", "\r\n\r\nvalue"]);
}

#[tokio::test]
async fn wrong_requests_are_refused_with_what_is_wrong() {
    let served = serve(true).await;
    let cases = [
        ("GET", "/v1/kv/c/k?consistancy=all", "", "400", "did you mean `consistency`"),
        ("GET", "/v1/kv/c/k?consistency=most", "", "400", "`most` is not a level"),
        ("PUT", "/v1/kv/c/k?ttl=-1", "v", "400", "no length of time"),
        ("GET", "/v1/kv/c/k", "", "404", "not_found"),
        ("PUT", "/v1/kv/no%20space/k", "v", "400", "bad_key"),
        ("GET", "/v1/kv/c?limit=0", "", "400", "from 1 to"),
        ("GET", "/v1/status?all", "", "400", "it has none"),
        ("GET", "/v1/nothing", "", "404", "GET / lists"),
        ("PATCH", "/v1/kv/c/k", "v", "405", "PATCH is not offered"),
        ("POST", "/v1/kv/c/k", "", "400", "how much is added"),
        ("POST", "/v1/kv/c/k?increment=1.5", "", "400", "not a whole number"),
        ("GET", "/v1/kv/c?after=", "", "400", "leave it out"),
        ("GET", "/v1/kv/c?reverse=1", "", "400", "neither `true` nor `false`"),
        ("GET", "/v1/kv/c?prefix=%ff&limit=%ff", "", "400", "not UTF-8"),
        ("GET", "/v1/kv/%ff/k", "", "400", "bad_key"),
        ("POST", "/v1/batch", r#"{"key":"a","value":"b","if":"new"}"#, "400", "`absent`, `present` or"),
        ("PUT", "/v1/kv/_system_roster/k", "v", "403", "system_collection"),
        ("POST", "/v1/cluster/join", "{}", "400", "address"),
        ("POST", "/v1/cluster/join", r#"{"address":"x:1"}"#, "502", "connection refused"),
        ("POST", "/v1/cluster/init", r#"{"partition":1}"#, "400", "partitions"),
        ("GET", "/v1/cluster/placement?collection=c", "", "400", "goes with a `key`"),
        ("POST", "/v1/cluster/leave", "", "409", "last_member"),
        ("DELETE", "/v1/cluster/members/tow", "", "404", "the nearest name is `two`"),
        ("DELETE", "/v1/cluster/members/two?force=yes", "", "400", "neither `true` nor `false`"),
        ("GET", "/v1/cluster/members/two", "", "405", "GET is not offered"),
        ("PATCH", "/v1/settings", r#"{"settings":{"read_level":"all"}}"#, "400", "invalid_settings"),
        ("PATCH", "/v1/settings", r#"{"read_level":"all"}"#, "400", "unknown field"),
        (
            "POST",
            "/v1/secret/add",
            r#"{"secret":"a b"}"#,
            "400",
            "3 bytes, AddRequest { secret: TokenText(not shown) }",
        ),
        ("POST", "/v1/secret/add", r#""hushhush""#, "400", "the body is not {\\\"secret\\\""),
        ("POST", "/v1/secret/use", "", "409", "secret_step"),
        ("POST", "/v1/secret/use?force=maybe", "", "400", "bad_parameter"),
        ("POST", "/v1/batch", "{\"key\":\"a\",\"value\":\"b\"}\n{\"key\":\"a\"}", "400", "line 2: "),
        ("POST", "/v1/batch", r#"[{"key":"a","op":"drop"}]"#, "400", "unknown variant `drop`"),
    ];
    for (method, path, body, status, part) in cases {
        let answer = served.send(method, path, body).await;
        assert_has(&answer, &[&format!("HTTP/1.1 {status}"), r#"{"error":""#, part]);
    }
    assert_eq!(
        served.client.get("default", b"a", None).await.unwrap(),
        None,
        "a batch is checked as a whole"
    );
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_before_it_is_sent() {
    let served = serve(true).await;
    let length = MAX_VALUE_BYTES + 1;
    let head = format!(
        "PUT /v1/kv/c/k HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    let answer = served.raw(&head).await;
    assert_has(&answer, &["HTTP/1.1 413", "too_large", "nothing was changed"]);
}

#[tokio::test]
async fn who_loses_a_right_while_sending_changes_nothing() {
    let served = serve(true).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head = "PUT /v1/kv/c/slow HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut begun = vec![0; 12];
    stream.read_exact(&mut begun).await.unwrap();
    assert_eq!(begun, b"HTTP/1.1 100", "its body is waited for, so it was let in");
    let (known, text) = tokens([("all", Role::Admin, "*")]);
    served.tokens.publish(&known);
    stream.write_all(b"value").await.unwrap();
    let mut answer = vec![0; 13 + 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    let shown = format!("Bearer {}", text[0]);
    let read = served.send_with("GET", "/v1/kv/c/slow", &[("authorization", &shown)], "").await;
    assert!(read.starts_with("HTTP/1.1 404"), "{read}");
}

#[tokio::test]
async fn a_value_that_does_not_say_its_length_is_cut_off_at_the_limit() {
    let served = serve(true).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head =
        "PUT /v1/kv/c/k HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let (mut reader, mut writer) = stream.into_split();
    let sender = tokio::spawn(async move { while writer.write_all(chunk.as_bytes()).await.is_ok() {} });
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    drop(reader);
    sender.abort();
}

#[tokio::test]
async fn a_batch_answers_each_operation_in_order() {
    let served = serve(true).await;
    let operations = [
        Entry::put("c", b"a", b"1"),
        Entry::about(Verb::Get, "c", b"a"),
        Entry::about(Verb::Get, "c", b"\xff"),
        Entry { delta: Some(-4), ..Entry::about(Verb::Increment, "c", b"n") },
        Entry::about(Verb::Delete, "_system_roster", b"a"),
    ];
    let outcomes = served.client.batch(&operations, None).await.unwrap();
    let endings: Vec<_> = outcomes.iter().map(|outcome| outcome.outcome).collect();
    let expected = [Ending::Stored, Ending::Found, Ending::NotFound, Ending::Stored, Ending::Failed];
    assert_eq!(endings, expected);
    assert_eq!(outcomes[1].value.as_deref(), Some("1"));
    assert_eq!(outcomes[3].number, Some(-4));
    assert_eq!(outcomes[4].error.as_deref(), Some("system_collection"));
    let array = served.send("POST", "/v1/batch", r#"[{"key":"x","value":"y","ttl":5}]"#).await;
    assert_has(&array, &["200 OK", r#""outcome":"stored""#]);
}

#[tokio::test]
async fn before_a_member_belongs_to_a_cluster_it_says_so_and_still_shows_itself() {
    let served = serve(false).await;
    let refused = |error: ClientError| match error {
        ClientError::Refused { status, code, .. } => (status, code),
        other => panic!("{other}"),
    };
    let no_cluster = (409, "no_cluster".to_owned());
    assert_eq!(refused(served.client.get("c", b"k", None).await.unwrap_err()), no_cluster);
    assert_eq!(refused(served.client.cluster().await.unwrap_err()), no_cluster);
    assert_eq!(refused(served.client.roster().await.unwrap_err()), no_cluster);
    assert_eq!(refused(served.client.placement(Some(("c", b"k"))).await.unwrap_err()), no_cluster);
    assert_eq!(refused(served.client.settings().await.unwrap_err()), no_cluster);
    assert_eq!(refused(served.client.ready().await.unwrap_err()).0, 503);
    assert_eq!(served.client.status().await.unwrap().state, State::NoCluster);
    assert_eq!(served.client.physical().await.unwrap().seen_by, MemberId(7));
    let removed = served.client.remove("a b/\u{e9}", true).await.unwrap();
    assert_eq!((removed.name.as_str(), removed.warnings.len()), ("a b/\u{e9}", 1));
    let request = InitRequest { partitions: Some(3), ..InitRequest::default() };
    let error = served.client.init(&request).await.unwrap_err().to_string();
    assert!(error.contains("Some(3) partitions"), "{error}");
    assert_has(
        &served.send("GET", "/metrics", "").await,
        &[
            "200 OK",
            "version=0.0.4",
            "\nkith_http_requests_total{route=\"/v1/kv/{collection}/{key}\",code=\"409\"} 1",
        ],
    );
    assert_has(&served.send("GET", "/health/live", "").await, &["200 OK"]);
    assert_has(&served.send("GET", "/", "").await, &["200 OK", "/v1/batch"]);
}

#[tokio::test]
async fn a_member_that_opens_its_storage_lives_and_tells_whoever_wants_more_that_it_starts() {
    let served = serve(true).await;
    served.tokens.publish_step("records");
    let live = served.send("GET", "/health/live", "").await;
    assert_has(&live, &["200 OK", r#"{"state":"starting","step":"records"}"#]);
    let ready = served.send("GET", "/health/ready", "").await;
    assert_has(&ready, &["HTTP/1.1 503", r#""error":"not_ready""#, "`records`"]);
    let put = tokio::time::timeout(WITHIN, served.send("PUT", "/v1/kv/c/k", "v")).await;
    assert_has(&put.unwrap(), &["HTTP/1.1 503", r#""error":"starting""#, "retry-after: 1", "`records`"]);
    served.tokens.publish(&Arc::default());
    assert_has(&served.send("GET", "/v1/kv/c/k", "").await, &["404", "not_found"]);
}

#[tokio::test]
async fn why_a_member_is_not_ready_is_told_to_who_is_let_in() {
    let served = serve(false).await;
    let (known, [app]) = tokens([("app", Role::Read, "app")]);
    served.tokens.publish(&known);
    let ready = ("GET", "/health/ready", "");
    let (status, answer) = served.show("", ready).await;
    assert!(status == 503 && answer.contains("(no_cluster): `kith status` shows why to who"), "{answer}");
    let (status, answer) = served.show(&app, ready).await;
    assert!(status == 503 && answer.contains("(no_cluster): it waits for a seed"), "{answer}");
    let (status, answer) = served.show("kith_app_wrong", ready).await;
    assert!(status == 503 && !answer.contains("seed"), "{answer}");
}

#[tokio::test]
async fn a_member_that_ended_is_neither_alive_nor_ready() {
    let (handle, requests) = Handle::channel();
    drop(requests);
    let served = serve_handle(handle).await;
    for path in ["/health/live", "/health/ready"] {
        assert_has(&served.send("GET", path, "").await, &["HTTP/1.1 503", "retry-after: 1", "has stopped"]);
    }
}

#[tokio::test]
async fn a_request_that_was_taken_in_is_answered_before_the_server_ends() {
    let (handle, mut requests) = Handle::channel();
    let served = serve_handle(handle).await;
    let client = served.client.clone();
    let put =
        tokio::spawn(async move { client.put("c", b"k", Bytes::new(), &WriteOptions::default()).await });
    let Some(Request::Operations { reply, .. }) = requests.recv().await else { panic!("no operation came") };
    served.stop.send(()).unwrap();
    // Once the listener is gone, the shutdown is under way.
    while TcpStream::connect(served.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let stored =
        Stored { timestamp: Timestamp::ZERO, copies: 1, superseded: true, hash: KeyHash(0), number: None };
    reply.send(vec![Ok(Answer::Stored(stored))]).unwrap();
    assert!(put.await.unwrap().unwrap().superseded);
    served.server.await.unwrap().unwrap();
}

/// Long enough for any answer on this machine.
const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn all_members_are_asked_whether_they_hold_the_same_and_what_is_in_the_way_is_told() {
    // The other one's address is told by the first, and what is asked there is what is known there.
    let hinting = serve_one_of_two(peer(1, "127.0.0.1:1".to_owned(), 4)).await;
    let served = serve_one_of_two(peer(2, hinting.address.to_string(), 0)).await;
    let look = Watch::new(&served.client).look(WITHIN).await;
    assert_eq!((look.members, look.partitions), (2, 1));
    assert_eq!(look.obstacles, ["m2 keeps 4 hints for m1"]);

    let equal = serve_one_of_two(peer(1, "127.0.0.1:1".to_owned(), 0)).await;
    let served = serve_one_of_two(peer(2, equal.address.to_string(), 0)).await;
    assert_eq!(Watch::new(&served.client).look(WITHIN).await.obstacles, Vec::<String>::new());
}

#[tokio::test]
async fn a_member_that_does_not_answer_is_in_the_way_by_name_and_holds_nobody_up() {
    // It takes connections and says nothing.
    let stuck = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = stuck.local_addr().unwrap().to_string();
    let served = serve_one_of_two(peer(2, at.clone(), 0)).await;
    let look = Watch::new(&served.client).look(Duration::from_millis(200)).await;
    assert_eq!(look.members, 1);
    let [obstacle] = &look.obstacles[..] else { panic!("{look:?}") };
    assert!(obstacle.contains("m2") && obstacle.contains(&at) && obstacle.contains("200 ms"), "{obstacle}");
    let alone = Client::new([at]).unwrap();
    let look = Watch::new(&alone).look(Duration::from_millis(200)).await;
    assert_eq!((look.members, look.obstacles.len()), (0, 1), "{look:?}");
}

#[tokio::test]
async fn roots_are_told_only_if_they_are_wanted() {
    let served = serve_one_of_two(peer(2, "127.0.0.1:1".to_owned(), 0)).await;
    let brief = served.send("GET", "/v1/cluster/convergence", "").await;
    assert_has(&brief, &["200 OK", r#""clock_offset_ms":-3"#, r#""id":"0000000000000002""#]);
    assert!(!brief.contains("roots"), "{brief}");
    let whole = served.send("GET", "/v1/cluster/convergence?roots=true", "").await;
    assert_has(&whole, &["200 OK", r#""roots":{"9":"1f"}"#]);
    assert_has(&served.send("GET", "/v1/cluster/convergence?roots=all", "").await, &["400"]);
    let none = serve(false).await;
    assert_has(&none.send("GET", "/v1/cluster/convergence", "").await, &["409", "no_cluster"]);
}

#[tokio::test]
async fn writes_that_lost_are_told_once_though_several_members_know_of_them() {
    let other = serve_one_of_two(peer(1, "127.0.0.1:1".to_owned(), 0)).await;
    let served = serve_one_of_two(peer(2, other.address.to_string(), 0)).await;
    let told = served.client.superseded().await.unwrap();
    assert_eq!((told.records, told.latest.len()), (3, 1));
    let (writes, silent) = served.client.superseded_anywhere(WITHIN).await.unwrap();
    assert_eq!((writes, silent), (told.latest, Vec::new()));
    let text = served.send("GET", "/v1/cluster/superseded", "").await;
    assert_has(&text, &["200 OK", r#""key_base64":"/w==""#, r#""winner":"2""#]);

    let (known, [app]) = tokens([("app", Role::Read, "app.*")]);
    served.tokens.publish(&known);
    let limited = Client::builder([served.address.to_string()]).token(&*app).build().unwrap();
    let refused = limited.superseded_anywhere(WITHIN).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Forbidden { .. }), "none are not none to be seen: {refused:?}");
}

/// Tokens by name, role and collections, and their texts.
fn tokens<const N: usize>(all: [(&str, Role, &str); N]) -> (Arc<Tokens>, [String; N]) {
    let made = all.map(|(name, role, collections)| {
        let grants = vec![Grant { role, collections: collections.to_owned() }];
        let (token, text) = Token::create(name, "thesecretpart", grants, 0).unwrap();
        (name, token.encode(), text)
    });
    let records = made.iter().map(|(name, value, _)| (name.as_bytes(), value.as_slice()));
    (Arc::new(Tokens::from_records(records)), made.each_ref().map(|(_, _, text)| text.clone()))
}

impl Served {
    /// Sends a request that shows a token, and gives the status and the whole answer.
    async fn show(&self, token: &str, request: (&str, &str, &str)) -> (u16, String) {
        let (method, path, body) = request;
        let shown =
            if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{shown}content-length");
        let answer = self.raw(&format!("{head}: {}\r\n\r\n{body}", body.len())).await;
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }
}

#[tokio::test]
async fn every_route_but_the_health_checks_and_the_description_takes_a_token_once_there_is_one() {
    let served = serve(true).await;
    assert_eq!(served.show("", ("GET", "/v1/status", "")).await.0, 200);
    let (known, [_]) = tokens([("app", Role::Write, "app.*")]);
    served.tokens.publish(&known);
    let index = served.show("", ("GET", "/", "")).await.1;
    let lines = index.lines().filter(|line| line.starts_with(char::is_uppercase) && line.contains(" /"));
    let mut routes = 0;
    for line in lines.filter(|line| line.contains("  ")) {
        let methods = line.split("  ").next().unwrap().split(',').map(str::trim);
        let paths: Vec<_> = line.split_whitespace().filter(|word| word.starts_with('/')).collect();
        for (method, path) in methods.flat_map(|method| paths.iter().map(move |path| (method, *path))) {
            let open = path.starts_with("/health") || path == "/v1/openapi.json";
            for token in ["", "kith_app_wrong", "kith_other_thesecretpart", "x", "kith-operator.1.2"] {
                let (status, answer) = served.show(token, (method, path, "")).await;
                assert_eq!(status, if open { 200 } else { 401 }, "{method} {path} {token}");
                if !open {
                    assert_has(&answer, &["www-authenticate: Bearer", r#"{"error":"unauthenticated""#]);
                    assert!(!answer.contains("wrong") && !answer.contains("thesecretpart"), "{answer}");
                }
            }
            routes += 1;
        }
    }
    assert!(routes > 20, "{index}");
    let basic =
        "GET /v1/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Basic eDp5\r\n\r\n";
    assert_has(&served.raw(basic).await, &["401", "Bearer TOKEN"]);
}

#[tokio::test]
async fn a_token_allows_its_role_in_its_collections_and_nothing_else() {
    let served = serve(true).await;
    let (known, [app, eye, admin]) =
        tokens([("app", Role::Write, "app.*"), ("eye", Role::Read, "*"), ("admin", Role::Admin, "*")]);
    served.tokens.publish(&known);
    let line = |op: &str, collection: &str| {
        format!(
            r#"{{"op":"{op}","collection":"{collection}","key":"k"{}}}"#,
            if op == "put" { r#","value":"v""# } else { "" }
        )
    };
    let mixed = format!("{}\n{}\n{}", line("get", "app.b"), line("put", "other"), line("put", "app.c"));
    for (token, request, status) in [
        (&app, ("PUT", "/v1/kv/app.a/k", "v"), 200),
        (&app, ("GET", "/v1/kv/app.a/k", ""), 200),
        (&app, ("GET", "/v1/kv/app.a", ""), 200),
        (&app, ("PUT", "/v1/kv/other/k", "v"), 403),
        (&app, ("PUT", "/v1/kv/%61pp/k", "v"), 403),
        (&app, ("GET", "/v1/kv/_system_tokens", ""), 403),
        (&app, ("POST", "/v1/batch", &mixed), 200),
        (&app, ("GET", "/v1/status", ""), 200),
        (&app, ("GET", "/metrics", ""), 200),
        (&app, ("GET", "/v1/cluster/superseded", ""), 403),
        (&app, ("POST", "/v1/cluster/leave", ""), 403),
        (&eye, ("GET", "/v1/kv/any/none", ""), 404),
        (&eye, ("DELETE", "/v1/kv/any/k", ""), 403),
        (&eye, ("POST", "/v1/batch", &line("get", "any")), 200),
        (&eye, ("GET", "/v1/kv/_system_settings/x", ""), 403),
        (&eye, ("PATCH", "/v1/settings", "{}"), 403),
        (&eye, ("GET", "/v1/cluster/superseded", ""), 200),
        (&admin, ("GET", "/v1/kv/_system_settings", ""), 200),
        (&admin, ("PUT", "/v1/kv/_system_settings/x", "v"), 403),
        (&admin, ("POST", "/v1/cluster/leave", ""), 409),
        (&admin, ("GET", "/v1/nothing", ""), 404),
        (&eye, ("GET", "/v1/nothing", ""), 403),
        (&app, ("POST", "/v1/tokens", r#"{"name":"x","grants":[]}"#), 409),
    ] {
        let (got, answer) = served.show(token, request).await;
        assert_eq!(got, status, "{request:?}: {answer}");
        assert!(!answer.contains("thesecretpart"), "{answer}");
    }
    let refused = served.show(&eye, ("PUT", "/v1/kv/any/k", "v")).await.1;
    assert_has(&refused, &[r#""error":"forbidden""#, "role `write`", "collection `any`", "token `eye`"]);
    assert_has(
        &served.show(&admin, ("POST", "/v1/tokens", r#"{"name":"x","grants":[]}"#)).await.1,
        &["`admin`"],
    );
    let metrics = served.show(&eye, ("GET", "/metrics", "")).await.1;
    assert!(!metrics.contains("thesecretpart") && !metrics.contains(&app));
}

#[tokio::test]
async fn an_operation_that_is_forbidden_fails_by_itself_and_the_others_of_its_batch_are_carried_out() {
    let served = serve(true).await;
    let (known, [app, eye]) = tokens([("app", Role::Write, "app.*"), ("eye", Role::Read, "*")]);
    served.tokens.publish(&known);
    let client_with =
        |token: &str| Client::builder([served.address.to_string()]).token(token).build().unwrap();
    let (app, eye) = (client_with(&app), client_with(&eye));
    let operations = [
        Entry::about(Verb::Get, "other", b"k"),
        Entry::put("app.a", b"k", b"1"),
        Entry::put("other", b"k", b"2"),
        Entry::put("app.b", b"k", b"3"),
    ];
    let outcomes = app.batch(&operations, None).await.unwrap();
    let forbidden = Some("forbidden");
    let told: Vec<_> = outcomes.iter().map(|told| (told.outcome, told.error.as_deref())).collect();
    let (failed, stored) = ((Ending::Failed, forbidden), (Ending::Stored, None));
    assert_eq!(told, [failed, stored, failed, stored]);
    let why = outcomes[2].message.as_deref().unwrap();
    assert_has(why, &["role `write`", "collection `other`", "token `app`"]);
    for (collection, value) in [("app.a", Some("1")), ("other", None), ("app.b", Some("3"))] {
        let found = eye.get(collection, b"k", None).await.unwrap();
        let found = found.map(|found| String::from_utf8(found.value.to_vec()).unwrap());
        assert_eq!(found.as_deref(), value, "{collection}");
    }
    let outcomes = eye.batch(&[Entry::about(Verb::Delete, "app.a", b"k")], None).await.unwrap();
    assert_eq!(outcomes[0].error.as_deref(), forbidden, "also where nothing else is in the batch");
    // A key that travels in a batch.
    let refused = eye.delete("app.a", b"..", &WriteOptions::default()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Forbidden { .. }), "{refused:?}");
}

#[tokio::test]
async fn who_knows_the_cluster_secret_is_let_in_and_a_revoked_token_is_not() {
    let served = serve(true).await;
    let (known, [app, _]) = tokens([("app", Role::Write, "*"), ("eye", Role::Read, "*")]);
    served.tokens.publish(&known);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (proof, status) in
        [(operator::prove(&KEYS, now), 409), (operator::prove(&KEYS, now - 2 * operator::LIFETIME_S), 401)]
    {
        assert_eq!(served.show(&proof, ("POST", "/v1/cluster/leave", "")).await.0, status);
    }
    assert_eq!(served.show(&app, ("PUT", "/v1/kv/c/k", "v")).await.0, 200);
    served.tokens.publish(&tokens([("eye", Role::Read, "*")]).0);
    assert_eq!(served.show(&app, ("PUT", "/v1/kv/c/k", "v")).await.0, 401);
}

#[tokio::test]
async fn the_client_shows_its_token_and_hides_it_from_people() {
    let served = serve(true).await;
    let (known, [app]) = tokens([("app", Role::Write, "*")]);
    served.tokens.publish(&known);
    let refused = served.client.get("c", b"k", None).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Unauthenticated { .. }), "{refused:?}");
    let options = Client::builder([served.address.to_string()]).token(&*app);
    let client = options.clone().build().unwrap();
    client.put("c", b"k", Bytes::from_static(b"v"), &WriteOptions::default()).await.unwrap();
    assert!(!format!("{options:?} {client:?}").contains("thesecretpart"));
    let wrong = Client::builder(["a:1"]).token("two\nlines");
    assert!(matches!(wrong.build(), Err(ClientError::Token)));
    let empty = Client::builder(["https://a:1"]).authorities("no certificate");
    assert!(matches!(empty.build(), Err(ClientError::Authorities)));
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so() {
    let served = serve(true).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        open.push(stream);
    }
    let refused = served.client.status().await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { status: 503, code, .. } if code == "too_many_connections"),
        "{refused}"
    );
    open.pop();
    let again = async {
        loop {
            if let Ok((200, answer)) =
                tokio::time::timeout(WITHIN, served.show("", ("GET", "/metrics", ""))).await
            {
                return answer;
            }
        }
    };
    let metrics = tokio::time::timeout(WITHIN, again).await.unwrap();
    assert!(!metrics.contains("kith_http_connections_rejected_total 0"));
    assert_has(&metrics, &["\nkith_http_connections 64\n", "\nkith_http_connections_limit 64\n"]);
}

fn answer_settings(control: SettingsControl) {
    match control {
        SettingsControl::Show { reply } => {
            let _ = reply.send(Err(ControlError::NoCluster));
        }
        SettingsControl::History { reply } => {
            let _ = reply.send(Err(ControlError::NoCluster));
        }
        SettingsControl::Change { request, reply, .. } => {
            let _ = reply.send(Err(ControlError::InvalidSettings(format!("{request:?}"))));
        }
        SettingsControl::Rollback { request, reply, .. } => {
            let _ = reply.send(Err(ControlError::UnknownVersion(request.version)));
        }
    }
}

fn answer_secrets(control: SecretControl) {
    match control {
        SecretControl::Show { reply } => {
            let _ = reply.send(Err(ControlError::NoCluster));
        }
        SecretControl::Add { request, reply, .. } => {
            let bytes = request.secret.expose().len();
            let _ = reply.send(Err(ControlError::InvalidSecret(format!("{bytes} bytes, {request:?}"))));
        }
        SecretControl::Use { force: false, reply, .. } => {
            let _ = reply.send(Err(ControlError::SecretStep("`two` can't be heard".to_owned())));
        }
        SecretControl::Use { reply, .. } | SecretControl::Retire { reply, .. } => {
            let _ = reply.send(Ok(SecretState {
                step: SecretStep::Used,
                uses: "00000000000000aa".to_owned(),
                accepts: Vec::new(),
                members: Vec::new(),
                problem: None,
            }));
        }
    }
}
