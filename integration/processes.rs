//! What clusters of real processes do when they are started, killed, stopped, cut off and misled.
//!
//! Every test starts the real binary on loopback, does to it what operators, machines and networks do,
//! and waits for what must become true.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "what is not as expected fails the test, also in its helpers"
)]

#[path = "processes/backups.rs"]
mod backups;
#[path = "processes/clients.rs"]
mod clients;
#[path = "processes/command_line.rs"]
mod command_line;
#[path = "processes/convergence.rs"]
mod convergence;
#[path = "processes/damage.rs"]
mod damage;
#[path = "processes/disks.rs"]
mod disks;
#[path = "processes/faults.rs"]
mod faults;
#[path = "processes/floods.rs"]
mod floods;
#[path = "processes/forming.rs"]
mod forming;
#[path = "processes/library.rs"]
mod library;
#[path = "support/load.rs"]
mod load;
#[path = "support/members.rs"]
mod members;
#[path = "processes/refusals.rs"]
mod refusals;
#[path = "processes/scenarios.rs"]
mod scenarios;
#[path = "processes/secrets.rs"]
mod secrets;
#[path = "processes/security.rs"]
mod security;
#[path = "processes/settings.rs"]
mod settings;
#[path = "support/slow_disk.rs"]
mod slow_disk;
#[path = "processes/starts.rs"]
mod starts;
#[path = "processes/syncing.rs"]
mod syncing;
#[path = "support/tmpfs.rs"]
mod tmpfs;
#[path = "processes/transitions.rs"]
mod transitions;
#[path = "processes/watching.rs"]
mod watching;
#[path = "support/wires.rs"]
mod wires;
