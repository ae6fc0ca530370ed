//! Printing: tables and sentences for people, JSON for programs.

use super::error::CliError;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};

/// Codes of ECMA-48 for colours.
const RED: u8 = 31;
const GREEN: u8 = 32;

/// Whether colours are wanted there: on a terminal that has them, unless NO_COLOR says otherwise.
fn has_colours(stream: &impl IsTerminal) -> bool {
    let is_set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stream.is_terminal() && is_set("NO_COLOR").is_none() && is_set("TERM").is_none_or(|term| term != "dumb")
}

fn painted(text: &str, colour: u8) -> String {
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// How results are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// Bytes to standard output, as they are.
    pub(super) fn raw(self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        let written = out.write_all(bytes).and_then(|()| out.flush());
        written.map_err(|source| CliError::io("can't write to standard output", source))
    }

    /// One line of a result.
    pub(super) fn line(self, text: &str) -> Result<(), CliError> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// A JSON document for programs, or else what `text` makes for people.
    pub(super) fn show<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        if self.json { self.document(document) } else { self.line(text().trim_end()) }
    }

    /// A JSON document on one line.
    pub(super) fn document<T: Serialize>(self, document: &T) -> Result<(), CliError> {
        let json = serde_json::to_string(document);
        self.line(&json.map_err(|error| CliError::Failed(format!("can't write JSON: {error}")))?)
    }

    /// Something that a person should know and that is no result.
    pub(super) fn note(self, text: &str) {
        self.beside(&json!({ "note": text }), text);
    }

    /// A result that is not all that it could be.
    pub(super) fn warn(self, text: &str) {
        self.beside(&json!({ "warning": text }), &format!("warning: {text}"));
    }

    /// Something that was not done, while others are.
    pub(super) fn complain(self, text: &str) {
        self.beside(&json!({ "warning": text }), &by_name(text));
    }

    /// Why all was not done; the last that is said.
    pub(super) fn fail(self, code: &str, message: &str) {
        self.beside(&json!({ "error": code, "message": message }), &by_name(message));
    }

    /// A line to standard error.
    fn beside(self, document: &Value, text: &str) {
        let line = if self.json { &document.to_string() } else { text };
        // There is nowhere left to tell that this failed.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// A word of a result that tells of something there.
    pub(super) fn good(self, text: &str) -> String {
        if has_colours(&io::stdout()) { painted(text, GREEN) } else { text.to_owned() }
    }

    /// A word of a result that tells of something gone.
    pub(super) fn bad(self, text: &str) -> String {
        if has_colours(&io::stdout()) { painted(text, RED) } else { text.to_owned() }
    }

    pub(super) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }
}

/// What the program says of itself.
fn by_name(text: &str) -> String {
    let name = if has_colours(&io::stderr()) { painted("kith:", RED) } else { "kith:".to_owned() };
    format!("{name} {text}")
}

/// A table in plain columns, which `grep` and `awk` can take too.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.to_string();
    let trimmed: Vec<&str> = lines.lines().map(str::trim_end).collect();
    trimmed.join("\n")
}

/// Bytes as text for people: what is not printable is escaped.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// A number and what it counts.
pub(super) fn counted(number: impl Into<u64>, one: &str, many: &str) -> String {
    let number = number.into();
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Something that may be unknown.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A duration for people.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=119 => format!("{seconds}.{} s", ms % 1_000 / 100),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_are_escaped_for_people() {
        assert_eq!(printable(b"a\n\xff\\\x1b"), "a\\n\\xff\\\\\\u{1b}");
        assert_eq!(printable("ключ".as_bytes()), "ключ");
    }

    #[test]
    fn one_thing_is_told_in_the_singular() {
        let told = [0_u64, 1, 2].map(|number| counted(number, "copy", "copies"));
        assert_eq!(told, ["0 copies", "1 copy", "2 copies"]);
    }

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(
            (size(1_023), size(1_536), size(u64::MAX)),
            ("1023 B".to_owned(), "1.5 KiB".to_owned(), "16777215.9 TiB".to_owned())
        );
        assert_eq!(
            (duration(12), duration(1_250), duration(360_000)),
            ("12 ms".to_owned(), "1.2 s".to_owned(), "6 min".to_owned())
        );
    }

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let text = table(
            &["NAME", "X"],
            [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]],
        );
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert_eq!(text.lines().collect::<Vec<_>>(), ["NAME  X", "a     1", "long"]);
    }
}
