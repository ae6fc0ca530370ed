//! Settings: shown, changed, brought back.
//!
//! A change is checked as a whole against what this member knows, and written as one record, so it spreads whole
//! ([`crate::model::settings::log`]). Between checking and writing nothing is awaited: of two changes at one member the
//! second is checked against the first, though it be in the same turn. Of two that were made at members which did not
//! know of each other's, the later one holds whole, and of the earlier one what the later does not name.

use super::changes::{check_copies, check_versions, write_confirmed};
use super::core::{Core, Shared};
use super::handle::ControlError;
use super::handle::settings::{
    AppliedRow, CollectionRow, CollectionSettingRow, Control, DifferenceRow, RefusedRow, RollbackRequest,
    SettingRow, Settings, SettingsHistory, SettingsRequest, VersionRow,
};
use super::{access::Caller, membership};
use crate::engine::operation::Change as Write;
use crate::engine::{Engine, NOBODY};
use crate::model::KeyRef;
use crate::model::key::SETTINGS;
use crate::model::roster::RosterMember;
use crate::model::settings::collection::{COLLECTION_DEFINITIONS, max_factors};
use crate::model::settings::log::{
    CHANGE_PREFIX, CREATED, Change, Difference, MAX_CHANGE_BYTES, MAX_ROLLBACK_BYTES, Past, differences,
};
use crate::model::settings::{DEFINITIONS, SettingError, Settings as InForce};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Random digits that name a version: short enough to be typed, and two of a cluster's hundreds don't meet.
const VERSION_DIGITS: usize = 10;

/// Answers a question about settings, or begins to.
pub(super) fn answer(shared: &Rc<Shared>, control: Control) {
    let shared = Rc::clone(shared);
    // A reply that nobody waits for any more is no matter.
    match control {
        Control::Show { reply } => _ = reply.send(show(&shared, None)),
        Control::History { reply } => _ = reply.send(history(&shared)),
        Control::Change { request, by, dry_run, reply } => {
            tokio::task::spawn_local(async move {
                _ = reply.send(change(&shared, request, &by, dry_run).await);
            });
        }
        Control::Rollback { request, by, dry_run, reply } => {
            tokio::task::spawn_local(async move {
                _ = reply.send(roll_back(&shared, &request, &by, dry_run).await);
            });
        }
    }
}

async fn change(
    shared: &Shared,
    request: SettingsRequest,
    by: &Caller,
    dry_run: bool,
) -> Result<Settings, ControlError> {
    let SettingsRequest { settings, collections } = request;
    if settings.is_empty() && collections.values().all(std::collections::BTreeMap::is_empty) {
        return Err(ControlError::InvalidSettings("no setting is named; write NAME=VALUE".to_owned()));
    }
    carry_out(shared, Change { settings, collections, ..Change::default() }, by, dry_run).await
}

async fn roll_back(
    shared: &Shared,
    request: &RollbackRequest,
    by: &Caller,
    dry_run: bool,
) -> Result<Settings, ControlError> {
    membership::check_records(shared)?;
    let change = shared.with(|core| {
        let target = core.engine.settings_log().at(&request.version)?;
        Some(Change::back(core.engine.latest_settings(), &target, &request.version))
    });
    let change = change.ok_or_else(|| ControlError::UnknownVersion(request.version.clone()))?;
    carry_out(shared, change, by, dry_run).await
}

