//! `kith restore`: the records and settings of a backup in a new cluster.

use super::format::{self, Contents, FormatError};
use super::{ASK_WITHIN, now_ms};
use crate::cli::error::CliError;
use crate::cli::import::Import;
use crate::cli::output::{Output, counted};
use crate::cli::progress;
use crate::client::{Client, ListingQuery};
use crate::node::handle::documents::Ttl;
use crate::node::handle::settings::SettingsRequest;
use clap::Args;
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Records that were read and are not sent yet.
const AHEAD: usize = 2_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// Store it over what is there, such as what an interrupted restore left
    #[arg(long)]
    force: bool,
    /// Leave the settings as they are
    #[arg(long)]
    records_only: bool,
}

/// `kith restore`
pub(in crate::cli) async fn restore(
    client: &Client,
    args: &RestoreArgs,
    output: Output,
) -> Result<(), CliError> {
    let Contents { header, settings, records } = verify(args, output).await?;
    if !args.force {
        check_empty(client).await?;
    }
    output.note(&format!(
        "{} of the cluster `{}`, whole and unaltered",
        counted(records, "record", "records"),
        header.cluster
    ));
    if !args.records_only {
        restore_settings(client, &settings, output).await?;
    }
    store_records(client, args, output).await
}

/// Reads the whole file, before anything is changed.
async fn verify(args: &RestoreArgs, output: Output) -> Result<Contents, CliError> {
    let file = open(args)?;
    let length = file.metadata().map(|there| there.len()).ok();
    let progress = progress::of_bytes(length, output);
    progress.set_message("checked");
    let shown = progress.clone();
    let read = tokio::task::spawn_blocking(move || {
        format::read(BufReader::new(shown.wrap_read(file)), |_, _| Ok(()))
    });
    let read = read.await.map_err(|error| CliError::Failed(error.to_string()))?;
    progress.finish_and_clear();
    read.map_err(|error| refused(args, &error))
}

fn open(args: &RestoreArgs) -> Result<File, CliError> {
    let failed = |source| CliError::io(format!("can't read {}", args.file.display()), source);
    let file = File::open(&args.file).map_err(failed)?;
    let is_file = file.metadata().map_err(failed)?.is_file();
    if !is_file {
        // It is read twice: to see that it is whole, and to store it.
        let problem = format!("{} is no file; a backup is restored from a file", args.file.display());
        return Err(CliError::Failed(problem));
    }
    Ok(file)
}

fn refused(args: &RestoreArgs, error: &FormatError) -> CliError {
    CliError::Failed(format!("{} is not restored: {error}; nothing was changed", args.file.display()))
}

/// A restore is for a new cluster.
async fn check_empty(client: &Client) -> Result<(), CliError> {
    let (all, silent) = client.collections_anywhere(ASK_WITHIN).await?;
    if let Some(member) = silent.first() {
        let problem = format!(
            "nothing was changed: {member}, so whether the cluster is empty is unknown; --force restores all the same"
        );
        return Err(CliError::Failed(problem));
    }
    for collection in all.names {
        let query = ListingQuery { limit: 1, values: false, ..ListingQuery::default() };
        if client.scan(&collection, query).next().await.transpose()?.is_some() {
            let problem = format!(
                "nothing was changed: the cluster has records (in the collection `{collection}`), and a restore is for a new one; --force stores the backup over what is there"
            );
            return Err(CliError::Failed(problem));
        }
    }
    Ok(())
}

/// Makes the settings what they were, but for copies that this cluster has no members for.
async fn restore_settings(
    client: &Client,
    stored: &format::Settings,
    output: Output,
) -> Result<(), CliError> {
    let some = |values: &BTreeMap<String, String>| {
        values.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect()
    };
    let mut request = SettingsRequest {
        settings: some(&stored.settings),
        collections: stored.collections.iter().map(|(name, values)| (name.clone(), some(values))).collect(),
    };
    // kith keeps it by itself.
    request.settings.remove(crate::model::settings::REPLICATION_FACTOR_IN_FORCE);
    let members = client.cluster().await?.members.len();
    let copies = request.settings.get("replication_factor").cloned().flatten();
    if let Some(copies) = copies.filter(|copies| copies.parse().is_ok_and(|copies: usize| copies > members)) {
        request.settings.remove("replication_factor");
        output.warn(&format!(
            "the backup's replication_factor is {copies}, and there are {}; it stays as it is: add members, then `kith settings set replication_factor={copies}`",
            counted(members as u64, "member", "members")
        ));
    }
    if request == SettingsRequest::default() {
        return Ok(());
    }
    let changed = client.change_settings(&request, false).await?;
    let count = changed.differences.unwrap_or_default().len();
    if count > 0 {
        output.note(&format!("{} restored", counted(count as u64, "setting", "settings")));
    }
    Ok(())
}

/// Stores all records whose time is not over.
async fn store_records(client: &Client, args: &RestoreArgs, output: Output) -> Result<(), CliError> {
    let file = open(args)?;
    let length = file.metadata().map(|there| there.len()).ok();
    let progress = progress::of_bytes(length, output);
    let (send, mut records) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking({
        let progress = progress.clone();
        move || read_again(file, &progress, &send)
    });
    let mut import = Import::new(client.clone(), None, output, progress);
    let mut over = 0u64;
    let interrupted = crate::cli::shutdown();
    tokio::pin!(interrupted);
    loop {
        let next = tokio::select! {
            next = records.recv() => next,
            () = &mut interrupted => {
                import.interrupt();
                break;
            }
        };
        let Some((number, record)) = next else { break };
        let (expires_ms, now) = (record.expires_ms, now_ms());
        if expires_ms.is_some_and(|end| end <= now) {
            over += 1;
            continue;
        }
        let mut entry = record.entry();
        entry.ttl = expires_ms.map(|end| Ttl::of_ms(end.saturating_sub(now)));
        if !import.take(number, entry).await {
            break;
        }
    }
    drop(records);
    import.finish().await;
    let read = reading.await.map_err(|error| CliError::Failed(error.to_string()))?;
    if over > 0 {
        output.note(&format!("{} left out, for their time is over", counted(over, "record", "records")));
    }
    import.conclude(&args.file.display().to_string())?;
    // It was whole a moment ago, so somebody has changed it meanwhile.
    read.map_err(|error| CliError::Failed(format!("{}: {error}; restore again", args.file.display())))
}

fn read_again(
    file: impl Read,
    progress: &ProgressBar,
    send: &mpsc::Sender<(u64, format::Stored)>,
) -> Result<(), FormatError> {
    let gone = |_| FormatError::Io(std::io::ErrorKind::Interrupted.into());
    let read = format::read(BufReader::new(progress.wrap_read(file)), |number, record| {
        send.blocking_send((number, record)).map_err(gone)
    });
    match read {
        // Nobody wants more.
        Err(FormatError::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
        other => other.map(drop),
    }
}
