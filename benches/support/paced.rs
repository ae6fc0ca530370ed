//! A RESP load of a fixed rate, whatever the server does: requests are due by a schedule, are sent when they are
//! due and not when earlier ones were answered, and each waits from when it was due. So a stall of a second
//! counts for all requests of that second, and not for the few that happened to be in flight
//! (what is called coordinated omission).
//!
//! Each millisecond a share of the rate is due, all at its beginning, one request after the other on the next
//! connection. The *n*th answer on a connection belongs to its *n*th request, whose time follows from the
//! schedule; so of a request that is on its way nothing is kept.

use super::latencies::Latencies;
use super::random::Random;
use anyhow::{Context, Result, bail, ensure};
use std::cell::{Cell, RefCell};
use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Requests that may be unanswered; beyond, sending waits, and the load is called too much.
const MOST_UNANSWERED: u64 = 200_000;
/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(1);
const TICKS_PER_SECOND: u64 = 1_000;
const VALUE_BYTES: usize = 100;
/// Decimal digits of a key's number, as redis-benchmark has them.
const DIGITS: usize = 12;
const READ_BUFFER: usize = 16 << 10;

/// What is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Values of 100 bytes.
    Set,
    /// What a SET of the same keys wrote.
    Get,
}

/// What is sent, and where to.
pub struct Paced {
    /// The connections are spread over them.
    pub ports: Vec<u16>,
    pub test: Test,
    /// Keys are random ones of so many, from `key:000000000000` on.
    pub keys: u64,
    /// Requests a second.
    pub rate: u64,
    pub connections: usize,
}

impl Paced {
    /// The load for so long.
    pub fn run(self, time: Duration) -> Result<Phase> {
        let load = self.start()?;
        std::thread::sleep(time);
        load.stop()
    }

    /// The load, in a thread of its own until it is stopped.
    pub fn start(self) -> Result<PacedLoad> {
        ensure!(self.rate > 0 && self.keys > 0 && self.connections > 0, "a load has requests");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let shared = Arc::new(Shared::new());
        let (of_thread, of_clock) = (Arc::clone(&shared), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            if let Err(error) = tokio::task::LocalSet::new().block_on(&runtime, self.carry_out(&of_thread)) {
                of_thread.noted().failure.get_or_insert(format!("{error:#}"));
            }
        });
        let clock = std::thread::spawn(move || of_clock.tick());
        Ok(PacedLoad { shared, thread: Some(thread), clock: Some(clock) })
    }

    async fn carry_out(self, shared: &Arc<Shared>) -> Result<()> {
        let mut connections = Vec::new();
        for port in self.ports.iter().cycle().take(self.connections) {
            let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).await?;
            stream.set_nodelay(true)?;
            connections.push(Rc::new(Connection { stream, out: RefCell::default() }));
        }
        ensure!(!connections.is_empty(), "a load has somewhere to go");
        let schedule = Schedule { began: shared.next_tick(), rate: self.rate };
        let answered = Rc::new(Cell::new(0));
        for (number, connection) in (0..).zip(&connections) {
            let (connection, answered) = (Rc::clone(connection), Rc::clone(&answered));
            let (shared, step) = (Arc::clone(shared), connections.len() as u64);
            tokio::task::spawn_local(async move {
                let answers = Answers { schedule, next: number, step, replies: Replies::default() };
                if let Err(error) = answers.read(&connection.stream, &answered, &shared).await {
                    shared.noted().failure.get_or_insert(format!("{error:#}"));
                }
            });
        }
        shared.noted().since = schedule.began;
        let sender = Sender { connections, schedule, requests: Requests::new(self.test, self.keys), sent: 0 };
        sender.send(&answered, shared).await
    }
}

/// A load that goes on until it is stopped or dropped.
pub struct PacedLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    clock: Option<JoinHandle<()>>,
}

/// What became of the requests that were answered in some time.
pub struct Phase {
    pub latencies: Latencies,
    /// Whether so many were unanswered that others were sent late. These waited since they were due, too.
    pub is_overloaded: bool,
}

