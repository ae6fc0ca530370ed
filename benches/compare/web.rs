//! kith over HTTP beside etcd over gRPC: three members each, every write on the disks of a majority before it is answered.
//!
//! Each has 50 connections with one request in flight on each, all to one member; for etcd it is the leader, which saves it a
//! hop. Both clients are loops of this program on one thread, and what that thread takes stands in the table.

use super::etcd::{self, Etcd, MOST_IN_TRANSACTION};
use crate::support::latencies::Latencies;
use crate::support::members::{Member, Plan, together};
use crate::support::processes::{Process, thread_cpu_seconds};
use crate::support::random::Random;
use crate::support::resp::Resp;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS: u64 = 50;
const KEYS: u64 = 1_000_000;
const VALUE_BYTES: usize = 100;
/// Nobody is measured before what filling left to be done is done: compacting, collecting garbage, following the leader.
/// Then all six processes take less than this of a core, for so long.
const RESTING_CORES: f64 = 0.2;
const RESTED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// What is asked of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Put,
    /// Nothing acknowledged is missed: etcd asks a majority whether it still leads, kith reads from one.
    StrongGet,
    /// What the member that is asked has.
    LocalGet,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Put, Self::StrongGet, Self::LocalGet];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put; etcd: put, kith: `write_level` quorum",
            Self::StrongGet => "get; etcd: linearizable (default), kith: level `quorum`",
            Self::LocalGet => "get; etcd: serializable, kith: level `one` (default)",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Etcd,
    Kith,
}

/// The servers that run.
struct Servers {
    etcd: Etcd,
    kith: Vec<Member>,
}

impl Servers {
    fn start(directory: &Path) -> Result<Self> {
        let settings = "replication_factor = 3\nsync = \"always\"\nwrite_level = \"quorum\"";
        let plan = Plan { cluster: "web", settings, memory: "" };
        Ok(Self { etcd: Etcd::start(directory)?, kith: together(directory, 3, &plan)? })
    }

    fn first_of_kith(&self) -> Result<&Member> {
        self.kith.first().context("there are members")
    }

    fn port(&self, server: Server) -> Result<u16> {
        match server {
            Server::Etcd => self.etcd.leader(),
            Server::Kith => Ok(self.first_of_kith()?.http),
        }
    }

    fn processes(&self, server: Server) -> Result<Vec<&Process>> {
        match server {
            Server::Etcd => Ok(self.etcd.processes.iter().collect()),
            Server::Kith => self.kith.iter().map(Member::process).collect(),
        }
    }

    fn cpu_seconds(&self, server: Server) -> Result<f64> {
        self.processes(server)?.into_iter().map(Process::cpu_seconds).sum()
    }

    fn resident_mb(&self, server: Server) -> Result<f64> {
        self.processes(server)?.into_iter().map(Process::resident_mb).sum()
    }

    fn wait_until_rested(&self) -> Result<()> {
        let taken = || anyhow::Ok(self.cpu_seconds(Server::Etcd)? + self.cpu_seconds(Server::Kith)?);
        let began = Instant::now();
        let mut before = taken()?;
        while began.elapsed() < PATIENCE {
            std::thread::sleep(RESTED);
            let now = taken()?;
            if now - before < RESTING_CORES * RESTED.as_secs_f64() {
                return Ok(());
            }
            before = now;
        }
        bail!("the servers still work {} s after they were filled", PATIENCE.as_secs())
    }

    /// Gives both all keys.
    fn fill(&self) -> Result<()> {
        let value = value();
        Resp::connect(self.first_of_kith()?.resp)?.fill((0..KEYS).map(key), &value)?;
        let port = self.etcd.leader()?;
        let share = KEYS.div_ceil(CONNECTIONS);
        on_this_thread(async |number| {
            let mut client = etcd::Client::connect(port).await?;
            let end = KEYS.min((number + 1) * share);
            let mut next = number * share;
            while next < end {
                let until = end.min(next + MOST_IN_TRANSACTION);
                client.put_all((next..until).map(key), &value).await?;
                next = until;
            }
            Ok(())
        })
    }
}

fn key(number: u64) -> String {
    format!("key:{number:012}")
}

fn value() -> String {
    "x".repeat(VALUE_BYTES)
}

