//! Opening a journal that earlier lives left: what is whole is replayed, what is not is judged.
//!
//! A frame that is not whole is either *torn* (a crash came before its sync: nobody was told that it
//! is durable) or *damaged* (a later frame of the same life says that it had been durable). A torn
//! end is cut off. A segment with damage is set aside under a telling name; and wherever whole
//! frames follow bad bytes, a clean copy of the segment takes its place, so that the next start
//! finds all of them again and nothing is reported twice.

use super::super::disk::{Disk, File};
use super::super::error::StorageError;
use super::frame::{
    FRAME_HEADER, FRAME_MAGIC, FRAMES_START, FrameHeader, FrameKey, SegmentHeader, encode_frame,
    segment_name, segment_number,
};
use super::window::Window;
use super::{JournalOptions, make_life};
use std::collections::HashMap;

const OPENING: &str = "opening the journal";
const REPAIRING: &str = "repairing the journal";
/// Ends the name of a clean copy that has not yet taken its segment's place.
const REPAIRED: &str = ".repaired";

/// What was found when a journal was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Segments that were read.
    pub segments: u64,
    /// Frames that were replayed.
    pub frames: u64,
    /// Payload bytes that were replayed.
    pub payload_bytes: u64,
    /// Bytes were cut off that no later frame proves to have been durable: a crash before their
    /// sync, or damage to the very last ones. What this member holds may be incomplete.
    pub torn_tail: bool,
    /// Frames that had been durable are damaged or gone. What this member holds is incomplete.
    pub damaged: bool,
    /// Whole segments that the record store needs are gone. What this member holds is incomplete.
    pub missing_segments: u64,
    /// The names under which damaged segments were set aside.
    pub set_aside: Vec<String>,
}

impl Recovery {
    /// Whether everything that was ever durable, and everything written before a mere kill, is here.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        !self.torn_tail && !self.damaged && self.missing_segments == 0
    }
}

/// What is known of one life of the journal after reading some of its segments.
#[derive(Debug)]
struct Life {
    /// Where the next frame should be.
    expected: u64,
    /// The most that any frame says was durable.
    durable: u64,
}

type Lives = HashMap<[u8; 16], Life>;

/// What was found in one segment.
#[derive(Debug)]
struct Found {
    number: u64,
    header: Option<SegmentHeader>,
    bad: Option<Bad>,
    /// Where the last whole frame ends.
    end: u64,
}

/// Where a segment is not as it was written.
#[derive(Debug)]
struct Bad {
    /// The position of the first frame that is not whole.
    position: u64,
    /// Something follows that cutting the segment off would lose: whole frames, here or in the next
    /// segment.
    resumes: bool,
    /// There are no bytes but zeros: made and never written.
    blank: bool,
}

/// Replays all segments and repairs what needs it. Returns the number for a new segment.
pub(super) fn recover<D: Disk>(
    disk: &D,
    options: &JournalOptions,
    mut replay: impl FnMut(&[u8]) -> Result<(), StorageError>,
) -> Result<(Recovery, u64), StorageError> {
    let numbers = list_segments(disk)?;
    let mut recovery = Recovery { missing_segments: count_missing(&numbers, options), ..Recovery::default() };
    let mut lives = Lives::new();
    let mut found: Vec<Found> = Vec::new();
    for number in &numbers {
        let file = open_segment(disk, *number)?;
        let segment = scan(&file, *number, &mut lives, found.last_mut(), &mut |payload| {
            recovery.frames += 1;
            recovery.payload_bytes += payload.len() as u64;
            replay(payload)
        })?;
        // What a killed process wrote may be in the system's memory only; from now on it counts as
        // durable, and a power cut must not take it away behind what this life writes.
        file.sync_data().map_err(|error| StorageError::from_io(OPENING, error))?;
        recovery.segments += 1;
        found.push(segment);
    }
    if !numbers.is_empty() {
        disk.sync_dir().map_err(|error| StorageError::from_io(OPENING, error))?;
    }
    for (at, segment) in found.iter().enumerate() {
        let Some(bad) = &segment.bad else { continue };
        let damaged = match &segment.header {
            Some(header) => lives.get(&header.life).is_some_and(|life| bad.position < life.durable),
            None => found.get(at + 1).is_some_and(|next| had_been_durable(next, &lives)),
        };
        recovery.damaged |= damaged;
        recovery.torn_tail |= !damaged && !bad.blank;
        repair(disk, options, segment, bad, damaged, &mut recovery)?;
    }
    let last = numbers.last().copied().unwrap_or_default();
    Ok((recovery, last.max(options.first_needed) + 1))
}

