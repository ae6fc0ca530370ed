//! The records of the one key, and how two become one: the rules of `kith::model::merge`, small
//! enough to be hashed a million times.

use super::steps::Rules;

/// Increments per slot, two bits each. A slot is one member in one of its two lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pairs(pub u16);

impl Pairs {
    pub const SLOTS: u8 = 8;

    pub fn get(self, slot: u8) -> u16 {
        self.0 >> (2 * slot) & 3
    }

    pub fn with(self, slot: u8, count: u16) -> Self {
        Self(self.0 & !(3 << (2 * slot)) | count << (2 * slot))
    }

    pub fn join(self, other: Self) -> Self {
        (0..Self::SLOTS).fold(Self(0), |joined, slot| joined.with(slot, self.get(slot).max(other.get(slot))))
    }

    /// Whether each slot counts at least what it does in `other`.
    pub fn covers(self, other: Self) -> bool {
        self.join(other) == self
    }
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = (0..Self::SLOTS).filter(|slot| self.get(*slot) > 0);
        f.debug_map().entries(counts.map(|slot| (slot, self.get(slot)))).finish()
    }
}

/// What a table or a message has for the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Rec {
    /// Nothing: absent, or dropped.
    #[default]
    Nothing,
    /// A settled tombstone: absent for all but copying and increments.
    Settled(u8),
    /// A tombstone.
    Tomb(u8),
    /// A value.
    Value(u8),
    /// A counter whose base is zero.
    Counter { stamp: u8, epoch: u8, pairs: Pairs },
}

impl Rec {
    pub fn stamp(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Settled(stamp) | Self::Tomb(stamp) | Self::Value(stamp) | Self::Counter { stamp, .. } => {
                stamp
            }
        }
    }

    /// Whether it stands in the hash tree, so that passes, hints and reads see it.
    pub fn is_in_tree(self) -> bool {
        !matches!(self, Self::Nothing | Self::Settled(_))
    }

    pub fn pairs(self) -> Pairs {
        match self {
            Self::Counter { pairs, .. } => pairs,
            _ => Pairs::default(),
        }
    }

    fn rank(self) -> (u8, u8, Self) {
        match self {
            Self::Counter { stamp, epoch, .. } => (stamp, epoch, Self::Nothing),
            other => (other.stamp(), 0, other),
        }
    }
}

/// What an owner holds after `incoming` came to what it held.
pub fn merge(present: Rec, incoming: Rec, rules: &Rules) -> Rec {
    match (present, incoming) {
        (Rec::Nothing, other) | (other, Rec::Nothing) => other,
        (Rec::Settled(a), Rec::Settled(b)) => Rec::Settled(a.max(b)),
        (Rec::Settled(s), Rec::Tomb(t)) if s == t => present,
        (Rec::Settled(s), Rec::Counter { stamp, epoch, pairs })
            if (stamp, epoch) == (s, 2) && rules.settled_lifts_extended =>
        {
            Rec::Counter { stamp: s, epoch: 3, pairs }
        }
        (Rec::Settled(_), other) | (other, Rec::Settled(_)) => other,
        (Rec::Counter { stamp: s, epoch: e, pairs: p }, Rec::Counter { stamp: t, epoch: f, pairs: q }) => {
            let (high, low) = ((s, e).max((t, f)), (s, e).min((t, f)));
            let joins = high == low || high.1 == 3 && (low == (high.0, 2) || low == (0, 1));
            let pairs = if joins {
                p.join(q)
            } else if (s, e) == high {
                p
            } else {
                q
            };
            Rec::Counter { stamp: high.0, epoch: high.1, pairs }
        }
        (a, b) => {
            if b.rank() > a.rank() {
                b
            } else {
                a
            }
        }
    }
}
