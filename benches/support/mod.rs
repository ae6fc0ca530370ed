//! What benchmarks with real servers share: processes that end whatever happens, members of a cluster on
//! loopback, clients, and what is known of the machine.

#![allow(dead_code, reason = "each benchmark uses its own part")]

pub mod latencies;
pub mod limit;
pub mod machine;
pub mod members;
pub mod paced;
pub mod processes;
pub mod program;
pub mod random;
pub mod resp;
