//! Replies compared with those of a real Redis, byte by byte, in both protocols.
//!
//! A `redis-server` and three members run on loopback; the same commands go to the server and to one of the
//! members, which is the home of some keys and not of others. What is meant to differ is listed, with its
//! reason, and shown to differ. Where no `redis-server` is installed nothing can be compared: that is said, and is
//! a failure only if `KITH_TEST_REDIS` is set.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "what is not as expected fails the test, also in its helpers"
)]

#[path = "support/members.rs"]
mod members;
#[path = "redis/random.rs"]
mod random;
#[path = "redis/value.rs"]
mod value;

use members::{Group, PATIENCE, Plan, free_address, until};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use value::{Value, parse, read_reply};

/// Commands whose replies are the same, one a line, as a person would type them.
const SAME: &str = include_str!("redis/same.txt");

/// A command whose reply differs on purpose.
struct Different {
    command: &'static str,
    /// What kith replies; empty where it does not matter.
    kith: &'static str,
    reason: &'static str,
}

const DIFFERENT: &[Different] = &[
    Different {
        command: "SET '' v",
        kith: "-ERR a key has at least one byte\r\n",
        reason: "a key is a part of an address on the web, so it can't be empty",
    },
    Different { command: "SELECT 16", kith: "+OK\r\n", reason: "there are 65536 databases" },
    Different {
        command: "GETEX none EX 0",
        kith: "-ERR invalid expire time in 'getex' command\r\n",
        reason: "what is wrong with a command is said before the key is looked at",
    },
    Different {
        command: "INCRBYFLOAT none 1e400",
        kith: "-ERR value is not a valid float\r\n",
        reason: "numbers have 64 bits, not 80",
    },
    Different {
        command: "INCRBYFLOAT none 0x10",
        kith: "-ERR value is not a valid float\r\n",
        reason: "numbers are decimal",
    },
    Different {
        command: "SCAN -1",
        kith: "-ERR invalid cursor\r\n",
        reason: "a cursor names a place that the member remembers",
    },
    Different {
        command: "SETRANGE none 8388608 x",
        kith: "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n",
        reason: "a value has 8 MiB at most",
    },
    Different {
        command: "SCAN 12345",
        kith: "-ERR invalid cursor\r\n",
        reason: "a cursor names a place that the member remembers",
    },
    Different {
        command: "CLIENT SETINFO LIB-NAME x",
        kith: "+OK\r\n",
        reason: "later versions of Redis have it, and clients use it",
    },
    Different {
        command: "CLIENT NO-TOUCH ON",
        kith: "+OK\r\n",
        reason: "later versions of Redis have it, and clients use it",
    },
    Different {
        command: "AUTH default x",
        kith: "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        reason: "where there are no tokens, none is right",
    },
    Different {
        command: "LPUSH list x",
        kith: "-ERR unknown command 'LPUSH', with args beginning with: 'list' 'x' \r\n",
        reason: "values are strings",
    },
    Different {
        command: "CONFIG SET save ''",
        kith: "-ERR unknown subcommand 'SET'. Try CONFIG HELP.\r\n",
        reason: "what members share is changed by `kith settings`, the rest in a member's file",
    },
    Different { command: "CLIENT HELP", kith: "", reason: "help is in words of its own, and about less" },
    Different { command: "COMMAND COUNT", kith: "", reason: "there are fewer commands" },
];

/// Bytes that are no commands. The reply is the same, and the connection ends after it.
const MALFORMED: &[&[u8]] = &[
    b"*x\r\n",
    b"*1\r\n:4\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$-5\r\n",
    b"GET 'a\r\n",
    b"GET \"a\"b\r\n",
    b"PING\r\n*1\r\n$99999999999\r\n",
    b"*3000000000\r\n",
    b"QUIT\r\nPING\r\n",
    b"POST / HTTP/1.1\r\nPING\r\n",
    b"\r\nHost: localhost\r\nPING\r\n",
];

struct Redis {
    address: SocketAddr,
    process: Child,
    _directory: TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // One that ended already can't be killed and is waited for all the same.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    /// `None` where it is not installed.
    async fn start() -> Option<Self> {
        let (directory, address) = (tempfile::tempdir().unwrap(), free_address());
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
        command.arg(address.port().to_string()).current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) => {
                assert!(std::env::var_os("KITH_TEST_REDIS").is_none(), "redis-server: {error}");
                eprintln!("redis-server can't be started ({error}): nothing is compared");
                return None;
            }
        };
        let redis = Self { address, process, _directory: directory };
        until("redis-server answers", PATIENCE, async || {
            TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Some(redis)
    }
}

