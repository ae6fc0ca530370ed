//! Checkpoints: what changed goes into redb in key order, and the journal before it is dropped.
//!
//! A checkpoint begins a new journal segment, whose first entries repeat the small state (hints,
//! lives, completeness, reservation), and then walks the table once in key order. Every record
//! that was dirty at its begin is handed out on the way; what changes behind the walk is in the
//! new segment. A record that is not merged with redb's yet can't be handed out, so its entry is
//! repeated in the new segment. Redb commits once all that was repeated is durable, and only then
//! are the segments before it dropped.
//!
//! Invariant: a record is clean only if a *committed* checkpoint holds it.

use super::hints::HintKey;
use super::journal::{self, Entry};
use super::table::{DIRTY, GONE, SETTLED, SHADOW, SlotId, UNRESOLVED};
use super::{Bounds, Engine, Name};
use crate::model::KeyHash;

/// Bytes of records in one batch.
const BATCH_BYTES: usize = 256 << 10;
/// Slots looked at for one batch.
const BATCH_SLOTS: usize = 4_096;
/// A record that redb does not have asks for a checkpoint as so many bytes of journal do: with its place in the table
/// and in their order, the smallest one takes no less of the memory.
const LEAST_DIRTY_BYTES: u64 = 128;
/// Batches that may be under way at a time.
const BATCHES_AT_ONCE: u32 = 2;

/// A step of a checkpoint, for the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointStep {
    /// Begin: `rotate` is set in the same turn, and no other step comes before both are done.
    Begin,
    /// Write and remove records. Answered by [`Engine::checkpoint_batch`].
    Batch(Batch),
    /// Commit, then drop the journal before the segment that was begun. Answered by
    /// [`Engine::checkpoint_committed`] or [`Engine::checkpoint_failed`].
    Commit,
}

/// What one step of a checkpoint changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// To be written: canonical bytes, sorted by collection and key.
    pub records: Vec<u8>,
    /// To be removed, with whatever is stored under these names.
    pub removed: Vec<Name>,
    /// Some of them hide what redb has: what the batch replaces must be told. Else the engine knows it.
    pub hides: bool,
}

/// An older record that redb held before a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// The hash of its key.
    pub hash: KeyHash,
    /// Its element; `None` when it is damaged, so that nobody can tell.
    pub element: Option<u128>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    /// Batches are made; the names of the last record that was looked at.
    Walking(Vec<u8>, Vec<u8>),
    /// All batches are made; the commit waits until what it relies on is durable.
    Walked,
    /// Redb commits.
    Committing,
}

/// Where the checkpoint stands.
#[derive(Debug, Default)]
pub(super) struct State {
    phase: Phase,
    number: u32,
    committed: u32,
    /// The journal's end when the last checkpoint began.
    began_at: u64,
    /// Bytes of journal from before this life that are still to be covered.
    replayed: u64,
    under_way: u32,
    /// Where in the journal all that this checkpoint repeated there ends.
    relies_on: u64,
    shadows: Vec<SlotId>,
    /// What the checkpoint removes from redb.
    gone: Vec<SlotId>,
    wanted: bool,
    /// Not before this time in microseconds, after a failure.
    not_before_us: u64,
}

impl State {
    /// Number of the last checkpoint that redb has.
    pub(super) const fn committed(&self) -> u32 {
        self.committed
    }

    /// Number of the last checkpoint that was begun.
    pub(super) const fn latest(&self) -> u32 {
        self.number
    }

    pub(super) const fn set_replayed(&mut self, bytes: u64) {
        self.replayed = bytes;
    }
}

impl Engine {
    /// Asks for a checkpoint, whatever the size of the journal.
    pub const fn want_checkpoint(&mut self) {
        self.checkpoint.wanted = true;
    }

    /// Bytes of journal that no checkpoint covers yet.
    #[must_use]
    pub const fn journal_bytes(&self) -> u64 {
        self.end() - self.checkpoint.began_at + self.checkpoint.replayed
    }

    /// Bytes of journal at which the next checkpoint begins; they grow with the records.
    #[must_use]
    pub fn journal_limit_bytes(&self) -> u64 {
        let Bounds { journal_bytes: least, journal_most_bytes: most, .. } = self.bounds;
        (self.records.table.bytes() as u64).clamp(least, most.max(least))
    }

    /// Whether a checkpoint is under way.
    #[must_use]
    pub const fn is_checkpointing(&self) -> bool {
        !matches!(self.checkpoint.phase, Phase::Idle)
    }

    /// Whether the checkpoint has a step to make now, without any other event.
    pub(super) const fn wants_checkpoint_step(&self) -> bool {
        let may_step = match self.checkpoint.phase {
            Phase::Walking(..) => self.checkpoint.under_way < BATCHES_AT_ONCE,
            Phase::Walked => self.positions.synced >= self.checkpoint.relies_on,
            Phase::Idle | Phase::Committing => false,
        };
        may_step && self.is_last_step_taken()
    }

