//! The start flow and the end: from a config to a serving member, and back to a directory.
//!
//! Config → storage opened and replayed → identity, incarnation → security → ports → join or resume
//! → recovery → ready. Each step is named, logged with its duration, and shown in status; a failed
//! step ends the member with what and why.

use super::access::{Access, Guard, Publisher};
use super::clock::SystemClock;
use super::control;
use super::core::{Core, Shared};
use super::disks::Disks;
use super::founding::{self, Belonging};
use super::handle::Handle;
use super::local::LocalHandle;
use super::publish;
use super::view::{CUT_OFF, View};
use super::watch as watching;
use super::{NodeError, events, found, membership, outdated, secrets, state};
use crate::config::MemberConfig;
use crate::engine::{self, Bounds, Engine, Mode};
use crate::gossip;
use crate::model::Record;
use crate::model::key::SETTINGS;
use crate::model::limits::DEFAULT_PARTITION_BITS;
use crate::protocol;
use crate::protocol::introduction::ClusterFacts;
use crate::security::{
    ClusterKeys, Credentials, Gate, Identity, Keyring, MAX_PENDING_PER_ADDRESS, ProtocolRange, Secret, tls,
};
use crate::storage::disk::lock;
use crate::storage::{Disk, Journal, JournalOptions, OsDisk, StorageError, Store, small};
use crate::telemetry::{Telemetry, UPKEEP_INTERVAL};
use crate::transport::Acceptor;
use rand::RngExt as _;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::LocalSet;

/// How long a member that stops waits for what it began.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Room on the disk that the journal leaves for checkpoints, in bytes.
const RESERVE_BYTES: u64 = 16 << 20;
/// Bytes of journal that are prepared ahead of appends.
const AHEAD_BYTES: u64 = 4 << 20;

/// Becomes true when fronts shall end.
pub type Shutdown = watch::Receiver<bool>;
/// A front's work.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;
/// A front's work on any thread.
pub type SendWork = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves clients on the data thread.
pub type LocalFront = Box<dyn FnOnce(TcpListener, LocalHandle, Guard, Shutdown) -> Work>;
/// Serves clients on any thread.
pub type SharedFront = Box<dyn FnOnce(TcpListener, Handle, Guard, Telemetry, Shutdown) -> SendWork>;

/// What serves clients. The node owns their ports and tells them when to end; what they speak is
/// theirs.
pub struct Fronts {
    /// Serves on the data thread.
    pub local: LocalFront,
    /// Serves on the third runtime.
    pub shared: SharedFront,
    /// Called when the member shall stop while it opens its storage: by then nobody was served and nothing was begun, and
    /// nothing interrupts it, so whoever owns the process may just end it. Else the member stops once that is done.
    pub give_up: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Fronts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fronts")
    }
}

