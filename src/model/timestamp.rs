//! Timestamps: the total order of writes.
//!
//! A timestamp is a hybrid Lamport time and the member that stamped (Kulkarni et al., "Logical
//! Physical Clocks", 2014). Order is by time, then member; the content's hash breaks what ties are
//! left (see [`super::merge`]). No two writes of one member to one key share a time.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Identity of a member: the first 64 bits of blake3 over its public key.
///
/// Grinding a key whose id equals another's takes about 2^64 hashes *and* the cluster secret, and
/// the roster pins the whole key, so a second key under a known id is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct MemberId(pub u64);

impl MemberId {
    /// The id that belongs to a static public key.
    #[must_use]
    pub fn of_public_key(key: &[u8; 32]) -> Self {
        let digest = blake3::derive_key("kith 2026 member id", key);
        let mut head = [0; 8];
        head.copy_from_slice(digest.first_chunk::<8>().unwrap_or(&[0; 8]));
        Self(u64::from_be_bytes(head))
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text that is not a timestamp or member id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not {1}")]
pub struct NotAnId(pub(super) String, pub(super) &'static str);

impl FromStr for MemberId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text)
            .map(Self)
            .ok_or_else(|| NotAnId(text.to_owned(), "a member id (16 hexadecimal digits)"))
    }
}

fn parse_hex(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// When a write happened, and by whom: the order in which writes win.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Hybrid Lamport time: milliseconds since the Unix epoch shifted left by 16, plus a counter.
    pub time: u64,
    /// The member that stamped.
    pub member: MemberId,
}

impl Timestamp {
    /// Below every stamp that a member gives; the base of a counter that was never set.
    pub const ZERO: Self = Self { time: 0, member: MemberId(0) };

    /// The wall-clock part in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn wall_ms(self) -> u64 {
        ms_of_time(self.time)
    }
}

/// The wall-clock part of a hybrid time, in milliseconds since the Unix epoch.
#[must_use]
pub const fn ms_of_time(time: u64) -> u64 {
    time >> 16
}

/// Above every time that a record may have: the year 4199. So there is always room above a stamp,
/// and no number from outside brings a clock to its end.
pub const TIME_BOUND: u64 = 1 << 62;

/// The least hybrid time of a millisecond; a year before [`TIME_BOUND`] at most.
#[must_use]
pub const fn time_of_ms(wall_ms: u64) -> u64 {
    const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
    const LAST_MS: u64 = (TIME_BOUND >> 16) - YEAR_MS;
    if wall_ms > LAST_MS { LAST_MS << 16 } else { wall_ms << 16 }
}

/// `time-member`, both as 16 hexadecimal digits: sorts as text like the timestamps themselves.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.time, self.member)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Timestamp {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('-');
        parts
            .and_then(|(time, member)| Some(Self { time: parse_hex(time)?, member: member.parse().ok()? }))
            .ok_or_else(|| NotAnId(text.to_owned(), "a timestamp (time-member, hexadecimal)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_survives_its_text_form_and_sorts_alike() {
        let a = Timestamp { time: 9, member: MemberId(77) };
        let b = Timestamp { time: 10, member: MemberId(2) };
        assert_eq!(a.to_string().parse(), Ok(a));
        assert!(a < b && a.to_string() < b.to_string());
    }

    #[test]
    fn text_that_is_no_timestamp_is_refused() {
        for text in
            ["", "-", "1-2", "zz", "00000000000000010000000000000002", "+000000000000001-0000000000000002"]
        {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