impl PacedLoad {
    /// What was answered since the start or the last call.
    pub fn phase(&self) -> Result<Phase> {
        let mut noted = self.shared.noted();
        if let Some(reason) = &noted.failure {
            bail!("the load ended: {reason}");
        }
        let now = Instant::now();
        let seconds = now.saturating_duration_since(noted.since).as_secs_f64();
        noted.since = now;
        let mut latencies = std::mem::take(&mut noted.latencies);
        latencies.seconds = seconds;
        Ok(Phase { latencies, is_overloaded: std::mem::take(&mut noted.is_overloaded) })
    }

    /// Sends no more, waits for the last answers, and tells as [`Self::phase`] does.
    pub fn stop(mut self) -> Result<Phase> {
        self.end();
        self.phase()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            self.shared.noted().failure.get_or_insert_with(|| "its thread ended".to_owned());
        }
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(clock) = self.clock.take() {
            _ = clock.join();
        }
    }
}

impl Drop for PacedLoad {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the threads share.
struct Shared {
    /// Where the clock begins.
    zero: Instant,
    stop: AtomicBool,
    is_over: AtomicBool,
    ticks: Notify,
    noted: Mutex<Noted>,
}

struct Noted {
    since: Instant,
    latencies: Latencies,
    is_overloaded: bool,
    failure: Option<String>,
}

impl Shared {
    fn new() -> Self {
        let zero = Instant::now();
        let noted =
            Noted { since: zero, latencies: Latencies::default(), is_overloaded: false, failure: None };
        Self {
            zero,
            stop: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            ticks: Notify::new(),
            noted: Mutex::new(noted),
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_tick(&self) -> Instant {
        let ticks = self.zero.elapsed().as_millis() + 1;
        self.zero + Duration::from_millis(u64::try_from(ticks).unwrap_or_default())
    }

    /// Wakes who sends. A runtime's own timers are up to two milliseconds late, which all requests would wait.
    fn tick(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(self.next_tick().saturating_duration_since(Instant::now()));
            self.ticks.notify_one();
        }
    }
}

/// Tells when a request is due.
#[derive(Clone, Copy)]
struct Schedule {
    began: Instant,
    rate: u64,
}

impl Schedule {
    /// How many requests are due by now.
    fn due(&self) -> u64 {
        let Some(time) = Instant::now().checked_duration_since(self.began) else { return 0 };
        let ticks = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ticks.saturating_add(1).saturating_mul(self.rate) / TICKS_PER_SECOND
    }

