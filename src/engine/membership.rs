//! Membership as the engine sees it: system records, placement, completeness, and the copying that
//! makes an owner complete.
//!
//! Roster and settings are records like any other; merging one of them changes the placement at
//! the end of the turn. Whoever finds that a peer's placement differs exchanges all system records
//! with it.
//!
//! How an owner becomes *complete* for a partition is left to `copying`; what follows from it is
//! here: it is made durable and told to the peers, and a joining member that is complete for all its
//! partitions turns itself active.

use super::Engine;
use super::journal::{self, Entry};
use super::operation::Change;
use super::peer::{Link, Peer};
use crate::model::key::{ROSTER, SECRETS, SETTINGS, SYSTEM_PREFIX, TOKENS};
use crate::model::placement::Placement;
use crate::model::roster::{MemberState, Roster, RosterEntry, entry_key};
use crate::model::rotation::Rotations;
use crate::model::settings::Settings;
use crate::model::settings::log::{Applied, InForce, Log};
use crate::model::token::Tokens;
use crate::model::{KeyRef, MemberId, Record, RecordRef, Timestamp};
use std::sync::Arc;

/// Microseconds between two exchanges of system records with one peer.
pub(super) const EXCHANGE_US: u64 = 200_000;
/// Microseconds for which a peer's placement may be another one before system records are exchanged for it: what changed comes
/// to both by itself, mostly.
pub(super) const DISAGREE_US: u64 = 50_000;
/// The token of writes that nobody waits for.
pub const NOBODY: u64 = u64::MAX;

impl Engine {
    /// Makes this member the first of a new cluster, with these system records: collection, key and
    /// value of each.
    pub fn create(&mut self, entries: &[(&str, Vec<u8>, Vec<u8>)]) {
        let records = self.stamp_first_records(entries);
        self.store_first_records(&records);
    }

    /// The first records of a cluster as canonical bytes, one after the other, with the stamps that
    /// they keep. Nothing is stored yet.
    pub fn stamp_first_records(&mut self, entries: &[(&str, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut records = Vec::new();
        for (collection, key, value) in entries {
            if let Ok(key) = KeyRef::new(collection, key) {
                let timestamp = self.clock.stamp(self.now.wall_ms, 0);
                records.extend_from_slice(Record::value(key, timestamp, None, value).view().bytes());
            }
        }
        records
    }

    /// Stores the first records of a cluster, whose only member this is. Doing it again with the same
    /// records changes nothing. Gives the position of the journal at which they are all in it.
    pub fn store_first_records(&mut self, records: &[u8]) -> u64 {
        self.take_system(records);
        if let Some(time) = self.clock.wants_reservation() {
            journal::append(&mut self.lanes.journal, &Entry::Reservation(time));
            let end = self.end();
            self.reservations.push_back((end, time));
        }
        self.lanes.sync = true;
        self.refresh_placement();
        self.complete.fill(true);
        self.plan_copying();
        self.note_complete();
        self.end()
    }

    /// Fixes the number of partitions, when the cluster is known that this member belongs to. Only
    /// for a member that holds nothing but system records.
    pub fn set_partition_bits(&mut self, partition_bits: u8) {
        if partition_bits == self.placement.partition_bits() {
            return;
        }
        let system = self.system_records();
        self.settings.fit(partition_bits);
        self.placement = Placement::compute(partition_bits, &self.roster, &self.settings);
        self.records = super::records::Records::new(partition_bits);
        self.records.regroup(Arc::clone(self.placement.layout()));
        self.complete = vec![false; self.placement.partitions()];
        let mut rest = &system[..];
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            self.records.apply(record, record.key_hash());
        }
    }

    /// Takes system records of the cluster that this member was let into.
    pub fn welcome(&mut self, records: &[u8]) {
        self.take_system(records);
        self.refresh_placement();
    }

    /// All system records, for a peer or a joiner.
    #[must_use]
    pub fn system_records(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let ids: Vec<_> = self.records.table.iter_from((SYSTEM_PREFIX.as_bytes(), &[]), false).collect();
        for id in ids {
            match self.records.table.record(id) {
                Some(record) if record.collection().starts_with(SYSTEM_PREFIX) => {
                    out.extend_from_slice(record.bytes());
                }
                _ => break,
            }
        }
        out
    }

    /// Merges system records that a peer sent; anything else in there is dropped.
    pub(super) fn take_system(&mut self, records: &[u8]) {
        let mut rest = records;
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            if record.collection().starts_with(SYSTEM_PREFIX) {
                self.follow(record.timestamp().time);
                self.merge(record, record.key_hash());
            }
        }
    }

