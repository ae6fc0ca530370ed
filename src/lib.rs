//! kith: a gossip-based, eventually consistent key-value cluster without a coordinator.
//!
//! The modules are floors; each imports only from floors below its own (`docs/ARCHITECTURE.md`).

pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod gossip;
pub mod http;
pub mod model;
pub mod node;
pub mod protocol;
pub mod resp;
pub mod security;
pub mod storage;
pub mod telemetry;
pub mod terminal;
pub mod transport;

pub use client::Client;

/// The program in the README is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
