//! Pages: walks through redb, a bounded piece at a time.
//!
//! A walk goes through all records in the order of collection and key. It asks for a page, gets
//! what its filter wants of the next records, and is told where to go on. What a page shows was
//! committed when the page was asked for or later; whoever walks knows what the table holds besides. Who wants nothing but
//! records of one collection walks through that one only: a page may still show what comes behind it, and then is the last.

use super::Engine;
use super::anti_entropy::Fetching;
use super::write::Origin;
use crate::model::{KeyRef, RecordRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A collection and a key.
pub type Name = (String, Vec<u8>);

/// Which records a page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageFilter {
    /// Those of one slice, but those of the system.
    Slice(u16),
    /// Those of one collection.
    Collection(String),
    /// Those of some leaves, but those of the system: for each slice a bit for each of its leaves.
    Leaves(Arc<BTreeMap<u16, u64>>),
    /// Tombstones, and what has expired by this wall clock, but those of the system.
    Dead {
        /// Milliseconds since the Unix epoch.
        wall_ms: u64,
    },
    /// All of them.
    Every,
}

/// A page of records to be loaded from redb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageWanted {
    /// Names the page in the answer.
    pub id: u64,
    /// Which records are wanted.
    pub filter: PageFilter,
    /// The logarithm of the number of slices.
    pub partition_bits: u8,
    /// Only records after this collection and key; both are empty at the beginning.
    pub after: Name,
    /// Bytes of records at most, unless the first one has more.
    pub limit_bytes: usize,
}

impl PageWanted {
    /// Whether what is stored under a name belongs on the page. Of bytes that are no record only the
    /// name counts.
    #[must_use]
    pub fn wants(&self, key: KeyRef<'_>, bytes: &[u8]) -> bool {
        match &self.filter {
            PageFilter::Every => true,
            _ if key.is_system() => false,
            PageFilter::Slice(slice) => key.hash().partition(self.partition_bits) == *slice,
            PageFilter::Collection(collection) => key.collection() == collection,
            PageFilter::Leaves(leaves) => {
                let hash = key.hash();
                let bits = leaves.get(&hash.partition(self.partition_bits)).copied().unwrap_or(0);
                bits >> hash.leaf(self.partition_bits) & 1 == 1
            }
            PageFilter::Dead { wall_ms } => {
                RecordRef::parse(bytes).map_or(true, |(record, _)| !record.is_readable(*wall_ms))
            }
        }
    }
}

/// A page of records, from redb.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageFound {
    /// Canonical bytes of verified records, in the order of their names.
    pub records: Vec<u8>,
    /// How many.
    pub count: u64,
    /// Names of wanted records that are damaged.
    pub damaged: Vec<Name>,
    /// The name to go on after; none at the end.
    pub next: Option<Name>,
}

/// Who waits for a page.
#[derive(Debug)]
pub(super) enum PageFor {
    /// A peer copies this partition.
    Copy(Origin, u16),
    /// A pass of this member, by its number.
    Own(u64),
    /// A listing for a peer, by its number.
    Answer(u64),
    /// A peer wants records.
    Fetch(Fetching),
    /// The scrub.
    Scrub,
    /// Leaves of hash trees are mended.
    Mend,
    /// A collection is sorted into trees of its own, by the page's number.
    Sort(u64),
    /// Records of partitions that others own are dropped.
    Foreign,
    /// What is dead is brought into memory.
    Dead,
    /// What others don't have is dropped, in the walk of this number.
    Rebuild(u64),
}

/// Pages that were asked for.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Who waits for each, and the only collection that is walked through, if it is one.
    waiting: BTreeMap<u64, (PageFor, Option<String>)>,
    last: u64,
}

impl Engine {
    /// Asks redb for the next page of a walk.
    pub(super) fn want_page(&mut self, filter: PageFilter, after: Name, limit_bytes: usize, waiter: PageFor) {
        self.want_page_of(None, filter, after, limit_bytes, waiter);
    }

    /// The same of a walk through one collection, if one is given.
    pub(super) fn want_page_of(
        &mut self,
        collection: Option<String>,
        filter: PageFilter,
        after: Name,
        limit_bytes: usize,
        waiter: PageFor,
    ) {
        let begin = collection.as_ref().map(|collection| (collection.clone(), Vec::new()));
        let after = begin.unwrap_or_default().max(after);
        self.pages.last += 1;
        let id = self.pages.last;
        self.pages.waiting.insert(id, (waiter, collection));
        let partition_bits = self.placement.partition_bits();
        self.lanes.pages.push(PageWanted { id, filter, partition_bits, after, limit_bytes });
    }