    /// Looks at a merged record for what the engine itself must know.
    pub(super) fn note_system(&mut self, record: RecordRef<'_>) {
        match record.collection() {
            ROSTER => {
                let value = record.kind().is_live().then(|| record.body());
                self.system_changed |= self.roster.apply(record.key(), value, record.timestamp());
            }
            SETTINGS => self.system_changed = true,
            TOKENS => self.tokens_changed = true,
            SECRETS => self.secrets_changed = true,
            _ => {}
        }
    }

    /// Recomputes settings and placement after system records changed.
    pub(super) fn refresh_placement(&mut self) {
        if !std::mem::take(&mut self.system_changed) {
            return;
        }
        InForce { settings: self.settings, applied: self.applied } = self.read_settings();
        let known = self.roster.get(self.identity.member);
        self.is_leaving = known.is_some_and(|known| known.entry.state == MemberState::Leaving);
        self.lanes.membership_changed = true;
        let placement = Placement::compute(self.placement.partition_bits(), &self.roster, &self.settings);
        if placement.digest() == self.placement.digest() {
            return;
        }
        let before = std::mem::replace(&mut self.placement, placement);
        self.regroup(&before);
        self.quiet.adoptions += 1;
        self.placement_position = self.end();
        self.lanes.sync = true;
        for peer in &mut self.peers {
            (peer.exchange_after_us, peer.disagrees_since_us) = (0, None);
        }
        self.rebase_hints(&before);
        self.rebase_writes();
        self.rebase_gathers();
        self.rebase_feeds();
        self.plan_copying();
        self.compare_anew();
        self.tell_complete(None);
    }

    /// A hint is for a partition's owners of the day: who became one gets it too, and who is none any
    /// more takes no record of it.
    fn rebase_hints(&mut self, before: &Placement) {
        let (mut missing, mut void) = (Vec::new(), Vec::new());
        for (member, key) in self.hints.iter() {
            let Some(name) = key.key() else { continue };
            let hash = name.hash();
            let is_refused = !name.is_system() && self.roster.is_removed(self.identity.member);
            if is_refused || !self.placement.set_of(name, hash).contains(member) {
                void.push((member, hash));
            }
            let were = before.set_of(name, hash);
            let new = self.placement.set_of(name, hash).owners.iter().map(|owner| owner.member);
            let new = new.filter(|owner| !were.contains(*owner) && *owner != self.identity.member);
            if !were.owners.is_empty() {
                missing.extend(new.map(|owner| (owner, hash, key.clone())));
            }
        }
        for (owner, hash, key) in missing {
            self.note_hint_of(owner, hash, key);
        }
        for (member, hash) in void {
            self.hint_done(member, hash, None);
        }
    }

