//! What clients may send, and what they read elsewhere.

use crate::members::{Group, Member, PATIENCE, Plan, until};
use crate::security::line;
use crate::wires::{Cut, Wires};
use kith::client::{ClientError, WriteOptions};
use kith::model::key::DEFAULT;
use kith::model::settings::Level;
use kith::node::handle::documents::{Ending, Entry, Verb};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a RESP command and gives the bytes of its one-line or bulk answer.
async fn resp(address: SocketAddr, words: &[&str]) -> String {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the connection ended after {answer:?}");
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let lines = text.matches("\r\n").count();
        let wanted = if text.starts_with('$') && !text.starts_with("$-1") { 2 } else { 1 };
        if lines >= wanted {
            return text;
        }
    }
}

#[tokio::test]
async fn what_is_set_by_resp_on_one_member_is_read_on_another() {
    let group = Group::ready(3, &Plan::default()).await;
    let (one, other) = (group[0].resp, group[2].resp);
    assert_eq!(resp(one, &["PING"]).await, "+PONG\r\n");
    assert_eq!(resp(one, &["SET", "greeting", "hello"]).await, "+OK\r\n");
    let everywhere = async |words: &[&str], wanted: &str| {
        until(&format!("{words:?} gives {wanted:?}"), PATIENCE, async || {
            let got = resp(other, words).await;
            if got == wanted { Ok(()) } else { Err(got) }
        })
        .await;
    };
    everywhere(&["GET", "greeting"], "$5\r\nhello\r\n").await;
    assert_eq!(resp(one, &["INCR", "visits"]).await, ":1\r\n");
    everywhere(&["GET", "visits"], "$1\r\n1\r\n").await;
    assert_eq!(resp(other, &["INCR", "visits"]).await, ":2\r\n");
    assert_eq!(resp(one, &["DEL", "greeting"]).await, ":1\r\n");
    everywhere(&["GET", "greeting"], "$-1\r\n").await;
    assert!(resp(one, &["INCR"]).await.starts_with("-ERR"));
}

#[tokio::test]
async fn who_reads_is_told_how_long_a_record_lives_still() {
    let group = Group::ready(1, &Plan::default()).await;
    let client = group[0].client();
    let (ttl, minute) = (Duration::from_secs(600), Duration::from_secs(60));
    let (leased, lasting) =
        (WriteOptions { ttl: Some(ttl), ..WriteOptions::default() }, WriteOptions::default());
    // The second one can't stand in a path, so it is read by a batch.
    for key in [&b"lease"[..], b".."] {
        client.put(DEFAULT, key, "v".into(), &leased).await.unwrap();
        let left = client.get(DEFAULT, key, None).await.unwrap().unwrap().ttl.unwrap();
        assert!(left <= ttl && left > ttl - minute, "{left:?}");
        client.put(DEFAULT, key, "v".into(), &lasting).await.unwrap();
        assert_eq!(client.get(DEFAULT, key, None).await.unwrap().unwrap().ttl, None);
    }
}

#[tokio::test]
async fn the_operations_of_a_batch_on_one_key_take_effect_in_their_order() {
    const KEYS: usize = 24;
    let group = Group::ready(3, &Plan::default()).await;
    let client = group[0].client();
    let when = |condition: &str, entry: Entry| Entry { condition: Some(condition.to_owned()), ..entry };
    // Some of the keys have their home elsewhere, and what looks at them is on its way for longer.
    let of_key = |number: usize| {
        let name = format!("ordered/{number}");
        let (key, about) = (name.as_bytes(), |verb| Entry::about(verb, DEFAULT, name.as_bytes()));
        [
            Entry::put(DEFAULT, key, b"1"),
            about(Verb::Get),
            when("present", Entry::put(DEFAULT, key, b"2")),
            about(Verb::Delete),
            when("absent", Entry::put(DEFAULT, key, b"3")),
            about(Verb::Get),
        ]
    };
    let operations: Vec<_> = (0..KEYS).flat_map(of_key).collect();
    let outcomes = client.batch(&operations, None).await.unwrap();
    for (number, outcomes) in outcomes.chunks(6).enumerate() {
        let endings: Vec<_> = outcomes.iter().map(|outcome| outcome.outcome).collect();
        let (stored, found) = (Ending::Stored, Ending::Found);
        assert_eq!(endings, [stored, found, stored, stored, stored, found], "{number}: {outcomes:?}");
        let values = [&outcomes[1], &outcomes[5]].map(|outcome| outcome.value.as_deref());
        assert_eq!(values, [Some("1"), Some("3")], "{number}");
    }
    for number in 0..KEYS {
        let key = format!("ordered/{number}");
        let found = client.get(DEFAULT, key.as_bytes(), Some(Level::Quorum)).await.unwrap();
        assert_eq!(found.map(|found| found.value).as_deref(), Some(&b"3"[..]), "{key}");
    }
}

