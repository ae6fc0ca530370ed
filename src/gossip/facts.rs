//! The few small things that a member tells all others through gossip, and their text form.
//!
//! Facts travel as two values: `who` (fixed for one life of a member) and `now` (changes while it
//! runs), each a small JSON object, so that a change of the clock does not send the names again.
//! Fields that a reader does not know are skipped and missing ones take their default: members of
//! neighbouring versions understand each other.
//!
//! Invariant: facts that are longer than their bounds, or hold control characters, are neither sent
//! nor believed. (chitchat never propagates a value near 64 kB and blocks on it silently.)

use crate::model::limits::MAX_NAME_BYTES;
use serde::{Deserialize, Serialize};

/// Bytes in an address `host:port`: the longest host name and a port.
pub const MAX_ADDRESS_BYTES: usize = 261;
/// Bytes in the name of a version of the settings.
const MAX_VERSION_BYTES: usize = 32;
/// Bytes in one of the two values: all bounded texts twice (JSON may escape), and the numbers.
const MAX_VALUE_BYTES: usize = 2_048;

/// Key of the value that is fixed for one life.
pub(super) const WHO: &str = "who";
/// Key of the value that changes.
pub(super) const NOW: &str = "now";

/// What a member is doing, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It belongs to no cluster yet, or is still on its way through the start flow.
    #[default]
    Starting,
    /// It compares what it holds with the other owners.
    Recovering,
    /// It serves.
    Ready,
    /// It hands its records off and then goes.
    Leaving,
    /// It shuts down and will return.
    Stopping,
    /// A phase that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a member tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The member's name; at most [`MAX_NAME_BYTES`].
    pub name: String,
    /// `host:port` at which other members reach it; at most [`MAX_ADDRESS_BYTES`].
    pub address: String,
    /// `host:port` of its HTTP; empty when it offers none.
    pub http_address: String,
    /// The version of kith that it runs; empty when it does not say. At most [`MAX_NAME_BYTES`].
    pub version: String,
    /// Its zone; empty when it has none.
    pub zone: String,
    /// How often it has started, durably counted.
    pub incarnation: u64,
    /// Drawn at random at each start.
    pub life: u64,
    /// What it is doing.
    pub phase: Phase,
    /// Digest of the placement that it uses.
    pub placement_digest: u64,
    /// Digest of the roster that it holds.
    pub roster_digest: u64,
    /// Digest of the log of settings that it has applied.
    pub settings_digest: u64,
    /// The version of the settings that it has applied; 32 bytes at most.
    pub settings_version: String,
    /// Changes of settings that have no effect on it.
    pub settings_refused: u32,
    /// Its wall clock in milliseconds since the Unix epoch, when it last told.
    pub clock_wall_ms: u64,
    /// Partitions that it owns and has completed.
    pub complete_partitions: u32,
    /// Partitions that it owns.
    pub owned_partitions: u32,
    /// Digest of the step of changing the cluster secret that it took last; 0 when it does not say.
    pub secret_state: u64,
    /// Id of the secret that it offers first; 0 when it does not say.
    pub secret_used: u64,
    /// Id of the other one that it accepts; 0 for none.
    pub secret_also: u64,
    /// Id of the secret in its file; 0 when it does not say.
    pub secret_file: u64,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Who {
    n: String,
    a: String,
    h: String,
    v: String,
    z: String,
    i: u64,
    l: u64,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Now {
    p: Phase,
    pd: u64,
    rd: u64,
    sd: u64,
    sv: String,
    sr: u32,
    c: u64,
    cp: u32,
    op: u32,
    ss: u64,
    su: u64,
    sa: u64,
    sf: u64,
}

/// Facts that can't be sent, or that were received and are not believed. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FactsError {
    /// A text is longer than its bound.
    #[error("{what} has {bytes} bytes, more than the {max} that gossip carries: choose a shorter one")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// Its bound.
        max: usize,
    },
    /// A text holds a control character.
    #[error("{0} holds a control character: use printable characters only")]
    ControlCharacter(&'static str),
    /// A value is not what a member of any version writes.
    #[error("gossip value `{0}` is unreadable: {1}")]
    Unreadable(&'static str, String),
}

impl Facts {
    /// Checks every bound.
    ///
    /// # Errors
    /// Names the first text that is too long or holds a control character.
    pub fn check(&self) -> Result<(), FactsError> {
        let texts = [
            ("the member's name", &self.name, MAX_NAME_BYTES),
            ("the address for members", &self.address, MAX_ADDRESS_BYTES),
            ("the HTTP address", &self.http_address, MAX_ADDRESS_BYTES),
            ("the zone", &self.zone, MAX_NAME_BYTES),
            ("the version", &self.version, MAX_NAME_BYTES),
            ("the version of the settings", &self.settings_version, MAX_VERSION_BYTES),
        ];
        for (what, text, max) in texts {
            if text.len() > max {
                return Err(FactsError::TooLong { what, bytes: text.len(), max });
            }
            if text.chars().any(char::is_control) {
                return Err(FactsError::ControlCharacter(what));
            }
        }
        Ok(())
    }

    /// The values under [`WHO`] and [`NOW`].
    pub(super) fn to_values(&self) -> Result<[(&'static str, String); 2], FactsError> {
        self.check()?;
        let who = Who {
            n: self.name.clone(),
            a: self.address.clone(),
            h: self.http_address.clone(),
            v: self.version.clone(),
            z: self.zone.clone(),
            i: self.incarnation,
            l: self.life,
        };
        let now = Now {
            p: self.phase,
            pd: self.placement_digest,
            rd: self.roster_digest,
            sd: self.settings_digest,
            sv: self.settings_version.clone(),
            sr: self.settings_refused,
            c: self.clock_wall_ms,
            cp: self.complete_partitions,
            op: self.owned_partitions,
            ss: self.secret_state,
            su: self.secret_used,
            sa: self.secret_also,
            sf: self.secret_file,
        };
        Ok([(WHO, write(WHO, &who)?), (NOW, write(NOW, &now)?)])
    }

    /// Reads the two values of a member; any of its bytes may be hostile.
    pub(super) fn from_values(who: &str, now: &str) -> Result<Self, FactsError> {
        let who: Who = read(WHO, who)?;
        let now: Now = read(NOW, now)?;
        let facts = Self {
            name: who.n,
            address: who.a,
            http_address: who.h,
            version: who.v,
            zone: who.z,
            incarnation: who.i,
            life: who.l,
            phase: now.p,
            placement_digest: now.pd,
            roster_digest: now.rd,
            settings_digest: now.sd,
            settings_version: now.sv,
            settings_refused: now.sr,
            clock_wall_ms: now.c,
            complete_partitions: now.cp,
            owned_partitions: now.op,
            secret_state: now.ss,
            secret_used: now.su,
            secret_also: now.sa,
            secret_file: now.sf,
        };
        facts.check()?;
        Ok(facts)
    }
}

fn write<T: Serialize>(key: &'static str, value: &T) -> Result<String, FactsError> {
    serde_json::to_string(value).map_err(|error| FactsError::Unreadable(key, error.to_string()))
}

fn read<'a, T: Deserialize<'a>>(key: &'static str, text: &'a str) -> Result<T, FactsError> {
    if text.len() > MAX_VALUE_BYTES {
        return Err(FactsError::TooLong { what: key, bytes: text.len(), max: MAX_VALUE_BYTES });
    }
    serde_json::from_str(text).map_err(|error| FactsError::Unreadable(key, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Facts {
        Facts {
            name: "member1".into(),
            address: "127.0.0.1:7400".into(),
            http_address: "127.0.0.1:7401".into(),
            version: "0.1.0".into(),
            zone: "a".into(),
            incarnation: 3,
            life: u64::MAX,
            phase: Phase::Ready,
            placement_digest: 1,
            roster_digest: 2,
            settings_digest: 3,
            settings_version: "0a1b2c3d4e".into(),
            settings_refused: 1,
            clock_wall_ms: 4,
            complete_partitions: 5,
            owned_partitions: 6,
            secret_state: u64::MAX,
            secret_used: 8,
            secret_also: 0,
            secret_file: 9,
        }
    }

    #[test]
    fn facts_survive_their_text_form() {
        let [(_, who), (_, now)] = sample().to_values().unwrap();
        assert_eq!(Facts::from_values(&who, &now), Ok(sample()));
    }

    #[test]
    fn facts_of_a_newer_version_are_understood() {
        let read = Facts::from_values(r#"{"n":"m","new":[1]}"#, r#"{"p":"dreaming","c":9}"#).unwrap();
        assert_eq!((read.name.as_str(), read.phase, read.clock_wall_ms), ("m", Phase::Unknown, 9));
    }

    #[test]
    fn facts_beyond_their_bounds_are_refused() {
        let long = Facts { zone: "z".repeat(64), ..sample() };
        assert!(matches!(long.to_values(), Err(FactsError::TooLong { what: "the zone", .. })));
        let escape = Facts { name: "a\u{1b}[2J".into(), ..sample() };
        assert_eq!(escape.check(), Err(FactsError::ControlCharacter("the member's name")));
        let flood = "x".repeat(60_000);
        assert!(matches!(Facts::from_values(&flood, "{}"), Err(FactsError::TooLong { what: WHO, .. })));
    }

    #[test]
    fn the_largest_facts_fit_their_value() {
        let quotes = |n| "\"".repeat(n);
        let largest = Facts {
            name: quotes(MAX_NAME_BYTES),
            address: quotes(MAX_ADDRESS_BYTES),
            http_address: quotes(MAX_ADDRESS_BYTES),
            zone: quotes(MAX_NAME_BYTES),
            version: quotes(MAX_NAME_BYTES),
            incarnation: u64::MAX,
            ..sample()
        };
        let [(_, who), (_, now)] = largest.to_values().unwrap();
        assert_eq!(Facts::from_values(&who, &now), Ok(largest));
    }

    proptest! {
        #[test]
        fn garbage_values_never_panic(who in ".{0,200}", now in ".{0,200}") {
            let _ = Facts::from_values(&who, &now);
        }
    }
}
