//! The log of changes, from which the settings in force follow.
//!
//! A change is one record of [`crate::model::key::SETTINGS`] under [`CHANGE_PREFIX`] and its version: so it spreads
//! whole, and the change is its own place in history. Records under a setting's plain name are the settings with which
//! the cluster was created, before all changes.
//!
//! Invariants: every member that has the same records computes the same settings, in whatever order they came; changes
//! apply in the order of their timestamps, so of two that were made at the same time and name the same the later one
//! holds whole; a change that holds a value which this member can't read takes no effect here in any part, and
//! [`Applied::refused`] says so; what is not kept any more ([`Log::surplus`]) has no effect on any version that is.

use super::collection::{COLLECTION_DEFINITIONS, CollectionDefinition, check_name};
use super::{DEFINITIONS, Definition, SettingError, Settings};
use crate::model::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The keys of changes begin so; the version follows.
pub const CHANGE_PREFIX: &str = "change/";
/// The version before all changes, as people name it.
pub const CREATED: &str = "created";
/// Changes that are kept, whether they still matter or not.
pub const KEPT_CHANGES: usize = 100;
/// New values by name; none: the cluster's own for a collection, the default for the cluster.
pub type Values = BTreeMap<String, Option<String>>;

/// A change of settings, all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What changes for the whole cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: Values,
    /// What changes for collections.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub collections: BTreeMap<String, Values>,
    /// The version that it brings back, if it does that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<String>,
    /// The name of the token with which it was asked for; empty where none was needed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The member that was asked.
    #[serde(default)]
    pub member: String,
}

/// A change in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its version.
    pub version: String,
    /// When it was made, and by which member it was stamped.
    pub timestamp: Timestamp,
    /// What it changes; if this member can't read it at all, why.
    pub change: Result<Change, String>,
}

/// All that the records say, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    created: BTreeMap<String, (Timestamp, String)>,
    entries: Vec<Entry>,
}

/// A change that takes no effect on this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its version.
    pub version: String,
    /// Why, and what to do.
    pub reason: String,
}

/// The settings that a log comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// The settings themselves.
    pub settings: Settings,
    /// Where they come from.
    pub applied: Applied,
}

/// Which changes have effect on this member, and which have not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The version of the last change among them; `None` if there was none.
    pub version: Option<String>,
    /// When each setting was set that was.
    pub set_at: BTreeMap<String, Timestamp>,
    /// Changes without effect here; each is one that another version of kith made.
    pub refused: Vec<Refused>,
    /// Settings that this version of kith does not know.
    pub unknown: BTreeSet<String>,
}

/// What one setting was and is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The collection; `None` for the whole cluster.
    pub collection: Option<String>,
    /// The setting.
    pub name: &'static str,
    /// What it was; `None` where a collection had nothing of its own.
    pub from: Option<String>,
    /// What it is.
    pub to: Option<String>,
}

/// A place in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The change; of the first, how the cluster was created.
    pub entry: Entry,
    /// What it made of what was there before; of the first, what is not the default.
    pub differences: Vec<Difference>,
    /// Why it has no effect on this member, if it has none.
    pub refused: Option<String>,
}

impl Change {
    /// The bytes under which it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Every name in it, with the collection that it is about, if it is about one.
    fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let of_collections = self.collections.iter().flat_map(|(collection, values)| {
            values.keys().map(move |name| (collection.as_str(), name.as_str()))
        });
        self.settings.keys().map(|name| ("", name.as_str())).chain(of_collections)
    }

    /// What brings back other settings.
    #[must_use]
    pub fn back(differences: &[Difference], version: &str) -> Self {
        let mut change = Self { back_to: Some(version.to_owned()), ..Self::default() };
        for Difference { collection, name, to, .. } in differences {
            let values = match collection {
                Some(collection) => change.collections.entry(collection.clone()).or_default(),
                None => &mut change.settings,
            };
            values.insert((*name).to_owned(), to.clone());
        }
        change
    }
}

