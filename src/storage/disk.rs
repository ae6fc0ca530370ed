//! The port between storage and a disk, and the real disk behind it.
//!
//! [`File`] has the shape of redb's storage backend; [`Disk`] adds what a directory of files with
//! flat names needs. What was written is durable only after `sync_data`, and a new, renamed or
//! removed name only after `sync_dir`: an implementation may lose, tear or reorder all else.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file. Reads and writes carry their offset, so one handle serves several threads.
pub trait File: Debug + Send + Sync + 'static {
    /// Bytes in the file.
    ///
    /// # Errors
    /// What the disk reports.
    fn length(&self) -> io::Result<u64>;

    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else what the disk reports.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file where needed.
    ///
    /// # Errors
    /// What the disk reports; a part may have been written then.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or grows it with zeros.
    ///
    /// # Errors
    /// What the disk reports.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Returns once all that was written is durable.
    ///
    /// # Errors
    /// What the disk reports; nothing may be believed durable then.
    fn sync_data(&self) -> io::Result<()>;
}

/// One directory of files with flat names. Clones are handles on the same directory.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open file.
    type File: File;
    /// Keeps other processes out while it lives.
    type Lock: Debug + Send + 'static;

    /// Opens a file for reading and writing; makes it, empty, if `create` and there is none.
    ///
    /// # Errors
    /// `NotFound` when there is none and `create` is false; else what the disk reports.
    fn open(&self, name: &str, create: bool) -> io::Result<Self::File>;

    /// Renames a file, replacing what has the new name, in one step.
    ///
    /// # Errors
    /// What the disk reports.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the disk reports.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, in no particular order.
    ///
    /// # Errors
    /// What the disk reports.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Returns once all names that were made, changed and removed are durable.
    ///
    /// # Errors
    /// What the disk reports.
    fn sync_dir(&self) -> io::Result<()>;

    /// Keeps other processes out of the directory for as long as the lock lives.
    ///
    /// # Errors
    /// `WouldBlock` when another holds it; else what the disk reports.
    fn lock(&self) -> io::Result<Self::Lock>;

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// What the disk reports.
    fn free_space(&self) -> io::Result<u64>;
}

/// Takes the directory's lock.
///
/// # Errors
/// [`StorageError::Locked`](super::StorageError::Locked) when another process has it.
pub fn lock<D: Disk>(disk: &D) -> Result<D::Lock, super::StorageError> {
    disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => super::StorageError::Locked,
        _ => super::StorageError::from_io("locking the data directory", error),
    })
}

const LOCK: &str = "lock";

/// A directory of the operating system.
#[derive(Debug, Clone)]
pub struct OsDisk {
    directory: Arc<Path>,
    /// Held open, so that what was written can be made durable also when no file can be opened any more.
    opened: Arc<fs::File>,
}

impl OsDisk {
    /// Opens a directory; makes it and its parents, closed to other users, if there is none.
    ///
    /// # Errors
    /// What the system reports.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let opened = Arc::new(fs::File::open(&directory)?);
        Ok(Self { directory: directory.into(), opened })
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Disk for OsDisk {
    type File = fs::File;
    type Lock = fs::File;

    fn open(&self, name: &str, create: bool) -> io::Result<fs::File> {
        let path = self.directory.join(name);
        fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.opened.sync_all()
    }

    fn lock(&self) -> io::Result<fs::File> {
        let file = self.open(LOCK, true)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_space(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&*self.directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl File for fs::File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Self::set_len(self, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StorageError;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_directory_is_closed_to_other_users() {
        let place = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(place.path().join("deep/er")).unwrap();
        let mode = fs::metadata(disk.directory()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(disk.free_space().unwrap() > 0);
    }

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let (first, second) = (OsDisk::new(place.path()).unwrap(), OsDisk::new(place.path()).unwrap());
        let held = lock(&first).unwrap();
        assert!(matches!(lock(&second), Err(StorageError::Locked)));
        drop(held);
        lock(&second).unwrap();
    }

    #[test]
    fn files_are_listed_by_the_names_they_have_now() {
        let place = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(place.path()).unwrap();
        disk.open("a", true).unwrap().write(3, b"xyz").unwrap();
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        assert_eq!(disk.open("a", false).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = disk.open("b", false).unwrap();
        let mut out = [1; 6];
        file.read(0, &mut out).unwrap();
        assert_eq!(&out, b"\0\0\0xyz");
        assert_eq!(file.read(1, &mut out).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