/// Whether the segment before `next`, which lost its header, had been durable once.
fn had_been_durable(next: &Found, lives: &Lives) -> bool {
    let Some(header) = &next.header else { return false };
    // A new life would have repaired it, had it been like this then.
    header.position == 0 || lives.get(&header.life).is_some_and(|life| life.durable >= header.position)
}

/// The numbers of all segments, rising. Finishes or undoes the repair that a crash interrupted.
fn list_segments<D: Disk>(disk: &D) -> Result<Vec<u64>, StorageError> {
    let failed = |error| StorageError::from_io(OPENING, error);
    let names = disk.list().map_err(failed)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    let mut changed = false;
    for name in &names {
        let Some(target) = name.strip_suffix(REPAIRED) else { continue };
        let Some(number) = segment_number(target) else { continue };
        changed = true;
        if numbers.contains(&number) {
            disk.remove(name).map_err(failed)?;
        } else {
            disk.rename(name, target).map_err(failed)?;
            numbers.push(number);
        }
    }
    if changed {
        disk.sync_dir().map_err(failed)?;
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Segments that should be there and are not.
fn count_missing(numbers: &[u64], options: &JournalOptions) -> u64 {
    let Some((first, last)) = numbers.first().zip(numbers.last()) else {
        return u64::from(options.first_needed > 0);
    };
    let from = options.first_needed.max(1);
    let before = first.saturating_sub(from);
    let there = numbers.iter().filter(|number| **number >= from).count() as u64;
    let between = (last + 1).saturating_sub(from.max(*first)).saturating_sub(there);
    before + between + u64::from(*last < from)
}

fn open_segment<D: Disk>(disk: &D, number: u64) -> Result<D::File, StorageError> {
    disk.open(&segment_name(number), false).map_err(|error| StorageError::from_io(OPENING, error))
}

/// Replays one segment's whole frames. `before` is the segment before it, which is at fault if
/// frames are missing in between.
fn scan<F: File>(
    file: &F,
    number: u64,
    lives: &mut Lives,
    before: Option<&mut Found>,
    replay: &mut dyn FnMut(&[u8]) -> Result<(), StorageError>,
) -> Result<Found, StorageError> {
    let mut window = Window::new(file)?;
    let start = window.rest(0)?;
    let header = SegmentHeader::decode(start.get(..FRAMES_START as usize).unwrap_or(start))?;
    let Some(header) = header.filter(|header| header.number == number) else {
        let blank = matches!(find_frame(&mut window, 0, None)?, Next::Zeros);
        let bad = Some(Bad { position: 0, resumes: false, blank });
        return Ok(Found { number, header: None, bad, end: 0 });
    };
    let key = header.key();
    let life = lives.entry(header.life).or_insert(Life { expected: header.position, durable: 0 });
    if let Some(before) = before.filter(|_| life.expected < header.position) {
        let position = life.expected;
        let bad = before.bad.get_or_insert(Bad { position, resumes: true, blank: false });
        bad.resumes = true;
    }
    life.expected = header.position;
    let mut found = Found { number, header: Some(header), bad: None, end: FRAMES_START };
    let mut offset = FRAMES_START;
    while offset < window.length() {
        if let Some(frame) = frame_at(&mut window, offset, &key)? {
            life.durable = life.durable.max(frame.durable);
            life.expected = frame.position + frame.length as u64;
            replay(window.get(offset + FRAME_HEADER as u64, frame.length)?.unwrap_or_default())?;
            offset += (FRAME_HEADER + frame.length) as u64;
            found.end = offset;
            continue;
        }
        let next = find_frame(&mut window, offset, Some(&key))?;
        if matches!(next, Next::Zeros) {
            break;
        }
        let bad = found.bad.get_or_insert(Bad { position: life.expected, resumes: false, blank: false });
        let Next::Frame(at) = next else { break };
        bad.resumes = true;
        offset = at;
    }
    Ok(found)
}

/// The frame at an offset, if it is whole.
fn frame_at<F: File>(
    window: &mut Window<'_, F>,
    offset: u64,
    key: &FrameKey,
) -> Result<Option<FrameHeader>, StorageError> {
    let Some(bytes) = window.get(offset, FRAME_HEADER)? else { return Ok(None) };
    let Some(header) = FrameHeader::decode(bytes, key) else { return Ok(None) };
    let payload = window.get(offset + FRAME_HEADER as u64, header.length)?;
    Ok(payload.filter(|payload| header.fits(payload, key)).map(|_| header))
}

/// What comes behind bytes that are no frame.
enum Next {
    Frame(u64),
    Garbage,
    Zeros,
}

/// Looks for the next whole frame from `offset` on, byte by byte; without a key for anything but
/// zeros.
fn find_frame<F: File>(
    window: &mut Window<'_, F>,
    mut offset: u64,
    key: Option<&FrameKey>,
) -> Result<Next, StorageError> {
    let mut zeros = true;
    loop {
        let bytes = window.rest(offset)?;
        if bytes.is_empty() {
            return Ok(if zeros { Next::Zeros } else { Next::Garbage });
        }
        zeros &= bytes.iter().all(|byte| *byte == 0);
        let first = bytes.iter().position(|byte| *byte == FRAME_MAGIC[0]);
        let Some(first) = first else {
            offset += bytes.len() as u64;
            continue;
        };
        offset += first as u64;
        if let Some(key) = key
            && frame_at(window, offset, key)?.is_some()
        {
            return Ok(Next::Frame(offset));
        }
        offset += 1;
    }
}

/// Puts a segment into a state in which the next start finds it whole.
fn repair<D: Disk>(
    disk: &D,
    options: &JournalOptions,
    segment: &Found,
    bad: &Bad,
    damaged: bool,
    recovery: &mut Recovery,
) -> Result<(), StorageError> {
    let failed = |error| StorageError::from_io(REPAIRING, error);
    let name = segment_name(segment.number);
    if segment.header.is_some() && !bad.resumes && !damaged {
        let file = open_segment(disk, segment.number)?;
        file.set_len(segment.end).map_err(failed)?;
        return file.sync_data().map_err(failed);
    }
    let fresh = format!("{name}{REPAIRED}");
    copy_whole_frames(disk, options, segment, &fresh)?;
    disk.sync_dir().map_err(failed)?;
    if damaged || (segment.header.is_none() && !bad.blank) {
        let reason = if segment.header.is_none() { "header" } else { "frame" };
        let aside = format!("journal-{:06}.damaged-{}-{reason}", segment.number, options.wall_ms);
        disk.rename(&name, &aside).map_err(failed)?;
        recovery.set_aside.push(aside);
    }
    disk.rename(&fresh, &name).map_err(failed)?;
    disk.sync_dir().map_err(failed)
}

/// Writes the whole frames of a segment into a new file, as a life of their own.
fn copy_whole_frames<D: Disk>(
    disk: &D,
    options: &JournalOptions,
    segment: &Found,
    name: &str,
) -> Result<(), StorageError> {
    let failed = |error| StorageError::from_io(REPAIRING, error);
    let target = disk.open(name, true).map_err(failed)?;
    let life = make_life(options, segment.number);
    let header = SegmentHeader { number: segment.number, life, position: 0 };
    target.set_len(0).map_err(failed)?;
    target.write(0, &header.encode()).map_err(failed)?;
    if segment.header.is_some() {
        let (mut end, mut position, mut buffer, key) = (FRAMES_START, 0, Vec::new(), header.key());
        let source = open_segment(disk, segment.number)?;
        scan(&source, segment.number, &mut Lives::new(), None, &mut |payload| {
            encode_frame(&mut buffer, &key, position, 0, payload);
            target.write(end, &buffer).map_err(failed)?;
            end += buffer.len() as u64;
            position += payload.len() as u64;
            Ok(())
        })?;
    }
    target.sync_data().map_err(failed)
}
