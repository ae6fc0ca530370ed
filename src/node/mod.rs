//! Floor 4: assembles a member, runs its start flow and carries out what its engine decides.
//!
//! A member has one *data thread* (`core`): engine, links and RESP connections are local tasks of
//! its runtime and call the engine directly. Every turn ends with one journal write and at most one
//! frame per peer. A *sync thread* and a *store thread* (`disks`) do what blocks: fsyncs on the
//! one, redb on the other, so that no checkpoint delays an acknowledgement. A third runtime carries
//! gossip, HTTP and metrics; it reaches the data thread through a [`handle::Handle`].

pub mod access;
mod batch;
mod changes;
mod clock;
mod control;
mod convergence;
mod core;
mod departure;
mod disks;
mod error;
mod events;
mod found;
mod founding;
pub mod handle;
mod links;
pub mod local;
mod membership;
mod outdated;
mod parts;
mod publish;
mod secrets;
mod settings;
mod start;
mod state;
mod tokens;
mod turns;
mod view;
pub mod watch;

#[cfg(test)]
mod tests;

pub use error::NodeError;
pub use local::LocalHandle;
pub use start::{Fronts, SendWork, Shutdown, Work, run};
