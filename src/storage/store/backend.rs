//! What redb works on: a file of the port, behind a gate that the store can shut.

use super::super::disk::File;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Redb writes a whole checkpoint before it syncs. A disk that has so much to do at once lets the journal's syncs
/// wait until all of it is done; so it is given to the disk in pieces.
const MOST_UNSYNCED_BYTES: usize = 1 << 20;

/// A gate is open at first. In this state nothing reaches the file: redb checks it, and what it would repair must stay as it
/// is. It sees what it wrote itself, or it would find damage where there is none.
const SEALED: u8 = 1;
/// Everything fails: a handle that was sealed, or has to forget what it did, is closed. It would write and read back
/// what was let fall, and its panics over that may come two at a time, which ends the process.
const SHUT: u8 = 2;

/// What one opening of the file may do, and what it did. A shut one is never opened again.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU8,
    written: AtomicU64,
}

impl Gate {
    /// From now on writes are kept from the file.
    pub(super) fn seal(&self) {
        self.state.store(SEALED, Ordering::Release);
    }

    /// From now on everything fails.
    pub(super) fn shut(&self) {
        self.state.store(SHUT, Ordering::Release);
    }

    /// Bytes that were written through it.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// Lets redb work on a file of the port.
///
/// Redb gives pages to the file one by one, hundreds of others between two that lie side by side. So they are gathered, and
/// neighbours are written together: for the system one page costs almost as much as a hundred in a row.
#[derive(Debug)]
pub(super) struct Backend<F> {
    file: F,
    gate: Arc<Gate>,
    /// Bytes that may wait.
    room: usize,
    /// What the file is still to be given. What fails to be written stays, and so no sync succeeds
    /// without it.
    waiting: Mutex<Waiting>,
}

/// Writes that wait, none over another.
#[derive(Debug, Default)]
struct Waiting {
    /// By where they begin.
    writes: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
    /// Where the last run ended. The next one is the next behind it, because redb takes
    /// new pages one behind the other.
    hand: u64,
    /// Bytes that were written since the last sync.
    unsynced: usize,
}

impl Waiting {
    /// The writes that overlap a range, the last one first.
    fn over(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let before_end = self.writes.range(..end).rev().map(|(at, write)| (*at, &**write));
        before_end.take_while(move |(at, write)| at + write.len() as u64 > start)
    }

    /// Puts a write over all before it.
    fn put(&mut self, start: u64, bytes: &[u8]) {
        let end = start + bytes.len() as u64;
        let covered: Vec<u64> = self.over(start, end).map(|(at, _)| at).collect();
        for at in covered {
            let Some(write) = self.writes.remove(&at) else { continue };
            self.bytes -= write.len();
            // What it had before and behind.
            let head = write.get(..start.saturating_sub(at) as usize).unwrap_or_default();
            let tail = write.get(end.saturating_sub(at) as usize..).unwrap_or_default();
            for (at, part) in [(at, head), (end, tail)] {
                if !part.is_empty() {
                    self.bytes += part.len();
                    self.writes.insert(at, part.into());
                }
            }
        }
        self.bytes += bytes.len();
        self.writes.insert(start, bytes.into());
    }

    /// Copies what waits over what was read.
    fn show(&self, start: u64, out: &mut [u8]) {
        for (at, write) in self.over(start, start + out.len() as u64) {
            let (skipped, from) = (start.saturating_sub(at) as usize, at.saturating_sub(start) as usize);
            let (shown, place) = (write.get(skipped..).unwrap_or_default(), out.get_mut(from..));
            place.unwrap_or_default().iter_mut().zip(shown).for_each(|(to, byte)| *to = *byte);
        }
    }

