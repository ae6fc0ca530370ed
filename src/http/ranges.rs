//! Parts of values (RFC 9110 §14): one range of bytes.
//!
//! What asks for several ranges, in another unit, or in no form that the standard knows, gets the whole value, as it
//! has it; only what is well-formed and lies outside of the value gets nothing.

use axum::http::{HeaderMap, header};
use std::ops::Range;

/// What of a value is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes; at least one.
    Part(Range<usize>),
    /// None that it has.
    Nothing,
}

/// What of a value of `length` bytes the header `Range` asks for.
pub(super) fn wanted(headers: &HeaderMap, length: usize) -> Wanted {
    let Some(range) = headers.get(header::RANGE) else { return Wanted::Whole };
    let range = range.to_str().unwrap_or_default();
    let Some((unit, ranges)) = range.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Wanted::Whole;
    }
    match part(ranges.trim(), length) {
        None => Wanted::Whole,
        Some(part) if part.is_empty() => Wanted::Nothing,
        Some(part) => Wanted::Part(part),
    }
}

/// What of the value `first-last`, `first-` or `-how many at the end` names, which may be nothing; `None` if it is
/// none of these.
fn part(text: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = text.split_once('-')?;
    if first.is_empty() {
        let count = number(last)?.min(length);
        return Some(length - count..length);
    }
    let first = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    (first <= last).then(|| first..last.saturating_add(1).min(length))
}

/// A number of digits alone; one that is too large is as large as can be.
fn number(text: &str) -> Option<usize> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn of(range: &str, length: usize) -> Wanted {
        let headers = [(header::RANGE, HeaderValue::from_str(range).unwrap())].into_iter().collect();
        wanted(&headers, length)
    }

    #[test]
    fn a_range_names_its_first_and_last_byte_or_how_many_at_the_end() {
        assert_eq!(of("bytes=0-0", 10), Wanted::Part(0..1));
        assert_eq!(of("Bytes= 2-4", 10), Wanted::Part(2..5));
        assert_eq!(of("bytes=7-", 10), Wanted::Part(7..10));
        assert_eq!(of("bytes=7-99999999999999999999999", 10), Wanted::Part(7..10));
        assert_eq!(of("bytes=-3", 10), Wanted::Part(7..10));
        assert_eq!(of("bytes=-30", 10), Wanted::Part(0..10));
        for nothing in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(of(nothing, 10), Wanted::Nothing, "{nothing}");
        }
        assert_eq!(of("bytes=0-", 0), Wanted::Nothing);
        for whole in ["lines=1-2", "bytes=0-1,3-4"] {
            assert_eq!(of(whole, 10), Wanted::Whole, "{whole}");
        }
    }

    #[test]
    fn what_is_no_range_is_ignored() {
        for ignored in
            ["bytes", "bytes=", "bytes=4-2", "bytes=20-10", "bytes=x", "bytes=-", "bytes=1--2", "bytes=+1-2"]
        {
            assert_eq!(of(ignored, 10), Wanted::Whole, "{ignored}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_lies_within_the_value(range in "(bytes=)?[0-9,x -]{0,24}", length in 0usize..40) {
            if let Wanted::Part(part) = of(&range, length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
