//! Floor 2: one member's replication, as one state machine. Events in, effects out.
//!
//! The engine owns the member's records and all decisions about them, and no file, socket or
//! clock. Whoever drives it (the data thread, the simulator) calls an event's method for
//! everything that happens, and once a turn carries out the [`Lanes`]:
//!
//! 1. [`Engine::advance`] with the time, then the events of the turn;
//! 2. [`Engine::end_turn`];
//! 3. append `lanes.journal` to the journal in one write, then [`Engine::written`];
//! 4. for every peer [`Engine::take_frame`], sealed and sent;
//! 5. `lanes.completions` to whoever waits, `lanes.loads` and `lanes.checkpoint` to the storage.
//!
//! Invariants: nothing is answered before it is true (a reply waits for its position in the own
//! journal and in the links of other owners); no own stamp leaves before a durable reservation
//! covers it; every record in the table is in the journal or in redb.

mod anti_entropy;
mod bounds;
mod catching_up;
mod cells;
mod checkpoint;
mod classes;
mod clocks;
pub mod collections;
mod convergence;
mod copying;
mod counters;
mod durable;
mod followers;
mod foreign;
mod handoff;
mod hints;
mod housekeeping;
mod inbox;
pub mod journal;
mod loads;
mod membership;
mod mending;
mod modify;
pub mod operation;
mod order;
mod pages;
mod peer;
mod pending;
mod quiet;
mod read;
mod rebuilding;
mod reclaim;
mod records;
mod recovery;
mod remembered;
mod replicate;
mod requests;
mod scan;
mod scrub;
mod settling;
mod sorting;
mod table;
pub mod watch;
mod write;

pub use bounds::Bounds;
pub use checkpoint::{Batch, CheckpointStep, Replaced};
pub use convergence::{PeerConvergence, Superseded, Tombstones};
pub use counters::Counters;
pub use handoff::LEFT;
pub use loads::Loaded;
pub use membership::NOBODY;
pub use pages::{Name, PageFilter, PageFound, PageWanted};
pub use read::Local;
pub use remembered::Shortfall;
pub use scrub::ScrubRound;

use crate::model::clock::Clock;
use crate::model::placement::Placement;
use crate::model::roster::Roster;
use crate::model::rotation::Rotations;
use crate::model::settings::Settings;
use crate::model::settings::log::Applied;
use crate::model::token::Tokens;
use crate::model::{KeyHash, KeyRange, MemberId, Now};
use hints::Hints;
use operation::Completion;
use peer::Peer;
use records::Records;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Microseconds between two calls of [`Engine::tick`].
pub const TICK_US: u64 = 50_000;

/// Who this member is in this life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Derived from the public key.
    pub member: MemberId,
    /// How often it was started.
    pub incarnation: u64,
    /// Drawn at random at this start.
    pub life: u64,
}

/// Positions in this life's journal, in bytes that were put into [`Lanes::journal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    /// Written: survives a killed process.
    pub written: u64,
    /// Fsynced: survives a power cut.
    pub synced: u64,
}

/// What the engine wants done. Whoever drives it takes the contents and leaves the lanes empty.
#[derive(Debug, Default)]
pub struct Lanes {
    /// To be appended to the journal in one write, then [`Engine::written`].
    pub journal: Vec<u8>,
    /// The journal must begin a new segment before `journal` is appended.
    pub rotate: bool,
    /// An fsync is wanted at once, whatever the sync interval.
    pub sync: bool,
    /// Answers.
    pub completions: Vec<Completion>,
    /// Keys to be loaded from redb; each is answered by [`Engine::loaded`].
    pub loads: Vec<Load>,
    /// Ranges to be loaded from redb; each is answered by [`Engine::range_loaded`] or [`Engine::range_failed`].
    pub ranges: Vec<Range>,
    /// Pages of records to be loaded from redb; each is answered by [`Engine::page_loaded`].
    pub pages: Vec<PageWanted>,
    /// The next step of a checkpoint.
    pub checkpoint: Option<CheckpointStep>,
    /// Links that must be closed, and why.
    pub close: Vec<(MemberId, &'static str)>,
    /// Roster, settings or a step of changing the secret changed: gossip and the node want to know.
    pub membership_changed: bool,
}

/// A key to be loaded from redb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The hash of the key.
    pub hash: KeyHash,
    /// The collection.
    pub collection: String,
    /// The key.
    pub key: Vec<u8>,
}

