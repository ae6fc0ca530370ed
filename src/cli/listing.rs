//! Many keys: scan, export, watch.

use super::cluster::is_gone;
use super::error::CliError;
use super::output::{Output, counted, printable};
use super::sink::{Manner, Sink, unwritten};
use super::{CollectionArg, argument_bytes, progress};
use crate::client::{Client, Item, Items, ListingQuery, WatchEvent};
use crate::model::key::DEFAULT;
use crate::model::record::LASTING_MS;
use crate::node::handle::documents::{Entry, Ttl, Verb};
use crate::node::handle::status::Status;
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

/// Keys in one page of a scan or export.
const PAGE: usize = 1_000;
/// Keys that a scan shows when nobody says how many.
const SHOWN: usize = 100;

#[derive(Debug, Args)]
pub(super) struct ScanArgs {
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: OsString,
    /// Only keys from this one on
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,
    /// Only keys before this one
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
    /// The last key first
    #[arg(long)]
    reverse: bool,
    /// Keys at most
    #[arg(long, default_value_t = SHOWN, value_parser = parse_limit)]
    limit: usize,
    /// Keys only, without values
    #[arg(long)]
    keys: bool,
    #[command(flatten)]
    collection: CollectionArg,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The file to write; `-` is standard output [default: -]
    file: Option<PathBuf>,
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: OsString,
    #[command(flatten)]
    collection: CollectionArg,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: OsString,
    /// Keys only, without values
    #[arg(long)]
    keys: bool,
    /// End once the current state was shown
    #[arg(long)]
    until_synced: bool,
    #[command(flatten)]
    collection: CollectionArg,
}

fn parse_limit(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|limit| *limit > 0)
        .ok_or_else(|| "this is not a whole number above 0".to_owned())
}

/// `kith scan`
pub(super) async fn scan(client: &Client, args: &ScanArgs, output: Output) -> Result<(), CliError> {
    let query = ListingQuery {
        start: args.start.as_ref().map(argument_bytes).unwrap_or_default(),
        end: args.end.as_ref().map(argument_bytes),
        reverse: args.reverse,
        values: !args.keys,
        // One more tells whether there are more.
        limit: args.limit.saturating_add(1).min(PAGE),
        ..ListingQuery::with_prefix(argument_bytes(&args.prefix))
    };
    let mut items = client.scan(&args.collection.collection, query);
    let mut shown = 0;
    while let Some(item) = items.next().await.transpose()? {
        if shown == args.limit {
            output.note("there are more keys; --limit shows more of them");
            break;
        }
        shown += 1;
        if output.json { output.document(&entry_of(&item))? } else { output.line(&line_of(&item))? }
    }
    Ok(())
}

/// A record in a line for people.
fn line_of(item: &Item) -> String {
    let value = item.value.as_ref().map_or_else(String::new, |value| format!("\t{}", printable(value)));
    format!("{}{value}", printable(&item.key))
}

/// A record as listings, exports and watches give it to programs.
fn entry_of(item: &Item) -> Entry {
    let entry = match &item.value {
        Some(value) => Entry::put(DEFAULT, &item.key, value),
        None => Entry { op: None, ..Entry::about(Verb::Put, DEFAULT, &item.key) },
    };
    let ttl = item.ttl.map(|ttl| Ttl::of_ms(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
    Entry { ttl, timestamp: Some(item.timestamp.to_string()), ..entry }
}

/// `kith export`
pub(super) async fn export(
    client: &Client,
    addresses: usize,
    args: &ExportArgs,
    output: Output,
) -> Result<(), CliError> {
    let collection = &args.collection.collection;
    let mut query = ListingQuery { limit: PAGE, ..ListingQuery::with_prefix(argument_bytes(&args.prefix)) };
    // Of several addresses those are asked whose members serve.
    if addresses == 1 {
        let Status { name, state, .. } = client.status().await?;
        if is_gone(state) {
            output.warn(&format!(
                "`{name}` is in its cluster no more ({state}); this is what it itself holds, and others may hold newer"
            ));
            query.held = true;
        }
    }
    let mut items = client.scan(collection, query);
    let Some(file) = args.file.as_ref().filter(|file| file.as_os_str() != "-") else {
        // Lines and a bar on the same terminal would spoil each other.
        let hidden = Output::is_terminal();
        let progress = if hidden { ProgressBar::hidden() } else { progress::of_count("records", output) };
        let mut sink = BufWriter::new(io::stdout());
        let written = write_records(&mut items, collection, &mut sink, &progress).await?;
        written.map_err(|error| unwritten("standard output", error))?;
        progress.finish_and_clear();
        return Ok(());
    };
    let progress = progress::of_count("records", output);
    let failed = |error| unwritten(&file.display().to_string(), error);
    let mut sink = Sink::create(file, Manner { mode: 0o666, replaces: true }).map_err(failed)?;
    let written = tokio::select! {
        written = write_records(&mut items, collection, &mut sink, &progress) => written?,
        _ = tokio::signal::ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
    };
    progress.finish_and_clear();
    written.and_then(|()| sink.finish()).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => {
            CliError::Failed(format!("interrupted; {} is as it was", file.display()))
        }
        _ => failed(error),
    })?;
    let count = progress.position();
    output.show(&json!({ "exported": count, "file": file }), || {
        format!("{} exported to {}", counted(count, "record", "records"), file.display())
    })
}

