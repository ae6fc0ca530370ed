//! What one client may take, what the port does beyond that, and how it ends.

use super::*;

/// What a large command is told for which there is no room.
const NO_ROOM: &str = "-ERR Protocol error: too many large requests at once, try again shortly\r\n";

/// A SET of so many bytes whose end is missing.
fn large_set(bytes: usize) -> String {
    format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${bytes}\r\n{}", "x".repeat(bytes))
}

#[test]
fn large_commands_of_all_connections_together_are_bounded() {
    run(async {
        let limits = Limits { large_input_bytes: 80_000, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let mut first = port.connect().await;
        first.write_all(large_set(60_000).as_bytes()).await.unwrap();
        until(|| port.fake.0.borrow().counts.bytes_received.get() >= 60_000).await;
        let mut second = port.connect().await;
        _ = second.write_all(large_set(60_000).as_bytes()).await;
        assert_eq!(rest(&mut second).await, NO_ROOM);
        assert_eq!(port.fake.0.borrow().counts.too_large.get(), 1);
        first.write_all(b"\r\n").await.unwrap();
        expect(&mut first, "+OK\r\n").await;
        drop(first);
        until(|| port.fake.0.borrow().counts.connections.get() == 0).await;
        assert_eq!(port.exchange(format!("{}\r\n", large_set(60_000)).as_bytes()).await, "+OK\r\n");
    });
}

#[test]
fn a_refusal_takes_nothing_from_the_account_of_large_commands() {
    run(async {
        let limits = Limits { large_input_bytes: 80_000, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        let mut first = port.connect().await;
        first.write_all(large_set(60_000).as_bytes()).await.unwrap();
        until(|| counts.bytes_received.get() >= 60_000).await;
        for round in 1..=3 {
            let mut next = port.connect().await;
            _ = next.write_all(large_set(60_000).as_bytes()).await;
            expect(&mut next, NO_ROOM).await;
            drop(next);
            until(|| counts.connections.get() == 1).await;
            assert_eq!(counts.too_large.get(), round);
        }
    });
}

#[test]
fn an_unfinished_large_command_of_which_nothing_more_comes_is_cut_off_and_a_small_one_is_not() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits { stall: Duration::ZERO, ..Limits::default() }).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        let (mut small, mut held) = (port.connect().await, port.connect().await);
        // What is complete waits for the disk.
        relieve(&port, Some(0));
        small.write_all(large_set(10_000).as_bytes()).await.unwrap();
        held.write_all(format!("{}\r\n", large_set(60_000)).as_bytes()).await.unwrap();
        until(|| counts.bytes_received.get() >= 70_000).await;
        // It comes last, so whatever cuts it would have cut the others before.
        let mut large = port.connect().await;
        large.write_all(large_set(60_000).as_bytes()).await.unwrap();
        until(|| counts.stalled.get() > 0 && counts.connections.get() == 2).await;
        assert_eq!((counts.stalled.get(), counts.evicted.get()), (1, 0));
        relieve(&port, None);
        small.write_all(b"\r\n").await.unwrap();
        expect(&mut small, "+OK\r\n").await;
        expect(&mut held, "+OK\r\n").await;
    });
}