/// Checks a change and makes it, unless it is no change or shall only be looked at.
async fn carry_out(
    shared: &Shared,
    wanted: Change,
    by: &Caller,
    dry_run: bool,
) -> Result<Settings, ControlError> {
    membership::check_records(shared)?;
    let (change, differences) = shared.with(|core| {
        let settings = core.engine.latest_settings();
        let (change, after) = settings.check_change(&wanted).map_err(|errors| invalid(&errors))?;
        let differences = differences(settings, &after);
        check_copies(&core.engine, &after)?;
        check_versions(&core.engine, &shared.view.borrow().protocols, &after)?;
        let by = by.name().unwrap_or_default().to_owned();
        let bytes = Change { by, member: shared.config.name.clone(), ..change }.to_bytes();
        check_bytes(&wanted, bytes.len())?;
        Ok::<_, ControlError>((bytes, differences))
    })?;
    if !dry_run && !differences.is_empty() {
        let changed: Vec<String> = differences.iter().map(describe).collect();
        tracing::info!(changed = changed.join(", "), by = by.name().unwrap_or("-"), "settings changed");
        write_confirmed(shared, &[(SETTINGS, key_of(&new_version()), change)]).await?;
        shared.with(forget_oldest);
    }
    show(shared, Some(differences.into_iter().map(difference).collect()))
}

fn check_bytes(change: &Change, bytes: usize) -> Result<(), ControlError> {
    let (most, what_to_do) = if change.back_to.is_some() {
        (MAX_ROLLBACK_BYTES, "take the settings of some collections back first, with NAME=default")
    } else {
        (MAX_CHANGE_BYTES, "make several changes of it")
    };
    if bytes <= most {
        return Ok(());
    }
    let text = format!("the change has {bytes} bytes, and {most} may be changed at once; {what_to_do}");
    Err(ControlError::InvalidSettings(text))
}

fn new_version() -> String {
    let mut version = uuid::Uuid::new_v4().simple().to_string();
    version.truncate(VERSION_DIGITS);
    version
}

fn key_of(version: &str) -> Vec<u8> {
    format!("{CHANGE_PREFIX}{version}").into_bytes()
}

/// Drops the oldest changes, which have no effect any more.
fn forget_oldest(core: &mut Core) {
    for version in core.engine.settings_log().surplus() {
        if let Ok(key) = KeyRef::new(SETTINGS, &key_of(&version)) {
            core.engine.write_system(NOBODY, key, Write::Delete);
        }
    }
}

fn invalid(errors: &[SettingError]) -> ControlError {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    ControlError::InvalidSettings(all.join("; "))
}

fn describe(difference: &Difference) -> String {
    let Difference { collection, name, from, to } = difference;
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let of = collection.as_ref().map_or_else(String::new, |collection| format!("{collection}: "));
    format!("{of}{name} {} to {}", or_none(from), or_none(to))
}

fn difference(difference: Difference) -> DifferenceRow {
    let Difference { collection, name, from, to } = difference;
    DifferenceRow { collection, name: name.to_owned(), from, to }
}

fn show(shared: &Shared, differences: Option<Vec<DifferenceRow>>) -> Result<Settings, ControlError> {
    membership::check_records(shared)?;
    // What was changed just now is in force when the answer says so.
    shared.with(|core| _ = core.engine.latest_settings());
    let core = shared.core.borrow();
    let (settings, applied) = (core.engine.settings(), core.engine.settings_applied());
    let entries = DEFINITIONS.iter().map(|known| SettingRow {
        name: known.name.to_owned(),
        value: known.text(settings),
        default: known.default.to_owned(),
        timestamp: applied.set_at.get(known.name).map(ToString::to_string),
        description: known.description.to_owned(),
        managed: known.managed,
    });
    let refused = applied.refused.iter();
    let most = max_factors(core.engine.placement().layout().partition_bits());
    Ok(Settings {
        digest: format!("{:016x}", applied.log),
        version: version(&core.engine),
        entries: entries.collect(),
        collections: collections(settings),
        most_own_factors: u32::try_from(most).unwrap_or(u32::MAX),
        members: members(shared, &core),
        refused: refused
            .map(|refused| RefusedRow { version: refused.version.clone(), reason: refused.reason.clone() })
            .collect(),
        differences,
    })
}

