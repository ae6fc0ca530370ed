//! A directory that is kept equal to keys.
//!
//! What was made here is written down in `.kith-sync/made` *before* it is made, so that a later run may remove it, and
//! nothing else. New contents are written into `.kith-sync` and take their name by a rename.
//!
//! Invariants: a file has its old or its new content whole, also after a crash; what this did not make is never removed,
//! and replaced only where a key says so; nothing outside the directory is touched, whatever keys are named and whatever
//! links are in it; one run at a time has a directory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the mirror keeps what is its own.
const OWN: &str = ".kith-sync";
/// The names of files that were made, each with a zero byte behind it.
const MADE: &str = "made";
const LOCK: &str = "lock";
const PARTIAL: &str = "partial";
/// Bytes of one name in a path that file systems take.
const MAX_NAME_BYTES: usize = 255;

/// Why a key is no file, or the directory can't be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum MirrorError {
    /// The key can't be a path.
    #[error("it is no path: each part between `/` must be a name, and none of `.`, `..`, `{OWN}`")]
    NoPath,
    /// A part of it is too long.
    #[error("a part of it has more than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// A link leads out of the directory.
    #[error("{0} is a link, and links are not followed")]
    Link(PathBuf),
    /// Another key is a file where this one needs a directory, or the other way round.
    #[error("{0} is a directory for one key and a file for another; rename one of them")]
    Occupied(PathBuf),
    /// Another run has the directory.
    #[error("another `kith sync` keeps this directory; end it first")]
    Taken,
    /// The disk.
    #[error("{what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// A file that is gone.
pub(super) type Removed = PathBuf;

impl MirrorError {
    /// Whether only this one key has no file.
    pub(super) const fn is_about_name(&self) -> bool {
        matches!(self, Self::NoPath | Self::TooLong | Self::Link(_) | Self::Occupied(_))
    }

    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Mirror {
    directory: PathBuf,
    own: PathBuf,
    made: BTreeSet<PathBuf>,
    /// The list of what was made, open at its end.
    list: File,
    /// What the current state has, while it is being told.
    seen: Option<BTreeSet<PathBuf>>,
    _lock: File,
}

impl Mirror {
    /// Takes a directory, and makes it if there is none.
    pub(super) fn open(directory: &Path) -> Result<Self, MirrorError> {
        fs::create_dir_all(directory).map_err(MirrorError::io("can't make", directory))?;
        let directory = directory.canonicalize().map_err(MirrorError::io("can't find", directory))?;
        let own = directory.join(OWN);
        fs::create_dir_all(&own).map_err(MirrorError::io("can't make", &own))?;
        let lock = own.join(LOCK);
        let file = File::create(&lock).map_err(MirrorError::io("can't write", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MirrorError::Taken),
            Err(TryLockError::Error(source)) => return Err(MirrorError::io("can't lock", &lock)(source)),
        }
        let path = own.join(MADE);
        let mut known = Vec::new();
        let options = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let mut list = options.map_err(MirrorError::io("can't open", &path))?;
        list.read_to_end(&mut known).map_err(MirrorError::io("can't read", &path))?;
        // Behind the last zero byte is a name that was not written whole; its file was not made.
        let whole = known.iter().rposition(|byte| *byte == 0).map_or(0, |end| end + 1);
        let names = known.get(..whole).unwrap_or_default().split(|byte| *byte == 0);
        let made = names.filter_map(|name| path_of(name).ok()).collect();
        let mut mirror = Self { directory, own, made, list, seen: None, _lock: file };
        mirror.write_list()?;
        Ok(mirror)
    }

    /// The directory, as an absolute path.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.made.len()
    }

    /// The current state follows.
    pub(super) fn begin(&mut self) {
        self.seen = Some(BTreeSet::new());
    }

    /// Gives a file a content. Tells its path if it had another one.
    pub(super) fn put(&mut self, name: &[u8], content: &[u8]) -> Result<Option<PathBuf>, MirrorError> {
        let relative = path_of(name)?;
        let path = self.directory.join(&relative);
        if let Some(seen) = &mut self.seen {
            seen.insert(relative.clone());
        }
        self.make_parents(&relative)?;
        match fs::symlink_metadata(&path) {
            Ok(there) if there.is_dir() => return Err(MirrorError::Occupied(relative)),
            Ok(there)
                if there.is_file()
                    && self.made.contains(&relative)
                    && has_content(&path, &there, content) =>
            {
                return Ok(None);
            }
            _ => {}
        }
        if self.made.insert(relative.clone()) {
            let mut entry = relative.as_os_str().as_bytes().to_vec();
            entry.push(0);
            self.list.write_all(&entry).map_err(MirrorError::io("can't write", &self.own))?;
        }
        let partial = self.own.join(PARTIAL);
        write(&partial, content).map_err(MirrorError::io("can't write", &partial))?;
        fs::rename(&partial, &path).map_err(MirrorError::io("can't write", &path))?;
        Ok(Some(relative))
    }