/// Writes all that comes, and tells what the sink says to it.
async fn write_records(
    items: &mut Items<Item>,
    collection: &str,
    sink: &mut impl Write,
    progress: &ProgressBar,
) -> Result<io::Result<()>, CliError> {
    while let Some(item) = items.next().await.transpose()? {
        let line = serde_json::to_string(&exported(&item, collection));
        let line = line.map_err(|error| CliError::Failed(format!("can't write JSON: {error}")))?;
        if let Err(error) = writeln!(sink, "{line}") {
            return Ok(Err(error));
        }
        progress.inc(1);
    }
    Ok(sink.flush())
}

/// A record as an export has it.
fn exported(item: &Item, collection: &str) -> Entry {
    // What a file says it holds must not depend on where it is read.
    let collection = (collection != DEFAULT).then(|| collection.to_owned());
    let entry = entry_of(item);
    // Where it is imported values may end that are stored without saying how long they live.
    let ttl = entry.ttl.or_else(|| Some(Ttl::of_ms(LASTING_MS)));
    Entry { collection, timestamp: None, ttl, ..entry }
}

/// An event of a watch for programs.
#[derive(Debug, Serialize)]
struct Told {
    event: &'static str,
    #[serde(flatten)]
    entry: Option<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Told {
    const fn new(event: &'static str) -> Self {
        Self { event, entry: None, expired: None, reason: None }
    }

    fn of(event: &WatchEvent) -> Option<Self> {
        Some(match event {
            WatchEvent::Reset { reason } => Self { reason: Some(reason.clone()), ..Self::new("reset") },
            WatchEvent::Put(item) => Self { entry: Some(entry_of(item)), ..Self::new("put") },
            WatchEvent::Delete { key, timestamp, expired } => {
                let about = Entry { op: None, ..Entry::about(Verb::Delete, DEFAULT, key) };
                let entry = Some(Entry { timestamp: Some(timestamp.to_string()), ..about });
                Self { entry, expired: Some(*expired), ..Self::new("delete") }
            }
            WatchEvent::Synced => Self::new("synced"),
            WatchEvent::Interrupted { reason } => {
                Self { reason: Some(reason.clone()), ..Self::new("interrupted") }
            }
        })
    }
}

/// `kith watch`
pub(super) async fn watch(client: &Client, args: &WatchArgs, output: Output) -> Result<(), CliError> {
    let prefix = argument_bytes(&args.prefix);
    let mut events = client.watch(&args.collection.collection, &prefix, !args.keys);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let event = tokio::select! {
            event = events.next() => event.transpose()?,
            _ = &mut interrupted => return Ok(()),
        };
        let Some(event) = event else { return Ok(()) };
        if !output.json {
            show_event(&event, args.until_synced, output)?;
        } else if let Some(told) = Told::of(&event) {
            output.document(&told)?;
        }
        if args.until_synced && event == WatchEvent::Synced {
            return Ok(());
        }
    }
}

/// An event for people: what happens to keys are results, all else is told beside them. `ends`: no changes follow.
fn show_event(event: &WatchEvent, ends: bool, output: Output) -> Result<(), CliError> {
    match event {
        WatchEvent::Put(item) => output.line(&format!("{}     {}", output.good("put"), line_of(item))),
        WatchEvent::Delete { key, expired, .. } => {
            let what = if *expired { "expired" } else { "delete " };
            output.line(&format!("{} {}", output.bad(what), printable(key)))
        }
        WatchEvent::Reset { reason } => {
            output.note(&format!("-- the current state follows ({reason})"));
            Ok(())
        }
        WatchEvent::Synced => {
            let more = if ends { "" } else { "; changes follow, Ctrl-C ends it" };
            output.note(&format!("-- this was the current state{more}"));
            Ok(())
        }
        WatchEvent::Interrupted { reason } => {
            output.note(&format!("-- the connection is lost and made again ({reason})"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_of_an_export_names_all_that_an_import_elsewhere_would_take_otherwise() {
        let line = |collection: &str, key: &'static [u8], value: &'static [u8], ttl: Option<Duration>| {
            let timestamp = "0000000000000009-0000000000000001".parse().unwrap();
            let item = Item { key: key.into(), value: Some(value.into()), timestamp, ttl };
            serde_json::to_string(&exported(&item, collection)).unwrap()
        };
        // As docs/FORMATS.md has them.
        let lasting = line(DEFAULT, b"greeting", b"hello", None);
        assert_eq!(lasting, r#"{"key":"greeting","value":"hello","ttl":"none"}"#);
        let hour = Some(Duration::from_secs(3_600));
        let image = line("images", b"logo", b"\xff\xd8\xff\xe0", hour);
        assert_eq!(
            image,
            r#"{"collection":"images","key":"logo","value_base64":"/9j/4A==","ttl":"3600000ms"}"#
        );
    }
}
