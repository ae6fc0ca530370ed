//! Settings: the configuration that must be equal on all members.
//!
//! One table of definitions names each setting with its default, its bounds and its meaning;
//! defaults, parsing, checking, clamping and display all follow from it. Collections have a small table of their own
//! ([`collection`]). The first settings of a cluster are stored as one record each of [`super::key::SETTINGS`]: the name,
//! and the value as the text that people write. Each change is one record behind them ([`log`]).
//!
//! Invariants: every member computes the same effective values from the same records; reading
//! stored settings never fails. Of a cluster's first settings, what a newer version wrote and this one does not know is
//! passed over, what can't be read counts as unset, what is out of bounds is moved to the bound. A change
//! by a person, on the other hand, is refused with all its faults at once.

pub mod collection;
mod error;
pub mod log;
mod table;
mod unit;

pub use error::SettingError;
pub use table::DEFINITIONS;

use super::spelling::nearest;
use collection::{
    COLLECTION_DEFINITIONS, CollectionDefinition, CollectionSettings, MAX_COLLECTIONS, MAX_FACTORS,
    check_name, max_factors,
};
use error::{SHOWN_CHARACTERS, shorten};
use log::Change;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use unit::Unit;

/// How many owners an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One owner.
    One,
    /// A majority of the owners that can be reached, at least one.
    Available,
    /// A majority of the owners.
    Quorum,
    /// Every owner.
    All,
}

impl Level {
    /// Every level.
    pub const ALL: [Self; 4] = [Self::One, Self::Available, Self::Quorum, Self::All];

    /// The level's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Available => "available",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a level; use `one`, `available`, `quorum` or `all`", shorten(.0))]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.as_str() == text);
        found.ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

/// When a copy counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// Once it is fsynced.
    Always,
    /// Once it is written; fsync follows within `sync_interval`.
    Interval,
}

impl Sync {
    /// Both modes.
    pub const ALL: [Self; 2] = [Self::Always, Self::Interval];

    /// The mode's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
        }
    }
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no way to sync.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a way to sync; use `always` or `interval`", shorten(.0))]
pub struct UnknownSync(pub String);

impl FromStr for Sync {
    type Err = UnknownSync;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| UnknownSync(text.to_owned()))
    }
}

/// The effective settings of a cluster; what each means is in [`DEFINITIONS`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table of definitions says it, for people and for code")]
pub struct Settings {
    pub replication_factor: u8,
    pub replication_factor_in_force: u8,
    /// The hybrid time at which `replication_factor` was set; tells two changes to the same number apart.
    /// Filled in by whoever knows the record.
    pub replication_factor_time: u64,
    pub write_level: Level,
    pub read_level: Level,
    pub write_timeout_ms: u64,
    pub sync: Sync,
    pub sync_interval_ms: u64,
    pub max_clock_ahead_ms: u64,
    pub gossip_interval_ms: u64,
    pub repair_bytes_per_second: u64,
    pub scrub_bytes_per_second: u64,
    pub hint_bytes: u64,
    pub max_value_bytes: u64,
    /// What collections have of their own; those without anything are not among them.
    pub collections: BTreeMap<String, CollectionSettings>,
    /// The replication factor that the data of a collection has which ever had one of its own.
    pub factors_in_force: BTreeMap<String, u8>,
    /// How many collections may have one: it follows from the number of partitions, see [`Settings::fit`].
    pub max_factors: usize,
    /// The hybrid time at which a collection's own factor was set or taken back, as `replication_factor_time`.
    pub factor_times: BTreeMap<String, u64>,
}

/// What people write for a value to take it back: the default, or for a collection what the cluster has.
pub const DEFAULT_VALUE: &str = "default";

/// The name of the replication factor that the data has, as against the one it shall have. kith
/// moves it by itself; where it is not stored it equals `replication_factor`, so a cluster's
/// creation stores it (see [`Settings::records`]).
pub const REPLICATION_FACTOR_IN_FORCE: &str = "replication_factor_in_force";

/// One setting.
#[derive(Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// The value it has when nobody set it, in the form in which people write it.
    pub default: &'static str,
    /// What it means, for people.
    pub description: &'static str,
    /// Whether kith sets it by itself, and people may not.
    pub managed: bool,
    value: Value,
}

