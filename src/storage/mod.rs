//! Floor 3: what a member keeps on its disk: journal, record store and small files.
//!
//! Each turn of the engine is one frame in the [`journal`]; a checkpoint moves what changed into
//! the [`store`] (redb, used nowhere else) and drops the journal before it. Everything goes through
//! the small [`disk::Disk`] port, so that a simulated disk can lose, tear and corrupt. All of it is
//! synchronous and starts no threads: who calls decides where it runs. Decisions about records
//! belong to the engine.

pub mod disk;
pub mod error;
pub mod journal;
pub mod small;
pub mod store;

pub use disk::{Disk, File, OsDisk};
pub use error::StorageError;
pub use journal::{Journal, JournalOptions, MAX_APPEND_BYTES, Recovery, Syncer};
pub use store::{
    Checkpoint, Loaded, Mark, NamedPage, Page, PageBounds, Replaced, Scan, Store, StoreRecovery,
};
