//! `kith sync`: files that are kept equal to keys, for programs that know nothing of kith.
//!
//! States: *filling*, from a reset to the end of the current state, when files are written but none removed; then
//! *following*, when each change is one file. A command is run when nothing changed for a moment ([`hook`]), once for all
//! that changed before, and never twice at the same time. A round ends, and the next one begins with a reset, when the
//! directory can't be kept, when a key may have a file now that had none ([`missing`]), and some time after that could not be.
//!
//! Invariants: a file is replaced whole or not at all; only files that were made or replaced here are removed, also by an
//! earlier run ([`mirror`]); a command that is told of a change finds it in the files; a command is due from before
//! a change until it has run, whatever ends meanwhile; what one key can't have costs no other key its file.

mod error;
mod hook;
mod made;
mod mirror;
mod missing;
mod own;

use super::error::CliError;
use super::output::{Output, counted, printable};
use super::{CollectionArg, argument_bytes, shutdown};
use crate::client::{Client, WatchEvent};
use clap::Args;
use error::MirrorError;
use hook::Hook;
use mirror::Mirror;
use missing::Missing;
use own::Source;
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::time::Instant;

/// The pause after which it is tried again to keep a directory that could not be kept.
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
    /// End when the files are equal to the keys as they are now; with 1 if a key has no file
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    collection: CollectionArg,
}

/// How a round of watching ended.
enum End {
    /// All was done.
    Done,
    /// Something may have room now that had none: all is told anew.
    Anew,
    /// The directory could not be kept; it is tried again.
    Again(String),
}

pub(super) async fn run(client: &Client, args: &SyncArgs, output: Output) -> Result<(), CliError> {
    let what = |error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", args.dir.display()));
    let mut mirror = Mirror::open(&args.dir, args.exec.is_some()).map_err(|error| what(&error))?;
    let mut hook = Hook::new(args.exec.clone(), mirror.directory(), mirror.is_due());
    let mut missing = Missing::default();
    let stopped = shutdown();
    tokio::pin!(stopped);
    loop {
        let (mirror, hook, missing) = (&mut mirror, &mut hook, &mut missing);
        let round = Round { client, args, output, mirror, hook, missing };
        let ended = tokio::select! {
            ended = round.run() => ended?,
            () = &mut stopped => return interrupted(args),
        };
        match ended {
            End::Done => return Ok(()),
            End::Anew => {}
            End::Again(error) if args.once => return Err(what(&error)),
            End::Again(error) => {
                output.warn(&format!("{error}; it is tried again in {} s", AGAIN_AFTER.as_secs()));
                tokio::select! {
                    () = tokio::time::sleep(AGAIN_AFTER) => {}
                    () = &mut stopped => return interrupted(args),
                }
            }
        }
    }
}

/// Who waits for all files to be there must not take some of them for all.
fn interrupted(args: &SyncArgs) -> Result<(), CliError> {
    if args.once {
        return Err(CliError::Failed("interrupted before the files were equal to the keys".to_owned()));
    }
    Ok(())
}

/// Ends at a time; never without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// From a reset on, until the directory can't be kept or all is done.
struct Round<'a> {
    client: &'a Client,
    args: &'a SyncArgs,
    output: Output,
    mirror: &'a mut Mirror,
    hook: &'a mut Hook,
    missing: &'a mut Missing,
}

