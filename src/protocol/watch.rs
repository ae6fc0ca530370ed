//! Watching: what is watched at a peer, and how a change without its value is told.
//!
//! The rules are at the top of `engine::watch`.

use serde::{Deserialize, Serialize};

/// Which keys are watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interest {
    /// The collection; none for all but kith's own.
    pub collection: Option<String>,
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It has a value, or another one.
    Set,
    /// It was deleted.
    Delete,
    /// Its time was over.
    Expire,
    /// It was counted on.
    Increment,
}

/// A set of kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kinds(u8);

impl Kinds {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(0b1111);

    /// One kind alone.
    #[must_use]
    pub const fn of(kind: ChangeKind) -> Self {
        Self(1 << kind as u8)
    }

    /// These and another one.
    #[must_use]
    pub const fn with(self, kind: ChangeKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Whether a kind is among them.
    #[must_use]
    pub const fn has(self, kind: ChangeKind) -> bool {
        self.0 >> kind as u8 & 1 == 1
    }
}

/// What is told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Form {
    /// The key's latest record, once however often it changed meanwhile.
    Latest,
    /// Each change of these kinds by itself: what it was and the key's names, no value.
    Each(Kinds),
}

/// A change without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedChange {
    /// What became of the key.
    pub kind: ChangeKind,
    /// The collection.
    pub collection: String,
    /// The key.
    pub key: Vec<u8>,
}

/// A watch that a front asks of one of its sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {
    /// The front's name for it, never used before in its life.
    pub watch: u64,
    /// What is watched.
    pub interest: Interest,
    /// What is told.
    pub form: Form,
    /// Only keys of these partitions: bit p of byte p/8.
    pub partitions: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_kinds_has_what_was_put_in_and_nothing_else() {
        let all = [ChangeKind::Set, ChangeKind::Delete, ChangeKind::Expire, ChangeKind::Increment];
        for kind in all {
            assert!(Kinds::ALL.has(kind) && !Kinds::NONE.has(kind));
            let others = all.into_iter().filter(|other| *other != kind);
            let without = others.fold(Kinds::NONE, Kinds::with);
            assert!(Kinds::of(kind).has(kind) && !without.has(kind));
        }
    }
}
