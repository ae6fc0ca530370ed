//! The network: links that carry frames in order, until they break.
//!
//! As over TCP, what is lost breaks its link; what was on its way at that moment arrives up to some
//! point in time and not after it, perhaps after its end has a newer link already. Cuts stall what
//! is on its way, and a link that is stalled for long is given up by both ends.

use crate::member::Input;
use crate::plan::{Fault, MS, SECOND};
use crate::world::{Event, World, mark};
use kith::engine::Mode;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A link that is up, as far as the network knows.
#[derive(Debug)]
struct Link {
    id: u64,
    /// When the last frame arrives, by the sender's place in the pair.
    busy_until: [u64; 2],
    stalled: [VecDeque<Vec<u8>>; 2],
    since: u64,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<(usize, usize), Link>,
    /// Links that broke: when frames on their way stop to arrive, by sender's place.
    broken: BTreeMap<u64, [u64; 2]>,
    cuts: BTreeSet<(usize, usize)>,
    last_link: u64,
    /// Frames take up to that long until that moment.
    slow: (u64, u64),
    members: usize,
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

impl Network {
    pub fn new(members: usize) -> Self {
        Self {
            links: BTreeMap::new(),
            broken: BTreeMap::new(),
            cuts: BTreeSet::new(),
            last_link: 0,
            slow: (0, 0),
            members,
        }
    }

    /// Whether a link is known to be gone.
    fn is_broken(&self, link: u64) -> bool {
        self.broken.contains_key(&link)
    }

    pub fn is_linked(&self, one: usize, other: usize) -> bool {
        self.links.contains_key(&pair(one, other))
    }

    /// Whether nothing passes from one member to another.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }
}

impl World {
    /// Sends a frame on a link; a link that is gone swallows it.
    pub fn send(&mut self, from: usize, to: usize, link: u64, bytes: Vec<u8>) {
        let lost = self.plan.loss > 0 && self.troubled && self.random.chance(self.plan.loss);
        let usual = self.plan.delay;
        let mut delay = if self.troubled { self.random.delay(usual) } else { self.random.calm_delay(usual) };
        if self.now < self.network.slow.1 {
            let slow = self.network.slow.0;
            delay += self.random.below(slow);
        }
        let side = usize::from(from > to);
        let is_cut = self.network.is_cut(from, to);
        let Some(present) = self.network.links.get_mut(&pair(from, to)).filter(|known| known.id == link)
        else {
            return;
        };
        if lost {
            return self.break_link(from, to);
        }
        if is_cut || !present.stalled[side].is_empty() {
            if present.stalled[side].is_empty() {
                let patience = 3 * SECOND;
                present.stalled[side].push_back(bytes);
                return self.schedule(patience, Event::Stalled { link, one: from, other: to });
            }
            present.stalled[side].push_back(bytes);
            return;
        }
        let at = (self.now + delay).max(present.busy_until[side] + 1);
        present.busy_until[side] = at;
        let after = at - self.now;
        self.schedule(after, Event::Arrival { link, from, to, bytes });
    }

    pub fn arrive(&mut self, link: u64, from: usize, to: usize, bytes: Vec<u8>) {
        let side = usize::from(from > to);
        if let Some(until) = self.network.broken.get(&link)
            && self.now > until[side]
        {
            return;
        }
        self.note("frame", &[link, from as u64, to as u64, mark(&bytes)], || {
            format!("{from}→{to} link {link} {} bytes", bytes.len())
        });
        let epoch = self.members[to].epoch;
        self.give(to, epoch, Input::Frame { from, link, bytes });
    }

    /// Whether a link is known to be gone.
    pub fn is_broken(&self, link: u64) -> bool {
        self.network.is_broken(link)
    }

