//! A small cluster's state, and every step that it may take next.
//!
//! Links carry at most one record in each direction, and one more in frames of an old link that the
//! receiver has not read yet. What members ask each other (confirm, grace, settle, drop) is done in
//! one step at the member that is asked, on no link: that is less than FIFO order promises.

use super::records::{Pairs, Rec, merge};

/// Most members of a cluster here.
pub const MEMBERS: usize = 4;
/// The stamp of the tombstone that is reclaimed, and that of a client's SET or DELETE after it.
pub const T: u8 = 5;
const LATER: u8 = 8;
/// The slot of the increments that the tombstone deleted.
pub const OLD: u8 = 7;

/// The protocol's rules, each of which a broken protocol lacks.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A quiet round that began after the question must end, not only the one that was going on.
    pub whole_round: bool,
    /// Queues are marked once the marked gathers and pulls have ended, and nothing foreign is left.
    pub queues_marked_last: bool,
    /// A tombstone counts as held once fsynced.
    pub confirm_fsynced: bool,
    /// No round ends while the member holds (in memory or on disk) what it does not own.
    pub foreign_counts: bool,
    /// No round ends while the disk still has a foreign record that memory dropped.
    pub foreign_drop_fsynced: bool,
    /// No round ends before the gathers and pulls of its begin.
    pub flights_count: bool,
    /// A broken link's records are done with a newer link, not with the break.
    pub gone_needs_newer: bool,
    /// That newer link must have brought a frame.
    pub newer_must_be_heard: bool,
    /// A round also marks members whose newest link brought no frame yet.
    pub unheard_is_marked: bool,
    /// No record is taken for a partition that the taker does not own.
    pub foreign_refused: bool,
    /// Frames of a removed member are not taken.
    pub removed_refused: bool,
    /// Who is done with its rounds and then adopts another placement (or restarts) is not done.
    pub adoption_undoes: bool,
    /// All must have answered "clear" before anybody drops.
    pub all_clear: bool,
    /// "Clear" once the settling is fsynced.
    pub clear_fsynced: bool,
    /// An owner that still copies the partition has no answer.
    pub clear_needs_complete: bool,
    /// Answers count only under the driver's placement.
    pub same_placement: bool,
    /// A second grace, between settling and dropping.
    pub second_grace: bool,
    /// Copying sends a settled tombstone as a settled one...
    pub copies_settled: bool,
    /// ...or at least as a plain one.
    pub copies_plain: bool,
    /// An increment over SETTLED T(s) has the base (s, 3); else this one.
    pub over_settled: Option<(u8, u8)>,
    /// A counter (s, 2) that comes to SETTLED T(s) becomes (s, 3).
    pub settled_lifts_extended: bool,
}

/// The protocol as it is to be built.
pub const RULES: Rules = Rules {
    whole_round: true,
    queues_marked_last: true,
    confirm_fsynced: true,
    foreign_counts: true,
    foreign_drop_fsynced: true,
    flights_count: true,
    gone_needs_newer: true,
    newer_must_be_heard: true,
    unheard_is_marked: true,
    foreign_refused: true,
    removed_refused: true,
    adoption_undoes: true,
    all_clear: true,
    clear_fsynced: true,
    clear_needs_complete: true,
    same_placement: true,
    second_grace: true,
    copies_settled: true,
    copies_plain: false,
    over_settled: None,
    settled_lifts_extended: true,
};

/// Sets of members are bits.
pub type Set = u8;

fn has(set: Set, member: usize) -> bool {
    set >> member & 1 == 1
}

/// Who owns the key and who is in the roster.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub owners: Set,
    pub roster: Set,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    pub increments: u8,
    pub sets: u8,
    pub deletes: u8,
    pub crashes: u8,
    pub breaks: u8,
    pub flights: u8,
    pub pushes: u8,
}

