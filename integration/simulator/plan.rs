//! What kind of world a seed makes: its size, its settings, and which faults it knows. Each seed
//! knows only some kinds, so that every combination comes up and failures show their cause.

use crate::random::Random;
use crate::removal::MINORITY;
use kith::engine::Bounds;
use kith::model::settings::{Level, Settings, Sync};

/// Microseconds in a millisecond.
pub const MS: u64 = 1_000;
/// Microseconds in a second.
pub const SECOND: u64 = 1_000_000;

/// Kinds of faults that a world knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A link breaks.
    Reset,
    /// A link is replaced while both ends think it is up.
    Duplicate,
    /// Nothing passes in one direction.
    OneWay,
    /// The members fall apart into two groups.
    Cut,
    /// Short cuts, one after the other.
    Flap,
    /// Delays grow to seconds.
    Slow,
    /// Bytes that no member made arrive on a link.
    Hostile,
    /// A process stands still.
    Pause,
    /// A process is killed; what it wrote survives.
    Kill,
    /// The power fails: what was not fsynced may be lost.
    PowerCut,
    /// A wall clock of a minority jumps or freezes.
    Clock,
    /// Liveness is told wrongly.
    Liveness,
    /// The disk takes no writes for a while.
    DiskFull,
    /// The disk takes its time.
    DiskSlow,
    /// A checkpoint fails.
    Checkpoint,
    /// A record in the store is damaged.
    Damage,
    /// A new member joins.
    Join,
    /// A member is lost for good.
    Lost,
    /// Somebody changes a setting.
    Setting,
    /// The replication factor changes, a member's zone, or a member leaves.
    Transition,
    /// A collection gets a replication factor of its own, another one, or the cluster's again.
    Factor,
    /// Somebody tries to remove a member that it takes for dead.
    Removal,
    /// A data directory is copied and both run, or an old one is restored.
    Copied,
    /// One member's disk says that it has synced what it has not.
    Lie,
}

impl Fault {
    const ALL: [Self; 18] = [
        Self::Reset,
        Self::Duplicate,
        Self::OneWay,
        Self::Cut,
        Self::Flap,
        Self::Slow,
        Self::Hostile,
        Self::Pause,
        Self::Kill,
        Self::PowerCut,
        Self::Clock,
        Self::Liveness,
        Self::DiskFull,
        Self::DiskSlow,
        Self::Checkpoint,
        Self::Damage,
        Self::Join,
        Self::Lost,
    ];
}

/// What comes up in few worlds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rarer {
    /// A cut leaves a minority on one side for long, and both sides try to remove a member of the other.
    pub minority: bool,
    /// Members leave that were alone for a while, and what they hold then goes to others slowly.
    pub lonely: bool,
    /// What a disk lost, or an old data directory, shows only after all have had the time to forget what was deleted.
    pub late: bool,
}

/// A world's make-up.
#[derive(Debug, Clone)]
pub struct Plan {
    pub members: usize,
    pub joiners: usize,
    pub partition_bits: u8,
    pub zones: bool,
    pub settings: Settings,
    pub bounds: Bounds,
    pub faults: Vec<Fault>,
    /// Mean time between faults in microseconds.
    pub fault_every: u64,
    /// How long faults happen, in microseconds.
    pub trouble: u64,
    pub sessions: usize,
    pub keys: usize,
    pub counters: usize,
    /// Usual time between two operations of a session in microseconds.
    pub think: u64,
    /// Usual delay of a frame in microseconds.
    pub delay: u64,
    /// Frames of a thousand that are lost, and their link with them.
    pub loss: u64,
    /// Usual time of a disk's operation in microseconds.
    pub disk_delay: u64,
    pub padding: u64,
    /// How far a clock goes wrong at most, in milliseconds.
    pub clock_range_ms: u64,
    /// Members keep what they have by the real storage.
    pub real_storage: bool,
    /// One member is away for most of the time, while much is deleted and expires.
    pub away: bool,
    pub rarer: Rarer,
    /// Keys are so long that hints find no room.
    pub long_keys: bool,
    /// Settings change too that decide how fast is repaired, and what is durable.
    pub more_settings: bool,
    /// Every other process that would be killed stops in order.
    pub stops: bool,
    /// Clients also look before they change.
    pub edits: bool,
    /// At each member somebody watches.
    pub watched: bool,
}