    /// Two members connect if they can, else they try again later.
    pub fn connect(&mut self, one: usize, other: usize) {
        if one == other
            || self.network.is_linked(one, other)
            || self.members[one].id == self.members[other].id
        {
            return;
        }
        let can = self.members[one].can_talk(self.now) && self.members[other].can_talk(self.now);
        let cut = self.network.is_cut(one, other) || self.network.is_cut(other, one);
        if !can || cut {
            let after = self.random.between(200, 1_500) * MS;
            return self.schedule(after, Event::Connect { one, other });
        }
        if self.plan.knows(Fault::Removal) && self.is_fenced(one, other) {
            let after = SECOND;
            return self.schedule(after, Event::Connect { one, other });
        }
        self.establish(one, other);
    }

    fn establish(&mut self, one: usize, other: usize) {
        self.network.last_link += 1;
        let id = self.network.last_link;
        let delays = [self.random.delay(self.plan.delay), self.random.delay(self.plan.delay)];
        let place = pair(one, other);
        let (low, high) = place;
        // What one end sends can't arrive before the other end knows the link.
        let busy_until = [self.now + delays[1], self.now + delays[0]];
        let stalled = [VecDeque::new(), VecDeque::new()];
        self.network.links.insert(place, Link { id, busy_until, stalled, since: self.now });
        self.note("link", &[id, low as u64, high as u64], || format!("{id} between {low} and {high}"));
        for (at, (member, peer)) in [(low, high), (high, low)].into_iter().enumerate() {
            let epoch = self.members[member].epoch;
            let life = self.members[peer].life();
            let input = Input::LinkUp { peer, link: id, life };
            self.schedule(delays[at], Event::Input { member, epoch, input });
        }
    }

    /// Breaks the link between two members. Each end notices in its own time.
    pub fn break_link(&mut self, one: usize, other: usize) {
        let Some(link) = self.network.links.remove(&pair(one, other)) else { return };
        let until = [0, 1].map(|_| self.now + self.random.delay(self.plan.delay));
        self.network.broken.insert(link.id, until);
        self.note("break", &[link.id], || format!("{} between {one} and {other}", link.id));
        for (member, peer) in [(one, other), (other, one)] {
            let after = if self.random.chance(200) {
                self.random.below(3 * SECOND)
            } else {
                self.random.below(5 * MS)
            };
            let epoch = self.members[member].epoch;
            let input = Input::LinkDown { peer, link: link.id };
            self.schedule(after, Event::Input { member, epoch, input });
        }
        let after = self.random.between(10, 1_000) * MS;
        self.schedule(after, Event::Connect { one, other });
    }

    /// A link that stood still from cut to now is given up.
    pub fn give_up_stalled(&mut self, link: u64, one: usize, other: usize) {
        let known = self.network.links.get(&pair(one, other)).filter(|known| known.id == link);
        let still = known.is_some_and(|known| known.stalled.iter().any(|queue| !queue.is_empty()));
        if still {
            self.break_link(one, other);
        }
    }

    /// Both ends find a new link while they think that the old one is up.
    pub fn replace_link(&mut self, one: usize, other: usize) {
        let cut = self.network.is_cut(one, other) || self.network.is_cut(other, one);
        if cut || !self.members[one].can_talk(self.now) || !self.members[other].can_talk(self.now) {
            return;
        }
        if let Some(old) = self.network.links.remove(&pair(one, other)) {
            let until = [0, 1].map(|_| self.now + self.random.delay(self.plan.delay));
            self.network.broken.insert(old.id, until);
            self.establish(one, other);
        }
    }

    /// Nothing passes from one member to another for a while.
    pub fn cut(&mut self, from: usize, to: usize, time: u64) {
        if from != to && self.network.cuts.insert((from, to)) {
            self.note("cut", &[from as u64, to as u64, time], || format!("{from}→{to} for {} ms", time / MS));
            self.schedule(time, Event::Heal { from, to });
        }
    }

    pub fn heal(&mut self, from: usize, to: usize) {
        if !self.network.cuts.remove(&(from, to)) {
            return;
        }
        self.note("heal", &[from as u64, to as u64], || format!("{from}→{to}"));
        let side = usize::from(from > to);
        let Some(link) = self.network.links.get_mut(&pair(from, to)) else { return };
        let (id, waiting) = (link.id, std::mem::take(&mut link.stalled[side]));
        for bytes in waiting {
            self.send(from, to, id, bytes);
        }
    }