/// How a setting's text and its field belong together.
#[derive(Debug)]
enum Value {
    Number { unit: Unit, min: u64, max: u64, get: fn(&Settings) -> u64, set: fn(&mut Settings, u64) },
    Choice { names: &'static str, get: fn(&Settings) -> &'static str, set: fn(&mut Settings, &str) -> bool },
}

impl Definition {
    /// The definition of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        DEFINITIONS.iter().find(|definition| definition.name == name)
    }

    /// The known name that is most like a text, if one may have been meant.
    #[must_use]
    pub fn nearest(name: &str) -> Option<&'static str> {
        let name: String = name.chars().take(SHOWN_CHARACTERS).collect();
        let names = DEFINITIONS.iter().filter(|definition| !definition.managed).map(|known| known.name);
        nearest(&name, names)
    }

    /// The value that this setting has, in canonical form.
    #[must_use]
    pub fn text(&self, settings: &Settings) -> String {
        match &self.value {
            Value::Number { unit, get, .. } => unit.format(get(settings)),
            Value::Choice { get, .. } => get(settings).to_owned(),
        }
    }

    /// Sets the value that the text means, moved to a bound if it is out of bounds.
    fn set_clamped(&self, settings: &mut Settings, text: &str) -> Result<(), SettingError> {
        match &self.value {
            Value::Number { unit, min, max, set, .. } => {
                let number = unit.parse(text).ok_or_else(|| self.unreadable(text, unit.expected()))?;
                set(settings, number.clamp(*min, *max));
                Ok(())
            }
            Value::Choice { names, set, .. } => {
                set(settings, text).then_some(()).ok_or_else(|| self.unreadable(text, names))
            }
        }
    }

    /// Sets the value that the text means, if it is within bounds.
    fn set_checked(&self, settings: &mut Settings, text: &str) -> Result<(), SettingError> {
        if let Value::Number { unit, min, max, .. } = &self.value
            && unit.parse(text).is_some_and(|number| !(*min..=*max).contains(&number))
        {
            return Err(SettingError::OutOfRange {
                name: self.name,
                value: text.to_owned(),
                min: unit.format(*min),
                max: unit.format(*max),
            });
        }
        self.set_clamped(settings, text)
    }

    fn unreadable(&self, text: &str, expected: &'static str) -> SettingError {
        SettingError::Unreadable { name: self.name, value: text.to_owned(), expected }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            replication_factor: 1,
            replication_factor_in_force: 1,
            replication_factor_time: 0,
            write_level: Level::All,
            read_level: Level::All,
            write_timeout_ms: 0,
            sync: Sync::Always,
            sync_interval_ms: 0,
            max_clock_ahead_ms: 0,
            gossip_interval_ms: 0,
            repair_bytes_per_second: 0,
            scrub_bytes_per_second: 0,
            hint_bytes: 0,
            max_value_bytes: 0,
            collections: BTreeMap::new(),
            factors_in_force: BTreeMap::new(),
            max_factors: MAX_FACTORS,
            factor_times: BTreeMap::new(),
        };
        for definition in &DEFINITIONS {
            let applied = definition.set_checked(&mut settings, definition.default);
            debug_assert_eq!(applied, Ok(()), "the table's own default");
        }
        settings
    }
}

