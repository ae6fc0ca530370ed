//! The ring: of each key of a feed the latest change of a bounded recent time, in the order in which they came.

use super::event::{Cursor, Text, text_of};
use crate::model::{Record, RecordRef};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The first place in a ring: 0 is that of a reset, 1 that of who has the state before any change.
const FIRST: u64 = 2;
/// What a change costs in memory beside its bytes.
const OVERHEAD_BYTES: usize = 256;

/// A change in the ring.
#[derive(Debug)]
struct Item {
    record: Record,
    name: Arc<[u8]>,
    bytes: usize,
    /// As text without and with its value, once somebody wanted it.
    texts: [Option<Text>; 2],
}

/// The latest changes of a feed.
#[derive(Debug)]
pub(super) struct Ring {
    items: BTreeMap<u64, Item>,
    places: HashMap<Arc<[u8]>, u64>,
    /// The place of the next change.
    next: u64,
    /// Who has seen less than all before this place has missed something.
    floor: u64,
    bytes: usize,
    /// Bytes that it was last shrunk to.
    room: usize,
}

impl Default for Ring {
    fn default() -> Self {
        let (items, places) = (BTreeMap::new(), HashMap::new());
        Self { items, places, next: FIRST, floor: FIRST, bytes: 0, room: usize::MAX }
    }
}

impl Ring {
    /// The place of the next change.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether who has seen all before a place has missed nothing.
    pub(super) const fn reaches(&self, place: u64) -> bool {
        place >= self.floor && place <= self.next
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a change; the former one of its key is worth nothing any more.
    pub(super) fn push(&mut self, record: RecordRef<'_>) {
        let mut name = Vec::with_capacity(1 + record.collection_bytes().len() + record.key().len());
        name.extend_from_slice(record.collection_bytes());
        // No collection's name has it.
        name.push(0);
        name.extend_from_slice(record.key());
        let name: Arc<[u8]> = name.into();
        let bytes = record.bytes().len() + 2 * name.len() + OVERHEAD_BYTES;
        if let Some(before) = self.places.insert(Arc::clone(&name), self.next)
            && let Some(item) = self.items.remove(&before)
        {
            self.bytes -= item.bytes;
        }
        let item = Item { record: Record::copy_of(record), name, bytes, texts: [None, None] };
        self.items.insert(self.next, item);
        self.bytes += bytes;
        self.next += 1;
    }

    /// Forgets the oldest changes until it is within so many bytes, which texts do not exceed from then on either.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.room = bytes;
        while self.bytes > bytes
            && let Some((place, item)) = self.items.pop_first()
        {
            self.bytes -= item.bytes;
            self.places.remove(&item.name);
            self.floor = place + 1;
        }
    }

    /// Appends changes from a place on, before another one, as long as they are fewer than `most` bytes; says where to
    /// go on and how many there were.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        (from, to): (u64, u64),
        most: usize,
        (wall_ms, with_value, with_cursor): (u64, bool, bool),
        cursor: Cursor,
    ) -> (u64, u64) {
        let (mut at, mut on, mut count) = (from, to.max(from), 0);
        for (place, item) in self.items.range_mut(from..on) {
            if out.len() >= most {
                on = at;
                break;
            }
            at = place + 1;
            let [bare, whole] = &mut item.texts;
            let known = if with_value { whole } else { bare };
            let record = item.record.view();
            let text = match known {
                Some(text) => text.clone(),
                None => text_of(record, wall_ms, with_value, Cursor { place: *place, ..cursor }),
            };
            text.append(out, with_cursor);
            count += 1;
            // How long it still lives is different each time.
            if known.is_none() && record.expiry_ms().is_none() {
                item.bytes += text.len();
                self.bytes += text.len();
                *known = Some(text);
            }
        }
        // All new texts are of changes before the place to go on at, so nothing from there on is forgotten.
        self.shrink_to(self.room);
        (on, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, MemberId, Timestamp};

    const CURSOR: Cursor = Cursor { life: 1, stretch: 1, place: 0 };

    fn push(ring: &mut Ring, key: &str, time: u64) {
        let key = KeyRef::new("c", key.as_bytes()).unwrap();
        let stamp = Timestamp { time, member: MemberId(1) };
        ring.push(Record::value(key, stamp, None, time.to_string().as_bytes()).view());
    }

    fn values(ring: &mut Ring, from: u64) -> Vec<String> {
        let mut out = Vec::new();
        let range = (from, ring.next());
        ring.append(&mut out, range, usize::MAX, (0, true, true), CURSOR);
        let text = String::from_utf8(out).unwrap();
        let value = |line: &str| Some(line.split_once("\"value\":\"")?.1.split_once('"')?.0.to_owned());
        text.lines().filter_map(value).collect()
    }

    #[test]
    fn of_a_key_that_changed_twice_only_the_latest_change_is_given_in_its_place() {
        let mut ring = Ring::default();
        for (time, key) in ["a", "b", "a"].iter().enumerate() {
            push(&mut ring, key, time as u64);
        }
        assert_eq!(values(&mut ring, FIRST), ["1", "2"]);
        assert_eq!(values(&mut ring, FIRST + 2), ["2"], "who saw all before the last one gets that");
    }

    #[test]
    fn what_is_overwritten_takes_no_room_and_nobody_falls_behind_for_it() {
        let mut ring = Ring::default();
        push(&mut ring, "cold", 0);
        let bound = 4 * ring.bytes();
        for time in 1..10_000 {
            push(&mut ring, "hot", time);
            ring.shrink_to(bound);
        }
        assert!(ring.reaches(FIRST));
        assert_eq!(values(&mut ring, FIRST), ["0", "9999"]);
    }

    #[test]
    fn who_misses_what_was_forgotten_is_found_out() {
        let mut ring = Ring::default();
        for time in 0..10 {
            push(&mut ring, &time.to_string(), time);
        }
        let one = ring.bytes() / 10;
        ring.shrink_to(3 * one);
        assert!(!ring.reaches(FIRST) && !ring.reaches(FIRST + 6) && ring.reaches(FIRST + 7));
        assert_eq!(values(&mut ring, FIRST + 7), ["7", "8", "9"]);
        assert!(ring.reaches(ring.next()) && !ring.reaches(ring.next() + 1));
    }

    #[test]
    fn what_becomes_text_counts_and_is_given_in_pieces_without_loss() {
        let mut ring = Ring::default();
        for time in 0..100 {
            push(&mut ring, &time.to_string(), time);
        }
        let before = ring.bytes();
        let (mut at, mut all) = (FIRST, 0);
        while at < ring.next() {
            let mut out = Vec::new();
            let range = (at, ring.next());
            let (on, count) = ring.append(&mut out, range, 500, (0, true, false), CURSOR);
            assert!(on > at && out.len() < 1_000);
            (at, all) = (on, all + count);
        }
        assert_eq!(all, 100);
        assert!(ring.bytes() > before);
    }

    #[test]
    fn texts_take_no_more_room_than_there_is_and_who_reads_misses_nothing() {
        let mut ring = Ring::default();
        for time in 0..100 {
            push(&mut ring, &time.to_string(), time);
        }
        let room = ring.bytes();
        ring.shrink_to(room);
        let (mut at, mut all) = (FIRST, 0);
        while at < ring.next() {
            let (on, count) = ring.append(&mut Vec::new(), (at, ring.next()), 500, (0, true, false), CURSOR);
            assert!(ring.bytes() <= room && ring.reaches(on));
            (at, all) = (on, all + count);
        }
        assert_eq!(all, 100);
    }
}
