//! Telling the log and the status what a disk lost.

use super::Core;

impl Core {
    /// Says loudly what turned out to be damaged or lost since the last time.
    pub(super) fn tell_damage(&mut self) {
        let counters = self.engine.counters();
        let damaged =
            counters.damaged_records - std::mem::replace(&mut self.told_damaged, counters.damaged_records);
        if damaged > 0 {
            tracing::error!(
                damaged,
                "stored records are damaged; they are fetched from the others; check the disk"
            );
        }
        let is_new = std::mem::replace(&mut self.told_lost_syncs, counters.lost_syncs) < counters.lost_syncs;
        if let Some(lost) = self.engine.shortfall().filter(|_| is_new) {
            let problem = format!(
                "the disk lost what it had said to have synced: the journal of start {} ends at byte {}, but member {} was \
                 told that it was safe up to byte {}; all is copied from the others; check the disk and its write cache",
                lost.incarnation, lost.found, lost.peer, lost.told
            );
            tracing::error!("{problem}");
            self.problems.push(problem);
        }
    }
}
