//! The world of one seed: members, links, clients, and the queue of what happens when.
//!
//! One thread, one queue ordered by time and then by the order of scheduling, one stream of random
//! numbers: what happens follows from the seed alone, and its hash shows it.

use crate::clients::Clients;
use crate::copies::Backup;
use crate::member::{Input, Job, Member};
use crate::network::Network;
use crate::plan::{Fault, Plan, SECOND};
use crate::random::Random;
use crate::watchers::Watchers;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Lines of the trace that are kept when it is recorded.
const TRACE_LINES: usize = 400_000;

/// Every so many seeds the members have the real storage.
const REAL_STORAGE_EVERY: u64 = 5;

/// Something that happens at its time.
#[derive(Debug)]
pub enum Event {
    /// A member's turn of its loop.
    Turn { member: usize, epoch: u64 },
    /// A member's timer.
    Tick { member: usize, epoch: u64 },
    /// Something reaches a member.
    Input { member: usize, epoch: u64, input: Input },
    /// A job of a member's disk is done.
    Disk { member: usize, epoch: u64, job: Job },
    /// A frame arrives, if its link still carries it.
    Arrival { link: u64, from: usize, to: usize, bytes: Vec<u8> },
    /// Two members try to connect.
    Connect { one: usize, other: usize },
    /// A cut in one direction ends.
    Heal { from: usize, to: usize },
    /// A link that carried nothing for long is given up.
    Stalled { link: u64, one: usize, other: usize },
    /// A member starts, again or for the first time.
    Start { member: usize },
    /// A member that left ends.
    Gone { member: usize, epoch: u64 },
    /// A session's next operation.
    Session { session: usize },
    /// A session stops waiting for its operation.
    Patience { session: usize, operation: u64 },
    /// Everyone's liveness is told.
    Liveness,
    /// The next fault.
    Fault,
    /// The power fails, for one member or for all.
    PowerCut { everywhere: bool },
    /// A member is told that a later life of it was seen.
    Refused { member: usize, epoch: u64 },
    /// Who was refused asks to be let in as a new member.
    Rejoin { joiner: usize },
    /// A member goes away for long.
    Away,
    /// A cut leaves a minority on one side, for long.
    Minority,
    /// Both sides of it try to remove a member of the other.
    RemoveAcross,
    /// A frozen clock runs again.
    Thaw { member: usize },
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// An invariant that does not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    pub invariant: &'static str,
    pub key: Option<usize>,
    pub text: String,
}

/// One simulated world.
pub struct World {
    pub plan: Plan,
    pub random: Random,
    pub now: u64,
    pub members: Vec<Member>,
    pub network: Network,
    pub clients: Clients,
    pub watchers: Watchers,
    pub violation: Option<Violation>,
    /// Faults happen and clients work.
    pub troubled: bool,
    /// Removals that were refused for want of a majority.
    pub refusals: u64,
    /// Who is being removed, and since when.
    pub removal: Option<(usize, u64)>,
    /// Since when every other member knows of the removal.
    pub fenced_by_all: Option<u64>,
    /// A copy of a data directory that was not started yet, and whether there was one.
    pub backup: Option<Backup>,
    pub is_copied: bool,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    hash: u64,
    recorded: Option<Vec<String>>,
}

impl World {
    /// A world before its first moment.
    pub fn new(seed: u64, record: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::of(seed, &mut random, seed % REAL_STORAGE_EVERY == REAL_STORAGE_EVERY - 1);
        // The last place is for a second process with the key of another.
        let has_twin = plan.knows(Fault::Copied);
        let count = plan.members + plan.joiners + usize::from(has_twin);
        let mut members: Vec<Member> =
            (0..count).map(|index| Member::new(index, &plan, &mut random)).collect();
        if let Some(last) = members.last_mut().filter(|_| has_twin) {
            last.is_twin = true;
        }
        if plan.knows(Fault::Lie) {
            members[plan.members - 1].disk.lie();
        }
        let clients = Clients::new(&plan, &mut random);
        Self {
            plan,
            random,
            now: 0,
            members,
            network: Network::new(count),
            clients,
            watchers: Watchers::new(seed),
            violation: None,
            troubled: true,
            refusals: 0,
            removal: None,
            fenced_by_all: None,
            backup: None,
            is_copied: false,
            queue: BinaryHeap::new(),
            order: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            recorded: record.then(Vec::new),
        }
    }

