//! The log of changes, from which the settings in force follow.
//!
//! A change is one record of [`crate::model::key::SETTINGS`] under [`CHANGE_PREFIX`] and its version: so it spreads
//! whole, and the change is its own place in history. Records under a setting's plain name are the settings with which
//! the cluster was created, before all changes.
//!
//! Invariants: every member that has the same records computes the same settings, in whatever order they came; changes
//! apply in the order of their timestamps, so of two that were made at the same time and name the same the later one
//! holds whole; a change that holds a value which this member can't read takes no effect here in any part, and
//! [`Applied::refused`] says so; what is not kept any more ([`Log::surplus`]) has no effect on any version that is told of.

use super::collection::{
    COLLECTION_DEFINITIONS, CollectionDefinition, IN_FORCE_PREFIX, check_name, in_force,
};
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
/// Bytes of the latest changes that are kept so: as many as all of [`KEPT_CHANGES`] have that people write, so that only
/// going back again and again between settings of many collections makes the history shorter. All that are kept are told
/// to a member that joins in one message.
pub const KEPT_BYTES: usize = KEPT_CHANGES * MAX_CHANGE_BYTES;
/// Bytes of a change that people write.
pub const MAX_CHANGE_BYTES: usize = 8 << 10;
/// Bytes of a change that goes back, which can't be made in parts: it may have to take the settings of
/// [`super::collection::MAX_COLLECTIONS`] collections and to give as many others theirs.
pub const MAX_ROLLBACK_BYTES: usize = 128 << 10;
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
    /// Bytes under which it is stored.
    pub bytes: usize,
}

/// All that the records say, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    created: BTreeMap<String, (Timestamp, String)>,
    /// The replication factors in force of collections. Kith moves them, so they are no part of history.
    factors: BTreeMap<String, u8>,
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
    /// The settings themselves. While changes are taken, as these say; at the end, within the bounds between settings.
    pub settings: Settings,
    /// Where they come from.
    pub applied: Applied,
}

