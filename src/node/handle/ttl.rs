//! How long values live, as people and programs say it.

use super::read::whole;
use crate::model::edit::NewExpiry;
use crate::model::record::LASTING_MS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest time to live, about a hundred years; longer ones are mistakes of units.
pub const MAX_TTL_MS: u64 = 100 * 366 * 86_400_000;

/// Text that is no time to live.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no length of time: write seconds or a number with ms, s, m, h or d, more than 0 and at most 100 years"
)]
pub struct TtlError(String);

/// Reads a time to live: whole seconds, or a whole number with a unit. Gives milliseconds.
///
/// # Errors
/// [`TtlError`] when it is not that, 0, or beyond [`MAX_TTL_MS`].
pub fn parse_ttl(text: &str) -> Result<u64, TtlError> {
    let error = || TtlError(text.chars().take(40).collect());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    let ttl = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    ttl.filter(|ttl| (1..=MAX_TTL_MS).contains(ttl)).ok_or_else(error)
}

/// The time to live of what lasts, as text.
const LASTING: &str = "none";

/// Reads how long a value that is stored shall live: as [`parse_ttl`], or `none`, which is [`LASTING_MS`]: it has no
/// end, whatever its collection's `default_ttl` says.
///
/// # Errors
/// As [`parse_ttl`].
pub fn parse_life(text: &str) -> Result<u64, TtlError> {
    if text == LASTING { Ok(LASTING_MS) } else { parse_ttl(text) }
}

/// Milliseconds as [`parse_life`] reads them.
#[must_use]
pub fn life_text(ttl_ms: u64) -> String {
    if ttl_ms == LASTING_MS { LASTING.to_owned() } else { format!("{ttl_ms}ms") }
}

/// A time to live in JSON: a number of seconds, or text with a unit; to store, `none` too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "a time to live is a whole number of seconds, or text such as \"10m\" or \"none\""
)]
pub enum Ttl {
    /// Seconds.
    Seconds(#[serde(deserialize_with = "whole::required")] i64),
    /// A number with a unit, or `none`.
    Text(String),
}

impl Ttl {
    /// As text.
    #[must_use]
    pub fn of_ms(ttl_ms: u64) -> Self {
        Self::Text(life_text(ttl_ms))
    }

    /// Milliseconds.
    ///
    /// # Errors
    /// As [`parse_life`].
    pub fn as_ms(&self) -> Result<u64, TtlError> {
        match self {
            Self::Seconds(seconds) => parse_ttl(&seconds.to_string()),
            Self::Text(text) => parse_life(text),
        }
    }
}

/// The expiry of a value that is stored at `wall_ms` under a condition.
#[must_use]
pub fn new_expiry(ttl_ms: Option<u64>, wall_ms: u64) -> NewExpiry {
    ttl_ms.map_or(NewExpiry::None, |ttl_ms| NewExpiry::At(wall_ms.saturating_add(ttl_ms)))
}

/// What is left of a record's life.
pub(super) fn ttl_left(expiry_ms: Option<u64>, wall_ms: u64) -> Option<Ttl> {
    ttl_left_ms(expiry_ms, wall_ms).map(Ttl::of_ms)
}

/// Milliseconds from `wall_ms` until an expiry: at least 1, and no more than whoever reads this takes.
#[must_use]
pub fn ttl_left_ms(expiry_ms: Option<u64>, wall_ms: u64) -> Option<u64> {
    expiry_ms.map(|at| at.saturating_sub(wall_ms).clamp(1, MAX_TTL_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_has_a_unit_and_bounds() {
        assert_eq!(parse_ttl("10"), Ok(10_000));
        assert_eq!(parse_ttl("250ms"), Ok(250));
        assert_eq!(parse_ttl("2d"), Ok(172_800_000));
        for text in ["", "0", "-1", "1w", "s", "99999999999999999999", "1.5s", "200000d", "1 s"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
        assert!(parse_ttl("none").is_err());
        assert_eq!(parse_life("none"), Ok(LASTING_MS));
        assert_eq!((life_text(LASTING_MS).as_str(), life_text(9).as_str()), ("none", "9ms"));
    }
}