    /// When a request, counted from 0, became due: the first tick by which so many were.
    fn time_of(&self, number: u64) -> Instant {
        let ticks = ((number + 1) * TICKS_PER_SECOND).div_ceil(self.rate) - 1;
        self.began + Duration::from_millis(ticks)
    }
}

struct Connection {
    stream: TcpStream,
    /// What the system did not take yet.
    out: RefCell<Vec<u8>>,
}

impl Connection {
    /// Hands the system what it takes.
    fn flush(&self) -> Result<()> {
        let mut out = self.out.borrow_mut();
        while !out.is_empty() {
            match self.stream.try_write(&out) {
                Ok(bytes) => drop(out.drain(..bytes)),
                Err(error) if is_for_later(&error) => break,
                Err(error) => return Err(error).context("a request can't be sent"),
            }
        }
        Ok(())
    }
}

fn is_for_later(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

struct Sender {
    connections: Vec<Rc<Connection>>,
    schedule: Schedule,
    requests: Requests,
    sent: u64,
}

impl Sender {
    /// Sends what is due until it is stopped, and waits for the last answers.
    async fn send(mut self, answered: &Cell<u64>, shared: &Shared) -> Result<()> {
        while !shared.stop.load(Ordering::Relaxed) && shared.noted().failure.is_none() {
            let (due, most) = (self.schedule.due(), answered.get() + MOST_UNANSWERED);
            if due > most {
                shared.noted().is_overloaded = true;
            }
            self.queue(due.min(most));
            self.flush()?;
            shared.ticks.notified().await;
        }
        let stopped = Instant::now();
        while answered.get() < self.sent && shared.noted().failure.is_none() {
            ensure!(
                stopped.elapsed() < PATIENCE,
                "{} requests were not answered within {} s",
                self.sent - answered.get(),
                PATIENCE.as_secs()
            );
            self.flush()?;
            shared.ticks.notified().await;
        }
        Ok(())
    }

    fn queue(&mut self, until: u64) {
        let next = usize::try_from(self.sent).unwrap_or_default() % self.connections.len();
        let count = usize::try_from(until.saturating_sub(self.sent)).unwrap_or_default();
        for connection in self.connections.iter().cycle().skip(next).take(count) {
            self.requests.append(&mut connection.out.borrow_mut());
        }
        self.sent += count as u64;
    }

    fn flush(&self) -> Result<()> {
        self.connections.iter().try_for_each(|connection| connection.flush())
    }
}

/// Requests with random keys.
struct Requests {
    before_digits: &'static [u8],
    after_digits: Vec<u8>,
    keys: u64,
    random: Random,
}

impl Requests {
    fn new(test: Test, keys: u64) -> Self {
        let (before_digits, after_digits) = match test {
            Test::Set => (
                b"*3\r\n$3\r\nSET\r\n$16\r\nkey:".as_slice(),
                format!("\r\n${VALUE_BYTES}\r\n{}\r\n", "x".repeat(VALUE_BYTES)),
            ),
            Test::Get => (b"*2\r\n$3\r\nGET\r\n$16\r\nkey:".as_slice(), "\r\n".to_owned()),
        };
        Self { before_digits, after_digits: after_digits.into_bytes(), keys, random: Random::default() }
    }

    fn append(&mut self, out: &mut Vec<u8>) {
        let mut number = self.random.below(self.keys);
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
        out.extend_from_slice(self.before_digits);
        out.extend_from_slice(&digits);
        out.extend_from_slice(&self.after_digits);
    }
}

/// The answers of one connection.
struct Answers {
    schedule: Schedule,
    /// The request whose answer comes next.
    next: u64,
    /// From one request of this connection to the next one.
    step: u64,
    replies: Replies,
}

impl Answers {
    async fn read(mut self, stream: &TcpStream, answered: &Cell<u64>, shared: &Shared) -> Result<()> {
        let mut buffer = vec![0; READ_BUFFER];
        loop {
            stream.readable().await?;
            let bytes = match stream.try_read(&mut buffer) {
                Ok(0) => bail!("the connection ended"),
                Ok(bytes) => bytes,
                Err(error) if is_for_later(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            let count = self.replies.count(buffer.get(..bytes).unwrap_or_default())?;
            answered.set(answered.get() + count);
            let mut noted = shared.noted();
            for _ in 0..count {
                noted.latencies.add(now.saturating_duration_since(self.schedule.time_of(self.next)));
                self.next += self.step;
            }
        }
    }
}

/// Counts replies in a stream of bytes: lines, and values of announced length.
#[derive(Default)]
struct Replies {
    /// The beginning of a line that has not come as a whole.
    line: Vec<u8>,
    /// Bytes of a value, and the end of its line, that are to come.
    value: usize,
}

impl Replies {
    /// How many replies these bytes complete; an error that the server tells is one.
    fn count(&mut self, mut bytes: &[u8]) -> Result<u64> {
        let mut complete = 0;
        while !bytes.is_empty() {
            if self.value > 0 {
                let taken = self.value.min(bytes.len());
                self.value -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                complete += u64::from(self.value == 0);
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                break;
            };
            let (head, rest) = bytes.split_at(end + 1);
            bytes = rest;
            let value = if self.line.is_empty() {
                value_bytes(head)?
            } else {
                self.line.extend_from_slice(head);
                let value = value_bytes(&self.line)?;
                self.line.clear();
                value
            };
            match value {
                Some(length) => self.value = length + 2,
                None => complete += 1,
            }
        }
        Ok(complete)
    }
}

/// The length of the value that follows a line, if one does.
fn value_bytes(line: &[u8]) -> Result<Option<usize>> {
    let told = || String::from_utf8_lossy(line).trim_end().to_owned();
    match line.split_first() {
        Some((b'+' | b':', _)) | Some((b'$', [b'-', ..])) => Ok(None),
        Some((b'$', digits)) => {
            let digits = std::str::from_utf8(digits).unwrap_or_default().trim_end();
            Ok(Some(digits.parse().with_context(|| format!("no length: {}", told()))?))
        }
        _ => bail!("the server said: {}", told()),
    }
}
