//! Starting again: from redb's records and the journal's entries to the state before.

use super::Engine;
use super::hints::Added;
use super::journal::{self, Entry, JournalError};
use super::rebuilding::Found;
use super::table::FOUND;
use crate::model::clock::Clock;
use crate::model::key::SETTINGS;
use crate::model::placement::Layout;
use crate::model::settings::log::Log;
use crate::model::{KeyRef, MemberId, RecordRef};
use std::sync::Arc;

impl Engine {
    /// Takes the settings that redb holds, before anything else: they tell which collections are placed by themselves, and so
    /// into which trees each record goes. What only the journal tells of is sorted out later.
    pub fn restore_layout<'a>(&mut self, settings: impl Iterator<Item = RecordRef<'a>>) {
        let live = settings.filter(|record| record.collection() == SETTINGS && record.kind().is_live());
        let log = Log::from_records(live.map(|record| (record.key(), record.body(), record.timestamp())));
        let factors = log.in_force().settings.factors_in_force;
        let bits = self.placement.partition_bits();
        self.records.lay_out(Arc::new(Layout::new(bits, factors.keys().map(String::as_str))));
    }

    /// Takes one record that redb holds, verified. Before all of the journal.
    pub fn restore_record(&mut self, record: RecordRef<'_>) {
        self.records.restore(record, self.bounds.table_bytes);
        self.rebuilding.note_found(record);
        self.note_system(record);
    }

    /// Takes one payload of the journal, in the order in which they were appended.
    ///
    /// # Errors
    /// [`JournalError`] when it holds what this version does not know; the start must not go on.
    pub fn restore_journal(&mut self, payload: &[u8]) -> Result<(), JournalError> {
        let mut left = payload.len();
        for entry in journal::entries(payload) {
            let (entry, after) = entry?;
            let own_bytes = (left - after) as u64;
            left = after;
            match entry {
                Entry::Record(record) => {
                    self.counters.replayed_records += 1;
                    let hash = record.key_hash();
                    let (slot, _, unresolved) = self.records.apply(record, hash);
                    self.records.table.add_flags(slot, FOUND);
                    self.rebuilding.note_found(record);
                    if unresolved && let Ok(key) = record.key_ref() {
                        self.resolve_later(key, hash);
                    }
                    self.note_system(record);
                    self.settling.replayed_record(hash);
                }
                Entry::Mark => self.settling.replayed_mark(),
                Entry::Settled => self.settling.replayed_settled(),
                Entry::TombstoneSettled(key, stamp) => {
                    if let Some(key) = key.key() {
                        self.records.settle(key, key.hash(), stamp);
                    }
                }
                Entry::Forgotten(key, stamp) => {
                    if let Some(key) = key.key() {
                        self.records.forget(key, key.hash(), stamp);
                    }
                }
                Entry::Reservation(time) => {
                    self.clock = Clock::after_reservation(self.identity.member, self.clock.time().max(time));
                }
                Entry::Hint(member, key) => {
                    let hash = key.key().map(KeyRef::hash).unwrap_or_default();
                    let added = self.hints.add(member, hash, key, u64::MAX);
                    debug_assert_ne!(added, Added::NoRoom);
                }
                Entry::HintDone(member, key) => {
                    let hash = key.key().map(KeyRef::hash).unwrap_or_default();
                    self.hints.done(member, hash, None);
                }
                Entry::Place { incarnation, position, ends } => {
                    self.replayed_place(incarnation, position.saturating_sub(own_bytes), ends);
                }
                Entry::Life(member, incarnation, life) => self.restore_life(member, incarnation, life),
                Entry::Told(member, incarnation, position) => self.told_of(member, incarnation, position),
                Entry::Rebuild(until, incarnation) => {
                    self.rebuilding.restore(Some(Found { until, incarnation }))
                }
                Entry::Rebuilt => self.rebuilding.restore(None),
                Entry::Complete(bits) => {
                    for (partition, complete) in self.complete.iter_mut().enumerate() {
                        *complete =
                            bits.get(partition / 8).is_some_and(|byte| byte >> (partition % 8) & 1 == 1);
                    }
                    self.complete_of = std::mem::take(&mut self.complete_next);
                }
                Entry::CompleteOf(collection, bits) => {
                    self.complete_next.insert(collection.to_owned(), bits.to_vec());
                }
            }
            self.replayed_bytes(own_bytes);
        }
        Ok(())
    }

    fn restore_life(&mut self, member: MemberId, incarnation: u64, life: u64) {
        let at = self.peer_at(member);
        if let Some(peer) = self.peers.get_mut(at)
            && peer.life.is_none_or(|(seen, _)| incarnation >= seen)
        {
            peer.life = Some((incarnation, life));
        }
    }

    /// Some records were lost, and the roster may have been among them: other members were let in. So
    /// this member is complete for nothing while the roster names nobody to compare with.
    pub fn distrust_roster(&mut self) {
        self.roster_distrusted = true;
        self.complete.fill(false);
        self.complete_of.clear();
        self.plan_copying();
    }

    /// Whether kith's own records may have been lost too.
    #[must_use]
    pub const fn distrusts_roster(&self) -> bool {
        self.roster_distrusted
    }

    /// The journal repeats as hints what was on its way when a checkpoint began, however much that was. There
    /// need be no more of them than have room; but what this member does not own itself is nowhere else, maybe.
    fn trim_hints(&mut self) {
        let (me, placement) = (self.identity.member, &self.placement);
        let owns = |key: KeyRef<'_>| placement.set_of(key, key.hash()).contains(me);
        self.hints.trim(self.settings.hint_bytes, owns);
    }

    /// Ends the restoring. `journal_bytes` is what the journal still holds; `intact` tells that
    /// nothing was cut off or set aside, else every partition is incomplete until it was copied.
    pub fn restored(&mut self, journal_bytes: u64, intact: bool) {
        // What was not told to its end never held.
        self.complete_next.clear();
        self.begin_life();
        // What is stamped from now on is told from what was found by its time.
        self.follow(self.rebuilding.latest_found());
        self.refresh_placement();
        // It may know fewer classes than redb told of, if the journal took some back.
        self.records.regroup(Arc::clone(self.placement.layout()));
        self.refresh_tokens();
        if !intact || self.rebuilding.is_active() {
            let alone = self.roster.len() <= 1;
            self.complete.fill(alone);
        }
        self.plan_copying();
        self.trim_hints();
        self.hint_unsettled();
        self.checkpoint.set_replayed(journal_bytes);
        self.wait_out_reservation();
        self.begin_catching_up();
    }
}
