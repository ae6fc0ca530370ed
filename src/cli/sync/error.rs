//! Why a directory, or the file of one key in it, can't be kept equal.
//!
//! What is about one path costs that path only: other files go on, and it is tried again later. What is about the
//! directory itself, or about what is kept there of one's own, ends the round.

use super::own::OWN;
use crate::cli::output::printable;
use rustix::io::Errno;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of one name in a path that file systems take.
pub(super) const MAX_NAME_BYTES: usize = 255;

/// See the module. Paths come from keys, so they are shown with what is not printable escaped.
#[derive(Debug, thiserror::Error)]
pub(super) enum MirrorError {
    /// The key can't be a path.
    #[error(
        "it is no path: each part between `/` must be a name without control characters, and none of `.`, `..`, `{OWN}`"
    )]
    NoPath,
    /// A part of it is too long.
    #[error("a part of it has more than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// A link leads out of the directory.
    #[error("{} is a link, and links are not followed", shown(.0))]
    Link(PathBuf),
    /// A file is where this key needs a directory, or the other way round.
    #[error("{} is a directory for one key and a file for another; rename one of them", shown(.0))]
    Occupied(PathBuf),
    /// One path can't be read, written or removed.
    #[error("{what} {}: {source}", shown(.path))]
    Path { what: &'static str, path: PathBuf, source: io::Error },
    /// Another run has the directory.
    #[error("another `kith sync` keeps this directory; end it first")]
    Taken,
    /// What is kept of one's own is not what was kept.
    #[error("{} is a link, or not what `kith sync` keeps there; remove it", shown(.0))]
    NotOwn(PathBuf),
    /// The files are those of other keys.
    #[error(
        "it is kept for {kept}, whose files {asked} would replace; use another directory, or remove `{OWN}` in it: then its files stay, and are nobody's"
    )]
    Others { kept: String, asked: String },
    /// The disk.
    #[error("{what} {}: {source}", shown(.path))]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl MirrorError {
    /// Whether only this one path is concerned.
    pub(super) const fn is_about_name(&self) -> bool {
        matches!(self, Self::NoPath | Self::TooLong | Self::Link(_) | Self::Occupied(_) | Self::Path { .. })
    }

    /// Whether the same may succeed later, when somebody has made room.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self, Self::Link(_) | Self::Occupied(_) | Self::Path { .. } | Self::Io { .. })
    }

    /// What is about the directory.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// What is about a path in `directory`; it is about all of them where the next one would fare no better.
    pub(super) fn path(what: &'static str, path: &Path, directory: &Path, source: io::Error) -> Self {
        let is_full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
        );
        // A single file that may not be touched is told otherwise (EPERM).
        let is_denied = source.raw_os_error() == Some(Errno::ACCESS.raw_os_error());
        let is_closed = is_denied && path.parent() == Some(directory);
        let path = path.to_owned();
        if is_full || is_closed { Self::Io { what, path, source } } else { Self::Path { what, path, source } }
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_says_of_one_path_concerns_no_other_unless_it_says_so_of_all() {
        let directory = Path::new("/d");
        let is_about_name = |path: &str, errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let error = MirrorError::path("can't write", Path::new(path), directory, error);
            assert!(error.may_pass());
            error.is_about_name()
        };
        for errno in [Errno::NAMETOOLONG, Errno::ILSEQ, Errno::INVAL, Errno::XDEV, Errno::PERM, Errno::BUSY] {
            assert!(is_about_name("/d/a", errno) && is_about_name("/d/a/b", errno), "{errno}");
        }
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS] {
            assert!(!is_about_name("/d/a", errno) && !is_about_name("/d/a/b", errno), "{errno}");
        }
        assert!(is_about_name("/d/foreign/a", Errno::ACCESS) && !is_about_name("/d/a", Errno::ACCESS));
    }
}
