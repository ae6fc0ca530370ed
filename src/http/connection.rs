//! Connections whose number and patience are bounded.
//!
//! A client that connects and says nothing, says it byte by byte, or reads no answer, must not hold
//! a connection for ever. The deadlines sit where bytes pass: on the way in one for a whole request
//! head, counted from the connection's start or its last answer; on the way out one for any
//! progress. While a request is being worked on, its own timeout rules instead ([`super::routes`]).

use super::{HEAD_TIMEOUT, WRITE_TIMEOUT};
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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// How long accepting pauses when the operating system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A listener with room for so many connections; more wait unaccepted.
pub(super) struct BoundedListener {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener, connections: usize) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(connections)) }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => return (Connection::new(stream, permit), address),
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

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

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

    fn answered(&self) -> u64 {
        self.0.1.load(Ordering::Relaxed)
    }

    fn is_working(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) != self.answered()
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for Turns {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        stream.io().turns.clone()
    }
}

/// A client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    turns: Turns,
    /// The answers given when `head` was set.
    head_since: u64,
    head: Pin<Box<Sleep>>,
    /// Set while the client takes nothing.
    stalled: bool,
    progress: Pin<Box<Sleep>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(stream: TcpStream, room: Option<OwnedSemaphorePermit>) -> Self {
        // Answers are written whole; waiting for more to send with them only costs time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        Self {
            stream,
            turns: Turns::default(),
            head_since: 0,
            head: Box::pin(tokio::time::sleep(HEAD_TIMEOUT)),
            stalled: false,
            progress: Box::pin(tokio::time::sleep(WRITE_TIMEOUT)),
            _room: room,
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Connection::new(stream, None), client)
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

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_wait() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = BoundedListener::new(inner, 1);
        let _clients =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let (first, _) = listener.accept().await;
        assert!(tokio::time::timeout(Duration::from_millis(20), listener.accept()).await.is_err());
        drop(first);
        listener.accept().await;
    }
}
