//! Starts and ends the servers: Redis with replicas, a cluster of kith, and the limit.

use super::options::Fsync;
use crate::support::members::{Member, Plan, together};
use crate::support::processes::{Process, ask, free_ports};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

/// The server that answers OK and does nothing.
pub const LIMIT: &str = "limit (only OK)";
/// One primary and two replicas.
pub const REDIS: &str = "Redis";
/// Three members.
pub const KITH: &str = "kith";

/// Where redis-benchmark connects.
pub struct Target {
    pub name: &'static str,
    pub port: u16,
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
    members: Vec<Member>,
}

impl Kith {
    /// Returns when all members are ready.
    pub fn start(directory: &Path, fsync: Fsync) -> Result<Self> {
        let settings = format!("replication_factor = 3\nsync = \"{fsync}\"");
        let plan = Plan { cluster: "compare", settings: &settings, journal_bytes: None };
        Ok(Self { members: together(directory, 3, &plan)? })
    }

    /// The first member.
    pub fn target(&self) -> Result<Target> {
        let first = self.members.first().context("there are members")?;
        Ok(Target { name: KITH, port: first.resp })
    }
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
