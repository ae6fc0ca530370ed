//! `kith backup` and `kith restore`: a whole cluster in one file, and a new cluster out of it.
//!
//! A backup is no moment: each key is in it as it was at some time while the backup ran, so what was acknowledged before
//! it began, and not changed since, is in it. A member that was cut off serves what it holds as soon as it is back, and
//! a collection may be known to few; so all members must hold the same before anything is listed. If they don't come to that, there
//! is no backup, unless who asks for it takes what there is; then the file says what may be missing.
//!
//! It holds the records of all collections with the ends of their lives, and the settings; not the secret, not the tokens,
//! not the members.
//!
//! A restore reads the whole file before it changes anything: one that is cut off, altered or foreign is refused.

mod format;
mod restore;

use super::convergence::until_equal;
use super::error::CliError;
use super::output::{Output, counted, duration};
use super::progress;
use super::sink::{Manner, Sink, unwritten};
use crate::client::{Client, ListingQuery};
use crate::node::handle::settings::Settings;
use clap::Args;
use format::{Header, Settings as StoredSettings, Stored, Writer};
use indicatif::ProgressBar;
pub(super) use restore::{RestoreArgs, restore};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// How long each member has to tell its collections.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// Records of a page.
const PAGE: usize = 1_000;
/// Names of settings that say how many members hold a record begin so.
const COPIES: &str = "replication_factor";

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file; it has its name only when it is whole. `-` writes to standard output
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    replace: bool,
    /// How long to wait until all members hold the same, such as 30s or 5m
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = super::parse_ttl_arg)]
    timeout: u64,
    /// Back up what there is also if they don't, or don't all answer; the file says what may be missing
    #[arg(long)]
    incomplete: bool,
}

/// What is backed up.
struct Plan {
    collections: Vec<String>,
    settings: Settings,
    /// Why something may be missing.
    missing: Vec<String>,
}

/// `kith backup`
pub(super) async fn backup(client: &Client, args: &BackupArgs, output: Output) -> Result<(), CliError> {
    let to_stdout = args.file.as_os_str() == "-";
    let name = if to_stdout { "standard output".to_owned() } else { args.file.display().to_string() };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted => CliError::Failed("interrupted; there is no backup".to_owned()),
        io::ErrorKind::AlreadyExists => {
            CliError::Failed(format!("{name} is there already; --replace replaces it"))
        }
        _ => unwritten(&name, error),
    };
    if !to_stdout && !args.replace && args.file.is_file() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let began_ms = now_ms();
    let Plan { collections, settings, missing } = plan(client, args, output).await?;
    let cluster = client.cluster().await?;
    let header = Header {
        kith_backup: format::VERSION,
        cluster: cluster.name,
        cluster_id: cluster.id,
        began_ms,
        kith: env!("CARGO_PKG_VERSION").to_owned(),
        incomplete: missing.clone(),
    };
    // It holds what tokens keep from others.
    let manner = Manner { mode: 0o600, replaces: args.replace };
    let mut sink = if to_stdout { None } else { Some(Sink::create(&args.file, manner).map_err(failed)?) };
    let into: Box<dyn Write + '_> = match &mut sink {
        Some(sink) => Box::new(sink),
        None => Box::new(io::stdout()),
    };
    let progress = progress::of_count("records", output);
    let mut writer = Writer::begin(into, &header, &stored_settings(&settings)).map_err(failed)?;
    let written = tokio::select! {
        written = write_all(client, &collections, &mut writer, &progress) => written?,
        () = super::shutdown() => Err(io::ErrorKind::Interrupted.into()),
    };
    let records = written.and_then(|()| writer.finish(now_ms()));
    progress.finish_and_clear();
    let finished = records.and_then(|records| sink.map_or(Ok(()), Sink::finish).map(|()| records));
    let records = finished.map_err(failed)?;
    if to_stdout {
        return Ok(());
    }
    let document = json!({
        "records": records,
        "collections": collections.len(),
        "file": args.file,
        "incomplete": missing,
    });
    output.show(&document, || {
        let of = counted(collections.len() as u64, "collection", "collections");
        let but = if missing.is_empty() { "" } else { ", which may not be all" };
        format!("{} of {of} backed up to {name}{but}", counted(records, "record", "records"))
    })
}

/// What is to be backed up, once all of it is where it is asked for; if that can't be known for sure, why not.
async fn plan(client: &Client, args: &BackupArgs, output: Output) -> Result<Plan, CliError> {
    let mut missing = until_equal(client, Duration::from_millis(args.timeout), output).await?.obstacles;
    refuse(args, &missing)?;
    let (all, silent) = client.collections_anywhere(ASK_WITHIN).await?;
    if !all.may_read_all {
        let problem =
            "a backup takes a token with the role `read` in all collections; this one would leave some out";
        return Err(CliError::Failed(problem.to_owned()));
    }
    if all.is_cut_off {
        let problem = "the cluster has more collections than its members know by name, so a backup might leave some out; `kith export` writes one collection";
        return Err(CliError::Failed(problem.to_owned()));
    }
    let settings = client.settings().await?;
    // As many may have all records of a collection; if fewer are silent, somebody else tells of it.
    if silent.len() >= least_copies(&settings) {
        missing.extend(silent);
    }
    refuse(args, &missing)?;
    for reason in &missing {
        output.warn(&format!("the backup may not hold all that was acknowledged: {reason}"));
    }
    Ok(Plan { collections: all.names.into_iter().collect(), settings, missing })
}

