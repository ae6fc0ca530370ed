//! Data directories that are copied while their member runs, and old ones that are put back: by their
//! incarnation and life whoever remembers a later one refuses them. Who is refused stops, and comes
//! back empty, under a new key, as a new member.

use crate::disk::Disk;
use crate::plan::{Fault, MS, SECOND};
use crate::world::{Event, World};

/// How long it takes at the most until what was deleted is forgotten, mostly.
const FORGETTING: u64 = 20 * SECOND;

/// A copy of a data directory.
#[derive(Debug)]
pub struct Backup {
    of: usize,
    disk: Disk,
    incarnation: u64,
}

impl World {
    /// The first time a data directory is copied; later the copy is started, beside its member or instead of
    /// it.
    pub fn copy_fault(&mut self) {
        let source = self.plan.members - 1;
        match self.backup.take() {
            None if !self.is_copied => {
                self.is_copied = true;
                let disk = self.members[source].disk.copy(&mut self.random);
                let incarnation = self.members[source].incarnation();
                self.note("copied", &[incarnation], || format!("m{source} in incarnation {incarnation}"));
                self.backup = Some(Backup { of: source, disk, incarnation });
            }
            None => {}
            Some(backup) if self.random.chance(500) => self.restore(backup),
            Some(backup) => self.run_both(backup),
        }
    }

    /// Everybody was up for long and has forgotten what was deleted, when a disk turns out to have lied, or an
    /// old data directory is put back; now and then while all others start again, too.
    pub fn lose_late(&mut self) {
        let late = self.plan.members - 1;
        self.run_until(self.now + FORGETTING);
        let backup = self.backup.take();
        if self.violation.is_some() || self.members[late].engine.is_none() {
            return;
        }
        let others_start = self.random.chance(400);
        match backup {
            Some(backup) => self.restore(backup),
            None if self.plan.knows(Fault::Lie) => self.crash(late, true, 2 * SECOND),
            None => return,
        }
        for other in (0..late).filter(|_| others_start) {
            let downtime = self.random.between(1, 1_500) * MS;
            self.crash(other, false, downtime);
        }
    }

    /// The member's data directory is replaced by the copy.
    fn restore(&mut self, backup: Backup) {
        let Backup { of, disk, incarnation } = backup;
        self.note("restored", &[of as u64, incarnation], || format!("m{of} to incarnation {incarnation}"));
        let after = self.random.duration(SECOND);
        if self.members[of].engine.is_some() {
            self.crash(of, true, after);
        }
        self.members[of].take_files(disk, incarnation);
    }

    /// The copy runs beside its member.
    fn run_both(&mut self, backup: Backup) {
        let Backup { of, disk, incarnation } = backup;
        let twin = self.members.len() - 1;
        self.note("both run", &[of as u64, incarnation], || format!("m{twin} is m{of} too"));
        self.become_twin(twin, of);
        self.members[twin].take_files(disk, incarnation);
        self.schedule(MS, Event::Start { member: twin });
    }

    /// A member was told that a later life of it was seen: it stops, and a new member comes instead.
    pub fn refused(&mut self, index: usize, epoch: u64) {
        if self.members[index].epoch != epoch || self.members[index].lost {
            return;
        }
        self.note("refused life", &[index as u64], || format!("m{index} stops"));
        self.members[index].lost = true;
        self.crash(index, false, 0);
        let joiner = self.members.iter().position(|member| !member.is_member && !member.is_twin);
        if let Some(joiner) = joiner {
            self.schedule(MS, Event::Rejoin { joiner });
        }
    }

    /// Who was refused asks to be let in as a new member, until it is.
    pub fn rejoin(&mut self, joiner: usize) {
        if self.members[joiner].is_member {
            return;
        }
        self.admit_at(joiner);
        self.schedule(500 * MS, Event::Rejoin { joiner });
    }

    /// Whether another process runs with the key of this one.
    pub fn has_twin(&self, index: usize) -> bool {
        let is_twin = |other: usize| other != index && self.members[other].id == self.members[index].id;
        (0..self.members.len()).any(|other| is_twin(other) && !self.members[other].lost)
    }
}
