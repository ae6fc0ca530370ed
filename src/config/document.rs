//! A TOML text as a flat map from paths to values with their lines.
//!
//! Everything that can be wrong with the *shape* is found here: syntax, keys that are not known, a table
//! where a value belongs. What values mean is for the parsers.

use super::error::{Problem, Source};
use super::keys::{CREATE_SETTINGS, KEYS, find, nearest};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub value: Value,
    pub source: Source,
}

/// A value, before anybody knows what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A text, number or truth value, as text: what a key expects decides how it is read.
    Scalar(String),
    /// A list of those.
    List(Vec<String>),
    /// Nothing that any key takes; holds TOML's name of its kind.
    Other(&'static str),
}

/// A document's content.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub values: BTreeMap<&'static str, Given>,
    /// `create.settings`: names and values, with their lines.
    pub settings: Vec<(String, Given)>,
    pub problems: Vec<Problem>,
}

/// Reads a text; never panics, whatever the text.
pub(super) fn read(text: &str) -> Document {
    let mut reader = Reader { text, document: Document::default() };
    match DeTable::parse_recoverable(text) {
        (table, errors) if errors.is_empty() => reader.table("", table.get_ref()),
        // What the parser made up to go on would only give problems that nobody has.
        (_, errors) => {
            for error in errors {
                let line = error.span().map(|span| line_at(text, span.start));
                reader.document.problems.push(Problem::new("", &Source::File(line), error.message()));
            }
        }
    }
    reader.document
}

struct Reader<'a> {
    text: &'a str,
    document: Document,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let name_text = name.get_ref();
            let path =
                if prefix.is_empty() { name_text.to_string() } else { format!("{prefix}.{name_text}") };
            let source = Source::File(Some(line_at(self.text, name.span().start)));
            self.entry(&path, source, value);
        }
    }

    fn entry(&mut self, path: &str, source: Source, value: &Spanned<DeValue<'_>>) {
        let known_table = path == CREATE_SETTINGS
            || KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')));
        match (find(path), value.get_ref()) {
            (Some(key), value) => {
                self.document.values.insert(key.path, Given { value: plain(value), source });
            }
            (None, DeValue::Table(table)) if path == CREATE_SETTINGS => self.settings(table),
            (None, DeValue::Table(table)) if known_table => self.table(path, table),
            (None, value) if known_table => {
                let message = format!("is a table, not {}: write `[{path}]` above its keys", kind(value));
                self.document.problems.push(Problem::new(path, &source, message));
            }
            (None, _) => {
                let shown: String = path.chars().take(64).flat_map(char::escape_debug).collect();
                let message = format!("is not a known key; the nearest is `{}`", nearest(path));
                self.document.problems.push(Problem::new(&shown, &source, message));
            }
        }
    }

    fn settings(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let source = Source::File(Some(line_at(self.text, name.span().start)));
            let given = Given { value: plain(value.get_ref()), source };
            self.document.settings.push((name.get_ref().to_string(), given));
        }
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    if let Some(text) = scalar(value) {
        return Value::Scalar(text);
    }
    match value {
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(|item| scalar(item.get_ref())).collect();
            texts.map_or(Value::Other("a list of tables or lists"), Value::List)
        }
        other => Value::Other(kind(other)),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The line, counted from 1, of a position in bytes.
fn line_at(text: &str, position: usize) -> usize {
    let before = text.as_bytes().get(..position).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