/// Which changes have effect on this member, and which have not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The version of the last change among them; `None` if there was none.
    pub version: Option<String>,
    /// 64 bits over all that the log holds, whichever version of kith reads it.
    pub log: u64,
    /// When each setting was set that was.
    pub set_at: BTreeMap<String, Timestamp>,
    /// When the replication factor of each collection was set or taken back that ever was.
    pub factors_set_at: BTreeMap<String, Timestamp>,
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

    /// Every name in it, with the collection that it is about, if it is about one; and whether it gives a value.
    fn names(&self) -> impl Iterator<Item = ((&str, &str), bool)> {
        let of_collections = self.collections.iter().flat_map(|(collection, values)| {
            values.iter().map(move |(name, value)| ((collection.as_str(), name.as_str()), value.is_some()))
        });
        let of_cluster = self.settings.iter().map(|(name, value)| (("", name.as_str()), value.is_some()));
        of_cluster.chain(of_collections)
    }

    /// What brings back other settings, all of them: also those that are the same now, for another member may be
    /// changing them.
    #[must_use]
    pub fn back(now: &Settings, target: &Settings, version: &str) -> Self {
        let of_cluster = DEFINITIONS.iter().filter(|known| !known.managed);
        let collections: BTreeSet<&String> =
            now.collections.keys().chain(target.collections.keys()).collect();
        let of_collection = |collection: &str| {
            let text = |known: &CollectionDefinition| target.of(collection).and_then(|own| known.text(own));
            COLLECTION_DEFINITIONS.iter().map(|known| (known.name.to_owned(), text(known))).collect()
        };
        Self {
            settings: of_cluster.map(|known| (known.name.to_owned(), Some(known.text(target)))).collect(),
            collections: collections.into_iter().map(|name| (name.clone(), of_collection(name))).collect(),
            back_to: Some(version.to_owned()),
            ..Self::default()
        }
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
                let version = version.to_owned();
                log.entries.push(Entry { version, timestamp, change, bytes: value.len() });
            } else if let Ok(value) = std::str::from_utf8(value) {
                if let Some((collection, copies)) = in_force(key, value) {
                    log.factors.insert(collection, copies);
                    continue;
                }
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
        in_force.settings.clamp();
        in_force.applied.log = self.digest();
        in_force
    }

    /// When the last change was made; zero without any.
    #[must_use]
    pub fn last_time(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.timestamp.time)
    }

    fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("kith 2026 log of settings");
        // Versions that know of no factors of collections take those in force for settings like any other.
        let factors = self.factors.iter();
        let factors = factors.map(|(of, copies)| (format!("{IN_FORCE_PREFIX}{of}"), copies.to_string()));
        let created = self.created.iter().map(|(name, (_, value))| (name.clone(), value.clone()));
        for (name, value) in created.chain(factors).collect::<BTreeMap<String, String>>() {
            hasher.update(name.as_bytes()).update(b"=").update(value.as_bytes()).update(b"\n");
        }
        for entry in &self.entries {
            hasher.update(entry.version.as_bytes()).update(b"\n");
        }
        let head = hasher.finalize().as_bytes().first_chunk().copied();
        u64::from_le_bytes(head.unwrap_or_default())
    }

    /// How many of the first changes are no versions any more that one can go back to: those before the latest
    /// [`KEPT_CHANGES`], or before the latest that have [`KEPT_BYTES`] together. Of some only the effect is kept, and what
    /// came between them may be gone.
    fn forgotten(&self) -> usize {
        let mut bytes = 0;
        let latest = self.entries.iter().rev().take(KEPT_CHANGES);
        let kept = latest.take_while(|entry| {
            bytes += entry.bytes;
            bytes <= KEPT_BYTES
        });
        self.entries.len().saturating_sub(kept.count())
    }

    /// What it came to after a version; `None` if there is no such version (any more).
    #[must_use]
    pub fn at(&self, version: &str) -> Option<Settings> {
        let mut in_force = self.when_created();
        let taken = match version {
            CREATED => 0,
            version => {
                let at = self.entries.iter().position(|entry| entry.version == version)?;
                (at >= self.forgotten()).then_some(at + 1)?
            }
        };
        for entry in self.entries.iter().take(taken) {
            in_force.take(entry);
        }
        in_force.settings.clamp();
        Some(in_force.settings)
    }

    /// Each version that one can go back to with what it changed, oldest first. The first is how the cluster was created.
    #[must_use]
    pub fn history(&self) -> Vec<Past> {
        let mut in_force = self.when_created();
        let timestamp = self.created.values().map(|(timestamp, _)| *timestamp).min().unwrap_or_default();
        let created =
            Entry { version: CREATED.to_owned(), timestamp, change: Ok(Change::default()), bytes: 0 };
        let clamped = |in_force: &InForce| {
            let mut settings = in_force.settings.clone();
            settings.clamp();
            settings
        };
        let first = differences(&Settings::default(), &clamped(&in_force));
        let mut history = vec![Past { entry: created, differences: first, refused: None }];
        let (forgotten, told) = self.entries.split_at_checked(self.forgotten()).unwrap_or_default();
        for entry in forgotten {
            in_force.take(entry);
        }
        let mut now = clamped(&in_force);
        for entry in told {
            let refused = in_force.applied.refused.len();
            in_force.take(entry);
            let before = std::mem::replace(&mut now, clamped(&in_force));
            history.push(Past {
                entry: entry.clone(),
                differences: differences(&before, &now),
                refused: in_force.applied.refused.get(refused).map(|refused| refused.reason.clone()),
            });
        }
        history
    }

    /// The versions that are not kept any more: forgotten, and without effect on any that is not,
    /// because other forgotten ones come after them, or because they take back what nothing gave that is still kept.
    #[must_use]
    pub fn surplus(&self) -> Vec<String> {
        let refused = self.in_force().applied.refused;
        let old = self.forgotten();
        let takes_effect = |entry: &&Entry| refused.iter().all(|refused| refused.version != entry.version);
        let (mut overridden, mut surplus, mut kept) = (BTreeSet::new(), Vec::new(), Vec::new());
        for entry in self.entries.iter().take(old).rev().filter(takes_effect) {
            let Ok(change) = &entry.change else { continue };
            if change.names().all(|(name, _)| overridden.contains(&name)) {
                surplus.push(entry.version.clone());
            } else {
                kept.push((entry, change));
            }
            overridden.extend(change.names().map(|(name, _)| name));
        }
        // What was found to be surplus just now is still there, and must be gone before what takes it back goes.
        let mut given: BTreeSet<(&str, &str)> = self.created.keys().map(|name| ("", name.as_str())).collect();
        let gone = self.entries.iter().take(old).filter(|entry| surplus.contains(&entry.version));
        given.extend(
            gone.filter_map(|entry| entry.change.as_ref().ok()).flat_map(Change::names).map(|(name, _)| name),
        );
        for (entry, change) in kept.into_iter().rev() {
            if change.names().all(|(name, is_given)| !is_given && !given.contains(&name)) {
                surplus.push(entry.version.clone());
            }
            given.extend(change.names().filter(|(_, is_given)| *is_given).map(|(name, _)| name));
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
        let mut settings = Settings::from_entries(entries);
        settings.factors_in_force.clone_from(&self.factors);
        InForce { settings, applied }
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
            Ok(((settings, unknown), change)) => {
                self.settings = settings;
                self.applied.unknown.extend(unknown);
                self.applied.version = Some(entry.version.clone());
                let named = change.settings.keys().map(|name| (name.clone(), entry.timestamp));
                self.applied.set_at.extend(named);
                let factors = change.collections.iter();
                let factors = factors.filter(|(_, values)| values.contains_key("replication_factor"));
                let factors = factors.map(|(collection, _)| (collection.clone(), entry.timestamp));
                self.applied.factors_set_at.extend(factors);
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
    use super::super::collection::{MAX_COLLECTIONS, MAX_FACTORS};
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

    /// As many collections as may have settings, with the longest names and values.
    fn of_many_collections(initial: char) -> Change {
        let longest = [
            ("default_ttl", Some("3162239999999ms")),
            ("read_level", Some("available")),
            ("write_level", Some("available")),
        ];
        let own = |number: usize| (format!("{initial}{number:0>63}"), values(&longest));
        Change { collections: (0..MAX_COLLECTIONS).map(own).collect(), ..Change::default() }
    }

    fn default_settings_after(change: &Change) -> Settings {
        Settings::default().check_change(change).unwrap().1
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
            (1u8..7, any::<bool>())
                .prop_map(move |(copies, set)| ("replication_factor", maybe(copies.to_string(), set))),
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

    /// What is left when everybody has dropped what is not kept any more.
    fn without_surplus(records: &[Stored]) -> Vec<Stored> {
        let key = |version: String| format!("{CHANGE_PREFIX}{version}").into_bytes();
        let gone: BTreeSet<Vec<u8>> = log(records).surplus().into_iter().map(key).collect();
        records.iter().filter(|(key, ..)| !gone.contains(key)).cloned().collect()
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
            let kept = log(&without_surplus(&without_surplus(&history)));
            prop_assert_eq!(kept.in_force().settings, whole.in_force().settings);
            let told: Vec<String> = kept.history().into_iter().map(|past| past.entry.version).collect();
            prop_assert_eq!(told.len(), KEPT_CHANGES + 1);
            for version in &told {
                prop_assert_eq!(kept.at(version), whole.at(version));
            }
            prop_assert_eq!(kept.at("v0"), None);
            prop_assert!(kept.entries().len() <= KEPT_CHANGES + 9, "{} are kept", kept.entries().len());
            prop_assert_eq!(kept.surplus(), Vec::<String>::new());
        }

        #[test]
        fn going_back_brings_back_all_of_a_version(history in any_history(8), to in 0usize..8) {
            let before = log(&history);
            let version = format!("v{to}");
            let target = before.at(&version).unwrap();
            let back = Change::back(&before.in_force().settings, &target, &version);
            let mut records = history;
            records.push(stored("back", 1_000, &back));
            prop_assert_eq!(log(&records).in_force().settings, target);
        }
    }

    #[test]
    fn going_back_fits_into_one_change_whatever_was_changed() {
        let [before, after] = ['a', 'b'].map(|initial| default_settings_after(&of_many_collections(initial)));
        let back = Change {
            by: "x".repeat(64),
            member: "x".repeat(64),
            ..Change::back(&before, &after, "0123456789")
        };
        let bytes = back.to_bytes().len();
        assert!(bytes > 8 * MAX_CHANGE_BYTES && bytes < MAX_ROLLBACK_BYTES - 2 * MAX_CHANGE_BYTES, "{bytes}");
    }

    #[test]
    fn large_changes_make_the_history_shorter_and_what_it_tells_can_be_brought_back() {
        let sides = ['a', 'b'].map(|initial| default_settings_after(&of_many_collections(initial)));
        let mut records = vec![stored("v0", 10, &of_many_collections('a'))];
        for at in 1..30usize {
            let change = Change::back(&sides[(at - 1) % 2], &sides[at % 2], CREATED);
            records.push(stored(&format!("v{at}"), 10 + at as u64, &change));
        }
        let whole = log(&records);
        for version in whole.surplus() {
            records.retain(|(key, ..)| *key != format!("{CHANGE_PREFIX}{version}").into_bytes());
        }
        let kept = log(&records);
        assert_eq!(kept.in_force().settings, whole.in_force().settings);
        let told = kept.history();
        assert!(told.len() > 5 && told.len() < 15, "{} are told", told.len());
        assert!(kept.entries().len() <= told.len(), "one before them has what still has effect");
        assert!(told.iter().map(|past| past.entry.bytes).sum::<usize>() <= KEPT_BYTES);
        assert_eq!(told.last().unwrap().entry.version, "v29");
        for past in told.iter().skip(1) {
            let at: usize = past.entry.version.trim_start_matches('v').parse().unwrap();
            assert_eq!(kept.at(&past.entry.version).as_ref(), Some(&sides[at % 2]));
            assert_eq!(past.differences.len(), 6 * MAX_COLLECTIONS);
        }
        assert_eq!(kept.at("v1"), None);
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
    fn a_collection_has_the_factor_that_was_asked_for_last_or_the_clusters() {
        let set = of_collection("a", &[("replication_factor", Some("5"))]);
        let back = of_collection("a", &[("replication_factor", None)]);
        let mut records = vec![created("replication_factor", "2"), stored("1", 10, &set)];
        let in_force = log(&records).in_force();
        let settings = &in_force.settings;
        assert_eq!((settings.replication_factor_of("a"), settings.replication_factor_of("b")), (5, 2));
        assert_eq!(settings.unplaced().collect::<Vec<_>>(), ["a"]);
        assert_eq!(in_force.applied.factors_set_at["a"], at(10));
        // kith places it by itself: that is no change of settings, and is not taken back.
        records.push(created("in_force/a", "2"));
        let digest = settings.digest();
        let settings = log(&records).in_force().settings;
        assert_eq!((settings.unplaced().count(), settings.factors_in_force["a"]), (0, 2));
        assert_ne!(settings.digest(), digest);
        assert_eq!(log(&records).in_force().applied.unknown, BTreeSet::new());
        records.push(stored("2", 11, &back));
        let InForce { settings, applied } = log(&records).in_force();
        assert_eq!((settings.replication_factor_of("a"), settings.factors_in_force["a"]), (2, 2));
        assert_eq!((settings.unplaced().count(), applied.factors_set_at["a"]), (0, at(11)));
        assert_eq!(log(&records).at(CREATED).unwrap().factors_in_force.len(), 1);
    }

    #[test]
    fn the_digest_is_that_of_a_version_to_which_factors_in_force_are_unknown_settings() {
        let records =
            [created("in_force/a", "2"), created("hint_bytes", "64MiB"), created("write_level", "one")];
        let mut known = log(&records);
        // That version keeps them by their names.
        let factors = std::mem::take(&mut known.factors);
        assert_eq!(factors.len(), 1);
        known.created.insert("in_force/a".to_owned(), (Timestamp::ZERO, "2".to_owned()));
        assert_eq!(known.digest(), log(&records).digest());
        assert_ne!(log(&records[1..]).digest(), log(&records).digest());
    }

    #[test]
    fn factors_in_force_that_can_not_be_are_no_ones() {
        let records = [
            created("in_force/a", "0"),
            created("in_force/b", "many"),
            created("in_force/_system_roster", "3"),
            created("in_force/no way", "3"),
            created("in_force/c", "99"),
        ];
        let settings = log(&records).in_force().settings;
        let expected: Vec<(&str, u8)> = vec![("a", 1), ("c", 7)];
        let found = settings.factors_in_force.iter().map(|(name, copies)| (name.as_str(), *copies));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_more_collections_have_a_factor_than_there_is_room_for() {
        let name = |number: usize| format!("c{number:02}");
        let mut wanted = Change::default();
        for number in 0..MAX_FACTORS {
            wanted
                .collections
                .extend(of_collection(&name(number), &[("replication_factor", Some("2"))]).collections);
        }
        let (_, full) = Settings::default().check_change(&wanted).unwrap();
        let one_more = of_collection("more", &[("replication_factor", Some("2"))]);
        assert_eq!(
            full.check_change(&one_more).unwrap_err(),
            [SettingError::TooManyFactors { wanted: MAX_FACTORS + 1, most: MAX_FACTORS }]
        );
        // What has had one counts for ever, also where nothing is wanted of it any more.
        let placed: Vec<Stored> =
            (0..MAX_FACTORS).map(|number| created(&format!("in_force/{}", name(number)), "2")).collect();
        let settings = log(&placed).in_force().settings;
        assert_eq!(
            settings.check_change(&one_more).unwrap_err(),
            [SettingError::TooManyFactors { wanted: MAX_FACTORS + 1, most: MAX_FACTORS }]
        );
        let known = of_collection(&name(0), &[("replication_factor", Some("4"))]);
        assert!(settings.check_change(&known).is_ok());
        // Two sides of a cut may have asked for more together: the same ones are left out everywhere.
        let mut both = vec![stored("1", 10, &wanted), stored("2", 11, &one_more)];
        assert_eq!(log(&both).in_force().settings.unplaced().count(), MAX_FACTORS);
        both.extend(placed);
        both.push(created("in_force/more", "2"));
        let mut settings = log(&both).in_force().settings;
        settings.fit(8);
        assert_eq!((settings.factors_in_force.len(), settings.unplaced().count()), (MAX_FACTORS, 0));
        assert!(!settings.factors_in_force.contains_key("more"));
    }

    #[test]
    fn the_more_partitions_a_cluster_has_the_fewer_collections_have_a_factor() {
        let factor = |name: &str| of_collection(name, &[("replication_factor", Some("2"))]);
        let records = [created("in_force/b", "2"), created("in_force/a", "3")];
        let mut settings = log(&records).in_force().settings;
        settings.fit(11);
        assert!(settings.check_change(&factor("c")).is_ok(), "there is room for a third");
        settings.fit(12);
        assert_eq!(settings.factors_in_force, BTreeMap::from([("a".to_owned(), 3)]));
        assert!(settings.check_change(&factor("a")).is_ok());
        let refused = settings.check_change(&factor("c")).unwrap_err();
        assert_eq!(refused, [SettingError::TooManyFactors { wanted: 2, most: 1 }]);
        assert!(refused[0].to_string().contains("1 may in a cluster of so many partitions"));
    }

    #[test]
    fn two_changes_that_are_each_right_can_not_break_a_bound_together() {
        let records = [
            stored("1", 10, &of_cluster(&[("hint_bytes", Some("2MiB"))])),
            stored("2", 11, &of_cluster(&[("max_value_bytes", Some("8MiB"))])),
        ];
        let settings = log(&records).in_force().settings;
        assert_eq!(settings.hint_bytes, 16 << 20);
        // What was asked for holds again once it may.
        let [hints, values] = records;
        let smaller = stored("3", 12, &of_cluster(&[("max_value_bytes", Some("1MiB"))]));
        let settings = log(&[hints, values, smaller]).in_force().settings;
        assert_eq!(settings.hint_bytes, 2 << 20);
    }

    #[test]
    fn a_log_in_which_all_is_taken_back_again_stays_small() {
        let mut records = vec![created("write_level", "quorum")];
        for number in 0..300 {
            let name = format!("job{number}");
            for (half, ttl) in [Some("1h"), None].into_iter().enumerate() {
                let version = format!("{number}-{half}");
                let change = of_collection(&name, &[("default_ttl", ttl)]);
                records.push(stored(&version, 10 + 2 * number + half as u64, &change));
                records = without_surplus(&records);
                assert!(records.len() <= KEPT_CHANGES + 4, "{}", records.len());
            }
        }
    }

    #[test]
    fn going_back_holds_whole_also_beside_a_change_that_it_did_not_know() {
        let before = log(&[created("write_level", "quorum")]);
        let now = before.in_force().settings;
        let back = Change::back(&now, &now, CREATED);
        let elsewhere = of_cluster(&[("read_level", Some("all"))]);
        let both =
            log(&[created("write_level", "quorum"), stored("1", 10, &elsewhere), stored("2", 11, &back)]);
        assert_eq!(both.in_force().settings, now);
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