    /// Whether the step before is no longer in the lanes: a full disk may keep it there.
    const fn is_last_step_taken(&self) -> bool {
        !self.lanes.rotate && self.lanes.checkpoint.is_none()
    }

    /// Makes the next step of the checkpoint that is under way, or begins one when it is due.
    pub(super) fn step_checkpoint(&mut self) {
        if !self.is_last_step_taken() {
            return;
        }
        match std::mem::take(&mut self.checkpoint.phase) {
            Phase::Idle => self.begin_checkpoint_when_due(),
            Phase::Walking(collection, key) if self.checkpoint.under_way < BATCHES_AT_ONCE => {
                self.next_batch(collection, key);
            }
            Phase::Walked if self.positions.synced >= self.checkpoint.relies_on => {
                self.checkpoint.phase = Phase::Committing;
                self.lanes.checkpoint = Some(CheckpointStep::Commit);
            }
            phase => self.checkpoint.phase = phase,
        }
    }

    fn begin_checkpoint_when_due(&mut self) {
        let dirty_bytes = self.records.table.dirty() as u64 * LEAST_DIRTY_BYTES;
        let due = self.journal_bytes().max(dirty_bytes) >= self.journal_limit_bytes();
        let rests = self.now.mono_us < self.checkpoint.not_before_us;
        if !(due || self.checkpoint.wanted) || rests || self.storage_problem.is_some() {
            return;
        }
        self.checkpoint.wanted = false;
        self.checkpoint.number += 1;
        self.checkpoint.replayed = 0;
        self.checkpoint.under_way = 0;
        self.checkpoint.shadows.clear();
        self.checkpoint.gone.clear();
        self.lanes.rotate = true;
        self.lanes.checkpoint = Some(CheckpointStep::Begin);
        self.append_snapshot();
        // What is repeated in each segment must not by itself ask for the next one.
        self.checkpoint.began_at = self.end();
        self.rely_on_journal();
        for link in self.peers.iter_mut().filter_map(|peer| peer.link.as_mut()) {
            link.checkpoint_began(self.checkpoint.number);
        }
        self.checkpoint.phase = Phase::Walking(Vec::new(), Vec::new());
    }

    /// The checkpoint must not commit before the journal is durable up to here.
    fn rely_on_journal(&mut self) {
        self.checkpoint.relies_on = self.end();
        self.lanes.sync = true;
    }

    /// The small state, so that the segments before can be dropped.
    fn append_snapshot(&mut self) {
        let mut out = std::mem::take(&mut self.lanes.journal);
        journal::append(&mut out, &Entry::Reservation(self.clock.reservation()));
        for peer in &self.peers {
            if let Some((incarnation, life)) = peer.life {
                journal::append(&mut out, &Entry::Life(peer.member, incarnation, life));
            }
            for (incarnation, position) in peer.ends.iter() {
                journal::append(&mut out, &Entry::Told(peer.member, incarnation, position));
            }
        }
        for (member, key) in self.hints.iter() {
            journal::append(&mut out, &Entry::Hint(member, key.clone()));
        }
        if let Some(found) = self.rebuilding.found() {
            journal::append(&mut out, &Entry::Rebuild(found.until, found.incarnation));
        }
        self.lanes.journal = out;
        self.name_life();
        self.append_unsettled();
        self.note_complete();
    }

    fn next_batch(&mut self, collection: Vec<u8>, key: Vec<u8>) {
        let start = (&collection[..], &key[..]);
        let ids: Vec<SlotId> = self.records.table.iter_from(start, true).take(BATCH_SLOTS).collect();
        let (mut batch, mut last) = (Batch::default(), None);
        let repeated_from = self.lanes.journal.len();
        for id in &ids {
            let table = &mut self.records.table;
            if table.has(*id, DIRTY) && table.has_any(*id, UNRESOLVED | SETTLED) {
                if let Some(record) = table.record(*id) {
                    journal::append(&mut self.lanes.journal, &Entry::Record(record));
                    if table.has(*id, SETTLED)
                        && let Ok(key) = record.key_ref()
                    {
                        let entry = Entry::TombstoneSettled(HintKey::of(key), record.timestamp());
                        journal::append(&mut self.lanes.journal, &entry);
                    }
                }
            } else if table.has(*id, DIRTY) {
                if table.has(*id, SHADOW) {
                    batch.hides = true;
                    self.checkpoint.shadows.push(*id);
                }
                table.hand_out(*id, self.checkpoint.number);
                self.counters.checkpoint_records += 1;
                if let Some(record) = table.record(*id) {
                    if table.has(*id, GONE) {
                        batch.removed.push((record.collection().to_owned(), record.key().to_vec()));
                        self.checkpoint.gone.push(*id);
                    } else {
                        batch.records.extend_from_slice(record.bytes());
                    }
                }
            }
            last = Some(*id);
            if batch.records.len() + self.lanes.journal.len() - repeated_from >= BATCH_BYTES {
                break;
            }
        }
        let names = last.and_then(|id| self.records.table.record(id));
        let names = names.map(|record| (record.collection_bytes().to_vec(), record.key().to_vec()));
        let at_end = ids.len() < BATCH_SLOTS && last == ids.last().copied();
        if self.lanes.journal.len() > repeated_from {
            self.rely_on_journal();
        }
        let (collection, key) = names.unwrap_or((collection, key));
        self.checkpoint.phase = Phase::Walking(collection, key);
        if batch != Batch::default() {
            self.checkpoint.under_way += 1;
            self.lanes.checkpoint = Some(CheckpointStep::Batch(batch));
        } else if at_end {
            self.checkpoint.phase = Phase::Walked;
        }
    }

