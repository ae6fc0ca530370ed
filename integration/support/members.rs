//! Members as real processes on loopback, and what tests need to steer and watch them.
//!
//! Each member has its own directory, ports and log below one temporary directory. Whatever happens
//! to a test, its members end: they are killed by their own process id when they are dropped, and they
//! stop by themselves at the end of their standard input. A test that fails prints the end of every
//! member's log. Tests wait for conditions with [`until`] and take turns, because each cluster costs
//! memory and processor time.

#![allow(dead_code, reason = "each test program uses its own part")]

use kith::client::Client;
use kith::node::handle::status::{Link, PeerStatus, Standing, Status};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The program under test.
pub const KITH: &str = env!("CARGO_BIN_EXE_kith");
/// How long anything may take that usually takes a second or two: machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(40);
/// Clusters that run at a time.
const CLUSTERS: usize = 2;
/// Ports are taken from below those that the system gives to outgoing connections, so that nobody
/// takes a member's port while it is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Bytes of a log that are shown when a test fails.
const SHOWN_BYTES: usize = 6_000;

static TURNS: Semaphore = Semaphore::const_new(CLUSTERS);
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A loopback address whose port was free just now and is given to nobody else in this process.
pub fn free_address() -> SocketAddr {
    let span = PORTS.end - PORTS.start;
    let start = u16::try_from(std::process::id().wrapping_mul(311) % u32::from(span)).unwrap();
    for _ in 0..span {
        let port = PORTS.start + (start + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % span) % span;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free in {PORTS:?}");
}

/// Waits until `look` gives a value; panics with its last complaint if that takes too long.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        let answer = tokio::time::timeout(within, look()).await;
        let complaint = match answer {
            Ok(Ok(value)) => return value,
            Ok(Err(complaint)) => complaint,
            Err(_) => "no answer".to_owned(),
        };
        assert!(began.elapsed() < within, "not within {within:?}: {what}; last seen: {complaint}");
        tokio::time::sleep(LOOK).await;
    }
}

/// What stands in a member's file beside its own name and addresses.
#[derive(Debug, Clone)]
pub struct Plan {
    pub cluster: String,
    pub secret: String,
    /// Whether that stands in a file of its own.
    pub secret_file: bool,
    pub seeds: Vec<SocketAddr>,
    pub bootstrap: bool,
    pub settings: BTreeMap<String, String>,
    pub zone: String,
    /// Where others reach the member, if that is not where it listens.
    pub advertise: Option<SocketAddr>,
    /// The journal's size at which a checkpoint begins, if not the default.
    pub journal_bytes: Option<&'static str>,
    /// Further tables of the member's file.
    pub tables: String,
    /// Variables of the process, beside those of the tester.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            cluster: "proc".to_owned(),
            secret: "a secret that all members of the test know".to_owned(),
            secret_file: false,
            seeds: Vec::new(),
            bootstrap: false,
            settings: BTreeMap::new(),
            zone: String::new(),
            advertise: None,
            journal_bytes: None,
            tables: String::new(),
            environment: Vec::new(),
        }
    }
}

impl Plan {
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn seeds(mut self, seeds: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.seeds = seeds.into_iter().collect();
        self
    }

    pub fn bootstrap(mut self) -> Self {
        self.bootstrap = true;
        self
    }
}

/// One member: its files, its addresses, and its process while it has one.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub peers: SocketAddr,
    pub http: SocketAddr,
    pub resp: SocketAddr,
    pub plan: Plan,
    directory: PathBuf,
    process: Option<Child>,
}

impl Member {
    /// A member that was not started yet; its files are `root/name.*` and its data `root/name`.
    pub fn new(root: &Path, name: &str, plan: Plan) -> Self {
        let member = Self {
            name: name.to_owned(),
            peers: free_address(),
            http: free_address(),
            resp: free_address(),
            plan,
            directory: root.join(name),
            process: None,
        };
        member.write_config();
        member
    }

    pub fn config(&self) -> PathBuf {
        self.directory.with_extension("toml")
    }

