//! What is not as the keys say, and cannot be for now: it is told once, and tried again by and by.

use super::error::MirrorError;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// When it is tried again whether somebody has made room for what has none.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Names for which the disk and the keys differ, with what was told of each. As many as there are keys at most.
#[derive(Debug, Default)]
pub(super) struct Missing {
    now: BTreeMap<Vec<u8>, String>,
    /// Those of the state before this one, of which it is not known yet whether they still are.
    before: BTreeMap<Vec<u8>, String>,
    again_at: Option<Instant>,
}

impl Missing {
    /// The current state follows.
    pub(super) fn begin(&mut self) {
        self.before.append(&mut self.now);
        self.again_at = None;
    }

    /// The current state was told.
    pub(super) fn synced(&mut self) {
        self.before.clear();
    }

    /// Notes a name. Says whether that is new and has to be told.
    pub(super) fn note(&mut self, name: &[u8], text: &str, error: &MirrorError) -> bool {
        if error.may_pass() {
            self.again_at.get_or_insert_with(|| Instant::now() + AGAIN_AFTER);
        }
        let told = self.now.insert(name.to_owned(), text.to_owned()).or_else(|| self.before.remove(name));
        told.is_none_or(|told| told != text)
    }

    /// A name is as the keys say.
    pub(super) fn mend(&mut self, name: &[u8]) {
        self.now.remove(name);
    }

    pub(super) fn len(&self) -> usize {
        self.now.len()
    }

    /// When all is to be tried again, if anything may pass.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at.filter(|_| !self.now.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_once_and_tried_again_if_it_may_pass() {
        let mut missing = Missing::default();
        missing.begin();
        assert!(missing.note(b"..", "no path", &MirrorError::NoPath));
        assert_eq!(missing.again_at(), None);
        let occupied = MirrorError::Occupied("a".into());
        assert!(missing.note(b"a/b", "occupied", &occupied));
        assert!(missing.again_at().is_some());
        missing.begin();
        assert_eq!((missing.len(), missing.again_at()), (0, None));
        assert!(!missing.note(b"a/b", "occupied", &occupied), "it was told");
        missing.synced();
        assert!(!missing.note(b"a/b", "occupied", &occupied));
        assert!(missing.note(b"a/b", "something else", &occupied));
        missing.mend(b"a/b");
        assert_eq!((missing.len(), missing.again_at()), (0, None));
        assert!(missing.note(b"a/b", "occupied", &occupied), "it was mended meanwhile");
    }
}