impl Round<'_> {
    async fn run(mut self) -> Result<End, CliError> {
        let prefix = argument_bytes(&self.args.prefix);
        let mut events = self.client.watch(&self.args.collection.collection, &prefix, true);
        let mut filling = true;
        loop {
            let due = self.hook.due_at().filter(|_| !filling);
            let again = self.missing.again_at().filter(|_| !filling);
            let slow = self.hook.slow_at();
            let event = tokio::select! {
                biased;
                ended = self.hook.ended() => {
                    self.tell_hook(ended?)?;
                    continue;
                }
                () = at(due) => {
                    self.hook.start()?;
                    continue;
                }
                () = at(slow) => {
                    self.tell_slow();
                    continue;
                }
                () = at(again) => return Ok(End::Anew),
                event = events.next() => event.transpose()?,
            };
            let Some(event) = event else { return Ok(End::Done) };
            let done = match event {
                WatchEvent::Reset { .. } => {
                    filling = true;
                    match self.source().await {
                        Ok(source) => self.begin(&source),
                        Err(end) => return Ok(end),
                    }
                }
                WatchEvent::Put(item) => {
                    let name = item.key.strip_prefix(&prefix[..]).unwrap_or(&item.key);
                    self.put(name, &item.value.unwrap_or_default())
                }
                WatchEvent::Delete { key, .. } => self.delete(key.strip_prefix(&prefix[..]).unwrap_or(&key)),
                WatchEvent::Synced => {
                    filling = false;
                    self.filled()
                }
                WatchEvent::Interrupted { reason } => {
                    self.output
                        .note(&format!("the connection is lost and made again, files stay ({reason})"));
                    Ok(None)
                }
            };
            match done {
                Ok(None) => {}
                Ok(Some(end)) => return Ok(end),
                Err(error) if error.may_pass() => return Ok(End::Again(error.to_string())),
                Err(error) => {
                    return Err(CliError::Failed(format!("{}: {error}", self.args.dir.display())));
                }
            }
            if self.args.once && !filling {
                return self.finish().await;
            }
        }
    }

    /// Runs the command, if it is due, to its end.
    async fn finish(mut self) -> Result<End, CliError> {
        if self.hook.due_at().is_some() {
            self.hook.start()?;
            let ended = loop {
                let slow = self.hook.slow_at();
                tokio::select! {
                    ended = self.hook.ended() => break ended?,
                    () = at(slow) => self.tell_slow(),
                }
            };
            self.tell_hook(ended)?;
            if !ended.success() {
                return Err(CliError::Failed(format!("the command failed: {ended}")));
            }
        }
        match self.missing.len() as u64 {
            0 => Ok(End::Done),
            number => {
                let differ = counted(number, "differs", "differ");
                Err(CliError::Failed(format!("the files are not equal to the keys: {differ}, as was told")))
            }
        }
    }

    /// Whose keys these are. A cluster that can't be asked is asked again.
    async fn source(&self) -> Result<Source, End> {
        let cluster = self.client.cluster().await.map_err(|error| End::Again(error.to_string()))?;
        Ok(Source {
            cluster: cluster.id,
            collection: self.args.collection.collection.clone(),
            prefix: printable(&argument_bytes(&self.args.prefix)),
        })
    }

    fn begin(&mut self, source: &Source) -> Result<Option<End>, MirrorError> {
        self.missing.begin();
        self.mirror.begin(source).map(|()| None)
    }

    fn put(&mut self, name: &[u8], value: &[u8]) -> Result<Option<End>, MirrorError> {
        match self.mirror.put(name, value) {
            Ok(changed) => {
                self.missing.mend(name);
                if let Some(path) = changed {
                    self.tell("written", &path);
                    self.hook.changed(path);
                }
            }
            Err(error) if error.is_about_name() => {
                self.differs(name, &format!("the key `{}` has no file: {error}", printable(name)), &error);
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn delete(&mut self, name: &[u8]) -> Result<Option<End>, MirrorError> {
        match self.mirror.delete(name) {
            Ok(removed) => {
                self.missing.mend(name);
                Ok(removed.and_then(|path| self.removed(path)))
            }
            Err(error) if error.is_about_name() => {
                self.stays(name, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The current state was given: what is not in it goes.
    fn filled(&mut self) -> Result<Option<End>, MirrorError> {
        let finished = self.mirror.finish()?;
        for (path, error) in finished.kept {
            self.stays(path.as_os_str().as_bytes(), &error);
        }
        self.missing.synced();
        let ends: Vec<End> = finished.removed.into_iter().filter_map(|path| self.removed(path)).collect();
        if let Some(end) = ends.into_iter().next() {
            return Ok(Some(end));
        }
        let files = counted(self.mirror.len() as u64, "file", "files");
        let equal = match self.missing.len() as u64 {
            0 => "is equal to the keys".to_owned(),
            number => format!("is equal to the keys but for {number} of which it was told"),
        };
        self.output.note(&format!("{} {equal}: {files}", self.args.dir.display()));
        Ok(None)
    }

    /// Tells of a file that is gone. All is told anew if a key had no file because of it.
    fn removed(&mut self, path: PathBuf) -> Option<End> {
        self.tell("removed", &path);
        let has_room = self.mirror.has_room_without(&path);
        self.hook.changed(path);
        has_room.then_some(End::Anew)
    }

    fn stays(&mut self, name: &[u8], error: &MirrorError) {
        self.differs(
            name,
            &format!("the file `{}` stays, though its key is gone: {error}", printable(name)),
            error,
        );
    }

    fn differs(&mut self, name: &[u8], text: &str, error: &MirrorError) {
        if self.missing.note(name, text, error) {
            self.output.warn(text);
        }
    }

    fn tell(&self, what: &str, path: &Path) {
        // Whoever reads this may be gone; the files are what counts.
        let _ = if self.output.json {
            self.output.document(&json!({ what: path.display().to_string() }))
        } else {
            self.output.line(&format!("{what} {}", printable(path.as_os_str().as_bytes())))
        };
    }

    fn tell_slow(&mut self) {
        self.hook.slow_was_told();
        self.output.warn(&format!(
            "the command runs for {} s already; files are kept, and it runs again for them only once it has ended",
            hook::SLOW_AFTER.as_secs()
        ));
    }

    fn tell_hook(&mut self, ended: ExitStatus) -> Result<(), CliError> {
        if !ended.success() {
            let again = match self.args.once {
                true => String::new(),
                false => {
                    format!("; it runs again in {} s, or after the next change", hook::AGAIN_AFTER.as_secs())
                }
            };
            self.output.warn(&format!("the command failed: {ended}{again}"));
        } else if self.hook.is_done() {
            let done = self.mirror.done();
            done.map_err(|error| CliError::Failed(format!("{}: {error}", self.args.dir.display())))?;
        }
        if self.output.json {
            return self.output.document(&json!({ "ran": ended.code() }));
        }
        Ok(())
    }
}