    /// The live records of one of kith's own collections: keys, values and timestamps.
    fn live_entries<'a>(
        records: &'a mut super::records::Records,
        collection: &'static str,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8], Timestamp)> {
        let ids: Vec<_> = records.table.iter_from((collection.as_bytes(), &[]), false).collect();
        let records = &*records;
        let found = ids.into_iter().filter_map(|id| records.table.record(id));
        let live = found.take_while(move |record| record.collection() == collection);
        let live = live.filter(|record| record.kind().is_live());
        live.map(|record| (record.key(), record.body(), record.timestamp()))
    }

    /// Reads the tokens anew after one was made or revoked.
    pub(super) fn refresh_tokens(&mut self) {
        if std::mem::take(&mut self.tokens_changed) {
            let entries = Self::live_entries(&mut self.records, TOKENS);
            self.tokens = Arc::new(Tokens::from_records(entries.map(|(key, value, _)| (key, value))));
        }
    }

    /// The tokens of clients in force; another one once they have changed.
    #[must_use]
    pub const fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The same with what was made and revoked in this turn already: for judging whether another one may be.
    pub fn latest_tokens(&mut self) -> Arc<Tokens> {
        self.refresh_tokens();
        Arc::clone(&self.tokens)
    }

    /// Reads the steps of changing the secret anew after one was written.
    pub(super) fn refresh_rotations(&mut self) {
        if std::mem::take(&mut self.secrets_changed) {
            let entries = Self::live_entries(&mut self.records, SECRETS);
            self.rotations = Arc::new(Rotations::from_records(entries));
            self.lanes.membership_changed = true;
        }
    }

    /// The steps of changing the secret; another one once they have changed.
    #[must_use]
    pub const fn rotations(&self) -> &Arc<Rotations> {
        &self.rotations
    }

    /// The same with what was written in this turn already.
    pub fn latest_rotations(&mut self) -> Arc<Rotations> {
        self.refresh_rotations();
        Arc::clone(&self.rotations)
    }

    /// All changes of settings, as the records tell them.
    #[must_use]
    pub fn settings_log(&mut self) -> Log {
        Log::from_records(Self::live_entries(&mut self.records, SETTINGS))
    }

    fn read_settings(&mut self) -> InForce {
        let mut in_force = self.settings_log().in_force();
        let set_at = in_force.applied.set_at.get("replication_factor").map_or(0, |stamp| stamp.time);
        in_force.settings.replication_factor_time = set_at;
        let factors = in_force.applied.factors_set_at.iter();
        in_force.settings.factor_times = factors.map(|(name, stamp)| (name.clone(), stamp.time)).collect();
        in_force.settings.fit(self.placement.partition_bits());
        in_force
    }

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The members and fences.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Who owns what.
    #[must_use]
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What of the settings' log has effect here, and what has not.
    #[must_use]
    pub const fn settings_applied(&self) -> &Applied {
        &self.applied
    }

    /// The settings with what was changed in this turn already: for judging whether another change may be.
    pub fn latest_settings(&mut self) -> &Settings {
        self.refresh_placement();
        &self.settings
    }

    /// This member can't vouch for a partition any more: it is copied anew.
    pub(super) fn lose_partition(&mut self, partition: u16) {
        // What is being copied anyway needn't begin anew.
        if self.complete.get_mut(usize::from(partition)).is_some_and(std::mem::take) {
            self.unvouch(partition);
            self.plan_copying();
            self.note_complete();
            self.tell_complete(None);
        }
    }

    /// This member can't vouch for anything any more, unless there is nobody else who could.
    pub(super) fn lose_everything(&mut self) {
        let alone = self.roster.len() <= 1;
        self.complete.fill(alone);
        for partition in 0..self.complete.len() {
            self.unvouch(u16::try_from(partition).unwrap_or(u16::MAX));
        }
        self.plan_copying();
        self.note_complete();
        self.tell_complete(None);
    }

    /// A joining member that has everything turns itself active. What it has is judged by all that
    /// it knows: who else turned active may have changed what is everything.
    pub(super) fn activate_when_complete(&mut self) {
        let me = self.identity.member;
        self.refresh_placement();
        if !self.placement.is_arriving(me) {
            return;
        }
        if !self.is_complete() || !self.is_heard() || self.now.mono_us < self.activation_after_us {
            return;
        }
        let Some(member) = self.roster.get(me) else { return };
        if member.entry.state != MemberState::Joining || !self.roster.holds_its_name(me) {
            return;
        }
        // A write that another member stamps takes its time; it ends, one way or the other, by then.
        self.activation_after_us = self.now.mono_us + 2_000 * self.settings.write_timeout_ms;
        let entry = RosterEntry { state: MemberState::Active, ..member.entry.clone() };
        self.write_roster_entry(me, &entry);
    }

    /// Whether any other member can be reached: a joiner alone knows nothing.
    fn is_heard(&self) -> bool {
        self.peers.iter().any(Peer::is_reachable)
    }

    /// Writes a member's roster entry.
    pub fn write_roster_entry(&mut self, member: MemberId, entry: &RosterEntry) {
        let (key, value) = (entry_key(member), entry.encode());
        if let Ok(key) = KeyRef::new(ROSTER, &key) {
            self.write_system(NOBODY, key, Change::Set { value: &value, expiry_ms: None });
        }
    }

    /// Whether every partition that this member owns is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.copying.is_empty()
    }

    /// Partitions that this member is a complete owner of.
    #[must_use]
    pub fn complete_partitions(&self) -> &[bool] {
        &self.complete
    }

    /// Whether a member can be asked now; this one always can.
    #[must_use]
    pub fn can_reach(&self, member: MemberId) -> bool {
        member == self.identity.member || self.peer(member).is_some_and(Peer::is_reachable)
    }

    /// Whether a peer said that it is a complete owner of a partition, under this placement.
    #[must_use]
    pub fn is_complete_at(&self, member: MemberId, partition: u16) -> bool {
        if member == self.identity.member {
            return !self.is_catching_up() && self.complete.get(usize::from(partition)) == Some(&true);
        }
        self.peer(member).is_some_and(|peer| peer.is_complete(partition, self.placement.digest()))
    }

    /// Checks a peer's life against those seen, and remembers it.
    ///
    /// # Errors
    /// The incarnation that was seen, when this life can't be the latest.
    pub fn check_life(&mut self, member: MemberId, incarnation: u64, life: u64) -> Result<(), u64> {
        let at = self.peer_at(member);
        let Some(peer) = self.peers.get_mut(at) else { return Ok(()) };
        match peer.life {
            Some((seen, same)) if incarnation < seen || incarnation == seen && life != same => Err(seen),
            Some((seen, _)) if incarnation == seen => Ok(()),
            _ => {
                peer.life = Some((incarnation, life));
                journal::append(&mut self.lanes.journal, &Entry::Life(member, incarnation, life));
                Ok(())
            }
        }
    }

    /// Hints that wait for a member, and all hints: their number, bytes, and how many found no
    /// room.
    #[must_use]
    pub fn hint_counts(&self, member: MemberId) -> (usize, usize, u64, u64) {
        (self.hints.pending_for(member), self.hints.pending(), self.hints.bytes(), self.hints.dropped())
    }

    /// Records that wait for links or were sent, and that their owners did not confirm after fsync
    /// yet.
    #[must_use]
    pub fn records_under_way(&self) -> usize {
        let links = self.peers.iter().filter_map(|peer| peer.link.as_ref());
        links.map(Link::under_way).sum()
    }

    /// Records in memory, their bytes, and those that no checkpoint has.
    #[must_use]
    pub fn table_counts(&self) -> (usize, usize, usize) {
        (self.records.table.len(), self.records.table.bytes(), self.records.table.dirty())
    }

    /// The collections of the records in memory, `most` of them, with the number of records of each, tombstones
    /// included.
    #[must_use]
    pub fn collections(&self, most: usize) -> Vec<(String, u64)> {
        self.records.table.collections(most)
    }

    /// Records that this member holds, in memory and on the disk, tombstones and kith's own included.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.records.count()
    }

    /// The record of a key in memory as it is, tombstones included; redb may hold an older one, or
    /// one to be merged with it. For checks of what a member holds: readers use
    /// [`Engine::read_now`].
    #[must_use]
    pub fn peek(&self, key: KeyRef<'_>) -> Option<RecordRef<'_>> {
        self.records.table.find(key, key.hash()).and_then(|id| self.records.table.record(id))
    }

    /// The roots of the hash trees, partition by partition.
    pub fn roots(&self) -> impl Iterator<Item = u128> + '_ {
        self.records.trees.roots()
    }

    /// A peer's wall clock minus this member's in milliseconds, whether it is believed dead, and
    /// whether a link is up.
    #[must_use]
    pub fn peer_facts(&self, member: MemberId) -> Option<(Option<i64>, bool, bool)> {
        self.peer(member).map(|peer| (self.clock_offset_ms(peer), peer.dead, peer.link.is_some()))
    }
}
