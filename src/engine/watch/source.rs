//! The source's side: who is told of changes, and telling them once a turn.

use super::super::Engine;
use super::super::hints::HintKey;
use super::super::loads::Waiter;
use super::super::operation::Row;
use super::super::peer::Link;
use super::super::scan::has_bit;
use super::super::table::{SlotId, Table, UNRESOLVED};
use super::super::write::Origin;
use super::interests::{Interests, Matching};
use super::{Gap, MAX_OUTPUT_BYTES, MAX_WATCHES, Output};
use crate::engine::Mode;
use crate::model::limits::{MAX_COLLECTION_BYTES, MAX_KEY_BYTES};
use crate::model::{KeyHash, KeyRef, MemberId, RecordRef};
use crate::protocol::message::{Failure, Message, Notice, Reply};
use crate::protocol::watch::{ChangeKind, Form, Interest, NamedChange, WatchRequest};
use std::collections::BTreeMap;

/// Bytes of changes in one message, if there is more than one of them.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of messages that may wait for a peer before its watches end.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Changes without values in one message: with the longest names they fit into a frame.
const CHANGES_AT_ONCE: usize = 1_024;
/// Milliseconds after which what could not be loaded although its time is over is tried again.
const RELOAD_MS: u64 = 1_000;
/// Records that expire in one tick because they are watched.
const EXPIRED_AT_ONCE: usize = 4_096;

/// The partitions of a set: bit p of byte p/8.
pub(super) fn partitions_of(bits: &[u8]) -> impl Iterator<Item = u16> + '_ {
    let count = u16::try_from(8 * bits.len()).unwrap_or(u16::MAX);
    (0..count).filter(|partition| has_bit(bits, *partition))
}

/// The record in a slot, and its names.
fn named(table: &Table, slot: SlotId) -> Option<(RecordRef<'_>, KeyRef<'_>)> {
    let record = table.record(slot)?;
    Some((record, record.key_ref().ok()?))
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// A feed of this member.
    Feed(u64),
    /// A peer, by the link that asked and its own name for the watch.
    Peer { member: MemberId, link: u64, watch: u64 },
}

/// Somebody who is told of changes.
#[derive(Debug)]
struct Watch {
    to: To,
    interest: Interest,
    form: Form,
    partitions: Vec<u8>,
    /// What is told at the end of this turn: records in pieces, and changes; and their bytes.
    chunks: Vec<Vec<u8>>,
    changes: Vec<NamedChange>,
    bytes: usize,
    /// There was no room for all that it was to be told.
    overflows: bool,
}

impl Watch {
    /// Adds a record that there is room for.
    fn add_record(&mut self, bytes: &[u8]) {
        let fits = |chunk: &&mut Vec<u8>| chunk.len() + bytes.len() <= CHUNK_BYTES;
        match self.chunks.last_mut().filter(fits) {
            Some(chunk) => chunk.extend_from_slice(bytes),
            None => self.chunks.push(bytes.to_vec()),
        }
    }
}

/// What is to be told of one turn. One change may be of interest to thousands, each with a copy of its own, so bytes
/// are counted before they are copied.
#[derive(Debug, Default)]
struct Gathered {
    /// Watches with something to tell.
    touched: Vec<u64>,
    /// Bytes for feeds of this member, those of outputs that wait already among them.
    own: usize,
    peers: BTreeMap<MemberId, usize>,
}

impl Gathered {
    /// Whether there is room for so many more bytes for a watch. If not, it ends with this turn and what was gathered
    /// for it makes room for others.
    fn admits(&mut self, id: u64, watch: &mut Watch, bytes: usize) -> bool {
        if watch.overflows {
            return false;
        }
        let (sum, most) = match watch.to {
            To::Feed(_) => (&mut self.own, MAX_OUTPUT_BYTES),
            To::Peer { member, .. } => (self.peers.entry(member).or_default(), MAX_WAITING_BYTES),
        };
        if watch.bytes == 0 {
            self.touched.push(id);
        }
        let bytes = bytes + size_of::<Output>();
        if *sum + bytes <= most {
            watch.bytes += bytes;
            *sum += bytes;
            return true;
        }
        *sum -= watch.bytes;
        (watch.chunks, watch.changes, watch.overflows) = (Vec::new(), Vec::new(), true);
        false
    }
}

/// Everybody who is told of changes.
#[derive(Debug, Default)]
pub(super) struct Told {
    watches: BTreeMap<u64, Watch>,
    interests: Interests,
    /// Those of peers, by the peer and its name for them.
    of_peers: BTreeMap<(MemberId, u64), u64>,
    /// Names of peers' watches begin here, apart from those of this member's own.
    last: u64,
    gathered: Gathered,
}

