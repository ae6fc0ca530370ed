//! What was made in a directory: names of files, and of directories with a `/` behind them.
//!
//! The list is a log: each entry ends with a zero byte and is a name that was made, or, with a `/` before it, one that
//! is gone. No name begins with `/` or holds a zero byte. It is written anew when it is much longer than what it tells.
//!
//! Invariants: an entry lasts before what it names is made, and it is taken back only once it lasts that this is gone; so
//! what it does not name was made by somebody else. Behind the last zero byte is what was not written whole: it was not
//! made.

use super::error::MirrorError;
use super::mirror::path_of;
use super::own::Own;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The name of the list.
pub(super) const MADE: &str = "made";
/// Entries more than names, beyond twice their number, at which the list is written anew.
const SLACK: usize = 100;

/// See the module.
#[derive(Debug)]
pub(super) struct Made {
    names: BTreeSet<Vec<u8>>,
    /// The list, open at its end.
    list: File,
    entries: usize,
    /// Whether the list may end within an entry.
    is_torn: bool,
}

/// The name of a file.
pub(super) fn of_file(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The name of a directory.
pub(super) fn of_directory(path: &Path) -> Vec<u8> {
    let mut name = of_file(path);
    name.push(b'/');
    name
}

impl Made {
    pub(super) fn open(own: &Own) -> Result<Self, MirrorError> {
        let known = own.read(MADE)?.unwrap_or_default();
        let names = names_in(&known);
        own.write(MADE, &written(&names))?;
        let (list, entries) = (own.append_to(MADE)?, names.len());
        Ok(Self { names, list, entries, is_torn: false })
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }

    /// Paths of all files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = self.names.iter().filter(|name| name.last() != Some(&b'/'));
        files.map(|name| Path::new(OsStr::from_bytes(name)))
    }

    /// Notes what will be made. Says whether it was not there.
    pub(super) fn add(&mut self, own: &Own, name: Vec<u8>) -> Result<bool, MirrorError> {
        if self.has(&name) {
            return Ok(false);
        }
        let entry: Vec<u8> = name.iter().copied().chain([0]).collect();
        self.append(own, &entry, 1)?;
        self.names.insert(name);
        Ok(true)
    }

    /// Notes what is gone.
    pub(super) fn forget(&mut self, own: &Own, names: &[Vec<u8>]) -> Result<(), MirrorError> {
        let known: Vec<&Vec<u8>> = names.iter().filter(|name| self.has(name)).collect();
        if known.is_empty() {
            return Ok(());
        }
        let entries: Vec<u8> =
            known.iter().flat_map(|name| [b'/'].into_iter().chain(name.iter().copied()).chain([0])).collect();
        let count = known.len();
        self.append(own, &entries, count)?;
        for name in names {
            self.names.remove(name);
        }
        Ok(())
    }

    fn append(&mut self, own: &Own, entries: &[u8], count: usize) -> Result<(), MirrorError> {
        let is_worn = self.is_torn || self.entries > 2 * self.names.len() + SLACK;
        self.is_torn = true;
        if is_worn {
            own.write(MADE, &written(&self.names))?;
            (self.list, self.entries) = (own.append_to(MADE)?, self.names.len());
        }
        let appended = self.list.write_all(entries).and_then(|()| self.list.sync_data());
        appended.map_err(MirrorError::io("can't write", &own.file(MADE)))?;
        (self.is_torn, self.entries) = (false, self.entries + count);
        Ok(())
    }
}

/// The names that a list comes to. What can't be a path was not made.
fn names_in(list: &[u8]) -> BTreeSet<Vec<u8>> {
    let whole = list.iter().rposition(|byte| *byte == 0).map_or(0, |end| end + 1);
    let mut names = BTreeSet::new();
    for entry in list.get(..whole).unwrap_or_default().split(|byte| *byte == 0) {
        if let Some(gone) = entry.strip_prefix(b"/") {
            names.remove(gone);
        } else if path_of(entry.strip_suffix(b"/").unwrap_or(entry)).is_ok() {
            names.insert(entry.to_vec());
        }
    }
    names
}

fn written(names: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(own: &Own) -> Vec<u8> {
        own.read(MADE).unwrap().unwrap()
    }

    #[test]
    fn a_list_tells_after_any_number_of_changes_what_is_there_and_does_not_grow_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let own = Own::open(directory.path()).unwrap();
        let mut made = Made::open(&own).unwrap();
        assert!(made.add(&own, of_directory(Path::new("conf"))).unwrap());
        for number in 0..2 * SLACK {
            let name = format!("conf/{number}").into_bytes();
            assert!(made.add(&own, name.clone()).unwrap());
            assert!(!made.add(&own, name.clone()).unwrap(), "it is there");
            if number > 1 {
                made.forget(&own, &[name]).unwrap();
            }
        }
        assert_eq!(names_in(&list(&own)), made.names);
        let left = ["conf/", "conf/0", "conf/1"].map(|name| name.as_bytes().to_vec());
        assert_eq!(made.names, BTreeSet::from(left));
        assert!(list(&own).len() < 10 * (SLACK + 10), "{}", list(&own).len());
    }

    #[test]
    fn behind_an_entry_that_was_not_written_whole_the_next_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let own = Own::open(directory.path()).unwrap();
        let mut made = Made::open(&own).unwrap();
        made.add(&own, b"a".to_vec()).unwrap();
        // As when the disk is full in the middle of it.
        made.list.write_all(b"hal").unwrap();
        made.is_torn = true;
        made.add(&own, b"b".to_vec()).unwrap();
        assert_eq!(list(&own), b"a\0b\0");
    }

    #[test]
    fn what_could_not_be_noted_is_not_taken_for_noted() {
        let directory = tempfile::tempdir().unwrap();
        let own = Own::open(directory.path()).unwrap();
        let mut made = Made::open(&own).unwrap();
        made.add(&own, b"a".to_vec()).unwrap();
        let full = || File::options().write(true).open("/dev/full").unwrap();
        made.list = full();
        made.add(&own, b"b".to_vec()).unwrap_err();
        assert!(!made.has(b"b"));
        (made.list, made.is_torn) = (full(), false);
        made.forget(&own, &[b"a".to_vec()]).unwrap_err();
        assert!(made.has(b"a"));
        made.forget(&own, &[b"a".to_vec()]).unwrap();
        // It was written anew first.
        assert_eq!((made.has(b"a"), list(&own)), (false, b"a\0/a\0".to_vec()));
    }
}
