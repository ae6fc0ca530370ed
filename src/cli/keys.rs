//! Keys and values: get, put, delete, scan, export.

use super::error::CliError;
use super::output::{Output, counted, printable};
use super::{CollectionArg, LevelArg, argument_bytes, parse_after, parse_ttl_arg};
use crate::client::{Client, ListingQuery, WriteOptions};
use crate::model::key::DEFAULT;
use crate::model::limits::MAX_VALUE_BYTES;
use crate::node::handle::documents::{Ending, Entry, Listing, Outcome};
use crate::node::handle::status::{State, Status};
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Keys in one page of a scan or export with values.
const PAGE: usize = 1_000;
/// Keys that a scan shows when nobody says how many.
const SHOWN: usize = 100;

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The key
    key: OsString,
    #[command(flatten)]
    collection: CollectionArg,
    #[command(flatten)]
    level: LevelArg,
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The key
    key: OsString,
    /// The value; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: OsString,
    /// How long it lives: seconds, or a number with ms, s, m, h or d [default: for ever]
    #[arg(long, value_parser = parse_ttl_arg)]
    ttl: Option<u64>,
    /// A timestamp that the change must exceed, as an earlier answer gave it
    #[arg(long, value_parser = parse_after)]
    after: Option<String>,
    #[command(flatten)]
    collection: CollectionArg,
    #[command(flatten)]
    level: LevelArg,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The key
    key: OsString,
    /// A timestamp that the change must exceed, as an earlier answer gave it
    #[arg(long, value_parser = parse_after)]
    after: Option<String>,
    #[command(flatten)]
    collection: CollectionArg,
    #[command(flatten)]
    level: LevelArg,
}

#[derive(Debug, Args)]
pub(super) struct ScanArgs {
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: OsString,
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
    /// The file to write [default: standard output]
    file: Option<PathBuf>,
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: OsString,
    #[command(flatten)]
    collection: CollectionArg,
}

fn parse_limit(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|limit| *limit > 0)
        .ok_or_else(|| "this is not a whole number above 0".to_owned())
}

/// `kith get`
pub(super) async fn get(client: &Client, args: &GetArgs, output: Output) -> Result<(), CliError> {
    let (collection, key) = (&args.collection.collection, argument_bytes(&args.key));
    let Some(found) = client.get(collection, &key, args.level.level).await? else {
        let name = printable(&key);
        return Err(CliError::Failed(format!(
            "there is no record under `{name}` in collection `{collection}`"
        )));
    };
    if output.json {
        let entry = Entry { timestamp: Some(found.timestamp), ..Entry::put(collection, &key, &found.value) };
        return output.document(&entry);
    }
    output.raw(&found.value)?;
    if Output::is_terminal() { output.raw(b"\n") } else { Ok(()) }
}

/// `kith put`
pub(super) async fn put(client: &Client, args: &PutArgs, output: Output) -> Result<(), CliError> {
    let key = argument_bytes(&args.key);
    let value = if args.value == "-" { read_value()? } else { argument_bytes(&args.value) };
    let options = WriteOptions { level: args.level.level, ttl_ms: args.ttl, after: args.after.clone() };
    let outcome = client.put(&args.collection.collection, &key, Bytes::from(value), &options).await?;
    show_change(&outcome, output)
}

/// `kith delete`
pub(super) async fn delete(client: &Client, args: &DeleteArgs, output: Output) -> Result<(), CliError> {
    let options = WriteOptions { level: args.level.level, ttl_ms: None, after: args.after.clone() };
    let outcome = client.delete(&args.collection.collection, &argument_bytes(&args.key), &options).await?;
    show_change(&outcome, output)
}

/// The whole of standard input, as far as a value may go.
fn read_value() -> Result<Vec<u8>, CliError> {
    let mut value = Vec::new();
    let mut input = io::stdin().lock().take(MAX_VALUE_BYTES as u64 + 1);
    input.read_to_end(&mut value).map_err(|source| CliError::io("can't read standard input", source))?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(CliError::Failed(format!(
            "a value has at most {MAX_VALUE_BYTES} bytes; nothing was stored"
        )));
    }
    Ok(value)
}

