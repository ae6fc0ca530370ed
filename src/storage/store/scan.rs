//! Reading many records: all of them at a start, pages of them for listings.

use super::{Disk, READING, RecordsTable, STORE_FILE, Store, Totals, from_redb, guarded, intact};
use crate::model::{KeyRange, KeyRef, Record, RecordRef};
use crate::storage::error::StorageError;
use redb::ReadableTable;
use std::ops::Bound;

/// What the scan at a start found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scan {
    /// Records that are whole, and were shown.
    pub records: u64,
    /// Records that are not what was written. They are not in the store any more.
    pub damaged: u64,
    /// The whole records are exactly those that the last checkpoint left. If not, some are damaged
    /// or gone: what this member holds is incomplete.
    pub complete: bool,
    /// The name under which the store was set aside because of damage. The store that takes its
    /// place holds what was whole.
    pub set_aside: Option<String>,
}

/// What a range shows of some records, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// What was made of them.
    pub rows: Vec<T>,
    /// Collection and key of damaged records, which were left out.
    pub damaged: Vec<(String, Vec<u8>)>,
    /// The key that the page has come to; `None` when nothing comes after it. Its record may have been left
    /// out.
    pub next_after: Option<Vec<u8>>,
}

/// Some records of any collections, in the order of collection and key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedPage {
    /// Canonical records, one behind the other, verified.
    pub records: Vec<u8>,
    /// How many.
    pub count: u64,
    /// Collection and key of wanted records that are damaged.
    pub damaged: Vec<(String, Vec<u8>)>,
    /// The collection and key at which the page ends; `None` when nothing comes after it.
    pub next_after: Option<(String, Vec<u8>)>,
}

/// When a page ends. At least one record is looked at, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageBounds {
    /// Records looked at, wanted or not.
    pub looked_at: usize,
    /// Bytes of records looked at, wanted or not.
    pub read_bytes: usize,
    /// Bytes on the page.
    pub bytes: usize,
}

impl<D: Disk> Store<D> {
    /// The whole records of a collection, which must be a small one, in the order of their keys; none if the store is too
    /// damaged to be read. What is damaged stays for [`Store::for_each`] to find.
    ///
    /// # Errors
    /// `Io` and `Full` as the disk has it.
    pub fn collection(&mut self, collection: &str) -> Result<Vec<Record>, StorageError> {
        let opened = readable(self.with_table(|_| Ok(())))?;
        let Some(table) = self.table.as_ref().filter(|_| opened.is_some()) else { return Ok(Vec::new()) };
        let start = [collection.as_bytes(), &[0]].concat();
        let end = [collection.as_bytes(), &[1]].concat();
        let found = guarded(|| {
            let mut records = Vec::new();
            let range = start.as_slice()..end.as_slice();
            for entry in table.range::<&[u8]>(range).map_err(from_redb(READING))? {
                let (name, bytes) = entry.map_err(from_redb(READING))?;
                records.extend(intact(name.value(), bytes.value()).map(Record::copy_of));
            }
            Ok(records)
        });
        Ok(readable(found)?.unwrap_or_default())
    }

