//! What tokens open.

use super::*;
use crate::resp::commands::table::COMMANDS;

#[test]
fn a_copy_needs_the_right_to_write_where_it_goes() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.exchange(b"SELECT 1\r\nSET k v\r\n").await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "1*")]));
        let reply =
            port.exchange(b"AUTH kith_app_app\r\nSELECT 1\r\nCOPY k l DB 2\r\nCOPY k l DB 12\r\n").await;
        let forbidden =
            "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
        assert_eq!(reply, format!("+OK\r\n+OK\r\n{forbidden}:1\r\n"));
    });
}

/// What a client meets once there are tokens: `app` writes in the collection `1` and those that begin with `20`,
/// `eye` reads everywhere.
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
    ("SELECT 1", "+OK\r\n"),
    ("SET k w", "+OK\r\n"),
    ("SELECT 12", "+OK\r\n"),
    ("SET k v", "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"),
    ("SELECT 201", "+OK\r\n"),
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
        port.tokens.publish(&tokens(&[("app", Role::Write, "1 20*"), ("eye", Role::Read, "*")]));
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
fn a_token_is_told_of_its_own_databases_and_connections_alone() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let made = [("app", Role::Write, "1"), ("eye", Role::Read, "2"), ("root", Role::Admin, "*")];
        port.tokens.publish(&tokens(&made));
        let mut others = Vec::new();
        for (login, reply) in
            [("AUTH kith_app_app", "+OK\r\n"), ("AUTH kith_eye_eye", "+OK\r\n"), ("PING", "-NOAUTH")]
        {
            let mut other = port.connect().await;
            other.write_all(format!("{login}\r\n").as_bytes()).await.unwrap();
            expect(&mut other, reply).await;
            others.push(other);
        }
        let seen = async |name: &str| {
            let asked = format!("AUTH kith_{name}_{name}\r\nINFO keyspace\r\nCLIENT LIST\r\n");
            let told = port.exchange(asked.as_bytes()).await;

            let after = |mark: &str| {
                let mut found: Vec<_> = told
                    .split(mark)
                    .skip(1)
                    .map(|rest| rest.split([':', ' ']).next().unwrap().to_owned())
                    .collect();
                found.sort_unstable();
                found.join(" ")
            };
            (after("\ndb"), after(" user="))
        };
        let told = |databases: &str, users: &str| (databases.to_owned(), users.to_owned());
        assert_eq!(seen("app").await, told("1", "app app"));
        assert_eq!(seen("eye").await, told("2", "eye eye"));
        assert_eq!(seen("root").await, told("0 1 2", "app default eye root"));
        // Who logs in as somebody else, or out, is seen as that.
        others[0].write_all(b"AUTH kith_eye_eye\r\n").await.unwrap();
        expect(&mut others[0], "+OK\r\n").await;
        others[1].write_all(b"RESET\r\n").await.unwrap();
        expect(&mut others[1], "+RESET\r\n").await;
        assert_eq!(seen("root").await.1, "default default eye root");
        assert_eq!(seen("app").await.1, "app");
        port.tokens.publish(&tokens(&made[..1]));
        until(|| port.fake.0.borrow().counts.connections.get() == 3).await;
        assert_eq!(port.exchange(b"AUTH kith_app_app\r\nCLIENT LIST ID 1 2\r\n").await, "+OK\r\n$0\r\n\r\n");
    });
}

#[test]
fn an_open_connection_loses_what_its_token_loses() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let mut early = port.connect().await;
        early.write_all(b"PING\r\n").await.unwrap();
        expect(&mut early, "+PONG\r\n").await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "*"), ("eye", Role::Read, "*")]));
        early.write_all(b"PING\r\nAUTH kith_app_app\r\nSET k v\r\n").await.unwrap();
        expect(&mut early, "-NOAUTH Authentication required.\r\n+OK\r\n+OK\r\n").await;
        port.tokens.publish(&tokens(&[("app", Role::Read, "*"), ("eye", Role::Read, "*")]));
        early.write_all(b"GET k\r\nAUTH kith_app_app\r\nGET k\r\n").await.unwrap();
        expect(&mut early, "-NOAUTH Authentication required.\r\n+OK\r\n$1\r\nv\r\n").await;
        port.tokens.publish(&tokens(&[("eye", Role::Read, "*")]));
        early.write_all(b"GET k\r\n").await.unwrap();
        expect(&mut early, "-NOAUTH Authentication required.\r\n").await;
    });
}

