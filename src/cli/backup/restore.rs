//! `kith restore`: the records and settings of a backup in a new cluster.

use super::format::{self, Contents, FormatError, Stored};
use super::{ASK_WITHIN, COPIES, now_ms};
use crate::cli::error::CliError;
use crate::cli::import::{Import, Words};
use crate::cli::output::{Output, counted};
use crate::cli::progress;
use crate::client::{Client, ClientError, ListingQuery};
use crate::model::record::LASTING_MS;
use crate::model::settings::{REPLICATION_FACTOR_IN_FORCE, Settings};
use crate::node::handle::documents::Ttl;
use crate::node::handle::settings::SettingsRequest;
use clap::Args;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Records that were read and are not sent yet.
const AHEAD: usize = 2_000;
/// Bytes of these.
const AHEAD_BYTES: u32 = 32 << 20;
/// Bytes of settings that are changed at once: half of what members take, who store more than is asked for.
const CHANGE_BYTES: usize = 4 << 10;
/// The setting that bounds values.
const LARGEST: &str = "max_value_bytes";
const WORDS: Words = Words { what: "restore", again: "restore again with --force" };

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
    let contents = verify(args, output).await?;
    check_values(client, args, &contents).await?;
    if !args.force {
        check_empty(client).await?;
    }
    let Contents { header, settings, records, .. } = contents;
    output.note(&format!(
        "{} of the cluster `{}`, whole and unaltered",
        counted(records, "record", "records"),
        header.cluster
    ));
    for reason in &header.incomplete {
        output.warn(&format!("the backup may not hold all that was there: {reason}"));
    }
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

/// What will not be taken is better told before anything is.
async fn check_values(client: &Client, args: &RestoreArgs, contents: &Contents) -> Result<(), CliError> {
    let restored = contents.settings.settings.get(LARGEST).filter(|_| !args.records_only);
    let limit = match restored {
        Some(limit) => limit.clone(),
        None => {
            let present = client.settings().await?.entries.into_iter().find(|row| row.name == LARGEST);
            present.map(|row| row.value).unwrap_or_default()
        }
    };
    let most = Settings::from_entries(std::iter::once((LARGEST, limit.as_str()))).max_value_bytes;
    let largest = contents.largest_value as u64;
    if largest > most {
        return Err(CliError::Failed(format!(
            "nothing was changed: the backup has a value of {largest} bytes, and `{LARGEST}` would be {most}; `kith settings set {LARGEST}={largest}`, and restore with --records-only"
        )));
    }
    Ok(())
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

/// Makes the settings what they were, but for copies that this cluster has no members or no places for.
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
    request.settings.remove(REPLICATION_FACTOR_IN_FORCE);
    let members = client.cluster().await?.members.len();
    let copies = request.settings.get(COPIES).cloned().flatten();
    if let Some(copies) = copies.filter(|copies| copies.parse().is_ok_and(|copies: usize| copies > members)) {
        request.settings.remove(COPIES);
        output.warn(&format!(
            "the backup's replication_factor is {copies}, and there are {}; it stays as it is: add members, then `kith settings set replication_factor={copies}`",
            counted(members as u64, "member", "members")
        ));
    }
    for (collection, values) in &mut request.collections {
        let copies = values.get("replication_factor").cloned().flatten();
        if let Some(copies) =
            copies.filter(|copies| copies.parse().is_ok_and(|copies: usize| copies > members))
        {
            values.remove("replication_factor");
            output.warn(&format!(
                "the backup's replication_factor of {collection} is {copies}, and there are {}; it is the cluster's: add members, then `kith settings set -c {collection} replication_factor={copies}`",
                counted(members as u64, "member", "members")
            ));
        }
    }
    drop_refused_factors(client, &mut request, output).await?;
    request.collections.retain(|_, values| !values.is_empty());
    let mut count = 0;
    for piece in pieces(request) {
        let changed = client.change_settings(&piece, false).await?;
        count += changed.differences.unwrap_or_default().len();
    }
    if count > 0 {
        output.note(&format!("{} restored", counted(count as u64, "setting", "settings")));
    }
    Ok(())
}

