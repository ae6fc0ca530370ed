//! Files that are written whole or not at all.

use super::error::CliError;
use rustix::io::Errno;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Links that are followed one after the other; systems follow no more.
const MAX_LINKS: usize = 40;

/// What becomes of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Who may use it at most, less what the process's umask takes away. Of one that was there nobody gets more than before.
    pub(super) mode: u32,
    /// Whether one that is there gives way.
    pub(super) replaces: bool,
}

/// A file that has its name only once it is whole: what can't be exported to its end leaves an older file as it was.
#[derive(Debug)]
pub(super) struct Sink {
    writer: BufWriter<SinkFile>,
    path: PathBuf,
    replaces: bool,
}

#[derive(Debug)]
enum SinkFile {
    /// What is to be a file beside it, under another name.
    Partial(NamedTempFile),
    /// What is there and no file, as a pipe.
    Other(File),
}

impl Sink {
    /// Begins to write. An error of the kind `AlreadyExists` tells here and at the end that a file is there.
    pub(super) fn create(path: &Path, manner: Manner) -> io::Result<Self> {
        let Manner { mode, replaces } = manner;
        // A link stays one; what it leads to is replaced, or made.
        let (path, there) = match path.metadata() {
            Ok(there) => (path.canonicalize().unwrap_or_else(|_| path.to_owned()), Some(there)),
            Err(_) => (end_of_links(path)?, None),
        };
        let file = if there.as_ref().is_some_and(|there| !there.is_file()) {
            SinkFile::Other(File::options().write(true).open(&path)?)
        } else if there.is_some() && !replaces {
            return Err(io::ErrorKind::AlreadyExists.into());
        } else {
            let mut partial = tempfile::Builder::new();
            let mut prefix = path.file_name().unwrap_or_default().to_owned();
            prefix.push(".");
            let mode = there.map_or(mode, |there| there.permissions().mode() & mode);
            let partial =
                partial.prefix(&prefix).suffix(".partial").permissions(Permissions::from_mode(mode));
            SinkFile::Partial(partial.tempfile_in(directory_of(&path))?)
        };
        Ok(Self { writer: BufWriter::new(file), path, replaces })
    }

    /// All was written: the file gets its name.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.writer.into_inner().map_err(io::IntoInnerError::into_error)? {
            SinkFile::Partial(file) => {
                file.as_file().sync_all()?;
                let named =
                    if self.replaces { file.persist(&self.path) } else { file.persist_noclobber(&self.path) };
                named.map_err(|error| error.error)?;
                // The name, too, is to last.
                File::open(directory_of(&self.path))?.sync_all()
            }
            SinkFile::Other(mut file) => file.flush(),
        }
    }
}

/// Where what a link leads to would be, though nothing is there yet; of what is no link, its own path.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match path.read_link() {
            // It is to be understood from where the link is.
            Ok(target) => path = directory_of(&path).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Why a file, or standard output in its place, does not hold all. Of what is to be kept it is a failure that its reader
/// is gone: what has come to it looks like a whole one.
pub(super) fn unwritten(name: &str, error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::Failed(format!(
            "{name} was closed before all was written; what was read of it is not whole"
        )),
        _ => CliError::io(format!("can't write {name}"), error),
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Write for SinkFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Partial(file) => file.write(bytes),
            Self::Other(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Partial(file) => file.flush(),
            Self::Other(file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORT: Manner = Manner { mode: 0o666, replaces: true };
    const BACKUP: Manner = Manner { mode: 0o600, replaces: false };

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_older_file_stays_until_the_new_one_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("all.jsonl"), directory.path().join("link"));
        std::fs::write(&file, "older").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let mut sink = Sink::create(path, EXPORT).unwrap();
            sink.write_all(b"half").unwrap();
            sink.flush().unwrap();
            drop(sink);
            assert_eq!(std::fs::read(&file).unwrap(), b"older");
            assert_eq!(names(directory.path()), ["all.jsonl", "link"], "nothing is left behind");
        }
        let mut sink = Sink::create(&link, EXPORT).unwrap();
        sink.write_all(b"whole").unwrap();
        sink.finish().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"whole");
        assert!(link.is_symlink());
        assert_eq!(names(directory.path()), ["all.jsonl", "link"]);
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn who_may_read_an_older_file_may_read_the_new_one_and_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.jsonl");
        std::fs::write(&file, "older").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        Sink::create(&file, EXPORT).unwrap().finish().unwrap();
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn what_only_its_owner_may_read_is_so_also_in_place_of_what_others_might() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.jsonl");
        for (older, newer) in [(0o644, 0o600), (0o777, 0o600), (0o400, 0o400)] {
            std::fs::write(&file, "older").unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(older)).unwrap();
            let sink = Sink::create(&file, Manner { replaces: true, ..BACKUP }).unwrap();
            for name in names(directory.path()).into_iter().filter(|name| name.ends_with(".partial")) {
                assert_eq!(mode(&directory.path().join(name)), newer);
            }
            sink.finish().unwrap();
            assert_eq!(mode(&file), newer, "{older:o}");
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn what_a_link_leads_to_is_made_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("there")).unwrap();
        // One that is to be understood from where it is, behind one that is not.
        std::os::unix::fs::symlink("../new.jsonl", at("there/inner")).unwrap();
        std::os::unix::fs::symlink(at("there/inner"), at("link")).unwrap();
        for manner in [BACKUP, EXPORT] {
            let mut half = Sink::create(&at("link"), manner).unwrap();
            half.write_all(b"half").unwrap();
            half.flush().unwrap();
            assert!(!at("new.jsonl").exists(), "it has no name yet");
            drop(half);
            assert_eq!(names(directory.path()), ["link", "there"], "nothing is left behind");
        }
        let mut sink = Sink::create(&at("link"), BACKUP).unwrap();
        sink.write_all(b"whole").unwrap();
        sink.finish().unwrap();
        assert_eq!(std::fs::read(at("new.jsonl")).unwrap(), b"whole");
        assert!(at("link").is_symlink() && at("there/inner").is_symlink());
        assert_eq!(names(&at("there")), ["inner"]);
        assert_eq!(Sink::create(&at("link"), BACKUP).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_link_that_leads_nowhere_at_all_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let (link, round) = (directory.path().join("link"), directory.path().join("round"));
        std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
        std::os::unix::fs::symlink("round", &round).unwrap();
        for link in [link, round] {
            assert!(Sink::create(&link, EXPORT).is_err(), "{}", link.display());
        }
        assert_eq!(names(directory.path()), ["link", "round"]);
    }

    #[test]
    fn what_is_no_file_is_written_to() {
        let mut sink = Sink::create(Path::new("/dev/null"), BACKUP).unwrap();
        sink.write_all(b"all").unwrap();
        sink.finish().unwrap();
        assert!(!Path::new("/dev/null").is_file());
        assert!(Sink::create(Path::new("/nowhere/at/all"), EXPORT).is_err());
    }

    #[test]
    fn what_nobody_else_may_read_is_so_from_its_first_byte_and_takes_no_other_files_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.jsonl");
        let (sink, late) = (Sink::create(&file, BACKUP).unwrap(), Sink::create(&file, BACKUP).unwrap());
        for name in names(directory.path()) {
            assert_eq!(mode(&directory.path().join(name)), 0o600);
        }
        sink.finish().unwrap();
        assert_eq!(mode(&file), 0o600);
        std::fs::write(&file, "theirs").unwrap();
        assert_eq!(late.finish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(Sink::create(&file, BACKUP).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((std::fs::read(&file).unwrap(), names(directory.path()).len()), (b"theirs".to_vec(), 1));
    }
}