    /// Lets everything happen that the seed holds.
    pub fn run(&mut self) {
        let plan = format!("{:?}", self.plan);
        self.note("plan", &[], || plan);
        self.found();
        self.schedule(SECOND / 2, Event::Liveness);
        let first = 3 * SECOND;
        self.schedule(first, Event::Fault);
        if self.plan.away {
            self.schedule(first - 1, Event::Away);
        }
        if self.plan.rarer.minority {
            self.schedule(first, Event::Minority);
        }
        for session in 0..self.plan.sessions {
            let at = SECOND + self.random.below(SECOND);
            self.schedule(at, Event::Session { session });
        }
        self.run_until(first + self.plan.trouble);
        if self.violation.is_none() {
            self.conclude();
        }
    }

    /// Lets everything happen up to a moment.
    pub fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= end => {}
                _ => break,
            }
            if let Some(Reverse(next)) = self.queue.pop() {
                self.now = self.now.max(next.at);
                self.happen(next.event);
            }
        }
        self.now = self.now.max(end);
    }

    /// Puts an event into the queue, so many microseconds from now.
    pub fn schedule(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + after, order: self.order, event }));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn { member, epoch } => self.turn(member, epoch),
            Event::Tick { member, epoch } => self.tick(member, epoch),
            Event::Input { member, epoch, input } => self.give(member, epoch, input),
            Event::Disk { member, epoch, job } => self.disk_done(member, epoch, job),
            Event::Arrival { link, from, to, bytes } => self.arrive(link, from, to, bytes),
            Event::Connect { one, other } => self.connect(one, other),
            Event::Heal { from, to } => self.heal(from, to),
            Event::Stalled { link, one, other } => self.give_up_stalled(link, one, other),
            Event::Start { member } => self.start(member),
            Event::Gone { member, epoch } => {
                if self.members[member].epoch == epoch {
                    self.crash(member, true, 0);
                }
            }
            Event::Session { session } => self.session_step(session),
            Event::Patience { session, operation } => self.lose_patience(session, operation),
            Event::Liveness => self.tell_liveness(),
            Event::Fault => self.fault(),
            Event::PowerCut { everywhere } => self.power_cut(everywhere),
            Event::Refused { member, epoch } => self.refused(member, epoch),
            Event::Rejoin { joiner } => self.rejoin(joiner),
            Event::Away => self.go_away(),
            Event::Minority => self.cut_minority(),
            Event::RemoveAcross => self.remove_across(),
            Event::Thaw { member } => self.thaw(member),
        }
    }

    /// Mixes what happens into the trace's hash, and keeps a line of it if that is wanted.
    pub fn note(&mut self, what: &'static str, numbers: &[u64], line: impl FnOnce() -> String) {
        let mut mix = |value: u64| {
            self.hash = (self.hash ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        };
        mix(self.now);
        mix(what.len() as u64);
        for number in numbers {
            mix(*number);
        }
        if let Some(lines) = &mut self.recorded
            && lines.len() < TRACE_LINES
        {
            let (seconds, micros) = (self.now / SECOND, self.now % SECOND);
            lines.push(format!("{seconds:>4}.{micros:06} {what} {}", line()));
        }
    }

    /// Records that an invariant is broken; the first one ends the run.
    pub fn violate(&mut self, invariant: &'static str, key: Option<usize>, text: impl Into<String>) {
        if self.violation.is_none() {
            let text = text.into();
            let line = text.clone();
            self.note("VIOLATION", &[], || line);
            self.violation = Some(Violation { invariant, key, text });
        }
    }

    /// The hash over all that happened.
    pub const fn trace_hash(&self) -> u64 {
        self.hash
    }

    /// The trace's lines, if they were recorded.
    pub fn lines(&self) -> &[String] {
        self.recorded.as_deref().unwrap_or_default()
    }
}

/// A quick hash of bytes, for the trace.
pub fn mark(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        let word = chunk.iter().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
        (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    })
}