impl Log {
    /// What keys, values and timestamps of records say.
    pub fn from_records<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8], Timestamp)>) -> Self {
        let mut log = Self::default();
        for (key, value, timestamp) in records {
            let Ok(key) = std::str::from_utf8(key) else { continue };
            if let Some(version) = key.strip_prefix(CHANGE_PREFIX) {
                let change = serde_json::from_slice(value).map_err(|error| error.to_string());
                log.entries.push(Entry { version: version.to_owned(), timestamp, change });
            } else if let Ok(value) = std::str::from_utf8(value) {
                log.created.insert(key.to_owned(), (timestamp, value.to_owned()));
            }
        }
        log.entries
            .sort_by(|one, other| (one.timestamp, &one.version).cmp(&(other.timestamp, &other.version)));
        log
    }

    /// The changes, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What all of it comes to.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        let mut in_force = self.when_created();
        for entry in &self.entries {
            in_force.take(entry);
        }
        in_force
    }

    /// What it came to after a version; `None` if there is no such version (any more).
    #[must_use]
    pub fn at(&self, version: &str) -> Option<Settings> {
        let mut in_force = self.when_created();
        if version == CREATED {
            return Some(in_force.settings);
        }
        let last = self.entries.iter().position(|entry| entry.version == version)?;
        for entry in self.entries.iter().take(last + 1) {
            in_force.take(entry);
        }
        Some(in_force.settings)
    }

    /// Each version with what it changed, oldest first. The first is how the cluster was created.
    #[must_use]
    pub fn history(&self) -> Vec<Past> {
        let mut in_force = self.when_created();
        let timestamp = self.created.values().map(|(timestamp, _)| *timestamp).min().unwrap_or_default();
        let created = Entry { version: CREATED.to_owned(), timestamp, change: Ok(Change::default()) };
        let first = differences(&Settings::default(), &in_force.settings);
        let mut history = vec![Past { entry: created, differences: first, refused: None }];
        for entry in &self.entries {
            let (before, refused) = (in_force.settings.clone(), in_force.applied.refused.len());
            in_force.take(entry);
            history.push(Past {
                entry: entry.clone(),
                differences: differences(&before, &in_force.settings),
                refused: in_force.applied.refused.get(refused).map(|refused| refused.reason.clone()),
            });
        }
        history
    }

    /// The versions that are not kept any more: older than the latest [`KEPT_CHANGES`], and without effect on any of
    /// these, because other old ones come after them.
    #[must_use]
    pub fn surplus(&self) -> Vec<String> {
        let refused = self.in_force().applied.refused;
        let old = self.entries.len().saturating_sub(KEPT_CHANGES);
        let (mut overridden, mut surplus) = (BTreeSet::new(), Vec::new());
        for entry in self.entries.iter().take(old).rev() {
            let Ok(change) = &entry.change else { continue };
            if refused.iter().any(|refused| refused.version == entry.version) {
                continue;
            }
            if change.names().all(|name| overridden.contains(&name)) {
                surplus.push(entry.version.clone());
            }
            overridden.extend(change.names());
        }
        surplus
    }

    fn when_created(&self) -> InForce {
        let entries = self.created.iter().map(|(name, (_, value))| (name.as_str(), value.as_str()));
        let is_unknown = |name: &&String| Definition::find(name).is_none();
        let applied = Applied {
            set_at: self.created.iter().map(|(name, (timestamp, _))| (name.clone(), *timestamp)).collect(),
            unknown: self.created.keys().filter(is_unknown).cloned().collect(),
            ..Applied::default()
        };
        InForce { settings: Settings::from_entries(entries), applied }
    }
}

impl InForce {
    /// Takes a change over what is there, or tells why not.
    fn take(&mut self, entry: &Entry) {
        let taken = match &entry.change {
            Ok(change) => self.taken(change).map(|taken| (taken, change)),
            Err(error) => Err(format!("it can't be read: {error}")),
        };
        match taken {
            Ok(((mut settings, unknown), change)) => {
                settings.clamp();
                self.settings = settings;
                self.applied.unknown.extend(unknown);
                self.applied.version = Some(entry.version.clone());
                let named = change.settings.keys().map(|name| (name.clone(), entry.timestamp));
                self.applied.set_at.extend(named);
            }
            Err(reason) => {
                let reason = format!(
                    "{reason}; another version of kith made it, so bring all members to the newest one"
                );
                self.applied.refused.push(Refused { version: entry.version.clone(), reason });
            }
        }
    }

