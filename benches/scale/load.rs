//! The records, and clients that keep many requests in flight for a while.

use super::support::resp::Resp;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Bytes of each value.
pub const VALUE_BYTES: usize = 100;
/// Threads of clients.
const THREADS: u64 = 2;
/// Connections of each thread.
const CONNECTIONS: usize = 16;
/// Requests in flight on each of them.
const PIPELINE: usize = 16;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Set,
    Get,
}

impl Command {
    /// As RESP has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Get => "GET",
        }
    }
}

/// The name of a record, as redis-benchmark writes it.
pub fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// Sets so many records through one connection.
pub fn fill(port: u16, numbers: impl Iterator<Item = u64>, letter: &str) -> Result<()> {
    Resp::connect(port)?.fill(numbers.map(key), &letter.repeat(VALUE_BYTES))
}

/// Commands on random records for a while; gives how many were answered.
pub fn run(port: u16, command: Command, records: u64, time: Duration) -> Result<u64> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || client(port, command, records, time, number)))
            .collect();
        let mut answered = 0;
        for client in clients {
            match client.join() {
                Ok(of_one) => answered += of_one?,
                Err(_) => bail!("a client ended"),
            }
        }
        Ok(answered)
    })
}

fn client(port: u16, command: Command, records: u64, time: Duration, seed: u64) -> Result<u64> {
    let mut connections: Vec<Resp> = (0..CONNECTIONS).map(|_| Resp::connect(port)).collect::<Result<_>>()?;
    let value = "y".repeat(VALUE_BYTES);
    let (began, mut answered, mut random) = (Instant::now(), 0u64, seed << 32);
    while began.elapsed() < time {
        for connection in &mut connections {
            for _ in 0..PIPELINE {
                random += 1;
                let name = key(scramble(random) % records);
                match command {
                    Command::Set => connection.set(&name, &value),
                    Command::Get => connection.get(&name),
                }
            }
            connection.send()?;
        }
        for connection in &mut connections {
            for _ in 0..PIPELINE {
                let is_good = match command {
                    Command::Set => connection.stored()?.is_ok(),
                    Command::Get => connection.found()?.is_some(),
                };
                if !is_good {
                    bail!("{} was refused or found nothing", command.name());
                }
                answered += 1;
            }
        }
    }
    Ok(answered)
}

/// An even spread without a generator's state (the finalizer of SplitMix64).
pub const fn scramble(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
