//! The command that is run when files changed.
//!
//! Invariants: one run at a time; what changes while it runs is told to the next one; a run that was due is not forgotten
//! when the connection breaks.

use crate::cli::error::CliError;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How long nothing may change before a command is run: what was changed together is told together.
const CALM: Duration = Duration::from_millis(200);
/// How long a command may wait for that.
const PATIENCE: Duration = Duration::from_secs(2);
/// Paths that a command is told by name; of more only the number.
const MAX_TOLD: usize = 1_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Hook {
    command: Option<String>,
    directory: PathBuf,
    changed: BTreeSet<PathBuf>,
    /// When the first and the last of them changed.
    since: Option<(Instant, Instant)>,
    running: Option<Child>,
}

impl Hook {
    pub(super) fn new(command: Option<String>, directory: &Path) -> Self {
        Self {
            command,
            directory: directory.to_owned(),
            changed: BTreeSet::new(),
            since: None,
            running: None,
        }
    }

    /// Notes a file that was written or removed.
    pub(super) fn changed(&mut self, path: PathBuf) {
        if self.command.is_some() {
            let now = Instant::now();
            self.changed.insert(path);
            self.since = Some((self.since.map_or(now, |(first, _)| first), now));
        }
    }

    /// When the next run begins, if something changed that no run was told of and none is under way.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let (first, last) = self.since.filter(|_| self.running.is_none())?;
        Some((last + CALM).min(first + PATIENCE))
    }

    /// Begins a run.
    pub(super) fn start(&mut self) -> Result<(), CliError> {
        let Some(command) = &self.command else { return Ok(()) };
        let changed = std::mem::take(&mut self.changed);
        self.since = None;
        let mut told = OsString::new();
        for path in changed.iter().take(if changed.len() > MAX_TOLD { 0 } else { MAX_TOLD }) {
            told.push(path);
            told.push("\n");
        }
        let child = Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("KITH_SYNC_DIR", &self.directory)
            .env("KITH_SYNC_CHANGED", told)
            .env("KITH_SYNC_COUNT", changed.len().to_string())
            .spawn();
        self.running = Some(child.map_err(|source| CliError::io("can't run `sh`", source))?);
        Ok(())
    }

    /// Waits for the end of the run that is under way; for ever if there is none.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus, CliError> {
        let Some(child) = &mut self.running else { return std::future::pending().await };
        let ended = child.wait().await;
        self.running = None;
        ended.map_err(|source| CliError::io("can't wait for the command", source))
    }
}