    /// Writes until no more than so many bytes wait, what lies side by side in one go.
    fn write_down_to(&mut self, bytes: usize, file: &impl File) -> io::Result<()> {
        let mut run = Vec::new();
        while self.bytes > bytes {
            let behind = self.writes.range(self.hand..).next();
            let Some((&start, _)) = behind.or_else(|| self.writes.iter().next()) else { break };
            let mut end = start;
            run.clear();
            for (at, write) in self.writes.range(start..) {
                if *at != end || run.len() >= MOST_UNSYNCED_BYTES {
                    break;
                }
                run.extend_from_slice(write);
                end += write.len() as u64;
            }
            file.write(start, &run)?;
            while let Some((&at, _)) = self.writes.range(start..end).next() {
                self.writes.remove(&at);
            }
            self.bytes -= run.len();
            self.hand = end;
            self.unsynced += run.len();
            if self.unsynced >= MOST_UNSYNCED_BYTES {
                self.sync(file)?;
            }
        }
        Ok(())
    }

    fn sync(&mut self, file: &impl File) -> io::Result<()> {
        self.unsynced = 0;
        file.sync_data()
    }
}

impl<F: File> Backend<F> {
    /// At most `room` bytes are gathered.
    pub(super) fn new(file: F, gate: Arc<Gate>, room: usize) -> Self {
        Self { file, gate, room, waiting: Mutex::default() }
    }

