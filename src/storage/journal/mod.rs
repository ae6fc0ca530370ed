//! The journal: an append-only log in segments, one frame per turn of the engine.
//!
//! [`Journal`] appends, on the thread of the engine; [`Syncer`] makes what was appended durable, on
//! another. A position counts the payload bytes appended in this life of the journal. Payloads are
//! opaque here.
//!
//! - One append is one `write` and counts as a whole or not at all.
//! - A position that `sync` returned is durable with all before it, whatever was rotated meanwhile.
//! - After a write or sync that failed for another reason than a full disk nothing more is accepted:
//!   what the disk holds is unknown until the journal is opened again.
//! - Where [`Syncer::prepare`] is called, space is written with zeros ahead of the appends, on the syncing thread: an
//!   `fdatasync` that needn't record a new length takes half the time.
//!
//! [`replay`](self) of what earlier lives left is in `replay.rs`, the byte form in `frame.rs`.

mod frame;
mod replay;
mod window;

pub use frame::MAX_APPEND_BYTES;
pub use replay::Recovery;

use super::disk::{Disk, File};
use super::error::StorageError;
use frame::{FRAMES_START, FrameKey, SegmentHeader, encode_frame, segment_name, segment_number};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Memory that the buffer of appends keeps between turns.
const KEPT_BUFFER_BYTES: usize = 4 << 20;
/// Zeros are written in steps of this size, so that an append never waits long for the file.
const ZEROS_BYTES: usize = 128 << 10;
const APPENDING: &str = "appending to the journal";
const ROTATING: &str = "starting a journal segment";
const SYNCING: &str = "syncing the journal";
const DROPPING: &str = "removing old journal segments";
const POISONED: StorageError = StorageError::Poisoned { what: "journal" };

/// What a journal needs to know when it is opened.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions {
    /// Milliseconds since the Unix epoch, for the names of what is set aside.
    pub wall_ms: u64,
    /// A random number that nobody can guess: it keys the frames' checksums, so that a value can't
    /// pass for a frame.
    pub seed: u64,
    /// The first segment that the record store needs
    /// ([`StoreRecovery::journal_from`](super::StoreRecovery)); 0 before the first checkpoint.
    pub first_needed: u64,
    /// Bytes that appends leave free on the disk, so that a checkpoint can still make room.
    pub reserve_bytes: u64,
    /// Bytes that are written with zeros ahead of the appends; 0 for none.
    pub ahead_bytes: u64,
}

/// The appending side of a journal.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    shared: Arc<Shared<D>>,
    segment: Arc<Segment<D::File>>,
    key: FrameKey,
    life: [u8; 16],
    /// Where the next frame goes in the segment's file.
    end: u64,
    position: u64,
    buffer: Vec<u8>,
}

/// The durable side of a journal. Clones work on the same journal.
#[derive(Debug)]
pub struct Syncer<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for Syncer<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Segment<F> {
    number: u64,
    file: F,
    /// Bytes of the file that hold frames or zeros. Raised under `growing`.
    prepared: AtomicU64,
    growing: Mutex<()>,
}

#[derive(Debug)]
struct Shared<D: Disk> {
    disk: D,
    reserve_bytes: u64,
    ahead_bytes: u64,
    failed: AtomicBool,
    durable: AtomicU64,
    written: Mutex<Written<D::File>>,
    /// One sync at a time: a second must not return before the first has synced what it took.
    syncing: Mutex<()>,
}

/// What the next sync has to make durable.
#[derive(Debug)]
struct Written<F> {
    position: u64,
    /// Where the next frame goes in `current`.
    end: u64,
    current: Arc<Segment<F>>,
    /// Segments that were left since the last sync.
    left: Vec<Arc<Segment<F>>>,
    new_names: bool,
}

impl<D: Disk> Journal<D> {
    /// Replays what earlier lives left, oldest first, and starts a segment of its own.
    ///
    /// `replay` gets each payload that is whole. It may get some more than once, and some that were
    /// never acknowledged; an error of its own ends the opening. Old segments stay until
    /// [`Syncer::drop_before`]. What was damaged is set aside under a name that tells when and why;
    /// its whole payloads are kept.
    ///
    /// # Errors
    /// [`StorageError::Format`] when a newer kith wrote the journal; `Io` and `Full` when the disk
    /// fails. Nothing that was durable is lost by an error.
    pub fn open(
        disk: &D,
        options: &JournalOptions,
        replay: impl FnMut(&[u8]) -> Result<(), StorageError>,
    ) -> Result<(Self, Recovery), StorageError> {
        let (recovery, number) = replay::recover(disk, options, replay)?;
        let life = make_life(options, number);
        let (segment, key) = create_segment(disk, SegmentHeader { number, life, position: 0 })?;
        let segment = Arc::new(segment);
        let written = Written {
            position: 0,
            end: FRAMES_START,
            current: Arc::clone(&segment),
            left: Vec::new(),
            new_names: true,
        };
        let shared = Arc::new(Shared {
            disk: disk.clone(),
            reserve_bytes: options.reserve_bytes,
            ahead_bytes: options.ahead_bytes,
            failed: AtomicBool::new(false),
            durable: AtomicU64::new(0),
            written: Mutex::new(written),
            syncing: Mutex::new(()),
        });
        let journal = Self { shared, segment, key, life, end: FRAMES_START, position: 0, buffer: Vec::new() };
        Ok((journal, recovery))
    }

