//! What one member costs: a read from memory, idle memory, and a start with a million records.
//!
//! `cargo bench --bench member` prints a table; figures next to a limit measured in the same run
//! where there is one. Everything that it starts it ends by itself; data is in a temporary
//! directory.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a program that prints its measurements; a panic ends it"
)]

use kith::engine::operation::{Change, Write};
use kith::engine::{Bounds, Engine, Identity, Local, Mode};
use kith::model::key::{ROSTER, SETTINGS};
use kith::model::roster::{MemberState, RosterEntry, entry_key};
use kith::model::settings::Settings;
use kith::model::{KeyRef, MemberId, Now};
use std::error::Error;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The one that the program has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: u64 = 1_000_000;
const READS: u64 = 2_000_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    println!("| what | measured | bound |\n|---|---|---|");
    let (read, probe) = read_from_memory();
    println!("| random read of one of {RECORDS} records in memory | {read:.0} ns | < 500 ns |");
    println!("| … of it a random access to 1 GiB of plain memory, as the limit | {probe:.0} ns | |");
    starts("512MiB", "the journal")?;
    // So small that most of them are in the store when the member stops.
    starts("16MiB", "the store, and the last in the journal")
}

/// Starts a member, fills it, and starts it again.
fn starts(journal_bytes: &str, place: &str) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let ports = free_ports()?;
    write_config(directory.path(), ports, journal_bytes)?;
    let mut member = Running::start(directory.path(), ports)?;
    println!("| resident memory of an idle member | {:.1} MB | < 40 MB |", member.resident_mb()?);
    let loaded = fill(ports)?;
    println!(
        "| {RECORDS} records of 100 bytes loaded, one member, fsync always | {:.1} s | |",
        loaded.as_secs_f64()
    );
    println!("| resident memory with them | {:.0} MB | |", member.resident_mb()?);
    member.stop()?;
    let member = Running::start(directory.path(), ports)?;
    println!("| start to ready, all in {place} | {:.2} s | < 3 s |", member.ready_after.as_secs_f64());
    println!("| resident memory then | {:.0} MB | |", member.resident_mb()?);
    Ok(())
}

/// Nanoseconds of a random read through the engine, and of a random access to plain memory.
fn read_from_memory() -> (f64, f64) {
    let public_key = [7; 32];
    let member = MemberId::of_public_key(&public_key);
    let mut engine = Engine::new(Identity { member, incarnation: 1, life: 1 }, Bounds::default(), 8);
    engine.advance(Now { wall_ms: 1_700_000_000_000, mono_us: 1 });
    let entry = RosterEntry {
        name: "one".to_owned(),
        public_key,
        address: "127.0.0.1:1".to_owned(),
        http_address: "127.0.0.1:2".to_owned(),
        zone: String::new(),
        next_zone: None,
        state: MemberState::Active,
        admitted: 1,
    };
    let mut first = vec![(ROSTER, entry_key(member), entry.encode())];
    first.extend(
        Settings::default()
            .records()
            .map(|(name, value)| (SETTINGS, name.as_bytes().to_vec(), value.into_bytes())),
    );
    engine.create(&first);
    engine.set_mode(Mode::Serving);
    for n in 0..RECORDS {
        let key = format!("key:{n:012}");
        if let Ok(key) = KeyRef::new("default", key.as_bytes()) {
            let change = Change::Set { value: &[b'x'; 100], expiry_ms: None };
            engine.write(n, Write { key, change, level: None, after: 0 });
        }
        if n % 1_000 == 999 {
            engine.end_turn();
            engine.written();
            let position = engine.positions().written;
            engine.synced(position);
            engine.lanes.completions.clear();
            engine.lanes.checkpoint = None;
            engine.lanes.rotate = false;
        }
    }
    let keys: Vec<String> = (0..READS).map(|n| format!("key:{:012}", scramble(n) % RECORDS)).collect();
    let began = Instant::now();
    let mut found = 0u64;
    for key in &keys {
        if let Ok(key) = KeyRef::new("default", key.as_bytes())
            && let Local::Found(record) = engine.read_now(key)
        {
            found += record.body().len() as u64;
        }
    }
    let read = began.elapsed().as_secs_f64() * 1e9 / READS as f64;
    assert_eq!(found, READS * 100, "every key is found");
    let memory = vec![1u8; 1 << 30];
    let began = Instant::now();
    let mut at = 0u64;
    for n in 0..READS {
        at += u64::from(memory[(scramble(n + at) % (1 << 30)) as usize]);
    }
    black_box(at);
    (read, began.elapsed().as_secs_f64() * 1e9 / READS as f64)
}

/// An even spread without a generator's state (the finalizer of SplitMix64).
fn scramble(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn free_ports() -> Outcome<[u16; 3]> {
    let held = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port(), held[2].local_addr()?.port()])
}

fn write_config(directory: &Path, [peers, http, resp]: [u16; 3], journal_bytes: &str) -> Outcome<()> {
    let text = format!(
        "name = \"one\"\ncluster = \"bench\"\ndata_dir = \"data\"\nbootstrap = true\n\
         secret = \"a secret for measuring only\"\n[listen]\npeers = \"127.0.0.1:{peers}\"\n\
         http = \"127.0.0.1:{http}\"\nresp = \"127.0.0.1:{resp}\"\n[log]\nlevel = \"warn\"\n\
         [memory]\njournal_bytes = \"{journal_bytes}\"\n"
    );
    Ok(std::fs::write(directory.join("one.toml"), text)?)
}

struct Running {
    child: Child,
    ready_after: Duration,
}

impl Running {
    fn start(directory: &Path, [_, http, _]: [u16; 3]) -> Outcome<Self> {
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_kith"))
            .args(["serve", "--config"])
            .arg(directory.join("one.toml"))
            .stdin(Stdio::null())
            .spawn()?;
        let mut running = Self { child, ready_after: Duration::ZERO };
        while !is_ready(http) {
            if began.elapsed() > Duration::from_secs(60) || running.child.try_wait()?.is_some() {
                return Err("the member did not become ready".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        running.ready_after = began.elapsed();
        Ok(running)
    }

    fn resident_mb(&self) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
        Ok(kib * 1_024.0 / 1e6)
    }

    fn stop(&mut self) -> Outcome<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn is_ready(http: u16) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", http))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: one\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer.ends_with(b"200"))
    };
    asked().unwrap_or(false)
}

/// Sets every record once through one pipelined connection.
fn fill([_, _, resp]: [u16; 3]) -> Outcome<Duration> {
    const BATCH: u64 = 1_000;
    let mut stream = TcpStream::connect(("127.0.0.1", resp))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let began = Instant::now();
    let value = "x".repeat(100);
    let mut answers = vec![0; 5 * BATCH as usize];
    for start in (0..RECORDS).step_by(BATCH as usize) {
        let mut commands = String::new();
        for n in start..start + BATCH {
            commands += &format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{n:012}\r\n$100\r\n{value}\r\n");
        }
        stream.write_all(commands.as_bytes())?;
        stream.read_exact(&mut answers)?;
        if !answers.chunks(5).all(|answer| answer == b"+OK\r\n") {
            return Err(format!("a write failed: {}", String::from_utf8_lossy(&answers[..200])).into());
        }
    }
    Ok(began.elapsed())
}