    /// Shows every whole record, in order of collection and key, and looks for damage everywhere
    /// else. A store that has any is rebuilt at once.
    ///
    /// # Errors
    /// `Io` and `Full` as the disk has it. Some records may have been shown.
    pub fn for_each(&mut self, show: &mut dyn FnMut(RecordRef<'_>)) -> Result<Scan, StorageError> {
        let (mut scan, mut totals) = (Scan::default(), Totals::default());
        let opened = readable(self.with_table(|_| Ok(())))?;
        let to_its_end = match &self.table {
            Some(table) if opened.is_some() => visit_all(table, &mut scan.damaged, |_, record| {
                totals.add(record);
                show(record);
                Ok(())
            })?,
            _ => false,
        };
        scan.records = totals.records;
        scan.complete =
            to_its_end && (totals.records, totals.elements) == (self.totals.records, self.totals.elements);
        if !scan.complete || scan.damaged > 0 || !self.is_sound()? {
            scan.set_aside = Some(self.rebuild()?);
        }
        Ok(scan)
    }

    /// A collection's records of a range of keys, verified, from the first on or (`reverse`) from the last,
    /// until one of the bounds is reached. `row` makes of each what is shown of it, and tells how many bytes that has.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn range<T>(
        &mut self,
        collection: &str,
        keys: &KeyRange,
        reverse: bool,
        bounds: PageBounds,
        row: impl Fn(RecordRef<'_>) -> Option<(T, usize)>,
    ) -> Result<Page<T>, StorageError> {
        let (mut start, mut end) = (Vec::new(), Vec::new());
        super::encode_key(&mut start, collection.as_bytes(), &keys.start);
        super::encode_key(&mut end, collection.as_bytes(), keys.end.as_deref().unwrap_or_default());
        if keys.end.is_none() {
            // What comes after the zero byte behind the collection's name.
            end.pop();
            end.push(1);
        }
        let mut damaged_keys = Vec::new();
        let page = self.with_table(|table| {
            let mut page = Page { rows: Vec::new(), damaged: Vec::new(), next_after: None };
            if start >= end {
                return Ok(page);
            }
            let (mut looked_at, mut read_bytes, mut page_bytes) = (0, 0, 0);
            let mut names = Names::in_order(reverse);
            let mut entries =
                table.range::<&[u8]>(start.as_slice()..end.as_slice()).map_err(from_redb(READING))?;
            while let Some(entry) = if reverse { entries.next_back() } else { entries.next() } {
                let (name, bytes) = entry.map_err(from_redb(READING))?;
                let (name, bytes) = (name.value(), bytes.value());
                let enough = looked_at >= bounds.looked_at.max(1) || read_bytes >= bounds.read_bytes.max(1);
                if enough || page_bytes >= bounds.bytes.max(1) {
                    return Ok(page);
                }
                (looked_at, read_bytes) = (looked_at + 1, read_bytes + bytes.len());
                let key = names.key(name)?;
                page.next_after = Some(key.key().to_vec());
                match Names::record(name, bytes)? {
                    Some(record) => {
                        if let Some((row, row_bytes)) = row(record) {
                            page.rows.push(row);
                            page_bytes += row_bytes;
                        }
                    }
                    None => {
                        damaged_keys.push(name.to_vec());
                        page.damaged.push((key.collection().to_owned(), key.key().to_vec()));
                    }
                }
            }
            page.next_after = None;
            Ok(page)
        })?;
        for key in damaged_keys {
            self.remember_damaged(&key);
        }
        Ok(page)
    }
}

impl<D: Disk> Store<D> {
    /// The wanted records of all collections that come after a collection and key, verified, until
    /// one of the bounds is reached. `wanted` is given a name and the bytes under it, not verified.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn page(
        &mut self,
        (collection, key): (&str, &[u8]),
        wanted: impl Fn(KeyRef<'_>, &[u8]) -> bool,
        bounds: PageBounds,
    ) -> Result<NamedPage, StorageError> {
        let mut start = Vec::new();
        super::encode_key(&mut start, collection.as_bytes(), key);
        let mut damaged_keys = Vec::new();
        let page = self.with_table(|table| {
            let (mut page, mut looked_at, mut read_bytes) = (NamedPage::default(), 0, 0);
            let mut names = Names::default();
            let after = (Bound::Excluded(start.as_slice()), Bound::Unbounded);
            let entries = table.range::<&[u8]>(after).map_err(from_redb(READING))?;
            for entry in entries {
                let (name, bytes) = entry.map_err(from_redb(READING))?;
                let (name, bytes) = (name.value(), bytes.value());
                let key = names.key(name)?;
                let is_wanted = wanted(key, bytes);
                let full =
                    is_wanted && !page.records.is_empty() && page.records.len() + bytes.len() > bounds.bytes;
                let enough = looked_at >= bounds.looked_at.max(1) || read_bytes >= bounds.read_bytes.max(1);
                if enough || full {
                    return Ok(page);
                }
                (looked_at, read_bytes) = (looked_at + 1, read_bytes + bytes.len());
                let name_of = |key: KeyRef<'_>| (key.collection().to_owned(), key.key().to_vec());
                page.next_after = Some(name_of(key));
                if !is_wanted {
                    continue;
                }
                match Names::record(name, bytes)? {
                    Some(record) => {
                        page.records.extend_from_slice(record.bytes());
                        page.count += 1;
                    }
                    None => {
                        damaged_keys.push(name.to_vec());
                        page.damaged.push(name_of(key));
                    }
                }
            }
            page.next_after = None;
            Ok(page)
        })?;
        for key in damaged_keys {
            self.remember_damaged(&key);
        }
        Ok(page)
    }
}

/// The names of a walk, which must rise (or fall, in a walk back). Where one does not, or is none, or is not that
/// of the record under it, lookups and walks may miss records that are there: redb itself is damaged.
#[derive(Default)]
struct Names {
    last: Vec<u8>,
    falling: bool,
}

impl Names {
    fn in_order(falling: bool) -> Self {
        Self { last: Vec::new(), falling }
    }