/// A range of keys to be loaded from redb, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Names the range in the answer.
    pub id: u64,
    /// The collection.
    pub collection: String,
    /// Which of its keys.
    pub keys: KeyRange,
    /// From the last key to the first.
    pub reverse: bool,
    /// Without values.
    pub keys_only: bool,
    /// Records at most.
    pub limit: usize,
}

/// Why no write is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// It belongs to no cluster.
    NoCluster,
    /// It starts or joins: peers are served, clients are not.
    Starting,
    /// It serves.
    Serving,
    /// It finishes what it has begun.
    Stopping,
    /// It is in its cluster no more: nobody is served, and only what it holds can be listed.
    Gone(operation::Gone),
}

/// One member's replication.
#[derive(Debug)]
pub struct Engine {
    identity: Identity,
    bounds: Bounds,
    now: Now,
    /// The time of day that stamps and expiry go by: the own wall clock, unless it is wrong.
    wall_ms: u64,
    mode: Mode,
    storage_problem: Option<String>,
    clock: Clock,
    may_stamp: bool,
    /// It hands over what it holds, and others stamp.
    is_leaving: bool,
    clocks: clocks::Clocks,
    /// Nothing is stamped for clients before this time in microseconds.
    rests_until_us: u64,
    /// Since when this member, just started, takes what it missed, in microseconds.
    catching_up_since_us: Option<u64>,
    /// When the peers are told the digest of the system records again, in microseconds.
    compare_system_us: u64,
    reservations: VecDeque<(u64, u64)>,
    settings: Settings,
    applied: Applied,
    roster: Roster,
    /// See [`Engine::distrust_roster`].
    roster_distrusted: bool,
    placement: Placement,
    lives: remembered::Lives,
    /// Where in the journal all that the placement rests on ends.
    placement_position: u64,
    /// The peers are to be told what this member is complete for once the placement is durable.
    untold: bool,
    system_changed: bool,
    tokens: std::sync::Arc<Tokens>,
    tokens_changed: bool,
    rotations: std::sync::Arc<Rotations>,
    secrets_changed: bool,
    complete: Vec<bool>,
    /// What the journal told that this member is complete for of classes, before they are known.
    complete_of: BTreeMap<String, Vec<u8>>,
    /// The same, until the journal tells that it holds.
    complete_next: BTreeMap<String, Vec<u8>>,
    copying: copying::Copies,
    anti_entropy: anti_entropy::AntiEntropy,
    foreign: foreign::Foreign,
    quiet: quiet::Quiet,
    rebuilding: rebuilding::Rebuilding,
    reclaim: reclaim::State,
    convergence: convergence::Convergence,
    /// No other attempt to turn active before this time in microseconds.
    activation_after_us: u64,
    /// No other attempt to take a step before this time in microseconds.
    step_after_us: u64,
    records: Records,
    hints: Hints,
    settling: settling::Settling,
    peers: Vec<Peer>,
    /// Peers whose links speak a protocol without classes.
    old_peers: BTreeSet<MemberId>,
    peer_index: BTreeMap<MemberId, usize>,
    writes: VecDeque<pending::Pending>,
    progress: bool,
    /// Answers with own stamps that no durable reservation covers yet.
    held: Vec<Completion>,
    requests: requests::Requests,
    waits: durable::Waits,
    loads: loads::Loads,
    pages: pages::Pages,
    scrub: scrub::Scrub,
    mending: mending::Mending,
    sorting: sorting::Sorting,
    ranges: scan::Ranges,
    checkpoint: checkpoint::State,
    inbox: inbox::Inbox,
    watches: watch::Watches,
    expiry_hand: u32,
    taken: u64,
    positions: Positions,
    counters: Counters,
    /// What is to be done after this turn.
    pub lanes: Lanes,
}