    /// The durable side.
    #[must_use]
    pub fn syncer(&self) -> Syncer<D> {
        Syncer { shared: Arc::clone(&self.shared) }
    }

    /// Payload bytes appended in this life.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The number of the segment that takes appends.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.segment.number
    }

    /// Bytes in the segment that takes appends.
    #[must_use]
    pub const fn segment_bytes(&self) -> u64 {
        self.end
    }

    /// Appends one payload with one `write`: from then on it survives a killed process. An empty
    /// payload changes nothing.
    ///
    /// # Errors
    /// [`StorageError::Full`] and [`StorageError::TooLarge`]: nothing was appended, later calls
    /// may succeed. Any other error poisons the journal.
    pub fn append(&mut self, payload: &[u8]) -> Result<(), StorageError> {
        self.shared.check()?;
        if payload.is_empty() {
            return Ok(());
        }
        if payload.len() > MAX_APPEND_BYTES {
            let (what, bytes) = ("the payload of a journal frame", payload.len());
            return Err(StorageError::TooLarge { what, bytes, most: MAX_APPEND_BYTES });
        }
        let durable = self.shared.durable.load(Ordering::Acquire);
        encode_frame(&mut self.buffer, &self.key, self.position, durable, payload);
        let end = self.end + self.buffer.len() as u64;
        self.write_frame(end)?;
        self.end = end;
        self.position += payload.len() as u64;
        let mut written = lock(&self.shared.written);
        (written.position, written.end) = (self.position, self.end);
        drop(written);
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn write_frame(&self, end: u64) -> Result<(), StorageError> {
        let segment = &self.segment;
        if end <= segment.prepared.load(Ordering::Acquire) {
            let written = segment.file.write(self.end, &self.buffer);
            return written.map_err(|error| self.shared.settle(APPENDING, error));
        }
        let _growing = lock(&segment.growing);
        let prepared = segment.prepared.load(Ordering::Acquire);
        self.shared.check_space(end.saturating_sub(prepared), APPENDING)?;
        match segment.file.write(self.end, &self.buffer) {
            Ok(()) => {
                segment.prepared.fetch_max(end, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                // What was written of the frame fails its checksum and the next append goes over
                // it, so it does no harm if it can't be cut off.
                if segment.file.set_len(self.end).is_ok() {
                    segment.prepared.store(self.end, Ordering::Release);
                }
                Err(self.shared.settle(APPENDING, error))
            }
        }
    }

    /// Lets later appends go to a new segment, and returns its number.
    ///
    /// # Errors
    /// Nothing was changed; the call may be repeated, unless the journal was poisoned before.
    pub fn rotate(&mut self) -> Result<u64, StorageError> {
        self.shared.check()?;
        self.shared.check_space(FRAMES_START, ROTATING)?;
        let header =
            SegmentHeader { number: self.segment.number + 1, life: self.life, position: self.position };
        let (segment, key) = create_segment(&self.shared.disk, header)?;
        let segment = Arc::new(segment);
        let mut written = lock(&self.shared.written);
        let left = std::mem::replace(&mut written.current, Arc::clone(&segment));
        written.left.push(left);
        written.end = FRAMES_START;
        written.new_names = true;
        drop(written);
        (self.segment, self.key, self.end) = (segment, key, FRAMES_START);
        Ok(header.number)
    }
}

impl<D: Disk> Syncer<D> {
    /// Makes durable what was appended when the call began, and returns the position up to which
    /// everything now is. Costs nothing when nothing was appended since the last sync.
    ///
    /// # Errors
    /// Any error poisons the journal: nothing may be acknowledged any more.
    pub fn sync(&self) -> Result<u64, StorageError> {
        let shared = &*self.shared;
        let _syncing = lock(&shared.syncing);
        shared.check()?;
        // Taken before the sync: what is appended during it may or may not be covered.
        let mut written = lock(&shared.written);
        let (position, current) = (written.position, Arc::clone(&written.current));
        let (left, new_names) = (std::mem::take(&mut written.left), std::mem::take(&mut written.new_names));
        drop(written);
        if position == shared.durable.load(Ordering::Acquire) && left.is_empty() && !new_names {
            return Ok(position);
        }
        for segment in left.iter().chain([&current]) {
            segment.file.sync_data().map_err(|error| shared.fail(SYNCING, error))?;
        }
        if new_names {
            shared.disk.sync_dir().map_err(|error| shared.fail(SYNCING, error))?;
        }
        shared.durable.fetch_max(position, Ordering::AcqRel);
        Ok(position)
    }

    /// The position up to which everything is durable, without syncing.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Writes zeros ahead of the appends, if less than half of `ahead_bytes` is left there. Call it
    /// when the position that `sync` returned has been passed on. A full disk is let pass: whoever
    /// appends will meet it.
    ///
    /// # Errors
    /// A write that failed for another reason poisons the journal.
    pub fn prepare(&self) -> Result<(), StorageError> {
        let shared = &*self.shared;
        shared.check()?;
        let written = lock(&shared.written);
        let (segment, end) = (Arc::clone(&written.current), written.end);
        drop(written);
        if segment.prepared.load(Ordering::Acquire).saturating_sub(end) >= shared.ahead_bytes.div_ceil(2) {
            return Ok(());
        }
        if shared.check_space(shared.ahead_bytes, SYNCING).is_err() {
            return Ok(());
        }
        let goal = end + shared.ahead_bytes;
        let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(shared.ahead_bytes).unwrap_or(ZEROS_BYTES))];
        loop {
            let _growing = lock(&segment.growing);
            let prepared = segment.prepared.load(Ordering::Acquire);
            if prepared >= goal {
                return Ok(());
            }
            match segment.file.write(prepared, &zeros) {
                Ok(()) => segment.prepared.store(prepared + zeros.len() as u64, Ordering::Release),
                Err(error) => {
                    let error = shared.settle(SYNCING, error);
                    return if error.may_pass() { Ok(()) } else { Err(error) };
                }
            }
        }
    }

    /// Removes the segments before `segment`, which a committed checkpoint made superfluous, once
    /// what was appended after them is durable.
    ///
    /// # Errors
    /// Some may have been removed, oldest first; the call may be repeated.
    pub fn drop_before(&self, segment: u64) -> Result<(), StorageError> {
        self.sync()?;
        let disk = &self.shared.disk;
        let names = disk.list().map_err(|error| StorageError::from_io(DROPPING, error))?;
        let mut old: Vec<u64> =
            names.iter().filter_map(|name| segment_number(name)).filter(|number| *number < segment).collect();
        old.sort_unstable();
        for number in &old {
            let removed = disk.remove(&segment_name(*number));
            removed.map_err(|error| StorageError::from_io(DROPPING, error))?;
        }
        if old.is_empty() {
            return Ok(());
        }
        disk.sync_dir().map_err(|error| StorageError::from_io(DROPPING, error))
    }
}

