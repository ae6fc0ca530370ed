//! Settings: see the list in `docs/ARCHITECTURE.md`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How many owners an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One owner.
    One,
    /// A majority of the owners that can be reached, at least one.
    Available,
    /// A majority of the owners.
    Quorum,
    /// Every owner.
    All,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one",
            Self::Available => "available",
            Self::Quorum => "quorum",
            Self::All => "all",
        })
    }
}
