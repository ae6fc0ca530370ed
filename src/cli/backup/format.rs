//! The bytes of a backup: lines of JSON, of which the first says what it is and the last how much came before.
//!
//! ```text
//! {"kith_backup":1,"cluster":"shop","cluster_id":"…","began_ms":…,"kith":"0.1.0"}
//! {"settings":{"write_level":"quorum"},"collections":{"sessions":{"default_ttl":"30m"}}}
//! {"collection":"users","key":"1","value":"Anna"}              one line for each record
//! {"collection":"users","key_base64":"/w==","value_base64":"/w==","expires_ms":…}
//! {"records":2,"ended_ms":…,"blake3":"…"}
//! ```
//!
//! The settings are all that people can set, for what was the default need not be the default where they are restored. A
//! first line may have `incomplete`, a list of reasons why records may be missing. A record without `expires_ms` lasts.
//!
//! The last line's blake3 is over all bytes before that line. Invariants: a file without that line, or with other bytes
//! before it, is no backup; what this version does not know in a line makes it refuse the file, for it might leave something out.

use crate::node::handle::documents::{DocumentError, Entry};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

/// The one version that there is.
pub(super) const VERSION: u32 = 1;
/// Bytes of the longest line: the largest value, every byte of it escaped, and its company.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) kith_backup: u32,
    pub(super) cluster: String,
    pub(super) cluster_id: String,
    pub(super) began_ms: u64,
    pub(super) kith: String,
    /// Why something may be missing that was acknowledged before it began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) incomplete: Vec<String>,
}

/// The second line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) settings: BTreeMap<String, String>,
    pub(super) collections: BTreeMap<String, BTreeMap<String, String>>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    pub(super) collection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// When it ends, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_ms: Option<u64>,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    records: u64,
    ended_ms: u64,
    blake3: String,
}

impl Stored {
    pub(super) fn new(collection: &str, key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Self {
        let Entry { key, key_base64, value, value_base64, .. } = Entry::put(collection, key, value);
        Self { collection: collection.to_owned(), key, key_base64, value, value_base64, expires_ms }
    }

    /// The line of a batch that stores it, without its end.
    pub(super) fn entry(self) -> Entry {
        let Self { collection, key, key_base64, value, value_base64, .. } = self;
        Entry { collection: Some(collection), key, key_base64, value, value_base64, ..Entry::default() }
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = [&self.key, &self.key_base64, &self.value, &self.value_base64];
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.collection.len() + texts.into_iter().map(of).sum::<usize>()
    }

    /// Gives the bytes of its value.
    fn check(&self) -> Result<Bytes, DocumentError> {
        let entry = self.clone().entry();
        entry.operation(None, 0, 0)?;
        entry.value_bytes()
    }
}

/// Why a file is not restored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    /// It does not begin like a backup.
    #[error("it is no backup of kith: {0}")]
    Foreign(String),
    /// Another version wrote it.
    #[error(
        "it is a backup of version {0}, and this kith knows version {VERSION}; use the kith that wrote it, or a newer one"
    )]
    Version(u32),
    /// It ends before its end.
    #[error(
        "it is cut off after line {0}: its last line is missing, so the backup did not end or not all of it was copied"
    )]
    CutOff(u64),
    /// A line is not what it should be.
    #[error("its line {line} is damaged: {problem}")]
    Line { line: u64, problem: String },
    /// Something follows the last line.
    #[error("something follows its last line")]
    Behind,
    /// Its bytes are not those that were written.
    #[error("it is damaged: its bytes are not those that were written ({0})")]
    Damaged(&'static str),
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Writes a backup.
pub(super) struct Writer<'a> {
    into: io::BufWriter<Box<dyn Write + 'a>>,
    hasher: blake3::Hasher,
    records: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn begin(into: Box<dyn Write + 'a>, header: &Header, settings: &Settings) -> io::Result<Self> {
        let mut writer = Self { into: io::BufWriter::new(into), hasher: blake3::Hasher::new(), records: 0 };
        writer.line(header)?;
        writer.line(settings)?;
        Ok(writer)
    }

    pub(super) fn record(&mut self, record: &Stored) -> io::Result<()> {
        self.records += 1;
        self.line(record)
    }

    /// Writes the last line. Tells how many records there are.
    pub(super) fn finish(mut self, ended_ms: u64) -> io::Result<u64> {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        self.line(&Footer { records: self.records, ended_ms, blake3 })?;
        self.into.flush()?;
        Ok(self.records)
    }

    fn line<T: Serialize>(&mut self, document: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(document)?;
        line.push(b'\n');
        self.hasher.update(&line);
        self.into.write_all(&line)
    }
}

/// What a whole file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) header: Header,
    pub(super) settings: Settings,
    pub(super) records: u64,
    /// Bytes of the largest value.
    pub(super) largest_value: usize,
}

