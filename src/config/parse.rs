//! How single values are read: each function takes a text and gives the value, or says what would fit.

use super::member::LogFormat;
use crate::model::limits::{MAX_NAME_BYTES, MAX_PARTITION_BITS};
use std::net::SocketAddr;

/// A value, or what is wrong with the text and what would fit.
pub(super) type Parsed<T> = Result<T, String>;

/// What a person sees of a wrong value: not more than fits on a line.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().count() > 64 {
        short.push('…');
    }
    short
}

/// A member's, cluster's or zone's name.
pub(super) fn name(text: &str) -> Parsed<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.chars().all(fits) {
        return Err(format!(
            "`{}` can't be a name; use 1 to {MAX_NAME_BYTES} of the letters a-z, A-Z, digits, `-`, `_` and `.`",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

/// A name, or nothing.
pub(super) fn name_or_empty(text: &str) -> Parsed<String> {
    if text.is_empty() { Ok(String::new()) } else { name(text) }
}

/// A path that says something.
pub(super) fn path(text: &str) -> Parsed<String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is empty; name a path".to_owned());
    }
    Ok(text.to_owned())
}

/// Whether anyone is served while there are no tokens.
pub(super) fn without_tokens(text: &str) -> Parsed<bool> {
    match text {
        "this_machine" => Ok(false),
        "anyone" => Ok(true),
        _ => Err(format!("`{}` can't be; use `this_machine` or `anyone`", shown(text))),
    }
}

/// An address to listen on: an IP address and a port.
pub(super) fn listen(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| {
        format!(
            "`{}` is no address to listen on; use IP:PORT such as `127.0.0.1:7400` or `[::]:7400`",
            shown(text)
        )
    })
}

/// An address to listen on, or `off`.
pub(super) fn listen_or_off(text: &str) -> Parsed<Option<SocketAddr>> {
    if text == "off" {
        return Ok(None);
    }
    listen(text).map(Some).map_err(|problem| format!("{problem}; or `off`"))
}

/// An address at which others reach something: a host or IP address, and a port other than 0.
pub(super) fn reachable(text: &str) -> Parsed<String> {
    let wrong = || {
        format!("`{}` is no address to connect to; use HOST:PORT such as `member1.example:7400`", shown(text))
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(format!("nobody can connect to `{}`; name a host and a port", shown(text)));
        }
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host_fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !host.is_empty() && host.len() <= 253 && host.chars().all(host_fits);
    let port_fits =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if fits && port_fits { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// `true` or `false`.
pub(super) fn truth(text: &str) -> Parsed<bool> {
    text.parse().map_err(|_| format!("`{}` is neither `true` nor `false`", shown(text)))
}

/// A number of bytes between bounds, with a unit or without.
pub(super) fn bytes(min: u64, max: u64) -> impl Fn(&str) -> Parsed<u64> {
    move |text| {
        let number = size(text).ok_or_else(|| {
            format!("`{}` is no size; use whole bytes with or without a unit, such as `64MiB`", shown(text))
        })?;
        if (min..=max).contains(&number) {
            return Ok(number);
        }
        Err(format!("`{}` is out of bounds; use {} to {}", shown(text), mebibytes(min), mebibytes(max)))
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}

fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    let unit = unit.trim_start();
    let units = [("", 0), ("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let shift = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, shift)| *shift)?;
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A whole number between bounds.
pub(super) fn count(min: usize, max: usize) -> impl Fn(&str) -> Parsed<usize> {
    move |text| {
        let number = text.parse::<usize>().ok().filter(|number| (min..=max).contains(number));
        number
            .ok_or_else(|| format!("`{}` does not fit; use a whole number from {min} to {max}", shown(text)))
    }
}

/// Bits of a number of partitions.
pub(super) fn partition_bits(text: &str) -> Parsed<u8> {
    let number = text.parse::<u32>().ok().filter(|number| number.is_power_of_two());
    let bits = number.and_then(|number| u8::try_from(number.trailing_zeros()).ok());
    bits.filter(|bits| *bits <= MAX_PARTITION_BITS).ok_or_else(|| {
        format!("`{}` does not fit; use a power of two from 1 to {}", shown(text), 1 << MAX_PARTITION_BITS)
    })
}

/// How logs are written.
pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{}` is no format; use `text` or `json`", shown(text))),
    }
}

/// A level, or a list of levels for parts of the program.
pub(super) fn log_level(text: &str) -> Parsed<String> {
    let level = |text: &str| {
        ["error", "warn", "info", "debug", "trace", "off"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(text))
    };
    let target = |text: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        !text.is_empty() && text.chars().all(fits)
    };
    let part = |text: &str| match text.split_once('=') {
        Some((name, threshold)) => target(name) && level(threshold),
        None => level(text),
    };
    if text.len() <= 1_024 && text.split(',').all(|piece| part(piece.trim())) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{}` is no level; use error, warn, info, debug or trace, or a list such as `info,kith::gossip=debug`",
        shown(text)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, number) in [("4096", 4096), ("1KiB", 1024), ("2 mib", 2 << 20), ("1TiB", 1 << 40)] {
            assert_eq!(size(text), Some(number), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1MB", "99999999TiB", "99999999999999999999999"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_to_connect_to_have_a_host_and_a_port() {
        for good in ["127.0.0.1:7400", "[::1]:7400", "member1.example:1", "member_1:65535"] {
            assert!(reachable(good).is_ok(), "{good}");
        }
        for bad in ["", ":7400", "host", "host:0", "host:65536", "host:+1", "0.0.0.0:7400", "a b:1", "[::]:1"]
        {
            assert!(reachable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn levels_may_be_given_for_parts() {
        for good in ["info", "DEBUG", "info,kith::gossip=debug", "warn, chitchat=error"] {
            assert!(log_level(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,", "kith=", "=debug", "kith[span]=info"] {
            assert!(log_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn partitions_are_a_power_of_two() {
        assert_eq!(
            (partition_bits("256"), partition_bits("1"), partition_bits("4096")),
            (Ok(8), Ok(0), Ok(12))
        );
        for bad in ["0", "3", "8192", "-1", "x"] {
            assert!(partition_bits(bad).is_err(), "{bad}");
        }
    }
}
