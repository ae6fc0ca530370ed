//! What a client does with members that are not as they should be, and what it refuses by itself.

use super::*;
use crate::node::handle::documents::Entry;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod encrypted;

#[test]
fn an_address_has_a_host_and_a_port() {
    for address in ["127.0.0.1:7401", "localhost:1", "[::1]:7401", "member-1.example:65535", "http://a:1/"] {
        assert!(Client::new([address]).is_ok(), "{address}");
    }
    for address in ["", "localhost", ":7401", "http://localhost", "::1:7401", "a:0", "a:70000", "a b:1"] {
        assert!(matches!(Client::new([address]), Err(ClientError::Address(_))), "{address}");
    }
    for mixed in [["https://a:1", "b:1"], ["b:1", "https://a:1"]] {
        assert!(matches!(Client::new(mixed), Err(ClientError::MixedAddresses(_))), "{mixed:?}");
    }
}

#[tokio::test]
async fn what_is_no_collection_or_key_is_refused_before_anything_is_sent() {
    // Where nothing listens: whatever were sent would end in another error.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new([closed.to_string()]).unwrap();
    let (options, long) = (WriteOptions::default(), vec![b'k'; crate::model::limits::MAX_KEY_BYTES + 1]);
    let names: [(&str, &[u8]); 6] =
        [("..", b"k"), (".", b"k"), ("", b"k"), ("a/b", b"k"), ("c", b""), ("c", &long)];
    for (collection, key) in names {
        let errors = [
            client.get(collection, key, None).await.unwrap_err(),
            client.put(collection, key, Bytes::new(), &options).await.unwrap_err(),
            client.delete(collection, key, &options).await.unwrap_err(),
            client.placement(Some((collection, key))).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, ClientError::Key(_)), "{collection:?} {}: {error}", key.len());
        }
    }
    let query = ListingQuery::default();
    for collection in ["..", ".", "", "a/b"] {
        let error = client.list(collection, &query).await.unwrap_err();
        assert!(matches!(error, ClientError::Key(_)), "{collection:?}: {error}");
    }
}

#[tokio::test]
async fn only_a_change_that_got_no_answer_is_told_to_be_unknown() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client_of([&listener.local_addr().unwrap().to_string()], 0);
    let hang_up = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut asked).await.unwrap();
        }
    };
    let ask = async {
        let read = client.get("c", b"k", None).await.unwrap_err();
        // A key that travels in a batch.
        let batched = client.get("c", b"..", None).await.unwrap_err();
        (read, batched, client.put("c", b"k", Bytes::new(), &WriteOptions::default()).await.unwrap_err())
    };
    let (read, batched, change) = tokio::select! { errors = ask => errors, () = hang_up => unreachable!() };
    assert!(matches!(read, ClientError::Lost { .. }), "{read}");
    assert!(matches!(batched, ClientError::Lost { .. }));
    assert!(read.to_string().contains("HTTP port") && !read.to_string().contains("unknown"), "{read}");
    assert!(matches!(change, ClientError::Unknown { .. }), "{change}");
    assert!(change.to_string().contains("unknown"), "{change}");
}

#[tokio::test]
async fn an_address_where_nothing_listens_is_told_with_what_to_do() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Client::new([closed.to_string()]).unwrap().status().await.unwrap_err().to_string();
    assert!(error.contains(&closed.to_string()) && error.contains("kith dev"), "{error}");
}