    /// The settings after a change, and names in it that this version does not know.
    fn taken(&self, change: &Change) -> Result<(Settings, Vec<String>), String> {
        let (mut settings, mut unknown) = (self.settings.clone(), Vec::new());
        for (name, value) in &change.settings {
            match settings.change(name, value.as_deref()) {
                Ok(_) => {}
                Err(SettingError::Unknown { name, .. }) => unknown.push(name),
                Err(error) => return Err(error.to_string()),
            }
        }
        for (collection, values) in &change.collections {
            check_name(collection).map_err(|error| error.to_string())?;
            let mut own = settings.of(collection).cloned().unwrap_or_default();
            for (name, value) in values {
                match CollectionDefinition::find(name).and_then(|known| known.set(&mut own, value.as_deref()))
                {
                    Ok(()) => {}
                    Err(SettingError::UnknownOfCollection { name, .. }) => unknown.push(name),
                    Err(error) => return Err(error.to_string()),
                }
            }
            settings.keep(collection, own);
        }
        Ok((settings, unknown))
    }
}

/// What differs between two settings, the cluster's first; what kith keeps by itself is left out.
#[must_use]
pub fn differences(before: &Settings, after: &Settings) -> Vec<Difference> {
    let mut differences = Vec::new();
    for known in DEFINITIONS.iter().filter(|known| !known.managed) {
        let (from, to) = (known.text(before), known.text(after));
        if from != to {
            differences.push(Difference {
                collection: None,
                name: known.name,
                from: Some(from),
                to: Some(to),
            });
        }
    }
    let collections: BTreeSet<&String> = before.collections.keys().chain(after.collections.keys()).collect();
    for collection in collections {
        for known in &COLLECTION_DEFINITIONS {
            let text = |settings: &Settings| settings.of(collection).and_then(|own| known.text(own));
            let (from, to) = (text(before), text(after));
            if from != to {
                let collection = Some(collection.clone());
                differences.push(Difference { collection, name: known.name, from, to });
            }
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MemberId;
    use proptest::prelude::*;

    /// One record: key, value, timestamp.
    type Stored = (Vec<u8>, Vec<u8>, Timestamp);

    const fn at(time: u64) -> Timestamp {
        Timestamp { time, member: MemberId(1) }
    }

    fn log(records: &[Stored]) -> Log {
        Log::from_records(records.iter().map(|(key, value, time)| (&key[..], &value[..], *time)))
    }

    fn created(name: &str, value: &str) -> Stored {
        (name.as_bytes().to_vec(), value.as_bytes().to_vec(), at(1))
    }

    fn stored(version: &str, time: u64, change: &Change) -> Stored {
        (format!("{CHANGE_PREFIX}{version}").into_bytes(), change.to_bytes(), at(time))
    }

    fn values(settings: &[(&str, Option<&str>)]) -> Values {
        settings.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
    }

    fn of_cluster(settings: &[(&str, Option<&str>)]) -> Change {
        Change { settings: values(settings), ..Change::default() }
    }

    fn of_collection(collection: &str, settings: &[(&str, Option<&str>)]) -> Change {
        Change {
            collections: BTreeMap::from([(collection.to_owned(), values(settings))]),
            ..Change::default()
        }
    }

    /// A change that a person could make of the default settings.
    fn any_change() -> impl Strategy<Value = Change> {
        let level = || prop::sample::select(vec!["one", "available", "quorum", "all"]);
        let maybe = |text: String, is_set: bool| is_set.then_some(text);
        let setting = prop_oneof![
            (level(), any::<bool>())
                .prop_map(move |(text, set)| ("write_level", maybe(text.to_owned(), set))),
            (level(), any::<bool>()).prop_map(move |(text, set)| ("read_level", maybe(text.to_owned(), set))),
            (50u64..5_000).prop_map(|ms| ("write_timeout", Some(format!("{ms}ms")))),
        ];
        let own = prop_oneof![
            (level(), any::<bool>())
                .prop_map(move |(text, set)| ("write_level", maybe(text.to_owned(), set))),
            (1u64..100, any::<bool>()).prop_map(move |(s, set)| ("default_ttl", maybe(format!("{s}s"), set))),
        ];
        let named = |(name, value): (&str, Option<String>)| (name.to_owned(), value);
        let settings = prop::collection::vec(setting.prop_map(named), 0..3);
        let collection = prop::sample::select(vec!["a", "b"]);
        let collections = prop::collection::vec((collection, own.prop_map(named)), 0..3);
        (settings, collections).prop_map(|(settings, collections)| {
            let mut change = Change { settings: settings.into_iter().collect(), ..Change::default() };
            for (collection, (name, value)) in collections {
                change.collections.entry(collection.to_owned()).or_default().insert(name, value);
            }
            change
        })
    }

    fn any_history(changes: usize) -> impl Strategy<Value = Vec<Stored>> {
        prop::collection::vec(any_change(), changes).prop_map(|changes| {
            let stored = |(i, change): (usize, &Change)| stored(&format!("v{i}"), 10 + i as u64, change);
            [created("write_level", "quorum")]
                .into_iter()
                .chain(changes.iter().enumerate().map(stored))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_order_in_which_records_came_is_no_matter(
            history in any_history(12),
            order in prop::collection::vec(any::<u32>(), 13),
        ) {
            let mut shuffled: Vec<_> = history.iter().cloned().zip(order).collect();
            shuffled.sort_by_key(|(_, order)| *order);
            let shuffled: Vec<Stored> = shuffled.into_iter().map(|(record, _)| record).collect();
            prop_assert_eq!(log(&shuffled), log(&history));
        }

        #[test]
        fn the_last_change_holds_whole(history in any_history(6), last in any_change()) {
            let (last, _) = Settings::default().check_change(&last).unwrap();
            let mut records = history;
            records.push(stored("last", 1_000, &last));
            let in_force = log(&records).in_force();
            prop_assert_eq!(in_force.applied.version.as_deref(), Some("last"));
            for (name, value) in &last.settings {
                let known = Definition::find(name).unwrap();
                prop_assert_eq!(known.text(&in_force.settings), value.clone().unwrap_or(known.default.to_owned()));
            }
            for (collection, values) in &last.collections {
                let own = in_force.settings.of(collection).cloned().unwrap_or_default();
                for (name, value) in values {
                    prop_assert_eq!(&CollectionDefinition::find(name).unwrap().text(&own), value);
                }
            }
        }

        #[test]
        fn what_is_not_kept_any_more_is_missed_by_no_version_that_is(
            history in any_history(KEPT_CHANGES + 25),
        ) {
            let whole = log(&history);
            let surplus: BTreeSet<String> = whole.surplus().into_iter().collect();
            let key = |version: &String| format!("{CHANGE_PREFIX}{version}").into_bytes();
            let gone: BTreeSet<Vec<u8>> = surplus.iter().map(key).collect();
            let kept: Vec<Stored> = history.into_iter().filter(|(key, ..)| !gone.contains(key)).collect();
            let kept = log(&kept);
            prop_assert_eq!(kept.in_force().settings, whole.in_force().settings);
            for entry in kept.entries().iter().rev().take(KEPT_CHANGES) {
                prop_assert_eq!(kept.at(&entry.version), whole.at(&entry.version));
            }
            prop_assert!(kept.entries().len() <= KEPT_CHANGES + 7, "{} are kept", kept.entries().len());
            prop_assert_eq!(kept.surplus(), Vec::<String>::new());
        }

        #[test]
        fn going_back_brings_back_all_of_a_version(history in any_history(8), to in 0usize..8) {
            let before = log(&history);
            let version = format!("v{to}");
            let target = before.at(&version).unwrap();
            let back = Change::back(&differences(&before.in_force().settings, &target), &version);
            let mut records = history;
            records.push(stored("back", 1_000, &back));
            prop_assert_eq!(log(&records).in_force().settings, target);
        }
    }

    #[test]
    fn a_value_that_can_not_be_read_leaves_its_whole_change_without_effect() {
        let records = [
            created("write_level", "quorum"),
            stored("first", 10, &of_cluster(&[("write_timeout", Some("2s"))])),
            stored("newer", 11, &of_cluster(&[("write_timeout", Some("3s")), ("write_level", Some("most"))])),
            stored("later", 12, &of_cluster(&[("read_level", Some("all"))])),
        ];
        let log = log(&records);
        let InForce { settings, applied } = log.in_force();
        assert_eq!((settings.write_timeout_ms, settings.write_level.as_str()), (2_000, "quorum"));
        assert_eq!(settings.read_level.as_str(), "all");
        assert_eq!(applied.version.as_deref(), Some("later"));
        let refused: Vec<&str> = applied.refused.iter().map(|refused| refused.version.as_str()).collect();
        assert_eq!(refused, ["newer"]);
        assert!(applied.refused[0].reason.contains("`write_level` can't be `most`"), "{applied:?}");
        let told: Vec<_> = log.history().into_iter().map(|past| (past.entry.version, past.refused)).collect();
        assert_eq!(told.iter().filter(|(_, refused)| refused.is_some()).count(), 1, "{told:?}");
        assert!(told[2].0 == "newer" && told[2].1.is_some(), "{told:?}");
    }

    #[test]
    fn a_change_that_is_no_change_is_told_and_the_rest_holds() {
        let mut broken = stored("broken", 10, &Change::default());
        broken.1 = b"{".to_vec();
        let fine = stored("fine", 11, &of_cluster(&[("write_timeout", Some("2s"))]));
        let InForce { settings, applied } = log(&[broken, fine]).in_force();
        assert_eq!(settings.write_timeout_ms, 2_000);
        assert_eq!((applied.refused.len(), applied.version.as_deref()), (1, Some("fine")));
    }

    #[test]
    fn names_of_a_newer_version_are_passed_over_and_told() {
        let change = of_cluster(&[("write_timeout", Some("2s")), ("from_the_future", Some("yes"))]);
        let of_a = of_collection("a", &[("default_ttl", Some("5s")), ("colour", Some("red"))]);
        let InForce { settings, applied } =
            log(&[stored("1", 10, &change), stored("2", 11, &of_a)]).in_force();
        assert_eq!(settings.write_timeout_ms, 2_000);
        assert_eq!(settings.of("a").and_then(|own| own.default_ttl_ms), Some(5_000));
        assert_eq!(applied.unknown.iter().collect::<Vec<_>>(), ["colour", "from_the_future"]);
        assert_eq!(applied.refused, []);
    }

    #[test]
    fn a_collection_has_its_own_values_until_they_are_taken_back() {
        let set = of_collection("a", &[("write_level", Some("all")), ("default_ttl", Some("90s"))]);
        let part = of_collection("a", &[("default_ttl", None)]);
        let rest = of_collection("a", &[("write_level", None)]);
        let mut records = vec![stored("1", 10, &set), stored("2", 11, &part)];
        let settings = log(&records).in_force().settings;
        assert_eq!(settings.write_level_of("a").as_str(), "all");
        assert_eq!(settings.write_level_of("b").as_str(), "available");
        assert_eq!(settings.of("a").and_then(|own| own.default_ttl_ms), None);
        let digest = settings.digest();
        records.push(stored("3", 12, &rest));
        let settings = log(&records).in_force().settings;
        assert!(settings.collections.is_empty());
        assert_ne!(settings.digest(), digest);
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn two_changes_that_are_each_right_can_not_break_a_bound_together() {
        let records = [
            stored("1", 10, &of_cluster(&[("hint_bytes", Some("2MiB"))])),
            stored("2", 11, &of_cluster(&[("max_value_bytes", Some("8MiB"))])),
        ];
        let settings = log(&records).in_force().settings;
        assert_eq!(settings.hint_bytes, 16 << 20);
    }

    #[test]
    fn all_faults_of_a_change_of_collections_are_told_at_once() {
        let mut wanted = of_collection("_system_roster", &[("write_level", Some("all"))]);
        wanted.collections.insert("no way".to_owned(), values(&[("write_level", Some("all"))]));
        let shop =
            values(&[("default_ttl", Some("0s")), ("wriet_level", Some("all")), ("read_level", Some("x"))]);
        wanted.collections.insert("shop".to_owned(), shop);
        let errors = Settings::default().check_change(&wanted).unwrap_err();
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "`_system_roster` is kith's own and has no settings; name a collection of clients",
                "`no way` can't name a collection: a collection's name has 1 to 64 characters of a-z, A-Z, 0-9, `_`, `-` and `.`",
                "`default_ttl` can't be `0s`; it must be from 1ms to 36600d",
                "`read_level` can't be `x`; use `one`, `available`, `quorum` or `all`",
                "a collection has no setting `wriet_level`; the nearest name is `write_level`",
            ]
        );
    }

    #[test]
    fn a_checked_change_is_canonical_and_takes_effect_as_checked() {
        let wanted = Change {
            settings: values(&[("write_timeout", Some("2000ms")), ("sync", Some("default"))]),
            ..of_collection("a", &[("default_ttl", Some("120s")), ("read_level", Some("default"))])
        };
        let (change, after) = Settings::default().check_change(&wanted).unwrap();
        assert_eq!(change.settings, values(&[("write_timeout", Some("2s")), ("sync", None)]));
        assert_eq!(change.collections["a"], values(&[("default_ttl", Some("2m")), ("read_level", None)]));
        assert_eq!(log(&[stored("1", 10, &change)]).in_force().settings, after);
        let texts: Vec<String> =
            differences(&Settings::default(), &after).iter().map(|row| row.name.to_owned()).collect();
        assert_eq!(texts, ["write_timeout", "default_ttl"]);
    }
}
