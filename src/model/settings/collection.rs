//! What a collection may have otherwise than the rest of the cluster.
//!
//! Invariant: what is unset follows the cluster's settings; a collection with nothing set is not kept. But one that ever
//! had a replication factor of its own is placed by itself from then on: its factor in force is a record of its own, which
//! kith writes and nobody deletes.

use super::unit::Unit;
use super::{Level, SettingError, Settings};
use crate::model::key::{SYSTEM_PREFIX, check_collection};
use crate::model::limits::{MAX_PARTITION_BITS, MAX_PARTITIONS, MAX_REPLICATION_FACTOR};
use crate::model::spelling::nearest;

/// Collections that may have settings of their own: their names travel with each change.
pub const MAX_COLLECTIONS: usize = 256;

/// Collections that may have a replication factor of their own, in clusters of few partitions.
pub const MAX_FACTORS: usize = 14;

/// How many collections may have a replication factor of their own or once had one, in a cluster of `1 << partition_bits`
/// partitions: each has as many again, and all of them together are [`MAX_PARTITIONS`] at most.
#[must_use]
pub fn max_factors(partition_bits: u8) -> usize {
    let classes = MAX_PARTITIONS >> partition_bits.min(MAX_PARTITION_BITS);
    (classes - 1).min(MAX_FACTORS)
}

/// The names of the records that tell the factor in force of a collection begin so; the collection follows.
pub const IN_FORCE_PREFIX: &str = "in_force/";

/// The longest time to live that may be a default: what is longer is no time to live.
const MAX_DEFAULT_TTL_MS: u64 = 100 * 366 * 86_400_000;
const LEVELS: &str = "`one`, `available`, `quorum` or `all`";

/// What one collection has of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionSettings {
    /// How many members shall hold each record.
    pub replication_factor: Option<u8>,
    /// How long values last that are stored without a time to live, in milliseconds.
    pub default_ttl_ms: Option<u64>,
    /// How many owners must confirm a write that does not say.
    pub write_level: Option<Level>,
    /// How many owners must answer a read that does not say.
    pub read_level: Option<Level>,
}

/// One setting that a collection may have.
#[derive(Debug)]
pub struct CollectionDefinition {
    /// Its name.
    pub name: &'static str,
    /// What it means, for people.
    pub description: &'static str,
    field: Field,
}

#[derive(Debug, Clone, Copy)]
enum Field {
    ReplicationFactor,
    DefaultTtl,
    WriteLevel,
    ReadLevel,
}

/// Every setting that a collection may have, in the order in which they are shown.
pub static COLLECTION_DEFINITIONS: [CollectionDefinition; 4] = [
    CollectionDefinition {
        name: "replication_factor",
        description: "how many members hold each record",
        field: Field::ReplicationFactor,
    },
    CollectionDefinition {
        name: "default_ttl",
        description: "how long values last that are stored without a time to live",
        field: Field::DefaultTtl,
    },
    CollectionDefinition {
        name: "write_level",
        description: "how many owners must confirm a write that does not say",
        field: Field::WriteLevel,
    },
    CollectionDefinition {
        name: "read_level",
        description: "how many owners must answer a read that does not say",
        field: Field::ReadLevel,
    },
];

