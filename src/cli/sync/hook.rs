//! The command that is run when files changed.
//!
//! Invariants: one run at a time; what changes while it runs is told to the next one; a run that was due is not forgotten
//! when the connection breaks, and one that failed is due again a little later, or with the next change.

use crate::cli::error::CliError;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How long nothing may change before a command is run: what was changed together is told together.
const CALM: Duration = Duration::from_millis(200);
/// How long a command may wait for that.
const PATIENCE: Duration = Duration::from_secs(2);
/// When a command that failed is run again.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// When it is told that a command still runs.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(60);
/// Bytes of paths that a command is told by name; of more only the number. Systems take no longer variables than 128 KiB.
const MAX_TOLD_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Hook {
    command: Option<String>,
    directory: PathBuf,
    changed: BTreeSet<PathBuf>,
    /// When the first and the last of them changed.
    since: Option<(Instant, Instant)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    told: BTreeSet<PathBuf>,
    /// When it is told that it still runs, if it was not.
    slow_at: Option<Instant>,
}

impl Hook {
    /// With `is_due` something changed of which an earlier run of kith knew.
    pub(super) fn new(command: Option<String>, directory: &Path, is_due: bool) -> Self {
        let now = Instant::now();
        let since = (is_due && command.is_some()).then_some((now, now));
        Self { command, directory: directory.to_owned(), changed: BTreeSet::new(), since, running: None }
    }

    /// Notes a file that was written or removed.
    pub(super) fn changed(&mut self, path: PathBuf) {
        if self.command.is_some() {
            let now = Instant::now();
            self.changed.insert(path);
            self.since = Some((self.since.map_or(now, |(first, _)| first.min(now)), now));
        }
    }

    /// When the next run begins, if something changed that no run was told of and none is under way.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let (first, last) = self.since.filter(|_| self.running.is_none())?;
        Some((last + CALM).min(first + PATIENCE))
    }

    /// Whether all that changed was told to a run that is over.
    pub(super) const fn is_done(&self) -> bool {
        self.since.is_none() && self.running.is_none()
    }

    /// When it is to be told that the run which is under way still is.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        self.running.as_ref()?.slow_at
    }

    /// That was told.
    pub(super) fn slow_was_told(&mut self) {
        if let Some(running) = &mut self.running {
            running.slow_at = None;
        }
    }

    /// Begins a run.
    pub(super) fn start(&mut self) -> Result<(), CliError> {
        let Some(command) = &self.command else { return Ok(()) };
        let told = std::mem::take(&mut self.changed);
        self.since = None;
        let child = Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("KITH_SYNC_DIR", &self.directory)
            .env("KITH_SYNC_CHANGED", lines_of(&told))
            .env("KITH_SYNC_COUNT", told.len().to_string())
            .spawn();
        let child = child.map_err(|source| CliError::io("can't run `sh`", source))?;
        self.running = Some(Running { child, told, slow_at: Some(Instant::now() + SLOW_AFTER) });
        Ok(())
    }

    /// Waits for the end of the run that is under way; for ever if there is none.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus, CliError> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let ended = running.child.wait().await;
        let told = self.running.take().map(|running| running.told).unwrap_or_default();
        let ended = ended.map_err(|source| CliError::io("can't wait for the command", source))?;
        if !ended.success() {
            self.changed.extend(told);
            let later = Instant::now() + AGAIN_AFTER;
            self.since.get_or_insert((later, later));
        }
        Ok(ended)
    }
}

/// Paths, a line each, as far as a variable takes them.
fn lines_of(paths: &BTreeSet<PathBuf>) -> OsString {
    let bytes: usize = paths.iter().map(|path| path.as_os_str().as_bytes().len() + 1).sum();
    let mut lines = OsString::new();
    for path in paths.iter().filter(|_| bytes <= MAX_TOLD_BYTES) {
        lines.push(path);
        lines.push("\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_runs_however_long_the_paths_are_that_changed() {
        let directory = tempfile::tempdir().unwrap();
        let command =
            "cd \"$KITH_SYNC_DIR\" && printf '%s %s' \"$KITH_SYNC_COUNT\" \"${#KITH_SYNC_CHANGED}\" > told";
        let mut hook = Hook::new(Some(command.to_owned()), directory.path(), false);
        for (files, told) in [(10, "10 10000"), (500, "500 0")] {
            for file in 0..files {
                hook.changed(format!("{file:0>999}").into());
            }
            hook.start().unwrap();
            assert!(hook.ended().await.unwrap().success());
            assert_eq!(std::fs::read_to_string(directory.path().join("told")).unwrap(), told);
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_is_due_again_with_what_it_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut hook = Hook::new(Some("test -n \"$KITH_SYNC_CHANGED\"".to_owned()), directory.path(), true);
        assert!(hook.due_at().is_some() && !hook.is_done(), "an earlier run of kith left it so");
        hook.start().unwrap();
        assert!(hook.due_at().is_none() && hook.slow_at().is_some());
        assert!(!hook.ended().await.unwrap().success());
        let again = hook.due_at().unwrap();
        assert!(again > Instant::now() + PATIENCE, "not at once");
        hook.changed("a".into());
        assert!(hook.due_at().unwrap() < again, "a change does not wait for that");
        hook.start().unwrap();
        assert!(hook.ended().await.unwrap().success());
        assert!(hook.is_done() && hook.slow_at().is_none());
    }
}