    pub fn data(&self) -> PathBuf {
        self.directory.clone()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// Writes the member's file from its plan.
    pub fn write_config(&self) {
        let Plan {
            cluster,
            secret,
            secret_file,
            seeds,
            bootstrap,
            settings,
            zone,
            advertise,
            journal_bytes,
            tables,
            environment: _,
        } = &self.plan;
        let zone = if zone.is_empty() { String::new() } else { format!("zone = \"{zone}\"\n") };
        let seeds: Vec<String> = seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
        let settings: Vec<String> = settings
            .iter()
            .map(|(name, value)| match value.parse::<u64>() {
                Ok(number) => format!("{name} = {number}\n"),
                Err(_) => format!("{name} = \"{value}\"\n"),
            })
            .collect();
        let advertise = advertise.map_or_else(String::new, |at| format!("[advertise]\npeers = \"{at}\"\n"));
        let memory =
            journal_bytes.map_or_else(String::new, |size| format!("[memory]\njournal_bytes = \"{size}\"\n"));
        let (seeds, settings) = (seeds.join(", "), settings.concat());
        let secret = if *secret_file {
            let file = self.directory.with_extension("secret");
            fs::write(&file, secret).unwrap();
            format!("secret_file = \"{}\"", file.display())
        } else {
            format!("secret = \"{secret}\"")
        };
        let Self { name, peers, http, resp, .. } = self;
        let text = format!(
            "name = \"{name}\"\ncluster = \"{cluster}\"\ndata_dir = \"{}\"\nseeds = [{seeds}]\n\
             bootstrap = {bootstrap}\n{secret}\n{zone}\n[listen]\npeers = \"{peers}\"\nhttp = \"{http}\"\n\
             resp = \"{resp}\"\n\n{advertise}{memory}{tables}\n[create.settings]\n{settings}",
            self.directory.display(),
        );
        fs::write(self.config(), text).unwrap();
    }

    /// Starts the process; it may be started again once it ended.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = clean(Command::new(KITH));
        command.args(["serve", "--stop-with-input", "--config"]).arg(self.config());
        command.envs(self.plan.environment.iter().cloned());
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// SIGKILL, and the process is gone when this returns.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A process that ended already can't be killed and is waited for all the same.
            let _ = process.kill();
            process.wait().unwrap();
        }
    }

    /// Sends a signal by name, such as `TERM`, to this process alone.
    pub fn signal(&self, name: &str) {
        signal(self.pid().unwrap(), name);
    }

    /// Waits for the process's end.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let process = self.process.as_mut().unwrap();
        let status = until(&format!("{} ends", self.name), within, async || {
            process.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        })
        .await;
        self.process = None;
        status
    }

    /// SIGTERM, and the exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended(PATIENCE).await
    }

    pub fn client(&self) -> Client {
        // It tells at once what the member says, and hides nothing of what the member does with clocks.
        let client = Client::builder([self.http.to_string()]);
        client.patience(Duration::ZERO).follow_what_was_seen(false).build().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub async fn status(&self) -> Result<Status, String> {
        self.client().status().await.map_err(|error| error.to_string())
    }

    /// A number among this member's metrics, all labels together.
    pub async fn metric(&self, name: &str) -> Result<f64, String> {
        kith::security::tls::use_ring();
        let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let answer = http.get(self.url("/metrics")).send().await.map_err(|error| error.to_string())?;
        let text = answer.text().await.map_err(|error| error.to_string())?;
        let rest = text.lines().filter_map(|line| line.strip_prefix(name));
        let lines = rest.filter(|rest| rest.starts_with([' ', '{']));
        let numbers: Vec<f64> = lines.filter_map(|rest| rest.rsplit_once(' ')?.1.parse().ok()).collect();
        if numbers.is_empty() { Err(format!("there is no {name}")) } else { Ok(numbers.iter().sum()) }
    }

    /// Runs `kith` against this member.
    pub fn kith(&self, arguments: &[&str]) -> Output {
        let mut command = clean(Command::new(KITH));
        command.args(arguments).args(["--address", &self.http.to_string()]).output().unwrap()
    }

    /// `kith status --json` of this member, as the command prints it.
    pub fn told_status(&self) -> Result<Status, String> {
        let output = self.kith(&["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    pub async fn until_ready(&self) {
        until(&format!("{} is ready", self.name), PATIENCE, async || {
            self.client().ready().await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Waits until the process answers, whatever its state.
    pub async fn until_answering(&self) {
        until(&format!("{} answers", self.name), PATIENCE, async || self.status().await.map(drop)).await;
    }

    /// Waits until this member keeps no record for others any more.
    pub async fn until_no_hints(&self) {
        until(&format!("{} keeps no hints", self.name), PATIENCE, async || {
            let hints = self.status().await?.hints;
            if hints.pending == 0 { Ok(()) } else { Err(format!("{hints:?}")) }
        })
        .await;
    }

    /// Waits until this member thinks so of another; gives the time that it took.
    pub async fn until_sees(&self, other: &str, alive: bool, within: Duration) -> Duration {
        let began = Instant::now();
        until(
            &format!("{} sees {other} {}", self.name, if alive { "alive" } else { "dead" }),
            within,
            async || {
                let peer = self.peer(other).await?;
                let linked = !alive || peer.link == Link::Up;
                if peer.alive == Some(alive) && linked { Ok(()) } else { Err(format!("{peer:?}")) }
            },
        )
        .await;
        began.elapsed()
    }

    pub async fn peer(&self, other: &str) -> Result<PeerStatus, String> {
        let status = self.status().await?;
        let peer = status.peers.iter().find(|peer| peer.name == other).cloned();
        peer.ok_or_else(|| format!("no peer {other} among {:?}", status.peers))
    }

    /// Waits until `kith status --json` shows a refusal that says all of this, and the log too.
    pub async fn until_refusal(&self, words: &[&str]) -> String {
        let said = |text: &str| words.iter().all(|word| text.contains(word));
        until(&format!("{} tells of a refusal with {words:?}", self.name), PATIENCE, async || {
            let peers = self.told_status()?.peers;
            let reason =
                peers.iter().filter_map(|peer| peer.last_refusal.clone()).find(|reason| said(reason));
            let reason = reason.ok_or_else(|| format!("{peers:?}"))?;
            if self.log().lines().any(said) { Ok(reason) } else { Err("it is not in the log".to_owned()) }
        })
        .await
    }

    fn show_log(&self) {
        let log = self.log();
        let mut start = log.len().saturating_sub(SHOWN_BYTES);
        while !log.is_char_boundary(start) {
            start += 1;
        }
        eprintln!("---- log of {} ({})\n{}", self.name, self.http, &log[start..]);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.show_log();
        }
    }
}

/// Sends a signal to one process that this program started.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// A command that no variable of the tester's environment changes.
pub fn clean(mut command: Command) -> Command {
    for key in kith::config::KEYS {
        command.env_remove(key.variable());
    }
    command.env_remove("KITH_ADDRESS");
    command
}

/// Members below one directory. Only so many groups exist at a time.
#[derive(Debug)]
pub struct Group {
    // In this order: processes end before their directory goes and the next group begins.
    pub members: Vec<Member>,
    pub directory: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Group {
    pub async fn empty() -> Self {
        Self::beside_others(CLUSTERS - 1).await
    }

    /// One beside which no other group runs: for what is measured.
    pub async fn alone() -> Self {
        Self::beside_others(0).await
    }

    async fn beside_others(others: usize) -> Self {
        let turns = u32::try_from(CLUSTERS - others).unwrap();
        let turn = TURNS.acquire_many(turns).await.unwrap();
        Self { members: Vec::new(), directory: tempfile::tempdir().unwrap(), _turn: turn }
    }

    /// `count` members that know each other as seeds, started at once and ready.
    pub async fn ready(count: usize, plan: &Plan) -> Self {
        let mut group = Self::empty().await;
        group.add_together(count, plan);
        group.start();
        group.until_ready().await;
        group
    }

    /// Adds `count` members that know each other as seeds; starts none.
    pub fn add_together(&mut self, count: usize, plan: &Plan) {
        for index in 1..=count {
            self.add(&format!("member{index}"), plan.clone());
        }
        let addresses: Vec<_> = self.members.iter().map(|member| member.peers).collect();
        for member in &mut self.members {
            let others = addresses.iter().copied().filter(|address| *address != member.peers);
            member.plan.seeds = others.collect();
            member.plan.bootstrap = true;
            member.write_config();
        }
    }

    /// Adds one member that is not started yet; gives its index.
    pub fn add(&mut self, name: &str, plan: Plan) -> usize {
        self.members.push(Member::new(self.directory.path(), name, plan));
        self.members.len() - 1
    }

    /// Starts every member that has no process.
    pub fn start(&mut self) {
        self.members.iter_mut().filter(|member| member.process.is_none()).for_each(Member::start);
    }

    /// Waits until every member with a process is ready and active, and sees every other one alive.
    pub async fn until_ready(&self) {
        let running = || self.members.iter().filter(|member| member.process.is_some());
        for member in running() {
            member.until_ready().await;
        }
        for member in running() {
            for other in running().filter(|other| other.name != member.name) {
                member.until_sees(&other.name, true, PATIENCE).await;
            }
            until(&format!("all are active, says {}", member.name), PATIENCE, async || {
                let cluster = member.client().cluster().await.map_err(|error| error.to_string())?;
                let active = |name: &str| {
                    cluster.members.iter().any(|row| row.name == name && row.standing == Standing::Active)
                };
                if running().all(|member| active(&member.name)) {
                    Ok(())
                } else {
                    Err(format!("{cluster:?}"))
                }
            })
            .await;
        }
    }

    pub async fn until_no_hints(&self) {
        for member in &self.members {
            member.until_no_hints().await;
        }
    }
}

impl std::ops::Index<usize> for Group {
    type Output = Member;

    fn index(&self, index: usize) -> &Member {
        &self.members[index]
    }
}

impl std::ops::IndexMut<usize> for Group {
    fn index_mut(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }
}
