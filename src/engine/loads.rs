//! Loads: keys that redb must be asked for, and what waits for them.
//!
//! Operations on a key that is being loaded queue behind the load. A load that failed resolves
//! nothing: what can be had elsewhere is asked of others, and what can't is tried again.

use super::hints::HintKey;
use super::operation::OperationError;
use super::read::GatherId;
use super::replicate::Fresh;
use super::table::UNRESOLVED;
use super::write::{Job, Origin};
use super::{Engine, Load};
use crate::model::{KeyHash, KeyRef, MemberId, Record, RecordRef};
use crate::protocol::compare::Compare;
use crate::protocol::frame::Verdict;
use crate::protocol::message::{Failure, Reply, WriteRequest};
use std::collections::BTreeMap;

/// Microseconds until a load that failed is tried again.
const LOAD_RETRY_US: u64 = 1_000_000;
/// While the table is full, of the records that are loaded to be read one in so many stays there: for each that
/// comes another one must go, and most of those that are read now and then are gone before they are read again. One
/// that is read often soon stays.
const STAYS_ONE_IN: u64 = 8;

/// Who waits for a key to be loaded.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A client's local read.
    Read(u64),
    /// A peer's read.
    Peer(Origin),
    /// The local part of a gather.
    Gather(GatherId),
    /// A write that must know what is there.
    Write(Origin, WriteRequest, u64),
    /// A hint to send.
    Hint(MemberId),
    /// The confirmation of a record that a peer sent.
    Fresh(Fresh),
    /// The slot only has to be merged with what redb holds.
    Resolve,
    /// The record is watched and its time is over.
    Expire,
    /// A tombstone is to be settled: has redb anything?
    Absence,
    /// Records that a peer wants, packed hashes of their keys: this is the first.
    Fetch(Origin, Vec<u8>),
}

/// What redb answered for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded<'a> {
    /// The record's canonical bytes, verified.
    Found(&'a [u8]),
    /// It surely has none.
    Absent,
    /// It has one that does not verify: the record is lost here, and others must be asked.
    Damaged,
    /// It could not be read: nobody knows what it has, and it is asked again.
    Failed,
}

/// Keys that are being loaded.
#[derive(Debug, Default)]
pub(super) struct Loads {
    waiting: BTreeMap<HintKey, Vec<Waiter>>,
    /// Records that were loaded to be read while the table was full.
    only_read: u64,
    /// Loads that failed and whose keys can't do without, and when they are tried again.
    failed: Vec<(u64, Load)>,
}

impl Loads {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Keys that are being loaded.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing is being loaded or to be loaded again: no record of the table is unresolved.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.failed.is_empty()
    }

    /// Keys under which the table may have a record that is in no tree before redb has answered.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = KeyRef<'_>> {
        let resolves = |waiters: &[Waiter]| waiters.iter().any(|waiter| matches!(waiter, Waiter::Resolve));
        let waiting = self.waiting.iter().filter(move |(_, waiters)| resolves(waiters));
        let failed = self.failed.iter().filter_map(|(_, load)| KeyRef::new(&load.collection, &load.key).ok());
        waiting.filter_map(|(key, _)| key.key()).chain(failed)
    }

    /// Whether a write of this key waits for a load: later ones wait behind it.
    pub(super) fn has_writer(&self, key: KeyRef<'_>) -> bool {
        let is_write = |waiter: &Waiter| matches!(waiter, Waiter::Write(..));
        !self.waiting.is_empty()
            && self.waiting.get(&HintKey::of(key)).is_some_and(|waiters| waiters.iter().any(is_write))
    }
}
impl Engine {
    /// Loads a key, and lets `waiter` go on then.
    pub(super) fn load_then(&mut self, key: KeyRef<'_>, hash: KeyHash, waiter: Waiter) {
        let waiters = self.loads.waiting.entry(HintKey::of(key)).or_default();
        if waiters.is_empty() {
            self.lanes.loads.push(Load {
                hash,
                collection: key.collection().to_owned(),
                key: key.key().to_vec(),
            });
            self.counters.loads += 1;
        }
        waiters.push(waiter);
    }

    pub(super) fn resolve_later(&mut self, key: KeyRef<'_>, hash: KeyHash) {
        self.load_then(key, hash, Waiter::Resolve);
    }

