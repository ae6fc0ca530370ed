//! A directory that is kept equal to keys.
//!
//! What was made here is written down in `.kith-sync` *before* it is made ([`super::made`]), so that a later run may
//! remove it, and nothing else. New contents are written there and take their name by a rename.
//!
//! Invariants: a file has its old or its new content whole, also after a crash; what this did not make is never removed
//! or replaced, unless a key has its name: then it is the key's, and goes with it; that something is gone lasts before it
//! is forgotten; nothing outside the directory is touched, whatever keys are named and whatever links are in it; one run
//! at a time has a directory, and all its files are of one source; before anything changes it is noted that the command
//! is due.

use super::error::{MAX_NAME_BYTES, MirrorError};
use super::made::{Made, of_directory, of_file};
use super::own::{OWN, Own, Source, gone};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub(super) struct Mirror {
    directory: PathBuf,
    own: Own,
    made: Made,
    /// Whether a command runs after changes.
    has_command: bool,
    /// What the current state has, while it is being told.
    seen: Option<BTreeSet<PathBuf>>,
    /// Files that are not there, for others are in their way.
    crowded: BTreeSet<PathBuf>,
}

/// What the end of a whole state came to.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// Files that are gone.
    pub(super) removed: Vec<PathBuf>,
    /// Files that should be, and why they are not.
    pub(super) kept: Vec<(PathBuf, MirrorError)>,
}

impl Mirror {
    /// Takes a directory, and makes it if there is none.
    pub(super) fn open(directory: &Path, has_command: bool) -> Result<Self, MirrorError> {
        fs::create_dir_all(directory).map_err(MirrorError::io("can't make", directory))?;
        let directory = directory.canonicalize().map_err(MirrorError::io("can't find", directory))?;
        let own = Own::open(&directory)?;
        let made = Made::open(&own)?;
        Ok(Self { directory, own, made, has_command, seen: None, crowded: BTreeSet::new() })
    }

