//! What each command answers.

use super::*;
use std::collections::BTreeSet;

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
        for cursor in ["77", "x", "-1", "-", "-+1", "\" 1\"", "18446744073709551616"] {
            assert_eq!(port.exchange(format!("SCAN {cursor}\r\n").as_bytes()).await, unknown, "{cursor}");
        }
        for cursor in ["''", "-0", "+0", "00"] {
            let page = port.exchange(format!("SCAN {cursor} MATCH k00\r\n").as_bytes()).await;
            assert_eq!(page, "*2\r\n$1\r\n0\r\n*1\r\n$3\r\nk00\r\n", "{cursor}");
        }
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
fn a_wait_for_no_copies_ends_though_there_are_none() {
    run(async {
        let port = Port::open(Place::Here, 3, Limits::default()).await;
        port.fake.0.borrow_mut().copies = 0;
        let reply = port.exchange(b"SET k v\r\nWAIT 0 0\r\nWAIT -1 0\r\nWAIT 0 9000000\r\n").await;
        assert_eq!(reply, "+OK\r\n:0\r\n:0\r\n:0\r\n");
    });
}

#[test]
fn any_key_may_be_the_random_one() {
    run(async {
        let port = Port::open(Place::Here, 3, Limits::default()).await;
        let numbers = (0..3_000).map(|n| format!("user:{n:04}"));
        let names: Vec<String> = numbers.chain(["user:", "user:123456", "v"].map(str::to_owned)).collect();
        for name in &names {
            let record =
                Record::value(KeyRef::new("default", name.as_bytes()).unwrap(), Timestamp::ZERO, None, b"");
            let name = ("default".to_owned(), name.clone().into_bytes());
            port.fake.0.borrow_mut().records.insert(name, record);
        }
        let mut awaited: BTreeSet<&str> = ["user:", "user:0", "user:1", "user:2", "user:29", "v"].into();
        while !awaited.is_empty() {
            let reply = port.exchange(&b"RANDOMKEY\r\n".repeat(20)).await;
            for key in reply.lines().filter(|line| !line.starts_with('$')) {
                assert!(names.iter().any(|name| name == key), "{key}");
                awaited.retain(|begin| key != *begin && (begin.len() < 6 || !key.starts_with(begin)));
            }
        }
        let single = b"SELECT 1\r\nSET k v\r\nRANDOMKEY\r\nDEL k\r\nRANDOMKEY\r\n";
        assert_eq!(port.exchange(single).await, "+OK\r\n+OK\r\n$1\r\nk\r\n:1\r\n$-1\r\n");
    });
}

#[test]
fn chance_goes_on_beyond_many_deleted_keys_in_both_directions() {
    run(async {
        let port = Port::open(Place::Here, 3, Limits::default()).await;
        port.fake.0.borrow_mut().max_looked_at = 20;
        let insert = |collection: &str, key: String, lives: bool| {
            let name = KeyRef::new(collection, key.as_bytes()).unwrap();
            let record = if lives {
                Record::value(name, Timestamp::ZERO, None, b"")
            } else {
                Record::tombstone(name, Timestamp::ZERO)
            };
            port.fake.0.borrow_mut().records.insert((collection.to_owned(), key.into_bytes()), record);
        };
        for n in 100..200 {
            insert("default", format!("a{n}"), false);
            insert("default", format!("z{n}"), false);
            insert("1", format!("a{n}"), false);
        }
        for n in 10..40 {
            insert("default", format!("k{n}"), true);
        }
        let reply = port.exchange(&b"RANDOMKEY\r\n".repeat(20)).await;
        let keys: Vec<&str> = reply.lines().filter(|line| !line.starts_with('$')).collect();
        assert!(keys.len() == 20 && keys.iter().all(|key| key.starts_with('k')), "{reply}");
        assert_eq!(port.exchange(b"SELECT 1\r\nRANDOMKEY\r\n").await, "+OK\r\n$-1\r\n");
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