    /// A load's answer.
    pub fn loaded(&mut self, load: &Load, found: Loaded<'_>) {
        let Ok(key) = KeyRef::new(&load.collection, &load.key) else { return };
        let Some(waiters) = self.loads.waiting.remove(&HintKey::of(key)) else { return };
        let hash = load.hash;
        let record = match found {
            Loaded::Found(bytes) => RecordRef::parse(bytes).ok().map(|(record, _)| record),
            Loaded::Absent | Loaded::Damaged | Loaded::Failed => None,
        };
        let passes_by = record.is_some() && self.passes_by(key, hash, &waiters);
        match (found, record) {
            (Loaded::Failed, _) => {
                let is_unresolved = |slot| self.records.table.has(slot, UNRESOLVED);
                if self.records.table.find(key, hash).is_some_and(is_unresolved) {
                    self.loads.failed.push((self.now.mono_us + LOAD_RETRY_US, load.clone()));
                }
            }
            (Loaded::Damaged, _) | (Loaded::Found(_), None) => {
                self.lose(key, hash);
            }
            (Loaded::Found(_), Some(record)) if passes_by => {
                for waiter in waiters {
                    self.show_loaded(key, hash, waiter, record);
                }
                return;
            }
            (Loaded::Absent | Loaded::Found(_), record) => {
                self.counters.load_misses += u64::from(record.is_none());
                self.records.resolve(key, hash, record);
                for waiter in waiters {
                    self.go_on(key, hash, waiter);
                }
                return;
            }
        }
        for waiter in waiters {
            match (waiter, found) {
                // Nobody can tell what it should be compared with any more.
                (Waiter::Fresh(fresh), Loaded::Damaged | Loaded::Found(_)) => self.release_fresh(fresh, None),
                (Waiter::Expire, Loaded::Failed) => self.expire_later(key, hash),
                (waiter, _) => self.go_without(key, hash, waiter),
            }
        }
    }

    /// Whether a record that was loaded goes to its readers only, not into the table.
    fn passes_by(&mut self, key: KeyRef<'_>, hash: KeyHash, waiters: &[Waiter]) -> bool {
        let reads = |waiter: &Waiter| matches!(waiter, Waiter::Read(_) | Waiter::Peer(_) | Waiter::Gather(_));
        let may_pass_by = self.records.table.bytes() >= self.bounds.table_bytes
            && waiters.iter().all(reads)
            && self.records.table.find_any(key, hash).is_none();
        self.loads.only_read += u64::from(may_pass_by);
        may_pass_by && !self.loads.only_read.is_multiple_of(STAYS_ONE_IN)
    }

    /// Redb's record of a key is damaged: it is taken from others, unless memory has a newer one that replaces it.
    fn lose(&mut self, key: KeyRef<'_>, hash: KeyHash) {
        self.counters.damaged_records += 1;
        let replaces = |slot| !self.records.table.has(slot, UNRESOLVED);
        let is_replaced = self.records.table.find(key, hash).is_some_and(replaces);
        self.records.lose(key, hash);
        if !is_replaced {
            self.lose_partition(self.placement.partition_of(key, hash));
        }
    }

    /// Loads again what could not be read.
    pub(super) fn retry_loads(&mut self) {
        let now = self.now.mono_us;
        for (_, load) in
            self.loads.failed.extract_if(.., |(again_us, _)| *again_us <= now).collect::<Vec<_>>()
        {
            if let Ok(key) = KeyRef::new(&load.collection, &load.key) {
                self.resolve_later(key, load.hash);
            }
        }
    }

    /// What was read here is of no use: others are asked, or told that this member can't tell.
    fn go_without(&mut self, key: KeyRef<'_>, hash: KeyHash, waiter: Waiter) {
        match waiter {
            // What is lost is copied from others, and whoever watches it begins anew.
            Waiter::Resolve | Waiter::Absence | Waiter::Expire => {}
            Waiter::Read(token) => self.read_elsewhere(token, key, hash),
            Waiter::Peer(origin) | Waiter::Fetch(origin, _) => {
                self.reply(origin, Reply::Failed(Failure::NotReady));
            }
            Waiter::Gather(id) => self.read_failed(id),
            Waiter::Write(origin, ..) => {
                let problem = "what is stored under the key could not be read".to_owned();
                self.fail(origin, OperationError::Storage(problem));
            }
            Waiter::Hint(member) => self.hint_again(member, hash),
            Waiter::Fresh(fresh) => self.release_fresh(fresh, Some(Verdict::Storage)),
        }
    }

    /// Gives a record to somebody who reads it.
    fn show_loaded(&mut self, key: KeyRef<'_>, hash: KeyHash, waiter: Waiter, record: RecordRef<'_>) {
        match waiter {
            Waiter::Read(token) if !self.is_complete_for(key, hash) => {
                self.read_one(token, key, hash);
            }
            Waiter::Read(token) => {
                let readable = record.is_readable(self.wall_ms).then(|| Record::copy_of(record));
                self.found(token, readable);
            }
            Waiter::Peer(origin) => self.reply(origin, Reply::Record(Some(record.bytes().to_vec()))),
            Waiter::Gather(id) => self.gather_own(id, Some(Record::copy_of(record))),
            waiter => self.go_on(key, hash, waiter),
        }
    }

