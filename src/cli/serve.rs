//! `kith serve`: one member, until it is told to stop.
//!
//! The file is read here; everything after that is [`crate::node`]'s. A member stops in order on
//! SIGINT and SIGTERM, and, when a parent process asked for it, at the end of standard input: so a
//! member never outlives the `kith dev` that started it, however that one ended.

use super::error::CliError;
use crate::config::MemberConfig;
use clap::Args;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The member's file; `kith check-config` shows what is wrong with one
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Stop also at the end of standard input, for programs that start members
    #[arg(long, hide_short_help = true)]
    pub(super) stop_with_input: bool,
}

/// `kith serve`
pub(super) fn run(args: &ServeArgs) -> Result<(), CliError> {
    let config = MemberConfig::load(&args.config)?;
    let stop = stop_requested(args.stop_with_input);
    run_member(config, stop)
}

/// The one place where the command line hands over to the node.
fn run_member(config: MemberConfig, stop: impl Future<Output = ()>) -> Result<(), CliError> {
    drop(stop);
    Err(CliError::Failed(format!("{} can't be run by this build", config.name)))
}

/// Completes when the process is asked to stop. Must be awaited within a runtime.
async fn stop_requested(with_input: bool) {
    let input = async { if with_input { input_ended().await } else { std::future::pending().await } };
    tokio::select! {
        () = input => {}
        () = signalled() => {}
    }
}

/// Completes at the end of standard input.
async fn input_ended() {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: nothing can take back a read that waits, and a process that stops for
    // another reason must not wait for it.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(ended);
    });
    let _ = end.await;
}

/// Completes at SIGINT or SIGTERM.
pub(super) async fn signalled() {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    match (interrupt, terminate) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process at once, which loses nothing that was acknowledged.
        _ => std::future::pending().await,
    }
}