#[test]
fn the_room_of_large_commands_goes_to_who_sends_them() {
    run(async {
        let limits = Limits { large_input_bytes: 80_000, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        let mut idle = port.connect().await;
        idle.write_all(large_set(60_000).as_bytes()).await.unwrap();
        until(|| counts.bytes_received.get() >= 60_000).await;
        // It has some seconds to go on.
        loop {
            let mut next = port.connect().await;
            _ = next.write_all(format!("{}\r\n", large_set(60_000)).as_bytes()).await;
            let mut reply = vec![0; "+OK\r\n".len()];
            if next.read_exact(&mut reply).await.is_ok() && reply == *b"+OK\r\n" {
                break;
            }
            assert_eq!(counts.stalled.get(), 0);
        }
        assert_eq!((counts.stalled.get(), counts.evicted.get()), (1, 0));
        assert!(!matches!(idle.read(&mut [0; 1]).await, Ok(1..)), "it is told nothing");
    });
}

#[test]
fn broken_requests_are_answered_and_cut_off() {
    let cases: [(&[u8], &str); 5] = [
        (b"PING\r\n*x\r\n", "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n:4\r\nPING\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n$\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"GET 'a\r\nPING\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\nabc", "-ERR Protocol error: invalid bulk length\r\n"),
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
fn what_a_refused_value_holds_is_not_taken_for_the_reads_that_come_next() {
    const READS: &str = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n";
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let mut stream = port.connect().await;
        stream.write_all(b"SET c 3\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9000000\r\n").await.unwrap();
        let told = "+OK\r\n-ERR an argument has at most 8388608 bytes (the setting `max_value_bytes`)\r\n";
        expect(&mut stream, told).await;
        stream.write_all(READS.repeat(9_000_000 / READS.len()).as_bytes()).await.unwrap();
        stream.write_all(b"\r\nGET c\r\n").await.unwrap();
        expect(&mut stream, "$1\r\n3\r\n").await;
    });
}

#[test]
fn what_is_too_long_is_answered_in_its_turn_and_the_connection_goes_on() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits { large_input_bytes: 0, ..Limits::default() }).await;
        let (key, value) = ("k".repeat(4_097), "v".repeat((8 << 20) + 1));
        let input = format!(
            "SET a 1\r\n*2\r\n$3\r\nGET\r\n$4097\r\n{key}\r\nGET a\r\n\
             *5\r\n$4\r\nMSET\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\nc\r\n$8388609\r\n{value}\r\nGET b\r\n"
        );
        let replies = "+OK\r\n-ERR a key has at most 4096 bytes\r\n$1\r\n1\r\n\
                       -ERR an argument has at most 8388608 bytes (the setting `max_value_bytes`)\r\n$-1\r\n";
        assert_eq!(port.exchange(input.as_bytes()).await, replies);
        assert_eq!(port.fake.0.borrow().counts.too_large.get(), 2);
        // It is told before the rest of it comes.
        let mut stream = port.connect().await;
        stream.write_all(b"SET a 2\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9000000\r\nvv").await.unwrap();
        expect(
            &mut stream,
            "+OK\r\n-ERR an argument has at most 8388608 bytes (the setting `max_value_bytes`)\r\n",
        )
        .await;
        stream.write_all("v".repeat(9_000_000 - 2).as_bytes()).await.unwrap();
        stream.write_all(b"\r\nGET a\r\n").await.unwrap();
        expect(&mut stream, "$1\r\n2\r\n").await;
        assert_eq!(port.fake.0.borrow().counts.too_large.get(), 3);
        port.tokens.publish(&tokens(&[("app", Role::Write, "*")]));
        let stranger = format!("*2\r\n$3\r\nGET\r\n$4097\r\n{key}\r\n");
        let replies = "-NOAUTH Authentication required.\r\n";
        assert_eq!(port.exchange(stranger.as_bytes()).await, replies);
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

/// A client whose machine takes little of what is sent to it before it reads.
async fn connect_small(port: &Port) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(port.address).await.unwrap()
}

/// Makes a record that is too large for the sockets' buffers.
fn put_large(port: &Port, key: &str, bytes: usize) {
    let name = (DEFAULT.to_owned(), key.as_bytes().to_vec());
    let key = KeyRef::new(DEFAULT, name.1.as_slice()).unwrap();
    let timestamp = Timestamp { time: 1, member: MemberId(1) };
    let record = Record::value(key, timestamp, None, &vec![b'x'; bytes]);
    port.fake.0.borrow_mut().records.insert(name, record);
}