    /// The directory, as an absolute path.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.made.files().count()
    }

    /// Whether something changed after which the command has not run to a good end.
    pub(super) const fn is_due(&self) -> bool {
        self.has_command && self.own.is_due()
    }

    /// The command has run after all that changed.
    pub(super) fn done(&mut self) -> Result<(), MirrorError> {
        self.own.done()
    }

    /// The current state of a source follows, which must be the one that the files are of.
    pub(super) fn begin(&mut self, source: &Source) -> Result<(), MirrorError> {
        match self.own.source()? {
            Some(kept) if kept != *source => {
                return Err(MirrorError::Others { kept: kept.to_string(), asked: source.to_string() });
            }
            Some(_) => {}
            None => self.own.belong_to(source)?,
        }
        self.seen = Some(BTreeSet::new());
        self.crowded.clear();
        Ok(())
    }

    /// Gives a file a content. Tells its path if it had another one.
    pub(super) fn put(&mut self, name: &[u8], content: &[u8]) -> Result<Option<PathBuf>, MirrorError> {
        let relative = path_of(name)?;
        if let Some(seen) = &mut self.seen {
            seen.insert(relative.clone());
        }
        self.crowded.remove(&relative);
        match self.place(&relative, content) {
            Ok(is_new) => Ok(is_new.then_some(relative)),
            Err(error) => {
                if matches!(error, MirrorError::Occupied(_)) {
                    self.crowded.insert(relative);
                }
                Err(error)
            }
        }
    }

    fn place(&mut self, relative: &Path, content: &[u8]) -> Result<bool, MirrorError> {
        let path = self.directory.join(relative);
        let missing = self.missing_above(relative)?;
        let mode = match fs::symlink_metadata(&path) {
            Ok(there) if there.is_dir() => return Err(MirrorError::Occupied(relative.to_owned())),
            Ok(there) if there.is_file() => {
                if self.made.has(&of_file(relative)) && has_content(&path, &there, content) {
                    return Ok(false);
                }
                Some(there.permissions())
            }
            _ => None,
        };
        let partial = self.own.partial(content, mode)?;
        let made = missing.iter().try_for_each(|parent| self.make_directory(parent));
        let made = made.and_then(|()| self.make_file(&partial, relative));
        if made.as_ref().is_err_and(MirrorError::is_about_name) {
            let gone = self.remove_empty(relative);
            self.forget(&gone)?;
        }
        made.map(|()| true)
    }

    /// Gives what was written its name.
    fn make_file(&mut self, partial: &Path, relative: &Path) -> Result<(), MirrorError> {
        let (path, name) = (self.directory.join(relative), of_file(relative));
        let was_due = self.make_due()?;
        let is_new = self.made.add(&self.own, name.clone())?;
        let Err(error) = fs::rename(partial, &path) else { return Ok(()) };
        // Nothing was made, so nothing is to be removed, and nothing changed.
        if is_new {
            self.made.forget(&self.own, &[name])?;
        }
        if !was_due {
            self.done()?;
        }
        Err(self.failed("can't write", &path, error))
    }

    /// Removes the file of a key. Tells its path if there was one.
    pub(super) fn delete(&mut self, name: &[u8]) -> Result<Option<PathBuf>, MirrorError> {
        let Ok(relative) = path_of(name) else { return Ok(None) };
        self.crowded.remove(&relative);
        if !self.made.has(&of_file(&relative)) {
            return Ok(None);
        }
        let gone = self.remove(&relative)?;
        self.forget(&gone)?;
        Ok(Some(relative))
    }

    /// The current state was told: removes what is not in it.
    pub(super) fn finish(&mut self) -> Result<Finished, MirrorError> {
        let mut finished = Finished::default();
        let Some(seen) = self.seen.take() else { return Ok(finished) };
        let unseen: Vec<PathBuf> =
            self.made.files().filter(|path| !seen.contains(*path)).map(Path::to_owned).collect();
        let mut gone = Vec::new();
        for relative in unseen {
            match self.remove(&relative) {
                Ok(names) => {
                    gone.extend(names);
                    finished.removed.push(relative);
                }
                Err(error) if error.is_about_name() => finished.kept.push((relative, error)),
                Err(error) => return Err(error),
            }
        }
        // What is not forgotten is told again as removed by the next round.
        self.forget(&gone)?;
        Ok(finished)
    }

    /// Whether a key that has no file, for another one was in its way, may have one now that this is gone.
    pub(super) fn has_room_without(&self, gone: &Path) -> bool {
        let touched = |path: &&PathBuf| path.starts_with(gone) || gone.starts_with(path);
        let is_free = |path: &PathBuf| {
            let is_taken = fs::symlink_metadata(self.directory.join(path)).is_ok_and(|there| there.is_dir());
            !is_taken && self.missing_above(path).is_ok()
        };
        self.crowded.iter().filter(touched).any(is_free)
    }

    /// Removes a file that was made here, and the directories that were and are empty then. Gives the names of what is gone.
    fn remove(&mut self, relative: &Path) -> Result<Vec<Vec<u8>>, MirrorError> {
        let mut names = vec![of_file(relative)];
        match self.missing_above(relative) {
            Ok(_) => {}
            // What stands where a directory was did not come from here, nor did what is behind it.
            Err(MirrorError::Link(_) | MirrorError::Occupied(_) | MirrorError::NoPath) => return Ok(names),
            Err(error) => return Err(error),
        }
        self.make_due()?;
        let path = self.directory.join(relative);
        if let Err(error) = fs::remove_file(&path) {
            use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
            if !matches!(error.kind(), NotFound | IsADirectory | NotADirectory) {
                return Err(self.failed("can't remove", &path, error));
            }
        }
        names.extend(self.remove_empty(relative));
        Ok(names)
    }

    /// Removes the directories above a path that were made here and are empty. Gives their names.
    fn remove_empty(&self, relative: &Path) -> Vec<Vec<u8>> {
        let is_gone = |parent: &Path| {
            let removed = || gone(fs::remove_dir(self.directory.join(parent)));
            self.made.has(&of_directory(parent)) && removed().is_ok()
        };
        above(relative).take_while(|parent| is_gone(parent)).map(of_directory).collect()
    }

    /// Forgets what is gone, once that lasts: what a power cut brought back would be nobody's.
    fn forget(&mut self, gone: &[Vec<u8>]) -> Result<(), MirrorError> {
        let paths = gone.iter().map(|name| Path::new(OsStr::from_bytes(name)));
        // A `/` behind a name is no part of its path.
        let directories: BTreeSet<&Path> = paths.filter_map(Path::parent).collect();
        for directory in directories {
            self.sync(directory)?;
        }
        self.made.forget(&self.own, gone)
    }

    /// Makes it last what a directory has and what not. Of one that is gone the next one above it tells that; links are not
    /// followed.
    fn sync(&self, relative: &Path) -> Result<(), MirrorError> {
        let mut path = self.directory.clone();
        for part in relative {
            let next = path.join(part);
            if !fs::symlink_metadata(&next).is_ok_and(|there| there.is_dir()) {
                break;
            }
            path = next;
        }
        let synced = match File::open(&path) {
            // One that may be changed and not read can't be synced.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            opened => opened.and_then(|directory| directory.sync_all()),
        };
        synced.map_err(MirrorError::io("can't sync", &path))
    }

    fn make_directory(&mut self, relative: &Path) -> Result<(), MirrorError> {
        let (path, name) = (self.directory.join(relative), of_directory(relative));
        self.made.add(&self.own, name.clone())?;
        if let Err(error) = fs::create_dir(&path) {
            self.made.forget(&self.own, &[name])?;
            return Err(self.failed("can't make", &path, error));
        }
        Ok(())
    }

    fn make_due(&mut self) -> Result<bool, MirrorError> {
        if self.has_command { self.own.make_due() } else { Ok(true) }
    }

    /// The directories above a path that are missing, the uppermost first. None of those that are there may be a link, or
    /// what is kept of one's own.
    fn missing_above(&self, relative: &Path) -> Result<Vec<PathBuf>, MirrorError> {
        let mut missing = Vec::new();
        let parents: Vec<&Path> = above(relative).collect();
        for parent in parents.into_iter().rev() {
            let path = self.directory.join(parent);
            match fs::symlink_metadata(&path) {
                Ok(there) if there.is_symlink() => return Err(MirrorError::Link(parent.to_owned())),
                Ok(there) if self.own.is(&there) => return Err(MirrorError::NoPath),
                Ok(there) if there.is_dir() => {}
                Ok(_) => return Err(MirrorError::Occupied(parent.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(parent.to_owned()),
                Err(error) => return Err(self.failed("can't find", &path, error)),
            }
        }
        Ok(missing)
    }

    fn failed(&self, what: &'static str, path: &Path, error: io::Error) -> MirrorError {
        MirrorError::path(what, path, &self.directory, error)
    }
}

/// The directories that a path is in, the innermost first.
fn above(relative: &Path) -> impl Iterator<Item = &Path> {
    relative.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty())
}