impl CollectionDefinition {
    /// The definition of a name.
    ///
    /// # Errors
    /// [`SettingError::UnknownOfCollection`].
    pub fn find(name: &str) -> Result<&'static Self, SettingError> {
        COLLECTION_DEFINITIONS.iter().find(|definition| definition.name == name).ok_or_else(|| {
            let names = COLLECTION_DEFINITIONS.iter().map(|known| known.name);
            let nearest = nearest(name, names);
            SettingError::UnknownOfCollection { name: name.to_owned(), nearest }
        })
    }

    /// The value that a collection has of its own, in canonical form.
    #[must_use]
    pub fn text(&self, collection: &CollectionSettings) -> Option<String> {
        let level = |level: Option<Level>| level.map(|level| level.as_str().to_owned());
        match self.field {
            Field::ReplicationFactor => collection.replication_factor.map(|copies| copies.to_string()),
            Field::DefaultTtl => collection.default_ttl_ms.map(|ttl| Unit::Milliseconds.format(ttl)),
            Field::WriteLevel => level(collection.write_level),
            Field::ReadLevel => level(collection.read_level),
        }
    }

    /// The value that the cluster has instead, as people write it; `None` where it has none.
    #[must_use]
    pub fn inherited(&self, settings: &Settings) -> Option<String> {
        match self.field {
            Field::ReplicationFactor => Some(settings.replication_factor.to_string()),
            Field::DefaultTtl => None,
            Field::WriteLevel => Some(settings.write_level.to_string()),
            Field::ReadLevel => Some(settings.read_level.to_string()),
        }
    }

    /// Sets what the text means; `None` takes the collection's own value away.
    ///
    /// # Errors
    /// [`SettingError::Unreadable`], [`SettingError::OutOfRange`].
    pub fn set(&self, collection: &mut CollectionSettings, text: Option<&str>) -> Result<(), SettingError> {
        match self.field {
            Field::ReplicationFactor => {
                collection.replication_factor = text.map(|text| self.copies(text)).transpose()?;
            }
            Field::DefaultTtl => collection.default_ttl_ms = text.map(|text| self.ttl(text)).transpose()?,
            Field::WriteLevel => collection.write_level = text.map(|text| self.level(text)).transpose()?,
            Field::ReadLevel => collection.read_level = text.map(|text| self.level(text)).transpose()?,
        }
        Ok(())
    }

    fn copies(&self, text: &str) -> Result<u8, SettingError> {
        let unit = Unit::Plain;
        let number = unit.parse(text).ok_or_else(|| self.unreadable(text, unit.expected()))?;
        let copies = u8::try_from(number).ok().filter(|copies| (1..=MAX_REPLICATION_FACTOR).contains(copies));
        copies.ok_or_else(|| SettingError::OutOfRange {
            name: self.name,
            value: text.to_owned(),
            min: unit.format(1),
            max: unit.format(MAX_REPLICATION_FACTOR.into()),
        })
    }

    fn ttl(&self, text: &str) -> Result<u64, SettingError> {
        let unit = Unit::Milliseconds;
        let ttl = unit.parse(text).ok_or_else(|| self.unreadable(text, unit.expected()))?;
        if (1..=MAX_DEFAULT_TTL_MS).contains(&ttl) {
            return Ok(ttl);
        }
        Err(SettingError::OutOfRange {
            name: self.name,
            value: text.to_owned(),
            min: unit.format(1),
            max: unit.format(MAX_DEFAULT_TTL_MS),
        })
    }

    fn level(&self, text: &str) -> Result<Level, SettingError> {
        text.parse().map_err(|_| self.unreadable(text, LEVELS))
    }

    fn unreadable(&self, text: &str, expected: &'static str) -> SettingError {
        SettingError::Unreadable { name: self.name, value: text.to_owned(), expected }
    }
}

/// The collection and its factor in force that a record of settings tells, if it is one of those.
pub(super) fn in_force(key: &str, value: &str) -> Option<(String, u8)> {
    let collection = key.strip_prefix(IN_FORCE_PREFIX).filter(|name| check_name(name).is_ok())?;
    let copies = u8::try_from(Unit::Plain.parse(value)?).unwrap_or(MAX_REPLICATION_FACTOR);
    Some((collection.to_owned(), copies.clamp(1, MAX_REPLICATION_FACTOR)))
}

/// Whether a name may have settings.
pub(super) fn check_name(name: &str) -> Result<(), SettingError> {
    if name.starts_with(SYSTEM_PREFIX) {
        return Err(SettingError::SystemCollection(name.to_owned()));
    }
    check_collection(name).map_err(|error| SettingError::Collection { name: name.to_owned(), error })
}