/// Milliseconds in a day.
const DAY_MS: u64 = 86_400_000;

impl Plan {
    /// The world of a seed. What was added to the kinds of worlds later comes from a stream of its own,
    /// so that seeds without it mean what they meant before.
    pub fn of(seed: u64, random: &mut Random, real_storage: bool) -> Self {
        let mut plan = Self::draw(random, real_storage);
        let mut more = Random::new(!seed);
        if more.chance(200) {
            plan.faults.push(Fault::Setting);
        }
        if plan.knows(Fault::Join) && more.chance(300) {
            plan.joiners = 1 + more.index(5);
        }
        if plan.knows(Fault::Lost) && more.chance(300) {
            plan.faults.push(Fault::Join);
            plan.joiners = 1 + more.index(2);
        }
        if more.chance(300) {
            plan.clock_range_ms = 365 * DAY_MS;
        }
        // Where a copy is at risk there must be as many as were planned.
        if plan.copies_at_risk() == 0 && more.chance(400) {
            plan.faults.push(Fault::Transition);
        }
        plan.add_rarer(&mut more);
        // Seeds that found something before there were edits keep the world in which they did.
        plan.edits = more.chance(350) && !crate::REGRESSIONS.iter().any(|(known, _)| *known == seed);
        if plan.edits && more.chance(200) {
            plan.calm_down(&mut more);
        }
        plan.add_factors(seed);
        if Random::new(!seed.rotate_left(48)).chance(300) {
            // Journals follow the records.
            plan.bounds.journal_most_bytes *= 8;
        }
        // Watches send messages: seeds of defects mean what they meant without them.
        let is_regression = crate::REGRESSIONS.iter().any(|(known, _)| *known == seed);
        plan.watched = !is_regression && Random::new(!seed.rotate_left(32)).chance(400);
        plan
    }

    /// Collections with replication factors of their own, in some worlds: where a copy is at risk never fewer than were planned
    /// ([`Self::least_factor`]). Some of the others have no other faults.
    fn add_factors(&mut self, seed: u64) {
        let mut more = Random::new(!seed.rotate_left(16));
        let is_regression = crate::REGRESSIONS.iter().any(|(known, _)| *known == seed);
        if is_regression || self.is_calm() || !more.chance(350) {
            return;
        }
        if self.copies_at_risk() == 0 && more.chance(250) {
            self.faults.clear();
        }
        self.faults.extend([Fault::Factor; 2]);
    }

    /// No faults at all, and few keys: members never disagree about who is alive.
    fn calm_down(&mut self, more: &mut Random) {
        self.faults.clear();
        (self.joiners, self.loss, self.away, self.long_keys) = (0, 0, false, false);
        self.rarer = Rarer::default();
        self.keys = 1 + more.index(3);
        self.think = more.between(1, 5) * MS;
    }

    /// Whether no member is ever taken for dead, or comes or goes.
    pub fn is_calm(&self) -> bool {
        self.faults.is_empty() && self.joiners == 0 && self.loss == 0 && !self.away
    }

