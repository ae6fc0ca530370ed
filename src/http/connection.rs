//! Connections whose number and patience are bounded.
//!
//! A client that connects and says nothing, says it byte by byte, or reads no answer, must not hold
//! a connection for ever. The deadlines sit where bytes pass: on the way in one for a whole request
//! head, counted from the connection's start or its last answer; on the way out one for any
//! progress. While a request is being worked on, its own timeout rules instead ([`super::routes`]).

use super::{HEAD_TIMEOUT, WRITE_TIMEOUT};
use crate::node::access::{Guard, Origin};
use crate::security::tls::ClientStream;
use crate::telemetry::{self, Telemetry};
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// How long accepting pauses when the operating system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A listener with room for so many connections; more are told so and closed.
pub(super) struct BoundedListener {
    listener: TcpListener,
    room: Arc<Semaphore>,
    /// Places for those who are being told that there is no room.
    turned_away: Arc<Semaphore>,
    guard: Guard,
    telemetry: Telemetry,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener, connections: usize, guard: Guard, telemetry: Telemetry) -> Self {
        let limit = f64::from(u32::try_from(connections).unwrap_or(u32::MAX));
        telemetry.metrics().http_limit.set(limit);
        let room = Arc::new(Semaphore::new(connections));
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
        Self { listener, room, turned_away, guard, telemetry }
    }

    /// A connection that is to be served; else it was refused and closed.
    fn receive(&self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        let rejected = &self.telemetry.metrics().http_rejected;
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            rejected.increment(1);
            if self.guard.tls.is_none()
                && let Ok(place) = Arc::clone(&self.turned_away).try_acquire_owned()
            {
                tokio::spawn(async move {
                    _ = tokio::time::timeout(TURN_AWAY_TIMEOUT, turn_away(stream)).await;
                    drop(place);
                });
            }
            return None;
        };
        // Answers are written whole; waiting for more to send with them only costs time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        // What the gate turns away it counts.
        let (stream, origin) = self.guard.receive(stream, peer.ip()).ok()?;
        let place = Place { _permit: permit, _counted: self.telemetry.metrics().http_open.hold() };
        Some(Connection::new(stream, origin, Some(place)))
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    if let Some(connection) = self.receive(stream, address) {
                        return (connection, address);
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "HTTP connections can't be accepted for the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Tells a client that there is no room. Only once it has asked, because some take an answer that comes
/// before for an error; and what it still sends is read, lest the answer is lost with a reset.
async fn turn_away(mut stream: TcpStream) -> io::Result<()> {
    let mut asked = [0; 1_024];
    if stream.read(&mut asked).await? == 0 {
        return Ok(());
    }
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{FULL}",
        FULL.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut asked).await? > 0 {}
    Ok(())
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Clients that are told at a time that there is no room; more are just closed.
const TURNED_AWAY: usize = 64;
/// How long that may take.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_millis(500);
/// What a client is told for whom there is no room.
const FULL: &str = "{\"error\":\"too_many_connections\",\"message\":\"this member has as many HTTP connections as it takes (`limits.http_connections`); close some, or ask another member\"}";

/// How many requests of a connection were begun and answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<(AtomicU64, AtomicU64)>);

impl Turns {
    pub(super) fn begin(&self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.1.fetch_add(1, Ordering::Relaxed);
    }

    /// A request whose answer goes on: until what this gives is dropped, it is being worked on.
    pub(super) fn hold(&self) -> Held {
        self.begin();
        Held(self.clone())
    }

    fn answered(&self) -> u64 {
        self.0.1.load(Ordering::Relaxed)
    }

    fn is_working(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) != self.answered()
    }
}

/// An answer that goes on.
#[derive(Debug)]
pub(super) struct Held(Turns);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What requests know of the connection on which they came.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) turns: Turns,
    pub(super) origin: Origin,
}

impl Connected<IncomingStream<'_, BoundedListener>> for Arrival {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self { turns: stream.io().turns.clone(), origin: stream.io().origin }
    }
}

/// A client's connection.
pub(super) struct Connection {
    stream: ClientStream,
    origin: Origin,
    turns: Turns,
    /// The answers given when `head` was set.
    head_since: u64,
    head: Pin<Box<Sleep>>,
    /// Set while the client takes nothing.
    stalled: bool,
    progress: Pin<Box<Sleep>>,
    _place: Option<Place>,
}

/// A place among the connections that are served.
struct Place {
    _permit: OwnedSemaphorePermit,
    _counted: telemetry::Held,
}

impl Connection {
    fn new(stream: ClientStream, origin: Origin, place: Option<Place>) -> Self {
        Self {
            stream,
            origin,
            turns: Turns::default(),
            head_since: 0,
            head: Box::pin(tokio::time::sleep(HEAD_TIMEOUT)),
            stalled: false,
            progress: Box::pin(tokio::time::sleep(WRITE_TIMEOUT)),
            _place: place,
        }
    }

    /// Lets a write that got nowhere fail once its time is over.
    fn or_stalled(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            self.progress.as_mut().reset(Instant::now() + WRITE_TIMEOUT);
        }
        self.progress.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_ready() || this.turns.is_working() || this.stalled {
            return read;
        }
        let answered = this.turns.answered();
        if this.head_since != answered {
            this.head_since = answered;
            this.head.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
        }
        this.head.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_stalled(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.or_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let origin = Origin { local: true, encrypted: false };
        (Connection::new(ClientStream::Plain(stream), origin, None), client)
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_dropped_at_the_deadline_of_its_head() {
        let (mut connection, _client) = pair().await;
        connection.head.as_mut().reset(Instant::now());
        let error = connection.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_deadline_of_the_head_rests_while_a_request_is_worked_on_and_starts_anew_after_it() {
        let (mut connection, mut client) = pair().await;
        connection.head.as_mut().reset(Instant::now());
        connection.turns.begin();
        let mut buffer = [0; 8];
        assert!(tokio::time::timeout(Duration::from_millis(20), connection.read(&mut buffer)).await.is_err());
        connection.turns.end();
        assert!(tokio::time::timeout(Duration::from_millis(20), connection.read(&mut buffer)).await.is_err());
        client.write_all(b"next").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 4);
    }
}
