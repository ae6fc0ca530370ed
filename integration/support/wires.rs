//! A network between members that can be cut: a proxy before each member's peer port.
//!
//! Every connection between members passes through the proxy of the one that was called; who called is
//! found out from the system, by the process that owns the other end. So a cut separates exactly the
//! pairs that it should, in both directions. A cut is *loud*: connections are closed and new ones too;
//! *silent*: bytes stay on the way, as on a network that loses everything, until it heals; or *one-way*: so
//! do only those that one side sends. What was on its way when such a cut heals arrives then, as TCP would
//! have it. Or it *swallows*: bytes are taken and never arrive, as those that a machine has sent when it loses
//! power; a connection that lost some ends when the cut heals.

#![allow(dead_code, reason = "each test program uses its own part")]

use super::members::{Group, PATIENCE, Plan, free_address, until};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What happens to bytes between the two sides of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Connections end.
    Loud,
    /// Bytes wait.
    Silent,
    /// What the named members send waits; what the others send them arrives.
    OneWay,
    /// Bytes are lost and nobody is told.
    Swallow,
}

/// Members on one side of a cut, by name; nobody for none.
type State = Option<(Cut, BTreeSet<String>)>;

/// The proxies of a group.
#[derive(Debug)]
pub struct Wires {
    state: watch::Sender<State>,
    pids: Arc<Mutex<Vec<(u32, String)>>>,
    _tasks: JoinSet<()>,
}

impl Wires {
    /// So many members that form a cluster through proxies, ready.
    pub async fn ready(members: usize) -> (Group, Self) {
        let mut group = Group::empty().await;
        group.add_together(members, &Plan::default());
        let wires = Self::between(&mut group).await;
        group.start();
        wires.learn(&group);
        group.until_ready().await;
        (group, wires)
    }

    /// Puts a proxy before every member of a group that was not started yet: seeds and advertised
    /// addresses become the proxies'.
    pub async fn between(group: &mut Group) -> Self {
        let (state, _) = watch::channel(None);
        let pids: Arc<Mutex<Vec<(u32, String)>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let mut moved = Vec::new();
        for member in &mut group.members {
            let proxy = free_address();
            // A process that is just being started has a copy of what looked whether the port is free.
            let listener = until("the proxy's port can be bound", PATIENCE, async || {
                TcpListener::bind(proxy).await.map_err(|error| error.to_string())
            })
            .await;
            moved.push((member.peers, proxy));
            member.plan.advertise = Some(proxy);
            let (called, target) = (member.name.clone(), member.peers);
            tasks.spawn(accept(listener, called, target, state.subscribe(), Arc::clone(&pids)));
        }
        for member in &mut group.members {
            for seed in &mut member.plan.seeds {
                *seed = moved.iter().find(|(direct, _)| direct == seed).map_or(*seed, |(_, proxy)| *proxy);
            }
            member.write_config();
        }
        Self { state, pids, _tasks: tasks }
    }

    /// Learns which processes the members are; to be called after each start.
    pub fn learn(&self, group: &Group) {
        let found = group.members.iter().filter_map(|member| Some((member.pid()?, member.name.clone())));
        *self.pids.lock().unwrap() = found.collect();
    }

    /// Separates these members from all others.
    pub fn cut(&self, cut: Cut, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.state.send_replace(Some((cut, names)));
    }

    pub fn heal(&self) {
        self.state.send_replace(None);
    }
}

async fn accept(
    listener: TcpListener,
    called: String,
    target: SocketAddr,
    state: watch::Receiver<State>,
    pids: Arc<Mutex<Vec<(u32, String)>>>,
) {
    // Connections end with the listener's task.
    let mut connections = JoinSet::new();
    loop {
        let (stream, from) = listener.accept().await.unwrap();
        let known = pids.lock().unwrap().clone();
        let caller = known.iter().find(|(pid, _)| owns(*pid, from, listener.local_addr().unwrap()));
        let pair = (caller.map(|(_, name)| name.clone()).unwrap_or_default(), called.clone());
        connections.spawn(carry(stream, target, pair, state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Whether a process has the socket of this connection, as its caller.
fn owns(pid: u32, local: SocketAddr, remote: SocketAddr) -> bool {
    // Addresses are written as the bytes of the machine's order.
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let inode = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&&hex(local)[..]) && fields.get(2) == Some(&&hex(remote)[..]))
            .then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    });
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    inode.is_some_and(|inode| links.any(|link| link.as_os_str() == &inode[..]))
}

/// What a cut does to a pair of members.
fn effect(state: &State, pair: &(String, String)) -> Option<Cut> {
    let (cut, names) = state.as_ref()?;
    (names.contains(&pair.0) != names.contains(&pair.1)).then_some(*cut)
}

/// Whether what the first of a pair sends to the second passes.
fn passes(state: &State, pair: &(String, String)) -> bool {
    match effect(state, pair) {
        None => true,
        Some(Cut::Loud | Cut::Silent) => false,
        // What becomes of it is another question.
        Some(Cut::Swallow) => true,
        Some(Cut::OneWay) => state.as_ref().is_some_and(|(_, names)| !names.contains(&pair.0)),
    }
}

async fn carry(
    caller: TcpStream,
    target: SocketAddr,
    pair: (String, String),
    mut state: watch::Receiver<State>,
) {
    let waits =
        |state: &State| matches!(effect(state, &pair), Some(Cut::Silent | Cut::OneWay | Cut::Swallow));
    // Connecting takes both directions.
    if state.wait_for(|state| !waits(state)).await.is_err() || effect(&state.borrow(), &pair).is_some() {
        return;
    }
    let Ok(called) = TcpStream::connect(target).await else { return };
    let (caller_read, caller_write) = caller.into_split();
    let (called_read, called_write) = called.into_split();
    let loud = async {
        // The sender lives as long as the test.
        let _ = state.clone().wait_for(|state| effect(state, &pair) == Some(Cut::Loud)).await;
    };
    let back = (pair.1.clone(), pair.0.clone());
    tokio::select! {
        () = loud => {}
        () = async {
            tokio::join!(
                pump(caller_read, called_write, &pair, state.clone()),
                pump(called_read, caller_write, &back, state.clone()),
            );
        } => {}
    }
}

/// Carries bytes from the first of a pair to the second, and holds them while they don't pass.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pair: &(String, String),
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut lost = false;
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if state.wait_for(|state| passes(state, pair)).await.is_err() || read == 0 {
            return;
        }
        let swallows = effect(&state.borrow(), pair) == Some(Cut::Swallow);
        lost |= swallows;
        if lost && !swallows || !lost && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
