//! Floor 0: keys, records, timestamps, placement, hash trees, roster, settings, tokens, the change of
//! the cluster secret, limits, and their laws.
//!
//! Pure values: nothing here reads a clock, draws a random number, spawns, or touches a file or a
//! socket. Time is passed in as [`Now`]. Everything that is stored or sent has its byte form here
//! or in [`crate::protocol`], and nowhere else.

pub mod clock;
pub mod edit;
pub mod hash_tree;
pub mod key;
pub mod key_range;
pub mod limits;
pub mod merge;
pub mod placement;
pub mod record;
pub mod roster;
pub mod rotation;
pub mod settings;
pub mod spelling;
pub mod timestamp;
pub mod token;

pub use key::{KeyHash, KeyRef};
pub use key_range::KeyRange;
pub use record::{Kind, Record, RecordRef};
pub use timestamp::{MemberId, Timestamp};

/// A reading of both clocks, taken once per turn by whoever drives a machine of a lower floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds since the Unix epoch by the machine's wall clock, which may be wrong and may
    /// jump in both directions.
    pub wall_ms: u64,
    /// Microseconds since an arbitrary point by a clock that never goes back.
    pub mono_us: u64,
}
