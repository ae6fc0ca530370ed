//! Entries of the journal: what a member must know again after it was killed.
//!
//! Entries follow each other in the bytes of a turn, each a tag and its content. Records stand in
//! their canonical form. Applying an entry twice, or an old one after a newer one, changes nothing,
//! so a replay may begin anywhere before the last checkpoint.

use super::hints::HintKey;
use crate::model::record::RecordError;
use crate::model::{MemberId, RecordRef, Timestamp};

const RECORD: u8 = 0;
const RESERVATION: u8 = 1;
const HINT: u8 = 2;
const HINT_DONE: u8 = 3;
const LIFE: u8 = 4;
const COMPLETE: u8 = 5;
const MARK: u8 = 6;
const SETTLED: u8 = 7;
const TOMBSTONE_SETTLED: u8 = 8;
const FORGOTTEN: u8 = 9;
const PLACE: u8 = 16;
const TOLD: u8 = 17;
const REBUILD: u8 = 18;
const REBUILT: u8 = 19;
const COMPLETE_OF: u8 = 20;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// A record that was merged into the table.
    Record(RecordRef<'a>),
    /// Stamps up to this time may have been given.
    Reservation(u64),
    /// An owner lacks the newest record of a key.
    Hint(MemberId, HintKey),
    /// That owner has it.
    HintDone(MemberId, HintKey),
    /// The highest incarnation of a peer that was seen, and its life.
    Life(MemberId, u64, u64),
    /// The partitions of class 0 that this member is a complete owner of. With it holds what was told of other classes since the
    /// last one, and of no others.
    Complete(&'a [u8]),
    /// Those of a collection that is placed by itself, once the next `Complete` follows.
    CompleteOf(&'a str, &'a [u8]),
    /// What was journalled before may still be on its way to other owners.
    Mark,
    /// What was journalled before the last mark has arrived everywhere, or is hinted.
    Settled,
    /// The tombstone of a key, of this stamp, left the hash tree.
    TombstoneSettled(HintKey, Timestamp),
    /// The record of a key, of this stamp, is not held any more.
    Forgotten(HintKey, Timestamp),
    /// Up to which position of its journal a peer said in one of its lives that it is fsynced.
    Told(MemberId, u64, u64),
    /// This member lost what it had acknowledged: what it found at its start is not believed until it is
    /// rebuilt. The highest time of what it found, and its incarnation at that start.
    Rebuild(u64, u64),
    /// It is rebuilt.
    Rebuilt,
    /// Where in which life of this member the journal is.
    Place {
        /// The life's incarnation.
        incarnation: u64,
        /// The position behind this entry, in bytes of that life.
        position: u64,
        /// Incarnations of earlier lives, each with the position at which it ended.
        ends: &'a [u8],
    },
}

/// Bytes in the journal that no version writes. The frame around them was intact, so this is no
/// damage but a newer kith or a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A tag of a newer version.
    #[error(
        "the journal has an entry of kind {0}, unknown to this version of kith; start the version that wrote it"
    )]
    UnknownEntry(u8),
    /// An entry ends before its content does.
    #[error("a journal entry is cut off")]
    CutOff,
    /// A record that does not parse or verify.
    #[error("the journal has a bad record: {0}")]
    Record(#[from] RecordError),
}

/// Begins a record's entry: its canonical bytes follow.
pub(super) fn begin_record(out: &mut Vec<u8>) {
    out.push(RECORD);
}

