//! Channels that tell of changed keys.

use super::*;

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
fn a_listener_that_loses_its_right_is_told_and_hears_no_more() {
    let forbidden = "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
    let both = [("app", Role::Write, "1"), ("eye", Role::Read, "2")];
    let listens = [
        ("SUBSCRIBE __keyspace@1__:a", "$9\r\nsubscribe\r\n$16\r\n__keyspace@1__:a\r\n:1\r\n"),
        ("PSUBSCRIBE *", "$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n"),
        ("SUBSCRIBE news", "$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"),
    ];
    run(async {
        for (command, confirmed) in listens {
            let port = Port::open(Place::Here, 5, Limits::default()).await;
            port.tokens.publish(&tokens(&both));
            let mut stream = port.connect().await;
            stream.write_all(format!("AUTH kith_app_app\r\n{command}\r\n").as_bytes()).await.unwrap();
            expect(&mut stream, &format!("+OK\r\n*3\r\n{confirmed}")).await;
            port.tokens.publish(&tokens(&both[1..]));
            assert_eq!(rest(&mut stream).await, "-NOAUTH Authentication required.\r\n", "{command}");
            assert!(port.fake.0.borrow().subscriptions.iter().all(|(_, listens)| !listens));
        }
        let port = Port::open(Place::Here, 5, Limits::default()).await;
        port.tokens.publish(&tokens(&both));
        let mut stream = port.connect().await;
        stream
            .write_all(format!("HELLO 3 AUTH app kith_app_app\r\n{}\r\n", listens[0].0).as_bytes())
            .await
            .unwrap();
        until(|| !port.fake.0.borrow().subscriptions.is_empty()).await;
        stream.write_all(b"AUTH kith_eye_eye\r\n").await.unwrap();
        let told = rest(&mut stream).await;
        assert!(told.ends_with(&format!("{}+OK\r\n{forbidden}", listens[0].1)), "{told}");
    });
}

#[test]
fn a_listener_in_the_middle_of_a_command_ends_with_its_right() {
    run(async {
        let port = Port::open(Place::Here, 5, Limits { in_flight: 2, ..Limits::default() }).await;
        port.tokens.publish(&tokens(&[("app", Role::Write, "*")]));
        let mut stream = port.connect().await;
        stream
            .write_all(b"HELLO 3 AUTH app kith_app_app\r\nSUBSCRIBE news\r\nMSET a 1 b 2 c 3\r\n")
            .await
            .unwrap();
        port.fake.0.borrow_mut().held = true;
        until(|| port.fake.0.borrow().pending.len() == 2).await;
        port.tokens.publish(&tokens(&[("eye", Role::Read, "*")]));
        port.fake.0.borrow_mut().held = false;
        let told = rest(&mut stream).await;
        assert!(told.ends_with(":1\r\n-NOAUTH Authentication required.\r\n"), "{told}");
        assert_eq!(port.fake.0.borrow().afters.len(), 2);
    });
}
