//! A disk in memory that can do what real ones do at the worst moment.
//!
//! What was written but not synced is kept apart from what is durable. A crash decides by the disk's
//! own random numbers, drawn from one seed, what of it survives: nothing, everything, the first
//! part, or any selection of 512-byte sectors. Changes of names survive up to some point in their
//! order, as a file system that journals its directories has it. Handles that were opened before a
//! crash are dead.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::indexing_slicing, reason = "a mistake of the simulation should stop it")]

use kith::storage::{Disk, File};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

/// What a fault can be put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Sync,
    Name,
}

/// A simulated disk. Clones are handles on the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// An open file of a simulated disk.
pub struct SimFile {
    disk: SimDisk,
    inode: usize,
    generation: u64,
}

/// The lock of a simulated disk.
#[derive(Debug)]
pub struct SimLock {
    disk: SimDisk,
    generation: u64,
}

#[derive(Clone)]
struct State {
    random: u64,
    inodes: Vec<Inode>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    renames: Vec<NameChange>,
    generation: u64,
    locked: bool,
    powered: bool,
    operations: u64,
    crash_at: Option<u64>,
    fail_next: Vec<(Operation, io::ErrorKind)>,
    errors_per_mille: u64,
    lying: bool,
    capacity: u64,
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: seed,
            inodes: Vec::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            renames: Vec::new(),
            generation: 0,
            locked: false,
            powered: true,
            operations: 0,
            crash_at: None,
            fail_next: Vec::new(),
            errors_per_mille: 0,
            lying: false,
            capacity: u64::MAX,
        })))
    }

    /// A second disk with the same content, whose further fate is its own.
    pub fn copy(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.random = seed;
        Self(Arc::new(Mutex::new(state)))
    }

    /// The power fails and returns: unsynced changes survive in part, old handles are dead.
    pub fn crash(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let kept = pick(&mut state.random, state.renames.len() as u64 + 1) as usize;
        let changes: Vec<NameChange> = state.renames.drain(..).take(kept).collect();
        for change in changes {
            change.apply(&mut state.durable);
        }
        state.live = state.durable.clone();
        for inode in &mut state.inodes {
            inode.crash(&mut state.random);
        }
        state.restart();
    }

    /// The process is killed: everything that it wrote is there, old handles are dead.
    pub fn kill(&self) {
        self.state().restart();
    }

    /// The power fails in the middle of the `count`th change (write, new length, sync, name) from
    /// now on; `crash` brings it back.
    pub fn crash_after(&self, count: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + count);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        !self.state().powered
    }

    /// Changes (writes, new lengths, syncs, names) so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The next operation of that sort fails.
    pub fn fail_next(&self, operation: Operation, kind: io::ErrorKind) {
        self.state().fail_next.push((operation, kind));
    }

    /// How many of a thousand reads, writes and syncs fail.
    pub fn set_errors_per_mille(&self, rate: u64) {
        self.state().errors_per_mille = rate;
    }

    /// Syncs succeed and do nothing.
    pub fn set_lying_fsync(&self, lying: bool) {
        self.state().lying = lying;
    }

    /// Bytes that fit on the disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state().live.keys().cloned().collect()
    }

    /// The content of a file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.inodes[state.live[name]].live.clone()
    }

    /// Replaces the content of a file behind everybody's back, durably.
    pub fn set_content(&self, name: &str, content: &[u8]) {
        let mut state = self.state();
        let inode = Inode { live: content.to_vec(), durable: content.to_vec(), unsynced: Vec::new() };
        let id = state.inodes.len();
        state.inodes.push(inode);
        state.live.insert(name.to_owned(), id);
        state.durable.insert(name.to_owned(), id);
    }

    /// Turns one bit of a file over, durably.
    pub fn flip_bit(&self, name: &str, bit: usize) {
        let mut content = self.content(name);
        content[bit / 8] ^= 1 << (bit % 8);
        self.set_content(name, &content);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn restart(&mut self) {
        self.generation += 1;
        (self.powered, self.locked, self.crash_at) = (true, false, None);
    }

    fn used(&self) -> u64 {
        self.live.values().map(|inode| self.inodes[*inode].live.len() as u64).sum()
    }

    /// Lets an operation begin. `Ok(false)`: it is the one in which the power fails.
    fn begin(&mut self, operation: Operation) -> io::Result<bool> {
        if !self.powered {
            return Err(io::Error::other("the power is off"));
        }
        if operation != Operation::Read {
            self.operations += 1;
            if self.crash_at == Some(self.operations) {
                self.powered = false;
                return Ok(false);
            }
        }
        if let Some(at) = self.fail_next.iter().position(|(which, _)| *which == operation) {
            return Err(self.fail_next.remove(at).1.into());
        }
        if operation != Operation::Name && pick(&mut self.random, 1_000) < self.errors_per_mille {
            return Err(io::Error::other("a simulated error"));
        }
        Ok(true)
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        let goes_on = self.begin(Operation::Name)?;
        change.apply(&mut self.live);
        self.renames.push(change);
        if goes_on { Ok(()) } else { Err(io::Error::other("the power fails")) }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    fn crash(&mut self, random: &mut u64) {
        let changes = std::mem::take(&mut self.unsynced);
        match pick(random, 4) {
            0 => {}
            1 => changes.iter().for_each(|change| apply(&mut self.durable, change)),
            2 => {
                let whole = pick(random, changes.len() as u64 + 1) as usize;
                changes.iter().take(whole).for_each(|change| apply(&mut self.durable, change));
                if let Some(Change::Write(offset, bytes)) = changes.get(whole) {
                    let kept = pick(random, bytes.len() as u64 + 1) as usize / SECTOR * SECTOR;
                    apply(&mut self.durable, &Change::Write(*offset, bytes[..kept].to_vec()));
                }
            }
            _ => changes.iter().for_each(|change| self.scatter(change, random)),
        }
        self.live = self.durable.clone();
    }

    /// Any selection of a write's sectors survives.
    fn scatter(&mut self, change: &Change, random: &mut u64) {
        let Change::Write(offset, bytes) = change else {
            if pick(random, 2) == 0 {
                apply(&mut self.durable, change);
            }
            return;
        };
        let mut from = 0;
        while from < bytes.len() {
            let to = bytes.len().min(from + SECTOR - (offset + from) % SECTOR);
            if pick(random, 2) == 0 {
                apply(&mut self.durable, &Change::Write(offset + from, bytes[from..to].to_vec()));
            }
            from = to;
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => content.resize(*length, 0),
        Change::Write(offset, bytes) => {
            let end = offset + bytes.len();
            if content.len() < end && !bytes.is_empty() {
                content.resize(end, 0);
            }
            if let Some(room) = content.get_mut(*offset..end) {
                room.copy_from_slice(bytes);
            }
        }
    }
}

/// A number below `bound` (splitmix64).
pub fn pick(random: &mut u64, bound: u64) -> u64 {
    *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % bound.max(1)
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, name: &str, create: bool) -> io::Result<SimFile> {
        let mut state = self.state();
        if !state.powered {
            return Err(io::Error::other("the power is off"));
        }
        let inode = match state.live.get(name) {
            Some(inode) => *inode,
            None if !create => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let inode = state.inodes.len();
                state.inodes.push(Inode::default());
                state.change_name(NameChange::Create(name.to_owned(), inode))?;
                inode
            }
        };
        Ok(SimFile { disk: self.clone(), inode, generation: state.generation })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.live.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Remove(name.to_owned()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.begin(Operation::Read)?;
        Ok(state.live.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        if !state.begin(Operation::Sync)? {
            return Err(io::Error::other("the power fails"));
        }
        if !state.lying {
            let changes: Vec<NameChange> = state.renames.drain(..).collect();
            changes.iter().for_each(|change| change.apply(&mut state.durable));
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<SimLock> {
        let mut state = self.state();
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(SimLock { disk: self.clone(), generation: state.generation })
    }

    fn free_space(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

impl SimFile {
    /// The disk's state, if this handle still counts and the operation may begin.
    fn begin(&self, operation: Operation) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.disk.state();
        if state.generation != self.generation {
            return Err(io::Error::other("this file was opened before a crash"));
        }
        let goes_on = state.begin(operation)?;
        Ok((state, goes_on))
    }

    /// Makes a change, or fails with the power: what is unsynced then is up to the crash.
    fn change(&self, change: Change) -> io::Result<()> {
        let (mut state, goes_on) = self.begin(Operation::Write)?;
        let length = state.inodes[self.inode].live.len();
        let (start, end) = match &change {
            Change::Write(offset, bytes) => (*offset, offset + bytes.len()),
            Change::Length(end) => (length, *end),
        };
        let free = state.capacity.saturating_sub(state.used());
        if end.saturating_sub(length) as u64 > free {
            // A full disk takes what fits.
            let fits = (length + free as usize).saturating_sub(start);
            if let Change::Write(offset, bytes) = change {
                let part = bytes[..fits.min(bytes.len())].to_vec();
                state.inodes[self.inode].change(Change::Write(offset, part));
            }
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.inodes[self.inode].change(change);
        if goes_on { Ok(()) } else { Err(io::Error::other("the power fails")) }
    }
}

impl File for SimFile {
    fn length(&self) -> io::Result<u64> {
        let (state, _) = self.begin(Operation::Read)?;
        Ok(state.inodes[self.inode].live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, _) = self.begin(Operation::Read)?;
        let content = &state.inodes[self.inode].live;
        let found = content.get(offset as usize..).and_then(|tail| tail.get(..out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, bytes.to_vec()))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let failed = match self.begin(Operation::Sync) {
            Ok((mut state, goes_on)) => {
                if goes_on && !state.lying {
                    state.inodes[self.inode].sync();
                }
                if goes_on {
                    return Ok(());
                }
                io::Error::other("the power fails")
            }
            Err(error) => error,
        };
        let mut state = self.disk.state();
        // After a failed sync the system may hold the lost pages for written.
        if state.powered && state.generation == self.generation {
            state.inodes[self.inode].unsynced.clear();
        }
        Err(failed)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.generation == self.generation {
            state.locked = false;
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("inode", &self.inode).finish_non_exhaustive()
    }
}