    /// Removes the file of a key. Tells its path if there was one.
    pub(super) fn delete(&mut self, name: &[u8]) -> Result<Option<Removed>, MirrorError> {
        let Ok(relative) = path_of(name) else { return Ok(None) };
        if !self.made.contains(&relative) {
            return Ok(None);
        }
        self.remove(&relative)?;
        self.made.remove(&relative);
        self.write_list()?;
        Ok(Some(relative))
    }

    /// The current state was told: removes what is not in it.
    pub(super) fn finish(&mut self) -> Result<Vec<Removed>, MirrorError> {
        let Some(seen) = self.seen.take() else { return Ok(Vec::new()) };
        let gone: Vec<PathBuf> = self.made.difference(&seen).cloned().collect();
        for relative in &gone {
            self.remove(relative)?;
        }
        self.made.retain(|path| seen.contains(path));
        self.write_list()?;
        Ok(gone)
    }

    /// Removes a file that was made here, and the directories that are empty then.
    fn remove(&self, relative: &Path) -> Result<(), MirrorError> {
        let path = self.directory.join(relative);
        if self.check_parents(relative).is_err() {
            // A link stands where a directory was: what it leads to was not made here.
            return Ok(());
        }
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {}
            Err(error) => return Err(MirrorError::io("can't remove", &path)(error)),
        }
        for parent in relative.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            if fs::remove_dir(self.directory.join(parent)).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn make_parents(&self, relative: &Path) -> Result<(), MirrorError> {
        self.check_parents(relative)?;
        let parent = relative.parent().unwrap_or_else(|| Path::new(""));
        let path = self.directory.join(parent);
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists) =>
            {
                Err(MirrorError::Occupied(parent.to_owned()))
            }
            Err(error) => Err(MirrorError::io("can't make", &path)(error)),
        }
    }

    /// No directory on the way may be a link.
    fn check_parents(&self, relative: &Path) -> Result<(), MirrorError> {
        let above = relative.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        for parent in above {
            let is_link =
                fs::symlink_metadata(self.directory.join(parent)).is_ok_and(|there| there.is_symlink());
            if is_link {
                return Err(MirrorError::Link(parent.to_owned()));
            }
        }
        Ok(())
    }

    /// Writes the list of what was made anew.
    fn write_list(&mut self) -> Result<(), MirrorError> {
        let mut names = Vec::new();
        for path in &self.made {
            names.extend_from_slice(path.as_os_str().as_bytes());
            names.push(0);
        }
        let (partial, path) = (self.own.join(PARTIAL), self.own.join(MADE));
        write(&partial, &names).map_err(MirrorError::io("can't write", &partial))?;
        fs::rename(&partial, &path).map_err(MirrorError::io("can't write", &path))?;
        let list = OpenOptions::new().append(true).open(&path);
        self.list = list.map_err(MirrorError::io("can't open", &path))?;
        Ok(())
    }
}