impl Engine {
    /// An engine without records, that belongs to no cluster. `reserved` is the highest clock
    /// reservation found in storage; 0 in a new data directory.
    #[must_use]
    pub fn new(identity: Identity, bounds: Bounds, partition_bits: u8) -> Self {
        let (roster, settings) = (Roster::default(), Settings::default());
        let placement = Placement::compute(partition_bits, &roster, &settings);
        Self {
            identity,
            bounds,
            now: Now::default(),
            wall_ms: 0,
            mode: Mode::NoCluster,
            storage_problem: None,
            clock: Clock::after_reservation(identity.member, 0),
            may_stamp: true,
            is_leaving: false,
            clocks: clocks::Clocks::default(),
            rests_until_us: 0,
            catching_up_since_us: None,
            compare_system_us: 0,
            reservations: VecDeque::new(),
            settings,
            applied: Applied::default(),
            roster,
            roster_distrusted: false,
            complete: vec![false; placement.partitions()],
            complete_of: BTreeMap::new(),
            complete_next: BTreeMap::new(),
            placement,
            lives: remembered::Lives::default(),
            placement_position: 0,
            untold: false,
            system_changed: false,
            tokens: std::sync::Arc::default(),
            tokens_changed: false,
            rotations: std::sync::Arc::default(),
            secrets_changed: false,
            copying: copying::Copies::default(),
            anti_entropy: anti_entropy::AntiEntropy::default(),
            foreign: foreign::Foreign::default(),
            quiet: quiet::Quiet::default(),
            rebuilding: rebuilding::Rebuilding::default(),
            reclaim: reclaim::State::default(),
            convergence: convergence::Convergence::default(),
            activation_after_us: 0,
            step_after_us: 0,
            records: Records::new(partition_bits),
            hints: Hints::default(),
            settling: settling::Settling::default(),
            peers: Vec::new(),
            old_peers: BTreeSet::new(),
            peer_index: BTreeMap::new(),
            writes: VecDeque::new(),
            progress: false,
            held: Vec::new(),
            requests: requests::Requests::default(),
            waits: durable::Waits::default(),
            loads: loads::Loads::default(),
            pages: pages::Pages::default(),
            scrub: scrub::Scrub::default(),
            mending: mending::Mending::default(),
            sorting: sorting::Sorting::default(),
            ranges: scan::Ranges::default(),
            checkpoint: checkpoint::State::default(),
            inbox: inbox::Inbox::default(),
            watches: watch::Watches::default(),
            expiry_hand: 0,
            taken: 0,
            positions: Positions::default(),
            counters: Counters::default(),
            lanes: Lanes::default(),
        }
    }

    /// Tells the time. Called at least once at the beginning of each turn.
    pub fn advance(&mut self, now: Now) {
        self.now = Now { mono_us: now.mono_us.max(self.now.mono_us), wall_ms: now.wall_ms };
        self.watch_clock();
        self.wall_ms = self.wall_to_act_by();
    }

    /// Ends a turn's events: decides what became true, and completes the lanes.
    pub fn end_turn(&mut self) {
        self.take_writes();
        self.refresh_placement();
        self.refresh_tokens();
        self.refresh_rotations();
        self.step_checkpoint();
        self.step_sorting();
        self.step_comparing();
        self.seek_sources();
        self.tell_changes();
        self.settle_writes();
    }

    /// Whether something can be done at once, without any other event.
    #[must_use]
    pub fn wants_turn(&self) -> bool {
        self.wants_checkpoint_step() || self.wants_compare_step() || self.wants_sorting()
    }