/// A right that each command needs.
fn named_right(flags: &str) -> Option<Role> {
    let has = |flag| flags.split(' ').any(|word| word == flag);
    if has("write") { Some(Role::Write) } else { has("readonly").then_some(Role::Read) }
}

#[test]
fn commands_that_clients_know_to_read_or_write_take_that_role() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.tokens.publish(&tokens(&[("app", Role::Read, "1")]));
        for spec in COMMANDS.iter().filter(|spec| spec.subcommands().next().is_none()) {
            let arguments = " 1".repeat(usize::try_from(spec.arity.abs()).unwrap() - 1);
            let command = format!("{}{arguments}\r\n", spec.name);
            let stranger = port.exchange(command.as_bytes()).await;
            let opens = spec.flags.contains("no_auth") || spec.name == "quit";
            assert_eq!(!stranger.starts_with("-NOAUTH Auth"), opens, "{command}: {stranger}");
            for (database, role) in [("0", None), ("1", Some(Role::Read))] {
                let input = format!("AUTH kith_app_app\r\nSELECT {database}\r\n{command}");
                let reply = port.exchange(input.as_bytes()).await;
                let is_refused = reply.starts_with("+OK\r\n+OK\r\n-NOPERM ");
                assert_eq!(is_refused, named_right(spec.flags) > role, "{database} {command}: {reply}");
            }
        }
    });
}

const LOGIN: &[u8] = b"AUTH kith_app_app\r\nPING\r\n";

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
            // WAIT takes no role.
            for is_stranger in
                [true, false].into_iter().filter(|stranger| *stranger || !command.starts_with("WAIT"))
            {
                let port = Port::open(place, 5, Limits { in_flight: 4, ..Limits::default() }).await;
                port.exchange(b"SET a 1\r\nSET b 1\r\n").await;
                let mut stream = port.connect().await;
                if is_stranger {
                    port.tokens.publish(&tokens(&[("app", Role::Write, "*"), ("eye", Role::Write, "*")]));
                    stream.write_all(LOGIN).await.unwrap();
                    expect(&mut stream, "+OK\r\n+PONG\r\n").await;
                }
                port.fake.0.borrow_mut().held = true;
                let input = format!("{command}\r\nAUTH kith_eye_eye\r\nSET later 1\r\nKEYS *\r\n");
                stream.write_all(input.as_bytes()).await.unwrap();
                until(|| !port.fake.0.borrow().pending.is_empty()).await;
                let refused = if is_stranger {
                    port.tokens.publish(&tokens(&[("eye", Role::Write, "*")]));
                    "-NOAUTH Authentication required.\r\n"
                } else {
                    // Who comes from this machine may then look at the member's state and at no key.
                    port.tokens.publish_unsure();
                    "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"
                };
                port.fake.0.borrow_mut().held = false;
                assert_eq!(rest(&mut stream).await, refused, "{command}");
                let later = (DEFAULT.to_owned(), b"later".to_vec());
                assert!(!port.fake.0.borrow().records.contains_key(&later), "{command}");
            }
        }
    });
}

#[test]
fn a_client_that_was_not_let_in_gets_no_more_than_the_usual_buffer() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "*")]));
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

#[test]
fn who_shows_no_token_in_time_is_told_and_cut_off() {
    run(async {
        let limits = Limits { introduction: Duration::from_millis(500), ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        let mut open = port.connect().await;
        open.write_all(b"PING\r\n").await.unwrap();
        expect(&mut open, "+PONG\r\n").await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "*")]));
        let mut known = port.connect().await;
        known.write_all(b"AUTH kith_app_app\r\n").await.unwrap();
        expect(&mut known, "+OK\r\n").await;
        let mut stranger = port.connect().await;
        stranger.write_all(b"GET k\r\n").await.unwrap();
        let (refused, ended) = (
            "-NOAUTH Authentication required.\r\n",
            "-NOAUTH Authentication required, and none came in time.\r\n",
        );
        assert_eq!(rest(&mut stranger).await, format!("{refused}{ended}"));
        assert_eq!(rest(&mut open).await, ended, "it needs a token since there are any");
        known.write_all(b"PING\r\n").await.unwrap();
        expect(&mut known, "+PONG\r\n").await;
        assert_eq!(counts.unauthenticated.get(), 2);
        port.tokens.publish(&tokens(&[("eye", Role::Read, "*")]));
        assert_eq!(rest(&mut known).await, ended);
    });
}