impl Told {
    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }

    /// Tells a feed of this member from now on.
    pub(super) fn add_own(
        &mut self,
        watch: u64,
        feed: u64,
        interest: &Interest,
        form: Form,
        partitions: Vec<u8>,
    ) {
        self.add(watch, To::Feed(feed), interest, form, partitions);
    }

    fn add(&mut self, id: u64, to: To, interest: &Interest, form: Form, partitions: Vec<u8>) {
        self.interests.add(interest, id);
        let interest = interest.clone();
        let (chunks, changes) = (Vec::new(), Vec::new());
        let watch = Watch { to, interest, form, partitions, chunks, changes, bytes: 0, overflows: false };
        self.watches.insert(id, watch);
    }

    /// Tells somebody nothing any more; says who that was.
    fn take_out(&mut self, id: u64) -> Option<To> {
        let watch = self.watches.remove(&id)?;
        self.interests.remove(&watch.interest, id);
        if let To::Peer { member, watch, .. } = watch.to {
            self.of_peers.remove(&(member, watch));
        }
        Some(watch.to)
    }

    /// Tells somebody nothing any more.
    pub(super) fn remove(&mut self, id: u64) {
        self.take_out(id);
    }

    fn ids_where(&self, fits: impl Fn(&Watch) -> bool) -> Vec<u64> {
        self.watches.iter().filter(|(_, watch)| fits(watch)).map(|(id, _)| *id).collect()
    }
}