/// Where a run begins.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub members: usize,
    /// The placements, in the order in which members adopt them.
    pub placements: &'static [Placement],
    pub tables: [Rec; MEMBERS],
    /// Who may crash; each does so once at most.
    pub may_crash: Set,
    pub budget: Budget,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Link {
    /// On its way on the newest link.
    queue: Rec,
    /// In a frame of an earlier link that the receiver has not read.
    stale: Rec,
    /// The sender's engine has the newest link.
    up: bool,
    /// The receiver's engine has it: it reads nothing of earlier ones any more.
    up_there: bool,
    /// The sender got a frame on it.
    heard: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Flight {
    #[default]
    None,
    /// A read that collects answers and repairs with them.
    Gather(Rec),
    /// An answer on its way to an owner that compares itself.
    Pull(Rec),
    /// The answer that completes a newcomer.
    Copy(Rec),
}

/// How far a member is with the quiet round that it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Round {
    /// 0 not asked, 1 waits for what it marked first, 2 for queues.
    stage: u8,
    flight: bool,
    /// Whose links have marked records.
    queues: Set,
    /// Of whom a frame must come on a link newer than the one that broke.
    unheard: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Confirm,
    Grace,
    Settle,
    SecondGrace,
    Drop,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Driver {
    phase: Phase,
    who: u8,
    /// Who answered what the phase asks for.
    got: Set,
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Start,
    Push(usize, usize),
    Deliver(usize, usize),
    DeliverStale(usize, usize),
    Break(usize, usize),
    UpHere(usize, usize),
    UpThere(usize, usize),
    Gather(usize, usize),
    Repair(usize, usize),
    Pull(usize, usize),
    EndFlight(usize),
    Copy(usize, usize),
    DropForeign(usize),
    Increment(usize),
    Set(usize),
    Delete(usize),
    Fsync(usize),
    Crash(usize),
    Adopt(usize),
    Drive(usize),
    Settle(usize),
    Drop(usize),
    Fail,
}

/// All of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    table: [Rec; MEMBERS],
    disk: [Rec; MEMBERS],
    links: [[Link; MEMBERS]; MEMBERS],
    flight: [Flight; MEMBERS],
    view: [u8; MEMBERS],
    life: [u8; MEMBERS],
    complete: Set,
    round: [Round; MEMBERS],
    driver: Driver,
    /// Requests to settle, and to drop, are (or may still be) under way.
    may_settle: bool,
    may_drop: bool,
    /// Somebody has settled the tombstone: from here on nothing older may be seen.
    settled: bool,
    /// Increments not fsynced yet, and those that were acknowledged and must count.
    unacked: [u8; MEMBERS],
    acked: Pairs,
    /// A later SET or DELETE was made, and who has seen it.
    later: bool,
    saw_later: Set,
    left: Budget,
}

/// A cluster with its rules.
pub struct World<'a> {
    pub setting: &'a Setting,
    pub rules: &'a Rules,
}