#[test]
fn what_waits_for_all_clients_together_is_bounded_and_who_reads_does_not_pay_for_it() {
    const LARGE: usize = 8 << 20;
    run(async {
        let limits = Limits { unsent_bytes: 40 << 20, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        put_large(&port, "k", LARGE);
        let mut reader = port.connect().await;
        let mut deaf = Vec::new();
        for asked in 1..=15 {
            let mut stream = connect_small(&port).await;
            stream.write_all(b"GET k\r\n").await.unwrap();
            deaf.push(stream);
            until(|| port.fake.0.borrow().hits >= 2 * asked - 1).await;
            reader.write_all(b"GET k\r\nPING\r\n").await.unwrap();
            let mut reply = vec![0; LARGE + "$8388608\r\n\r\n+PONG\r\n".len()];
            reader.read_exact(&mut reply).await.unwrap();
            assert!(counts.unsent_bytes.get() <= 40 << 20, "{}", counts.unsent_bytes.get());
        }
        until(|| counts.evicted.get() + counts.connections.get() == 16).await;
        assert!((5..15).contains(&counts.evicted.get()), "{}", counts.evicted.get());
        drop(deaf);
        until(|| counts.connections.get() == 1 && counts.unsent_bytes.get() == 0).await;
    });
}

#[test]
fn what_a_command_has_gathered_counts_until_it_is_answered() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        let mut stream = port.connect().await;
        put_large(&port, "from", 1 << 20);
        port.fake.0.borrow_mut().held = true;
        stream.write_all(b"RENAME from to\r\n").await.unwrap();
        until(|| !port.fake.0.borrow().pending.is_empty()).await;
        assert_eq!(counts.unsent_bytes.get(), 0);
        // The source has come, and waits for the disk.
        relieve(&port, Some(0));
        port.fake.0.borrow_mut().held = false;
        until(|| counts.unsent_bytes.get() >= 1 << 20).await;
        // It is on its way to its other name.
        port.fake.0.borrow_mut().held = true;
        relieve(&port, None);
        until(|| !port.fake.0.borrow().pending.is_empty()).await;
        assert!(counts.unsent_bytes.get() >= 1 << 20);
        port.fake.0.borrow_mut().held = false;
        expect(&mut stream, "+OK\r\n").await;
        until(|| counts.unsent_bytes.get() == 0).await;
        for n in 10..30 {
            put_large(&port, &format!("{}{n}", "a".repeat(4_000)), 1);
        }
        // Comparing takes several turns, and nothing matches.
        stream.write_all(format!("KEYS *{}b\r\n", "a".repeat(254)).as_bytes()).await.unwrap();
        until(|| counts.unsent_bytes.get() >= 40_000).await;
        expect(&mut stream, "*0\r\n").await;
        until(|| counts.unsent_bytes.get() == 0).await;
    });
}

#[test]
fn connections_leave_little_unread_while_room_is_scarce() {
    run(async {
        for (unsent_bytes, least, most) in [(100 << 20, 100_000, 4 << 20), (20 << 20, 0, 100_000)] {
            let port = Port::open(Place::Here, 1, Limits { unsent_bytes, ..Limits::default() }).await;
            let counts = Rc::clone(&port.fake.0.borrow().counts);
            put_large(&port, "large", 16 << 20);
            put_large(&port, "small", 20_000);
            let (mut first, mut second) = (connect_small(&port).await, connect_small(&port).await);
            first.write_all(b"GET large\r\n").await.unwrap();
            until(|| counts.unsent_bytes.get() >= 8 << 20).await;
            let before = counts.unsent_bytes.get();
            second.write_all("GET small\r\n".repeat(1_000).as_bytes()).await.unwrap();
            until(|| counts.held_output.get() > 0).await;
            let mut same = 0;
            let mut hits = 0;
            while same < 1_000 {
                yield_now().await;
                let now = port.fake.0.borrow().hits;
                (hits, same) = if now == hits { (now, same + 1) } else { (now, 0) };
            }
            let more = counts.unsent_bytes.get().saturating_sub(before);
            assert!((least..most).contains(&more), "{more} of {unsent_bytes}");
            assert_eq!((counts.evicted.get(), counts.connections.get()), (0, 2));
        }
    });
}

