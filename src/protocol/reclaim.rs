//! Reclaiming tombstones: what the member that drives it asks of the others.
//!
//! Tombstones travel in their canonical form, one after the other; answers about them are bitmaps, bit n of
//! byte n/8 for the n-th.

use crate::model::MemberId;
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reclaim {
    /// How quiet the member has been.
    Quiet,
    /// Which of these tombstones it holds, exactly so and fsynced.
    Confirm {
        /// The tombstones.
        tombstones: Vec<u8>,
    },
    /// Take these out of the hash tree; nothing older than they exists anywhere.
    Settle {
        /// The tombstones.
        tombstones: Vec<u8>,
        /// How far the journals of their owners are fsynced: member, incarnation, position.
        journals: Vec<(MemberId, u64, u64)>,
    },
    /// Drop these: all owners settled them. Not answered.
    Drop {
        /// The tombstones.
        tombstones: Vec<u8>,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reclaimed {
    /// How quiet it has been.
    Quiet(Quietness),
    /// Which tombstones it holds, or is clear of.
    Each(Vec<u8>),
}

/// How quiet a member has been: see the engine's quiet rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quietness {
    /// Which of its lives this is.
    pub life: u64,
    /// How many placements it has adopted in this life.
    pub adoptions: u64,
    /// Quiet rounds that it completed in this life.
    pub rounds: u64,
    /// Its hybrid clock.
    pub time: u64,
}