    fn go_on(&mut self, key: KeyRef<'_>, hash: KeyHash, waiter: Waiter) {
        let slot = self.records.table.find(key, hash);
        match waiter {
            Waiter::Resolve => {}
            Waiter::Expire => self.expire_loaded(slot),
            Waiter::Absence if slot.is_none() => self.note_absent(hash),
            Waiter::Absence => {}
            Waiter::Fetch(origin, hashes) => {
                self.compare_for_peer(origin, Compare::Fetch { hashes }, true);
            }
            Waiter::Read(token) if !self.is_complete_for(key, hash) => {
                self.read_one(token, key, hash);
            }
            Waiter::Read(token) => {
                let record = slot.and_then(|slot| self.readable(slot));
                self.found(token, record);
            }
            Waiter::Peer(origin) => {
                let record = slot.and_then(|slot| self.records.table.record(slot));
                let record = record.map(|record| record.bytes().to_vec());
                self.reply(origin, Reply::Record(record));
            }
            Waiter::Gather(id) => {
                let own = slot.and_then(|slot| self.records.table.record(slot)).map(Record::copy_of);
                self.gather_own(id, own);
            }
            Waiter::Write(origin, write, give_up_us) => {
                let Some(job) = Job::of(origin, &write, give_up_us) else { return };
                // Meanwhile it may have become no owner, or one that may not look.
                if job.change.extends() && !self.is_complete_for(key, hash) {
                    return match origin {
                        Origin::Client(_) => self.retry_write(origin, write, give_up_us),
                        Origin::Peer { .. } => self.reply(origin, Reply::Failed(Failure::NotReady)),
                    };
                }
                self.stamp_write(Job { is_loaded: true, ..job });
            }
            Waiter::Hint(member) => match slot {
                Some(slot) => self.send_hint(member, slot, hash),
                None => _ = self.hint_done(member, hash, None),
            },
            Waiter::Fresh(fresh) => {
                let record = slot.and_then(|slot| self.records.table.record(slot));
                let winner = record.map(RecordRef::timestamp).filter(|stamp| *stamp > fresh.timestamp);
                if let Some(winner) = winner {
                    self.note_superseded(key, fresh.timestamp, winner);
                }
                self.release_fresh(fresh, winner.map(Verdict::Superseded));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Bounds;
    use crate::engine::copying::tests::record;
    use crate::engine::operation::{Outcome, Read};
    use crate::engine::watch::tests::{alone_with, turn};
    use crate::model::settings::Level;

    const RECORDS: usize = 80;

    /// Reads each of some records that only redb has so many times in turn, so many at a time before any of them is loaded,
    /// and tells how many of them are in memory then.
    fn read_each(times: usize, at_once: usize) -> usize {
        let bounds = Bounds { table_bytes: 0, ..Bounds::default() };
        let mut engine = alone_with(bounds, (0..RECORDS).map(record));
        let before = engine.records.table.len();
        for first in (0..RECORDS).step_by(at_once) {
            for _ in 0..times {
                for number in first..first + at_once {
                    let key = record(number);
                    let key = key.view().key_ref().unwrap();
                    engine.read(number as u64, Read { key, level: Some(Level::One) });
                }
                for load in std::mem::take(&mut engine.lanes.loads) {
                    let number = std::str::from_utf8(&load.key[1..]).unwrap().parse().unwrap();
                    engine.loaded(&load, Loaded::Found(record(number).view().bytes()));
                }
                turn(&mut engine);
                let told = std::mem::take(&mut engine.lanes.completions);
                assert_eq!(told.len(), at_once);
                for completion in told {
                    let Outcome::Found(Some(found)) = completion.outcome else { panic!("{completion:?}") };
                    let number = usize::try_from(completion.token).unwrap();
                    assert_eq!(found.view().bytes(), record(number).view().bytes());
                }
            }
        }
        engine.records.table.len() - before
    }

    #[test]
    fn what_is_read_once_while_the_table_is_full_mostly_passes_by_and_what_is_read_often_stays() {
        for at_once in [1, 8, 16] {
            assert!((1..RECORDS / 4).contains(&read_each(1, at_once)), "{at_once}");
            assert_eq!(read_each(100, at_once), RECORDS, "{at_once}");
        }
    }
}
