//! Settings: shown, changed, their history, brought back.

use super::cluster::parse_setting;
use super::error::CliError;
use super::output::{Output, counted, duration, or_dash, table};
use crate::client::Client;
use crate::node::handle::settings::{
    AppliedRow, DifferenceRow, RollbackRequest, Settings, SettingsHistory, SettingsRequest, VersionRow,
};
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

/// How long it is waited for that all members that can be heard have applied a change.
const SPREAD_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum SettingsCommand {
    /// Show the settings in force, and which members have them
    Show,
    /// Change settings on all members, all or none, while they run
    #[command(after_help = "Examples:\n  \
        kith settings set replication_factor=3 write_level=quorum\n  \
        kith settings set write_level=default                      # what it is when nobody sets it\n  \
        kith settings set --collection sessions default_ttl=30m    # of this collection only\n  \
        kith settings set max_value_bytes=4MiB --dry-run           # only show what would change\n\n\
        Collections may have default_ttl, write_level and read_level of their own; `default` gives them the\n\
        cluster's back.")]
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
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(client: &Client, command: &SettingsCommand, output: Output) -> Result<(), CliError> {
    match command {
        SettingsCommand::Show => show(&client.settings().await?, output),
        SettingsCommand::Set(args) => {
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
    let copies = |row: &DifferenceRow| row.collection.is_none() && row.name == "replication_factor";
    if !dry_run && differences.iter().any(copies) {
        output.note("copies are made or given up one at a time; `kith status` shows how far that is");
    }
    Ok(())
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
            set.map(|(entry, value)| vec![row.collection.clone(), entry.name.clone(), value])
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