/// Reads a whole backup and shows each of its records; what is wrong with it is told, and it may be so at its very end.
pub(super) fn read(
    mut from: impl BufRead,
    mut show: impl FnMut(u64, Stored) -> Result<(), FormatError>,
) -> Result<Contents, FormatError> {
    let (mut line, mut number, mut records, mut largest_value) = (Vec::new(), 0, 0, 0);
    let mut hasher = blake3::Hasher::new();
    let header = match next_line(&mut from, &mut line)? {
        true => header_of(&line)?,
        false => return Err(FormatError::Foreign("it is empty".to_owned())),
    };
    hasher.update(&line);
    number += 1;
    if !next_line(&mut from, &mut line)? {
        return Err(FormatError::CutOff(number));
    }
    number += 1;
    let settings = serde_json::from_slice(&line).map_err(|error| damaged(number, &error))?;
    hasher.update(&line);
    loop {
        if !next_line(&mut from, &mut line)? {
            return Err(FormatError::CutOff(number));
        }
        number += 1;
        if let Ok(footer) = serde_json::from_slice::<Footer>(&line) {
            if footer.blake3 != hasher.finalize().to_hex().as_str() {
                return Err(FormatError::Damaged("the checksum differs"));
            }
            if footer.records != records {
                return Err(FormatError::Damaged("the number of records differs"));
            }
            next_line(&mut from, &mut line)?;
            if !line.is_empty() {
                return Err(FormatError::Behind);
            }
            return Ok(Contents { header, settings, records, largest_value });
        }
        let record: Stored = serde_json::from_slice(&line).map_err(|error| damaged(number, &error))?;
        let value = record.check().map_err(|error| damaged(number, &error))?;
        largest_value = value.len().max(largest_value);
        hasher.update(&line);
        records += 1;
        show(number, record)?;
    }
}

fn damaged(line: u64, problem: &impl ToString) -> FormatError {
    FormatError::Line { line, problem: problem.to_string() }
}

fn header_of(line: &[u8]) -> Result<Header, FormatError> {
    #[derive(Deserialize)]
    struct AnyVersion {
        kith_backup: u32,
    }
    let foreign =
        |error: serde_json::Error| FormatError::Foreign(format!("its first line is not one's ({error})"));
    let AnyVersion { kith_backup } = serde_json::from_slice(line).map_err(foreign)?;
    if kith_backup != VERSION {
        return Err(FormatError::Version(kith_backup));
    }
    serde_json::from_slice(line).map_err(foreign)
}

/// The next line with its end; `false` when there is none, or not its end.
fn next_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, FormatError> {
    line.clear();
    io::Read::take(&mut *from, MAX_LINE_BYTES).read_until(b'\n', line)?;
    Ok(line.ends_with(b"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            kith_backup: VERSION,
            cluster: "shop".to_owned(),
            cluster_id: "id".to_owned(),
            began_ms: 1,
            kith: "0.1.0".to_owned(),
            incomplete: vec!["m2 does not answer".to_owned()],
        }
    }

    fn settings() -> Settings {
        Settings {
            settings: BTreeMap::from([("write_level".to_owned(), "all".to_owned())]),
            ..Settings::default()
        }
    }

    fn written(records: &[Stored]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(Box::new(&mut bytes), &header(), &settings()).unwrap();
        for record in records {
            writer.record(record).unwrap();
        }
        assert_eq!(writer.finish(2).unwrap(), records.len() as u64);
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<(Contents, Vec<Stored>), FormatError> {
        let mut shown = Vec::new();
        let contents = read(bytes, |_, record| {
            shown.push(record);
            Ok(())
        })?;
        Ok((contents, shown))
    }

    fn any_record() -> impl Strategy<Value = Stored> {
        let bytes = || prop::collection::vec(any::<u8>(), 1..20);
        ("[a-z]{1,8}", bytes(), bytes(), prop::option::of(any::<u64>()))
            .prop_map(|(collection, key, value, expires)| Stored::new(&collection, &key, &value, expires))
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in prop::collection::vec(any_record(), 0..8)) {
            let (contents, shown) = read_all(&written(&records)).unwrap();
            let largest = records.iter().map(|record| record.check().unwrap().len()).max();
            prop_assert_eq!(contents.largest_value, largest.unwrap_or(0));
            prop_assert_eq!(shown, records);
            prop_assert_eq!((contents.header, contents.settings), (header(), settings()));
        }

        #[test]
        fn a_file_that_is_cut_off_or_altered_anywhere_is_refused(
            records in prop::collection::vec(any_record(), 1..4),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let bytes = written(&records);
            let at = at.index(bytes.len());
            prop_assert!(read_all(&bytes[..at]).is_err(), "cut off at {at}");
            let mut altered = bytes.clone();
            altered[at] ^= 1 << bit;
            if let Ok((contents, shown)) = read_all(&altered) {
                // Of the last line only the time says nothing about what is before it.
                let last = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
                prop_assert!(at > last, "altered at {at} of {}", bytes.len());
                prop_assert_eq!((contents.records, shown), (records.len() as u64, records));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let told = |bytes: &[u8]| read_all(bytes).unwrap_err().to_string();
        let whole = String::from_utf8(written(&[Stored::new("c", b"k", b"v", None)])).unwrap();
        assert!(told(b"").contains("it is empty"));
        assert!(told(b"PK\x03\x04\n").contains("no backup of kith"));
        assert!(
            told(whole.replace("\"kith_backup\":1", "\"kith_backup\":2").as_bytes()).contains("version 2")
        );
        let cut: String = whole.lines().take(3).map(|line| format!("{line}\n")).collect();
        assert!(told(cut.as_bytes()).contains("cut off after line 3"), "{}", told(cut.as_bytes()));
        assert!(told(whole.replace("\"v\"", "\"w\"").as_bytes()).contains("checksum"));
        assert!(told(whole.replace("\"key\":\"k\"", "\"key\":\"\"").as_bytes()).contains("line 3"));
        for behind in ["{}\n", "\n", "x"] {
            assert!(told(format!("{whole}{behind}").as_bytes()).contains("follows"), "{behind:?}");
        }
        let renamed = whole.replace("\"value\"", "\"values\"");
        assert!(told(renamed.as_bytes()).contains("line 3 is damaged"), "{}", told(renamed.as_bytes()));
    }
}