/// What a fake member does with a request.
#[derive(Debug, Clone)]
enum Does {
    /// Answers with a status and a document.
    Answers(u16, &'static str),
    /// Takes the whole request in and hangs up.
    HangsUp,
    /// Begins to answer and hangs up.
    BreaksOff,
    /// Begins to send events, and hangs up behind these.
    Tells(&'static str),
    /// Takes the request and never answers.
    IsSilent,
}

const STORED: Does =
    Does::Answers(200, r#"{"outcome":"stored","timestamp":"0000000000000009-0000000000000001","copies":2}"#);
const LEFT: Does = Does::Answers(409, r#"{"error":"left","message":"this member left"}"#);
const STARTING: Does = Does::Answers(503, r#"{"error":"starting","message":"this member is starting"}"#);
const UNKNOWN: Does = Does::Answers(504, r#"{"error":"unknown","message":"too few in time"}"#);
const NOT_FOUND: Does = Does::Answers(404, r#"{"error":"not_found","message":"nothing there"}"#);

/// A server that does one thing after the other, the last one for ever; and remembers what it was asked.
struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Fake {
    async fn start(does: impl IntoIterator<Item = Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, mut does) = (Arc::clone(&asked), VecDeque::from_iter(does));
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = request_on(&mut stream).await;
                noted.lock().unwrap().push(request);
                let now = if does.len() > 1 { does.pop_front() } else { does.front().cloned() };
                let answer = match now.unwrap() {
                    Does::Answers(status, body) => format!(
                        "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    ),
                    Does::HangsUp => String::new(),
                    Does::BreaksOff => "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned(),
                    Does::Tells(events) => {
                        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{events}")
                    }
                    Does::IsSilent => {
                        held.push(stream);
                        continue;
                    }
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, asked, task }
    }

    /// How often it was asked.
    fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn last(&self) -> String {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole request: its head and a body of the length that it tells.
async fn request_on(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4_096];
        let read = stream.read(&mut piece).await.unwrap();
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if read == 0 || body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

/// An address at which nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A client that is patient for so long.
fn client_of<const N: usize>(addresses: [&str; N], patience_ms: u64) -> Client {
    Client::builder(addresses).patience(Duration::from_millis(patience_ms)).build().unwrap()
}

async fn put(client: &Client) -> Result<Written, ClientError> {
    client.put("c", b"k", "v".into(), &WriteOptions::default()).await
}

#[tokio::test]
async fn what_is_left_of_a_life_counts_from_when_its_page_had_come() {
    const PAGE: &str = r#"{"collection":"c","entries":[
        {"key":"a","value":"1","ttl":"1000ms","timestamp":"0000000000000009-0000000000000001"},
        {"key":"b","value":"2","ttl":"1000ms","timestamp":"0000000000000009-0000000000000001"}]}"#;
    let fake = Fake::start([Does::Answers(200, PAGE)]).await;
    let asked_at = SystemTime::now();
    let mut items = client_of([&fake.address], 0).scan_timed("c", ListingQuery::default());
    let (first, came_at) = items.next().await.unwrap().unwrap();
    let read_at = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (second, also_at) = items.next().await.unwrap().unwrap();
    assert_eq!((first.ttl, second.ttl), (Some(Duration::from_secs(1)), Some(Duration::from_secs(1))));
    assert!(asked_at <= came_at && came_at <= read_at);
    assert_eq!(also_at, came_at, "it was not read at once, and is of the same page");
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn who_surely_did_nothing_is_passed_over() {
    for passed in [LEFT, STARTING, Does::Answers(507, r#"{"error":"storage","message":"full"}"#)] {
        let (first, second) = (Fake::start([passed]).await, Fake::start([STORED]).await);
        let client = client_of([&nobody(), &first.address, &second.address], 0);
        assert_eq!(put(&client).await.unwrap().copies, 2);
        assert_eq!((first.times(), second.times()), (1, 1));
        // Who failed is not asked again at once.
        put(&client).await.unwrap();
        assert_eq!((first.times(), second.times()), (1, 2));
    }
}

#[tokio::test]
async fn a_change_of_unknown_fate_is_never_sent_again() {
    for does in [Does::HangsUp, Does::BreaksOff, UNKNOWN, Does::Answers(502, "<html>")] {
        let (first, second) = (Fake::start([does.clone()]).await, Fake::start([STORED]).await);
        let client = client_of([&first.address, &second.address], 500);
        let options = WriteOptions::default();
        let errors = [
            put(&client).await.unwrap_err(),
            client.delete("c", b"k", &options).await.unwrap_err(),
            client.increment("c", b"k", 1, &options).await.unwrap_err(),
            client.increment("c", b"..", 1, &options).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_of_unknown_fate(), "{does:?}: {error:?}");
        }
        assert_eq!((first.times(), second.times()), (4, 0), "{does:?}");
    }
}

#[tokio::test]
async fn a_change_without_an_answer_in_time_is_of_unknown_fate() {
    let (first, second) = (Fake::start([Does::IsSilent]).await, Fake::start([STORED]).await);
    let client = Client::builder([&first.address, &second.address]).timeout(Duration::from_millis(100));
    let error = put(&client.build().unwrap()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error:?}");
    assert_eq!((first.times(), second.times()), (1, 0));
}

#[tokio::test]
async fn a_change_of_the_cluster_is_waited_for_until_members_give_it_up_and_others_are_not() {
    use super::failover::{Attempts, Nature};
    let client = Client::new([nobody()]).unwrap();
    let time = |nature| Attempts::new(&client, nature).time();
    for nature in [Nature::Govern, Nature::ChangeOne] {
        assert!(time(nature) > crate::http::REQUEST_TIMEOUT, "{nature:?}");
    }
    for nature in [Nature::Change, Nature::Read, Nature::ReadOne] {
        assert!(time(nature) <= Duration::from_secs(15), "{nature:?}");
    }
}

#[tokio::test]
async fn a_large_value_has_the_time_that_a_slow_line_takes() {
    let (silent, began) = (Fake::start([Does::IsSilent]).await, Instant::now());
    let client = Client::builder([&silent.address]).timeout(Duration::from_millis(1)).build().unwrap();
    let value = Bytes::from(vec![0; 512 << 10]);
    let error = client.put("c", b"k", value, &WriteOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error:?}");
    assert!(began.elapsed() > Duration::from_secs(2), "at 256 KiB a second");
}

#[tokio::test]
async fn a_read_goes_to_another_member_whatever_became_of_it() {
    for does in [Does::HangsUp, Does::BreaksOff, STARTING, LEFT, Does::Answers(502, "<html>")] {
        let (first, second) = (Fake::start([does]).await, Fake::start([NOT_FOUND]).await);
        let client = client_of([&first.address, &second.address], 0);
        assert_eq!(client.get("c", b"k", None).await.unwrap(), None);
        assert_eq!((first.times(), second.times()), (1, 1));
    }
}

#[tokio::test]
async fn what_passes_is_waited_for_as_long_as_there_is_patience() {
    let member = Fake::start([STARTING, STARTING, STORED]).await;
    put(&client_of([&member.address], 10_000)).await.unwrap();
    assert_eq!(member.times(), 3);
    let member = Fake::start([STARTING]).await;
    let error = put(&client_of([&member.address], 300)).await.unwrap_err();
    assert_eq!(error.code(), "starting", "{error:?}");
    assert!((2..10).contains(&member.times()), "{}", member.times());
}

#[tokio::test]
async fn what_does_not_pass_is_not_waited_for() {
    let member = Fake::start([LEFT]).await;
    let client = client_of([&member.address], 60_000);
    let answer = tokio::time::timeout(Duration::from_secs(20), put(&client)).await;
    assert_eq!(answer.unwrap().unwrap_err().code(), "left");
    assert_eq!(member.times(), 1);
}

#[tokio::test]
async fn a_decision_is_told_at_once() {
    const FORBIDDEN: Does = Does::Answers(403, r#"{"error":"forbidden","message":"needs the role `write`"}"#);
    const UNMET: Does = Does::Answers(412, r#"{"error":"condition_failed","message":"not there"}"#);
    const WRONG: Does = Does::Answers(401, r#"{"error":"unauthenticated","message":"no token"}"#);
    for (does, code) in [(FORBIDDEN, "forbidden"), (UNMET, "condition_failed"), (WRONG, "unauthenticated")] {
        let (first, second) = (Fake::start([does]).await, Fake::start([STORED]).await);
        let error = put(&client_of([&first.address, &second.address], 1_000)).await.unwrap_err();
        assert_eq!((error.code(), first.times(), second.times()), (code, 1, 0));
    }
}

#[tokio::test]
async fn when_nobody_can_be_reached_each_address_and_its_reason_is_told() {
    let (one, other) = (nobody(), nobody());
    let Err(ClientError::Unreachable { tried }) = put(&client_of([&one, &other], 0)).await else { panic!() };
    assert_eq!(tried.iter().map(|tried| &tried.address).collect::<Vec<_>>(), [&one, &other]);
    assert!(tried.iter().all(|tried| tried.reason.contains("refused")), "{tried:?}");
}

#[tokio::test]
async fn only_the_operations_of_a_batch_that_were_surely_not_carried_out_go_elsewhere() {
    const SOME: Does = Does::Answers(
        200,
        r#"{"results":[{"outcome":"stored","number":1},{"outcome":"failed","error":"stopping","message":"m"},{"outcome":"failed","error":"unknown","message":"m"}]}"#,
    );
    const ONE: Does = Does::Answers(200, r#"{"results":[{"outcome":"stored","number":7}]}"#);
    let (first, second) = (Fake::start([SOME]).await, Fake::start([ONE]).await);
    let client = client_of([&first.address, &second.address], 0);
    let operations = [b"a", b"b", b"c"].map(|key| Entry {
        delta: Some(1),
        ..Entry::about(crate::node::handle::documents::Verb::Increment, "default", key)
    });
    let outcomes = client.batch(&operations, None).await.unwrap();
    let told: Vec<_> = outcomes.iter().map(|outcome| (outcome.number, outcome.error.as_deref())).collect();
    assert_eq!(told, [(Some(1), None), (Some(7), None), (None, Some("unknown"))]);
    let sent = second.last();
    assert!(sent.contains(r#""key":"b""#) && !sent.contains(r#""key":"a""#), "{sent}");
    assert!(!sent.contains(r#""key":"c""#), "{sent}");
}

#[tokio::test]
async fn what_concerns_one_member_is_not_done_to_another() {
    let other = Fake::start([STORED]).await;
    for first in [LEFT, STARTING, Does::HangsUp] {
        let first = Fake::start([first]).await;
        let client = client_of([&first.address, &other.address], 300);
        client.leave().await.unwrap_err();
        client.join("127.0.0.1:7400").await.unwrap_err();
        assert_eq!(first.times(), 2);
    }
    client_of([&nobody(), &other.address], 300).leave().await.unwrap_err();
    assert_eq!(other.times(), 0);
}

#[tokio::test]
async fn a_session_tells_the_highest_timestamp_that_it_has_seen() {
    let member = Fake::start([STORED]).await;
    let client = client_of([&member.address], 0);
    put(&client).await.unwrap();
    assert!(!member.last().contains("kith-after"), "{}", member.last());
    put(&client.clone()).await.unwrap();
    assert!(!member.last().contains("kith-after"), "the answer's header tells it: {}", member.last());
    client.note(Timestamp { time: 9, member: MemberId(1) });
    put(&client.clone()).await.unwrap();
    assert!(member.last().contains("kith-after: 0000000000000009-"), "{}", member.last());
    let alone = Client::builder([&member.address]).follow_what_was_seen(false).build().unwrap();
    alone.note(Timestamp { time: 9, member: MemberId(1) });
    put(&alone).await.unwrap();
    assert!(!member.last().contains("kith-after"), "{}", member.last());
}

#[tokio::test]
async fn who_ends_each_watch_at_once_is_not_asked_without_a_pause() {
    let member = Fake::start([Does::Tells("")]).await;
    let client = client_of([&member.address], 0);
    let mut watch = client.watch("c", b"", true);
    let watching = async { while let Some(Ok(WatchEvent::Interrupted { .. })) = watch.next().await {} };
    assert!(tokio::time::timeout(Duration::from_millis(500), watching).await.is_err(), "it goes on for ever");
    assert_eq!(member.times(), 1);
}

#[tokio::test]
async fn a_watch_goes_on_at_another_member_and_tells_that_it_was_interrupted() {
    const BEGIN: &str = "event: reset\ndata: {\"reason\":\"new\"}\nid: a-1-0\n\nevent: put\ndata: {\"key\":\"k\",\"value\":\"v\",\"timestamp\":\"0000000000000009-0000000000000001\"}\nid: a-1-1\n\nevent: put\ndata: {\"key\":\"ha";
    const ON: &str = "event: synced\ndata: {}\nid: b-1-1\n\nevent: error\ndata: {\"error\":\"forbidden\",\"message\":\"no more\"}\n\n";
    let (first, second) =
        (Fake::start([Does::Tells(BEGIN)]).await, Fake::start([STARTING, Does::Tells(ON)]).await);
    let client = client_of([&first.address, &second.address], 0);
    let mut watch = client.watch("c", b"p", true);
    assert_eq!(watch.next().await.unwrap().unwrap(), WatchEvent::Reset { reason: "new".to_owned() });
    let Some(Ok(WatchEvent::Put(item))) = watch.next().await else { panic!() };
    assert_eq!((&item.key[..], item.value.as_deref()), (&b"k"[..], Some(&b"v"[..])));
    assert_eq!(client.seen().unwrap().time, 9);
    drop(first);
    let Some(Ok(WatchEvent::Interrupted { .. })) = watch.next().await else { panic!() };
    assert_eq!(watch.next().await.unwrap().unwrap(), WatchEvent::Synced);
    assert!(second.last().contains("last-event-id: a-1-1"), "{}", second.last());
    // What can't be mended ends it.
    assert!(matches!(watch.next().await, Some(Err(ClientError::Forbidden { .. }))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn who_did_not_tell_every_page_of_its_collections_did_not_tell_them() {
    const NONE: Does = Does::Answers(200, r#"{"collections":[],"may_read_all":true}"#);
    let missed = Fake::start([Does::HangsUp, NONE]).await;
    let mut known = convergence::tests::equal(1);
    known.peers.truncate(1);
    known.peers[0].http_address = Some(missed.address.clone());
    let known = Does::Answers(200, serde_json::to_string(&known).unwrap().leak());
    let pages = [
        r#"{"collections":["a"],"next":"a","may_read_all":true}"#,
        r#"{"collections":["b"],"may_read_all":true}"#,
    ];
    let pages = pages.into_iter().flat_map(|page| [known.clone(), Does::Answers(200, page)]);
    let first = Fake::start(pages).await;
    let client = client_of([&first.address], 0);
    let (all, silent) = client.collections_anywhere(Duration::from_secs(5)).await.unwrap();
    assert_eq!(all.names.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((silent.len(), missed.times()), (1, 2));
    assert!(silent[0].starts_with("m2 does not answer"), "{silent:?}");
}