/// The path that a key names, below the directory.
pub(super) fn path_of(name: &[u8]) -> Result<PathBuf, MirrorError> {
    for (at, part) in name.split(|byte| *byte == b'/').enumerate() {
        // Some file systems take no notice of case.
        let is_own = at == 0 && part.eq_ignore_ascii_case(OWN.as_bytes());
        let has_control = part.utf8_chunks().any(|chunk| chunk.valid().chars().any(char::is_control));
        if part.is_empty() || part == b"." || part == b".." || has_control || is_own {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sync::made::MADE;
    use std::os::unix::fs::PermissionsExt;

    fn open(directory: &Path) -> Result<Mirror, MirrorError> {
        Mirror::open(directory, false)
    }

    fn source(prefix: &str) -> Source {
        let name = |text: &str| text.to_owned();
        Source { cluster: name("id"), collection: name("default"), prefix: name(prefix) }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

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
        mirror.begin(&source("")).unwrap();
        for (name, content) in state {
            mirror.put(name.as_bytes(), content.as_bytes()).unwrap();
        }
        mirror.finish().unwrap().removed
    }

    #[test]
    fn files_follow_the_keys_and_what_others_made_stays() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mine"), "stays").unwrap();
        let mut mirror = open(directory.path()).unwrap();
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
    fn what_others_made_is_a_keys_once_a_key_has_its_name_and_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mine"), "same").unwrap();
        fs::write(directory.path().join("other"), "stays").unwrap();
        let mut mirror = open(directory.path()).unwrap();
        for content in ["same", "new"] {
            assert_eq!(mirror.put(b"mine", content.as_bytes()).unwrap(), Some("mine".into()));
        }
        assert_eq!(files(directory.path()), ["mine=new", "other=stays"]);
        assert_eq!(mirror.delete(b"mine").unwrap(), Some("mine".into()));
        assert_eq!(files(directory.path()), ["other=stays"]);
    }

    #[test]
    fn what_is_gone_is_forgotten_whatever_became_of_the_directories_that_it_was_in() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let put_there: [&dyn Fn(); 5] = [
            &|| {},
            &|| fs::write(at("a"), "theirs").unwrap(),
            &|| std::os::unix::fs::symlink("a", at("a")).unwrap(),
            &|| std::os::unix::fs::symlink("elsewhere", at("a")).unwrap(),
            &|| fs::create_dir(at("a")).unwrap(),
        ];
        for put in put_there {
            let mut mirror = open(directory.path()).unwrap();
            fill(&mut mirror, &[("a/b/c", "1"), ("a/b/d", "2"), ("e", "3")]);
            fs::remove_dir_all(at("a")).unwrap();
            put();
            assert_eq!(mirror.delete(b"a/b/c").unwrap(), Some("a/b/c".into()));
            assert_eq!(fill(&mut mirror, &[("e", "3")]), [PathBuf::from("a/b/d")]);
            assert_eq!(mirror.made.files().collect::<Vec<_>>(), [Path::new("e")]);
            if at("a").is_dir() {
                fs::remove_dir(at("a")).unwrap();
            } else {
                gone(fs::remove_file(at("a"))).unwrap();
            }
        }
    }

    #[test]
    fn what_went_while_nobody_looked_is_removed_by_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        fill(&mut open(directory.path()).unwrap(), &[("a", "1"), ("b/c", "2")]);
        let mut mirror = open(directory.path()).unwrap();
        assert_eq!(fill(&mut mirror, &[("a", "1")]), [PathBuf::from("b/c")]);
        assert_eq!(files(directory.path()), ["a=1"]);
    }

    #[test]
    fn nothing_is_removed_before_the_whole_state_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = open(directory.path()).unwrap();
        fill(&mut mirror, &[("a", "1"), ("b", "2")]);
        mirror.begin(&source("")).unwrap();
        mirror.put(b"a", b"1").unwrap();
        assert_eq!(files(directory.path()), ["a=1", "b=2"]);
        // It began anew meanwhile.
        assert_eq!(fill(&mut mirror, &[("b", "2")]), [PathBuf::from("a")]);
    }

    #[test]
    fn no_key_reaches_out_of_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = open(directory.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        let long = "x".repeat(256);
        for name in [
            "",
            "/etc/passwd",
            "../a",
            "a/../../b",
            "a//b",
            "a/",
            ".",
            "a\0b",
            ".kith-sync/made",
            ".KITH-Sync/x",
            &long,
        ] {
            let error = mirror.put(name.as_bytes(), b"no").unwrap_err();
            assert!(error.is_about_name(), "{name}: {error}");
        }
        // However a file system may come to it.
        let list = Path::new(OWN).join(MADE);
        assert!(matches!(mirror.missing_above(&list), Err(MirrorError::NoPath)));
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
        let mut mirror = open(directory.path()).unwrap();
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
        let mut mirror = open(directory.path()).unwrap();
        mirror.put(b"a", b"1").unwrap();
        assert!(matches!(mirror.put(b"a/b", b"2"), Err(MirrorError::Occupied(_))));
        mirror.put(b"c/d", b"3").unwrap();
        assert!(matches!(mirror.put(b"c", b"4"), Err(MirrorError::Occupied(_))));
        assert_eq!(files(directory.path()), ["a=1", "c/", "c/d=3"]);
    }

    #[test]
    fn a_key_that_takes_the_place_of_another_one_has_room_once_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = open(directory.path()).unwrap();
        fill(&mut mirror, &[("a", "1"), ("c/d", "2"), ("c/e", "3")]);
        mirror.begin(&source("")).unwrap();
        mirror.put(b"a/b", b"4").unwrap_err();
        assert_eq!(mirror.put(b"c/d", b"2").unwrap(), None);
        assert_eq!(mirror.put(b"c/e", b"3").unwrap(), None);
        assert_eq!(mirror.finish().unwrap().removed, [PathBuf::from("a")]);
        assert!(mirror.has_room_without(Path::new("a")));
        mirror.put(b"a/b", b"4").unwrap();
        assert!(!mirror.has_room_without(Path::new("a")));

        mirror.put(b"c", b"5").unwrap_err();
        for (key, has_room) in [("c/d", false), ("c/e", true)] {
            mirror.delete(key.as_bytes()).unwrap();
            assert_eq!(mirror.has_room_without(Path::new(key)), has_room, "{key}");
        }
    }

    #[test]
    fn a_path_that_the_disk_does_not_take_costs_no_other_file_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(directory.path(), true).unwrap();
        mirror.begin(&source("")).unwrap();
        // Its directories can be made, and some of its directories can not.
        for parents in [19, 25] {
            let long = format!("{}{}", format!("{}/", "x".repeat(205)).repeat(parents), "y".repeat(250));
            let error = mirror.put(long.as_bytes(), b"no").unwrap_err();
            assert!(error.is_about_name() && error.may_pass(), "{error}");
            assert_eq!((files(directory.path()), mirror.is_due()), (Vec::new(), false));
        }
        mirror.put(b"a", b"1").unwrap();
        mirror.finish().unwrap();
        assert_eq!(files(directory.path()), ["a=1"]);
    }

    #[test]
    fn a_file_whose_directory_is_a_file_now_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = open(directory.path()).unwrap();
        fill(&mut mirror, &[("conf/a", "1"), ("conf/b", "2")]);
        fs::remove_dir_all(directory.path().join("conf")).unwrap();
        fs::write(directory.path().join("conf"), "theirs").unwrap();
        assert_eq!(mirror.delete(b"conf/a").unwrap(), Some("conf/a".into()));
        assert_eq!(fill(&mut mirror, &[]), [PathBuf::from("conf/b")]);
        assert_eq!(files(directory.path()), ["conf=theirs"]);
    }

    #[test]
    fn a_directory_that_somebody_else_made_stays_when_it_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("theirs")).unwrap();
        let mut mirror = open(directory.path()).unwrap();
        fill(&mut mirror, &[("theirs/ours/a", "1")]);
        fill(&mut mirror, &[]);
        assert_eq!(files(directory.path()), ["theirs/"]);
    }

    #[test]
    fn what_is_kept_of_ones_own_is_no_link() {
        let outside = tempfile::tempdir().unwrap();
        let precious = outside.path().join("precious");
        fs::write(&precious, "theirs").unwrap();
        for name in ["", "lock", MADE, "source"] {
            let directory = tempfile::tempdir().unwrap();
            let own = directory.path().join(OWN);
            if name.is_empty() {
                std::os::unix::fs::symlink(outside.path(), &own).unwrap();
            } else {
                fs::create_dir(&own).unwrap();
                std::os::unix::fs::symlink(&precious, own.join(name)).unwrap();
            }
            let refused = open(directory.path()).and_then(|mut mirror| mirror.begin(&source("")));
            assert!(matches!(refused, Err(MirrorError::NotOwn(_))), "{name}: {refused:?}");
            assert_eq!(fs::read_to_string(&precious).unwrap(), "theirs");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_kept_for_the_keys_of_one_source() {
        let directory = tempfile::tempdir().unwrap();
        fill(&mut open(directory.path()).unwrap(), &[("a", "1")]);
        let mut mirror = open(directory.path()).unwrap();
        let refused = mirror.begin(&source("other/")).unwrap_err();
        assert!(!refused.is_about_name() && !refused.may_pass());
        let told = refused.to_string();
        assert!(told.contains("the prefix `other/`") && told.contains("remove `.kith-sync`"), "{told}");
        assert_eq!(files(directory.path()), ["a=1"]);
        mirror.begin(&source("")).unwrap();
        drop(mirror);
        // As is told.
        fs::remove_dir_all(directory.path().join(OWN)).unwrap();
        let mut mirror = open(directory.path()).unwrap();
        mirror.begin(&source("other/")).unwrap();
        mirror.finish().unwrap();
        assert_eq!(files(directory.path()), ["a=1"]);
    }

    #[test]
    fn a_command_is_due_from_before_a_change_until_it_has_run() {
        let directory = tempfile::tempdir().unwrap();
        let with_command = || Mirror::open(directory.path(), true).unwrap();
        let mut mirror = with_command();
        assert!(!mirror.is_due());
        fill(&mut mirror, &[("a", "1")]);
        drop(mirror);
        let mut mirror = with_command();
        assert!(mirror.is_due(), "also for the next run");
        mirror.done().unwrap();
        fill(&mut mirror, &[("a", "1")]);
        assert!(!mirror.is_due(), "nothing changed");
        mirror.delete(b"a").unwrap();
        assert!(mirror.is_due());
        mirror.done().unwrap();
        drop(mirror);
        fill(&mut open(directory.path()).unwrap(), &[("a", "2")]);
        assert!(!with_command().is_due(), "nobody had a command");
    }

    #[test]
    fn keys_are_shown_so_that_a_terminal_takes_them_for_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = open(directory.path()).unwrap();
        for name in ["a\nb", "\x1b[2J", "sub/\u{9b}2J"] {
            assert!(matches!(mirror.put(name.as_bytes(), b""), Err(MirrorError::NoPath)), "{name:?}");
        }
        let told = MirrorError::Link("\x1b[2J".into()).to_string();
        assert!(told.starts_with("\\u{1b}[2J is a link"), "{told}");
    }

    #[test]
    fn one_run_at_a_time_has_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path()).unwrap();
        assert!(matches!(open(directory.path()), Err(MirrorError::Taken)));
        drop(first);
        open(directory.path()).unwrap();
    }

    #[test]
    fn a_list_that_was_cut_off_names_only_whole_names() {
        let directory = tempfile::tempdir().unwrap();
        fill(&mut open(directory.path()).unwrap(), &[("a", "1")]);
        fs::write(directory.path().join("half"), "theirs").unwrap();
        let list = directory.path().join(OWN).join(MADE);
        let mut cut = fs::read(&list).unwrap();
        cut.extend_from_slice(b"half");
        fs::write(&list, cut).unwrap();
        fill(&mut open(directory.path()).unwrap(), &[]);
        assert_eq!(files(directory.path()), ["half=theirs"]);
    }

    #[test]
    fn who_may_read_a_file_is_as_it_was_and_of_a_new_one_as_the_umask_says() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (directory.path().join("a"), directory.path().join("theirs"));
        let mut mirror = open(directory.path()).unwrap();
        mirror.put(b"a", b"1").unwrap();
        fs::write(&theirs, "").unwrap();
        assert_eq!(mode(&ours), mode(&theirs));
        for wanted in [0o600, 0o777] {
            fs::set_permissions(&ours, fs::Permissions::from_mode(wanted)).unwrap();
            mirror.put(b"a", format!("{wanted}").as_bytes()).unwrap().unwrap();
            assert_eq!(mode(&ours), wanted);
        }
    }
}
