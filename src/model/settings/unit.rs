//! Numbers with units, as people write them and as settings are stored.
//!
//! Invariant: what [`Unit::format`] writes, [`Unit::parse`] reads as the same number, in every
//! version. Bounds are left to the table of definitions.

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const TIB: u64 = 1 << 40;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Plain,
    Milliseconds,
    Bytes,
}

impl Unit {
    /// Suffixes and what they multiply by, largest first; the last is the unit itself.
    const fn suffixes(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Plain => &[("", 1)],
            Self::Milliseconds => {
                &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
            }
            Self::Bytes => &[("TiB", TIB), ("GiB", 1 << 30), ("MiB", MIB), ("KiB", KIB), ("B", 1)],
        }
    }

    /// What a person may write.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Plain => "a whole number",
            Self::Milliseconds => "a whole number with a unit, such as `500ms`, `10s`, `5m`, `1h` or `7d`",
            Self::Bytes => {
                "a whole number of bytes with or without a unit, such as `4096`, `64KiB` or `16MiB`"
            }
        }
    }

    /// The number that a text means; `None` if it means none. Numbers too large for 64 bits count as the largest one.
    pub fn parse(self, text: &str) -> Option<u64> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, suffix) = text.split_at_checked(end)?;
        if digits.is_empty() {
            return None;
        }
        let bare_bytes = self == Self::Bytes && suffix.is_empty();
        let suffix = if bare_bytes { "B" } else { suffix };
        let known = self.suffixes().iter().find(|(name, _)| name.eq_ignore_ascii_case(suffix));
        known.map(|(_, factor)| digits.parse().unwrap_or(u64::MAX).saturating_mul(*factor))
    }

    /// The canonical text: in the largest unit that divides the number.
    pub fn format(self, number: u64) -> String {
        let fits = |(_, factor): &&(&str, u64)| number != 0 && number.is_multiple_of(*factor);
        let unit = self.suffixes().iter().find(fits).or(self.suffixes().last());
        let (suffix, factor) = unit.copied().unwrap_or(("", 1));
        format!("{}{suffix}", number / factor)
    }
}
