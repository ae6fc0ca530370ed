//! Many engines in one thread: frames arrive after a moment, disks are at once, and time is counted.
//!
//! What travels is counted as the engines give it: before sealing, and without gossip.

use super::load::scramble;
use super::roster::{PARTITION_BITS, first_records};
use anyhow::{Context, Result, bail};
use kith::engine::{Bounds, Engine, Identity, Mode, TICK_US};
use kith::model::roster::RosterEntry;
use kith::model::{MemberId, Now};
use kith::protocol::frame::Frame;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What happens within this time happens in one turn.
const STEP_US: u64 = 500;
/// Steps that a frame takes: so many at least, and twice as many at most.
const TRAVEL_STEPS: u64 = 1;
/// Members link one after the other, this far apart.
const LINK_EVERY_US: u64 = 5_000;
/// When time begins.
const BEGIN_US: u64 = 1_000_000;
const EPOCH_MS: u64 = 1_800_000_000_000;
/// No checkpoint begins.
const BOUNDS: Bounds = Bounds {
    table_bytes: 1 << 30,
    journal_bytes: u64::MAX,
    journal_most_bytes: u64::MAX,
    unsynced_bytes: 64 << 20,
    lifts: 64,
};

/// What travelled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub bytes: u64,
    pub frames: u64,
    pub messages: u64,
}

impl Traffic {
    /// What travelled since an earlier moment.
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes - earlier.bytes,
            frames: self.frames - earlier.frames,
            messages: self.messages - earlier.messages,
        }
    }
}

/// A frame on its way.
struct Sent {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

/// One member.
struct Place {
    id: MemberId,
    engine: Engine,
    tick_us: u64,
    inbox: Vec<Sent>,
    /// It said that it wants another turn.
    wants_turn: bool,
}

/// The engines, and what is between them.
pub struct Cluster {
    ids: Rc<[MemberId]>,
    places: Vec<Place>,
    now_us: u64,
    on_the_way: BTreeMap<u64, Vec<Sent>>,
    /// When the last frame of each link arrives, by sender and receiver.
    busy_until: Vec<u64>,
    random: u64,
    traffic: Traffic,
}

impl Cluster {
    /// A cluster that all members belong to, without links.
    pub fn new(entries: &[RosterEntry]) -> Result<Self> {
        let mut places = Vec::new();
        let mut system = Vec::new();
        for (at, entry) in (0u64..).zip(entries) {
            let who = Identity { member: entry.id(), incarnation: 1, life: scramble(at) };
            let mut engine = Engine::new(who, BOUNDS, PARTITION_BITS);
            engine.advance(now(BEGIN_US));
            if at == 0 {
                engine.create(&first_records(entries));
                system = engine.system_records();
            } else {
                engine.welcome(&system);
            }
            engine.set_mode(Mode::Starting);
            let tick_us = BEGIN_US + at * TICK_US / entries.len() as u64;
            places.push(Place { id: entry.id(), engine, tick_us, inbox: Vec::new(), wants_turn: true });
        }
        let busy_until = vec![0; places.len() * places.len()];
        Ok(Self {
            ids: places.iter().map(|place| place.id).collect(),
            places,
            now_us: BEGIN_US,
            on_the_way: BTreeMap::new(),
            busy_until,
            random: 0,
            traffic: Traffic::default(),
        })
    }

    /// Links all members, one after the other; returns when all serve.
    pub fn link(&mut self) -> Result<()> {
        for one in 1..self.places.len() {
            for other in 0..one {
                let link = 1 + (one * self.places.len() + other) as u64;
                self.link_end(one, other, link)?;
                self.link_end(other, one, link)?;
            }
            self.run(LINK_EVERY_US)?;
        }
        for _ in 0..600 {
            if self.places.iter().all(|place| *place.engine.mode() == Mode::Serving) {
                return Ok(());
            }
            self.run(TICK_US)?;
        }
        bail!("not all engines serve after half a minute")
    }

    fn link_end(&mut self, at: usize, peer: usize, link: u64) -> Result<()> {
        let peer = self.places.get(peer).map(|peer| peer.engine.identity()).context("no such member")?;
        let place = self.places.get_mut(at).context("no such member")?;
        place.engine.advance(now(self.now_us));
        if place.engine.check_life(peer.member, peer.incarnation, peer.life).is_err() {
            bail!("a member was taken for a copy");
        }
        place.engine.link_up(peer.member, link);
        place.wants_turn = true;
        Ok(())
    }

