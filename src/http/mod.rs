//! HTTP: the door for people, scripts and monitoring.
//!
//! Values are raw bytes, everything with structure is JSON ([`crate::node::handle::documents`] and
//! [`crate::node::handle::status`]), every error is `{"error": "snake_case_code", "message": "what
//! happened and what to do"}`. Handlers know a [`Handle`] and nothing else of the member.
//!
//! Invariants: whatever a client sends or leaves unsent, connections, the bytes of bodies in memory
//! and the time of a request are bounded by the constants below; an unknown parameter is an error,
//! never ignored; a request that was taken in before a shutdown is answered within the deadline.

mod access;
mod answers;
mod batch;
mod body;
mod cluster;
mod conditions;
mod connection;
mod failure;
mod kv;
mod listing;
mod names;
mod openapi;
mod page;
mod query;
mod ranges;
mod routes;
mod secrets;
mod settings;
mod tokens;
mod watch;

use crate::node::access::Guard;
use crate::node::handle::Handle;
use crate::telemetry::Telemetry;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// How long a connection may take from its start, or from its last answer, to a whole request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take no byte of an answer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request may take from its head to its answer, its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request waits for a member that opens its storage; then it is told so, and nothing was done.
pub const START_TIMEOUT: Duration = Duration::from_secs(1);
/// How long health checks and the like wait for the member itself.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes in the body of a batch.
pub const MAX_BATCH_BYTES: usize = 16 << 20;
/// Operations in one batch over HTTP.
pub const MAX_HTTP_BATCH_OPERATIONS: usize = 10_000;
/// Bytes of values in the answer to a batch; reads beyond it are answered with an error.
pub const MAX_BATCH_ANSWER_BYTES: usize = 32 << 20;
/// Bytes in the body of a request about the cluster.
pub const MAX_CONTROL_BYTES: usize = 64 << 10;
/// Bytes of bodies that are being read or worked on, all requests together; more wait.
pub const MAX_BODY_BYTES_IN_MEMORY: usize = 256 << 20;
/// Bytes of large answers that clients have not taken yet, all requests together.
pub const MAX_ANSWER_BYTES_IN_MEMORY: usize = 256 << 20;
/// How long requests may take to end once the member stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys in a page of a listing that does not say.
pub const DEFAULT_LISTING_LIMIT: usize = 1_000;

/// Serves HTTP until `shutdown` completes, then takes no new connection and waits for the requests
/// that were taken in, at most [`DRAIN_TIMEOUT`]. At most `connections` clients are connected at a
/// time; more are told so and closed.
///
/// # Errors
/// What the operating system says of the listener.
pub async fn serve(
    listener: TcpListener,
    connections: usize,
    handle: Handle,
    guard: Guard,
    telemetry: Telemetry,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let watched = handle.clone();
    let router = routes::router(handle, &guard, telemetry.clone());
    let listener = connection::BoundedListener::new(listener, connections, guard, telemetry);
    let service = router.into_make_service_with_connect_info::<connection::Arrival>();
    let stopping = Arc::new(Notify::new());
    let stops = Arc::clone(&stopping);
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        shutdown.await;
        watched.end_watches();
        stops.notify_one();
    });
    let deadline = async {
        stopping.notified().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        ended = server => ended,
        () = deadline => {
            tracing::warn!("HTTP requests were still running at the end of the shutdown's deadline");
            Ok(())
        }
    }
}
