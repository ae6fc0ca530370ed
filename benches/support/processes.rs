//! Server processes that end with the values that stand for them, their ports, and what the system
//! tells of them.

use anyhow::{Context, Result, bail};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long servers may take until they are ready, and until they ended: with ten million records it is half a minute.
const START: Duration = Duration::from_secs(300);
/// How long a server may take to answer a question about its state.
const ANSWER: Duration = Duration::from_secs(5);
/// Below the ports that the system gives to outgoing connections, so that nobody takes the port of a server
/// that is down for a while.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// What `/proc` counts processor time in, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A process that ends with this value.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it prints is added to the log.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{command:?} can't be started"))?;
        Ok(Self { child, log })
    }

    /// Waits until `ready`; fails with the log's end if the process ends or takes too long.
    pub fn wait_until(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while !ready() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || started.elapsed() > START {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                let what = ended.map_or_else(
                    || format!("was not ready within {} s", START.as_secs()),
                    |status| format!("ended ({status})"),
                );
                bail!("a server {what}; the end of its log:\n{}", tail.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > START {
                bail!("a server did not stop within {} s", START.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Seconds of processor time that it took so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.child.id().to_string())
    }

    /// Resident memory in MB.
    pub fn resident_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1_024.0 / 1e6)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Seconds of processor time that the thread took so far that asks.
pub fn thread_cpu_seconds() -> Result<f64> {
    cpu_seconds("thread-self")
}

fn cpu_seconds(whose: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{whose}/stat"))?;
    // The name, in parentheses, may contain anything.
    let fields = text.rsplit_once(')').context("no name in /proc's stat")?.1;
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|text| text.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("no times in /proc's stat")?;
    Ok((user + system) / TICKS_PER_SECOND)
}

/// Ports that are free at this moment, all different, and given to nobody else by this program.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let span = PORTS.end - PORTS.start;
    let start = u16::try_from(std::process::id().wrapping_mul(311) % u32::from(span))?;
    let mut ports = [0; N];
    for port in &mut ports {
        let mut candidates = (0..span).map(|_| {
            let next = u32::from(start) + u32::from(NEXT_PORT.fetch_add(1, Ordering::Relaxed));
            PORTS.start + u16::try_from(next % u32::from(span)).unwrap_or_default()
        });
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        *port = candidates.find(is_free).context("no port is free")?;
    }
    Ok(ports)
}

/// Sends `request` and reads until `end` says that the answer is complete, or the server ends it.
pub fn ask(port: u16, request: &str, end: impl Fn(&str) -> bool) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(request.as_bytes())?;
    let (mut text, mut buffer) = (String::new(), vec![0; 64 << 10]);
    while !end(&text) {
        match stream.read(&mut buffer)? {
            0 => break,
            bytes => text.push_str(&String::from_utf8_lossy(buffer.get(..bytes).unwrap_or_default())),
        }
    }
    Ok(text)
}