fn show_change(outcome: &Outcome, output: Output) -> Result<(), CliError> {
    output.show(outcome, || {
        let timestamp = outcome.timestamp.as_deref().unwrap_or_default();
        if outcome.outcome == Ending::Superseded {
            return format!("superseded: a newer record is there, of {timestamp}");
        }
        let copies = counted(outcome.copies.unwrap_or_default(), "copy", "copies");
        format!("done: {copies}, {timestamp}")
    })
}

/// `kith scan`
pub(super) async fn scan(client: &Client, args: &ScanArgs, output: Output) -> Result<(), CliError> {
    let mut pages = Pages::new(client, &args.collection.collection, &args.prefix, !args.keys);
    let mut left = args.limit;
    while left > 0
        && let Some(page) = pages.next(left.min(PAGE)).await?
    {
        left = left.saturating_sub(page.entries.len());
        for entry in page.entries {
            if output.json {
                output.document(&entry)?;
                continue;
            }
            let key = entry.key_bytes().map_err(|error| CliError::Failed(error.to_string()))?;
            let value = if args.keys { None } else { entry.value_bytes().ok() };
            let value = value.map_or_else(String::new, |value| format!("\t{}", printable(&value)));
            output.line(&format!("{}{value}", printable(&key)))?;
        }
    }
    if !pages.at_end {
        output.note("there are more keys; --limit shows more of them");
    }
    Ok(())
}

/// `kith export`
pub(super) async fn export(client: &Client, args: &ExportArgs, output: Output) -> Result<(), CliError> {
    let collection = &args.collection.collection;
    let mut pages = Pages::new(client, collection, &args.prefix, true);
    let Status { name, state, .. } = client.status().await?;
    if matches!(state, State::Left | State::Removed | State::Outdated) {
        output.note(&format!(
            "warning: `{name}` is in its cluster no more ({state}); this is what it itself holds, and others may hold newer"
        ));
        pages.query.held = true;
    }
    // Before the file is made: what can't be exported must not empty an older one.
    let mut next = pages.next(PAGE).await?;
    let sink: Box<dyn Write> = match &args.file {
        Some(file) => Box::new(std::fs::File::create(file).map_err(|error| failed_file(file, error))?),
        None => Box::new(io::stdout()),
    };
    let mut sink = BufWriter::new(sink);
    let named = args.file.clone().unwrap_or_else(|| PathBuf::from("standard output"));
    let mut count: u64 = 0;
    while let Some(page) = next {
        for entry in page.entries {
            // What a file says it holds must not depend on where it is read.
            let collection = (collection != DEFAULT).then(|| collection.clone());
            let line = serde_json::to_string(&Entry { collection, timestamp: None, ..entry });
            let line = line.map_err(|error| CliError::Failed(format!("can't write JSON: {error}")))?;
            writeln!(sink, "{line}").map_err(|error| failed_file(&named, error))?;
            count += 1;
        }
        next = pages.next(PAGE).await?;
    }
    sink.flush().map_err(|error| failed_file(&named, error))?;
    if args.file.is_none() {
        return Ok(());
    }
    output.show(&json!({ "exported": count, "file": named }), || {
        format!("{} exported to {}", counted(count, "record", "records"), named.display())
    })
}

fn failed_file(file: &Path, error: io::Error) -> CliError {
    CliError::io(format!("can't write {}", file.display()), error)
}

/// The pages of a listing, one after the other.
struct Pages<'a> {
    client: &'a Client,
    collection: &'a str,
    query: ListingQuery,
    at_end: bool,
}

impl<'a> Pages<'a> {
    fn new(client: &'a Client, collection: &'a str, prefix: &OsString, values: bool) -> Self {
        let query =
            ListingQuery { prefix: argument_bytes(prefix), after: None, limit: PAGE, values, held: false };
        Self { client, collection, query, at_end: false }
    }

    async fn next(&mut self, limit: usize) -> Result<Option<Listing>, CliError> {
        if self.at_end {
            return Ok(None);
        }
        self.query.limit = limit;
        let page = self.client.list(self.collection, &self.query).await?;
        self.query.after = page.next.clone();
        self.at_end = page.next.is_none();
        Ok(Some(page))
    }
}