/// Appends an entry.
pub(super) fn append(out: &mut Vec<u8>, entry: &Entry<'_>) {
    match entry {
        Entry::Record(record) => {
            out.push(RECORD);
            out.extend_from_slice(record.bytes());
        }
        Entry::Reservation(time) => {
            out.push(RESERVATION);
            out.extend_from_slice(&time.to_le_bytes());
        }
        Entry::Hint(member, key) => append_hint(out, HINT, *member, key),
        Entry::HintDone(member, key) => append_hint(out, HINT_DONE, *member, key),
        Entry::Life(member, incarnation, life) => append_numbers(out, LIFE, [member.0, *incarnation, *life]),
        Entry::Told(member, incarnation, position) => {
            append_numbers(out, TOLD, [member.0, *incarnation, *position]);
        }
        Entry::Rebuild(time, incarnation) => append_numbers(out, REBUILD, [*time, *incarnation]),
        Entry::Rebuilt => out.push(REBUILT),
        Entry::Complete(partitions) => {
            out.push(COMPLETE);
            append_sized(out, partitions);
        }
        Entry::CompleteOf(collection, partitions) => {
            out.push(COMPLETE_OF);
            append_sized(out, collection.as_bytes());
            append_sized(out, partitions);
        }
        Entry::Mark => out.push(MARK),
        Entry::Settled => out.push(SETTLED),
        Entry::TombstoneSettled(key, timestamp) => append_stamped(out, TOMBSTONE_SETTLED, key, *timestamp),
        Entry::Forgotten(key, timestamp) => append_stamped(out, FORGOTTEN, key, *timestamp),
        Entry::Place { incarnation, position, ends } => {
            out.push(PLACE);
            out.extend_from_slice(&incarnation.to_le_bytes());
            out.extend_from_slice(&position.to_le_bytes());
            append_sized(out, ends);
        }
    }
}

fn append_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Bytes of an [`Entry::Place`] whose ends have so many.
pub(super) const fn place_bytes(ends: usize) -> usize {
    1 + 8 + 8 + 2 + ends
}