impl World<'_> {
    pub fn start(&self) -> State {
        let place = self.setting.placements[0];
        let link = Link { up: true, up_there: true, heard: true, ..Link::default() };
        State {
            table: self.setting.tables,
            disk: self.setting.tables,
            links: [[link; MEMBERS]; MEMBERS],
            flight: Default::default(),
            view: [0; MEMBERS],
            life: [0; MEMBERS],
            complete: place.owners,
            round: Default::default(),
            driver: Driver::default(),
            may_settle: false,
            may_drop: false,
            settled: false,
            unacked: [0; MEMBERS],
            acked: Pairs::default(),
            later: false,
            saw_later: 0,
            left: self.setting.budget,
        }
    }

    fn place(&self, view: u8) -> Placement {
        self.setting.placements[usize::from(view)]
    }

    fn place_of(&self, state: &State, member: usize) -> Placement {
        self.place(state.view[member])
    }

    fn owns(&self, state: &State, member: usize) -> bool {
        has(self.place_of(state, member).owners, member)
    }

    fn members(&self) -> std::ops::Range<usize> {
        0..self.setting.members
    }

    /// What is wrong with a state, if anything is.
    pub fn defect(&self, state: &State) -> Option<&'static str> {
        let serves = |m: usize| self.owns(state, m) && has(state.complete, m);
        let is_old = |record: Rec| match record {
            Rec::Value(stamp) => stamp < T,
            other => other.pairs().get(OLD) > 0,
        };
        if state.settled && self.members().any(|m| serves(m) && is_old(state.table[m])) {
            return Some("a deleted record returned");
        }
        if !self.is_at_rest(state) {
            return None;
        }
        let place = self.place(self.last_view());
        let owners = || self.members().filter(|m| has(place.owners, *m));
        let seen = |m: usize| {
            let record = state.table[m];
            if matches!(record, Rec::Tomb(_)) {
                Rec::Nothing
            } else {
                Some(record).filter(|r| r.is_in_tree()).unwrap_or_default()
            }
        };
        if owners().any(|m| owners().any(|o| seen(m) != seen(o))) {
            return Some("owners differ at rest");
        }
        if owners().any(|m| !state.table[m].pairs().covers(state.acked) && state.table[m].stamp() < LATER) {
            return Some("an acknowledged increment was lost");
        }
        if state.later && owners().any(|m| state.table[m].stamp() < LATER && state.table[m].is_in_tree()) {
            return Some("an acknowledged SET or DELETE was lost");
        }
        None
    }

    fn last_view(&self) -> u8 {
        self.setting.placements.len() as u8 - 1
    }

    /// Nothing is under way and no pass would change anything.
    fn is_at_rest(&self, state: &State) -> bool {
        let place = self.place(self.last_view());
        let roster = || self.members().filter(|m| has(place.roster, *m));
        let quiet = |m: usize| {
            state.view[m] == self.last_view()
                && state.disk[m] == state.table[m]
                && state.flight[m] == Flight::None
                && (has(state.complete, m) || !has(place.owners, m))
                && roster().all(|to| {
                    let link = &state.links[m][to];
                    link.queue == Rec::Nothing && (link.stale == Rec::Nothing || link.up_there)
                })
        };
        let equal = |from: usize, to: usize| {
            let record = state.table[from];
            !has(place.owners, to)
                || !record.is_in_tree()
                || merge(state.table[to], record, self.rules) == state.table[to]
        };
        roster().all(|m| quiet(m) && roster().all(|to| equal(m, to)))
    }

    /// Whether the tombstone is gone everywhere, or something newer has taken its place.
    pub fn is_reclaimed(&self, state: &State) -> bool {
        let gone = |m: usize| state.disk[m] == Rec::Nothing && state.table[m] == Rec::Nothing;
        let newer = |m: usize| matches!(state.table[m], Rec::Counter { .. }) || state.table[m].stamp() > T;
        let last = self.place(self.last_view()).roster;
        let mut roster = self.members().filter(|m| has(last, *m));
        roster.clone().any(newer) || roster.all(gone)
    }

    /// All that may happen next.
    pub fn next(&self, state: &State, out: &mut Vec<(Step, State)>) {
        for m in self.members() {
            self.own_steps(state, m, out);
            self.flight_steps(state, m, out);
            self.driver_steps(state, m, out);
            for to in self.members().filter(|to| *to != m) {
                self.link_steps(state, m, to, out);
            }
        }
        if state.driver.phase != Phase::Idle {
            let mut next = *state;
            next.driver = Driver::default();
            next.round = Default::default();
            out.push((Step::Fail, next));
        }
        for (_, next) in out {
            while self.answer(next) || self.advance(next) {}
        }
    }

    /// `from` brings a record to `to`.
    fn take(&self, state: &mut State, from: usize, to: usize, record: Rec) {
        let place = self.place_of(state, to);
        let removed = self.rules.removed_refused && !has(place.roster, from);
        let foreign = self.rules.foreign_refused && !has(place.owners, to);
        if !removed && !foreign {
            let merged = merge(state.table[to], record, self.rules);
            self.put(state, to, merged);
        }
    }

    fn put(&self, state: &mut State, m: usize, record: Rec) {
        state.table[m] = record;
        if record.stamp() >= LATER {
            state.saw_later |= 1 << m;
        }
        if state.left.crashes == 0 {
            Self::fsync(state, m);
        }
    }

    fn fsync(state: &mut State, m: usize) {
        state.disk[m] = state.table[m];
        let slot = slot(state, m);
        state.acked = state.acked.with(slot, state.acked.get(slot) + u16::from(state.unacked[m]));
        state.unacked[m] = 0;
    }

    fn own_steps(&self, state: &State, m: usize, out: &mut Vec<(Step, State)>) {
        let (owns, complete) = (self.owns(state, m), has(state.complete, m));
        if state.disk[m] != state.table[m] || state.unacked[m] > 0 {
            let mut next = *state;
            Self::fsync(&mut next, m);
            out.push((Step::Fsync(m), next));
        }
        if state.left.crashes > 0 && has(self.setting.may_crash, m) && state.life[m] == 0 {
            out.push((Step::Crash(m), self.crash(state, m)));
        }
        if state.view[m] < self.last_view() {
            out.push((Step::Adopt(m), self.adopt(state, m)));
        }
        if state.left.increments > 0 && owns && complete {
            out.push((Step::Increment(m), self.increment(state, m)));
        }
        for (left, step, record) in [
            (state.left.sets, Step::Set(m), Rec::Value(LATER)),
            (state.left.deletes, Step::Delete(m), Rec::Tomb(LATER)),
        ] {
            if left > 0 && owns && !state.later {
                let mut next = *state;
                next.left.sets = 0;
                next.left.deletes = 0;
                next.later = true;
                next.acked = Pairs::default();
                next.unacked = [0; MEMBERS];
                self.put(&mut next, m, record);
                // A client is told of its write once it is fsynced; of others this is not followed.
                Self::fsync(&mut next, m);
                out.push((step, next));
            }
        }
        let record = state.table[m];
        let place = self.place_of(state, m);
        let kept = |o: usize| {
            !has(place.owners, o)
                || state.view[o] == state.view[m]
                    && merge(state.table[o], record, self.rules) == state.table[o]
        };
        if !owns && record != Rec::Nothing && self.members().all(kept) {
            let mut next = *state;
            self.put(&mut next, m, Rec::Nothing);
            out.push((Step::DropForeign(m), next));
        }
    }

    fn increment(&self, state: &State, m: usize) -> State {
        let mut next = *state;
        next.left.increments -= 1;
        let (stamp, epoch, pairs) = match state.table[m] {
            Rec::Nothing => (0, 1, Pairs::default()),
            Rec::Settled(s) => {
                let (stamp, epoch) = self.rules.over_settled.unwrap_or((s, 3));
                (stamp, epoch, Pairs::default())
            }
            Rec::Tomb(s) => (s, 2, Pairs::default()),
            Rec::Value(s) => (s, 1, Pairs::default()),
            Rec::Counter { stamp, epoch, pairs } => (stamp, epoch, pairs),
        };
        let slot = slot(state, m);
        let pairs = pairs.with(slot, pairs.get(slot) + 1);
        // What a later write may replace need not count.
        next.unacked[m] += u8::from(!state.later || has(state.saw_later, m));
        self.put(&mut next, m, Rec::Counter { stamp, epoch, pairs });
        next
    }

    fn crash(&self, state: &State, m: usize) -> State {
        let mut next = *state;
        next.left.crashes -= 1;
        next.life[m] += 1;
        next.table[m] = next.disk[m];
        next.unacked[m] = 0;
        next.flight[m] = Flight::None;
        self.interrupt(&mut next, m);
        for other in self.members().filter(|other| *other != m) {
            let link = &mut next.links[m][other];
            let stale = if link.queue == Rec::Nothing { link.stale } else { link.queue };
            *link = Link { stale, ..Link::default() };
            // What its process had not read is lost with it.
            next.links[other][m] = Link { up: true, up_there: true, heard: true, ..Link::default() };
            next.round[other].queues &= !(1 << m);
            next.round[other].unheard &= !(1 << m);
        }
        if next.left.crashes == 0 {
            for other in self.members() {
                Self::fsync(&mut next, other);
            }
        }
        next
    }

    fn adopt(&self, state: &State, m: usize) -> State {
        let mut next = *state;
        let before = self.place_of(state, m);
        next.view[m] += 1;
        if !has(before.owners, m) {
            next.complete &= !(1 << m);
        }
        if matches!(next.flight[m], Flight::Copy(_) | Flight::Pull(_)) {
            next.flight[m] = Flight::None;
        }
        self.interrupt(&mut next, m);
        next
    }

    /// A member restarts or adopts a placement: its rounds count no more, nor does what it drives.
    fn interrupt(&self, next: &mut State, m: usize) {
        next.round[m] = Round::default();
        let in_grace = matches!(next.driver.phase, Phase::Grace | Phase::SecondGrace);
        if in_grace && self.rules.adoption_undoes {
            next.driver.got &= !(1 << m);
        }
        if usize::from(next.driver.who) == m {
            next.driver = Driver::default();
        }
    }

    fn link_steps(&self, state: &State, from: usize, to: usize, out: &mut Vec<(Step, State)>) {
        let link = state.links[from][to];
        let record = state.table[from];
        let sends = record.is_in_tree() && has(self.place_of(state, from).owners, to);
        if state.left.pushes > 0
            && sends
            && link.up
            && link.queue == Rec::Nothing
            && state.table[to] != record
        {
            let mut next = *state;
            next.left.pushes -= u8::from(state.left.pushes < u8::MAX);
            next.links[from][to].queue = record;
            out.push((Step::Push(from, to), next));
        }
        if link.queue != Rec::Nothing && link.up && link.up_there {
            let mut next = *state;
            next.links[from][to] = Link { queue: Rec::Nothing, heard: true, ..link };
            next.round[from].queues &= !(1 << to);
            next.round[from].unheard &= !(1 << to);
            self.take(&mut next, from, to, link.queue);
            out.push((Step::Deliver(from, to), next));
        }
        if link.stale != Rec::Nothing && !link.up_there {
            let mut next = *state;
            next.links[from][to].stale = Rec::Nothing;
            self.take(&mut next, from, to, link.stale);
            out.push((Step::DeliverStale(from, to), next));
        }
        if link.up && state.left.breaks > 0 && link.queue != Rec::Nothing {
            let mut next = *state;
            next.left.breaks -= 1;
            next.links[from][to] = Link { stale: link.queue, ..Link::default() };
            let round = &mut next.round[from];
            if self.rules.gone_needs_newer {
                round.unheard |= round.queues & 1 << to;
            }
            round.queues &= !(1 << to);
            out.push((Step::Break(from, to), next));
        }
        let hear = |next: &mut State| {
            let link = &mut next.links[from][to];
            link.heard = link.up && link.up_there;
            if link.heard {
                next.round[from].unheard &= !(1 << to);
            }
        };
        if !link.up {
            let mut next = *state;
            next.links[from][to].up = true;
            hear(&mut next);
            if !self.rules.newer_must_be_heard {
                next.round[from].unheard &= !(1 << to);
            }
            out.push((Step::UpHere(from, to), next));
        }
        if !link.up_there {
            let mut next = *state;
            next.links[from][to].up_there = true;
            next.links[from][to].stale = Rec::Nothing;
            hear(&mut next);
            out.push((Step::UpThere(from, to), next));
        }
    }

    fn flight_steps(&self, state: &State, m: usize, out: &mut Vec<(Step, State)>) {
        let place = self.place_of(state, m);
        let owners = || self.members().filter(|o| *o != m && has(place.owners, *o));
        match state.flight[m] {
            Flight::None => {
                for from in owners() {
                    let record = state.table[from];
                    if state.left.flights > 0 && record.is_in_tree() {
                        let mut next = *state;
                        next.left.flights -= 1;
                        next.flight[m] = Flight::Gather(record);
                        out.push((Step::Gather(m, from), next));
                        if self.owns(state, m) {
                            next.flight[m] = Flight::Pull(record);
                            out.push((Step::Pull(m, from), next));
                        }
                    }
                    let serves = has(state.complete, from) && state.view[from] == state.view[m];
                    if self.owns(state, m) && !has(state.complete, m) && serves {
                        let record = match record {
                            Rec::Settled(_) if self.rules.copies_settled => record,
                            Rec::Settled(s) if self.rules.copies_plain => Rec::Tomb(s),
                            Rec::Settled(_) => Rec::Nothing,
                            other => other,
                        };
                        let mut next = *state;
                        next.flight[m] = Flight::Copy(record);
                        out.push((Step::Copy(m, from), next));
                    }
                }
            }
            Flight::Gather(record) => {
                for to in owners() {
                    let link = &state.links[m][to];
                    if link.up && link.queue == Rec::Nothing {
                        let mut next = self.end_flight(state, m);
                        next.links[m][to].queue = record;
                        out.push((Step::Repair(m, to), next));
                    }
                }
                out.push((Step::EndFlight(m), self.end_flight(state, m)));
            }
            Flight::Pull(record) | Flight::Copy(record) => {
                let mut next = self.end_flight(state, m);
                let merged = merge(next.table[m], record, self.rules);
                self.put(&mut next, m, merged);
                if matches!(state.flight[m], Flight::Copy(_)) {
                    next.complete |= 1 << m;
                }
                out.push((Step::EndFlight(m), next));
            }
        }
    }

    fn end_flight(&self, state: &State, m: usize) -> State {
        let mut next = *state;
        next.flight[m] = Flight::None;
        next.round[m].flight = false;
        next
    }

    fn driver_steps(&self, state: &State, m: usize, out: &mut Vec<(Step, State)>) {
        if state.driver.phase == Phase::Idle && self.owns(state, m) && has(state.complete, m) {
            let phase = match state.table[m] {
                Rec::Tomb(T) => Some(Phase::Confirm),
                Rec::Settled(T) => Some(Phase::Settle),
                _ => None,
            };
            if let Some(phase) = phase {
                let mut next = *state;
                next.driver = Driver { phase, who: m as u8, got: 0 };
                next.may_settle |= phase == Phase::Settle;
                out.push((Step::Drive(m), next));
            }
        }
        // A request may come late, whatever became of who sent it.
        if state.may_settle && state.table[m] == Rec::Tomb(T) && self.owns(state, m) {
            let mut next = *state;
            next.settled = true;
            self.put(&mut next, m, Rec::Settled(T));
            out.push((Step::Settle(m), next));
        }
        if state.may_drop && state.table[m] == Rec::Settled(T) {
            let mut next = *state;
            self.put(&mut next, m, Rec::Nothing);
            out.push((Step::Drop(m), next));
        }
    }

    /// Who can answer the driver does so at once: that leaves most to happen afterwards.
    fn answer(&self, state: &mut State) -> bool {
        let before = *state;
        for m in self.members() {
            let Driver { phase, who, got } = state.driver;
            let place = self.place_of(state, usize::from(who));
            let agrees = state.view[m] == state.view[usize::from(who)] || !self.rules.same_placement;
            let asks = |set: Set| has(set, m) && !has(got, m);
            let answers = match phase {
                Phase::Confirm if asks(place.owners) && agrees => {
                    let held = if self.rules.confirm_fsynced { state.disk[m] } else { state.table[m] };
                    has(state.complete, m) && matches!(held, Rec::Tomb(T) | Rec::Settled(T))
                }
                Phase::Grace | Phase::SecondGrace if asks(place.roster) && agrees => self.end_round(state, m),
                Phase::Settle if asks(place.owners) && agrees => {
                    let held = if self.rules.clear_fsynced { state.disk[m] } else { state.table[m] };
                    let knows = has(state.complete, m) || !self.rules.clear_needs_complete;
                    knows
                        && [held, state.table[m]]
                            .iter()
                            .all(|held| matches!(held, Rec::Settled(T) | Rec::Nothing))
                }
                _ => false,
            };
            state.driver.got |= u8::from(answers) << m;
        }
        *state != before
    }

    /// Goes on with a member's quiet round; whether it ended.
    fn end_round(&self, state: &mut State, m: usize) -> bool {
        let foreign = self.rules.foreign_counts && !self.owns(state, m) && {
            let on_disk = self.rules.foreign_drop_fsynced && state.disk[m] != Rec::Nothing;
            state.table[m] != Rec::Nothing || on_disk
        };
        let copying = self.owns(state, m) && !has(state.complete, m);
        let marked = |is_marked: &dyn Fn(&Link) -> bool| {
            let others = self.place_of(state, m).roster & !(1 << m);
            let those = self.members().filter(|to| has(others, *to) && is_marked(&state.links[m][*to]));
            those.fold(0, |set, to| set | 1 << to)
        };
        let queues = marked(&|link| link.queue != Rec::Nothing);
        let unheard = marked(&|link| self.rules.unheard_is_marked && !link.heard);
        let flight = self.rules.flights_count && state.flight[m] != Flight::None;
        let mut round = state.round[m];
        if round.stage == 0 {
            round = Round { stage: 1, flight, ..Round::default() };
            if !self.rules.queues_marked_last {
                round = Round { stage: 2, queues, unheard, ..round };
            }
        }
        let mut is_over = !foreign && !copying && !round.flight;
        if round.stage == 1 && is_over {
            round = Round { stage: 2, queues, unheard, ..round };
        }
        is_over &= round.stage == 2 && round.queues == 0 && round.unheard == 0;
        // The round that was going on when the driver asked may have marked nothing that is still under way.
        is_over |= !self.rules.whole_round && !foreign && !copying;
        state.round[m] = if is_over { Round::default() } else { round };
        is_over
    }

    /// The driver goes on as soon as all have answered.
    fn advance(&self, state: &mut State) -> bool {
        let Driver { phase, who, got } = state.driver;
        let place = self.place_of(state, usize::from(who));
        let (asked, then) = match phase {
            Phase::Confirm => (place.owners, Phase::Grace),
            Phase::Grace => (place.roster, Phase::Settle),
            Phase::Settle if self.rules.second_grace => (place.owners, Phase::SecondGrace),
            Phase::Settle => (place.owners, Phase::Drop),
            Phase::SecondGrace => (place.roster, Phase::Drop),
            Phase::Idle | Phase::Drop => return false,
        };
        let enough = got & asked == asked || phase == Phase::Settle && !self.rules.all_clear && got != 0;
        if enough {
            state.driver = Driver { phase: then, who, got: 0 };
            state.may_settle |= then == Phase::Settle;
            state.may_drop |= then == Phase::Drop;
        }
        enough
    }
}

/// The slot of a member's increments in its present life.
fn slot(state: &State, m: usize) -> u8 {
    2 * m as u8 + state.life[m]
}
