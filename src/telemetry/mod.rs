//! Floor 3: logs and metrics, for the people who run kith.
//!
//! Logs go through `tracing`; [`init`] installs the one subscriber of a process. Metrics live in a
//! [`Telemetry`] that belongs to one member (never in a global, so several members fit in one process).
//! Hot paths count in plain integers of their own; about once a second the node copies these into the
//! totals of a part (such as [`names::JournalTotals`]) and publishes them through handles that were looked up
//! once.
//!
//! Invariants: every name, kind and help text stands in [`names`]; no label holds a key, a value or
//! anything else that clients choose; nothing grows without bound (upkeep runs regularly, labels come from
//! fixed lists or are the names of present members).
//!
//! Left to others: what is counted (engine, storage, transport, …), and serving the text (http).

mod histogram;
mod labelled;
mod logs;
pub mod names;
mod open;
mod peers;
mod process;
mod recorder;
#[cfg(test)]
pub(crate) mod tests;

pub use histogram::{BOUNDS_MICROS, Latencies};
pub use labelled::{
    DENIALS, HttpRequests, Labelled, OPERATIONS, OUTCOMES, REJECTIONS, STORAGE_ERRORS, Tally,
};
pub use logs::{Format, LogError, init};
pub use open::{Held, Open};
pub use peers::{PeerTotals, Peers};
pub use process::Usage;
pub use recorder::{Metrics, Telemetry, UPKEEP_INTERVAL};
