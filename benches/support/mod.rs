//! What benchmarks with real servers share: processes that end whatever happens, members of a cluster on
//! loopback, a client that keeps many requests in flight, and what is known of the machine.

#![allow(dead_code, reason = "each benchmark uses its own part")]

pub mod machine;
pub mod members;
pub mod processes;
pub mod resp;
