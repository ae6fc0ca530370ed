//! Patterns as Redis has them: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`, and `\` before a byte that means itself.
//!
//! A star that was passed is come back to only if no later star was: what was matched up to a later star stays
//! matched. So the work is bounded by the product of both lengths, whoever wrote the pattern.

/// Bytes of a pattern from its first wildcard on. Comparing takes up to as many steps for each byte of a text.
pub const MAX_WILD_BYTES: usize = 256;
/// What is said of a pattern that has more.
pub const TOO_WILD: &str = "a pattern has at most 256 bytes from its first wildcard on";

/// Whether comparing with a pattern takes more steps than anybody should need.
pub fn is_too_wild(pattern: &[u8]) -> bool {
    wild(pattern).len() > MAX_WILD_BYTES
}

/// How many steps comparing takes, at most.
pub fn steps(pattern: &[u8], text: &[u8]) -> usize {
    text.len() * (1 + wild(pattern).len())
}

/// Whether the whole of `text` matches.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on when what follows the last star does not match here.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            (pattern, retry) = (rest, Some((rest, text)));
            continue;
        }
        match (text, one(pattern, text.first().copied())) {
            ([], _) if pattern.is_empty() => return true,
            ([_, tail @ ..], Some(rest)) => (pattern, text) = (rest, tail),
            _ => match retry {
                Some((after_star, [_, tail @ ..])) => {
                    (pattern, text) = (after_star, tail);
                    retry = Some((after_star, tail));
                }
                _ => return false,
            },
        }
    }
}

/// The pattern from its first element on that is no byte.
fn wild(mut pattern: &[u8]) -> &[u8] {
    loop {
        pattern = match pattern {
            [] | [b'*' | b'?' | b'[', ..] => return pattern,
            [b'\\', _, tail @ ..] | [_, tail @ ..] => tail,
        }
    }
}

/// The bytes with which every match begins.
pub fn literal_prefix(pattern: &[u8]) -> Vec<u8> {
    let (mut prefix, mut rest) = (Vec::new(), pattern);
    loop {
        rest = match rest {
            [] | [b'*' | b'?' | b'[', ..] => return prefix,
            [b'\\', byte, tail @ ..] | [byte, tail @ ..] => {
                prefix.push(*byte);
                tail
            }
        }
    }
}

/// What is left of the pattern when its first element, which is no star, matches `byte`.
fn one(pattern: &[u8], byte: Option<u8>) -> Option<&[u8]> {
    let byte = byte?;
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', wanted, rest @ ..] | [wanted, rest @ ..] => (*wanted == byte).then_some(rest),
    }
}

/// The same for a class, whose bracket was read. One that does not end is ended by the pattern.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut is_in = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', tail @ ..] => {
                rest = tail;
                break;
            }
            [b'\\', wanted, tail @ ..] => {
                is_in |= *wanted == byte;
                tail
            }
            [from, b'-', to, tail @ ..] => {
                is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                tail
            }
            [wanted, tail @ ..] => {
                is_in |= *wanted == byte;
                tail
            }
        }
    }
    (is_in != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fits(pattern: &str, text: &str) -> bool {
        matches(pattern.as_bytes(), text.as_bytes())
    }

    #[test]
    fn each_element_matches_what_redis_matches() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[""], &["a"]),
            ("*", &["", "a", "abc"], &[]),
            ("a*", &["a", "ab"], &["", "ba"]),
            ("*a", &["a", "aa", "ba"], &["", "ab"]),
            ("a*b*c", &["abc", "axxbyybzc"], &["acb", "ab"]),
            ("h?llo", &["hello", "h?llo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "h[llo"]),
            ("h[^e]llo", &["hallo"], &["hello", "hllo"]),
            ("h[a-c]llo", &["hallo", "hcllo"], &["hdllo", "h-llo"]),
            ("h[c-a]llo", &["hallo", "hbllo"], &["hdllo"]),
            ("[\\]-]x", &["]x", "-x"], &["\\x"]),
            ("[]a", &[], &["]a", "a"]),
            ("[^]a", &["]a", "xa"], &["a"]),
            ("a\\*", &["a*"], &["ab", "a\\*"]),
            ("a\\", &["a\\"], &["a"]),
            ("[ab", &["a", "b"], &["c", "ab"]),
            ("[a-", &["a", "-"], &["b"]),
            ("**a**", &["a", "bab"], &["b"]),
        ];
        for (pattern, yes, no) in cases {
            for text in *yes {
                assert!(fits(pattern, text), "{pattern} matches {text}");
            }
            for text in *no {
                assert!(!fits(pattern, text), "{pattern} does not match {text}");
            }
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_no_burden() {
        let (pattern, text) = ("a*".repeat(1_000) + "b", "a".repeat(20_000));
        assert!(!fits(&pattern, &text));
    }

    #[test]
    fn a_prefix_ends_before_the_first_element_that_is_no_byte() {
        for (pattern, prefix) in
            [("user:*", "user:"), ("a\\*b?", "a*b"), ("[ab]", ""), ("abc", "abc"), ("a\\", "a\\")]
        {
            assert_eq!(literal_prefix(pattern.as_bytes()), prefix.as_bytes(), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn whatever_matches_begins_with_the_prefix(pattern in "[ab*?\\[\\]^\\\\-]{0,8}", text in "[ab\\]*?\\\\-]{0,6}") {
            if fits(&pattern, &text) {
                prop_assert!(text.as_bytes().starts_with(&literal_prefix(pattern.as_bytes())));
            }
        }

        #[test]
        fn a_text_matches_itself_when_every_byte_is_escaped(text in "[ab*?\\[\\]^\\\\-]{0,8}") {
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(fits(&escaped, &text));
            prop_assert!(fits("*", &text));
        }
    }
}
