//! Bytes that are no request, or hardly one: each connection is answered or closed, every error body is the
//! document of errors, and a good request is answered afterwards.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

/// How long a connection may stay open on which nothing more is sent.
const PATIENCE: Duration = Duration::from_secs(20);

const METHODS: [&str; 9] = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS", "get", "G\0T"];
const PATHS: [&str; 18] = [
    "/",
    "/v1/kv/c",
    "/v1/kv/c/k",
    "/v1/kv//",
    "/v1/kv/c/%",
    "/v1/kv/c/%ff%00",
    "/v1/kv/%2e%2e/k",
    "/v1/kv/_system_roster/k",
    "/v1/batch",
    "/v1/status",
    "/v1/events",
    "/terminal/script/%ff",
    "/v1/cluster/init",
    "/v1/cluster/members/%ff",
    "/v1/settings",
    "/health/live",
    "*",
    "http://[::1/v1/kv",
];
const QUERIES: [&str; 16] = [
    "",
    "?",
    "?limit=1",
    "?limit=99999999999999999999",
    "?after=%",
    "?after=",
    "?reverse=true&end=%ff",
    "?consistency=%ff",
    "?consistency=quorum",
    "?ttl=-1",
    "?increment=9223372036854775808",
    "?increment=-9223372036854775808",
    "?prefix=a&prefix=b",
    "?=&=&",
    "?%6cimit=3",
    "?held=maybe",
];
const HEADERS: [&str; 24] = [
    "host: a",
    "content-length: 3",
    "content-length: 18446744073709551616",
    "content-length: -1",
    "content-length: 999999999",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip, chunked",
    "expect: 100-continue",
    "expect: more",
    "range: bytes=0-0",
    "range: bytes=9-1,,",
    "if-match: \"0000000000000001-0000000000000007\"",
    "if-match: *",
    "if-none-match: *",
    "if-none-match: W/\"",
    "if-range: yesterday",
    "kith-after: ffffffffffffffff-ffffffffffffffff",
    "kith-after: \u{ff}",
    "connection: upgrade",
    "connection: close",
    "upgrade: websocket",
    "content-type: application/json; charset=latin1",
    "no colon",
    ": nameless",
];
const BODIES: [&str; 12] = [
    "",
    "abc",
    "3\r\nabc\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nabc",
    "{\"key\":\"a\",\"value\":\"b\"}",
    "[{\"key\":\"a\",\"value\":\"b\"}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"settings\":{\"read_level\":1}}",
    "{\"key\":\"a\",\"op\":\"increment\",\"delta\":1e99}",
    "{\"key\":\"\\ud800\",\"value\":\"\"}",
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "\u{0}",
];

/// Requests that look right at first, some bytes of which are changed, left out or added.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let heads =
        (select(&METHODS[..]), select(&PATHS[..]), select(&QUERIES[..]), vec(select(&HEADERS[..]), 0..5));
    let mutations = vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..4);
    (heads, select(&BODIES[..]), prop::bool::weighted(0.3), mutations).prop_map(
        |((method, path, query, headers), body, mutated, mutations)| {
            let mut text = format!("{method} {path}{query} HTTP/1.1\r\n");
            for header in headers {
                text = format!("{text}{header}\r\n");
            }
            let mut bytes = format!("{text}\r\n{body}").into_bytes();
            for (at, byte, how) in mutations.into_iter().filter(|_| mutated) {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, byte),
                }
            }
            bytes
        },
    )
}

/// Sends bytes and nothing more, and gives all that comes back.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    let exchanged = async {
        // The member may close before it has read all; then what it said counts.
        if stream.write_all(bytes).await.is_ok() {
            _ = stream.shutdown().await;
        }
        _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, exchanged).await.expect("a connection hangs");
    answer
}

/// Every answer in these bytes that is an error and has a body has the document of errors.
fn assert_typed(answers: &[u8]) {
    let mut rest = answers;
    while let Some(end) = rest.windows(4).position(|part| part == b"\r\n\r\n") {
        let head = String::from_utf8(rest[..end].to_vec()).unwrap();
        // Who asks in the version before is answered in that.
        assert!(head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "), "{head}");
        let status: u16 = head[9..12].parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        rest = &rest[end + 4..];
        // What answers HEAD, and 304, says a length and has no body; the next answer may follow.
        if rest.starts_with(b"HTTP/1.1 ") || rest.starts_with(b"HTTP/1.0 ") {
            continue;
        }
        if status < 400 || rest.len() < length {
            return;
        }
        let (body, tail) = rest.split_at(length);
        if !body.is_empty() {
            let document: kith::node::handle::documents::ErrorDocument =
                serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error} in the body of\n{head}"));
            assert!(!document.error.is_empty() && !document.message.is_empty());
            assert!(head.contains("content-type: application/json"), "{head}");
        }
        rest = tail;
    }
}

fn survives(cases: u32, requests: impl Strategy<Value = Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let served = runtime.block_on(serve(true));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let checked = runner.run(&requests, |bytes| {
        runtime.block_on(async {
            assert_typed(&exchange(served.address, &bytes).await);
            let good = served.raw("GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            prop_assert!(good.starts_with("HTTP/1.1 200"), "{}", good);
            Ok(())
        })
    });
    checked.unwrap();
}

#[tokio::test]
async fn who_asks_in_the_version_before_is_answered_too() {
    let served = serve(true).await;
    let answer = exchange(served.address, b"GET /v1/none HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.0 404"), "{}", String::from_utf8_lossy(&answer));
    assert_typed(&answer);
}

#[test]
fn random_bytes_neither_stop_nor_hold_up_the_server() {
    survives(300, vec(any::<u8>(), 0..300));
}

#[test]
fn whatever_a_request_looks_like_its_answer_is_typed_and_the_server_goes_on() {
    survives(1_500, request());
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused_before_its_value_is_sent() {
    let served = serve(true).await;
    let refused = async |key: usize| {
        let path = format!("/v1/kv/c/{}", "k".repeat(key));
        let head =
            format!("PUT {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n");
        served.raw(&head).await
    };
    assert_has(&refused(4_097).await, &["HTTP/1.1 400", "bad_key", "at most 4096 bytes"]);
    assert_has(&refused(20_000).await, &["HTTP/1.1 414", "bad_key"]);
    assert_has(&refused(70_000).await, &["HTTP/1.1 414"]);
}

#[tokio::test]
async fn who_waits_to_send_a_body_is_told_before_that_it_is_too_large() {
    let served = serve(true).await;
    let head = format!(
        "PUT /v1/kv/c/k HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        MAX_VALUE_BYTES + 1
    );
    assert_has(&served.raw(&head).await, &["HTTP/1.1 413", "too_large"]);
}
