//! Any commands in any pieces, and any bytes.

use super::*;

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
