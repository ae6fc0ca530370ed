//! Starts and ends the servers: Redis with replicas, a cluster of kith, and the limit.

use super::options::Fsync;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server that answers OK and does nothing.
pub const LIMIT: &str = "limit (only OK)";
/// One primary and two replicas.
pub const REDIS: &str = "Redis";
/// Three members.
pub const KITH: &str = "kith";

/// How long servers may take until they are ready.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to answer a question about its state.
const ANSWER: Duration = Duration::from_secs(5);

/// Where redis-benchmark connects.
pub struct Target {
    pub name: &'static str,
    pub port: u16,
}

/// A process that ends with this value.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log)?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{command:?} can't be started"))?;
        Ok(Self { child, log })
    }

    /// Waits until `ready`; fails with the log's end if the process ends or takes too long.
    fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<()> {
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
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Ports that are free at this moment, all different.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Sends `request` and reads until `end` says that the answer is complete.
fn ask(port: u16, request: &str, end: impl Fn(&str) -> bool) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(request.as_bytes())?;
    let (mut text, mut buffer) = (String::new(), [0; 4_096]);
    while !end(&text) {
        match stream.read(&mut buffer)? {
            0 => break,
            bytes => text.push_str(&String::from_utf8_lossy(buffer.get(..bytes).unwrap_or_default())),
        }
    }
    Ok(text)
}

/// One primary and two replicas, all with an append-only file.
pub struct Redis {
    port: u16,
    _processes: Vec<Process>,
}

impl Redis {
    /// Returns when both replicas follow the primary.
    pub fn start(directory: &Path, fsync: Fsync) -> Result<Self> {
        let ports = free_ports::<3>()?;
        let [primary, ..] = ports;
        let mut processes = Vec::new();
        for port in ports {
            let data = directory.join(format!("redis-{port}"));
            std::fs::create_dir(&data)?;
            let mut command = Command::new("redis-server");
            command.stdin(Stdio::null());
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
            command.args(["--appendonly", "yes", "--dir"]).arg(&data).arg("--appendfsync");
            command.arg(match fsync {
                Fsync::Interval => "everysec",
                Fsync::Always => "always",
            });
            if port != primary {
                command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
            }
            let mut process = Process::start(&mut command, data.join("log"))?;
            process.wait_until(|| ask(port, "PING\r\n", |text| text.ends_with('\n')).is_ok())?;
            processes.push(process);
        }
        if let Some(process) = processes.first_mut() {
            process.wait_until(|| replicas_follow(primary))?;
        }
        Ok(Self { port: primary, _processes: processes })
    }

    /// The primary.
    pub const fn target(&self) -> Target {
        Target { name: REDIS, port: self.port }
    }
}

fn replicas_follow(primary: u16) -> bool {
    let complete = |text: &str| text.contains("repl_backlog_histlen");
    ask(primary, "INFO replication\r\n", complete)
        .is_ok_and(|text| text.lines().filter(|line| line.contains("state=online")).count() == 2)
}

/// Three members in processes of their own, replication factor 3, level `available`.
pub struct Kith {
    resp: u16,
    _processes: Vec<Process>,
}

struct Ports {
    peers: u16,
    http: u16,
    resp: u16,
}

impl Kith {
    /// Returns when all members are ready.
    pub fn start(directory: &Path, fsync: Fsync) -> Result<Self> {
        let ports = free_ports::<9>()?;
        let members: Vec<Ports> = ports
            .chunks_exact(3)
            .filter_map(|chunk| match *chunk {
                [peers, http, resp] => Some(Ports { peers, http, resp }),
                _ => None,
            })
            .collect();
        std::fs::write(directory.join("secret"), "a secret for one benchmark on one machine\n")?;
        let mut processes = Vec::new();
        for index in 0..members.len() {
            let file = directory.join(format!("member{index}.toml"));
            std::fs::write(&file, member_config(index, &members, fsync))?;
            let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
            // Members end with their standard input, so also when this program is killed.
            command.stdin(Stdio::piped());
            command.args(["serve", "--stop-with-input", "--config"]).arg(&file);
            processes.push(Process::start(&mut command, directory.join(format!("member{index}.log")))?);
        }
        for (process, ports) in processes.iter_mut().zip(&members) {
            process.wait_until(|| is_ready(ports.http))?;
        }
        let first = members.first().context("there are members")?;
        Ok(Self { resp: first.resp, _processes: processes })
    }

    /// The first member.
    pub const fn target(&self) -> Target {
        Target { name: KITH, port: self.resp }
    }
}

/// One member's file. Everything about kith's configuration that this benchmark knows is here.
fn member_config(index: usize, members: &[Ports], fsync: Fsync) -> String {
    let others = members.iter().enumerate().filter(|(other, _)| *other != index);
    let seeds: Vec<String> = others.map(|(_, ports)| format!("\"127.0.0.1:{}\"", ports.peers)).collect();
    let listen = members.get(index).map_or_else(String::new, |ports| {
        format!(
            "peers = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\nresp = \"127.0.0.1:{}\"\n",
            ports.peers, ports.http, ports.resp
        )
    });
    format!(
        "name = \"member{index}\"\ncluster = \"compare\"\ndata_dir = \"member{index}\"\nseeds = [{}]\n\
         bootstrap = true\nsecret_file = \"secret\"\n\n[listen]\n{listen}\n\
         [create.settings]\nreplication_factor = 3\nsync = \"{fsync}\"\n",
        seeds.join(", "),
    )
}

fn is_ready(http: u16) -> bool {
    let request = "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    ask(http, request, |text| text.contains("\r\n")).is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
}

/// Answers OK to every command without looking at it: what the load generator, the sockets and the
/// scheduler allow on this machine.
pub struct OkServer {
    port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OkServer {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener) => {}
                }
            });
        });
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    pub const fn target(&self) -> Target {
        Target { name: LIMIT, port: self.port }
    }
}

impl Drop for OkServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        _ = stream.set_nodelay(true);
        tokio::spawn(answer(stream));
    }
}

/// Every command has exactly one `*`, for redis-benchmark's keys and values have none.
async fn answer(mut stream: tokio::net::TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut buffer, mut replies) = (vec![0; 16 << 10], Vec::new());
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
        let commands = buffer.iter().take(bytes).filter(|byte| **byte == b'*').count();
        replies.clear();
        for _ in 0..commands {
            replies.extend_from_slice(b"+OK\r\n");
        }
        if stream.write_all(&replies).await.is_err() {
            return;
        }
    }
}
