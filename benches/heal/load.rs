//! Records that everybody writes, and clients that write until they are told to stop.

use super::support::resp::Resp;
use anyhow::{Result, bail};
use kith::model::key::DEFAULT;
use kith::model::{KeyRef, MemberId, Record, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of each value.
pub const VALUE_BYTES: usize = 100;
/// Clients of a load, each with a connection and one request in flight.
const CLIENTS: usize = 16;
/// Keys of each client, written again and again.
const KEYS: usize = 5_000;
/// Reads in flight of a check.
const READS: usize = 500;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);

/// The name of one of the records that a part begins with.
pub fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// Bytes of such a record, as every member keeps and sends it.
pub fn record_bytes(key: &str, value_bytes: usize) -> Result<u64> {
    let timestamp = Timestamp { time: u64::MAX, member: MemberId::of_public_key(&[0; 32]) };
    let key = KeyRef::new(DEFAULT, key.as_bytes())?;
    Ok(Record::value(key, timestamp, None, &vec![0; value_bytes]).view().bytes().len() as u64)
}

/// Sets so many records through one member.
pub fn fill(port: u16, numbers: impl Iterator<Item = u64>, letter: &str) -> Result<()> {
    Resp::connect(port)?.fill(numbers.map(key), &letter.repeat(VALUE_BYTES))
}

/// Clients that write until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Written>>,
}

/// What one client did: of each of its keys, the number of the last write that was acknowledged; 0 for none.
pub struct Written {
    client: usize,
    acknowledged: Vec<u64>,
}

impl Load {
    /// Each client writes through one of the members, and through the next one when its own can't be reached.
    pub fn start(ports: &[u16]) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let begin = |client: usize| {
            let (stop, total, ports) = (Arc::clone(&stop), Arc::clone(&acknowledged), ports.to_vec());
            std::thread::spawn(move || write(client, &ports, &stop, &total))
        };
        let clients = (0..CLIENTS).map(begin).collect();
        Self { stop, acknowledged, clients }
    }

    /// Writes that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Acknowledged writes a second, from now on for so long.
    pub fn rate(&self, time: Duration) -> f64 {
        let (began, before) = (Instant::now(), self.acknowledged());
        std::thread::sleep(time);
        (self.acknowledged() - before) as f64 / began.elapsed().as_secs_f64()
    }

    /// Ends the clients and tells what they wrote.
    pub fn stop(mut self) -> Result<Vec<Written>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = Vec::new();
        for client in self.clients.drain(..) {
            match client.join() {
                Ok(of_one) => written.push(of_one),
                Err(_) => bail!("a client ended"),
            }
        }
        Ok(written)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            _ = client.join();
        }
    }
}

fn write(client: usize, ports: &[u16], stop: &AtomicBool, total: &AtomicU64) -> Written {
    let mut written = Written { client, acknowledged: vec![0; KEYS] };
    let mut ports = ports.iter().cycle().skip(client);
    let mut connection = None;
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let Some(open) = &mut connection else {
            connection = ports.next().and_then(|port| Resp::connect(*port).ok());
            if connection.is_none() {
                std::thread::sleep(RETRY);
            }
            continue;
        };
        let at = usize::try_from(number).unwrap_or_default() % KEYS;
        let is_stored = write_one(open, client, at, number);
        match (is_stored, written.acknowledged.get_mut(at)) {
            (Ok(true), Some(last)) => {
                *last = number;
                total.fetch_add(1, Ordering::Relaxed);
            }
            (Ok(_), _) => {}
            // Nobody knows what became of it.
            (Err(_), _) => connection = None,
        }
    }
    written
}

fn write_one(connection: &mut Resp, client: usize, at: usize, number: u64) -> Result<bool> {
    connection.set(&load_key(client, at), &format!("{number:0VALUE_BYTES$}"));
    connection.send()?;
    Ok(connection.stored()?.is_ok())
}

fn load_key(client: usize, at: usize) -> String {
    format!("load:{client:03}:{at:08}")
}

/// Reads everything through a member and counts the keys under which there is less than was
/// acknowledged last.
pub fn count_lost(port: u16, written: &[Written]) -> Result<u64> {
    let mut connection = Resp::connect(port)?;
    let mut lost = 0;
    for Written { client, acknowledged } in written {
        let all: Vec<(usize, u64)> = acknowledged.iter().copied().enumerate().collect();
        for part in all.chunks(READS) {
            for (at, _) in part {
                connection.get(&load_key(*client, *at));
            }
            connection.send()?;
            for (_, least) in part {
                let found = connection.found()?.and_then(|value| value.parse::<u64>().ok());
                lost += u64::from(found.unwrap_or(0) < *least);
            }
        }
    }
    Ok(lost)
}