    /// A page of redb's records, or `None` when redb could not be read.
    pub fn page_loaded(&mut self, id: u64, mut page: Option<PageFound>) {
        let Some((waiter, collection)) = self.pages.waiting.remove(&id) else { return };
        if let Some(page) = &mut page {
            let is_within = |(other, _): &Name| collection.as_ref().is_none_or(|own| own == other);
            page.next = page.next.take().filter(is_within);
            self.found_damaged(&page.damaged);
            // Whoever sorts must see whatever may be in a tree.
            if !matches!(waiter, PageFor::Sort(_)) {
                self.records.leave_out_void(&mut page.records);
            }
        }
        match waiter {
            PageFor::Copy(origin, partition) => self.page_for_copy(origin, partition, page),
            PageFor::Own(pass) => self.own_page(pass, page),
            PageFor::Answer(listing) => self.answer_page(listing, page),
            PageFor::Fetch(fetching) => self.fetched_page(fetching, page),
            PageFor::Foreign => self.foreign_page(page),
            PageFor::Dead => self.dead_page(page),
            PageFor::Rebuild(walk) => self.rebuilt_page(walk, page),
            PageFor::Scrub => self.page_for_scrub(page),
            PageFor::Mend => self.page_for_mending(page),
            PageFor::Sort(number) => self.page_for_sorting(number, page),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Bounds, Identity};
    use crate::model::{MemberId, Record, Timestamp};
    use crate::protocol::frame::Frame;
    use crate::protocol::message::{self, CopyCursor, Message, Reply};

    fn wants(filter: PageFilter, collection: &str, record: impl Fn(KeyRef<'_>) -> Record) -> bool {
        let key = KeyRef::new(collection, b"k").unwrap();
        let wanted =
            PageWanted { id: 1, filter, partition_bits: 4, after: Default::default(), limit_bytes: 1 };
        wanted.wants(key, record(key).view().bytes())
    }

    const STAMP: Timestamp = Timestamp { time: 7, member: MemberId(1) };

    fn value(expiry: Option<u64>) -> impl Fn(KeyRef<'_>) -> Record {
        move |key| Record::value(key, STAMP, expiry, b"v")
    }

    #[test]
    fn a_page_of_leaves_shows_what_lies_in_them_and_nothing_else() {
        let hash = KeyRef::new("c", b"k").unwrap().hash();
        let leaves = |partition: u16, bits: u64| PageFilter::Leaves(Arc::new([(partition, bits)].into()));
        let (partition, bit) = (hash.partition(4), 1 << hash.leaf(4));
        assert!(wants(leaves(partition, bit), "c", value(None)));
        assert!(!wants(leaves(partition, !bit), "c", value(None)));
        assert!(!wants(leaves(partition ^ 1, bit), "c", value(None)));
    }

    #[test]
    fn a_page_of_the_dead_shows_tombstones_and_what_has_expired() {
        let dead = || PageFilter::Dead { wall_ms: 100 };
        assert!(wants(dead(), "c", |key| Record::tombstone(key, STAMP)));
        assert!(wants(dead(), "c", value(Some(100))));
        assert!(!wants(dead(), "c", value(Some(101))));
        assert!(!wants(dead(), "c", value(None)));
    }

    #[test]
    fn a_page_of_a_collection_shows_no_other() {
        let of = |collection: &str| PageFilter::Collection(collection.to_owned());
        assert!(wants(of("c"), "c", value(None)));
        assert!(!wants(of("c"), "cc", value(None)));
    }

    /// What a peer that copies a partition is told to go on with, when redb's page ends so.
    fn told_after(engine: &mut Engine, collection: Option<&str>, next: Option<Name>) -> Option<CopyCursor> {
        let origin = Origin::Peer { member: MemberId(2), link: 1, request: 5 };
        let (collection, waiter) = (collection.map(str::to_owned), PageFor::Copy(origin, 0));
        engine.want_page_of(collection, PageFilter::Slice(0), Name::default(), 1, waiter);
        let wanted = engine.lanes.pages.pop().unwrap();
        engine.page_loaded(wanted.id, Some(PageFound { next, ..PageFound::default() }));
        let mut bytes = Vec::new();
        assert!(engine.take_frame(MemberId(2), &mut bytes));
        let messages = Frame::parse(&bytes).unwrap().messages();
        let mut cursors = messages.filter_map(|message| match message::decode(message.unwrap()).unwrap() {
            Message::Reply(5, Reply::Copied { next, .. }) => Some(next),
            _ => None,
        });
        cursors.next().unwrap()
    }

    #[test]
    fn a_walk_through_one_collection_begins_at_it_and_ends_behind_it() {
        let who = Identity { member: MemberId(1), incarnation: 1, life: 1 };
        let mut engine = Engine::new(who, Bounds::default(), 0);
        engine.link_up(MemberId(2), 1);
        let name = |collection: &str, key: &[u8]| (collection.to_owned(), key.to_vec());
        for (after, expected) in [
            (Name::default(), name("c", b"")),
            (name("b", b"x"), name("c", b"")),
            (name("c", b"x"), name("c", b"x")),
            (name("d", b"x"), name("d", b"x")),
        ] {
            let of_c = Some("c".to_owned());
            engine.want_page_of(of_c, PageFilter::Slice(0), after.clone(), 1, PageFor::Mend);
            assert_eq!(engine.lanes.pages.pop().unwrap().after, expected);
            engine.want_page(PageFilter::Slice(0), after.clone(), 1, PageFor::Mend);
            assert_eq!(engine.lanes.pages.pop().unwrap().after, after);
        }
        let store = |collection: &str| CopyCursor::Store { collection: collection.to_owned(), key: vec![7] };
        for (through, end, expected) in
            [(Some("c"), "c", Some(store("c"))), (Some("c"), "d", None), (None, "d", Some(store("d")))]
        {
            assert_eq!(
                told_after(&mut engine, through, Some(name(end, &[7]))),
                expected,
                "{through:?} {end}"
            );
        }
    }

    #[test]
    fn only_a_page_of_every_record_shows_those_of_the_system() {
        let system = crate::model::key::SETTINGS;
        let key = KeyRef::new(system, b"k").unwrap().hash();
        assert!(wants(PageFilter::Every, system, value(None)));
        assert!(!wants(PageFilter::Slice(key.partition(4)), system, value(None)));
        assert!(!wants(PageFilter::Collection(system.to_owned()), system, value(None)));
        assert!(!wants(PageFilter::Dead { wall_ms: 9 }, system, |key| Record::tombstone(key, STAMP)));
    }
}