    /// Lets the time pass.
    pub fn run(&mut self, time_us: u64) -> Result<()> {
        let end = self.now_us + time_us;
        while self.now_us < end {
            self.step()?;
        }
        Ok(())
    }

    /// Lets the time pass until all engines are as wanted; gives the time that it took.
    pub fn run_until(&mut self, wanted: impl Fn(&Engine) -> bool, most_us: u64) -> Result<u64> {
        let began = self.now_us;
        while !self.places.iter().all(|place| wanted(&place.engine)) {
            if self.now_us > began + most_us {
                bail!("the engines did not come to what was waited for");
            }
            self.step()?;
        }
        Ok(self.now_us - began)
    }

    fn step(&mut self) -> Result<()> {
        self.now_us += STEP_US;
        while let Some(arriving) = self.on_the_way.first_entry().filter(|entry| *entry.key() <= self.now_us) {
            for sent in arriving.remove() {
                let place = self.places.get_mut(sent.to).context("no such member")?;
                place.inbox.push(sent);
            }
        }
        for at in 0..self.places.len() {
            self.turn(at)?;
        }
        Ok(())
    }

    /// One turn of a member's loop, if there is anything to be done.
    fn turn(&mut self, at: usize) -> Result<()> {
        let Self { ids, places, now_us, .. } = self;
        let place = places.get_mut(at).context("no such member")?;
        let is_due = place.tick_us <= *now_us;
        if place.inbox.is_empty() && !is_due && !place.wants_turn {
            return Ok(());
        }
        let engine = &mut place.engine;
        engine.advance(now(*now_us));
        for sent in place.inbox.drain(..) {
            let peer = ids.get(sent.from).copied().context("no such member")?;
            let link = 1 + (sent.from.max(at) * ids.len() + sent.from.min(at)) as u64;
            engine.frame(peer, link, &sent.bytes).context("an engine refuses a frame")?;
        }
        if is_due {
            place.tick_us += TICK_US;
            if *engine.mode() == Mode::Starting && engine.is_complete() && !engine.is_catching_up() {
                engine.set_mode(Mode::Serving);
            }
            engine.tick();
        }
        engine.end_turn();
        engine.written();
        engine.synced(engine.positions().written);
        engine.lanes.completions.clear();
        engine.lanes.sync = false;
        place.wants_turn = engine.wants_turn();
        if !engine.lanes.close.is_empty() {
            bail!("an engine wants a link closed: {:?}", engine.lanes.close);
        }
        self.send(at)
    }

    /// Takes the frames that are due, and lets each arrive after those before it on its link.
    fn send(&mut self, at: usize) -> Result<()> {
        let ids = Rc::clone(&self.ids);
        let place = self.places.get_mut(at).context("no such member")?;
        for (to, id) in ids.iter().enumerate().filter(|(to, _)| *to != at) {
            let mut bytes = Vec::new();
            if !place.engine.take_frame(*id, &mut bytes) {
                continue;
            }
            self.traffic.frames += 1;
            self.traffic.bytes += bytes.len() as u64;
            self.traffic.messages += Frame::parse(&bytes)?.messages().count() as u64;
            self.random += 1;
            let travel = TRAVEL_STEPS + scramble(self.random) % (1 + TRAVEL_STEPS);
            let busy = self.busy_until.get_mut(at * ids.len() + to).context("no such link")?;
            *busy = (*busy).max(self.now_us + travel * STEP_US);
            self.on_the_way.entry(*busy).or_default().push(Sent { from: at, to, bytes });
        }
        Ok(())
    }

    /// The first member changes the roster.
    pub fn write_entry(&mut self, entry: &RosterEntry) -> Result<()> {
        let first = self.places.first_mut().context("there are members")?;
        first.engine.advance(now(self.now_us));
        first.engine.write_roster_entry(entry.id(), entry);
        first.wants_turn = true;
        Ok(())
    }

    /// What travelled so far, of all members together.
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }
}

const fn now(us: u64) -> Now {
    Now { wall_ms: EPOCH_MS + us / 1_000, mono_us: us }
}
