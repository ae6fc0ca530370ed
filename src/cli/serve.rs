//! `kith serve`: one member, until it is told to stop.
//!
//! The file is read here; everything after that is [`crate::node`]'s. A member stops in order on
//! SIGINT and SIGTERM, and, when a parent process asked for it, at the end of standard input: so a
//! member never outlives the `kith dev` that started it, however that one ended. SIGHUP, with which others
//! are told to read their files again, changes nothing: certificates are read again by themselves.

use super::error::CliError;
use super::files;
use crate::config::{LogFormat, MemberConfig};
use crate::node::access::Guard;
use crate::node::handle::Handle;
use crate::node::{self, Fronts, LocalHandle, Shutdown};
use crate::telemetry::{self, Telemetry};
use crate::{http, resp};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::TcpListener;
use std::path::PathBuf;
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    let mut config = MemberConfig::load(&args.config)?;
    let format = match config.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(format, &config.log_level).map_err(|error| CliError::Failed(error.to_string()))?;
    for doubt in files::doubts() {
        tracing::warn!("{doubt}");
    }
    keep_room_for_files(&mut config);
    let fronts = fronts(&config);
    let stop = stop_requested(args.stop_with_input);
    node::run(config, fronts, stop).map_err(|error| CliError::Failed(error.to_string()))
}

/// Lets clients never take the files that the member itself needs: as many may be open as the system permits, and where
/// that is too few for all connections, fewer of these are taken.
fn keep_room_for_files(config: &mut MemberConfig) {
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit { current: files.maximum, maximum: files.maximum };
    let files = if setrlimit(Resource::Nofile, most).is_ok() { most } else { files };
    let Some(files) = files.current else { return };
    let limits = config.limits.within(files);
    if limits != config.limits {
        tracing::warn!(
            files,
            http_connections = limits.http_connections,
            resp_connections = limits.resp_connections,
            pending_handshakes = limits.pending_handshakes,
            "this process may have too few files open for what `limits` allow, so they are lowered; raise the hard limit (`ulimit -Hn`, LimitNOFILE of systemd, `ulimits` of containers) or lower them in the member's file"
        );
        config.limits = limits;
    }
}

/// The doors that clients come through; the node opens their ports and tells them when to end.
fn fronts(config: &MemberConfig) -> Fronts {
    let limits = resp::Limits { connections: config.limits.resp_connections, ..resp::Limits::default() };
    let connections = config.limits.http_connections;
    Fronts {
        local: Box::new(move |listener, local, guard, shutdown| {
            Box::pin(serve_resp(listener, local, guard, limits, shutdown))
        }),
        shared: Box::new(move |listener, handle, guard, telemetry, shutdown| {
            Box::pin(serve_http(listener, connections, handle, guard, telemetry, shutdown))
        }),
        // Reading what there is changes nothing that the next start would miss.
        give_up: Box::new(|| std::process::exit(0)),
    }
}

async fn serve_resp(
    listener: TcpListener,
    local: LocalHandle,
    guard: Guard,
    limits: resp::Limits,
    shutdown: Shutdown,
) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => resp::serve(listener, local, guard, limits, ended(shutdown)).await,
        Err(error) => tracing::error!(%error, "RESP can't be served"),
    }
}

async fn serve_http(
    listener: TcpListener,
    connections: usize,
    handle: Handle,
    guard: Guard,
    telemetry: Telemetry,
    shutdown: Shutdown,
) {
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => http::serve(listener, connections, handle, guard, telemetry, ended(shutdown)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "HTTP ended");
    }
}

/// Completes when the member stops.
async fn ended(mut shutdown: Shutdown) {
    // An error means that the node is gone, which is an end too.
    _ = shutdown.wait_for(|stop| *stop).await;
}

/// Completes when the process is asked to stop. Must be awaited within a runtime.
async fn stop_requested(with_input: bool) {
    let input = async { if with_input { input_ended().await } else { std::future::pending().await } };
    tokio::select! {
        () = input => {}
        () = signalled([SignalKind::interrupt(), SignalKind::terminate()]) => {}
        () = pass_over_hangups() => {}
    }
}

/// Says at each SIGHUP that there is nothing to do; never completes.
async fn pass_over_hangups() {
    loop {
        signalled([SignalKind::hangup()]).await;
        tracing::info!(
            "SIGHUP changes nothing: certificates are taken by themselves, all else in the file at a start"
        );
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

/// Completes at the first of these signals. A process without a handler is ended by them at once, which loses nothing
/// that was acknowledged.
pub(super) async fn signalled<const N: usize>(kinds: [SignalKind; N]) {
    let mut signals: Vec<Signal> = kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect();
    std::future::poll_fn(|cx| {
        let is_there = signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
        if is_there { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
