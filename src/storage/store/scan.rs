//! Reading many records: all of them at a start, pages of them for listings.

use super::{Disk, MAX_DAMAGED_KEYS, READING, Store, Totals, from_redb, intact};
use crate::model::RecordRef;
use crate::storage::error::StorageError;
use redb::ReadableTable;
use std::ops::Bound;

/// What the scan at a start found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scan {
    /// Records that are whole.
    pub records: u64,
    /// Records that are not what was written; the next checkpoint removes them.
    pub damaged: u64,
    /// The whole records are exactly those that the last checkpoint left. If not, some are damaged
    /// or gone: what this member holds is incomplete.
    pub complete: bool,
}

/// Some records in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Canonical records, one behind the other, verified.
    pub records: Vec<u8>,
    /// How many.
    pub count: usize,
    /// Damaged records that were left out.
    pub damaged: usize,
    /// The key at which the page ends; `None` when nothing comes after it. It may belong to a
    /// damaged record that was left out.
    pub next_after: Option<Vec<u8>>,
}

impl<D: Disk> Store<D> {
    /// Shows every whole record, in order of collection and key.
    ///
    /// # Errors
    /// [`StorageError::Damaged`]: redb can't be read to its end, see [`Store::abandon`].
    pub fn for_each(&mut self, show: &mut dyn FnMut(RecordRef<'_>)) -> Result<Scan, StorageError> {
        let (mut scan, mut totals, mut damaged_keys) = (Scan::default(), Totals::default(), Vec::new());
        let mut begun = false;
        self.with_table(|table| {
            // No record may be shown twice, so this can't be tried again.
            if std::mem::replace(&mut begun, true) {
                return Err(super::POISONED);
            }
            let mut last = Vec::new();
            for entry in table.iter().map_err(from_redb(READING))? {
                let (name, bytes) = entry.map_err(from_redb(READING))?;
                let name = name.value();
                // Out of order, no lookup would find it.
                let record = intact(name, bytes.value()).filter(|_| last.as_slice() < name);
                let Some(record) = record else {
                    scan.damaged += 1;
                    if damaged_keys.len() < MAX_DAMAGED_KEYS {
                        damaged_keys.push(Box::<[u8]>::from(name));
                    }
                    continue;
                };
                last.clear();
                last.extend_from_slice(name);
                totals.records += 1;
                totals.elements ^= record.element();
                show(record);
            }
            Ok(())
        })?;
        scan.records = totals.records;
        scan.complete = (totals.records, totals.elements) == (self.totals.records, self.totals.elements);
        // From here on the totals speak of what is really there.
        (self.totals.records, self.totals.elements) = (totals.records, totals.elements);
        self.damaged_keys = damaged_keys;
        Ok(scan)
    }

    /// A collection's records whose keys begin with `prefix` and come after `after`, verified, until
    /// `limit_records` or `limit_bytes` is reached; at least one, if there is one.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn range(
        &mut self,
        collection: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Page, StorageError> {
        let head = collection.len() + 1;
        let (mut begin, mut start) = (Vec::new(), Vec::new());
        super::encode_key(&mut begin, collection.as_bytes(), prefix);
        super::encode_key(&mut start, collection.as_bytes(), after.unwrap_or_default());
        let mut damaged_keys = Vec::new();
        let page = self.with_table(|table| {
            let mut page = Page::default();
            let lower = match after {
                Some(_) if start >= begin => Bound::Excluded(start.as_slice()),
                _ => Bound::Included(begin.as_slice()),
            };
            let entries = table.range::<&[u8]>((lower, Bound::Unbounded)).map_err(from_redb(READING))?;
            for entry in entries {
                let (name, bytes) = entry.map_err(from_redb(READING))?;
                let (name, bytes) = (name.value(), bytes.value());
                if !name.starts_with(&begin) {
                    page.next_after = None;
                    return Ok(page);
                }
                let seen = page.count + page.damaged;
                if seen >= limit_records || (seen > 0 && page.records.len() + bytes.len() > limit_bytes) {
                    return Ok(page);
                }
                page.next_after = name.get(head..).map(<[u8]>::to_vec);
                match intact(name, bytes) {
                    Some(record) => {
                        page.records.extend_from_slice(record.bytes());
                        page.count += 1;
                    }
                    None => {
                        damaged_keys.push(name.to_vec());
                        page.damaged += 1;
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
