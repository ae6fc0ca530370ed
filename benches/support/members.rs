//! Members of kith as processes on loopback. Everything about kith's configuration that benchmarks know is
//! here.

use super::processes::{Process, ask, free_ports};
use anyhow::{Context, Result, bail};
use kith::node::handle::convergence::Convergence;
use kith::node::handle::status::Physical;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a condition is looked at that costs a member little to tell.
const LOOK: Duration = Duration::from_millis(20);
/// How often members are asked for their convergence: they look at all their records then.
const SLOW_LOOK: Duration = Duration::from_millis(200);
/// Longer than members take between two publications of their metrics.
const PUBLISHED: Duration = Duration::from_millis(1_500);

/// What stands in the members' files beside their names and ports.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The settings with which it is created, as lines of TOML.
    pub settings: &'a str,
    /// Lines of the part `[memory]`.
    pub memory: &'a str,
}

/// One member: its files, its ports, and its process while it has one.
pub struct Member {
    pub name: String,
    pub peers: u16,
    pub http: u16,
    pub resp: u16,
    directory: PathBuf,
    process: Option<Process>,
}

/// Members that know each other as seeds, started at once; returns when all are ready.
pub fn together(directory: &Path, count: usize, plan: &Plan) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for index in 0..count {
        members.push(Member::new(directory, &format!("member{index}"))?);
    }
    for member in &members {
        let others = members.iter().filter(|other| other.name != member.name);
        member.write_config(plan, true, &others.map(|other| other.peers).collect::<Vec<_>>())?;
    }
    members.iter_mut().try_for_each(Member::start)?;
    members.iter_mut().try_for_each(Member::wait_until_ready)?;
    Ok(members)
}

impl Member {
    /// One that was not started yet and has no file.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let [peers, http, resp] = free_ports()?;
        Ok(Self { name: name.to_owned(), peers, http, resp, directory: directory.to_owned(), process: None })
    }

    /// Writes its file; `seeds` are other members' ports for peers.
    pub fn write_config(&self, plan: &Plan, bootstrap: bool, seeds: &[u16]) -> Result<()> {
        let Self { name, peers, http, resp, directory, .. } = self;
        let Plan { cluster, settings, memory } = plan;
        let seeds: Vec<String> = seeds.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let text = format!(
            "name = \"{name}\"\ncluster = \"{cluster}\"\ndata_dir = \"{name}\"\nseeds = [{}]\n\
             bootstrap = {bootstrap}\nsecret = \"a secret for one benchmark on one machine\"\n\n[listen]\n\
             peers = \"127.0.0.1:{peers}\"\nhttp = \"127.0.0.1:{http}\"\nresp = \"127.0.0.1:{resp}\"\n\n\
             [memory]\n{memory}\n\n[create.settings]\n{settings}\n",
            seeds.join(", "),
        );
        Ok(std::fs::write(directory.join(format!("{name}.toml")), text)?)
    }

    /// Starts its process; it may be started again once it ended.
    pub fn start(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
        // Members end with their standard input, so also when this program is killed.
        command.stdin(Stdio::piped());
        command.args(["serve", "--stop-with-input", "--config"]);
        command.arg(self.directory.join(format!("{}.toml", self.name)));
        let log = self.directory.join(format!("{}.log", self.name));
        self.process = Some(Process::start(&mut command, log)?);
        Ok(())
    }

    /// The process that runs.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the member does not run")
    }

    pub fn wait_until_ready(&mut self) -> Result<()> {
        let request = request("/health/ready");
        let http = self.http;
        let ready = || {
            ask(http, &request, |text| text.contains("\r\n"))
                .is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
        };
        self.process.as_mut().context("the member does not run")?.wait_until(ready)
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Process::stop)
    }

    /// SIGKILL; the process is gone when this returns.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn convergence(&self) -> Result<Convergence> {
        self.get_json("/v1/cluster/convergence?roots=true")
    }

    /// What `GET path` answers, as JSON.
    pub fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        Ok(serde_json::from_str(&self.get(path)?)?)
    }

    /// Whether it sees another one alive, or dead; nothing when it does not know.
    pub fn sees(&self, name: &str, alive: bool) -> bool {
        let physical = self.get_json::<Physical>("/v1/cluster/physical");
        physical.is_ok_and(|seen| seen.members.iter().any(|row| row.name == name && row.alive == alive))
    }

    /// Metrics without labels, as they are once all that happened before is published.
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[f64; N]> {
        std::thread::sleep(PUBLISHED);
        self.metrics_of_late(names)
    }

    /// Metrics without labels, as they were about a second ago. It costs the member's data thread nothing.
    pub fn metrics_of_late<const N: usize>(&self, names: [&str; N]) -> Result<[f64; N]> {
        let text = self.get("/metrics")?;
        let mut figures = [0.0; N];
        for (figure, name) in figures.iter_mut().zip(names) {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            *figure = line.with_context(|| format!("no metric {name}"))?.parse()?;
        }
        Ok(figures)
    }

    /// Sealed bytes that it sent to and received from other members since it started.
    pub fn link_bytes(&self) -> Result<f64> {
        let [sent, received] =
            self.metrics(["kith_link_sent_bytes_total", "kith_link_received_bytes_total"])?;
        Ok(sent + received)
    }

    fn get(&self, path: &str) -> Result<String> {
        let answer = ask(self.http, &request(path), |_| false)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{path} of {}: {}", self.name, head.lines().next().unwrap_or_default());
        }
        Ok(body.to_owned())
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// Looks until `met`; gives the time that it took. What is not met within the time is named.
pub fn wait_for(what: &str, within: Duration, mut met: impl FnMut() -> bool) -> Result<Duration> {
    let began = Instant::now();
    while !met() {
        if began.elapsed() > within {
            bail!("not within {} s: {what}", within.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(began.elapsed())
}

/// Waits until all hold the same; gives the time that it took.
pub fn wait_until_equal(members: &[&Member], within: Duration) -> Result<Duration> {
    wait_for("all hold the same", within, || {
        let equal = are_equal(members);
        if !equal {
            std::thread::sleep(SLOW_LOOK);
        }
        equal
    })
}

/// Whether all partitions of the members are complete and equal wherever two hold the same one, and
/// nothing is kept for anybody.
fn are_equal(members: &[&Member]) -> bool {
    let told: Result<Vec<Convergence>> = members.iter().map(|member| member.convergence()).collect();
    let Ok(told) = told else { return false };
    let rests = |one: &Convergence| {
        one.hints == 0 && !one.catching_up && one.incomplete_partitions == 0 && !one.roots.is_empty()
    };
    let equal = |one: &Convergence, other: &Convergence| {
        one.roots.iter().all(|(partition, root)| other.roots.get(partition).is_none_or(|same| same == root))
    };
    told.iter().all(rests) && told.iter().all(|one| told.iter().all(|other| equal(one, other)))
}