/// Something that may be missing is an error, unless who asks for the backup takes what there is.
fn refuse(args: &BackupArgs, missing: &[String]) -> Result<(), CliError> {
    if missing.is_empty() || args.incomplete {
        return Ok(());
    }
    let waited = duration(args.timeout);
    let reasons: String = missing.iter().map(|reason| format!("\n  {reason}")).collect();
    Err(CliError::Failed(format!(
        "no backup was made: after {waited} it is not sure that all that was acknowledged would be in it; in the way:{reasons}\nwait longer with --timeout, or --incomplete backs up what there is and says so in the file"
    )))
}

/// The fewest members that hold any record, now or once all changes are carried out.
fn least_copies(settings: &Settings) -> usize {
    let of_cluster = settings.entries.iter().map(|row| (&row.name, Some(&row.value)));
    let of_collections = settings.collections.iter().flat_map(|collection| &collection.entries);
    let of_collections = of_collections.map(|row| (&row.name, row.value.as_ref()));
    let copies = of_cluster.chain(of_collections).filter(|(name, _)| name.starts_with(COPIES));
    let in_force = settings.collections.iter().filter_map(|row| row.replication_factor_in_force);
    let copies = copies.filter_map(|(_, value)| value?.parse().ok()).chain(in_force.map(usize::from));
    copies.min().unwrap_or(1)
}

async fn write_all(
    client: &Client,
    collections: &[String],
    writer: &mut Writer<'_>,
    progress: &ProgressBar,
) -> Result<io::Result<()>, CliError> {
    for collection in collections {
        let query = ListingQuery { limit: PAGE, ..ListingQuery::default() };
        let mut items = client.scan_timed(collection, query);
        while let Some((item, told_at)) = items.next().await.transpose()? {
            let expires_ms = end_of_life(item.ttl, told_at);
            let value = item.value.unwrap_or_default();
            if let Err(error) = writer.record(&Stored::new(collection, &item.key, &value, expires_ms)) {
                return Ok(Err(error));
            }
            progress.inc(1);
        }
    }
    Ok(Ok(()))
}

/// When what had so much of its life left at a time ends. It may be written much later than it was told: whoever reads a
/// pipe slowly keeps nothing alive.
fn end_of_life(ttl: Option<Duration>, told_at: SystemTime) -> Option<u64> {
    let ttl_ms = u64::try_from(ttl?.as_millis()).unwrap_or(u64::MAX);
    Some(ms_of(told_at).saturating_add(ttl_ms))
}

/// All that people can set, as a change would name it.
fn stored_settings(settings: &Settings) -> StoredSettings {
    let cluster = settings.entries.iter().filter(|row| !row.managed);
    let of_collections = settings.collections.iter().map(|row| {
        let values = row.entries.iter().filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?)));
        (row.collection.clone(), values.collect::<BTreeMap<_, _>>())
    });
    let of_collections = of_collections.filter(|(_, values)| !values.is_empty());
    StoredSettings {
        settings: cluster.map(|row| (row.name.clone(), row.value.clone())).collect(),
        collections: of_collections.collect(),
    }
}

fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::handle::settings::{CollectionRow, CollectionSettingRow, SettingRow};

    #[test]
    fn as_many_silent_members_as_the_fewest_copies_may_hide_a_collection() {
        let row = |name: &str, value: &str, managed| SettingRow {
            name: name.to_owned(),
            value: value.to_owned(),
            default: value.to_owned(),
            timestamp: None,
            description: String::new(),
            managed,
        };
        let own = |value: Option<&str>, in_force| CollectionRow {
            collection: "c".to_owned(),
            entries: vec![CollectionSettingRow {
                name: COPIES.to_owned(),
                value: value.map(str::to_owned),
                inherited: None,
                description: String::new(),
            }],
            replication_factor_in_force: in_force,
        };
        let mut settings = Settings {
            digest: String::new(),
            version: String::new(),
            entries: vec![
                row(COPIES, "4", false),
                row("replication_factor_in_force", "3", true),
                row("write_level", "one", false),
            ],
            collections: vec![own(None, None)],
            most_own_factors: 14,
            members: Vec::new(),
            refused: Vec::new(),
            differences: None,
        };
        assert_eq!(least_copies(&settings), 3);
        let stored = stored_settings(&settings);
        assert_eq!(stored.settings.keys().collect::<Vec<_>>(), [COPIES, "write_level"], "defaults too");
        assert!(stored.collections.is_empty(), "it has nothing of its own");
        for (wanted, in_force, least) in [(Some("2"), None, 2), (Some("4"), Some(1), 1), (None, Some(2), 2)] {
            settings.collections = vec![own(None, None), own(wanted, in_force)];
            assert_eq!(least_copies(&settings), least, "{wanted:?} {in_force:?}");
        }
    }
}