fn append_numbers<const COUNT: usize>(out: &mut Vec<u8>, tag: u8, numbers: [u64; COUNT]) {
    out.push(tag);
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn append_stamped(out: &mut Vec<u8>, tag: u8, key: &HintKey, timestamp: Timestamp) {
    append_hint(out, tag, timestamp.member, key);
    out.extend_from_slice(&timestamp.time.to_le_bytes());
}

fn append_hint(out: &mut Vec<u8>, tag: u8, member: MemberId, key: &HintKey) {
    out.push(tag);
    out.extend_from_slice(&member.0.to_le_bytes());
    append_sized(out, key.bytes());
}

/// The entries of a turn's bytes, each with the bytes that follow it; an error ends them.
pub(super) fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<(Entry<'_>, usize), JournalError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = entry(rest);
        match parsed {
            Ok((entry, tail)) => {
                rest = tail;
                Some(Ok((entry, tail.len())))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

/// The end of the last entry that ends within the first `most` bytes; of the first entry, if that one
/// is longer.
pub(super) fn whole_entries(bytes: &[u8], most: usize) -> usize {
    let mut end = 0;
    while let Some(rest) = bytes.get(end..).filter(|rest| !rest.is_empty()) {
        let Ok((_, tail)) = entry(rest) else { return bytes.len() };
        let next = bytes.len() - tail.len();
        if next > most {
            return if end == 0 { next } else { end };
        }
        end = next;
    }
    end
}

fn entry(bytes: &[u8]) -> Result<(Entry<'_>, &[u8]), JournalError> {
    let (tag, rest) = bytes.split_first().ok_or(JournalError::CutOff)?;
    match *tag {
        RECORD => {
            let (record, rest) = RecordRef::parse(rest)?;
            record.verify()?;
            Ok((Entry::Record(record), rest))
        }
        RESERVATION => {
            let (time, rest) = number(rest)?;
            Ok((Entry::Reservation(time), rest))
        }
        HINT => hint(rest).map(|(member, key, rest)| (Entry::Hint(member, key), rest)),
        HINT_DONE => hint(rest).map(|(member, key, rest)| (Entry::HintDone(member, key), rest)),
        LIFE => {
            let ([member, incarnation, life], rest) = numbers(rest)?;
            Ok((Entry::Life(MemberId(member), incarnation, life), rest))
        }
        TOLD => {
            let ([member, incarnation, position], rest) = numbers(rest)?;
            Ok((Entry::Told(MemberId(member), incarnation, position), rest))
        }
        REBUILD => {
            let ([time, incarnation], rest) = numbers(rest)?;
            Ok((Entry::Rebuild(time, incarnation), rest))
        }
        REBUILT => Ok((Entry::Rebuilt, rest)),
        COMPLETE => {
            let (partitions, rest) = sized(rest)?;
            Ok((Entry::Complete(partitions), rest))
        }
        COMPLETE_OF => {
            let (collection, rest) = sized(rest)?;
            let collection = std::str::from_utf8(collection).map_err(|_| JournalError::CutOff)?;
            let (partitions, rest) = sized(rest)?;
            Ok((Entry::CompleteOf(collection, partitions), rest))
        }
        MARK => Ok((Entry::Mark, rest)),
        SETTLED => Ok((Entry::Settled, rest)),
        TOMBSTONE_SETTLED => {
            stamped(rest).map(|(key, stamp, rest)| (Entry::TombstoneSettled(key, stamp), rest))
        }
        FORGOTTEN => stamped(rest).map(|(key, stamp, rest)| (Entry::Forgotten(key, stamp), rest)),
        PLACE => {
            let (incarnation, rest) = number(rest)?;
            let (position, rest) = number(rest)?;
            let (ends, rest) = sized(rest)?;
            Ok((Entry::Place { incarnation, position, ends }, rest))
        }
        unknown => Err(JournalError::UnknownEntry(unknown)),
    }
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), JournalError> {
    let (head, tail) = bytes.split_first_chunk().ok_or(JournalError::CutOff)?;
    Ok((u64::from_le_bytes(*head), tail))
}

fn numbers<const COUNT: usize>(bytes: &[u8]) -> Result<([u64; COUNT], &[u8]), JournalError> {
    let (mut read, mut rest) = ([0; COUNT], bytes);
    for place in &mut read {
        (*place, rest) = number(rest)?;
    }
    Ok((read, rest))
}

fn sized(bytes: &[u8]) -> Result<(&[u8], &[u8]), JournalError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(JournalError::CutOff)?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or(JournalError::CutOff)
}

fn hint(bytes: &[u8]) -> Result<(MemberId, HintKey, &[u8]), JournalError> {
    let (member, rest) = number(bytes)?;
    let (key, rest) = sized(rest)?;
    let key = HintKey::from_bytes(key).ok_or(JournalError::CutOff)?;
    Ok((MemberId(member), key, rest))
}

fn stamped(bytes: &[u8]) -> Result<(HintKey, Timestamp, &[u8]), JournalError> {
    let (member, key, rest) = hint(bytes)?;
    let (time, rest) = number(rest)?;
    Ok((key, Timestamp { time, member }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, Record};
    use proptest::prelude::*;

    #[test]
    fn every_entry_comes_back_as_it_was_written() {
        let key = KeyRef::new("c", b"k").unwrap();
        let record = Record::value(key, Timestamp { time: 3, member: MemberId(4) }, None, b"v");
        let written = [
            Entry::Record(record.view()),
            Entry::Reservation(9),
            Entry::Hint(MemberId(1), HintKey::of(key)),
            Entry::HintDone(MemberId(1), HintKey::of(key)),
            Entry::Life(MemberId(1), 2, 3),
            Entry::Complete(&[1, 2, 3]),
            Entry::CompleteOf("c", &[4, 5]),
            Entry::Told(MemberId(1), 2, 3),
            Entry::Rebuild(10, 11),
            Entry::Rebuilt,
            Entry::Mark,
            Entry::Place { incarnation: 4, position: 5, ends: &[6; 16] },
            Entry::Settled,
            Entry::TombstoneSettled(HintKey::of(key), Timestamp { time: 5, member: MemberId(6) }),
            Entry::Forgotten(HintKey::of(key), Timestamp { time: 7, member: MemberId(8) }),
        ];
        let mut bytes = Vec::new();
        for entry in &written {
            append(&mut bytes, entry);
        }
        let read: Vec<_> = entries(&bytes).map(|read| read.unwrap().0).collect();
        assert_eq!(read, written);
    }

    #[test]
    fn bytes_are_parted_only_between_entries() {
        let mut bytes = Vec::new();
        for incarnation in 0..4 {
            append(&mut bytes, &Entry::Life(MemberId(1), incarnation, 3));
        }
        let each = bytes.len() / 4;
        assert_eq!(whole_entries(&bytes, each - 1), each, "an entry is never cut");
        assert_eq!(whole_entries(&bytes, 3 * each - 1), 2 * each);
        assert_eq!(whole_entries(&bytes, 3 * each), 3 * each);
        assert_eq!(whole_entries(&bytes, usize::MAX), bytes.len());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(entries(&bytes).count() <= bytes.len());
        }
    }
}
