//! Floor 4: assembles a member, runs its start flow and carries out what its engine decides.

pub mod handle;
pub mod local;