    /// The beginning of `lanes.journal`, up to the end of an entry, in at most `most` bytes: all of it
    /// if it is no longer than that. For journals that take so much in one write; then
    /// [`Engine::appended`].
    #[must_use]
    pub fn next_append(&self, most: usize) -> &[u8] {
        let lane = &self.lanes.journal[..];
        if lane.len() <= most { lane } else { lane.get(..journal::whole_entries(lane, most)).unwrap_or(lane) }
    }

    /// `lanes.journal` was appended to the journal with one write, whole.
    pub fn written(&mut self) {
        self.appended(self.lanes.journal.len());
    }

    /// The first `bytes` of `lanes.journal` were appended to the journal with one write.
    pub fn appended(&mut self, bytes: usize) {
        let bytes = bytes.min(self.lanes.journal.len());
        self.taken += bytes as u64;
        self.lanes.journal.drain(..bytes);
        self.positions.written = self.taken;
        self.progress = true;
        self.settle_writes();
    }

    /// The journal is fsynced up to `position`, counted in bytes of `lanes.journal` in this life.
    pub fn synced(&mut self, position: u64) {
        self.positions.synced = self.positions.synced.max(position.min(self.positions.written));
        while let Some((_, time)) = self.reservations.front().filter(|(at, _)| *at <= self.positions.synced) {
            self.clock.reservation_synced(*time);
            self.reservations.pop_front();
        }
        for completion in std::mem::take(&mut self.held) {
            self.show(completion);
        }
        self.release_replies();
        self.step_waits();
        if self.untold && self.positions.synced >= self.placement_position {
            self.tell_complete(None);
        }
        self.progress = true;
        self.settle_writes();
    }

    /// Bytes of journal that the disk does not have yet.
    #[must_use]
    pub const fn unsynced_bytes(&self) -> u64 {
        self.end().saturating_sub(self.positions.synced)
    }

    /// Whether so much waits for the disk that fronts should stop reading from their clients.
    #[must_use]
    pub const fn is_congested(&self) -> bool {
        self.unsynced_bytes() > self.bounds.unsynced_bytes
    }

    /// The bounds of this member.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The storage takes no writes, or takes them again (`None`).
    pub fn set_storage_problem(&mut self, problem: Option<String>) {
        self.storage_problem = problem;
    }

    /// Why the storage takes no writes.
    #[must_use]
    pub fn storage_problem(&self) -> Option<&str> {
        self.storage_problem.as_deref()
    }

    /// Sets whether clients are served.
    pub fn set_mode(&mut self, mode: Mode) {
        self.take_writes();
        self.mode = mode;
        self.end_feeds();
    }

    /// Whether clients are served.
    #[must_use]
    pub const fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Who this member is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// What the journal has.
    #[must_use]
    pub const fn positions(&self) -> Positions {
        self.positions
    }

    /// The hybrid clock's time.
    #[must_use]
    pub const fn clock_time(&self) -> u64 {
        self.clock.time()
    }

    /// The latest time that was told.
    #[must_use]
    pub const fn now(&self) -> Now {
        self.now
    }

    /// Whether nothing that was begun waits for anything: a member that stops may go.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty()
            && self.requests.is_empty()
            && self.loads.is_empty()
            && self.held.is_empty()
            && self.lanes.journal.is_empty()
    }

    /// The end of the journal, counting what waits in the lane.
    const fn end(&self) -> u64 {
        self.taken + self.lanes.journal.len() as u64
    }

    /// The peer of an id; made when it is new.
    fn peer_at(&mut self, member: MemberId) -> usize {
        if let Some(at) = self.peer_index.get(&member) {
            return *at;
        }
        self.peers.push(Peer::new(member));
        let at = self.peers.len() - 1;
        self.peer_index.insert(member, at);
        at
    }

    fn peer(&self, member: MemberId) -> Option<&Peer> {
        self.peer_index.get(&member).and_then(|at| self.peers.get(*at))
    }

    fn peer_mut(&mut self, member: MemberId) -> Option<&mut Peer> {
        self.peer_index.get(&member).and_then(|at| self.peers.get_mut(*at))
    }
}
