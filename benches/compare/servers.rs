//! Starts and ends the servers: Redis with replicas, a cluster of kith, and the limit.

use super::options::Fsync;
use crate::support::limit::OkServer;
use crate::support::members::{Member, Plan, together};
use crate::support::processes::{Process, ask, free_ports};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// The server that answers OK and does nothing.
pub const LIMIT: &str = "limit (only OK)";
/// One primary and two replicas.
pub const REDIS: &str = "Redis";
/// Three members; two copies before a write is answered.
pub const KITH: &str = "kith";
/// The same members; one copy before a write is answered.
pub const KITH_ONE: &str = "kith, level one";

/// What is asked.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub name: &'static str,
    /// Where clients connect.
    pub port: u16,
    kind: Kind<'a>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Limit,
    Redis(&'a Redis),
    Kith(&'a Kith, &'static str),
}

/// The server that answers OK and does nothing.
pub const fn limit(server: &OkServer) -> Target<'_> {
    Target { name: LIMIT, port: server.port, kind: Kind::Limit }
}

impl Target<'_> {
    /// Makes it what its name says, before it is measured.
    pub fn prepare(&self) -> Result<()> {
        match self.kind {
            Kind::Limit | Kind::Redis(_) => Ok(()),
            Kind::Kith(kith, level) => kith.set_write_level(level),
        }
    }

    /// Its processes, the one that clients talk to first; none of the limit.
    fn processes(&self) -> Vec<&Process> {
        match self.kind {
            Kind::Limit => Vec::new(),
            Kind::Redis(redis) => redis.processes.iter().collect(),
            Kind::Kith(kith, _) => kith.members.iter().filter_map(|member| member.process().ok()).collect(),
        }
    }

    /// Seconds of processor time that all its processes took so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.processes().iter().map(|process| process.cpu_seconds()).sum()
    }

    /// Resident memory in MB of the process that clients talk to, and of the largest of the others.
    pub fn resident_mb(&self) -> Result<(f64, f64)> {
        let each: Vec<f64> =
            self.processes().iter().map(|process| process.resident_mb()).collect::<Result<_>>()?;
        let (first, others) = each.split_first().context("the limit has no process of its own")?;
        Ok((*first, others.iter().copied().fold(0.0, f64::max)))
    }

    /// Whether it does something in a process that is not seen yet.
    pub fn is_rewriting(&self) -> bool {
        let Kind::Redis(redis) = self.kind else { return false };
        let complete = |text: &str| text.contains("aof_last_rewrite_time_sec");
        let rewrites = |server: &u16| {
            ask(*server, "INFO persistence\r\n", complete)
                .is_ok_and(|text| !text.contains("aof_rewrite_in_progress:0"))
        };
        redis.ports.iter().any(rewrites)
    }
}

/// One primary and two replicas, all with an append-only file.
pub struct Redis {
    ports: [u16; 3],
    processes: Vec<Process>,
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
        Ok(Self { ports, processes })
    }

    /// The primary.
    pub const fn target(&self) -> Target<'_> {
        let [primary, ..] = self.ports;
        Target { name: REDIS, port: primary, kind: Kind::Redis(self) }
    }
}

fn replicas_follow(primary: u16) -> bool {
    let complete = |text: &str| text.contains("repl_backlog_histlen");
    ask(primary, "INFO replication\r\n", complete)
        .is_ok_and(|text| text.lines().filter(|line| line.contains("state=online")).count() == 2)
}

/// Three members in processes of their own, replication factor 3.
pub struct Kith {
    members: Vec<Member>,
}

impl Kith {
    /// Returns when all members are ready. `memory` are lines for the part of that name of the members' files.
    pub fn start(directory: &Path, fsync: Fsync, memory: &str) -> Result<Self> {
        let settings = format!("replication_factor = 3\nsync = \"{fsync}\"");
        let plan = Plan { cluster: "compare", settings: &settings, memory };
        Ok(Self { members: together(directory, 3, &plan)? })
    }

    /// The first member, at the default level.
    pub fn target(&self) -> Result<Target<'_>> {
        Ok(Target { name: KITH, port: self.first()?.resp, kind: Kind::Kith(self, "available") })
    }

    /// The first member, at level `one`.
    pub fn target_one(&self) -> Result<Target<'_>> {
        Ok(Target { name: KITH_ONE, port: self.first()?.resp, kind: Kind::Kith(self, "one") })
    }

    /// The share of the first member's records that are in memory.
    pub fn share_in_memory(&self) -> Result<f64> {
        let [in_memory, evicted, loaded] = self.first()?.metrics([
            "kith_table_records",
            "kith_table_evictions_total",
            "kith_store_loads_total",
        ])?;
        Ok(in_memory / (in_memory + evicted - loaded))
    }

    fn first(&self) -> Result<&Member> {
        self.members.first().context("there are members")
    }

    fn set_write_level(&self, level: &str) -> Result<()> {
        let body = format!(r#"{{"settings": {{"write_level": "{level}"}}}}"#);
        let request = format!(
            "PATCH /v1/settings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = ask(self.first()?.http, &request, |_| false)?;
        let is_set = answer.contains(&format!(r#""name":"write_level","value":"{level}""#));
        if !answer.starts_with("HTTP/1.1 200") || !is_set {
            bail!("the level could not be set to {level}: {answer}");
        }
        Ok(())
    }
}
