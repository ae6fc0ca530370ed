//! `kith serve`: one member, until it is told to stop.
//!
//! The file is read and the log begun here, and the doors are handed to the node, which opens their
//! ports, runs the member and tells them when to end.

use super::error::CliError;
use crate::config::{LogFormat, MemberConfig};
use crate::node::handle::Handle;
use crate::node::{Fronts, LocalHandle, SendWork, Shutdown, Work};
use crate::telemetry::{Format, Telemetry};
use crate::{http, resp, telemetry};
use clap::Args;
use std::net::TcpListener;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The member's file; `kith check-config` shows what is wrong with one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// `kith serve`
pub(super) fn run(args: &ServeArgs) -> Result<(), CliError> {
    let config = MemberConfig::load(&args.config)?;
    let format = match config.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    telemetry::init(format, &config.log_level).map_err(|error| CliError::Failed(error.to_string()))?;
    let fronts = fronts(&config);
    crate::node::run(config, fronts).map_err(|error| CliError::Failed(error.to_string()))
}

/// The doors that clients come through.
fn fronts(config: &MemberConfig) -> Fronts {
    let connections = config.limits.http_connections;
    let limits = resp::Limits { connections: config.limits.resp_connections, ..resp::Limits::default() };
    Fronts {
        local: Box::new(move |listener, local, shutdown| serve_resp(listener, local, limits, shutdown)),
        shared: Box::new(move |listener, handle, telemetry, shutdown| {
            serve_http(listener, connections, handle, telemetry, shutdown)
        }),
    }
}

fn serve_resp(listener: TcpListener, local: LocalHandle, limits: resp::Limits, shutdown: Shutdown) -> Work {
    Box::pin(async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => resp::serve(listener, local, limits, ended(shutdown)).await,
            Err(error) => tracing::error!(%error, "RESP can't be served"),
        }
    })
}

fn serve_http(
    listener: TcpListener,
    connections: usize,
    handle: Handle,
    telemetry: Telemetry,
    shutdown: Shutdown,
) -> SendWork {
    Box::pin(async move {
        let served = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => http::serve(listener, connections, handle, telemetry, ended(shutdown)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, "HTTP can't be served");
        }
    })
}

/// Completes when the doors shall close, also when the node is gone without having said so.
async fn ended(mut shutdown: Shutdown) {
    _ = shutdown.wait_for(|stopping| *stopping).await;
}
