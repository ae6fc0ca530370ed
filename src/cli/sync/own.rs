//! What is kept of one's own in a directory that is kept equal: `.kith-sync`.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by the one run that keeps the directory |
//! | `source` | whose keys its files are ([`Source`]) |
//! | `made` | what was made there ([`super::made`]) |
//! | `due` | there while the command has not run since something changed |
//! | `partial` | a file's new content before it takes its place |
//! | `note` | the same of what is kept here |
//!
//! Invariants: a link is never followed here, and nothing is cut short that one leads to; what is written takes its name
//! whole and lasts when this returns.

use super::error::MirrorError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Its name.
pub(super) const OWN: &str = ".kith-sync";
const LOCK: &str = "lock";
const SOURCE: &str = "source";
const DUE: &str = "due";
const PARTIAL: &str = "partial";
const NOTE: &str = "note";

/// Whose keys the files of a directory are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) cluster: String,
    pub(super) collection: String,
    /// As people are shown it, which differs for different bytes.
    pub(super) prefix: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster, collection, prefix } = self;
        write!(f, "keys with the prefix `{prefix}` of collection `{collection}` in the cluster {cluster}")
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Own {
    path: PathBuf,
    /// Device and inode: by this it is known whatever else it is called.
    identity: (u64, u64),
    /// Whether the command is due.
    due: bool,
    _lock: File,
}

impl Own {
    /// Takes a directory, which must be there.
    pub(super) fn open(directory: &Path) -> Result<Self, MirrorError> {
        let path = directory.join(OWN);
        if let Err(error) = fs::create_dir(&path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(MirrorError::io("can't make", &path)(error));
        }
        let there = fs::symlink_metadata(&path).map_err(MirrorError::io("can't find", &path))?;
        if !there.is_dir() {
            return Err(MirrorError::NotOwn(path));
        }
        let lock = path.join(LOCK);
        let file = open(&lock, File::options().write(true).create(true).truncate(false))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MirrorError::Taken),
            Err(TryLockError::Error(source)) => return Err(MirrorError::io("can't lock", &lock)(source)),
        }
        let due = fs::symlink_metadata(path.join(DUE)).is_ok();
        Ok(Self { path, identity: identity(&there), due, _lock: file })
    }

    /// Whether this is what was found in the directory.
    pub(super) fn is(&self, there: &Metadata) -> bool {
        identity(there) == self.identity
    }

    /// Whose keys the files are; `None` in a directory that is new.
    pub(super) fn source(&self) -> Result<Option<Source>, MirrorError> {
        let Some(text) = self.read(SOURCE)? else { return Ok(None) };
        let not_own = |_| MirrorError::NotOwn(self.file(SOURCE));
        serde_json::from_slice(&text).map(Some).map_err(not_own)
    }

    /// Notes whose keys the files are.
    pub(super) fn belong_to(&self, source: &Source) -> Result<(), MirrorError> {
        let text = serde_json::to_vec(source).map_err(io::Error::from);
        self.write(SOURCE, &text.map_err(MirrorError::io("can't write", &self.file(SOURCE)))?)
    }

    /// Whether the command must run, because it has not since something changed.
    pub(super) const fn is_due(&self) -> bool {
        self.due
    }

    /// Notes that the command must run. Says whether that was so already.
    pub(super) fn make_due(&mut self) -> Result<bool, MirrorError> {
        if self.due {
            return Ok(true);
        }
        self.write(DUE, b"")?;
        self.due = true;
        Ok(false)
    }

    /// Notes that the command need not run.
    pub(super) fn done(&mut self) -> Result<(), MirrorError> {
        if std::mem::take(&mut self.due) {
            let path = self.file(DUE);
            gone(fs::remove_file(&path)).map_err(MirrorError::io("can't remove", &path))?;
        }
        Ok(())
    }

    /// Where a file is.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file; `None` if there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, MirrorError> {
        let path = self.file(name);
        if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let (mut file, mut content) = (open(&path, File::options().read(true))?, Vec::new());
        file.read_to_end(&mut content).map_err(MirrorError::io("can't read", &path))?;
        Ok(Some(content))
    }

    /// Gives a file a content.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), MirrorError> {
        let (note, path) = (self.file(NOTE), self.file(name));
        write_new(&note, content, None)?;
        let named = fs::rename(note, &path).and_then(|()| File::open(&self.path)?.sync_all());
        named.map_err(MirrorError::io("can't write", &path))
    }

    /// Opens a file at its end.
    pub(super) fn append_to(&self, name: &str) -> Result<File, MirrorError> {
        open(&self.file(name), File::options().append(true))
    }

    /// Writes what will take the place of a file of this mode; of none, it is as the process's umask says.
    pub(super) fn partial(&self, content: &[u8], mode: Option<Permissions>) -> Result<PathBuf, MirrorError> {
        let path = self.file(PARTIAL);
        write_new(&path, content, mode)?;
        Ok(path)
    }
}

/// Writes a file in place of one that is left there, and waits until it lasts.
fn write_new(path: &Path, content: &[u8], mode: Option<Permissions>) -> Result<(), MirrorError> {
    let write = || {
        gone(fs::remove_file(path))?;
        let mut options = File::options();
        options.write(true).create_new(true);
        if mode.is_some() {
            // Nobody else reads it before it has the right one.
            options.mode(0o600);
        }
        let mut file = options.open(path)?;
        if let Some(mode) = mode {
            file.set_permissions(mode)?;
        }
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(MirrorError::io("can't write", path))
}

fn identity(there: &Metadata) -> (u64, u64) {
    (there.dev(), there.ino())
}

/// What is gone need not be removed.
pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens a plain file, not what a link leads to.
fn open(path: &Path, options: &mut OpenOptions) -> Result<File, MirrorError> {
    let is_other = fs::symlink_metadata(path).is_ok_and(|there| !there.is_file());
    if is_other {
        return Err(MirrorError::NotOwn(path.to_owned()));
    }
    let no_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    options.custom_flags(no_links).open(path).map_err(MirrorError::io("can't open", path))
}
