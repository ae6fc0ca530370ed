//! One member of a `kith dev` cluster: a child process and its log.

use super::directory::Plan;
use crate::cli::error::CliError;
use crate::config::KEYS;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};

/// Lines of a log that are shown when its member ended.
const SHOWN_LINES: usize = 5;
/// Bytes at the end of a log in which they are looked for.
const TAIL_BYTES: u64 = 16 << 10;

/// A member's process.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) plan: Plan,
    child: Child,
    pid: u32,
}

impl Member {
    /// Starts `kith serve` with the plan's file; it writes to the plan's log.
    pub(super) fn start(plan: Plan) -> Result<Self, CliError> {
        let failed = |error| CliError::io(format!("can't start {}", plan.name), error);
        let log = OpenOptions::new().create(true).append(true).open(&plan.log).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("serve").arg("--stop-with-input").arg("--config").arg(&plan.config);
        // What is set for a member of one's own must not change these.
        for key in KEYS {
            command.env_remove(key.variable());
        }
        // In a group of its own, so that Ctrl-C reaches it through this process only.
        command.process_group(0).stdin(Stdio::piped()).kill_on_drop(true);
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = command.spawn().map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { plan, child, pid })
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn describe(&self) -> String {
        format!("{} (pid {}, log {})", self.plan.name, self.pid, self.plan.log.display())
    }

    /// How the member ended, if it did.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(self.story(status))
    }

    /// Closes its standard input, at which it stops.
    pub(super) fn ask_to_stop(&mut self) {
        self.child.stdin = None;
    }

    /// Waits until it ended; an error tells that it did so out of order.
    pub(super) async fn stopped(&mut self) -> Result<(), String> {
        match self.child.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.story(status)),
            Err(error) => Err(format!("{}: {error}", self.describe())),
        }
    }

    pub(super) async fn kill(&mut self) {
        // A process that can't be killed has ended.
        let _ = self.child.kill().await;
    }

    fn story(&self, status: ExitStatus) -> String {
        let lines = tail(&self.plan.log).unwrap_or_default();
        let (member, separator) =
            (self.describe(), if lines.is_empty() { "" } else { "; its last words:\n" });
        format!("{member} ended ({status}){separator}{lines}")
    }
}

/// The last lines of a log, indented.
fn tail(path: &std::path::Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().rev().take(SHOWN_LINES).map(|line| format!("  {line}")).collect();
    Ok(lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let lines: Vec<String> = (0..5_000).map(|number| format!("line {number}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        assert_eq!(tail(&path).unwrap(), "  line 4995\n  line 4996\n  line 4997\n  line 4998\n  line 4999");
    }
}