impl Settings {
    /// The effective settings that follow from the stored names and values. Of a name that comes
    /// twice the later value holds.
    pub fn from_entries<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut settings = Self::default();
        let mut in_force_is_stored = false;
        for (name, value) in entries {
            let applied = Definition::find(name).map(|known| known.set_clamped(&mut settings, value));
            in_force_is_stored |= name == REPLICATION_FACTOR_IN_FORCE && applied == Some(Ok(()));
        }
        if !in_force_is_stored {
            settings.replication_factor_in_force = settings.replication_factor;
        }
        settings.clamp();
        settings
    }

    /// Two changes that were each right may not go together.
    fn clamp(&mut self) {
        self.hint_bytes = self.hint_bytes.max(self.least_hint_bytes());
    }

    /// Fits them into a cluster of `1 << partition_bits` partitions: of the factors of collections that are in force the first by
    /// name count for which there is room. Two sides of a cut may have begun too many: the same ones count everywhere.
    pub fn fit(&mut self, partition_bits: u8) {
        self.max_factors = max_factors(partition_bits);
        let begun = std::mem::take(&mut self.factors_in_force);
        self.factors_in_force = begun.into_iter().take(self.max_factors).collect();
    }

    /// What a collection has of its own, if it has anything.
    #[must_use]
    pub fn of(&self, collection: &str) -> Option<&CollectionSettings> {
        // Most clusters have none, and every operation asks.
        if self.collections.is_empty() { None } else { self.collections.get(collection) }
    }

    /// How many owners must confirm a write that does not say.
    #[must_use]
    pub fn write_level_of(&self, collection: &str) -> Level {
        self.of(collection).and_then(|own| own.write_level).unwrap_or(self.write_level)
    }

    /// How many owners must answer a read that does not say.
    #[must_use]
    pub fn read_level_of(&self, collection: &str) -> Level {
        self.of(collection).and_then(|own| own.read_level).unwrap_or(self.read_level)
    }

    /// How many members shall hold each record of a collection.
    #[must_use]
    pub fn replication_factor_of(&self, collection: &str) -> u8 {
        self.of(collection).and_then(|own| own.replication_factor).unwrap_or(self.replication_factor)
    }

    /// Collections that shall have a replication factor of their own and are not placed by themselves yet, by name; only
    /// those that there is room for.
    pub fn unplaced(&self) -> impl Iterator<Item = &str> {
        let own = self.collections.iter().filter(|(_, own)| own.replication_factor.is_some());
        let names = own.map(|(name, _)| name.as_str());
        let room = self.max_factors.saturating_sub(self.factors_in_force.len());
        names.filter(|name| !self.factors_in_force.contains_key(*name)).take(room)
    }

    /// Collections that have a replication factor of their own or once had one.
    fn factors(&self) -> usize {
        let own = self.collections.iter().filter(|(_, own)| own.replication_factor.is_some());
        let unplaced = own.filter(|(name, _)| !self.factors_in_force.contains_key(*name)).count();
        self.factors_in_force.len() + unplaced
    }

    /// Gives a collection settings, or none of its own any more.
    fn keep(&mut self, collection: &str, own: CollectionSettings) {
        if own == CollectionSettings::default() {
            self.collections.remove(collection);
        } else {
            self.collections.insert(collection.to_owned(), own);
        }
    }

    /// Room for two of the largest values: with less, one could not be kept for an absent owner.
    const fn least_hint_bytes(&self) -> u64 {
        self.max_value_bytes.saturating_mul(2)
    }

    /// Checks a change as a whole and gives it in the form in which it is stored, with the settings that it comes to.
    ///
    /// # Errors
    /// All that is wrong with it, in order; the change must then not be stored in any part.
    pub fn check_change(&self, wanted: &Change) -> Result<(Change, Self), Vec<SettingError>> {
        let (mut changed, mut errors) = (self.clone(), Vec::new());
        let mut canonical =
            Change { settings: BTreeMap::new(), collections: BTreeMap::new(), ..wanted.clone() };
        let given = |value: &'_ Option<String>| value.clone().filter(|text| text != DEFAULT_VALUE);
        for (name, value) in &wanted.settings {
            let value = given(value);
            match changed.change(name, value.as_deref()) {
                Ok(known) => {
                    let text = value.map(|_| known.text(&changed));
                    canonical.settings.insert(known.name.to_owned(), text);
                }
                Err(error) => errors.push(error),
            }
        }
        for (collection, values) in &wanted.collections {
            if let Err(error) = check_name(collection) {
                errors.push(error);
                continue;
            }
            let mut own = changed.of(collection).cloned().unwrap_or_default();
            for (name, value) in values {
                let known = CollectionDefinition::find(name);
                match known.and_then(|known| known.set(&mut own, given(value).as_deref()).map(|()| known)) {
                    Ok(known) => {
                        let values = canonical.collections.entry(collection.clone()).or_default();
                        values.insert(known.name.to_owned(), known.text(&own));
                    }
                    Err(error) => errors.push(error),
                }
            }
            changed.keep(collection, own);
        }
        if changed.collections.len() > MAX_COLLECTIONS && changed.collections.len() > self.collections.len() {
            errors.push(SettingError::TooManyCollections(changed.collections.len()));
        }
        let (wanted, most) = (changed.factors(), self.max_factors);
        if wanted > most && wanted > self.factors() {
            errors.push(SettingError::TooManyFactors { wanted, most });
        }
        errors.extend(changed.check_hints().err());
        if errors.is_empty() { Ok((canonical, changed)) } else { Err(errors) }
    }

    fn check_hints(&self) -> Result<(), SettingError> {
        if self.hint_bytes >= self.least_hint_bytes() {
            return Ok(());
        }
        Err(SettingError::HintsTooSmall {
            hint_bytes: Unit::Bytes.format(self.hint_bytes),
            max_value_bytes: Unit::Bytes.format(self.max_value_bytes),
        })
    }

    /// Checks the first settings of a cluster as a whole and gives their names and values in the form in which they are
    /// stored.
    ///
    /// # Errors
    /// All that is wrong with them, in order; nothing must then be stored.
    pub fn validate_change(
        &self,
        changes: &[(String, String)],
    ) -> Result<Vec<(String, String)>, Vec<SettingError>> {
        let mut changed = self.clone();
        let mut canonical: Vec<(String, String)> = Vec::new();
        let mut errors = Vec::new();
        for (name, value) in changes {
            match changed.change(name, Some(value)) {
                Ok(known) if canonical.iter().any(|(name, _)| name == known.name) => {
                    errors.push(SettingError::Repeated(known.name));
                }
                Ok(known) => canonical.push((known.name.to_owned(), known.text(&changed))),
                Err(error) => errors.push(error),
            }
        }
        errors.extend(changed.check_hints().err());
        if errors.is_empty() { Ok(canonical) } else { Err(errors) }
    }

    /// Gives a setting a value, or its default.
    fn change(&mut self, name: &str, value: Option<&str>) -> Result<&'static Definition, SettingError> {
        let Some(known) = Definition::find(name) else {
            if name == "partitions" {
                return Err(SettingError::Partitions);
            }
            let nearest = Definition::nearest(name);
            return Err(SettingError::Unknown { name: name.to_owned(), nearest });
        };
        if known.managed {
            return Err(SettingError::Managed(known.name));
        }
        known.set_checked(self, value.unwrap_or(known.default))?;
        Ok(known)
    }

    /// Every name with its canonical value, as they are stored when a cluster is created.
    pub fn records(&self) -> impl ExactSizeIterator<Item = (&'static str, String)> + '_ {
        DEFINITIONS.iter().map(|known| (known.name, known.text(self)))
    }

    /// 64 bits over the effective values. What has its default is not in it, so that members of two versions agree while
    /// nobody has set what only the newer one knows.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("kith 2026 settings digest");
        let mut add = |collection: &str, name: &str, value: &str| {
            let parts = [collection, "/", name, "=", value, "\n"];
            parts.into_iter().for_each(|part| _ = hasher.update(part.as_bytes()));
        };
        for known in &DEFINITIONS {
            let value = known.text(self);
            if value != known.default {
                add("", known.name, &value);
            }
        }
        for (collection, own) in &self.collections {
            for known in &COLLECTION_DEFINITIONS {
                if let Some(value) = known.text(own) {
                    add(collection, known.name, &value);
                }
            }
        }
        for (collection, copies) in &self.factors_in_force {
            hasher.update(collection.as_bytes()).update(b"/in_force=").update(&[*copies]).update(b"\n");
        }
        let head = hasher.finalize().as_bytes().first_chunk().copied();
        u64::from_le_bytes(head.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::MAX_REPLICATION_FACTOR;
    use super::*;
    use proptest::prelude::*;

    fn owned(changes: &[(&str, &str)]) -> Vec<(String, String)> {
        changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn from(entries: &[(&str, &str)]) -> Settings {
        Settings::from_entries(entries.iter().copied())
    }

    fn any_text() -> impl Strategy<Value = String> {
        let units = prop::sample::select(vec!["", "ms", "s", "m", "h", "B", "KiB", "MiB", "TiB", "x"]);
        prop_oneof![
            ".{0,12}",
            (any::<u64>(), units.clone()).prop_map(|(number, unit)| format!("{number}{unit}")),
            (0u64..100_000, units).prop_map(|(number, unit)| format!("{number}{unit}")),
            prop::sample::select(vec!["one", "available", "quorum", "all", "always", "interval"])
                .prop_map(str::to_owned),
        ]
    }

    fn any_entries() -> impl Strategy<Value = Vec<(String, String)>> {
        let known: Vec<&str> = DEFINITIONS.iter().map(|known| known.name).chain(["unknown"]).collect();
        let name = prop::sample::select(known).prop_map(str::to_owned);
        prop::collection::vec((name, any_text()), 0..12)
    }

    proptest! {
        #[test]
        fn whatever_is_stored_gives_settings_that_hold_every_bound(entries in any_entries()) {
            let settings = Settings::from_entries(entries.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let records: Vec<_> = settings.records().collect();
            let stored = Settings::from_entries(records.iter().map(|(n, v)| (*n, v.as_str())));
            prop_assert_eq!(&stored, &settings);
            prop_assert_eq!(stored.digest(), settings.digest());
            let mut again = settings.clone();
            for (name, value) in &records {
                let known = Definition::find(name).unwrap();
                prop_assert_eq!(known.set_checked(&mut again, value), Ok(()));
            }
            prop_assert_eq!(&again, &settings);
            prop_assert!(settings.hint_bytes >= 2 * settings.max_value_bytes);
        }

        #[test]
        fn an_accepted_change_takes_effect_as_it_was_checked(changes in any_entries()) {
            let base = Settings::default();
            if let Ok(canonical) = base.validate_change(&changes) {
                prop_assert_eq!(canonical.len(), changes.len());
                let base: Vec<_> = base.records().collect();
                let stored = base.iter().map(|(n, v)| (*n, v.as_str()));
                let stored = stored.chain(canonical.iter().map(|(n, v)| (n.as_str(), v.as_str())));
                let settings = Settings::from_entries(stored);
                for (name, value) in &canonical {
                    prop_assert_eq!(&Definition::find(name).unwrap().text(&settings), value);
                }
                prop_assert_eq!(Settings::default().validate_change(&canonical), Ok(canonical));
            }
        }
    }

    #[test]
    fn every_default_is_canonical_and_within_bounds() {
        let settings = Settings::default();
        for known in &DEFINITIONS {
            assert_eq!(known.set_checked(&mut settings.clone(), known.default), Ok(()), "{}", known.name);
            assert_eq!(known.text(&settings), known.default, "{}", known.name);
            assert_eq!(Definition::find(known.name).unwrap().name, known.name);
        }
        assert!(DEFINITIONS.iter().all(|known| !known.description.is_empty()));
        assert_eq!(from(&[]), settings);
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let expected = Settings {
            replication_factor: 3,
            replication_factor_in_force: 3,
            replication_factor_time: 0,
            write_level: Level::Available,
            read_level: Level::One,
            write_timeout_ms: 1_000,
            sync: Sync::Always,
            sync_interval_ms: 1_000,
            max_clock_ahead_ms: 10_000,
            gossip_interval_ms: 500,
            repair_bytes_per_second: 16 << 20,
            scrub_bytes_per_second: 4 << 20,
            hint_bytes: 256 << 20,
            max_value_bytes: 1 << 20,
            collections: BTreeMap::new(),
            factors_in_force: BTreeMap::new(),
            max_factors: MAX_FACTORS,
            factor_times: BTreeMap::new(),
        };
        assert_eq!(Settings::default(), expected);
    }

    #[test]
    fn all_faults_of_a_change_are_told_at_once() {
        let changes = owned(&[
            ("partitions", "64"),
            ("colour", "red"),
            ("write_timout", "1s"),
            ("replication_factor", "8"),
            ("sync", "never"),
            ("read_level", "one"),
            ("read_level", "all"),
            ("replication_factor_in_force", "1"),
            ("sync_interval", "5"),
            ("max_value_bytes", "8MiB"),
            ("hint_bytes", "15MiB"),
        ]);
        let errors = Settings::default().validate_change(&changes).unwrap_err();
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "the number of partitions is fixed when the cluster is created (`kith init --partitions`, or `partitions` below `[create]` in the file of the member that creates it)",
                "there is no setting `colour`; `kith settings show` lists them",
                "there is no setting `write_timout`; the nearest name is `write_timeout`",
                "`replication_factor` can't be `8`; it must be from 1 to 7",
                "`sync` can't be `never`; use `always` or `interval`",
                "`read_level` is set more than once in one change; give it one value",
                "`replication_factor_in_force` is kept by kith itself; change `replication_factor` and it follows",
                "`sync_interval` can't be `5`; use a whole number with a unit, such as `500ms`, `10s`, `5m`, `1h` or `7d`",
                "`hint_bytes` (15MiB) must be at least twice `max_value_bytes` (8MiB); change both together",
            ]
        );
    }

    #[test]
    fn a_change_is_stored_in_canonical_form() {
        let changes =
            owned(&[("write_timeout", "2000ms"), ("hint_bytes", "1073741824"), ("sync", "interval")]);
        let canonical = Settings::default().validate_change(&changes);
        assert_eq!(
            canonical,
            Ok(owned(&[("write_timeout", "2s"), ("hint_bytes", "1GiB"), ("sync", "interval")]))
        );
    }

    #[test]
    fn stored_values_out_of_bounds_are_clamped_and_unreadable_ones_count_as_unset() {
        let settings = from(&[
            ("replication_factor", "200"),
            ("write_timeout", "1ms"),
            ("gossip_interval", "99999999999999999999999h"),
            ("write_level", "most"),
            ("sync_interval", "soon"),
            ("max_value_bytes", "4MiB"),
            ("hint_bytes", "1MiB"),
            ("from_the_future", "yes"),
        ]);
        assert_eq!(settings.replication_factor, MAX_REPLICATION_FACTOR);
        assert_eq!(settings.write_timeout_ms, 50);
        assert_eq!(settings.gossip_interval_ms, 5_000);
        assert_eq!(settings.write_level, Level::Available);
        assert_eq!(settings.sync_interval_ms, 1_000);
        assert_eq!(settings.hint_bytes, 8 << 20);
    }

    #[test]
    fn the_replication_factor_in_force_follows_the_target_unless_it_is_stored() {
        assert_eq!(from(&[("replication_factor", "5")]).replication_factor_in_force, 5);
        let stored = from(&[(REPLICATION_FACTOR_IN_FORCE, "2"), ("replication_factor", "5")]);
        assert_eq!((stored.replication_factor_in_force, stored.replication_factor), (2, 5));
        let garbled = from(&[(REPLICATION_FACTOR_IN_FORCE, "?"), ("replication_factor", "5")]);
        assert_eq!(garbled.replication_factor_in_force, 5);
    }

    #[test]
    fn the_digest_follows_the_effective_values() {
        let known = Settings::default().digest();
        assert_eq!(from(&[("write_timeout", "1000ms"), ("unknown", "1")]).digest(), known);
        assert_ne!(from(&[("write_timeout", "1001ms")]).digest(), known);
    }

    #[test]
    fn a_version_that_does_not_know_a_setting_has_the_same_digest_while_it_has_its_default() {
        let nothing = blake3::Hasher::new_derive_key("kith 2026 settings digest").finalize();
        assert_eq!(Settings::default().digest().to_le_bytes(), nothing.as_bytes()[..8]);
    }

    #[test]
    fn numbers_with_units_are_read_and_written() {
        for (unit, text, number, canonical) in [
            (Unit::Milliseconds, "90s", 90_000, "90s"),
            (Unit::Milliseconds, "60s", 60_000, "1m"),
            (Unit::Milliseconds, "0ms", 0, "0ms"),
            (Unit::Bytes, "1536kib", 1_572_864, "1536KiB"),
            (Unit::Bytes, "1000", 1_000, "1000B"),
            (Unit::Plain, "003", 3, "3"),
        ] {
            assert_eq!(unit.parse(text), Some(number), "{text}");
            assert_eq!(unit.format(number), canonical);
        }
        for text in ["", "s", "-1s", "1.5s", "1 s", "1000", "1sec", "１s"] {
            assert_eq!(Unit::Milliseconds.parse(text), None, "{text}");
        }
        assert_eq!(Unit::Plain.parse("3B"), None);
    }

    #[test]
    fn levels_and_modes_survive_their_text_form() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for mode in Sync::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("One".parse::<Level>().is_err() && "".parse::<Sync>().is_err());
    }

    #[test]
    fn a_long_or_ugly_text_is_shown_short() {
        let ugly = format!("\u{1b}[31m{}", "x".repeat(10_000));
        let error = Settings::default().validate_change(&[(ugly, String::new())]).unwrap_err();
        let text = error.first().unwrap().to_string();
        assert!(text.len() < 300 && !text.contains('\u{1b}'), "{text}");
    }
}