/// What collections have of their own, and which factor is in force for those that ever had one.
fn collections(settings: &InForce) -> Vec<CollectionRow> {
    let names: BTreeSet<&String> =
        settings.collections.keys().chain(settings.factors_in_force.keys()).collect();
    let row = |collection: &String| {
        let own = settings.of(collection).cloned().unwrap_or_default();
        let entries = COLLECTION_DEFINITIONS.iter().map(|known| CollectionSettingRow {
            name: known.name.to_owned(),
            value: known.text(&own),
            inherited: known.inherited(settings),
            description: known.description.to_owned(),
        });
        CollectionRow {
            collection: collection.clone(),
            entries: entries.collect(),
            replication_factor_in_force: settings.factors_in_force.get(collection).copied(),
        }
    };
    names.into_iter().map(row).collect()
}

/// The last change that has effect on this member.
pub(super) fn version(engine: &Engine) -> String {
    engine.settings_applied().version.clone().unwrap_or_else(|| CREATED.to_owned())
}

/// What each member has in force: this one by itself, the others as gossip tells.
fn members(shared: &Shared, core: &Core) -> Vec<AppliedRow> {
    let (engine, view) = (&core.engine, shared.view.borrow());
    let log = engine.settings_applied().log;
    let row = |(member, known): (_, &RosterMember)| {
        let name = known.entry.name.clone();
        if member == engine.identity().member {
            let refused = u32::try_from(engine.settings_applied().refused.len()).unwrap_or(u32::MAX);
            return AppliedRow { name, applied: Some(true), version: Some(version(engine)), refused };
        }
        let facts = view.seen.members.get(&member).and_then(|seen| seen.facts.as_ref());
        let heard = facts.filter(|_| super::control::alive(&view, member) == Some(true));
        AppliedRow {
            name,
            applied: heard.map(|facts| facts.settings_digest == log),
            version: heard.map(|facts| facts.settings_version.clone()).filter(|version| !version.is_empty()),
            refused: heard.map_or(0, |facts| facts.settings_refused),
        }
    };
    engine.roster().members().map(row).collect()
}

fn history(shared: &Shared) -> Result<SettingsHistory, ControlError> {
    membership::check_records(shared)?;
    let history = shared.with(|core| core.engine.settings_log().history());
    let row = |past: Past| {
        let Past { entry, differences, refused } = past;
        let change = entry.change.unwrap_or_default();
        let told = |text: String| (!text.is_empty()).then_some(text);
        VersionRow {
            version: entry.version,
            time_ms: entry.timestamp.wall_ms(),
            timestamp: entry.timestamp.to_string(),
            by: told(change.by),
            member: told(change.member),
            back_to: change.back_to,
            differences: differences.into_iter().map(difference).collect(),
            refused,
        }
    };
    Ok(SettingsHistory { versions: history.into_iter().rev().map(row).collect() })
}

/// What of the settings' log has no effect here, for whoever looks after this member.
pub(super) fn warnings(core: &Core) -> impl Iterator<Item = String> {
    let applied = core.engine.settings_applied();
    let refused = applied.refused.iter().map(|refused| {
        format!("the change {} of the settings has no effect here: {}", refused.version, refused.reason)
    });
    let unknown = (!applied.unknown.is_empty()).then(|| {
        let names: Vec<String> = applied.unknown.iter().map(|name| format!("`{name}`")).collect();
        format!("this version of kith does not know the settings {}; upgrade this member", names.join(", "))
    });
    refused.chain(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_without_settings_is_told_while_a_factor_of_its_own_is_in_force() {
        let mut settings = InForce::default();
        settings.factors_in_force.insert("was".to_owned(), 2);
        let change = serde_json::from_str(r#"{"collections": {"has": {"write_level": "all"}}}"#).unwrap();
        (_, settings) = settings.check_change(&change).unwrap();
        let rows = collections(&settings);
        let told = rows.iter().map(|row| {
            let values = row.entries.iter().filter_map(|entry| entry.value.as_deref());
            (row.collection.as_str(), values.collect::<Vec<_>>(), row.replication_factor_in_force)
        });
        assert_eq!(told.collect::<Vec<_>>(), [("has", vec!["all"], None), ("was", vec![], Some(2))]);
    }
}