    /// A batch is in redb's transaction; these are the older records that it replaced or removed, unless it hides none.
    pub fn checkpoint_batch(&mut self, replaced: &[Replaced]) {
        self.checkpoint.under_way = self.checkpoint.under_way.saturating_sub(1);
        for old in replaced {
            if let Some(id) = self.records.table.find_shadow(old.hash) {
                self.records.unshadow(id, old.element);
            }
        }
    }

    /// Redb has committed; whether the journal's old segments are gone already does not matter.
    pub fn checkpoint_committed(&mut self) {
        for id in std::mem::take(&mut self.checkpoint.shadows) {
            self.records.table.clear_flags(id, SHADOW);
        }
        for id in std::mem::take(&mut self.checkpoint.gone) {
            if self.records.table.has(id, GONE) && !self.records.table.has(id, DIRTY) {
                self.records.table.remove(id);
            }
        }
        self.checkpoint.committed = self.checkpoint.number;
        self.checkpoint.phase = Phase::Idle;
        self.counters.checkpoints += 1;
    }

    /// Redb could not commit: everything that was handed out is dirty again, and the journal is
    /// kept. A next checkpoint is tried after a second.
    pub fn checkpoint_failed(&mut self) {
        self.records.table.take_back(self.checkpoint.number);
        self.checkpoint.shadows.clear();
        self.checkpoint.gone.clear();
        self.checkpoint.phase = Phase::Idle;
        self.checkpoint.wanted = true;
        self.checkpoint.not_before_us = self.now.mono_us + 1_000_000;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::copying::tests::record;
    use crate::engine::operation::{Change, Write};
    use crate::engine::watch::tests::{alone_with, turn};
    use crate::model::KeyRef;
    use crate::model::settings::Level;

    const BOUNDS: (u64, u64) = (4_000, 20_000);
    /// Bytes of journal that a write takes, at most.
    const WRITE: u64 = 300;

    /// How long the journal was, but for the last write, when a checkpoint began, with so many records in memory, of which writes of so many bytes
    /// change `keys`; and the bytes of all records then.
    fn begins_at(records: usize, keys: usize, bytes: usize) -> (u64, u64) {
        let (journal_bytes, journal_most_bytes) = BOUNDS;
        let bounds = Bounds { journal_bytes, journal_most_bytes, ..Bounds::default() };
        let mut engine = alone_with(bounds, (0..records).map(record));
        let value = vec![7; bytes];
        for number in (0..keys).cycle() {
            let key = format!("key {number}");
            let key = KeyRef::new("default", key.as_bytes()).unwrap();
            let change = Change::Set { value: &value, expiry_ms: None };
            engine.write(1, Write { key, change, level: Some(Level::One), after: 0 });
            let (journal, records) = (engine.journal_bytes(), engine.records.table.bytes() as u64);
            turn(&mut engine);
            if engine.is_checkpointing() {
                return (journal, records);
            }
        }
        unreachable!("a journal grows for ever")
    }

    #[test]
    fn the_journal_becomes_as_long_as_the_records_in_memory_within_its_bounds() {
        let (least, most) = BOUNDS;
        let (short, _) = begins_at(0, 1, 100);
        assert!(short.abs_diff(least) < WRITE, "{short}");
        let (middle, records) = begins_at(150, 1, 100);
        assert!((2 * least..most).contains(&records), "a number of records that shows something: {records}");
        assert!(middle.abs_diff(records) < WRITE, "{middle} for {records}");
        let (long, _) = begins_at(2_000, 1, 100);
        assert!(long.abs_diff(most) < WRITE, "{long}");
    }

    #[test]
    fn many_small_records_ask_for_a_checkpoint_before_the_journal_is_long() {
        let (journal, _) = begins_at(0, 1_000, 0);
        assert!(journal < BOUNDS.0, "{journal}");
    }
}