/// Runs one member until `stop` completes. Blocks the calling thread, which becomes the data
/// thread.
///
/// # Errors
/// [`NodeError`] when it could not start or had to stop. What was acknowledged is on its disk.
pub fn run(
    config: MemberConfig,
    fronts: Fronts,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), NodeError> {
    let system = |what: &'static str| move |source| NodeError::System { what, source };
    let services = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .thread_name("kith-services")
        .enable_all()
        .build()
        .map_err(system("a runtime"))?;
    let data = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .map_err(system("a runtime"))?;
    let local = LocalSet::new();
    let opening = Arc::new(AtomicBool::new(true));
    let Fronts { local: resp, shared: http, give_up } = fronts;
    // Heard from the first moment on, and on another thread: this one hears nothing while it opens its storage.
    let stop = services.spawn(heed(stop, Arc::clone(&opening), give_up));
    let stop = async { _ = stop.await };
    let result =
        local.block_on(&data, serve(config, (resp, http), services.handle().clone(), &opening, stop));
    drop(local);
    services.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Completes when the member shall stop.
async fn heed(stop: impl Future<Output = ()>, opening: Arc<AtomicBool>, give_up: Box<dyn FnOnce() + Send>) {
    stop.await;
    if opening.load(Ordering::Relaxed) {
        tracing::info!("stopping before the storage is open");
        give_up();
    }
}

fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, NodeError> {
    let failed = |source| NodeError::Listen { address: address.to_string(), purpose, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Fills the port that was bound into an advertised address that left it open.
fn advertised(address: &str, bound: SocketAddr) -> String {
    match address.rsplit_once(':') {
        Some((host, "0")) => format!("{host}:{}", bound.port()),
        _ => address.to_owned(),
    }
}

struct Opened {
    engine: Engine,
    journal: Journal<OsDisk>,
    store: Store<OsDisk>,
    identity: Identity,
    cluster: Option<(ClusterFacts, Belonging)>,
    problems: Vec<String>,
}

/// Opens the data directory and brings the engine to the state that it had.
fn open(
    config: &MemberConfig,
    disk: &OsDisk,
    clock: &SystemClock,
    publisher: &Publisher,
    view: &mut View,
) -> Result<Opened, NodeError> {
    let directory = config.data_dir.display().to_string();
    let failed = |source| NodeError::Storage { directory: directory.clone(), source };
    begin_step(view, publisher, "identity");
    let identity = open_identity(disk, &failed)?;
    view.outdated = outdated::load(disk).map_err(failed)?;
    let incarnation = match &view.outdated {
        Some(outdated) => outdated.own,
        None => next_incarnation(disk).map_err(failed)?,
    };
    let cluster = founding::load_cluster(disk).map_err(failed)?;
    let bits = cluster.as_ref().map_or(DEFAULT_PARTITION_BITS, |(cluster, _)| cluster.partition_bits);
    let who = engine::Identity { member: identity.member_id(), incarnation, life: rand::rng().random() };
    let table_bytes = usize::try_from(config.memory.table_bytes).unwrap_or(usize::MAX);
    let bounds = Bounds::of_memory(table_bytes, config.memory.journal_bytes);
    let mut engine = Engine::new(who, bounds, bits);
    engine.advance(clock.now());

    begin_step(view, publisher, "records");
    let wall_ms = clock.now().wall_ms;
    let cache = usize::try_from(config.memory.store_cache_bytes).unwrap_or(usize::MAX);
    let (mut store, found) = Store::open(disk, cache, wall_ms).map_err(failed)?;
    let settings = store.collection(SETTINGS).map_err(failed)?;
    engine.restore_layout(settings.iter().map(Record::view));
    let scan = store.for_each(&mut |record| engine.restore_record(record)).map_err(failed)?;
    let mut problems = found::in_store(&found, &scan);

    begin_step(view, publisher, "journal");
    let options = JournalOptions {
        wall_ms,
        seed: rand::rng().random(),
        first_needed: found.journal_from,
        reserve_bytes: RESERVE_BYTES,
        ahead_bytes: AHEAD_BYTES,
    };
    let mut unknown = None;
    let opened = Journal::open(disk, &options, |payload| {
        engine.restore_journal(payload).map_err(|error| {
            unknown = Some(error);
            StorageError::Poisoned { what: "journal" }
        })
    });
    if let Some(error) = unknown {
        return Err(error.into());
    }
    let (journal, recovery) = opened.map_err(failed)?;
    problems.extend(found::in_journal(&recovery, found.created));
    for problem in &problems {
        tracing::error!("{problem}");
    }
    view.cut_off = recovery.torn_tail;
    if view.cut_off {
        tracing::warn!("{CUT_OFF}");
    }
    // A store that was set aside for a bad page may have given all its records.
    let stored = found.set_aside.is_none() && (scan.complete || found.created);
    let intact = stored && recovery.is_whole();
    // Reading took its time, and others have as long to be linked as if it had not.
    engine.advance(clock.now());
    engine.restored(recovery.payload_bytes, intact);
    if !intact && matches!(cluster, Some((_, Belonging::Together))) {
        engine.distrust_roster();
    }
    Ok(Opened { engine, journal, store, identity, cluster, problems })
}

/// The data directory, which no other process may use meanwhile.
fn take_directory(config: &MemberConfig) -> Result<(OsDisk, <OsDisk as Disk>::Lock), NodeError> {
    let failed = |source| NodeError::Storage { directory: config.data_dir.display().to_string(), source };
    let disk = OsDisk::new(&config.data_dir);
    let disk = disk.map_err(|source| failed(StorageError::from_io("making the data directory", source)))?;
    let lock = lock(&disk).map_err(failed)?;
    Ok((disk, lock))
}

/// Begins a step of the start that clients can't see in the status yet.
fn begin_step(view: &mut View, publisher: &Publisher, name: &'static str) {
    view.begin_step(name);
    publisher.publish_step(name);
}

fn open_identity(disk: &OsDisk, failed: &impl Fn(StorageError) -> NodeError) -> Result<Identity, NodeError> {
    const FILE: &str = "identity";
    if let Some(bytes) = small::read(disk, FILE).map_err(failed)? {
        return Ok(Identity::from_bytes(&bytes)?);
    }
    let identity = Identity::generate(rand::rng().random())?;
    small::write_atomic(disk, FILE, identity.to_bytes().as_slice()).map_err(failed)?;
    Ok(identity)
}

/// Raises the incarnation durably.
fn next_incarnation(disk: &OsDisk) -> Result<u64, StorageError> {
    const FILE: &str = "incarnation";
    let last = small::read(disk, FILE)?.and_then(|bytes| bytes.first_chunk().copied());
    let incarnation = last.map_or(0, u64::from_le_bytes) + 1;
    small::write_atomic(disk, FILE, &incarnation.to_le_bytes())?;
    Ok(incarnation)
}

/// What judges and receives clients.
fn guard(
    config: &MemberConfig,
    keyring: Keyring,
    services: &tokio::runtime::Handle,
) -> Result<(Publisher, Guard), NodeError> {
    let (publisher, access) = Access::new(keyring, config.serves_anyone);
    let advertised = config.advertise_http.rsplit_once(':').map_or("", |(host, _)| host).into();
    if config.serves_anyone {
        tracing::warn!(
            "while the cluster has no tokens, anyone who can connect is served (`clients.without_tokens`)"
        );
    }
    Ok((publisher, Guard { access, tls: open_tls(config, services)?, advertised }))
}

/// The certificate that clients are shown, if any, which is looked at again and again from then on.
fn open_tls(
    config: &MemberConfig,
    services: &tokio::runtime::Handle,
) -> Result<Option<Arc<tls::Door>>, NodeError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let door = tls::Door::open(&files.certificate, &files.key, config.limits.pending_handshakes)?;
    let again = Arc::clone(&door);
    services.spawn(async move {
        loop {
            tokio::time::sleep(tls::RELOAD_INTERVAL).await;
            match again.reload() {
                None => {}
                Some(Ok(())) => tracing::info!("the certificate for clients has changed and is served now"),
                Some(Err(error)) => tracing::error!(%error, "the old certificate is served on"),
            }
        }
    });
    Ok(Some(door))
}

/// The cluster's keys. Called before anything else: the allocator uses the memory that stretching the secret
/// took for all that comes later, where it would keep it for nothing if it were freed at last.
fn cluster_keys(config: &MemberConfig) -> Result<ClusterKeys, NodeError> {
    let secret = Secret::parse(&String::from_utf8_lossy(config.secret.expose()))?;
    Ok(ClusterKeys::derive(&secret, &config.cluster)?)
}

fn credentials(config: &MemberConfig, identity: Identity, keys: &ClusterKeys) -> Credentials {
    let keyring = Keyring::new(keys.clone(), None);
    let (min, max) = protocol::VERSIONS.into_inner();
    let protocol = ProtocolRange { min, max };
    Credentials { identity, keyring, cluster: config.cluster.clone(), protocol }
}

async fn listen_to_peers(config: &MemberConfig) -> Result<(Acceptor, SocketAddr), NodeError> {
    let gate = Arc::new(Gate::new(config.limits.pending_handshakes, MAX_PENDING_PER_ADDRESS));
    let (min, max) = protocol::VERSIONS.into_inner();
    let peers = config.listen_peers.to_string();
    let unheard = |source| NodeError::Listen { address: peers.clone(), purpose: "members", source };
    let acceptor = Acceptor::bind(&peers, gate, ProtocolRange { min, max }).await.map_err(unheard)?;
    let address = acceptor.local_address().map_err(unheard)?;
    Ok((acceptor, address))
}

async fn serve(
    config: MemberConfig,
    (resp_front, http_front): (LocalFront, SharedFront),
    services: tokio::runtime::Handle,
    opening: &AtomicBool,
    stop_wanted: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let keys = cluster_keys(&config)?;
    let (publisher, guard) = guard(&config, Keyring::new(keys.clone(), None), &services)?;
    let clock = SystemClock::start();
    let (handle, requests) = Handle::channel();
    let (hub, told_value_bytes) = (Arc::clone(handle.hub()), handle.told_max_value_bytes());
    let telemetry = Telemetry::new(&config.name, env!("CARGO_PKG_VERSION"));
    let (stop_fronts, shutdown) = watch::channel(false);
    let (wires, links) = gossip::wires();

    let http = listen(config.listen_http, "HTTP")?;
    let resp = config.listen_resp.map(|address| listen(address, "RESP")).transpose()?;
    let (acceptor, peers) = listen_to_peers(&config).await?;
    let address = advertised(&config.advertise_peers, peers);
    let unheard =
        |source| NodeError::Listen { address: config.listen_http.to_string(), purpose: "HTTP", source };
    let http_address = advertised(&config.advertise_http, http.local_addr().map_err(unheard)?);
    let mut view = View::new(address, http_address, links.incoming.clone());
    view.told_value_bytes = told_value_bytes;
    let front = http_front(http, handle, guard.clone(), telemetry.clone(), shutdown.clone());
    let mut http_front = Some(services.spawn(front));

    begin_step(&mut view, &publisher, "data directory");
    let (disk, _lock) = take_directory(&config)?;
    let opened = open(&config, &disk, &clock, &publisher, &mut view)?;
    opening.store(false, Ordering::Relaxed);

    view.begin_step("security");
    let fixed = credentials(&config, opened.identity, &keys);
    let secrets = secrets::open(&disk, &config, fixed, keys)?;
    publisher.publish_keyring(secrets.credentials().keyring.clone());
    let (outlet, batches) = hub.channel(config.limits.http_connections);
    services.spawn(watching::run(hub, batches));
    let (disks, answers) = Disks::start(opened.journal.syncer(), opened.store)?;
    let facts = opened.cluster.as_ref().map(|(facts, _)| facts.clone());
    let mut core = Core::new(opened.engine, opened.journal, disks, facts.clone());
    core.problems = opened.problems;
    core.watching.connect(outlet);
    let shared = Rc::new(Shared::new(core, clock, config, secrets, (publisher, guard.clone()), disk, view));
    shared.publish_tokens(&shared.core.borrow());

    shared.view.borrow_mut().begin_step("links");
    spawn_tasks(&shared, &shutdown, acceptor, links.outgoing, answers, requests, &telemetry);
    resume(&shared, opened.cluster);
    shared.view.borrow_mut().begin_step("cluster");
    if shared.view.borrow().outdated.is_some() {
        outdated::stop_serving(&shared);
    }
    let seeker = shared.run_part("looking for the cluster", &shutdown, {
        let shared = Rc::clone(&shared);
        async move { membership::find_cluster(&shared).await }
    });
    let watch = state::watch(Rc::clone(&shared), wires, services);
    let watcher = shared.run_part("watching the cluster", &shutdown, watch);
    let mut resp_front = resp.map(|listener| {
        let local = LocalHandle { shared: Rc::clone(&shared) };
        tokio::task::spawn_local(resp_front(listener, local, guard, shutdown))
    });

    wait_for_stop(&shared, stop_wanted, [("HTTP", &mut http_front), ("RESP", &mut resp_front)]).await;
    tracing::info!("stopping");
    seeker.abort();
    // Fails only when no front listens any more.
    _ = stop_fronts.send(true);
    if !shared.is_broken() {
        stop(&shared, http_front, resp_front).await;
    }
    watcher.abort();
    let fatal = shared.fatal.borrow_mut().take();
    fatal.map_or(Ok(()), Err)
}

/// Goes on with the cluster that this member belongs to.
fn resume(shared: &Rc<Shared>, cluster: Option<(ClusterFacts, Belonging)>) {
    let Some((facts, belonging)) = cluster else { return };
    shared.view.borrow_mut().creating.alone = belonging == Belonging::Alone;
    if let Belonging::Founding(records) = belonging {
        founding::found(shared, facts, &records);
    }
    // Clients are told that it is on its way and not that there is no cluster.
    shared.with(|core| core.engine.set_mode(Mode::Starting));
    let is_outdated = shared.view.borrow().outdated.is_some();
    if let Err(error) = membership::check_records(shared)
        && !is_outdated
    {
        tracing::error!("{error}");
    }
}

fn spawn_tasks(
    shared: &Rc<Shared>,
    stopping: &Shutdown,
    acceptor: Acceptor,
    letters: tokio::sync::mpsc::Receiver<(crate::model::MemberId, Vec<u8>)>,
    answers: tokio::sync::mpsc::UnboundedReceiver<super::disks::DiskAnswer>,
    requests: super::handle::Requests,
    telemetry: &Telemetry,
) {
    let own = || Rc::clone(shared);
    shared.run_part("ending turns", stopping, own().flush_turns());
    shared.run_part("housekeeping", stopping, own().tick());
    shared.run_part("taking the disk's answers", stopping, own().take_disk_answers(answers));
    shared.run_part("accepting links", stopping, own().accept_links(acceptor));
    shared.run_part("dialling members", stopping, own().dial_members());
    shared.run_part("carrying gossip", stopping, own().carry_gossip(letters));
    shared.run_part("answering requests", stopping, control::answer_requests(own(), requests));
    shared.run_part("publishing metrics", stopping, publish::publish_metrics(own(), telemetry.clone()));
    shared.run_part("noticing events", stopping, events::watch(own()));
    shared.run_part("changing the secret", stopping, secrets::tend(own()));
    shared.run_part("looking at the secret's file", stopping, secrets::watch_file(own()));
    let telemetry = telemetry.clone();
    shared.run_part("keeping metrics small", stopping, async move {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            telemetry.run_upkeep();
        }
    });
}

/// Waits for the wish to stop, an error, or the end of a front that a member can't be without.
async fn wait_for_stop(
    shared: &Shared,
    wanted: impl Future<Output = ()>,
    fronts: [(&'static str, &mut Option<tokio::task::JoinHandle<()>>); 2],
) {
    let [(first, one), (second, other)] = fronts;
    let ended = tokio::select! {
        () = wanted => None,
        () = shared.stop.notified() => None,
        () = front_ended(one) => Some(first),
        () = front_ended(other) => Some(second),
    };
    if let Some(front) = ended {
        shared.fail(NodeError::PartEnded(front, "see the log for the reason".to_owned()));
    }
}

/// Completes when a front ends, which is then `None`; never if there is none.
async fn front_ended(front: &mut Option<tokio::task::JoinHandle<()>>) {
    match front {
        Some(task) => _ = task.await,
        None => std::future::pending().await,
    }
    *front = None;
}

/// Lets what was begun end, within a deadline: fronts first, then writes, then links and the journal.
async fn stop(
    shared: &Rc<Shared>,
    http: Option<tokio::task::JoinHandle<()>>,
    resp: Option<tokio::task::JoinHandle<()>>,
) {
    let ended = async {
        if let Some(resp) = resp {
            _ = resp.await;
        }
        if let Some(http) = http {
            _ = http.await;
        }
        shared.with(|core| core.engine.set_mode(Mode::Stopping));
        loop {
            let done = {
                let core = shared.core.borrow();
                let positions = core.engine.positions();
                if positions.synced < positions.written {
                    core.disks.sync(false);
                }
                core.engine.is_idle() && positions.synced >= positions.written
            };
            if done || shared.fatal.borrow().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
        tracing::warn!("not everything ended in time; what was acknowledged is on the disk");
    }
    shared.core.borrow_mut().end(shared.clock.now());
}