    /// What waits, and the gate's state; an error if that is shut.
    fn enter(&self) -> io::Result<(MutexGuard<'_, Waiting>, bool)> {
        let state = self.gate.state.load(Ordering::Acquire);
        if state == SHUT {
            return Err(io::Error::other("the file was shut"));
        }
        // Nothing that panics holds the lock.
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((waiting, state == SEALED))
    }
}

impl<F: File> redb::StorageBackend for Backend<F> {
    fn len(&self) -> io::Result<u64> {
        // Redb makes room before it writes.
        self.enter().and_then(|_| self.file.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (waiting, _) = self.enter()?;
        if let Some(write) = waiting.writes.get(&offset).filter(|write| write.len() == out.len()) {
            out.copy_from_slice(write);
            return Ok(());
        }
        self.file.read(offset, out)?;
        waiting.show(offset, out);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let (mut waiting, is_sealed) = self.enter()?;
        if is_sealed {
            return Ok(());
        }
        waiting.write_down_to(0, &self.file)?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut waiting, is_sealed) = self.enter()?;
        if is_sealed {
            return Ok(());
        }
        waiting.write_down_to(0, &self.file)?;
        waiting.sync(&self.file)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut waiting, is_sealed) = self.enter()?;
        if waiting.bytes > self.room && !is_sealed {
            // Some at a time, or there would be nothing left for what comes to lie beside.
            waiting.write_down_to(self.room - self.room / 8, &self.file)?;
        }
        waiting.put(offset, bytes);
        self.gate.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let (mut waiting, is_sealed) = self.enter()?;
        if is_sealed { Ok(()) } else { waiting.write_down_to(0, &self.file) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::StorageBackend as _;

    /// A file in memory that counts what it is given, and fails on demand.
    #[derive(Debug, Default)]
    struct Memory {
        content: Mutex<Vec<u8>>,
        writes: Mutex<Vec<(u64, usize)>>,
        fails: Arc<AtomicU8>,
    }

    impl File for Memory {
        fn length(&self) -> io::Result<u64> {
            Ok(self.content.lock().unwrap().len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let content = self.content.lock().unwrap();
            let wanted = content.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(wanted.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            if self.fails.load(Ordering::Relaxed) > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.writes.lock().unwrap().push((offset, bytes.len()));
            let mut content = self.content.lock().unwrap();
            let end = offset as usize + bytes.len();
            let length = content.len().max(end);
            content.resize(length, 0);
            content[offset as usize..end].copy_from_slice(bytes);
            Ok(())
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.content.lock().unwrap().resize(length as usize, 0);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pages_that_lie_side_by_side_are_written_together() {
        let backend = Backend::new(Memory::default(), Arc::default(), 1 << 20);
        for page in [5, 3, 4, 9] {
            backend.write(page * 4_096, &[page as u8; 4_096]).unwrap();
        }
        assert!(backend.file.writes.lock().unwrap().is_empty());
        backend.sync_data().unwrap();
        assert_eq!(*backend.file.writes.lock().unwrap(), [(3 * 4_096, 3 * 4_096), (9 * 4_096, 4_096)]);
        for page in 0..1_000 {
            backend.write(page * 4_096, &[0; 4_096]).unwrap();
        }
        backend.close().unwrap();
        let writes = backend.file.writes.lock().unwrap();
        assert!(writes.len() < 2 + 32, "{writes:?}");
    }

    #[test]
    fn a_sync_fails_until_everything_was_written() {
        let memory = Memory::default();
        let fails = Arc::clone(&memory.fails);
        let backend = Backend::new(memory, Arc::default(), 1 << 20);
        backend.write(0, b"abc").unwrap();
        fails.store(1, Ordering::Relaxed);
        for _ in 0..2 {
            assert_eq!(backend.sync_data().unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
        fails.store(0, Ordering::Relaxed);
        backend.sync_data().unwrap();
        assert_eq!(*backend.file.content.lock().unwrap(), b"abc");
    }

    #[test]
    fn a_shut_gate_lets_nothing_through_and_a_sealed_one_no_change() {
        let gate = Arc::<Gate>::default();
        let backend = Backend::new(Memory::default(), Arc::clone(&gate), 1 << 20);
        backend.write(0, b"abc").unwrap();
        backend.sync_data().unwrap();
        gate.seal();
        backend.write(1, b"xy").unwrap();
        backend.set_len(1).unwrap();
        backend.sync_data().unwrap();
        let mut out = [0; 3];
        backend.read(0, &mut out).unwrap();
        assert_eq!(&out, b"axy", "who wrote sees it");
        backend.close().unwrap();
        assert_eq!(*backend.file.content.lock().unwrap(), b"abc");
        gate.shut();
        assert!(backend.read(0, &mut out).is_err() && backend.write(0, b"x").is_err());
        assert!(backend.len().is_err() && backend.sync_data().is_err());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Read(u64, usize),
        Length(u64),
        Sync,
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = prop_oneof![Just(8), 1..30usize];
        prop_oneof![
            6 => (0..20u64, bytes.clone(), any::<u8>()).prop_map(|(at, n, byte)| Step::Write(at * 8, vec![byte; n])),
            4 => (0..20u64, bytes).prop_map(|(at, n)| Step::Read(at * 8, n)),
            1 => (200..300u64).prop_map(Step::Length),
            1 => Just(Step::Sync),
        ]
    }

    proptest! {
        #[test]
        fn what_waits_is_read_as_if_it_were_written(steps in proptest::collection::vec(step(), 1..60)) {
            let backend = Backend::new(Memory::default(), Arc::default(), 100);
            let model = Memory::default();
            // Redb never writes behind the file's end.
            backend.set_len(200).unwrap();
            model.set_len(200).unwrap();
            for step in steps {
                match step {
                    Step::Write(offset, bytes) => {
                        backend.write(offset, &bytes).unwrap();
                        model.write(offset, &bytes).unwrap();
                    }
                    Step::Read(offset, bytes) => {
                        let (mut found, mut expected) = (vec![0; bytes], vec![0; bytes]);
                        let read = backend.read(offset, &mut found).map_err(|error| error.kind());
                        let modelled = model.read(offset, &mut expected).map_err(|error| error.kind());
                        prop_assert_eq!((read, found), (modelled, expected));
                    }
                    Step::Length(length) => {
                        backend.set_len(length).unwrap();
                        model.set_len(length).unwrap();
                    }
                    Step::Sync => backend.sync_data().unwrap(),
                }
            }
            prop_assert_eq!(backend.len().unwrap(), model.length().unwrap());
            backend.close().unwrap();
            prop_assert_eq!(&*backend.file.content.lock().unwrap(), &*model.content.lock().unwrap());
        }
    }
}