impl<D: Disk> Shared<D> {
    fn check(&self) -> Result<(), StorageError> {
        if self.failed.load(Ordering::Acquire) { Err(POISONED) } else { Ok(()) }
    }

    fn fail(&self, doing: &'static str, source: std::io::Error) -> StorageError {
        self.failed.store(true, Ordering::Release);
        StorageError::Io { doing, source }
    }

    /// A full disk can be tried again; after anything else nobody knows what the disk holds.
    fn settle(&self, doing: &'static str, source: std::io::Error) -> StorageError {
        let error = StorageError::from_io(doing, source);
        if !error.may_pass() {
            self.failed.store(true, Ordering::Release);
        }
        error
    }

    fn check_space(&self, bytes: u64, doing: &'static str) -> Result<(), StorageError> {
        let free = self.disk.free_space().map_err(|error| StorageError::from_io(doing, error))?;
        let enough = free >= self.reserve_bytes.saturating_add(bytes);
        if enough { Ok(()) } else { Err(StorageError::Full { doing }) }
    }
}

fn make_life(options: &JournalOptions, number: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("kith 2026 journal life");
    for part in [options.seed, options.wall_ms, number] {
        hasher.update(&part.to_le_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

fn create_segment<D: Disk>(
    disk: &D,
    header: SegmentHeader,
) -> Result<(Segment<D::File>, FrameKey), StorageError> {
    let create = || {
        let file = disk.open(&segment_name(header.number), true)?;
        // An earlier attempt may have left its beginning.
        file.set_len(0)?;
        file.write(0, &header.encode())?;
        Ok(file)
    };
    let file = create().map_err(|error| StorageError::from_io(ROTATING, error))?;
    let segment = Segment {
        number: header.number,
        file,
        prepared: AtomicU64::new(FRAMES_START),
        growing: Mutex::new(()),
    };
    Ok((segment, header.key()))
}

/// A panic elsewhere leaves what these mutexes guard in a state that the checks here cover.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