/// The path that a key names, below the directory.
fn path_of(name: &[u8]) -> Result<PathBuf, MirrorError> {
    for (at, part) in name.split(|byte| *byte == b'/').enumerate() {
        let is_own = at == 0 && part == OWN.as_bytes();
        if part.is_empty() || part == b"." || part == b".." || part.contains(&0) || is_own {
            return Err(MirrorError::NoPath);
        }
        if part.len() > MAX_NAME_BYTES {
            return Err(MirrorError::TooLong);
        }
    }
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

fn has_content(path: &Path, there: &fs::Metadata, content: &[u8]) -> bool {
    there.len() == content.len() as u64 && fs::read(path).is_ok_and(|present| present == content)
}

/// Writes a file to the disk; who may read it is as the process's umask says.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn files(directory: &Path) -> Vec<String> {
        fn walk(directory: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let relative = path.strip_prefix(root).unwrap();
                if relative == Path::new(OWN) {
                    continue;
                }
                if path.is_dir() {
                    found.push(format!("{}/", relative.display()));
                    walk(&path, root, found);
                } else {
                    found.push(format!("{}={}", relative.display(), fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        walk(directory, directory, &mut found);
        found.sort();
        found
    }

    fn fill(mirror: &mut Mirror, state: &[(&str, &str)]) -> Vec<PathBuf> {
        mirror.begin();
        for (name, content) in state {
            mirror.put(name.as_bytes(), content.as_bytes()).unwrap();
        }
        mirror.finish().unwrap()
    }

    #[test]
    fn files_follow_the_keys_and_what_others_made_stays() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mine"), "stays").unwrap();
        let mut mirror = Mirror::open(directory.path()).unwrap();
        fill(&mut mirror, &[("a", "1"), ("conf/b", "2"), ("conf/deep/c", "3")]);
        assert_eq!(
            files(directory.path()),
            ["a=1", "conf/", "conf/b=2", "conf/deep/", "conf/deep/c=3", "mine=stays"]
        );
        assert_eq!(mirror.put(b"a", b"1").unwrap(), None, "it is so already");
        assert_eq!(mirror.put(b"a", b"9").unwrap(), Some("a".into()));
        assert_eq!(mirror.delete(b"conf/deep/c").unwrap(), Some("conf/deep/c".into()));
        assert_eq!(mirror.delete(b"mine").unwrap(), None);
        assert_eq!(files(directory.path()), ["a=9", "conf/", "conf/b=2", "mine=stays"]);
    }

    #[test]
    fn what_went_while_nobody_looked_is_removed_by_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        fill(&mut Mirror::open(directory.path()).unwrap(), &[("a", "1"), ("b/c", "2")]);
        let mut mirror = Mirror::open(directory.path()).unwrap();
        assert_eq!(fill(&mut mirror, &[("a", "1")]), [PathBuf::from("b/c")]);
        assert_eq!(files(directory.path()), ["a=1"]);
    }

    #[test]
    fn nothing_is_removed_before_the_whole_state_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(directory.path()).unwrap();
        fill(&mut mirror, &[("a", "1"), ("b", "2")]);
        mirror.begin();
        mirror.put(b"a", b"1").unwrap();
        assert_eq!(files(directory.path()), ["a=1", "b=2"]);
        // It began anew meanwhile.
        assert_eq!(fill(&mut mirror, &[("b", "2")]), [PathBuf::from("a")]);
    }

    #[test]
    fn no_key_reaches_out_of_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(directory.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        let long = "x".repeat(256);
        for name in
            ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", ".", "a\0b", ".kith-sync/made", &long]
        {
            let error = mirror.put(name.as_bytes(), b"no").unwrap_err();
            assert!(error.is_about_name(), "{name}: {error}");
        }
        assert!(matches!(mirror.put(b"link/a", b"no"), Err(MirrorError::Link(_))));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        // A link in a file's own place is replaced, and what it leads to stays.
        fs::write(outside.path().join("secret"), "theirs").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), directory.path().join("f")).unwrap();
        mirror.put(b"f", b"ours").unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(directory.path().join("f")).unwrap(), "ours");
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_followed_to_remove_what_is_there() {
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(directory.path()).unwrap();
        fill(&mut mirror, &[("conf/a", "1")]);
        fs::remove_dir_all(directory.path().join("conf")).unwrap();
        fs::write(outside.path().join("a"), "theirs").unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("conf")).unwrap();
        mirror.delete(b"conf/a").unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("a")).unwrap(), "theirs");
    }

    #[test]
    fn of_two_keys_that_need_one_name_the_first_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(directory.path()).unwrap();
        mirror.put(b"a", b"1").unwrap();
        assert!(matches!(mirror.put(b"a/b", b"2"), Err(MirrorError::Occupied(_))));
        mirror.put(b"c/d", b"3").unwrap();
        assert!(matches!(mirror.put(b"c", b"4"), Err(MirrorError::Occupied(_))));
        assert_eq!(files(directory.path()), ["a=1", "c/", "c/d=3"]);
    }

    #[test]
    fn one_run_at_a_time_has_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = Mirror::open(directory.path()).unwrap();
        assert!(matches!(Mirror::open(directory.path()), Err(MirrorError::Taken)));
        drop(first);
        Mirror::open(directory.path()).unwrap();
    }

    #[test]
    fn a_list_that_was_cut_off_names_only_whole_names() {
        let directory = tempfile::tempdir().unwrap();
        fill(&mut Mirror::open(directory.path()).unwrap(), &[("a", "1")]);
        fs::write(directory.path().join("half"), "theirs").unwrap();
        let list = directory.path().join(OWN).join(MADE);
        let mut cut = fs::read(&list).unwrap();
        cut.extend_from_slice(b"half");
        fs::write(&list, cut).unwrap();
        fill(&mut Mirror::open(directory.path()).unwrap(), &[]);
        assert_eq!(files(directory.path()), ["half=theirs"]);
    }

    #[test]
    fn who_may_read_files_is_as_the_umask_says() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(directory.path()).unwrap();
        mirror.put(b"a", b"1").unwrap();
        let theirs = directory.path().join("theirs");
        File::create(&theirs).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&directory.path().join("a")), mode(&theirs));
    }
}
