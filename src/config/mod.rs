//! Floor 3: what one member's file and environment say, checked as a whole.
//!
//! A member's file holds only what is its own: names, directories, addresses, bounds of this machine, the
//! secret, and the settings to create a cluster with; everything that must be equal on all members is in
//! `model::settings`. Every key can also be set in the environment, under `KITH_` and its path in capitals
//! (`listen.peers` is `KITH_LISTEN_PEERS`, `secret` is `KITH_SECRET`); the environment wins over the file.
//! [`KEYS`] is the one table of names, defaults and meanings.
//!
//! Invariants: all problems are told at once, each with its file, key and line; a key that is not known is
//! an error that names the nearest known one; the secret is in no error, no `Debug` and no `Display`.
//!
//! Left to others: making directories, binding addresses, judging whether a seed answers (node).

mod document;
mod error;
mod keys;
mod member;
mod parse;
mod secret;

pub use error::{ConfigErrors, Problem};
pub use keys::{KEYS, Key, unknown_variables};
pub use member::{Create, Limits, LogFormat, MemberConfig, Memory, TlsFiles};
pub use secret::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, SecretFileError, SecretText};
