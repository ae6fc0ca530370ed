//! `kith backup` and `kith restore`: a whole cluster in one file, and a new cluster out of it.
//!
//! A backup is no moment: each key is in it as it was at some time while the backup ran, so what was acknowledged before
//! it began, and not changed since, is in it. It holds the records of all collections with the ends of their lives, and the
//! settings; not the secret, not the tokens, not the members.
//!
//! A restore reads the whole file before it changes anything: one that is cut off, altered or foreign is refused.

mod format;
mod restore;

use super::error::CliError;
use super::output::{Output, counted};
use super::progress;
use super::sink::Sink;
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

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file; it has its name only when it is whole. `-` writes to standard output
    file: PathBuf,
}

/// `kith backup`
pub(super) async fn backup(client: &Client, args: &BackupArgs, output: Output) -> Result<(), CliError> {
    let collections = collections(client, output).await?;
    let settings = client.settings().await?;
    let cluster = client.cluster().await?;
    let header = Header {
        kith_backup: format::VERSION,
        cluster: cluster.name,
        cluster_id: cluster.id,
        began_ms: now_ms(),
        kith: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let progress = progress::of_count("records", output);
    let to_stdout = args.file.as_os_str() == "-";
    let failed = |error| CliError::io(format!("can't write {}", args.file.display()), error);
    let mut sink = if to_stdout { None } else { Some(Sink::create(&args.file).map_err(failed)?) };
    let into: Box<dyn Write + '_> = match &mut sink {
        Some(sink) => Box::new(sink),
        None => Box::new(io::stdout()),
    };
    let mut writer = Writer::begin(into, &header, &stored_settings(&settings)).map_err(failed)?;
    let written = tokio::select! {
        written = write_all(client, &collections, &mut writer, &progress) => written?,
        () = super::shutdown() => Err(io::ErrorKind::Interrupted.into()),
    };
    let records = written.and_then(|()| writer.finish(now_ms()));
    progress.finish_and_clear();
    let finished = records.and_then(|records| sink.map_or(Ok(()), Sink::finish).map(|()| records));
    let records = finished.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => CliError::Failed("interrupted; there is no backup".to_owned()),
        _ => failed(error),
    })?;
    if to_stdout {
        return Ok(());
    }
    output.show(&json!({ "records": records, "collections": collections.len(), "file": args.file }), || {
        let of = counted(collections.len() as u64, "collection", "collections");
        format!("{} of {of} backed up to {}", counted(records, "record", "records"), args.file.display())
    })
}

/// All collections of the cluster; if they can't be known for sure, why not.
async fn collections(client: &Client, output: Output) -> Result<Vec<String>, CliError> {
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
    for member in silent {
        // What it holds others hold as well, unless it is the only one.
        output.warn(&format!("{member}; collections of which only it has records are left out"));
    }
    Ok(all.names.into_iter().collect())
}

async fn write_all(
    client: &Client,
    collections: &[String],
    writer: &mut Writer<'_>,
    progress: &ProgressBar,
) -> Result<io::Result<()>, CliError> {
    for collection in collections {
        let query = ListingQuery { limit: PAGE, ..ListingQuery::default() };
        let mut items = client.scan(collection, query);
        while let Some(item) = items.next().await.transpose()? {
            let ttl_ms = item.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            let expires_ms = ttl_ms.map(|ttl_ms| now_ms().saturating_add(ttl_ms));
            let value = item.value.unwrap_or_default();
            if let Err(error) = writer.record(&Stored::new(collection, &item.key, &value, expires_ms)) {
                return Ok(Err(error));
            }
            progress.inc(1);
        }
    }
    Ok(Ok(()))
}

/// What differs from the defaults, as a change would name it.
fn stored_settings(settings: &Settings) -> StoredSettings {
    let own = |row: &crate::node::handle::settings::SettingRow| row.value != row.default;
    let cluster = settings.entries.iter().filter(|row| own(row));
    let of_collections = settings.collections.iter().map(|row| {
        let values = row.entries.iter().filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?)));
        (row.collection.clone(), values.collect::<BTreeMap<_, _>>())
    });
    StoredSettings {
        settings: cluster.map(|row| (row.name.clone(), row.value.clone())).collect(),
        collections: of_collections.collect(),
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