    fn key<'a>(&mut self, name: &'a [u8]) -> Result<KeyRef<'a>, StorageError> {
        let last = self.last.as_slice();
        let follows = if self.falling { last.is_empty() || name < last } else { last < name };
        let damaged = || StorageError::damaged(STORE_FILE, "a name in it is damaged");
        let key = key_of(name).filter(|_| follows).ok_or_else(damaged)?;
        self.last.clear();
        self.last.extend_from_slice(name);
        Ok(key)
    }

    fn record<'a>(name: &[u8], bytes: &'a [u8]) -> Result<Option<RecordRef<'a>>, StorageError> {
        if let Some(record) = intact(name, bytes) {
            return Ok(Some(record));
        }
        match RecordRef::parse(bytes) {
            Ok((record, _)) if record.verify().is_ok() => {
                Err(StorageError::damaged(STORE_FILE, "a record lies under another name than its own"))
            }
            _ => Ok(None),
        }
    }
}

fn key_of(name: &[u8]) -> Option<KeyRef<'_>> {
    let zero = name.iter().position(|byte| *byte == 0)?;
    let collection = std::str::from_utf8(name.get(..zero)?).ok()?;
    KeyRef::new(collection, name.get(zero + 1..)?).ok()
}

/// Visits every whole record in key order and counts the others; tells whether reading came to the
/// table's end.
pub(super) fn visit_all(
    table: &RecordsTable,
    damaged: &mut u64,
    mut visit: impl FnMut(&[u8], RecordRef<'_>) -> Result<(), StorageError>,
) -> Result<bool, StorageError> {
    let Some(mut entries) = readable(guarded(|| table.iter().map_err(from_redb(READING))))? else {
        return Ok(false);
    };
    let mut last = Vec::new();
    loop {
        let next = guarded(|| entries.next().transpose().map_err(from_redb(READING)));
        let Some(next) = readable(next)? else { return Ok(false) };
        let Some((name, bytes)) = next else { return Ok(true) };
        let parts = readable(guarded(|| Ok((name.value(), bytes.value()))))?;
        // Out of order, no lookup would find it.
        let whole = parts.filter(|(name, _)| last.as_slice() < *name);
        let Some((name, record)) = whole.and_then(|(name, bytes)| Some((name, intact(name, bytes)?))) else {
            *damaged += 1;
            continue;
        };
        last.clear();
        last.extend_from_slice(name);
        visit(name, record)?;
    }
}

/// Damage becomes `None`. So does redb's giving up: a failure of the disk shows itself first, and what
/// comes without one is damage, which an optimized redb may meet that way.
fn readable<T>(read: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(StorageError::Damaged { .. } | StorageError::Poisoned { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