    /// What was added last, each kind in a world with room for it.
    fn add_rarer(&mut self, more: &mut Random) {
        self.more_settings = self.knows(Fault::Setting) && more.chance(500);
        if self.copies_at_risk() == 0 && more.chance(350) {
            let rare = more.pick(&[Fault::Removal, Fault::Copied, Fault::Lie]).unwrap_or(Fault::Removal);
            // Less than half of all clocks may be wrong, and each right one may be needed.
            let is_in_the_way = |fault: &Fault| match rare {
                Fault::Removal => *fault == Fault::Clock,
                Fault::Copied => matches!(fault, Fault::Clock | Fault::Transition),
                // Where a copy is at risk there must be as many as were planned.
                _ => *fault == Fault::Transition,
            };
            // The storage's own tests have disks that lie.
            if rare != Fault::Lie || !self.real_storage {
                self.faults.retain(|fault| !is_in_the_way(fault));
                self.faults.push(rare);
                let copies = self.settings.replication_factor.max(3);
                (self.settings.replication_factor, self.settings.replication_factor_in_force) =
                    (copies, copies);
            }
            if rare == Fault::Copied {
                self.joiners += 2;
            }
            if self.knows(Fault::Lie) {
                self.settings.sync = Sync::Always;
                self.faults.push(Fault::PowerCut);
            }
        }
        self.away = !self.knows(Fault::Lost) && more.chance(120);
        if self.knows(Fault::Removal) {
            // Who is taken for dead must have been silent for seconds.
            self.faults.extend([Fault::Removal, Fault::Removal, Fault::Cut]);
            self.away |= more.chance(500);
        }
        if more.chance(60) {
            self.long_keys = true;
            self.keys = usize::try_from(more.between(150, 280)).unwrap_or(200);
            self.think = more.between(1, 4) * MS;
            self.settings.max_value_bytes = 512 << 10;
            self.settings.hint_bytes = 1 << 20;
            self.bounds.journal_bytes = self.bounds.journal_bytes.max(400_000);
            self.bounds.journal_most_bytes = self.bounds.journal_most_bytes.max(400_000);
            self.bounds.table_bytes = self.bounds.table_bytes.max(200_000);
            self.bounds.unsynced_bytes = Bounds::default().unsynced_bytes;
            self.faults.extend([Fault::Cut, Fault::Kill]);
        }
        self.rarer.minority = self.knows(Fault::Removal) && more.chance(250);
        if self.rarer.minority {
            // Each side holds everything, and thinks so while nobody lies about who is alive.
            self.members = self.members.min(5);
            let copies = u8::try_from(self.members).unwrap_or(3);
            (self.settings.replication_factor, self.settings.replication_factor_in_force) = (copies, copies);
            self.trouble = self.trouble.max(MINORITY + SECOND);
            self.away = false;
            let is_in_the_way = |fault: &Fault| {
                use Fault::{Cut, Flap, Join, Liveness, OneWay, Pause, Transition};
                matches!(fault, Cut | Flap | OneWay | Liveness | Pause | Join | Transition)
            };
            self.faults.retain(|fault| !is_in_the_way(fault));
            self.joiners = 0;
        }
        self.rarer.late = (self.knows(Fault::Lie) || self.knows(Fault::Copied)) && more.chance(600);
        // Who leaves must be sure of the time.
        self.rarer.lonely = self.knows(Fault::Transition) && !self.knows(Fault::Clock) && more.chance(250);
        if self.rarer.lonely {
            self.settings.repair_bytes_per_second = 64 << 10;
            self.settings.write_level = Level::Available;
            (self.keys, self.padding) = (self.keys.max(30), 9_000);
            self.bounds.unsynced_bytes = Bounds::default().unsynced_bytes;
        }
        self.stops = more.chance(400);
    }

