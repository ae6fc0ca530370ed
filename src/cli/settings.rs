//! Settings: shown, changed, their history, brought back.

use super::cluster::parse_setting;
use super::error::CliError;
use super::output::{Output, counted, duration, or_dash, table};
use crate::client::Client;
use crate::model::settings::REPLICATION_FACTOR_IN_FORCE;
use crate::node::handle::settings::{
    AppliedRow, CollectionRow, DifferenceRow, RollbackRequest, Settings, SettingsHistory, SettingsRequest,
    VersionRow,
};
use clap::{Args, Subcommand};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

/// How long it is waited for that all members that can be heard have applied a change.
const SPREAD_WITHIN: Duration = Duration::from_secs(3);
/// The setting that tells how many members hold each record.
const COPIES: &str = "replication_factor";
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a member is asked which collections it has records of.
const ASK_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
pub(super) enum SettingsCommand {
    /// Show the settings in force, and which members have them
    Show,
    /// Change settings on all members, all or none, while they run
    #[command(after_help = "Examples:\n  \
        kith settings set replication_factor=3 write_level=quorum\n  \
        kith settings set write_level=default                      # what it is when nobody sets it\n  \
        kith settings set --collection sessions default_ttl=30m    # of this collection only\n  \
        kith settings set --collection orders --new write_level=quorum   # of one that is to come\n  \
        kith settings set max_value_bytes=4MiB --dry-run           # only show what would change\n\n\
        Collections may have replication_factor, default_ttl, write_level and read_level of their own; `default`\n\
        gives them the cluster's back.")]
    Set(SetArgs),
    /// Show every change of the settings that is kept, the newest first
    History,
    /// Bring all settings back to what they were after a version
    #[command(after_help = "Examples:\n  kith settings history\n  \
        kith settings rollback 7f3a9c21d0 --dry-run\n  \
        kith settings rollback created          # as the cluster began\n\n\
        It is a change like any other: it has a version of its own and can be taken back.")]
    Rollback {
        /// The version, as the history names it
        version: String,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// What to change
    #[arg(value_name = "NAME=VALUE", required = true, value_parser = parse_setting)]
    settings: Vec<(String, String)>,
    /// Change the settings of a collection instead of the cluster's
    #[arg(long, short)]
    collection: Option<String>,
    /// The collection may be one that has neither records nor settings yet
    #[arg(long, requires = "collection")]
    new: bool,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(client: &Client, command: &SettingsCommand, output: Output) -> Result<(), CliError> {
    match command {
        SettingsCommand::Show => show(&client.settings().await?, output),
        SettingsCommand::Set(args) => {
            if let Some(collection) = args.collection.as_deref().filter(|_| !args.new) {
                known(client, collection).await?;
            }
            let changed = client.change_settings(&request(args)?, args.dry_run).await?;
            finish(client, changed, args.dry_run, output).await
        }
        SettingsCommand::History => {
            let history = client.settings_history().await?;
            output.show(&history, || describe_history(&history))
        }
        SettingsCommand::Rollback { version, dry_run } => {
            let request = RollbackRequest { version: version.clone() };
            let changed = client.roll_back_settings(&request, *dry_run).await?;
            finish(client, changed, *dry_run, output).await
        }
    }
}

fn request(args: &SetArgs) -> Result<SettingsRequest, CliError> {
    let mut values = BTreeMap::new();
    for (name, value) in &args.settings {
        if values.insert(name.clone(), Some(value.clone())).is_some() {
            return Err(CliError::Usage(format!("`{name}` is given more than once")));
        }
    }
    Ok(match &args.collection {
        Some(collection) => SettingsRequest {
            collections: BTreeMap::from([(collection.clone(), values)]),
            ..SettingsRequest::default()
        },
        None => SettingsRequest { settings: values, ..SettingsRequest::default() },
    })
}

/// Refuses settings for a collection that nobody has heard of: its name may be mistyped, and they would wait unseen.
async fn known(client: &Client, collection: &str) -> Result<(), CliError> {
    if client.settings().await?.collections.iter().any(|row| row.collection == collection) {
        return Ok(());
    }
    let (all, silent) = client.collections_anywhere(ASK_WITHIN).await?;
    if all.names.contains(collection) || all.is_cut_off || !all.may_read_all {
        return Ok(());
    }
    let mut problem =
        format!("no member has records or settings of a collection `{collection}`, so nothing was changed");
    if !silent.is_empty() {
        let _ = write!(problem, "; {} did not tell", silent.join(", "));
    }
    problem.push_str("; if it is to come, say so with `--new`");
    Err(CliError::Failed(problem))
}

/// Shows what a change came to, once the members have it that can be heard.
async fn finish(
    client: &Client,
    mut changed: Settings,
    dry_run: bool,
    output: Output,
) -> Result<(), CliError> {
    let differences = changed.differences.take().unwrap_or_default();
    if !dry_run && !differences.is_empty() {
        let began = Instant::now();
        let lacks = |settings: &Settings| settings.members.iter().any(|member| member.applied == Some(false));
        while lacks(&changed) && began.elapsed() < SPREAD_WITHIN {
            tokio::time::sleep(LOOK_EVERY).await;
            changed = client.settings().await?;
        }
    }
    let text = || {
        let mut text = match (differences.is_empty(), dry_run) {
            (true, _) => return "nothing to change: all of it is so already".to_owned(),
            (false, true) => "this would change:\n".to_owned(),
            (false, false) => format!("changed, version {}:\n", changed.version),
        };
        text.push_str(&describe_differences(&differences));
        if !dry_run {
            text.push_str("\n\n");
            text.push_str(&describe_members(&changed.members));
        }
        text
    };
    let document = Settings { differences: Some(differences.clone()), ..changed.clone() };
    output.show(&document, text)?;
    for note in notes(&changed, &differences, dry_run) {
        output.note(&note);
    }
    Ok(())
}

/// What else a person should know of a change of copies; `settings` are those before it or behind it.
fn notes(settings: &Settings, differences: &[DifferenceRow], dry_run: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let of_copies: Vec<&DifferenceRow> = differences.iter().filter(|row| row.name == COPIES).collect();
    if !dry_run && !of_copies.is_empty() {
        let note = "copies are made or given up one at a time; `kith status` shows how far that is";
        notes.push(note.to_owned());
    }
    let own = of_copies.iter().filter_map(|row| Some((row.collection.as_deref()?, row.to.as_deref()?)));
    let own: BTreeMap<&str, &str> = own.collect();
    for (collection, _) in own.iter().filter(|(_, copies)| **copies == "1") {
        notes.push(format!(
            "with one copy each member has some of `{collection}` alone: while it is down nobody reads that, a member that would hold any of it does not finish joining, and later changes of the cluster wait"
        ));
    }
    if !own.is_empty() && settings.most_own_factors > 0 {
        let wants = |row: &CollectionRow| {
            row.entries.iter().any(|entry| entry.name == COPIES && entry.value.is_some())
        };
        let has = |row: &&CollectionRow| row.replication_factor_in_force.is_some() || wants(row);
        let mut taken: BTreeSet<&str> =
            settings.collections.iter().filter(has).map(|row| row.collection.as_str()).collect();
        taken.extend(own.keys());
        notes.push(format!(
            "{} of {} places for collections with a replication factor of their own are taken with this, for good: `default` gives none back",
            taken.len(),
            settings.most_own_factors
        ));
    }
    notes
}

fn show(settings: &Settings, output: Output) -> Result<(), CliError> {
    output.show(settings, || {
        let rows = settings.entries.iter().map(|setting| {
            let mark = if setting.value == setting.default { "" } else { " *" };
            vec![setting.name.clone(), format!("{}{mark}", setting.value), setting.description.clone()]
        });
        let mut text = table(&["SETTING", "VALUE", "MEANING"], rows);
        text.push_str("\n\n* set to another value than the default");
        let own = settings.collections.iter().flat_map(|row| {
            let set = row.entries.iter().filter_map(|entry| Some((entry, entry.value.clone()?)));
            let in_force = row.replication_factor_in_force;
            let in_force =
                in_force.map(|copies| (REPLICATION_FACTOR_IN_FORCE.to_owned(), copies.to_string()));
            let all = set.map(|(entry, value)| (entry.name.clone(), value)).chain(in_force);
            all.map(|(name, value)| vec![row.collection.clone(), name, value])
        });
        if !settings.collections.is_empty() {
            let own = table(&["COLLECTION", "SETTING", "VALUE"], own);
            let _ = write!(text, "\n\n{own}");
        }
        let _ = write!(text, "\n\nversion {}; {}", settings.version, describe_members(&settings.members));
        for refused in &settings.refused {
            let _ = write!(text, "\nthe change {} has no effect here: {}", refused.version, refused.reason);
        }
        text
    })
}

/// Who has the same in force, and who has not.
fn describe_members(members: &[AppliedRow]) -> String {
    let names = |applied: Option<bool>| -> Vec<&str> {
        members.iter().filter(|row| row.applied == applied).map(|row| row.name.as_str()).collect()
    };
    let mut text = match names(Some(true)).len() {
        all if all == members.len() => format!("applied by {}", counted(all as u64, "member", "members")),
        some => format!("applied by {some} of {}", counted(members.len() as u64, "member", "members")),
    };
    for (applied, what) in [(Some(false), "not yet by"), (None, "not heard of")] {
        let names = names(applied);
        if !names.is_empty() {
            let _ = write!(text, "; {what} {}", names.join(", "));
        }
    }
    text
}

fn describe_differences(differences: &[DifferenceRow]) -> String {
    let rows = differences.iter().map(|row| {
        let name = match &row.collection {
            Some(collection) => format!("{collection}: {}", row.name),
            None => row.name.clone(),
        };
        vec![name, or_dash(row.from.as_ref()), or_dash(row.to.as_ref())]
    });
    table(&["SETTING", "FROM", "TO"], rows)
}

fn describe_history(history: &SettingsHistory) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let rows = history.versions.iter().map(|version| {
        vec![
            version.version.clone(),
            duration(now_ms.saturating_sub(version.time_ms)),
            or_dash(version.by.as_ref()),
            or_dash(version.member.as_ref()),
            describe_version(version),
        ]
    });
    table(&["VERSION", "AGE", "TOKEN", "ASKED", "CHANGE"], rows)
}

fn describe_version(version: &VersionRow) -> String {
    let changes = version.differences.iter().map(|row| {
        let of = row.collection.as_ref().map_or_else(String::new, |collection| format!("{collection}: "));
        format!("{of}{} {} → {}", row.name, or_dash(row.from.as_ref()), or_dash(row.to.as_ref()))
    });
    let mut text = changes.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        text.push_str(if version.member.is_none() { "all defaults" } else { "changed nothing" });
    }
    if let Some(version) = &version.back_to {
        text = format!("back to {version}: {text}");
    }
    if let Some(reason) = &version.refused {
        let _ = write!(text, " (no effect here: {reason})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::handle::settings::CollectionSettingRow;

    fn row(collection: &str, wanted: Option<&str>, in_force: Option<u8>) -> CollectionRow {
        let (name, value, description) = (COPIES.to_owned(), wanted.map(str::to_owned), String::new());
        CollectionRow {
            collection: collection.to_owned(),
            entries: vec![CollectionSettingRow { name, value, inherited: None, description }],
            replication_factor_in_force: in_force,
        }
    }

    fn settings(collections: Vec<CollectionRow>) -> Settings {
        Settings {
            digest: String::new(),
            version: String::new(),
            entries: Vec::new(),
            collections,
            most_own_factors: 14,
            members: Vec::new(),
            refused: Vec::new(),
            differences: None,
        }
    }

    fn difference(collection: Option<&str>, name: &str, to: Option<&str>) -> DifferenceRow {
        let (collection, name) = (collection.map(str::to_owned), name.to_owned());
        DifferenceRow { collection, name, from: None, to: to.map(str::to_owned) }
    }

    #[test]
    fn places_for_factors_of_collections_are_told_before_one_is_taken_and_behind_it() {
        let others = vec![row("was", None, Some(3)), row("is", Some("2"), None), row("none", None, None)];
        let own = [difference(Some("c"), COPIES, Some("2"))];
        let told = notes(&settings(others.clone()), &own, true);
        assert!(told.len() == 1 && told[0].starts_with("3 of 14 places"), "{told:?}");
        let behind = [others, vec![row("c", Some("2"), None)]].concat();
        let told = notes(&settings(behind), &own, false);
        assert!(told.len() == 2 && told[1].starts_with("3 of 14 places"), "{told:?}");
        let older = Settings { most_own_factors: 0, ..settings(Vec::new()) };
        assert_eq!(notes(&older, &own, true), Vec::<String>::new());
    }

    #[test]
    fn what_one_copy_of_a_collection_means_is_told() {
        let none = settings(Vec::new());
        let one = notes(&none, &[difference(Some("c"), COPIES, Some("1"))], false);
        assert!(one.iter().any(|note| note.contains("has some of `c` alone")), "{one:?}");
        for other in [
            difference(None, COPIES, Some("1")),
            difference(Some("c"), COPIES, None),
            difference(Some("c"), "default_ttl", Some("1")),
        ] {
            let told = notes(&none, &[other], true);
            assert_eq!(told, Vec::<String>::new());
        }
    }
}