impl Engine {
    /// A peer asks to be told of changes.
    pub(in crate::engine) fn watch_for_peer(
        &mut self,
        origin: Origin,
        request: WatchRequest,
        same_placement: bool,
    ) {
        let Origin::Peer { member, link, .. } = origin else { return };
        if !same_placement {
            return self.reply(origin, Reply::Failed(Failure::Placement));
        }
        let WatchRequest { watch, interest, form, partitions } = request;
        let collection = interest.collection.as_deref();
        let names_fit = interest.prefix.len() <= MAX_KEY_BYTES
            && collection.is_none_or(|collection| collection.len() <= MAX_COLLECTION_BYTES);
        let count = self.placement.partitions();
        let is_set = partitions.len() == count.div_ceil(8)
            && partitions_of(&partitions).all(|partition| usize::from(partition) < count);
        let me = self.identity.member;
        let vouches =
            is_set && partitions_of(&partitions).all(|partition| self.is_complete_at(me, partition));
        let serves = matches!(self.mode, Mode::Starting | Mode::Serving);
        let has_room = self.watches.told.len() < MAX_WATCHES;
        if !(serves && names_fit && vouches && has_room) {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        self.unwatch(member, watch);
        let told = &mut self.watches.told;
        told.last += 1;
        // The upper half is theirs: own watches are counted from below.
        let id = 1 << 63 | told.last;
        told.of_peers.insert((member, watch), id);
        told.add(id, To::Peer { member, link, watch }, &interest, form, partitions);
        self.records.noted.set_active(true);
        self.reply(origin, Reply::Watching);
    }

    /// A peer does not want to be told any more.
    pub(in crate::engine) fn unwatch(&mut self, member: MemberId, watch: u64) {
        if let Some(id) = self.watches.told.of_peers.get(&(member, watch)).copied() {
            self.watches.told.remove(id);
        }
    }

    /// The link to a peer is gone, and with it what was to be told over it.
    pub(in crate::engine) fn watcher_lost(&mut self, member: MemberId) {
        let is_its = |watch: &Watch| matches!(watch.to, To::Peer { member: other, .. } if other == member);
        for id in self.watches.told.ids_where(is_its) {
            self.watches.told.remove(id);
        }
    }

    /// This member can't vouch for a partition any more, if only for a moment: what it tells of it from now on might be
    /// older than what it told before. Watches of it end with this turn.
    pub(in crate::engine) fn unvouch(&mut self, partition: u16) {
        if self.records.noted.is_active() {
            self.watches.unvouched.insert(partition);
        }
    }

    /// Tells what changed in this turn.
    pub(in crate::engine) fn tell_changes(&mut self) {
        if self.records.noted.is_active() {
            self.tell_noted();
        }
        // Peers tell as well, also where nobody is told anything here.
        if self.watches.output_bytes > MAX_OUTPUT_BYTES {
            self.outputs_lost();
        }
    }

    fn tell_noted(&mut self) {
        let unvouched = std::mem::take(&mut self.watches.unvouched);
        if !unvouched.is_empty() {
            let lost = |watch: &Watch| unvouched.iter().any(|lost| has_bit(&watch.partitions, *lost));
            self.end_watches(&self.watches.told.ids_where(lost), Gap::Source);
        }
        // Before what changed: that may have come back since.
        for (expiry_ms, hash, names) in self.records.noted.take_evicted() {
            if names.key().is_some_and(|key| self.is_watched(key)) {
                self.watches.expiries.note(expiry_ms, hash, Some(names));
            }
        }
        self.watches.told.gathered.own = self.watches.output_bytes;
        match self.records.noted.take() {
            Some(changes) => {
                self.gather_changes(&changes);
                self.records.noted.recycle(changes);
            }
            None => self.end_watches(&self.watches.told.ids_where(|_| true), Gap::Overflow),
        }
        let mut touched = std::mem::take(&mut self.watches.told.gathered).touched;
        for id in touched.drain(..) {
            self.tell(id);
        }
        self.watches.told.gathered.touched = touched;
        if self.watches.told.len() == 0 {
            self.records.noted.set_active(false);
            self.watches.expiries.clear();
        }
    }

    /// Gathers what is to be told of changed slots: each change by itself, in the order in which they came, and once a
    /// slot its record as it is now.
    fn gather_changes(&mut self, changes: &[(SlotId, ChangeKind)]) {
        let mut matching = Matching::new();
        let mut latest: Vec<SlotId> = Vec::new();
        for (slot, kind) in changes {
            let Some((record, key)) = named(&self.records.table, *slot) else { continue };
            let (hash, is_system) = (self.records.table.hash(*slot), key.is_system());
            let partition = self.placement.partition_of(key, hash);
            let told = &mut self.watches.told;
            told.interests.find(key, &mut matching);
            let mut is_latest = false;
            for id in &matching {
                let Some(watch) = told.watches.get_mut(id) else { continue };
                match watch.form {
                    _ if !is_system && !has_bit(&watch.partitions, partition) => {}
                    Form::Latest => is_latest = true,
                    Form::Each(kinds) if kinds.has(*kind) => {
                        let (collection, key) = (record.collection(), record.key());
                        let bytes = size_of::<NamedChange>() + collection.len() + key.len();
                        if told.gathered.admits(*id, watch, bytes) {
                            let (collection, key) = (collection.to_owned(), key.to_vec());
                            watch.changes.push(NamedChange { kind: *kind, collection, key });
                        }
                    }
                    Form::Each(_) => {}
                }
            }
            if is_latest {
                latest.push(*slot);
            }
            if let Some(expiry_ms) = record.expiry_ms().filter(|_| !matching.is_empty()) {
                self.watches.expiries.note(expiry_ms, hash, None);
            }
        }
        latest.sort_unstable();
        latest.dedup();
        for slot in latest {
            self.gather_latest(slot, &mut matching);
        }
    }

    fn gather_latest(&mut self, slot: SlotId, matching: &mut Matching) {
        // What is unresolved again is told once redb has answered.
        if self.records.table.has(slot, UNRESOLVED) {
            return;
        }
        let Some((record, key)) = named(&self.records.table, slot) else { return };
        let partition = self.placement.partition_of(key, self.records.table.hash(slot));
        let is_system = key.is_system();
        let told = &mut self.watches.told;
        told.interests.find(key, matching);
        for id in matching.iter() {
            let Some(watch) = told.watches.get_mut(id) else { continue };
            if watch.form != Form::Latest || !is_system && !has_bit(&watch.partitions, partition) {
                continue;
            }
            if told.gathered.admits(*id, watch, record.bytes().len()) {
                watch.add_record(record.bytes());
            }
        }
    }

    /// Tells somebody what was gathered in this turn.
    fn tell(&mut self, id: u64) {
        let Some(watch) = self.watches.told.watches.get_mut(&id) else { return };
        if watch.overflows {
            return self.end_watches(&[id], Gap::Overflow);
        }
        let to = watch.to;
        watch.bytes = 0;
        let (chunks, changes) = (std::mem::take(&mut watch.chunks), std::mem::take(&mut watch.changes));
        match to {
            To::Feed(feed) => {
                for records in chunks {
                    self.watches.output(Output::Changed { feed, records });
                }
                if !changes.is_empty() {
                    self.watches.output(Output::Named { feed, changes });
                }
            }
            To::Peer { member, link, watch } => {
                let mut notices: Vec<Notice> =
                    chunks.into_iter().map(|records| Notice::Changed { watch, records }).collect();
                let named = changes.chunks(CHANGES_AT_ONCE);
                notices.extend(named.map(|changes| Notice::Named { watch, changes: changes.to_vec() }));
                self.tell_peer(id, member, link, notices);
            }
        }
    }

    fn tell_peer(&mut self, id: u64, member: MemberId, link: u64, notices: Vec<Notice>) {
        let link = self.peer(member).and_then(|peer| peer.link.as_ref()).filter(|known| known.id == link);
        let Some(waiting) = link.map(Link::waiting_message_bytes) else {
            return self.watches.told.remove(id);
        };
        if waiting > MAX_WAITING_BYTES {
            return self.end_watches(&[id], Gap::Overflow);
        }
        for notice in notices {
            if !self.send_message(member, &Message::Notice(notice)) {
                return self.end_watches(&[id], Gap::Overflow);
            }
        }
    }

    /// Partitions are numbered anew: nobody is told of changes by the former numbers.
    pub(super) fn end_all_watches(&mut self) {
        self.watches.unvouched.clear();
        self.end_watches(&self.watches.told.ids_where(|_| true), Gap::Moved);
    }

    /// Tells nothing more to some, but that: to feeds of this member for a reason, peers find out another source.
    fn end_watches(&mut self, ids: &[u64], reason: Gap) {
        for id in ids {
            match self.watches.told.take_out(*id) {
                Some(To::Feed(feed)) => self.gap(feed, reason),
                Some(To::Peer { member, link, watch }) if self.has_link(member, link) => {
                    self.send_message(member, &Message::Notice(Notice::WatchEnded { watch }));
                }
                _ => {}
            }
        }
    }

    /// Changes that a peer told of a watch of this member's.
    pub(in crate::engine) fn peer_changed(&mut self, member: MemberId, watch: u64, records: Vec<u8>) {
        if let Some(feed) = self.feed_at_peer(member, watch) {
            self.watches.output(Output::Changed { feed, records });
        }
    }

    /// Changes without their values that a peer told of a watch of this member's.
    pub(in crate::engine) fn peer_named(&mut self, member: MemberId, watch: u64, changes: Vec<NamedChange>) {
        if let Some(feed) = self.feed_at_peer(member, watch) {
            self.watches.output(Output::Named { feed, changes });
        }
    }

    /// Whether anybody watches a key.
    fn is_watched(&self, key: KeyRef<'_>) -> bool {
        let mut matching = Matching::new();
        self.watches.told.interests.find(key, &mut matching);
        !matching.is_empty()
    }

    /// Records are listed, maybe for a watch: whatever of them is watched expires in time.
    pub(in crate::engine) fn note_listed(&mut self, collection: &str, rows: &[Row]) {
        if !self.records.noted.is_active() {
            return;
        }
        for row in rows {
            let (Some(expiry_ms), Ok(key)) = (row.expiry_ms(), KeyRef::new(collection, row.key())) else {
                continue;
            };
            if self.is_watched(key) {
                let hash = key.hash();
                let names = self.records.table.find(key, hash).is_none().then(|| HintKey::of(key));
                self.watches.expiries.note(expiry_ms, hash, names);
            }
        }
    }

    /// What is watched and whose time is over becomes a tombstone now, wherever the sweep is.
    pub(in crate::engine) fn expire_watched(&mut self) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some((hash, names)) = self.watches.expiries.pop(self.wall_ms) else { return };
            if let Some(slot) = self.records.table.find_hash(hash) {
                self.expire_loaded(Some(slot));
            } else if let Some(key) = names.as_ref().and_then(HintKey::key) {
                self.load_then(key, hash, Waiter::Expire);
            }
        }
    }

    /// What was loaded because its time is over becomes a tombstone, unless it was changed meanwhile.
    pub(in crate::engine) fn expire_loaded(&mut self, slot: Option<SlotId>) {
        if let Some(slot) = slot {
            self.counters.expired += u64::from(self.records.expire_slot(slot, self.wall_ms));
        }
    }

    /// What could not be loaded although its time is over is tried again, unless it was written anew.
    pub(in crate::engine) fn expire_later(&mut self, key: KeyRef<'_>, hash: KeyHash) {
        if self.records.table.find(key, hash).is_some() {
            return;
        }
        self.watches.expiries.note(self.wall_ms + RELOAD_MS, hash, Some(HintKey::of(key)));
    }
}