/// One round.
struct Round {
    latencies: Latencies,
    /// Of the processes of all three members.
    server_cpu_seconds: f64,
    client_cpu_seconds: f64,
}

impl Round {
    fn per_million(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.latencies.count() as f64
    }
}

/// The table, in Markdown; or why there is none.
pub fn compare(rounds: usize, seconds: u64) -> Result<String> {
    let Some(version) = etcd::version() else {
        return Ok("\n### kith over HTTP beside etcd\n\nNot measured: etcd is not installed; get it by `apt-get install \
                   etcd-server etcd-client`, or from the archive of a release.\n"
            .to_owned());
    };
    let directory = tempfile::Builder::new().prefix("kith-compare-web-").tempdir()?;
    let mut servers = Servers::start(directory.path())?;
    eprintln!("etcd and kith: filling each with {KEYS} keys");
    servers.fill()?;
    servers.etcd.restart()?;
    servers.wait_until_rested()?;
    let mut measured = Measured::default();
    for operation in Operation::ALL {
        for round in 0..rounds {
            let turn =
                if round % 2 == 0 { [Server::Etcd, Server::Kith] } else { [Server::Kith, Server::Etcd] };
            for server in turn {
                let result = measure(&servers, server, operation, seconds, round)
                    .with_context(|| format!("{operation} of {server:?}"))?;
                eprintln!("{operation}, round {}: {server:?} {:.0}/s", round + 1, result.latencies.rate());
                measured.0.push((operation, server, result));
            }
        }
    }
    let memory = [servers.resident_mb(Server::Etcd)?, servers.resident_mb(Server::Kith)?];
    Ok(measured.table(&version, rounds, seconds, memory))
}

fn measure(
    servers: &Servers,
    server: Server,
    operation: Operation,
    seconds: u64,
    round: usize,
) -> Result<Round> {
    let port = servers.port(server)?;
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let value = value();
    let (server_before, client_before) = (servers.cpu_seconds(server)?, thread_cpu_seconds()?);
    let began = Instant::now();
    let deadline = began + Duration::from_secs(seconds);
    on_this_thread(async |number| {
        let mut connection = Connection::open(server, port).await?;
        let mut random = Random::new(round as u64 * CONNECTIONS + number);
        while Instant::now() < deadline {
            let key = key(random.below(KEYS));
            let asked = Instant::now();
            connection.carry_out(operation, &key, &value).await?;
            latencies.borrow_mut().add(asked.elapsed());
        }
        Ok(())
    })?;
    let mut latencies = latencies.take();
    latencies.seconds = began.elapsed().as_secs_f64();
    Ok(Round {
        latencies,
        server_cpu_seconds: servers.cpu_seconds(server)? - server_before,
        client_cpu_seconds: thread_cpu_seconds()? - client_before,
    })
}

/// Carries out one future for each connection.
fn on_this_thread(client: impl AsyncFn(u64) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let clients = (0..CONNECTIONS).map(|number| client(number));
        futures_util::future::try_join_all(clients).await.map(|_| ())
    })
}

/// One connection to either.
enum Connection {
    Etcd(etcd::Client),
    Kith(Http),
}

impl Connection {
    async fn open(server: Server, port: u16) -> Result<Self> {
        Ok(match server {
            Server::Etcd => Self::Etcd(etcd::Client::connect(port).await?),
            Server::Kith => Self::Kith(Http::connect(port).await?),
        })
    }

    async fn carry_out(&mut self, operation: Operation, key: &str, value: &str) -> Result<()> {
        match (self, operation) {
            (Self::Etcd(client), Operation::Put) => client.put(key, value).await,
            (Self::Etcd(client), Operation::StrongGet) => client.get(key, false).await,
            (Self::Etcd(client), Operation::LocalGet) => client.get(key, true).await,
            (Self::Kith(client), Operation::Put) => client.put(key, value).await,
            (Self::Kith(client), Operation::StrongGet) => client.get(key, "?consistency=quorum").await,
            (Self::Kith(client), Operation::LocalGet) => client.get(key, "").await,
        }
    }
}

/// One connection of HTTP/1.1 that is kept.
struct Http {
    stream: TcpStream,
    out: Vec<u8>,
    answer: Vec<u8>,
}

