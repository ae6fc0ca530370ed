//! What can go wrong on a disk, told so that somebody can act on it.
//!
//! Every variant says whether state changed. After [`StorageError::Full`] and [`StorageError::NoFiles`] the same
//! call may simply be repeated, and after no other.

use std::io;

/// Why storage could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No space is left, or less than the reserve. Nothing was changed; the call may be repeated.
    #[error("the disk is full while {doing}: free some space in the data directory, kith resumes by itself")]
    Full {
        /// What was being done.
        doing: &'static str,
    },
    /// No file can be opened any more. Nothing was changed; the call may be repeated.
    #[error(
        "no more files can be opened while {doing}: too many are open in this process or on this machine (`ulimit -n`); close connections or raise the bound, kith resumes by itself"
    )]
    NoFiles {
        /// What was being done.
        doing: &'static str,
    },
    /// The data directory belongs to a running process. Nothing was changed.
    #[error("another kith uses this data directory: stop it, or give this member a directory of its own")]
    Locked,
    /// Bytes on the disk are not what was written. Nothing was changed.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// Which file or part.
        what: String,
        /// How it was noticed.
        detail: String,
    },
    /// A file was written by a version of kith that this one does not know. Nothing was changed.
    #[error("{what} has format {version}, which this version of kith does not know: run a newer kith")]
    Format {
        /// Which file.
        what: String,
        /// The version that was found.
        version: u32,
    },
    /// The disk reported an error. A failed write or sync may have changed any part of what was
    /// being written, but nothing that was durable before.
    #[error("{doing} failed: {source}; check the disk and the data directory's permissions")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's own words.
        source: io::Error,
    },
    /// An earlier write or sync failed, so nothing that is said now could be relied on. Nothing was
    /// changed. The member must stop; a restart replays what is durable.
    #[error("an earlier write or sync of the {what} failed: check the disk, then restart this member")]
    Poisoned {
        /// Which part.
        what: &'static str,
    },
    /// More bytes than the format takes. Nothing was changed.
    #[error("{what} has {bytes} bytes; at most {most} fit")]
    TooLarge {
        /// What was to be written.
        what: &'static str,
        /// How many bytes it has.
        bytes: usize,
        /// How many fit.
        most: usize,
    },
    /// A checkpoint is being written already. Nothing was changed.
    #[error("a checkpoint is being written already: commit or drop it first")]
    Busy,
}

impl StorageError {
    /// Tells what passes from other errors.
    #[must_use]
    pub fn from_io(doing: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { doing },
            _ if is_short_of_files(&source) => Self::NoFiles { doing },
            _ => Self::Io { doing, source },
        }
    }

    /// Whether the same call may succeed later without any repair.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoFiles { .. })
    }

    /// Damage that the caller found.
    #[must_use]
    pub fn damaged(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), detail: detail.into() }
    }
}

/// Whether this process, or the machine, has as many files open as it may.
fn is_short_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_full_disk_and_too_many_open_files_pass_and_nothing_else_does() {
        let told = |error: Errno| StorageError::from_io("trying", error.into());
        for passing in [Errno::NOSPC, Errno::MFILE, Errno::NFILE] {
            assert!(told(passing).may_pass(), "{passing}");
        }
        assert!(!told(Errno::IO).may_pass());
    }
}