#[test]
fn a_client_that_takes_nothing_of_what_waits_for_it_is_cut_off_and_one_that_waits_itself_is_not() {
    run(async {
        let limits = Limits { stall: Duration::ZERO, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let counts = Rc::clone(&port.fake.0.borrow().counts);
        put_large(&port, "k", 8 << 20);
        let (mut waiting, mut idle) = (port.connect().await, port.connect().await);
        idle.write_all(b"PING\r\n").await.unwrap();
        expect(&mut idle, "+PONG\r\n").await;
        port.fake.0.borrow_mut().held = true;
        waiting.write_all(b"INCR n\r\nPING\r\n").await.unwrap();
        until(|| !port.fake.0.borrow().pending.is_empty()).await;
        // It comes last, so whatever cuts it would have cut the others before.
        let mut deaf = connect_small(&port).await;
        deaf.write_all(b"GET k\r\n").await.unwrap();
        until(|| counts.stalled.get() > 0 && counts.connections.get() == 2).await;
        assert_eq!((counts.stalled.get(), counts.evicted.get()), (1, 0));
        assert!(counts.unsent_bytes.get() < 1_000, "{}", counts.unsent_bytes.get());
        port.fake.0.borrow_mut().held = false;
        expect(&mut waiting, ":1\r\n+PONG\r\n").await;
        idle.write_all(b"PING\r\n").await.unwrap();
        expect(&mut idle, "+PONG\r\n").await;
    });
}

#[test]
fn a_flood_of_commands_gives_way_to_whoever_is_ready() {
    run(async {
        let limits = Limits { in_flight: 1 << 20, ..Limits::default() };
        let port = Port::open(Place::Here, 1, limits).await;
        let mut flood = port.connect().await;
        let commands = "SET a b\r\n".repeat(60_000);
        let flooding = tokio::task::spawn_local(async move {
            flood.write_all(commands.as_bytes()).await.unwrap();
            flood
        });
        let writes = || port.fake.0.borrow().afters.len();
        let mut most = 0;
        while writes() < 50_000 {
            let before = writes();
            yield_now().await;
            most = most.max(writes() - before);
        }
        assert!((1..=2 * 128).contains(&most), "{most} commands came before this task had its turn again");
        drop(flooding);
    });
}

#[test]
fn a_costly_pattern_gives_way_to_other_clients() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        for n in 10..30 {
            put_large(&port, &format!("{}{n}", "a".repeat(4_000)), 1);
        }
        for command in ["KEYS", "SCAN 0 COUNT 100 MATCH"] {
            let (mut costly, mut other) = (port.connect().await, port.connect().await);
            other.write_all(b"PING\r\n").await.unwrap();
            expect(&mut other, "+PONG\r\n").await;
            let pattern = format!("*{}b", "a".repeat(254));
            port.fake.0.borrow_mut().held = true;
            costly.write_all(format!("{command} {pattern}\r\n").as_bytes()).await.unwrap();
            until(|| !port.fake.0.borrow().pending.is_empty()).await;
            port.fake.0.borrow_mut().held = false;
            until(|| port.fake.0.borrow().pending.is_empty()).await;
            other.try_write(b"PING\r\n").unwrap();
            expect(&mut other, "+PONG\r\n").await;
            assert!(costly.try_read(&mut [0; 1]).is_err(), "{command} was answered first");
            let reply = if command == "KEYS" { "*0\r\n" } else { "*2\r\n$1\r\n0\r\n*0\r\n" };
            expect(&mut costly, reply).await;
        }
    });
}

#[test]
fn patterns_of_keys_are_bounded_as_those_of_channels_are() {
    run(async {
        let port = Port::open(Place::Here, 1, Limits::default()).await;
        let long = "x".repeat(256);
        let error = "-ERR a pattern has at most 256 bytes from its first wildcard on\r\n";
        for command in ["KEYS", "SCAN 0 MATCH", "PSUBSCRIBE"] {
            assert_eq!(port.exchange(format!("{command} {long}*{long}\r\n").as_bytes()).await, error);
        }
        let input = format!("KEYS {long}{long}*\r\nSCAN 0 MATCH *{}\r\n", &long[1..]);
        assert_eq!(port.exchange(input.as_bytes()).await, "*0\r\n*2\r\n$1\r\n0\r\n*0\r\n");
    });
}
