//! How a link comes to be: dialling, accepting, and the handshake over a socket.
//!
//! Each handshake message is read exactly, head first, so no byte of the frames behind it is taken.
//! A side that refuses tells the other why and closes.
//!
//! Invariants: a handshake ends at its deadline, whatever the peer sends or leaves out; an accepted
//! connection holds a [`Permit`] of the [`Gate`] until its handshake is over, and one that gets none
//! is closed at once.

use super::LinkError;
use super::link::{Link, PeerInfo};
use crate::security::handshake::{HEAD_BYTES, body_bytes, refusal_message};
use crate::security::{
    Credentials, Established, Gate, GateFull, Handshake, HandshakeError, Permit, Progress, ProtocolRange,
    Refusal, Role,
};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// A silent connection is probed after this time, and again at this interval. Gossip notices a dead
/// peer much sooner; this only ends connections that nobody uses.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long a last message may take before the connection is closed anyway.
const FAREWELL: Duration = Duration::from_millis(200);
/// The wait after a failed accept, which means that descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens a link to `address` (`host:port`): connection and handshake together take `deadline` at
/// most.
///
/// # Errors
/// [`LinkError::Io`] when there is no connection, [`LinkError::Handshake`] when the sides refuse each
/// other, [`LinkError::CutOff`] when the peer just hung up.
pub async fn connect(
    address: &str,
    credentials: &Credentials,
    role: Role,
    introduction: &[u8],
    deadline: Duration,
) -> Result<Link, LinkError> {
    let attempt = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut out = Vec::new();
        let handshake = Handshake::initiator(credentials, role, introduction, &mut out)?;
        let established = carry(&mut stream, handshake, out).await?;
        finish(stream, established)
    };
    let unanswered = || HandshakeError::Refused(Refusal::Timeout).into();
    timeout(deadline, attempt).await.unwrap_or_else(|_| Err(unanswered()))
}

/// Accepts connections of peers.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    gate: Arc<Gate>,
    protocol: ProtocolRange,
    turned_away: AtomicU64,
}

impl Acceptor {
    /// Listens at `address` (`host:port`; port 0 for any). `protocol` is what this member speaks, told
    /// to those who are turned away.
    ///
    /// # Errors
    /// Those of binding a socket.
    pub async fn bind(address: &str, gate: Arc<Gate>, protocol: ProtocolRange) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, gate, protocol, turned_away: AtomicU64::new(0) })
    }

    /// Where this listens.
    ///
    /// # Errors
    /// Those of asking the socket.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Connections that were closed because too many handshakes were under way.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// The next connection that the gate lets in; its handshake belongs into a task of its own. A
    /// shortage of descriptors or memory is waited out. A cancelled call loses nothing.
    pub async fn next(&self) -> Arrival {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match self.gate.enter(address.ip()) {
                    Ok(permit) => return Arrival { stream, address, permit },
                    Err(GateFull::Total | GateFull::Address) => self.turn_away(&stream),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection of a peer could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Tells a connection that it comes at a bad time, if its socket takes that at once; it is closed
    /// in any case.
    fn turn_away(&self, stream: &TcpStream) {
        let _ = SockRef::from(stream).send(&refusal_message(&Refusal::Busy, self.protocol));
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that was let in and has proved nothing yet.
#[derive(Debug)]
pub struct Arrival {
    stream: TcpStream,
    address: SocketAddr,
    permit: Permit,
}

impl Arrival {
    /// Where the connection comes from.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries out the handshake within `deadline`; the place at the gate is free afterwards.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn handshake(
        self,
        credentials: &Credentials,
        role: Role,
        introduction: &[u8],
        deadline: Duration,
    ) -> Result<Link, LinkError> {
        let Self { mut stream, permit, .. } = self;
        let handshake = Handshake::responder(credentials, role, introduction)?;
        let carried = timeout(deadline, carry(&mut stream, handshake, Vec::new())).await;
        let result = match carried {
            Ok(Ok(established)) => finish(stream, established),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let last = refusal_message(&Refusal::Timeout, credentials.protocol);
                let _ = stream.try_write(&last);
                Err(HandshakeError::Refused(Refusal::Timeout).into())
            }
        };
        drop(permit);
        result
    }
}

/// Carries messages to and fro until the handshake ends; `out` is sent first.
async fn carry(
    stream: &mut TcpStream,
    mut handshake: Handshake<'_>,
    mut out: Vec<u8>,
) -> Result<Established, LinkError> {
    set_options(stream)?;
    let mut message = Vec::new();
    loop {
        stream.write_all(&out).await?;
        out.clear();
        read_message(stream, &mut message).await?;
        match handshake.receive(&message, &mut out) {
            Ok(Progress::Continue) => {}
            Ok(Progress::Done(established)) => {
                stream.write_all(&out).await?;
                return Ok(*established);
            }
            Err(error) => {
                // The peer may be gone or hostile, so whether it hears the reason is up to it.
                let _ = timeout(FAREWELL, stream.write_all(&out)).await;
                return Err(error.into());
            }
        }
    }
}

/// Reads one whole message. A head that announces none is passed on, for the handshake to refuse.
async fn read_message(stream: &mut TcpStream, message: &mut Vec<u8>) -> Result<(), LinkError> {
    let mut head = [0; HEAD_BYTES];
    read_exact(stream, &mut head).await?;
    message.clear();
    message.extend_from_slice(&head);
    if let Ok(length) = body_bytes(head) {
        message.resize(HEAD_BYTES + length, 0);
        read_exact(stream, message.get_mut(HEAD_BYTES..).unwrap_or_default()).await?;
    }
    Ok(())
}

async fn read_exact(stream: &mut TcpStream, room: &mut [u8]) -> Result<(), LinkError> {
    match stream.read_exact(room).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(LinkError::CutOff),
        Err(error) => Err(error.into()),
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn finish(stream: TcpStream, established: Established) -> Result<Link, LinkError> {
    let Established { public_key, member, role, protocol, key, binding, introduction, sealer, opener } =
        established;
    let address = stream.peer_addr()?;
    let peer = PeerInfo { member, public_key, role, key, binding, introduction, protocol, address };
    Ok(Link::new(peer, stream, sealer, opener))
}
