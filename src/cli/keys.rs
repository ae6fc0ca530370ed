//! Single keys: get, put, delete, increment.

use super::error::CliError;
use super::output::{Output, counted, printable};
use super::{CollectionArg, LevelArg, argument_bytes, parse_timestamp};
use crate::client::{Client, ClientError, Condition, Timestamp, WriteOptions, Written};
use crate::model::limits::MAX_VALUE_BYTES;
use crate::node::handle::documents::{Ending, Entry, Outcome, Ttl, TtlError, parse_life};
use bytes::Bytes;
use clap::Args;
use std::ffi::OsString;
use std::io::{self, Read};
use std::time::Duration;

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
    /// How long it lives: seconds, or a number with ms, s, m, h or d; none: for ever [default: the collection's
    /// default_ttl, else for ever]
    #[arg(long, value_parser = parse_life_arg, allow_negative_numbers = true)]
    ttl: Option<u64>,
    /// Only if nothing is there
    #[arg(long, conflicts_with = "if_timestamp")]
    if_absent: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The key
    key: OsString,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(super) struct IncrementArgs {
    /// The key
    key: OsString,
    /// What is added, also a negative number
    #[arg(default_value_t = 1, allow_negative_numbers = true, value_parser = parse_delta)]
    delta: i64,
    #[command(flatten)]
    collection: CollectionArg,
    #[command(flatten)]
    level: LevelArg,
}

/// What puts and deletes have in common.
#[derive(Debug, Args)]
struct ChangeArgs {
    /// Only if what is there has this timestamp, as `get --json` or an earlier answer gave it
    #[arg(long, value_name = "TIMESTAMP", value_parser = parse_timestamp)]
    if_timestamp: Option<Timestamp>,
    /// A timestamp that the change must exceed, as an earlier answer gave it
    #[arg(long, value_name = "TIMESTAMP", value_parser = parse_timestamp)]
    after: Option<Timestamp>,
    #[command(flatten)]
    collection: CollectionArg,
    #[command(flatten)]
    level: LevelArg,
}

impl ChangeArgs {
    fn options(&self) -> WriteOptions {
        WriteOptions {
            level: self.level.level,
            after: self.after,
            condition: self.if_timestamp.map_or(Condition::Always, Condition::Stamp),
            ttl: None,
        }
    }
}

fn parse_life_arg(text: &str) -> Result<u64, TtlError> {
    parse_life(text)
}

fn parse_delta(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "this is not a whole number of 64 bits")
}

/// `kith get`
pub(super) async fn get(client: &Client, args: &GetArgs, output: Output) -> Result<(), CliError> {
    let (collection, key) = (&args.collection.collection, argument_bytes(&args.key));
    let Some(found) = client.get(collection, &key, args.level.level).await? else {
        let (key, collection) = (printable(&key), collection.clone());
        return Err(CliError::NotFound { key, collection });
    };
    if output.json {
        let timestamp = Some(found.timestamp.to_string());
        let ttl = found.ttl.map(|ttl| Ttl::of_ms(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
        return output.document(&Entry { timestamp, ttl, ..Entry::put(collection, &key, &found.value) });
    }
    output.raw(&found.value)?;
    // The prompt of a terminal begins on a line of its own; a pipe gets the value and nothing else.
    if Output::is_terminal() && found.value.last() != Some(&b'\n') { output.raw(b"\n") } else { Ok(()) }
}

/// `kith put`
pub(super) async fn put(client: &Client, args: &PutArgs, output: Output) -> Result<(), CliError> {
    let key = argument_bytes(&args.key);
    let value = if args.value == "-" { read_value()? } else { argument_bytes(&args.value) };
    let mut options = WriteOptions { ttl: args.ttl.map(Duration::from_millis), ..args.change.options() };
    if args.if_absent {
        options.condition = Condition::Absent;
    }
    let collection = &args.change.collection.collection;
    show_change(client.put(collection, &key, Bytes::from(value), &options).await, output)
}

/// `kith delete`
pub(super) async fn delete(client: &Client, args: &DeleteArgs, output: Output) -> Result<(), CliError> {
    let collection = &args.change.collection.collection;
    let deleted = client.delete(collection, &argument_bytes(&args.key), &args.change.options()).await;
    show_change(deleted, output)
}

/// `kith increment`
pub(super) async fn increment(client: &Client, args: &IncrementArgs, output: Output) -> Result<(), CliError> {
    let options = WriteOptions { level: args.level.level, ..WriteOptions::default() };
    let key = argument_bytes(&args.key);
    let counted = client.increment(&args.collection.collection, &key, args.delta, &options).await?;
    let outcome = Outcome {
        number: Some(counted.number),
        copies: Some(counted.copies),
        ..Outcome::new(Ending::Stored)
    };
    output.show(&outcome, || counted.number.to_string())
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

fn show_change(changed: Result<Written, ClientError>, output: Output) -> Result<(), CliError> {
    let written = match changed {
        // For programs it is an outcome like others, which the exit code tells apart.
        Err(error @ ClientError::ConditionFailed { present }) if output.json => {
            let timestamp = present.map(|present| present.to_string());
            output.document(&Outcome { timestamp, ..Outcome::new(Ending::ConditionFailed) })?;
            return Err(error.into());
        }
        other => other?,
    };
    let Written { timestamp, copies, superseded } = written;
    let ending = if superseded { Ending::Superseded } else { Ending::Stored };
    let document =
        Outcome { timestamp: Some(timestamp.to_string()), copies: Some(copies), ..Outcome::new(ending) };
    output.show(&document, || {
        if superseded {
            return format!("superseded: a newer record is there, of {timestamp}");
        }
        format!("done: durable on {}, {timestamp}", counted(copies, "owner", "owners"))
    })
}
