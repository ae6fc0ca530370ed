//! Floor 4: assembles a member, runs its start flow and carries out the engine's effects.

pub mod local;
