//! `kith sync`: files that are kept equal to keys, for programs that know nothing of kith.
//!
//! States: *filling*, from a reset to the end of the current state, when files are written but none removed; then
//! *following*, when each change is one file. A command is run when nothing changed for a moment ([`hook`]), once for all
//! that changed before, and never twice at the same time.
//!
//! Invariants: a file is replaced whole or not at all; only files that were made here are removed, also such as an
//! earlier run made ([`mirror`]); a command that is told of a change finds it in the files.

mod hook;
mod mirror;

use super::error::CliError;
use super::output::{Output, counted, printable};
use super::{CollectionArg, argument_bytes, shutdown};
use crate::client::{Client, WatchEvent};
use clap::Args;
use hook::Hook;
use mirror::{Mirror, MirrorError, Removed};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// The pause after which files are tried again that could not be written.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// Only keys that begin with this; files are named by what follows it, and `/` makes directories
    #[arg(long, default_value = "")]
    prefix: OsString,
    /// The directory of the files; made if there is none
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Run this by `sh -c` after files changed; KITH_SYNC_DIR and KITH_SYNC_CHANGED tell where and which
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// End when the files are equal to the keys as they are now
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    collection: CollectionArg,
}

/// How a round of watching ended.
enum End {
    /// It was told to end, or all was done.
    Done,
    /// Files could not be written; it is tried again.
    Again(MirrorError),
}

pub(super) async fn run(client: &Client, args: &SyncArgs, output: Output) -> Result<(), CliError> {
    let what = |error: MirrorError| CliError::Failed(format!("{}: {error}", args.dir.display()));
    let mut mirror = Mirror::open(&args.dir).map_err(what)?;
    let mut hook = Hook::new(args.exec.clone(), mirror.directory());
    let stopped = shutdown();
    tokio::pin!(stopped);
    loop {
        let round = Round { client, args, output, mirror: &mut mirror, hook: &mut hook };
        let ended = tokio::select! {
            ended = round.run() => ended?,
            () = &mut stopped => return Ok(()),
        };
        match ended {
            End::Done => return Ok(()),
            End::Again(error) if args.once => return Err(what(error)),
            End::Again(error) => {
                output.warn(&format!("{error}; it is tried again in {} s", AGAIN_AFTER.as_secs()));
                tokio::select! {
                    () = tokio::time::sleep(AGAIN_AFTER) => {}
                    () = &mut stopped => return Ok(()),
                }
            }
        }
    }
}

/// From a reset on, until files can't be written or all is done.
struct Round<'a> {
    client: &'a Client,
    args: &'a SyncArgs,
    output: Output,
    mirror: &'a mut Mirror,
    hook: &'a mut Hook,
}

impl Round<'_> {
    async fn run(mut self) -> Result<End, CliError> {
        let prefix = argument_bytes(&self.args.prefix);
        let mut events = self.client.watch(&self.args.collection.collection, &prefix, true);
        let mut filling = true;
        loop {
            let due = self.hook.due_at().filter(|_| !filling);
            let event = tokio::select! {
                biased;
                ended = self.hook.ended() => {
                    self.tell_hook(&ended?)?;
                    continue;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.hook.start()?;
                    continue;
                }
                event = events.next() => event.transpose()?,
            };
            let Some(event) = event else { return Ok(End::Done) };
            let done = match event {
                WatchEvent::Reset { .. } => {
                    filling = true;
                    self.mirror.begin();
                    Ok(())
                }
                WatchEvent::Put(item) => {
                    let name = item.key.strip_prefix(&prefix[..]).unwrap_or(&item.key);
                    self.put(name, &item.value.unwrap_or_default())
                }
                WatchEvent::Delete { key, .. } => {
                    let name = key.strip_prefix(&prefix[..]).unwrap_or(&key);
                    self.mirror.delete(name).and_then(|removed| self.removed(removed.into_iter().collect()))
                }
                WatchEvent::Synced => {
                    filling = false;
                    self.filled()
                }
                WatchEvent::Interrupted { reason } => {
                    self.output
                        .note(&format!("the connection is lost and made again, files stay ({reason})"));
                    Ok(())
                }
            };
            match done {
                Ok(()) => {}
                Err(error) => return Ok(End::Again(error)),
            }
            if self.args.once && !filling {
                return self.finish().await;
            }
        }
    }

    /// Runs the command, if anything changed, to its end.
    async fn finish(self) -> Result<End, CliError> {
        if self.hook.due_at().is_some() {
            self.hook.start()?;
            let ended = self.hook.ended().await?;
            self.tell_hook(&ended)?;
            if !ended.success() {
                return Err(CliError::Failed(format!("the command failed: {ended}")));
            }
        }
        Ok(End::Done)
    }

    fn put(&mut self, name: &[u8], value: &[u8]) -> Result<(), MirrorError> {
        match self.mirror.put(name, value) {
            Ok(Some(path)) => {
                self.tell("written", &path.display().to_string());
                self.hook.changed(path);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) if error.is_about_name() => {
                self.output.warn(&format!("the key `{}` has no file: {error}", printable(name)));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn removed(&mut self, removed: Vec<Removed>) -> Result<(), MirrorError> {
        for path in removed {
            self.tell("removed", &path.display().to_string());
            self.hook.changed(path);
        }
        Ok(())
    }

    /// The current state was given: what is not in it goes.
    fn filled(&mut self) -> Result<(), MirrorError> {
        let gone = self.mirror.finish()?;
        self.removed(gone)?;
        let files = counted(self.mirror.len() as u64, "file", "files");
        self.output.note(&format!("{} is equal to the keys: {files}", self.args.dir.display()));
        Ok(())
    }

    fn tell(&self, what: &str, path: &str) {
        // Whoever reads this may be gone; the files are what counts.
        let _ = if self.output.json {
            self.output.document(&json!({ what: path }))
        } else {
            self.output.line(&format!("{what} {path}"))
        };
    }

    fn tell_hook(&self, ended: &std::process::ExitStatus) -> Result<(), CliError> {
        if !ended.success() {
            self.output.warn(&format!("the command failed: {ended}"));
        }
        if self.output.json {
            return self.output.document(&json!({ "ran": ended.code() }));
        }
        Ok(())
    }
}
