//! Floor 2: one member's replication. Events in, effects out.

pub mod operation;