/// Leaves out replication factors of collections that the cluster does not take: its places for them may be used up, or a
/// member may be too old. Else the restore would stop in the midst.
async fn drop_refused_factors(
    client: &Client,
    request: &mut SettingsRequest,
    output: Output,
) -> Result<(), CliError> {
    let mut taken = SettingsRequest::default();
    for (collection, values) in &mut request.collections {
        let Some(Some(copies)) = values.get(COPIES).cloned() else { continue };
        let factor = BTreeMap::from([(COPIES.to_owned(), Some(copies.clone()))]);
        taken.collections.insert(collection.clone(), factor);
        match client.change_settings(&taken, true).await {
            Ok(_) => {}
            Err(ClientError::Refused { code, message, .. }) if code == "invalid_settings" => {
                taken.collections.remove(collection);
                values.remove(COPIES);
                let why = message.strip_prefix("nothing was changed: ").unwrap_or(&message);
                output.warn(&format!(
                    "the backup's replication_factor of {collection} is {copies}, and it is the cluster's here: {why}"
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Changes that come to the same as one, none larger than members take: the cluster's own settings first, then groups
/// of collections.
fn pieces(request: SettingsRequest) -> Vec<SettingsRequest> {
    let SettingsRequest { settings, collections } = request;
    let mut pieces = Vec::new();
    if !settings.is_empty() {
        pieces.push(SettingsRequest { settings, ..SettingsRequest::default() });
    }
    let (mut group, mut bytes) = (SettingsRequest::default(), 0);
    for (collection, values) in collections.into_iter().filter(|(_, values)| !values.is_empty()) {
        let more = serde_json::to_vec(&(&collection, &values)).map_or(0, |json| json.len());
        if bytes + more > CHANGE_BYTES && bytes > 0 {
            pieces.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += more;
        group.collections.insert(collection, values);
    }
    if bytes > 0 {
        pieces.push(group);
    }
    pieces
}

/// A record that was read, and its room among those that are not sent yet.
struct Ahead {
    number: u64,
    record: Stored,
    _room: OwnedSemaphorePermit,
}

/// Stores all records whose time is not over.
async fn store_records(client: &Client, args: &RestoreArgs, output: Output) -> Result<(), CliError> {
    let file = open(args)?;
    let length = file.metadata().map(|there| there.len()).ok();
    let progress = progress::of_bytes(length, output);
    let (send, mut records) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking({
        let (progress, runtime) = (progress.clone(), Handle::current());
        move || read_again(progress.wrap_read(file), &runtime, AHEAD_BYTES, &send)
    });
    let mut import = Import::new(client.clone(), None, WORDS, output, progress);
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
        let Some(Ahead { number, record, _room }) = next else { break };
        let (expires_ms, now) = (record.expires_ms, now_ms());
        if expires_ms.is_some_and(|end| end <= now) {
            over += 1;
            continue;
        }
        let mut entry = record.entry();
        // What has no end there has none here, also where its collection gives one to what is stored.
        let ttl_ms = expires_ms.map_or(LASTING_MS, |end| end.saturating_sub(now));
        entry.ttl = Some(Ttl::of_ms(ttl_ms));
        if !import.take(number, entry).await {
            break;
        }
    }
    drop(records);
    import.finish().await?;
    let read = reading.await.map_err(|error| CliError::Failed(error.to_string()))?;
    if over > 0 {
        output.note(&format!("{} left out, for their time is over", counted(over, "record", "records")));
    }
    import.conclude(&args.file.display().to_string())?;
    // It was whole a moment ago, so somebody has changed it meanwhile.
    read.map_err(|error| CliError::Failed(format!("{}: {error}; restore again", args.file.display())))
}

/// Reads on as long as there is room for so many bytes of records; one that is larger waits until it is alone.
fn read_again(
    file: impl Read,
    runtime: &Handle,
    room: u32,
    send: &mpsc::Sender<Ahead>,
) -> Result<(), FormatError> {
    let left = Arc::new(Semaphore::new(room as usize));
    let gone = || FormatError::Io(std::io::ErrorKind::Interrupted.into());
    let read = format::read(BufReader::new(file), |number, record| {
        let bytes = u32::try_from(record.bytes()).unwrap_or(u32::MAX).min(room);
        let taken = runtime.block_on(Arc::clone(&left).acquire_many_owned(bytes));
        let ahead = Ahead { number, record, _room: taken.map_err(|_| gone())? };
        send.blocking_send(ahead).map_err(|_| gone())
    });
    match read {
        // Nobody wants more.
        Err(FormatError::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{Header, Writer};
    use super::*;
    use std::time::{Duration, Instant};

    fn backup(values: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let name = String::new;
        let (kith_backup, began_ms, incomplete) = (format::VERSION, 1, Vec::new());
        let header =
            Header { kith_backup, cluster: name(), cluster_id: name(), began_ms, kith: name(), incomplete };
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(Box::new(&mut bytes), &header, &format::Settings::default()).unwrap();
        for (number, value) in values.into_iter().enumerate() {
            writer.record(&Stored::new("c", &number.to_be_bytes(), &value, None)).unwrap();
        }
        writer.finish(2).unwrap();
        bytes
    }

    #[tokio::test]
    async fn what_is_read_ahead_has_a_bound_in_bytes() {
        const RECORDS: usize = 40;
        let (value, larger) = (vec![b'v'; 10_000], vec![b'v'; 90_000]);
        let bytes = backup(std::iter::repeat_n(value, RECORDS).chain([larger]));
        let (send, mut records) = mpsc::channel(AHEAD);
        let runtime = Handle::current();
        let reading = tokio::task::spawn_blocking(move || read_again(&bytes[..], &runtime, 50_000, &send));
        let began = Instant::now();
        while records.len() < 4 {
            assert!(began.elapsed() < Duration::from_secs(30), "{}", records.len());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut read = 0;
        while let Some(ahead) = records.recv().await {
            // With this one there is room for four.
            assert!(records.len() < 4, "{} behind {}", records.len(), ahead.number);
            read += 1;
        }
        assert_eq!(read, RECORDS + 1);
        reading.await.unwrap().unwrap();
    }

    #[test]
    fn settings_of_many_collections_are_restored_in_pieces_that_members_take() {
        let values = |name: &str| BTreeMap::from([(name.to_owned(), Some("1h".to_owned()))]);
        let collections: BTreeMap<_, _> =
            (0..256).map(|number| (format!("{number:0>64}"), values("default_ttl"))).collect();
        let request = SettingsRequest { settings: values("write_timeout"), collections };
        let pieces = pieces(request.clone());
        assert!((4..10).contains(&pieces.len()), "{}", pieces.len());
        let mut all = SettingsRequest::default();
        for piece in pieces {
            assert!(serde_json::to_vec(&piece).unwrap().len() <= CHANGE_BYTES + 100);
            assert!(
                piece.settings.is_empty() || all == SettingsRequest::default(),
                "the cluster's come first"
            );
            all.settings.extend(piece.settings);
            all.collections.extend(piece.collections);
        }
        assert_eq!(all, request);
        assert!(super::pieces(SettingsRequest::default()).is_empty());
    }
}