    /// Draws a world.
    fn draw(random: &mut Random, real_storage: bool) -> Self {
        let members = usize::try_from(random.between(3, 7)).unwrap_or(3);
        let rare = random.between(100, 600);
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| random.chance(rare)).collect();
        let sync = if random.chance(700) { Sync::Always } else { Sync::Interval };
        let mut replication_factor = random.between(1, 5.min(members as u64));
        if faults.contains(&Fault::Lost) {
            // What remains must show a quorum without it, and be able to repair each other.
            replication_factor = 3;
            faults.retain(|fault| !matches!(fault, Fault::Damage | Fault::Join));
        }
        if real_storage {
            // The storage's own tests damage its files.
            faults.retain(|fault| *fault != Fault::Damage);
        }
        if faults.contains(&Fault::Damage) {
            replication_factor = replication_factor.max(3);
        }
        if sync == Sync::Interval {
            faults.retain(|fault| *fault != Fault::PowerCut);
        }
        let copies = u8::try_from(replication_factor).unwrap_or(1);
        let settings = Settings {
            replication_factor: copies,
            replication_factor_in_force: copies,
            write_level: random.pick(&Level::ALL).unwrap_or(Level::Available),
            read_level: random.pick(&Level::ALL).unwrap_or(Level::One),
            write_timeout_ms: random.between(200, 1_500),
            sync,
            sync_interval_ms: random.between(50, 1_000),
            ..Settings::default()
        };
        let bounds = Self::draw_bounds(random);
        let joiners = usize::from(faults.contains(&Fault::Join)) * random.index(3);
        Self {
            members,
            joiners,
            partition_bits: u8::try_from(random.between(0, 4)).unwrap_or(3),
            zones: random.chance(300),
            settings,
            bounds,
            faults,
            fault_every: random.between(100, 2_000) * MS,
            trouble: random.between(5, 25) * SECOND,
            sessions: usize::try_from(random.between(2, 8)).unwrap_or(4),
            keys: usize::try_from(random.between(1, 40)).unwrap_or(10),
            counters: usize::try_from(random.between(0, 4)).unwrap_or(2),
            think: random.between(2, 60) * MS,
            delay: random.between(100, 5_000),
            loss: if random.chance(300) { random.between(1, 30) } else { 0 },
            disk_delay: random.between(100, 5_000),
            padding: if random.chance(100) { 3_000 } else { 120 },
            clock_range_ms: DAY_MS,
            real_storage,
            away: false,
            rarer: Rarer::default(),
            long_keys: false,
            more_settings: false,
            stops: false,
            edits: false,
            watched: false,
        }
    }

    fn draw_bounds(random: &mut Random) -> Bounds {
        let tiny_table = random.chance(400);
        let mut bounds = Bounds {
            table_bytes: if tiny_table {
                usize::try_from(random.between(2_000, 20_000)).unwrap_or(9_000)
            } else {
                1 << 30
            },
            journal_bytes: if tiny_table || random.chance(300) {
                random.between(2_000, 60_000)
            } else {
                1 << 30
            },
            ..Bounds::default()
        };
        if random.chance(200) {
            // Some twenty records.
            bounds.journal_bytes = 2_500;
        }
        if random.chance(100) {
            bounds.unsynced_bytes = 2_000;
        }
        bounds.lifts = if tiny_table { 2 } else { 64 };
        bounds.journal_most_bytes = bounds.journal_bytes;
        bounds
    }

    /// Whether a kind of fault is known here.
    pub fn knows(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Whether a member may have lost what it had confirmed and not know it yet: a quorum with it may then
    /// lack what a quorum had.
    pub fn may_forget(&self) -> bool {
        [Fault::Damage, Fault::Copied, Fault::Lie].into_iter().any(|fault| self.knows(fault))
    }

    /// The lowest factor that a collection may be given: where a copy is at risk there must be as many as were planned.
    pub fn least_factor(&self) -> usize {
        if self.copies_at_risk() > 0 { self.settings.replication_factor.into() } else { 1 }
    }

    /// Copies that may be lost without anybody's fault.
    pub fn copies_at_risk(&self) -> u16 {
        let takes_one = [Fault::Lost, Fault::Damage, Fault::Removal, Fault::Copied, Fault::Lie];
        takes_one.into_iter().map(|fault| u16::from(self.knows(fault))).sum()
    }
}
