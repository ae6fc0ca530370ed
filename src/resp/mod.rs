//! Floor 5: the RESP port, for every client that speaks to Redis.
//!
//! Each connection is a local task of the data thread that calls this member directly through
//! [`Local`]. The modules, in the order in which a request passes them: `input` and `parse` find
//! commands in what was read, `commands` carries them out, `replies` keeps the replies in order,
//! `reply` encodes them, and `connection` drives it all. Beside them: `clients` is what connections show
//! of each other, `shared` what they share, `unsent` what waits for clients to read it, `cursors` the places that SCAN went
//! to, `ahead` reads that come next, `written` what WAIT waits for, `listening` the channels that tell of changes, `glob` patterns, and `process` what the
//! process takes of its machine.
//!
//! What holds of commands:
//! - What looks before it changes (SETNX, GETDEL, EXPIRE, DEL and so on) is one step, at its key's home. While members
//!   can't see each other a key may have two homes; both changes are made, and the later one wins.
//! - What one connection sends takes effect in its order, and its reads find what it wrote.
//! - Commands on several keys are several steps: MSET is not all or nothing, and RENAME and COPY may be seen half
//!   done, with both keys there.
//!
//! Left to others: what an operation means (the engine), and who may connect (the node's choice of
//! address, and its tokens).

mod ahead;
mod clients;
mod commands;
mod connection;
mod cursors;
mod glob;
mod input;
mod listening;
mod parse;
mod replies;
mod reply;
mod shared;
#[cfg(test)]
mod tests;
mod unsent;
mod written;

use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::model::key::DEFAULT;
use crate::node::access::Guard;
use crate::node::local::Local;
use commands::auth::Session;
use connection::Connection;
use shared::{Shared, count};

/// How long accepting pauses after the system refused to accept (it is out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the connections are looked at for what takes too long.
const SWEEP: Duration = Duration::from_millis(250);
/// After how much silence a client's machine is asked whether it still knows the connection.
const KEEPALIVE: Duration = Duration::from_secs(120);

/// The bounds of a RESP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones are told so and closed.
    pub connections: usize,
    /// Bytes of unsent replies at which a connection executes no further command. One reply may
    /// exceed it.
    pub output_bytes: usize,
    /// Operations of one connection that wait for their answer.
    pub in_flight: usize,
    /// Bytes of the buffers into which large commands are read, of all connections together. For a command for which
    /// there is no room whoever sent nothing more of its own for two seconds is cut off; if nobody did, the command is
    /// refused, and its connection closed.
    pub large_input_bytes: usize,
    /// Bytes of messages on channels that a connection did not read; it is cut off when there are more.
    pub message_bytes: usize,
    /// Bytes of memory of what waits for the clients of all connections to read it. When it is more, connections are
    /// cut off that have more than an equal part of it, those first whose clients read nothing.
    pub unsent_bytes: usize,
    /// How long a client may take nothing of what waits for it, or send nothing more of a large command, before it is cut
    /// off.
    pub stall: Duration,
    /// How long a client may stay without a token while one is needed.
    pub introduction: Duration,
    /// How long [`serve`] waits for replies when it ends.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            output_bytes: 1 << 20,
            in_flight: 1_024,
            large_input_bytes: 512 << 20,
            message_bytes: 8 << 20,
            unsent_bytes: 256 << 20,
            stall: Duration::from_secs(60),
            introduction: Duration::from_secs(10),
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves clients until `shutdown` resolves; runs on the data thread's `LocalSet`.
///
/// Then nothing more is accepted or read; what was read is answered, and connections close. Those
/// that are not done after `limits.drain` are cut.
pub async fn serve<L: Local>(
    listener: TcpListener,
    local: L,
    guard: Guard,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Rc::new(Shared::new(local.resp_counts(), &limits));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut sweeps = tokio::time::interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tokens = guard.access.clone();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            _ = sweeps.tick() => shared.sweep(),
            // Each looks itself at what it lost. Sleepers would not notice.
            () = tokens.changed() => shared.wake_all(),
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() >= limits.connections => {
                    count(&shared.counts.rejected, 1);
                    if guard.tls.is_none() {
                        refuse(&stream);
                    }
                }
                Ok((stream, address)) => {
                    prepare(&stream);
                    let here = stream.local_addr().unwrap_or(address);
                    // What finds no place for its handshake is counted there.
                    let Ok((stream, origin)) = guard.receive(stream, address.ip()) else { continue };
                    let session = Session::new(guard.access.clone(), origin, DEFAULT);
                    let (stream, shared) = ((stream, (address, here)), Rc::clone(&shared));
                    let connection = Connection::new(stream, local.clone(), shared, session, &limits);
                    connections.spawn_local(connection.run());
                }
                Err(error) => {
                    tracing::warn!(%error, "a RESP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    shared.stop();
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "RESP connections were cut before they were done");
    }
    connections.shutdown().await;
}

/// Sends small replies at once, and notices clients that vanished. Neither is needed for replies to
/// be right, so a refusal by the system is no reason to refuse a client.
fn prepare(stream: &TcpStream) {
    _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// The connection is closed in either case.
fn refuse(stream: &TcpStream) {
    _ = stream.try_write(b"-ERR max number of clients reached\r\n");
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a RESP connection ended by a defect of kith; its client was disconnected");
    }
}
