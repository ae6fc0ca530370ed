//! Files that are written whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that has its name only once it is whole: what can't be exported to its end leaves an older file as it was.
#[derive(Debug)]
pub(super) struct Sink {
    writer: BufWriter<SinkFile>,
    path: PathBuf,
}

#[derive(Debug)]
enum SinkFile {
    /// What is to be a file beside it, under another name.
    Partial(NamedTempFile),
    /// What is there and no file, as a pipe.
    Other(File),
}

impl Sink {
    /// Begins to write.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        // A link stays one; what it leads to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let there = path.metadata().ok();
        let leads_nowhere = there.is_none() && path.is_symlink();
        let file = if leads_nowhere || there.as_ref().is_some_and(|there| !there.is_file()) {
            SinkFile::Other(File::options().write(true).create(leads_nowhere).open(&path)?)
        } else {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let mut partial = tempfile::Builder::new();
            let mut prefix = path.file_name().unwrap_or_default().to_owned();
            prefix.push(".");
            let mode = there.map_or_else(|| Permissions::from_mode(0o666), |there| there.permissions());
            let partial = partial.prefix(&prefix).suffix(".partial").permissions(mode);
            SinkFile::Partial(partial.tempfile_in(directory.unwrap_or(Path::new(".")))?)
        };
        Ok(Self { writer: BufWriter::new(file), path })
    }

    /// All was written: the file gets its name.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.writer.into_inner().map_err(io::IntoInnerError::into_error)? {
            SinkFile::Partial(file) => {
                file.as_file().sync_all()?;
                file.persist(&self.path).map(drop).map_err(|error| error.error)
            }
            SinkFile::Other(mut file) => file.flush(),
        }
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
            let mut sink = Sink::create(path).unwrap();
            sink.write_all(b"half").unwrap();
            sink.flush().unwrap();
            drop(sink);
            assert_eq!(std::fs::read(&file).unwrap(), b"older");
            assert_eq!(names(directory.path()), ["all.jsonl", "link"], "nothing is left behind");
        }
        let mut sink = Sink::create(&link).unwrap();
        sink.write_all(b"whole").unwrap();
        sink.finish().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"whole");
        assert!(link.is_symlink());
        assert_eq!(names(directory.path()), ["all.jsonl", "link"]);
    }

    #[test]
    fn who_may_read_an_older_file_may_read_the_new_one_and_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("all.jsonl");
        std::fs::write(&file, "older").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        Sink::create(&file).unwrap().finish().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("new.jsonl"), &link).unwrap();
        Sink::create(&link).unwrap().finish().unwrap();
        assert!(link.is_symlink() && link.is_file(), "what it leads to is made");
    }

    #[test]
    fn what_is_no_file_is_written_to() {
        let mut sink = Sink::create(Path::new("/dev/null")).unwrap();
        sink.write_all(b"all").unwrap();
        sink.finish().unwrap();
        assert!(!Path::new("/dev/null").is_file());
        assert!(Sink::create(Path::new("/nowhere/at/all")).is_err());
    }
}