#[tokio::test]
async fn values_of_any_allowed_size_replicate_and_larger_ones_are_refused() {
    const LARGEST: usize = 1 << 20;
    let group = Group::ready(3, &Plan::default()).await;
    let client = group[0].client();
    let all = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
    let large: bytes::Bytes = (0..LARGEST).map(|index| (index * 31 % 251) as u8).collect();
    let sizes = [0, 1, 65_535, 65_536, LARGEST];
    for size in sizes {
        let stored =
            client.put(DEFAULT, format!("{size}").as_bytes(), large.slice(..size), &all).await.unwrap();
        assert_eq!(stored.copies, 3, "{size}");
    }
    let longest_key = vec![b'k'; kith::model::limits::MAX_KEY_BYTES];
    client.put(DEFAULT, &longest_key, "v".into(), &all).await.unwrap();
    for member in &group.members {
        for size in sizes {
            let found = member.client().get(DEFAULT, format!("{size}").as_bytes(), Some(Level::One)).await;
            assert_eq!(found.unwrap().unwrap().value, large.slice(..size), "{size} on {}", member.name);
        }
        assert!(member.client().get(DEFAULT, &longest_key, None).await.unwrap().is_some());
    }

    let refused = client.put(DEFAULT, b"large", vec![0; LARGEST + 1].into(), &WriteOptions::default()).await;
    let Err(ClientError::Refused { status, code, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((status, code.as_str()), (413, "value_too_large"));
    // Neither port waits for a byte of it.
    let announced = LARGEST + 1;
    let head = format!("PUT /v1/kv/default/large HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n\r\n");
    let command = format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n${announced}\r\n");
    for (port, head, refusal) in [
        (group[0].http, head, &b"HTTP/1.1 413"[..]),
        (group[0].resp, command, b"-ERR an argument has at most 1048576 bytes"),
    ] {
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; refusal.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, refusal);
    }
    // So is what a client sends all the same, and it sees the reason and not a broken connection.
    let far_too_large: bytes::Bytes = vec![b'x'; 4 * announced].into();
    for length in [announced, 2 * announced, far_too_large.len()].repeat(5) {
        let value = far_too_large.slice(..length);
        let refused = client.put(DEFAULT, b"large", value, &WriteOptions::default()).await;
        let Err(ClientError::Refused { status, code, .. }) = refused else { panic!("{length}: {refused:?}") };
        assert_eq!((status, code.as_str()), (413, "value_too_large"));
    }
    let long_key = vec![b'k'; longest_key.len() + 1];
    let refused = client.put(DEFAULT, &long_key, "v".into(), &WriteOptions::default()).await;
    assert!(matches!(refused, Err(ClientError::Key(_))), "{refused:?}");
    let refused = client.put("_system_roster", b"x", "v".into(), &WriteOptions::default()).await;
    let Err(ClientError::Refused { status, code, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((status, code.as_str()), (403, "system_collection"));
    assert!(client.get(DEFAULT, b"large", None).await.unwrap().is_none());
}

/// Waits until all owners beside the first hold what a connection wrote.
async fn until_held_by_two_more(stream: &mut TcpStream) {
    until("both other owners hold it", PATIENCE, async || {
        let told = line(stream, "WAIT 2 300").await;
        if told == ":2\r\n" { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test]
async fn wait_counts_no_owner_that_is_stopped_or_dead_until_it_is_back() {
    let mut group = Group::ready(3, &Plan::default()).await;
    let mut stream = TcpStream::connect(group[0].resp).await.unwrap();
    // Stopped, it is taken for alive at first.
    group[2].signal("STOP");
    assert_eq!(line(&mut stream, "SET k stopped").await, "+OK\r\n");
    assert_eq!(line(&mut stream, "WAIT 2 300").await, ":1\r\n");
    group[2].signal("CONT");
    until_held_by_two_more(&mut stream).await;
    group[2].kill();
    group[0].until_sees("member3", false, PATIENCE).await;
    assert_eq!(line(&mut stream, "SET k dead").await, "+OK\r\n");
    assert_eq!(line(&mut stream, "WAIT 2 300").await, ":1\r\n");
    group.start();
    until_held_by_two_more(&mut stream).await;
    // What was counted is there.
    group[2].until_ready().await;
    let found = group[2].client().get(DEFAULT, b"k", Some(Level::One)).await.unwrap().unwrap();
    assert_eq!(found.value, "dead");
}

#[tokio::test]
async fn increments_by_resp_on_both_sides_of_a_cut_all_count_after_it() {
    const EACH: usize = 50;
    let (group, wires) = Wires::ready(3).await;
    let mut streams = Vec::new();
    for member in &group.members {
        streams.push(TcpStream::connect(member.resp).await.unwrap());
    }
    for stream in &mut streams {
        assert!(line(stream, "INCR visits").await.starts_with(':'));
    }
    for cut in [Cut::Loud, Cut::Silent] {
        wires.cut(cut, &["member3"]);
        group[0].until_sees("member3", false, PATIENCE).await;
        group[2].until_sees("member1", false, PATIENCE).await;
        for _ in 0..EACH {
            for stream in &mut streams {
                let told = line(stream, "INCR visits").await;
                assert!(told.starts_with(':'), "{cut:?}: {told}");
            }
        }
        wires.heal();
        group.until_ready().await;
    }
    let all = (3 + 2 * 3 * EACH).to_string();
    for member in &group.members {
        until("all increments are counted", PATIENCE, async || {
            let told = resp(member.resp, &["GET", "visits"]).await;
            if told == format!("${}\r\n{all}\r\n", all.len()) { Ok(()) } else { Err(told) }
        })
        .await;
    }
}

async fn until_subscriptions(member: &Member, wanted: f64) {
    until(&format!("there are {wanted} subscriptions"), PATIENCE, async || {
        let got = member.metric("kith_watch_subscriptions").await?;
        if (got - wanted).abs() < 0.5 { Ok(()) } else { Err(got.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn what_listeners_took_is_given_back_however_they_leave() {
    let group = Group::ready(1, &Plan::default()).await;
    let mut listeners = Vec::new();
    for number in 1..=4 {
        let mut stream = TcpStream::connect(group[0].resp).await.unwrap();
        assert_eq!(line(&mut stream, &format!("SUBSCRIBE __keyspace@0__:{number}")).await, "*3\r\n");
        listeners.push(stream);
    }
    until_subscriptions(&group[0], 4.0).await;
    let [mut unsubscribes, mut quits, resets, leaves] = <[TcpStream; 4]>::try_from(listeners).unwrap();
    unsubscribes.write_all(b"UNSUBSCRIBE\r\n").await.unwrap();
    until_subscriptions(&group[0], 3.0).await;
    quits.write_all(b"QUIT\r\n").await.unwrap();
    until_subscriptions(&group[0], 2.0).await;
    // What was not read makes the machine reset the connection.
    drop(resets);
    until_subscriptions(&group[0], 1.0).await;
    let mut rest = Vec::new();
    let (mut reading, writing) = leaves.into_split();
    drop(writing);
    reading.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b":1\r\n"));
    until_subscriptions(&group[0], 0.0).await;
}