impl Http {
    async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, out: Vec::new(), answer: Vec::new() })
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let length = value.len();
        write!(
            self.out,
            "PUT /v1/kv/default/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{value}"
        )?;
        self.exchange().await.map(|_| ())
    }

    /// Fails if there is no such key.
    async fn get(&mut self, key: &str, query: &str) -> Result<()> {
        write!(self.out, "GET /v1/kv/default/{key}{query} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let length = self.exchange().await?;
        ensure!(length == VALUE_BYTES, "{key} has {length} bytes");
        Ok(())
    }

    /// Sends what is written and reads the answer; gives the length of its body.
    async fn exchange(&mut self) -> Result<usize> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        self.answer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the connection ended");
            let Some(head) = self.answer.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
            let length = body_length(self.answer.get(..head).unwrap_or_default())?;
            if self.answer.len() >= head + 4 + length {
                return Ok(length);
            }
        }
    }
}

/// The length that the head of an answer announces; fails if it tells of an error.
fn body_length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 2") {
        bail!("kith said {status}");
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse()));
    length.unwrap_or(Ok(0)).map_err(|error| anyhow!("no length: {error}"))
}

/// All rounds.
#[derive(Default)]
struct Measured(Vec<(Operation, Server, Round)>);

impl Measured {
    fn table(&self, version: &str, rounds: usize, seconds: u64, [etcd_mb, kith_mb]: [f64; 2]) -> String {
        let mut text = format!(
            "\n### kith over HTTP beside {version} over gRPC\n\n\
             Three members each, all copies of 1 M keys, a majority's fsync before a write is answered; {CONNECTIONS} \
             connections with one request in flight to one member (etcd's leader), values of {VALUE_BYTES} bytes, random keys; \
             {rounds} rounds of {seconds} s in turn. etcd was restarted after it had been filled. Links and clients of etcd are in the clear, kith's links are encrypted.\n\n\
             | k/s: median (least–greatest) | etcd | kith | kith / etcd | etcd: p50 / p99 ms | kith: p50 / p99 ms \
             | CPU s of the servers per million: etcd | kith | CPU s of the client per million: etcd | kith |\n\
             |---|---|---|---|---|---|---|---|---|---|\n"
        );
        // Writing to a string can't fail.
        for operation in Operation::ALL {
            let rate = |server| self.spread(operation, server, |round| round.latencies.rate() / 1_000.0);
            let median = |server, of: fn(&Round) -> f64| self.spread(operation, server, of).1;
            let (etcd, kith) = (rate(Server::Etcd), rate(Server::Kith));
            _ = write!(text, "| {operation} |");
            for (least, median, greatest) in [etcd, kith] {
                _ = write!(text, " {median:.1} ({least:.1}–{greatest:.1}) |");
            }
            _ = write!(text, " {:.2} |", kith.1 / etcd.1);
            for server in [Server::Etcd, Server::Kith] {
                let of = |of: fn(&Round) -> f64| median(server, of);
                let (p50, p99) =
                    (of(|round| round.latencies.within_ms(0.5)), of(|round| round.latencies.within_ms(0.99)));
                _ = write!(text, " {p50:.2} / {p99:.2} |");
            }
            for of in [(|round| round.per_million(round.server_cpu_seconds)) as fn(&Round) -> f64, |round| {
                round.per_million(round.client_cpu_seconds)
            }] {
                _ = write!(text, " {:.1} | {:.1} |", median(Server::Etcd, of), median(Server::Kith, of));
            }
            text.push('\n');
        }
        _ = writeln!(
            text,
            "\nResident memory of all three members afterwards: etcd {etcd_mb:.0} MB, kith {kith_mb:.0} MB."
        );
        text
    }

    /// The least, median and greatest of one figure over the rounds.
    fn spread(&self, operation: Operation, server: Server, of: fn(&Round) -> f64) -> (f64, f64, f64) {
        let rounds = self.0.iter().filter(|(of, by, _)| (*of, *by) == (operation, server));
        let mut figures: Vec<f64> = rounds.map(|(_, _, round)| of(round)).collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let last = figures.len().saturating_sub(1);
        (at(0), (at(last / 2) + at(last.div_ceil(2))) / 2.0, at(last))
    }
}