    /// All cuts end, and delays are usual again.
    pub fn heal_all(&mut self) {
        self.network.slow = (0, 0);
        for (from, to) in self.network.cuts.clone() {
            self.heal(from, to);
        }
    }

    /// A fault of the network.
    pub fn network_fault(&mut self, fault: Fault) {
        let count = self.network.members;
        let (one, other) = (self.random.index(count), self.random.index(count));
        match fault {
            Fault::Reset => self.break_link(one, other),
            Fault::Duplicate => self.replace_link(one, other),
            Fault::OneWay => {
                let time = self.random.duration(2 * SECOND);
                self.cut(one, other, time);
            }
            Fault::Flap => {
                let time = self.random.below(100 * MS);
                self.cut(one, other, time);
                self.cut(other, one, time);
                let after = self.random.below(200 * MS);
                if self.random.chance(800) {
                    self.schedule(after, Event::Connect { one, other });
                }
            }
            Fault::Cut => {
                let groups: Vec<bool> = (0..count).map(|_| self.random.chance(400)).collect();
                let time = self.random.between(1, 10) * SECOND;
                for (from, first) in groups.iter().enumerate() {
                    for (to, second) in groups.iter().enumerate() {
                        if first != second {
                            self.cut(from, to, time);
                        }
                    }
                }
            }
            Fault::Slow => {
                let until = self.now + self.random.between(1, 5) * SECOND;
                self.network.slow = (self.random.between(10, 3_000) * MS, until);
            }
            _ => self.hostile(one, other),
        }
    }

    /// Bytes that no member made arrive on a link, which must then be closed.
    fn hostile(&mut self, from: usize, to: usize) {
        let Some(link) = self.network.links.get(&pair(from, to)).map(|link| link.id) else { return };
        let length = self.random.index(200);
        let mut bytes: Vec<u8> =
            (0..length).map(|_| u8::try_from(self.random.below(256)).unwrap_or(0)).collect();
        if self.random.chance(700) && length > 41 {
            // A frame's beginning that looks right, with confirmations of what was never sent.
            bytes[0] = 1;
            bytes[25..41].fill(0x77);
        }
        self.note("hostile", &[link], || format!("{from}→{to} link {link} {length} bytes"));
        let epoch = self.members[to].epoch;
        self.give(to, epoch, Input::Frame { from, link, bytes });
        self.give(to, epoch, Input::LinkDown { peer: from, link });
        self.break_link(from, to);
    }

    /// Tells every member who lives: truly, unless lies are among this world's faults.
    pub fn tell_liveness(&mut self) {
        self.note_fenced();
        let lies = self.troubled && self.plan.knows(Fault::Liveness);
        for member in 0..self.network.members {
            if !self.members[member].can_talk(self.now) {
                continue;
            }
            for peer in 0..self.network.members {
                let is_shadow = self.members[peer].lost && self.has_twin(peer);
                if peer == member || self.members[peer].engine_is_new() || is_shadow {
                    continue;
                }
                if self.has_twin(peer) && !self.network.is_linked(member, peer) {
                    continue;
                }
                let heard = self.members[peer].can_talk(self.now)
                    && self.network.links.get(&pair(member, peer)).is_some_and(|link| {
                        link.stalled[usize::from(peer > member)].is_empty() && link.since <= self.now
                    });
                let silent = self.members[member].note_heard(peer, heard, self.now);
                let mut alive = silent < 3 * SECOND;
                if lies && self.random.chance(100) {
                    alive = self.random.chance(500);
                }
                let epoch = self.members[member].epoch;
                let known = self.members[member].believes_dead(peer, &self.members);
                if known == Some(alive) || known.is_none() && !alive {
                    self.give(member, epoch, Input::Liveness { peer, alive });
                }
            }
        }
        self.schedule(SECOND / 2, Event::Liveness);
    }

    /// Whether a member is up and serves.
    pub fn serves(&self, member: usize) -> bool {
        self.members[member].engine().is_some_and(|engine| *engine.mode() == Mode::Serving)
    }
}