/// A Redis and three members, or nothing where there is no Redis.
async fn both() -> Option<(Redis, Group)> {
    let redis = Redis::start().await?;
    Some((redis, Group::ready(3, &Plan::default()).await))
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    /// A connection that speaks a protocol, to databases that are empty.
    async fn fresh(address: SocketAddr, protocol: u8) -> Self {
        let mut connection = Self(BufReader::new(TcpStream::connect(address).await.unwrap()));
        for command in ["SELECT 1", "FLUSHDB", "SELECT 0", "FLUSHDB"] {
            assert_eq!(connection.ask(command).await, b"+OK\r\n", "{command}");
        }
        connection.ask(&format!("HELLO {protocol}")).await;
        connection
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    async fn reply(&mut self) -> Vec<u8> {
        tokio::time::timeout(PATIENCE, read_reply(&mut self.0)).await.unwrap()
    }

    async fn ask(&mut self, command: &str) -> Vec<u8> {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    async fn value(&mut self, command: &str) -> Value {
        parse(&self.ask(command).await)
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn commands() -> impl Iterator<Item = &'static str> {
    SAME.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_answered_as_redis_answers_them() {
    let Some((redis, group)) = both().await else { return };
    for protocol in [2, 3] {
        let mut theirs = Connection::fresh(redis.address, protocol).await;
        let mut ours = Connection::fresh(group[0].resp, protocol).await;
        let mut wrong = Vec::new();
        for command in commands() {
            let (theirs, ours) = (theirs.ask(command).await, ours.ask(command).await);
            if theirs != ours {
                wrong.push(format!("{command}\n   redis {}\n    kith {}", text(&theirs), text(&ours)));
            }
        }
        assert!(wrong.is_empty(), "RESP{protocol}, {} replies differ:\n{}", wrong.len(), wrong.join("\n"));
        for Different { command, kith, reason } in DIFFERENT {
            let (theirs, ours) = (theirs.ask(command).await, ours.ask(command).await);
            assert_ne!(text(&theirs), text(&ours), "{command} does not differ any more: {reason}");
            assert!(kith.is_empty() || ours == kith.as_bytes(), "{command}: {}", text(&ours));
        }
    }
}

/// Commands that chance makes up for one connection, and how many connections there are.
const RANDOM_COMMANDS: usize = 2_000;
const RANDOM_ROUNDS: u64 = 2;

/// `KITH_PRNG_SEED` names the round to be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_chance_makes_up_are_answered_as_redis_answers_them() {
    let Some((redis, group)) = both().await else { return };
    let named = std::env::var("KITH_PRNG_SEED").ok().map(|number| number.parse().unwrap());
    for round in 0..RANDOM_ROUNDS {
        let prng_seed = named.unwrap_or_else(rand::random::<u64>);
        let protocol = if round % 2 == 0 { 2 } else { 3 };
        let mut chance = random::Chance::new(prng_seed);
        let mut theirs = Connection::fresh(redis.address, protocol).await;
        let mut ours = Connection::fresh(group[0].resp, protocol).await;
        let mut before: Vec<String> = Vec::new();
        for _ in 0..RANDOM_COMMANDS {
            let (command, shown) = chance.command();
            theirs.send(&command).await;
            ours.send(&command).await;
            let (expected, reply) = (text(&theirs.reply().await), text(&ours.reply().await));
            before.push(format!("{shown} {expected}"));
            let last = before.len().saturating_sub(12);
            assert_eq!(expected, reply, "KITH_PRNG_SEED={prng_seed}\n{}", before[last..].join("\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_in_pieces_is_answered_as_redis_answers_its_commands_one_by_one() {
    let Some((redis, group)) = both().await else { return };
    for (protocol, piece) in [(2, 7), (3, 61), (2, 4_096)] {
        let mut theirs = Connection::fresh(redis.address, protocol).await;
        let mut expected = Vec::new();
        for command in commands() {
            expected.push((command, text(&theirs.ask(command).await)));
        }
        let ours = Connection::fresh(group[1].resp, protocol).await;
        let (reading, mut writing) = ours.0.into_inner().into_split();
        let input: String = commands().map(|command| format!("{command}\r\n")).collect();
        let sent = tokio::spawn(async move {
            for part in input.as_bytes().chunks(piece) {
                writing.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            writing
        });
        let mut reading = BufReader::new(reading);
        for (command, reply) in expected {
            let got = tokio::time::timeout(PATIENCE, read_reply(&mut reading)).await.unwrap();
            assert_eq!(text(&got), reply, "{command} in pieces of {piece} bytes");
        }
        sent.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_commands_are_answered_as_redis_answers_them() {
    let Some((redis, group)) = both().await else { return };
    for bytes in MALFORMED {
        let mut replies = Vec::new();
        for address in [redis.address, group[0].resp] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut reply = Vec::new();
            // An end that comes as a reset is an end, too.
            let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await;
            assert!(end.is_ok(), "{} does not end the connection to {address}", text(bytes));
            replies.push(text(&reply));
        }
        assert_eq!(replies[0], replies[1], "{}", text(bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_keys_are_told_on_the_channels_of_redis() {
    let Some((redis, group)) = both().await else { return };
    let mut server = Connection::fresh(redis.address, 2).await;
    assert_eq!(server.ask("CONFIG SET notify-keyspace-events KEA").await, b"+OK\r\n");
    for (protocol, subscribe) in [
        (2, "SUBSCRIBE __keyspace@0__:k"),
        (3, "SUBSCRIBE __keyevent@0__:del"),
        (2, "PSUBSCRIBE __keyspace@0__:k*"),
        (3, "PSUBSCRIBE __key*@0__:*"),
    ] {
        let mut told = Vec::new();
        for (listens, speaks) in [(redis.address, redis.address), (group[0].resp, group[2].resp)] {
            let mut listener = Connection::fresh(listens, protocol).await;
            let mut speaker = Connection::fresh(speaks, 2).await;
            // What was deleted to begin with must not be heard of.
            if speaks != redis.address {
                assert_eq!(speaker.ask("WAIT 2 60000").await, b":2\r\n");
            }
            let mut messages = vec![text(&listener.ask(subscribe).await)];
            for command in
                ["SET other v", "SET k v", "INCR k2", "SETNX k w", "DEL k", "DEL none", "SELECT 1", "SET k v"]
            {
                speaker.ask(command).await;
            }
            for command in ["SELECT 0", "SET k end", "DEL k"] {
                speaker.ask(command).await;
            }
            let enough = match subscribe {
                "SUBSCRIBE __keyspace@0__:k" => 4,
                "SUBSCRIBE __keyevent@0__:del" => 2,
                "PSUBSCRIBE __keyspace@0__:k*" => 5,
                _ => 12,
            };
            let mut heard = Vec::new();
            for _ in 0..enough {
                heard.push(text(&listener.reply().await));
            }
            // Changes of different keys may come in another order.
            heard.sort_unstable();
            messages.extend(heard);
            told.push(messages);
        }
        assert_eq!(told[0], told[1], "{subscribe}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_all_owners_have_what_was_written() {
    let group = Group::ready(3, &Plan::default()).await;
    let mut ours = Connection(BufReader::new(TcpStream::connect(group[1].resp).await.unwrap()));
    for command in ["SET k v", "MSET a 1 b 2 c 3", "APPEND k w", "SETNX n 1"] {
        assert!(!ours.ask(command).await.starts_with(b"-"), "{command}");
        assert_eq!(ours.ask("WAIT 2 60000").await, b":2\r\n", "{command}");
    }
}

/// All that a scan lists, over two connections in turn, as a pool of connections would.
async fn scanned(address: SocketAddr, options: &str) -> BTreeSet<Vec<u8>> {
    let mut pool = [
        Connection(BufReader::new(TcpStream::connect(address).await.unwrap())),
        Connection(BufReader::new(TcpStream::connect(address).await.unwrap())),
    ];
    let (mut keys, mut cursor) = (BTreeSet::new(), "0".to_owned());
    for turn in 0.. {
        let Value::List(page) = pool[turn % 2].value(&format!("SCAN {cursor} {options}")).await else {
            panic!("a page is a list")
        };
        cursor = page[0].text();
        keys.extend(page[1].list().iter().map(|key| key.bytes().to_vec()));
        if cursor == "0" {
            break;
        }
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_are_listed_that_redis_lists() {
    let Some((redis, group)) = both().await else { return };
    for address in [redis.address, group[0].resp] {
        let mut connection = Connection::fresh(address, 2).await;
        for n in 0..700 {
            let command = format!("SET {}:{n} v{n}", ["user", "u[x]", "*"][n % 3]);
            assert_eq!(connection.ask(&command).await, b"+OK\r\n");
        }
        assert_eq!(connection.ask("DBSIZE").await, b":700\r\n");
    }
    let options = [
        "",
        "COUNT 1000",
        "MATCH user:* COUNT 50",
        "MATCH *:1?? COUNT 7",
        "MATCH u\\[x\\]:[0-4]* COUNT 100",
        "MATCH \\** TYPE string",
        "TYPE list",
        "MATCH nothing",
    ];
    for options in options {
        let (theirs, ours) = (scanned(redis.address, options).await, scanned(group[1].resp, options).await);
        assert_eq!(theirs, ours, "SCAN {options}");
    }
    for pattern in ["*", "user:*", "*[!-/]*", "*:??", "u\\[*5", "[*u]*:[^0-8]*"] {
        let mut lists = Vec::new();
        for address in [redis.address, group[2].resp] {
            let mut connection = Connection(BufReader::new(TcpStream::connect(address).await.unwrap()));
            let keys = connection.value(&format!("KEYS {pattern}")).await;
            lists.push(keys.list().iter().map(|key| key.bytes().to_vec()).collect::<BTreeSet<_>>());
        }
        assert_eq!(lists[0], lists[1], "KEYS {pattern}");
    }
    let mut ours = Connection(BufReader::new(TcpStream::connect(group[2].resp).await.unwrap()));
    let some = ours.value("RANDOMKEY").await;
    assert_eq!(ours.ask(&format!("EXISTS {}", some.text())).await, b":1\r\n");
    assert_eq!(ours.ask("FLUSHDB").await, b"+OK\r\n");
    assert_eq!(ours.ask("DBSIZE").await, b":0\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_described_as_redis_describes_them() {
    let Some((redis, group)) = both().await else { return };
    let later = ["client|setinfo", "client|no-touch"];
    for protocol in [2, 3] {
        let mut theirs = Connection::fresh(redis.address, protocol).await;
        let mut ours = Connection::fresh(group[0].resp, protocol).await;
        let names = ours.value("COMMAND LIST").await;
        assert!(names.list().len() > 60);
        for name in names.list().iter().map(Value::text).filter(|name| !later.contains(&name.as_str())) {
            let mut described = Vec::new();
            for connection in [&mut theirs, &mut ours] {
                let info = connection.value(&format!("COMMAND INFO {name}")).await;
                let mut parts = info.list()[0].list().to_vec();
                // The last are the subcommands, each looked at by itself.
                parts.truncate(9);
                described.push(parts.iter().map(|part| part.without("notes")).collect::<Vec<_>>());
                let docs = connection.value(&format!("COMMAND DOCS {name}")).await;
                for field in ["since", "group"] {
                    described.push(vec![docs.list()[1].field(field)]);
                }
            }
            assert_eq!(described[..3], described[3..], "{name}");
        }
        let nothing = "COMMAND INFO nothing";
        assert_eq!(text(&theirs.ask(nothing).await), text(&ours.ask(nothing).await));
    }
}

/// The names of fields in lines of `name:value`, or between spaces as `name=value`.
fn names(text: &str, mark: char) -> Vec<String> {
    let name = |field: &str| field.split_once(mark).map(|(name, _)| name.to_owned());
    text.split(['\r', '\n', ' ']).filter_map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_the_member_and_its_clients_has_redis_names() {
    let Some((redis, group)) = both().await else { return };
    let mut theirs = Connection::fresh(redis.address, 2).await;
    let mut ours = Connection::fresh(group[0].resp, 2).await;
    for connection in [&mut theirs, &mut ours] {
        assert_eq!(connection.ask("SET k v").await, b"+OK\r\n");
    }
    let (their_info, our_info) =
        (theirs.value("INFO everything").await.text(), ours.value("INFO").await.text());
    let known: BTreeSet<String> = names(&their_info, ':').into_iter().collect();
    let (shared, own) = our_info.split_once("# Kith\r\n").unwrap();
    let unknown: Vec<String> = names(shared, ':')
        .into_iter()
        .filter(|name| !known.contains(name) && name != "kith_version")
        .collect();
    assert!(unknown.is_empty(), "Redis has no {unknown:?}");
    assert!(own.contains("replication_factor:3"), "{own}");
    for section in their_info.lines().filter(|line| line.starts_with("# ")) {
        let absent = ["# Commandstats", "# Latencystats"];
        assert!(our_info.contains(section) || absent.contains(&section), "{section} is missing");
    }
    let keyspace = ours.value("INFO keyspace").await.text();
    assert!(keyspace.starts_with("# Keyspace\r\ndb0:keys=") && keyspace.contains(",expires="), "{keyspace}");
    let (mut their_names, our_names) = (
        names(&theirs.value("CLIENT INFO").await.text(), '='),
        names(&ours.value("CLIENT INFO").await.text(), '='),
    );
    their_names.extend(["lib-name", "lib-ver"].map(str::to_owned));
    assert_eq!(their_names, our_names);
    assert_eq!(names(&ours.value("CLIENT LIST").await.text(), '=')[..our_names.len()], our_names);
}
